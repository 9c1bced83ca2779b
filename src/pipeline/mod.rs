//! A burst in, verdicts out: parse -> match -> select -> mode. Knows no DPDK, allocates nothing.
//!
//! The burst goes through each stage as a whole, so that the cache misses of its packets overlap.

mod echo;
mod explain;
mod matching;
mod parse;

use crate::counters::Reason;
use crate::mode::Identification;
use crate::snapshot::{Millis, Port, PortIndex, ServiceIndex, Snapshot, Target, TargetIndex};
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

/// The state of one lcore between bursts, and the tables that the stages hand on.
#[derive(Debug)]
pub struct Pipeline {
    lcore: usize,
    id: Identification,
    parsed: [Parsed; BURST],
    selected: Selected,
}

/// The frames of a burst that belong to services, one row each.
#[derive(Debug)]
struct Selected {
    count: usize,
    /// Places in the burst.
    at: [u8; BURST],
    service: [ServiceIndex; BURST],
    hash: [u64; BURST],
    target: [Option<TargetIndex>; BURST],
}

impl Pipeline {
    /// `lcore`: its index among the lcores that the snapshots were compiled for.
    pub fn new(lcore: usize) -> Self {
        let selected = Selected {
            count: 0,
            at: [0; BURST],
            service: [ServiceIndex::FIRST; BURST],
            hash: [0; BURST],
            target: [None; BURST],
        };
        Self { lcore, id: Identification::default(), parsed: [Parsed::NOTHING; BURST], selected }
    }

    /// Decides on `frames` (at most [`BURST`], received on `port`), rewrites in place those that go on, and writes what
    /// becomes of each, in order.
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
    ) {
        let count = frames.len().min(BURST);
        let frames = &mut frames[..count];
        self.parse(frames, snapshot.port(port));
        self.find(frames, snapshot, now, verdicts);
        self.select(snapshot);
        self.apply(frames, snapshot, verdicts);
    }

    fn parse<F: Frame>(&mut self, frames: &[F], station: &Port) {
        for ahead in frames.iter().take(PREFETCH) {
            ahead.prefetch();
        }
        for (at, (frame, parsed)) in frames.iter().zip(&mut self.parsed).enumerate() {
            if let Some(ahead) = frames.get(at + PREFETCH) {
                ahead.prefetch();
            }
            *parsed = Parsed::of(frame.bytes(), station);
        }
    }

    /// What belongs to a service goes on to the next stages; the rest is decided here.
    fn find<F: Frame>(&mut self, frames: &mut [F], snapshot: &Snapshot, now: Millis, verdicts: &mut [Verdict; BURST]) {
        self.selected.count = 0;
        for (at, ((frame, parsed), verdict)) in frames.iter_mut().zip(&self.parsed).zip(verdicts).enumerate() {
            match matching::find(parsed, snapshot, now) {
                Match::Service(service) => self.selected.push(at, service),
                Match::Reply(reply) => *verdict = matching::translate(reply, parsed, frame, snapshot),
                Match::Echo => *verdict = echo::answer(parsed, frame, snapshot),
                Match::Other(other) => *verdict = other,
            }
        }
    }

    /// All hashes, then all slots.
    fn select(&mut self, snapshot: &Snapshot) {
        let Selected { count, at, service, hash, target } = &mut self.selected;
        for (hash, &at) in hash.iter_mut().zip(&at[..*count]) {
            let parsed = &self.parsed[usize::from(at) % BURST];
            *hash = snapshot.hash(parsed.source, parsed.source_port);
        }
        for ((target, &hash), &service) in target.iter_mut().zip(&*hash).zip(&service[..*count]) {
            *target = snapshot.select(service, hash);
        }
    }

    fn apply<F: Frame>(&mut self, frames: &mut [F], snapshot: &Snapshot, verdicts: &mut [Verdict; BURST]) {
        let traffic = snapshot.traffic(self.lcore);
        for (&at, &target) in self.selected.at[..self.selected.count].iter().zip(&self.selected.target) {
            let at = usize::from(at) % BURST;
            let Some(frame) = frames.get_mut(at) else { continue };
            let packet = self.parsed[at].packet;
            verdicts[at] = match target.map(|target| snapshot.target(target)) {
                None => Verdict::Drop(Reason::NoBackend),
                Some(Target { mode: None, .. }) => Verdict::Drop(Reason::NoNextHop),
                Some(Target { mode: Some(mode), traffic: id }) => match mode.apply(frame, packet, &mut self.id) {
                    Ok(port) => {
                        let cell = traffic.cell(*id);
                        cell.packets.add(1);
                        cell.bytes.add(u64::from(packet.total));
                        Verdict::Forward(port)
                    }
                    Err(reason) => Verdict::Drop(reason),
                },
            };
        }
    }
}

impl Selected {
    #[inline]
    fn push(&mut self, at: usize, service: ServiceIndex) {
        let row = self.count % BURST;
        self.at[row] = at as u8;
        self.service[row] = service;
        self.count += 1;
    }
}
