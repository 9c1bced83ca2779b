//! The definitions as packets shall meet them: what was given, with what was drained by hand and what failed its health checks.
//!
//! Only states of backends differ, which are a mask over a service's table. A service that nothing is masked of is the very one that was
//! given, and one that was masked before in the same way is that one again: so the compiler knows it by its address.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::drained::Drained;
use crate::service::{AllDown, Definitions, Service, State};

/// What is laid over the definitions, and the result.
#[derive(Debug, Default)]
pub struct Masks {
    drained: Drained,
    /// By service, the endpoints of backends that failed their checks.
    failed: HashMap<Arc<str>, HashSet<SocketAddr>>,
    given: Arc<Definitions>,
    masked: Arc<Definitions>,
    /// Services whose masks changed since; everything, where whom it is about is not known.
    changed: HashSet<Arc<str>>,
    has_drained: bool,
}

impl Masks {
    pub fn new(drained: Drained) -> Self {
        Self { drained, has_drained: true, ..Self::default() }
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

    /// Whether this backend has failed its check.
    pub fn has_failed(&self, service: &str, endpoint: SocketAddr) -> bool {
        self.failed.get(service).is_some_and(|failed| failed.contains(&endpoint))
    }

    /// Notes how a backend of a service is by its check; whether that is new.
    pub fn set_failed(&mut self, service: &Arc<str>, endpoint: SocketAddr, has_failed: bool) -> bool {
        let is_new = if has_failed {
            self.failed.entry(service.clone()).or_default().insert(endpoint)
        } else if let Some(failed) = self.failed.get_mut(service) {
            let was_there = failed.remove(&endpoint);
            if failed.is_empty() {
                self.failed.remove(service);
            }
            was_there
        } else {
            false
        };
        if is_new {
            self.changed.insert(service.clone());
        }
        is_new
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
        let failed = self.failed.get(&service.name).filter(|failed| !fails_open(service, failed));
        let state = |endpoint: SocketAddr, state: State| match state {
            State::Down => State::Down,
            _ if failed.is_some_and(|failed| failed.contains(&endpoint)) => State::Down,
            State::Active if self.drained.is(&service.name, endpoint) => State::Draining,
            state => state,
        };
        let states = || service.backends.iter().map(|backend| state(service.endpoint(backend), backend.state));
        if (failed.is_none() && self.drained.is_empty())
            || states().zip(&service.backends).all(|(state, backend)| state == backend.state)
        {
            return service.clone();
        }
        let mut masked = (**service).clone();
        for (backend, state) in masked.backends.iter_mut().zip(states()) {
            backend.state = state;
        }
        match before {
            Some(before) if **before == masked => before.clone(),
            _ => Arc::new(masked),
        }
    }
}

/// Whether so many failed that all are used: everyone whom the definitions do not take out themselves.
fn fails_open(service: &Service, failed: &HashSet<SocketAddr>) -> bool {
    let has_failed = |backend| failed.contains(&service.endpoint(backend));
    service.health.all_down == AllDown::FailOpen
        && service.backends.iter().filter(|backend| backend.state != State::Down).all(has_failed)
}

#[cfg(test)]
mod tests {
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

    fn endpoint(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, last], 80))
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
        let (mut masks, given) = (Masks::default(), given(&[("a", &[1, 2], ""), ("b", &[1], "")]));
        assert!(Arc::ptr_eq(&masks.over(&given), &given));
        masks.set_failed(&"gone".into(), endpoint(1), true);
        assert!(Arc::ptr_eq(&masks.over(&given), &given));
    }

    #[test]
    fn who_is_drained_drains_in_every_service_or_in_the_one_that_was_named() {
        let given = given(&[("a", &[1, 2], ""), ("b", &[1], "")]);
        let mut masks = Masks::new(drained(&[("10.1.0.1", Some("a"))]));
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
        let (mut masks, given) = (Masks::default(), given(&[("a", &[1, 2], ""), ("b", &[1], "")]));
        masks.over(&given);
        assert!(masks.set_failed(&"a".into(), endpoint(2), true));
        assert!(!masks.set_failed(&"a".into(), endpoint(2), true), "known");
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
        assert!(masks.set_failed(&"a".into(), endpoint(2), false));
        assert!(Arc::ptr_eq(&masks.over(&more), &more));
    }

    #[test]
    fn when_all_have_failed_all_are_used_where_the_service_says_so() {
        let open = r#", "all_down": "fail-open""#;
        let (mut masks, given) = (Masks::default(), given(&[("open", &[1, 2], open), ("shut", &[1, 2], "")]));
        for name in ["open", "shut"] {
            assert!(masks.set_failed(&name.into(), endpoint(1), true));
        }
        assert_eq!(states(&masks.over(&given), "open"), ["down", "active"]);
        for name in ["open", "shut"] {
            assert!(masks.set_failed(&name.into(), endpoint(2), true));
        }
        let masked = masks.over(&given);
        assert_eq!(
            (states(&masked, "open"), states(&masked, "shut")),
            (vec!["active", "active"], vec!["down", "down"])
        );
    }
}
