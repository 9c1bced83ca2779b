//! The documents that objects come in: Cilium's state file, a list of kubectl's, objects by themselves.

use std::collections::{BTreeMap, HashMap};

use super::objects::{Node, Service, Slice};
use crate::service::problem::{Path, Report};
use crate::service::shape::check_twice;
use crate::service::tree::{Value, quote};

/// Every object of a document, or of a stream of them.
#[derive(Debug, Default)]
pub struct Objects {
    pub services: Vec<Service>,
    pub slices: Vec<Slice>,
    pub nodes: Vec<Node>,
    /// Objects of other kinds, and how many.
    others: BTreeMap<String, usize>,
}

/// The lists of a state file.
const LISTS: [(&str, Kind); 3] = [("services", Kind::Service), ("endpoints", Kind::Slice), ("nodes", Kind::Node)];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Service,
    Slice,
    Node,
}

impl Kind {
    /// That of an object which says what it is; another group's `Service` (Knative has one) is something else.
    fn of(kind: &str, group: Option<&str>) -> Option<Self> {
        match (kind, group.unwrap_or_default()) {
            ("Service", "" | "v1") => Some(Self::Service),
            ("Node", "" | "v1") => Some(Self::Node),
            ("EndpointSlice", "" | "discovery.k8s.io/v1") => Some(Self::Slice),
            _ => None,
        }
    }
}

/// Whether a document is Kubernetes-shaped, told by its top. (`{"services": []}` is native.)
pub fn are_shaped(document: &Value<'_>) -> bool {
    let Value::Object(members) = document else { return false };
    let is_object = |service: &Value<'_>| match service {
        Value::Object(members) => members.iter().any(|(key, _)| matches!(key.as_ref(), "metadata" | "spec")),
        _ => false,
    };
    members.iter().any(|(key, value)| match (key.as_ref(), value) {
        ("endpoints" | "apiVersion" | "kind" | "items", _) => true,
        ("services", Value::List(services)) => services.iter().any(is_object),
        _ => false,
    })
}

/// What a document says that it is the version of, where it is one by itself: the feed from an API server writes it.
pub fn version(documents: &[Value<'_>]) -> Option<String> {
    match documents {
        [Value::Object(members)] => text(members, "version").map(str::to_owned),
        _ => None,
    }
}

impl Objects {
    /// Those of all documents of a stream. What is wrong with any is reported.
    pub fn read(mut documents: Vec<Value<'_>>, report: &mut Report) -> Self {
        let mut found = Self::default();
        let (root, is_stream) = (Path::default(), documents.len() > 1);
        for (index, document) in documents.iter_mut().enumerate() {
            let path = if is_stream { root.item("documents", index) } else { root };
            found.take_document(document, &path, report);
        }
        found.tell_others(report);
        found.refuse_twins(report);
        found
    }

    fn take_document(&mut self, document: &mut Value<'_>, path: &Path<'_>, report: &mut Report) {
        let Value::Object(members) = &*document else {
            return report.error(path, format!("{} is not an object", document.describe()));
        };
        let text = |key: &str| text(members, key).map(str::to_owned);
        let (kind, group) = (text("kind"), text("apiVersion"));
        let has = |key: &str| members.iter().any(|(name, _)| name == key);
        if has("items") {
            check_twice(members, path, report);
            // The items of `ServiceList` and the like need not say what they are.
            let of_items = kind.as_deref().and_then(|kind| kind.strip_suffix("List")).filter(|kind| !kind.is_empty());
            let of_items = of_items.map(|kind| (kind.to_owned(), group));
            normalize(document);
            self.take_items(document, of_items, path, report);
        } else if let Some(kind) = kind {
            normalize(document);
            self.take_named(document, &kind, group.as_deref(), path, report);
        } else if has("services") {
            check_twice(members, path, report);
            normalize(document);
            for (key, kind) in LISTS {
                self.take_list(document, key, path, report, |found, object, path, report| {
                    found.take(kind, object, path, report);
                });
            }
        } else if has("endpoints") {
            // An incomplete file must not take all services away.
            report.error(path.key("services"), "required, but absent. The v1 Services; [] for none.");
        } else {
            let reason =
                "neither a list of objects (\"items\"), nor an object (\"kind\"), nor \"services\" and \"endpoints\"";
            report.error(path, reason);
        }
    }

    fn take_items(
        &mut self,
        document: &Value<'_>,
        of_items: Option<(String, Option<String>)>,
        path: &Path<'_>,
        report: &mut Report,
    ) {
        self.take_list(document, "items", path, report, |found, object, path, report| {
            let Value::Object(members) = object else {
                return report.error(path, format!("{} is not an object", object.describe()));
            };
            match (text(members, "kind"), &of_items) {
                (Some(kind), _) => found.take_named(object, kind, text(members, "apiVersion"), path, report),
                (None, Some((kind, group))) => found.take_named(object, kind, group.as_deref(), path, report),
                (None, None) => report.error(path.key("kind"), "required, but absent. What the object is."),
            }
        });
    }

    /// Calls for each element of the list under a key; an absent one is empty.
    fn take_list(
        &mut self,
        document: &Value<'_>,
        key: &str,
        path: &Path<'_>,
        report: &mut Report,
        take: impl Fn(&mut Self, &Value<'_>, &Path<'_>, &mut Report),
    ) {
        let Value::Object(members) = document else { return };
        match members.iter().find(|(name, _)| name == key) {
            Some((_, Value::List(items))) => {
                for (index, item) in items.iter().enumerate() {
                    take(self, item, &path.item(key, index), report);
                }
            }
            Some((_, value)) => report.error(path.key(key), format!("{} is not a list", value.describe())),
            None => {}
        }
    }

    fn take_named(
        &mut self,
        object: &Value<'_>,
        kind: &str,
        group: Option<&str>,
        path: &Path<'_>,
        report: &mut Report,
    ) {
        match Kind::of(kind, group) {
            Some(kind) => self.take(kind, object, path, report),
            None => {
                let name = group.map_or_else(|| kind.to_owned(), |group| format!("{group} {kind}"));
                *self.others.entry(name).or_default() += 1;
            }
        }
    }

    fn take(&mut self, kind: Kind, object: &Value<'_>, path: &Path<'_>, report: &mut Report) {
        match kind {
            Kind::Service => self.services.extend(Service::read(object, path, report)),
            Kind::Slice => self.slices.extend(Slice::read(object, path, report)),
            Kind::Node => self.nodes.extend(Node::read(object, path, report)),
        }
    }

    /// A document with nothing but other objects is somebody else's, and does not mean that there is no service.
    fn tell_others(&self, report: &mut Report) {
        if self.others.is_empty() || !report.errors.is_empty() {
            return;
        }
        let kinds: Vec<_> = self.others.iter().map(|(kind, count)| format!("{count} of {}", quote(kind))).collect();
        let kinds = kinds.join(", ");
        if self.services.is_empty() && self.slices.is_empty() && self.nodes.is_empty() {
            let reason =
                format!("no v1 Service, discovery.k8s.io/v1 EndpointSlice or v1 Node is in it; there are {kinds}");
            report.error(Path::default(), reason);
        } else {
            let reason = format!("objects of other kinds are not read: {kinds}");
            report.warn(Path::default(), reason);
        }
    }

    /// One object that is described twice would depend on the order of the document.
    fn refuse_twins(&self, report: &mut Report) {
        let services = self.services.iter().map(|service| (service.name.to_string(), &service.path));
        let nodes = self.nodes.iter().map(|node| (node.name.clone(), &node.path));
        let mut first = HashMap::new();
        for (name, path) in services
            .map(|it| ("Service", it))
            .chain(nodes.map(|it| ("Node", it)))
            .map(|(kind, (name, path))| ((kind, name), path))
        {
            let said = format!("{} {:?} is ", name.0, name.1);
            if let Some(other) = first.insert(name, path) {
                report.error(format_args!("{path}.metadata.name"), format!("{said}{other} already"));
            }
        }
    }
}

fn text<'a>(members: &'a [(std::borrow::Cow<'_, str>, Value<'_>)], key: &str) -> Option<&'a str> {
    match members.iter().find(|(name, _)| name == key) {
        Some((_, Value::Text(text))) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Takes away what Go takes for absent, `null` and empty texts, and makes texts of annotations and labels that YAML holds for numbers.
fn normalize(value: &mut Value<'_>) {
    match value {
        Value::List(items) => items.iter_mut().for_each(normalize),
        Value::Object(members) => {
            members.retain(|(_, value)| {
                !matches!(value, Value::Null) && !matches!(value, Value::Text(text) if text.is_empty())
            });
            for (key, value) in members {
                match (key.as_ref(), &mut *value) {
                    ("annotations" | "labels", Value::Object(texts)) => texts.iter_mut().for_each(|(_, text)| {
                        if matches!(text, Value::Integer(_) | Value::Float(_) | Value::Bool(_)) {
                            *text = Value::Text(text.describe().into());
                        }
                    }),
                    _ => normalize(value),
                }
            }
        }
        _ => {}
    }
}
