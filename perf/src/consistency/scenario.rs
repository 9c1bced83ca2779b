//! What happens to the backends and the nodes, and when: deployments, scaling, failures, flaps, weights.

use super::random::Random;
use super::time::Tick;

/// A backend, by its place among all that there ever are.
pub type Number = u16;

/// Why something changes; of what broke a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Deployment,
    ScaleOut,
    ScaleIn,
    Failure,
    Flap,
    Weights,
    NodeLoss,
    NodeReturn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add(Vec<Number>),
    Drain(Vec<Number>),
    Remove(Vec<Number>),
    /// Health checks fail. `crashed`: its connections are gone, too; else only the checks were wrong.
    Down {
        backend: Number,
        crashed: bool,
    },
    Up(Number),
    Weigh(Number, u16),
    NodeLost(usize),
    NodeBack(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Tick,
    pub kind: Kind,
    pub change: Change,
}

/// What the operator does and what befalls the fleet.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub duration: Tick,
    pub nodes: usize,
    /// Backends from the start; and spare ones, for scaling out.
    pub backends: u16,
    pub spare: u16,
    /// Mean times between events.
    pub deployment: Tick,
    pub scaling: Tick,
    pub failure: Tick,
    pub flap: Tick,
    pub weighing: Tick,
    pub node_loss: Tick,
    /// Backends that a deployment restarts at a time, and how long they are drained before.
    pub batch: u16,
    pub drain: Tick,
}

pub const WEIGHT: u16 = 100;

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Deployment,
        Self::ScaleOut,
        Self::ScaleIn,
        Self::Failure,
        Self::Flap,
        Self::Weights,
        Self::NodeLoss,
        Self::NodeReturn,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::ScaleOut => "scale out",
            Self::ScaleIn => "scale in",
            Self::Failure => "failure",
            Self::Flap => "flap",
            Self::Weights => "weights",
            Self::NodeLoss => "node loss",
            Self::NodeReturn => "node return",
        }
    }
}

impl Scenario {
    /// An ordinary day: 100 backends that are deployed every 100 minutes, four at a time, with two minutes to drain.
    pub fn day(duration: Tick, nodes: usize) -> Self {
        Self {
            duration,
            nodes,
            backends: 100,
            spare: 10,
            deployment: Tick::minutes(100),
            scaling: Tick::minutes(35),
            failure: Tick::minutes(12),
            flap: Tick::minutes(4),
            weighing: Tick::minutes(9),
            node_loss: Tick::minutes(50),
            batch: 4,
            drain: Tick::minutes(2),
        }
    }

    /// All events, in order.
    pub fn events(&self, seed: u64) -> Vec<Event> {
        let mut events = self.deployments();
        events.extend(self.scalings());
        events.extend(self.outages(seed, Kind::Failure, self.failure, |random| random.between(60.0, 600.0)));
        events.extend(self.outages(seed, Kind::Flap, self.flap, |random| random.between(2.0, 30.0)));
        events.extend(self.weights(seed));
        if self.nodes > 1 {
            events.extend(self.nodes_lost(seed));
        }
        events.sort_by_key(|event| event.at);
        events
    }

    fn deployments(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut begin = Tick(self.deployment.0 / 5);
        while begin < self.duration {
            let all: Vec<Number> = (0..self.backends).collect();
            let mut at = begin;
            for batch in all.chunks(usize::from(self.batch)) {
                let mut then = |after: Tick, change: fn(Vec<Number>) -> Change| {
                    at = at + after;
                    events.push(Event { at, kind: Kind::Deployment, change: change(batch.to_vec()) });
                };
                then(Tick::seconds(5), Change::Drain);
                then(self.drain, Change::Remove);
                then(Tick::seconds(20), Change::Add);
            }
            begin = begin + self.deployment;
        }
        events
    }

    /// Out and in, in turns.
    fn scalings(&self) -> Vec<Event> {
        let spare: Vec<Number> = (self.backends..self.backends + self.spare).collect();
        let mut events = Vec::new();
        let mut at = Tick(self.scaling.0 / 2);
        while at < self.duration {
            events.push(Event { at, kind: Kind::ScaleOut, change: Change::Add(spare.clone()) });
            at = at + self.scaling;
            events.push(Event { at, kind: Kind::ScaleIn, change: Change::Drain(spare.clone()) });
            events.push(Event { at: at + self.drain, kind: Kind::ScaleIn, change: Change::Remove(spare.clone()) });
            at = at + self.scaling;
        }
        events
    }

    fn outages(&self, seed: u64, kind: Kind, mean: Tick, seconds: impl Fn(&mut Random) -> f64) -> Vec<Event> {
        let mut random = Random::new(seed, 10 + kind as u64);
        let mut events = Vec::new();
        for at in moments(&mut random, mean, self.duration) {
            let backend = random.below(usize::from(self.backends)) as Number;
            let end = at + Tick::of(seconds(&mut random));
            events.push(Event { at, kind, change: Change::Down { backend, crashed: kind == Kind::Failure } });
            events.push(Event { at: end, kind, change: Change::Up(backend) });
        }
        events
    }

    fn weights(&self, seed: u64) -> Vec<Event> {
        let mut random = Random::new(seed, 2);
        let change = |random: &mut Random| {
            let weight = [WEIGHT / 2, WEIGHT, WEIGHT, WEIGHT * 3 / 2, WEIGHT * 2][random.below(5)];
            Change::Weigh(random.below(usize::from(self.backends)) as Number, weight)
        };
        let moments = moments(&mut random, self.weighing, self.duration);
        moments.into_iter().map(|at| Event { at, kind: Kind::Weights, change: change(&mut random) }).collect()
    }

    fn nodes_lost(&self, seed: u64) -> Vec<Event> {
        let mut random = Random::new(seed, 3);
        let mut events = Vec::new();
        for at in moments(&mut random, self.node_loss, self.duration) {
            let node = random.below(self.nodes);
            let end = at + Tick::of(random.between(60.0, 1800.0));
            events.push(Event { at, kind: Kind::NodeLoss, change: Change::NodeLost(node) });
            events.push(Event { at: end, kind: Kind::NodeReturn, change: Change::NodeBack(node) });
        }
        events
    }
}

/// At random, so far apart in the mean.
fn moments(random: &mut Random, mean: Tick, end: Tick) -> Vec<Tick> {
    let mut at = 0.0;
    let next = || {
        at += random.exponential(f64::from(mean.0).max(1.0));
        Some(at)
    };
    std::iter::from_fn(next).take_while(|&at| at < f64::from(end.0)).map(|at| Tick(at as u32)).collect()
}
