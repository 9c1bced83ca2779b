//! Penstock: docs/architecture.md has the rule. The flow table, the bases, the tables and the mask are Penstock's own code; here stands only the
//! choice for a packet, as the rule has it.

use std::collections::HashSet;
use std::net::SocketAddr;

use penstock::flow::{Flow, Flows, Inserted, Seconds, Stage, Worth};
use penstock::maglev::{self, NOBODY};
use penstock::snapshot::{Bases, Millis, Owners};

use super::rendezvous::somebody;
use super::{Choice, Contestant, Given, Packet, Segment};
use crate::consistency::scenario::Number;
use crate::consistency::time::Tick;
use crate::consistency::world::{Backend, HASH, SLOTS, State, World, address};

/// Which flows are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    None,
    /// Those of slots that are not at rest.
    Transition,
    /// The same, if a base that is down were held, too: not the rule, but what it could be.
    Held,
    Full,
}

/// With which bases a node begins that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Returning {
    /// With those from its `state_dir`, brought up to date as if nothing had happened meanwhile but one change.
    OwnState,
    /// At rest, as if it had never been there.
    AtRest,
}

/// A part of the capacity: buckets that are swept in a second, all in half a minute or so.
const SWEPT: usize = 100;

pub struct Penstock {
    world: World,
    endpoints: Vec<SocketAddr>,
    /// By slot: who takes new flows.
    owners: Vec<Number>,
    memory: Memory,
    returning: Returning,
    nodes: Vec<Node>,
    given: Given,
}

struct Node {
    is_up: bool,
    flows: Flows,
    bases: Bases,
    /// The owners that `bases` were last brought up to.
    owners: Vec<Number>,
    /// `bases`, by slot.
    base: Vec<Number>,
    next: Option<Millis>,
    /// Slots that had no room for a flow since their base has been held.
    had_no_room: HashSet<u32>,
}

impl Penstock {
    pub fn new(world: &World, given: &Given, memory: Memory, returning: Returning) -> Self {
        let owners = owners(world);
        let node = |number| Node {
            is_up: true,
            flows: flows(given, memory, number),
            bases: Bases::default(),
            owners: owners.clone(),
            base: owners.clone(),
            next: None,
            had_no_room: HashSet::new(),
        };
        let nodes = (0..given.nodes).map(node).collect();
        let endpoints = (0..world.backends.len()).map(|number| endpoint(number as Number)).collect();
        Self { world: world.clone(), endpoints, owners, memory, returning, nodes, given: *given }
    }

    fn idle(&self) -> Millis {
        Millis(self.given.idle.as_millis())
    }

    /// After a change of the backends. Nodes of the same history are worked out once.
    fn follow(&mut self, which: impl Fn(usize) -> bool, now: Tick) {
        if self.memory == Memory::None {
            return;
        }
        let (now, idle) = (Millis(now.as_millis()), self.idle());
        let keeps = |endpoint| {
            let backend = self.world.get(number(endpoint));
            backend.keeps() || self.memory == Memory::Held && backend.state == State::Down
        };
        let mut done: Vec<(Bases, Vec<Number>, Bases)> = Vec::new();
        for (_, node) in self.nodes.iter_mut().enumerate().filter(|&(number, ref node)| node.is_up && which(number)) {
            let after = match done.iter().find(|(bases, owners, _)| *bases == node.bases && *owners == node.owners) {
                Some((_, _, after)) => after.clone(),
                None => {
                    let [old, new] =
                        [&node.owners, &self.owners].map(|slots| Owners { slots, endpoints: &self.endpoints });
                    let after = node.bases.after(old, new, keeps).adopted(now, idle);
                    done.push((node.bases.clone(), node.owners.clone(), after.clone()));
                    after
                }
            };
            node.owners.clone_from(&self.owners);
            node.hold(after);
        }
    }

    /// Frees the entries of what is over among the next `buckets` of each node. Not those of a backend that is down: it may return.
    fn sweep(&mut self, buckets: usize, now: Tick) {
        let (world, given, now) = (&self.world, &self.given, Seconds(now.as_seconds()));
        let worth = |flow: &Flow| {
            let is_defined = backend(world, flow.destination).is_some();
            if is_defined && !is_over(flow, now, given) { Worth::Everything } else { Worth::Nothing }
        };
        self.nodes.iter_mut().for_each(|node| node.flows.sweep(buckets, worth, |_| ()));
    }
}

impl Node {
    fn hold(&mut self, bases: Bases) {
        self.base.clone_from(&self.owners);
        for (_, held) in bases.held() {
            self.base[held.slot as usize] = number(held.base);
        }
        self.next = bases.next();
        self.bases = bases;
        self.had_no_room.retain(|&slot| self.base[slot as usize] != self.owners[slot as usize]);
    }

    /// Lets go of the bases whose time is over.
    fn pass(&mut self, now: Millis, idle: Millis) {
        if !self.is_up || self.next.is_none_or(|next| next > now) {
            return;
        }
        let restarted = std::cell::RefCell::new(Vec::new());
        let bases = std::mem::take(&mut self.bases).at(now, idle, |_, slot| {
            let had_no_room = self.had_no_room.contains(&slot);
            restarted.borrow_mut().extend(had_no_room.then_some(slot));
            had_no_room
        });
        restarted.into_inner().iter().for_each(|slot| _ = self.had_no_room.remove(slot));
        self.hold(bases);
    }
}

impl Contestant for Penstock {
    fn change(&mut self, world: &World, now: Tick) {
        self.world = world.clone();
        self.owners = owners(world);
        self.follow(|_| true, now);
    }

    fn lose(&mut self, node: usize) {
        self.nodes[node].is_up = false;
        self.nodes[node].flows = flows(&self.given, self.memory, node);
        self.nodes[node].had_no_room.clear();
    }

    fn regain(&mut self, node: usize, now: Tick) {
        self.nodes[node].is_up = true;
        let idle = self.idle();
        match self.returning {
            Returning::OwnState => {
                self.nodes[node].pass(Millis(now.as_millis()), idle);
                self.follow(|number| number == node, now);
            }
            Returning::AtRest => {
                self.nodes[node].owners.clone_from(&self.owners);
                self.nodes[node].hold(Bases::default());
            }
        }
    }

    fn pass(&mut self, now: Tick) {
        let (millis, idle) = (Millis(now.as_millis()), self.idle());
        self.nodes.iter_mut().for_each(|node| node.pass(millis, idle));
        if millis.0.is_multiple_of(1000) && self.memory != Memory::None {
            self.sweep(self.given.capacity / SWEPT, now);
        }
    }

    fn route(&mut self, packet: &Packet) -> Choice {
        let slot = maglev::slot(packet.hash, SLOTS);
        let now = self.owners[slot];
        if self.memory == Memory::None {
            return Choice { first: somebody(now), second: None };
        }
        let (world, given) = (&self.world, &self.given);
        let Node { flows, base: bases, had_no_room, .. } = &mut self.nodes[packet.node];
        let base = bases[slot];
        let seconds = Seconds(packet.now.as_seconds());
        let stage = match packet.segment {
            Segment::Syn => Stage::Opening,
            Segment::Ack => Stage::Established,
            Segment::Fin => Stage::Closing,
        };

        let spot = flows.spot([packet.hash, 0]);
        if let Some(place) = flows.find(spot) {
            let flow = flows.get(place);
            match backend(world, flow.destination).filter(|_| !is_over(&flow, seconds, given)) {
                Some((number, backend))
                    if backend.keeps()
                        && (stage != Stage::Opening || flow.stage == Stage::Established || backend.takes_new()) =>
                {
                    let stage = flow.stage.max(stage);
                    flows.set(place, &Flow { stage, seen: seconds.0 % Flow::SECONDS, ..flow });
                    return number.into();
                }
                _ => flows.remove(place),
            }
        }

        let chosen = if stage == Stage::Opening { now } else { base };
        let chosen =
            if self.memory == Memory::Held && chosen != NOBODY && !world.get(chosen).keeps() { now } else { chosen };
        if chosen == NOBODY || self.memory != Memory::Full && base == now {
            return Choice { first: somebody(chosen), second: None };
        }
        let flow =
            Flow { destination: destination(world, chosen), slot: slot as u32, stage, seen: seconds.0 % Flow::SECONDS };
        let worth = |flow: &Flow| match backend(world, flow.destination) {
            None => Worth::Nothing,
            Some(_) if is_over(flow, seconds, given) => Worth::Nothing,
            Some(_) if flow.stage == Stage::Opening => Worth::Little,
            Some((number, _)) if number == bases[flow.slot as usize] => Worth::Substitutable,
            Some(_) => Worth::Everything,
        };
        let mut no_room = |slot: u32| {
            if bases[slot as usize] != self.owners[slot as usize] {
                had_no_room.insert(slot);
            }
        };
        match flows.insert(spot, &flow, worth) {
            Inserted::For(Worth::Substitutable, other) => {
                no_room(other.slot);
                chosen.into()
            }
            Inserted::Room | Inserted::For(..) => chosen.into(),
            Inserted::None => {
                no_room(slot as u32);
                let takes_it =
                    stage != Stage::Opening || somebody(base).is_some_and(|base| world.get(base).takes_new());
                Choice { first: somebody(base).filter(|_| takes_it), second: None }
            }
        }
    }

    fn entries(&mut self, now: Tick) -> usize {
        self.sweep(usize::MAX, now);
        self.nodes.iter().map(|node| node.flows.taken()).sum()
    }
}

fn flows(given: &Given, memory: Memory, node: usize) -> Flows {
    let capacity = if memory == Memory::None { 0 } else { given.capacity };
    Flows::new(capacity, [given.seed, node as u64])
}

/// Maglev's table of all that are defined, under the mask of those that take nothing new.
fn owners(world: &World) -> Vec<Number> {
    let all = world.maglev(&world.which(|backend| backend.state != State::Absent));
    maglev::masked(&all, |owner| !world.get(owner).takes_new(), &HASH)
}

fn is_over(flow: &Flow, now: Seconds, given: &Given) -> bool {
    let timeout = if flow.stage == Stage::Closing { given.closing } else { given.idle };
    flow.age(now) > timeout.as_seconds()
}

/// A backend that is defined anew under an address is another destination.
fn destination(world: &World, number: Number) -> u32 {
    u32::from(world.get(number).incarnation) << 10 | u32::from(number)
}

/// `None`: it is no longer defined.
fn backend(world: &World, destination: u32) -> Option<(Number, &Backend)> {
    let number = (destination % (1 << 10)) as Number;
    let backend = world.get(number);
    let is_defined = backend.state != State::Absent && u32::from(backend.incarnation) == destination >> 10;
    is_defined.then_some((number, backend))
}

fn endpoint(number: Number) -> SocketAddr {
    SocketAddr::new(address(number), 80)
}

/// Of an endpoint.
fn number(endpoint: SocketAddr) -> Number {
    match endpoint {
        SocketAddr::V4(address) => address.ip().to_bits() as Number,
        SocketAddr::V6(_) => NOBODY,
    }
}
