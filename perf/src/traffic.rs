//! The traffic maker: frames of many flows to one VIP, the same for the same seed.
//!
//! Each frame is the shortest that Ethernet carries: a TCP ACK without payload, 40 bytes of IPv4, padded to 60 (the
//! FCS is not in a capture). Clients come from 198.18.0.0/15, the benchmarking range of RFC 2544.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapPacket, PcapWriter};

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

#[derive(clap::Args)]
pub struct Options {
    /// Different (client address, port) pairs.
    #[arg(long, default_value_t = 1000)]
    pub flows: usize,
    /// Frames in all, going round the flows in order [default: one a flow].
    #[arg(long)]
    pub frames: Option<usize>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the frames go to.
    #[arg(long, default_value = "192.0.2.1:80")]
    pub vip: SocketAddrV4,
    /// Destination MAC [default: net_pcap's own].
    #[arg(long, value_parser = mac)]
    pub mac: Option<[u8; 6]>,
    /// The classic pcap to write.
    #[arg(long)]
    pub out: PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let frames = options.frames.unwrap_or(options.flows);
    let mac = options.mac.unwrap_or(NET_PCAP_MAC);
    write(&options.out, options.flows, frames, options.seed, options.vip, mac)?;
    println!("{frames} frames of {} flows to {} in {}", options.flows, options.vip, options.out.display());
    Ok(())
}

/// Writes a capture of `frames` frames, a microsecond apart.
pub fn write(
    path: &Path,
    flows: usize,
    frames: usize,
    seed: u64,
    vip: SocketAddrV4,
    mac: [u8; 6],
) -> anyhow::Result<()> {
    write_frames(path, &self::frames(flows, frames, seed, vip, mac)?)
}

fn write_frames(path: &Path, frames: &[[u8; FRAME]]) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let mut pcap = PcapWriter::new(BufWriter::with_capacity(1 << 20, file))?;
    for (frame, index) in frames.iter().zip(0u64..) {
        pcap.write_packet(&PcapPacket::new(Duration::from_micros(index), FRAME as u32, frame))?;
    }
    pcap.into_writer().flush()?;
    Ok(())
}

/// `frames` frames of `flows` flows, going round them in order.
pub fn frames(
    flows: usize,
    frames: usize,
    seed: u64,
    vip: SocketAddrV4,
    mac: [u8; 6],
) -> anyhow::Result<Vec<[u8; FRAME]>> {
    let clients = clients(flows, seed)?;
    Ok(clients.iter().cycle().take(frames).map(|&client| ack(client, vip, mac)).collect())
}

/// What a capture consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ACKs of so many flows.
    Acks(usize),
    /// SYNs, each of another flow.
    Syns,
    /// ACKs of so many flows, and every twelfth frame the SYN of yet another.
    Flood(usize),
}

/// Of a flood, each so-manieth frame is a SYN.
pub const FLOOD: usize = 12;

/// Writes a capture of `frames` frames of this kind.
pub fn write_kind(path: &Path, kind: Kind, frames: usize, vip: SocketAddrV4) -> anyhow::Result<()> {
    write_frames(path, &frames_of(kind, frames, vip)?)
}

/// `frames` frames of this kind.
pub fn frames_of(kind: Kind, frames: usize, vip: SocketAddrV4) -> anyhow::Result<Vec<[u8; FRAME]>> {
    let (flows, is_syn): (usize, fn(usize) -> bool) = match kind {
        Kind::Acks(flows) => (flows, |_| false),
        Kind::Syns => (0, |_| true),
        Kind::Flood(flows) => (flows, |at| at % FLOOD == FLOOD - 1),
    };
    let syns = (0..frames).filter(|&at| is_syn(at)).count();
    let clients = clients(flows + syns, 1)?;
    let (established, new) = clients.split_at(flows);
    let (mut established, mut new) = (established.iter().cycle(), new.iter());
    let frames = (0..frames).map(|at| match is_syn(at) {
        true => new.next().map(|&client| syn(client, vip, NET_PCAP_MAC)),
        false => established.next().map(|&client| ack(client, vip, NET_PCAP_MAC)),
    });
    let frames: Option<Vec<_>> = frames.collect();
    frames.context("no flows")
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

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{text:?}: six bytes in hex, 02:00:00:00:00:01"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::SlicedPacket;

    const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);

    #[test]
    fn of_a_flood_every_so_manieth_frame_opens_a_flow_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_kind(file.path(), Kind::Flood(7), 100, VIP).unwrap();
        let mut reader = pcap_file::pcap::PcapReader::new(File::open(file.path()).unwrap()).unwrap();
        let (mut established, mut new) = (HashSet::new(), HashSet::new());
        for at in 0..100 {
            let frame = reader.next_packet().unwrap().unwrap().data;
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
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
        write(file.path(), 2, 5, 1, VIP, NET_PCAP_MAC).unwrap();
        let mut pcap = pcap_file::pcap::PcapReader::new(File::open(file.path()).unwrap()).unwrap();
        let mut frames = Vec::new();
        while let Some(packet) = pcap.next_packet() {
            frames.push(packet.unwrap().data.into_owned());
        }
        assert_eq!(frames.len(), 5);
        assert!(frames[0] != frames[1] && frames[0] == frames[2] && frames[1] == frames[3]);
    }
}
