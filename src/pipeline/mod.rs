//! A burst in, verdicts out: parse -> match -> select -> mode. Knows no DPDK, allocates nothing.
//!
//! The burst goes through each stage as a whole, so that the cache misses of its packets overlap.

mod echo;
mod explain;
mod matching;
mod parse;

use crate::counters::Reason;
use crate::mode::{Identification, Packet};
use crate::snapshot::{Millis, PortIndex, ServiceIndex, Snapshot, Target, TargetIndex};
use crate::wire::Frame;

pub use explain::{Choice, Chosen, Explanation, Matched, explain};
use matching::Match;
use parse::{Flow, Parsed};

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

/// The state of one lcore between bursts, and what its stages hand on.
#[derive(Debug)]
pub struct Pipeline {
    lcore: usize,
    id: Identification,
    /// The packets of the burst that belong to services.
    selected: [Selected; BURST],
}

/// A packet of a service, on its way through the stages.
#[derive(Debug, Clone, Copy)]
struct Selected {
    /// The frame's place in the burst.
    at: u8,
    packet: Packet,
    service: ServiceIndex,
    hash: u64,
    target: Option<TargetIndex>,
}

impl Pipeline {
    /// `lcore`: its index among the lcores that the snapshots were compiled for.
    pub fn new(lcore: usize) -> Self {
        Self { lcore, id: Identification::default(), selected: [Selected::NOTHING; BURST] }
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
        let selected = self.find(frames, snapshot, now, port, verdicts);
        // All slots are read before the first target is needed.
        for packet in &mut self.selected[..selected] {
            packet.target = snapshot.select(packet.service, packet.hash);
        }
        self.apply(selected, frames, snapshot, verdicts);
    }

    /// Parses, matches and hashes. Packets of services go on to the next stages, and are so many; the rest is decided here.
    ///
    /// The loop over all frames calls nothing, so that what it needs stays in registers; frames that it is not sure of
    /// come after it.
    #[inline]
    fn find<F: Frame>(
        &mut self,
        frames: &mut [F],
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        verdicts: &mut [Verdict; BURST],
    ) -> usize {
        let station = snapshot.port(port).mac.bits();
        for ahead in frames.iter().take(PREFETCH) {
            ahead.prefetch();
        }
        let (mut selected, mut others) = (0, 0_u32);
        let mut last = Flow::NONE;
        for (at, frame) in frames.iter().enumerate() {
            if let Some(ahead) = frames.get(at + PREFETCH) {
                ahead.prefetch();
            }
            match Parsed::plain(frame.bytes(), station) {
                // Packets of a flow come in trains: what was found for one holds for the next.
                Some((parsed, flow)) if flow == last => {
                    let found = self.selected[(selected - 1) % BURST];
                    self.selected[selected % BURST] = Selected { at: at as u8, packet: parsed.packet, ..found };
                    selected += 1;
                }
                Some((parsed, flow)) if let Some(service) = matching::find_plain(&parsed, snapshot) => {
                    self.selected[selected % BURST] = Selected::new(at, &parsed, service, snapshot);
                    selected += 1;
                    last = flow;
                }
                _ => others |= 1 << at,
            }
        }
        while others != 0 {
            let at = others.trailing_zeros() as usize;
            others &= others - 1;
            let Some(frame) = frames.get_mut(at) else { break };
            match find_any(frame, snapshot, now, port) {
                Ok((parsed, service)) => {
                    self.selected[selected % BURST] = Selected::new(at, &parsed, service, snapshot);
                    selected += 1;
                }
                Err(verdict) => verdicts[at] = verdict,
            }
        }
        selected
    }

    #[inline]
    fn apply<F: Frame>(
        &mut self,
        selected: usize,
        frames: &mut [F],
        snapshot: &Snapshot,
        verdicts: &mut [Verdict; BURST],
    ) {
        let traffic = snapshot.traffic(self.lcore);
        for &Selected { at, packet, target, .. } in &self.selected[..selected] {
            let at = usize::from(at) % BURST;
            let Some(frame) = frames.get_mut(at) else { continue };
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

impl Selected {
    const NOTHING: Self =
        Self { at: 0, packet: Parsed::NOTHING.packet, service: ServiceIndex::FIRST, hash: 0, target: None };

    #[inline(always)]
    fn new(at: usize, parsed: &Parsed, service: ServiceIndex, snapshot: &Snapshot) -> Self {
        let hash = snapshot.hash(parsed.source, parsed.source_port);
        Self { at: at as u8, packet: parsed.packet, service, hash, target: None }
    }
}
