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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::service::{Ports, Protocol};
    use crate::snapshot::{By, Held, Space, Until};

    #[test]
    fn every_change_is_told_and_nothing_of_what_was_before_stays() {
        let key = |port| Key { vip: "192.0.2.1/32".parse().unwrap(), ports: Ports::one(port), protocol: Protocol::Tcp };
        let held = |until| Held { slot: 1, base: SocketAddr::from(([10, 0, 0, 1], 80)), until };
        let bases = |until| Bases::from_layers([(Space { size: 7, by: By::Client }, vec![held(until)])]);
        let (rest, waits) = (Bases::default(), bases(Until::Adopted));
        let [soon, late] = [5, 9].map(|at| bases(Until::At(Millis(at))));
        let mut motion = Motion::default();
        let of = |motion: &Motion| {
            let due: Vec<u16> = motion.due(Millis(7)).map(|key| key.ports.first).collect();
            (motion.services().count(), motion.waiting().count(), motion.next().map(|next| next.0), due)
        };
        motion.change(key(1), &rest, &waits);
        motion.change(key(2), &rest, &soon);
        assert_eq!(of(&motion), (2, 1, Some(5), vec![2]));
        motion.change(key(1), &waits, &late);
        assert_eq!(of(&motion), (2, 0, Some(5), vec![2]));
        motion.change(key(2), &soon, &rest);
        assert_eq!(of(&motion), (1, 0, Some(9), vec![]));
        motion.change(key(1), &late, &rest);
        assert_eq!(of(&motion), (0, 0, None, vec![]));
    }
}
