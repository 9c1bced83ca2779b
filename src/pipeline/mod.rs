//! A burst in, verdicts out: parse -> match -> select -> mode. Knows no DPDK, allocates nothing.

use crate::counters::Reason;
use crate::snapshot::PortIndex;

/// Frames taken from a queue at once.
pub const BURST: usize = 32;

/// What becomes of a frame; exactly one, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten in place, to be sent by this port.
    Forward(PortIndex),
    /// Turned into an answer of our own, to be sent by this port.
    Answer(PortIndex),
    /// Unchanged, for the kernel twin of the port it came by.
    Punt,
    Drop(Reason),
}

// The signature that lcore and replay will use:
//
// pub struct Pipeline { .. }                       // per-lcore state, no heap after new
// impl Pipeline {
//     pub fn new(lcore: usize) -> Self;
//     /// Rewrites `frames` (at most BURST) in place and says what becomes of each, in order.
//     /// Counts traffic of services into snapshot.traffic(lcore); verdicts are counted by the caller through
//     /// `Tally` (below), since only the caller knows what the ring or device took.
//     pub fn process<F: Frame>(&mut self, snapshot: &Snapshot, now: Millis, port: PortIndex, frames: &mut [F], verdicts: &mut [Verdict; BURST]);
// }
