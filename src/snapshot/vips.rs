//! Which service a packet is for. The longest prefix that its destination is in counts; of that VIP's services first the one on
//! exactly its port, then the one on a range around it, then the one on all ports. There is no falling back to a shorter prefix.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::compile::Key;
use super::index::Index;
use super::prefixes::Prefixes;
use super::{Found, ServiceIndex};
use crate::service::{Ports, Protocol};

/// VIPs and their services.
#[derive(Debug)]
pub struct Vips {
    /// Services on one port of one address: as [`Found::to_bits`].
    exact: Index,
    /// VIPs of one address.
    single: Index,
    /// VIPs that are prefixes.
    prefixes: Prefixes<u32>,
    vips: Box<[Vip]>,
}

/// The services of one VIP.
#[derive(Debug, Default)]
struct Vip {
    tcp: Services,
    udp: Services,
}

/// Of one VIP and protocol, by port: disjoint intervals, each with its service.
#[derive(Debug, Default)]
struct Services {
    /// First port of each interval, and its service; without any entry there is no service.
    intervals: Vec<(u16, Option<Found>)>,
    /// The service, where one has all ports and no other has any.
    all: Option<ServiceIndex>,
}

impl Services {
    fn new(mut entries: Vec<(Ports, Found)>) -> Self {
        let all = match entries.as_slice() {
            [(Ports::ALL, found)] => Some(found.service),
            _ => None,
        };
        // The narrowest last, which is laid over the others.
        entries.sort_by_key(|(ports, _)| std::cmp::Reverse(ports.last - ports.first));
        let mut intervals: Vec<(u16, Option<Found>)> = vec![(0, None)];
        for (ports, found) in entries {
            let at =
                |intervals: &[(u16, Option<Found>)], port| intervals.partition_point(|&(start, _)| start <= port) - 1;
            let (from, to) = (at(&intervals, ports.first), at(&intervals, ports.last));
            let (before, after) = (intervals[from], intervals[to].1);
            let mut laid = Vec::new();
            if before.0 < ports.first {
                laid.push(before);
            }
            laid.push((ports.first, Some(found)));
            let end = intervals.get(to + 1).map_or(u32::from(u16::MAX) + 1, |next| u32::from(next.0));
            if u32::from(ports.last) + 1 < end {
                laid.push((ports.last + 1, after));
            }
            intervals.splice(from..=to, laid);
        }
        Self { intervals, all }
    }

    fn get(&self, port: u16) -> Option<Found> {
        let behind = self.intervals.partition_point(|&(start, _)| start <= port);
        self.intervals.get(behind.checked_sub(1)?)?.1
    }
}

impl Vips {
    /// Of services with their numbers, and whether they need nothing but their table.
    pub fn new(services: impl Iterator<Item = (Key, ServiceIndex, bool)>) -> Self {
        let mut by_vip: HashMap<IpNet, [Vec<(Ports, Found)>; 2]> = HashMap::new();
        let mut exact = Vec::new();
        for (Key { vip, ports, protocol }, service, is_plain) in services {
            let found = Found { service, is_plain };
            let lists = by_vip.entry(vip).or_default();
            lists[usize::from(protocol == Protocol::Udp)].push((ports, found));
            if let (true, Some(port)) = (is_single(vip), ports.single()) {
                exact.push(((vip.addr(), port, protocol.number()), found.to_bits()));
            }
        }
        let (mut single, mut prefixes, mut vips) = (Vec::new(), Vec::new(), Vec::new());
        for ((vip, [tcp, udp]), number) in by_vip.into_iter().zip(0..) {
            if is_single(vip) {
                single.push(((vip.addr(), 0, 0), number));
            } else {
                prefixes.push((vip, number));
            }
            vips.push(Vip { tcp: Services::new(tcp), udp: Services::new(udp) });
        }
        Self {
            exact: Index::new(exact),
            single: Index::new(single),
            prefixes: Prefixes::new(prefixes),
            vips: vips.into(),
        }
    }

    /// The service on exactly this address and port; there may be others for them.
    #[inline(always)]
    pub fn exact_v4(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<Found> {
        self.exact.get_v4(address, port, protocol).map(Found::from_bits)
    }

    pub fn service(&self, address: IpAddr, port: u16, protocol: u8) -> Option<Found> {
        if let Some(found) = self.exact.get(address, port, protocol) {
            return Some(Found::from_bits(found));
        }
        self.services(address, protocol)?.get(port)
    }

    /// The service of whatever port, where it is one for all of them.
    pub fn service_of_all_ports(&self, address: IpAddr, protocol: u8) -> Option<ServiceIndex> {
        self.services(address, protocol)?.all
    }

    #[inline(always)]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.single.get_v4(address, 0, 0).is_some()
            || (!self.prefixes.is_empty() && self.prefixes.get(address.into()).is_some())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.vip(address).is_some()
    }

    fn vip(&self, address: IpAddr) -> Option<&Vip> {
        let number = self.single.get(address, 0, 0).or_else(|| self.prefixes.get(address).copied())?;
        self.vips.get(number as usize)
    }

    fn services(&self, address: IpAddr, protocol: u8) -> Option<&Services> {
        let vip = self.vip(address)?;
        match protocol {
            _ if protocol == Protocol::Tcp.number() => Some(&vip.tcp),
            _ if protocol == Protocol::Udp.number() => Some(&vip.udp),
            _ => None,
        }
    }
}

fn is_single(vip: IpNet) -> bool {
    vip.prefix_len() == vip.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(service: u32) -> Found {
        Found { service: ServiceIndex(service), is_plain: true }
    }

    proptest! {
        #[test]
        fn the_exact_port_then_the_range_then_all(
            exact in proptest::collection::btree_set(0u16..40, 0..6), cuts in proptest::collection::btree_set(1u16..40, 0..8),
            has_all: bool, last: bool,
        ) {
            let mut entries: Vec<(Ports, Found)> = Vec::new();
            let top = |port: u16| if last { u16::MAX - port } else { port };
            for &port in &exact { entries.push((Ports { first: top(port), last: top(port) }, found(u32::from(port)))); }
            let cuts: Vec<u16> = cuts.into_iter().collect();
            for pair in cuts.chunks_exact(2) {
                let (one, other) = (top(pair[0]), top(pair[1]));
                entries.push((Ports { first: one.min(other), last: one.max(other) }, found(100 + u32::from(pair[0]))));
            }
            if has_all { entries.push((Ports::ALL, found(1000))); }
            let obvious = |port: u16| {
                let covering = entries.iter().filter(|(ports, _)| (ports.first..=ports.last).contains(&port));
                covering.min_by_key(|(ports, _)| ports.last - ports.first).map(|(_, found)| *found)
            };
            let services = Services::new(entries.clone());
            for port in (0..50).chain(u16::MAX - 50..=u16::MAX) {
                prop_assert_eq!(services.get(port), obvious(port), "{}", port);
            }
            prop_assert_eq!(services.all.is_some(), has_all && entries.len() == 1);
        }
    }
}
