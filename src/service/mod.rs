//! What to balance: services, backends, and their validation; the JSON reader.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The IP protocol number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What is done to a packet; see `mode/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forwarding {
    Ipip,
    Dnat,
}

/// How much is remembered of flows (DESIGN: flow memory). Read and kept; this release remembers none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    Full,
    Transition,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Active,
    /// Keeps its flows, gets no new one.
    Draining,
    /// Gets nothing.
    Down,
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
