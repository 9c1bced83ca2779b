//! What the fabric says of the way to an endpoint of tunnels: the largest packet that passes (RFC 1191, RFC 8201).

use std::collections::HashMap;
use std::net::IpAddr;

use crossbeam_queue::ArrayQueue;

use super::Millis;

/// How long what was learnt holds, in milliseconds (RFC 1191, section 6.3).
const KEPT: u64 = 10 * 60 * 1000;

/// Findings on their way from the lcores to whoever compiles. Bounded: what finds no room is learnt from the next packet.
#[derive(Debug)]
pub struct Learned(ArrayQueue<(IpAddr, u16)>);

const ROOM: usize = 256;

impl Default for Learned {
    fn default() -> Self {
        Self(ArrayQueue::new(ROOM))
    }
}

impl Learned {
    /// Called by any lcore, off the straight path: packets to `endpoint` have at most `mtu` bytes.
    #[cold]
    pub fn note(&self, endpoint: IpAddr, mtu: u16) {
        let _ = self.0.push((endpoint, mtu));
    }
}

/// What is known, by endpoint: the smallest counts. Each finding holds for its own time, so a smaller one that is older stands before a
/// larger one that outlives it.
#[derive(Debug, Default)]
pub struct Mtus(HashMap<IpAddr, Vec<(u16, Millis)>>);

/// Findings that are kept of one endpoint; there is hardly ever more than one.
const MOST: usize = 8;

impl Mtus {
    /// Takes what was noted by `now`, and forgets what is old. Whether that changes anything.
    pub fn update(&mut self, learned: &Learned, now: Millis) -> bool {
        let mut has_changed = false;
        self.0.retain(|_, found| {
            let before = found.len();
            found.retain(|&(_, until)| now < until);
            has_changed |= found.len() != before;
            !found.is_empty()
        });
        for (endpoint, mtu) in std::iter::from_fn(|| learned.0.pop()).take(ROOM) {
            let found = self.0.entry(endpoint).or_default();
            has_changed |= found.first().is_none_or(|&(known, _)| mtu < known);
            found.retain(|&(known, _)| known < mtu);
            if found.len() < MOST {
                found.push((mtu, Millis(now.0.saturating_add(KEPT))));
            }
        }
        has_changed
    }

    /// The largest packet to an endpoint, where the port would take `mtu` bytes.
    pub fn of(&self, endpoint: IpAddr, mtu: u16) -> u16 {
        self.0.get(&endpoint).and_then(|found| found.first()).map_or(mtu, |&(known, _)| known.min(mtu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_counts_and_each_for_ten_minutes() {
        let (learned, mut mtus) = (Learned::default(), Mtus::default());
        let endpoint = IpAddr::from([10, 1, 0, 1]);
        let mut at = |ms, noted: &[u16]| {
            noted.iter().for_each(|&mtu| learned.note(endpoint, mtu));
            (mtus.update(&learned, Millis(ms)), mtus.of(endpoint, 1500))
        };
        assert_eq!(at(0, &[]), (false, 1500));
        assert_eq!(at(0, &[1400]), (true, 1400));
        assert_eq!(at(1000, &[1450]), (false, 1400), "more is not believed while less is known");
        assert_eq!(at(599_999, &[]), (false, 1400));
        assert_eq!(at(600_000, &[]), (true, 1450), "the other is younger");
        assert_eq!(at(601_000, &[]), (true, 1500));
        assert_eq!(at(601_001, &[9000]), (true, 1500), "never more than the port's");
        assert_eq!(at(601_002, &[1300, 1350, 1300]), (true, 1300));
        assert_eq!(at(1_000_000, &[1300]), (false, 1300), "said again");
        assert_eq!(at(1_201_002, &[]), (false, 1300));
        (1301..2000).for_each(|mtu| _ = at(1_300_000, &[mtu]));
        assert_eq!(at(1_300_000, &[1200]), (true, 1200), "however many are said");
    }
}
