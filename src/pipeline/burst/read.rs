//! The first stage over IPv4: what is plain of a burst, train by train.

use super::{BURST, Burst, NO_TRAIN, Sum};
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
        self.is_ahead = snapshot.recalls() && self.was_recalled;
        // As the last burst came, this one will.
        let so_far = match (self.comes_in_trains(), self.is_ahead) {
            _ if std::mem::take(&mut self.was_v6) => self.parse_none(frames.len(), station),
            (true, _) => self.parse_trains(frames, station, flows),
            (false, true) => self.parse_each(frames, station, Some(flows)),
            (false, false) => self.parse_each(frames, station, None),
        };
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
        self.lengths[at] = total;
        if flow != so_far.last {
            let new = so_far.trains % BURST;
            (self.flows[new], self.sent[new]) = (flow, Sum::new(1, total.into()));
            (so_far.last, so_far.trains) = (flow, so_far.trains + 1);
            self.trains[at] = new as u8;
            if let Some(flows) = flows {
                self.ask(new, flow, flows);
            }
        } else {
            let current = so_far.current();
            self.trains[at] = current as u8;
            self.sent[current].add(Sum::new(1, total.into()));
        }
        Some(flow)
    }
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
