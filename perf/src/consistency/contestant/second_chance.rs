//! GLB: two backends a slot; the first passes on to the second what it has no connection for. No memory. While a backend drains, or its health
//! check fails, it stands second where it would be first (github/glb-director, docs/development/glb-hashing.md).
//!
//! GLB has no weights; here they are those of rendezvous hashing.

use super::rendezvous::{Rendezvous, slot, somebody};
use super::{Choice, Contestant, Packet};
use crate::consistency::scenario::Number;
use crate::consistency::time::Tick;
use crate::consistency::world::{State, World};

pub struct SecondChance {
    rendezvous: Rendezvous,
    rows: Vec<[Number; 2]>,
}

impl SecondChance {
    pub fn new(world: &World) -> Self {
        let mut new = Self { rendezvous: Rendezvous::new(world), rows: Vec::new() };
        new.change(world, Tick(0));
        new
    }
}

impl Contestant for SecondChance {
    fn change(&mut self, world: &World, _: Tick) {
        self.rendezvous.weigh(world);
        self.rows = self.rendezvous.best(world, |backend| backend.state != State::Absent);
        for row in &mut self.rows {
            let takes_new = row.map(|number| somebody(number).is_some_and(|number| world.get(number).takes_new()));
            if takes_new == [false, true] {
                row.swap(0, 1);
            }
        }
    }

    fn lose(&mut self, _: usize) {}

    fn regain(&mut self, _: usize, _: Tick) {}

    fn route(&mut self, packet: &Packet) -> Choice {
        let [first, second] = self.rows[slot(packet.hash)].map(somebody);
        Choice { first, second }
    }
}
