//! A burst in, verdicts out: parse -> match -> select -> mode. Knows no DPDK, allocates nothing.
//!
//! The burst goes through each stage as a whole, so that the cache misses of its packets overlap.
//!
//! Frames that are plainly a service's packets take the stages of `Burst`, IPv6 by a stage of its own. What is plainly to be refused costs
//! little; everything else is read and matched by `find_any`, and joins the burst where it belongs to a service after all.

mod burst;
mod echo;
mod explain;
mod fabric;
mod fragments;
#[cfg(target_arch = "x86_64")]
mod heads;
mod held;
mod matching;
mod parse;
pub mod probe;
mod recall;
mod refusal;
mod translation;
mod witness;
mod words;

use std::sync::Arc;

use crate::counters::Reason;
use crate::flow::{Begun, Clients, Dealing, Flows, Judging, Nat, Remembered};
use crate::mode::{Content, Reply, State, link};
use crate::service::{Hash, IdleTimeout};
use crate::snapshot::{Millis, PortIndex, ServiceIndex, Snapshot, TargetIndex};
use crate::wire::{Frame, Mac, ethernet, quic, udp};

use burst::Burst;
pub use explain::{By, Choice, Chosen, Explanation, Matched, Memory, explain};
use fragments::Fragments;
pub use held::Held;
use matching::{LastVip, Match};
pub use parse::Tuple;
use parse::{Kind, Parsed};
pub use recall::spot;
use refusal::Refused;
use translation::Round;
use witness::Nobody;
pub use witness::{Outcome, Stage, Trains, Whose, Witness, places};

/// Frames taken from a queue at once.
pub const BURST: usize = 32;

/// Probes of which `dnat-dsr` remembers that they began.
const PROBES: usize = 256;

/// What becomes of a frame; exactly one, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten in place, to be sent by this port.
    Forward(PortIndex),
    /// Turned into an answer of our own, to be sent by this port.
    Answer(PortIndex),
    /// Nobody may take it: turned into a refusal, to be sent by this port, and counted as dropped for [`Reason::NoBackend`].
    Reject(PortIndex),
    /// Unchanged: a later fragment that may wait for its first. It is kept in [`Held`], and comes again by [`Pipeline::release`].
    Hold,
    /// Unchanged, for another lcore, which decides ([`Pipeline::process_handed`]): it may know the flow.
    HandOver(u16),
    /// Unchanged, for the kernel twin of the port it came by.
    Punt,
    Drop(Reason),
}

/// The state of one lcore between bursts, and what its stages hand on.
#[derive(Debug)]
pub struct Pipeline {
    lcore: usize,
    state: State,
    fragments: Fragments,
    /// Whether a later fragment may still wait.
    may_hold: bool,
    /// How many lcores have had the frames before.
    round: Round,
    /// How the lcores get theirs, where that is known.
    dealing: Option<Dealing>,
    burst: Burst,
    /// What the modes keep from one probe's packet to the next: no flow of a client's.
    probes: State,
}

impl Pipeline {
    /// `lcore`: its index among the lcores that the snapshots were compiled for. It translates nothing by `snat`.
    pub fn new(lcore: usize) -> Self {
        Self::with(Nat::none(lcore))
    }

    /// That of the lcore whose translations these are.
    pub fn with(nat: Nat) -> Self {
        let lcore = nat.lcore();
        Self {
            lcore,
            state: State::new(nat, Flows::new(0, [0; 2]), Begun::new(0, [0; 2])),
            fragments: Fragments::default(),
            may_hold: true,
            round: Round::RECEIVED,
            dealing: None,
            burst: Burst::EMPTY,
            probes: State::new(Nat::none(lcore), Flows::new(0, [0; 2]), Begun::new(PROBES, [0; 2])),
        }
    }

    /// With memory for so many flows. `seed`: a secret of the process.
    #[must_use]
    pub fn remembering(self, flows: usize, seed: [u64; 2]) -> Self {
        self.remembering_in(Flows::new(flows, seed), seed)
    }

    /// As [`Pipeline::remembering`], in memory of its own.
    #[must_use]
    pub fn remembering_in(mut self, flows: Flows, seed: [u64; 2]) -> Self {
        self.state.begun = Begun::new(flows.capacity(), seed);
        self.state.flows = flows;
        self
    }

    /// The flows that it remembers, for other threads.
    pub fn remembered(&self) -> Remembered {
        self.state.flows.remembered()
    }

    /// Entries of remembered flows, be they of flows that are over.
    pub fn flows(&self) -> usize {
        self.state.flows.taken()
    }

    /// Forgets all flows.
    pub fn forget_flows(&mut self) {
        self.state.flows.clear();
    }

    /// Frees the entries of flows that are over, in the next part of the memory in use: all of it in `round`, of which so much time has `passed`.
    pub fn sweep(&mut self, snapshot: &Snapshot, now: Millis, passed: Millis, round: Millis) {
        let now = translation::seconds(now);
        // Their seconds go round: after so long nobody's age can be told.
        if passed.0 / 1000 > u64::from(IdleTimeout::MOST) {
            return self.state.flows.clear();
        }
        self.state.flows.sweep_part(passed.0, round.0, &Judging { known: snapshot, now });
    }

    /// With a memory of clients that it shares with the other lcores.
    #[must_use]
    pub fn sharing(mut self, clients: Arc<Clients>) -> Self {
        self.state.clients = Some(clients);
        self
    }

    /// Whose frames, and those of the other lcores, are dealt so.
    #[must_use]
    pub fn dealt_by(mut self, dealing: Dealing) -> Self {
        self.dealing = Some(dealing);
        self
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
        process_here(self, snapshot, now, port, frames, verdicts)
    }

    /// As [`Pipeline::process`], while `witness` looks on.
    #[inline(always)]
    pub fn process_witnessed<F: Frame, W: Witness<F>>(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        frames: &mut [F],
        verdicts: &mut [Verdict; BURST],
        witness: &mut W,
    ) -> Option<PortIndex> {
        let count = frames.len().min(BURST);
        let frames = &mut frames[..count];
        self.state.now = translation::seconds(now);
        let mut others = self.burst.parse(frames, snapshot.port(port).mac, snapshot, &self.state.flows);
        witness.passed(Stage::Parse);
        others |= self.burst.find(snapshot, &self.state, verdicts);
        if others != 0 {
            let station = snapshot.port(port).mac;
            others = self.burst.find_v6(others, frames, station, snapshot, &self.state.flows);
            others = refuse_at_once(others, frames, station, snapshot, verdicts);
        }
        while others != 0 {
            let at = others.trailing_zeros() as usize;
            others &= others - 1;
            witness.unread(at, &frames[at]);
            match self.find_any(at, &mut frames[at], snapshot, now, port, witness) {
                Ok((parsed, service)) => {
                    if let Err(reason) = self.add(at, &frames[at], &parsed, service, snapshot) {
                        verdicts[at] = Verdict::Drop(reason);
                    }
                }
                Err(verdict) => verdicts[at] = verdict,
            }
        }
        witness.passed(Stage::Match);
        let mut targets = [snapshot.target(TargetIndex::NOBODY); BURST];
        self.burst.select(snapshot, &mut self.state, &mut targets);
        witness.passed(Stage::Choose);
        witness.chosen(frames, &Trains::new(&self.burst, &targets, snapshot));
        let sole = snapshot.sole_port();
        let only = self.burst.apply(frames, &targets, &mut self.state, verdicts, sole, |at, frame, refused| {
            let service = refused.service;
            let whose = || Whose { service: Some(service), backend: None };
            refusal::answer(frame, refused, snapshot, now, |frame, outcome| {
                witness.rewriting(at, frame, outcome, whose);
            })
        });
        witness.passed(Stage::Apply);
        self.burst.count(&targets, snapshot.traffic(self.lcore));
        witness.passed(Stage::Count);
        witness.decided(frames, verdicts, &Trains::new(&self.burst, &targets, snapshot), only);
        only
    }

    /// Decides on packets of health checks that go through a service, each behind its [`probe::Ticket`]: they are sent to the backend
    /// that it names, or dropped. Nothing is remembered of them, and no service counts them.
    pub fn process_probes<F: Frame>(&mut self, snapshot: &Snapshot, frames: &mut [F], verdicts: &mut [Verdict; BURST]) {
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            *verdict = match probe::send(frame, snapshot, &mut self.probes) {
                Ok(port) => Verdict::Forward(port),
                Err(reason) => Verdict::Drop(reason),
            };
        }
    }

    /// Takes a frame that need wait no longer out of `held`, with the port that received it: its first fragment came, or does not
    /// come any more.
    pub fn release<F: Frame>(&self, held: &mut Held<F>, now: Millis) -> Option<(F, PortIndex)> {
        held.next(&self.fragments, now)
    }

    /// As [`Pipeline::process`], of frames that were released: none is held again.
    pub fn process_released<F: Frame>(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        frames: &mut [F],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        self.again(0, |this| this.process(snapshot, now, port, frames, verdicts))
    }

    /// As [`Pipeline::process`], of frames that [`Verdict::HandOver`] sent here, after `lcores` had looked at them.
    pub fn process_handed<F: Frame>(
        &mut self,
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        lcores: u8,
        frames: &mut [F],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        self.again(lcores, |this| this.process(snapshot, now, port, frames, verdicts))
    }

    /// Has frames processed that were released (`lcores` is 0), or that so many lcores have looked at.
    pub fn again<T>(&mut self, lcores: u8, process: impl FnOnce(&mut Self) -> T) -> T {
        (self.round, self.may_hold) = (Round(lcores), false);
        let processed = process(self);
        (self.round, self.may_hold) = (Round::RECEIVED, true);
        processed
    }

    /// Reads and matches any frame: a packet of a service, with the tags off its frame, or the verdict.
    #[inline(never)]
    fn find_any<F: Frame, W: Witness<F>>(
        &mut self,
        at: usize,
        frame: &mut F,
        snapshot: &Snapshot,
        now: Millis,
        port: PortIndex,
        witness: &mut W,
    ) -> Result<(Parsed, ServiceIndex), Verdict> {
        let (state, fragments, seconds) = (&mut self.state, &mut self.fragments, translation::seconds(now));
        let mut parsed = Parsed::of(frame.bytes(), snapshot.port(port));
        if parsed.kind == Kind::LaterFragment {
            let ports = parsed.datagram.and_then(|datagram| fragments.ports(&datagram, now));
            parsed.take_ports(ports);
        }
        let strip = |frame: &mut F| link::strip_tags(frame, usize::from(parsed.link));
        if !snapshot.sources().is_empty()
            && let Some(verdict) =
                translation::homeward(frame, &parsed, snapshot, state, now, strip, &mut |frame, outcome, vip| {
                    witness.rewriting(at, frame, outcome, || Whose::of_reply(&parsed.flow, vip, snapshot));
                })
        {
            remember(&parsed, fragments, now);
            return Err(verdict);
        }
        let found = matching::find(&parsed, snapshot, now);
        if matches!(found, Match::Service(_) | Match::Reply(_) | Match::Echo) {
            remember(&parsed, fragments, now);
            if let Match::Service(service) = found
                && let Some(verdict) =
                    translation::elsewhere(&parsed, service, snapshot, state, seconds, self.round, self.dealing)
            {
                return Err(verdict);
            }
            if !strip(frame) {
                return Err(Verdict::Drop(Reason::Malformed));
            }
        }
        match found {
            Match::Service(service) => Ok((parsed, service)),
            Match::Reply(reply) => Err(translate(reply, &parsed, frame, snapshot, now, |frame, outcome| {
                witness.rewriting(at, frame, outcome, || Whose::of_endpoint(&parsed.flow, snapshot));
            })),
            Match::Echo => Err(echo::answer(&parsed, frame, snapshot, |frame| {
                witness.rewriting(at, frame, Outcome::Answered, Whose::default);
            })),
            Match::Other(verdict) if matching::may_wait(&parsed, verdict, snapshot) => {
                Err(if self.may_hold { Verdict::Hold } else { Verdict::Drop(Reason::FragmentUnknown) })
            }
            // What the fabric says of our own packets is not the kernel's business, where it can be told whose they were.
            Match::Other(Verdict::Punt) => {
                if let Some(datagram) = matching::is_waited_for(&parsed, snapshot) {
                    // Its later fragments are the kernel's, too, and need not wait.
                    fragments.remember(datagram, (parsed.flow.source_port, parsed.flow.destination_port), now);
                }
                let told = |frame: &F| witness.rewriting(at, frame, Outcome::Answered, Whose::default);
                Err(fabric::relay(&parsed, frame, snapshot, now, told).unwrap_or(Verdict::Punt))
            }
            Match::Other(verdict) => Err(verdict),
        }
    }

    /// Adds a packet of a service, whose frame is untagged, to the burst.
    fn add<F: Frame>(
        &mut self,
        at: usize,
        frame: &F,
        parsed: &Parsed,
        service: ServiceIndex,
        snapshot: &Snapshot,
    ) -> Result<(), Reason> {
        let named = find_server(frame, parsed, service, snapshot);
        if !snapshot.definition(service).forwarding.nature().keeps_flows {
            let asked = (named.is_none() && parsed.kind != Kind::LaterFragment && snapshot.recalls_of(service))
                .then(|| (recall::spot(&self.state.flows, &parsed.flow), recall::says(frame, parsed)));
            self.burst.add(at, parsed, service, named, asked, snapshot);
            return Ok(());
        }
        let (nat, now) = (&mut self.state.nat, self.state.now);
        let way = translation::outward(frame, parsed, service, named, snapshot, nat, now)?;
        self.burst.add_translated(at, parsed, service, way);
        Ok(())
    }
}

/// Compiled twice, and chosen when the program runs, for the instructions that most CPUs have.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn process_here<F: Frame>(
    pipeline: &mut Pipeline,
    snapshot: &Snapshot,
    now: Millis,
    port: PortIndex,
    frames: &mut [F],
    verdicts: &mut [Verdict; BURST],
) -> Option<PortIndex> {
    pipeline.process_witnessed(snapshot, now, port, frames, verdicts, &mut Nobody)
}

/// Refuses those of these frames, a bit each, of which little need be known for that; gives the others.
#[inline(never)]
fn refuse_at_once<F: Frame>(
    frames_left: u32,
    frames: &[F],
    station: Mac,
    snapshot: &Snapshot,
    verdicts: &mut [Verdict; BURST],
) -> u32 {
    let (mut others, mut last) = (0, LastVip::NONE);
    for at in witness::places(frames_left) {
        match matching::refused_at_once(frames[at].bytes(), station.bits(), snapshot, &mut last) {
            Some(reason) => verdicts[at] = Verdict::Drop(reason),
            None => others |= 1 << at,
        }
    }
    others
}

/// Remembers the ports of a first fragment for the others.
fn remember(parsed: &Parsed, fragments: &mut Fragments, now: Millis) {
    if let (Some(datagram), true) = (parsed.datagram, parsed.is_first_fragment()) {
        fragments.remember(datagram, (parsed.flow.source_port, parsed.flow.destination_port), now);
    }
}

/// Whom a packet, untagged by now, names itself by its QUIC connection ID.
fn find_server<F: Frame>(
    frame: &F,
    parsed: &Parsed,
    service: ServiceIndex,
    snapshot: &Snapshot,
) -> Option<TargetIndex> {
    if snapshot.definition(service).hash != Hash::QuicCid || parsed.packet.content != Content::Udp {
        return None;
    }
    let packet = frame.bytes().get(ethernet::HEADER..)?.get(..usize::from(parsed.packet.total))?;
    let datagram = packet.get(usize::from(parsed.packet.header) + udp::HEADER..)?;
    snapshot.server(service, quic::servers_connection_id(datagram)?)
}

/// Sends a reply on to its client; `tell` is called right before it changes.
fn translate<F: Frame>(
    reply: &Reply,
    parsed: &Parsed,
    frame: &mut F,
    snapshot: &Snapshot,
    now: Millis,
    mut tell: impl FnMut(&F, Outcome),
) -> Verdict {
    let Some(hop) = snapshot.next_hop(parsed.destination) else { return Verdict::Drop(Reason::NoNextHop) };
    tell(frame, Outcome::Forwarded);
    match reply.apply(frame, &parsed.packet, hop) {
        Ok(port) => Verdict::Forward(port),
        Err(reason) => {
            let refused = Refused::reply(reason, parsed.packet, reply.vip, hop);
            refusal::answer(frame, refused, snapshot, now, tell)
        }
    }
}
