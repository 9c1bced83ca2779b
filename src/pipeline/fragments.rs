//! Which ports a packet has whose first fragment went by: its later fragments do not say.
//!
//! A first fragment that goes anywhere leaves its ports here; a later one of the same packet (RFC 791: source, destination,
//! protocol, identification) is then treated as if it carried them. One lcore sees all fragments of a packet, since receive-side
//! scaling deals them by their addresses alone.

use std::hash::{BuildHasher, RandomState};

use super::parse::Datagram;
use crate::snapshot::Millis;

/// Datagrams that are remembered at once; the oldest gives way.
const ROOM: usize = 8192;

/// How long, in milliseconds. Longer, and an identification that is used again might meet a stranger's ports.
const KEPT: u64 = 2000;

/// "Nobody", in place of an entry's number.
const NONE: u16 = u16::MAX;

/// The memory of one lcore: entries in a ring, oldest first, and chains through it by hash.
#[derive(Debug)]
pub struct Fragments {
    entries: Box<[Option<Entry>]>,
    /// Where the next one goes, in place of the oldest; and how many have gone by.
    next: usize,
    count: u64,
    /// First entry of each chain.
    chains: Box<[u16]>,
    /// Keyed at the start of the process, so that nobody can choose datagrams that meet in one chain.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    datagram: Datagram,
    ports: (u16, u16),
    at: Millis,
    /// The next entry of the chain.
    next: u16,
}

impl Default for Fragments {
    fn default() -> Self {
        Self {
            entries: vec![None; ROOM].into(),
            next: 0,
            count: 0,
            chains: vec![NONE; ROOM].into(),
            hasher: RandomState::new(),
        }
    }
}

impl Fragments {
    /// Remembers the source and destination port of a datagram whose first fragment goes its way at `now`.
    pub fn remember(&mut self, datagram: Datagram, ports: (u16, u16), now: Millis) {
        if let Some(old) = self.entries[self.next] {
            self.forget(self.next as u16, &old);
        }
        let chain = self.chain(&datagram);
        // In front of an older one of the same datagram, which is then never found.
        self.entries[self.next] = Some(Entry { datagram, ports, at: now, next: self.chains[chain] });
        self.chains[chain] = self.next as u16;
        self.next = (self.next + 1) % ROOM;
        self.count += 1;
    }

    /// How many datagrams were remembered so far: whoever waits for one need not look again while it stays.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The ports of a datagram whose first fragment came lately.
    pub fn ports(&self, datagram: &Datagram, now: Millis) -> Option<(u16, u16)> {
        let mut at = self.chains[self.chain(datagram)];
        while let Some(entry) = self.entries.get(usize::from(at)).and_then(Option::as_ref) {
            if entry.datagram == *datagram {
                return (now.0.saturating_sub(entry.at.0) <= KEPT).then_some(entry.ports);
            }
            at = entry.next;
        }
        None
    }

    /// Takes an entry out of its chain.
    fn forget(&mut self, number: u16, entry: &Entry) {
        let chain = self.chain(&entry.datagram);
        if self.chains[chain] == number {
            self.chains[chain] = entry.next;
            return;
        }
        let mut at = self.chains[chain];
        while let Some(Some(before)) = self.entries.get_mut(usize::from(at)) {
            if before.next == number {
                before.next = entry.next;
                return;
            }
            at = before.next;
        }
    }

    fn chain(&self, datagram: &Datagram) -> usize {
        (self.hasher.hash_one(datagram) % ROOM as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn datagram(identification: u32) -> Datagram {
        Datagram { source: [198, 51, 100, 7].into(), destination: [192, 0, 2, 1].into(), identification, protocol: 17 }
    }

    #[test]
    fn so_many_for_so_long() {
        let mut fragments = Fragments::default();
        for id in 0..ROOM as u32 + 10 {
            fragments.remember(datagram(id), (id as u16, 53), Millis(0));
        }
        let known = (0..ROOM as u32 + 10).filter(|&id| fragments.ports(&datagram(id), Millis(2000)).is_some()).count();
        assert_eq!(known, ROOM);
        const { assert!(ROOM >= 4096 && KEPT >= 2000, "the contract") }
        assert_eq!(fragments.ports(&datagram(500), Millis(2000)), Some((500, 53)));
        assert_eq!(fragments.ports(&datagram(500), Millis(2001)), None);
        assert_eq!(fragments.ports(&Datagram { protocol: 6, ..datagram(500) }, Millis(0)), None);
    }

    proptest! {
        // Each fills the ring twice.
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn it_is_a_map_of_the_newest(steps in proptest::collection::vec((0u32..12_000, any::<u16>()), 15_000..17_000)) {
            let mut fragments = Fragments::default();
            let mut newest = HashMap::new();
            for (at, &(id, port)) in steps.iter().enumerate() {
                fragments.remember(datagram(id), (port, 53), Millis(0));
                newest.insert(id, (at, port));
            }
            for id in 0..12_000 {
                let wanted = newest.get(&id).filter(|(at, _)| at + ROOM >= steps.len()).map(|&(_, port)| (port, 53));
                prop_assert_eq!(fragments.ports(&datagram(id), Millis(0)), wanted);
            }
        }
    }
}
