//! The nodes behind a router that does ECMP.

use clap::ValueEnum;

use super::random::mix;
use super::scenario::Change;

/// How the router deals flows to the nodes that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ecmp {
    /// By the remainder: nearly all flows change nodes when one is lost or returns (RFC 2992, section 3, "modulo-N").
    Modulo,
    /// Only the flows of the lost node change nodes, and as many come back to it ("resilient hashing").
    Resilient,
}

#[derive(Debug)]
pub struct Fleet {
    ecmp: Ecmp,
    up: Vec<bool>,
    live: Vec<usize>,
}

impl Fleet {
    pub fn new(nodes: usize, ecmp: Ecmp) -> Self {
        Self { ecmp, up: vec![true; nodes], live: (0..nodes).collect() }
    }

    /// Whether a node came or went; the last one never goes.
    pub fn apply(&mut self, change: &Change) -> bool {
        match *change {
            Change::NodeLost(node) if self.up[node] && self.live.len() > 1 => self.up[node] = false,
            Change::NodeBack(node) if !self.up[node] => self.up[node] = true,
            _ => return false,
        }
        self.live = (0..self.up.len()).filter(|&node| self.up[node]).collect();
        true
    }

    /// The node that gets a flow.
    pub fn node(&self, hash: u64) -> usize {
        match self.ecmp {
            Ecmp::Modulo => self.live[(mix(hash) % self.live.len() as u64) as usize],
            Ecmp::Resilient => {
                let score = |&node: &usize| mix(hash ^ (node as u64 + 1) << 32);
                self.live.iter().copied().max_by_key(score).unwrap_or(0)
            }
        }
    }
}
