//! Maglev with a memory of every flow on each node, not shared between nodes.
//!
//! `lru`: bounded, the least recently seen goes (Katran: a SYN is chosen by the table and remembered, others are looked up first;
//! katran/lib/bpf/balancer.bpf.c). `table`: as large as it takes, with timeouts (IPVS, DPVS). A flow that a node does not know is
//! chosen by the table there too, as IPVS does with sloppy_tcp; without that it would be dropped.

use super::maglev::Maglev;
use super::remembered::{Destination, List, Remembered};
use super::{Choice, Contestant, Given, Packet, Segment};
use crate::consistency::time::Tick;
use crate::consistency::world::World;

pub struct Stateful {
    world: World,
    maglev: Maglev,
    nodes: Vec<Remembered>,
    given: Given,
    /// Entries of a node, at most.
    capacity: usize,
    /// Without, an entry stays until another takes its place.
    has_timeouts: bool,
}

pub fn lru(world: &World, given: &Given) -> Stateful {
    Stateful::new(world, given, given.capacity, false)
}

pub fn table(world: &World, given: &Given) -> Stateful {
    Stateful::new(world, given, usize::MAX, true)
}

impl Stateful {
    fn new(world: &World, given: &Given, capacity: usize, has_timeouts: bool) -> Self {
        let nodes = (0..given.nodes).map(|_| Remembered::new(capacity)).collect();
        Self { world: world.clone(), maglev: Maglev::new(world), nodes, given: *given, capacity, has_timeouts }
    }
}

impl Contestant for Stateful {
    fn change(&mut self, world: &World, now: Tick) {
        self.world = world.clone();
        self.maglev.change(world, now);
    }

    fn lose(&mut self, node: usize) {
        self.nodes[node] = Remembered::new(self.capacity);
    }

    fn regain(&mut self, _: usize, _: Tick) {}

    fn route(&mut self, packet: &Packet) -> Choice {
        let &Packet { hash, node, now, segment } = packet;
        let (node, world) = (&mut self.nodes[node], &self.world);
        if self.has_timeouts {
            node.expire(List::Open, self.given.idle, now);
            node.expire(List::Closing, self.given.closing, now);
        }
        let list = if segment == Segment::Fin { List::Closing } else { List::Open };
        if segment != Segment::Syn
            && let Some(number) = node.find(hash, list, now).and_then(|destination| destination.number(world))
        {
            return number.into();
        }
        let number = self.maglev.of(hash);
        node.insert(hash, Destination::new(number, world), list, now);
        number.into()
    }

    fn entries(&mut self, now: Tick) -> usize {
        if self.has_timeouts {
            for node in &mut self.nodes {
                node.expire(List::Open, self.given.idle, now);
                node.expire(List::Closing, self.given.closing, now);
            }
        }
        self.nodes.iter().map(Remembered::len).sum()
    }
}
