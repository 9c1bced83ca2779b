//! The way to any IPv4 address: neighbours and routes in one longest-prefix table.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Fabric, NextHop};

/// How an address is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Hop(NextHop),
    /// By this gateway, whose MAC address is not known.
    Ask(IpAddr),
    /// On a connected network; its own MAC address is not known.
    OnLink,
    None,
}

/// Prefixes flattened to disjoint intervals; a lookup is a binary search.
#[derive(Debug)]
pub struct Routes {
    /// First address of each interval; the first is 0.
    starts: Box<[u32]>,
    /// The way of each interval, an index into `ways`.
    which: Box<[u32]>,
    ways: Box<[Way]>,
}

impl Routes {
    pub fn new(fabric: &Fabric) -> Self {
        let mut neighbors: HashMap<IpAddr, NextHop> = HashMap::new();
        for neighbor in &fabric.neighbors {
            if let Some(port) = fabric.ports.get(usize::from(neighbor.port.0)) {
                let hop = NextHop { source: port.mac, destination: neighbor.mac, port: neighbor.port, mtu: port.mtu };
                neighbors.insert(neighbor.address, hop);
            }
        }
        let mut prefixes: HashMap<Ipv4Net, Way> = HashMap::new();
        for route in &fabric.routes {
            if let IpNet::V4(prefix) = route.prefix {
                let way = match route.via {
                    Some(via) => neighbors.get(&via).map_or(Way::Ask(via), |&hop| Way::Hop(hop)),
                    None => Way::OnLink,
                };
                prefixes.insert(prefix.trunc(), way);
            }
        }
        for (&address, &hop) in &neighbors {
            if let IpAddr::V4(address) = address {
                prefixes.insert(address.into(), Way::Hop(hop));
            }
        }
        Self::flatten(prefixes.into_iter().collect())
    }

    fn flatten(mut prefixes: Vec<(Ipv4Net, Way)>) -> Self {
        prefixes.sort_unstable_by_key(|(prefix, _)| (prefix.network(), prefix.prefix_len()));
        let mut intervals: Vec<(u32, u32)> = vec![(0, 0)];
        let mut begin = |start: u32, way: u32| match intervals.last_mut() {
            Some(last) if last.0 == start => last.1 = way,
            _ => intervals.push((start, way)),
        };
        // The prefixes that the sweep is inside of: last address and way of each, innermost last.
        let mut inside: Vec<(u32, u32)> = Vec::new();
        let mut ways = vec![Way::None];
        let leave = |inside: &mut Vec<(u32, u32)>, until: Option<u32>, begin: &mut dyn FnMut(u32, u32)| {
            while let Some(&(last, _)) = inside.last()
                && until.is_none_or(|until| last < until)
            {
                inside.pop();
                if let Some(next) = last.checked_add(1) {
                    begin(next, inside.last().map_or(0, |&(_, way)| way));
                }
            }
        };
        for (prefix, way) in prefixes {
            let (first, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
            leave(&mut inside, Some(first), &mut begin);
            let index = ways.len() as u32;
            ways.push(way);
            begin(first, index);
            inside.push((last, index));
        }
        leave(&mut inside, None, &mut begin);
        let (starts, which): (Vec<_>, Vec<_>) = intervals.into_iter().unzip();
        Self { starts: starts.into(), which: which.into(), ways: ways.into() }
    }

    #[inline]
    pub fn way(&self, to: Ipv4Addr) -> &Way {
        // The first interval begins at 0, so there is always one at or before the address.
        let behind = self.starts.partition_point(|&start| start <= to.to_bits());
        &self.ways[self.which[behind - 1] as usize]
    }

    /// Gateways whose MAC address is not known.
    pub fn unresolved_gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.ways.iter().filter_map(|way| match way {
            Way::Ask(gateway) => Some(*gateway),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Neighbor, Port, PortIndex, Route};
    use super::*;
    use crate::wire::Mac;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fabric() -> Fabric {
        let route = |prefix: &str, via: Option<&str>| Route { prefix: prefix.parse().unwrap(), via: via.map(ip) };
        let neighbor =
            |address, last| Neighbor { address: ip(address), mac: Mac([2, 0, 0, 0, 0, last]), port: PortIndex(0) };
        Fabric {
            ports: vec![Port { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, promiscuous: false }],
            own: vec![],
            neighbors: vec![neighbor("10.0.0.254", 0xfe), neighbor("10.0.0.7", 7)],
            routes: vec![
                route("0.0.0.0/0", Some("10.0.0.254")),
                route("10.0.0.0/24", None),
                route("10.9.0.0/16", Some("10.0.0.9")),
            ],
        }
    }

    #[test]
    fn the_own_neighbour_entry_then_the_longest_route() {
        let routes = Routes::new(&fabric());
        let mac = |to: &str| match routes.way(to.parse().unwrap()) {
            Way::Hop(hop) => Some(hop.destination.0[5]),
            _ => None,
        };
        assert_eq!(mac("198.51.100.1"), Some(0xfe));
        assert_eq!(mac("255.255.255.255"), Some(0xfe));
        assert_eq!(mac("10.0.0.7"), Some(7));
        assert_eq!(mac("10.0.0.8"), None);
        assert_eq!(*routes.way("10.0.0.8".parse().unwrap()), Way::OnLink);
        assert_eq!(*routes.way("10.9.1.1".parse().unwrap()), Way::Ask(ip("10.0.0.9")));
        assert_eq!(routes.unresolved_gateways().collect::<Vec<_>>(), [ip("10.0.0.9")]);
    }

    #[test]
    fn without_any_route_there_is_no_way() {
        let routes = Routes::new(&Fabric { routes: vec![], ..fabric() });
        assert_eq!(*routes.way(Ipv4Addr::new(10, 0, 0, 8)), Way::None);
    }

    proptest! {
        #[test]
        fn a_lookup_is_the_longest_prefix(nets in proptest::collection::vec((any::<u8>(), 0u8..=32), 0..40), probes: [u32; 8]) {
            // Addresses from a small set, so that prefixes nest.
            let nets: HashMap<Ipv4Net, Way> = nets.iter().zip(0u32..).map(|(&(bits, length), k)| {
                let net = Ipv4Net::new(Ipv4Addr::from_bits(u32::from(bits) << 24 | u32::from(bits >> 4)), length).unwrap().trunc();
                (net, Way::Ask(Ipv4Addr::from_bits(k).into()))
            }).collect();
            let routes = Routes::flatten(nets.clone().into_iter().collect());
            let edges = nets.keys().flat_map(|net| [net.network().to_bits(), net.broadcast().to_bits()]);
            for bits in edges.flat_map(|edge| [edge, edge.wrapping_add(1), edge.wrapping_sub(1)]).chain(probes) {
                let to = Ipv4Addr::from_bits(bits);
                let longest = nets.iter().filter(|(net, _)| net.contains(&to)).max_by_key(|(net, _)| net.prefix_len());
                prop_assert_eq!(*routes.way(to), longest.map_or(Way::None, |(_, way)| *way), "{}", to);
            }
        }
    }
}
