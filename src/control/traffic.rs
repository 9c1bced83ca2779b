//! Packets and bytes of whole services, which must never count backwards: not when a backend leaves, and takes its own
//! counts with it, nor when a new one counts from zero.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::report::Count;

/// A backend of a service.
type Pair = (Arc<str>, SocketAddr);

/// Running sums by service.
#[derive(Debug, Default)]
pub struct Sums {
    services: BTreeMap<Arc<str>, (u64, u64)>,
    /// What each pair had counted at the last [`Sums::add`].
    seen: HashMap<Pair, (u64, u64)>,
}

impl Sums {
    /// Adds what each pair counted since the last time. `pairs`: every pair that there is.
    pub fn add<'a>(&mut self, pairs: impl Iterator<Item = (&'a Pair, u64, u64)>) {
        let before = std::mem::take(&mut self.seen);
        for (pair, packets, bytes) in pairs {
            let (old_packets, old_bytes) = match before.get(pair) {
                Some(&(old_packets, old_bytes)) if old_packets <= packets && old_bytes <= bytes => {
                    (old_packets, old_bytes)
                }
                _ => (0, 0), // a new pair, or one that was gone and is back
            };
            let sum = self.services.entry(pair.0.clone()).or_default();
            *sum = (sum.0 + packets - old_packets, sum.1 + bytes - old_bytes);
            self.seen.insert(pair.clone(), (packets, bytes));
        }
    }

    /// Sums of these services, in this order; all others are forgotten.
    pub fn of<'a>(&mut self, services: impl Iterator<Item = &'a Arc<str>>) -> Vec<Count<Arc<str>>> {
        let mut kept = BTreeMap::new();
        let counts = services.map(|service| {
            let (packets, bytes) = self.services.get(service).copied().unwrap_or_default();
            kept.insert(service.clone(), (packets, bytes));
            Count { of: service.clone(), packets, bytes }
        });
        let counts = counts.collect();
        self.services = kept;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_never_counts_backwards() {
        let web: Arc<str> = "web".into();
        let pair = |last| (web.clone(), SocketAddr::from(([10, 0, 0, last], 80)));
        let (one, two) = (pair(1), pair(2));
        let mut sums = Sums::default();
        let mut add = |pairs: &[(&Pair, u64, u64)]| {
            sums.add(pairs.iter().copied());
            sums.of([&web].into_iter())[0].packets
        };
        assert_eq!(add(&[(&one, 5, 50), (&two, 3, 30)]), 8);
        assert_eq!(add(&[(&one, 6, 60)]), 9); // the second has left
        assert_eq!(add(&[(&one, 6, 60), (&two, 1, 10)]), 10); // and counts from zero again
        assert_eq!(add(&[(&one, 2, 20), (&two, 1, 10)]), 12); // the first left and returned in between
    }

    #[test]
    fn a_service_that_left_is_forgotten() {
        let (web, dns): (Arc<str>, Arc<str>) = ("web".into(), "dns".into());
        let pair = (web.clone(), SocketAddr::from(([10, 0, 0, 1], 80)));
        let mut sums = Sums::default();
        sums.add([(&pair, 5, 50)].into_iter());
        assert_eq!(sums.of([&dns].into_iter()), [Count { of: dns.clone(), packets: 0, bytes: 0 }]);
        assert_eq!(sums.of([&web].into_iter()), [Count { of: web.clone(), packets: 0, bytes: 0 }]);
    }
}
