//! Backends that answer through the load balancer, found by the source of a reply.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::Millis;
use super::index::Index;
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
    pub fn new(service: &Service, backend: &Backend) -> Self {
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

#[derive(Debug)]
pub struct Endpoints {
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
    pub fn new(entries: impl Iterator<Item = (Served, Vip, Option<Millis>)>) -> Self {
        let (mut exact, mut by_address, mut endpoints) = (Vec::new(), HashMap::<_, Vec<u32>>::new(), Vec::new());
        let mut addresses = HashSet::new();
        for ((served, vip, until), number) in entries.zip(0..) {
            let Served { address, ports, protocol } = served;
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

    /// Whether an endpoint has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.get(address, 0, 0).is_some()
    }

    pub fn get(&self, source: IpAddr, port: u16, protocol: u8) -> Option<&Endpoint> {
        let number = self.exact.get(source, port, protocol).or_else(|| {
            let several = &self.several[self.ranges.get(source, 0, protocol)? as usize];
            several.iter().copied().find(|&number| self.endpoints[number as usize].ports.contains(port))
        })?;
        self.endpoints.get(number as usize)
    }
}
