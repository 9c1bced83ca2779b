//! The way to any address: neighbours and routes in one longest-prefix table.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::prefixes::Prefixes;
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

#[derive(Debug)]
pub struct Routes {
    ways: Prefixes<Way>,
    neighbors: HashMap<IpAddr, NextHop>,
}

impl Routes {
    pub fn new(fabric: &Fabric) -> Self {
        let mut neighbors: HashMap<IpAddr, NextHop> = HashMap::new();
        for neighbor in &fabric.neighbors {
            if let Some(port) = fabric.ports.get(usize::from(neighbor.port.0)) {
                let hop = NextHop {
                    source: port.mac,
                    destination: neighbor.mac,
                    port: neighbor.port,
                    mtu: port.mtu,
                    vlan: neighbor.vlan,
                };
                neighbors.insert(neighbor.address, hop);
            }
        }
        let routes = fabric.routes.iter().map(|route| {
            let way = match route.via {
                Some(via) => neighbors.get(&via).map_or(Way::Ask(via), |&hop| Way::Hop(hop)),
                None => Way::OnLink,
            };
            (route.prefix.trunc(), way)
        });
        let stations = neighbors.iter().map(|(&address, &hop)| (IpNet::from(address), Way::Hop(hop)));
        let ways = Prefixes::new(routes.chain(stations));
        Self { ways, neighbors }
    }

    #[inline]
    pub fn way(&self, to: IpAddr) -> Way {
        self.ways.get(to).copied().unwrap_or(Way::None)
    }

    #[inline]
    pub fn next_hop(&self, to: IpAddr) -> Option<&NextHop> {
        match self.ways.get(to) {
            Some(Way::Hop(hop)) => Some(hop),
            _ => None,
        }
    }

    /// Whether the address has a neighbour entry of its own.
    pub fn is_neighbor(&self, address: IpAddr) -> bool {
        self.neighbors.contains_key(&address)
    }

    /// Gateways whose MAC address is not known.
    pub fn unresolved_gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.ways.values().filter_map(|way| match way {
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fabric() -> Fabric {
        let route = |prefix: &str, via: Option<&str>| Route { prefix: prefix.parse().unwrap(), via: via.map(ip) };
        let neighbor = |address, last| Neighbor {
            address: ip(address),
            mac: Mac([2, 0, 0, 0, 0, last]),
            port: PortIndex(0),
            vlan: None,
        };
        Fabric {
            ports: vec![Port { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, promiscuous: false }],
            own: vec![],
            neighbors: vec![neighbor("10.0.0.254", 0xfe), neighbor("10.0.0.7", 7), neighbor("fd00::fe", 0xfd)],
            routes: vec![
                route("0.0.0.0/0", Some("10.0.0.254")),
                route("10.0.0.0/24", None),
                route("10.9.0.0/16", Some("10.0.0.9")),
                route("2001:db8::/32", Some("fd00::fe")),
            ],
        }
    }

    #[test]
    fn the_own_neighbour_entry_then_the_longest_route() {
        let routes = Routes::new(&fabric());
        let mac = |to: &str| routes.next_hop(ip(to)).map(|hop| hop.destination.0[5]);
        assert_eq!(mac("198.51.100.1"), Some(0xfe));
        assert_eq!(mac("255.255.255.255"), Some(0xfe));
        assert_eq!(mac("10.0.0.7"), Some(7));
        assert_eq!(mac("10.0.0.8"), None);
        assert_eq!(mac("2001:db8::1"), Some(0xfd));
        assert_eq!(routes.way(ip("10.0.0.8")), Way::OnLink);
        assert_eq!(routes.way(ip("10.9.1.1")), Way::Ask(ip("10.0.0.9")));
        assert_eq!(routes.way(ip("2001:db9::1")), Way::None);
        assert_eq!(routes.unresolved_gateways().collect::<Vec<_>>(), [ip("10.0.0.9")]);
    }

    #[test]
    fn without_any_route_there_is_no_way() {
        let routes = Routes::new(&Fabric { routes: vec![], ..fabric() });
        assert_eq!(routes.way(ip("10.0.0.8")), Way::None);
    }
}
