//! Definitions and next hops, compiled into the immutable thing that an lcore reads.
//!
//! [`Compiler`] lives on the control side; what it makes, a [`Snapshot`], answers the pipeline's questions: whose VIP,
//! which service, which backend, which way.

mod asked;
mod compile;
mod index;
mod ranges;
mod routes;
mod tables;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::counters::{Reason, Traffic, TrafficId};
use crate::maglev::{self, NOBODY, SelectionHash};
use crate::mode::{Prepared, Reply};
use crate::service::{Backend, Protocol, Service};
use crate::wire::Mac;

pub use crate::mode::{NextHop, PortIndex};
pub use asked::Asked;
pub use compile::Compiler;
pub use ranges::Ranges;
pub use routes::{Routes, Way};

/// What does not change while a node runs.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Key of the selection hash and of the tables; the same on every node of a fleet.
    pub seed: [u8; 16],
    /// Slots of a table whose service names no size.
    pub table_size: u32,
    /// Outer source of the tunnels; definitions with tunnels are refused where there is none.
    pub ipv4_source: Option<Ipv4Addr>,
    /// How long replies of a `dnat` endpoint that left are still translated.
    pub drain_timeout: Duration,
    /// Lcores that read snapshots and count traffic.
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
    /// `None`: a connected network, whose stations are asked for their own MAC address.
    pub via: Option<IpAddr>,
}

/// Milliseconds on whatever clock the caller has: the node's monotonic one, or a capture's time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

/// Everything that an lcore needs to forward under one version of the definitions. Immutable.
#[derive(Debug)]
pub struct Snapshot {
    version: Option<String>,
    hash: SelectionHash,
    ports: Box<[Port]>,
    vips: index::Index,
    own: index::Index,
    service_of: index::Index,
    services: Box<[CompiledService]>,
    targets: Box<[Target]>,
    endpoint_of: index::Index,
    endpoints: Box<[Endpoint]>,
    routes: Routes,
    unresolved: Box<[IpAddr]>,
    traffic: Box<[Traffic]>,
    asked: Arc<Asked>,
}

/// A service, and where its tables and backends are.
#[derive(Debug)]
pub struct CompiledService {
    now: tables::Slots,
    first_target: u32,
    ranges: Option<Ranges>,
    /// The table by definitions alone, without the mask.
    owners: tables::Slots,
    definition: Arc<Service>,
    /// The backends' places in the definition, in the order of the table's members.
    members: Box<[u32]>,
}

/// A backend of a service, as the lcores use it.
#[derive(Debug)]
#[repr(align(64))]
pub struct Target {
    /// What is done to packets, or why they cannot go there.
    pub mode: Result<Prepared, Reason>,
    pub traffic: TrafficId,
}

/// A backend that answers through the load balancer.
#[derive(Debug)]
struct Endpoint {
    reply: Reply,
    vip: (Ipv4Addr, u16),
    until: Option<Millis>,
}

/// Names a service of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceIndex(u32);

impl ServiceIndex {
    /// That of no service.
    pub const NONE: Self = Self(u32::MAX);
}

/// Names a target of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetIndex(u32);

impl TargetIndex {
    /// The target of what no backend may take: the first of every snapshot, which refuses.
    pub const NOBODY: Self = Self(0);
}

/// Whose address a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vip {
    No,
    Yes,
    /// Also an address of the node: services take their ports, the kernel twin the rest.
    Own,
}

impl Snapshot {
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    #[inline]
    pub fn port(&self, port: PortIndex) -> &Port {
        &self.ports[usize::from(port.0)]
    }

    /// The service on exactly this address, port and protocol number.
    #[inline]
    pub fn service(&self, vip: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceIndex> {
        self.service_of.get(key(vip, port, protocol)).map(ServiceIndex)
    }

    #[inline]
    pub fn vip(&self, address: Ipv4Addr) -> Vip {
        match self.vips.get(address_key(address)) {
            None => Vip::No,
            Some(0) => Vip::Yes,
            Some(_) => Vip::Own,
        }
    }

    /// Whether an address is one of the node's own.
    pub fn is_own(&self, address: Ipv4Addr) -> bool {
        self.own.get(address_key(address)).is_some()
    }

    #[inline]
    pub fn accepts(&self, service: ServiceIndex, client: Ipv4Addr) -> bool {
        self.compiled(service).ranges.as_ref().is_none_or(|ranges| ranges.accept(client))
    }

    /// The hash that chooses among backends.
    #[inline]
    pub fn hash(&self) -> &SelectionHash {
        &self.hash
    }

    /// The target of the slot that `hash` falls into; [`TargetIndex::NOBODY`] where no backend may take it, or where there
    /// is no such service.
    #[inline]
    pub fn select(&self, service: ServiceIndex, hash: u64) -> TargetIndex {
        let Some(service) = self.services.get(service.0 as usize) else { return TargetIndex::NOBODY };
        match service.now.get(maglev::slot(hash, service.now.len() as u32)) {
            Some(&member) if member != NOBODY => TargetIndex(service.first_target + u32::from(member)),
            _ => TargetIndex::NOBODY,
        }
    }

    #[inline]
    pub fn target(&self, target: TargetIndex) -> &Target {
        &self.targets[target.0 as usize]
    }

    /// How to turn a packet from this endpoint into a reply of its VIP, if it is one.
    #[inline]
    pub fn reply(&self, source: Ipv4Addr, port: u16, protocol: u8, now: Millis) -> Option<&Reply> {
        let endpoint = &self.endpoints[self.endpoint_of.get(key(source, port, protocol))? as usize];
        endpoint.until.is_none_or(|until| now < until).then_some(&endpoint.reply)
    }

    /// The way to a client, for what does not go to a backend. Asks for a station that is not known.
    #[inline]
    pub fn next_hop(&self, to: Ipv4Addr) -> Option<&NextHop> {
        match self.routes.way(to) {
            Way::Hop(hop) => Some(hop),
            Way::OnLink => {
                self.asked.ask(to.into());
                None
            }
            Way::Ask(_) | Way::None => None,
        }
    }

    #[inline]
    pub fn traffic(&self, lcore: usize) -> &Traffic {
        &self.traffic[lcore]
    }

    /// Next hops whose MAC address is wanted: of backends, and gateways of routes. Sorted.
    pub fn unresolved(&self) -> &[IpAddr] {
        &self.unresolved
    }

    #[inline]
    fn compiled(&self, service: ServiceIndex) -> &CompiledService {
        &self.services[service.0 as usize]
    }
}

/// What `explain` and the control side ask besides.
impl Snapshot {
    pub fn services(&self) -> impl ExactSizeIterator<Item = &CompiledService> {
        self.services.iter()
    }

    pub fn compiled_service(&self, service: ServiceIndex) -> &CompiledService {
        self.compiled(service)
    }

    pub fn way(&self, to: Ipv4Addr) -> &Way {
        self.routes.way(to)
    }

    /// The VIP and port that an endpoint serves, and when its replies stop being translated.
    pub fn endpoint(&self, source: Ipv4Addr, port: u16, protocol: u8) -> Option<((Ipv4Addr, u16), Option<Millis>)> {
        let endpoint = &self.endpoints[self.endpoint_of.get(key(source, port, protocol))? as usize];
        Some((endpoint.vip, endpoint.until))
    }
}

impl CompiledService {
    pub fn definition(&self) -> &Arc<Service> {
        &self.definition
    }

    pub fn table_size(&self) -> u32 {
        self.owners.len() as u32
    }

    /// Who owns a slot by definitions alone.
    pub fn owner(&self, slot: usize) -> Option<&Backend> {
        self.backend(*self.owners.get(slot)?)
    }

    /// Who takes a slot's new flows now.
    pub fn now(&self, slot: usize) -> Option<&Backend> {
        self.backend(*self.now.get(slot)?)
    }

    fn backend(&self, member: u16) -> Option<&Backend> {
        let place = *self.members.get(usize::from(member))?;
        Some(&self.definition.backends[place as usize])
    }
}

/// Of (address, port, protocol): in the order of a packet's bytes, which need no swap then.
#[inline(always)]
fn key(address: Ipv4Addr, port: u16, protocol: u8) -> u64 {
    address_key(address) | u64::from(protocol) << 32 | u64::from(port.swap_bytes()) << 48
}

#[inline(always)]
fn address_key(address: Ipv4Addr) -> u64 {
    u64::from(u32::from_le_bytes(address.octets()))
}

/// An IPv4 service's key parts, where it is one.
fn ipv4_key(address: IpAddr, port: u16, protocol: Protocol) -> Option<u64> {
    match address {
        IpAddr::V4(address) => Some(key(address, port, protocol.number())),
        IpAddr::V6(_) => None,
    }
}
