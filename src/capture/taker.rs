//! An lcore's end of captures.

use super::{Lane, Published, Session, Taken};
use crate::counters::Reason;
use crate::pipeline::{BURST, Outcome, Trains, Verdict, Whose, Witness, places};
use crate::quiescent::Reader;
use crate::snapshot::{Millis, PortIndex, ServiceIndex, Snapshot};
use crate::wire::Frame;

/// Takes frames for the capture that runs, if one does.
#[derive(Debug)]
pub struct Taker {
    lcore: usize,
    is_on: bool,
    sessions: Reader<Published>,
    state: Box<State>,
}

/// The MAC addresses, and as many tags as are ever taken off.
const HEAD: usize = ADDRESSES + 8;
const ADDRESSES: usize = 12;

/// What copying a frame takes of the budget, and what it takes to read one to learn its service.
const COPY: u64 = 1000;
const READ: u64 = 50;

/// So many frames may always follow one another, and this part of a second's.
const AT_ONCE: u64 = 32;
const PART: u64 = 10;

/// Services of which it is kept whether they are the one that is wanted.
const KEPT: usize = 64;

#[derive(Debug)]
struct State {
    /// The session that the budget is of.
    number: u64,
    /// Thousandths of a frame, and when it was last added to.
    budget: u64,
    refilled: Millis,
    /// By the last bits of its index: a service of a snapshot, by both their numbers, and whether it is the one wanted.
    known: [(u64, bool); KEPT],
    burst: Burst,
}

/// The burst that was decided on last.
#[derive(Debug)]
struct Burst {
    /// Frames, a bit each, whose tags may be off by now, with what they had in front and how long they were.
    unread: u32,
    heads: [[u8; HEAD]; BURST],
    lengths: [usize; BURST],
    /// Those that may not be looked at any more: they are something else now.
    rewritten: u32,
    /// Whether all that go on were counted as over the rate.
    is_over: bool,
    /// Those that were taken, as they were received and, where that is wanted, as they left.
    taken: u32,
    received: [Option<Box<Taken>>; BURST],
    sent: [Option<Box<Taken>>; BURST],
    /// Of all, if any was taken.
    verdicts: [Verdict; BURST],
    frames: usize,
}

impl Taker {
    pub(super) fn new(lcore: usize, sessions: Reader<Published>) -> Self {
        let burst = Burst {
            unread: 0,
            heads: [[0; HEAD]; BURST],
            lengths: [0; BURST],
            rewritten: 0,
            is_over: false,
            taken: 0,
            received: [const { None }; BURST],
            sent: [const { None }; BURST],
            verdicts: [Verdict::Punt; BURST],
            frames: 0,
        };
        let state = State { number: 0, budget: 0, refilled: Millis(0), known: [(u64::MAX, false); KEPT], burst };
        Self { lcore, is_on: false, sessions, state: Box::new(state) }
    }

    /// Whether a capture runs, as of the beginning of the round.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Call it once a round: learns of captures that begin or end.
    #[inline]
    pub fn begin_round(&mut self) {
        if self.is_on {
            self.hand_over();
        }
        self.is_on = self.sessions.quiescent().is_some();
    }

    /// Looks on while a burst that `port` received is decided on, at so many ticks of the lcores' counter. The burst before is done.
    pub fn watch<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
        now: Millis,
        ticks: u64,
        port: PortIndex,
    ) -> Option<Watch<'a>> {
        self.hand_over();
        let session = self.sessions.value().as_deref()?;
        let state = &mut *self.state;
        let rate = u64::from(session.wanted.rate);
        let most = (rate * COPY / PART).max(AT_ONCE * COPY);
        if state.number != session.number {
            state.number = session.number;
            state.known = [(u64::MAX, false); KEPT];
            state.budget = most;
        }
        // A frame a second is a thousandth of one a millisecond.
        let earned = now.0.saturating_sub(state.refilled.0).saturating_mul(rate * COPY) / 1000;
        (state.budget, state.refilled) = (state.budget.saturating_add(earned).min(most), now);
        (state.burst.unread, state.burst.rewritten, state.burst.is_over) = (0, 0, false);
        Some(Watch { session, lane: &session.lcores[self.lcore], state, snapshot, ticks, port })
    }

    /// What `is_one` says of, of the last burst, had the verdict in vain: the last `count` of them are dropped after all.
    pub fn refuse(&mut self, reason: Reason, count: usize, is_one: impl Fn(Verdict) -> bool) {
        let burst = &mut self.state.burst;
        if burst.taken != 0 {
            let verdicts = burst.verdicts[..burst.frames].iter_mut().rev().filter(|verdict| is_one(**verdict));
            verdicts.take(count).for_each(|verdict| drop_after_all(verdict, reason));
        }
    }

    /// The same of those, a bit each in their order, that were to be handed over.
    pub fn refuse_handed(&mut self, refused: u32) {
        let burst = &mut self.state.burst;
        if burst.taken != 0 {
            let is_one = |verdict: &&mut Verdict| matches!(verdict, Verdict::HandOver(_));
            let handed = burst.verdicts[..burst.frames].iter_mut().filter(is_one).enumerate();
            let refused = handed.filter(|(order, _)| refused >> order & 1 != 0);
            refused.for_each(|(_, verdict)| drop_after_all(verdict, Reason::HandoffFull));
        }
    }

    /// Hands over what was taken of the last burst, of which it is known by now what became.
    fn hand_over(&mut self) {
        let burst = &mut self.state.burst;
        let Some(session) = self.sessions.value().as_deref().filter(|_| burst.taken != 0) else { return };
        let lane = &session.lcores[self.lcore];
        for at in places(std::mem::take(&mut burst.taken)) {
            let verdict = burst.verdicts[at];
            let wanted = verdict.outcome().filter(|&outcome| session.wanted.filter.wants(outcome));
            if let Some(received) = burst.received[at].take() {
                lane.settle(received, wanted);
            }
            if let Some(sent) = burst.sent[at].take() {
                lane.settle(sent, wanted.filter(|_| verdict.port().is_some()));
            }
        }
    }
}

fn drop_after_all(verdict: &mut Verdict, reason: Reason) {
    // A refusal counts as dropped anyway.
    *verdict = Verdict::Drop(if matches!(verdict, Verdict::Reject(_)) { Reason::NoBackend } else { reason });
}

impl Lane {
    /// A free slot, but for the last: `pop` may wait for whoever is about to give back the only one.
    fn slot(&self) -> Option<Box<Taken>> {
        if self.free.len() > 1 { self.free.pop() } else { None }
    }

    /// Hands a frame over, wanted or not.
    fn settle(&self, mut taken: Box<Taken>, wanted: Option<Outcome>) {
        taken.is_wanted = wanted.is_some();
        if let Some(outcome) = wanted {
            taken.outcome = outcome;
            self.taken.add(u64::from(!taken.is_sent));
        }
        // There is room for all that there are.
        let _ = self.full.push(taken);
    }
}

/// Takes what is wanted of a burst.
#[derive(Debug)]
pub struct Watch<'a> {
    session: &'a Session,
    lane: &'a Lane,
    state: &'a mut State,
    snapshot: &'a Snapshot,
    ticks: u64,
    port: PortIndex,
}

impl Watch<'_> {
    fn is_taken(&self, at: usize) -> bool {
        self.state.burst.taken >> at & 1 != 0
    }

    /// Whether packets of this service are wanted.
    fn is_of(&mut self, service: Option<ServiceIndex>) -> bool {
        let Some(name) = self.session.wanted.filter.service() else { return true };
        let Some(service) = service.filter(|&service| service != ServiceIndex::NONE) else { return false };
        let key = u64::from(self.snapshot.serial()) << 32 | u64::from(service.to_bits());
        let known = &mut self.state.known[service.to_bits() as usize % KEPT];
        if known.0 != key {
            *known = (key, self.snapshot.definition(service).name == *name);
        }
        known.1
    }

    /// Whether so much of the budget was left; it is not any more.
    fn spend(&mut self, cost: u64) -> bool {
        let rest = self.state.budget.checked_sub(cost);
        self.state.budget = rest.unwrap_or(self.state.budget);
        rest.is_some()
    }

    /// Takes a frame as it was received.
    fn take<F: Frame>(&mut self, at: usize, frame: &F, whose: impl FnOnce() -> Whose) {
        if !self.spend(COPY) {
            // Of a burst that was counted as a whole, this one is there already.
            return self.lane.over.add(u64::from(!self.state.burst.is_over));
        }
        let Some(mut slot) = self.lane.slot() else { return self.lane.lost.add(1) };
        let Whose { service, backend } = whose();
        let known = service.filter(|&service| service != ServiceIndex::NONE);
        slot.service = known.map(|service| self.snapshot.definition(service).name.clone());
        slot.backend = backend;
        (slot.ticks, slot.port, slot.is_sent) = (self.ticks, self.port, false);
        let burst = &mut self.state.burst;
        let (head, rest) = burst.as_received(at, frame);
        slot.length = head.len() + frame.length() - (frame.bytes().len() - rest.len());
        fill(&mut slot.bytes, [head, rest], self.session.wanted.bytes);
        burst.received[at] = Some(slot);
        burst.taken |= 1 << at;
    }

    /// Takes one that leaves by `port` as it is now.
    fn take_sent<F: Frame>(&mut self, at: usize, frame: &F, port: PortIndex) {
        let Some(mut slot) = self.lane.slot() else { return self.lane.lost.add(1) };
        let burst = &mut self.state.burst;
        let Some(received) = &burst.received[at] else { return self.lane.give_back(slot) };
        (slot.service, slot.backend) = (received.service.clone(), received.backend);
        (slot.ticks, slot.port, slot.is_sent) = (self.ticks, port, true);
        slot.length = frame.length();
        fill(&mut slot.bytes, [frame.bytes(), &[]], self.session.wanted.bytes);
        burst.sent[at] = Some(slot);
    }

    /// Takes those that are left as they were, now that it is known which they are.
    fn take_unchanged<F: Frame>(&mut self, frames: &[F], verdicts: &[Verdict; BURST], trains: &Trains) {
        for (at, (frame, &verdict)) in frames.iter().zip(verdicts).enumerate() {
            let may_be_read = self.state.burst.rewritten >> at & 1 == 0;
            if self.is_taken(at) || !may_be_read || !self.session.wanted.filter.may_want_unchanged(verdict) {
                continue;
            }
            if let Some(service) = trains.service(at) {
                if self.is_of(Some(service)) {
                    self.take(at, frame, || trains.whose(at).unwrap_or_default());
                }
            } else if self.session.wanted.filter.service().is_none() {
                let (snapshot, port) = (self.snapshot, self.port);
                self.take(at, frame, || Whose::of(frame.bytes(), snapshot, port));
            } else if self.spend(READ) {
                let whose = Whose::of(frame.bytes(), self.snapshot, self.port);
                if self.is_of(whose.service) {
                    self.take(at, frame, || whose);
                }
            }
        }
    }
}

impl Burst {
    /// A frame with the tags that it had.
    fn as_received<'a, F: Frame>(&'a self, at: usize, frame: &'a F) -> (&'a [u8], &'a [u8]) {
        let bytes = frame.bytes();
        let tags = match self.unread >> at & 1 {
            0 => 0,
            _ => self.lengths[at].saturating_sub(frame.length()),
        };
        match (self.heads[at].get(..ADDRESSES + tags), bytes.get(ADDRESSES..)) {
            (Some(head), Some(rest)) if tags > 0 => (head, rest),
            _ => (&[], bytes),
        }
    }
}

/// Puts as much of these parts there as is wanted.
fn fill(bytes: &mut Vec<u8>, parts: [&[u8]; 2], most: u16) {
    bytes.clear();
    for part in parts {
        let room = usize::from(most) - bytes.len();
        bytes.extend_from_slice(&part[..part.len().min(room)]);
    }
}

impl<F: Frame> Witness<F> for Watch<'_> {
    fn unread(&mut self, at: usize, frame: &F) {
        let (burst, bytes) = (&mut self.state.burst, frame.bytes());
        let count = bytes.len().min(HEAD);
        burst.heads[at][..count].copy_from_slice(&bytes[..count]);
        burst.lengths[at] = frame.length();
        burst.unread |= 1 << at;
    }

    fn chosen(&mut self, frames: &[F], trains: &Trains) {
        if !self.session.wanted.filter.may_want(Outcome::Forwarded) {
            return;
        }
        if self.state.budget < COPY {
            // A look at each would be too much to ask.
            let over = trains.services().filter(|&(service, _)| self.is_of(Some(service)));
            let packets: u32 = over.map(|(_, packets)| packets).sum();
            self.state.burst.is_over = true;
            return self.lane.over.add(packets.into());
        }
        for (at, frame) in frames.iter().enumerate() {
            if let Some(service) = trains.service(at)
                && trains.can_go(at)
                && self.is_of(Some(service))
            {
                self.take(at, frame, || trains.whose(at).unwrap_or_default());
            }
        }
    }

    fn rewriting(&mut self, at: usize, frame: &F, outcome: Outcome, whose: impl FnOnce() -> Whose) {
        if !self.is_taken(at) && self.session.wanted.filter.may_want(outcome) {
            let whose = whose();
            if self.is_of(whose.service) {
                self.take(at, frame, || whose);
            }
        }
        if outcome != Outcome::Forwarded {
            self.state.burst.rewritten |= 1 << at;
        }
    }

    fn decided(&mut self, frames: &[F], verdicts: &[Verdict; BURST], trains: &Trains, only: Option<PortIndex>) {
        if only.is_none() {
            self.take_unchanged(frames, verdicts, trains);
        }
        let taken = self.state.burst.taken;
        if taken == 0 {
            return;
        }
        (self.state.burst.verdicts, self.state.burst.frames) = (*verdicts, frames.len());
        if self.session.wanted.sent {
            for at in places(taken) {
                let is_wanted = verdicts[at].outcome().is_some_and(|outcome| self.session.wanted.filter.wants(outcome));
                if let Some(port) = verdicts[at].port().filter(|_| is_wanted) {
                    self.take_sent(at, &frames[at], port);
                }
            }
        }
    }
}
