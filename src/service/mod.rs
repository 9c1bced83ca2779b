//! What to balance: services, backends, and their validation; the JSON reader.
//!
//! A document becomes [`Definitions`] in four steps, each a file: `tree` (bytes to plain values), `shape` with the tables
//! of `keys` (every key and value by itself), `rules` (what must hold between them), `limits` (what is known but not done
//! yet). All of them collect errors, so a person sees every one at once. `tree`, `shape` and `problem` serve the node's
//! configuration as well.

pub mod duration;
pub mod keys;
mod limits;
pub mod problem;
mod reader;
mod rules;
pub mod shape;
pub mod tree;
mod writer;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use problem::{Errors, Problem, Warning};
pub use reader::read;
use shape::choice;

/// Backends that one service can have: a slot of a table names one in two bytes.
pub const MOST_BACKENDS: usize = 65_534;

/// One whole, valid set of services; equal sets in any order forward alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definitions {
    pub version: Option<String>,
    /// Unchanged services are shared between one set and the next.
    pub services: Vec<Arc<Service>>,
}

/// A VIP, port and protocol, and how they are balanced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: Arc<str>,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub forwarding: Forwarding,
    pub tracking: Tracking,
    pub backends: Vec<Backend>,
    /// Empty: any client.
    pub source_ranges: Vec<IpNet>,
    pub deny_ranges: Vec<IpNet>,
    pub idle_timeout: IdleTimeout,
    /// Slots of the Maglev table, a prime; `None`: the node's.
    pub table_size: Option<u32>,
    /// Read and kept; this release runs no health checks.
    pub health: Health,
    /// Read and kept; this release has no affinity.
    pub affinity_timeout: Option<Duration>,
}

/// An address that serves a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub address: IpAddr,
    /// Where the mode can change the port; `None`: the service's.
    pub port: Option<u16>,
    pub weight: u16,
    pub state: State,
}

impl Service {
    /// Address and port that a backend is sent to.
    pub fn endpoint(&self, backend: &Backend) -> SocketAddr {
        SocketAddr::new(backend.address, backend.port.unwrap_or(self.port))
    }
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    Protocol {
        Tcp "tcp"
        Udp "udp"
    }
}

impl Protocol {
    /// The IP protocol number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

choice! {
    /// What is done to a packet; see `mode/`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    Forwarding {
        Ipip "ipip"
        Dnat "dnat"
    }
}

choice! {
    /// How much is remembered of flows. Read and kept; this release remembers none.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Tracking {
        Full "full"
        Transition "transition"
        None "none"
    }
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    State {
        #[default]
        Active "active"
        /// Keeps its flows, gets no new one.
        Draining "draining"
        /// Gets nothing.
        Down "down"
    }
}

/// How a service learns which of its backends work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    pub check: Option<HealthCheck>,
    pub all_down: AllDown,
}

choice! {
    /// What becomes of packets when every backend has failed its health check.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    AllDown {
        #[default]
        Drop "drop"
        /// Uses every backend as if all were up.
        FailOpen "fail-open"
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub kind: CheckKind,
    pub target: CheckTarget,
    /// `None`: the port that the backend serves on.
    pub port: Option<u16>,
    pub path: String,
    pub host: Option<String>,
    pub expect_status: u16,
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u16,
    pub fall: u16,
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    CheckKind {
        Tcp "tcp"
        Http "http"
        Https "https"
        Udp "udp"
        Ping "ping"
        None "none"
    }
}

impl CheckKind {
    /// Whether a probe has a path, a host and a status.
    pub const fn speaks_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    CheckTarget {
        Backend "backend"
        /// Through the service's own forwarding mode to the VIP, as a client's packet would go.
        Vip "vip"
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleTimeout {
    pub tcp: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
}

impl Default for IdleTimeout {
    fn default() -> Self {
        Self {
            tcp: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_closing: Duration::from_secs(120),
            udp: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
