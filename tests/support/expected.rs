//! What the contract says a packet becomes, built from scratch: outer headers, options; and packets to try it on.

use std::net::IpAddr;

use penstock::maglev::SelectionHash;
use proptest::prelude::*;

use super::internet_checksum;
use super::packets::*;

/// Any packet of a client to the VIP of a family.
pub fn client(family: usize) -> impl Strategy<Value = Packet> {
    let address = any::<u16>().prop_map(move |low| match family {
        0 => IpAddr::from([198, 51, (low >> 8) as u8, low as u8]),
        _ => IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, low]),
    });
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let rest = (any::<u8>(), 2u8.., any::<u16>(), proptest::collection::vec(any::<u8>(), 0..300), 0usize..=4);
    (address, any::<u16>(), flags, rest).prop_map(
        move |(address, port, (udp, df, summed), (tos, ttl, id, payload, options))| {
            let to = (ip(VIP[family]), if udp { 53 } else { 80 });
            Packet { from: (address, port), to, udp, tos, ttl, id, df, payload, summed: summed || family == 1, options }
        },
    )
}

/// What may come around it: tags, and bytes of padding.
pub fn link() -> impl Strategy<Value = (Vec<u16>, usize)> {
    (proptest::collection::vec(any::<u16>(), 0..=2), 0usize..20)
}

/// How much of a quoted packet is kept: at least its headers and eight bytes. Never half a checksum, of which nothing is promised.
pub fn kept(family: usize, packet: &Packet, more: usize) -> usize {
    [20 + 4 * packet.options, 40 + 8 * packet.options][family] + 8 + more / 2 * 2
}

/// All pairs of families.
pub fn pairs() -> impl Iterator<Item = (usize, usize)> {
    [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter()
}

/// The hash of the client's address and port.
pub fn hash(packet: &Packet) -> u64 {
    SelectionHash::new(std::array::from_fn(|k| k as u8)).end(packet.from.0, packet.from.1)
}

/// A mode that wraps packets, with what its service says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    Ipip,
    Gre,
    Gue { variant: u8, port: u16, has_checksum: bool },
    Geneve { own_port: bool, has_checksum: bool },
}

impl Tunnel {
    pub const ALL: &[Self] = &[
        Self::Ipip,
        Self::Gre,
        Self::Gue { variant: 0, port: 6080, has_checksum: false },
        Self::Gue { variant: 0, port: 7777, has_checksum: true },
        Self::Gue { variant: 1, port: 9886, has_checksum: false },
        Self::Gue { variant: 1, port: 9886, has_checksum: true },
        Self::Geneve { own_port: false, has_checksum: false },
        Self::Geneve { own_port: true, has_checksum: false },
        Self::Geneve { own_port: true, has_checksum: true },
    ];

    /// A service from a VIP to a backend, each of a family.
    pub fn service(self, vip: usize, backend: usize) -> String {
        let summed = |has_checksum| if has_checksum { r#""udp_checksum": true,"# } else { "" };
        let (mode, more) = match self {
            Self::Ipip => ("ipip", String::new()),
            Self::Gre => ("gre", String::new()),
            Self::Gue { variant, port, has_checksum } => {
                // The ports that need not be said are not.
                let port = if port == 7777 { ", \"port\": 7777" } else { "" };
                ("gue", format!(r#""gue": {{"variant": {variant}{port}}}, {}"#, summed(has_checksum)))
            }
            Self::Geneve { has_checksum, .. } => ("geneve", summed(has_checksum).into()),
        };
        let backend = match self {
            Self::Geneve { own_port, .. } => {
                let port = if own_port { "\"port\": 8080, " } else { "" };
                format!(r#""address": "{}", {port}"tunnel_endpoint": "{}""#, POD[vip], BACKEND[backend])
            }
            _ => format!(r#""address": "{}""#, BACKEND[backend]),
        };
        format!(r#""vip": "{}", "forwarding": "{mode}", {more} "backends": [{{{backend}}}]"#, VIP[vip])
    }

    /// Whom a packet to the VIP is for, inside.
    pub fn inner(self, vip: (IpAddr, u16)) -> (IpAddr, u16) {
        match self {
            Self::Geneve { own_port, .. } => {
                (ip(POD[usize::from(vip.0.is_ipv6())]), if own_port { 8080 } else { vip.1 })
            }
            _ => vip,
        }
    }

    /// The packet around `inner`, which is one of `flow`'s, or about one; ToS and DF are `flow`'s.
    pub fn around(self, inner: &[u8], flow: &Packet, backend: usize) -> Vec<u8> {
        let number = if inner[0] >> 4 == 4 { 4 } else { 41 };
        let udp = |port: u16, has_checksum: bool, between: &[u8]| {
            let source = 0xc000 | hash(flow) as u16 & 0x3fff;
            let length = (8 + between.len() + inner.len()) as u16;
            let header: Vec<u8> = [source, port, length, 0].into_iter().flat_map(u16::to_be_bytes).collect();
            let mut datagram = [&header, between, inner].concat();
            if has_checksum {
                let sum = match upper_sum(ip(SOURCE[backend]), ip(BACKEND[backend]), 17, &datagram) {
                    0 => 0xffff,
                    sum => sum,
                };
                datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            outer(flow, backend, 17, &datagram)
        };
        match self {
            Self::Ipip => outer(flow, backend, number, inner),
            Self::Gre => outer(flow, backend, 47, &[&[0, 0], &ether_type(inner), inner].concat()),
            Self::Gue { variant: 0, port, has_checksum } => udp(port, has_checksum, &[0, number, 0, 0]),
            Self::Gue { port, has_checksum, .. } => udp(port, has_checksum, &[]),
            Self::Geneve { has_checksum, .. } => {
                let data = [&octets(flow.to.0)[..], &flow.to.1.to_be_bytes(), &[0, 0]].concat();
                let words = data.len() as u8 / 4;
                let header = [1 + words, 0x40, 0x65, 0x58, 0, 0, 2, 0, 0x01, 0x4b, 0x81, words];
                let ethernet = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
                udp(6081, has_checksum, &[&header[..], &data, &ethernet, &ether_type(inner)].concat())
            }
        }
    }
}

/// What a Cilium node has behind it, of each family.
const POD: [&str; 2] = ["10.9.0.7", "fd00:9::7"];

/// An outer header as the contract has it.
fn outer(packet: &Packet, backend: usize, number: u8, behind: &[u8]) -> Vec<u8> {
    let is_v4 = packet.from.0.is_ipv4();
    let header = Header { tos: packet.tos, df: packet.df || !is_v4, ..Header::OUTER };
    let mut bytes = header.before(ip(SOURCE[backend]), ip(BACKEND[backend]), number, behind);
    if backend == 1 {
        let first = 6 << 28 | u32::from(packet.tos) << 20 | hash(packet) as u32 & 0xf_ffff;
        bytes[..4].copy_from_slice(&first.to_be_bytes());
    }
    bytes
}

/// An outer packet, where the node gives an identification without DF: that of the frame.
pub fn with_id(mut wanted: Vec<u8>, sent: &[u8]) -> Vec<u8> {
    if wanted[0] >> 4 == 4 && wanted[6] & 0x40 == 0 {
        let id = &sent[18..20];
        assert_ne!(id, [0, 0], "an identification of its own");
        wanted[4..6].copy_from_slice(id);
        wanted[10..12].fill(0);
        let sum = internet_checksum(&wanted[..20]);
        wanted[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    wanted
}

/// A packet with the option of `dnat-dsr` in it.
pub fn with_option(mut bytes: Vec<u8>, vip: (IpAddr, u16), swapped: (bool, bool)) -> Vec<u8> {
    let ordered = |mut bytes: Vec<u8>, is_swapped: bool| {
        if is_swapped {
            bytes.reverse();
        }
        bytes
    };
    let (address, port) = (ordered(octets(vip.0), swapped.0), ordered(vip.1.to_be_bytes().to_vec(), swapped.1));
    if vip.0.is_ipv4() {
        let option = [&[0x9a, 8][..], &port, &address].concat();
        bytes.splice(20..20, option);
        bytes[0] += 2;
        let total = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[10..12].fill(0);
        let header = usize::from(bytes[0] & 0xf) * 4;
        let sum = internet_checksum(&bytes[..header]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        // Behind the hop-by-hop header where there is one.
        let (at, next_at) = if bytes[6] == 0 { (48, 40) } else { (40, 6) };
        let option = [&[bytes[next_at], 2, 0x1b, 0x14][..], &address, &port, &[0, 0]].concat();
        bytes[next_at] = 60;
        bytes.splice(at..at, option);
        let payload = (bytes.len() - 40) as u16;
        bytes[4..6].copy_from_slice(&payload.to_be_bytes());
    }
    bytes
}
