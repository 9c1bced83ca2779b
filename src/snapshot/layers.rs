//! The bases of a table's slots as lcores read them: dense, by the members of the table now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Millis;
use super::tables::Table;
use super::transition::{Bases, By, Owners, Space};
use crate::flow::prefetch;
use crate::maglev::{self, NOBODY};

/// Empty: every slot is at rest.
#[derive(Debug, Default)]
pub struct Layers {
    /// The oldest first, which counts.
    layers: Box<[Layer]>,
    /// The slots of the table now; none where all are at rest.
    now: Option<Space>,
    no_room: Arc<NoRoom>,
}

/// Of the slots of one table.
#[derive(Debug)]
struct Layer {
    space: Space,
    /// By slot; [`NOBODY`]: none is held.
    bases: Box<[u16]>,
}

/// Which slots had no room for a flow. Written by lcores, though only when their memory is full.
#[derive(Debug, Default)]
pub struct NoRoom {
    slots: Box<[AtomicU64]>,
    /// Whether any had none, be it one of the table before, which some lcores may still use: all that is known of the slots of other
    /// tables.
    any: Arc<Lately>,
    /// Whether there was a table before that had other slots.
    was_resized: bool,
}

/// Something that happens, and is asked for now and then.
#[derive(Debug, Default)]
struct Lately {
    /// Since it was last asked for.
    is_new: AtomicBool,
    /// When it was last told, in milliseconds: those who wait for different times all hear of it.
    told: AtomicU64,
}

impl Lately {
    fn happens(&self) {
        if !self.is_new.load(Ordering::Relaxed) {
            self.is_new.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it may have happened within `idle` before `now`.
    fn happened(&self, now: Millis, idle: Millis) -> bool {
        if self.is_new.swap(false, Ordering::Relaxed) {
            self.told.store(now.0, Ordering::Relaxed);
        }
        let told = self.told.load(Ordering::Relaxed);
        told > 0 && told.saturating_add(idle.0) > now.0
    }
}

impl Layers {
    /// Those of a table whose `bases` these are. `before`: of the same services until now.
    pub fn new(bases: &Bases, table: &Table, by: By, before: &Self) -> Self {
        if bases.is_at_rest() {
            return Self::default();
        }
        let endpoints = table.endpoints();
        // Members of one table are sorted, and so are their endpoints.
        let member = |base: SocketAddr| endpoints.binary_search(&base).map_or(NOBODY, |member| member as u16);
        let layer = |(space, held): (Space, &[super::Held])| {
            let mut bases = vec![NOBODY; space.size as usize];
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
            Layer { space, bases: bases.into() }
        };
        let now = Space { size: table.now.len() as u32, by };
        let no_room = match () {
            () if before.is_at_rest() => Arc::new(NoRoom::new(now.size)),
            () if before.now == Some(now) => before.no_room.clone(),
            () => Arc::new(before.no_room.resized(now.size)),
        };
        let layers: Box<[Layer]> = bases.layers().map(layer).collect();
        // What a slot had no room for before it was held is of no account.
        no_room.keep(|slot| layers.iter().any(|layer| layer.space != now || layer.bases[slot as usize] != NOBODY));
        Self { layers, now: Some(now), no_room }
    }

    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.layers.is_empty()
    }

    /// The base of a client of these hashes, where it is held.
    #[inline]
    pub fn base(&self, hash: impl Fn(By) -> u64) -> Option<u16> {
        self.layers.iter().find_map(|layer| {
            let base = *layer.bases.get(maglev::slot(hash(layer.space.by), layer.space.size))?;
            (base != NOBODY).then_some(base)
        })
    }

    /// Whether the first layer holds a base of clients whose address and port have this hash.
    #[inline(always)]
    pub fn is_held_first(&self, hash: u64) -> bool {
        let first = self.layers.first().filter(|layer| layer.space.by == By::Client);
        let base = first.and_then(|layer| layer.bases.get(maglev::slot(hash, layer.space.size)));
        base.is_some_and(|&base| base != NOBODY)
    }

    /// Hints that [`Layers::base`] will be asked of this hash soon, which mostly finds it in the first layer.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        let first = self.layers.first();
        if let Some(base) = first.and_then(|layer| layer.bases.get(maglev::slot(hash, layer.space.size))) {
            prefetch(base);
        }
    }

    /// The base of a slot of the table now, where it is held, and the table had these slots all the time.
    pub fn base_of_slot(&self, slot: u32) -> Option<u16> {
        let mut layers = self.layers.iter().filter(|layer| Some(layer.space) == self.now);
        layers.find_map(|layer| layer.bases.get(slot as usize).copied().filter(|&base| base != NOBODY))
    }

    /// Notes that there was no room for a flow of this slot of the table now. At rest that is of no account.
    pub fn note_no_room(&self, slot: u32) {
        if self.layers.iter().any(|layer| Some(layer.space) != self.now) || self.base_of_slot(slot).is_some() {
            self.no_room.note(slot);
        }
    }

    /// Whether a slot, whose base was held for `idle` until `now`, had no room for a flow meanwhile: by its table, and its number.
    pub fn had_no_room(&self, now: Millis, idle: Millis) -> impl Fn(Space, u32) -> bool {
        let any = self.no_room.any.happened(now, idle);
        // One note is for the slots of all tables.
        let is_all_of_one = self.layers.len() == 1 && !self.no_room.was_resized;
        move |space, slot| {
            let is_of_now = Some(space) == self.now;
            let is_told = is_of_now && self.no_room.take(slot);
            is_told || any && !(is_of_now && is_all_of_one)
        }
    }
}

impl NoRoom {
    fn new(slots: u32) -> Self {
        let words = slots.div_ceil(u64::BITS);
        Self { slots: (0..words).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// What is known after the table became one of so many slots.
    fn resized(&self, slots: u32) -> Self {
        Self { any: self.any.clone(), was_resized: true, ..Self::new(slots) }
    }

    fn note(&self, slot: u32) {
        // Most notes are of what is known; a line that nobody writes stays in everybody's cache.
        self.any.happens();
        // The table of those who have no weight has no slots.
        let Some(word) = self.slots.get((slot / u64::BITS) as usize) else { return };
        let bit = 1 << (slot % u64::BITS);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
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

    /// The bases of its slots after the change from `old`; `by`: of the old one and this one.
    pub fn bases_after(&self, old: &Self, by: [By; 2], bases: &Bases) -> Bases {
        let (before, after) = (old.endpoints(), self.endpoints());
        let keeps = |endpoint: SocketAddr| {
            let member = after.binary_search(&endpoint);
            member.is_ok_and(|member| self.shape.states[member] != crate::service::State::Down)
        };
        let old = Owners { slots: &old.now, endpoints: &before, by: by[0] };
        bases.after(old, Owners { slots: &self.now, endpoints: &after, by: by[1] }, keeps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_to_all_who_waited_while_it_did() {
        let lately = Lately::default();
        assert!(!lately.happened(Millis(500), Millis(500)));
        lately.happens();
        assert!(lately.happened(Millis(1000), Millis(500)) && lately.happened(Millis(1499), Millis(500)));
        assert!(!lately.happened(Millis(1500), Millis(500)), "once more only");
    }

    #[test]
    fn what_is_noted_outlives_the_table_that_it_was_noted_of() {
        for slots in [0, 130] {
            let no_room = NoRoom::new(slots);
            no_room.note(7);
            let resized = no_room.resized(7).resized(9);
            assert!(resized.any.happened(Millis(1000), Millis(500)), "{slots}");
            // Some lcore still has the one before.
            no_room.note(8);
            assert!(resized.any.happened(Millis(1500), Millis(500)), "{slots}");
        }
        assert!(!NoRoom::new(130).resized(7).any.happened(Millis(1000), Millis(500)));
    }

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
