//! Definitions + next hops + time -> snapshot. Runs on the control side; may take its time and allocate.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::index::Index;
use super::ranges::Ranges;
use super::routes::{Routes, Way};
use super::tables::{Mask, Recipe, Tables};
use super::{Asked, CompiledService, Endpoint, Environment, Fabric, Millis, Snapshot, Target, ipv4_key};
use crate::counters::{Reason, Registry, TrafficId};
use crate::maglev::{Member, SelectionHash};
use crate::mode::{Context, Prepared, Reply};
use crate::service::{Definitions, Forwarding, Protocol, Service, State};

/// Makes snapshots, and keeps what goes from one to the next: tables, counters, endpoints that left.
#[derive(Debug)]
pub struct Compiler {
    environment: Environment,
    hash: SelectionHash,
    tables: Tables,
    registry: Registry,
    asked: Arc<Asked>,
    endpoints: HashMap<(Ipv4Addr, u16, Protocol), Served>,
    /// The pairs that the newest snapshot counts.
    counted: HashSet<(Arc<str>, SocketAddr)>,
}

/// What an endpoint serves, or served until it left.
#[derive(Debug, Clone, Copy)]
struct Served {
    vip: (Ipv4Addr, u16),
    until: Option<Millis>,
}

impl Compiler {
    pub fn new(environment: Environment) -> Self {
        Self {
            hash: SelectionHash::new(environment.seed),
            registry: Registry::new(environment.lcores),
            environment,
            asked: Arc::default(),
            tables: Tables::default(),
            endpoints: HashMap::new(),
            counted: HashSet::new(),
        }
    }

    /// Packets and bytes of each backend of each service.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the lcores ask for, whatever snapshot they use.
    pub fn asked(&self) -> &Asked {
        &self.asked
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
        let mut targets = vec![Target { mode: Err(Reason::NoBackend), traffic: TrafficId::NONE }];
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
                ranges: Ranges::new(&service.source_ranges, &service.deny_ranges),
                owners,
                definition: service.clone(),
                members: plan.members.into(),
            });
        }

        self.note_endpoints(definitions, now);
        let (endpoint_keys, endpoints): (Vec<_>, Vec<_>) = self
            .endpoints
            .iter()
            .map(|(&(address, port, protocol), served)| {
                let reply = Reply::new((address, port), served.vip);
                let endpoint = Endpoint { reply, vip: served.vip, until: served.until };
                (super::key(address, port, protocol.number()), endpoint)
            })
            .unzip();

        let bits = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(super::address_key(*address)),
            IpAddr::V6(_) => None,
        };
        let own: HashSet<u64> = fabric.own.iter().filter_map(bits).collect();
        let vips: HashSet<u64> = definitions.services.iter().filter_map(|service| bits(&service.vip)).collect();
        let vips: Vec<(u64, u32)> = vips.into_iter().map(|vip| (vip, u32::from(own.contains(&vip)))).collect();
        let service_of: Vec<(u64, u32)> = definitions
            .services
            .iter()
            .zip(0..)
            .filter_map(|(service, number)| Some((ipv4_key(service.vip, service.port, service.protocol)?, number)))
            .collect();

        Arc::new(Snapshot {
            version: definitions.version.clone(),
            hash: self.hash,
            ports: fabric.ports.clone().into(),
            vips: Index::new(vips),
            own: Index::new(own.into_iter().map(|address| (address, 0))),
            service_of: Index::new(service_of),
            services: services.into(),
            targets: targets.into(),
            endpoint_of: Index::new(endpoint_keys.into_iter().zip(0..)),
            endpoints: endpoints.into(),
            routes,
            unresolved: unresolved.into_iter().collect(),
            asked: self.asked.clone(),
            traffic: (0..self.environment.lcores).map(|lcore| self.registry.traffic(lcore)).collect(),
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
        let way = match backend.address {
            IpAddr::V4(address) => *routes.way(address),
            IpAddr::V6(_) => Way::None,
        };
        let next_hop = match way {
            Way::Hop(hop) => Some(hop),
            Way::Ask(gateway) => {
                unresolved.insert(gateway);
                None
            }
            Way::OnLink => {
                unresolved.insert(backend.address);
                None
            }
            Way::None => None,
        };
        let ipv4_source = self.environment.ipv4_source.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let prepare = |next_hop| Prepared::new(&Context { service, backend, next_hop, ipv4_source });
        let mode = next_hop.as_ref().map(prepare).ok_or(Reason::NoNextHop);
        Target { mode, traffic }
    }

    /// Notes which endpoints serve what, when others left, and forgets those that left long ago.
    fn note_endpoints(&mut self, definitions: &Definitions, now: Millis) {
        let until = Millis(now.0.saturating_add(self.environment.drain_timeout.as_millis() as u64));
        for served in self.endpoints.values_mut() {
            served.until.get_or_insert(until);
        }
        for service in definitions.services.iter().filter(|service| service.forwarding == Forwarding::Dnat) {
            for backend in &service.backends {
                let endpoint = service.endpoint(backend);
                if let (IpAddr::V4(vip), IpAddr::V4(address)) = (service.vip, endpoint.ip()) {
                    let served = Served { vip: (vip, service.port), until: None };
                    self.endpoints.insert((address, endpoint.port(), service.protocol), served);
                }
            }
        }
        self.endpoints.retain(|_, served| served.until.is_none_or(|until| now < until));
    }
}

/// What a service asks of the tables.
struct Plan {
    table: (Recipe, Mask),
    /// The backends' places in the definition, in the order of the table's members.
    members: Vec<u32>,
}
