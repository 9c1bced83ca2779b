//! The first stage over IPv4: what is plain of a burst, train by train.

use super::{APART, BURST, Burst, NO_TRAIN, Sum};
use crate::flow::{Flows, Spots};
use crate::pipeline::alike::Alike;
use crate::pipeline::parse::{Flow, Parsed};
use crate::snapshot::Snapshot;
use crate::wire::{Frame, Mac};

/// Of a burst that is being read.
struct SoFar {
    /// As [`Mac::bits`].
    station: u64,
    /// The flow of the frame before.
    last: Flow,
    trains: usize,
    /// The places of what is not plain, a bit each.
    others: u32,
}

impl SoFar {
    #[inline(always)]
    fn begin(station: Mac) -> Self {
        Self { station: station.bits(), last: Flow::NONE, trains: 0, others: 0 }
    }

    /// The train of the frame before, where that was plain.
    #[inline(always)]
    fn current(&self) -> usize {
        self.trains.wrapping_sub(1) % BURST
    }
}

impl Burst {
    /// Reads what is plain, and gives the places of what is not, a bit each.
    #[inline(always)]
    pub fn parse<F: Frame>(&mut self, frames: &[F], station: Mac, snapshot: &Snapshot, flows: &Flows) -> u32 {
        for frame in frames {
            frame.prefetch();
        }
        self.parse_with(frames, station, snapshot.recalls() && self.was_recalled, flows)
    }

    /// The same; `is_ahead`: asks for the flows.
    #[inline(always)]
    fn parse_with<F: Frame>(&mut self, frames: &[F], station: Mac, is_ahead: bool, flows: &Flows) -> u32 {
        self.is_ahead = is_ahead;
        // As the last burst came, this one will.
        let so_far = match (self.comes_in_trains(), self.is_ahead) {
            _ if std::mem::take(&mut self.was_v6) => self.parse_none(frames.len(), station),
            _ if self.is_apart => self.parse_apart(frames, station, flows),
            (true, _) => self.parse_trains(frames, station, flows),
            (false, true) => self.parse_each(frames, station, Some(flows)),
            (false, false) => self.parse_each(frames, station, None),
        };
        self.is_apart = so_far.trains == frames.len();
        (self.frames, self.count) = (frames.len().min(BURST), so_far.trains.min(BURST));
        self.plain = self.all();
        (self.plain_v6, self.free, self.special, self.translated, self.is_mixed) = (0, 0, 0, 0, false);
        (self.asked, self.telling, self.absent) = (0, 0, 0);
        so_far.others
    }

    /// Notes where the flow of a plain train is looked for, and has it fetched from there.
    #[inline(always)]
    pub fn ask(&mut self, train: usize, flow: Flow, flows: &Flows) {
        let spot = flows.spot(flow.key().words());
        let home = flows.home(spot);
        flows.prefetch(home);
        (self.spots[train], self.homes[train]) = (spot, home);
    }

    /// Leaves all to others.
    #[inline(never)]
    fn parse_none(&mut self, count: usize, station: Mac) -> SoFar {
        self.trains.fill(NO_TRAIN);
        SoFar { others: ((1_u64 << count.min(BURST)) - 1) as u32, ..SoFar::begin(station) }
    }

    /// Reads what follows each other in other flows.
    #[inline(always)]
    fn parse_apart<F: Frame>(&mut self, frames: &[F], station: Mac, flows: &Flows) -> SoFar {
        let at = match self.is_ahead {
            true => read_plain::<F, true>(self, frames, station, flows),
            false => read_plain::<F, false>(self, frames, station, flows),
        };
        if at < frames.len() || !self.flows.end_without_neighbours(at) {
            return self.parse_on(frames, at, station, self.is_ahead.then_some(flows));
        }
        self.trains = APART;
        for (sent, &total) in self.sent[..at].iter_mut().zip(&self.lengths[..at]) {
            *sent = Sum::new(1, total.into());
        }
        SoFar { trains: at, ..SoFar::begin(station) }
    }

    /// Makes trains of the frames before `next`, which are read, and reads the others.
    #[inline(never)]
    fn parse_on<F: Frame>(&mut self, frames: &[F], next: usize, station: Mac, flows: Option<&Flows>) -> SoFar {
        let mut so_far = SoFar::begin(station);
        for at in 0..next {
            let (spot, home) = (self.spots[at], self.homes[at]);
            if let Some(new) = self.note(&mut so_far, at, self.lengths[at], self.flows.get(at)) {
                (self.spots[new], self.homes[new]) = (spot, home);
            }
        }
        for (at, frame) in frames.iter().enumerate().skip(next) {
            self.read(&mut so_far, at, frame, flows);
        }
        so_far
    }

    /// Reads one frame after the other; asks `flows` for each new one.
    #[inline(always)]
    fn parse_each<F: Frame>(&mut self, frames: &[F], station: Mac, flows: Option<&Flows>) -> SoFar {
        let mut so_far = SoFar::begin(station);
        for (at, frame) in frames.iter().enumerate() {
            self.read(&mut so_far, at, frame, flows);
        }
        so_far
    }

    /// The same, but segments that follow one of their flow are compared with it.
    #[inline(never)]
    fn parse_trains<F: Frame>(&mut self, frames: &[F], station: Mac, flows: &Flows) -> SoFar {
        let flows = self.is_ahead.then_some(flows);
        let (mut so_far, mut at) = (SoFar::begin(station), 0);
        while let Some(frame) = frames.get(at) {
            let flow = self.read(&mut so_far, at, frame, flows);
            at += 1;
            if let Some(alike) = flow.and_then(|flow| Alike::to(frame.bytes(), flow)) {
                at = follow(self, alike, frames, at, so_far.current());
            }
        }
        so_far
    }

    /// Reads the frame at `at`; gives its flow where it is plain.
    #[inline(always)]
    fn read<F: Frame>(&mut self, so_far: &mut SoFar, at: usize, frame: &F, flows: Option<&Flows>) -> Option<Flow> {
        let at = at % BURST;
        let Some((total, flow)) = Parsed::plain(frame.bytes(), so_far.station) else {
            self.trains[at] = NO_TRAIN;
            so_far.others |= 1 << at;
            // It may be of the same flow, and change what is known of it.
            so_far.last = Flow::NONE;
            return None;
        };
        if let (Some(new), Some(flows)) = (self.note(so_far, at, total, flow), flows) {
            self.ask(new, flow, flows);
        }
        Some(flow)
    }

    /// Notes that the frame at `at` is of this flow, and so long; gives the train that it begins, if it does.
    #[inline(always)]
    fn note(&mut self, so_far: &mut SoFar, at: usize, total: u16, flow: Flow) -> Option<usize> {
        self.lengths[at] = total;
        if flow == so_far.last {
            let current = so_far.current();
            self.trains[at] = current as u8;
            self.sent[current].add(Sum::new(1, total.into()));
            return None;
        }
        let new = so_far.trains % BURST;
        self.flows.set(new, flow);
        self.sent[new] = Sum::new(1, total.into());
        (so_far.last, so_far.trains) = (flow, so_far.trains + 1);
        self.trains[at] = new as u8;
        Some(new)
    }
}

/// Reads frames up to the first that is not plain, as if each were a train of its own, and asks for each flow where `IS_AHEAD`. Gives how many. With
/// the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn read_plain<F: Frame, const IS_AHEAD: bool>(burst: &mut Burst, frames: &[F], station: Mac, flows: &Flows) -> usize {
    let (station, frames) = (station.bits(), &frames[..frames.len().min(BURST)]);
    let mut at = 0;
    while at < frames.len() {
        let Some((total, flow)) = Parsed::plain(frames[at].bytes(), station) else { break };
        burst.lengths[at] = total;
        burst.flows.set(at, flow);
        if IS_AHEAD {
            burst.ask(at, flow, flows);
        }
        at += 1;
    }
    at
}

/// Has those of `frames` from `next` on go with a train that are alike; gives the place of the first that is not. With the instructions that
/// this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn follow<F: Frame>(burst: &mut Burst, alike: Alike, frames: &[F], next: usize, train: usize) -> usize {
    let frames = &frames[..frames.len().min(BURST)];
    let (mut at, mut bytes) = (next, 0);
    while at < frames.len() {
        let Some(total) = alike.total(frames[at].bytes()) else { break };
        (burst.trains[at], burst.lengths[at]) = (train as u8, total);
        bytes += u32::from(total);
        at += 1;
    }
    burst.sent[train].add(Sum::new((at - next) as u32, bytes));
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::parse::tests::{STATION, seal, sound};
    use crate::wire::ipv4::protocol;
    use proptest::prelude::*;

    struct Plain(Vec<u8>);

    impl Frame for Plain {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
        fn reshape(&mut self, _front: usize, _length: usize) -> Option<&mut [u8]> {
            None
        }
        fn strip(&mut self, _count: usize) -> bool {
            false
        }
    }

    /// Of the client of this number; 0: not plain.
    fn frame(client: u8, more: u8) -> Plain {
        let mut frame = sound(protocol::TCP, more.into());
        frame[29] = client;
        frame[22] += more;
        seal(&mut frame);
        if client == 0 {
            frame[14] = 0x46;
        }
        Plain(frame)
    }

    /// What was found: the trains, and of each its flow, what was sent of it, and where it is asked for.
    fn found(burst: &Burst, others: u32, is_ahead: bool) -> impl PartialEq + std::fmt::Debug {
        let of = |train: usize| {
            let asked = is_ahead.then(|| (burst.spots[train], burst.homes[train]));
            (burst.flows.get(train), burst.sent[train].0, asked)
        };
        let is_plain = |at: &usize| burst.trains[*at] != NO_TRAIN;
        let lengths: Vec<u16> = (0..burst.frames).filter(is_plain).map(|at| burst.lengths[at]).collect();
        let trains = burst.trains[..burst.frames].to_vec();
        (others, trains, lengths, (0..burst.count).map(of).collect::<Vec<_>>())
    }

    proptest! {
        /// However the burst before came, and however this one does.
        #[test]
        fn a_burst_is_read_as_if_it_were_the_first(
            bursts in prop::collection::vec((0_u8..40, prop::collection::vec((any::<u8>(), 0_u8..3), 1..=BURST)), 1..8),
            is_ahead: bool,
        ) {
            let flows = Flows::new(100, [1, 2]);
            let mut burst = Burst::EMPTY;
            for (clients, frames) in bursts {
                // Of hardly any client each, or of all, of which none is not plain.
                let client = |k: u8| if clients < 4 { k % (clients + 1) } else { k.max(1) };
                let frames: Vec<Plain> = frames.into_iter().map(|(k, more)| frame(client(k), more)).collect();
                let mut fresh = Burst::EMPTY;
                let [again, first] = [&mut burst, &mut fresh].map(|burst| {
                    let others = burst.parse_with(&frames, STATION.mac, is_ahead, &flows);
                    found(burst, others, is_ahead)
                });
                prop_assert_eq!(again, first);
                prop_assert_eq!(burst.is_apart, burst.count == burst.frames);
            }
        }
    }
}
