//! What each mode makes of a packet, both families, held against packets that are built from scratch.

mod support;

use penstock::config::Config;
use std::net::IpAddr;

use penstock::counters::Reason;
use penstock::pipeline::{BURST, Verdict};
use penstock::service;
use penstock::snapshot::{Millis, PortIndex};
use proptest::prelude::*;
use support::expected::*;
use support::packets::*;
use support::replay::replayed;
use support::{BACKEND_MAC, CLIENT_MAC, Node, OUR_MAC, TCP, internet_checksum};

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

/// The frame has the packet in it, whole and without padding, and around it what the contract says.
fn wraps(
    tunnel: Tunnel,
    (vip, backend): (usize, usize),
    packet: &Packet,
    (tags, padding): &(Vec<u16>, usize),
) -> Result<(), TestCaseError> {
    let service = tunnel.service(vip, backend);
    let (verdict, got) = node(&[&service], "").receive(&frame(&packet.bytes(), tags, *padding));
    prop_assert_eq!(verdict, FORWARD);
    let inner = Packet { to: tunnel.inner(packet.to), ..packet.clone() }.bytes();
    let wanted = sent(&with_id(tunnel.around(&inner, packet, backend), &got));
    if inner == packet.bytes() {
        prop_assert_eq!(got, wanted, "{} {}", service, backend);
    } else {
        prop_assert_eq!(&got, &wanted, "{} {}", service, backend);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tunnels(v4 in client(0), v6 in client(1), link in link()) {
        for (&tunnel, pair) in Tunnel::ALL.iter().flat_map(|tunnel| pairs().map(move |pair| (tunnel, pair))) {
            wraps(tunnel, pair, if pair.0 == 0 { &v4 } else { &v6 }, &link)?;
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
            prop_assert_eq!(&got[..wanted.len()], &wanted);
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
    prop_assert_eq!(&got[..wanted.len()], &wanted);
    prop_assert!(got.len() == wanted.len() || got.len() <= 60, "{} bytes for {}", got.len(), wanted.len());
    Ok(())
}

/// The ICMP error that a client gets about a packet to the VIP.
fn told(family: usize, packet: &Packet, kind: [u8; 2], word: u32, most: usize) -> Vec<u8> {
    [&CLIENT_MAC.0[..], &told_by(packet.to.0, family, packet, kind, word, most)].concat()
}

/// The same from an address, without the station that it is sent to.
fn told_by(from: IpAddr, family: usize, packet: &Packet, kind: [u8; 2], word: u32, most: usize) -> Vec<u8> {
    let bytes = packet.bytes();
    let quote = &bytes[..bytes.len().min(most - [28, 48][family])];
    let mut message = [&kind[..], &[0, 0], &word.to_be_bytes(), quote].concat();
    let (to, number) = (packet.from.0, [1, 58][family]);
    let sum = if family == 0 { internet_checksum(&message) } else { upper_sum(from, to, number, &message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = Header { tos: 0, ..Header::OUTER }.before(from, to, number, &message);
    [&OUR_MAC.0[..], &ether_type(&packet), &packet].concat()
}

#[test]
fn what_is_too_big_is_told_to_its_sender() {
    const ANSWER: Verdict = Verdict::Answer(PortIndex(0));
    for (family, backend) in pairs() {
        for (mode, more, overhead) in [("ipip", "", 0), ("gre", "", 4), ("gue", "", 12)] {
            let room = 9000 - [20, 40][backend] - overhead;
            let headers = [40, 60][family];
            let mut node = to(mode, family, backend, more);
            let fits = plain(family, false, room - headers);
            assert_eq!(node.verdict(&frame(&fits.bytes(), &[], 0)), FORWARD, "{mode} {family} {backend}");
            let too_big = plain(family, false, room - headers + 1);
            let (verdict, got) = node.receive(&frame(&too_big.bytes(), &[], 0));
            assert_eq!(verdict, ANSWER, "{mode} {family} {backend}");
            let wanted = told(family, &too_big, [[3, 4], [2, 0]][family], room as u32, [576, 1280][family]);
            assert_eq!(got, wanted, "{mode} {family} {backend}");
        }
    }
}

/// RFC 768: in UDP 0 says that there is no checksum, so one that comes out as 0 is sent as its other form.
#[test]
fn a_sum_of_zero_is_sent_as_ones() {
    for family in [0, 1] {
        // As the packet has to look behind its mode, with a payload that makes its sum 0.
        let summing_to_zero = |mut wanted: Packet| {
            wanted.payload = vec![0; 8];
            let sum =
                upper_sum(wanted.from.0, wanted.to.0, 17, &Packet { summed: false, ..wanted.clone() }.transport());
            wanted.payload[2..4].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(wanted.transport()[6..8], [0xff, 0xff]);
            wanted
        };
        let packet = plain(family, true, 8);
        let behind = Packet { to: (ip(BACKEND[family]), packet.to.1), ttl: packet.ttl - 1, ..packet.clone() };
        let wanted = summing_to_zero(behind.clone());
        let received = Packet { payload: wanted.payload.clone(), ..packet.clone() };
        let sent_by = |mode, more| to(mode, family, family, more).receive(&frame(&received.bytes(), &[], 0)).1;
        assert_eq!(sent_by("dnat", ""), sent(&wanted.bytes()));
        let coded = Packet { tos: 5 << 2, ..wanted.clone() };
        assert_eq!(sent_by("dscp", "\"dscp\": 5,"), sent(&coded.bytes()));
        assert_eq!(sent_by("dnat-dsr", ""), sent(&with_option(wanted.bytes(), packet.to, (false, false))));

        let tunnel = Tunnel::Geneve { own_port: false, has_checksum: false };
        let inner = summing_to_zero(Packet { to: tunnel.inner(packet.to), ..packet.clone() });
        let received = Packet { payload: inner.payload.clone(), ..packet.clone() };
        let (_, got) = node(&[&tunnel.service(family, family)], "").receive(&frame(&received.bytes(), &[], 0));
        assert!(got.ends_with(&inner.bytes()), "geneve {family}");
    }
}

/// From the VIP, too, though the packet was not sent to it.
#[test]
fn a_backend_is_told_of_its_reply() {
    for family in [0, 1] {
        let vip = ip(VIP[family]);
        let asked = plain(family, true, 10);
        let reply = Packet { from: (ip(BACKEND[family]), 53), to: asked.from, ..asked };
        let mut node = to("dnat", family, family, "");
        let mut receive = |packet: &Packet| {
            let (verdict, got) = node.receive(&frame(&packet.bytes(), &[7], 0));
            (verdict, got[..6].to_vec(), got[6..].to_vec())
        };
        let told = |packet: &Packet, kind: [[u8; 2]; 2], word| {
            let told = told_by(vip, family, packet, kind[family], word, [576, 1280][family]);
            (Verdict::Answer(PortIndex(0)), BACKEND_MAC.0.to_vec(), told)
        };
        let old = Packet { ttl: 1, ..reply.clone() };
        assert_eq!(receive(&old), told(&old, [[11, 0], [3, 0]], 0));

        let headers = [28, 48][family];
        let fits = Packet { payload: vec![7; 9000 - headers], ..reply.clone() };
        assert_eq!(receive(&fits).0, FORWARD);
        let big = Packet { payload: vec![7; 9000 - headers + 1], df: true, ..reply };
        assert_eq!(receive(&big), told(&big, [[3, 4], [2, 0]], 9000));
        if family == 0 {
            assert_eq!(receive(&Packet { df: false, ..big }).0, Verdict::Drop(Reason::TooBig));
        }
        // Not without end.
        let last = (0..1000).map(|_| receive(&old).0).last();
        assert_eq!(last, Some(Verdict::Drop(Reason::TtlExceeded)));
    }
}

#[test]
fn the_last_hop_is_told_to_its_sender_in_modes_that_route() {
    for family in [0, 1] {
        let packet = Packet { ttl: 1, ..plain(family, true, 10) };
        for (mode, more) in [("dnat", ""), ("dscp", "\"dscp\": 5,")] {
            let (verdict, got) = to(mode, family, family, more).receive(&frame(&packet.bytes(), &[], 0));
            assert_eq!(verdict, Verdict::Answer(PortIndex(0)), "{mode}");
            assert_eq!(got, told(family, &packet, [[11, 0], [3, 0]][family], 0, [576, 1280][family]));
        }
        for mode in ["ipip", "gre", "gue", "geneve", "l2dsr"] {
            assert_eq!(to(mode, family, family, "").verdict(&frame(&packet.bytes(), &[], 0)), FORWARD, "{mode}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the packet is like, its sender gets the error that is built from scratch, quoting it as it came.
    #[test]
    fn what_senders_are_told_quotes_their_packet(v4 in client(0), v6 in client(1), link in link()) {
        for (family, packet) in [v4, v6].into_iter().enumerate() {
            let most = [576, 1280][family];
            let tells = |mut node: Node, packet: &Packet, verdict: Verdict, kind: [[u8; 2]; 2], word: u32| {
                let got = node.receive(&frame(&packet.bytes(), &link.0, link.1));
                prop_assert_eq!(got, (verdict, told(family, packet, kind[family], word, most)));
                Ok(())
            };
            let answer = Verdict::Answer(PortIndex(0));
            let old = Packet { ttl: packet.id as u8 & 1, ..packet.clone() };
            tells(to("dnat", family, family, ""), &old, answer, [[11, 0], [3, 0]], 0)?;
            let big = Packet { payload: vec![7; 9000], df: true, ..packet.clone() };
            let room = 9000 - [20, 40][family];
            tells(to("ipip", family, family, ""), &big, answer, [[3, 4], [2, 0]], room)?;

            let rejects = format!(
                r#""vip": "{}", "forwarding": "gre", "no_backend": "reject", "backends": []"#, VIP[family]
            );
            let datagram = Packet { udp: true, to: (packet.to.0, 53), ..packet };
            let rejected = Verdict::Reject(PortIndex(0));
            tells(node(&[&rejects], ""), &datagram, rejected, [[3, 3], [1, 4]], 0)?;
        }
    }
}

#[test]
fn errors_are_limited_and_none_is_made_about_an_error() {
    let mut node = to("dnat", 0, 0, "");
    let old = Packet { ttl: 1, ..plain(0, true, 10) };
    let (old, mut answered) = (frame(&old.bytes(), &[], 0), 0);
    for _ in 0..200 {
        match node.verdict(&old) {
            Verdict::Answer(_) => answered += 1,
            verdict => assert_eq!(verdict, Verdict::Drop(penstock::counters::Reason::TtlExceeded)),
        }
    }
    assert_eq!(answered, 100);

    let about = error(ROUTER[0], ip(VIP[0]), 1, 0, &answer_to(&plain(0, true, 10)), 40);
    let verdict = to("dnat", 0, 0, "").verdict(&frame(&about, &[], 0));
    assert_eq!(verdict, Verdict::Drop(penstock::counters::Reason::TtlExceeded));
}

#[test]
fn who_may_not_be_served_is_told_so_where_the_service_wants_it() {
    const REJECT: Verdict = Verdict::Reject(PortIndex(0));
    for family in [0, 1] {
        let services = |more: &str| format!(r#""vip": "{}", "forwarding": "ipip", {more} "backends": []"#, VIP[family]);
        let mut silent = node(&[&services("")], "");
        let mut node = node(&[&services("\"no_backend\": \"reject\",")], "");
        let dropped = Verdict::Drop(penstock::counters::Reason::NoBackend);
        assert_eq!(silent.verdict(&frame(&plain(family, true, 10).bytes(), &[], 0)), dropped);

        let datagram = plain(family, true, 10);
        let (verdict, got) = node.receive(&frame(&datagram.bytes(), &[], 0));
        assert_eq!((verdict, got), (REJECT, told(family, &datagram, [[3, 3], [1, 4]][family], 0, [576, 1280][family])));

        // An ACK is answered with its own number; a SYN with the next.
        let segment = plain(family, false, 10);
        let mut syn = segment.bytes();
        let tcp = syn.len() - 30;
        syn[tcp + 13] = 2;
        let mut reset = syn.clone();
        reset[tcp + 13] = 4;
        let base = Packet { from: segment.to, to: segment.from, payload: vec![], ttl: 64, id: 0, ..segment.clone() };
        for (received, seq, ack, flags) in
            [(segment.bytes(), [5, 6, 7, 8], [0; 4], 4), (syn, [0; 4], (0x0102_0304 + 11_u32).to_be_bytes(), 20)]
        {
            let (verdict, got) = node.receive(&frame(&received, &[], 0));
            let mut wanted = base.bytes();
            let header = wanted.len() - 20;
            wanted[header + 4..header + 8].copy_from_slice(&seq);
            wanted[header + 8..header + 12].copy_from_slice(&ack);
            wanted[header + 12..header + 16].copy_from_slice(&[0x50, flags, 0, 0]);
            wanted[header + 16..header + 18].fill(0);
            let sum = upper_sum(base.from.0, base.to.0, TCP, &wanted[header..]);
            wanted[header + 16..header + 18].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(verdict, REJECT);
            assert_eq!(&got[..12], [CLIENT_MAC.0, OUR_MAC.0].concat());
            assert_eq!(&got[14..14 + wanted.len()], wanted);
            assert!(got[14 + wanted.len()..].iter().all(|&byte| byte == 0) && got.len() <= 74);
        }
        assert_eq!(node.verdict(&frame(&reset, &[], 0)), dropped, "a reset is not answered");
    }
}

#[test]
fn echo_to_a_vip_of_either_family() {
    for family in [0, 1] {
        for data in 0..40 {
            let (number, kind, reply) = [(1, 8, 0), (58, 128, 129)][family];
            let (client, vip) = (ip(["198.51.100.7", "2001:db8:2::7"][family]), ip(VIP[family]));
            let message = |kind: u8, from, to| {
                let mut message = [&[kind, 0, 0, 0, 0x12, 0x34, 0, 1][..], &vec![0xff; data]].concat();
                let sum = if family == 0 { internet_checksum(&message) } else { upper_sum(from, to, number, &message) };
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                Header { ttl: 64, tos: 3, id: 9, df: false, options: 0 }.before(from, to, number, &message)
            };
            let mut request = message(kind, client, vip);
            request[if family == 0 { 8 } else { 7 }] = 64;
            let (verdict, got) = to("ipip", family, family, "").receive(&frame(&request, &[], 0));
            assert_eq!(verdict, Verdict::Answer(PortIndex(0)));
            assert_eq!(got[14..], message(reply, vip, client));
        }
    }
}

#[test]
fn a_tag_goes_out_with_the_priority_that_came_in() {
    let tagged = CONFIG.replace(
        "mac = \"02:00:00:00:00:fd\"\nport = \"wan0\"",
        "mac = \"02:00:00:00:00:fd\"\nport = \"wan0\"\nvlan = 100",
    );
    for mode in ["ipip", "dnat", "l2dsr", "geneve"] {
        let service = format!(
            r#"{{"services": [{{"name": "a", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "{mode}",
                "backends": [{{"address": "10.1.0.1"}}]}}]}}"#
        );
        let mut node = Node::read(&tagged, &service);
        let packet = plain(0, false, 20).bytes();
        let (_, untagged) = to(mode, 0, 0, "").receive(&frame(&packet, &[], 0));
        for (tags, tag) in [(vec![], 100), (vec![7], 100), (vec![0xb007, 0xe001], 0xa000 | 100)] {
            let (verdict, got) = node.receive(&frame(&packet, &tags, 0));
            assert_eq!(verdict, FORWARD);
            let tag: u16 = tag;
            let wanted = [&untagged[..12], &[0x81, 0], &tag.to_be_bytes(), &untagged[12..]].concat();
            assert_eq!(got, wanted, "{mode} {tags:x?}");
        }
    }
}

#[test]
fn the_longest_prefix_then_the_exact_port_then_the_range_then_all() {
    let service = |name: &str, vip: &str, port: &str, backend: u8| {
        format!(
            r#"{{"name": "{name}", "vip": "{vip}", "port": {port}, "protocol": "tcp", "forwarding": "ipip",
                "backends": [{{"address": "10.1.1.{backend}"}}]}}"#
        )
    };
    let services = [
        service("wide", "192.0.2.0/24", "0", 1),
        service("range", "192.0.2.128/25", "\"8000-8099\"", 2),
        service("exact", "192.0.2.128/25", "8050", 3),
        service("one", "192.0.2.200", "80", 4),
        service("all", "192.0.2.201", "0", 5),
        service("all but", "192.0.2.201", "443", 6),
    ];
    let mut node = Node::read(CONFIG, &format!("{{\"services\": [{}]}}", services.join(",")));
    let mut backend = |vip: &str, port: u16| {
        let packet = Packet { to: (ip(vip), port), ..plain(0, false, 0) };
        match node.receive(&frame(&packet.bytes(), &[], 0)) {
            (Verdict::Forward(_), got) => got[33],
            (verdict, _) => {
                assert_eq!(verdict, Verdict::Drop(penstock::counters::Reason::NoService));
                0
            }
        }
    };
    for (vip, port, wanted) in [
        ("192.0.2.1", 1, 1),
        ("192.0.2.1", 65535, 1),
        ("192.0.2.130", 8000, 2),
        ("192.0.2.130", 8099, 2),
        ("192.0.2.130", 8050, 3),
        ("192.0.2.130", 8100, 0),
        ("192.0.2.130", 80, 0),
        ("192.0.2.200", 80, 4),
        ("192.0.2.200", 8050, 0),
        ("192.0.2.201", 80, 5),
        ("192.0.2.201", 443, 6),
    ] {
        assert_eq!(backend(vip, port), wanted, "{vip} {port}");
    }
}

#[test]
fn source_ip_goes_by_the_address_alone() {
    let backends: Vec<_> = (1..=20).map(|k| format!("{{\"address\": \"10.1.1.{k}\"}}")).collect();
    for family in [0, 1] {
        let service = format!(
            r#""vip": "{}", "forwarding": "ipip", "hash": "source-ip", "backends": [{}]"#,
            VIP[family],
            backends.join(",")
        );
        let mut node = node(&[&service], "");
        let mut chosen = |last: u8, port: u16| {
            let mut packet = plain(family, false, 0);
            packet.from = (ip(&format!("{}{last}", ["198.51.100.", "2001:db8:2::"][family])), port);
            node.receive(&frame(&packet.bytes(), &[], 0)).1[33]
        };
        let of: Vec<_> = (1..60).map(|last| chosen(last, 1000)).collect();
        assert!((1..60).zip(&of).all(|(last, &wanted)| (1001..1020).all(|port| chosen(last, port) == wanted)));
        assert!(of.iter().collect::<std::collections::BTreeSet<_>>().len() > 10, "{of:?}");
    }
}

#[test]
fn the_outer_source_is_the_flows_where_it_is_spread() {
    let more = "rss_source_v4 = \"100.64.0.0/16\"\nrss_source_v6 = \"fd00:7::/96\"";
    for (vip, backend) in pairs() {
        for mode in ["ipip", "gre", "gue"] {
            let service = format!(
                r#""vip": "{}", "forwarding": "{mode}", "backends": [{{"address": "{}"}}]"#,
                VIP[vip], BACKEND[backend]
            );
            let mut spread = node(&[&service], more);
            for port in 1..50 {
                let mut packet = plain(vip, false, 20);
                packet.from.1 = port;
                let received = frame(&packet.bytes(), &[], 0);
                let (_, got) = spread.receive(&received);
                let (_, mut wanted) = to(mode, vip, backend, "").receive(&received);
                if backend == 0 {
                    let own = hash(&packet) as u16;
                    wanted[26..30].copy_from_slice(&[100, 64, (own >> 8) as u8, own as u8]);
                    wanted[24..26].fill(0);
                    let sum = internet_checksum(&wanted[14..34]);
                    wanted[24..26].copy_from_slice(&sum.to_be_bytes());
                } else {
                    let prefix = octets(ip("fd00:7::"));
                    wanted[22..38].copy_from_slice(&[&prefix[..12], &(hash(&packet) as u32).to_be_bytes()].concat());
                }
                assert_eq!(got, wanted, "{mode}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn dnat_dsr(v4 in client(0), v6 in client(1), link in link(), own_port: bool, host: bool, syn: bool) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let order = if host { r#""byte_order": "host","# } else { "" };
            let port = if own_port { ", \"port\": 8080" } else { "" };
            let service = format!(
                r#""vip": "{}", "forwarding": "dnat-dsr", {order} "backends": [{{"address": "{}"{port}}}]"#,
                VIP[family], BACKEND[family]
            );
            let mut received = packet.bytes();
            let backend = (ip(BACKEND[family]), if own_port { 8080 } else { packet.to.1 });
            let meant = Packet { to: backend, ttl: packet.ttl - 1, ..packet.clone() };
            // Only what opens a TCP flow carries the option: the flags stand 13 bytes behind the header, and their change is
            // in the checksum.
            let mut wanted =
                if packet.udp || syn { with_option(meant.bytes(), packet.to, (host && family == 0, host)) } else { meant.bytes() };
            if syn && !packet.udp {
                for (bytes, from, to) in [(&mut received, packet.from.0, packet.to.0), (&mut wanted, packet.from.0, backend.0)] {
                    let tcp = bytes.len() - 20 - packet.payload.len();
                    bytes[tcp + 13] = 2;
                    bytes[tcp + 16..tcp + 18].fill(0);
                    let sum = upper_sum(from, to, TCP, &bytes[tcp..]);
                    bytes[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
                }
            }
            let (verdict, got) = node(&[&service], "").receive(&frame(&received, &link.0, link.1));
            prop_assert_eq!(verdict, FORWARD);
            let wanted = sent(&wanted);
            prop_assert_eq!(&got[..wanted.len()], &wanted);
            prop_assert!(got.len() == wanted.len() || got.len() <= 60);
        }
    }
}

#[test]
fn the_option_of_the_contract() {
    let option = |order: &str| {
        let service = format!(
            r#"{{"services": [{{"name": "a", "vip": "172.16.10.2", "port": 80, "protocol": "udp", "forwarding": "dnat-dsr", {order}
                "backends": [{{"address": "10.1.0.1"}}]}}]}}"#
        );
        let packet = Packet { to: (ip("172.16.10.2"), 80), ..plain(0, true, 5) };
        Node::read(CONFIG, &service).receive(&frame(&packet.bytes(), &[], 0)).1[34..42].to_vec()
    };
    assert_eq!(option(""), [0x9a, 0x08, 0, 80, 172, 16, 10, 2]);
    assert_eq!(option("\"byte_order\": \"host\","), [0x9a, 0x08, 0x50, 0x00, 0x02, 0x0a, 0x10, 0xac]);
}

/// A TCP packet whose flags are these; the client's ACK otherwise.
fn flagged(packet: &Packet, flags: u8) -> Vec<u8> {
    let mut bytes = packet.bytes();
    let tcp = bytes.len() - 20 - packet.payload.len();
    bytes[tcp + 13] = flags;
    bytes[tcp + 16..tcp + 18].fill(0);
    let sum = upper_sum(packet.from.0, packet.to.0, TCP, &bytes[tcp..]);
    bytes[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn where_flows_are_remembered_one_that_was_not_seen_to_begin_is_told_of_in_every_packet() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    for family in [0, 1] {
        let opened = plain(family, false, 50);
        let met = Packet { from: (opened.from.0, opened.from.1 + 1), ..opened.clone() };
        let carries = |node: &mut Node, packet: &Packet, flags: u8| {
            let (verdict, got) = node.receive(&frame(&flagged(packet, flags), &[], 0));
            assert_eq!(verdict, FORWARD);
            let meant = Packet { to: (ip(BACKEND[family]), packet.to.1), ttl: packet.ttl - 1, ..packet.clone() };
            let without = sent(&flagged(&meant, flags));
            let with = with_option(without[14..].to_vec(), packet.to, (false, false));
            assert!(got == without || got == sent(&with));
            got.len() > without.len()
        };
        let mut node = to("dnat-dsr", family, family, "\"tracking\": \"full\",");
        for _ in 0..2 {
            assert!(carries(&mut node, &met, ACK) && carries(&mut node, &opened, ACK));
        }
        assert!(carries(&mut node, &opened, SYN) && carries(&mut node, &opened, SYN));
        for flags in [ACK, ACK, ACK | SYN] {
            assert!(!carries(&mut node, &opened, flags));
        }
        assert!(carries(&mut node, &met, ACK), "it is still the other's");
        // Under "none" only a SYN tells.
        let mut node = to("dnat-dsr", family, family, "\"tracking\": \"none\",");
        assert!(!carries(&mut node, &met, ACK) && carries(&mut node, &met, SYN));
    }
}

#[test]
fn a_flow_that_moves_is_told_of_to_its_new_backend() {
    let mut node = to("dnat-dsr", 0, 0, "\"tracking\": \"full\",");
    let packet = plain(0, false, 50);
    let length = |node: &mut Node, flags| node.receive(&frame(&flagged(&packet, flags), &[], 0)).1.len();
    let with = length(&mut node, 2);
    assert_eq!(length(&mut node, 16), with - 8);
    let service = format!(
        r#""vip": "{}", "forwarding": "dnat-dsr", "tracking": "full", "backends": [{{"address": "10.1.0.9"}}]"#,
        VIP[0]
    );
    node.snapshot = support::packets::node(&[&service], "").snapshot;
    assert_eq!((length(&mut node, 16), length(&mut node, 16)), (with, with));
}

#[test]
fn a_syn_that_does_not_leave_begins_nothing() {
    let mut node = to("dnat-dsr", 0, 0, "\"tracking\": \"full\",");
    let packet = plain(0, false, 50);
    let old = Packet { ttl: 1, ..packet.clone() };
    assert_eq!(node.verdict(&frame(&flagged(&old, 2), &[], 0)), Verdict::Answer(PortIndex(0)));
    let length = |node: &mut Node, flags| node.receive(&frame(&flagged(&packet, flags), &[], 0)).1.len();
    let told = length(&mut node, 16);
    assert_eq!((length(&mut node, 2), length(&mut node, 16)), (told, told - 8));
}

#[test]
fn the_option_takes_room() {
    let mut node = to("dnat-dsr", 0, 0, "");
    for (options, verdict) in [(8, FORWARD), (9, Verdict::Drop(penstock::counters::Reason::NoRoomForOption))] {
        let packet = Packet { options, ..plain(0, true, 5) };
        assert_eq!(node.verdict(&frame(&packet.bytes(), &[], 0)), verdict, "{options} words of options");
    }
    for family in [0, 1] {
        let mut node = to("dnat-dsr", family, family, "");
        let room = 9000 - [8, 24][family];
        let headers = [28, 48][family];
        assert_eq!(node.verdict(&frame(&plain(family, true, room - headers).bytes(), &[], 0)), FORWARD);
        let too_big = plain(family, true, room - headers + 1);
        let (verdict, got) = node.receive(&frame(&too_big.bytes(), &[], 0));
        assert_eq!(verdict, Verdict::Answer(PortIndex(0)));
        assert_eq!(got, told(family, &too_big, [[3, 4], [2, 0]][family], room as u32, [576, 1280][family]));
        // What carries none has all of it.
        let headers = [40, 60][family];
        assert_eq!(node.verdict(&frame(&plain(family, false, 9000 - headers).bytes(), &[], 0)), FORWARD);
    }
}

#[test]
fn a_connection_id_names_its_server() {
    let backends: Vec<_> = (1..=9)
        .map(|k| {
            let state = if k == 9 {
                "down"
            } else if k == 8 {
                "draining"
            } else {
                "active"
            };
            format!(r#"{{"address": "10.1.1.{k}", "server_id": "0a0{k}", "state": "{state}"}}"#)
        })
        .collect();
    let service = format!(
        r#"{{"services": [{{"name": "q", "vip": "192.0.2.1", "port": 443, "protocol": "udp", "forwarding": "ipip", "hash": "quic-cid",
            "quic": {{"config_id": 2, "server_id_length": 2}}, "backends": [{}]}}]}}"#,
        backends.join(",")
    );
    let mut node = Node::read(CONFIG, &service);
    let mut chosen = |port: u16, payload: &[u8]| {
        let mut packet = plain(0, true, 0);
        (packet.from.1, packet.to.1, packet.payload) = (port, 443, payload.to_vec());
        let (verdict, got) = node.receive(&frame(&packet.bytes(), &[], 0));
        assert_eq!(verdict, FORWARD);
        got[33]
    };
    let short = |config: u8, server: u8| [&[0x40, config << 5 | 9, 10, server][..], &[0x55; 30]].concat();
    let long = |first: u8, version: u32, id: &[u8]| {
        [&[first][..], &version.to_be_bytes(), &[id.len() as u8], id, &[8; 40]].concat()
    };
    for port in 1000..1020 {
        let usual = chosen(port, b"no QUIC at all");
        for server in 1..=8 {
            assert_eq!(chosen(port, &short(2, server)), server, "whatever the address");
            assert_eq!(chosen(port, &long(0xe0, 1, &[2 << 5, 10, server, 1, 2, 3, 4])), server, "a handshake");
            assert_eq!(chosen(port, &long(0xc0, 1, &[2 << 5, 10, server, 1, 2, 3, 4])), usual, "an Initial");
            assert_eq!(chosen(port, &short(7, server)), usual, "unroutable");
            assert_eq!(chosen(port, &short(3, server)), usual, "another configuration");
        }
        assert_eq!(chosen(port, &short(2, 77)), usual, "an unknown server");
        assert_eq!(chosen(port, &short(2, 9)), usual, "a server that is down");
        assert_eq!(chosen(port, &[0x40, 2 << 5, 10]), usual, "half an ID");
        assert_eq!(chosen(port, &long(0xe0, 1, &[2 << 5, 10])), usual, "half an ID, by its length");
    }
}

/// The lcore that gets the fragments is mostly not that of the flow's whole packets.
#[test]
fn a_flow_that_a_fragment_opens_is_known_by_any_number_of_lcores() {
    for family in [0, 1] {
        let service = format!(
            r#"{{"services": [{{"name": "a", "vip": "{}", "port": 80, "protocol": "tcp", "forwarding": "dnat-dsr", "tracking": "full", "backends": [{{"address": "{}"}}]}}]}}"#,
            VIP[family], BACKEND[family]
        );
        let frames: Vec<_> = (0..20)
            .flat_map(|port| {
                let mut packet = plain(family, false, 200);
                packet.from.1 = 4000 + port;
                let mut parts = fragments(&packet, 64, 7);
                let flags = parts[0].len() - 64 + 13;
                parts[0][flags] = 2; // SYN; its sum is nobody's business
                [frame(&parts[0], &[], 0), frame(&parts[1], &[], 0), frame(&packet.bytes(), &[], 0)]
            })
            .collect();
        support::replay::several_lcores_do_what_one_does(CONFIG, &service, &frames);
    }
}

/// In the capture's time, and by any number of lcores.
#[test]
fn in_replay_what_the_fabric_says_holds_from_the_next_frame_on() {
    use support::replay::replayed_at;
    let service = |backend| {
        format!(
            r#"{{"services": [{{"name": "a", "vip": "{}", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": [{{"address": "{backend}"}}]}}]}}"#,
            VIP[0]
        )
    };
    let big = frame(&plain(0, false, 1300).bytes(), &[], 0);
    let (us, s) = (1_000, 1_000_000_000);
    let sent = |lcores, capture: &[(u64, Vec<u8>)]| replayed_at(lcores, CONFIG, &service(BACKEND[0]), capture).sent;
    let wrapped = sent(1, &[(0, big.clone())]).remove(0).1;
    let says = |mtu| complaint(&wrapped, mtu, 500);
    for lcores in [1, 2, 4] {
        let answered = |capture: &[(u64, Vec<u8>)]| -> Vec<bool> {
            // By its source: what goes on is in a tunnel of the node's.
            sent(lcores, capture).iter().map(|(_, frame)| frame[26..30] == [192, 0, 2, 1]).collect()
        };
        assert_eq!(
            answered(&[(0, big.clone()), (us, says(1200)), (2 * us, big.clone())]),
            [false, true, true],
            "{lcores}"
        );
        for later in [600 * s, 3600 * s] {
            let capture = [(0, says(1200)), (600 * s - us, big.clone()), (later, big.clone())];
            assert_eq!(answered(&capture), [true, true, false], "{lcores}: ten minutes after it was said");
        }
        let capture = [(0, says(1200)), (500 * s, says(1400)), (601 * s, big.clone()), (1100 * s, big.clone())];
        assert_eq!(answered(&capture), [true, true, false, false], "{lcores}: 1400 are enough");
    }
}

#[test]
fn what_the_fabric_says_of_a_tunnel_is_learnt_and_relayed() {
    for (vip, backend) in pairs() {
        for mode in ["ipip", "gre", "gue", "geneve"] {
            let service = format!(
                r#""vip": "{}", "forwarding": "{mode}", "backends": [{{"address": "{}"{}}}]"#,
                VIP[vip],
                if mode == "geneve" { ["10.9.0.7", "fd00:9::7"][vip] } else { BACKEND[backend] },
                if mode == "geneve" {
                    format!(r#", "tunnel_endpoint": "{}""#, BACKEND[backend])
                } else {
                    String::new()
                },
            );
            let mut node = node(&[&service], "");
            let big = plain(vip, false, 1400);
            let (verdict, forwarded) = node.receive(&frame(&big.bytes(), &[], 0));
            assert_eq!(verdict, FORWARD);
            let overhead = forwarded.len() - 14 - big.bytes().len();
            let room = 1300 - overhead;

            // With enough of a quote the client is told, by its own packet as far as that is known.
            let kept = 500;
            let (verdict, got) = node.receive(&complaint(&forwarded, 1300, kept));
            assert_eq!(verdict, Verdict::Answer(PortIndex(0)), "{mode} {vip} {backend}");
            let known = big.bytes()[..kept - overhead].to_vec();
            let mut message = [[&[3, 4][..], &[2, 0]][vip], &[0; 4], &(room as u16).to_be_bytes(), &known].concat();
            let (from, to, number) = (big.to.0, big.from.0, [1, 58][vip]);
            let sum = if vip == 0 { internet_checksum(&message) } else { upper_sum(from, to, number, &message) };
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(got[14..], Header::OUTER.before(from, to, number, &message), "{mode} {vip} {backend}");
            assert_eq!(got[..12], [CLIENT_MAC.0, OUR_MAC.0].concat());

            // From now on the way is narrower; for ten minutes.
            let again = |node: &mut Node, ms| {
                node.now = Millis(ms);
                assert!(node.compiler.learn(node.now));
                let (config, _) = Config::read(CONFIG, "c").unwrap();
                let (definitions, _) = service::native(
                    format!(r#"{{"services": [{{"name": "0tcp", "port": 80, "protocol": "tcp", {service}}}]}}"#),
                    "s",
                    None,
                )
                .unwrap();
                node.snapshot = node.compiler.compile(&definitions, &config.fabric(), node.now);
                node.receive(&frame(&big.bytes(), &[], 0))
            };
            let wanted = told(vip, &big, [[3, 4], [2, 0]][vip], room as u32, [576, 1280][vip]);
            assert_eq!(again(&mut node, 1), (Verdict::Answer(PortIndex(0)), wanted));
            assert_eq!(again(&mut node, 600_001).0, FORWARD);
        }
    }
}

#[test]
fn what_the_fabric_says_of_others_is_the_kernels() {
    let mut node = to("ipip", 0, 0, "");
    let (_, forwarded) = node.receive(&frame(&plain(0, false, 1400).bytes(), &[], 0));
    assert_eq!(node.verdict(&complaint(&forwarded, 1300, 28)), Verdict::Punt, "too short a quote");
    assert!(node.compiler.learn(Millis(0)), "but it says how narrow the way is");
    let changed = |at: usize, byte: u8| {
        let mut forwarded = forwarded.clone();
        forwarded[14 + at] = byte;
        complaint(&forwarded, 1300, 500)
    };
    for (at, byte, what) in
        [(12, 9, "another source"), (19, 77, "no endpoint"), (9, 47, "another tunnel"), (36, 203, "no VIP")]
    {
        assert_eq!(node.verdict(&changed(at, byte)), Verdict::Punt, "{what}");
    }
    let mut unreachable = complaint(&forwarded, 1300, 500);
    unreachable[35] = 1;
    assert_eq!(node.verdict(&unreachable), Verdict::Punt, "no \"too big\"");
    assert_eq!(node.verdict(&complaint(&forwarded, 0, 500)), Verdict::Punt, "no MTU");
}

#[test]
fn relayed_errors_are_limited_too() {
    let mut node = to("ipip", 0, 0, "");
    let (_, forwarded) = node.receive(&frame(&plain(0, false, 1400).bytes(), &[], 0));
    let complaint = complaint(&forwarded, 1300, 500);
    let answered = (0..150).filter(|_| match node.verdict(&complaint) {
        Verdict::Answer(_) => true,
        verdict => {
            assert_eq!(verdict, Verdict::Drop(penstock::counters::Reason::IcmpLimited));
            false
        }
    });
    assert_eq!(answered.count(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Everything at once: both families, all modes, fragments, errors, echoes, what is too big or too old.
    #[test]
    fn several_lcores_do_what_one_does(
        steps in proptest::collection::vec((0usize..2, 0u16..6, 0usize..9, 0usize..7, any::<u16>()), 1..300),
    ) {
        let mut services = Vec::new();
        for (number, mode) in ["ipip", "gre", "gue", "geneve", "dscp", "dnat", "dnat-dsr"].iter().enumerate() {
            for family in [0, 1] {
                let backends: Vec<_> = (1..=3)
                    .map(|k| format!("{{\"address\": \"{}{number}{k}\"}}", ["10.2.0.1", "fd00:2::1"][family]))
                    .collect();
                let code = if *mode == "dscp" { "\"dscp\": 9," } else { "" };
                services.push(format!(
                    r#"{{"name": "{number}{family}", "vip": "{}", "port": {}, "protocol": "udp", "forwarding": "{mode}", {code}
                        "backends": [{}]}}"#,
                    VIP[family], 1000 + number, backends.join(",")
                ));
            }
        }
        let services = format!("{{\"services\": [{}]}}", services.join(","));
        let frames: Vec<_> = steps.into_iter().map(|(family, client, kind, service, id)| {
            let mut packet = plain(family, true, 100);
            packet.from.1 = 2000 + client;
            // Fragments have no DF, and in tunnels outer identifications then count, each lcore for itself.
            let service = if matches!(kind, 2 | 3) { 4 + service % 3 } else { service };
            packet.to.1 = 1000 + service as u16;
            let bytes = match kind {
                0 => Packet { ttl: 1, ..packet }.bytes(),
                1 => Packet { payload: vec![7; 9000], ..packet }.bytes(),
                2 => fragments(&packet, 64, client)[0].clone(),
                3 => fragments(&packet, 64, client)[1].clone(),
                4 => error(ROUTER[family], packet.to.0, 60, 0, &answer_to(&packet), 80),
                5 => Packet { to: (packet.to.0, 9), ..packet }.bytes(),
                _ => Packet { id, ..packet }.bytes(),
            };
            frame(&bytes, &[], 0)
        }).collect();
        let one = replayed(1, CONFIG, &services, &frames);
        for lcores in [2, 4] {
            prop_assert!(replayed(lcores, CONFIG, &services, &frames) == one, "{} lcores", lcores);
        }
    }
}

#[test]
fn the_option_of_geneve_names_the_packets_own_vip_and_port() {
    for (family, prefix, vip) in [(0, "192.0.2.0/24", "192.0.2.77"), (1, "2001:db8:1::/64", "2001:db8:1::77")] {
        let backend = BACKEND[family];
        let service =
            |ends: &str| format!(r#"{ends}, "forwarding": "geneve", "backends": [{{"address": "{backend}"}}]"#);
        let mut one = node(&[&service(&format!(r#""port": 8081, "vip": "{vip}""#))], "");
        let packet = Packet { to: (ip(vip), 8081), ..plain(family, false, 30) };
        let (verdict, wanted) = one.receive(&frame(&packet.bytes(), &[], 0));
        assert_eq!(verdict, FORWARD);
        for ends in [
            format!(r#""port": 8081, "vip": "{prefix}""#),
            format!(r#""port": "8000-8099", "vip": "{vip}""#),
            format!(r#""port": 0, "vip": "{prefix}""#),
        ] {
            let (verdict, got) = node(&[&service(&ends)], "").receive(&frame(&packet.bytes(), &[], 0));
            assert_eq!((verdict, got == wanted), (FORWARD, true), "{ends}");
        }
    }
}

#[test]
fn a_prefix_is_rewritten_from_whatever_address_the_packet_has() {
    for (family, prefix, vip) in [(0, "192.0.2.0/24", "192.0.2.77"), (1, "2001:db8:1::/64", "2001:db8:1::77")] {
        for (mode, more) in [("dscp", "\"dscp\": 5,"), ("dnat-dsr", "")] {
            let service = |vip: &str| {
                let backend = BACKEND[family];
                format!(r#""vip": "{vip}", "forwarding": "{mode}", {more} "backends": [{{"address": "{backend}"}}]"#)
            };
            for udp in [false, true] {
                let mut packet = plain(family, udp, 30);
                packet.to.0 = ip(vip);
                let received = frame(&packet.bytes(), &[], 0);
                let wanted = node(&[&service(vip)], "").receive(&received);
                assert_eq!(wanted.0, FORWARD);
                assert!(node(&[&service(prefix)], "").receive(&received) == wanted, "{mode} {prefix}");
            }
        }
    }
}

#[test]
fn replies_of_an_endpoint_of_many_ports_keep_theirs() {
    for family in [0, 1] {
        let service = format!(
            r#""port": "8000-8099", "vip": "{}", "forwarding": "dnat", "backends": [{{"address": "{}"}}]"#,
            VIP[family], BACKEND[family]
        );
        let mut node = node(&[&service], "");
        for udp in [false, true] {
            let packet = Packet { to: (ip(VIP[family]), 8050), ..plain(family, udp, 20) };
            let backend = (ip(BACKEND[family]), 8050);
            let (verdict, got) = node.receive(&frame(&packet.bytes(), &[], 0));
            let wanted = sent(&Packet { to: backend, ttl: 59, ..packet.clone() }.bytes());
            assert_eq!((verdict, got), (FORWARD, wanted));
            let reply = Packet { from: backend, to: packet.from, ..packet.clone() };
            let (verdict, got) = node.receive(&frame(&reply.bytes(), &[], 0));
            let wanted = Packet { from: packet.to, ttl: 59, ..reply.clone() }.bytes();
            assert_eq!((verdict, &got[14..]), (FORWARD, &wanted[..]));
            let stranger = Packet { from: (backend.0, 8100), ..reply };
            assert_eq!(node.verdict(&frame(&stranger.bytes(), &[], 0)), Verdict::Punt);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Of any services, in any order: what is done to a frame does not depend on its neighbours in the burst.
    #[test]
    fn a_burst_of_everything_is_the_sum_of_its_frames(
        steps in proptest::collection::vec((prop_oneof![9 => Just(0usize), 1 => Just(1)], any::<u16>(), 0u16..14, any::<bool>()), 1..=32),
        all_the_frames: bool,
    ) {
        // Often a whole burst of flows of one packet each.
        let steps: Vec<_> = if all_the_frames { steps.iter().cycle().take(32).enumerate().map(|(k, &(f, c, kind, udp))| (f, c ^ k as u16, kind, udp)).collect() } else { steps };
        let mut node = Node::read(include_str!("../fuzz/penstock.toml"), include_str!("../fuzz/services.json"));
        let frames: Vec<_> = steps.into_iter().map(|(family, client, kind, udp)| {
            // Eight ports of one mode each, one that rejects, QUIC with one server's ID or another's, one that refuses.
            let (port, udp, payload) = match kind {
                0..=8 => (80 + kind, udp, vec![b'x'; 20]),
                9 | 10 => (443, true, vec![0x40, 0x21, kind as u8 - 8, 0x55, 0x55]),
                11 => (444, false, vec![]),
                _ => (80, udp, vec![]),
            };
            let mut packet = Packet { payload, ..plain(family, udp, 0) };
            (packet.from.1, packet.to.1) = (client, port);
            frame(&packet.bytes(), &[], 26)
        }).collect();
        let alone: Vec<_> = frames.iter().map(|frame| node.receive(frame)).collect();
        let counted = |node: &Node| node.counted().into_values().fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        let once = counted(&node);
        prop_assert_eq!(node.burst(&frames), alone);
        prop_assert_eq!(counted(&node), (2 * once.0, 2 * once.1));
    }

    /// Of one mode, each packet of another flow or not, and some larger than the port takes.
    #[test]
    fn a_burst_of_one_mode_is_the_sum_of_its_frames(
        mode in 0_u16..=8,
        steps in proptest::collection::vec(
            (prop_oneof![9 => Just(0_u16), 1 => Just(1)], any::<bool>(), prop_oneof![6 => 0_usize..30, 1 => 1405_usize..1470]),
            1..=BURST,
        ),
    ) {
        let mut clients = 0;
        let frames: Vec<_> = steps.into_iter().map(|(as_before, udp, payload)| {
            clients += 1 - as_before;
            let mut packet = Packet { payload: vec![b'x'; payload], ..plain(0, udp, 0) };
            (packet.from.1, packet.to.1) = (40_000 + 7 * clients, 80 + mode);
            frame(&packet.bytes(), &[], 26)
        }).collect();
        let node = || Node::read(include_str!("../fuzz/penstock.toml"), include_str!("../fuzz/services.json"));
        let [mut one_by_one, mut at_once] = [node(), node()];
        let alone: Vec<_> = frames.iter().map(|frame| one_by_one.receive(frame)).collect();
        // What is refused is not among what was sent.
        let sent = alone.iter().filter(|(verdict, _)| matches!(verdict, Verdict::Forward(_))).count();
        prop_assert_eq!(at_once.burst(&frames), alone);
        prop_assert_eq!(at_once.counted(), one_by_one.counted());
        prop_assert_eq!(at_once.counted().into_values().map(|(packets, _)| packets).sum::<u64>(), sent as u64);
    }
}

#[test]
fn a_reset_for_a_segment_whose_options_are_in_the_next_fragment() {
    for family in [0, 1] {
        let service =
            format!(r#""vip": "{}", "forwarding": "ipip", "no_backend": "reject", "backends": []"#, VIP[family]);
        let [mut first, _] = fragments(&plain(family, false, 60), 24, 7);
        // A SYN with 40 bytes of options, 4 of which are here.
        let tcp = first.len() - 24;
        (first[tcp + 12], first[tcp + 13]) = (0xf0, 2);
        let (verdict, got) = node(&[&service], "").receive(&frame(&first, &[], 0));
        assert_eq!(verdict, Verdict::Reject(PortIndex(0)));
        let header = 14 + [20, 40][family];
        assert_eq!(got[header + 8..header + 12], 0x0102_0305_u32.to_be_bytes(), "the SYN alone");
    }
}
