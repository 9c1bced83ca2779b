//! One contestant through one day: every packet is routed, and every flow watched.

use super::contestant::{Contestant, Packet, Segment};
use super::fleet::{Ecmp, Fleet};
use super::scenario::{Change, Event, Kind, Number, Scenario};
use super::slab::Slab;
use super::time::Tick;
use super::traffic::{Birth, Traffic};
use super::world::{State, World};

/// What is the same for every contestant.
pub struct Plan {
    pub traffic: Traffic,
    pub scenario: Scenario,
    pub events: Vec<Event>,
    pub ecmp: Ecmp,
    pub seed: u64,
}

/// What became of the flows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub flows: u64,
    pub packets: u64,
    /// Misdirected though their backend was there and up, by what had changed since their last packet (of several changes, the last; but
    /// another node before all).
    pub broken: [u64; CAUSES],
    /// Moved away from a backend that was down just then by its health checks, and had their connections still.
    pub moved: u64,
    /// Whose backend crashed, or was removed before they ended.
    pub ended: u64,
    /// SYNs that were dropped.
    pub refused: u64,
    pub samples: Vec<Sample>,
}

/// The kinds of changes, and three more.
pub const CAUSES: usize = Kind::ALL.len() + 3;
/// They were not past their SYN.
pub const HANDSHAKE: usize = CAUSES - 3;
/// Their own backend had been down, and was up again.
pub const OUTAGE: usize = CAUSES - 2;
/// Nothing had changed.
pub const FORGOTTEN: usize = CAUSES - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub at: Tick,
    pub live: usize,
    pub entries: usize,
}

const SAMPLING: Tick = Tick::minutes(1);

/// A flow that lives.
#[derive(Debug, Clone, Copy)]
struct Flow {
    hash: u64,
    end: Tick,
    seen: Tick,
    home: Number,
    /// Its backend's life that it belongs to.
    life: u16,
    node: u8,
    is_past_syn: bool,
}

/// What has changed last, of backends and of nodes.
#[derive(Debug, Clone, Copy)]
struct Last {
    at: Tick,
    kind: Kind,
}

impl Outcome {
    pub fn broken(&self) -> u64 {
        self.broken.iter().sum()
    }

    pub fn peak(&self, of: impl Fn(&Sample) -> usize) -> usize {
        self.samples.iter().map(of).max().unwrap_or(0)
    }

    pub fn mean(&self, of: impl Fn(&Sample) -> usize) -> f64 {
        self.samples.iter().map(of).sum::<usize>() as f64 / self.samples.len().max(1) as f64
    }
}

impl Plan {
    pub fn new(traffic: Traffic, scenario: Scenario, ecmp: Ecmp, seed: u64) -> Self {
        let events = scenario.events(seed);
        Self { traffic, scenario, events, ecmp, seed }
    }

    pub fn world(&self) -> World {
        World::new(&self.scenario)
    }

    pub fn run(&self, contestant: &mut dyn Contestant) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut world, mut fleet) = (self.world(), Fleet::new(self.scenario.nodes, self.ecmp));
        let (mut backends_changed, mut nodes_changed) = (None, None);
        let mut went_down = vec![Tick(0); world.backends.len()];
        let mut births = self.traffic.births(self.seed).peekable();
        let mut events = self.events.iter().peekable();
        let mut flows = Flows::new(self.traffic.idle);

        for now in (0..self.traffic.duration.0).map(Tick) {
            contestant.pass(now);
            while let Some(event) = events.next_if(|event| event.at <= now) {
                let last = Some(Last { at: now, kind: event.kind });
                if world.apply(&event.change) {
                    contestant.change(&world, now);
                    backends_changed = last;
                    if let Change::Down { backend, .. } = event.change {
                        went_down[usize::from(backend)] = now;
                    }
                }
                if fleet.apply(&event.change) {
                    match event.change {
                        Change::NodeBack(node) => contestant.regain(node, now),
                        Change::NodeLost(node) => contestant.lose(node),
                        _ => {}
                    }
                    nodes_changed = last;
                }
            }

            while let Some(Birth { hash, end, .. }) = births.next_if(|birth| birth.at <= now) {
                outcome.flows += 1;
                outcome.packets += 1;
                let node = fleet.node(hash);
                let choice = contestant.route(&Packet { hash, node, now, segment: Segment::Syn });
                let Some(home) = choice.first else {
                    outcome.refused += 1;
                    continue;
                };
                let life = world.get(home).life;
                // The handshake's end follows at once.
                flows.insert(
                    Flow { hash, end, seen: now, home, life, node: node as u8, is_past_syn: false },
                    now + Tick(1),
                );
            }

            for place in flows.due(now) {
                let flow = flows.flows[place];
                let is_last = flow.end <= now;
                let node = fleet.node(flow.hash);
                let backend = world.get(flow.home);
                if backend.life != flow.life {
                    outcome.ended += 1;
                    flows.remove(place);
                    continue;
                }
                let segment = if is_last { Segment::Fin } else { Segment::Ack };
                let choice = contestant.route(&Packet { hash: flow.hash, node, now, segment });
                outcome.packets += 1;
                if ![choice.first, choice.second].contains(&Some(flow.home)) {
                    if backend.state == State::Down {
                        outcome.moved += 1;
                    } else {
                        let since = |last: Option<Last>| last.filter(|last| last.at > flow.seen);
                        let cause = match (nodes_changed, since(backends_changed)) {
                            (Some(last), _) if node != usize::from(flow.node) => last.kind as usize,
                            _ if !flow.is_past_syn => HANDSHAKE,
                            _ if went_down[usize::from(flow.home)] > flow.seen => OUTAGE,
                            (_, Some(last)) => last.kind as usize,
                            (_, None) => FORGOTTEN,
                        };
                        outcome.broken[cause] += 1;
                    }
                    flows.remove(place);
                } else if is_last {
                    flows.remove(place);
                } else {
                    flows.flows[place] = Flow { seen: now, node: node as u8, is_past_syn: true, ..flow };
                    let next = now + self.traffic.silence(flow.hash, now);
                    flows.schedule(place, next.min(flow.end.max(now + Tick(1))));
                }
            }

            if now.0.is_multiple_of(SAMPLING.0) {
                let sample = Sample { at: now, live: flows.live(), entries: contestant.entries(now) };
                outcome.samples.push(sample);
            }
        }
        outcome
    }
}

/// The living flows, and when each has its next packet.
struct Flows {
    flows: Slab<Flow>,
    /// By tick, round and round: no flow waits for longer.
    wheel: Vec<Vec<u32>>,
}

impl Flows {
    fn new(longest: Tick) -> Self {
        Self { flows: Slab::new(), wheel: vec![Vec::new(); longest.0 as usize + 2] }
    }

    fn live(&self) -> usize {
        self.flows.live()
    }

    fn insert(&mut self, flow: Flow, next: Tick) {
        let place = self.flows.insert(flow);
        self.schedule(place, next);
    }

    fn remove(&mut self, place: u32) {
        self.flows.remove(place);
    }

    fn schedule(&mut self, place: u32, at: Tick) {
        let spokes = self.wheel.len();
        self.wheel[at.0 as usize % spokes].push(place);
    }

    fn due(&mut self, now: Tick) -> Vec<u32> {
        let spokes = self.wheel.len();
        std::mem::take(&mut self.wheel[now.0 as usize % spokes])
    }
}
