//! Where `snat` takes source addresses and ports from, and which lcore has which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Table;
use crate::service::Ports;

/// Source addresses and ports, shared out among the lcores: each has its part of the ports of every address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Sorted.
    v4: Box<[Ipv4Addr]>,
    v6: Box<[Ipv6Addr]>,
    ports: Ports,
    lcores: u32,
}

impl Sources {
    /// At least as many ports as lcores.
    pub fn new(
        v4: impl IntoIterator<Item = Ipv4Addr>,
        v6: impl IntoIterator<Item = Ipv6Addr>,
        ports: Ports,
        lcores: usize,
    ) -> Self {
        let (mut v4, mut v6): (Vec<_>, Vec<_>) = (v4.into_iter().collect(), v6.into_iter().collect());
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self { v4: v4.into(), v6: v6.into(), ports, lcores: lcores.max(1) as u32 }
    }

    /// No addresses, so that nothing can be translated.
    pub fn none() -> Self {
        Self::new([], [], Ports::one(1), 1)
    }

    pub fn v4(&self) -> &[Ipv4Addr] {
        &self.v4
    }

    pub fn v6(&self) -> &[Ipv6Addr] {
        &self.v6
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub fn lcores(&self) -> usize {
        self.lcores as usize
    }

    /// Flows of one protocol that can be at once, over both families and all lcores.
    pub fn flows(&self) -> usize {
        (self.v4.len() + self.v6.len()) * self.ports.count()
    }

    /// Bytes that all lcores together keep of them.
    pub fn memory(&self) -> usize {
        const PROTOCOLS: usize = 2;
        let flows = self.v4.len() * Table::<[u8; 4]>::BYTES + self.v6.len() * Table::<[u8; 16]>::BYTES;
        PROTOCOLS * self.ports.count() * flows
    }

    /// The ports of one lcore.
    pub fn share(&self, lcore: usize) -> Ports {
        let start = |lcore: u32| {
            self.ports.first + (u64::from(self.count()) * u64::from(lcore) / u64::from(self.lcores)) as u16
        };
        let lcore = lcore as u32;
        let last = if lcore + 1 == self.lcores { self.ports.last } else { start(lcore + 1) - 1 };
        Ports { first: start(lcore), last }
    }

    /// Whether any source has this address.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.binary_search(&v4).is_ok(),
            IpAddr::V6(v6) => self.v6.binary_search(&v6).is_ok(),
        }
    }

    /// The lcore that has this source, if it is one.
    #[inline]
    pub fn owner(&self, address: IpAddr, port: u16) -> Option<usize> {
        if !self.ports.contains(port) || !self.contains(address) {
            return None;
        }
        // The last lcore whose share starts at or before it.
        let place = u64::from(port - self.ports.first);
        Some((((place + 1) * u64::from(self.lcores) - 1) / u64::from(self.count())) as usize)
    }

    /// Whether any of them is among these addresses and ports.
    pub fn meet(&self, addresses: IpNet, ports: Ports) -> bool {
        let v4 = self.v4.iter().map(|&address| IpAddr::V4(address));
        let mut all = v4.chain(self.v6.iter().map(|&address| IpAddr::V6(address)));
        self.ports.overlaps(ports) && all.any(|address| addresses.contains(&address))
    }

    fn count(&self) -> u32 {
        self.ports.count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_one_lcores() {
        let address = Ipv4Addr::new(10, 0, 0, 1);
        for (first, last) in [(1, 65535), (1024, 32767), (1024, 1030), (65000, 65535)] {
            for lcores in [1, 2, 3, 5, 7] {
                let sources = Sources::new([address], [], Ports { first, last }, lcores);
                let mut next = u32::from(first);
                for lcore in 0..lcores {
                    let share = sources.share(lcore);
                    assert_eq!(u32::from(share.first), next, "{first}-{last} over {lcores}");
                    for port in [share.first, share.last] {
                        assert_eq!(
                            sources.owner(address.into(), port),
                            Some(lcore),
                            "{port} of {first}-{last} over {lcores}"
                        );
                    }
                    next = u32::from(share.last) + 1;
                }
                assert_eq!(next, u32::from(last) + 1);
            }
        }
    }

    #[test]
    fn other_addresses_and_ports_are_nobodys() {
        let sources = Sources::new(
            [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)],
            [],
            Ports { first: 1024, last: 2047 },
            2,
        );
        let owner = |address: &str, port| sources.owner(address.parse().unwrap(), port);
        assert_eq!((owner("10.0.0.1", 1024), owner("10.0.0.2", 2047)), (Some(0), Some(1)));
        assert_eq!((owner("10.0.0.3", 1024), owner("fd00::1", 1024)), (None, None));
        assert_eq!((owner("10.0.0.1", 1023), owner("10.0.0.1", 2048)), (None, None));
        assert!(Sources::none().is_empty());
    }
}
