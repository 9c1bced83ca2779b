//! Definitions and next hops, compiled into the immutable thing that an lcore reads.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::wire::Mac;

/// Index of a port in the configuration's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u8);

/// What does not change while a node runs.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Key of the selection hash and of the tables; the same on every node of a fleet.
    pub seed: [u8; 16],
    /// Slots of a table whose service names no size.
    pub table_size: u32,
    /// Outer source of the tunnels; `None`: no IPv4 tunnels.
    pub ipv4_source: Option<std::net::Ipv4Addr>,
    /// How long replies of a `dnat` endpoint that left are still translated.
    pub drain_timeout: Duration,
    /// Lcores that count and read.
    pub lcores: usize,
}

/// A port as the pipeline sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub mac: Mac,
    /// Largest IP packet that leaves by it, bytes.
    pub mtu: u16,
    /// Takes frames for other stations too.
    pub promiscuous: bool,
}

/// What is known of the way out: static entries and the kernel's, merged by whoever calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fabric {
    pub ports: Vec<Port>,
    /// The node's own addresses.
    pub own: Vec<IpAddr>,
    /// Resolved neighbours. Of two entries of one address the last counts.
    pub neighbors: Vec<Neighbor>,
    /// Routes; of two of one prefix the last counts.
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    pub address: IpAddr,
    pub mac: Mac,
    pub port: PortIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub prefix: IpNet,
    pub via: IpAddr,
}

/// Milliseconds on whatever clock the caller has: the node's monotonic one, or a capture's time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);
