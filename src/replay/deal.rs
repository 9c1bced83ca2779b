//! Which lcore a frame is for, as a NIC's receive-side scaling would deal it: TCP and UDP by addresses and ports, all else
//! (fragments, ICMP, other protocols) by addresses alone.

use std::net::IpAddr;

use crate::flow::Dealing;
use crate::wire::be16;
use crate::wire::ethernet::{self, Link};
use crate::wire::ipv4::{Ipv4, protocol};
use crate::wire::ipv6::{self, Ipv6};

/// Entries of the table, as many NICs have them.
pub const ENTRIES: u16 = 128;

/// What a NIC looks at.
pub struct Dealt {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Of TCP and UDP that is no fragment.
    ports: Option<(u16, u16)>,
}

impl Dealt {
    /// `None`: not IP.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let link = Link::of(frame)?;
        let bytes = &frame[link.length..];
        let (source, destination, protocol, header) = match link.ether_type {
            ethernet::IPV4 => {
                let ip = Ipv4::of(bytes)?;
                let header = ip.lengths(bytes.len()).ok().filter(|_| !ip.is_fragment()).map(|lengths| lengths.header);
                (ip.source().into(), ip.destination().into(), ip.protocol(), header)
            }
            ethernet::IPV6 => {
                let ip = Ipv6::of(bytes)?;
                let upper = ip.total(bytes.len()).and_then(|total| ipv6::upper(&bytes[..total])).ok();
                let protocol = upper.map_or(ip.next_header(), |upper| upper.protocol);
                let header = upper.filter(|upper| upper.fragment.is_none()).map(|upper| upper.offset);
                (IpAddr::from(ip.source()), IpAddr::from(ip.destination()), protocol, header)
            }
            _ => return None,
        };
        let ports = header.filter(|_| matches!(protocol, protocol::TCP | protocol::UDP));
        let ports = ports.and_then(|header| bytes.get(header..)?.first_chunk::<4>());
        let ports = ports.map(|ports| (be16(ports, 0), be16(ports, 2)));
        Some(Self { source, destination, protocol, ports })
    }

    /// The lcore that receives it.
    pub fn lcore(&self, dealing: &Dealing) -> usize {
        dealing.lcore(self.source, self.destination, self.ports)
    }

    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }
}
