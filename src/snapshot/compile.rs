//! Definitions + next hops + time -> snapshot. Runs on the control side; may take its time and allocate.
//!
//! Only what changed is made anew: a service whose definition is the one from before, on the same fabric, keeps all that was made for
//! it. So one change among thousands of services costs about as much as one service does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;

use super::destinations::Register;
use super::endpoints;
use super::index::Index;
use super::layers::Layers;
use super::learned::{Learned, Mtus};
use super::motion::Motion;
use super::ranges::Ranges;
use super::routes::{Routes, Way};
use super::services::Services;
use super::tables::{Recipe, Shape, Table, Tables};
use super::trace::Trace;
use super::transition::{Bases, By};
use super::tunnels::Tunnels;
use super::vips::Vips;
use super::{
    Affinity, Asked, CompiledService, Destination, Details, Environment, Fabric, Found, Limiter, Memory, Millis,
    NextHop, ServiceIndex, Snapshot, Target,
};
use crate::counters::{Reason, Registry, TrafficId};
use crate::flow::{Client, Seconds, Stage};
use crate::maglev::{Member, SelectionHash};
use crate::mode::{self, Context, Prepared, Tunnel};
use crate::service::{Backend, Definitions, Hash, HealthCheck, IdleTimeout, Ports, Protocol, Service, State, Tracking};

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
    /// The services of the newest snapshot, as they were given.
    definitions: Vec<Arc<Service>>,
    entries: HashMap<Key, Entry>,
    /// Those of the entries that are not at rest.
    motion: Motion,
    /// The bases of whoever is at rest.
    rest: (Arc<Bases>, Arc<Layers>),
    /// What a process before left, of services that have not been compiled yet.
    restored: HashMap<Key, Trace>,
    /// Whether lcores may remember flows from before.
    knows_flows: bool,
    /// The services whose trace is another since [`Compiler::take_moved`].
    moved: HashSet<Key>,
    /// What lcores get of the entries, by their index.
    services: Services,
    /// Next hops of backends whose MAC addresses are wanted, with how many want them.
    unresolved: BTreeMap<IpAddr, u32>,
    destinations: Register,
    vips: Arc<Vips>,
    /// What packets find otherwise than in the newest snapshot.
    found: HashMap<Key, Option<Found>>,
    tunnels: Tunnels,
    endpoints: endpoints::Register,
    /// Services that were made anew for the newest snapshot.
    made: usize,
    /// Of the newest snapshot, and of the fabric that it was made for.
    serial: u32,
    compiled_for: u32,
}

/// A service's name and a backend's endpoint.
type Pair = (Arc<str>, SocketAddr);

/// What a service is known by, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Of the snapshot for which it was last looked whether it is still there.
    serial: u32,
    /// The first snapshot in which the bases of its slots were what they are.
    rests_since: u32,
    /// Of services with the same history one.
    bases: Arc<Bases>,
    unresolved: Box<[IpAddr]>,
    tunnels: Box<[Tunnel]>,
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

/// What becomes of the bases of a table when it changes to another, by the addresses of all three, which live meanwhile, and what clients
/// fall into slots of both by.
type Moves = HashMap<([usize; 3], [By; 2]), (Arc<Bases>, Arc<Layers>)>;

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
            definitions: Vec::new(),
            entries: HashMap::new(),
            motion: Motion::default(),
            rest: Default::default(),
            restored: HashMap::new(),
            knows_flows: false,
            moved: HashSet::new(),
            services: Services::default(),
            unresolved: BTreeMap::new(),
            destinations: Register::default(),
            vips: Arc::default(),
            found: HashMap::new(),
            tunnels: Tunnels::default(),
            endpoints: endpoints::Register::default(),
            made: 0,
            serial: 0,
            compiled_for: 0,
        }
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Packets and bytes of each backend of each service over all lcores, also of those that left and are not forgotten yet; in no order.
    pub fn totals(&self) -> impl Iterator<Item = (&Arc<str>, SocketAddr, u64, u64)> {
        let counted = self.services.iter().flat_map(|service| {
            let name = &service.definition().name;
            service.counted().map(move |(endpoint, id)| (name, endpoint, id))
        });
        let left = self.registry.left().map(|((name, endpoint), id)| (name, *endpoint, id));
        let backends = counted.chain(left).filter(|&(_, endpoint, _)| endpoint != Registry::REFUSED);
        backends.map(|(name, endpoint, id)| {
            let (packets, bytes) = self.registry.total(id);
            (name, endpoint, packets, bytes)
        })
    }

    /// The services that remember flows, each with the packets that it had no room for.
    pub fn refused(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let counted = self.services.iter().filter(|service| service.details.refused != TrafficId::NONE);
        counted.map(|service| (&service.definition().name, self.registry.total(service.details.refused).0))
    }

    /// Bytes of all tables.
    pub fn table_bytes(&self) -> usize {
        self.tables.bytes()
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

    /// Forgets the counters of backends that left, and gives what they had counted: packets and bytes. Call it when every lcore has
    /// adopted the newest snapshot.
    pub fn forget_counters(&mut self) -> Vec<(Pair, u64, u64)> {
        self.registry.forget_left()
    }

    /// Every lcore has adopted the newest snapshot at `now`: the deadlines of its changes are set.
    pub fn adopted(&mut self, now: Millis) {
        let mut known: HashMap<(usize, Millis), Arc<Bases>> = HashMap::new();
        let waiting: Vec<Key> = self.motion.waiting().copied().collect();
        for key in waiting {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let idle = idle(&entry.definition);
            let adopted = known.entry((Arc::as_ptr(&entry.bases) as usize, idle));
            let adopted = adopted.or_insert_with(|| Arc::new((*entry.bases).clone().adopted(now, idle))).clone();
            self.motion.change(key, &entry.bases, &adopted);
            self.moved.insert(key);
            entry.bases = adopted;
        }
        self.services.settle();
        self.tables.forget_unused();
    }

    /// Begins with what a process before left, its numbers where the lcores know its flows (`remembered`: the last number that any has);
    /// call it before anything is compiled.
    pub fn restore(&mut self, traces: impl IntoIterator<Item = (Key, Trace)>, remembered: Option<Option<u32>>) {
        self.restored = traces.into_iter().collect();
        match remembered {
            Some(last) => {
                let given = self.restored.values().flat_map(|trace| trace.numbers.iter()).map(|&(_, number)| number);
                self.destinations = Register::after(&given.collect(), last);
                self.knows_flows = true;
            }
            None => {
                for trace in self.restored.values_mut() {
                    *trace = Trace { bases: trace.bases.clone(), ..Trace::default() };
                }
            }
        }
    }

    /// What a process that comes after this one would have to know of services: of those of which that is something else since this was last
    /// called, be they gone by now.
    pub fn take_moved(&mut self) -> Vec<(Key, Trace)> {
        std::mem::take(&mut self.moved).into_iter().map(|key| (key, self.trace(&key))).collect()
    }

    fn trace(&self, key: &Key) -> Trace {
        let Some(entry) = self.entries.get(key) else { return Trace::default() };
        let CompiledService { memory, details, .. } = &self.services[entry.index.0 as usize];
        let definition = &details.definition;
        let endpoint = |&place: &u32| definition.endpoint(&definition.backends[place as usize]);
        let numbers = details.places.iter().map(endpoint).zip(memory.numbers.iter().copied());
        let numbers = numbers.filter(|&(_, number)| number != Memory::NO_NUMBER).collect();
        Trace { bases: entry.bases.clone(), numbers, had_other_slots: memory.had_other_slots }
    }

    /// When the next base moves; then what is compiled differs.
    pub fn next_move(&self) -> Option<Millis> {
        self.motion.next()
    }

    /// The services that have slots whose base is not their owner, with how many of them.
    pub fn moving(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.in_motion().map(|(_, entry)| (&entry.definition.name, entry.bases.held().count()))
    }

    /// Slots of those services, by the backend (service, endpoint) that is their base.
    pub fn unsettled(&self) -> HashMap<(Arc<str>, SocketAddr), usize> {
        let mut slots = HashMap::new();
        for (_, Entry { definition, bases, .. }) in self.in_motion() {
            // Services of several ports share bases: their endpoints have none.
            let endpoint = |base: SocketAddr| match base.port() {
                0 => SocketAddr::new(base.ip(), definition.ports.single().unwrap_or(0)),
                _ => base,
            };
            for (_, held) in bases.held() {
                *slots.entry((definition.name.clone(), endpoint(held.base))).or_default() += 1;
            }
        }
        slots
    }

    /// The services, and the first snapshot in which the bases of their slots were what they are.
    pub fn rests_since(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.entries.values().map(|entry| (&entry.definition.name, entry.rests_since))
    }

    fn in_motion(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.motion.services().filter_map(|key| self.entries.get_key_value(key))
    }

    /// Whether a client may be forgotten by all: nobody will ask for it any more.
    pub fn is_client_over(&self, client: &Client, now: Millis) -> bool {
        let now = Seconds(u32::try_from(now.0 / 1000).unwrap_or(u32::MAX));
        let Some(service) = self.destinations.get(client.destination).map(|of| of.service) else { return true };
        let affinity = self.services.get(service.0 as usize).and_then(|service| service.details.affinity);
        affinity.is_none_or(|affinity| client.age(now) > affinity.timeout)
    }

    /// Services that were made anew for the newest snapshot.
    pub fn made(&self) -> usize {
        self.made
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
            let service = &self.services[entry.index.0 as usize];
            let is_at_rest = service.tracking != Tracking::Full && service.is_at_rest();
            if service.recalls && is_at_rest && !service.memory.numbers.iter().any(|&number| is_remembered(number)) {
                self.services.replace(entry.index, CompiledService { recalls: false, ..service.clone() });
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
        let (old, new) = self.differ(&definitions.services);
        let old: Vec<Arc<Service>> =
            self.definitions.splice(old, definitions.services[new.clone()].iter().cloned()).collect();
        let new = &definitions.services[new];
        let changed = self.changed(new);
        self.made = changed.len();
        let shapes: Vec<(Shape, Vec<u32>)> = changed.iter().map(|service| self.shape(service)).collect();
        self.tables.prepare(shapes.iter().map(|(shape, _)| shape), &self.hash);
        self.take_out(&old);
        // All of them first: a pair may go from one to another.
        for service in &changed {
            if let Some(entry) = self.entries.get(&Key::of(service)) {
                uncount(&self.services[entry.index.0 as usize], &mut self.registry);
            }
        }
        let mut moves = Moves::new();
        for (service, (shape, places)) in changed.into_iter().zip(shapes) {
            self.put_in(service, &shape, places, &mut moves);
        }
        self.tables.forget_unused();
        self.compiled_for = self.way_out.number;
        if !definitions.services.is_empty() {
            // What it left of others is of no use: they are gone.
            for (_, number) in self.restored.drain().flat_map(|(_, trace)| trace.numbers.to_vec()) {
                self.destinations.leave(number, self.serial);
            }
        }
        if !self.found.is_empty() {
            Arc::make_mut(&mut self.vips).change(self.found.drain());
        }
        let until = Millis(now.0.saturating_add(self.environment.drain_timeout.as_millis() as u64));
        self.endpoints.change(&old, new, until, now);

        let routes = &self.way_out.routes;
        let unresolved = self.unresolved.keys().copied().chain(routes.unresolved_gateways());
        let mut unresolved: Vec<IpAddr> = unresolved.collect();
        unresolved.sort();
        unresolved.dedup();
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
            services: self.services.snapshot(),
            destinations: self.destinations.snapshot(),
            nobody: refuses(Reason::NoBackend),
            no_room: refuses(Reason::FlowTableFull),
            endpoints: self.endpoints.snapshot(),
            routes: routes.clone(),
            unresolved: unresolved.into(),
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

    /// Where the services differ from those of the newest snapshot: the ones in its place there, and the new ones. Outside of that not even
    /// an element is looked at.
    fn differ(&self, services: &[Arc<Service>]) -> (Range<usize>, Range<usize>) {
        let old = &self.definitions;
        let is_same = |(one, other): &(&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(one, other);
        let (before, behind) = if self.compiled_for == self.way_out.number {
            let before = old.iter().zip(services).take_while(is_same).count();
            let rest = old[before..].iter().rev().zip(services[before..].iter().rev());
            (before, rest.take_while(is_same).count())
        } else {
            (0, 0)
        };
        (before..old.len() - behind, before..services.len() - behind)
    }

    /// Those of the services that are to be made anew; the others are marked as still there.
    fn changed<'a>(&mut self, services: &'a [Arc<Service>]) -> Vec<&'a Arc<Service>> {
        let mut is_changed = |service: &&Arc<Service>| match self.entries.get_mut(&Key::of(service)) {
            Some(entry) => {
                entry.serial = self.serial;
                entry.way_out != self.way_out.number || entry.definition != **service
            }
            None => true,
        };
        services.iter().filter(|service| is_changed(service)).collect()
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

    /// Takes out those of the `old` services that are no more.
    fn take_out(&mut self, old: &[Arc<Service>]) {
        let is_gone = |key: &Key| self.entries.get(key).is_some_and(|entry| entry.serial != self.serial);
        let gone: Vec<Key> = old.iter().map(|service| Key::of(service)).filter(is_gone).collect();
        for key in &gone {
            let Some(entry) = self.entries.remove(key) else { continue };
            let service = self.services.swap_remove(entry.index);
            self.motion.change(*key, &entry.bases, &self.rest.0);
            if !entry.bases.is_at_rest() || !service.memory.numbers.is_empty() {
                self.moved.insert(*key);
            }
            for &number in service.memory.numbers.iter().filter(|&&number| number != Memory::NO_NUMBER) {
                self.destinations.leave(number, self.serial);
            }
            self.found.insert(*key, None);
            uncount(&service, &mut self.registry);
            self.tunnels.replace(&entry.tunnels, &[]);
            self.no_longer_want(&entry.unresolved);
            self.tables.leave(entry.table);
            // The last one took its place.
            if let Some(moved) = self.services.get(entry.index.0 as usize) {
                let key = Key::of(&moved.details.definition);
                let found = Found { service: entry.index, is_plain: self.is_plain(moved) };
                self.found.insert(key, Some(found));
                self.describe(entry.index);
                if let Some(other) = self.entries.get_mut(&key) {
                    other.index = entry.index;
                }
            }
        }
    }

    /// Makes a service that is new or changed.
    fn put_in(&mut self, service: &Arc<Service>, shape: &Shape, places: Vec<u32>, moves: &mut Moves) {
        let (key, table) = (Key::of(service), self.tables.get(shape));
        let old = self.entries.remove(&key);
        let index = old.as_ref().map_or(ServiceIndex(self.services.len() as u32), |old| old.index);
        let before = self.services.get(index.0 as usize).cloned().filter(|_| old.is_some());
        let remembers = service.tracking != Tracking::None && !service.forwarding.nature().keeps_flows;

        let by = By::of(service.hash);
        // Its bases stay there as long as others may have the same.
        let restored = self
            .restored
            .get_mut(&key)
            .map(|trace| Trace { numbers: std::mem::take(&mut trace.numbers), ..trace.clone() });
        let restored = restored.unwrap_or_default();
        let (bases, layers) = match (&old, &before) {
            (Some(old), Some(before)) if remembers => bases_after(old, &before.memory, &table, by, &self.rest, moves),
            (None, _) if remembers => self.restored_bases(&restored, &table, by, moves),
            _ => self.rest.clone(),
        };
        let had_other_slots = match &before {
            Some(before) => {
                let is_other = before.table_size() != table.now.len() as u32 || By::of(before.definition().hash) != by;
                before.memory.had_other_slots || is_other
            }
            None => restored.had_other_slots,
        };
        let memory = Memory {
            numbers: self.number(service, &places, remembers, before.as_ref(), &restored),
            had_other_slots,
            // It is in its bases' service from the first change on.
            layers,
        };
        let is_same = match (&old, &before) {
            (Some(old), Some(before)) => {
                Arc::ptr_eq(&old.bases, &bases)
                    && before.memory.numbers == memory.numbers
                    && before.memory.had_other_slots == had_other_slots
            }
            _ => bases.is_at_rest() && memory.numbers.is_empty(),
        };
        if !is_same {
            self.motion.change(key, old.as_ref().map_or(&self.rest.0, |old| &old.bases), &bases);
            self.moved.insert(key);
        }
        let recalls = remembers
            && (service.tracking == Tracking::Full
                || !memory.layers.is_at_rest()
                || before.is_none() && self.knows_flows
                || before.as_ref().is_some_and(|before| before.recalls));

        if let Some(old) = &old {
            self.no_longer_want(&old.unresolved);
        }
        let mut unresolved = Vec::new();
        let targets =
            places.iter().map(|&place| self.target(service, place as usize, &mut unresolved)).collect::<Arc<[_]>>();
        let tunnels: Box<[Tunnel]> =
            service.backends.iter().filter_map(|backend| mode::tunnel(service, backend)).collect();
        self.tunnels.replace(old.as_ref().map_or(&[], |old| &old.tunnels), &tunnels);
        for &address in &unresolved {
            *self.unresolved.entry(address).or_default() += 1;
        }

        let ranges = Ranges::new(service.vip.addr(), &service.source_ranges, &service.deny_ranges);
        let sends_hash =
            targets.iter().any(|target| !matches!(target.mode, Prepared::Straight(_) | Prepared::Refuses(_)));
        let refused = match remembers {
            true => self.registry.id(&service.name, Registry::REFUSED),
            false => TrafficId::NONE,
        };
        let affinity = affinity(service);
        let details = Details {
            affinity,
            refused,
            table: table.clone(),
            definition: service.clone(),
            servers: servers(service, &places),
            kept: kept(service, &places),
            probed: self.probed(service),
            places: places.into(),
            ranges,
            slots: OnceLock::new(),
        };
        let compiled = CompiledService {
            now: table.now.clone(),
            targets,
            idle: service.idle_seconds(),
            tracking: service.tracking,
            recalls,
            sends_hash,
            has_affinity: affinity.is_some(),
            memory: Arc::new(memory),
            details: Arc::new(details),
        };
        let found = Found { service: index, is_plain: self.is_plain(&compiled) };
        if before.is_none_or(|before| self.is_plain(&before) != found.is_plain) {
            self.found.insert(key, Some(found));
        }
        match old {
            Some(old) => {
                self.services.replace(index, compiled);
                self.tables.leave(old.table);
            }
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
    }

    /// The bases that a process before left of a service, as far as they still hold.
    fn restored_bases(
        &mut self,
        Trace { bases, .. }: &Trace,
        table: &Arc<Table>,
        by: By,
        moves: &mut Moves,
    ) -> (Arc<Bases>, Arc<Layers>) {
        if bases.is_at_rest() {
            return self.rest.clone();
        }
        let key = ([0, Arc::as_ptr(bases) as usize, Arc::as_ptr(table) as usize], [by; 2]);
        let restored = moves.entry(key).or_insert_with(|| {
            let bases = table.bases_after(table, [by; 2], bases);
            let layers = Layers::new(&bases, table, by, &Layers::default());
            if bases.is_at_rest() { self.rest.clone() } else { (Arc::new(bases), Arc::new(layers)) }
        });
        restored.clone()
    }

    /// The numbers of the destinations of a service's members: those that they had, and new ones.
    fn number(
        &mut self,
        service: &Service,
        places: &[u32],
        remembers: bool,
        before: Option<&CompiledService>,
        restored: &Trace,
    ) -> Box<[u32]> {
        let mut known: HashMap<SocketAddr, u32> = restored.numbers.iter().copied().collect();
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
        let due: Vec<Key> = self.motion.due(now).copied().collect();
        for service_key in due {
            let Some(entry) = self.entries.get_mut(&service_key) else { continue };
            let service = self.services[entry.index.0 as usize].clone();
            let Memory { numbers, layers, had_other_slots } = &*service.memory;
            let by = By::of(entry.definition.hash);
            let key = ([Arc::as_ptr(&entry.bases) as usize, Arc::as_ptr(layers) as usize, 0], [by; 2]);
            let (bases, layers) = moved.entry(key).or_insert_with(|| {
                let idle = idle(&entry.definition);
                let bases = (*entry.bases).clone().at(now, idle, layers.had_no_room(now, idle));
                let layers = Layers::new(&bases, &entry.table, by, layers);
                if bases.is_at_rest() { self.rest.clone() } else { (Arc::new(bases), Arc::new(layers)) }
            });
            self.motion.change(service_key, &entry.bases, bases);
            self.moved.insert(service_key);
            (entry.bases, entry.rests_since) = (bases.clone(), self.serial);
            let memory = Memory { numbers: numbers.clone(), layers: layers.clone(), had_other_slots: *had_other_slots };
            self.services.replace(entry.index, CompiledService { memory: Arc::new(memory), ..service });
        }
    }

    /// The target of a backend, which is counted from now on.
    fn target(&mut self, service: &Service, place: usize, unresolved: &mut Vec<IpAddr>) -> Target {
        let backend = &service.backends[place];
        let endpoint = service.endpoint(backend);
        let traffic = self.registry.id(&service.name, endpoint);
        let next_hop = self.next_hop(service, backend, unresolved);
        let encap = &self.environment.encap;
        let prepare = |next_hop| Prepared::new(&Context { service, backend, next_hop, encap });
        let room = next_hop.map_or(0, |hop| hop.mtu.saturating_sub(mode::overhead(service, backend)));
        let mode = next_hop.as_ref().map_or(Prepared::Refuses(Reason::NoNextHop), prepare);
        Target { traffic, room, mode }
    }

    /// What is done to packets of the service's health checks, by backend, where they go through the service.
    fn probed(&self, service: &Service) -> Box<[(SocketAddr, Prepared)]> {
        if !service.health.check.as_ref().is_some_and(HealthCheck::goes_through_the_service) {
            return Box::default();
        }
        let encap = &self.environment.encap;
        let prepare = |backend: &Backend| {
            let next_hop = self.next_hop(service, backend, &mut Vec::new());
            let prepare = |next_hop| Prepared::of_probe(&Context { service, backend, next_hop, encap });
            let mode = next_hop.as_ref().map_or(Prepared::Refuses(Reason::NoNextHop), prepare);
            (service.endpoint(backend), mode)
        };
        let mut probed: Vec<_> = service.backends.iter().map(prepare).collect();
        probed.sort_unstable_by_key(|(endpoint, _)| *endpoint);
        probed.into()
    }

    /// The way to a backend. `unresolved`: whose MAC address is missing is added.
    fn next_hop(&self, service: &Service, backend: &Backend, unresolved: &mut Vec<IpAddr>) -> Option<NextHop> {
        let (routes, to) = (&self.way_out.routes, backend.tunnel_endpoint());
        match routes.way(to) {
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
        }
    }

    fn no_longer_want(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            if let Some(count) = self.unresolved.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.unresolved.remove(address);
                }
            }
        }
    }

    /// Whether it takes every client, chooses by the client's address and port, and no reply comes to it.
    fn is_plain(&self, service: &CompiledService) -> bool {
        let definition = &service.details.definition;
        definition.hash == Hash::FiveTuple
            && !definition.forwarding.nature().keeps_flows
            && service.details.ranges.is_none()
            && !self.environment.sources.meet(definition.vip, definition.ports)
    }
}

/// A service's backends are not counted any more.
fn uncount(service: &CompiledService, registry: &mut Registry) {
    for (endpoint, id) in service.counted() {
        registry.leave(&service.definition().name, endpoint, id);
    }
}

/// How clients of a service are remembered, where they are to be.
fn affinity(service: &Service) -> Option<Affinity> {
    let is_kept = service.hash == Hash::SourceIp && service.tracking == Tracking::Full;
    let timeout = service.affinity_timeout.filter(|_| is_kept && !service.forwarding.nature().keeps_flows)?;
    let timeout = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).min(IdleTimeout::MOST);
    let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(Key::of(service));
    Some(Affinity { service: number, timeout })
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
    by: By,
    rest: &(Arc<Bases>, Arc<Layers>),
    moves: &mut Moves,
) -> (Arc<Bases>, Arc<Layers>) {
    let by = [By::of(old.definition.hash), by];
    if Arc::ptr_eq(&old.table, table) && by[0] == by[1] {
        return (old.bases.clone(), memory.layers.clone());
    }
    let addresses = [Arc::as_ptr(&old.table) as usize, Arc::as_ptr(&old.bases) as usize, Arc::as_ptr(table) as usize];
    let key = (addresses, by);
    let moved = moves.entry(key).or_insert_with(|| {
        let bases = table.bases_after(&old.table, by, &old.bases);
        let layers = Layers::new(&bases, table, by[1], &memory.layers);
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

/// Whom flows stay with that are kept by their backend. Not by the service's index, which it changes when others go.
fn kept(service: &Service, places: &[u32]) -> Box<[(SocketAddr, u16, bool)]> {
    if !service.forwarding.nature().keeps_flows {
        return Box::default();
    }
    let keeps = places.iter().zip(0..).filter_map(|(&place, member)| {
        let backend = &service.backends[place as usize];
        let takes_new = backend.state == State::Active && backend.weight > 0;
        (backend.state != State::Down).then_some((service.endpoint(backend), member, takes_new))
    });
    let mut kept: Vec<_> = keeps.collect();
    kept.sort_unstable_by_key(|(endpoint, ..)| *endpoint);
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::flow::Sources;
    use crate::mode::Encap;
    use crate::service;
    use crate::snapshot::{Limit, Neighbor, Port, PortIndex, Route};
    use crate::wire::Mac;

    fn environment() -> Environment {
        Environment {
            seed: *b"0123456789abcdef",
            table_size: 1009,
            encap: Encap { ipv4_source: Some([10, 0, 0, 1].into()), ..Encap::default() },
            icmp_errors: Limit { per_second: 1, burst: 1 },
            hold: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            lcores: 1,
            sources: Arc::new(Sources::none()),
            flows: 1,
        }
    }

    /// A port, and one router behind it.
    fn fabric() -> Fabric {
        let router = IpAddr::from([10, 0, 0, 254]);
        let neighbor = Neighbor { address: router, mac: Mac([2, 0, 0, 0, 0, 0xfe]), port: PortIndex(0), vlan: None };
        Fabric {
            ports: vec![Port { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, promiscuous: false }],
            neighbors: vec![neighbor],
            routes: vec![Route { prefix: "0.0.0.0/0".parse().unwrap(), via: Some(router) }],
            ..Fabric::default()
        }
    }

    struct Scene {
        compiler: Compiler,
        fabric: Fabric,
        definitions: Definitions,
        now: Millis,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                compiler: Compiler::new(environment()),
                fabric: fabric(),
                definitions: Definitions::default(),
                now: Millis(0),
            }
        }

        /// Services on these ports of one VIP, each of so many backends.
        fn compile(&mut self, services: impl Iterator<Item = (u16, u8)>) -> Arc<Snapshot> {
            let service = |(port, backends)| {
                let backends: Vec<_> = (1..=backends).map(|k| format!(r#"{{"address": "10.1.0.{k}"}}"#)).collect();
                format!(
                    r#"{{"name": "s{port}", "vip": "192.0.2.1", "port": {port}, "protocol": "tcp", "forwarding": "ipip", "backends": [{}]}}"#,
                    backends.join(", ")
                )
            };
            let document = format!(r#"{{"services": [{}]}}"#, services.map(service).collect::<Vec<_>>().join(", "));
            (self.definitions, _) = service::native(document, "s", Some(&self.definitions)).unwrap();
            self.compiler.compile(&self.definitions, &self.fabric, self.now)
        }

        fn adopt(&mut self) {
            self.compiler.adopted(self.now);
        }
    }

    /// How many of them there are, shared or not.
    fn distinct<T>(all: impl Iterator<Item = *const T>) -> usize {
        all.collect::<HashSet<_>>().len()
    }

    #[test]
    fn ports_of_one_set_of_backends_cost_one_table_and_one_history() {
        const TABLE: usize = 1009 * size_of::<u16>();
        let mut scene = Scene::new();
        drop(scene.compile((1..=400).map(|port| (port, 20))));
        assert_eq!(scene.compiler.table_bytes(), TABLE);
        scene.adopt();
        for backends in [21, 19, 25] {
            scene.now.0 += 1000;
            let snapshot = scene.compile((1..=400).map(|port| (port, backends)));
            let services = &snapshot.services;
            assert_eq!(distinct(services.iter().map(|service| service.now.as_ptr())), 1);
            assert_eq!(distinct(services.iter().map(|service| Arc::as_ptr(&service.memory.layers))), 1);
            drop(snapshot);
            scene.adopt();
            let traces = scene.compiler.take_moved();
            assert_eq!((traces.len(), distinct(traces.iter().map(|(_, trace)| Arc::as_ptr(&trace.bases)))), (400, 1));
        }
        // Whoever goes his own way has his own, and the others theirs.
        let snapshot = scene.compile((1..=400).map(|port| (port, if port == 7 { 20 } else { 25 })));
        assert_eq!(distinct(snapshot.services.iter().map(|service| service.now.as_ptr())), 2);
        assert_eq!(distinct(snapshot.services.iter().map(|service| Arc::as_ptr(&service.memory.layers))), 2);
    }

    #[test]
    fn a_target_is_known_as_its_services_backend() {
        let snapshot = Scene::new().compile([(80, 200), (81, 3)].into_iter());
        for index in [0, 1] {
            let (service, compiled) = (ServiceIndex(index), &snapshot.services[index as usize]);
            for (member, target) in compiled.targets.iter().enumerate() {
                let endpoint = compiled.definition().endpoint(compiled.backend(member as u16).unwrap());
                assert_eq!(snapshot.backend_of(service, target), Some(endpoint));
                assert_eq!(snapshot.backend_of(ServiceIndex(1 - index), target), None, "it is the other's");
            }
            assert_eq!(snapshot.backend_of(service, &snapshot.nobody), None);
        }
    }

    #[test]
    fn what_left_is_let_go_of_once_it_is_adopted() {
        let mut scene = Scene::new();
        let first = scene.compile((1..=50).map(|port| (port, (port % 5) as u8 + 1)));
        scene.adopt();
        let left = Arc::downgrade(&first.services[6].details);
        let table = Arc::downgrade(&first.services[6].details.table);
        let second = scene.compile((1..=50).filter(|&port| port % 5 != 2).map(|port| (port, (port % 5) as u8 + 1)));
        scene.adopt();
        assert!(left.upgrade().is_some() && table.upgrade().is_some(), "an lcore still has it");
        drop(first);
        scene.adopt();
        assert!(left.upgrade().is_none() && table.upgrade().is_none());
        assert_eq!((second.services.len(), scene.compiler.table_bytes()), (40, 4 * 1009 * size_of::<u16>()));
    }

    /// However sets follow one another, and whatever snapshots are still in use: a compiler that saw the sets before makes what one makes
    /// that did not.
    #[test]
    fn a_snapshot_is_of_its_definitions_alone() {
        let mut scene = Scene::new();
        let mut seed = 1_u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % below
        };
        let mut ports: Vec<(u16, u8)> = (1..40).map(|port| (port, 3)).collect();
        let mut used = Vec::new();
        for step in 0..200 {
            for _ in 0..=random(3) {
                let place = random(ports.len() as u32) as usize;
                match random(4) {
                    0 => ports.insert(place, (100 + step * 4 + random(4) as u16, 2)),
                    1 => _ = ports.remove(place),
                    2 => ports.swap(place, 0),
                    _ => ports[place].1 = random(9) as u8 + 1,
                }
            }
            ports.sort_by_cached_key(|&(port, _)| u32::from(port) * (random(2) + 1));
            let mut seen = HashSet::new();
            ports.retain(|&(port, _)| seen.insert(port));
            let snapshot = scene.compile(ports.iter().copied());
            used.push(snapshot.clone());
            if random(2) == 0 {
                used.drain(..used.len() - 1);
                scene.adopt();
            }
            let fresh = Compiler::new(scene.compiler.environment().clone()).compile(
                &scene.definitions,
                &scene.fabric,
                scene.now,
            );
            assert_eq!(snapshot.services.len(), ports.len());
            for &(port, _) in &ports {
                let [one, other] = [&snapshot, &fresh].map(|snapshot| {
                    let found = snapshot.service([192, 0, 2, 1].into(), port, 6).unwrap();
                    let service = snapshot.compiled_service(found.service);
                    for (&number, member) in service.memory.numbers.iter().zip(0..) {
                        let (_, target) = snapshot.recalled(found.service, number).unwrap();
                        assert!(std::ptr::eq(target, &service.targets[member]), "port {port}");
                    }
                    (&service.details.definition, &service.now)
                });
                assert_eq!(one, other);
            }
            let mut counted: Vec<_> = scene.compiler.moving().map(|(name, _)| name.clone()).collect();
            counted.sort();
            let not_at_rest = |entry: &&Entry| !entry.bases.is_at_rest();
            let obvious =
                scene.compiler.entries.values().filter(not_at_rest).map(|entry| entry.definition.name.clone());
            let mut obvious: Vec<_> = obvious.collect();
            obvious.sort();
            assert_eq!(counted, obvious);
        }
    }
}
