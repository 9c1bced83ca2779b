//! The contestants: each says where a packet goes. One file each, from its paper or its code's idea, as far as consistency is concerned.

mod jet;
mod maglev;
mod penstock;
mod remembered;
mod rendezvous;
mod second_chance;
mod stateful;

use super::scenario::Number;
use super::time::Tick;
use super::world::World;

pub use penstock::{Memory, Penstock, Returning};

/// What a load balancer sees of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub hash: u64,
    pub node: usize,
    pub now: Tick,
    pub segment: Segment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    Syn,
    Ack,
    Fin,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// `None`: it is dropped.
    pub first: Option<Number>,
    /// Where the first one passes it on if it does not know the flow.
    pub second: Option<Number>,
}

impl From<Number> for Choice {
    fn from(number: Number) -> Self {
        Self { first: Some(number), second: None }
    }
}

/// A fleet of one kind of load balancer.
pub trait Contestant {
    /// The backends are now so.
    fn change(&mut self, world: &World, now: Tick);
    /// A node is lost, and all that it remembers.
    fn lose(&mut self, node: usize);
    fn regain(&mut self, node: usize, now: Tick);
    /// Time has come to `now`.
    fn pass(&mut self, _now: Tick) {}
    fn route(&mut self, packet: &Packet) -> Choice;
    /// What the fleet remembers, without what is over.
    fn entries(&mut self, _now: Tick) -> usize {
        0
    }
}

/// What every contestant is given.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub nodes: usize,
    /// Entries of a node, where they are bounded.
    pub capacity: usize,
    /// A flow that is silent for longer is forgotten; one whose client has sent FIN, after `closing`.
    pub idle: Tick,
    pub closing: Tick,
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Maglev,
    SecondChance,
    Lru,
    Table,
    Jet,
    JetDrain,
    None,
    Transition,
    /// `transition`, if the bases of backends that are down were held.
    Held,
    Full,
}

impl Kind {
    /// Those that are, without [`Kind::Held`], which could be.
    pub const RULES: [Self; 9] = [
        Self::Maglev,
        Self::SecondChance,
        Self::Lru,
        Self::Table,
        Self::Jet,
        Self::JetDrain,
        Self::None,
        Self::Transition,
        Self::Full,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Maglev => "Maglev",
            Self::SecondChance => "second chance",
            Self::Lru => "Maglev + LRU",
            Self::Table => "full table",
            Self::Jet => "JET",
            Self::JetDrain => "JET + draining",
            Self::None => "Penstock none",
            Self::Transition => "Penstock transition",
            Self::Held => "Penstock held",
            Self::Full => "Penstock full",
        }
    }

    pub fn is_penstock(self) -> bool {
        matches!(self, Self::None | Self::Transition | Self::Held | Self::Full)
    }

    pub fn make(self, world: &World, given: &Given, returning: Returning) -> Box<dyn Contestant> {
        let penstock = |memory| Box::new(Penstock::new(world, given, memory, returning));
        match self {
            Self::Maglev => Box::new(maglev::Maglev::new(world)),
            Self::SecondChance => Box::new(second_chance::SecondChance::new(world)),
            Self::Lru => Box::new(stateful::lru(world, given)),
            Self::Table => Box::new(stateful::table(world, given)),
            Self::Jet => Box::new(jet::Jet::new(world, given, false)),
            Self::JetDrain => Box::new(jet::Jet::new(world, given, true)),
            Self::None => penstock(Memory::None),
            Self::Transition => penstock(Memory::Transition),
            Self::Held => penstock(Memory::Held),
            Self::Full => penstock(Memory::Full),
        }
    }

    /// Bytes of an entry; perf/CONSISTENCY.md says how they are counted.
    pub fn entry_bytes(self) -> f64 {
        match self {
            Self::Maglev | Self::SecondChance | Self::None => 0.0,
            // A BPF LRU hash map: struct htab_elem (48), a flow_key (40), a real_pos_lru (16), its bucket (16).
            Self::Lru => 120.0,
            // DPVS's struct dp_vs_conn, with both directions' tuples and the timer.
            Self::Table => 300.0,
            // Its paper does not say; as small as ours.
            Self::Jet | Self::JetDrain | Self::Transition | Self::Held | Self::Full => {
                const MANY: usize = 1 << 20;
                ::penstock::flow::Flows::bytes(MANY) as f64 / MANY as f64
            }
        }
    }
}
