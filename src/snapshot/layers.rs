//! The bases of a table's slots as lcores read them: dense, by the members of the table now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::tables::Table;
use super::transition::{Bases, Owners};
use crate::maglev::{self, NOBODY};

/// Empty: every slot is at rest.
#[derive(Debug, Default)]
pub struct Layers {
    /// The oldest first, which counts.
    layers: Box<[Layer]>,
    /// Slots of the table now.
    slots: u32,
    no_room: Arc<NoRoom>,
}

/// Of the slots of one size of table.
#[derive(Debug)]
struct Layer {
    size: u32,
    /// By slot; [`NOBODY`]: none is held.
    bases: Box<[u16]>,
}

/// Which slots had no room for a flow. Written by lcores, though only when their memory is full.
#[derive(Debug, Default)]
pub struct NoRoom {
    slots: Box<[AtomicU64]>,
    /// Whether any had none: all that is known of the slots of other tables.
    any: AtomicBool,
}

impl Layers {
    /// Those of a table whose `bases` these are. `before`: of the same services until now.
    pub fn new(bases: &Bases, table: &Table, before: &Self) -> Self {
        if bases.is_at_rest() {
            return Self::default();
        }
        let endpoints = table.endpoints();
        // Members of one table are sorted, and so are their endpoints.
        let member = |base: SocketAddr| endpoints.binary_search(&base).map_or(NOBODY, |member| member as u16);
        let layer = |(size, held): (u32, &[super::Held])| {
            let mut bases = vec![NOBODY; size as usize];
            let mut last = None;
            for held in held {
                // Neighbours often share theirs.
                let member = match last {
                    Some((base, member)) if base == held.base => member,
                    _ => member(held.base),
                };
                last = Some((held.base, member));
                bases[held.slot as usize] = member;
            }
            Layer { size, bases: bases.into() }
        };
        let slots = table.now.len() as u32;
        let no_room = if before.slots == slots { before.no_room.clone() } else { Arc::new(NoRoom::new(slots)) };
        let layers: Box<[Layer]> = bases.layers().map(layer).collect();
        // What a slot had no room for before it was held is of no account.
        no_room.keep(|slot| layers.iter().any(|layer| layer.size != slots || layer.bases[slot as usize] != NOBODY));
        Self { layers, slots, no_room }
    }

    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.layers.is_empty()
    }

    /// The base of a hash, where it is held.
    #[inline]
    pub fn base(&self, hash: u64) -> Option<u16> {
        self.layers.iter().find_map(|layer| {
            let base = *layer.bases.get(maglev::slot(hash, layer.size))?;
            (base != NOBODY).then_some(base)
        })
    }

    /// The base of a slot of the table now, where it is held, and the table had this size all the time.
    pub fn base_of_slot(&self, slot: u32) -> Option<u16> {
        let layer = self.layers.iter().find(|layer| layer.size == self.slots)?;
        layer.bases.get(slot as usize).copied().filter(|&base| base != NOBODY)
    }

    /// Notes that there was no room for a flow of this slot of the table now. At rest that is of no account.
    pub fn note_no_room(&self, slot: u32) {
        if self.layers.iter().any(|layer| layer.size != self.slots) || self.base_of_slot(slot).is_some() {
            self.no_room.note(slot);
        }
    }

    /// Whether a slot had no room for a flow since this was last asked of it: by the size of its table, and its number.
    pub fn had_no_room(&self) -> impl Fn(u32, u32) -> bool {
        let any = self.no_room.any.swap(false, Ordering::Relaxed);
        move |size, slot| if size == self.slots { self.no_room.take(slot) } else { any }
    }
}

impl NoRoom {
    fn new(slots: u32) -> Self {
        let words = slots.div_ceil(u64::BITS);
        Self { slots: (0..words).map(|_| AtomicU64::new(0)).collect(), any: AtomicBool::new(false) }
    }

    fn note(&self, slot: u32) {
        if let Some(word) = self.slots.get((slot / u64::BITS) as usize) {
            let bit = 1 << (slot % u64::BITS);
            // Most notes are of what is known; a line that nobody writes stays in everybody's cache.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
                self.any.store(true, Ordering::Relaxed);
            }
        }
    }

    fn take(&self, slot: u32) -> bool {
        let bit = 1 << (slot % u64::BITS);
        let word = self.slots.get((slot / u64::BITS) as usize);
        word.is_some_and(|word| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }

    /// Forgets what is noted of other slots.
    fn keep(&self, is_held: impl Fn(u32) -> bool) {
        for (word, number) in self.slots.iter().zip(0..) {
            let noted = word.load(Ordering::Relaxed);
            let others = (0..u64::BITS).filter(|bit| noted >> bit & 1 == 1 && !is_held(number * u64::BITS + bit));
            let others = others.fold(0, |bits, bit| bits | 1_u64 << bit);
            if others != 0 {
                word.fetch_and(!others, Ordering::Relaxed);
            }
        }
    }
}

impl Table {
    /// What tells its members from others: their address, and their own port (0: none).
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let members = self.shape.recipe.members.iter();
        members.map(|member| SocketAddr::new(member.address, member.port.unwrap_or(0))).collect()
    }

    /// The bases of its slots after the change from `old`.
    pub fn bases_after(&self, old: &Self, bases: &Bases) -> Bases {
        let (before, after) = (old.endpoints(), self.endpoints());
        let keeps = |endpoint: SocketAddr| {
            let member = after.binary_search(&endpoint);
            member.is_ok_and(|member| self.shape.states[member] != crate::service::State::Down)
        };
        let old = Owners { slots: &old.now, endpoints: &before };
        bases.after(old, Owners { slots: &self.now, endpoints: &after }, keeps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_without_room_are_told_once() {
        let no_room = NoRoom::new(130);
        for slot in [0, 63, 64, 129] {
            no_room.note(slot);
        }
        no_room.keep(|slot| slot != 63);
        let told: Vec<u32> = (0..130).filter(|&slot| no_room.take(slot)).collect();
        assert_eq!(told, [0, 64, 129]);
        assert!((0..130).all(|slot| !no_room.take(slot)));
    }
}
