//! The poll loop: rx, pipeline, tx, punt. The only room on the hot side that knows DPDK.
//!
//! ```text
//!            queue i of each port                          lcore i
//!  ┌──────┐  receive ≤ 32   ┌──────────┐  forward, answer  ┌───────────────┐ send
//!  │ port ├────────────────►│ pipeline ├──────────────────►│ batch by port ├──────► its queue i of that port
//!  └──▲───┘                 └────┬─────┘                   └───────────────┘
//!     │ send     inject ring     │ punt   punt ring
//!     └────────◄═══════════      └───────►═══════════  to and from the kernel twin (room `punt`)
//! ```
//!
//! **Run to completion.** An lcore takes a burst from a port, has the pipeline decide, sends, punts and frees, and only then
//! looks for the next one; nothing waits in a batch, so there is nothing to drain later. A port that gives full bursts which go
//! on as a whole gives up to four of them before the others have their turn. Queue i of each port belongs to lcore i: no lock, and
//! no written cache line is shared between lcores.
//!
//! **Every frame is counted once**, under the port that it came by, when its burst is done: received = forwarded +
//! answered + punted + dropped. What a device has no room for is freed and counted `tx_full`, what a punt ring has no room
//! for `punt_full`; a frame for a port without a twin is counted punted, and freed.
//!
//! **Frames from the kernel twin** wait in an inject ring, which the port's first lcore empties: only it has the ring's
//! other end. They were not received, so they have counters of their own.
//!
//! **Packets of health checks** that go through a service come by a ring of their own to one lcore. They are sent as the service's mode
//! sends its packets, and counted apart.
//!
//! **To run it:** make a [`Plan`] for each lcore, and `eal.lcores()[i].launch(move || lcore::run(plan))`. It ends soon after
//! `stop` is set; whatever the plan owns is then dropped on the lcore.

mod clock;
mod handoff;
mod idle;
mod mbuf;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk::{Batch, Mbuf, Queue, cycles, ring};

pub use clock::Clock;
pub use handoff::{Handed, Handoff};
pub use idle::{Bell, Bells, Idle};

use crate::capture::Taker;
use crate::counters::{LcoreBlock, LoopBlock, PortBlock, Reason};
use crate::pipeline::{BURST, Held, Pipeline, Verdict};
use crate::quiescent::Reader;
use crate::snapshot::{Millis, PortIndex, Snapshot};

// A burst fills a batch.
const _: () = assert!(BURST == dpdk::BURST);

/// All that one lcore works with.
#[derive(Debug)]
pub struct Plan<W> {
    /// By [`PortIndex`], the same ports on every lcore.
    pub ports: Vec<Lane>,
    /// Packets of health checks, each behind its ticket; one lcore has it.
    pub probes: Option<ring::Consumer>,
    /// Decides about frames: [`Forwarding`].
    pub work: W,
    /// Where it counts; nobody else writes there.
    pub counters: Arc<LcoreBlock>,
    pub clock: Clock,
    pub idle: Idle,
    pub bells: Bells,
    /// Set by the control side to end all lcores.
    pub stop: Arc<AtomicBool>,
}

/// An lcore's part of a port.
#[derive(Debug)]
pub struct Lane {
    pub queue: Queue,
    /// To the port's kernel twin; `None`: it has none.
    pub punt: Option<ring::Producer>,
    /// From the port's kernel twin; the port's first lcore has it.
    pub inject: Option<ring::Consumer>,
}

/// Decides about frames.
pub trait Work {
    /// Once a round, idle or not: nothing of the last round is referred to any more.
    fn begin_round(&mut self);

    /// Once a millisecond at most: what need not be done for any frame. `passed`: since it was last called.
    fn keep_house(&mut self, _now: Millis, _passed: Millis, _counters: &LoopBlock) {}

    /// Rewrites `frames` (at most [`BURST`], received by `port`) in place, and says what becomes of each. It may give the port
    /// by which all of them are forwarded, so that nobody need look at each.
    fn process(
        &mut self,
        now: Millis,
        port: PortIndex,
        frames: &mut [Mbuf],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex>;

    /// Rewrites packets of health checks in place, and says what becomes of each: it is sent on, or dropped.
    fn probe(&mut self, _frames: &mut [Mbuf], verdicts: &mut [Verdict; BURST]) {
        verdicts.fill(Verdict::Drop(Reason::NoService));
    }

    /// Keeps frames of `port` that may wait ([`Verdict::Hold`]). What there is no room for stays in `frames`.
    fn hold(&mut self, _now: Millis, _port: PortIndex, _frames: &mut Batch) {}

    /// Passes frames of `port` on to the lcores that `verdicts` name in their order ([`Verdict::HandOver`]). What there is no room for
    /// stays in `frames`.
    fn hand_over(&mut self, _port: PortIndex, _frames: &mut Batch, _verdicts: &[Verdict]) {}

    /// A device or a ring had no room for the last so many frames of the batch under way that were to leave by a port, or to be punted: they
    /// are dropped after all.
    fn refused(&mut self, _count: usize, _by: Refused) {}

    /// Fills `frames` with some of one port that need wait no longer, or that other lcores passed on, and says what becomes of them.
    #[inline]
    fn release(&mut self, _now: Millis, _frames: &mut Batch, _verdicts: &mut [Verdict; BURST]) -> Option<PortIndex> {
        None
    }
}

/// What has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Port(PortIndex),
    /// The ring to the kernel twin.
    Twin,
}

/// The work of a running node: the pipeline, on the snapshot published last.
#[derive(Debug)]
pub struct Forwarding {
    snapshots: Reader<Snapshot>,
    pipeline: Pipeline,
    held: Held<Mbuf>,
    handoff: Handoff,
    taker: Taker,
    /// How many lcores had the batch under way before.
    lcores: u8,
    /// To be decided on again, but not with the batch under way.
    next: Option<Handed>,
}

impl Forwarding {
    pub fn new(pipeline: Pipeline, snapshots: Reader<Snapshot>, handoff: Handoff, taker: Taker) -> Self {
        Self { snapshots, pipeline, held: Held::default(), handoff, taker, lcores: 0, next: None }
    }

    /// As [`Pipeline::process`], while frames are captured.
    #[cold]
    #[inline(never)]
    fn process_watched(
        &mut self,
        now: Millis,
        port: PortIndex,
        frames: &mut [Mbuf],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        let snapshot = self.snapshots.value();
        match self.taker.watch(snapshot, now, cycles::tsc(), port) {
            Some(mut watch) => self.pipeline.process_witnessed(snapshot, now, port, frames, verdicts, &mut watch),
            None => self.pipeline.process(snapshot, now, port, frames, verdicts),
        }
    }

    /// As [`Pipeline::again`], while frames are captured.
    #[cold]
    #[inline(never)]
    fn process_again_watched(
        &mut self,
        now: Millis,
        port: PortIndex,
        frames: &mut [Mbuf],
        verdicts: &mut [Verdict; BURST],
    ) {
        let snapshot = self.snapshots.value();
        let watch = self.taker.watch(snapshot, now, cycles::tsc(), port);
        self.pipeline.again(self.lcores, |pipeline| match watch {
            Some(mut watch) => pipeline.process_witnessed(snapshot, now, port, frames, verdicts, &mut watch),
            None => pipeline.process(snapshot, now, port, frames, verdicts),
        });
    }

    /// The next frame that is to be decided on again.
    fn again(&mut self, now: Millis) -> Option<Handed> {
        let released = |(frame, port)| Handed { frame, port, lcores: 0 };
        self.next
            .take()
            .or_else(|| self.pipeline.release(&mut self.held, now).map(released))
            .or_else(|| self.handoff.pop())
    }
}

impl Work for Forwarding {
    #[inline]
    fn begin_round(&mut self) {
        self.snapshots.quiescent();
        self.taker.begin_round();
    }

    #[inline]
    fn process(
        &mut self,
        now: Millis,
        port: PortIndex,
        frames: &mut [Mbuf],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        self.lcores = 0;
        if self.taker.is_on() {
            return self.process_watched(now, port, frames, verdicts);
        }
        self.pipeline.process(self.snapshots.value(), now, port, frames, verdicts)
    }

    fn probe(&mut self, frames: &mut [Mbuf], verdicts: &mut [Verdict; BURST]) {
        self.pipeline.process_probes(self.snapshots.value(), frames, verdicts);
    }

    fn keep_house(&mut self, now: Millis, passed: Millis, counters: &LoopBlock) {
        self.pipeline.sweep(self.snapshots.value(), now, passed, ROUND);
        counters.flows.set(self.pipeline.flows() as u64);
    }

    fn hold(&mut self, now: Millis, port: PortIndex, frames: &mut Batch) {
        let until = Millis(now.0 + self.snapshots.value().hold().as_millis() as u64);
        // Out they come from the end.
        frames.reverse();
        for _ in 0..frames.len() {
            let Some(frame) = frames.pop() else { break };
            if let Err(frame) = self.held.keep(frame, port, until) {
                let _ = frames.push(frame); // where it was a moment ago
                self.taker.refuse(Reason::FragmentUnknown, frames.len(), |verdict| verdict == Verdict::Hold);
                break;
            }
        }
    }

    fn hand_over(&mut self, port: PortIndex, frames: &mut Batch, verdicts: &[Verdict]) {
        let refused = self.handoff.push_all(port, self.lcores.saturating_add(1), frames, verdicts);
        if refused != 0 {
            self.taker.refuse_handed(refused);
        }
    }

    #[cold]
    fn refused(&mut self, count: usize, by: Refused) {
        match by {
            Refused::Port(port) => self.taker.refuse(Reason::TxFull, count, |verdict| verdict.port() == Some(port)),
            Refused::Twin => self.taker.refuse(Reason::PuntFull, count, |verdict| verdict == Verdict::Punt),
        }
    }

    #[inline]
    fn release(&mut self, now: Millis, frames: &mut Batch, verdicts: &mut [Verdict; BURST]) -> Option<PortIndex> {
        if self.held.is_empty() && self.handoff.is_empty() && self.next.is_none() {
            return None;
        }
        let Handed { frame, port, lcores } = self.again(now)?;
        let _ = frames.push(frame);
        while frames.len() < BURST
            && let Some(another) = self.again(now)
        {
            if (another.port, another.lcores) != (port, lcores) {
                self.next = Some(another);
                break;
            }
            let _ = frames.push(another.frame);
        }
        self.lcores = lcores;
        if self.taker.is_on() {
            self.process_again_watched(now, port, frames, verdicts);
            return Some(port);
        }
        let snapshot = self.snapshots.value();
        match lcores {
            0 => self.pipeline.process_released(snapshot, now, port, frames, verdicts),
            lcores => self.pipeline.process_handed(snapshot, now, port, lcores, frames, verdicts),
        };
        Some(port)
    }
}

/// Frames that are decided on again in one round, a burst less or more, as many as four ports give: other lcores' must not keep the ports from their
/// turn, nor the ports them from theirs.
const AGAIN: usize = 4 * BURSTS * BURST;

/// How long it takes to look at all remembered flows for those that are over.
const ROUND: Millis = Millis(10_000);

/// Bursts that a port gives in one round, at most: what is done once a round is then shared by several, where there is much to do.
const BURSTS: usize = 4;

/// Polls until `stop` is set. Never allocates, locks or calls the kernel, but for the naps of [`Idle::Sleep`].
pub fn run<W: Work>(plan: Plan<W>) {
    let Plan { mut ports, mut probes, mut work, counters, clock, idle, bells, stop } = plan;
    bells.lcore.hang();
    let mut punted = 0;
    let mut received = Batch::new();
    let mut verdicts = [Verdict::Punt; BURST];
    let mut sorted: Box<[Batch]> = (0..SORTED_PORTS + ports.len()).map(|_| Batch::new()).collect();
    let mut empty = 0_u32;
    let mut round_start = cycles::tsc();
    let mut kept_house = clock.at(round_start);

    while !stop.load(Ordering::Relaxed) {
        work.begin_round();
        let now = clock.at(round_start);
        if now != kept_house {
            work.keep_house(now, Millis(now.0 - kept_house.0), &counters.polling);
            kept_house = now;
        }
        let mut frames = 0;
        for index in 0..ports.len() {
            if let Some(inject) = &mut ports[index].inject {
                frames += inject.pop(&mut received);
                send_injected(&mut ports[index].queue, &mut received, &counters.ports[index]);
            }
            for _ in 0..BURSTS {
                let count = ports[index].queue.receive(&mut received);
                if count == 0 {
                    break;
                }
                frames += count;
                let only = work.process(now, PortIndex(index as u8), &mut received, &mut verdicts);
                let counters = &counters.ports[index];
                // Nearly every burst goes on by one port as a whole, and need not be sorted.
                match only.and_then(|port| ports.get_mut(usize::from(port.0))) {
                    Some(lane) => {
                        let refused = forward(lane, &mut received, counters);
                        if refused > 0 {
                            only.into_iter().for_each(|port| work.refused(refused, Refused::Port(port)));
                        }
                    }
                    None => {
                        settle(&mut work, &mut ports, index, &mut received, &verdicts, &mut sorted, counters);
                        set_aside(&mut work, now, PortIndex(index as u8), &mut sorted, &verdicts[..count], counters);
                        // It did not go on as a whole, which ends the turn: twin and other lcores get their part by single bursts.
                        break;
                    }
                }
                if count < BURST {
                    break;
                }
            }
        }
        if let Some(ring) = &mut probes
            && ring.pop(&mut received) > 0
        {
            frames += received.len();
            work.probe(&mut received, &mut verdicts);
            send_probes(&mut ports, &mut received, &verdicts, &mut sorted, &counters.polling);
        }
        let mut again = 0;
        while again < AGAIN
            && let Some(port) = work.release(now, &mut received, &mut verdicts)
        {
            let index = usize::from(port.0);
            let (count, counters) = (received.len(), &counters.ports[index]);
            again += count;
            settle(&mut work, &mut ports, index, &mut received, &verdicts, &mut sorted, counters);
            set_aside(&mut work, now, port, &mut sorted, &verdicts[..count], counters);
        }
        frames += again;
        let polling = &counters.polling;
        let mut round_end = cycles::tsc();
        if frames > 0 {
            empty = 0;
            polling.busy_polls.add(1);
            polling.busy_cycles.add(round_end.wrapping_sub(round_start));
        } else {
            empty = empty.saturating_add(1);
            polling.idle_polls.add(1);
            if empty == 1 && idle == Idle::Sleep && punted != counters.punted() {
                punted = counters.punted();
                bells.punt.ring();
            }
            if idle.rest(empty) {
                round_end = cycles::tsc();
            }
        }
        polling.total_cycles.add(round_end.wrapping_sub(round_start));
        round_start = round_end;
    }
}

/// Where frames of a burst go: to the twin, back to the pool, aside, to other lcores, or out by port p, which is
/// `SORTED_PORTS + p`.
const SORTED_PUNT: usize = 0;
const SORTED_DROP: usize = 1;
const SORTED_HOLD: usize = 2;
const SORTED_HAND_OVER: usize = 3;
const SORTED_PORTS: usize = 4;

/// Sends a whole burst by one port; gives how many of it found no room.
#[inline(always)]
fn forward(lane: &mut Lane, received: &mut Batch, counters: &PortBlock) -> usize {
    let count = received.len() as u64;
    let refused = lane.queue.send(received);
    counters.received.add(count);
    counters.forwarded.add(count - refused as u64);
    if refused > 0 {
        counters.dropped[Reason::TxFull as usize].add(refused as u64);
    }
    refused
}

/// Does with each frame that came by port `from` what its verdict says, and counts it.
fn settle<W: Work>(
    work: &mut W,
    ports: &mut [Lane],
    from: usize,
    received: &mut Batch,
    verdicts: &[Verdict; BURST],
    sorted: &mut [Batch],
    counters: &PortBlock,
) {
    let count = received.len();
    let (mut forwarded, mut answered, mut punted, mut aside) = (0, 0, 0, 0);
    received.deal(sorted, |index| match verdicts[index] {
        Verdict::Forward(port) => {
            forwarded += 1;
            SORTED_PORTS + usize::from(port.0)
        }
        Verdict::Answer(port) => {
            answered += 1;
            SORTED_PORTS + usize::from(port.0)
        }
        Verdict::Reject(port) => {
            counters.dropped[Reason::NoBackend as usize].add(1);
            SORTED_PORTS + usize::from(port.0)
        }
        Verdict::Punt => {
            punted += 1;
            SORTED_PUNT
        }
        Verdict::Hold => {
            aside += 1;
            SORTED_HOLD
        }
        Verdict::HandOver(_) => {
            aside += 1;
            SORTED_HAND_OVER
        }
        Verdict::Drop(reason) => {
            counters.dropped[reason as usize].add(1);
            SORTED_DROP
        }
    });

    for (index, lane) in ports.iter_mut().enumerate() {
        let refused = lane.queue.send(&mut sorted[SORTED_PORTS + index]);
        if refused > 0 {
            let (less_forwarded, less_answered) = refused_of(&verdicts[..count], PortIndex(index as u8), refused);
            forwarded -= less_forwarded;
            answered -= less_answered;
            counters.dropped[Reason::TxFull as usize].add(less_forwarded + less_answered);
            work.refused(refused, Refused::Port(PortIndex(index as u8)));
        }
    }
    if punted > 0 {
        let refused = match &mut ports[from].punt {
            Some(ring) => ring.push(&mut sorted[SORTED_PUNT]) as u64,
            None => 0,
        };
        sorted[SORTED_PUNT].clear();
        punted -= refused;
        counters.dropped[Reason::PuntFull as usize].add(refused);
        if refused > 0 {
            work.refused(refused as usize, Refused::Twin);
        }
    }
    sorted[SORTED_DROP].clear();

    // A frame counts with the verdict that it finally gets.
    counters.received.add(count as u64 - aside);
    counters.forwarded.add(forwarded);
    counters.answered.add(answered);
    counters.punted.add(punted);
}

/// Sets frames aside that wait, and passes on what other lcores may know better. What finds no room is dropped and counted.
#[inline(always)]
fn set_aside<W: Work>(
    work: &mut W,
    now: Millis,
    port: PortIndex,
    sorted: &mut [Batch],
    verdicts: &[Verdict],
    counters: &PortBlock,
) {
    let refuse = |frames: &mut Batch, reason: Reason| {
        let refused = frames.len() as u64;
        frames.clear();
        counters.received.add(refused);
        counters.dropped[reason as usize].add(refused);
    };
    if !sorted[SORTED_HOLD].is_empty() {
        work.hold(now, port, &mut sorted[SORTED_HOLD]);
        refuse(&mut sorted[SORTED_HOLD], Reason::FragmentUnknown);
    }
    if !sorted[SORTED_HAND_OVER].is_empty() {
        work.hand_over(port, &mut sorted[SORTED_HAND_OVER], verdicts);
        refuse(&mut sorted[SORTED_HAND_OVER], Reason::HandoffFull);
    }
}

/// How many of the `refused` frames for `port` were forwarded, how many answered; the rest are refusals, which count as dropped
/// already. A device takes from the front, so these are the last.
#[cold]
fn refused_of(verdicts: &[Verdict], port: PortIndex, refused: usize) -> (u64, u64) {
    let [forward, answer, reject] = [Verdict::Forward(port), Verdict::Answer(port), Verdict::Reject(port)];
    let to_port = |verdict: &&Verdict| [forward, answer, reject].contains(verdict);
    let count = |of: Verdict| {
        verdicts.iter().rev().filter(to_port).take(refused).filter(|&&verdict| verdict == of).count() as u64
    };
    (count(forward), count(answer))
}

/// Sends what the kernel twin gave.
#[inline(always)]
fn send_injected(queue: &mut Queue, frames: &mut Batch, counters: &PortBlock) {
    let count = frames.len();
    if count > 0 {
        let refused = queue.send(frames);
        counters.injected.add((count - refused) as u64);
        counters.inject_refused.add(refused as u64);
    }
}

/// Sends packets of health checks where their verdicts say.
#[cold]
fn send_probes(
    ports: &mut [Lane],
    probes: &mut Batch,
    verdicts: &[Verdict; BURST],
    sorted: &mut [Batch],
    counters: &LoopBlock,
) {
    let count = probes.len();
    probes.deal(sorted, |index| match verdicts[index] {
        Verdict::Forward(port) => SORTED_PORTS + usize::from(port.0),
        _ => SORTED_DROP,
    });
    let mut refused = sorted[SORTED_DROP].len();
    sorted[SORTED_DROP].clear();
    for (lane, batch) in ports.iter_mut().zip(&mut sorted[SORTED_PORTS..]) {
        refused += lane.queue.send(batch);
    }
    counters.probes.add((count - refused) as u64);
    counters.probes_refused.add(refused as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_are_the_last_of_their_port() {
        use Verdict::{Answer, Forward, Punt, Reject};
        let (here, there) = (PortIndex(0), PortIndex(1));
        let verdicts = [Forward(here), Answer(here), Forward(there), Punt, Answer(there), Forward(here)];
        assert_eq!(refused_of(&verdicts, here, 1), (1, 0));
        assert_eq!(refused_of(&verdicts, here, 2), (1, 1));
        assert_eq!(refused_of(&verdicts, here, 3), (2, 1));
        assert_eq!(refused_of(&verdicts, there, 2), (1, 1));
        assert_eq!(refused_of(&[Forward(here), Reject(here), Answer(here)], here, 2), (0, 1));
    }
}
