//! JET: a flow is remembered only if it would go elsewhere once the backends of the horizon, those that may come next, are there too
//! (Mendelson et al., "Load Balancing with JET: Just Enough Tracking for Connection Consistency", CoNEXT 2021), with rendezvous hashing.
//!
//! The horizon here is every backend that is not in use but will be: more than an operator may know. To the paper a backend that drains is
//! one that was removed. `drains`: our extension, to be fair to it: what is no SYN and not remembered is chosen among the draining ones, too.

use super::remembered::{Destination, List, Remembered};
use super::rendezvous::{Rendezvous, slot, somebody};
use super::{Choice, Contestant, Given, Packet, Segment};
use crate::consistency::scenario::Number;
use crate::consistency::time::Tick;
use crate::consistency::world::{Backend, World};

pub struct Jet {
    world: World,
    rendezvous: Rendezvous,
    drains: bool,
    /// By slot: of the backends that take flows; with those that drain; with the horizon.
    working: Vec<[Number; 2]>,
    known: Vec<[Number; 2]>,
    possible: Vec<[Number; 2]>,
    nodes: Vec<Remembered>,
    given: Given,
}

impl Jet {
    pub fn new(world: &World, given: &Given, drains: bool) -> Self {
        let nodes = (0..given.nodes).map(|_| Remembered::new(usize::MAX)).collect();
        let none = Vec::new;
        let (rendezvous, world, given) = (Rendezvous::new(world), world.clone(), *given);
        let mut new =
            Self { world, rendezvous, drains, working: none(), known: none(), possible: none(), nodes, given };
        new.choose();
        new
    }

    fn choose(&mut self) {
        self.rendezvous.weigh(&self.world);
        let best = |is: fn(&Backend) -> bool| self.rendezvous.best(&self.world, is);
        let (working, possible) = (best(Backend::takes_new), best(|_| true));
        self.known = if self.drains { best(Backend::keeps) } else { working.clone() };
        (self.working, self.possible) = (working, possible);
    }
}

impl Contestant for Jet {
    fn change(&mut self, world: &World, _: Tick) {
        self.world = world.clone();
        self.choose();
    }

    fn lose(&mut self, node: usize) {
        self.nodes[node] = Remembered::new(usize::MAX);
    }

    fn regain(&mut self, _: usize, _: Tick) {}

    fn route(&mut self, packet: &Packet) -> Choice {
        let &Packet { hash, node, now, segment } = packet;
        let (node, world) = (&mut self.nodes[node], &self.world);
        node.expire(List::Open, self.given.idle, now);
        node.expire(List::Closing, self.given.closing, now);
        let list = if segment == Segment::Fin { List::Closing } else { List::Open };
        if let Some(destination) = node.find(hash, list, now) {
            match destination.number(world) {
                Some(number) => return number.into(),
                None => node.forget(hash),
            }
        }
        let slot = slot(hash);
        let number = if segment == Segment::Syn { self.working[slot][0] } else { self.known[slot][0] };
        if number != self.possible[slot][0] {
            node.insert(hash, Destination::new(number, world), list, now);
        }
        Choice { first: somebody(number), second: None }
    }

    fn entries(&mut self, now: Tick) -> usize {
        for node in &mut self.nodes {
            node.expire(List::Open, self.given.idle, now);
            node.expire(List::Closing, self.given.closing, now);
        }
        self.nodes.iter().map(Remembered::len).sum()
    }
}
