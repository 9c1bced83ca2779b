//! Where the flows of a slot are that nobody remembers: the slot's *base*, and for how long they differ from those who take new flows.
//!
//! At rest a slot's base is its owner now, and nothing is kept here. A change that gives the slot to another holds the old owner as its
//! base, for as long as a flow may be silent: whoever is older has shown itself by then, and been entered with its backend. Then the
//! base moves after. Later changes move neither the base nor that moment.
//!
//! All of it is a pure function of what was before, the tables, and the time: `run` and `replay` use the same, and nodes with the same
//! history agree.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Millis;
use crate::maglev::{self, NOBODY};
use crate::service::Hash;

/// By what a client falls into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// Its address and port.
    Client,
    /// Its address alone.
    Source,
}

impl By {
    /// Where the packet itself names nobody.
    pub const fn of(hash: Hash) -> Self {
        match hash {
            Hash::SourceIp => Self::Source,
            Hash::FiveTuple | Hash::QuicCid => Self::Client,
        }
    }
}

/// The slots of a table: bases of others are not comparable with theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub size: u32,
    pub by: By,
}

/// The owners of a table's slots.
#[derive(Debug, Clone, Copy)]
pub struct Owners<'a> {
    /// Indices into the endpoints, or [`NOBODY`].
    pub slots: &'a [u16],
    pub endpoints: &'a [SocketAddr],
    pub by: By,
}

/// The bases that are not the owners now. Empty: at rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bases {
    /// By the slots that they are of, the oldest first; hardly ever more than one, since neither size nor hash of a table changes often.
    layers: Vec<Layer>,
    /// The earliest of their deadlines, and whether any has none yet.
    next: Option<Millis>,
    waits: bool,
}

/// Of the slots of one table, by slot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    space: Space,
    held: Vec<Held>,
}

/// A slot whose base is not its owner now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub slot: u32,
    pub base: SocketAddr,
    pub until: Until,
}

/// How long a base is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until so long after all lcores have adopted the snapshot.
    Adopted,
    At(Millis),
}

impl Owners<'_> {
    fn space(&self) -> Space {
        Space { size: self.slots.len() as u32, by: self.by }
    }

    fn of(&self, slot: u32) -> Option<SocketAddr> {
        let owner = *self.slots.get(slot as usize)?;
        if owner == NOBODY { None } else { self.endpoints.get(usize::from(owner)).copied() }
    }

    /// The one owner of all hashes that fall into a slot of another table.
    fn of_all(&self, slot: u32, Space { size, by }: Space) -> Option<SocketAddr> {
        if by != self.by {
            return None;
        }
        // The first hash of a slot, by its upper half.
        let first = |slot: u32| (u64::from(slot) << 32).div_ceil(u64::from(size));
        let place = |upper: u64| maglev::slot(upper << 32, self.space().size) as u32;
        let (from, to) = (place(first(slot)), place(first(slot + 1) - 1));
        let owner = self.of(from);
        (from + 1..=to).all(|other| self.of(other) == owner).then_some(owner)?
    }
}

impl Bases {
    pub fn is_at_rest(&self) -> bool {
        self.layers.is_empty()
    }

    /// Those that are held, with the table that their slot is of.
    pub fn held(&self) -> impl Iterator<Item = (Space, &Held)> {
        self.layers.iter().flat_map(|layer| layer.held.iter().map(|held| (layer.space, held)))
    }

    /// The base of a client of these hashes, where it is held.
    pub fn of(&self, hash: impl Fn(By) -> u64) -> Option<SocketAddr> {
        self.layers.iter().find_map(|layer| {
            let slot = maglev::slot(hash(layer.space.by), layer.space.size) as u32;
            let place = layer.held.binary_search_by_key(&slot, |held| held.slot).ok()?;
            Some(layer.held[place].base)
        })
    }

    /// After a change of the table. `keeps`: whether an endpoint is still there, and not down.
    #[must_use]
    pub fn after(&self, old: Owners<'_>, new: Owners<'_>, keeps: impl Fn(SocketAddr) -> bool) -> Self {
        let mut layers = self.layers.clone();
        // What is held of other tables goes before what is of the last.
        if layers.last().is_none_or(|last| last.space != old.space()) {
            layers.push(Layer { space: old.space(), held: Vec::new() });
        }
        if let Some(last) = layers.last_mut() {
            // By old owner, since there are fewer of them than slots: whether its slots may be held, and its number now.
            let numbers: HashMap<SocketAddr, u16> = new.endpoints.iter().copied().zip(0..).collect();
            let number = |endpoint| {
                if keeps(endpoint) { numbers.get(&endpoint).map_or(Some(NOBODY), |&k| Some(k)) } else { None }
            };
            let fates: Vec<Option<u16>> = old.endpoints.iter().map(|&endpoint| number(endpoint)).collect();
            let is_same_space = old.space() == new.space();
            let moves = |slot: u32| {
                let owner = *old.slots.get(slot as usize)?;
                let now = (*fates.get(usize::from(owner))?)?;
                let is_back = is_same_space && now != NOBODY && new.slots[slot as usize] == now;
                (!is_back).then(|| Held { slot, base: old.endpoints[usize::from(owner)], until: Until::Adopted })
            };
            let mut held = std::mem::take(&mut last.held).into_iter().peekable();
            let every = (0..old.space().size).filter_map(|slot| match held.next_if(|held| held.slot == slot) {
                Some(held) => Some(held),
                None => moves(slot),
            });
            last.held = every.collect();
        }
        let last = layers.len() - 1;
        for (number, layer) in layers.iter_mut().enumerate() {
            // A base of an older table stands before those of the last even where it is the owner again.
            let is_back = |held: &Held| number == last && new.of_all(held.slot, layer.space) == Some(held.base);
            layer.held.retain(|held| keeps(held.base) && !is_back(held));
        }
        Self::of_layers(layers)
    }

    /// All lcores have adopted the newest tables: what waited for that is held for `idle` from `now`.
    #[must_use]
    pub fn adopted(mut self, now: Millis, idle: Millis) -> Self {
        for held in self.layers.iter_mut().flat_map(|layer| &mut layer.held) {
            if held.until == Until::Adopted {
                held.until = Until::At(Millis(now.0.saturating_add(idle.0)));
            }
        }
        Self::of_layers(self.layers)
    }

    /// At `now`: lets go of the bases whose time is over, but for those of slots that `had_no_room` for a flow, by the table and the slot.
    /// Their time begins again.
    #[must_use]
    pub fn at(mut self, now: Millis, idle: Millis, had_no_room: impl Fn(Space, u32) -> bool) -> Self {
        for layer in &mut self.layers {
            layer.held.retain_mut(|held| match held.until {
                Until::At(until) if until <= now => {
                    held.until = Until::At(Millis(now.0.saturating_add(idle.0)));
                    had_no_room(layer.space, held.slot)
                }
                _ => true,
            });
        }
        Self::of_layers(self.layers)
    }

    /// The tables that bases are held of, the oldest first, each with its slots in order.
    pub fn layers(&self) -> impl Iterator<Item = (Space, &[Held])> {
        self.layers.iter().map(|layer| (layer.space, layer.held.as_slice()))
    }

    /// What [`Bases::layers`] gave, put together again; what is not in order is left out.
    pub fn from_layers(layers: impl IntoIterator<Item = (Space, Vec<Held>)>) -> Self {
        let whole = |&(space, ref held): &(Space, Vec<Held>)| {
            held.is_sorted_by(|a, b| a.slot < b.slot) && held.last().is_none_or(|held| held.slot < space.size)
        };
        let layers = layers.into_iter().filter(whole).map(|(space, held)| Layer { space, held });
        Self::of_layers(layers.collect())
    }

    /// When [`Bases::at`] has something to do.
    pub fn next(&self) -> Option<Millis> {
        self.next
    }

    /// Whether any is held until all lcores have adopted the snapshot.
    pub fn waits(&self) -> bool {
        self.waits
    }

    fn of_layers(mut layers: Vec<Layer>) -> Self {
        layers.retain(|layer| !layer.held.is_empty());
        let (mut next, mut waits) = (None, false);
        for held in layers.iter().flat_map(|layer| &layer.held) {
            match held.until {
                Until::At(at) => next = Some(next.map_or(at, |next: Millis| next.min(at))),
                Until::Adopted => waits = true,
            }
        }
        Self { layers, next, waits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoints(count: u8) -> Vec<SocketAddr> {
        (0..count).map(|k| SocketAddr::from(([10, 0, 0, k], 80))).collect()
    }

    const IDLE: Millis = Millis(1000);

    /// What the rule says of one hash.
    #[derive(Debug, Clone, Copy)]
    struct Obvious {
        base: Option<SocketAddr>,
        deadline: Option<Until>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// New owners, and who is down.
        Change(Vec<u16>, u8),
        Adopt,
        /// Time goes by, and slots for which there was no room.
        Wait(u64, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let owner = prop_oneof![9 => 0u16..6, 1 => Just(NOBODY)];
        prop_oneof![
            2 => (proptest::collection::vec(owner, 7), any::<u8>()).prop_map(|(slots, down)| Step::Change(slots, down & down >> 1)),
            2 => Just(Step::Adopt),
            3 => (0u64..800, any::<u8>()).prop_map(|(ms, full)| Step::Wait(ms, full & full >> 2)),
        ]
    }

    proptest! {
        #[test]
        fn every_slot_keeps_to_the_rule(steps in proptest::collection::vec(step(), 1..40)) {
            let endpoints = endpoints(6);
            let (mut slots, mut bases, mut now) = (vec![0; 7], Bases::default(), Millis(0));
            let mut obvious = [Obvious { base: Some(endpoints[0]), deadline: None }; 7];
            for step in steps {
                match step {
                    Step::Change(new, down) => {
                        // Who is down owns nothing.
                        let is_down = |owner: u16| owner != NOBODY && down >> owner & 1 == 1;
                        let new: Vec<u16> = new.into_iter().map(|owner| if is_down(owner) { NOBODY } else { owner }).collect();
                        let keeps = |endpoint| !is_down(endpoints.iter().position(|&other| other == endpoint).unwrap() as u16);
                        let owners = |slots| Owners { slots, endpoints: &endpoints, by: By::Client };
                        bases = bases.after(owners(&slots), owners(&new), keeps);
                        for (slot, model) in obvious.iter_mut().enumerate() {
                            let owner = owners(&new).of(slot as u32);
                            if model.base.is_none_or(|base| !keeps(base)) || model.base == owner {
                                *model = Obvious { base: owner, deadline: None };
                            } else {
                                model.deadline.get_or_insert(Until::Adopted);
                            }
                        }
                        slots = new;
                    }
                    Step::Adopt => {
                        bases = bases.adopted(now, IDLE);
                        for model in &mut obvious {
                            if model.deadline == Some(Until::Adopted) {
                                model.deadline = Some(Until::At(Millis(now.0 + IDLE.0)));
                            }
                        }
                    }
                    Step::Wait(ms, full) => {
                        now.0 += ms;
                        let is_full = |slot: u32| full >> slot & 1 == 1;
                        bases = bases.at(now, IDLE, |space, slot| space.size == 7 && is_full(slot));
                        for (slot, model) in obvious.iter_mut().enumerate() {
                            if matches!(model.deadline, Some(Until::At(at)) if at <= now) {
                                *model = if is_full(slot as u32) {
                                    Obvious { deadline: Some(Until::At(Millis(now.0 + IDLE.0))), ..*model }
                                } else {
                                    Obvious { base: Owners { slots: &slots, endpoints: &endpoints, by: By::Client }.of(slot as u32), deadline: None }
                                };
                            }
                        }
                    }
                }
                for (slot, model) in obvious.iter().enumerate() {
                    let held = bases.held().find(|(_, held)| held.slot == slot as u32).map(|(_, held)| *held);
                    prop_assert_eq!(held.map(|held| held.until), model.deadline, "{}", slot);
                    let now = Owners { slots: &slots, endpoints: &endpoints, by: By::Client }.of(slot as u32);
                    prop_assert_eq!(held.map_or(now, |held| Some(held.base)), model.base, "{}", slot);
                }
                prop_assert_eq!(bases.is_at_rest(), obvious.iter().all(|model| model.deadline.is_none()));
            }
        }

        /// Whatever tables follow one another, of other sizes and by other hashes: a client stays where it was first until its time is over,
        /// as long as that is kept.
        #[test]
        fn a_client_keeps_its_base_through_other_tables(
            tables in proptest::collection::vec((proptest::collection::vec(0u16..6, 1..30), any::<bool>()), 2..6),
            clients: [[u64; 2]; 16],
        ) {
            let endpoints = endpoints(6);
            let owners = |(slots, is_by_source): &'_ (Vec<u16>, bool)| -> (Vec<u16>, By) {
                (slots.clone(), if *is_by_source { By::Source } else { By::Client })
            };
            let tables: Vec<(Vec<u16>, By)> = tables.iter().map(owners).collect();
            let owners = |at: usize| Owners { slots: &tables[at].0, endpoints: &endpoints, by: tables[at].1 };
            let mut bases = Bases::default();
            for at in 1..tables.len() {
                bases = bases.after(owners(at - 1), owners(at), |_| true).adopted(Millis(0), IDLE);
            }
            let last = tables.len() - 1;
            for hashes in clients {
                let hash = |by| hashes[by as usize];
                let owner = |at| {
                    let owners = owners(at);
                    owners.of(maglev::slot(hash(owners.by), owners.space().size) as u32)
                };
                prop_assert_eq!(bases.of(hash).or(owner(last)), owner(0));
                let over = bases.clone().at(IDLE, IDLE, |_, _| false);
                prop_assert_eq!(over.of(hash).or(owner(last)), owner(last));
            }
            prop_assert_eq!(bases.next().is_none(), bases.is_at_rest());
        }
    }

    #[test]
    fn the_hashes_of_a_slot_in_a_larger_and_in_a_smaller_table() {
        let endpoints = endpoints(3);
        let owners = |slots| Owners { slots, endpoints: &endpoints, by: By::Client };
        let of_size = |size| Space { size, by: By::Client };
        let larger = owners(&[0, 0, 0, 1, 1, 2]);
        assert_eq!([0, 1].map(|slot| larger.of_all(slot, of_size(2))), [Some(endpoints[0]), None]);
        assert_eq!([0, 1, 2].map(|slot| larger.of_all(slot, of_size(3))), [Some(endpoints[0]), None, None]);
        let smaller = owners(&[0, 1]);
        assert_eq!(
            [0, 1, 2].map(|slot| smaller.of_all(slot, of_size(3))),
            [Some(endpoints[0]), None, Some(endpoints[1])]
        );
        assert_eq!(owners(&[NOBODY]).of_all(0, of_size(5)), None);
    }
}
