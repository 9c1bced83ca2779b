//! Frames that are made, kept in a capture (classic pcap), and read back.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use etherparse::{
    IpDscp, IpEcn, IpHeaders, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader, ip_number,
};

const ETHERNET: usize = 14;
/// Of a capture in microseconds, in this machine's byte order.
const MAGIC: u32 = 0xa1b2_c3d4;

/// What clients send to services: whole TCP connections and UDP queries of several clients, over one pair of MAC addresses.
///
/// Nothing in them is left at what most packets have: DSCP and ECN, TTL, identification, DF, IPv4 options, flow label, and lengths.
pub fn of_clients(
    from: [u8; 6],
    to: [u8; 6],
    clients: &[IpAddr],
    vip: IpAddr,
    tcp: &[u16],
    udp: u16,
) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    for (number, client) in (0u16..).zip(clients) {
        let mut add = |transport: Transport, length: usize| -> Result<()> {
            let seed = frames.len() as u8;
            let payload: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(7) ^ seed).collect();
            frames.push(frame((from, to), ip(*client, vip, seed)?, transport, &payload)?);
            Ok(())
        };
        let source = 20_000 + 7 * number;
        for &port in tcp {
            let segment = |flags: fn(&mut TcpHeader), sequence: u32| {
                let mut header = TcpHeader::new(source, port, 1000 + sequence, 64_000);
                flags(&mut header);
                Transport::Tcp(header)
            };
            add(segment(|header| header.syn = true, 0), 0)?;
            add(segment(|header| header.ack = true, 1), 0)?;
            let length = 1 + usize::from(number) * 173 % 1300;
            add(segment(|header| (header.ack, header.psh) = (true, true), 1), length)?;
            add(segment(|header| (header.ack, header.fin) = (true, true), 1 + length as u32), 0)?;
        }
        for length in [1, 40 + usize::from(number), 1200] {
            add(Transport::Udp(source, udp), length)?;
        }
    }
    Ok(frames)
}

enum Transport {
    Tcp(TcpHeader),
    Udp(u16, u16),
}

fn ip(from: IpAddr, to: IpAddr, seed: u8) -> Result<IpHeaders> {
    Ok(match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(0, 2 + seed % 250, ip_number::TCP, from.octets(), to.octets())?;
            header.dscp = IpDscp::try_new(seed % 64)?;
            header.ecn = IpEcn::try_new(seed % 4)?;
            header.identification = 257 * u16::from(seed);
            header.dont_fragment = !seed.is_multiple_of(3);
            if seed.is_multiple_of(5) {
                // No operation, four times.
                header.options = [1; 4].into();
            }
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: seed.wrapping_mul(5),
                flow_label: Ipv6FlowLabel::try_new(4099 * u32::from(seed) % 0x10_0000)?,
                payload_length: 0,
                next_header: ip_number::TCP,
                hop_limit: 2 + seed % 250,
                source: from.octets(),
                destination: to.octets(),
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => bail!("{from} and {to} are of different families"),
    })
}

fn frame((from, to): ([u8; 6], [u8; 6]), ip: IpHeaders, transport: Transport, payload: &[u8]) -> Result<Vec<u8>> {
    let packet = PacketBuilder::ethernet2(from, to).ip(ip);
    let mut bytes = Vec::new();
    match transport {
        Transport::Tcp(header) => packet.tcp_header(header).write_to_vec(&mut bytes, payload)?,
        Transport::Udp(source, port) => packet.udp(source, port).write_to_vec(&mut bytes, payload)?,
    }
    Ok(bytes)
}

/// Writes them into a capture, a millisecond apart.
pub fn write(file: &Path, frames: &[Vec<u8>]) -> Result<()> {
    // Version 2.4; nothing cut off; link type Ethernet.
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.extend([2, 0, 4, 0]);
    [0, 0, 65_535, 1].iter().for_each(|word: &u32| bytes.extend(word.to_le_bytes()));
    for (number, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        let (seconds, micros) = (1 + number as u32 / 1000, number as u32 % 1000 * 1000);
        [seconds, micros, length, length].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(frame);
    }
    std::fs::write(file, bytes).with_context(|| file.display().to_string())
}

/// The frames of a capture that is in this machine's byte order; what is half there at its end is left out.
pub fn read(file: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    // tcpdump writes with nanoseconds, as it is told to.
    if !matches!(word(0), Some(MAGIC | 0xa1b2_3c4d)) {
        bail!("{} is no capture in this machine's byte order", file.display());
    }
    let (mut frames, mut at) = (Vec::new(), 24);
    while let Some((caught, whole)) = word(at + 8).zip(word(at + 12)) {
        let Some(frame) = bytes.get(at + 16..at + 16 + caught as usize) else { break };
        if caught < whole {
            bail!("{}: a frame of {whole} bytes was cut to {caught}", file.display());
        }
        frames.push(frame.to_vec());
        at += 16 + frame.len();
    }
    Ok(frames)
}

/// A packet in a tunnel of IP in IP: where to, and what is inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnelled {
    pub endpoint: IpAddr,
    pub protocol: u8,
    pub inner: Vec<u8>,
}

impl Tunnelled {
    /// Of an untagged frame without options or extension headers outside.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET..)?;
        let (endpoint, protocol, header, total) = match ip.first()? >> 4 {
            4 => {
                let endpoint: [u8; 4] = *ip.get(16..)?.first_chunk()?;
                (IpAddr::from(endpoint), ip[9], 20, u16::from_be_bytes([ip[2], ip[3]]).into())
            }
            6 => {
                let endpoint: [u8; 16] = *ip.get(24..)?.first_chunk()?;
                (IpAddr::from(endpoint), ip[6], 40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
            }
            _ => return None,
        };
        Some(Self { endpoint, protocol, inner: ip.get(header..total)?.to_vec() })
    }

    /// As a router would have passed the inner packet on: one hop less to go.
    pub fn one_hop_on(mut self) -> Self {
        if self.inner[0] >> 4 == 4 {
            if let Ok((mut header, rest)) = Ipv4Header::from_slice(&self.inner) {
                header.time_to_live -= 1;
                header.header_checksum = header.calc_header_checksum();
                self.inner = [&header.to_bytes()[..], rest].concat();
            }
        } else {
            self.inner[7] -= 1;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let (vip, client) = ("192.0.2.1".parse().unwrap(), ["198.51.100.7".parse().unwrap()]);
        let frames = of_clients([2; 6], [4; 6], &client, vip, &[80], 53).unwrap();
        let file = std::env::temp_dir().join(format!("penstock-frames-{}.pcap", std::process::id()));
        write(&file, &frames).unwrap();
        let there = read(&file);
        std::fs::remove_file(file).unwrap();
        assert_eq!(there.unwrap(), frames);
        assert_eq!(frames.len(), 4 + 3);
    }

    #[test]
    fn a_hop_takes_one_from_the_ttl_and_keeps_the_checksum_right() {
        let mut header = Ipv4Header::new(0, 65, ip_number::TCP, [198, 51, 100, 7], [192, 0, 2, 1]).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let inner = header.to_bytes().to_vec();
        let tunnelled = Tunnelled { endpoint: "10.0.0.1".parse().unwrap(), protocol: 4, inner };
        let on = tunnelled.one_hop_on();
        let (passed, _) = Ipv4Header::from_slice(&on.inner).unwrap();
        assert_eq!((passed.time_to_live, passed.header_checksum), (64, passed.calc_header_checksum()));
    }
}
