//! What of a burst is plain over IPv6: the same stages, in loops of their own.

use super::{APART, BURST, Burst, ServiceIndex, Sum, take_bit};
use crate::flow::Flows;
use crate::maglev::SelectionHash;
use crate::pipeline::matching::{LastV6, find_one_v6};
use crate::pipeline::parse::{FlowV6, Parsed};
use crate::pipeline::recall;
use crate::snapshot::{Snapshot, Target};
use crate::wire::{Frame, Mac};

impl Burst {
    /// Reads and matches those of these frames, a bit each, that are plain over IPv6 and plainly a service's; gives the others.
    #[inline(never)]
    pub fn find_v6<F: Frame>(
        &mut self,
        frames_left: u32,
        frames: &[F],
        station: Mac,
        snapshot: &Snapshot,
        flows: &Flows,
    ) -> u32 {
        let (trains, others) = if frames_left == self.frames() && self.count == 0 {
            self.parse_all_v6(frames_left, frames, station)
        } else {
            self.parse_v6(frames_left, frames, station, FlowV6::NONE)
        };
        self.plain_v6 = trains;
        let rest = self.match_v6(trains, snapshot, flows);
        self.was_v6 = others | rest == 0 && frames_left == self.frames();
        others | self.break_up(rest)
    }

    /// Reads all frames, a bit each; gives what [`Burst::parse_v6`] does.
    #[inline(always)]
    fn parse_all_v6<F: Frame>(&mut self, all: u32, frames: &[F], station: Mac) -> (u32, u32) {
        let count = read_plain_v6(self, frames, station);
        self.trains[..count].copy_from_slice(&APART[..count]);
        for (sent, &total) in self.sent[..count].iter_mut().zip(&self.lengths[..count]) {
            *sent = Sum::new(1, total.into());
        }
        self.count = count;
        let trains = self.all();
        self.is_apart = trains == all;
        if self.is_apart {
            return (trains, 0);
        }
        let last = count.checked_sub(1).map_or(FlowV6::NONE, |last| self.flows_v6.get(last));
        let (more, others) = self.parse_v6(all & !trains, frames, station, last);
        (trains | more, others)
    }

    /// Reads those of these frames, a bit each, that are plain over IPv6; gives their trains, and the others. `last`: the flow of the last train,
    /// where the frame before the first of these is of it.
    #[inline(never)]
    fn parse_v6<F: Frame>(&mut self, mut frames_left: u32, frames: &[F], station: Mac, mut last: FlowV6) -> (u32, u32) {
        let (station, mut trains, mut others) = (station.bits(), 0, 0);
        let mut train = self.count.saturating_sub(1);
        while frames_left != 0 {
            let at = take_bit(&mut frames_left);
            let Some((total, flow)) = Parsed::plain_v6(frames[at].bytes(), station) else {
                others |= 1 << at;
                // It may be of the same flow, and change what is known of it.
                last = FlowV6::NONE;
                continue;
            };
            if flow == last {
                (self.trains[at], self.lengths[at]) = (train as u8, total);
                self.sent[train].add(Sum::new(1, total.into()));
                continue;
            }
            train = self.begin(at, total, ServiceIndex::NONE);
            self.flows_v6.set(train, &flow);
            trains |= 1 << train;
            last = flow;
        }
        (trains, others)
    }

    /// Matches these trains, a bit each; gives those that are not plainly a service's.
    #[inline(always)]
    fn match_v6(&mut self, mut trains: u32, snapshot: &Snapshot, flows: &Flows) -> u32 {
        if trains == self.all()
            && let Some((service, recalls)) = find_one_v6(&self.flows_v6, self.count, snapshot)
        {
            self.services.fill(service);
            self.sole = Some(service);
            if recalls {
                each(trains, |train| self.ask_v6(train, flows));
            }
            return 0;
        }
        let (mut last, mut rest) = (LastV6::NONE, 0);
        while trains != 0 {
            let train = take_bit(&mut trains);
            let Some((service, recalls)) = last.find_plain(&self.flows_v6.get(train), snapshot) else {
                rest |= 1 << train;
                continue;
            };
            self.services[train] = service;
            if recalls {
                self.ask_v6(train, flows);
            }
        }
        rest
    }

    /// Notes where the flow of a train over IPv6 is looked for, and has it fetched from there.
    #[inline(always)]
    fn ask_v6(&mut self, train: usize, flows: &Flows) {
        let flow = self.flows_v6.get(train);
        let (spot, says) = (recall::spot(flows, &flow.tuple()), flow.says());
        self.ask_for(train, spot, says);
        self.homes[train] = flows.home(spot);
        flows.prefetch(self.homes[train]);
    }

    /// Hashes the clients of these trains, a bit each, some of which are over IPv6. (Of a mixed burst many of either family go in step, in all
    /// places, and take what is theirs: still less than one by one.)
    #[inline(never)]
    pub(super) fn hash_both(&mut self, trains: u32, hash: &SelectionHash) {
        let (v6, v4) = (trains & self.plain_v6, trains & !self.plain_v6);
        if v6.count_ones() < Self::MANY {
            each(v6, |train| self.hashes[train] = hash.client_v6(self.flows_v6.get(train).client()));
        } else if self.plain_v6 == self.all() {
            self.flows_v6.hash(self.count, hash, &mut self.hashes);
        } else {
            let mut hashes = [0; BURST];
            self.flows_v6.hash(self.count, hash, &mut hashes);
            each(v6, |train| self.hashes[train] = hashes[train]);
        }
        if v4.count_ones() < Self::MANY {
            each(v4, |train| self.hashes[train] = hash.client(self.hashed(train)));
        } else {
            let mut hashes = [0; BURST];
            self.gather_clients();
            hash.clients(&self.clients, &mut hashes, self.count);
            each(v4, |train| self.hashes[train] = hashes[train]);
        }
    }

    /// The same for those of these frames, a bit each, that go straight over IPv6; gives the others.
    #[inline(never)]
    pub(super) fn apply_v6<F: Frame>(&self, mut bits: u32, frames: &mut [F], targets: &[&Target; BURST]) -> u32 {
        if self.is_apart && self.plain_v6 == self.all() {
            return send_each_v6(frames, targets, &self.lengths, &self.hashes);
        }
        let mut others = 0;
        while bits != 0 {
            let at = take_bit(&mut bits);
            let (frame, train) = (&mut frames[at], usize::from(self.trains[at]));
            let straight = targets.get(train).and_then(|target| target.mode.straight_v6());
            if straight.is_none_or(|outer| outer.wrap_v6(frame, self.lengths[at], self.hashes[train % BURST]).is_err())
            {
                others |= 1 << at;
            }
        }
        others
    }
}

/// Reads frames up to the first that is not plain over IPv6, or of the flow of the one before it: each is a train of its own. Gives how many. With
/// the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn read_plain_v6<F: Frame>(burst: &mut Burst, frames: &[F], station: Mac) -> usize {
    let (station, frames) = (station.bits(), &frames[..frames.len().min(BURST)]);
    let (mut at, mut last) = (0, FlowV6::NONE);
    while at < frames.len() {
        let Some((total, flow)) = Parsed::plain_v6(frames[at].bytes(), station) else { break };
        if flow == last {
            break;
        }
        burst.lengths[at] = total;
        burst.flows_v6.set(at, &flow);
        last = flow;
        at += 1;
    }
    at
}

/// Sends each packet to its own target; gives those that cannot go straight, a bit each. With the instructions that this CPU has.
#[multiversion::multiversion(targets("x86_64+avx2+bmi1+bmi2+lzcnt+movbe+popcnt"))]
#[inline(never)]
fn send_each_v6<F: Frame>(
    frames: &mut [F],
    targets: &[&Target; BURST],
    lengths: &[u16; BURST],
    hashes: &[u64; BURST],
) -> u32 {
    let mut others = 0;
    for (at, (((frame, target), &total), &hash)) in frames.iter_mut().zip(targets).zip(lengths).zip(hashes).enumerate()
    {
        if target.mode.straight_v6().is_none_or(|outer| outer.wrap_v6(frame, total, hash).is_err()) {
            others |= 1 << at;
        }
    }
    others
}

/// Does this with each of these bits' numbers.
#[inline(always)]
fn each(mut bits: u32, mut with: impl FnMut(usize)) {
    while bits != 0 {
        with(take_bit(&mut bits));
    }
}
