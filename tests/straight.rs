//! The short ways through the pipeline lead where the long one does. A tag of VLAN 0 (a priority tag, IEEE 802.1Q, 6.9) sends a frame the long
//! way, and changes nothing else.

use std::sync::Arc;

use penstock::config::Config;
use penstock::flow::Nat;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, PortIndex, Snapshot};
use penstock::wire::Frame;
use proptest::prelude::*;

const CONFIG: &str = r#"
[node]
name = "n"

[dpdk]
lcores = [1, 2]

[[port]]
name = "wan0"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["10.0.0.1", "fd00::1"]

[encap]
ipv4_source = "10.0.0.1"
ipv6_source = "fd00::1"

[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 251

[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"

[[neighbor]]
address = "fd00::fe"
mac = "02:00:00:00:00:fd"
port = "wan0"

[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"

[[route]]
prefix = "::/0"
via = "fd00::fe"

[snat]
ipv4 = ["10.0.0.1", "192.0.2.1"]
ports = "61000-61100"
"#;

/// A service of each kind, of both families at once.
fn services() -> String {
    let of = |name: &str, port: &str, protocol: &str, more: &str, mode: &str| {
        let one = |family: &str, vip: &str, backends: [&str; 2]| {
            let [a, b] = backends;
            format!(
                r#"{{"name": "{name}{family}", "vip": "{vip}", "port": {port}, "protocol": "{protocol}", {more} "forwarding": "{mode}",
                "backends": [{{"address": "{a}"}}, {{"address": "{b}"}}]}}"#
            )
        };
        [one("4", "192.0.2.1", ["10.1.0.1", "10.1.0.2"]), one("6", "2001:db8::1", ["fd00:1::1", "fd00:1::2"])]
            .join(", ")
    };
    let all = [
        of("plain", "80", "tcp", r#""tracking": "none","#, "ipip"),
        of("kept", "81", "tcp", r#""tracking": "full","#, "ipip"),
        of("datagrams", "80", "udp", r#""tracking": "none","#, "ipip"),
        of("by-source", "82", "tcp", r#""hash": "source-ip", "tracking": "none","#, "ipip"),
        of("range", r#""90-99""#, "tcp", r#""tracking": "none","#, "gue"),
        of(
            "guarded",
            "83",
            "tcp",
            r#""deny_ranges": ["198.51.100.0/29", "2001:db8:9::/125"], "tracking": "none","#,
            "ipip",
        ),
        of("rewritten", "84", "tcp", r#""tracking": "none","#, "dnat"),
        // Where a source of `snat` is, so that it may be a reply's.
        r#"{"name": "own", "vip": "10.0.0.1", "port": 80, "protocol": "tcp", "tracking": "none", "forwarding": "ipip",
            "backends": [{"address": "10.1.0.1"}]}"#
            .to_owned(),
    ];
    format!(r#"{{"services": [{}]}}"#, all.join(", "))
}

fn snapshot() -> Arc<Snapshot> {
    let (config, _) = Config::read(CONFIG, "penstock.toml").unwrap();
    let (definitions, _) = service::native(services(), "services.json", None).unwrap();
    Compiler::new(config.environment()).compile(&definitions, &config.fabric(), Millis(0))
}

/// What a frame is made of.
#[derive(Debug, Clone)]
struct Sent {
    is_v6: bool,
    protocol: u8,
    source: u8,
    destination: u8,
    ports: (u8, u16),
    flags: u8,
    payload: usize,
    damage: Option<(usize, u8)>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let port = prop_oneof![4 => Just(80_u16), 6 => 79_u16..86, 1 => 90_u16..92, 1 => Just(61_090)];
    let protocol = prop_oneof![6 => Just(6_u8), 3 => Just(17), 1 => Just(1)];
    let flags = prop_oneof![6 => Just(0x10_u8), 1 => Just(0x02), 1 => Just(0x11), 1 => Just(0x04)];
    let damage = prop_oneof![4 => Just(None), 1 => (14_usize..80, any::<u8>()).prop_map(Some)];
    let ends = (prop_oneof![9 => 0_u8..9, 1 => 9_u8..12], prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)]);
    (any::<bool>(), protocol, ends, (0_u8..3, port), flags, 0_usize..30, damage).prop_map(
        |(is_v6, protocol, (source, destination), ports, flags, payload, damage)| Sent {
            is_v6,
            protocol,
            source,
            destination,
            ports,
            flags,
            payload,
            damage,
        },
    )
}

impl Sent {
    fn frame(&self) -> Vec<u8> {
        let mut segment = vec![0; if self.protocol == 17 { 8 } else { 20 } + self.payload];
        segment[..2].copy_from_slice(&(40_000 + u16::from(self.ports.0)).to_be_bytes());
        segment[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        match self.protocol {
            17 => (segment[4], segment[5]) = (0, (8 + self.payload) as u8),
            _ => (segment[12], segment[13]) = (0x50, self.flags),
        }
        let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9].to_vec();
        match self.is_v6 {
            true => {
                let source = match self.source {
                    9 => [[0; 15].as_slice(), &[1]].concat(),
                    10 => [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[1]].concat(),
                    n => [&[0x20, 0x01, 0x0d, 0xb8, 0, 9][..], &[0; 9], &[n]].concat(),
                };
                let destination = match self.destination {
                    0 => [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[1]].concat(),
                    n => [&[0xfd, 0][..], &[0; 13], &[n]].concat(),
                };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, segment.len() as u8, self.protocol, 64]);
                frame.extend(source.iter().chain(&destination));
            }
            false => {
                let source = match self.source {
                    9 => [127, 0, 0, 1],
                    10 => [192, 0, 2, 1],
                    n => [198, 51, 100, n],
                };
                let destination = [[192, 0, 2, 1], [10, 0, 0, 1], [203, 0, 113, 1]][usize::from(self.destination)];
                let mut ip = [0x45, 0, 0, (20 + segment.len()) as u8, 0, 0, 0x40, 0, 64, self.protocol, 0, 0].to_vec();
                ip.extend(source.iter().chain(&destination));
                let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend([8, 0]);
                frame.extend(ip);
            }
        }
        frame.extend(segment);
        frame.resize(frame.len().max(60), 0);
        if let Some((at, byte)) = self.damage {
            let at = at.min(frame.len() - 1);
            frame[at] ^= byte;
        }
        frame
    }
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat()
}

fn pipeline(snapshot: &Snapshot) -> Pipeline {
    Pipeline::with(Nat::new(snapshot.sources(), 0, [0; 2])).remembering(1000, [1, 2])
}

/// Verdicts, and the frames that go on.
fn process(pipeline: &mut Pipeline, snapshot: &Snapshot, frames: &[Vec<u8>]) -> Vec<(Verdict, Option<Vec<u8>>)> {
    let mut buffers: Vec<Buffer> = frames
        .iter()
        .map(|frame| {
            let mut buffer = Buffer::default();
            buffer.fill(frame);
            buffer
        })
        .collect();
    let mut verdicts = [Verdict::Punt; BURST];
    pipeline.process(snapshot, Millis(1000), PortIndex(0), &mut buffers, &mut verdicts);
    let went = |verdict: Verdict, buffer: &Buffer| verdict.port().map(|_| buffer.bytes().to_vec());
    verdicts.into_iter().zip(&buffers).map(|(verdict, buffer)| (verdict, went(verdict, buffer))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn short_ways_lead_where_the_long_one_does(
        bursts in proptest::collection::vec(proptest::collection::vec(sent(), 1..=BURST), 1..4), some: u32,
    ) {
        let snapshot = snapshot();
        let mut pipelines = [0, 1, 2].map(|_| pipeline(&snapshot));
        for burst in bursts {
            let frames: Vec<Vec<u8>> = burst.iter().map(Sent::frame).collect();
            let long: Vec<Vec<u8>> = frames.iter().map(|frame| tagged(frame)).collect();
            let mixed: Vec<Vec<u8>> = (0..frames.len()).map(|at| if some >> at & 1 == 0 { &frames } else { &long }[at].clone()).collect();
            let [a, b, c] = &mut pipelines;
            let expected = process(a, &snapshot, &long);
            for (got, of) in [(process(b, &snapshot, &frames), &frames), (process(c, &snapshot, &mixed), &mixed)] {
                for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    prop_assert_eq!(got, expected, "frame {} of {:?}: {:02x?}", at, &burst[at], &of[at]);
                }
            }
        }
    }
}
