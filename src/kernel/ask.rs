//! When to ask the kernel for a next hop: at once when it is first wanted, then now and then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two requests for one address. The kernel itself sends three ARP requests, a second apart, before it gives up.
const AGAIN: Duration = Duration::from_secs(1);

/// Requests in one round; with a round every 100 ms, at most 640 a second.
const AT_ONCE: usize = 64;

#[derive(Debug, Default)]
pub struct Asks {
    wanted: Vec<IpAddr>,
    asked: HashMap<IpAddr, Instant>,
}

impl Asks {
    /// The addresses that are wanted from now on.
    pub fn want(&mut self, addresses: Vec<IpAddr>) {
        self.wanted = addresses;
    }

    /// What to ask for now: wanted addresses that `link_of` knows a link for, then `ageing` neighbours.
    pub fn due(
        &mut self,
        now: Instant,
        link_of: impl Fn(IpAddr) -> Option<u32>,
        ageing: impl Iterator<Item = (u32, IpAddr)>,
    ) -> Vec<(u32, IpAddr)> {
        self.asked.retain(|_, &mut at| now.duration_since(at) < AGAIN);
        let wanted = self.wanted.iter().filter_map(|&address| Some((link_of(address)?, address)));
        let mut due: Vec<_> = wanted.chain(ageing).filter(|(_, address)| !self.asked.contains_key(address)).collect();
        due.truncate(AT_ONCE);
        self.asked.extend(due.iter().map(|&(_, address)| (address, now)));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(k: usize) -> IpAddr {
        IpAddr::from([10, 0, (k / 256) as u8, (k % 256) as u8])
    }

    #[test]
    fn a_wanted_address_is_asked_for_at_once_and_again_after_a_second() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        asks.want(vec![address(1)]);
        let mut at = |ms| asks.due(start + Duration::from_millis(ms), |_| Some(7), std::iter::empty()).len();
        assert_eq!([0, 100, 900, 1000, 1100, 2000].map(&mut at), [1, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn nothing_is_asked_for_without_a_link_or_once_it_is_not_wanted() {
        let (mut asks, now) = (Asks::default(), Instant::now());
        asks.want(vec![address(1)]);
        assert_eq!(asks.due(now, |_| None, std::iter::empty()), []);
        asks.want(vec![]);
        assert_eq!(asks.due(now, |_| Some(7), std::iter::empty()), []);
    }

    #[test]
    fn however_many_are_wanted_the_rate_is_bounded_and_all_get_their_turn() {
        let (mut asks, mut now) = (Asks::default(), Instant::now());
        asks.want((0..200).map(address).collect());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..4 {
            let due = asks.due(now, |_| Some(7), std::iter::empty());
            assert!(due.len() <= AT_ONCE);
            seen.extend(due);
            now += Duration::from_millis(100);
        }
        assert_eq!(seen.len(), 200);
    }
}
