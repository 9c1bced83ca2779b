//! What each mode makes of a packet, both families, held against packets that are built from scratch.

mod support;

use std::net::IpAddr;
use std::sync::Arc;

use penstock::config::Config;
use penstock::maglev::SelectionHash;
use penstock::pipeline::Verdict;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, PortIndex};
use penstock::wire::checksum;
use proptest::prelude::*;
use support::{BACKEND_MAC, CLIENT_MAC, Node, OUR_MAC, TCP, UDP};

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

const CONFIG: &str = r#"
[dpdk]
lcores = [1]
[[port]]
name = "wan0"
device = "net_null0"
mtu = 9000
mac = "02:00:00:00:00:01"
addresses = ["10.0.0.1"]
[encap]
ipv4_source = "10.0.0.1"
ipv6_source = "fd00::1"
#more
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 251
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[neighbor]]
address = "10.1.0.1"
mac = "02:00:00:00:00:fd"
port = "wan0"
[[neighbor]]
address = "fd00::fe"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[neighbor]]
address = "fd00:1::1"
mac = "02:00:00:00:00:fd"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
[[route]]
prefix = "::/0"
via = "fd00::fe"
"#;

const VIP: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const BACKEND: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const SOURCE: [&str; 2] = ["10.0.0.1", "fd00::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node with these services, written as JSON without name, protocol and port; each is one for tcp 80 and one for udp 53.
fn node(services: &[&str], more: &str) -> Node {
    let mut written = Vec::new();
    for (number, service) in services.iter().enumerate() {
        for (protocol, port) in [("tcp", "80"), ("udp", "53")] {
            let port = if service.starts_with("\"port\"") { String::new() } else { format!("\"port\": {port},") };
            written.push(format!(r#"{{"name": "{number}{protocol}", "protocol": "{protocol}", {port} {service}}}"#));
        }
    }
    let (config, _) = Config::read(CONFIG.replace("#more", more), "c").unwrap();
    let (definitions, _) = service::read(format!("{{\"services\": [{}]}}", written.join(",")), "s", None)
        .unwrap_or_else(|errors| panic!("{errors}"));
    penstock::config::fit(&config, &definitions, "s").unwrap_or_else(|errors| panic!("{errors}"));
    let mut compiler = Compiler::new(config.environment());
    let snapshot: Arc<_> = compiler.compile(&definitions, &config.fabric(), Millis(0));
    Node { compiler, snapshot, ..Node::default() }
}

/// One service from a VIP of a family to a backend of a family.
fn to(mode: &str, vip: usize, backend: usize, more: &str) -> Node {
    let (vip, backend) = (VIP[vip], BACKEND[backend]);
    let service = format!(r#""vip": "{vip}", "forwarding": "{mode}", {more} "backends": [{{"address": "{backend}"}}]"#);
    node(&[&service], "")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A packet from scratch.
#[derive(Debug, Clone)]
struct Packet {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    udp: bool,
    tos: u8,
    ttl: u8,
    id: u16,
    /// DF of IPv4; the flow label's presence of IPv6.
    df: bool,
    payload: Vec<u8>,
    /// Whether UDP has a checksum.
    summed: bool,
    /// Options of IPv4 in words; extension headers of IPv6.
    options: usize,
}

impl Packet {
    fn transport(&self) -> Vec<u8> {
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

    fn bytes(&self) -> Vec<u8> {
        let number = if self.udp { UDP } else { TCP };
        let header = Header { tos: self.tos, ttl: self.ttl, id: self.id, df: self.df, options: self.options };
        header.before(self.from.0, self.to.0, number, &self.transport())
    }
}

/// The checksum of TCP, UDP or ICMPv6.
fn upper_sum(from: IpAddr, to: IpAddr, number: u8, segment: &[u8]) -> u16 {
    let length = segment.len() as u32;
    let pseudo = [&octets(from)[..], &octets(to), &length.to_be_bytes(), &[0, 0, 0, number], segment].concat();
    !checksum::sum(&pseudo)
}

/// The fields of an IP header that are not addresses.
#[derive(Debug, Clone, Copy)]
struct Header {
    tos: u8,
    ttl: u8,
    id: u16,
    df: bool,
    options: usize,
}

impl Header {
    const OUTER: Self = Self { tos: 0, ttl: 64, id: 0, df: true, options: 0 };

    fn before(self, from: IpAddr, to: IpAddr, number: u8, payload: &[u8]) -> Vec<u8> {
        if from.is_ipv4() {
            let length = 20 + 4 * self.options;
            let mut bytes = vec![0x40 | (length / 4) as u8, self.tos];
            bytes.extend(((length + payload.len()) as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, number, 0, 0]);
            bytes.extend(octets(from));
            bytes.extend(octets(to));
            bytes.extend(vec![1; 4 * self.options]);
            let sum = !checksum::sum(&bytes);
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
fn frame(packet: &[u8], tags: &[u16], padding: usize) -> Vec<u8> {
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

fn ether_type(packet: &[u8]) -> [u8; 2] {
    if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] }
}

/// A sent frame to the backend, without padding.
fn sent(packet: &[u8]) -> Vec<u8> {
    [&BACKEND_MAC.0[..], &OUR_MAC.0, &ether_type(packet), packet].concat()
}

fn client(family: usize) -> impl Strategy<Value = Packet> {
    let address = any::<u16>().prop_map(move |low| match family {
        0 => IpAddr::from([198, 51, (low >> 8) as u8, low as u8]),
        _ => IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, low]),
    });
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let rest = (any::<u8>(), 2u8.., any::<u16>(), proptest::collection::vec(any::<u8>(), 0..300), 0usize..=4);
    (address, any::<u16>(), flags, rest).prop_map(move |(address, port, (udp, df, summed), (tos, ttl, id, payload, options))| {
        let to = (ip(VIP[family]), if udp { 53 } else { 80 });
        Packet { from: (address, port), to, udp, tos, ttl, id, df, payload, summed: summed || family == 1, options }
    })
}

/// With what came around the packet.
fn link() -> impl Strategy<Value = (Vec<u16>, usize)> {
    (proptest::collection::vec(any::<u16>(), 0..=2), 0usize..20)
}

/// The hash of the client's address and port.
fn hash(packet: &Packet) -> u64 {
    SelectionHash::new(std::array::from_fn(|k| k as u8)).end(packet.from.0, packet.from.1)
}

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

/// As [`outer`], where the node gives an identification without DF: that of the frame.
fn with_id(mut wanted: Vec<u8>, sent: &[u8]) -> Vec<u8> {
    if wanted[0] >> 4 == 4 && wanted[6] & 0x40 == 0 {
        let id = &sent[18..20];
        assert_ne!(id, [0, 0], "an identification of its own");
        wanted[4..6].copy_from_slice(id);
        wanted[10..12].fill(0);
        let sum = !checksum::sum(&wanted[..20]);
        wanted[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    wanted
}

/// All pairs of families.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter()
}

fn tunnels_as(
    mode: &str,
    more: &str,
    (vip, backend): (usize, usize),
    packet: &Packet,
    (tags, padding): &(Vec<u16>, usize),
    number: u8,
    between: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(), TestCaseError> {
    let inner = packet.bytes();
    let (verdict, got) = to(mode, vip, backend, more).receive(&frame(&inner, tags, *padding));
    prop_assert_eq!(verdict, FORWARD);
    let behind = [between(&inner), inner].concat();
    let wanted = with_id(outer(packet, backend, number, &behind), &got);
    prop_assert_eq!(got, sent(&wanted), "{} {:?}", mode, (vip, backend));
    Ok(())
}

/// UDP over the outer header: the source port is the flow's, no checksum.
fn udp_header(packet: &Packet, port: u16, behind: usize) -> Vec<u8> {
    let source = 0xc000 | hash(packet) as u16 & 0x3fff;
    [source, port, (8 + behind) as u16, 0].into_iter().flat_map(u16::to_be_bytes).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ipip(v4 in client(0), v6 in client(1), link in link()) {
        for (vip, backend) in pairs() {
            let (packet, number) = if vip == 0 { (&v4, 4) } else { (&v6, 41) };
            tunnels_as("ipip", "", (vip, backend), packet, &link, number, |_| vec![])?;
        }
    }

    #[test]
    fn gre(v4 in client(0), v6 in client(1), link in link()) {
        for (vip, backend) in pairs() {
            let packet = if vip == 0 { &v4 } else { &v6 };
            tunnels_as("gre", "", (vip, backend), packet, &link, 47, |inner| [&[0, 0], &ether_type(inner)[..]].concat())?;
        }
    }

    #[test]
    fn gue(v4 in client(0), v6 in client(1), link in link()) {
        for (vip, backend) in pairs() {
            let (packet, number) = if vip == 0 { (&v4, 4) } else { (&v6, 41) };
            tunnels_as("gue", "", (vip, backend), packet, &link, 17, |inner| {
                [udp_header(packet, 6080, 4 + inner.len()), vec![0, number, 0, 0]].concat()
            })?;
            let variant = r#""gue": {"variant": 1},"#;
            tunnels_as("gue", variant, (vip, backend), packet, &link, 17, |inner| udp_header(packet, 9886, inner.len()))?;
            let port = r#""gue": {"variant": 1, "port": 7777},"#;
            tunnels_as("gue", port, (vip, backend), packet, &link, 17, |inner| udp_header(packet, 7777, inner.len()))?;
        }
    }

    #[test]
    fn gue_with_a_checksum(v4 in client(0), v6 in client(1)) {
        for (vip, backend) in pairs() {
            let (packet, number) = if vip == 0 { (&v4, 4) } else { (&v6, 41) };
            tunnels_as("gue", "\"udp_checksum\": true,", (vip, backend), packet, &(vec![], 0), 17, |inner| {
                let mut udp = [udp_header(packet, 6080, 4 + inner.len()), vec![0, number, 0, 0]].concat();
                let whole = [&udp[..], inner].concat();
                let sum = match upper_sum(ip(SOURCE[backend]), ip(BACKEND[backend]), 17, &whole) { 0 => 0xffff, sum => sum };
                udp[6..8].copy_from_slice(&sum.to_be_bytes());
                udp
            })?;
        }
    }

    #[test]
    fn geneve(v4 in client(0), v6 in client(1), link in link(), own_port: bool) {
        for (vip, node) in pairs() {
            let packet = if vip == 0 { &v4 } else { &v6 };
            let (end, pod) = (BACKEND[node], ["10.9.0.7", "fd00:9::7"][vip]);
            let port = if own_port { "\"port\": 8080," } else { "" };
            let service = format!(
                r#""vip": "{}", "forwarding": "geneve", "backends": [{{"address": "{pod}", {port} "tunnel_endpoint": "{end}"}}]"#,
                VIP[vip]
            );
            let (verdict, got) = self::node(&[&service], "").receive(&frame(&packet.bytes(), &link.0, link.1));
            prop_assert_eq!(verdict, FORWARD);
            let mut inner = packet.clone();
            inner.to = (ip(pod), if own_port { 8080 } else { packet.to.1 });
            let inner = inner.bytes();
            let data = [&octets(packet.to.0)[..], &packet.to.1.to_be_bytes(), &[0, 0]].concat();
            let geneve = [
                &[1 + data.len() as u8 / 4, 0x40, 0x65, 0x58, 0, 0, 2, 0, 0x01, 0x4b, 0x81, data.len() as u8 / 4][..],
                &data, &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], &ether_type(&inner),
            ].concat();
            let udp = udp_header(packet, 6081, geneve.len() + inner.len());
            let wanted = with_id(outer(packet, node, 17, &[udp, geneve, inner].concat()), &got);
            prop_assert_eq!(same_sums(&got), same_sums(&sent(&wanted)));
        }
    }

    #[test]
    fn dscp(v4 in client(0), v6 in client(1), link in link(), code in 1u8..64) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let mut wanted = packet.clone();
            (wanted.to.0, wanted.ttl, wanted.tos) = (ip(BACKEND[family]), packet.ttl - 1, code << 2 | packet.tos & 3);
            rewrites_as(&mut to("dscp", family, family, &format!("\"dscp\": {code},")), packet, &link, &wanted)?;
        }
    }

    #[test]
    fn l2dsr(v4 in client(0), v6 in client(1), link in link()) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            rewrites_as(&mut to("l2dsr", family, family, ""), packet, &link, packet)?;
        }
    }

    #[test]
    fn dnat(v4 in client(0), v6 in client(1), link in link(), own_port: bool) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let port = if own_port { ", \"port\": 8080" } else { "" };
            let service = format!(
                r#""vip": "{}", "forwarding": "dnat", "backends": [{{"address": "{}"{port}}}]"#, VIP[family], BACKEND[family]
            );
            let mut node = node(&[&service], "");
            let backend = (ip(BACKEND[family]), if own_port { 8080 } else { packet.to.1 });
            rewrites_as(&mut node, packet, &link, &Packet { to: backend, ttl: packet.ttl - 1, ..packet.clone() })?;

            let reply = Packet { from: backend, to: packet.from, ..packet.clone() };
            let wanted = Packet { from: packet.to, ttl: packet.ttl - 1, ..reply.clone() };
            let (verdict, got) = node.receive(&frame(&reply.bytes(), &link.0, link.1));
            prop_assert_eq!(verdict, FORWARD);
            let wanted = [&CLIENT_MAC.0[..], &OUR_MAC.0, &ether_type(&wanted.bytes()), &wanted.bytes()].concat();
            prop_assert_eq!(same_sums(&got[..wanted.len()]), same_sums(&wanted));
        }
    }
}

/// The frame is the wanted packet's, and behind it is nothing but padding up to 60 bytes.
fn rewrites_as(
    node: &mut Node,
    packet: &Packet,
    (tags, padding): &(Vec<u16>, usize),
    wanted: &Packet,
) -> Result<(), TestCaseError> {
    let (verdict, got) = node.receive(&frame(&packet.bytes(), tags, *padding));
    prop_assert_eq!(verdict, FORWARD);
    let wanted = sent(&wanted.bytes());
    prop_assert_eq!(same_sums(&got[..wanted.len()]), same_sums(&wanted));
    prop_assert!(got.len() == wanted.len() || got.len() <= 60, "{} bytes for {}", got.len(), wanted.len());
    Ok(())
}

/// A sum of zero may be written in two ways where it is patched.
fn same_sums(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for at in 0..frame.len() - 1 {
        if frame[at..at + 2] == [0xff, 0xff] {
            frame[at..at + 2].fill(0);
        }
    }
    frame
}
