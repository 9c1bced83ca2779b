//! A burst in, verdicts out: parse -> match -> select -> mode. Knows no DPDK, allocates nothing.
//!
//! The burst goes through each stage as a whole, so that the cache misses of its packets overlap.
//!
//! Frames that are plainly a service's packets take the stages of [`Burst`]; everything else is read and matched by
//! [`find_any`], and joins them where it belongs to a service after all.

mod burst;
mod echo;
mod explain;
mod matching;
mod parse;

use crate::counters::Reason;
use crate::mode::Identification;
use crate::snapshot::{Millis, PortIndex, ServiceIndex, Snapshot, TargetIndex};
use crate::wire::Frame;

use burst::Burst;
pub use explain::{Choice, Chosen, Explanation, Matched, explain};
use matching::Match;
use parse::Parsed;

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

/// The state of one lcore between bursts, and what its stages hand on.
#[derive(Debug)]
pub struct Pipeline {
    lcore: usize,
    id: Identification,
    burst: Burst,
}

impl Pipeline {
    /// `lcore`: its index among the lcores that the snapshots were compiled for.
    pub fn new(lcore: usize) -> Self {
        Self { lcore, id: Identification::default(), burst: Burst::EMPTY }
    }

    /// Decides on `frames` (at most [`BURST`], received on `port`), rewrites in place those that go on, and writes what
    /// becomes of each, in order. Gives the port by which all of them are forwarded, where it is one.
    ///
    /// Counts the traffic of services; the verdicts are counted by the caller, who knows what the device took.
    #[inline]
    pub fn process<F: Frame>(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        frames: &mut [F],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        let count = frames.len().min(BURST);
        let frames = &mut frames[..count];
        let mut others = self.burst.parse(frames, snapshot.port(port).mac);
        others |= self.burst.find(snapshot);
        while others != 0 {
            let at = others.trailing_zeros() as usize;
            others &= others - 1;
            match find_any(&mut frames[at], snapshot, now, port) {
                Ok((parsed, service)) => self.burst.add(at, &parsed, service),
                Err(verdict) => verdicts[at] = verdict,
            }
        }
        let mut targets = [snapshot.target(TargetIndex::NOBODY); BURST];
        self.burst.select(snapshot, &mut targets);
        let port = self.burst.apply(frames, &targets, &mut self.id, verdicts);
        self.burst.count(&targets, snapshot.traffic(self.lcore));
        port
    }
}

/// Reads and matches any frame: a packet of a service, or the verdict.
#[inline(never)]
fn find_any<F: Frame>(
    frame: &mut F,
    snapshot: &Snapshot,
    now: Millis,
    port: PortIndex,
) -> Result<(Parsed, ServiceIndex), Verdict> {
    let parsed = Parsed::of(frame.bytes(), snapshot.port(port));
    match matching::find(&parsed, snapshot, now) {
        Match::Service(service) => Ok((parsed, service)),
        Match::Reply(reply) => Err(matching::translate(reply, &parsed, frame, snapshot)),
        Match::Echo => Err(echo::answer(&parsed, frame, snapshot)),
        Match::Other(verdict) => Err(verdict),
    }
}
