//! Read-only hash tables from addresses and ports to numbers: one multiplication, mostly one cache line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Numbers by (address, port, protocol number) of both families; by address alone where the others are 0.
#[derive(Debug, Clone)]
pub struct Index {
    v4: Cells<u64>,
    v6: Cells<[u64; 3]>,
}

impl Index {
    /// Of two entries with one key the last counts.
    pub fn new(entries: impl IntoIterator<Item = ((IpAddr, u16, u8), u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for ((address, port, protocol), value) in entries {
            match address {
                IpAddr::V4(address) => v4.push((key_v4(address, port, protocol), value)),
                IpAddr::V6(address) => v6.push((key_v6(address, port, protocol), value)),
            }
        }
        Self { v4: Cells::new(v4), v6: Cells::new(v6) }
    }

    pub fn insert(&mut self, (address, port, protocol): (IpAddr, u16, u8), value: u32) {
        match address {
            IpAddr::V4(address) => self.v4.insert(key_v4(address, port, protocol), value),
            IpAddr::V6(address) => self.v6.insert(key_v6(address, port, protocol), value),
        }
    }

    pub fn remove(&mut self, (address, port, protocol): (IpAddr, u16, u8)) {
        match address {
            IpAddr::V4(address) => self.v4.remove(key_v4(address, port, protocol)),
            IpAddr::V6(address) => self.v6.remove(key_v6(address, port, protocol)),
        }
    }

    #[inline(always)]
    pub fn get(&self, address: IpAddr, port: u16, protocol: u8) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.get_v4(address, port, protocol),
            IpAddr::V6(address) => self.v6.get(key_v6(address, port, protocol)),
        }
    }

    #[inline(always)]
    pub fn get_v4(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<u32> {
        self.v4.get(key_v4(address, port, protocol))
    }
}

/// In the order of a packet's bytes, which need no swap then.
#[inline(always)]
fn key_v4(address: Ipv4Addr, port: u16, protocol: u8) -> u64 {
    u64::from(u32::from_le_bytes(address.octets())) | u64::from(protocol) << 32 | u64::from(port.swap_bytes()) << 48
}

#[inline(always)]
fn key_v6(address: Ipv6Addr, port: u16, protocol: u8) -> [u64; 3] {
    let address = address.to_bits();
    [(address >> 64) as u64, address as u64, u64::from(protocol) << 16 | u64::from(port)]
}

/// An address spread over 32 bits, otherwise than an index spreads it (Steele and Vigna, "Computationally easy, spectrally good multipliers for
/// congruential pseudorandom number generators", 2021): for what is kept in parts.
pub fn scatter(address: IpAddr) -> u32 {
    let bits = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64 ^ address.to_bits() as u64,
    };
    (bits.wrapping_mul(0xd134_2543_de82_ef95) >> 32) as u32
}

trait Key: Copy + Eq + std::fmt::Debug {
    /// That of a free cell, and of no entry.
    const FREE: Self;
    /// Spread over the upper bits.
    fn mix(self) -> u64;
}

/// Fibonacci hashing (Knuth, TAOCP 6.4): keys are the operator's, not a client's, so no secret is needed.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Key for u64 {
    const FREE: Self = Self::MAX;

    #[inline(always)]
    fn mix(self) -> u64 {
        self.wrapping_mul(GOLDEN)
    }
}

impl Key for [u64; 3] {
    const FREE: Self = [u64::MAX; 3];

    #[inline(always)]
    fn mix(self) -> u64 {
        self.into_iter().fold(0, |mixed: u64, word| (mixed ^ word).wrapping_mul(GOLDEN).rotate_left(32))
    }
}

/// Linear probing. Sparse (a load of at most a quarter): what is looked for mostly stands at its home, or that is free, and the
/// branch is foreseen.
#[derive(Debug, Clone)]
struct Cells<K> {
    cells: Box<[(K, u32)]>,
    shift: u32,
    /// Cells that are not free.
    taken: usize,
}

impl<K: Key> Cells<K> {
    fn new(entries: Vec<(K, u32)>) -> Self {
        let mut index = Self::with_room_for(entries.len());
        entries.into_iter().for_each(|(key, value)| index.insert(key, value));
        index
    }

    fn with_room_for(entries: usize) -> Self {
        let size = (entries * 4).next_power_of_two().max(64);
        // No search goes round: behind the last home is room for all that may be pushed there.
        Self { cells: vec![(K::FREE, 0); size + size / 4].into(), shift: 64 - size.trailing_zeros(), taken: 0 }
    }

    /// Entries that there is room for.
    fn room(&self) -> usize {
        self.cells.len() / 5
    }

    fn insert(&mut self, key: K, value: u32) {
        debug_assert_ne!(key, K::FREE);
        let place = self.place(key);
        if self.cells[place].0 == key {
            self.cells[place].1 = value;
        } else if self.taken < self.room() {
            self.cells[place] = (key, value);
            self.taken += 1;
        } else {
            let mut larger = Self::with_room_for(2 * self.taken);
            let taken = self.cells.iter().filter(|(found, _)| *found != K::FREE);
            taken.for_each(|&(found, value)| larger.insert(found, value));
            larger.insert(key, value);
            *self = larger;
        }
    }

    fn remove(&mut self, key: K) {
        let mut hole = self.place(key);
        if self.cells[hole].0 != key {
            return;
        }
        self.taken -= 1;
        // Whoever stands behind it, and not in front of its home then, moves up (Knuth, TAOCP 6.4, algorithm R).
        for at in hole + 1..self.cells.len() {
            let (found, value) = self.cells[at];
            if found == K::FREE {
                break;
            }
            if self.home(found) <= hole {
                self.cells[hole] = (found, value);
                hole = at;
            }
        }
        self.cells[hole] = (K::FREE, 0);
    }

    /// Where a key stands, or the free cell where it would. There is one: behind the last home is one more cell than entries.
    fn place(&self, key: K) -> usize {
        let from = self.home(key);
        let found = self.cells[from..].iter().position(|(found, _)| *found == key || *found == K::FREE);
        from + found.expect("not all cells are taken")
    }

    #[inline(always)]
    fn get(&self, key: K) -> Option<u32> {
        let home = self.home(key);
        match self.cells.get(home) {
            Some(&(found, value)) if found == key => Some(value),
            Some(&(found, _)) if found != K::FREE => self.get_from(home + 1, key),
            _ => None,
        }
    }

    /// The rest of the search, which few need.
    #[cold]
    fn get_from(&self, at: usize, key: K) -> Option<u32> {
        let (_, value) =
            self.cells[at..].iter().take_while(|(found, _)| *found != K::FREE).find(|(found, _)| *found == key)?;
        Some(*value)
    }

    /// Where the search for a key begins.
    #[inline(always)]
    fn home(&self, key: K) -> usize {
        (key.mix() >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn an_empty_index_finds_nothing() {
        let index = Index::new([]);
        assert_eq!(index.get("10.0.0.1".parse().unwrap(), 80, 6), None);
        assert_eq!(index.get("::".parse().unwrap(), 0, 0), None);
    }

    proptest! {
        #[test]
        fn entries_come_and_go(
            steps in proptest::collection::vec((any::<bool>(), 0u8..3, 0u16..20, prop_oneof![Just(None), any::<u32>().prop_map(Some)]), 0..400),
        ) {
            let (mut index, mut map) = (Index::new([]), HashMap::new());
            let key = |is_v4, last, port| {
                let address = if is_v4 { IpAddr::from([10, 0, 0, last]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, u16::from(last)]) };
                (address, port, 6)
            };
            for (is_v4, last, port, value) in steps {
                let key = key(is_v4, last, port);
                match value {
                    Some(value) => {
                        index.insert(key, value);
                        map.insert(key, value);
                    }
                    None => {
                        index.remove(key);
                        map.remove(&key);
                    }
                }
            }
            for (address, port, protocol) in [false, true].into_iter().flat_map(|v4| (0..3).flat_map(move |last| (0..20).map(move |port| key(v4, last, port)))) {
                prop_assert_eq!(index.get(address, port, protocol), map.get(&(address, port, protocol)).copied());
            }
        }

        #[test]
        fn it_is_a_map(entries in proptest::collection::vec(((any::<bool>(), 0u8..9, 0u16..9, 0u8..9), any::<u32>()), 0..300)) {
            let key = |(is_v4, last, port, protocol)| {
                let address = if is_v4 { IpAddr::from([10, 0, 0, last]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, u16::from(last)]) };
                (address, port, protocol)
            };
            let entries: Vec<_> = entries.into_iter().map(|(parts, value)| (key(parts), value)).collect();
            let index = Index::new(entries.iter().copied());
            let map: HashMap<_, _> = entries.into_iter().collect();
            for is_v4 in [false, true] {
                for k in 0..729u16 {
                    let (address, port, protocol) = key((is_v4, (k / 81) as u8, k / 9 % 9, (k % 9) as u8));
                    prop_assert_eq!(index.get(address, port, protocol), map.get(&(address, port, protocol)).copied());
                }
            }
        }
    }
}
