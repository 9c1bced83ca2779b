//! A connection table as the others have it: flow to backend, the one unheard of for longest at the end (LRU).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::consistency::scenario::Number;
use crate::consistency::slab::Slab;
use crate::consistency::time::Tick;
use crate::consistency::world::{State, World};

/// Keys are hashes already.
#[derive(Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only words are hashed");
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// Where a flow went: a backend in one of its incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    number: Number,
    incarnation: u16,
}

impl Destination {
    pub fn new(number: Number, world: &World) -> Self {
        Self { number, incarnation: world.get(number).incarnation }
    }

    /// The backend, as long as it is defined; a failed check alone does not end a flow of it (as with Katran, and IPVS with
    /// inhibit_on_failure).
    pub fn number(self, world: &World) -> Option<Number> {
        let backend = world.get(self.number);
        (backend.state != State::Absent && backend.incarnation == self.incarnation).then_some(self.number)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u64,
    destination: Destination,
    seen: Tick,
    previous: u32,
    next: u32,
}

/// In which an entry waits for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Open,
    Closing,
}

/// Its place in `entries` is one that is never used for a flow.
const ENDS: [u32; 2] = [0, 1];

pub struct Remembered {
    places: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    entries: Slab<Entry>,
    capacity: usize,
}

impl Remembered {
    /// `capacity`: the least recently seen entry goes when there are more.
    pub fn new(capacity: usize) -> Self {
        let end = |list: List| {
            let place = ENDS[list as usize];
            let destination = Destination { number: 0, incarnation: 0 };
            Entry { key: 0, destination, seen: Tick(0), previous: place, next: place }
        };
        let mut entries = Slab::new();
        assert_eq!([List::Open, List::Closing].map(|list| entries.insert(end(list))), ENDS);
        Self { places: HashMap::default(), entries, capacity }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Where the flow went; it counts as seen now.
    pub fn find(&mut self, key: u64, list: List, now: Tick) -> Option<Destination> {
        let place = *self.places.get(&key)?;
        self.unlink(place);
        self.link(place, list, now);
        Some(self.entries[place].destination)
    }

    pub fn insert(&mut self, key: u64, destination: Destination, list: List, now: Tick) {
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
        if self.len() >= self.capacity {
            let oldest = |list: List| self.entries[ENDS[list as usize]].previous;
            let places = [List::Open, List::Closing].map(oldest).into_iter().filter(|place| !ENDS.contains(place));
            let oldest = places.min_by_key(|&place| self.entries[place].seen);
            oldest.into_iter().for_each(|place| self.remove(place));
        }
        let entry = Entry { key, destination, seen: now, previous: 0, next: 0 };
        let place = self.entries.insert(entry);
        self.places.insert(key, place);
        self.link(place, list, now);
    }

    pub fn forget(&mut self, key: u64) {
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
    }

    /// Forgets what was not seen for so long.
    pub fn expire(&mut self, list: List, timeout: Tick, now: Tick) {
        let end = ENDS[list as usize];
        loop {
            let oldest = self.entries[end].previous;
            if oldest == end || now.since(self.entries[oldest].seen) <= timeout {
                return;
            }
            self.remove(oldest);
        }
    }

    fn remove(&mut self, place: u32) {
        self.unlink(place);
        self.places.remove(&self.entries[place].key);
        self.entries.remove(place);
    }

    fn unlink(&mut self, place: u32) {
        let Entry { previous, next, .. } = self.entries[place];
        self.entries[previous].next = next;
        self.entries[next].previous = previous;
    }

    fn link(&mut self, place: u32, list: List, now: Tick) {
        let end = ENDS[list as usize];
        let next = std::mem::replace(&mut self.entries[end].next, place);
        self.entries[next].previous = place;
        let entry = &mut self.entries[place];
        *entry = Entry { seen: now, previous: end, next, ..*entry };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consistency::scenario::Scenario;

    #[test]
    fn the_one_unheard_of_for_longest_goes() {
        let world = World::new(&Scenario::day(Tick::minutes(1), 1));
        let mut remembered = Remembered::new(3);
        for key in 0..3 {
            remembered.insert(key, Destination::new(key as u16, &world), List::Open, Tick(key as u32));
        }
        assert!(remembered.find(0, List::Open, Tick(10)).is_some());
        remembered.insert(3, Destination::new(3, &world), List::Open, Tick(11));
        let found = [0, 1, 2, 3].map(|key| remembered.find(key, List::Open, Tick(12)).and_then(|d| d.number(&world)));
        assert_eq!(found, [Some(0), None, Some(2), Some(3)]);
        assert!(remembered.find(2, List::Closing, Tick(12)).is_some());
        remembered.expire(List::Closing, Tick(5), Tick(18));
        assert_eq!((remembered.len(), remembered.find(2, List::Open, Tick(18)).is_none()), (2, true));
    }
}
