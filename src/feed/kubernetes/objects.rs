//! The objects of a cluster, and the document that they make.
//!
//! Each is kept as the JSON that came, without what no reader of documents looks at: who set which field, the name of each
//! change, all of a Node but its addresses. So a heartbeat of a Node is no change, and a large cluster fits.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Resource;

/// Namespace (none: empty) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    namespace: String,
    name: String,
}

#[derive(Debug, Clone)]
pub struct Object {
    pub name: Name,
    /// As the server names it.
    pub version: String,
    /// The service that a slice belongs to.
    service: Option<Name>,
    pub text: String,
}

/// All objects of a resource.
pub struct Listing {
    pub version: u64,
    pub objects: BTreeMap<Name, Object>,
}

/// What became of an object; `None`: it is gone.
pub struct Change {
    pub version: u64,
    pub name: Name,
    pub object: Option<Object>,
}

/// Versions are numbers that grow (KEP-5504), on servers that keep theirs in etcd at least; others count as 0.
pub fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

/// The object as it came, as far as it is kept.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    spec: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    status: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    address_type: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    endpoints: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    ports: Option<&'a RawValue>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a RawValue>,
}

/// Of a slice.
#[derive(Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default, rename = "kubernetes.io/service-name")]
    service: Option<Cow<'a, str>>,
}

/// Of a Node.
#[derive(Deserialize, Serialize)]
struct NodeStatus<'a> {
    #[serde(borrow, default)]
    addresses: Option<&'a RawValue>,
}

impl Object {
    /// Of the text of an object, as a list and a watch have it.
    pub fn read(resource: Resource, text: &str) -> Result<Self, serde_json::Error> {
        let status;
        let mut kept: Kept<'_> = serde_json::from_str(text)?;
        let mut service = None;
        if resource == Resource::Nodes {
            let of_node = kept.status.map(|status| serde_json::from_str::<NodeStatus<'_>>(status.get())).transpose()?;
            status = of_node.map(|of_node| serde_json::value::to_raw_value(&of_node)).transpose()?;
            (kept.spec, kept.status) = (None, status.as_deref());
            (kept.metadata.labels, kept.metadata.annotations) = (None, None);
        }
        let namespace = kept.metadata.namespace.as_deref().unwrap_or_default().to_owned();
        if let (Resource::Slices, Some(labels)) = (resource, kept.metadata.labels) {
            let Labels { service: of } = serde_json::from_str(labels.get())?;
            service = of.map(|name| Name { namespace: namespace.clone(), name: name.into_owned() });
        }
        Ok(Self {
            name: Name { namespace, name: kept.metadata.name.clone().into_owned() },
            version: kept.metadata.resource_version.clone().into_owned(),
            service,
            text: serde_json::to_string(&kept)?,
        })
    }
}

/// The objects of one resource.
#[derive(Default)]
struct Mirror {
    objects: BTreeMap<Name, Object>,
    /// Whether they are those of the cluster at this moment.
    is_followed: bool,
}

pub struct Objects {
    resources: &'static [Resource],
    most_bytes: usize,
    bytes: usize,
    /// Of the newest change that is known, and counts.
    version: u64,
    /// By [`Resource`].
    mirrors: [Mirror; 3],
}

impl Objects {
    /// `most_bytes`: of all together.
    pub fn new(resources: &'static [Resource], most_bytes: usize) -> Self {
        Self { resources, most_bytes, bytes: 0, version: 0, mirrors: Default::default() }
    }

    pub fn resources(&self) -> &'static [Resource] {
        self.resources
    }

    fn mirror(&self, resource: Resource) -> &Mirror {
        &self.mirrors[resource as usize]
    }

    fn mirror_mut(&mut self, resource: Resource) -> &mut Mirror {
        &mut self.mirrors[resource as usize]
    }

    /// Takes a list in place of what was known; whether that is anything else.
    pub fn replace(&mut self, resource: Resource, Listing { version, objects }: Listing) -> bool {
        let mirror = self.mirror_mut(resource);
        mirror.is_followed = true;
        let is_same = mirror.objects.len() == objects.len()
            && mirror.objects.values().zip(objects.values()).all(|(old, new)| old.text == new.text);
        if is_same {
            return false;
        }
        let size = |objects: &BTreeMap<Name, Object>| objects.values().map(|object| object.text.len()).sum::<usize>();
        let new_bytes = size(&objects);
        let old_bytes = size(&std::mem::replace(&mut mirror.objects, objects));
        self.bytes = self.bytes - old_bytes + new_bytes;
        self.version = self.version.max(version);
        true
    }

    /// Takes a change; whether it changes the document.
    pub fn apply(&mut self, resource: Resource, Change { version, name, object }: Change) -> bool {
        let old = self.mirror(resource).objects.get(&name);
        let is_same = old.map(|old| &old.text) == object.as_ref().map(|new| &new.text);
        let is_read =
            resource != Resource::Slices || [old, object.as_ref()].into_iter().flatten().any(|it| self.serves(it));
        let bytes = [object.as_ref(), old].map(|it| it.map_or(0, |it| it.text.len()));
        let objects = &mut self.mirror_mut(resource).objects;
        match object {
            Some(object) => drop(objects.insert(name, object)),
            None => drop(objects.remove(&name)),
        }
        self.bytes = self.bytes + bytes[0] - bytes[1];
        let counts = is_read && !is_same;
        if counts {
            self.version = self.version.max(version);
        }
        counts
    }

    /// Whether a slice is of a service that is known: no reader looks at others.
    fn serves(&self, slice: &Object) -> bool {
        let services = &self.mirror(Resource::Services).objects;
        slice.service.as_ref().is_some_and(|service| services.contains_key(service))
    }

    pub fn follow(&mut self, resource: Resource) {
        self.mirror_mut(resource).is_followed = true;
    }

    /// What is known of a resource may be the past.
    pub fn lose(&mut self, resource: Resource) {
        self.mirror_mut(resource).is_followed = false;
    }

    pub fn lose_all(&mut self) {
        self.mirrors.iter_mut().for_each(|mirror| mirror.is_followed = false);
    }

    /// Whether what is known is the cluster as it is, and not too much.
    pub fn are_whole(&self) -> bool {
        self.too_big().is_none() && self.resources.iter().all(|&resource| self.mirror(resource).is_followed)
    }

    /// Why there is no document.
    pub fn too_big(&self) -> Option<String> {
        let most = self.most_bytes;
        let why = format!("all objects together have more than {most} bytes; `max_bytes` sets how many are taken");
        (self.bytes > most).then_some(why)
    }

    /// Services, their slices and the nodes, as Cilium's state file has them.
    pub fn document(&self) -> String {
        let mut text = String::with_capacity(self.bytes + 256);
        text.push_str(&format!("{{\"version\": \"{}\"", self.version));
        let lists = [("services", Resource::Services), ("endpoints", Resource::Slices), ("nodes", Resource::Nodes)];
        for (key, resource) in lists.into_iter().filter(|(_, resource)| self.resources.contains(resource)) {
            text.push_str(&format!(",\n\"{key}\": ["));
            let objects = self.mirror(resource).objects.values();
            let read = objects.filter(|object| resource != Resource::Slices || self.serves(object));
            for (index, object) in read.enumerate() {
                text.push_str(if index > 0 { ",\n" } else { "\n" });
                text.push_str(&object.text);
            }
            text.push(']');
        }
        text.push_str("}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{self, kubernetes::Options};
    use serde_json::{Value, json};

    /// What is kept of an object is all that readers look at.
    #[test]
    fn nothing_that_is_read_is_left_away() {
        let list: Value = serde_json::from_str(include_str!("../../../tests/kubernetes/list.json")).unwrap();
        let mut objects = Objects::new(&[Resource::Services, Resource::Slices, Resource::Nodes], 1 << 20);
        for resource in [Resource::Services, Resource::Slices, Resource::Nodes] {
            objects.follow(resource);
        }
        for (index, item) in list["items"].as_array().unwrap().iter().enumerate() {
            let resource = match item["kind"].as_str() {
                Some("Service") => Resource::Services,
                Some("EndpointSlice") => Resource::Slices,
                Some("Node") => Resource::Nodes,
                _ => continue,
            };
            let mut item = item.clone();
            item["metadata"]["resourceVersion"] = index.to_string().into();
            let object = Object::read(resource, &item.to_string()).unwrap();
            objects.apply(resource, Change { version: 1, name: object.name.clone(), object: Some(object) });
        }
        let options = Options { health_check_node_ports: true, ..Options::default() };
        let read = |text: &str| service::read(text, "list", None, &options).unwrap();
        let (kept, whole) = (read(&objects.document()), read(&list.to_string()));
        assert!(!kept.definitions.services.is_empty());
        assert_eq!(kept.definitions.services, whole.definitions.services);
        assert_eq!(kept.left_out, whole.left_out);
        assert_eq!(kept.warnings.len(), 0);
    }

    fn object(resource: Resource, value: Value) -> Object {
        Object::read(resource, &value.to_string()).unwrap()
    }

    #[test]
    fn of_an_object_only_that_is_kept() {
        let metadata = json!({
            "name": "n", "namespace": "s", "resourceVersion": "7", "uid": "u", "generation": 3,
            "managedFields": [{}], "labels": {"kubernetes.io/service-name": "web"}, "annotations": {"a": "b"},
        });
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": null, "ports": [], "kind": "x"});
        let kept = object(Resource::Slices, slice);
        let expected = "{\"metadata\":{\"name\":\"n\",\"namespace\":\"s\",\"labels\":{\"kubernetes.io/service-name\":\"web\"},\
                        \"annotations\":{\"a\":\"b\"}},\"addressType\":\"IPv4\",\"ports\":[]}";
        assert_eq!((kept.text.as_str(), kept.version.as_str()), (expected, "7"));
        assert_eq!(kept.service, Some(Name { namespace: "s".to_owned(), name: "web".to_owned() }));

        let status = json!({"addresses": [{"address": "10.0.0.1"}], "images": ["large"]});
        let node = json!({"metadata": metadata, "spec": {"podCIDR": "10.9.0.0/24"}, "status": status});
        let kept = object(Resource::Nodes, node);
        let expected = "{\"metadata\":{\"name\":\"n\",\"namespace\":\"s\"},\"status\":{\"addresses\":\
                        [{\"address\":\"10.0.0.1\"}]}}";
        assert_eq!(kept.text, expected);
    }

    #[test]
    fn sizes_add_up_whatever_comes_and_goes() {
        let service = |name: &str, text: &str| {
            let metadata = json!({"name": name, "namespace": "s", "resourceVersion": "1"});
            object(Resource::Services, json!({"metadata": metadata, "spec": {"text": text}}))
        };
        let mut objects = Objects::new(&[Resource::Services], 1000);
        let listed = [service("a", "x"), service("b", "y")].map(|it| (it.name.clone(), it));
        assert!(objects.replace(Resource::Services, Listing { version: 1, objects: listed.into() }));
        let put = |object: Object| Change { version: 2, name: object.name.clone(), object: Some(object) };
        assert!(objects.apply(Resource::Services, put(service("b", "a longer text"))));
        assert!(!objects.apply(Resource::Services, put(service("b", "a longer text"))), "nothing new");
        let gone = |name: &str| Change { version: 3, name: service(name, "").name, object: None };
        assert!(objects.apply(Resource::Services, gone("a")));
        assert!(!objects.apply(Resource::Services, gone("never")));
        assert_eq!(objects.bytes, service("b", "a longer text").text.len());
        let same = [service("b", "a longer text")].map(|it| (it.name.clone(), it));
        assert!(!objects.replace(Resource::Services, Listing { version: 9, objects: same.into() }));
        assert!(objects.document().starts_with("{\"version\": \"3\""), "{}", objects.document());
    }
}
