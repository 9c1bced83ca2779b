//! Which lcore a frame is for, as a NIC's receive-side scaling would deal it: TCP and UDP by addresses and ports, all else
//! (fragments, ICMP, other protocols) by addresses alone.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::wire::ethernet::{self, Link};
use crate::wire::ipv4::{Ipv4, protocol};
use crate::wire::ipv6::{self, Ipv6};

/// The lcore, of `lcores`, that receives `frame`.
pub fn lcore(frame: &[u8], lcores: usize) -> usize {
    if lcores == 1 {
        return 0;
    }
    let Some(dealt) = dealt(frame) else { return 0 };
    let mut hasher = DefaultHasher::new();
    dealt.hash(&mut hasher);
    (hasher.finish() % lcores as u64) as usize
}

/// What a frame is dealt by.
fn dealt(frame: &[u8]) -> Option<(IpAddr, IpAddr, Option<[u8; 4]>)> {
    let link = Link::of(frame)?;
    let bytes = &frame[link.length..];
    let (source, destination, number, header) = match link.ether_type {
        ethernet::IPV4 => {
            let ip = Ipv4::of(bytes)?;
            let header = ip.lengths(bytes.len()).ok().filter(|_| !ip.is_fragment()).map(|lengths| lengths.header);
            (ip.source().into(), ip.destination().into(), ip.protocol(), header)
        }
        ethernet::IPV6 => {
            let ip = Ipv6::of(bytes)?;
            let upper = ip.total(bytes.len()).and_then(|total| ipv6::upper(&bytes[..total])).ok();
            let number = upper.map_or(ip.next_header(), |upper| upper.protocol);
            let header = upper.filter(|upper| upper.fragment.is_none()).map(|upper| upper.offset);
            (IpAddr::from(ip.source()), IpAddr::from(ip.destination()), number, header)
        }
        _ => return None,
    };
    let ports = header.filter(|_| matches!(number, protocol::TCP | protocol::UDP));
    Some((source, destination, ports.and_then(|header| bytes.get(header..)?.first_chunk().copied())))
}
