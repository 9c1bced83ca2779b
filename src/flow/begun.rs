//! Which TCP flows this lcore has seen begin, for `dnat-dsr`: whoever is not among them is told of in every packet.
//!
//! Some of the last flows that began, by a keyed hash of 64 bits, eight in a cache line, the oldest of these first to go. Whose place is
//! taken counts as never seen, which is safe: the option then stands where it need not. (Two flows are taken for one with a chance of
//! flows / 2^64; their hashes cannot be chosen without the seed.)

use super::{fold, key};

/// In a cache line.
const WAYS: usize = 8;

#[derive(Debug)]
pub struct Begun {
    /// Lines of hashes, the newest first in each; 0: none.
    lines: Vec<u64>,
    key: [u64; 2],
}

/// A flow's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Begun {
    /// With room for twice as many `flows`, as they spread unevenly. 0: none is ever remembered.
    pub fn new(flows: usize, seed: [u64; 2]) -> Self {
        Self { lines: vec![0; Self::places(flows)], key: key(seed) }
    }

    /// Bytes that it takes, once used.
    pub const fn bytes(flows: usize) -> usize {
        Self::places(flows) * size_of::<u64>()
    }

    const fn places(flows: usize) -> usize {
        if flows == 0 { 0 } else { (flows * 2).div_ceil(WAYS).next_power_of_two() * WAYS }
    }

    /// That of a flow by its addresses and ports as they lie in a packet, and by whatever else tells flows apart.
    pub fn mark(&self, addresses: &[u8], ports: [u8; 4], else_: u64) -> Mark {
        let words = addresses.chunks_exact(8).filter_map(|chunk| chunk.first_chunk().copied().map(u64::from_ne_bytes));
        let start = fold(u64::from(u32::from_ne_bytes(ports)) ^ self.key[0], else_ ^ self.key[1]);
        Mark(words.fold(start, |mixed, word| fold(mixed ^ word, self.key[1])).max(1))
    }

    /// A flow begins.
    pub fn insert(&mut self, flow: Mark) {
        if let Some(line) = self.line(flow)
            && let Some(line) = self.lines.get_mut(line..line + WAYS)
        {
            // A SYN that is sent again renews its flow.
            let place = line.iter().position(|&known| known == flow.0).unwrap_or(WAYS - 1);
            line.copy_within(..place, 1);
            line[0] = flow.0;
        }
    }

    /// Whether it has been seen to begin, and not been displaced since.
    pub fn contains(&self, flow: Mark) -> bool {
        let line = self.line(flow).and_then(|line| self.lines.get(line..line + WAYS));
        line.is_some_and(|line| line.contains(&flow.0))
    }

    /// Where its line begins.
    fn line(&self, flow: Mark) -> Option<usize> {
        let lines = self.lines.len() / WAYS;
        (lines > 0).then(|| (flow.0 as usize & (lines - 1)) * WAYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(begun: &Begun, number: u32) -> Mark {
        begun.mark(&[198, 51, 100, 7, 192, 0, 2, 1], number.to_ne_bytes(), 0)
    }

    #[test]
    fn the_newest_are_known_and_nobody_else() {
        let mut begun = Begun::new(1000, [3, 4]);
        for number in 0..5000 {
            let flow = mark(&begun, number);
            assert!(!begun.contains(flow));
            begun.insert(flow);
            assert!(begun.contains(flow));
        }
        let known =
            |numbers: std::ops::Range<u32>| numbers.filter(|&number| begun.contains(mark(&begun, number))).count();
        assert!(known(4000..5000) > 950, "{}", known(4000..5000));
        assert_eq!(known(0..5000), 2048, "as many as there is room for");
    }

    #[test]
    fn who_begins_again_is_the_newest() {
        let mut begun = Begun::new(4, [3, 4]);
        let kept = mark(&begun, 0);
        for number in 0..100 {
            begun.insert(kept);
            let other = mark(&begun, number + 1);
            begun.insert(other);
            assert!(begun.contains(kept) && begun.contains(other));
        }
    }

    #[test]
    fn without_room_none_is_known() {
        let mut begun = Begun::new(0, [3, 4]);
        let flow = mark(&begun, 1);
        begun.insert(flow);
        assert!(!begun.contains(flow));
    }

    #[test]
    fn everything_makes_a_difference() {
        let begun = Begun::new(8, [3, 4]);
        let (addresses, ports) = ([1u8; 32], [2u8; 4]);
        let flow = begun.mark(&addresses, ports, 5);
        for at in 0..32 {
            let mut other = addresses;
            other[at] ^= 1;
            assert_ne!(begun.mark(&other, ports, 5), flow);
        }
        for at in 0..4 {
            let mut other = ports;
            other[at] ^= 1;
            assert_ne!(begun.mark(&addresses, other, 5), flow);
        }
        assert_ne!(begun.mark(&addresses, ports, 6), flow);
        assert_ne!(Begun::new(8, [3, 5]).mark(&addresses, ports, 5), flow);
    }
}
