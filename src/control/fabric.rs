//! What the configuration says of the way out, and what the kernel knows, as one fabric.
//!
//! The configuration wins: an operator who wrote an entry down means it. Between routes the longest prefix wins,
//! whoever wrote it.

use crate::kernel::Facts;
use crate::snapshot::Fabric;

/// `fixed`, what the configuration says, and the kernel's `facts` in one.
pub fn merge(fixed: &Fabric, facts: &Facts) -> Fabric {
    let mut own: Vec<_> = fixed.own.iter().chain(&facts.addresses).copied().collect();
    own.sort_unstable();
    own.dedup();
    // Of two entries the last counts, so the configuration's come last.
    Fabric {
        ports: fixed.ports.clone(),
        own,
        neighbors: facts.neighbors.iter().chain(&fixed.neighbors).copied().collect(),
        routes: facts.routes.iter().chain(&fixed.routes).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::snapshot::{Neighbor, PortIndex, Route};
    use crate::wire::Mac;

    #[test]
    fn the_configuration_comes_after_the_kernel_so_that_it_wins() {
        let neighbor = |last| Neighbor {
            address: IpAddr::from([10, 0, 0, 254]),
            mac: Mac([2, 0, 0, 0, 0, last]),
            port: PortIndex(0),
            vlan: None,
        };
        let route = |last| Route { prefix: "0.0.0.0/0".parse().unwrap(), via: Some(IpAddr::from([10, 0, 0, last])) };
        let fixed = Fabric { neighbors: vec![neighbor(1)], routes: vec![route(1)], ..Fabric::default() };
        let facts = Facts { neighbors: vec![neighbor(2)], routes: vec![route(2)], ..Facts::default() };
        let fabric = merge(&fixed, &facts);
        assert_eq!((fabric.neighbors.last(), fabric.routes.last()), (Some(&neighbor(1)), Some(&route(1))));
    }

    #[test]
    fn an_address_that_both_know_stands_once() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let fixed = Fabric { own: vec![address(2), address(1)], ..Fabric::default() };
        let facts = Facts { addresses: vec![address(1), address(3)], ..Facts::default() };
        assert_eq!(merge(&fixed, &facts).own, [address(1), address(2), address(3)]);
    }
}
