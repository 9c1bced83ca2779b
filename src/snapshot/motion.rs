//! Which services are not at rest, and when that changes: told of every change, so that nobody has to look at all of them.

use std::collections::{BTreeSet, HashSet};

use super::Millis;
use super::compile::Key;
use super::transition::Bases;

/// The services whose slots have bases that are not their owners.
#[derive(Debug, Default)]
pub struct Motion {
    services: HashSet<Key>,
    /// Of these, those that wait until all lcores have adopted the newest snapshot.
    waiting: HashSet<Key>,
    /// By the moment that the first of their bases moves.
    due: BTreeSet<(Millis, Key)>,
}

impl Motion {
    /// The bases of a service became others.
    pub fn change(&mut self, key: Key, before: &Bases, after: &Bases) {
        if let Some(next) = before.next() {
            self.due.remove(&(next, key));
        }
        if let Some(next) = after.next() {
            self.due.insert((next, key));
        }
        note(&mut self.services, key, !after.is_at_rest());
        note(&mut self.waiting, key, after.waits());
    }

    pub fn services(&self) -> impl Iterator<Item = &Key> {
        self.services.iter()
    }

    pub fn waiting(&self) -> impl Iterator<Item = &Key> {
        self.waiting.iter()
    }

    /// When the next base moves.
    pub fn next(&self) -> Option<Millis> {
        self.due.first().map(|&(next, _)| next)
    }

    /// The services of which a base moves by `now`.
    pub fn due(&self, now: Millis) -> impl Iterator<Item = &Key> {
        self.due.iter().take_while(move |(next, _)| *next <= now).map(|(_, key)| key)
    }
}

fn note(set: &mut HashSet<Key>, key: Key, is_in: bool) {
    if is_in {
        set.insert(key);
    } else {
        set.remove(&key);
    }
}
