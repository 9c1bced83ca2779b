//! What the control side can tell of itself, for metrics and the like.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::service::Definitions;

/// The state of a node's control side at one moment.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is in force; `None` before the first set.
    pub definitions: Option<Arc<Definitions>>,
    /// When the feed last gave a valid set, new or the same.
    pub feed_last_success: Option<SystemTime>,
    /// Packets and bytes of each backend (service, endpoint), over all lcores.
    pub backends: Vec<Count<(Arc<str>, SocketAddr)>>,
    /// Packets and bytes of each service, those of backends that left included.
    pub services: Vec<Count<Arc<str>>>,
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
