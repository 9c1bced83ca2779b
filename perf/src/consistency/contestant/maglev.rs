//! Plain Maglev: a table of the backends that take flows, built anew whenever these change, and no memory (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, section 3.4).

use penstock::maglev;

use super::{Choice, Contestant, Packet};
use crate::consistency::scenario::Number;
use crate::consistency::time::Tick;
use crate::consistency::world::{Backend, SLOTS, World};

pub struct Maglev {
    table: Vec<Number>,
}

impl Maglev {
    pub fn new(world: &World) -> Self {
        Self { table: world.maglev(&world.which(Backend::takes_new)) }
    }

    pub fn of(&self, hash: u64) -> Number {
        self.table[maglev::slot(hash, SLOTS)]
    }
}

impl Contestant for Maglev {
    fn change(&mut self, world: &World, _: Tick) {
        *self = Self::new(world);
    }

    fn lose(&mut self, _: usize) {}

    fn regain(&mut self, _: usize, _: Tick) {}

    fn route(&mut self, packet: &Packet) -> Choice {
        self.of(packet.hash).into()
    }
}
