//! What the lcores remember, looked at while they go on: how many flows each destination has.
//!
//! A look goes over all memories bit by bit, so that it never keeps the control side for long. What it saw holds for the moment that it
//! saw it: enough to know that nobody is left, once nobody new can come.

use std::collections::HashMap;

use crate::flow::{Flow, Remembered};

/// Places looked at in one step.
const STEP: usize = 1 << 14;

/// Steps left out between two looks: nobody waits for them, and an idle node should not work.
const REST: u32 = 250;

/// The memories of all lcores, and the look under way.
#[derive(Debug, Default)]
pub struct Look {
    memories: Vec<Remembered>,
    under_way: Option<UnderWay>,
    /// Steps until the next begins.
    rest: u32,
    /// What the last look saw, by destination, and the one before: an entry that moves may be missed by one.
    seen: HashMap<u32, Counts>,
    before: HashMap<u32, Counts>,
    /// The snapshot that all lcores had adopted before the last look.
    last: u32,
    /// The same, before the one before it.
    counted: u32,
}

/// Entries of one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub flows: u64,
    /// The second in which the last packet of any came, of the clock's seconds by [`Flow::SECONDS`]; of the entry that was seen last.
    pub seen: u32,
}

#[derive(Debug)]
struct UnderWay {
    /// The snapshot that all lcores had adopted before.
    serial: u32,
    memory: usize,
    place: usize,
    counts: HashMap<u32, Counts>,
}

impl Look {
    pub fn new(memories: Vec<Remembered>) -> Self {
        Self { memories, ..Self::default() }
    }

    /// Goes on with the look under way, or begins one; `adopted`: the snapshot that all lcores have adopted, where they have. Where a look ends with this step, gives the
    /// snapshot that all had adopted before the one before it.
    pub fn step(&mut self, adopted: Option<u32>) -> Option<u32> {
        if self.under_way.is_none() {
            if self.rest > 0 {
                self.rest -= 1;
                return None;
            }
            self.under_way = adopted.map(|serial| UnderWay { serial, memory: 0, place: 0, counts: HashMap::new() });
        }
        let look = self.under_way.as_mut()?;
        if let Some(memory) = self.memories.get(look.memory) {
            let end = (look.place + STEP).min(memory.places());
            for Flow { destination, seen, .. } in memory.flows(look.place..end) {
                let counts = look.counts.entry(destination).or_default();
                *counts = Counts { flows: counts.flows + 1, seen };
            }
            (look.memory, look.place) = if end == memory.places() { (look.memory + 1, 0) } else { (look.memory, end) };
        }
        if look.memory < self.memories.len() {
            return None;
        }
        let look = self.under_way.take()?;
        self.rest = REST;
        self.before = std::mem::replace(&mut self.seen, look.counts);
        self.counted = std::mem::replace(&mut self.last, look.serial);
        Some(self.counted)
    }

    /// Whether the last two looks began after all lcores had adopted the snapshot `serial`: what was remembered by then, and is still, was seen.
    pub fn has_counted(&self, serial: u32) -> bool {
        serial <= self.counted
    }

    /// What the last look saw of a destination.
    pub fn seen(&self, destination: u32) -> Counts {
        self.seen.get(&destination).copied().unwrap_or_default()
    }

    /// Whether one of the last two looks saw a flow that is remembered by this destination.
    pub fn is_remembered(&self, destination: u32) -> bool {
        self.seen.contains_key(&destination) || self.before.contains_key(&destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Flows, Spots, Stage};

    #[test]
    fn a_look_sees_all_flows_of_all_lcores() {
        let mut lcores = [Flows::new(200_000, [1, 2]), Flows::new(10, [3, 4])];
        let mut remember = |lcore: usize, destination, count: u64| {
            for number in 0..count {
                let flows: &mut Flows = &mut lcores[lcore];
                let spot = flows.spot([number, u64::from(destination)]);
                let flow = Flow { destination, slot: 1, stage: Stage::Established, seen: 7 };
                flows.insert(spot, &flow, &());
            }
        };
        remember(0, 5, 150_000);
        remember(0, 6, 3);
        remember(1, 6, 4);
        let mut look = Look::new(lcores.iter().map(Flows::remembered).collect());
        assert_eq!(look.step(None), None, "as long as an lcore may remember by what is gone");
        let mut steps = 0;
        let serial = loop {
            steps += 1;
            // What is adopted meanwhile is of the next look.
            if let Some(serial) = look.step(Some(8 + steps)) {
                break serial;
            }
        };
        assert_eq!((serial, steps), (0, 225_000_u32.div_ceil(STEP as u32) + 1), "nothing is known before the second");
        assert_eq!([5, 6, 7].map(|destination| look.seen(destination).flows), [150_000, 7, 0]);
        assert_eq!([5, 6, 7].map(|destination| look.is_remembered(destination)), [true, true, false]);
        assert!(!look.has_counted(1), "two looks see what one may miss");
        lcores.iter_mut().for_each(Flows::clear);
        let mut again = || (0..1000).find_map(|_| look.step(Some(50))).map(|serial| (serial, look.is_remembered(5)));
        assert_eq!([again(), again()], [Some((9, true)), Some((50, false))]);
        assert_eq!([50, 51].map(|serial| look.has_counted(serial)), [true, false]);
    }
}
