//! Fragments, in each mode: the first with its ports, later ones after it.

mod support;

use penstock::pipeline::Verdict;
use penstock::snapshot::{Millis, PortIndex};
use proptest::prelude::*;
use support::expected::*;
use support::packets::*;
use support::replay::{Replayed, replayed_at};
use support::{CLIENT_MAC, OUR_MAC, UDP};

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

#[test]
fn later_fragments_go_where_their_first_went() {
    for family in [0, 1] {
        let from = (ip(["198.51.100.7", "2001:db8:2::7"][family]), 40000);
        let packet = Packet {
            from,
            to: (ip(VIP[family]), 53),
            udp: true,
            tos: 0,
            ttl: 60,
            id: 7,
            df: false,
            payload: (0..1000).map(|k| k as u8).collect(),
            summed: true,
            options: 0,
        };
        for (mode, more) in [("dnat", ""), ("dscp", "\"dscp\": 5,"), ("ipip", "")] {
            let mut node = to(mode, family, family, more);
            let [first, later] = fragments(&packet, 512, 7);
            let unknown = Verdict::Drop(penstock::counters::Reason::FragmentUnknown);
            assert_eq!(node.verdict(&frame(&later, &[], 0)), unknown, "{mode}: before its first");
            let received = [&first, &later].map(|part| node.receive(&frame(part, &[], 0)));
            assert_eq!([received[0].0, received[1].0], [FORWARD, FORWARD], "{mode}");
            if mode == "ipip" {
                let skip = 14 + [20, 40][family];
                assert_eq!([&received[0].1[skip..], &received[1].1[skip..]], [&first, &later]);
            } else {
                // Put together they are the packet that was meant for the backend.
                let mut meant = packet.clone();
                (meant.to.0, meant.ttl) = (ip(BACKEND[family]), 59);
                if mode == "dscp" {
                    meant.tos = 5 << 2;
                }
                let wanted = fragments(&meant, 512, 7).map(|part| sent(&part));
                assert_eq!([&received[0].1, &received[1].1], [&wanted[0], &wanted[1]], "{mode}");
            }
            node.now = Millis(2000);
            assert_eq!(node.verdict(&frame(&later, &[], 0)), FORWARD);
            node.now = Millis(2001);
            assert_eq!(node.verdict(&frame(&later, &[], 0)), unknown);
        }
    }
}

#[test]
fn a_service_by_source_ip_on_all_ports_needs_no_memory_of_fragments() {
    let service = r#""port": 0, "vip": "192.0.2.1", "forwarding": "ipip", "hash": "source-ip", "backends": [{"address": "10.1.0.1"}]"#;
    let [_, later] = fragments(&plain(0, true, 100), 64, 9);
    assert_eq!(node(&[service], "").verdict(&frame(&later, &[], 0)), FORWARD);
}

#[test]
fn a_later_fragment_may_wait_for_its_first() {
    use penstock::counters::Reason;
    let services = r#"{"services": [{"name": "a", "vip": "192.0.2.1", "port": 53, "protocol": "udp", "forwarding": "dnat",
        "backends": [{"address": "10.1.0.1"}]}, {"name": "b", "vip": "2001:db8:1::1", "port": 53, "protocol": "udp",
        "forwarding": "dnat", "backends": [{"address": "fd00:1::1"}]}]}"#;
    let holds = CONFIG.replace("[hash]", "[fragments]\nhold = \"20ms\"\n[hash]");
    for family in [0, 1] {
        let parts = |id| fragments(&plain(family, true, 200), 64, id).map(|part| frame(&part, &[], 0));
        let meant = |id| {
            let mut packet = plain(family, true, 200);
            (packet.to.0, packet.ttl) = (ip(BACKEND[family]), 59);
            fragments(&packet, 64, id).map(|part| sent(&part))
        };
        let ([first_a, later_a], [first_b, later_b]) = (parts(1), parts(2));
        let ms = 1_000_000;
        let capture = [
            (0, later_a.clone()),
            (5 * ms, later_b.clone()),
            (6 * ms, later_a.clone()),
            (20 * ms, first_a.clone()),
            (21 * ms, later_a.clone()),
            (26 * ms, first_b.clone()),
            (27 * ms, later_b.clone()),
        ];
        for lcores in [1, 4] {
            let Replayed { sent, report, .. } = replayed_at(lcores, &holds, services, &capture);
            let ([first_a, later_a], [first_b, later_b]) = (meant(1), meant(2));
            // The first of b came 21 ms after the fragment that waited: too late.
            let wanted = [
                (20 * ms, first_a),
                (20 * ms, later_a.clone()),
                (20 * ms, later_a.clone()),
                (21 * ms, later_a),
                (26 * ms, first_b),
                (27 * ms, later_b),
            ];
            assert!(sent == wanted, "{:?}", sent.iter().map(|frame| frame.0).collect::<Vec<_>>());
            let counted = (report.totals.forwarded, report.dropped().collect::<Vec<_>>());
            assert_eq!(counted, (6, vec![(Reason::FragmentUnknown, 1)]));
        }
        // What still waits at the end has waited in vain.
        let report = replayed_at(1, &holds, services, &capture[..2]).report;
        assert_eq!(report.dropped().next(), Some((Reason::FragmentUnknown, 2)));
        // However many come, so many wait.
        let flood: Vec<_> = (0..1000).map(|id| (u64::from(id), parts(id)[1].clone())).collect();
        assert_eq!(
            replayed_at(1, &holds, services, &flood).report.totals.dropped[Reason::FragmentUnknown as usize],
            1000
        );
    }
}

#[test]
fn a_packet_whole_in_one_fragment_is_a_whole_packet() {
    let packet = plain(1, true, 20);
    let transport = packet.transport();
    let atomic = |packet: &Packet, transport: &[u8]| {
        let header = Header { tos: 0, ttl: packet.ttl, id: 0, df: true, options: 0 };
        header.before(packet.from.0, packet.to.0, 44, &[&[UDP, 0, 0, 0, 1, 2, 3, 4], transport].concat())
    };
    let (verdict, got) = to("dnat", 1, 1, "").receive(&frame(&atomic(&packet, &transport), &[], 0));
    let meant = Packet { to: (ip(BACKEND[1]), 53), ttl: 59, ..packet };
    assert_eq!((verdict, got), (FORWARD, sent(&atomic(&meant, &meant.transport()))));
}

/// A packet that is long enough to be cut behind any transport header, and is not told to stay whole.
fn divisible(family: usize) -> impl Strategy<Value = Packet> {
    (client(family), proptest::collection::vec(any::<u8>(), 60..300)).prop_map(|(packet, payload)| Packet {
        payload,
        df: false,
        options: 0,
        ..packet
    })
}

/// The frames of both fragments, one after the other.
fn passed(node: &mut support::Node, parts: &[Vec<u8>; 2]) -> Result<[Vec<u8>; 2], TestCaseError> {
    let [first, later] = parts.each_ref().map(|part| node.receive(&frame(part, &[], 0)));
    prop_assert_eq!((first.0, later.0), (FORWARD, FORWARD));
    Ok([first.1, later.1])
}

/// One service of a mode that rewrites, its own address and perhaps port for it.
fn rewriting(mode: &str, family: usize, port: &str, more: &str) -> support::Node {
    let (vip, backend) = (VIP[family], BACKEND[family]);
    let backend = format!(r#"{{"address": "{backend}"{port}}}"#);
    node(&[&format!(r#""vip": "{vip}", "forwarding": "{mode}", {more} "backends": [{backend}]"#)], "")
}

fn same(got: &[Vec<u8>; 2], wanted: &[Vec<u8>; 2], what: &str) -> Result<(), TestCaseError> {
    for (got, wanted) in got.iter().zip(wanted) {
        // Only padding is behind it.
        prop_assert_eq!(&got[..wanted.len()], wanted, "{}", what);
        prop_assert!(got.len() == wanted.len() || got.len() <= 60, "{}", what);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each is wrapped by itself; of `geneve` the first alone has a port and a checksum to change.
    #[test]
    fn fragments_through_tunnels(v4 in divisible(0), v6 in divisible(1), cut in 3usize..9) {
        for (&tunnel, (vip, backend)) in Tunnel::ALL.iter().flat_map(|tunnel| pairs().map(move |pair| (tunnel, pair))) {
            let packet = if vip == 0 { &v4 } else { &v6 };
            let mut node = node(&[&tunnel.service(vip, backend)], "");
            let got = passed(&mut node, &fragments(packet, cut * 8, packet.id))?;
            let inner = Packet { to: tunnel.inner(packet.to), ..packet.clone() };
            for (got, inner) in got.iter().zip(&fragments(&inner, cut * 8, packet.id)) {
                let wanted = sent(&with_id(tunnel.around(inner, packet, backend), got));
                prop_assert_eq!(got, &wanted, "{:?} {} {}", tunnel, vip, backend);
            }
        }
    }

    /// Put together, they are the packet that was meant for the backend.
    #[test]
    fn fragments_by_modes_that_rewrite(
        v4 in divisible(0), v6 in divisible(1), cut in 3usize..9, own_port: bool, host: bool,
    ) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let parts = |packet: &Packet| fragments(packet, cut * 8, packet.id);
            let frames = |packet: &Packet| parts(packet).map(|part| sent(&part));
            let received = parts(packet);

            let got = passed(&mut rewriting("l2dsr", family, "", ""), &received)?;
            same(&got, &frames(packet), "l2dsr")?;

            let (address, tos) = (ip(BACKEND[family]), 5 << 2 | packet.tos & 3);
            let meant = Packet { to: (address, packet.to.1), ttl: packet.ttl - 1, tos, ..packet.clone() };
            let got = passed(&mut rewriting("dscp", family, "", "\"dscp\": 5,"), &received)?;
            same(&got, &frames(&meant), "dscp")?;

            let port = if own_port { ", \"port\": 8080" } else { "" };
            let backend = (address, if own_port { 8080 } else { packet.to.1 });
            let meant = Packet { to: backend, ttl: packet.ttl - 1, ..packet.clone() };
            let mut dnat = rewriting("dnat", family, port, "");
            same(&passed(&mut dnat, &received)?, &frames(&meant), "dnat")?;

            let reply = Packet { from: backend, to: packet.from, ..packet.clone() };
            let wanted = Packet { from: packet.to, ttl: packet.ttl - 1, ..reply.clone() };
            let link = |packet: &[u8]| [&CLIENT_MAC.0[..], &OUR_MAC.0, &ether_type(packet), packet].concat();
            same(&passed(&mut dnat, &parts(&reply))?, &parts(&wanted).map(|part| link(&part)), "a reply by dnat")?;

            // The first of a datagram tells the node of the VIP.
            let order = if host { r#""byte_order": "host","# } else { "" };
            let [mut first, later] = parts(&meant);
            if packet.udp {
                first = with_option(first, packet.to, (host && family == 0, host));
            }
            let got = passed(&mut rewriting("dnat-dsr", family, port, order), &received)?;
            same(&got, &[sent(&first), sent(&later)], "dnat-dsr")?;
        }
    }
}
