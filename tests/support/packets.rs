//! Packets from scratch, of both families, on the node of `tests/golden/penstock.toml`.

use std::net::IpAddr;

use super::{BACKEND_MAC, CLIENT_MAC, Node, OUR_MAC, TCP, UDP, internet_checksum};

pub const CONFIG: &str = include_str!("../golden/penstock.toml");

/// Of each family.
pub const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub const BACKEND: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
/// Of outer headers.
pub const SOURCE: [&str; 2] = ["10.0.0.1", "fd00::1"];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with these services, written as JSON without name, protocol and port; each is one for tcp 80 and one for udp 53. `more`: of
/// the configuration's `[encap]`.
pub fn node(services: &[&str], more: &str) -> Node {
    let mut written = Vec::new();
    for (number, service) in services.iter().enumerate() {
        for (protocol, port) in [("tcp", "80"), ("udp", "53")] {
            let port = if service.starts_with("\"port\"") { String::new() } else { format!("\"port\": {port},") };
            written.push(format!(r#"{{"name": "{number}{protocol}", "protocol": "{protocol}", {port} {service}}}"#));
        }
    }
    let config = CONFIG.replace("[encap]", &format!("[encap]\n{more}"));
    Node::read(&config, &format!("{{\"services\": [{}]}}", written.join(",")))
}

/// One service from a VIP of a family to a backend of a family.
pub fn to(mode: &str, vip: usize, backend: usize, more: &str) -> Node {
    let (vip, backend) = (VIP[vip], BACKEND[backend]);
    let service = format!(r#""vip": "{vip}", "forwarding": "{mode}", {more} "backends": [{{"address": "{backend}"}}]"#);
    node(&[&service], "")
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A packet from scratch.
#[derive(Debug, Clone)]
pub struct Packet {
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
    pub udp: bool,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    /// DF of IPv4; the flow label's presence of IPv6.
    pub df: bool,
    pub payload: Vec<u8>,
    /// Whether UDP has a checksum.
    pub summed: bool,
    /// Options of IPv4 in words; extension headers of IPv6.
    pub options: usize,
}

impl Packet {
    pub fn transport(&self) -> Vec<u8> {
        let mut segment = [self.from.1.to_be_bytes(), self.to.1.to_be_bytes()].concat();
        let sum_at = if self.udp {
            segment.extend((8 + self.payload.len() as u16).to_be_bytes());
            segment.extend([0, 0]);
            6
        } else {
            segment.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 0x72, 0x10, 0, 0, 0, 0]);
            16
        };
        segment.extend(&self.payload);
        if !self.udp || self.summed {
            let number = if self.udp { UDP } else { TCP };
            let sum = match upper_sum(self.from.0, self.to.0, number, &segment) {
                0 if self.udp => 0xffff,
                sum => sum,
            };
            segment[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        segment
    }

    pub fn bytes(&self) -> Vec<u8> {
        let number = if self.udp { UDP } else { TCP };
        let header = Header { tos: self.tos, ttl: self.ttl, id: self.id, df: self.df, options: self.options };
        header.before(self.from.0, self.to.0, number, &self.transport())
    }
}

/// The checksum of TCP, UDP or ICMPv6.
pub fn upper_sum(from: IpAddr, to: IpAddr, number: u8, segment: &[u8]) -> u16 {
    let length = segment.len() as u32;
    let pseudo = [&octets(from)[..], &octets(to), &length.to_be_bytes(), &[0, 0, 0, number], segment].concat();
    internet_checksum(&pseudo)
}

/// The fields of an IP header that are not addresses.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    pub df: bool,
    pub options: usize,
}

impl Header {
    pub const OUTER: Self = Self { tos: 0, ttl: 64, id: 0, df: true, options: 0 };

    pub fn before(self, from: IpAddr, to: IpAddr, number: u8, payload: &[u8]) -> Vec<u8> {
        if from.is_ipv4() {
            let length = 20 + 4 * self.options;
            let mut bytes = vec![0x40 | (length / 4) as u8, self.tos];
            bytes.extend(((length + payload.len()) as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, number, 0, 0]);
            bytes.extend(octets(from));
            bytes.extend(octets(to));
            bytes.extend(vec![1; 4 * self.options]);
            let sum = internet_checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(payload);
            return bytes;
        }
        // Extension headers: hop-by-hop first, then destination options, each of eight bytes.
        let mut extensions = Vec::new();
        for k in 0..self.options {
            let next = if k + 1 == self.options { number } else { 60 };
            extensions.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        let label = if self.df { 0 } else { 0xabcde };
        let mut bytes = (6 << 28 | u32::from(self.tos) << 20 | label).to_be_bytes().to_vec();
        bytes.extend(((extensions.len() + payload.len()) as u16).to_be_bytes());
        bytes.extend([if self.options > 0 { 0 } else { number }, self.ttl]);
        bytes.extend(octets(from));
        bytes.extend(octets(to));
        bytes.extend(extensions);
        bytes.extend(payload);
        bytes
    }
}

/// A received frame, with tags and padding.
pub fn frame(packet: &[u8], tags: &[u16], padding: usize) -> Vec<u8> {
    let mut frame = [&OUR_MAC.0[..], &CLIENT_MAC.0].concat();
    for tag in tags {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ether_type(packet));
    frame.extend(packet);
    frame.resize(frame.len() + padding, 0xaa);
    frame
}

pub fn ether_type(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] }
}

/// A sent frame to the backend, without padding.
pub fn sent(packet: &[u8]) -> Vec<u8> {
    [&BACKEND_MAC.0[..], &OUR_MAC.0, &ether_type(packet), packet].concat()
}

/// A router on the way to a client, which tells of a packet that was too big.
pub const ROUTER: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];

/// An ICMP error to `to` about a packet, `kept` bytes of which are quoted.
pub fn error(from: &str, to: IpAddr, ttl: u8, tos: u8, quoted: &Packet, kept: usize) -> Vec<u8> {
    let quoted = quoted.bytes();
    let quote = &quoted[..kept.min(quoted.len())];
    let from = ip(from);
    let (number, start) = if from.is_ipv4() { (1, [3, 4]) } else { (58, [2, 0]) };
    let mut message = [&start[..], &[0, 0, 0, 0, 5, 120], quote].concat();
    let sum = if from.is_ipv4() { internet_checksum(&message) } else { upper_sum(from, to, number, &message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Header { ttl, tos, ..Header::OUTER }.before(from, to, number, &message)
}

/// What a server sends in answer to a client's packet.
pub fn answer_to(packet: &Packet) -> Packet {
    Packet { from: packet.to, to: packet.from, ..packet.clone() }
}

/// The fragments of a packet: the first has `cut` bytes of its payload.
pub fn fragments(packet: &Packet, cut: usize, id: u16) -> [Vec<u8>; 2] {
    let transport = packet.transport();
    let cut = (cut / 8 * 8).min(transport.len() / 8 * 8);
    let number = if packet.udp { UDP } else { TCP };
    [(0, true, &transport[..cut]), (cut, false, &transport[cut..])].map(|(offset, more, part)| {
        let header = Header { tos: packet.tos, ttl: packet.ttl, id, df: false, options: 0 };
        if packet.from.0.is_ipv4() {
            let mut bytes = header.before(packet.from.0, packet.to.0, number, part);
            let word = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            bytes[10..12].fill(0);
            let sum = internet_checksum(&bytes[..20]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes
        } else {
            let word = offset as u16 | u16::from(more);
            let extension = [&[number, 0][..], &word.to_be_bytes(), &[0, 0], &id.to_be_bytes()].concat();
            header.before(packet.from.0, packet.to.0, 44, &[&extension, part].concat())
        }
    })
}

/// A client's packet that is nothing special.
pub fn plain(family: usize, udp: bool, payload: usize) -> Packet {
    Packet {
        from: (ip(["198.51.100.7", "2001:db8:2::7"][family]), 40000),
        to: (ip(VIP[family]), if udp { 53 } else { 80 }),
        udp,
        tos: 0,
        ttl: 60,
        id: 7,
        df: true,
        payload: vec![b'x'; payload],
        summed: true,
        options: 0,
    }
}

/// What a router in the fabric says of a frame that a node sent: so many bytes would have gone; `kept` bytes are quoted.
pub fn complaint(sent: &[u8], mtu: u16, kept: usize) -> Vec<u8> {
    let packet = &sent[14..];
    let is_v4 = packet[0] >> 4 == 4;
    let (from, to, number) = if is_v4 { ("10.9.9.9", SOURCE[0], 1) } else { ("fd00:9::9", SOURCE[1], 58) };
    let (from, to) = (ip(from), ip(to));
    let kind = if is_v4 { [3, 4] } else { [2, 0] };
    let mut message = [&kind[..], &[0, 0, 0, 0], &mtu.to_be_bytes(), &packet[..kept.min(packet.len())]].concat();
    let sum = if is_v4 { internet_checksum(&message) } else { upper_sum(from, to, number, &message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(&Header::OUTER.before(from, to, number, &message), &[], 0)
}
