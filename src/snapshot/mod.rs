//! Definitions and next hops, compiled into the immutable thing that an lcore reads.
//!
//! [`Compiler`] lives on the control side; what it makes, a [`Snapshot`], answers the pipeline's questions: whose VIP,
//! which service, which backend, which way.

mod asked;
mod compile;
mod endpoints;
mod index;
mod learned;
mod limiter;
mod prefixes;
mod ranges;
mod routes;
mod tables;
mod transition;
mod vips;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::counters::{Traffic, TrafficId};
use crate::flow::Sources;
use crate::maglev::{self, NOBODY, SelectionHash};
use crate::mode::{Encap, Prepared, Reply, Tunnel};
use crate::service::{Backend, Hash, Service};
use crate::wire::Mac;

pub use crate::mode::{NextHop, PortIndex};
pub use asked::Asked;
pub use compile::Compiler;
use endpoints::Endpoints;
use index::Index;
use learned::Learned;
pub use limiter::{Limit, Limiter};
pub use ranges::Ranges;
pub use routes::{Routes, Way};
pub use transition::{Bases, Held, Owners, Until};
use vips::Vips;

/// What does not change while a node runs.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Key of the selection hash and of the tables; the same on every node of a fleet.
    pub seed: [u8; 16],
    /// Slots of a table whose service names no size.
    pub table_size: u32,
    /// What tunnels put into their outer headers.
    pub encap: Encap,
    /// How many ICMP errors the node makes.
    pub icmp_errors: Limit,
    /// How long a later fragment may wait for its first; zero: not at all.
    pub hold: Duration,
    /// How long replies of a `dnat` endpoint that left are still translated.
    pub drain_timeout: Duration,
    /// Lcores that read snapshots and count traffic.
    pub lcores: usize,
    /// What `snat` takes sources from.
    pub sources: Arc<Sources>,
    /// How many flows an lcore remembers.
    pub flows: usize,
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
    /// The VLAN (1 to 4094) that it is in.
    pub vlan: Option<u16>,
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
    vips: Vips,
    own: Index,
    services: Box<[CompiledService]>,
    targets: Box<[Target]>,
    endpoints: Endpoints,
    routes: Routes,
    unresolved: Box<[IpAddr]>,
    traffic: Box<[Traffic]>,
    asked: Arc<Asked>,
    limiter: Arc<Limiter>,
    encap: Encap,
    tunnels: HashMap<IpAddr, Vec<Tunnel>>,
    learned: Arc<Learned>,
    hold: Duration,
    sources: Arc<Sources>,
    serial: u32,
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
    /// By server ID, sorted: those that may be named by one.
    servers: Box<[(Box<[u8]>, TargetIndex)]>,
    /// By endpoint, sorted, where flows are kept by it.
    kept: Box<[(SocketAddr, Kept)]>,
}

/// Where a flow goes that has its backend already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub target: TargetIndex,
    /// Whether the backend takes new flows, too.
    pub takes_new: bool,
}

/// A backend of a service, as the lcores use it. What most packets need lies within one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Target {
    pub traffic: TrafficId,
    /// Largest packet of a client's that fits, bytes.
    pub room: u16,
    /// What is done to packets, or why they cannot go there.
    pub mode: Prepared,
}

/// Names a service of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceIndex(u32);

impl ServiceIndex {
    /// That of no service.
    pub const NONE: Self = Self(u32::MAX);

    /// As a plain number, for what keeps it together with the snapshot's serial.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// A service that was found for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub service: ServiceIndex,
    /// Whether it takes every client, and chooses by the client's address and port: nothing is left to ask but its table.
    pub is_plain: bool,
}

impl Found {
    const fn to_bits(self) -> u32 {
        self.service.0 << 1 | !self.is_plain as u32
    }

    #[inline(always)]
    const fn from_bits(bits: u32) -> Self {
        Self { service: ServiceIndex(bits >> 1), is_plain: bits & 1 == 0 }
    }
}

/// Names a target of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetIndex(u32);

impl TargetIndex {
    /// The target of what no backend may take: the first of every snapshot, which refuses.
    pub const NOBODY: Self = Self(0);

    /// As a plain number, for what keeps it together with the snapshot's serial.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Whose address a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Somebody's elsewhere.
    Other,
    Vip,
    /// The node's own, which services may share: they take their ports, the kernel twin the rest.
    Node,
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
    #[inline(always)]
    pub fn exact_v4(&self, vip: Ipv4Addr, port: u16, protocol: u8) -> Option<Found> {
        self.vips.exact_v4(vip, port, protocol)
    }

    /// The service of what is sent to this address, port and protocol number.
    pub fn service(&self, destination: IpAddr, port: u16, protocol: u8) -> Option<Found> {
        self.vips.service(destination, port, protocol)
    }

    /// The service of what is sent there, where the port makes no difference to who gets it.
    pub fn service_of_any_port(&self, destination: IpAddr, protocol: u8) -> Option<ServiceIndex> {
        let service = self.vips.service_of_all_ports(destination, protocol)?;
        let definition = self.definition(service);
        // A translation is of one port.
        (definition.hash == Hash::SourceIp && !definition.forwarding.nature().keeps_flows).then_some(service)
    }

    pub fn owner(&self, address: IpAddr) -> Owner {
        match () {
            () if self.own.get(address, 0, 0).is_some() => Owner::Node,
            () if self.vips.contains(address) => Owner::Vip,
            () => Owner::Other,
        }
    }

    /// Whether it is a VIP and not the node's own, too.
    #[inline(always)]
    pub fn is_vip_v4(&self, address: Ipv4Addr) -> bool {
        self.vips.contains_v4(address) && !self.is_own_v4(address)
    }

    #[cold]
    fn is_own_v4(&self, address: Ipv4Addr) -> bool {
        self.own.get_v4(address, 0, 0).is_some()
    }

    #[inline]
    pub fn accepts(&self, service: ServiceIndex, client: IpAddr) -> bool {
        self.compiled_service(service).ranges.as_ref().is_none_or(|ranges| ranges.accept(client))
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

    /// Where a flow goes on to that was sent to this endpoint; `None`: the backend is gone, or down.
    pub fn kept(&self, service: ServiceIndex, backend: SocketAddr) -> Option<Kept> {
        let kept = &self.compiled_service(service).kept;
        let find = |endpoint: SocketAddr| kept.binary_search_by_key(&endpoint, |(of, _)| *of).ok();
        // Where the packet keeps one of several ports, the endpoint has none.
        let place = find(backend).or_else(|| find(SocketAddr::new(backend.ip(), 0)))?;
        Some(kept[place].1)
    }

    /// Address and port (0: the packet's own) of a target that packets can go to.
    pub fn endpoint_of(&self, service: ServiceIndex, target: TargetIndex) -> Option<SocketAddr> {
        if matches!(self.target(target).mode, Prepared::Refuses(_)) {
            return None;
        }
        let service = self.compiled_service(service);
        let member = target.0.checked_sub(service.first_target)?;
        let place = *service.members.get(member as usize)?;
        Some(service.definition.endpoint(&service.definition.backends[place as usize]))
    }

    /// The number of this snapshot among those of its compiler, from 1.
    #[inline(always)]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What `snat` takes sources from.
    #[inline]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The target that a QUIC connection ID names, where it is one of the service's.
    pub fn server(&self, service: ServiceIndex, connection_id: &[u8]) -> Option<TargetIndex> {
        let service = self.compiled_service(service);
        let quic = service.definition.quic?;
        let (&first, rest) = connection_id.split_first()?;
        let id = rest.get(..usize::from(quic.server_id_length)).filter(|_| first >> 5 == quic.config_id)?;
        let place = service.servers.binary_search_by(|(known, _)| known.as_ref().cmp(id)).ok()?;
        Some(service.servers[place].1)
    }

    #[inline]
    pub fn target(&self, target: TargetIndex) -> &Target {
        &self.targets[target.0 as usize]
    }

    /// Whether an endpoint has this address, from which replies come.
    pub fn is_endpoint(&self, address: IpAddr) -> bool {
        self.endpoints.contains(address)
    }

    /// How to turn a packet from this endpoint into a reply of its VIP, if it is one.
    #[inline]
    pub fn reply(&self, source: IpAddr, port: u16, protocol: u8, now: Millis) -> Option<&Reply> {
        let endpoint = self.endpoints.get(source, port, protocol)?;
        endpoint.until.is_none_or(|until| now < until).then_some(&endpoint.reply)
    }

    /// The way to a client, for what does not go to a backend. Asks for a station that is not known.
    #[inline]
    pub fn next_hop(&self, to: IpAddr) -> Option<&NextHop> {
        let hop = self.routes.next_hop(to);
        if hop.is_none() && self.routes.way(to) == Way::OnLink {
            self.asked.ask(to);
        }
        hop
    }

    /// How many ICMP errors, all lcores together, may still be made.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Whether the node's tunnels have this outer source.
    pub fn is_outer_source(&self, address: IpAddr) -> bool {
        let encap = &self.encap;
        match address {
            IpAddr::V4(v4) => {
                encap.ipv4_source == Some(v4) || encap.rss_source_v4.is_some_and(|prefix| prefix.contains(&v4))
            }
            IpAddr::V6(v6) => {
                encap.ipv6_source == Some(v6) || encap.rss_source_v6.is_some_and(|prefix| prefix.contains(&v6))
            }
        }
    }

    /// The tunnels to this endpoint.
    pub fn tunnels(&self, endpoint: IpAddr) -> &[Tunnel] {
        self.tunnels.get(&endpoint).map_or(&[], Vec::as_slice)
    }

    /// How long a later fragment may wait for its first.
    #[inline]
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// Where lcores note what the fabric says of the way to an endpoint.
    pub fn learned(&self) -> &Learned {
        &self.learned
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
    pub fn definition(&self, service: ServiceIndex) -> &Service {
        &self.compiled_service(service).definition
    }
}

/// What `explain` and the control side ask besides.
impl Snapshot {
    pub fn services(&self) -> impl ExactSizeIterator<Item = &CompiledService> {
        self.services.iter()
    }

    #[inline]
    pub fn compiled_service(&self, service: ServiceIndex) -> &CompiledService {
        &self.services[service.0 as usize]
    }

    pub fn way(&self, to: IpAddr) -> Way {
        self.routes.way(to)
    }

    /// The VIP and port that an endpoint serves, and when its replies stop being translated.
    pub fn endpoint(&self, source: IpAddr, port: u16, protocol: u8) -> Option<((IpAddr, u16), Option<Millis>)> {
        let endpoint = self.endpoints.get(source, port, protocol)?;
        Some(((endpoint.vip.0, endpoint.vip.1.unwrap_or(port)), endpoint.until))
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
