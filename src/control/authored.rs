//! Definitions that are written one change after another, by the API: what each change makes of them.
//!
//! Services stand in the order of their names, so equal sets are written alike, and a service is found in a few steps. What services claim of
//! each other is kept beside them: a change among thousands of services looks at one.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::client::{Edit, Refused, Write, Written};
use super::journal::Change;
use crate::service::{Claims, Definitions, Errors, Problem, Service};

/// The newest definitions, be they in force already or not.
#[derive(Debug, Default)]
pub struct Authored {
    /// By name.
    services: Vec<Arc<Service>>,
    version: Option<String>,
    claims: Claims<Who>,
    /// Names of those that do not fit the node: they are kept, and claim what is theirs, but are not in force.
    left_out: BTreeSet<Arc<str>>,
}

/// A service, as others speak of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who(Arc<str>);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {:?}", self.0)
    }
}

/// How a change is kept on disk.
#[derive(Debug)]
pub enum Record {
    Line(String),
    /// All is new: the whole set is written.
    Whole,
    /// Nothing changed.
    Nothing,
}

impl Authored {
    pub fn new(definitions: &Definitions) -> Self {
        let mut services = definitions.services.clone();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut claims = Claims::default();
        for service in &services {
            // They are valid together.
            claims.claim(&**service, &Who(service.name.clone()));
        }
        Self { services, version: definitions.version.clone(), claims, left_out: BTreeSet::new() }
    }

    /// All that are kept.
    pub fn all(&self) -> Definitions {
        Definitions { version: self.version.clone(), services: self.services.clone() }
    }

    /// Those that are in force, or will be.
    pub fn definitions(&self) -> Definitions {
        let mut definitions = self.all();
        if !self.left_out.is_empty() {
            definitions.services.retain(|service| !self.left_out.contains(&service.name));
        }
        definitions
    }

    pub fn leave_out(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        self.left_out.extend(names);
    }

    pub fn left_out(&self) -> &BTreeSet<Arc<str>> {
        &self.left_out
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().filter(|service| !self.left_out.contains(&service.name))
    }

    /// Makes a change, or says why not.
    pub fn write(&mut self, write: Write) -> Result<(Written, Record), Refused> {
        let Write { edit, expected_version, is_dry_run } = write;
        let in_force = self.version.clone().unwrap_or_default();
        if let Some(expected) = expected_version.filter(|expected| *expected != in_force) {
            return Err(Refused::Version { expected, in_force });
        }
        match edit {
            Edit::Replace(definitions) => Ok(self.replace(definitions, is_dry_run)),
            Edit::Upsert(service) => self.put(service, is_dry_run),
            Edit::Exchange { before, after } => match self.find(&before.name) {
                Ok(index) if Arc::ptr_eq(&self.services[index], &before) => self.put(after, is_dry_run),
                _ => Err(Refused::Outdated),
            },
            Edit::Delete(name) => self.delete(&name, is_dry_run),
        }
    }

    /// Makes a change that was made before.
    pub fn redo(&mut self, version: String, upsert: Option<Arc<Service>>, delete: Option<&str>) -> Result<(), Refused> {
        if let Some(service) = upsert {
            self.put(service, false)?;
        }
        if let Some(name) = delete {
            self.delete(name, false)?;
        }
        self.version = Some(version);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.services.binary_search_by(|service| (*service.name).cmp(name))
    }

    fn replace(&mut self, definitions: Definitions, is_dry_run: bool) -> (Written, Record) {
        let mut new = Self::new(&definitions);
        let version = new.version.get_or_insert_with(|| following(self.version.as_deref())).clone();
        let is_same = definitions.version.as_ref().is_none_or(|version| Some(version) == self.version.as_ref())
            && new.services == self.services
            && self.left_out.is_empty()
            && self.version.is_some();
        if is_same {
            return (self.unchanged(), Record::Nothing);
        }
        if !is_dry_run {
            *self = new;
        }
        (Written { version, has_changed: true }, if is_dry_run { Record::Nothing } else { Record::Whole })
    }

    fn put(&mut self, service: Arc<Service>, is_dry_run: bool) -> Result<(Written, Record), Refused> {
        let (found, who) = (self.find(&service.name), Who(service.name.clone()));
        let old = found.ok().map(|index| self.services[index].clone());
        if old.as_ref() == Some(&service) && !self.left_out.contains(&service.name) {
            return Ok((self.unchanged(), Record::Nothing));
        }
        if let Some(old) = &old {
            self.claims.release(&**old, &who);
        }
        let conflicts = self.claims.claim(&*service, &who);
        if !conflicts.is_empty() || is_dry_run {
            self.claims.release(&*service, &who);
            if let Some(old) = &old {
                self.claims.claim(&**old, &who);
            }
        }
        if !conflicts.is_empty() {
            let problem = |(path, reason)| Problem { file: "request".into(), path, reason };
            return Err(Refused::Invalid(Errors(conflicts.into_iter().map(problem).collect())));
        }
        let version = following(self.version.as_deref());
        let written = Written { version: version.clone(), has_changed: true };
        if is_dry_run {
            return Ok((written, Record::Nothing));
        }
        self.left_out.remove(&service.name);
        let upsert = RawValue::from_string(service.to_json()).expect("it was just made");
        match found {
            Ok(index) => self.services[index] = service,
            Err(index) => self.services.insert(index, service),
        }
        self.version = Some(version.clone());
        Ok((written, Record::Line(Change { version, upsert: Some(upsert), delete: None }.line())))
    }

    fn delete(&mut self, name: &str, is_dry_run: bool) -> Result<(Written, Record), Refused> {
        let Ok(index) = self.find(name) else {
            return Err(Refused::no_service(name));
        };
        let version = following(self.version.as_deref());
        let written = Written { version: version.clone(), has_changed: true };
        if is_dry_run {
            return Ok((written, Record::Nothing));
        }
        let service = self.services.remove(index);
        self.left_out.remove(&service.name);
        self.claims.release(&*service, &Who(service.name.clone()));
        self.version = Some(version.clone());
        Ok((written, Record::Line(Change { version, upsert: None, delete: Some(name.to_owned()) }.line())))
    }

    fn unchanged(&self) -> Written {
        Written { version: self.version.clone().unwrap_or_default(), has_changed: false }
    }
}

/// The version after one: its number, behind `#`, goes up by one.
fn following(version: Option<&str>) -> String {
    let version = version.unwrap_or_default();
    let counted = version.rsplit_once('#').and_then(|(text, number)| Some((text, number.parse::<u64>().ok()?)));
    match counted {
        Some((text, number)) => format!("{text}#{}", number.wrapping_add(1)),
        None => format!("{version}#1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service;

    fn service(name: &str, vip: u8, backends: &[u8]) -> String {
        let backends: Vec<_> = backends.iter().map(|last| format!(r#"{{"address": "10.1.0.{last}"}}"#)).collect();
        format!(
            r#"{{"name": "{name}", "vip": "192.0.2.{vip}", "port": 80, "protocol": "tcp", "forwarding": "dnat",
                "backends": [{}]}}"#,
            backends.join(", ")
        )
    }

    fn one(name: &str, vip: u8, backends: &[u8]) -> Arc<Service> {
        let set = format!(r#"{{"services": [{}]}}"#, service(name, vip, backends));
        service::native(&set, "s", None).unwrap().0.services.remove(0)
    }

    fn set(version: &str, services: &[String]) -> Definitions {
        let set = format!(r#"{{"version": "{version}", "services": [{}]}}"#, services.join(", "));
        service::native(&set, "s", None).unwrap().0
    }

    fn plain(edit: Edit) -> Write {
        Write { edit, expected_version: None, is_dry_run: false }
    }

    fn names(authored: &Authored) -> Vec<String> {
        authored.services.iter().map(|service| service.name.to_string()).collect()
    }

    #[test]
    fn versions_count_on() {
        for (before, after) in
            [(None, "#1"), (Some("#1"), "#2"), (Some("2026#41"), "2026#42"), (Some("a"), "a#1"), (Some("a#b"), "a#b#1")]
        {
            assert_eq!(following(before), after);
        }
    }

    #[test]
    fn changes_follow_one_another_and_say_what_they_made() {
        let mut authored = Authored::default();
        let mut write = |edit| authored.write(plain(edit)).map(|(written, _)| (written.version, written.has_changed));
        assert_eq!(write(Edit::Upsert(one("web", 1, &[1]))).unwrap(), ("#1".to_owned(), true));
        assert_eq!(write(Edit::Upsert(one("dns", 2, &[2]))).unwrap(), ("#2".to_owned(), true));
        assert_eq!(write(Edit::Upsert(one("dns", 2, &[2]))).unwrap(), ("#2".to_owned(), false), "the same");
        assert_eq!(write(Edit::Upsert(one("dns", 2, &[2, 3]))).unwrap(), ("#3".to_owned(), true));
        assert!(matches!(write(Edit::Delete("smtp".to_owned())), Err(Refused::NotFound(_))));
        assert_eq!(write(Edit::Delete("web".to_owned())).unwrap(), ("#4".to_owned(), true));
        assert_eq!(write(Edit::Replace(set("v", &[service("b", 1, &[1]), service("a", 2, &[2])]))).unwrap().0, "v");
        assert_eq!(names(&authored), ["a", "b"]);
        let version = |authored: &Authored| authored.definitions().version;
        assert_eq!(version(&authored).as_deref(), Some("v"));
    }

    #[test]
    fn a_claim_of_another_service_is_refused_and_nothing_changes() {
        let mut authored = Authored::new(&set("v", &[service("a", 1, &[1]), service("b", 2, &[2])]));
        for edit in [Edit::Upsert(one("c", 1, &[3])), Edit::Upsert(one("a", 1, &[2])), Edit::Upsert(one("a", 2, &[1]))]
        {
            let Err(Refused::Invalid(errors)) = authored.write(plain(edit)) else { panic!("it was taken") };
            assert!(errors.to_string().contains("service \""), "{errors}");
        }
        assert_eq!(authored.definitions(), set("v", &[service("a", 1, &[1]), service("b", 2, &[2])]));
        // What was refused claims nothing; what goes claims nothing any more.
        authored.write(plain(Edit::Upsert(one("c", 3, &[3])))).unwrap();
        authored.write(plain(Edit::Delete("a".to_owned()))).unwrap();
        authored.write(plain(Edit::Upsert(one("d", 1, &[1])))).unwrap();
        assert_eq!(names(&authored), ["b", "c", "d"]);
    }

    #[test]
    fn another_version_than_expected_changes_nothing() {
        let mut authored = Authored::new(&set("v", &[service("a", 1, &[1])]));
        let write = |expected: &str| Write {
            edit: Edit::Delete("a".to_owned()),
            expected_version: Some(expected.to_owned()),
            is_dry_run: false,
        };
        for expected in ["", "u", "v#1"] {
            assert!(matches!(authored.write(write(expected)), Err(Refused::Version { .. })), "{expected}");
        }
        authored.write(write("v")).unwrap();
        assert!(names(&authored).is_empty());
        assert!(matches!(Authored::default().write(write("")), Err(Refused::NotFound(_))), "none is in force");
    }

    #[test]
    fn a_dry_run_says_what_would_be_and_leaves_all_as_it_is() {
        let before = set("v#1", &[service("a", 1, &[1])]);
        let mut authored = Authored::new(&before);
        let edits = || {
            [
                Edit::Upsert(one("a", 1, &[2])),
                Edit::Upsert(one("b", 2, &[2])),
                Edit::Delete("a".to_owned()),
                Edit::Replace(Definitions::default()),
            ]
        };
        for edit in edits() {
            let (written, record) = authored.write(Write { edit, expected_version: None, is_dry_run: true }).unwrap();
            assert_eq!(written, Written { version: "v#2".to_owned(), has_changed: true });
            assert!(matches!(record, Record::Nothing));
            assert_eq!(authored.definitions(), before);
        }
        let refused = Write { edit: Edit::Upsert(one("b", 1, &[2])), expected_version: None, is_dry_run: true };
        assert!(matches!(authored.write(refused), Err(Refused::Invalid(_))));
        for edit in edits() {
            let mut fresh = Authored::new(&before);
            fresh.write(plain(edit)).unwrap();
            assert_ne!(fresh.definitions(), before);
        }
    }

    #[test]
    fn a_service_is_exchanged_only_for_the_very_one_that_it_was_made_from() {
        let mut authored = Authored::new(&set("v", &[service("a", 1, &[1])]));
        let before = authored.services[0].clone();
        let exchange = |before: &Arc<Service>| Edit::Exchange { before: before.clone(), after: one("a", 1, &[7]) };
        authored.write(plain(exchange(&before))).unwrap();
        assert!(matches!(authored.write(plain(exchange(&before))), Err(Refused::Outdated)));
    }
}
