//! What is remembered of flows and clients, scene by scene: definitions change, packets come, and each goes where it should.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use penstock::config::Config;
use penstock::counters::Reason;
use penstock::flow::{Clients, Nat};
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, PortIndex, Snapshot};
use penstock::wire::Frame;
use support::{CLIENT_MAC, OUR_MAC};

const CONFIG: &str = r#"
[dpdk]
lcores = [1, 2]
[[port]]
name = "wan0"
device = "net_null0"
mac = "02:00:00:00:00:01"
[encap]
ipv4_source = "10.0.0.1"
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 101
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
"#;

const SYN: u8 = 2;
const FIN: u8 = 1;
const DATA: u8 = 0;
const UDP: u8 = 255;

/// Two lcores; each flow has its own.
struct Node {
    compiler: Compiler,
    config: Config,
    snapshot: Arc<Snapshot>,
    lcores: Vec<Pipeline>,
    now: Millis,
}

/// One service of these backends (last byte of the address, and what else is to be said of it), and more of the service.
fn set(backends: &[(u8, &str)], more: &str) -> String {
    let backend = |&(last, more): &(u8, &str)| format!(r#"{{"address": "10.1.0.{last}"{more}}}"#);
    let backends: Vec<String> = backends.iter().map(backend).collect();
    format!(
        r#"{{"services": [{{"name": "web", "vip": "192.0.2.1", "port": 80, "forwarding": "ipip", "backends": [{}], {more}}}]}}"#,
        backends.join(", ")
    )
}

const TCP: &str = r#""protocol": "tcp""#;
const DRAINING: &str = r#", "state": "draining""#;
const DOWN: &str = r#", "state": "down""#;

impl Node {
    fn new(services: &str) -> Self {
        Self::with(services, 1000)
    }

    fn with(services: &str, capacity: usize) -> Self {
        let (config, _) = Config::read(CONFIG, "c").unwrap_or_else(|errors| panic!("{errors}"));
        let mut compiler = Compiler::new(config.environment());
        let snapshot = compile(&mut compiler, &config, services, Millis(0));
        let clients = Arc::new(Clients::new(1000, [5, 6]));
        let lcore = |index| {
            let pipeline = Pipeline::with(Nat::new(snapshot.sources(), index, [0; 2]));
            pipeline.remembering(capacity, [index as u64, 7]).sharing(clients.clone())
        };
        let lcores = (0..2).map(lcore).collect();
        Self { compiler, config, snapshot, lcores, now: Millis(0) }
    }

    fn change(&mut self, services: &str) {
        self.snapshot = compile(&mut self.compiler, &self.config, services, self.now);
    }

    /// Time goes by, and the bases move that are to.
    fn wait(&mut self, seconds: u64, services: &str) {
        self.now.0 += seconds * 1000;
        if self.compiler.next_move().is_some_and(|next| next <= self.now) {
            self.change(services);
        }
    }

    fn verdict(&mut self, client: u16, flags: u8) -> (Verdict, Buffer) {
        self.verdict_of(client_address(client), 40_000 + client, flags)
    }

    fn verdict_of(&mut self, source: Ipv4Addr, port: u16, flags: u8) -> (Verdict, Buffer) {
        self.receive(usize::from(port) % 2, &frame(source, port, flags))
    }

    /// What becomes of a frame that this lcore receives, wherever it is decided.
    fn receive(&mut self, mut lcore: usize, frame: &[u8]) -> (Verdict, Buffer) {
        let mut buffer = Buffer::default();
        buffer.fill(frame);
        let (one, mut verdicts) = (std::slice::from_mut(&mut buffer), [Verdict::Punt; BURST]);
        self.lcores[lcore].process(&self.snapshot, self.now, PortIndex(0), one, &mut verdicts);
        for looked in 1..=2 {
            let Verdict::HandOver(next) = verdicts[0] else { break };
            lcore = usize::from(next);
            self.lcores[lcore].process_handed(&self.snapshot, self.now, PortIndex(0), looked, one, &mut verdicts);
        }
        (verdicts[0], buffer)
    }

    /// The last byte of the address of the backend that gets the packet.
    fn send(&mut self, client: u16, flags: u8) -> u8 {
        let (verdict, buffer) = self.verdict(client, flags);
        assert_eq!(verdict, Verdict::Forward(PortIndex(0)));
        buffer.bytes()[14 + 19]
    }

    /// Where packets of clients of one lcore go that come in one burst.
    fn send_at_once(&mut self, packets: &[(u16, u8)]) -> Vec<u8> {
        let mut buffers: Vec<_> = packets.iter().map(|_| Buffer::default()).collect();
        for (buffer, &(client, flags)) in buffers.iter_mut().zip(packets) {
            buffer.fill(&frame(client_address(client), 40_000 + client, flags));
        }
        let (lcore, mut verdicts) = (usize::from(packets[0].0) % 2, [Verdict::Punt; BURST]);
        self.lcores[lcore].process(&self.snapshot, self.now, PortIndex(0), &mut buffers, &mut verdicts);
        assert!(verdicts[..packets.len()].iter().all(|&verdict| verdict == Verdict::Forward(PortIndex(0))));
        buffers.iter().map(|buffer| buffer.bytes()[14 + 19]).collect()
    }

    /// Where each of these clients' packets go.
    fn send_all(&mut self, clients: std::ops::Range<u16>, flags: u8) -> Vec<u8> {
        clients.map(|client| self.send(client, flags)).collect()
    }

    fn remembered(&self) -> usize {
        self.lcores.iter().map(Pipeline::flows).sum()
    }
}

fn frame(source: Ipv4Addr, port: u16, flags: u8) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(CLIENT_MAC.0, OUR_MAC.0).ipv4(source.octets(), [192, 0, 2, 1], 64);
    let mut frame = Vec::new();
    match flags {
        UDP => ip.udp(port, 80).write(&mut frame, b"hello").unwrap(),
        SYN => ip.tcp(port, 80, 1, 512).syn().write(&mut frame, &[]).unwrap(),
        FIN => ip.tcp(port, 80, 1, 512).fin().ack(1).write(&mut frame, &[]).unwrap(),
        _ => ip.tcp(port, 80, 1, 512).ack(1).write(&mut frame, &[]).unwrap(),
    }
    frame
}

/// The same with four bytes of IP options (NOP).
fn with_option(frame: &[u8]) -> Vec<u8> {
    let mut frame = [&frame[..34], &[1; 4], &frame[34..]].concat();
    let total = u16::from_be_bytes([frame[16], frame[17]]) + 4;
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[24..26].fill(0);
    let sum = support::internet_checksum(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn client_address(client: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, (client >> 8) as u8, client as u8)
}

fn compile(compiler: &mut Compiler, config: &Config, services: &str, now: Millis) -> Arc<Snapshot> {
    let (definitions, _) = service::native(services, "services", None).unwrap_or_else(|errors| panic!("{errors}"));
    let snapshot = compiler.compile(&definitions, &config.fabric(), now);
    compiler.adopted(now);
    snapshot
}

/// How many of each.
fn counts(backends: &[u8]) -> BTreeMap<u8, usize> {
    backends.iter().fold(BTreeMap::new(), |mut counts, &backend| {
        *counts.entry(backend).or_default() += 1;
        counts
    })
}

#[test]
fn at_rest_nothing_is_remembered() {
    let mut node = Node::new(&set(&[(1, ""), (2, "")], TCP));
    node.send_all(0..200, SYN);
    node.send_all(0..200, DATA);
    assert_eq!(node.remembered(), 0);
}

#[test]
fn a_draining_backend_keeps_its_flows_and_gets_no_new_one() {
    let all = set(&[(1, ""), (2, ""), (3, "")], TCP);
    let draining = set(&[(1, ""), (2, DRAINING), (3, "")], TCP);
    let mut node = Node::new(&all);
    let before = node.send_all(0..200, SYN);
    assert!(counts(&before).values().all(|&count| count > 30), "{before:?}");
    node.change(&draining);
    assert_eq!(node.send_all(0..200, DATA), before);
    assert!(!node.send_all(200..400, SYN).contains(&2));
    // Only flows of slots that move are remembered: here those that were or would have been the second's.
    assert!(node.remembered() < 200, "{}", node.remembered());
    // Long after the change, too, as long as they are not silent.
    for _ in 0..5 {
        node.wait(7000, &draining);
        assert_eq!(node.send_all(0..200, DATA), before);
    }
    // Who opens anew is known as established, and followed; who closes is chosen for anew.
    let second: Vec<u16> = (0..200).filter(|&client| before[usize::from(client)] == 2).collect();
    assert!(second.iter().all(|&client| node.send(client, SYN) == 2));
    assert!(second.iter().all(|&client| node.send(client, FIN) == 2));
    assert!(second.iter().all(|&client| node.send(client, SYN) != 2));
}

#[test]
fn what_a_burst_says_of_a_flow_counts_in_its_order() {
    let draining = set(&[(1, ""), (2, DRAINING), (3, "")], TCP);
    let mut node = Node::new(&set(&[(1, ""), (2, ""), (3, "")], TCP));
    let before = node.send_all(0..200, SYN);
    node.change(&draining);
    assert_eq!(node.send_all(0..200, DATA), before);
    for client in (0..200).filter(|&client| before[usize::from(client)] == 2) {
        let of = |flags: &[u8]| flags.iter().map(|&flags| (client, flags)).collect::<Vec<_>>();
        // A SYN on an established flow may be anybody's.
        assert_eq!(node.send_at_once(&of(&[DATA, SYN, DATA])), [2; 3]);
        // Then, for every other, that it goes on is to be noted.
        node.wait(u64::from(client / 2 % 2), &draining);
        let went = node.send_at_once(&of(&[DATA, FIN, DATA, SYN, DATA]));
        assert_eq!(went[..3], [2; 3], "{went:?}");
        assert!(went[3] != 2 && went[4] == went[3], "who opens anew is not sent to a draining backend: {went:?}");
        assert_eq!(node.send_at_once(&of(&[DATA, FIN, DATA])), [went[3]; 3]);
    }
}

#[test]
fn what_follows_a_syn_goes_where_that_went_though_its_flow_lost_its_place_in_the_same_burst() {
    let mut node = Node::with(&set(&[(1, ""), (2, "")], &format!(r#"{TCP}, "tracking": "full""#)), 4);
    node.send_all(0..200, DATA);
    node.change(&set(&[(1, ""), (2, ""), (3, ""), (4, "")], &format!(r#"{TCP}, "tracking": "full""#)));
    let mut lost = 0;
    for client in 0..200 {
        let before = node.send(client, DATA);
        let others = (1..9).map(|other| (client + 1000 + 2 * other, SYN));
        let went = node.send_at_once(&others.chain([(client, SYN), (client, DATA)]).collect::<Vec<_>>());
        assert_eq!(went[8], went[9], "{client}");
        lost += u32::from(went[8] != before);
    }
    assert!(lost > 5, "{lost}");
}

#[test]
fn flows_of_a_backend_that_is_down_are_chosen_anew_and_stay_there() {
    let mut node = Node::new(&set(&[(1, ""), (2, ""), (3, "")], TCP));
    let before = node.send_all(0..200, SYN);
    node.change(&set(&[(1, ""), (2, DOWN), (3, "")], TCP));
    let during = node.send_all(0..200, DATA);
    assert!(!during.contains(&2));
    assert!(before.iter().zip(&during).all(|(before, during)| *before == 2 || before == during));
    node.change(&set(&[(1, ""), (2, ""), (3, "")], TCP));
    assert_eq!(node.send_all(0..200, DATA), during, "who returns gets new flows only");
    assert!(node.send_all(200..400, SYN).contains(&2));
}

#[test]
fn many_changes_in_a_row_break_nothing() {
    let sets = [
        set(&[(1, ""), (2, ""), (3, "")], TCP),
        set(&[(1, ""), (2, ""), (3, ""), (4, "")], TCP),
        set(&[(1, r#", "weight": 7"#), (2, ""), (3, DRAINING), (4, ""), (5, "")], TCP),
        set(&[(1, r#", "weight": 0"#), (2, ""), (3, ""), (4, DRAINING), (5, "")], TCP),
        set(&[(1, ""), (2, r#", "weight": 300"#), (3, ""), (4, ""), (5, ""), (6, "")], TCP),
    ];
    let mut node = Node::new(&sets[0]);
    let before = node.send_all(0..300, SYN);
    for round in 1..40 {
        let set = &sets[round * 7 % sets.len()];
        node.change(set);
        node.wait(300, set);
        assert_eq!(node.send_all(0..300, DATA), before, "round {round}");
    }
}

#[test]
fn a_table_of_another_size_moves_no_flow_either() {
    let sized = |size: u32| set(&[(1, ""), (2, ""), (3, "")], &format!(r#"{TCP}, "table_size": {size}"#));
    let mut node = Node::new(&sized(101));
    let before = node.send_all(0..300, SYN);
    for size in [211, 13, 101, 997] {
        node.change(&sized(size));
        node.wait(1000, &sized(size));
        assert_eq!(node.send_all(0..300, DATA), before, "{size}");
    }
    for _ in 0..3 {
        node.wait(4000, &sized(997));
        assert_eq!(node.send_all(0..300, DATA), before);
    }
    assert_eq!(node.compiler.next_move(), None);
}

#[test]
fn another_hash_moves_no_flow_either() {
    let hashed = |hash: &str| set(&[(1, ""), (2, ""), (3, "")], &format!(r#"{TCP}, "hash": "{hash}""#));
    let mut node = Node::new(&hashed("five-tuple"));
    let before = node.send_all(0..300, SYN);
    for hash in ["source-ip", "five-tuple", "source-ip"] {
        node.change(&hashed(hash));
        node.wait(1000, &hashed(hash));
        assert_eq!(node.send_all(0..300, DATA), before, "{hash}");
    }
    for _ in 0..3 {
        node.wait(4000, &hashed("source-ip"));
        assert_eq!(node.send_all(0..300, DATA), before);
    }
    assert_eq!(node.compiler.next_move(), None);
    // Who comes after goes by the address alone.
    let [one, other] = [1, 2].map(|port| node.verdict_of(Ipv4Addr::new(198, 51, 100, 250), port, SYN).1);
    assert_eq!(one.bytes()[30..34], other.bytes()[30..34]);
}

#[test]
fn nor_does_it_where_packets_are_not_plain() {
    let hashed = |hash: &str| {
        set(&[(1, ""), (2, ""), (3, "")], &format!(r#"{TCP}, "tracking": "transition", "hash": "{hash}""#))
    };
    let mut node = Node::new(&hashed("source-ip"));
    let before = node.send_all(0..300, SYN);
    node.change(&hashed("five-tuple"));
    for client in 0..300 {
        let frame = with_option(&frame(client_address(client), 40_000 + client, DATA));
        let (verdict, buffer) = node.receive(usize::from(client) % 2, &frame);
        assert_eq!((verdict, buffer.bytes()[14 + 19]), (Verdict::Forward(PortIndex(0)), before[usize::from(client)]));
    }
    assert_eq!(node.send_all(0..300, DATA), before);
}

#[test]
fn udp_is_remembered_from_its_first_packet_until_it_is_silent() {
    let udp = r#""protocol": "udp""#;
    let mut node = Node::new(&set(&[(1, ""), (2, "")], udp));
    let before = node.send_all(0..100, UDP);
    assert_eq!(node.remembered(), 100);
    let more = set(&[(1, ""), (2, ""), (3, ""), (4, "")], udp);
    node.change(&more);
    node.wait(60, &more);
    assert_eq!(node.send_all(0..100, UDP), before);
    node.wait(61, &more);
    let after = node.send_all(0..100, UDP);
    assert_eq!(counts(&after).len(), 4, "silent for a second too long: as if they were new");
}

#[test]
fn without_tracking_flows_go_by_the_table_alone() {
    let none = r#""protocol": "tcp", "tracking": "none""#;
    let mut node = Node::new(&set(&[(1, ""), (2, "")], none));
    let before = node.send_all(0..200, SYN);
    node.change(&set(&[(1, ""), (2, ""), (3, "")], none));
    assert_ne!(node.send_all(0..200, DATA), before);
    assert_eq!(node.remembered(), 0);
}

#[test]
fn a_full_memory_gives_up_what_never_got_past_its_syn() {
    let full = r#""protocol": "tcp", "tracking": "full""#;
    let mut node = Node::with(&set(&[(1, ""), (2, ""), (3, "")], full), 100);
    node.send_all(0..150, SYN);
    node.send_all(0..150, DATA);
    let before = node.send_all(0..150, DATA);
    // Everybody else is a flood.
    node.send_all(1000..9000, SYN);
    assert_eq!(node.send_all(0..150, DATA), before);
}

#[test]
fn what_must_be_remembered_and_cannot_be_is_refused_and_counted() {
    let full = r#""protocol": "tcp", "tracking": "full""#;
    let (old, new) = (set(&[(1, ""), (2, "")], full), set(&[(1, DRAINING), (2, DRAINING), (3, "")], full));
    let mut node = Node::with(&old, 16);
    for flags in [SYN, DATA] {
        node.send_all(0..400, flags);
    }
    let before = node.send_all(0..400, DATA);
    node.change(&new);
    assert_eq!(node.send_all(0..400, DATA), before, "remembered or not");
    node.wait(8000, &new);
    assert_eq!(node.send_all(0..400, DATA), before, "there was no room, so their bases are still held");
    // All that there is room for are now flows that would be elsewhere without; who is new has nowhere to go.
    for client in 1000..1100 {
        node.verdict(client, SYN);
        node.verdict(client, DATA);
    }
    let early = node.compiler.refused().map(|(_, count)| count).sum::<u64>();
    let verdicts: Vec<Verdict> = (1000..1400).map(|client| node.verdict(client, SYN).0).collect();
    let refused = verdicts.iter().filter(|&&verdict| verdict == Verdict::Drop(Reason::FlowTableFull)).count();
    let forwarded = verdicts.iter().filter(|&&verdict| verdict == Verdict::Forward(PortIndex(0))).count();
    assert_eq!((refused + forwarded, refused > 0), (400, true), "{refused} refused");
    let counted: Vec<_> = node.compiler.refused().map(|(name, count)| (name.to_string(), count)).collect();
    assert_eq!(counted, [("web".to_owned(), early + refused as u64)]);
}

#[test]
fn a_client_comes_back_to_its_backend_within_the_timeout() {
    let affine = r#""protocol": "tcp", "tracking": "full", "hash": "source-ip", "affinity_timeout": "1h""#;
    let (few, more) = (set(&[(1, ""), (2, "")], affine), set(&[(1, ""), (2, ""), (3, ""), (4, ""), (5, "")], affine));
    let mut node = Node::new(&few);
    let connect = |node: &mut Node, port: u16| -> Vec<u8> {
        let send = |client| {
            let (verdict, buffer) = node.verdict_of(client_address(client), port, SYN);
            assert_eq!(verdict, Verdict::Forward(PortIndex(0)));
            buffer.bytes()[14 + 19]
        };
        (0..100).map(send).collect()
    };
    let before = connect(&mut node, 1000);
    node.change(&more);
    // By another lcore, and other connections, again and again: each renews it.
    for port in 1001..1005 {
        node.wait(3500, &more);
        assert_eq!(connect(&mut node, port), before, "{port}");
    }
    // A backend that takes no new flow takes none of theirs either.
    let draining = set(&[(1, DRAINING), (2, ""), (3, ""), (4, ""), (5, "")], affine);
    node.change(&draining);
    let during = connect(&mut node, 2000);
    assert!(!during.contains(&1));
    assert!(before.iter().zip(&during).all(|(before, during)| *before == 1 || before == during));
    node.wait(3601, &draining);
    let after = connect(&mut node, 3001);
    assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), 4, "forgotten: by the table again");
}

#[test]
fn a_client_stays_where_it_went_while_its_first_backend_took_nothing_new() {
    let affine = r#""protocol": "tcp", "tracking": "full", "hash": "source-ip", "affinity_timeout": "1h""#;
    let both = set(&[(1, ""), (2, "")], affine);
    let mut node = Node::new(&both);
    let connect = |node: &mut Node, port: u16| -> Vec<u8> {
        let of = |client| node.verdict_of(client_address(client), port, SYN).1.bytes()[14 + 19];
        (0..100).map(of).collect()
    };
    connect(&mut node, 1000);
    node.change(&set(&[(1, DRAINING), (2, "")], affine));
    assert_eq!(connect(&mut node, 1001), [2; 100]);
    node.change(&both);
    assert_eq!(connect(&mut node, 1002), [2; 100]);
}

#[test]
fn a_client_that_was_silent_for_too_long_is_where_its_flow_is() {
    let affine = r#""protocol": "tcp", "tracking": "full", "hash": "source-ip", "affinity_timeout": "60s""#;
    let (few, more) = (set(&[(1, ""), (2, "")], affine), set(&[(1, ""), (2, ""), (3, ""), (4, ""), (5, "")], affine));
    let mut node = Node::new(&few);
    let connect = |node: &mut Node, port: u16, flags: u8| -> Vec<u8> {
        let of = |client| node.verdict_of(client_address(client), port, flags).1.bytes()[14 + 19];
        (0..100).map(of).collect()
    };
    let before = connect(&mut node, 1000, SYN);
    node.change(&more);
    assert_eq!(connect(&mut node, 1000, DATA), before);
    // The clients are forgotten, their flows are not: whoever opens one again goes where it is, and with him all that he opens.
    node.wait(90, &more);
    assert_eq!(connect(&mut node, 1000, SYN), before);
    assert_eq!(connect(&mut node, 1001, SYN), before);
}

#[test]
fn a_client_is_remembered_as_long_as_its_connection_goes_on() {
    let affine = r#""protocol": "tcp", "tracking": "full", "hash": "source-ip", "affinity_timeout": "60s""#;
    let (few, more) = (set(&[(1, ""), (2, "")], affine), set(&[(1, ""), (2, ""), (3, ""), (4, ""), (5, "")], affine));
    let mut node = Node::new(&few);
    let before = node.send_all(0..100, SYN);
    assert_eq!(node.send_all(0..100, DATA), before);
    node.change(&more);
    node.wait(50, &more);
    assert_eq!(node.send_all(0..100, DATA), before);
    node.wait(50, &more);
    let again = |client| {
        let (verdict, buffer) = node.verdict_of(client_address(client), 50_000 + client, SYN);
        assert_eq!(verdict, Verdict::Forward(PortIndex(0)));
        buffer.bytes()[14 + 19]
    };
    assert_eq!((0..100).map(again).collect::<Vec<_>>(), before);
    assert_ne!(Node::new(&more).send_all(0..100, SYN), before, "by the table some would be elsewhere");
}

/// Where nobody can remember that a flow went with its client, it goes with its slot from the start, as its further packets will.
#[test]
fn a_client_that_finds_the_memory_full_has_its_connections_on_one_backend() {
    let affine = r#""protocol": "tcp", "tracking": "full", "hash": "source-ip", "affinity_timeout": "1h""#;
    let (few, more) = (set(&[(1, ""), (2, "")], affine), set(&[(1, ""), (2, ""), (3, ""), (4, ""), (5, "")], affine));
    let mut node = Node::with(&few, 16);
    let send = |node: &mut Node, client: u16, port: u16, flags: u8| -> u8 {
        let (verdict, buffer) = node.verdict_of(client_address(client), port, flags);
        assert_eq!(verdict, Verdict::Forward(PortIndex(0)));
        buffer.bytes()[14 + 19]
    };
    let connect = |node: &mut Node, port: u16| -> Vec<u8> {
        let of = |client| {
            let opened = send(node, client, port, SYN);
            assert_eq!(send(node, client, port, DATA), opened, "client {client}, port {port}");
            opened
        };
        (0..100).map(of).collect()
    };
    let before = connect(&mut node, 1000);
    node.change(&more);
    // The clients keep coming, until the bases of their slots have moved.
    for port in 1001.. {
        node.wait(3500, &more);
        for client in 0..100 {
            send(&mut node, client, port, SYN);
        }
        if node.compiler.next_move().is_none() {
            break;
        }
    }
    assert_ne!(connect(&mut node, 2000), before, "somebody found no room");
}

#[test]
fn a_process_that_comes_after_another_holds_its_bases() {
    let (old, new) = (set(&[(1, ""), (2, "")], TCP), set(&[(1, ""), (2, ""), (3, "")], TCP));
    let mut node = Node::new(&old);
    let before = node.send_all(0..300, SYN);
    node.change(&new);
    let traces = node.compiler.take_moved();
    assert_eq!(traces.len(), 1);
    assert!(node.compiler.take_moved().is_empty());

    // Nothing is remembered any more but the bases.
    let mut again = Node::new(r#"{"services": []}"#);
    again.compiler.restore(traces, None);
    again.change(&new);
    assert_eq!(again.send_all(0..300, DATA), before);
    // Without them some would be elsewhere.
    let mut without = Node::new(&new);
    assert_ne!(without.send_all(0..300, DATA), before);
    // And they are let go in time.
    again.wait(7441, &new);
    assert_eq!(again.compiler.next_move(), None);
}

#[test]
fn an_error_of_the_fabric_finds_its_flow_on_whichever_lcore_it_is() {
    let (old, new) = (set(&[(1, ""), (2, "")], TCP), set(&[(1, ""), (2, ""), (3, "")], TCP));
    let mut node = Node::new(&old);
    let before = node.send_all(0..100, SYN);
    node.change(&new);
    for seconds in [0, 4000, 3441] {
        node.wait(seconds, &new);
        assert_eq!(node.send_all(0..100, DATA), before);
    }
    assert_eq!(node.compiler.next_move(), None);
    for client in 0..100u16 {
        // What a router says of a packet that the VIP sent to the client: it comes to the other lcore.
        let source = client_address(client);
        let mut quoted = Vec::new();
        let ip = PacketBuilder::ipv4([192, 0, 2, 1], source.octets(), 64);
        ip.tcp(80, 40_000 + client, 1, 512).ack(1).write(&mut quoted, &[]).unwrap();
        let outer = PacketBuilder::ethernet2(CLIENT_MAC.0, OUR_MAC.0).ipv4([203, 0, 113, 9], [192, 0, 2, 1], 64);
        let mut frame = Vec::new();
        let unreachable =
            etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Host);
        outer.icmpv4(unreachable).write(&mut frame, &quoted[..28]).unwrap();
        let (verdict, buffer) = node.receive(usize::from(40_001 + client) % 2, &frame);
        assert_eq!(verdict, Verdict::Forward(PortIndex(0)), "{client}");
        assert_eq!(buffer.bytes()[14 + 19], before[usize::from(client)], "{client}");
    }
}
