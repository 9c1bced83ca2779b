//! Health checks that go through a service: what their packets become, held against what a client's to the same backend become; and
//! what becomes of the answers.

mod support;

use std::net::{IpAddr, SocketAddr};

use penstock::pipeline::Verdict;
use penstock::pipeline::probe::{self, Passage};
use penstock::replay::Buffer;
use penstock::snapshot::PortIndex;
use penstock::wire::Frame;
use proptest::prelude::*;
use support::Node;
use support::expected::client;
use support::packets::*;

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

/// Every mode but `snat`, what its service says more, and whether it crosses families.
const MODES: [(&str, &str, bool); 10] = [
    ("ipip", "", true),
    ("gre", "", true),
    ("gue", "", true),
    ("gue", r#""gue": {"variant": 1}, "udp_checksum": true,"#, true),
    ("geneve", "", false),
    ("dscp", r#""dscp": 11,"#, false),
    ("l2dsr", "", false),
    ("dnat", "", false),
    ("dnat-dsr", "", false),
    ("dnat-dsr", r#""tracking": "full","#, false),
];

/// Services on TCP port 80 and UDP port 53 of a family's VIP. `checked`: they are checked through the VIP, and their only backend is down.
fn node((mode, more): (&str, &str), (vip, backend): (usize, usize), checked: bool) -> Node {
    let config = CONFIG.replace("addresses =", "twin = \"wan0\"\naddresses =");
    let (vip, backend) = (VIP[vip], BACKEND[backend]);
    let service = |(protocol, port): (&str, u16)| {
        let (state, check) = match checked {
            true => ("down", format!(r#""health_check": {{"kind": "{protocol}", "target": "vip"}},"#)),
            false => ("active", String::new()),
        };
        format!(
            r#"{{"name": "{protocol}", "vip": "{vip}", "port": {port}, "protocol": "{protocol}", "forwarding": "{mode}", {more} {check}
                "backends": [{{"address": "{backend}", "state": "{state}"}}]}}"#
        )
    };
    let services = [("tcp", 80), ("udp", 53)].map(service).join(",");
    Node::read(&config, &format!("{{\"services\": [{services}]}}"))
}

fn passage(packet: &Packet, backend: usize) -> Passage {
    Passage { vip: packet.to.into(), backend: SocketAddr::new(ip(BACKEND[backend]), packet.to.1) }
}

/// What becomes of a probe's packet, as the kernel sends it.
fn probed(node: &mut Node, packet: &Packet, passage: Passage) -> (Verdict, Vec<u8>) {
    let mut bytes = vec![0; probe::FRONT];
    bytes.extend(packet.bytes());
    let own = SocketAddr::from(packet.from);
    assert!(probe::address(&mut bytes, |asked| (asked == own).then_some(passage)), "it is no probe's: {packet:?}");
    let (mut frames, mut verdicts) = ([Buffer::new(&bytes)], [Verdict::Punt; penstock::pipeline::BURST]);
    node.pipeline.process_probes(&node.snapshot, &mut frames, &mut verdicts);
    (verdicts[0], frames[0].bytes().to_vec())
}

/// Any packet of a probe's.
fn own(family: usize) -> impl Strategy<Value = Packet> {
    (client(family), 61000u16..).prop_map(move |(packet, port)| Packet { from: (ip(SOURCE[family]), port), ..packet })
}

/// A frame that came for the node's own address, as a probe with this passage gets it; `None`: it is none for one.
fn answered(frame: &[u8], own: SocketAddr, passage: Passage) -> Option<Vec<u8>> {
    let mut buffer = Buffer::new(frame);
    let is_one = probe::receive(&mut buffer, |asked| (asked == own).then_some(passage));
    if !is_one {
        assert_eq!(buffer.bytes(), frame, "what is no answer stays as it came");
    }
    is_one.then(|| buffer.bytes()[14..].to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_probe_is_sent_as_a_clients_packet_to_that_backend_is(v4 in own(0), v6 in own(1)) {
        for (mode, more, crosses) in MODES {
            for pair in [(0, 0), (1, 1), (0, 1), (1, 0)].into_iter().filter(|pair| crosses || pair.0 == pair.1) {
                let packet = if pair.0 == 0 { &v4 } else { &v6 };
                let wanted = node((mode, more), pair, false).receive(&frame(&packet.bytes(), &[], 0));
                prop_assert_eq!(wanted.0, FORWARD, "{} {:?}", mode, packet);
                let mut node = node((mode, more), pair, true);
                let got = probed(&mut node, packet, passage(packet, pair.1));
                prop_assert_eq!(got, wanted, "{} {:?}", mode, packet);
                // It leaves no trace.
                prop_assert_eq!(node.pipeline.flows(), 0);
                prop_assert!(node.counted().values().all(|&counts| counts == (0, 0)), "{:?}", node.counted());
            }
        }
    }

    #[test]
    fn a_probe_by_snat_keeps_its_source(v4 in own(0), v6 in own(1)) {
        for (family, packet) in [v4, v6].iter().enumerate() {
            let wanted = node(("dnat", ""), (family, family), false).receive(&frame(&packet.bytes(), &[], 0));
            let got = probed(&mut node(("snat", ""), (family, family), true), packet, passage(packet, family));
            prop_assert_eq!((got, FORWARD), (wanted.clone(), wanted.0));
        }
    }

    /// From the VIP as it is; from the backend as if from the VIP; padding and tags go.
    #[test]
    fn an_answer_comes_from_the_vip(v4 in own(0), v6 in own(1), tags in proptest::collection::vec(any::<u16>(), 0..=2), padding in 0usize..20) {
        for (family, packet) in [v4, v6].into_iter().enumerate() {
            // A port of its own, as `dnat` may have.
            let backend = SocketAddr::new(ip(BACKEND[family]), 8080);
            let passage = Passage { vip: packet.to.into(), backend };
            let own = SocketAddr::from(packet.from);
            let wanted = Packet { from: packet.to, to: packet.from, ..packet };
            let from_backend = Packet { from: (backend.ip(), backend.port()), ..wanted.clone() };
            for answer in [&wanted, &from_backend] {
                let got = answered(&frame(&answer.bytes(), &tags, padding), own, passage);
                prop_assert_eq!(got, Some(wanted.bytes()));
            }
            let others = [
                Packet { from: (ip(BACKEND[family]), 8081), ..wanted.clone() },
                Packet { from: (ip(ROUTER[family]), wanted.from.1), ..wanted.clone() },
                Packet { to: (own.ip(), own.port() ^ 1), ..wanted.clone() },
            ];
            for other in others {
                prop_assert_eq!(answered(&frame(&other.bytes(), &tags, padding), own, passage), None);
            }
        }
    }

    /// What a closed port of UDP says, by whatever mode it was asked.
    #[test]
    fn an_error_quotes_what_the_probe_sent(v4 in own(0), v6 in own(1), more in 0usize..40) {
        for (family, packet) in [v4, v6].into_iter().enumerate() {
            let backend = SocketAddr::new(ip(BACKEND[family]), 8080);
            let (own, passage) = (SocketAddr::from(packet.from), Passage { vip: packet.to.into(), backend });
            let kept = support::expected::kept(family, &packet, more);
            let about = |from: &str, to: (IpAddr, u16)| {
                error(from, packet.from.0, 60, 0, &Packet { to, ..packet.clone() }, kept)
            };
            let wanted = about(VIP[family], packet.to);
            let translated = about(BACKEND[family], (backend.ip(), backend.port()));
            for error in [&wanted, &translated] {
                prop_assert_eq!(answered(&frame(error, &[], 0), own, passage), Some(wanted.clone()));
            }
        }
    }
}

#[test]
fn what_is_no_probe_of_ours_is_not_sent() {
    let packet = Packet {
        from: (ip(SOURCE[0]), 61000),
        to: (ip(VIP[0]), 80),
        udp: false,
        tos: 0,
        ttl: 64,
        id: 1,
        df: true,
        payload: vec![],
        summed: true,
        options: 0,
    };
    let way = passage(&packet, 0);
    let is_one =
        |packet: &[u8], way: Option<Passage>| probe::address(&mut [&[0; probe::FRONT][..], packet].concat(), |_| way);
    assert!(is_one(&packet.bytes(), Some(way)));
    assert!(!is_one(&packet.bytes(), None), "nobody's port");
    let elsewhere = Packet { to: (ip(VIP[0]), 81), ..packet.clone() };
    assert!(!is_one(&elsewhere.bytes(), Some(way)), "to another port");
    assert!(!is_one(&[], Some(way)) && !is_one(&[0x60; 48], Some(way)), "no packet");

    // The definitions have moved on since it was asked.
    let mut node = node(("ipip", ""), (0, 0), true);
    let gone = Passage { backend: "10.1.0.9:80".parse().unwrap(), ..way };
    let verdict = |node: &mut Node, packet: &Packet, way| probed(node, packet, way).0;
    assert_eq!(verdict(&mut node, &packet, gone), Verdict::Drop(penstock::counters::Reason::NoBackend));
    let elsewhere_way = Passage { vip: elsewhere.to.into(), ..way };
    assert_eq!(verdict(&mut node, &elsewhere, elsewhere_way), Verdict::Drop(penstock::counters::Reason::NoService));
    assert_eq!(verdict(&mut node, &packet, way), FORWARD);
}
