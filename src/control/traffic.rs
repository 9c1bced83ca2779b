//! Packets and bytes of whole services, which must never count backwards: not when a backend leaves, and takes its own
//! counts with it, nor when a new one counts from zero.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::report::Count;

/// A backend of a service.
type Pair = (Arc<str>, SocketAddr);

/// By service, what backends had counted that left.
#[derive(Debug, Default)]
pub struct Sums(BTreeMap<Arc<str>, (u64, u64)>);

impl Sums {
    /// Adds what a pair had counted that is counted no more.
    pub fn add(&mut self, (service, _): Pair, packets: u64, bytes: u64) {
        let sum = self.0.entry(service).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
    }

    /// Forgets services that left, where there are more than these, all that are defined: whoever asks for sums has them forgotten, too, but
    /// it may be that nobody ever asks.
    pub fn forget_left<'a>(&mut self, services: impl ExactSizeIterator<Item = &'a Arc<str>>) {
        if self.0.len() > services.len() {
            let defined: HashSet<&str> = services.map(|service| &**service).collect();
            self.0.retain(|service, _| defined.contains(&**service));
        }
    }

    /// Sums of these services, in this order, with what the `pairs` that there are have counted; all others are forgotten.
    pub fn of<'a>(
        &mut self,
        pairs: impl Iterator<Item = (&'a Arc<str>, SocketAddr, u64, u64)>,
        services: impl Iterator<Item = &'a Arc<str>>,
    ) -> Vec<Count<Arc<str>>> {
        let mut counted: HashMap<&str, (u64, u64)> = HashMap::new();
        for (service, _, packets, bytes) in pairs {
            let sum = counted.entry(service).or_default();
            *sum = (sum.0 + packets, sum.1 + bytes);
        }
        let mut left = std::mem::take(&mut self.0);
        let counts = services.map(|service| {
            let (mut packets, mut bytes) = counted.get(&**service).copied().unwrap_or_default();
            if let Some((service, sum)) = left.remove_entry(service) {
                (packets, bytes) = (packets + sum.0, bytes + sum.1);
                self.0.insert(service, sum);
            }
            Count { of: service.clone(), packets, bytes }
        });
        counts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(service: &str, last: u8) -> Pair {
        (service.into(), SocketAddr::from(([10, 0, 0, last], 80)))
    }

    #[test]
    fn a_service_never_counts_backwards() {
        let (one, two) = (pair("web", 1), pair("web", 2));
        let mut sums = Sums::default();
        let of = |sums: &mut Sums, pairs: &[(&Pair, u64, u64)]| {
            let pairs = pairs.iter().map(|((name, endpoint), packets, bytes)| (name, *endpoint, *packets, *bytes));
            sums.of(pairs, [&one.0].into_iter())[0].packets
        };
        assert_eq!(of(&mut sums, &[(&one, 5, 50), (&two, 3, 30)]), 8);
        sums.add(two.clone(), 3, 30);
        assert_eq!(of(&mut sums, &[(&one, 6, 60)]), 9);
        // It is back, and counts from zero.
        assert_eq!(of(&mut sums, &[(&one, 6, 60), (&two, 1, 10)]), 10);
        sums.add(two.clone(), 1, 10);
        assert_eq!(of(&mut sums, &[(&one, 6, 60), (&two, 0, 0)]), 10);
    }

    #[test]
    fn there_are_never_more_sums_than_services_though_nobody_asks() {
        let stays = pair("stays", 1);
        let mut sums = Sums::default();
        for number in 0..1000 {
            let left = pair(&format!("s{number}"), 1);
            sums.add(left, 5, 50);
            sums.add(stays.clone(), 1, 10);
            sums.forget_left([&stays.0, &"new".into()].into_iter());
            assert!(sums.0.len() <= 2, "{} sums", sums.0.len());
        }
        let of = sums.of([].into_iter(), [&stays.0].into_iter());
        assert_eq!(of, [Count { of: stays.0.clone(), packets: 1000, bytes: 10_000 }]);
    }

    #[test]
    fn a_service_that_left_is_forgotten() {
        let (web, dns) = (pair("web", 1), pair("dns", 1));
        let mut sums = Sums::default();
        sums.add(web.clone(), 5, 50);
        let of = |sums: &mut Sums, service: &Arc<str>| sums.of([].into_iter(), [service].into_iter());
        assert_eq!(of(&mut sums, &dns.0), [Count { of: dns.0.clone(), packets: 0, bytes: 0 }]);
        assert_eq!(of(&mut sums, &web.0), [Count { of: web.0.clone(), packets: 0, bytes: 0 }]);
    }
}
