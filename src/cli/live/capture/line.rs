//! A captured frame in a line.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::proto::CapturedFrame;
use crate::wire::ethernet::{self, Ethernet, Link};
use crate::wire::ipv4::{Ipv4, protocol};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{be16, tcp, udp};

const ARP: u16 = 0x0806;

/// `12:00:01.123456 dropped no_service  tcp 203.0.113.9:40000 > 192.0.2.1:81 S  60 bytes, wan0, lcore 1`
pub fn of(frame: &CapturedFrame) -> String {
    let CapturedFrame { lcore, port, verdict, reason, service, backend, length, .. } = frame;
    let mut line = format!("{} {verdict}", clock(frame));
    if frame.sent {
        line += " as it left";
    }
    for word in [reason, service] {
        if !word.is_empty() {
            line = line + " " + word;
        }
    }
    let _ = write!(line, "  {}", packet(&frame.data));
    if !backend.is_empty() {
        let _ = write!(line, ", backend {backend}");
    }
    let _ = write!(line, "  {length} bytes, {port}, lcore {lcore}");
    line
}

/// The time of day (UTC), to the microsecond.
fn clock(frame: &CapturedFrame) -> String {
    let time = frame.time.unwrap_or_default();
    let (second, micros) = (time.seconds.rem_euclid(24 * 3600), time.nanos / 1000);
    format!("{:02}:{:02}:{:02}.{micros:06}", second / 3600, second / 60 % 60, second % 60)
}

/// Date and time (RFC 3339, UTC), to the nanosecond.
pub fn time(frame: &CapturedFrame) -> String {
    frame.time.unwrap_or_default().to_string()
}

/// What a frame carries, and from where to where.
pub fn packet(frame: &[u8]) -> String {
    let (Some(header), Some(link)) = (Ethernet::of(frame), Link::of(frame)) else {
        return "too short for Ethernet".to_owned();
    };
    let bytes = &frame[link.length..];
    let found = match link.ether_type {
        ethernet::IPV4 => packet_v4(bytes),
        ethernet::IPV6 => packet_v6(bytes),
        ARP => arp(bytes),
        _ => None,
    };
    let mut text = found.unwrap_or_else(|| {
        format!("ethertype {:#06x} {} > {}", link.ether_type, header.source(), header.destination())
    });
    if link.length > ethernet::HEADER {
        let vlan = be16(frame, ethernet::HEADER) & 0xfff;
        let _ = write!(text, ", vlan {vlan}");
    }
    text
}

fn packet_v4(bytes: &[u8]) -> Option<String> {
    let ip = Ipv4::of(bytes)?;
    let (source, destination) = (ip.source().into(), ip.destination().into());
    if ip.is_later_fragment() {
        return Some(format!("{} {source} > {destination}, later fragment", name(ip.protocol())));
    }
    let payload = bytes.get(ip.header_length()..).unwrap_or_default();
    let fragment = if ip.is_fragment() { ", first fragment" } else { "" };
    Some(transport(ip.protocol(), source, destination, payload) + fragment)
}

fn packet_v6(bytes: &[u8]) -> Option<String> {
    let ip = Ipv6::of(bytes)?;
    let (source, destination) = (ip.source().into(), ip.destination().into());
    let Ok(upper) = ipv6::upper(bytes) else {
        return Some(format!("{} {source} > {destination}", name(ip.next_header())));
    };
    if upper.fragment.as_ref().is_some_and(|fragment| fragment.is_later) {
        return Some(format!("{} {source} > {destination}, later fragment", name(upper.protocol)));
    }
    let payload = bytes.get(upper.offset..).unwrap_or_default();
    let fragment = if upper.fragment.is_some() { ", first fragment" } else { "" };
    Some(transport(upper.protocol, source, destination, payload) + fragment)
}

fn transport(number: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> String {
    let ends = |(from, to): (u16, u16)| {
        format!("{} {} > {}", name(number), SocketAddr::new(source, from), SocketAddr::new(destination, to))
    };
    let found = match number {
        protocol::TCP => tcp::ports(payload, true).ok().map(|ports| ends(ports) + &flags(payload)),
        protocol::UDP => udp::ports(payload, true).ok().map(ends),
        protocol::ICMP | protocol::ICMPV6 => payload
            .first_chunk()
            .map(|[kind, code]| format!("{} {source} > {destination}, type {kind} code {code}", name(number))),
        _ => None,
    };
    found.unwrap_or_else(|| format!("{} {source} > {destination}", name(number)))
}

/// As tcpdump writes them.
fn flags(segment: &[u8]) -> String {
    const LETTERS: [(u8, char); 6] =
        [(tcp::FIN, 'F'), (tcp::SYN, 'S'), (tcp::RST, 'R'), (8, 'P'), (tcp::ACK, '.'), (32, 'U')];
    let flags = segment.get(tcp::FLAGS).copied().unwrap_or(0);
    let letters: String = LETTERS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, letter)| *letter).collect();
    if letters.is_empty() { letters } else { format!(" [{letters}]") }
}

fn arp(bytes: &[u8]) -> Option<String> {
    let address = |at: usize| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<4>()?));
    let (sender, target) = (address(14)?, address(24)?);
    match be16(bytes, 6) {
        1 => Some(format!("arp who has {target}, tell {sender}")),
        2 => Some(format!("arp {sender} is here, for {target}")),
        _ => None,
    }
}

fn name(number: u8) -> String {
    let name = match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmp6",
        protocol::IPIP => "ipip",
        protocol::GRE => "gre",
        number => return format!("protocol {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_line_says_when_what_and_why() {
        let ip = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([203, 0, 113, 9], [192, 0, 2, 1], 64);
        let mut data = Vec::new();
        ip.tcp(40000, 81, 1, 512).syn().write(&mut data, &[]).unwrap();
        let mut frame = CapturedFrame {
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 }),
            lcore: 1,
            port: "wan0".to_owned(),
            verdict: "dropped".to_owned(),
            reason: "no_service".to_owned(),
            length: 60,
            data,
            ..CapturedFrame::default()
        };
        assert_eq!(
            of(&frame),
            "22:13:20.123456 dropped no_service  tcp 203.0.113.9:40000 > 192.0.2.1:81 [S]  60 bytes, wan0, lcore 1"
        );
        assert_eq!(time(&frame), "2023-11-14T22:13:20.123456789Z");
        (frame.verdict, frame.reason, frame.sent) = ("forwarded".to_owned(), String::new(), true);
        (frame.service, frame.backend) = ("web".to_owned(), "10.1.0.1:80".to_owned());
        assert!(of(&frame).contains(" forwarded as it left web  tcp "), "{}", of(&frame));
        assert!(of(&frame).contains(" [S], backend 10.1.0.1:80  60 bytes"), "{}", of(&frame));
    }

    #[test]
    fn packets_of_all_kinds_have_words() {
        let made = |build: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = Vec::new();
            build(&mut frame);
            packet(&frame)
        };
        let link = || PacketBuilder::ethernet2(MACS.0, MACS.1);
        let six = |last| {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, last);
            address
        };
        assert_eq!(
            made(&|frame| link().ipv6(six(1), six(2), 64).udp(1, 53).write(frame, b"?").unwrap()),
            "udp [fd00::1]:1 > [fd00::2]:53"
        );
        let tagged = |frame: &mut Vec<u8>| {
            let vlan = link().single_vlan(100.try_into().unwrap());
            vlan.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).icmpv4_echo_request(1, 1).write(frame, &[]).unwrap();
        };
        assert_eq!(made(&tagged), "icmp 10.0.0.1 > 10.0.0.2, type 8 code 0, vlan 100");
        let fragment = |frame: &mut Vec<u8>| {
            link().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(frame, &[0; 16]).unwrap();
            frame[20..22].copy_from_slice(&[0x20, 3]);
        };
        assert_eq!(made(&fragment), "udp 10.0.0.1 > 10.0.0.2, later fragment");
        let ask = |frame: &mut Vec<u8>| {
            frame.extend_from_slice(&[&[255; 6], &MACS.0[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat());
            frame.extend_from_slice(&[&MACS.0[..], &[10, 0, 0, 1], &[0; 6], &[10, 0, 0, 2]].concat());
        };
        assert_eq!(made(&ask), "arp who has 10.0.0.2, tell 10.0.0.1");
        let other = |frame: &mut Vec<u8>| {
            frame.extend_from_slice(&[&MACS.1[..], &MACS.0[..], &[0x88, 0xcc, 0, 0]].concat());
        };
        assert_eq!(made(&other), "ethertype 0x88cc 02:00:00:00:00:01 > 02:00:00:00:00:02");
        assert_eq!(packet(&[0; 5]), "too short for Ethernet");
    }

    #[test]
    fn any_cut_of_a_frame_has_words() {
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6([0xfd; 16], [0xfd; 16], 64);
        ip.tcp(1, 2, 3, 4).write(&mut frame, b"data").unwrap();
        for length in 0..frame.len() {
            assert!(!packet(&frame[..length]).is_empty());
        }
    }
}
