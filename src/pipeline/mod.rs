//! A burst in, verdicts out: parse -> match -> select -> mode. Knows no DPDK, allocates nothing.
//!
//! The burst goes through each stage as a whole, so that the cache misses of its packets overlap.

mod echo;
mod explain;
mod matching;
mod parse;

use crate::counters::Reason;
use crate::mode::Identification;
use crate::snapshot::{Millis, PortIndex, Snapshot, TargetIndex};
use crate::wire::Frame;

pub use explain::{Choice, Chosen, Explanation, Matched, explain};
use matching::Match;
use parse::Parsed;

/// Frames taken from a queue at once.
pub const BURST: usize = 32;

/// How far ahead the parse stage asks for frames.
const PREFETCH: usize = 4;

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

/// The state of one lcore between bursts.
#[derive(Debug)]
pub struct Pipeline {
    lcore: usize,
    id: Identification,
    parsed: [Parsed; BURST],
}

impl Pipeline {
    /// `lcore`: its index among the lcores that the snapshots were compiled for.
    pub fn new(lcore: usize) -> Self {
        Self { lcore, id: Identification::default(), parsed: [Parsed::NOTHING; BURST] }
    }

    /// Decides on `frames` (at most [`BURST`], received on `port`), rewrites in place those that go on, and writes what
    /// becomes of each, in order.
    ///
    /// Counts the traffic of services; the verdicts are counted by the caller, who knows what the device took.
    pub fn process<F: Frame>(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        frames: &mut [F],
        verdicts: &mut [Verdict; BURST],
    ) {
        let count = frames.len().min(BURST);
        let frames = &mut frames[..count];

        // Parse.
        let station = snapshot.port(port);
        for ahead in frames.iter().take(PREFETCH) {
            ahead.prefetch();
        }
        for at in 0..count {
            if let Some(ahead) = frames.get(at + PREFETCH) {
                ahead.prefetch();
            }
            self.parsed[at] = Parsed::of(frames[at].bytes(), station);
        }

        // Match. What belongs to a service goes on to the next stages; the rest is decided here.
        let mut chosen = Selected { count: 0, at: [0; BURST], service: [None; BURST] };
        for (at, (frame, verdict)) in frames.iter_mut().zip(verdicts.iter_mut()).enumerate() {
            let parsed = &self.parsed[at];
            match matching::find(parsed, snapshot, now) {
                Match::Service(service) => chosen.push(at, service),
                Match::Reply(reply) => *verdict = matching::translate(reply, parsed, frame, snapshot),
                Match::Echo => *verdict = echo::answer(parsed, frame, snapshot),
                Match::Other(other) => *verdict = other,
            }
        }

        // Select: all hashes, then all slots.
        let mut hashes = [0; BURST];
        for (hash, &at) in hashes.iter_mut().zip(chosen.frames()) {
            let parsed = &self.parsed[usize::from(at)];
            *hash = snapshot.hash(parsed.source, parsed.source_port);
        }
        let mut targets: [Option<TargetIndex>; BURST] = [None; BURST];
        for ((target, &hash), service) in targets.iter_mut().zip(&hashes).zip(chosen.services()) {
            *target = service.and_then(|service| snapshot.select(service, hash));
        }

        // Mode.
        let traffic = snapshot.traffic(self.lcore);
        for (&at, target) in chosen.frames().iter().zip(&targets) {
            let at = usize::from(at);
            let packet = self.parsed[at].packet;
            verdicts[at] = match target.map(|target| snapshot.target(target)) {
                None => Verdict::Drop(Reason::NoBackend),
                Some(target) => match &target.mode {
                    None => Verdict::Drop(Reason::NoNextHop),
                    Some(mode) => match mode.apply(&mut frames[at], packet, &mut self.id) {
                        Ok(port) => {
                            let cell = traffic.cell(target.traffic);
                            cell.packets.add(1);
                            cell.bytes.add(u64::from(packet.total));
                            Verdict::Forward(port)
                        }
                        Err(reason) => Verdict::Drop(reason),
                    },
                },
            };
        }
    }
}

/// The frames of a burst that belong to services.
struct Selected {
    count: usize,
    at: [u8; BURST],
    service: [Option<crate::snapshot::ServiceIndex>; BURST],
}

impl Selected {
    #[inline]
    fn push(&mut self, at: usize, service: crate::snapshot::ServiceIndex) {
        if self.count < BURST {
            self.at[self.count] = at as u8;
            self.service[self.count] = Some(service);
            self.count += 1;
        }
    }

    #[inline]
    fn frames(&self) -> &[u8] {
        &self.at[..self.count]
    }

    #[inline]
    fn services(&self) -> &[Option<crate::snapshot::ServiceIndex>] {
        &self.service[..self.count]
    }
}
