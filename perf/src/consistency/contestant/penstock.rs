//! Penstock: the flow table, the rule, the bases, the tables and the mask are its own code; here stands only what a snapshot would say.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::SocketAddr;

use penstock::flow::{self as rule, Fate, Flow, Flows, Goes, Judge, Known, Says, Seconds, Spots, Stage, Young};
use penstock::maglev::{self, NOBODY};
use penstock::service::Tracking;
use penstock::snapshot::{Bases, By, Millis, Owners};

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
                    let [old, new] = [&node.owners, &self.owners].map(|slots| Owners {
                        slots,
                        endpoints: &self.endpoints,
                        by: By::Client,
                    });
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
        let judge = Sweeper { world: &self.world, given: &self.given, now: Seconds(now.as_seconds()) };
        self.nodes.iter_mut().for_each(|node| node.flows.sweep(buckets, &judge));
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

/// What a node's snapshot says.
struct Seen<'a> {
    world: &'a World,
    given: &'a Given,
    owners: &'a [Number],
    bases: &'a [Number],
    had_no_room: RefCell<&'a mut HashSet<u32>>,
}

impl Known for Seen<'_> {
    fn fate(&self, destination: u32) -> Fate {
        let [idle, closing] = [self.given.idle, self.given.closing].map(Tick::as_seconds);
        backend(self.world, destination).map_or(Fate::GONE, |(_, backend)| Fate {
            is_there: true,
            keeps: backend.keeps(),
            takes_new: backend.takes_new(),
            idle: [idle, idle, closing],
        })
    }

    fn base(&self, _: u32, slot: u32) -> Option<u32> {
        somebody(self.bases[slot as usize]).map(|number| destination(self.world, number))
    }

    fn note_no_room(&self, _: u32, slot: u32) {
        if self.bases[slot as usize] != self.owners[slot as usize] {
            self.had_no_room.borrow_mut().insert(slot);
        }
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
        let tracking = match self.memory {
            Memory::None => return Choice { first: somebody(now), second: None },
            Memory::Transition | Memory::Held => Tracking::Transition,
            Memory::Full => Tracking::Full,
        };
        let world = &self.world;
        let Node { flows, base: bases, had_no_room, .. } = &mut self.nodes[packet.node];
        let base = bases[slot];
        // Who is looked for at a base that is down goes to the owner now, and is remembered there.
        let is_off = self.memory == Memory::Held && base != NOBODY && !world.get(base).keeps();
        let to = |number| somebody(number).map(|number| destination(world, number));
        let choose = || rule::Choice {
            slot: slot as u32,
            now: to(now),
            settled: None,
            base: to(if is_off { now } else { base }).filter(|_| base != now),
            tracking,
        };
        let says = match packet.segment {
            Segment::Syn => Says::Opens,
            Segment::Ack => Says::GoesOn,
            Segment::Fin => Says::Ends,
        };
        let known =
            Seen { world, given: &self.given, owners: &self.owners, bases, had_no_room: RefCell::new(had_no_room) };
        let spot = flows.spot([packet.hash, 0]);
        let goes = flows.decide(spot, flows.find(spot), says, Seconds(packet.now.as_seconds()), &known, choose);
        let first = if let Goes::To(destination) = goes { Some(number_of(destination)) } else { None };
        Choice { first, second: None }
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

/// Who is over, down backends aside.
struct Sweeper<'a> {
    world: &'a World,
    given: &'a Given,
    now: Seconds,
}

impl Judge for Sweeper<'_> {
    fn young(&self) -> Young {
        Young::NONE
    }

    fn is_over(&self, flow: &Flow) -> bool {
        let timeout = if flow.stage == Stage::Closing { self.given.closing } else { self.given.idle };
        backend(self.world, flow.destination).is_none() || flow.age(self.now) > timeout.as_seconds()
    }

    fn is_substitutable(&self, _: &Flow) -> bool {
        false
    }
}

/// A backend that is defined anew under an address is another destination.
fn destination(world: &World, number: Number) -> u32 {
    u32::from(world.get(number).incarnation) << 10 | u32::from(number)
}

fn number_of(destination: u32) -> Number {
    (destination % (1 << 10)) as Number
}

/// `None`: it is no longer defined.
fn backend(world: &World, destination: u32) -> Option<(Number, &Backend)> {
    let number = number_of(destination);
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
