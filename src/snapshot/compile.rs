//! Definitions + next hops + time -> snapshot. Runs on the control side; may take its time and allocate.
//!
//! Only what changed is made anew: a service whose definition is the one from before, on the same fabric, keeps all that was made for
//! it. So one change among thousands of services costs about as much as one service does.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::destinations::Register;
use super::endpoints::{Endpoints, Served};
use super::index::Index;
use super::layers::Layers;
use super::learned::{Learned, Mtus};
use super::ranges::Ranges;
use super::routes::{Routes, Way};
use super::tables::{Recipe, Shape, Table, Tables};
use super::transition::Bases;
use super::tunnels::Tunnels;
use super::vips::Vips;
use super::{
    Asked, CompiledService, Destination, Details, Environment, Fabric, Kept, Limiter, Memory, Millis, NextHop,
    ServiceIndex, Snapshot, Target, TargetIndex,
};
use crate::counters::{Reason, Registry, TrafficId};
use crate::flow::Stage;
use crate::maglev::{Member, SelectionHash};
use crate::mode::{self, Context, Prepared, Tunnel};
use crate::service::{Definitions, Hash, Ports, Protocol, Service, State, Tracking};

/// Makes snapshots, and keeps what goes from one to the next: tables, bases, counters, endpoints that left.
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
    way_out: WayOut,
    entries: HashMap<Key, Entry>,
    /// The bases of whoever is at rest.
    rest: (Arc<Bases>, Arc<Layers>),
    /// What lcores get of the entries, by their index.
    services: Vec<CompiledService>,
    destinations: Register,
    vips: Arc<Vips>,
    tunnels: Tunnels,
    /// Endpoints by which replies come, and those that left.
    served: HashMap<Served, Endpoint>,
    endpoints: Arc<Endpoints>,
    /// Of the newest snapshot.
    serial: u32,
    /// The pairs that the newest snapshot counts, and those that left since lcores were last known to have adopted one.
    counted: HashSet<Pair>,
    uncounted: Vec<Pair>,
}

/// A service's name and a backend's endpoint.
type Pair = (Arc<str>, SocketAddr);

/// What a service is known by, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub vip: IpNet,
    pub ports: Ports,
    pub protocol: Protocol,
}

impl Key {
    pub fn of(service: &Service) -> Self {
        Self { vip: service.vip, ports: service.ports, protocol: service.protocol }
    }
}

/// What is kept of a service from one snapshot to the next.
#[derive(Debug)]
struct Entry {
    index: ServiceIndex,
    definition: Arc<Service>,
    table: Arc<Table>,
    /// The fabric that its targets were made for.
    way_out: u32,
    /// Of the snapshot that last had it.
    serial: u32,
    /// The first snapshot in which the bases of its slots were what they are.
    rests_since: u32,
    /// Of services with the same history one.
    bases: Arc<Bases>,
    unresolved: Box<[IpAddr]>,
    tunnels: Box<[Tunnel]>,
}

/// What an endpoint's replies become, and until when, where it left.
#[derive(Debug, Clone, Copy)]
struct Endpoint {
    vip: (IpAddr, Option<u16>),
    until: Option<Millis>,
}

/// The fabric that targets are made for.
#[derive(Debug)]
struct WayOut {
    /// Another with each change of anything.
    number: u32,
    fabric: Fabric,
    routes: Arc<Routes>,
    own: Arc<Index>,
}

impl WayOut {
    fn new(number: u32, fabric: &Fabric) -> Self {
        let own = Index::new(fabric.own.iter().map(|&address| ((address, 0, 0), 0)));
        Self { number, fabric: fabric.clone(), routes: Arc::new(Routes::new(fabric)), own: Arc::new(own) }
    }
}

/// What becomes of the bases of a table when it changes to another, by the addresses of all three, which live meanwhile.
type Moves = HashMap<[usize; 3], (Arc<Bases>, Arc<Layers>)>;

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
            way_out: WayOut::new(0, &Fabric::default()),
            tables: Tables::default(),
            entries: HashMap::new(),
            rest: Default::default(),
            services: Vec::new(),
            destinations: Register::default(),
            vips: Arc::new(Vips::new([].into_iter())),
            tunnels: Tunnels::default(),
            served: HashMap::new(),
            endpoints: Arc::new(Endpoints::new([].into_iter())),
            serial: 0,
            counted: HashSet::new(),
            uncounted: Vec::new(),
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
        let has_learned = self.mtus.update(&self.learned, now);
        if has_learned {
            self.way_out.number += 1;
        }
        has_learned
    }

    /// Forgets the counters of backends that left. Call it when every lcore has adopted the newest snapshot.
    pub fn forget_counters(&mut self) {
        let left: HashSet<Pair> =
            std::mem::take(&mut self.uncounted).into_iter().filter(|pair| !self.counted.contains(pair)).collect();
        if !left.is_empty() {
            self.registry.retain(|pair| !left.contains(pair));
        }
    }

    /// Every lcore has adopted the newest snapshot at `now`: the deadlines of its changes are set.
    pub fn adopted(&mut self, now: Millis) {
        let mut known: HashMap<(usize, Millis), Arc<Bases>> = HashMap::new();
        for entry in self.entries.values_mut().filter(|entry| entry.bases.waits()) {
            let idle = idle(&entry.definition);
            let adopted = known.entry((Arc::as_ptr(&entry.bases) as usize, idle));
            entry.bases = adopted.or_insert_with(|| Arc::new((*entry.bases).clone().adopted(now, idle))).clone();
        }
    }

    /// When the next base moves; then what is compiled differs.
    pub fn next_move(&self) -> Option<Millis> {
        self.entries.values().filter_map(|entry| entry.bases.next()).min()
    }

    /// The services that have slots whose base is not their owner, with how many of them.
    pub fn moving(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        let moving = self.entries.values().filter(|entry| !entry.bases.is_at_rest());
        moving.map(|entry| (&entry.definition.name, entry.bases.held().count()))
    }

    /// Whether it would change anything to know what the lcores remember.
    pub fn wants_to_know(&self) -> bool {
        let may_forget = |service: &CompiledService| service.recalls && service.tracking != Tracking::Full;
        self.destinations.has_left() || self.services.iter().any(|service| may_forget(service) && service.is_at_rest())
    }

    /// Of the newest snapshot.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Takes what the lcores' memories had in them, each looked at after all had adopted the snapshot `serial`: the destinations that
    /// some entry names. Whether what is compiled next would differ for it.
    pub fn learn_remembered(&mut self, serial: u32, is_remembered: impl Fn(u32) -> bool) -> bool {
        self.destinations.free(serial, &is_remembered);
        let mut has_changed = false;
        for entry in self.entries.values().filter(|entry| entry.rests_since <= serial) {
            let service = &mut self.services[entry.index.0 as usize];
            let is_at_rest = service.tracking != Tracking::Full && service.is_at_rest();
            if service.recalls && is_at_rest && !service.memory.numbers.iter().any(|&number| is_remembered(number)) {
                service.recalls = false;
                has_changed = true;
            }
        }
        has_changed
    }

    /// The destinations that flows are remembered by: their numbers, services and backends.
    pub fn destinations(&self) -> impl Iterator<Item = (u32, &Arc<str>, SocketAddr)> {
        self.services.iter().flat_map(|service| {
            let definition = &service.details.definition;
            let places = service.memory.numbers.iter().zip(&service.details.places);
            let endpoint = |place: u32| definition.endpoint(&definition.backends[place as usize]);
            places.map(move |(&number, &place)| (number, &definition.name, endpoint(place)))
        })
    }

    /// Compiles valid `definitions` for the `fabric` as it is at `now`.
    pub fn compile(&mut self, definitions: &Definitions, fabric: &Fabric, now: Millis) -> Arc<Snapshot> {
        if self.way_out.fabric != *fabric {
            self.way_out = WayOut::new(self.way_out.number + 1, fabric);
        }
        // Not 0, which is no snapshot's.
        self.serial = self.serial.wrapping_add(1).max(1);
        self.move_bases(now);
        let changed = self.changed(definitions);
        let shapes: Vec<(Shape, Vec<u32>)> = changed.iter().map(|service| self.shape(service)).collect();
        self.tables.prepare(shapes.iter().map(|(shape, _)| shape), &self.hash);
        let mut has_other_services = self.take_out();
        let mut has_other_endpoints = has_other_services;
        let mut moves = Moves::new();
        for (service, (shape, places)) in changed.into_iter().zip(shapes) {
            has_other_endpoints |= service.forwarding.nature().replies_by_endpoint;
            has_other_services |= self.put_in(service, &shape, places, &mut moves);
        }
        self.tables.forget_unused();
        if has_other_services {
            self.vips = Arc::new(self.vips());
        }
        if self.note_endpoints(definitions, has_other_endpoints, now) {
            let endpoints = self.served.iter().map(|(&served, endpoint)| (served, endpoint.vip, endpoint.until));
            self.endpoints = Arc::new(Endpoints::new(endpoints));
        }

        let routes = &self.way_out.routes;
        let unresolved = self.entries.values().flat_map(|entry| entry.unresolved.iter().copied());
        let unresolved: BTreeSet<IpAddr> = unresolved.chain(routes.unresolved_gateways()).collect();
        let refuses = |reason| Target { traffic: TrafficId::NONE, room: 0, mode: Prepared::Refuses(reason) };
        Arc::new(Snapshot {
            version: definitions.version.clone(),
            hash: self.hash,
            ports: fabric.ports.clone().into(),
            vips: self.vips.clone(),
            own: self.way_out.own.clone(),
            recalls: self.services.iter().any(|service| service.recalls),
            sends_hashes: self.services.iter().any(|service| service.sends_hash),
            least_idle: self.least_idle(),
            services: self.services.clone().into(),
            destinations: self.destinations.snapshot(),
            nobody: refuses(Reason::NoBackend),
            no_room: refuses(Reason::FlowTableFull),
            endpoints: self.endpoints.clone(),
            routes: routes.clone(),
            unresolved: unresolved.into_iter().collect(),
            traffic: (0..self.environment.lcores).map(|lcore| self.registry.traffic(lcore)).collect(),
            asked: self.asked.clone(),
            limiter: self.limiter.clone(),
            encap: self.environment.encap,
            tunnels: self.tunnels.clone(),
            learned: self.learned.clone(),
            hold: self.environment.hold,
            sources: self.environment.sources.clone(),
            serial: self.serial,
        })
    }

    /// Seconds for which a silent flow is remembered, whatever its service and stage; none where its destination may be gone.
    fn least_idle(&self) -> u32 {
        let least = self.services.iter().flat_map(|service| service.idle).min();
        least.filter(|_| !self.destinations.has_left()).unwrap_or(0)
    }

    /// The services that are to be made anew; the others are marked as still there.
    fn changed<'a>(&mut self, definitions: &'a Definitions) -> Vec<&'a Arc<Service>> {
        let mut is_changed = |service: &&Arc<Service>| match self.entries.get_mut(&Key::of(service)) {
            Some(entry) => {
                entry.serial = self.serial;
                entry.way_out != self.way_out.number || entry.definition != **service
            }
            None => true,
        };
        definitions.services.iter().filter(|service| is_changed(service)).collect()
    }

    /// What a service asks of the tables, and its backends' places in the order of the table's members.
    fn shape(&self, service: &Service) -> (Shape, Vec<u32>) {
        let mut members: Vec<(Member, u32)> = service
            .backends
            .iter()
            .zip(0..)
            .map(|(backend, place)| {
                (Member { address: backend.address, port: backend.port, weight: backend.weight }, place)
            })
            .collect();
        members.sort_unstable();
        let states = members.iter().map(|&(_, place)| service.backends[place as usize].state).collect();
        let (members, places): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let size = service.table_size.unwrap_or(self.environment.table_size);
        (Shape { recipe: Recipe { members: members.into(), size }, states }, places)
    }

    /// Takes out the services that are no more; whether there were any.
    fn take_out(&mut self) -> bool {
        let gone = self.entries.iter().filter(|(_, entry)| entry.serial != self.serial).map(|(&key, _)| key);
        let gone: Vec<Key> = gone.collect();
        for key in &gone {
            let Some(entry) = self.entries.remove(key) else { continue };
            let service = self.services.swap_remove(entry.index.0 as usize);
            for &number in service.memory.numbers.iter().filter(|&&number| number != Memory::NO_NUMBER) {
                self.destinations.leave(number, self.serial);
            }
            self.uncount(&entry.definition);
            entry.tunnels.iter().for_each(|tunnel| self.tunnels.remove(tunnel));
            // The last one took its place.
            if let Some(moved) = self.services.get(entry.index.0 as usize) {
                let key = Key::of(&moved.details.definition);
                self.describe(entry.index);
                if let Some(other) = self.entries.get_mut(&key) {
                    other.index = entry.index;
                }
            }
        }
        !gone.is_empty()
    }

    /// Makes a service that is new or changed; whether packets find it otherwise now.
    fn put_in(&mut self, service: &Arc<Service>, shape: &Shape, places: Vec<u32>, moves: &mut Moves) -> bool {
        let (key, table) = (Key::of(service), self.tables.get(shape));
        let old = self.entries.remove(&key);
        let index = old.as_ref().map_or(ServiceIndex(self.services.len() as u32), |old| old.index);
        let before = self.services.get(index.0 as usize).cloned().filter(|_| old.is_some());
        let remembers = service.tracking != Tracking::None && !service.forwarding.nature().keeps_flows;

        let (bases, layers) = match (&old, &before) {
            (Some(old), Some(before)) if remembers => bases_after(old, &before.memory, &table, &self.rest, moves),
            _ => self.rest.clone(),
        };
        let memory = Memory {
            numbers: self.numbers(service, &places, remembers, before.as_ref()),
            was_resized: before
                .as_ref()
                .is_some_and(|before| before.memory.was_resized || before.table_size() != table.now.len() as u32),
            // It is in its bases' service from the first change on.
            layers,
        };
        let recalls = remembers
            && (service.tracking == Tracking::Full
                || !memory.layers.is_at_rest()
                || before.as_ref().is_some_and(|before| before.recalls));

        if let Some(old) = &old {
            self.uncount(&old.definition);
            old.tunnels.iter().for_each(|tunnel| self.tunnels.remove(tunnel));
        }
        let mut unresolved = Vec::new();
        let targets =
            places.iter().map(|&place| self.target(service, place as usize, &mut unresolved)).collect::<Arc<[_]>>();
        let tunnels: Box<[Tunnel]> =
            service.backends.iter().filter_map(|backend| mode::tunnel(service, backend)).collect();
        tunnels.iter().for_each(|tunnel| self.tunnels.add(tunnel));

        let ranges = Ranges::new(service.vip.addr(), &service.source_ranges, &service.deny_ranges);
        let sends_hash =
            targets.iter().any(|target| !matches!(target.mode, Prepared::Straight(_) | Prepared::Refuses(_)));
        let refused = match remembers {
            true => {
                self.counted.insert((service.name.clone(), Registry::REFUSED));
                self.registry.refused(&service.name)
            }
            false => TrafficId::NONE,
        };
        let details = Details {
            refused,
            table: table.clone(),
            definition: service.clone(),
            servers: servers(service, &places),
            kept: kept(service, &places, index),
            places: places.into(),
            ranges,
        };
        let compiled = CompiledService {
            now: table.now.clone(),
            targets,
            idle: service.idle_seconds(),
            tracking: service.tracking,
            recalls,
            sends_hash,
            memory: Arc::new(memory),
            details: Arc::new(details),
        };
        let is_found_otherwise = before.is_none_or(|before| self.is_plain(&before) != self.is_plain(&compiled));
        match self.services.get_mut(index.0 as usize) {
            Some(place) => *place = compiled,
            None => self.services.push(compiled),
        }
        self.describe(index);
        let entry = Entry {
            index,
            definition: service.clone(),
            table,
            way_out: self.way_out.number,
            serial: self.serial,
            rests_since: self.serial,
            bases,
            unresolved: unresolved.into(),
            tunnels,
        };
        self.entries.insert(key, entry);
        is_found_otherwise
    }

    /// The numbers of the destinations of a service's members: those that they had, and new ones.
    fn numbers(
        &mut self,
        service: &Service,
        places: &[u32],
        remembers: bool,
        before: Option<&CompiledService>,
    ) -> Box<[u32]> {
        let mut known: HashMap<SocketAddr, u32> = HashMap::new();
        if let Some(before) = before {
            let of =
                |&place: &u32| before.details.definition.endpoint(&before.details.definition.backends[place as usize]);
            known = before.details.places.iter().map(of).zip(before.memory.numbers.iter().copied()).collect();
            known.retain(|_, &mut number| number != Memory::NO_NUMBER);
        }
        let mut number = |&place: &u32| {
            let endpoint = service.endpoint(&service.backends[place as usize]);
            let number = known.remove(&endpoint).or_else(|| self.destinations.take());
            number.unwrap_or(Memory::NO_NUMBER)
        };
        let numbers = if remembers { places.iter().map(&mut number).collect() } else { Box::default() };
        known.into_values().for_each(|number| self.destinations.leave(number, self.serial));
        numbers
    }

    /// Says what the numbers of a service's destinations are of.
    fn describe(&mut self, index: ServiceIndex) {
        let service = &self.services[index.0 as usize];
        let definition = &service.details.definition;
        for ((&number, &place), member) in service.memory.numbers.iter().zip(&service.details.places).zip(0..) {
            if number != Memory::NO_NUMBER {
                let backend = &definition.backends[place as usize];
                let takes_new = backend.state == State::Active && backend.weight > 0;
                let keeps = backend.state != State::Down;
                self.destinations.set(number, Destination::new(index, member, keeps, takes_new));
            }
        }
    }

    /// Lets go of the bases whose time is over at `now`.
    fn move_bases(&mut self, now: Millis) {
        let mut moved: Moves = HashMap::new();
        for entry in self.entries.values_mut() {
            if entry.bases.next().is_none_or(|next| now < next) {
                continue;
            }
            let service = &mut self.services[entry.index.0 as usize];
            let layers = &service.memory.layers;
            let key = [Arc::as_ptr(&entry.bases) as usize, Arc::as_ptr(layers) as usize, 0];
            let (bases, layers) = moved.entry(key).or_insert_with(|| {
                let bases = (*entry.bases).clone().at(now, idle(&entry.definition), layers.had_no_room());
                let layers = Layers::new(&bases, &entry.table, layers);
                if bases.is_at_rest() { self.rest.clone() } else { (Arc::new(bases), Arc::new(layers)) }
            });
            (entry.bases, entry.rests_since) = (bases.clone(), self.serial);
            let Memory { numbers, was_resized, .. } = &*service.memory;
            let (numbers, was_resized) = (numbers.clone(), *was_resized);
            service.memory = Arc::new(Memory { numbers, layers: layers.clone(), was_resized });
        }
    }

    /// The target of a backend, which is counted from now on.
    fn target(&mut self, service: &Service, place: usize, unresolved: &mut Vec<IpAddr>) -> Target {
        let (backend, routes) = (&service.backends[place], &self.way_out.routes);
        let endpoint = service.endpoint(backend);
        let traffic = self.registry.id(&service.name, endpoint);
        self.counted.insert((service.name.clone(), endpoint));
        let to = backend.tunnel_endpoint();
        let next_hop = match routes.way(to) {
            // Its own Ethernet address is what `l2dsr` needs; a router's would bring the packet back.
            Way::Hop(_) if service.forwarding.nature().needs_neighbor && !routes.is_neighbor(to) => None,
            Way::Hop(hop) => Some(NextHop { mtu: self.mtus.of(to, hop.mtu), ..hop }),
            Way::Ask(gateway) => {
                unresolved.push(gateway);
                None
            }
            Way::OnLink => {
                unresolved.push(to);
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

    /// A service's backends are not counted any more.
    fn uncount(&mut self, service: &Service) {
        let endpoints = service.backends.iter().map(|backend| service.endpoint(backend));
        for endpoint in endpoints.chain([Registry::REFUSED]) {
            let pair = (service.name.clone(), endpoint);
            self.counted.remove(&pair);
            self.uncounted.push(pair);
        }
    }

    fn vips(&self) -> Vips {
        let of = |(service, number): (&CompiledService, u32)| {
            (Key::of(&service.details.definition), ServiceIndex(number), self.is_plain(service))
        };
        Vips::new(self.services.iter().zip(0..).map(of))
    }

    /// Whether it takes every client, chooses by the client's address and port, and no reply comes to it.
    fn is_plain(&self, service: &CompiledService) -> bool {
        let definition = &service.details.definition;
        definition.hash == Hash::FiveTuple
            && !definition.forwarding.nature().keeps_flows
            && service.details.ranges.is_none()
            && !self.environment.sources.meet(definition.vip, definition.ports)
    }

    /// Notes which endpoints serve what, when others left, and forgets those that left long ago; whether any of it is new.
    fn note_endpoints(&mut self, definitions: &Definitions, has_changed: bool, now: Millis) -> bool {
        if has_changed {
            let until = Millis(now.0.saturating_add(self.environment.drain_timeout.as_millis() as u64));
            for endpoint in self.served.values_mut() {
                endpoint.until.get_or_insert(until);
            }
            for service in definitions.services.iter().filter(|service| service.forwarding.nature().replies_by_endpoint)
            {
                for backend in &service.backends {
                    let served = Served::new(service, backend);
                    let vip = (service.vip.addr(), service.ports.single());
                    self.served.insert(served, Endpoint { vip, until: None });
                }
            }
        }
        let count = self.served.len();
        self.served.retain(|_, endpoint| endpoint.until.is_none_or(|until| now < until));
        has_changed || self.served.len() != count
    }
}

/// How long a flow that is not remembered may be silent.
fn idle(service: &Service) -> Millis {
    Millis(u64::from(service.idle_seconds()[Stage::Established as usize - 1]) * 1000)
}

/// The bases after a service's table became `table`; the same of services with the same history.
fn bases_after(
    old: &Entry,
    memory: &Memory,
    table: &Arc<Table>,
    rest: &(Arc<Bases>, Arc<Layers>),
    moves: &mut Moves,
) -> (Arc<Bases>, Arc<Layers>) {
    if Arc::ptr_eq(&old.table, table) {
        return (old.bases.clone(), memory.layers.clone());
    }
    let key = [Arc::as_ptr(&old.table) as usize, Arc::as_ptr(&old.bases) as usize, Arc::as_ptr(table) as usize];
    let moved = moves.entry(key).or_insert_with(|| {
        let bases = table.bases_after(&old.table, &old.bases);
        let layers = Layers::new(&bases, table, &memory.layers);
        if bases.is_at_rest() { rest.clone() } else { (Arc::new(bases), Arc::new(layers)) }
    });
    moved.clone()
}

/// Who may be named by a connection ID: whoever keeps flows.
fn servers(service: &Service, places: &[u32]) -> Box<[(Box<[u8]>, u16)]> {
    let named = places.iter().zip(0..).filter_map(|(&place, member)| {
        let backend = &service.backends[place as usize];
        let id = backend.server_id.clone().filter(|_| backend.state != State::Down)?;
        Some((id, member))
    });
    let mut servers: Vec<_> = named.collect();
    servers.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    servers.into()
}

/// Whom flows stay with that are kept by their backend.
fn kept(service: &Service, places: &[u32], index: ServiceIndex) -> Box<[(SocketAddr, Kept)]> {
    if !service.forwarding.nature().keeps_flows {
        return Box::default();
    }
    let keeps = places.iter().zip(0..).filter_map(|(&place, member)| {
        let backend = &service.backends[place as usize];
        let takes_new = backend.state == State::Active && backend.weight > 0;
        let kept = Kept { target: TargetIndex { service: index, member }, takes_new };
        (backend.state != State::Down).then_some((service.endpoint(backend), kept))
    });
    let mut kept: Vec<_> = keeps.collect();
    kept.sort_unstable_by_key(|(endpoint, _)| *endpoint);
    kept.into()
}
