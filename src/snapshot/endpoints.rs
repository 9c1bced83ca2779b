//! Backends that answer through the load balancer, found by the source of a reply.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::Millis;
use super::index::{self, Index};
use crate::mode::Reply;
use crate::service::{Backend, Ports, Protocol, Service};

/// What a backend sends its replies from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Served {
    address: IpAddr,
    ports: Ports,
    protocol: Protocol,
}

impl Served {
    fn new(service: &Service, backend: &Backend) -> Self {
        let ports = backend.port.map_or(service.ports, Ports::one);
        Self { address: backend.address, ports, protocol: service.protocol }
    }
}

/// The VIP that an endpoint serves, and its port, where it is one; then replies that keep their port.
pub type Vip = (IpAddr, Option<u16>);

#[derive(Debug)]
pub struct Endpoint {
    ports: Ports,
    pub reply: Reply,
    pub vip: Vip,
    /// When its replies stop being translated, where it left.
    pub until: Option<Millis>,
}

/// So many parts that changing one of them costs little, however many endpoints there are.
const PARTS: usize = 1024;

/// As lcores read them: by address in parts, of which snapshots share those that did not change between them.
#[derive(Debug, Clone)]
pub struct Endpoints(Box<[Arc<Part>]>);

#[derive(Debug)]
struct Part {
    /// Those of one port.
    exact: Index,
    /// By address and protocol, those of several ports: which of `several`.
    ranges: Index,
    /// All of their addresses.
    addresses: Index,
    several: Box<[Vec<u32>]>,
    endpoints: Box<[Endpoint]>,
}

impl Endpoints {
    /// Whether an endpoint has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0[part(address)].addresses.get(address, 0, 0).is_some()
    }

    pub fn get(&self, source: IpAddr, port: u16, protocol: u8) -> Option<&Endpoint> {
        let part = &self.0[part(source)];
        let number = part.exact.get(source, port, protocol).or_else(|| {
            let several = &part.several[part.ranges.get(source, 0, protocol)? as usize];
            several.iter().copied().find(|&number| part.endpoints[number as usize].ports.contains(port))
        })?;
        part.endpoints.get(number as usize)
    }
}

fn part(address: IpAddr) -> usize {
    index::scatter(address) as usize % PARTS
}

impl Part {
    fn new(entries: &HashMap<Served, State>) -> Self {
        let (mut exact, mut by_address, mut endpoints) = (Vec::new(), HashMap::<_, Vec<u32>>::new(), Vec::new());
        let mut addresses = HashSet::new();
        for ((served, &State { vip, until }), number) in entries.iter().zip(0..) {
            let &Served { address, ports, protocol } = served;
            addresses.insert(address);
            match ports.single() {
                Some(port) => exact.push(((address, port, protocol.number()), number)),
                None => by_address.entry((address, 0, protocol.number())).or_default().push(number),
            }
            let port = vip.1.and_then(|_| ports.single());
            let reply = Reply::new((address, port), vip);
            endpoints.push(Endpoint { ports, reply, vip, until });
        }
        let (keys, several): (Vec<_>, Vec<_>) = by_address.into_iter().unzip();
        Self {
            exact: Index::new(exact),
            ranges: Index::new(keys.into_iter().zip(0..)),
            addresses: Index::new(addresses.into_iter().map(|address| ((address, 0, 0), 0))),
            several: several.into(),
            endpoints: endpoints.into(),
        }
    }
}

/// What an endpoint's replies become, and until when, where it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    vip: Vip,
    until: Option<Millis>,
}

/// The endpoints, and those that left, on the control side.
#[derive(Debug)]
pub struct Register {
    parts: Box<[HashMap<Served, State>]>,
    /// When those that left are forgotten, in that order; some may have returned since.
    left: VecDeque<(Millis, Served)>,
    newest: Arc<Endpoints>,
}

impl Default for Register {
    fn default() -> Self {
        let nobody = Arc::new(Part::new(&HashMap::new()));
        Self {
            parts: (0..PARTS).map(|_| HashMap::new()).collect(),
            left: VecDeque::new(),
            newest: Arc::new(Endpoints((0..PARTS).map(|_| nobody.clone()).collect())),
        }
    }
}

impl Register {
    /// `new` services stand in the place of the `old` ones: whose endpoints left are translated until then. Those whose time is over `now`
    /// are forgotten. An endpoint is of one service at most.
    pub fn change(&mut self, old: &[Arc<Service>], new: &[Arc<Service>], until: Millis, now: Millis) {
        let (mut before, mut leaving) = (HashMap::new(), Vec::new());
        for (served, _) in old.iter().flat_map(|service| endpoints(service)) {
            let Some(state) = self.parts[part(served.address)].get_mut(&served) else { continue };
            before.entry(served).or_insert(Some(*state));
            if state.until.is_none() {
                state.until = Some(until);
                leaving.push(served);
            }
        }
        for (served, vip) in new.iter().flat_map(|service| endpoints(service)) {
            let was = self.parts[part(served.address)].insert(served, State { vip, until: None });
            before.entry(served).or_insert(was);
        }
        leaving
            .retain(|served| self.parts[part(served.address)].get(served).is_some_and(|state| state.until.is_some()));
        self.left.extend(leaving.into_iter().map(|served| (until, served)));
        while let Some((until, served)) = self.left.pop_front_if(|(until, _)| *until <= now) {
            let entries = &mut self.parts[part(served.address)];
            if let Some(&state) = entries.get(&served).filter(|state| state.until == Some(until)) {
                before.entry(served).or_insert(Some(state));
                entries.remove(&served);
            }
        }
        let differs =
            |(served, state): (&Served, &Option<State>)| self.parts[part(served.address)].get(served) != state.as_ref();
        let changed: HashSet<usize> = before
            .iter()
            .filter(|&(served, state)| differs((served, state)))
            .map(|(served, _)| part(served.address))
            .collect();
        if !changed.is_empty() {
            let newest = Arc::make_mut(&mut self.newest);
            changed.into_iter().for_each(|part| newest.0[part] = Arc::new(Part::new(&self.parts[part])));
        }
    }

    /// As they are now, for a snapshot.
    pub fn snapshot(&self) -> Arc<Endpoints> {
        self.newest.clone()
    }
}

/// The endpoints of a service, if its replies are known by them, and what these become.
fn endpoints(service: &Service) -> impl Iterator<Item = (Served, Vip)> {
    let vip = (service.vip.addr(), service.ports.single());
    let backends = if service.forwarding.nature().replies_by_endpoint { service.backends.as_slice() } else { &[] };
    backends.iter().map(move |backend| (Served::new(service, backend), vip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service;

    /// A service of `dnat` with these backends.
    fn service(backends: &[u8]) -> Arc<Service> {
        let backends: Vec<_> =
            backends.iter().map(|last| format!(r#"{{"address": "10.1.0.{last}", "port": 8080}}"#)).collect();
        let text = format!(
            r#"{{"services": [{{"name": "a", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "dnat", "backends": [{}]}}]}}"#,
            backends.join(", ")
        );
        service::native(text, "s", None).unwrap().0.services[0].clone()
    }

    fn until(register: &Register, last: u8) -> Option<Option<Millis>> {
        register.snapshot().get(IpAddr::from([10, 1, 0, last]), 8080, 6).map(|endpoint| endpoint.until)
    }

    #[test]
    fn who_left_is_known_for_a_while_and_then_forgotten() {
        let mut register = Register::default();
        let (both, one, none) = ([service(&[1, 2])], [service(&[1])], []);
        register.change(&none, &both, Millis(100), Millis(0));
        register.change(&both, &one, Millis(110), Millis(10));
        assert_eq!([1, 2, 3].map(|last| until(&register, last)), [Some(None), Some(Some(Millis(110))), None]);
        // It returns, and leaves again.
        register.change(&one, &both, Millis(120), Millis(20));
        assert_eq!(until(&register, 2), Some(None));
        register.change(&both, &one, Millis(130), Millis(30));
        register.change(&none, &none, Millis(210), Millis(110));
        assert_eq!(until(&register, 2), Some(Some(Millis(130))));
        let before = register.snapshot();
        register.change(&none, &none, Millis(230), Millis(130));
        assert_eq!([1, 2].map(|last| until(&register, last)), [Some(None), None]);
        let old = IpAddr::from([10, 1, 0, 2]);
        assert!(before.contains(old) && !register.snapshot().contains(old), "a snapshot does not see what came after");
    }

    #[test]
    fn what_stays_costs_nothing_however_often_all_is_looked_at() {
        let (mut register, all) = (Register::default(), [service(&[1, 2, 3])]);
        register.change(&[], &all, Millis(100), Millis(0));
        let before = register.snapshot();
        for now in 1..100 {
            register.change(&all, &all, Millis(100 + now), Millis(now));
        }
        assert!(register.left.is_empty() && Arc::ptr_eq(&before, &register.snapshot()));
    }
}
