//! The short ways through the pipeline lead where the long one does. A tag of VLAN 0 (a priority tag, IEEE 802.1Q, 6.9) sends a frame the long
//! way, and changes nothing else.

mod support;

use penstock::flow::Nat;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::snapshot::Millis;
use proptest::prelude::*;
use proptest::sample::select;
use support::packets::{CONFIG, Packet, VIP, frame, ip};
use support::{Node, internet_checksum};

/// A port of the second lcore's: what goes there may be a reply's.
const OTHERS_PORT: u16 = 2090;

/// A node of two lcores, whose VIPs are sources of `snat`, too; it remembers flows, and has a service of each kind in both families.
fn node() -> Node {
    let config = CONFIG
        .replace("lcores = [1]", "lcores = [1, 2]")
        .replace(r#"ipv4 = ["10.0.0.1"]"#, &format!(r#"ipv4 = ["10.0.0.1", "{}"]"#, VIP[0]))
        .replace(r#"ipv6 = ["fd00::1"]"#, &format!(r#"ipv6 = ["fd00::1", "{}"]"#, VIP[1]));
    let kinds = [
        ("plain", "80", "tcp", "none", "ipip", ""),
        ("kept", "81", "tcp", "full", "ipip", ""),
        ("datagrams", "80", "udp", "none", "ipip", ""),
        ("by-source", "82", "tcp", "none", "ipip", r#""hash": "source-ip","#),
        ("guarded", "83", "tcp", "none", "ipip", r#""deny_ranges": ["198.51.100.0/29", "2001:db8:9::/125"],"#),
        ("rewritten", "84", "tcp", "none", "dnat", ""),
        ("translated", "85", "tcp", "none", "snat", ""),
        ("range", r#""90-99""#, "tcp", "none", "gue", ""),
    ];
    let mut services = vec![
        // At the node's own address.
        r#"{"name": "own", "vip": "10.0.0.1", "port": 80, "protocol": "tcp", "tracking": "none", "forwarding": "ipip",
            "backends": [{"address": "10.1.0.1"}]}"#
            .to_owned(),
        format!(
            r#"{{"name": "wide", "vip": "{WIDE}/64", "port": 80, "protocol": "tcp", "tracking": "none", "forwarding": "ipip",
            "backends": [{{"address": "10.1.0.1"}}]}}"#
        ),
    ];
    for (name, port, protocol, tracking, mode, more) in kinds {
        for (family, backends) in [["10.1.0.1", "10.1.0.2"], ["fd00:1::1", "fd00:1::2"]].into_iter().enumerate() {
            let (vip, [a, b]) = (VIP[family], backends);
            services.push(format!(
                r#"{{"name": "{name}{family}", "vip": "{vip}", "port": {port}, "protocol": "{protocol}", "tracking": "{tracking}", {more}
                "forwarding": "{mode}", "backends": [{{"address": "{a}"}}, {{"address": "{b}"}}]}}"#
            ));
        }
    }
    let mut node = Node::read(&config, &format!(r#"{{"services": [{}]}}"#, services.join(", ")));
    node.pipeline = Pipeline::with(Nat::new(node.snapshot.sources(), 0, [0; 2])).remembering(1024, [0; 2]);
    node
}

/// The first address of a VIP that is a prefix.
const WIDE: &str = "2001:db8:77::";

/// Sources of each family: clients, one that no client can be, and VIPs.
const SOURCES: [[&str; 6]; 2] = [
    ["198.51.100.1", "198.51.100.2", "198.51.100.9", "127.0.0.1", VIP[0], VIP[0]],
    ["2001:db8:9::1", "2001:db8:9::2", "2001:db8:9::9", "::1", VIP[1], "2001:db8:77::5"],
];
/// Destinations: the VIP, the node, somebody else, a VIP that is a prefix.
const DESTINATIONS: [[&str; 4]; 2] =
    [[VIP[0], "10.0.0.1", "203.0.113.1", VIP[0]], [VIP[1], "fd00::1", "2001:db8:ffff::1", "2001:db8:77::9"]];

/// Who sends what to whom: family, source, destination, the ports, whether it is UDP.
type Flow = ((usize, usize, usize), u16, u16, bool);

fn flow() -> impl Strategy<Value = Flow> {
    let port = prop_oneof![6 => Just(80_u16), 4 => Just(81), 3 => Just(85), 4 => 79_u16..87, 1 => 90_u16..92, 1 => Just(OTHERS_PORT)];
    let source = prop_oneof![12 => 0_usize..3, 1 => 3_usize..6];
    let destination = prop_oneof![12 => Just(0_usize), 1 => 1_usize..4];
    ((0_usize..2, source, destination), 40_000_u16..40_003, port, prop::bool::weighted(0.2))
}

/// Frames without a tag: of few flows, that trains form, and some with a byte changed, whose IPv4 header may have its sum made right again.
fn burst() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let flags = prop_oneof![8 => Just(0x10_u8), 1 => Just(0x02), 1 => Just(0x11), 1 => Just(0x04)];
    let damage = prop_oneof![14 => Just(None), 1 => (0_usize..80, any::<u8>(), any::<bool>()).prop_map(Some)];
    // Of some the outer header makes more than the port takes.
    let payload = prop_oneof![12 => 0_usize..30, 1 => 1430_usize..1450];
    let frame = (any::<prop::sample::Index>(), flags, payload, damage);
    (proptest::collection::vec(flow(), 1..5), proptest::collection::vec(frame, 1..=BURST)).prop_map(
        |(flows, frames)| {
            let frames = frames.into_iter();
            frames.map(|(of, flags, payload, damage)| made(of.get(&flows), flags, payload, damage)).collect()
        },
    )
}

fn made(flow: &Flow, flags: u8, payload: usize, damage: Option<(usize, u8, bool)>) -> Vec<u8> {
    let &((family, source, destination), client, port, udp) = flow;
    let packet = Packet {
        from: (ip(SOURCES[family][source]), client),
        to: (ip(DESTINATIONS[family][destination]), port),
        udp,
        tos: 0,
        ttl: 64,
        id: (payload as u16).wrapping_mul(257),
        // Without, outer headers are numbered: those that go straight first.
        df: true,
        payload: vec![0x55; payload],
        summed: true,
        options: 0,
    };
    let mut frame = frame(&packet.bytes(), &[], 6);
    if !udp {
        frame[14 + [20, 40][family] + 13] = flags;
    }
    if let Some((at, byte, is_sealed)) = damage {
        let at = at % frame.len();
        frame[at] ^= byte;
        if is_sealed && family == 0 {
            frame[20] |= 0x40;
            frame[24..26].fill(0);
            let sum = internet_checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat()
}

/// Verdicts, and the bytes of what goes on.
fn outcomes(node: &mut Node, frames: &[Vec<u8>]) -> Vec<(Verdict, Option<Vec<u8>>)> {
    let all = node.burst(frames).into_iter();
    all.map(|(verdict, bytes)| (verdict, verdict.port().map(|_| bytes))).collect()
}

/// What tells packets of one flow from each other: ToS, payload (with the last the outer header makes more than the port takes), DF.
fn segment() -> impl Strategy<Value = (u8, usize, bool)> {
    (select(&[0_u8, 0xb8]), select(&[0_usize, 9, 1440, 1445]), prop::bool::weighted(0.9))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn short_ways_lead_where_the_long_one_does(
        bursts in proptest::collection::vec((burst(), 0_u64..400), 1..5), some: u32,
    ) {
        let [mut careful, mut short, mut either] = [(); 3].map(|()| node());
        for (frames, seconds) in bursts {
            let long: Vec<Vec<u8>> = frames.iter().map(|frame| tagged(frame)).collect();
            let mixed = (0..frames.len()).map(|at| if some >> at & 1 == 0 { &frames } else { &long }[at].clone());
            let mixed: Vec<Vec<u8>> = mixed.collect();
            for node in [&mut careful, &mut short, &mut either] {
                node.now = Millis(node.now.0 + seconds * 1000);
            }
            let expected = outcomes(&mut careful, &long);
            for (node, of) in [(&mut short, &frames), (&mut either, &mixed)] {
                for (at, (got, expected)) in outcomes(node, of).iter().zip(&expected).enumerate() {
                    prop_assert_eq!(got, expected, "frame {}: {:02x?}", at, &of[at]);
                }
                prop_assert_eq!(node.only, careful.only);
                prop_assert_eq!(node.pipeline.flows(), careful.pipeline.flows());
            }
        }
        prop_assert_eq!(short.counted(), careful.counted());
        prop_assert_eq!(either.counted(), careful.counted());
    }

    /// Segments of one flow, in bursts, where those that are alike are sent as the one before, and each by itself.
    #[test]
    fn a_train_is_sent_as_its_packets_are(
        bursts in proptest::collection::vec(proptest::collection::vec(segment(), 1..=BURST), 1..4),
    ) {
        let [mut together, mut singly] = [(); 2].map(|()| node());
        let made = |(tos, payload, df)| {
            let (from, to, payload) = ((ip(SOURCES[0][0]), 40_000), (ip(VIP[0]), 80), vec![0x55; payload]);
            let packet = Packet { from, to, udp: false, tos, ttl: 64, id: 7, df, payload, summed: true, options: 0 };
            frame(&packet.bytes(), &[], 6)
        };
        for segments in bursts {
            let frames: Vec<Vec<u8>> = segments.into_iter().map(made).collect();
            let expected: Vec<_> =
                frames.iter().flat_map(|frame| outcomes(&mut singly, std::slice::from_ref(frame))).collect();
            prop_assert_eq!(outcomes(&mut together, &frames), expected);
        }
        prop_assert_eq!(together.counted(), singly.counted());
    }
}
