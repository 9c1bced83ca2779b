//! What is in etcd, by key, and the document that it makes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::messages::{Event, EventKind, KeyValue};

/// Every key at one revision.
#[derive(Debug, Default)]
pub struct Listing {
    pub cluster: u64,
    pub revision: i64,
    pub entries: Vec<KeyValue>,
}

/// The services, each as the JSON that stands for it in the document.
pub struct Services {
    prefix: Vec<u8>,
    /// Of all values together.
    most_bytes: usize,
    bytes: usize,
    /// Which cluster they are of; `None` before the first list.
    cluster: Option<u64>,
    /// Of the newest change that is known.
    revision: i64,
    entries: BTreeMap<Vec<u8>, String>,
}

impl Services {
    pub fn new(prefix: &str, most_bytes: usize) -> Self {
        let entries = BTreeMap::new();
        Self { prefix: prefix.into(), most_bytes, bytes: 0, cluster: None, revision: 0, entries }
    }

    pub fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// Takes a list in place of all before; whether it is another set. Where it is not `asked` for by somebody, it must
    /// be of the same cluster and no older: a member that was cut off, a restored backup and an empty disk look alike.
    pub fn replace(&mut self, listing: Listing, asked: bool) -> Result<bool, String> {
        let is_first = self.cluster.is_none();
        if !is_first && !asked {
            if self.cluster != Some(listing.cluster) {
                return Err("it is of another cluster than what is in force; SIGHUP takes it all the same".to_owned());
            }
            if listing.revision < self.revision {
                return Err("its data are older than what is in force; SIGHUP takes them all the same".to_owned());
            }
        }
        let entries: BTreeMap<_, _> =
            listing.entries.into_iter().map(|KeyValue { key, value, .. }| self.entry(key, &value)).collect();
        let bytes = entries.values().map(String::len).sum();
        self.check_size(bytes)?;
        let is_new = is_first || entries != self.entries;
        if is_new {
            self.revision = listing.revision;
        }
        (self.entries, self.bytes, self.cluster) = (entries, bytes, Some(listing.cluster));
        Ok(is_new)
    }

    /// Takes changes; whether there were any.
    pub fn apply(&mut self, events: Vec<Event>) -> Result<bool, String> {
        let has_changed = !events.is_empty();
        for event in events {
            let is_put = event.kind() == EventKind::Put;
            let Some(KeyValue { key, mod_revision, value }) = event.kv else { continue };
            self.revision = self.revision.max(mod_revision);
            let (key, entry) = self.entry(key, &value);
            self.bytes += if is_put { entry.len() } else { 0 };
            let old = if is_put { self.entries.insert(key, entry) } else { self.entries.remove(&key) };
            self.bytes -= old.map_or(0, |old| old.len());
        }
        self.check_size(self.bytes)?;
        Ok(has_changed)
    }

    fn check_size(&self, bytes: usize) -> Result<(), String> {
        let most = self.most_bytes;
        if bytes > most {
            return Err(format!("its values have more than {most} bytes; `max_bytes` sets how many are taken"));
        }
        Ok(())
    }

    fn entry(&self, key: Vec<u8>, value: &[u8]) -> (Vec<u8>, String) {
        let name = String::from_utf8_lossy(key.strip_prefix(self.prefix.as_slice()).unwrap_or(&key)).into_owned();
        // A text is no service, and the reader's error shows it, beside those of all other services.
        let entry =
            service(&name, value).unwrap_or_else(|why| quoted(&format!("{}: {why}", String::from_utf8_lossy(&key))));
        (key, entry)
    }

    /// What stands in front of errors.
    pub fn name(&self) -> String {
        format!("etcd, {}", String::from_utf8_lossy(&self.prefix))
    }

    /// All services as one document, its version the revision.
    pub fn document(&self) -> String {
        let mut text = String::with_capacity(self.bytes + self.entries.len() * 2 + 64);
        text.push_str(&format!("{{\"version\": \"{}\", \"services\": [", self.revision));
        for (index, entry) in self.entries.values().enumerate() {
            text.push_str(if index > 0 { ",\n" } else { "\n" });
            text.push_str(entry);
        }
        text.push_str("\n]}\n");
        text
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The JSON of one service, with its name in it; or why the value is none.
fn service(name: &str, value: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, default)]
        name: Option<&'a RawValue>,
    }
    let text = std::str::from_utf8(value).map_err(|_| "not UTF-8 text")?.trim();
    let rest = text.strip_prefix('{').ok_or("not a JSON object")?;
    let named: Named<'_> = serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
    if let Some(own) = named.name {
        let is_same = serde_json::from_str::<String>(own.get()).is_ok_and(|own| own == name);
        return if is_same { Ok(text.to_owned()) } else { Err(format!("its name is {own}, not the key's {name:?}")) };
    }
    let comma = if rest.trim_start().starts_with('}') { "" } else { ", " };
    Ok(format!("{{\"name\": {}{comma}{rest}", quoted(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service;

    fn value(key: &str, value: &str) -> KeyValue {
        KeyValue { key: format!("/s/{key}").into_bytes(), mod_revision: 0, value: value.as_bytes().to_vec() }
    }

    fn listing(cluster: u64, revision: i64, entries: &[(&str, &str)]) -> Listing {
        Listing { cluster, revision, entries: entries.iter().map(|(key, text)| value(key, text)).collect() }
    }

    fn event(kind: EventKind, revision: i64, key: &str, text: &str) -> Event {
        Event { kind: kind.into(), kv: Some(KeyValue { mod_revision: revision, ..value(key, text) }) }
    }

    fn services() -> Services {
        Services::new("/s/", 1000)
    }

    const WEB: &str = r#"{"vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": []}"#;

    #[test]
    fn a_key_gives_its_service_its_name() {
        let mut services = services();
        services.replace(listing(1, 7, &[("web", WEB)]), false).unwrap();
        let (definitions, _) = service::native(services.document(), &services.name(), None).unwrap();
        assert_eq!((definitions.version.as_deref(), &*definitions.services[0].name), (Some("7"), "web"));
    }

    #[test]
    fn no_key_at_all_is_no_service_at_all() {
        let (definitions, _) = service::native(services().document(), "e", None).unwrap();
        assert!(definitions.services.is_empty());
    }

    #[test]
    fn each_wrong_value_is_told_by_its_key_beside_all_other_errors() {
        let mut services = services();
        let bad = [
            ("a", "rubbish"),
            ("b", "{\"vip\": "),
            ("c", "[]"),
            ("d", r#"{"name": "x"}"#),
            ("e", r#"{"name": 5}"#),
            ("f", WEB),
            ("g", "{}"),
            ("h", "{} {}"),
        ];
        services.replace(listing(1, 1, &bad), false).unwrap();
        let errors = service::native(services.document(), &services.name(), None).unwrap_err().to_string();
        for expected in [
            "etcd, /s/: services[0]: \"/s/a: not a JSON object\" is not an object",
            "services[1]: \"/s/b: not a JSON object: EOF while parsing a value",
            "services[2]: \"/s/c: not a JSON object\" is not an object",
            "services[3]: \"/s/d: its name is \\\"x\\\", not the key's \\\"d\\\"\"",
            "services[4]: \"/s/e: its name is 5, not the key's \\\"e\\\"\"",
            "services[6].vip: required",
            "services[7]: \"/s/h: not a JSON object: trailing characters",
        ] {
            assert!(errors.contains(expected), "{expected}\n{errors}");
        }
    }

    #[test]
    fn changes_make_the_document_that_a_new_list_would() {
        let mut services = services();
        services.replace(listing(1, 1, &[("a", "{}"), ("b", "{}")]), false).unwrap();
        let events = vec![event(EventKind::Put, 5, "c", "{\"x\": 1}"), event(EventKind::Delete, 5, "a", "")];
        assert_eq!(services.apply(events), Ok(true));
        let mut anew = self::services();
        anew.replace(listing(1, 5, &[("b", "{}"), ("c", "{\"x\": 1}")]), false).unwrap();
        assert_eq!((services.document(), services.bytes), (anew.document(), anew.bytes));
        assert_eq!(services.apply(vec![]), Ok(false));
    }

    #[test]
    fn the_same_list_later_is_no_change_and_keeps_its_version() {
        let mut services = services();
        assert_eq!(services.replace(listing(1, 5, &[("a", "{}")]), false), Ok(true));
        let before = services.document();
        assert_eq!(services.replace(listing(1, 9, &[("a", "{}")]), false), Ok(false));
        assert_eq!(services.document(), before);
    }

    #[test]
    fn an_older_list_or_another_cluster_is_taken_only_when_asked_for() {
        for other in [listing(1, 4, &[]), listing(2, 9, &[])] {
            let mut services = services();
            services.replace(listing(1, 5, &[("a", "{}")]), false).unwrap();
            let (before, again) = (services.document(), listing(other.cluster, other.revision, &[]));
            assert!(services.replace(other, false).is_err());
            assert_eq!(services.document(), before);
            assert_eq!(services.replace(again, true), Ok(true));
            assert_ne!(services.document(), before);
        }
    }

    #[test]
    fn more_than_is_wanted_is_refused() {
        let large = format!("{{\"x\": \"{}\"}}", "x".repeat(600));
        let mut services = services();
        assert!(services.replace(listing(1, 1, &[("a", &large), ("b", &large)]), false).is_err());
        services.replace(listing(1, 1, &[("a", &large)]), false).unwrap();
        assert!(services.apply(vec![event(EventKind::Put, 2, "b", &large)]).is_err());
    }
}
