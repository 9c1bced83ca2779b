//! What the control side can tell of itself, for metrics and the like.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::drained::Whom;
use crate::service::{Definitions, LeftOut};

/// The state of a node's control side at one moment.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is in force; `None` before the first set.
    pub definitions: Option<Arc<Definitions>>,
    /// The same with the states that packets meet.
    pub masked: Arc<Definitions>,
    /// What was drained by hand.
    pub drained: Vec<Whom>,
    /// When the feed last gave a valid set, new or the same.
    pub feed_last_success: Option<SystemTime>,
    /// Why the feed's newest word is not in force.
    pub feed_error: Option<String>,
    /// What of the newest set is left out, or cut to what can be.
    pub left_out: Vec<LeftOut>,
    /// Packets and bytes of each backend (service, endpoint), over all lcores.
    pub backends: Vec<Count<(Arc<str>, SocketAddr)>>,
    /// Packets and bytes of each service, those of backends that left included.
    pub services: Vec<Count<Arc<str>>>,
    /// Flows that the lcores remember by each backend (service, endpoint) of services that may remember any, as they were last seen.
    pub flows: Vec<((Arc<str>, SocketAddr), u64)>,
    /// Slots, by service, whose established flows are elsewhere than new ones go.
    pub moving: Vec<(Arc<str>, usize)>,
    /// Slots, by service and by the backend that their established flows are on.
    pub unsettled: HashMap<(Arc<str>, SocketAddr), usize>,
    /// Services whose flows were not counted since their slots came to rest.
    pub uncounted: HashSet<Arc<str>>,
    /// Milliseconds until the next slot comes to rest.
    pub next_move: Option<u64>,
    /// Packets of each service that were dropped since there was no room to remember their flow.
    pub refused: Vec<(Arc<str>, u64)>,
    /// Next hops whose MAC is wanted and not known.
    pub unresolved: usize,
}

/// Packets and bytes of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count<T> {
    pub of: T,
    pub packets: u64,
    pub bytes: u64,
}
