//! The configuration as the snapshot's compiler takes it.

use super::Config;
use crate::flow::Sources;
use crate::snapshot::{self, Environment, Fabric, Limit, PortIndex};
use crate::wire::Mac;

/// MAC address of a port that names none, where there is no device to ask.
pub const REPLAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

impl Config {
    /// What does not change while a node runs.
    pub fn environment(&self) -> Environment {
        self.environment_of(self.dpdk.lcores.len())
    }

    /// The same, with so many lcores.
    pub fn environment_of(&self, lcores: usize) -> Environment {
        Environment {
            seed: self.hash.seed,
            table_size: self.hash.table_size,
            encap: self.encap,
            icmp_errors: Limit { per_second: self.icmp.errors_per_second, burst: self.icmp.burst },
            hold: self.fragments.hold,
            drain_timeout: self.flows.drain_timeout,
            lcores,
            sources: self.sources(lcores).into(),
            flows: self.flows.capacity as usize,
        }
    }

    /// What `snat` takes sources from, shared out among so many lcores.
    fn sources(&self, lcores: usize) -> Sources {
        Sources::new(self.snat.ipv4.iter().copied(), self.snat.ipv6.iter().copied(), self.snat.ports, lcores)
    }

    /// Ports, own addresses and static next hops, for a node without devices.
    pub fn fabric(&self) -> Fabric {
        self.fabric_on(|_| REPLAY_MAC)
    }

    /// The same, with the MAC addresses of the devices for ports that name none.
    pub fn fabric_on(&self, device_mac: impl Fn(usize) -> Mac) -> Fabric {
        let port = |(index, port): (usize, &super::Port)| snapshot::Port {
            mac: port.mac.unwrap_or_else(|| device_mac(index)),
            mtu: port.mtu,
            promiscuous: port.promiscuous,
        };
        let neighbor = |neighbor: &super::Neighbor| snapshot::Neighbor {
            address: neighbor.address,
            mac: neighbor.mac,
            // The reader takes at most `MOST_PORTS` ports.
            port: PortIndex(u8::try_from(neighbor.port).expect("at most 250 ports")),
            vlan: neighbor.vlan,
        };
        Fabric {
            ports: self.ports.iter().enumerate().map(port).collect(),
            own: self.ports.iter().flat_map(|port| port.addresses.iter().copied()).collect(),
            neighbors: self.neighbors.iter().map(neighbor).collect(),
            routes: self
                .routes
                .iter()
                .map(|route| snapshot::Route { prefix: route.prefix, via: Some(route.via) })
                .collect(),
        }
    }
}
