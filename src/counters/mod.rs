//! What is counted and why frames are dropped, by name; the per-lcore blocks of plain numbers.
//!
//! Every block has one writer, its lcore: an addition is a relaxed load and a relaxed store, no locked instruction.
//! A collector on the control side reads them whenever it likes.

mod reason;
mod traffic;

use std::sync::atomic::{AtomicU64, Ordering};

pub use reason::Reason;
pub use traffic::{Registry, Traffic, TrafficId};

/// What becomes of a frame, by name, with its meaning: received is always the sum of these.
pub const VERDICTS: [(&str, &str); 4] = [
    ("forwarded", "Sent on to a backend, or as a backend's reply to its client."),
    ("answered", "Turned into an answer of the load balancer's own: an echo reply, or an ICMP error to its sender."),
    ("punted", "Left to the kernel twin of the port, unchanged; counted so, and freed, where the port has no twin."),
    ("dropped", "Not sent on, for one of the reasons below."),
];

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owning lcore may call this: two writers would lose counts (never more than that).
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Puts another number in its place; only the owning lcore may.
    #[inline]
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one lcore did with the frames that it received on one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortBlock {
    pub received: Counter,
    pub forwarded: Counter,
    pub answered: Counter,
    pub punted: Counter,
    pub dropped: [Counter; Reason::COUNT],
    /// Frames of the port's kernel twin, sent by the port. Not received, so in no sum above.
    pub injected: Counter,
    /// Frames of the port's kernel twin that the device had no room for.
    pub inject_refused: Counter,
}

/// Where an lcore's time goes, in iterations of its poll loop and TSC cycles.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct LoopBlock {
    /// Iterations that found at least one frame.
    pub busy_polls: Counter,
    /// Iterations that found none.
    pub idle_polls: Counter,
    /// TSC cycles spent in iterations that found frames.
    pub busy_cycles: Counter,
    /// TSC cycles in all.
    pub total_cycles: Counter,
    /// Flows remembered, be they over.
    pub flows: Counter,
    /// Packets of health checks through services, sent. Not received, so in no sum of a port's.
    pub probes: Counter,
    /// Such packets that could not be sent.
    pub probes_refused: Counter,
}

/// All that one lcore counts, bar the traffic of services (see [`Traffic`]).
#[derive(Debug)]
pub struct LcoreBlock {
    pub ports: Box<[PortBlock]>,
    pub polling: LoopBlock,
}

impl LcoreBlock {
    pub fn new(ports: usize) -> Self {
        Self { ports: (0..ports).map(|_| PortBlock::default()).collect(), polling: LoopBlock::default() }
    }

    /// Frames given to kernel twins, of all ports.
    pub fn punted(&self) -> u64 {
        self.ports.iter().map(|port| port.punted.get()).sum()
    }
}

/// A sum of [`PortBlock`]s at one moment, as plain numbers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    pub received: u64,
    pub forwarded: u64,
    pub answered: u64,
    pub punted: u64,
    /// By [`Reason`], in the order of [`Reason::ALL`].
    pub dropped: [u64; Reason::COUNT],
    /// Frames of kernel twins, sent.
    pub injected: u64,
    /// Frames of kernel twins that a device had no room for.
    pub inject_refused: u64,
}

impl Totals {
    pub fn add(&mut self, block: &PortBlock) {
        self.received += block.received.get();
        self.forwarded += block.forwarded.get();
        self.answered += block.answered.get();
        self.punted += block.punted.get();
        self.injected += block.injected.get();
        self.inject_refused += block.inject_refused.get();
        for (total, counter) in self.dropped.iter_mut().zip(&block.dropped) {
            *total += counter.get();
        }
    }

    /// Forwarded + answered + punted + dropped; equal to `received` whenever no burst is under way.
    pub fn verdicts(&self) -> u64 {
        self.forwarded + self.answered + self.punted + self.dropped.iter().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_blocks() {
        let (one, two) = (PortBlock::default(), PortBlock::default());
        one.received.add(3);
        one.forwarded.add(2);
        one.dropped[Reason::Malformed as usize].add(1);
        two.received.add(1);
        two.punted.add(1);
        let mut totals = Totals::default();
        totals.add(&one);
        totals.add(&two);
        assert_eq!((totals.received, totals.verdicts(), totals.dropped[Reason::Malformed as usize]), (4, 4, 1));
    }
}
