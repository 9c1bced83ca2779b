//! The packet that is explained, and what of it is sent.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Asked;
use crate::service::Protocol;
use crate::wire::ethernet::{self, Ethernet, Link};
use crate::wire::ipv4::{self, Ipv4, protocol};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{Mac, checksum, tcp, udp};

/// The flow's first packet as a client would send it: a SYN, or an empty datagram.
pub fn first_packet(asked: &Asked, to: Mac) -> Vec<u8> {
    const SYN: u8 = 2;
    let (header, sum_at) = match asked.protocol {
        Protocol::Tcp => (tcp::HEADER, tcp::CHECKSUM),
        Protocol::Udp => (udp::HEADER, udp::CHECKSUM),
    };
    let mut segment = vec![0; header];
    segment[..2].copy_from_slice(&asked.source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&asked.destination.port().to_be_bytes());
    match asked.protocol {
        Protocol::Tcp => segment[12..14].copy_from_slice(&[(tcp::HEADER as u8 / 4) << 4, SYN]),
        Protocol::Udp => segment[4..6].copy_from_slice(&(udp::HEADER as u16).to_be_bytes()),
    }
    let (ip, addresses, ether_type) = match (asked.source.ip(), asked.destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            use ipv4::field;
            let mut ip = vec![0; ipv4::HEADER];
            ip[0] = 0x45;
            ip[field::TOTAL_LENGTH..][..2].copy_from_slice(&((ipv4::HEADER + header) as u16).to_be_bytes());
            ip[field::FLAGS..][..2].copy_from_slice(&ipv4::DF.to_be_bytes());
            ip[field::TTL] = 64;
            ip[field::PROTOCOL] = asked.protocol.number();
            ip[field::SOURCE..][..4].copy_from_slice(&from.octets());
            ip[field::DESTINATION..][..4].copy_from_slice(&to.octets());
            let sum = !checksum::sum(&ip);
            ip[field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            (ip, field::SOURCE, ethernet::IPV4)
        }
        (from, to) => {
            use ipv6::field;
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let mut ip = vec![0; ipv6::HEADER];
            ip[0] = 0x60;
            ip[field::PAYLOAD_LENGTH..][..2].copy_from_slice(&(header as u16).to_be_bytes());
            ip[field::NEXT_HEADER] = asked.protocol.number();
            ip[field::HOP_LIMIT] = 64;
            ip[field::SOURCE..][..16].copy_from_slice(&octets(from));
            ip[field::DESTINATION..][..16].copy_from_slice(&octets(to));
            (ip, field::SOURCE, ethernet::IPV6)
        }
    };
    let pseudo = [&ip[addresses..], &[0, asked.protocol.number()], &(header as u16).to_be_bytes(), &segment].concat();
    let sum = !checksum::sum(&pseudo);
    segment[sum_at..][..2].copy_from_slice(&sum.to_be_bytes());
    [&ethernet::header(to, Mac::default(), ether_type)[..], &ip, &segment].concat()
}

/// The headers of a frame that is sent, one line each, from the outside in.
pub fn headers(frame: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let (Some(ethernet), Some(link)) = (Ethernet::of(frame), Link::of(frame)) else { return lines };
    let tag = match frame.get(ethernet::HEADER..link.length) {
        Some([high, low, ..]) => format!("VLAN {}, ", u16::from_be_bytes([*high, *low]) & 0xfff),
        _ => String::new(),
    };
    lines.push(format!(
        "Ethernet {} -> {}, {tag}type {:#06x}",
        ethernet.source(),
        ethernet.destination(),
        link.ether_type
    ));
    let mut bytes = &frame[link.length..];
    while let Some((mut line, number, header)) = ip_header(bytes) {
        bytes = bytes.get(header..).unwrap_or_default();
        if let (protocol::TCP | protocol::UDP, Some(ports)) = (number, bytes.first_chunk::<4>()) {
            let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
            let _ = write!(line, "; ports {} -> {}", port(0), port(2));
        }
        lines.push(line);
        if !matches!(number, protocol::IPIP | protocol::IPV6) {
            break;
        }
    }
    lines
}

/// A line about an IP header, what follows it, and where.
fn ip_header(bytes: &[u8]) -> Option<(String, u8, usize)> {
    if bytes.first()? >> 4 == 6 {
        let ip = Ipv6::of(bytes)?;
        let upper = ipv6::upper(bytes).ok()?;
        let line = format!(
            "IPv6 {} -> {}, protocol {}, hop limit {}, traffic class {:#04x}, flow label {:#07x}, {} bytes",
            ip.source(),
            ip.destination(),
            upper.protocol,
            ip.hop_limit(),
            ip.traffic_class(),
            ip.flow_label(),
            ipv6::HEADER + usize::from(ip.payload_length()),
        );
        return Some((line, upper.protocol, upper.offset));
    }
    let ip = Ipv4::of(bytes)?;
    let lengths = ip.lengths(bytes.len()).ok()?;
    let df = if ip.dont_fragment() { ", DF" } else { "" };
    let line = format!(
        "IPv4 {} -> {}, protocol {}, TTL {}, ToS {:#04x}, id {}{df}, {} bytes",
        ip.source(),
        ip.destination(),
        ip.protocol(),
        ip.ttl(),
        ip.tos(),
        ip.identification(),
        ip.total_length(),
    );
    Some((line, ip.protocol(), lengths.header))
}
