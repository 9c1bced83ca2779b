//! Definitions and next hops, compiled into the immutable thing that an lcore reads.
//!
//! [`Compiler`] lives on the control side; what it makes, a [`Snapshot`], answers the pipeline's questions: whose VIP,
//! which service, which backend, which way.

mod asked;
mod compile;
mod destinations;
mod endpoints;
mod index;
mod layers;
mod learned;
mod limiter;
mod motion;
mod prefixes;
mod ranges;
mod routes;
mod services;
mod tables;
mod trace;
mod transition;
mod tunnels;
mod vips;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;

use crate::counters::{Registry, Traffic, TrafficId};
use crate::flow::{Client, Fate, Known, Seconds, Sources, Stage, prefetch};
use crate::maglev::{self, NOBODY, SelectionHash};
use crate::mode::{Encap, Prepared, Reply, Tunnel};
use crate::service::{Backend, Hash, Service, Tracking};
use crate::wire::Mac;

pub use crate::mode::{NextHop, PortIndex};
pub use asked::Asked;
pub use compile::{Compiler, Key};
use destinations::{Destination, Destinations};
use endpoints::Endpoints;
use index::Index;
use layers::Layers;
use learned::Learned;
pub use limiter::{Limit, Limiter};
pub use ranges::Ranges;
pub use routes::{Routes, Way};
use tables::{Slots, Table};
pub use trace::Trace;
pub use transition::{Bases, By, Held, Owners, Space, Until};
use tunnels::Tunnels;
pub use vips::Common;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// As flow memory counts.
    pub fn seconds(self) -> Seconds {
        Seconds((self.0 / 1000) as u32)
    }
}

/// Everything that an lcore needs to forward under one version of the definitions. Immutable.
///
/// What did not change from the snapshot before is shared with it.
#[derive(Debug)]
pub struct Snapshot {
    version: Option<String>,
    hash: SelectionHash,
    ports: Box<[Port]>,
    vips: Arc<Vips>,
    own: Arc<Index>,
    services: Arc<Vec<CompiledService>>,
    /// Whether flows of any service may be remembered.
    recalls: bool,
    /// Whether the hash is sent with packets of any service.
    sends_hashes: bool,
    /// Seconds for which a silent flow is remembered whatever its destination: 0 where that may be gone.
    least_idle: u32,
    destinations: Destinations,
    /// The target of what no backend may take, and of what there is no room to remember.
    nobody: Target,
    no_room: Target,
    endpoints: Arc<Endpoints>,
    routes: Arc<Routes>,
    unresolved: Box<[IpAddr]>,
    traffic: Box<[Traffic]>,
    asked: Arc<Asked>,
    limiter: Arc<Limiter>,
    encap: Encap,
    tunnels: Tunnels,
    learned: Arc<Learned>,
    hold: Duration,
    sources: Arc<Sources>,
    serial: u32,
}

/// A service, and where its tables and backends are. What most packets need lies within one cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct CompiledService {
    now: Slots,
    /// By member of its table.
    targets: Arc<[Target]>,
    /// Seconds that a silent flow is remembered, by stage.
    idle: [u32; 3],
    tracking: Tracking,
    /// Whether flows of it may be remembered.
    recalls: bool,
    /// Whether what is sent depends on the hash of the client's address and port.
    sends_hash: bool,
    /// Whether clients are remembered, too.
    has_affinity: bool,
    memory: Arc<Memory>,
    details: Arc<Details>,
}

/// What is to be known of a service for flows to be remembered.
#[derive(Debug)]
struct Memory {
    /// The number of each member's destination; [`Memory::NO_NUMBER`]: it has none, and its flows are not remembered.
    numbers: Box<[u32]>,
    layers: Arc<Layers>,
    /// Whether the table ever had other slots, by its size or hash: then those of remembered flows may be of another.
    had_other_slots: bool,
}

impl Memory {
    const NO_NUMBER: u32 = u32::MAX;

    fn number(&self, member: u16) -> Option<u32> {
        self.numbers.get(usize::from(member)).copied().filter(|&number| number != Self::NO_NUMBER)
    }
}

/// What few packets need.
#[derive(Debug)]
struct Details {
    affinity: Option<Affinity>,
    /// Where it is counted what there was no room to remember.
    refused: TrafficId,
    ranges: Option<Ranges>,
    table: Arc<Table>,
    definition: Arc<Service>,
    /// The backends' places in the definition, in the order of the table's members.
    places: Box<[u32]>,
    /// By server ID, sorted: the members that may be named by one.
    servers: Box<[(Box<[u8]>, u16)]>,
    /// By endpoint, sorted, where flows are kept by it: the member, and whether it takes new flows, too.
    kept: Box<[(SocketAddr, u16, bool)]>,
    /// How many slots each member has now. Counted when somebody asks: of ten thousand tables that takes a second.
    slots: OnceLock<Box<[u32]>>,
    /// By endpoint, sorted, where checks go through the service: what is done to their packets.
    probed: Box<[(SocketAddr, Prepared)]>,
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

/// How clients of a service are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// What tells the service from others.
    pub service: u64,
    /// Seconds after its last packet that a client is forgotten.
    pub timeout: u32,
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

/// Where the remembered flows of a service go.
#[derive(Debug)]
pub struct KeptBy<'a> {
    destinations: &'a Destinations,
    service: ServiceIndex,
    targets: &'a [Target],
    /// Of an established flow that was silent for less than so many seconds there is nothing to note but that it goes on.
    young: u32,
}

impl<'a> KeptBy<'a> {
    #[inline(always)]
    pub fn service(&self) -> ServiceIndex {
        self.service
    }

    /// Whether there is nothing to note of an established flow, silent for so many seconds, but that it goes on: it is not over, and no client is
    /// remembered beside it.
    #[inline(always)]
    pub fn only_goes_on(&self, silence: u32) -> bool {
        silence < self.young
    }

    /// The target of a flow; `None`: its backend is down or gone, or another service's.
    #[inline(always)]
    pub fn at(&self, destination: u32) -> Option<&'a Target> {
        let member = self.destinations.member(destination, self.service)?;
        self.targets.get(usize::from(member))
    }
}

/// Who takes the packets of a service of which nothing is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Takers<'a> {
    slots: &'a [u16],
    targets: &'a [Target],
    nobody: &'a Target,
}

impl<'a> Takers<'a> {
    /// The target of the slot that `hash` falls into; one that refuses where no backend may take it.
    #[inline(always)]
    pub fn at(&self, hash: u64) -> &'a Target {
        let owner = self.slots.get(maglev::slot(hash, self.slots.len() as u32));
        // NOBODY is beyond all members.
        owner.and_then(|&member| self.targets.get(usize::from(member))).unwrap_or(self.nobody)
    }
}

/// Where a new flow goes.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    pub slot: u32,
    pub destination: u32,
    pub target: &'a Target,
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
pub struct TargetIndex {
    service: ServiceIndex,
    member: u16,
}

impl TargetIndex {
    /// The target of what no backend may take, which refuses.
    pub const NOBODY: Self = Self { service: ServiceIndex::NONE, member: NOBODY };

    /// As two plain numbers, for what keeps them together with the snapshot's serial.
    #[inline(always)]
    pub const fn to_bits(self) -> (u32, u32) {
        (self.service.0, self.member as u32)
    }

    #[inline(always)]
    pub const fn from_bits(service: u32, member: u32) -> Self {
        Self { service: ServiceIndex(service), member: member as u16 }
    }
}

/// Who takes a packet of a service whose flow is not remembered: members of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub number: u32,
    /// Who takes new flows.
    pub now: Option<u16>,
    /// Where flows are that nobody remembers, where that is another.
    pub base: Option<u16>,
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

    /// The port, where there is but one.
    #[inline(always)]
    pub fn sole_port(&self) -> Option<PortIndex> {
        (self.ports.len() == 1).then_some(PortIndex(0))
    }

    /// The service on exactly this address, port and protocol number.
    #[inline(always)]
    pub fn exact_v4(&self, vip: Ipv4Addr, port: u16, protocol: u8) -> Option<Found> {
        self.vips.exact_v4(vip, port, protocol)
    }

    /// The same over IPv6.
    pub fn exact_v6(&self, vip: Ipv6Addr, port: u16, protocol: u8) -> Option<Found> {
        self.vips.exact_v6(vip, port, protocol)
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

    /// What the VIPs over IPv4 have in common.
    #[inline(always)]
    pub fn common_vip_v4(&self) -> Common<u32> {
        self.vips.common_v4()
    }

    /// The same over IPv6.
    #[inline(always)]
    pub fn common_vip_v6(&self) -> Common<u128> {
        self.vips.common_v6()
    }

    /// Whether it is a VIP and not the node's own, too.
    #[inline(always)]
    pub fn is_vip_v4(&self, address: Ipv4Addr) -> bool {
        self.vips.contains_v4(address) && !self.is_own(address.into())
    }

    #[inline(always)]
    pub fn is_vip_v6(&self, address: Ipv6Addr) -> bool {
        self.vips.contains_v6(address) && !self.is_own(address.into())
    }

    #[cold]
    fn is_own(&self, address: IpAddr) -> bool {
        self.own.get(address, 0, 0).is_some()
    }

    #[inline]
    pub fn accepts(&self, service: ServiceIndex, client: IpAddr) -> bool {
        self.compiled_service(service).details.ranges.as_ref().is_none_or(|ranges| ranges.accept(client))
    }

    /// The hash that chooses among backends.
    #[inline]
    pub fn hash(&self) -> &SelectionHash {
        &self.hash
    }

    /// The target of the slot that `hash` falls into; one that refuses where no backend may take it, or where there is no such service.
    #[inline(always)]
    pub fn select(&self, service: ServiceIndex, hash: u64) -> &Target {
        self.takers_of(service).at(hash)
    }

    /// Who takes the packets of a service.
    #[inline(always)]
    pub fn takers_of(&self, service: ServiceIndex) -> Takers<'_> {
        let of = self.services.get(service.0 as usize);
        let (slots, targets) = of.map_or((&[][..], &[][..]), |of| (&of.now, &of.targets));
        Takers { slots, targets, nobody: &self.nobody }
    }

    /// The same, by its name.
    pub fn selected(&self, service: ServiceIndex, hash: u64) -> TargetIndex {
        let now = self.services.get(service.0 as usize).and_then(|of| of.taker(hash));
        now.map_or(TargetIndex::NOBODY, |member| TargetIndex { service, member })
    }

    /// Where a flow goes on to that was sent to this endpoint; `None`: the backend is gone, or down.
    pub fn kept(&self, service: ServiceIndex, backend: SocketAddr) -> Option<Kept> {
        let kept = &self.compiled_service(service).details.kept;
        let find = |endpoint: SocketAddr| kept.binary_search_by_key(&endpoint, |(of, ..)| *of).ok();
        // Where the packet keeps one of several ports, the endpoint has none.
        let place = find(backend).or_else(|| find(SocketAddr::new(backend.ip(), 0)))?;
        let (_, member, takes_new) = kept[place];
        Some(Kept { target: TargetIndex { service, member }, takes_new })
    }

    /// Address and port (0: the packet's own) of a target that packets can go to.
    pub fn endpoint_of(&self, target: TargetIndex) -> Option<SocketAddr> {
        if matches!(self.target(target).mode, Prepared::Refuses(_)) {
            return None;
        }
        let service = self.services.get(target.service.0 as usize)?;
        Some(service.details.definition.endpoint(service.backend(target.member)?))
    }

    /// What is done to a health check's packet to this backend of a service, whatever its state; `None`: it has no such backend, or its
    /// checks do not go through it.
    pub fn probed(&self, service: ServiceIndex, backend: SocketAddr) -> Option<&Prepared> {
        let probed = &self.compiled_service(service).details.probed;
        let place = probed.binary_search_by_key(&backend, |(endpoint, _)| *endpoint).ok()?;
        Some(&probed[place].1)
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
        let details = &self.compiled_service(service).details;
        let quic = details.definition.quic?;
        let (&first, rest) = connection_id.split_first()?;
        let id = rest.get(..usize::from(quic.server_id_length)).filter(|_| first >> 5 == quic.config_id)?;
        let place = details.servers.binary_search_by(|(known, _)| known.as_ref().cmp(id)).ok()?;
        Some(TargetIndex { service, member: details.servers[place].1 })
    }

    #[inline]
    pub fn target(&self, target: TargetIndex) -> &Target {
        let service = self.services.get(target.service.0 as usize);
        service.and_then(|service| service.targets.get(usize::from(target.member))).unwrap_or(&self.nobody)
    }

    /// The target that refuses what there is no room to remember: `packets` of this service on this lcore.
    pub fn no_room(&self, service: ServiceIndex, lcore: usize, packets: u32) -> &Target {
        let refused = self.compiled_service(service).details.refused;
        self.traffic(lcore).cell(refused).packets.add(u64::from(packets));
        &self.no_room
    }

    /// Whether flows of any service may be remembered.
    #[inline(always)]
    pub fn recalls(&self) -> bool {
        self.recalls
    }

    /// Whether packets of any service are sent with their hash.
    #[inline(always)]
    pub fn sends_hashes(&self) -> bool {
        self.sends_hashes
    }

    /// Whether flows of this service may be remembered; not of none.
    #[inline(always)]
    pub fn recalls_of(&self, service: ServiceIndex) -> bool {
        self.services.get(service.0 as usize).is_some_and(|service| service.recalls)
    }

    /// Whether a destination is of this service.
    #[inline(always)]
    pub fn is_of(&self, destination: u32, service: ServiceIndex) -> bool {
        self.destinations.get(destination).is_some_and(|destination| destination.service == service)
    }

    /// Where the remembered flows of `service` go; there need be no such service.
    #[inline(always)]
    pub fn kept_by(&self, service: ServiceIndex) -> KeptBy<'_> {
        let of = self.services.get(service.0 as usize);
        let (targets, young) = of.map_or((&[][..], 0), |of| (&of.targets, of.young()));
        KeptBy { destinations: &self.destinations, service, targets, young }
    }

    /// How clients of this service are remembered, where they are.
    #[inline]
    pub fn affinity(&self, service: ServiceIndex) -> Option<Affinity> {
        let service = self.services.get(service.0 as usize).filter(|service| service.has_affinity)?;
        service.details.affinity
    }

    /// Whether a client may be remembered otherwise: it was silent for too long, or its backend takes nothing new. One whose destination
    /// this snapshot does not know may be a newer one's.
    pub fn is_client_over(&self, client: &Client, now: Seconds) -> bool {
        let Some(destination) = self.destinations.get(client.destination) else { return false };
        let affinity = self.affinity(destination.service);
        affinity.is_some_and(|affinity| !destination.takes_new || client.age(now) > affinity.timeout)
    }

    /// The fate and target of a remembered flow of `service`; `None`: its backend is gone, or another service's.
    #[inline(always)]
    pub fn recalled(&self, service: ServiceIndex, destination: u32) -> Option<(Fate, &Target)> {
        let &Destination { service: of, member, keeps, takes_new, .. } = self.destinations.get(destination)?;
        if of != service {
            return None;
        }
        let service = self.services.get(service.0 as usize)?;
        let fate = Fate { is_there: true, keeps, takes_new, idle: service.idle };
        Some((fate, service.targets.get(usize::from(member))?))
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
    pub fn tunnels(&self, endpoint: IpAddr) -> impl Iterator<Item = &Tunnel> {
        self.tunnels.to(endpoint)
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
        &self.compiled_service(service).details.definition
    }
}

/// What `explain` and the control side ask besides.
impl Snapshot {
    #[inline]
    pub fn compiled_service(&self, service: ServiceIndex) -> &CompiledService {
        &self.services[service.0 as usize]
    }

    /// What becomes of flows that are remembered by this number; `None`: their backend is gone.
    pub fn fate_of(&self, number: u32) -> Option<Fate> {
        Some(self.fate(number)).filter(|fate| fate.is_there)
    }

    /// The service and endpoint that flows are remembered by this number for; `None`: it is gone.
    pub fn destination(&self, number: u32) -> Option<(&Arc<Service>, SocketAddr)> {
        let &Destination { service, member, .. } = self.destinations.get(number)?;
        let service = self.services.get(service.0 as usize)?;
        let backend = service.backend(member)?;
        Some((service.definition(), service.definition().endpoint(backend)))
    }

    /// Address and port (0: the packet's own) of the backend that this target of a service of this snapshot is.
    pub fn backend_of(&self, service: ServiceIndex, target: &Target) -> Option<SocketAddr> {
        let service = self.services.get(service.0 as usize)?;
        let member = service.targets.element_offset(target)?;
        let backend = service.backend(u16::try_from(member).ok()?)?;
        Some(service.definition().endpoint(backend))
    }

    /// The services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &CompiledService> {
        self.services.iter()
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
        &self.details.definition
    }

    pub fn table_size(&self) -> u32 {
        self.now.len() as u32
    }

    #[inline(always)]
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// Whether flows of it may be remembered.
    #[inline(always)]
    pub fn recalls(&self) -> bool {
        self.recalls
    }

    /// As [`KeptBy::only_goes_on`] has it.
    fn young(&self) -> u32 {
        if self.has_affinity { 0 } else { self.idle[Stage::Established as usize - 1] + 1 }
    }

    /// What of it is counted: its backends, and what it had no room for.
    pub fn counted(&self) -> impl Iterator<Item = (SocketAddr, TrafficId)> {
        let Details { definition, places, refused, .. } = &*self.details;
        let endpoint = |&place: &u32| definition.endpoint(&definition.backends[place as usize]);
        let backends = places.iter().map(endpoint).zip(self.targets.iter().map(|target| target.traffic));
        backends.chain((*refused != TrafficId::NONE).then_some((Registry::REFUSED, *refused)))
    }

    /// Whether what is sent depends on the hash of the client's address and port.
    #[inline(always)]
    pub fn sends_hash(&self) -> bool {
        self.sends_hash
    }

    /// Whether every slot's base is its owner now.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.memory.layers.is_at_rest()
    }

    /// Who takes what `hash` falls to, and where flows of a client with these `hashes` are that nobody remembers.
    pub fn slot(&self, hash: u64, hashes: impl Fn(By) -> u64) -> Slot {
        let number = maglev::slot(hash, self.table_size());
        let now = self.taker(hash);
        Slot { number: number as u32, now, base: self.memory.layers.base(hashes) }
    }

    /// Where a new flow goes whose client's address and port have this `hash`, if it is to be remembered; `None`: that takes more to tell. Of a
    /// service that goes by address and port, and so remembers no clients.
    #[inline(always)]
    pub fn opening(&self, hash: u64) -> Option<Opening<'_>> {
        debug_assert!(!self.has_affinity, "clients are remembered of `source-ip` alone");
        if self.tracking != Tracking::Full && !self.memory.layers.is_held_first(hash) {
            return None;
        }
        let slot = maglev::slot(hash, self.table_size());
        // There are fewer than `NOBODY`.
        let member = usize::from(*self.now.get(slot)?);
        let (target, &destination) = (self.targets.get(member)?, self.memory.numbers.get(member)?);
        (destination != Memory::NO_NUMBER).then_some(Opening { slot: slot as u32, destination, target })
    }

    /// Who takes new flows that `hash` falls to.
    pub fn taker(&self, hash: u64) -> Option<u16> {
        self.now.get(maglev::slot(hash, self.table_size())).copied().filter(|&member| member != NOBODY)
    }

    /// Hints that [`CompiledService::slot`] will be asked of this hash soon.
    #[inline(always)]
    pub fn prefetch_slot(&self, hash: u64) {
        if let Some(owner) = self.now.get(maglev::slot(hash, self.table_size())) {
            prefetch(owner);
        }
        self.memory.layers.prefetch(hash);
    }

    /// The number by which flows to a member are remembered.
    pub fn destination(&self, member: u16) -> Option<u32> {
        self.memory.number(member)
    }

    /// Who owns a slot by definitions alone.
    pub fn owner(&self, slot: usize) -> Option<&Backend> {
        self.backend(*self.details.table.owners.get(slot)?)
    }

    /// How many slots send new flows to each endpoint.
    pub fn slots(&self) -> HashMap<SocketAddr, u32> {
        let of_members = self.details.slots.get_or_init(|| {
            let mut of_members = vec![0u32; self.details.places.len()];
            for &member in self.now.iter() {
                if let Some(slots) = of_members.get_mut(usize::from(member)) {
                    *slots += 1;
                }
            }
            of_members.into()
        });
        let endpoint = |place: u32| self.definition().endpoint(&self.definition().backends[place as usize]);
        self.details.places.iter().zip(of_members).map(|(&place, &slots)| (endpoint(place), slots)).collect()
    }

    /// A member of the table.
    pub fn backend(&self, member: u16) -> Option<&Backend> {
        let place = *self.details.places.get(usize::from(member))?;
        Some(&self.details.definition.backends[place as usize])
    }
}

/// What the rule asks of destinations and slots.
impl Known for Snapshot {
    #[inline(always)]
    fn fate(&self, destination: u32) -> Fate {
        match self.destinations.get(destination) {
            Some(&Destination { service, keeps, takes_new, .. }) => {
                let idle = self.services.get(service.0 as usize).map_or([0; 3], |service| service.idle);
                Fate { is_there: true, keeps, takes_new, idle }
            }
            None => Fate::GONE,
        }
    }

    #[inline(always)]
    fn idle(&self, destination: u32, stage: Stage) -> Option<u32> {
        let service = self.destinations.get(destination)?.service;
        Some(self.services.get(service.0 as usize)?.idle[stage as usize - 1])
    }

    #[inline(always)]
    fn least_idle(&self) -> u32 {
        self.least_idle
    }

    fn base(&self, destination: u32, slot: u32) -> Option<u32> {
        let service = self.services.get(self.destinations.get(destination)?.service.0 as usize)?;
        let memory = &service.memory;
        if memory.had_other_slots {
            return None;
        }
        let member = memory.layers.base_of_slot(slot).or_else(|| service.now.get(slot as usize).copied())?;
        memory.number(member)
    }

    fn note_no_room(&self, destination: u32, slot: u32) {
        let service = self.destinations.get(destination).and_then(|of| self.services.get(of.service.0 as usize));
        if let Some(service) = service {
            service.memory.layers.note_no_room(slot);
        }
    }
}
