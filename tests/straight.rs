//! The short ways through the pipeline lead where the long one does. A tag of VLAN 0 (a priority tag, IEEE 802.1Q, 6.9) sends a frame the long
//! way, and changes nothing else.

mod support;

use penstock::pipeline::{BURST, Verdict};
use proptest::prelude::*;
use support::packets::{CONFIG, Packet, VIP, frame, ip};
use support::{Node, internet_checksum};

/// Where a first port of the second lcore's is: what goes there may be a reply's.
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
        ("range", r#""90-99""#, "tcp", "none", "gue", ""),
    ];
    let mut services = vec![
        // At the node's own address.
        r#"{"name": "own", "vip": "10.0.0.1", "port": 80, "protocol": "tcp", "tracking": "none", "forwarding": "ipip",
            "backends": [{"address": "10.1.0.1"}]}"#
            .to_owned(),
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
    Node::read(&config, &format!(r#"{{"services": [{}]}}"#, services.join(", ")))
}

/// Sources of each family: clients, one that no client can be, and a VIP.
const SOURCES: [[&str; 5]; 2] = [
    ["198.51.100.1", "198.51.100.2", "198.51.100.9", "127.0.0.1", VIP[0]],
    ["2001:db8:9::1", "2001:db8:9::2", "2001:db8:9::9", "::1", VIP[1]],
];
/// Destinations: the VIP, the node, somebody else.
const DESTINATIONS: [[&str; 3]; 2] = [[VIP[0], "10.0.0.1", "203.0.113.1"], [VIP[1], "fd00::1", "2001:db8:ffff::1"]];

/// A frame without a tag, and bytes of it changed: then the IPv4 header's checksum may be made right again.
fn sent() -> impl Strategy<Value = Vec<u8>> {
    let port = prop_oneof![4 => Just(80_u16), 6 => 79_u16..86, 1 => 90_u16..92, 1 => Just(OTHERS_PORT)];
    let ends =
        (0_usize..2, prop_oneof![9 => 0_usize..3, 1 => 3_usize..5], prop_oneof![8 => Just(0_usize), 1 => 1_usize..3]);
    let flags = prop_oneof![6 => Just(0x10_u8), 1 => Just(0x02), 1 => Just(0x11), 1 => Just(0x04)];
    let damage = prop_oneof![4 => Just(None), 1 => (0_usize..80, any::<u8>(), any::<bool>()).prop_map(Some)];
    (ends, 40_000_u16..40_003, port, prop::bool::weighted(0.3), flags, 0_usize..30, damage).prop_map(
        |((family, source, destination), client, port, udp, flags, payload, damage)| {
            let packet = Packet {
                from: (ip(SOURCES[family][source]), client),
                to: (ip(DESTINATIONS[family][destination]), port),
                udp,
                tos: 0,
                ttl: 64,
                id: 0,
                // Without, outer headers are numbered, in an order that the ways do not have in common.
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
                // The tag stands behind the type, and what no type is would be read otherwise there.
                frame[at] ^= if (12..14).contains(&at) { 0 } else { byte };
                if is_sealed && family == 0 {
                    frame[20] |= 0x40;
                    frame[24..26].fill(0);
                    let sum = internet_checksum(&frame[14..34]);
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                }
            }
            frame
        },
    )
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat()
}

/// Verdicts, and the bytes of what goes on.
fn outcomes(node: &mut Node, frames: &[Vec<u8>]) -> Vec<(Verdict, Option<Vec<u8>>)> {
    let all = node.burst(frames).into_iter();
    all.map(|(verdict, bytes)| (verdict, verdict.port().map(|_| bytes))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn short_ways_lead_where_the_long_one_does(
        bursts in proptest::collection::vec(proptest::collection::vec(sent(), 1..=BURST), 1..4), some: u32,
    ) {
        let [mut careful, mut short, mut either] = [(); 3].map(|()| node());
        for frames in bursts {
            let long: Vec<Vec<u8>> = frames.iter().map(|frame| tagged(frame)).collect();
            let mixed = (0..frames.len()).map(|at| if some >> at & 1 == 0 { &frames } else { &long }[at].clone());
            let mixed: Vec<Vec<u8>> = mixed.collect();
            let expected = outcomes(&mut careful, &long);
            for (got, of) in [(outcomes(&mut short, &frames), &frames), (outcomes(&mut either, &mixed), &mixed)] {
                for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    prop_assert_eq!(got, expected, "frame {}: {:02x?}", at, &of[at]);
                }
            }
        }
        prop_assert_eq!(short.counted(), careful.counted());
        prop_assert_eq!(either.counted(), careful.counted());
    }
}
