//! Flows of `snat` that have their translation: what of a burst is found by it, in loops of its own.

use super::{BURST, Burst, take_bit};
use crate::flow::{Head, prefetch};
use crate::mode::State;
use crate::pipeline::translation;
use crate::snapshot::{ServiceIndex, Snapshot, Target, TargetIndex};
use crate::wire::Frame;
use crate::wire::ipv4::protocol;

/// Where the packets of a translated flow go, beside their service.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// As [`Via`](crate::flow::Via) has it.
    target: u32,
    /// The number of the translation.
    slot: u32,
}

impl Way {
    pub const NONE: Self = Self { target: 0, slot: 0 };
}

impl Burst {
    /// Finds the translations of those of these trains, a bit each, whose flow needs no second look; gives the others.
    #[inline(always)]
    pub(super) fn find_translated(&mut self, trains: u32, snapshot: &Snapshot, state: &State) -> u32 {
        let mut heads = [Head::NONE; BURST];
        let mut bits = trains;
        while bits != 0 {
            let train = take_bit(&mut bits);
            heads[train] = state.nat.v4.head(&self.flows.get(train).key());
        }
        let (mut bits, mut others) = (trains, 0);
        while bits != 0 {
            let train = take_bit(&mut bits);
            let key = self.flows.get(train).key();
            match translation::current(&state.nat, heads[train], &key, snapshot.serial(), state.now) {
                Some((slot, via)) => {
                    self.services[train] = ServiceIndex::from_bits(via.service);
                    self.ways[train] = Way { target: via.target, slot: slot.0 };
                }
                None => others |= 1 << train,
            }
        }
        self.translated |= trains & !others;
        self.special |= trains & !others;
        others
    }

    /// The targets of these trains, a bit each.
    #[inline(always)]
    pub(super) fn select_translated<'a>(
        &mut self,
        mut trains: u32,
        snapshot: &'a Snapshot,
        targets: &mut [&'a Target; BURST],
    ) {
        while trains != 0 {
            let train = take_bit(&mut trains);
            let Way { target, slot } = self.ways[train];
            self.hashes[train] = slot.into();
            targets[train] = snapshot.target(TargetIndex::from_bits(self.services[train].to_bits(), target));
            prefetch(targets[train]);
        }
    }

    /// Translates those of these frames, a bit each, that are TCP and fit; gives the others.
    #[inline(never)]
    pub(super) fn apply_translated<F: Frame>(
        &self,
        mut bits: u32,
        frames: &mut [F],
        targets: &[&Target; BURST],
        state: &mut State,
    ) -> u32 {
        let mut others = 0;
        while bits != 0 {
            let at = take_bit(&mut bits);
            let (frame, train) = (&mut frames[at], usize::from(self.trains[at]));
            let snat = match targets.get(train) {
                Some(target) if self.translated >> train & 1 != 0 => target.mode.translates(),
                _ => None,
            };
            let snat = snat.filter(|_| self.flows.get(train).protocol() == protocol::TCP);
            if snat.is_none_or(|snat| snat.send_v4(frame, self.lengths[at], self.ways[train].slot, state).is_err()) {
                others |= 1 << at;
            }
        }
        others
    }
}
