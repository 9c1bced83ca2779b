//! The definitions as packets shall meet them: what was given, with what was drained by hand and what failed its health checks.
//!
//! Only states of backends differ, which are a mask over a service's table. A service that nothing is masked of is the very one that was
//! given, and one that was masked before in the same way is that one again: so the compiler knows it by its address.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::drained::Drained;
use crate::service::{AllDown, Definitions, Service, State};

/// Says which of a service's backends failed their checks: their indices.
pub type Failed = Box<dyn Fn(&Service) -> Vec<usize> + Send>;

/// What is laid over the definitions, and the result.
pub struct Masks {
    drained: Drained,
    failed: Failed,
    given: Arc<Definitions>,
    masked: Arc<Definitions>,
    /// Services whose checks changed since.
    changed: HashSet<Arc<str>>,
    has_drained: bool,
}

impl Masks {
    pub fn new(drained: Drained, failed: Failed) -> Self {
        Self {
            drained,
            failed,
            given: Arc::default(),
            masked: Arc::default(),
            changed: HashSet::new(),
            has_drained: true,
        }
    }

    pub fn drained(&self) -> &Drained {
        &self.drained
    }

    pub fn set_drained(&mut self, drained: Drained) {
        if self.drained != drained {
            self.drained = drained;
            self.has_drained = true;
        }
    }

    /// Notes that checks of these services changed.
    pub fn note(&mut self, services: impl IntoIterator<Item = Arc<str>>) {
        self.changed.extend(services);
    }

    /// These definitions under the masks.
    pub fn over(&mut self, given: &Arc<Definitions>) -> Arc<Definitions> {
        let is_same = Arc::ptr_eq(&self.given, given);
        if is_same && self.changed.is_empty() && !self.has_drained {
            return self.masked.clone();
        }
        let (old, new) = (&self.given.services, &given.services);
        let same = |(old, new): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(old, new);
        let begin = old.iter().zip(new).take_while(|&(old, new)| same((old, new))).count();
        let rest = old.len().min(new.len()) - begin;
        let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|&(old, new)| same((old, new))).count();
        let before: HashMap<&str, (&Arc<Service>, &Arc<Service>)> = old[begin..old.len() - end]
            .iter()
            .zip(&self.masked.services[begin..])
            .map(|(given, masked)| (&*given.name, (given, masked)))
            .collect();
        let is_known = |service: &Arc<Service>| !self.has_drained && !self.changed.contains(&service.name);
        let shift = old.len() - end;
        let masked = new.iter().enumerate().map(|(index, service)| {
            let before = match index {
                _ if index < begin => Some((service, &self.masked.services[index])),
                _ if index >= new.len() - end => {
                    Some((service, &self.masked.services[shift + index - (new.len() - end)]))
                }
                _ => before.get(&*service.name).copied(),
            };
            match before {
                Some((given, masked)) if is_known(service) && Arc::ptr_eq(given, service) => masked.clone(),
                before => self.mask(service, before.map(|(_, masked)| masked)),
            }
        });
        let services: Vec<Arc<Service>> = masked.collect();
        let is_given = services.iter().zip(new).all(same);
        self.masked =
            if is_given { given.clone() } else { Arc::new(Definitions { version: given.version.clone(), services }) };
        self.given = given.clone();
        self.changed.clear();
        self.has_drained = false;
        self.masked.clone()
    }

    /// A service under the masks; `before`: as it was.
    fn mask(&self, service: &Arc<Service>, before: Option<&Arc<Service>>) -> Arc<Service> {
        let mut failed = if service.health.check.is_some() { (self.failed)(service) } else { Vec::new() };
        if fails_open(service, &failed) {
            failed.clear();
        }
        if failed.is_empty() && self.drained.is_empty() {
            return service.clone();
        }
        let mut masked = (**service).clone();
        for (index, backend) in masked.backends.iter_mut().enumerate() {
            backend.state = match backend.state {
                _ if failed.contains(&index) => State::Down,
                State::Active if self.drained.is(&service.name, service.endpoint(backend)) => State::Draining,
                state => state,
            };
        }
        match before {
            _ if masked == **service => service.clone(),
            Some(before) if **before == masked => before.clone(),
            _ => Arc::new(masked),
        }
    }
}

/// Whether so many failed that all are used: everyone whom the definitions do not take out themselves.
fn fails_open(service: &Service, failed: &[usize]) -> bool {
    let mut rest = service.backends.iter().enumerate().filter(|(_, backend)| backend.state != State::Down);
    service.health.all_down == AllDown::FailOpen && !failed.is_empty() && rest.all(|(index, _)| failed.contains(&index))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::control::drained::Whom;
    use crate::service;

    fn given(services: &[(&str, &[u8], &str)]) -> Arc<Definitions> {
        let service = |(index, (name, backends, more)): (usize, &(&str, &[u8], &str))| {
            let backends: Vec<_> = backends.iter().map(|last| format!(r#"{{"address": "10.1.0.{last}"}}"#)).collect();
            format!(
                r#"{{"name": "{name}", "vip": "192.0.2.{index}", "port": 80, "protocol": "tcp", "forwarding": "ipip",
                    "backends": [{}]{more}}}"#,
                backends.join(", ")
            )
        };
        let services: Vec<String> = services.iter().enumerate().map(service).collect();
        let text = format!(r#"{{"services": [{}]}}"#, services.join(", "));
        Arc::new(service::native(&text, "s", None).unwrap().0)
    }

    const CHECKED: &str = r#", "health_check": {"kind": "tcp"}"#;

    /// Masks, and by service the backends that fail.
    fn checked(drained: Drained) -> (Masks, impl FnMut(&mut Masks, &str, &[usize])) {
        let failed: Arc<Mutex<HashMap<String, Vec<usize>>>> = Arc::default();
        let asked = failed.clone();
        let of = move |service: &Service| asked.lock().unwrap().get(&*service.name).cloned().unwrap_or_default();
        let set = move |masks: &mut Masks, name: &str, backends: &[usize]| {
            failed.lock().unwrap().insert(name.to_owned(), backends.to_vec());
            masks.note([name.into()]);
        };
        (Masks::new(drained, Box::new(of)), set)
    }

    fn states(masked: &Definitions, name: &str) -> Vec<&'static str> {
        let service = masked.services.iter().find(|service| &*service.name == name).unwrap();
        service.backends.iter().map(|backend| backend.state.name()).collect()
    }

    fn drained(whom: &[(&str, Option<&str>)]) -> Drained {
        let mut drained = Drained::default();
        for (backend, service) in whom {
            drained.add(Whom { backend: backend.parse().unwrap(), service: service.map(Arc::from) });
        }
        drained
    }

    #[test]
    fn without_masks_packets_meet_what_was_given() {
        let given = given(&[("a", &[1, 2], CHECKED), ("b", &[1], "")]);
        let (mut masks, mut set) = checked(Drained::default());
        assert!(Arc::ptr_eq(&masks.over(&given), &given));
        set(&mut masks, "gone", &[0]);
        assert!(Arc::ptr_eq(&masks.over(&given), &given));
    }

    #[test]
    fn who_is_drained_drains_in_every_service_or_in_the_one_that_was_named() {
        let given = given(&[("a", &[1, 2], ""), ("b", &[1], "")]);
        let (mut masks, _) = checked(drained(&[("10.1.0.1", Some("a"))]));
        let masked = masks.over(&given);
        assert_eq!((states(&masked, "a"), states(&masked, "b")), (vec!["draining", "active"], vec!["active"]));
        assert!(Arc::ptr_eq(&masked.services[1], &given.services[1]), "nothing is masked of it");
        masks.set_drained(drained(&[("10.1.0.1:80", None)]));
        let masked = masks.over(&given);
        assert_eq!((states(&masked, "a"), states(&masked, "b")), (vec!["draining", "active"], vec!["draining"]));
        masks.set_drained(Drained::default());
        assert!(Arc::ptr_eq(&masks.over(&given), &given));
    }

    #[test]
    fn who_failed_is_down_and_comes_back() {
        let given = given(&[("a", &[1, 2], CHECKED), ("b", &[1], "")]);
        let (mut masks, mut set) = checked(Drained::default());
        masks.over(&given);
        set(&mut masks, "a", &[1]);
        let masked = masks.over(&given);
        assert_eq!(states(&masked, "a"), ["active", "down"]);
        // Other services come and go around it: it stays the very same.
        let more = {
            let mut services = given.services.clone();
            services.remove(1);
            services.insert(0, given.services[1].clone());
            Arc::new(Definitions { version: None, services })
        };
        let moved = masks.over(&more);
        assert!(Arc::ptr_eq(&moved.services[1], &masked.services[0]));
        set(&mut masks, "a", &[]);
        assert!(Arc::ptr_eq(&masks.over(&more), &more));
    }

    #[test]
    fn when_all_have_failed_all_are_used_where_the_service_says_so() {
        let open = format!(r#"{CHECKED}, "all_down": "fail-open""#);
        let given = given(&[("open", &[1, 2], &open), ("shut", &[1, 2], CHECKED)]);
        let (mut masks, mut set) = checked(Drained::default());
        for name in ["open", "shut"] {
            set(&mut masks, name, &[0]);
        }
        assert_eq!(states(&masks.over(&given), "open"), ["down", "active"]);
        for name in ["open", "shut"] {
            set(&mut masks, name, &[0, 1]);
        }
        let masked = masks.over(&given);
        assert_eq!(
            (states(&masked, "open"), states(&masked, "shut")),
            (vec!["active", "active"], vec!["down", "down"])
        );
    }
}
