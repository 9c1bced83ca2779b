//! What of a burst is plain over IPv6: the same stages, in loops of their own.

use super::{BURST, Burst, ServiceIndex, Sum, take_bit};
use crate::flow::Flows;
use crate::maglev::SelectionHash;
use crate::pipeline::matching::LastV6;
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
        let (trains, others) = self.parse_v6(frames_left, frames, station);
        let rest = self.match_v6(trains, snapshot, flows);
        self.was_v6 = others | rest == 0 && frames_left == self.frames();
        others | self.break_up(rest)
    }

    /// Reads those of these frames, a bit each, that are plain over IPv6; gives their trains, and the others.
    #[inline(always)]
    fn parse_v6<F: Frame>(&mut self, mut frames_left: u32, frames: &[F], station: Mac) -> (u32, u32) {
        let (station, mut trains, mut others) = (station.bits(), 0, 0);
        let (mut last, mut train) = (FlowV6::NONE, 0);
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
            self.flows_v6[train] = flow;
            trains |= 1 << train;
            last = flow;
        }
        self.plain_v6 = trains;
        (trains, others)
    }

    /// Matches these trains, a bit each; gives those that are not plainly a service's.
    #[inline(always)]
    fn match_v6(&mut self, mut trains: u32, snapshot: &Snapshot, flows: &Flows) -> u32 {
        let (mut last, mut rest) = (LastV6::NONE, 0);
        while trains != 0 {
            let train = take_bit(&mut trains);
            let flow = &self.flows_v6[train];
            let Some((service, recalls)) = last.find_plain(flow, snapshot) else {
                rest |= 1 << train;
                continue;
            };
            self.services[train] = service;
            if recalls {
                let (spot, says) = (recall::spot(flows, &flow.tuple()), flow.says());
                self.ask_for(train, spot, says);
                self.homes[train] = flows.home(spot);
                flows.prefetch(self.homes[train]);
            }
        }
        rest
    }

    /// Hashes the clients of these trains, a bit each, some of which are over IPv6. (Of a mixed burst many of either family go in step, in all
    /// places, and take what is theirs: still less than one by one.)
    #[inline(never)]
    pub(super) fn hash_both(&mut self, trains: u32, hash: &SelectionHash) {
        let (v6, v4) = (trains & self.plain_v6, trains & !self.plain_v6);
        if v6.count_ones() < Self::MANY {
            each(v6, |train| self.hashes[train] = hash.client_v6(self.flows_v6[train].client()));
        } else {
            let flows = &self.flows_v6[..self.count.min(BURST)];
            self.clients_v6.iter_mut().zip(flows).for_each(|(client, flow)| *client = flow.client());
            if self.plain_v6 == self.all() {
                hash.clients_v6(&self.clients_v6, &mut self.hashes, self.count);
            } else {
                let mut hashes = [0; BURST];
                hash.clients_v6(&self.clients_v6, &mut hashes, self.count);
                each(v6, |train| self.hashes[train] = hashes[train]);
            }
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

/// Does this with each of these bits' numbers.
#[inline(always)]
fn each(mut bits: u32, mut with: impl FnMut(usize)) {
    while bits != 0 {
        with(take_bit(&mut bits));
    }
}
