//! What a process leaves of a service to the one that comes after: whose its slots and its flows are.

use std::net::SocketAddr;
use std::sync::Arc;

use super::transition::Bases;

/// Of one service. Empty: nothing that the next process need know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Of its slots.
    pub bases: Arc<Bases>,
    /// By endpoint: the numbers that flows are remembered by.
    pub numbers: Arc<[(SocketAddr, u32)]>,
    /// Whether the slots that its flows are remembered with may be of another table.
    pub had_other_slots: bool,
}

impl Trace {
    pub fn is_empty(&self) -> bool {
        self.bases.is_at_rest() && self.numbers.is_empty()
    }
}
