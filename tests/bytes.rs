//! The bytes that leave, held against independent oracles (etherparse, smoltcp). Literal bytes: `tests/golden.rs`.

mod support;

use std::net::Ipv4Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use penstock::pipeline::Verdict;
use penstock::snapshot::PortIndex;
use proptest::prelude::*;
use support::*;

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

#[test]
fn without_df_outer_identifications_count() {
    let mut node = Node::default();
    let mut made = Made::tcp(TUNNEL_VIP, 80);
    made.flags = 0;
    let mut id = || {
        let (_, sent) = node.receive(&made.frame());
        assert_eq!(&sent[20..22], [0, 0], "flags and offset");
        u16::from_be_bytes([sent[18], sent[19]])
    };
    let first = id();
    assert_eq!([id(), id()], [first + 1, first + 2]);
}

/// An etherparse reading of a frame: every header, lengths and the IP checksum verified.
struct Read {
    ip: etherparse::Ipv4Header,
    payload: Vec<u8>,
}

fn read(frame: &[u8]) -> Read {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a sound frame");
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4: {sliced:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum, "IP header checksum");
    Read { ip: header, payload: ip.payload().payload.to_vec() }
}

/// Whether the transport checksum verifies, by smoltcp.
fn transport_verifies(read: &Read) -> bool {
    use smoltcp::wire::{IpAddress, TcpPacket, UdpPacket};
    let address = |bytes: [u8; 4]| IpAddress::Ipv4(bytes.into());
    let (source, destination) = (address(read.ip.source), address(read.ip.destination));
    match read.ip.protocol.0 {
        TCP => TcpPacket::new_checked(&read.payload[..]).unwrap().verify_checksum(&source, &destination),
        _ => UdpPacket::new_checked(&read.payload[..]).unwrap().verify_checksum(&source, &destination),
    }
}

#[derive(Debug, Clone)]
struct Client {
    source: Ipv4Addr,
    port: u16,
    payload: Vec<u8>,
    tos: u8,
    id: u16,
    df: bool,
    ttl: u8,
    options: usize,
    padding: usize,
    udp: bool,
    summed: bool,
}

fn client() -> impl Strategy<Value = Client> {
    let source = (1u8..=223, any::<[u8; 3]>())
        .prop_filter("no loopback, VIP, or client in the fabric or behind the silent gateway", |(first, rest)| {
            *first != 127 && *first != 172 && *first != 10 && (*first, rest[0]) != (192, 0)
        });
    let rest = (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..200), any::<u8>(), any::<u16>(), any::<bool>());
    (source, rest, 2u8.., 0usize..=10, 0usize..20, any::<bool>(), any::<bool>()).prop_map(
        |((first, [b, c, d]), (port, payload, tos, id, df), ttl, options, padding, udp, summed)| Client {
            source: Ipv4Addr::new(first, b, c, d),
            port,
            payload,
            tos,
            id,
            df,
            ttl,
            options,
            padding,
            udp,
            summed,
        },
    )
}

impl Client {
    fn to(&self, vip: Ipv4Addr) -> Made {
        let mut segment = if self.udp {
            udp_segment(self.source, self.port, vip, 53, &self.payload)
        } else {
            tcp_segment(self.source, self.port, vip, 80, &self.payload)
        };
        if self.udp && !self.summed {
            segment[6..8].fill(0);
        }
        Made {
            source: self.source,
            tos: self.tos,
            id: self.id,
            flags: if self.df { DF } else { 0 },
            ttl: self.ttl,
            options: vec![1; self.options * 4],
            padding: self.padding,
            ..Made::with(vip, if self.udp { UDP } else { TCP }, segment)
        }
    }
}

proptest! {
    #[test]
    fn ipip_wraps_exactly_the_packet(client in client()) {
        let made = client.to(TUNNEL_VIP);
        let (verdict, sent) = Node::default().receive(&made.frame());
        prop_assert_eq!(verdict, FORWARD);
        let outer = read(&sent);
        prop_assert_eq!(&outer.payload, &made.packet());
        prop_assert_eq!(sent.len(), 14 + 20 + made.packet().len(), "no bytes behind");
        prop_assert_eq!((outer.ip.time_to_live, outer.ip.protocol.0, outer.ip.dont_fragment), (64, 4, client.df));
        prop_assert_eq!((outer.ip.dscp.value() << 2) | outer.ip.ecn.value(), client.tos);
        prop_assert_eq!(outer.ip.source, SOURCE.octets());
        prop_assert_eq!(outer.ip.destination, if client.udp { [10, 1, 0, 2] } else { [10, 1, 0, 1] });
        prop_assert!(!client.df || outer.ip.identification == 0);
    }

    /// The packet that leaves is the one that a client would have made for the backend, TTL less one.
    #[test]
    fn dnat_makes_the_packet_that_was_meant_for_the_backend(client in client()) {
        let made = client.to(NAT_VIP);
        let (verdict, sent) = Node::default().receive(&made.frame());
        prop_assert_eq!(verdict, FORWARD);
        let got = read(&sent);
        let backend: Ipv4Addr = if client.udp { [10, 1, 0, 4] } else { [10, 1, 0, 3] }.into();
        let mut wanted = client.to(backend);
        wanted.ttl -= 1;
        if client.udp {
            if client.summed { prop_assert!(transport_verifies(&got)); }
            prop_assert_eq!(client.summed, got.payload[6..8] != [0, 0]);
        } else {
            wanted.segment = tcp_segment(client.source, client.port, backend, 8080, &client.payload);
            prop_assert!(transport_verifies(&got));
        }
        // A sum of zero may be written in two ways; both were verified above.
        let mut packet = sent[14..14 + made.packet().len()].to_vec();
        let sum_at = 20 + client.options * 4 + if client.udp { 6 } else { 16 };
        let mut wanted = wanted.packet();
        for bytes in [&mut packet, &mut wanted] { bytes[sum_at..sum_at + 2].fill(0); }
        prop_assert_eq!(packet, wanted);
        prop_assert_eq!(sent.len(), (14 + made.packet().len()).max(60).min(made.frame().len()));
    }

    #[test]
    fn a_reply_comes_from_the_vip(client in client()) {
        let (endpoint, from, vip_port): (Ipv4Addr, u16, u16) = if client.udp { ([10, 1, 0, 4].into(), 53, 53) } else { ([10, 1, 0, 3].into(), 8080, 80) };
        let mut made = client.to(client.source);
        made.source = endpoint;
        made.segment = if client.udp {
            udp_segment(endpoint, from, client.source, client.port, &client.payload)
        } else {
            tcp_segment(endpoint, from, client.source, client.port, &client.payload)
        };
        let (verdict, sent) = Node::default().receive(&made.frame());
        prop_assert_eq!(verdict, FORWARD);
        let got = read(&sent);
        prop_assert!(transport_verifies(&got));
        prop_assert_eq!((got.ip.source, got.ip.destination), (NAT_VIP.octets(), client.source.octets()));
        prop_assert_eq!(u16::from_be_bytes([got.payload[0], got.payload[1]]), vip_port);
        prop_assert_eq!(got.ip.time_to_live, client.ttl - 1);
        prop_assert_eq!(&sent[..6], CLIENT_MAC.0);
    }

    #[test]
    fn an_echo_is_the_request_turned_round(
        data in proptest::collection::vec(any::<u8>(), 0..300), rest: [u8; 4], ttl in 1u8.., options in 0usize..=10,
    ) {
        let mut made = Made::echo(TUNNEL_VIP);
        made.segment = [&[8, 0, 0, 0][..], &rest, &data].concat();
        let sum = internet_checksum(&made.segment);
        made.segment[2..4].copy_from_slice(&sum.to_be_bytes());
        made.ttl = ttl;
        made.options = vec![1; options * 4];
        let (verdict, sent) = Node::default().receive(&made.frame());
        prop_assert_eq!(verdict, Verdict::Answer(PortIndex(0)));
        let got = read(&sent);
        prop_assert_eq!((got.ip.source, got.ip.destination, got.ip.time_to_live), (TUNNEL_VIP.octets(), CLIENT.octets(), 64));
        let message = smoltcp::wire::Icmpv4Packet::new_checked(&got.payload[..]).unwrap();
        prop_assert!(message.verify_checksum());
        prop_assert_eq!(u8::from(message.msg_type()), 0);
        prop_assert_eq!(&got.payload[4..], &made.segment[4..]);
    }

    /// What parses here parses there: a frame that is forwarded is sound by etherparse's reading.
    #[test]
    fn nothing_unsound_is_forwarded(frame in any_frame()) {
        let (verdict, sent) = Node::default().receive(&frame);
        if matches!(verdict, Verdict::Forward(_)) {
            let before = read(&frame);
            let after = read(&sent);
            prop_assert!(before.ip.total_len <= after.ip.total_len);
        }
    }
}

proptest! {
    /// Trains of one flow, mixed with anything: a burst is treated as its frames one by one are.
    #[test]
    fn a_burst_is_the_sum_of_its_frames(
        some in proptest::collection::vec(any_frame(), 1..6), order in proptest::collection::vec(0usize..6, 1..=32),
    ) {
        // The identifications of what may be fragmented count up, so they depend on the order: set "don't fragment".
        let some: Vec<Vec<u8>> = some.into_iter().map(dont_fragment).collect();
        let frames: Vec<&Vec<u8>> = order.iter().map(|&which| &some[which % some.len()]).collect();
        let mut node = Node::default();
        let wanted: Vec<_> = frames.iter().map(|frame| node.receive(frame)).collect();
        // The packets counted are those sent, and their bytes those that came, without Ethernet and padding.
        let (mut packets, mut bytes) = (0, 0);
        for (frame, _) in frames.iter().zip(&wanted).filter(|(_, (verdict, _))| matches!(verdict, Verdict::Forward(_))) {
            packets += 1;
            bytes += u64::from(read(frame).ip.total_len);
        }
        let counted = |node: &Node| node.counted().values().fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        prop_assert_eq!(counted(&node), (packets, bytes));

        let got = node.burst(&frames);
        let all_forwarded = got.iter().all(|(verdict, _)| *verdict == FORWARD);
        prop_assert_eq!(node.only, all_forwarded.then_some(PortIndex(0)));
        prop_assert_eq!(counted(&node), (2 * packets, 2 * bytes));
        for ((got, wanted), frame) in got.iter().zip(&wanted).zip(&frames) {
            prop_assert_eq!(got.0, wanted.0);
            if !matches!(got.0, Verdict::Drop(_)) {
                prop_assert_eq!(&got.1, &wanted.1, "of {:02x?}", frame);
            }
        }
    }
}

/// The frame with the bit set and its header checksum right, where there is a whole header.
fn dont_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(ip) = frame.get_mut(14..34) {
        let old = u16::from_be_bytes([ip[6], ip[7]]);
        let sum = u16::from_be_bytes([ip[10], ip[11]]);
        ip[6] |= 0x40;
        let new = u16::from_be_bytes([ip[6], ip[7]]);
        let sum = penstock::wire::checksum::Delta::word(old, new).patched(sum);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Sound frames, and the same with some bytes overwritten or cut off.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let vip = prop_oneof![Just(TUNNEL_VIP), Just(NAT_VIP), Just(OWN_VIP), Just(LONELY_VIP)];
    let damage = proptest::collection::vec((0usize..60, any::<u8>()), 0..3);
    let length = prop_oneof![Just(usize::MAX), 0usize..80];
    (client(), vip, prop_oneof![0u8..3, Just(64)], damage, length).prop_map(|(client, vip, ttl, damage, length)| {
        let mut made = client.to(vip);
        made.ttl = ttl;
        let mut frame = made.frame();
        for (at, byte) in damage {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(length);
        frame
    })
}

#[test]
fn a_frame_cut_anywhere_gets_one_verdict_and_is_never_read_beyond() {
    let mut node = Node::default();
    for whole in [
        Made::tcp(TUNNEL_VIP, 80).frame(),
        Made::udp(NAT_VIP, 53).frame(),
        Made::echo(TUNNEL_VIP).frame(),
        Made { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..Made::tcp(NAT_VIP, 80) }.frame(),
    ] {
        for length in 0..whole.len() {
            let (verdict, _) = node.receive(&whole[..length]);
            assert_eq!(verdict, Verdict::Drop(penstock::counters::Reason::Malformed), "cut to {length}");
        }
        assert!(matches!(node.verdict(&whole), Verdict::Forward(_) | Verdict::Answer(_)));
    }
}

proptest! {
    #[test]
    fn random_bytes_get_one_verdict(frame in proptest::collection::vec(any::<u8>(), 0..2000)) {
        Node::default().receive(&frame);
    }

    /// As above, but past the first checks: the link and the destination are ours.
    #[test]
    fn random_packets_to_a_vip_get_one_verdict(mut packet in proptest::collection::vec(any::<u8>(), 20..200)) {
        packet[0] = 0x40 | packet[0] & 0xf;
        packet[16..20].copy_from_slice(&NAT_VIP.octets());
        let frame = [&OUR_MAC.0[..], &CLIENT_MAC.0, &[8, 0], &packet].concat();
        let verdict = Node::default().verdict(&frame);
        prop_assert!(verdict != Verdict::Punt);
    }
}

/// Both oracles agree with each other on what we made: guards against a blind oracle.
#[test]
fn the_oracles_can_fail() {
    let mut frame = Made::tcp(NAT_VIP, 80).frame();
    assert!(transport_verifies(&read(&frame)));
    frame[50] ^= 1;
    assert!(!transport_verifies(&read(&frame)));
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    assert!(matches!(sliced.transport, Some(TransportSlice::Tcp(_))));
}
