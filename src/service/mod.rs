//! What to balance: services, backends, and their validation; the readers of documents.
//!
//! A document becomes [`Definitions`] in three steps, each a file: `tree` (bytes to plain values), `shape` with the tables
//! of `keys` (every key and value by itself), `rules` (what must hold between them). All of them collect errors, so a person sees
//! every one at once. `tree`, `shape` and `problem` serve the node's configuration as well. A document of Kubernetes' objects, which may be YAML, goes by way of `kubernetes`.

mod claims;
pub mod duration;
pub mod keys;
pub mod kubernetes;
pub mod problem;
mod reader;
mod rules;
pub mod shape;
pub mod tree;
mod writer;
mod yaml;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use claims::Claims;
pub use kubernetes::LeftOut;
pub use problem::{Errors, Problem, Warning};
pub use reader::{Reading, native, read, read_service, read_tree};
pub use rules::not_one_station;
use shape::choice;

use crate::wire::Mac;

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
    /// One address where the length is full.
    pub vip: IpNet,
    pub ports: Ports,
    pub protocol: Protocol,
    pub forwarding: Forwarding,
    pub hash: Hash,
    /// How servers choose connection IDs, for [`Hash::QuicCid`].
    pub quic: Option<Quic>,
    pub tracking: Tracking,
    pub no_backend: NoBackend,
    pub backends: Vec<Backend>,
    /// Empty: any client.
    pub source_ranges: Vec<IpNet>,
    pub deny_ranges: Vec<IpNet>,
    pub idle_timeout: IdleTimeout,
    /// Slots of the Maglev table, a prime; `None`: the node's.
    pub table_size: Option<u32>,
    /// How backends are checked.
    pub health: Health,
    /// How long a client is remembered after its last packet, with [`Hash::SourceIp`] and [`Tracking::Full`].
    pub affinity_timeout: Option<Duration>,
    /// The code point of `dscp`, 1 to 63.
    pub dscp: Option<u8>,
    pub gue: Gue,
    pub geneve: Geneve,
    /// Whether the outer UDP header of `gue` and `geneve` has a checksum.
    pub udp_checksum: bool,
    /// Of the VIP that `dnat-dsr` writes.
    pub byte_order: ByteOrder,
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    ByteOrder {
        #[default]
        Network "network"
        /// Swapped, as some releases of Cilium have it.
        Host "host"
    }
}

/// Routable connection IDs (draft-ietf-quic-load-balancers, unencrypted): an octet whose first three bits are the configuration's,
/// the server's ID, a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quic {
    /// 0 to 6.
    pub config_id: u8,
    /// Bytes of a server ID, 1 to 15.
    pub server_id_length: u8,
}

/// Details of `gue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gue {
    /// 0: with a GUE header; 1: IP directly in UDP.
    pub variant: u8,
    /// UDP destination.
    pub port: u16,
}

/// Details of `geneve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Geneve {
    /// UDP destination.
    pub port: u16,
    /// Virtual network identifier, 24 bits.
    pub vni: u32,
    pub inner_destination: Mac,
    pub inner_source: Mac,
}

/// The ports of a service, first to last; all of them: 0 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The port, where it is a single one.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    pub fn count(self) -> usize {
        usize::from(self.last) - usize::from(self.first) + 1
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => write!(f, "{port}"),
            None if *self == Self::ALL => write!(f, "0"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// An address that serves a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub address: IpAddr,
    /// Where the mode can change the port; `None`: the service's.
    pub port: Option<u16>,
    pub weight: u16,
    pub state: State,
    /// The outer destination of `geneve`; `None`: the address.
    pub tunnel_endpoint: Option<IpAddr>,
    /// Its ID within QUIC connection IDs.
    pub server_id: Option<Box<[u8]>>,
    /// Where its health is asked for; `None`: its own address. No native document says it: a Kubernetes node answers for its endpoints.
    pub health_address: Option<IpAddr>,
    /// Whether the service's check leaves it out, so that it counts as up: nobody could answer for it.
    pub is_unchecked: bool,
}

impl Backend {
    /// Where the service's check asks for its health; `None`: nowhere, and it counts as up.
    pub fn health_address(&self) -> Option<IpAddr> {
        (!self.is_unchecked).then_some(self.health_address.unwrap_or(self.address))
    }

    /// Where its packets are sent.
    pub fn tunnel_endpoint(&self) -> IpAddr {
        self.tunnel_endpoint.unwrap_or(self.address)
    }
}

impl Service {
    /// Address and port that a backend is sent to; port 0 where the packet keeps one of several.
    pub fn endpoint(&self, backend: &Backend) -> SocketAddr {
        SocketAddr::new(backend.address, backend.port.or(self.ports.single()).unwrap_or(0))
    }

    /// Seconds that a silent flow is remembered: one that opens, an established one, one that closes.
    pub fn idle_seconds(&self) -> [u32; 3] {
        let IdleTimeout { tcp, tcp_closing, udp } = self.idle_timeout;
        let times = match self.protocol {
            Protocol::Tcp => [tcp_closing, tcp, tcp_closing],
            Protocol::Udp => [udp; 3],
        };
        // Rather a part of a second too long than too short.
        let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        times.map(|time| u32::try_from(seconds(time)).unwrap_or(u32::MAX).min(IdleTimeout::MOST))
    }

    /// The VIP, as it is written.
    pub fn vip_text(&self) -> String {
        if self.vip.prefix_len() == self.vip.max_prefix_len() {
            self.vip.addr().to_string()
        } else {
            self.vip.to_string()
        }
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

    pub const fn numbered(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

choice! {
    /// What is done to a packet; see `mode/`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    Forwarding {
        Ipip "ipip"
        Gre "gre"
        Gue "gue"
        Geneve "geneve"
        Dscp "dscp"
        L2dsr "l2dsr"
        Dnat "dnat"
        DnatDsr "dnat-dsr"
        Snat "snat"
    }
}

/// What others than a mode's own file must know of it, before any packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nature {
    /// A backend may have another port than the service.
    pub changes_port: bool,
    /// VIP and backend may be of different families: the packet goes inside another, as it is. (What `geneve` sends is the backend's own,
    /// inside; only the tunnel's end may be of the other.)
    pub crosses_families: bool,
    /// Replies come back by the node, which knows them by the endpoint that they come from: an endpoint serves one VIP and port.
    pub replies_by_endpoint: bool,
    /// An lcore keeps every flow, and what becomes of its packets in either direction, whatever `tracking` says.
    pub keeps_flows: bool,
    /// An lcore knows the flows that it has seen begin, where `tracking` is `full`.
    pub knows_beginnings: bool,
    /// The backend must be on a connected network.
    pub needs_neighbor: bool,
}

impl Forwarding {
    pub const fn nature(self) -> Nature {
        const PLAIN: Nature = Nature {
            changes_port: false,
            crosses_families: false,
            replies_by_endpoint: false,
            keeps_flows: false,
            knows_beginnings: false,
            needs_neighbor: false,
        };
        match self {
            Self::Ipip | Self::Gre | Self::Gue => Nature { crosses_families: true, ..PLAIN },
            Self::Geneve => Nature { changes_port: true, ..PLAIN },
            Self::Dscp => PLAIN,
            Self::L2dsr => Nature { needs_neighbor: true, ..PLAIN },
            Self::Dnat => Nature { changes_port: true, replies_by_endpoint: true, ..PLAIN },
            Self::DnatDsr => Nature { changes_port: true, knows_beginnings: true, ..PLAIN },
            Self::Snat => Nature { changes_port: true, keeps_flows: true, ..PLAIN },
        }
    }
}

choice! {
    /// What of a packet chooses its backend.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    Hash {
        FiveTuple "five-tuple"
        SourceIp "source-ip"
        QuicCid "quic-cid"
    }
}

choice! {
    /// What a packet gets when no backend may take it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    NoBackend {
        #[default]
        Drop "drop"
        /// A TCP RST, or ICMP port unreachable.
        Reject "reject"
    }
}

choice! {
    /// How much is remembered of flows.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Tracking {
        /// Every flow that begins.
        Full "full"
        /// Flows of slots whose owner changes, as long as that matters.
        Transition "transition"
        None "none"
    }
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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

impl HealthCheck {
    /// Whether it asks by way of the service's own forwarding mode.
    pub fn goes_through_the_service(&self) -> bool {
        self.kind != CheckKind::None && self.target == CheckTarget::Vip
    }
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

impl IdleTimeout {
    /// What is longer counts as this, in seconds: twelve days.
    pub const MOST: u32 = 12 * 24 * 3600;
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
