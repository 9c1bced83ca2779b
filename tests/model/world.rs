//! The real thing, a compiler and some lcores' pipelines, with the rule beside it: every packet goes through both.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use penstock::counters::Reason;
use penstock::flow::{Dealing, Nat, Sources, Stage};
use penstock::mode::Encap;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service::{Definitions, Forwarding, Hash, IdleTimeout, Ports, Protocol, Service, State, Tracking};
use penstock::snapshot::{
    By, Compiler, Environment, Fabric, Limit, Millis, Neighbor, Port, PortIndex, Route, ServiceIndex, Snapshot,
};
use penstock::wire::Frame;

use super::frames::{self, Ends, Kind};
use super::history::{Arrival, BACKENDS, CLIENTS, Change, History, Lcores, Setup, Step, Timeout, To};
use super::promise::Promise;
use super::rule::{Backend, Definition, Flow, Idle, Rule, Says, Standing, View, Views};
use super::support::{self, BACKEND_MAC, CLIENT_MAC, OUR_MAC, packets::ip};

/// How long a first fragment is remembered at least, in milliseconds.
const FIRST_IS_KNOWN: u64 = 2000;

/// Flows that fill a table, but for fewer places than one flow has to choose from.
const DENSE: usize = 32;

/// A service as it is defined at the moment.
struct Plan {
    setup: Setup,
    is_there: bool,
    tracking: Tracking,
    size: u32,
    idle: Idle,
    /// The least and the most that it ever was.
    idles: [Idle; 2],
    backends: [Option<Member>; BACKENDS as usize],
    /// Lives of the backends that were published last.
    lives: [Option<u16>; BACKENDS as usize],
    /// Whether its table ever had another size. Then penstock holds bases longer than it need, and only the promise is tested.
    has_other_slots: bool,
}

#[derive(Clone, Copy)]
struct Member {
    state: State,
    weight: u16,
}

struct Lcore {
    pipeline: Pipeline,
    snapshot: Arc<Snapshot>,
    views: Views,
}

/// What is tested of each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is enough: each goes where the rule says.
    Plenty,
    /// There is not: the promise is kept.
    Scarce,
}

pub struct World {
    room: Room,
    plans: Vec<Plan>,
    lcores: Vec<Lcore>,
    dealt: Lcores,
    dealing: Dealing,
    compiler: Compiler,
    fabric: Fabric,
    newest: (Arc<Snapshot>, Views),
    rule: Rule,
    promise: Promise,
    /// Backends that were down or gone in something that not all lcores have adopted.
    outages: HashSet<(usize, Backend)>,
    /// When a first fragment came to an lcore, and what was published then.
    firsts: HashMap<(usize, Flow, u8), (u64, u32)>,
    lives: u16,
    now: u64,
    pub packets: u64,
    /// Those that were compared with the rule's choice.
    pub compared: u64,
}

fn vip(service: usize, setup: &Setup) -> (IpAddr, u16) {
    let vip = if setup.is_v6 { format!("2001:db8:1::{}", service + 1) } else { format!("192.0.2.{}", service + 1) };
    (ip(&vip), if setup.is_tcp { 80 } else { 53 })
}

/// Two of one address each.
fn client(number: usize, setup: &Setup) -> (IpAddr, u16) {
    let host = number / 2 + 1;
    let address = if setup.is_v6 { format!("2001:db8:2::{host}") } else { format!("198.51.100.{host}") };
    (ip(&address), 40000 + number as u16 * 7)
}

fn address(service: usize, backend: u8, setup: &Setup) -> IpAddr {
    match setup.is_v6 {
        true => ip(&format!("fd00:1::{}:{}", service + 1, backend + 1)),
        false => ip(&format!("10.1.{}.{}", service + 1, backend + 1)),
    }
}

fn fabric() -> Fabric {
    let neighbor = |address: &str, mac| Neighbor { address: ip(address), mac, port: PortIndex(0), vlan: None };
    let route = |prefix: &str, via: &str| Route { prefix: prefix.parse().unwrap(), via: Some(ip(via)) };
    Fabric {
        ports: vec![Port { mac: OUR_MAC, mtu: 1500, promiscuous: false }],
        own: vec![],
        neighbors: vec![
            neighbor("10.0.0.254", CLIENT_MAC),
            neighbor("10.0.0.253", BACKEND_MAC),
            neighbor("fd00::253", BACKEND_MAC),
        ],
        routes: vec![
            route("0.0.0.0/0", "10.0.0.254"),
            route("10.1.0.0/16", "10.0.0.253"),
            route("fd00:1::/32", "fd00::253"),
        ],
    }
}

impl Plan {
    fn service(&self, number: usize) -> Service {
        let (&Setup { is_tcp, is_by_source, .. }, idle) = (&self.setup, self.idle);
        let (vip, port) = vip(number, &self.setup);
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
        let backends = self.backends.iter().zip(0..).filter_map(|(member, backend)| {
            let &Member { state, weight } = member.as_ref()?;
            let address = address(number, backend, &self.setup).to_string();
            Some(penstock::service::Backend { state, weight, ..support::backend(&address, None) })
        });
        let seconds = std::time::Duration::from_secs;
        Service {
            vip: vip.into(),
            hash: if is_by_source { Hash::SourceIp } else { Hash::FiveTuple },
            tracking: self.tracking,
            table_size: Some(self.size),
            idle_timeout: IdleTimeout {
                tcp: seconds(idle.tcp),
                tcp_closing: seconds(idle.closing),
                udp: seconds(idle.udp),
            },
            ..support::service(
                &number.to_string(),
                support::TUNNEL_VIP,
                port,
                protocol,
                Forwarding::Ipip,
                backends.collect(),
            )
        }
    }

    fn definition(&self) -> Definition {
        let backends = self.backends.iter().zip(&self.lives).zip(0..).filter_map(|((member, life), number)| {
            let &Member { state, weight } = member.as_ref()?;
            let standing = match state {
                State::Down => Standing::Down,
                State::Active if weight > 0 => Standing::Active,
                _ => Standing::KeepsOnly,
            };
            Some((Backend { number, life: (*life)? }, standing))
        });
        let (is_tcp, idle) = (self.setup.is_tcp, self.idle);
        Definition { tracking: self.tracking, is_tcp, idle, backends: backends.collect() }
    }
}

/// UDP has no SYN to tell a new flow by.
fn tracking(wanted: Tracking, setup: &Setup) -> Tracking {
    if wanted == Tracking::Transition && !setup.is_tcp { Tracking::Full } else { wanted }
}

impl World {
    pub fn new(history: &History, room: Room) -> Self {
        let count = history.lcores.count;
        let sources = Arc::new(Sources::new([], [], Ports { first: 1024, last: 2047 }, count));
        let environment = Environment {
            seed: *b"0123456789abcdef",
            table_size: 251,
            encap: Encap {
                ipv4_source: Some(support::SOURCE),
                ipv6_source: Some("fd00::1".parse().unwrap()),
                ..Encap::default()
            },
            icmp_errors: Limit { per_second: 1000, burst: 100 },
            hold: std::time::Duration::ZERO,
            drain_timeout: std::time::Duration::from_secs(3600),
            lcores: count,
            sources: sources.clone(),
            flows: history.capacity,
        };
        let dealing = Dealing::evenly(128, count);
        let mut compiler = Compiler::new(environment);
        let fabric = fabric();
        let empty = compiler.compile(&Definitions { version: None, services: vec![] }, &fabric, Millis(0));
        let views = Views::default();
        let lcore = |index| {
            let pipeline =
                Pipeline::with(Nat::new(&sources, index, [0; 2])).remembering(history.capacity, history.seed);
            let pipeline = if history.lcores.is_dealing_known { pipeline.dealt_by(dealing) } else { pipeline };
            Lcore { pipeline, snapshot: empty.clone(), views: views.clone() }
        };
        let mut world = Self {
            room,
            plans: vec![],
            lcores: (0..count).map(lcore).collect(),
            dealt: history.lcores,
            dealing,
            compiler,
            fabric,
            newest: (empty.clone(), views.clone()),
            rule: Rule::default(),
            promise: Promise::default(),
            outages: HashSet::new(),
            firsts: HashMap::new(),
            lives: 0,
            now: 1_000_000,
            packets: 0,
            compared: 0,
        };
        for setup in &history.services {
            let tracking = tracking(setup.tracking, setup);
            let size = setup.size;
            let mut plan = Plan {
                setup: setup.clone(),
                is_there: true,
                tracking,
                size,
                idle: setup.idle,
                idles: [setup.idle; 2],
                backends: Default::default(),
                lives: Default::default(),
                has_other_slots: false,
            };
            for &backend in &setup.backends {
                plan.backends[usize::from(backend)] = Some(Member { state: State::Active, weight: 100 });
            }
            world.plans.push(plan);
        }
        world.publish(false);
        world
    }

    /// Does all that happens, in order.
    pub fn live(&mut self, steps: &[Step]) -> Result<(), String> {
        for (number, step) in steps.iter().enumerate() {
            self.step(step).map_err(|what| format!("step {number} at {} ms: {what}", self.now))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Burst(arrivals) => return self.burst(arrivals),
            Step::Change { changes, lags } => {
                if changes.iter().any(|change| matches!(change.to, To::Idle(_))) {
                    // What is over may live again by longer times, or not.
                    self.sweep(4);
                    self.rule.sweep(self.now);
                }
                changes.iter().for_each(|change| self.change(change));
                // Of a service that goes lcores may know nothing more, though some still have it.
                let is_at_once =
                    |change: &Change| matches!(change.to, To::Toggled | To::Tracking(Tracking::None) | To::Idle(_));
                self.publish(*lags && !changes.iter().any(is_at_once));
            }
            Step::Adopt(lcore) => self.adopt(usize::from(*lcore) % self.lcores.len()),
            Step::Wait(millis) => self.wait(*millis),
            Step::WaitFor { service, timeout, more } => {
                let idle = self.plans[usize::from(*service) % self.plans.len()].idle;
                let seconds = match timeout {
                    Timeout::Tcp => idle.tcp,
                    Timeout::Closing => idle.closing,
                    Timeout::Udp => idle.udp,
                };
                self.wait((seconds * 1000).saturating_add_signed(*more));
            }
            Step::Look => self.look(),
            Step::Sweep(quarters) => self.sweep(u64::from(*quarters)),
        }
        Ok(())
    }

    /// The lcores look for entries that are over, in so many quarters of their memory.
    fn sweep(&mut self, quarters: u64) {
        for Lcore { pipeline, snapshot, .. } in &mut self.lcores {
            pipeline.sweep(snapshot, Millis(self.now), Millis(quarters), Millis(4));
        }
    }

    fn change(&mut self, change: &Change) {
        let count = self.plans.len();
        let plan = &mut self.plans[usize::from(change.service) % count];
        match change.to {
            To::Backend(number, state, weight) => {
                plan.backends[usize::from(number)] = Some(Member { state, weight });
            }
            To::Removed(number) => plan.backends[usize::from(number)] = None,
            To::Size(size) => {
                plan.has_other_slots |= plan.size != size;
                plan.size = size;
            }
            To::BySource(is_by_source) => {
                plan.has_other_slots |= plan.setup.is_by_source != is_by_source;
                plan.setup.is_by_source = is_by_source;
            }
            To::Tracking(wanted) => plan.tracking = tracking(wanted, &plan.setup),
            To::Idle(idle) => {
                let both = |of: [Idle; 2], pick: fn(u64, u64) -> u64| Idle {
                    tcp: pick(of[0].tcp, of[1].tcp),
                    closing: pick(of[0].closing, of[1].closing),
                    udp: pick(of[0].udp, of[1].udp),
                };
                plan.idles = [both([plan.idles[0], idle], u64::min), both([plan.idles[1], idle], u64::max)];
                plan.idle = idle;
            }
            To::Toggled => {
                plan.is_there = !plan.is_there;
            }
        }
        // The table of those who have no weight is empty.
        let mut members = plan.backends.iter().flatten().peekable();
        plan.has_other_slots |= members.peek().is_some() && members.all(|member| member.weight == 0);
    }

    fn compile(&mut self) -> Arc<Snapshot> {
        let there = self.plans.iter().enumerate().filter(|(_, plan)| plan.is_there);
        let services = there.map(|(number, plan)| Arc::new(plan.service(number))).collect();
        self.compiler.compile(&Definitions { version: None, services }, &self.fabric, Millis(self.now))
    }

    fn publish(&mut self, lags: bool) {
        for plan in &mut self.plans {
            plan.has_other_slots &= plan.is_there;
            for (member, life) in plan.backends.iter().zip(&mut plan.lives) {
                if member.is_none() || !plan.is_there {
                    *life = None;
                } else if life.is_none() {
                    self.lives += 1;
                    *life = Some(self.lives);
                }
            }
        }
        let snapshot = self.compile();
        let definition = |(number, plan): (usize, &Plan)| {
            let owner = |client: usize| {
                let of = snapshot.compiled_service(self.index(&snapshot, number));
                let [hash, source] = self.hashes(&snapshot, (number, client));
                let hash = if plan.setup.is_by_source { source } else { hash };
                let address = of.backend(of.taker(hash)?)?.address;
                self.life(number, address, &plan.definition())
            };
            plan.is_there.then(|| (plan.definition(), (0..usize::from(CLIENTS)).map(owner).collect()))
        };
        let definitions = self.plans.iter().enumerate().map(definition).collect();
        let before = self.newest.1.clone();
        let views = self.rule.publish(definitions);
        for (service, view) in before.iter().enumerate() {
            let backends = view.iter().flat_map(|view| view.definition.backends.keys());
            let is_kept = |backend: Backend| views[service].as_ref().is_some_and(|view| view.definition.keeps(backend));
            self.outages.extend(backends.filter(|&&backend| !is_kept(backend)).map(|&backend| (service, backend)));
        }
        for (service, view) in views.iter().enumerate() {
            if view.as_ref().is_none_or(|view| view.definition.tracking == Tracking::None) {
                self.promise.forget(service);
            }
        }
        self.promise.lose(&self.outages);
        self.newest = (snapshot, views);
        if !lags {
            self.all_adopt();
        }
    }

    fn index(&self, snapshot: &Snapshot, service: usize) -> ServiceIndex {
        let setup = &self.plans[service].setup;
        let (vip, port) = vip(service, setup);
        snapshot.service(vip, port, if setup.is_tcp { 6 } else { 17 }).unwrap().service
    }

    /// Of address and port, and of the address alone.
    fn hashes(&self, snapshot: &Snapshot, flow: Flow) -> [u64; 2] {
        let (address, port) = client(flow.1, &self.plans[flow.0].setup);
        [snapshot.hash().end(address, port), snapshot.hash().source(address)]
    }

    fn life(&self, service: usize, at: IpAddr, definition: &Definition) -> Option<Backend> {
        let is_there = |backend: &&Backend| address(service, backend.number, &self.plans[service].setup) == at;
        definition.backends.keys().find(is_there).copied()
    }

    fn adopt(&mut self, lcore: usize) {
        let lcore = &mut self.lcores[lcore];
        if !Arc::ptr_eq(&lcore.snapshot, &self.newest.0) {
            (lcore.snapshot, lcore.views) = self.newest.clone();
            self.promise.lose(&self.outages);
            if !self.is_lagging() {
                self.outages.clear();
                self.compiler.adopted(Millis(self.now));
                self.rule.adopted(self.now);
            }
        }
    }

    fn all_adopt(&mut self) {
        (0..self.lcores.len()).for_each(|lcore| self.adopt(lcore));
    }

    /// Whether some lcore has not adopted what is newest.
    fn is_lagging(&self) -> bool {
        self.lcores.iter().any(|lcore| !Arc::ptr_eq(&lcore.snapshot, &self.newest.0))
    }

    fn wait(&mut self, millis: u64) {
        let until = self.now + millis;
        loop {
            let real = self.compiler.next_move().map(|next| next.0);
            let next = real.into_iter().chain(self.rule.next_move()).min();
            let Some(next) = next.filter(|&next| next <= until) else { break };
            self.now = next;
            self.newest = (self.compile(), self.rule.move_bases(next));
            self.all_adopt();
        }
        self.now = until;
    }

    fn look(&mut self) {
        if self.is_lagging() {
            return;
        }
        let mut seen = HashSet::new();
        for lcore in &self.lcores {
            let remembered = lcore.pipeline.remembered();
            seen.extend(remembered.flows(0..remembered.places()).map(|flow| flow.destination));
        }
        let serial = self.compiler.serial();
        if self.compiler.learn_remembered(serial, |destination| seen.contains(&destination)) {
            self.newest.0 = self.compile();
            self.all_adopt();
        }
    }

    /// What is sent where something is that may be sent: fragments and errors are left out where lcores know different things.
    fn allowed(&self, arrival: &Arrival, flow: Flow) -> Option<Kind> {
        let views = self.lcores.iter().map(|lcore| lcore.views[flow.0].as_ref());
        let view = views.collect::<Option<Vec<_>>>()?[0];
        let is_alone = self.lcores.len() == 1;
        let kind = match arrival.kind {
            Kind::Error | Kind::First(_) | Kind::Later(_) if self.is_lagging() => Kind::Data,
            // Where it is not known to whom whole packets come, whoever had it first decides, and knows the flow alone then.
            Kind::First(_) | Kind::Later(_)
                if !self.dealt.is_dealing_known
                    && !is_alone
                    && view.definition.tracking != Tracking::None
                    && (view.definition.is_tcp || self.rule.live(view, flow, self.now).is_none()) =>
            {
                Kind::Data
            }
            Kind::First(_) | Kind::Later(_) if self.plans[flow.0].setup.is_v6 => Kind::Data,
            // To whom fragments go on may change with what is remembered.
            Kind::Later(id) if self.has_changed_since_first(flow, id) => Kind::Data,
            kind => kind,
        };
        let is_tcps = matches!(kind, Kind::Syn | Kind::Fin | Kind::Rst);
        Some(if is_tcps && !self.plans[flow.0].setup.is_tcp { Kind::Data } else { kind })
    }

    fn has_changed_since_first(&self, flow: Flow, id: u8) -> bool {
        (0..self.lcores.len()).any(|lcore| {
            self.firsts
                .get(&(lcore, flow, id))
                .is_some_and(|&(at, serial)| self.now - at <= FIRST_IS_KNOWN && serial != self.compiler.serial())
        })
    }

    /// Which lcore gets a frame.
    fn receiver(&self, arrival: &Arrival, flow: Flow, kind: Kind) -> usize {
        let setup = &self.plans[flow.0].setup;
        let ((from, source_port), (to, port)) = (client(flow.1, setup), vip(flow.0, setup));
        let Lcores { count, is_dealing_known, salt } = self.dealt;
        match kind {
            Kind::Error => usize::from(arrival.lcore) % count,
            Kind::First(_) | Kind::Later(_) => (flow.1 / 2 * 3 + flow.0 + usize::from(salt)) % count,
            _ if is_dealing_known => self.dealing.lcore(from, to, Some((source_port, port))),
            _ => (flow.1 * 5 + flow.0 * 3 + usize::from(salt)) % count,
        }
    }

    fn burst(&mut self, arrivals: &[Arrival]) -> Result<(), String> {
        let mut received: Vec<Vec<(Flow, Kind)>> = vec![vec![]; self.lcores.len()];
        for arrival in arrivals {
            let service = usize::from(arrival.service) % self.plans.len();
            let flow = (service, usize::from(arrival.client));
            if let Some(kind) = self.allowed(arrival, flow) {
                received[self.receiver(arrival, flow, kind)].push((flow, kind));
            }
        }
        let mut handed = VecDeque::new();
        for (lcore, packets) in received.into_iter().enumerate() {
            // Later fragments follow their first from then on.
            let known: Vec<bool> = packets.iter().map(|&(flow, kind)| self.note_fragment(lcore, flow, kind)).collect();
            let mut frames: Vec<Buffer> = packets.iter().map(|&(flow, kind)| self.frame(flow, kind)).collect();
            let mut verdicts = [support::NONE; BURST];
            let Lcore { pipeline, snapshot, .. } = &mut self.lcores[lcore];
            pipeline.process(snapshot, Millis(self.now), PortIndex(0), &mut frames, &mut verdicts);
            for (((packet, is_known), frame), verdict) in packets.into_iter().zip(known).zip(frames).zip(verdicts) {
                match verdict {
                    Verdict::HandOver(to) => handed.push_back((usize::from(to), 1, packet, is_known, frame)),
                    verdict => self.settle(lcore, packet, is_known, verdict, &frame)?,
                }
            }
        }
        while let Some((lcore, looked, packet, is_known, mut frame)) = handed.pop_front() {
            if usize::from(looked) > self.lcores.len() {
                return Err(format!("{packet:?} goes round and round"));
            }
            let mut verdicts = [support::NONE; BURST];
            let Lcore { pipeline, snapshot, .. } = &mut self.lcores[lcore];
            let one = std::slice::from_mut(&mut frame);
            pipeline.process_handed(snapshot, Millis(self.now), PortIndex(0), looked, one, &mut verdicts);
            match verdicts[0] {
                Verdict::HandOver(to) => handed.push_back((usize::from(to), looked + 1, packet, is_known, frame)),
                verdict => self.settle(lcore, packet, is_known, verdict, &frame)?,
            }
        }
        Ok(())
    }

    /// Notes that a first fragment came; whether a frame says or follows what its flow is.
    fn note_fragment(&mut self, lcore: usize, flow: Flow, kind: Kind) -> bool {
        match kind {
            Kind::First(id) => {
                self.firsts.insert((lcore, flow, id), (self.now, self.compiler.serial()));
                true
            }
            Kind::Later(id) => {
                let first = self.firsts.get(&(lcore, flow, id));
                first.is_some_and(|&(first, _)| self.now - first <= FIRST_IS_KNOWN)
            }
            _ => true,
        }
    }

    fn frame(&self, flow: Flow, kind: Kind) -> Buffer {
        let setup = &self.plans[flow.0].setup;
        let ends = Ends { client: client(flow.1, setup), vip: vip(flow.0, setup), is_tcp: setup.is_tcp };
        let id = match kind {
            Kind::First(id) | Kind::Later(id) => flow.1 as u16 * 2 + u16::from(id),
            _ => 0,
        };
        Buffer::new(&frames::made(&ends, kind, id))
    }

    /// What became of a packet is what had to.
    fn settle(
        &mut self,
        lcore: usize,
        (flow, kind): (Flow, Kind),
        is_known: bool,
        verdict: Verdict,
        frame: &Buffer,
    ) -> Result<(), String> {
        self.packets += 1;
        if !is_known {
            let is_unknown = verdict == Verdict::Drop(Reason::FragmentUnknown);
            return is_unknown.then_some(()).ok_or(format!("{flow:?} {kind:?} without its first: {verdict:?}"));
        }
        let views = self.lcores[lcore].views.clone();
        let Some(view) = &views[flow.0] else { return Err(format!("{flow:?} {kind:?}: no such service")) };
        let says = match kind {
            Kind::Error | Kind::Later(_) => Says::Nothing,
            _ if !view.definition.is_tcp => Says::Datagram,
            Kind::Syn => Says::Syn,
            Kind::Fin | Kind::Rst => Says::Ends,
            Kind::Data | Kind::First(_) => Says::GoesOn,
        };
        let (slot, deadline) = (view.slots[flow.1], self.rule.deadlines.get(&flow).copied());
        let entry = self.rule.entries.get(&flow).copied();
        let context = || {
            format!(
                "{flow:?} {kind:?} on lcore {lcore}: {verdict:?}; the rule knows {slot:?}, {deadline:?}, {entry:?}, {:?}",
                view.definition
            )
        };
        let went = match verdict {
            Verdict::Forward(_) => {
                let to = frames::outer_destination(frame.bytes());
                let backend = self.life(flow.0, to, &view.definition);
                Some(backend.ok_or_else(|| format!("to {to}, which is gone: {}", context()))?)
            }
            Verdict::Drop(Reason::NoBackend) => None,
            Verdict::Drop(Reason::FlowTableFull) if self.room == Room::Scarce => {
                let base = self.real_base(lcore, flow, view);
                if says != Says::Syn || base.is_none_or(|base| view.definition.takes_new(base)) {
                    return Err(format!("refused, and the base is {base:?}: {}", context()));
                }
                // Where some of the eight that stand in its way are there, one at least is worth more.
                let is_dense = self.compiler.environment().flows == DENSE;
                let remembered = self.lcores[lcore].pipeline.remembered();
                if is_dense && remembered.flows(0..remembered.places()).all(|flow| flow.stage == Stage::Opening) {
                    return Err(format!("refused for nothing but what never got past its SYN: {}", context()));
                }
                None
            }
            _ => return Err(context()),
        };
        if self.room == Room::Plenty && !self.plans[flow.0].has_other_slots {
            self.compared += 1;
            let ought = self.rule.packet(view, flow, says, self.now);
            if went != ought {
                return Err(format!("goes to {went:?}, ought to {ought:?}: {}", context()));
            }
        }
        // What some lcores still send to a backend that is down is lost.
        if let Some(backend) = went.filter(|&backend| self.outages.contains(&(flow.0, backend))) {
            self.promise.went_to_the_lost(flow, backend, self.now);
            return Ok(());
        }
        let kept = self.promise.packet(view, self.plans[flow.0].idles, flow, says, went, self.now);
        kept.map_err(|what| format!("{what}: {}", context()))
    }

    /// Where a flow is that nobody remembers, as the snapshot has it.
    fn real_base(&self, lcore: usize, flow: Flow, view: &View) -> Option<Backend> {
        let snapshot = &self.lcores[lcore].snapshot;
        let of = snapshot.compiled_service(self.index(snapshot, flow.0));
        let hashes = self.hashes(snapshot, flow);
        let hash = |by| if by == By::Source { hashes[1] } else { hashes[0] };
        let slot = of.slot(hash(By::of(of.definition().hash)), hash);
        let member = slot.base.or(slot.now)?;
        self.life(flow.0, of.backend(member)?.address, &view.definition)
    }
}
