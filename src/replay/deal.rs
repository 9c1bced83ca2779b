//! Which lcore a frame is for, as a NIC's receive-side scaling would deal it: TCP and UDP by addresses and ports, all else
//! (fragments, ICMP, other protocols) by addresses alone.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{Ipv4, protocol};

/// The lcore, of `lcores`, that receives `frame`.
pub fn lcore(frame: &[u8], lcores: usize) -> usize {
    if lcores == 1 {
        return 0;
    }
    let Some(link) = Ethernet::of(frame) else { return 0 };
    let bytes = &frame[ethernet::HEADER..];
    let ip = match Ipv4::of(bytes) {
        Some(ip) if link.ether_type() == ethernet::IPV4 => ip,
        _ => return 0,
    };
    let has_ports = matches!(ip.protocol(), protocol::TCP | protocol::UDP) && !ip.is_fragment();
    let ports = ip.lengths(bytes.len()).ok().and_then(|lengths| bytes[lengths.header..].first_chunk::<4>());
    let mut hasher = DefaultHasher::new();
    (ip.source(), ip.destination(), ports.filter(|_| has_ports)).hash(&mut hasher);
    (hasher.finish() % lcores as u64) as usize
}
