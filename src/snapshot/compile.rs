//! Definitions + next hops + time -> snapshot. Runs on the control side; may take its time and allocate.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoints::{Endpoints, Served};
use super::index::Index;
use super::learned::{Learned, Mtus};
use super::ranges::Ranges;
use super::routes::{Routes, Way};
use super::tables::{Mask, Recipe, Tables};
use super::vips::Vips;
use super::{
    Asked, CompiledService, Environment, Fabric, Kept, Limiter, Millis, NextHop, Snapshot, Target, TargetIndex,
};
use crate::counters::{Reason, Registry, TrafficId};
use crate::maglev::{Member, SelectionHash};
use crate::mode::{self, Context, Prepared, Tunnel};
use crate::service::{Definitions, Hash, Service, State};

/// Makes snapshots, and keeps what goes from one to the next: tables, counters, endpoints that left.
#[derive(Debug)]
pub struct Compiler {
    environment: Environment,
    hash: SelectionHash,
    tables: Tables,
    registry: Registry,
    asked: Arc<Asked>,
    limiter: Arc<Limiter>,
    learned: Arc<Learned>,
    mtus: Mtus,
    endpoints: HashMap<Served, Endpoint>,
    /// Of the newest snapshot.
    serial: u32,
    /// The pairs that the newest snapshot counts.
    counted: HashSet<(Arc<str>, SocketAddr)>,
}

/// What an endpoint's replies become, and until when, where it left.
#[derive(Debug, Clone, Copy)]
struct Endpoint {
    vip: (IpAddr, Option<u16>),
    until: Option<Millis>,
}

impl Compiler {
    pub fn new(environment: Environment) -> Self {
        Self {
            hash: SelectionHash::new(environment.seed),
            registry: Registry::new(environment.lcores),
            limiter: Arc::new(Limiter::new(environment.icmp_errors)),
            environment,
            asked: Arc::default(),
            learned: Arc::default(),
            mtus: Mtus::default(),
            tables: Tables::default(),
            endpoints: HashMap::new(),
            serial: 0,
            counted: HashSet::new(),
        }
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Packets and bytes of each backend of each service.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the lcores ask for, whatever snapshot they use.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Takes what the lcores learnt of the fabric by `now`; whether what is compiled next would differ for it.
    pub fn learn(&mut self, now: Millis) -> bool {
        self.mtus.update(&self.learned, now)
    }

    /// Forgets the counters of backends that left. Call it when every lcore has adopted the newest snapshot.
    pub fn forget_counters(&mut self) {
        let counted = &self.counted;
        self.registry.retain(|pair| counted.contains(pair));
    }

    /// Compiles valid `definitions` for the `fabric` as it is at `now`.
    pub fn compile(&mut self, definitions: &Definitions, fabric: &Fabric, now: Millis) -> Arc<Snapshot> {
        let routes = Routes::new(fabric);
        let plans: Vec<Plan> = definitions.services.iter().map(|service| self.plan(service)).collect();
        let wanted: Vec<_> = plans.iter().map(|plan| plan.table.clone()).collect();
        self.tables.prepare(&wanted, &self.hash);

        let mut unresolved: BTreeSet<IpAddr> = routes.unresolved_gateways().collect();
        // The first is NOBODY, in whose cell nothing is ever counted.
        let mut targets =
            vec![Target { traffic: TrafficId::NONE, room: 0, mode: Prepared::Refuses(Reason::NoBackend) }];
        let mut services = Vec::with_capacity(plans.len());
        self.counted.clear();
        for (service, plan) in definitions.services.iter().zip(plans) {
            let first_target = targets.len() as u32;
            for &place in &plan.members {
                targets.push(self.target(service, place as usize, &routes, &mut unresolved));
            }
            let (owners, now) = self.tables.get(&plan.table);
            services.push(CompiledService {
                now,
                first_target,
                ranges: ranges(service),
                owners,
                definition: service.clone(),
                servers: servers(service, &plan.members, first_target),
                kept: kept(service, &plan.members, first_target),
                members: plan.members.into(),
            });
        }

        self.note_endpoints(definitions, now);
        // Not 0, which is no snapshot's.
        self.serial = self.serial.wrapping_add(1).max(1);
        let endpoints = self.endpoints.iter().map(|(&served, endpoint)| (served, endpoint.vip, endpoint.until));
        let is_plain = |service: &Service| {
            service.hash == Hash::FiveTuple
                && !service.forwarding.nature().keeps_flows
                && ranges(service).is_none()
                // What comes there may be a reply.
                && !self.environment.sources.meet(service.vip, service.ports)
        };
        Arc::new(Snapshot {
            version: definitions.version.clone(),
            hash: self.hash,
            ports: fabric.ports.clone().into(),
            vips: Vips::new(definitions, is_plain),
            own: Index::new(fabric.own.iter().map(|&address| ((address, 0, 0), 0))),
            services: services.into(),
            targets: targets.into(),
            endpoints: Endpoints::new(endpoints),
            routes,
            unresolved: unresolved.into_iter().collect(),
            traffic: (0..self.environment.lcores).map(|lcore| self.registry.traffic(lcore)).collect(),
            asked: self.asked.clone(),
            limiter: self.limiter.clone(),
            encap: self.environment.encap,
            tunnels: tunnels(definitions),
            learned: self.learned.clone(),
            hold: self.environment.hold,
            sources: self.environment.sources.clone(),
            serial: self.serial,
        })
    }

    fn plan(&self, service: &Service) -> Plan {
        let mut members: Vec<(Member, u32)> = service
            .backends
            .iter()
            .zip(0..)
            .map(|(backend, place)| {
                (Member { address: backend.address, port: backend.port, weight: backend.weight }, place)
            })
            .collect();
        members.sort_unstable();
        let mask: Mask = members.iter().map(|&(_, k)| service.backends[k as usize].state != State::Active).collect();
        let (members, places): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let size = service.table_size.unwrap_or(self.environment.table_size);
        Plan { table: (Recipe { members: members.into(), size }, mask), members: places }
    }

    fn target(
        &mut self,
        service: &Service,
        place: usize,
        routes: &Routes,
        unresolved: &mut BTreeSet<IpAddr>,
    ) -> Target {
        let backend = &service.backends[place];
        let endpoint = service.endpoint(backend);
        let traffic = self.registry.id(&service.name, endpoint);
        self.counted.insert((service.name.clone(), endpoint));
        let to = backend.tunnel_endpoint();
        let next_hop = match routes.way(to) {
            // Its own Ethernet address is what `l2dsr` needs; a router's would bring the packet back.
            Way::Hop(_) if service.forwarding.nature().needs_neighbor && !routes.is_neighbor(to) => None,
            Way::Hop(hop) => Some(NextHop { mtu: self.mtus.of(to, hop.mtu), ..hop }),
            Way::Ask(gateway) => {
                unresolved.insert(gateway);
                None
            }
            Way::OnLink => {
                unresolved.insert(to);
                None
            }
            Way::None => None,
        };
        let encap = &self.environment.encap;
        let prepare = |next_hop| Prepared::new(&Context { service, backend, next_hop, encap });
        let room = next_hop.map_or(0, |hop| hop.mtu.saturating_sub(mode::overhead(service, backend)));
        let mode = next_hop.as_ref().map_or(Prepared::Refuses(Reason::NoNextHop), prepare);
        Target { traffic, room, mode }
    }

    /// Notes which endpoints serve what, when others left, and forgets those that left long ago.
    fn note_endpoints(&mut self, definitions: &Definitions, now: Millis) {
        let until = Millis(now.0.saturating_add(self.environment.drain_timeout.as_millis() as u64));
        for endpoint in self.endpoints.values_mut() {
            endpoint.until.get_or_insert(until);
        }
        for service in definitions.services.iter().filter(|service| service.forwarding.nature().replies_by_endpoint) {
            for backend in &service.backends {
                let served = Served::new(service, backend);
                let vip = (service.vip.addr(), service.ports.single());
                self.endpoints.insert(served, Endpoint { vip, until: None });
            }
        }
        self.endpoints.retain(|_, endpoint| endpoint.until.is_none_or(|until| now < until));
    }
}

/// Each kind of tunnel to each endpoint once.
fn tunnels(definitions: &Definitions) -> HashMap<IpAddr, Vec<Tunnel>> {
    let mut tunnels: HashMap<_, Vec<Tunnel>> = HashMap::new();
    for service in &definitions.services {
        for tunnel in service.backends.iter().filter_map(|backend| mode::tunnel(service, backend)) {
            let known = tunnels.entry(tunnel.endpoint).or_default();
            if !known.contains(&tunnel) {
                known.push(tunnel);
            }
        }
    }
    tunnels
}

/// Who may be named by a connection ID: whoever keeps flows.
fn servers(service: &Service, members: &[u32], first_target: u32) -> Box<[(Box<[u8]>, TargetIndex)]> {
    let named = members.iter().zip(first_target..).filter_map(|(&place, target)| {
        let backend = &service.backends[place as usize];
        let id = backend.server_id.clone().filter(|_| backend.state != State::Down)?;
        Some((id, TargetIndex(target)))
    });
    let mut servers: Vec<_> = named.collect();
    servers.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    servers.into()
}

/// Whom flows stay with that are kept by their backend.
fn kept(service: &Service, members: &[u32], first_target: u32) -> Box<[(SocketAddr, Kept)]> {
    if !service.forwarding.nature().keeps_flows {
        return Box::default();
    }
    let keeps = members.iter().zip(first_target..).filter_map(|(&place, target)| {
        let backend = &service.backends[place as usize];
        let takes_new = backend.state == State::Active && backend.weight > 0;
        let kept = Kept { target: TargetIndex(target), takes_new };
        (backend.state != State::Down).then_some((service.endpoint(backend), kept))
    });
    let mut kept: Vec<_> = keeps.collect();
    kept.sort_unstable_by_key(|(endpoint, _)| *endpoint);
    kept.into()
}

fn ranges(service: &Service) -> Option<Ranges> {
    Ranges::new(service.vip.addr(), &service.source_ranges, &service.deny_ranges)
}

/// What a service asks of the tables.
struct Plan {
    table: (Recipe, Mask),
    /// The backends' places in the definition, in the order of the table's members.
    members: Vec<u32>,
}
