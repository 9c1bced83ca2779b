//! The traffic maker: frames of many flows to one VIP, the same for the same seed.
//!
//! Most are the shortest that Ethernet carries: a TCP ACK without payload, 40 bytes of IPv4, padded to 60 (the
//! FCS is not in a capture). Clients come from 198.18.0.0/15, the benchmarking range of RFC 2544, and its like in IPv6,
//! 2001:2::/48 (RFC 5180).

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};

use penstock::wire::checksum;

/// Where those over IPv6 go, to the port of the others.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Bytes of a frame without its FCS.
pub const FRAME: usize = 60;
/// The address that DPDK gives to every net_pcap device; it cannot be set.
pub const NET_PCAP_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x00];
/// Where the frames come from: the router of the bench's configuration.
pub const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
/// Clients' addresses and ports: 2^17 × 2^15 flows at most.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const CLIENT_BITS: u32 = 17;
const FIRST_PORT: u16 = 0x8000;

/// Writes frames, a microsecond apart.
pub fn write_frames(path: &Path, frames: &[impl AsRef<[u8]>]) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let mut pcap = PcapWriter::new(BufWriter::with_capacity(1 << 20, file))?;
    for (frame, index) in frames.iter().map(AsRef::as_ref).zip(0u64..) {
        pcap.write_packet(&PcapPacket::new(Duration::from_micros(index), frame.len() as u32, frame))?;
    }
    pcap.into_writer().flush()?;
    Ok(())
}

/// What a capture consists of: frames enough for a burst, and for each of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ACKs of so many flows.
    Acks(usize),
    /// So many SYNs, each of another flow.
    Syns(usize),
    /// ACKs of so many flows, in so many frames; flooded: every twelfth frame is the SYN of yet another.
    Established { flows: usize, frames: usize, is_flooded: bool },
    /// Datagrams of so many flows.
    Udp(usize),
    /// ACKs of so many flows over IPv6, to [`VIP6`].
    V6(usize),
    /// So many flows, frames of 60, 590 and 1494 bytes, 7 to 4 to 1: the longest that fit the MTU with an outer header.
    Imix(usize),
    /// Frames that claim to be of so many flows and are not what they claim, each in one of [`FAULTS`] ways.
    Malformed(usize),
    /// ACKs of so many flows, in turn to so many services (see [`service`]).
    Services { flows: usize, services: usize },
}

/// Of a flood, each so-manieth frame is a SYN.
pub const FLOOD: usize = 12;
/// Ports of a VIP that are services of their own, where there are many.
const PORTS: usize = 400;
/// Ways in which a frame is malformed.
const FAULTS: usize = 6;
/// Payload of the frames of an IMIX, twelve in turn.
const IMIX: [usize; 12] = [0, 536, 0, 536, 0, 1440, 0, 536, 0, 536, 0, 0];

impl Kind {
    pub fn flows(self) -> usize {
        match self {
            Self::Acks(flows)
            | Self::Syns(flows)
            | Self::Udp(flows)
            | Self::V6(flows)
            | Self::Imix(flows)
            | Self::Malformed(flows)
            | Self::Established { flows, .. }
            | Self::Services { flows, .. } => flows,
        }
    }

    pub fn frames(self) -> usize {
        match self {
            Self::Established { frames, .. } => frames,
            _ => self.flows().max(32),
        }
    }
}

/// The name of its capture.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Acks(flows) => write!(f, "acks-{flows}"),
            Self::Syns(flows) => write!(f, "syns-{flows}"),
            Self::Established { flows, frames, is_flooded: false } => write!(f, "acks-{flows}-in-{frames}"),
            Self::Established { flows, frames, is_flooded: true } => write!(f, "flood-{flows}-in-{frames}"),
            Self::Udp(flows) => write!(f, "udp-{flows}"),
            Self::V6(flows) => write!(f, "v6-{flows}"),
            Self::Imix(flows) => write!(f, "imix-{flows}"),
            Self::Malformed(flows) => write!(f, "malformed-{flows}"),
            Self::Services { flows, services } => write!(f, "acks-{flows}-to-{services}"),
        }
    }
}

/// A kind that its number of flows says all of, by the name of its capture: `acks-1000`.
impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let known = [Self::Acks, Self::Syns, Self::Udp, Self::V6, Self::Imix, Self::Malformed];
        let kind = text.rsplit_once('-').and_then(|(_, flows)| {
            let flows = flows.parse().ok().filter(|&flows| flows > 0)?;
            known.map(|kind| kind(flows)).into_iter().find(|kind| kind.to_string() == text)
        });
        kind.with_context(|| {
            let names = known.map(|kind| kind(1000).to_string()).join(", ");
            format!("{text:?}: expected one of {names}, with another number of flows if you like")
        })
    }
}

/// Where the service of this number is, of many: 400 ports of the first VIP, then those of the next.
pub fn service(number: usize, vip: SocketAddrV4) -> SocketAddrV4 {
    let address = u32::from(*vip.ip()) + (number / PORTS) as u32;
    SocketAddrV4::new(address.into(), vip.port() + (number % PORTS) as u16)
}

/// The frames of this kind.
pub fn frames_of(kind: Kind, vip: SocketAddrV4) -> anyhow::Result<Vec<Vec<u8>>> {
    let count = kind.frames();
    let of_each = |flows: usize, make: &dyn Fn(usize, SocketAddrV4) -> Vec<u8>| {
        let clients = clients(flows, 1)?;
        Ok((0..count).zip(clients.iter().cycle()).map(|(at, &client)| make(at, client)).collect())
    };
    let ack = |client, vip| self::ack(client, vip, NET_PCAP_MAC).to_vec();
    match kind {
        Kind::Acks(flows) => of_each(flows, &|_, client| ack(client, vip)),
        Kind::Syns(_) => of_each(count, &|_, client| syn(client, vip, NET_PCAP_MAC).to_vec()),
        Kind::Established { flows, is_flooded, .. } => {
            let is_syn = |at| is_flooded && at % FLOOD == FLOOD - 1;
            let clients = clients(flows + (0..count).filter(|&at| is_syn(at)).count(), 1)?;
            let (established, new) = clients.split_at(flows);
            let (mut established, mut new) = (established.iter().cycle(), new.iter());
            let frames = (0..count).map(|at| match is_syn(at) {
                true => new.next().map(|&client| syn(client, vip, NET_PCAP_MAC).to_vec()),
                false => established.next().map(|&client| ack(client, vip)),
            });
            frames.collect::<Option<_>>().context("no flows")
        }
        Kind::Udp(flows) => of_each(flows, &|_, client| datagram(client, vip)),
        Kind::V6(flows) => of_each(flows, &|_, client| ack6(client, vip.port())),
        Kind::Imix(flows) => of_each(flows, &|at, client| with_payload(client, vip, IMIX[at % IMIX.len()])),
        Kind::Malformed(flows) => of_each(flows, &|at, client| malformed(ack(client, vip), at % FAULTS)),
        Kind::Services { flows, services } => of_each(flows, &|at, client| ack(client, service(at % services, vip))),
    }
}

/// `count` different clients in an order without a pattern.
fn clients(count: usize, seed: u64) -> anyhow::Result<Vec<SocketAddrV4>> {
    let most = 1usize << (CLIENT_BITS + 15 - 1);
    ensure!((1..=most).contains(&count), "{count} flows: make 1 to {most}");
    let mut random = SplitMix64(seed);
    let mut seen = HashSet::with_capacity(count);
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let number = random.next();
        let address = u32::from(CLIENTS) | (number as u32 & ((1 << CLIENT_BITS) - 1));
        let port = FIRST_PORT | (number >> 40) as u16;
        let client = SocketAddrV4::new(address.into(), port);
        if seen.insert(client) {
            clients.push(client);
        }
    }
    Ok(clients)
}

/// An ACK as a client's stack would send it, checksums included.
fn ack(client: SocketAddrV4, vip: SocketAddrV4, mac: [u8; 6]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let packet = PacketBuilder::ethernet2(ROUTER_MAC, mac)
        .ipv4(client.ip().octets(), vip.ip().octets(), 64)
        .tcp(client.port(), vip.port(), 1_000_000, 512)
        .ack(2_000_000);
    packet.write(&mut &mut frame[..], &[]).expect("54 bytes fit into 60");
    frame
}

/// What opens a connection.
fn syn(client: SocketAddrV4, vip: SocketAddrV4, mac: [u8; 6]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let packet = PacketBuilder::ethernet2(ROUTER_MAC, mac)
        .ipv4(client.ip().octets(), vip.ip().octets(), 64)
        .tcp(client.port(), vip.port(), 1_000_000, 512)
        .syn();
    packet.write(&mut &mut frame[..], &[]).expect("54 bytes fit into 60");
    frame
}

/// A UDP datagram without payload, checksums included.
fn datagram(client: SocketAddrV4, vip: SocketAddrV4) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(ROUTER_MAC, NET_PCAP_MAC)
        .ipv4(client.ip().octets(), vip.ip().octets(), 64)
        .udp(client.port(), vip.port());
    packet.write(&mut frame, &[]).expect("a vector takes all");
    frame.resize(FRAME, 0);
    frame
}

/// An ACK with so much payload.
fn with_payload(client: SocketAddrV4, vip: SocketAddrV4, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(ROUTER_MAC, NET_PCAP_MAC)
        .ipv4(client.ip().octets(), vip.ip().octets(), 64)
        .tcp(client.port(), vip.port(), 1_000_000, 512)
        .ack(2_000_000);
    packet.write(&mut frame, &vec![0x55; payload]).expect("a vector takes all");
    frame.resize(frame.len().max(FRAME), 0);
    frame
}

/// An ACK over IPv6: 74 bytes, the shortest that there is. The client has the IPv4 client's bits as the end of its address.
fn ack6(client: SocketAddrV4, port: u16) -> Vec<u8> {
    let address = Ipv6Addr::from((0x2001_0002u128 << 96) | u128::from(u32::from(*client.ip())));
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(ROUTER_MAC, NET_PCAP_MAC)
        .ipv6(address.octets(), VIP6.octets(), 64)
        .tcp(client.port(), port, 1_000_000, 512)
        .ack(2_000_000);
    packet.write(&mut frame, &[]).expect("a vector takes all");
    frame
}

/// A right frame made wrong.
fn malformed(mut frame: Vec<u8>, fault: usize) -> Vec<u8> {
    const IP: usize = 14;
    match fault {
        // The header's checksum.
        0 => frame[IP + 10] ^= 0x55,
        // More bytes than there are.
        1 => frame[IP + 2..IP + 4].copy_from_slice(&200u16.to_be_bytes()),
        // A header shorter than any.
        2 => frame[IP] = 0x44,
        // Fewer bytes than the header has.
        3 => frame[IP + 2..IP + 4].copy_from_slice(&12u16.to_be_bytes()),
        // Half a TCP header.
        4 => frame[IP + 2..IP + 4].copy_from_slice(&30u16.to_be_bytes()),
        // Another version than EtherType says.
        _ => frame[IP] = 0x65,
    }
    if matches!(fault, 1 | 3 | 4) {
        // What is wrong is the length alone.
        frame[IP + 10..IP + 12].fill(0);
        let sum = !checksum::sum(&frame[IP..IP + 20]);
        frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Steele, Lea and Flood's generator (2014): short, seeded, the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::SlicedPacket;

    const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);

    #[test]
    fn of_a_flood_every_so_manieth_frame_opens_a_flow_of_its_own() {
        let frames = frames_of(Kind::Established { flows: 7, frames: 100, is_flooded: true }, VIP).unwrap();
        let (mut established, mut new) = (HashSet::new(), HashSet::new());
        for (at, frame) in frames.iter().enumerate() {
            let packet = SlicedPacket::from_ethernet(frame).unwrap();
            let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { panic!("{at}") };
            assert_eq!((tcp.syn(), tcp.ack()), (at % FLOOD == FLOOD - 1, at % FLOOD != FLOOD - 1), "{at}");
            let flow = (frame[26..30].to_vec(), tcp.source_port());
            if tcp.syn() {
                new.insert(flow)
            } else {
                established.insert(flow)
            };
        }
        assert_eq!((established.len(), new.len(), established.intersection(&new).count()), (7, 100 / FLOOD, 0));
    }

    #[test]
    fn kinds_are_what_they_say() {
        let lengths = |kind| frames_of(kind, VIP).unwrap().iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(Kind::Udp(3)), [60; 32]);
        assert_eq!(lengths(Kind::V6(40)), [74; 40]);
        let imix = lengths(Kind::Imix(120));
        let of = |length: usize| imix.iter().filter(|&&l| l == length).count();
        assert_eq!((of(60), of(590), of(1494)), (70, 40, 10));
        for kind in [Kind::Udp(12), Kind::V6(12), Kind::Imix(12), Kind::Services { flows: 12, services: 500 }] {
            for frame in frames_of(kind, VIP).unwrap() {
                let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                assert!(packet.transport.is_some(), "{kind}");
            }
        }
        assert_eq!(service(0, VIP), VIP);
        assert_eq!(service(401, VIP).to_string(), "192.0.2.2:81");
    }

    #[test]
    fn kinds_are_read_by_the_names_of_their_captures() {
        for name in ["acks-1", "syns-1000000", "udp-10", "v6-1000", "imix-12"] {
            assert_eq!(name.parse::<Kind>().unwrap().to_string(), name);
        }
        for name in ["acks", "acks-0", "nacks-1", "acks-01"] {
            assert!(name.parse::<Kind>().is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_malformed_is_so_in_one_way_alone() {
        let client = SocketAddrV4::new(Ipv4Addr::new(198, 18, 1, 2), 40000);
        for fault in 0..FAULTS {
            let frame = malformed(ack(client, VIP, NET_PCAP_MAC).to_vec(), fault);
            let has_right_sum = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..])
                .map(|ip| ip.to_header().calc_header_checksum() == ip.header_checksum());
            let is_whole = SlicedPacket::from_ethernet(&frame).is_ok();
            assert!(!is_whole || has_right_sum == Ok(false), "{fault}");
            assert_eq!(has_right_sum.unwrap_or(true), fault != 0, "{fault}");
        }
    }

    #[test]
    fn a_frame_is_a_padded_ack_with_right_checksums() {
        let client = SocketAddrV4::new(Ipv4Addr::new(198, 18, 1, 2), 40000);
        let frame = ack(client, VIP, NET_PCAP_MAC);
        assert_eq!(frame[..6], NET_PCAP_MAC);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("{packet:?}") };
        let header = ip.header().to_header();
        assert_eq!((header.total_len, header.header_checksum), (40, header.calc_header_checksum()));
        let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("{packet:?}") };
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
        assert!(tcp.ack() && !tcp.syn());
    }

    #[test]
    fn flows_differ_and_the_seed_decides_them() {
        let flows = clients(10_000, 7).unwrap();
        assert_eq!(flows.iter().collect::<HashSet<_>>().len(), 10_000);
        assert_eq!(flows, clients(10_000, 7).unwrap());
        assert_ne!(flows, clients(10_000, 8).unwrap());
        let addresses = flows.iter().map(|client| client.ip()).collect::<HashSet<_>>();
        assert!(addresses.len() > 9_000, "{} addresses", addresses.len());
        assert!(clients(0, 1).is_err());
    }

    #[test]
    fn more_frames_than_flows_go_round() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kind = Kind::Established { flows: 2, frames: 5, is_flooded: false };
        write_frames(file.path(), &frames_of(kind, VIP).unwrap()).unwrap();
        let mut pcap = pcap_file::pcap::PcapReader::new(File::open(file.path()).unwrap()).unwrap();
        let mut frames = Vec::new();
        while let Some(packet) = pcap.next_packet() {
            frames.push(packet.unwrap().data.into_owned());
        }
        assert_eq!(frames.len(), 5);
        assert!(frames[0] != frames[1] && frames[0] == frames[2] && frames[1] == frames[3]);
    }
}
