//! Full NAT: what `snat` makes of both directions, byte by byte, against packets that another implementation builds.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use penstock::config::Config;
use penstock::counters::Reason;
use penstock::flow::{Dealing, Nat};
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Fabric, Millis, PortIndex, Snapshot};
use penstock::wire::Frame;
use proptest::prelude::*;
use support::{CLIENT_MAC, NONE, OUR_MAC, Tally, internet_checksum};

const CONFIG: &str = r#"
[dpdk]
lcores = [1]
[[port]]
name = "wan0"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["10.0.0.1", "fd00::1"]
[snat]
ipv4 = ["10.0.0.1", "10.0.0.2"]
ipv6 = ["fd00::1"]
ports = "2000-2003"
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 13
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[neighbor]]
address = "fd00::fe"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
[[route]]
prefix = "::/0"
via = "fd00::fe"
"#;

const CLIENTS: [&str; 2] = ["198.51.100.7:40000", "[2001:db8:c::7]:40000"];
const VIPS: [&str; 2] = ["192.0.2.1:80", "[2001:db8:1::1]:80"];
const BACKENDS: [&str; 2] = ["10.1.0.1:8080", "[fd00:1::1]:8080"];

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Some services over some backends: (`name`, VIP and port, protocol, backends, more).
fn document(services: &[(&str, &str, &str, &str, &str)]) -> String {
    let one = |&(name, vip, protocol, backends, more): &(&str, &str, &str, &str, &str)| {
        format!(
            r#"{{"name": "{name}", {vip}, "protocol": "{protocol}", "forwarding": "snat", "backends": [{backends}]{more}}}"#
        )
    };
    format!(r#"{{"services": [{}]}}"#, services.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// A service of each protocol and family on port 80, over one backend's port 8080.
fn plain() -> String {
    let vip = |family| match family {
        0 => r#""vip": "192.0.2.1", "port": 80"#,
        _ => r#""vip": "2001:db8:1::1", "port": 80"#,
    };
    let backend = |family| match family {
        0 => r#"{"address": "10.1.0.1", "port": 8080}"#,
        _ => r#"{"address": "fd00:1::1", "port": 8080}"#,
    };
    document(&[
        ("tcp4", vip(0), "tcp", backend(0), ""),
        ("udp4", vip(0), "udp", backend(0), ""),
        ("tcp6", vip(1), "tcp", backend(1), ""),
        ("udp6", vip(1), "udp", backend(1), ""),
    ])
}

/// Lcores that hand frames over to one another.
struct Node {
    compiler: Compiler,
    fabric: Fabric,
    snapshot: Arc<Snapshot>,
    lcores: Vec<Pipeline>,
    now: Millis,
    /// How often a frame was handed over.
    handed: usize,
    tally: Tally,
}

impl Node {
    fn new(services: &str) -> Self {
        Self::with(services, CONFIG, 1)
    }

    fn with(services: &str, config: &str, lcores: usize) -> Self {
        let (config, _) = Config::read(config, "c").unwrap_or_else(|errors| panic!("{errors}"));
        let mut compiler = Compiler::new(config.environment_of(lcores));
        let fabric = config.fabric();
        let snapshot = compiler.compile(&read(services), &fabric, Millis(0));
        let lcores = (0..lcores).map(|lcore| Pipeline::with(Nat::new(snapshot.sources(), lcore, [0; 2]))).collect();
        Self { compiler, fabric, snapshot, lcores, now: Millis(0), handed: 0, tally: Tally::default() }
    }

    /// Whose lcores know how frames are dealt.
    fn dealt_by(mut self, dealing: Dealing) -> Self {
        self.lcores = self.lcores.into_iter().map(|lcore| lcore.dealt_by(dealing)).collect();
        self
    }

    fn define(&mut self, services: &str) {
        self.snapshot = self.compiler.compile(&read(services), &self.fabric, self.now);
    }

    /// What becomes of a packet that comes to the first lcore, and the packet.
    fn receive(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.receive_on(0, packet)
    }

    fn receive_on(&mut self, lcore: usize, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = [Buffer::new(&framed(packet))];
        let mut verdicts = [NONE; BURST];
        let (snapshot, now, port) = (&self.snapshot, self.now, PortIndex(0));
        self.lcores[lcore].process(snapshot, now, port, &mut buffer, &mut verdicts);
        let mut lcores = 0;
        while let Verdict::HandOver(to) = verdicts[0] {
            lcores += 1;
            self.handed += 1;
            assert!(usize::from(lcores) <= self.lcores.len(), "it goes round and round");
            self.tally.take(verdicts[0], &framed(packet), buffer[0].bytes());
            verdicts[0] = NONE;
            self.lcores[usize::from(to)].process_handed(snapshot, now, port, lcores, &mut buffer, &mut verdicts);
        }
        let bytes = buffer[0].bytes();
        self.tally.take(verdicts[0], &framed(packet), bytes);
        if !matches!(verdicts[0], Verdict::Forward(_) | Verdict::Answer(_)) {
            return (verdicts[0], bytes[14..].to_vec());
        }
        assert_eq!((&bytes[..6], &bytes[6..12]), (&CLIENT_MAC.0[..], &OUR_MAC.0[..]));
        let length = length(&bytes[14..]);
        assert!(bytes.len() == 14 + length || bytes.len() <= 60, "{} bytes for {length}", bytes.len());
        (verdicts[0], bytes[14..][..length].to_vec())
    }

    /// What becomes of frames that come together to the first lcore, and the port by which all of them are forwarded.
    fn burst(&mut self, frames: &[Vec<u8>]) -> (Vec<(Verdict, Vec<u8>)>, Option<PortIndex>) {
        let mut buffers: Vec<_> = frames.iter().map(|frame| Buffer::new(frame)).collect();
        let mut verdicts = [NONE; BURST];
        let only = self.lcores[0].process(&self.snapshot, self.now, PortIndex(0), &mut buffers, &mut verdicts);
        let outcomes: Vec<_> =
            verdicts.iter().zip(&buffers).map(|(&verdict, buffer)| (verdict, buffer.bytes().to_vec())).collect();
        for (frame, (verdict, bytes)) in frames.iter().zip(&outcomes) {
            self.tally.take(*verdict, frame, bytes);
        }
        assert!(verdicts[frames.len()..].iter().all(|&verdict| verdict == NONE), "a verdict for no frame");
        (outcomes, only)
    }

    /// The packet that is forwarded in this one's place.
    fn forwarded(&mut self, packet: &[u8]) -> Vec<u8> {
        let (verdict, sent) = self.receive(packet);
        assert_eq!(verdict, Verdict::Forward(PortIndex(0)));
        sent
    }

    /// The source that a flow's packet is given.
    fn source(&mut self, packet: &[u8]) -> SocketAddr {
        ends(&self.forwarded(packet)).0
    }

    fn verdict(&mut self, packet: &[u8]) -> Verdict {
        self.receive(packet).0
    }
}

fn read(services: &str) -> service::Definitions {
    service::native(services, "s", None).unwrap_or_else(|errors| panic!("{errors}")).0
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let mut frame = [&OUR_MAC.0[..], &CLIENT_MAC.0, &ether_type, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn length(packet: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 { word(2) } else { 40 + word(4) }
}

/// Source and destination of a TCP or UDP packet without options.
fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        return (SocketAddr::new(address(12), port(20)), SocketAddr::new(address(16), port(22)));
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    (SocketAddr::new(address(8), port(40)), SocketAddr::new(address(24), port(42)))
}

const SYN: u8 = 2;
const FIN: u8 = 1;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What a packet says beside its ends.
#[derive(Debug, Clone)]
struct Said {
    udp: bool,
    flags: u8,
    ttl: u8,
    payload: Vec<u8>,
}

impl Said {
    fn tcp(flags: u8) -> Self {
        Self { udp: false, flags, ttl: 64, payload: vec![] }
    }

    fn udp() -> Self {
        Self { udp: true, flags: 0, ttl: 64, payload: b"query".to_vec() }
    }

    fn older(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }

    /// The packet, by etherparse.
    fn packet(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let ip = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), self.ttl),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), self.ttl),
            _ => panic!("{from} and {to}"),
        };
        let mut packet = Vec::new();
        if self.udp {
            ip.udp(from.port(), to.port()).write(&mut packet, &self.payload).unwrap();
            return packet;
        }
        let mut tcp = ip.tcp(from.port(), to.port(), 0x0102_0304, 0x7210);
        for (flag, set) in [(SYN, 0), (FIN, 1), (RST, 2), (ACK, 3)] {
            if self.flags & flag != 0 {
                tcp = match set {
                    0 => tcp.syn(),
                    1 => tcp.fin(),
                    2 => tcp.rst(),
                    _ => tcp.ack(0x0506_0708),
                };
            }
        }
        tcp.write(&mut packet, &self.payload).unwrap();
        packet
    }
}

/// "Port unreachable" from an address to another, about a packet of which `kept` bytes are quoted.
fn error(from: IpAddr, to: IpAddr, ttl: u8, quoted: &[u8], kept: usize) -> Vec<u8> {
    let quoted = &quoted[..kept.min(quoted.len())];
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let kind = Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
            PacketBuilder::ipv4(from.octets(), to.octets(), ttl).icmpv4(kind).write(&mut packet, quoted).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port);
            PacketBuilder::ipv6(from.octets(), to.octets(), ttl).icmpv6(kind).write(&mut packet, quoted).unwrap();
        }
        _ => panic!("{from} and {to}"),
    }
    packet
}

/// Client, VIP and backend of a family.
fn places(family: usize) -> (SocketAddr, SocketAddr, SocketAddr) {
    (end(CLIENTS[family]), end(VIPS[family]), end(BACKENDS[family]))
}

fn said() -> impl Strategy<Value = Said> {
    (any::<bool>(), 2u8.., proptest::collection::vec(any::<u8>(), 0..100), prop_oneof![Just(SYN), Just(ACK)])
        .prop_map(|(udp, ttl, payload, flags)| Said { udp, flags, ttl, payload })
}

proptest! {
    #[test]
    fn both_directions_are_built_anew(family in 0usize..2, ask in said(), answer in said(), port: u16) {
        let mut node = Node::new(&plain());
        let (mut client, vip, backend) = places(family);
        client.set_port(port);
        let answer = Said { udp: ask.udp, ..answer };
        let sent = node.forwarded(&ask.packet(client, vip));
        let source = ends(&sent).0;
        prop_assert!((2000..2004).contains(&source.port()));
        prop_assert_eq!(&sent, &ask.older().packet(source, backend));
        let back = node.forwarded(&answer.packet(backend, source));
        prop_assert_eq!(&back, &answer.older().packet(vip, client));
    }

    #[test]
    fn errors_of_both_sides_are_built_anew(family in 0usize..2, ask in said(), ttl in 2u8.., more in 0usize..120, from_router: bool) {
        let mut node = Node::new(&plain());
        let (client, vip, backend) = places(family);
        let router = end(["10.9.9.9:1", "[fd00:9::9]:1"][family]).ip();
        // Never half a checksum, of which nothing is promised.
        let kept = [28, 48][family] + more / 2 * 2;
        let outside = |place: SocketAddr| if from_router { router } else { place.ip() };
        let sent = node.forwarded(&ask.packet(client, vip));
        let source = ends(&sent).0;

        // About the request, from the backend's side: it comes from the VIP, as if that had been asked.
        let about = error(outside(backend), source.ip(), ttl, &sent, kept);
        let told = node.forwarded(&about);
        let quoted = ask.older().packet(client, vip);
        prop_assert_eq!(&told, &error(vip.ip(), client.ip(), ttl - 1, &quoted, kept));

        // About the reply, from the client's side.
        let answer = Said { udp: ask.udp, ..Said::tcp(ACK) };
        let back = node.forwarded(&answer.packet(backend, source));
        let told = node.forwarded(&error(outside(client), vip.ip(), ttl, &back, kept));
        let quoted = answer.older().packet(backend, source);
        prop_assert_eq!(&told, &error(source.ip(), backend.ip(), ttl - 1, &quoted, kept));
    }
}

#[test]
fn a_udp_packet_without_a_checksum_keeps_none() {
    let mut node = Node::new(&plain());
    let (client, vip, backend) = places(0);
    let mut packet = Said::udp().packet(client, vip);
    packet[26..28].fill(0);
    let sent = node.forwarded(&packet);
    assert_eq!(sent[26..28], [0, 0]);
    let mut reply = Said::udp().packet(backend, ends(&sent).0);
    reply[26..28].fill(0);
    assert_eq!(node.forwarded(&reply)[26..28], [0, 0]);
}

/// RFC 768: 0 would say that there is none.
#[test]
fn a_sum_of_zero_is_sent_as_ones() {
    for family in 0..2 {
        let (client, vip, backend) = places(family);
        let mut node = Node::new(&plain());
        let source = node.source(&Said::udp().packet(client, vip));
        // What is wanted, with a payload that makes its sum 0; in either direction.
        for (from, to, sent_from, sent_to) in [(client, vip, source, backend), (backend, source, vip, client)] {
            let said = Said { payload: vec![0; 2], ..Said::udp() };
            let at = [20, 40][family] + 6;
            let payload = said.packet(sent_from, sent_to)[at..at + 2].to_vec();
            let said = Said { payload, ..said };
            let wanted = said.older().packet(sent_from, sent_to);
            assert_eq!(wanted[at..at + 2], [0xff, 0xff]);
            assert_eq!(node.forwarded(&said.packet(from, to)), wanted);
        }
    }
}

#[test]
fn a_flow_keeps_its_source_and_no_other_has_it() {
    let mut node = Node::new(&plain());
    let (client, vip, _) = places(0);
    let flow = |k: u16| SocketAddr::new(client.ip(), 40000 + k);
    // Two addresses with four ports each.
    let sources: Vec<_> = (0..8).map(|k| node.source(&Said::tcp(SYN).packet(flow(k), vip))).collect();
    let mut different = sources.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 8, "{sources:?}");
    assert_eq!(node.verdict(&Said::tcp(SYN).packet(flow(8), vip)), Verdict::Drop(Reason::SnatExhausted));
    for (k, source) in (0..).zip(&sources) {
        assert_eq!(node.source(&Said::tcp(ACK).packet(flow(k), vip)), *source);
    }
    // UDP has ports of its own.
    assert!(sources.contains(&node.source(&Said::udp().packet(flow(8), vip))));
}

/// A client's TCP connection, as far as it has come.
struct Connection {
    client: SocketAddr,
    source: SocketAddr,
}

impl Connection {
    fn open(node: &mut Node, client: SocketAddr) -> Self {
        let (_, vip, backend) = places(0);
        let source = node.source(&Said::tcp(SYN).packet(client, vip));
        let this = Self { client, source };
        assert_eq!(ends(&node.forwarded(&Said::tcp(SYN | ACK).packet(backend, source))), (vip, client));
        this.asks(node, ACK);
        this
    }

    /// One that both sides have closed.
    fn closed(node: &mut Node, client: SocketAddr) -> Self {
        let this = Self::open(node, client);
        this.asks(node, FIN | ACK);
        this.answers(node, FIN | ACK);
        this
    }

    fn asks(&self, node: &mut Node, flags: u8) {
        let (_, vip, backend) = places(0);
        assert_eq!(ends(&node.forwarded(&Said::tcp(flags).packet(self.client, vip))), (self.source, backend));
    }

    fn answers(&self, node: &mut Node, flags: u8) {
        let (_, vip, backend) = places(0);
        assert_eq!(ends(&node.forwarded(&Said::tcp(flags).packet(backend, self.source))), (vip, self.client));
    }

    /// Whether what it came from could be given to others, had they the need, so many seconds after.
    fn has_freed_its_source_after(&self, node: &mut Node, seconds: u64) -> bool {
        let (client, vip, _) = places(0);
        node.now = Millis(node.now.0 + seconds * 1000);
        let others = (0..8).map(|k| SocketAddr::new(client.ip(), 50000 + k));
        let verdicts: Vec<_> = others.map(|other| node.verdict(&Said::tcp(SYN).packet(other, vip))).collect();
        let full = Verdict::Drop(Reason::SnatExhausted);
        assert!(verdicts[..7].iter().all(|&verdict| verdict != full), "{verdicts:?}");
        verdicts[7] != full
    }
}

#[test]
fn a_source_is_free_again_when_its_flow_is_closed_or_idle() {
    let fresh = || Node::new(&plain());
    let client = places(0).0;
    const IDLE: u64 = 2 * 3600 + 4 * 60;

    // A SYN alone lives like a connection that closes.
    for (seconds, over) in [(120, false), (121, true)] {
        let mut node = fresh();
        let source = node.source(&Said::tcp(SYN).packet(client, end(VIPS[0])));
        assert_eq!(Connection { client, source }.has_freed_its_source_after(&mut node, seconds), over, "{seconds} s");
    }
    // So does one whose client never came back after the reply, as after a forged SYN.
    let mut node = fresh();
    let source = node.source(&Said::tcp(SYN).packet(client, end(VIPS[0])));
    let forged = Connection { client, source };
    forged.answers(&mut node, SYN | ACK);
    assert!(forged.has_freed_its_source_after(&mut node, 121));

    for (seconds, over) in [(121, false), (IDLE, false), (IDLE + 1, true)] {
        let mut node = fresh();
        let open = Connection::open(&mut node, client);
        assert_eq!(open.has_freed_its_source_after(&mut node, seconds), over, "{seconds} s");
    }
    // Either side keeps it alive.
    let mut node = fresh();
    let open = Connection::open(&mut node, client);
    node.now = Millis(IDLE * 1000);
    open.answers(&mut node, ACK);
    assert!(!open.has_freed_its_source_after(&mut node, IDLE));

    // One FIN is half a close.
    let mut node = fresh();
    let half = Connection::open(&mut node, client);
    half.asks(&mut node, FIN | ACK);
    assert!(!half.has_freed_its_source_after(&mut node, 121));
    let mut node = fresh();
    let both = Connection::open(&mut node, client);
    both.asks(&mut node, FIN | ACK);
    both.answers(&mut node, FIN | ACK);
    both.asks(&mut node, ACK);
    assert!(both.has_freed_its_source_after(&mut node, 121));

    let mut node = fresh();
    let reset = Connection::open(&mut node, client);
    reset.answers(&mut node, RST);
    reset.asks(&mut node, ACK);
    assert!(reset.has_freed_its_source_after(&mut node, 121));
    let mut node = fresh();
    let reset = Connection::open(&mut node, client);
    reset.asks(&mut node, RST);
    assert!(reset.has_freed_its_source_after(&mut node, 121));
    // A reset from a client who goes on talking was not his.
    let mut node = fresh();
    let forged = Connection::open(&mut node, client);
    forged.asks(&mut node, RST);
    forged.asks(&mut node, ACK);
    assert!(!forged.has_freed_its_source_after(&mut node, 121));
}

#[test]
fn a_connection_on_the_ends_of_one_that_is_over_is_a_new_one() {
    let (client, _, _) = places(0);
    let mut node = Node::new(&plain());
    let first = Connection::closed(&mut node, client);
    let second = Connection::open(&mut node, client);
    assert_eq!(second.source, first.source);
    assert!(!second.has_freed_its_source_after(&mut node, 121));
}

#[test]
fn udp_lives_as_long_as_its_service_says() {
    let services = document(&[(
        "dns",
        r#""vip": "192.0.2.1", "port": 80"#,
        "udp",
        r#"{"address": "10.1.0.1", "port": 8080}"#,
        r#", "idle_timeout": {"udp": "5s"}"#,
    )]);
    let mut node = Node::new(&services);
    let (client, vip, backend) = places(0);
    let source = node.source(&Said::udp().packet(client, vip));
    node.now = Millis(5_000);
    assert_eq!(node.source(&Said::udp().packet(client, vip)), source);
    node.now = Millis(10_999);
    assert_eq!(ends(&node.forwarded(&Said::udp().packet(backend, source))), (vip, client));
    node.now = Millis(15_999);
    assert_eq!(ends(&node.forwarded(&Said::udp().packet(backend, source))), (vip, client));
    node.now = Millis(21_000);
    assert_eq!(node.verdict(&Said::udp().packet(backend, source)), Verdict::Punt);
    assert_ne!(node.source(&Said::udp().packet(client, vip)), source, "what was left longest comes first");
}

#[test]
fn what_belongs_to_no_flow_is_the_kernels() {
    for family in 0..2 {
        let mut node = Node::new(&plain());
        let (client, vip, backend) = places(family);
        let source = node.source(&Said::tcp(SYN).packet(client, vip));
        let with = |port| SocketAddr::new(source.ip(), port);
        let stranger = SocketAddr::new(backend.ip(), 9999);
        let free = with(2000 + (source.port() - 2000 + 1) % 4);
        let packets = [
            ("from another port", Said::tcp(ACK).packet(stranger, source)),
            ("to a free source", Said::tcp(ACK).packet(backend, free)),
            ("to a port that is not shared out", Said::tcp(ACK).packet(backend, with(1999))),
            ("of another protocol", Said::udp().packet(backend, source)),
            (
                "an error about nothing",
                error(backend.ip(), source.ip(), 64, &Said::tcp(ACK).packet(free, backend), 200),
            ),
        ];
        for (what, packet) in packets {
            let (verdict, bytes) = node.receive(&packet);
            assert_eq!((verdict, &bytes[..packet.len()]), (Verdict::Punt, &packet[..]), "{what}");
        }
        // To the VIP, an error about no flow of ours is nobody's.
        let quoted = Said::tcp(ACK).packet(vip, SocketAddr::new(client.ip(), 1));
        let about = error(client.ip(), vip.ip(), 64, &quoted, 200);
        assert_eq!(node.verdict(&about), Verdict::Drop(Reason::IcmpIgnored));
    }
}

#[test]
fn what_does_not_leave_takes_no_source() {
    for family in 0..2 {
        let config = CONFIG.replace("2000-2003", "2000-2000").replace(r#""10.0.0.1", "10.0.0.2""#, r#""10.0.0.1""#);
        let mut node = Node::with(&plain(), &config, 1);
        let (client, vip, _) = places(family);
        let other = |port| SocketAddr::new(client.ip(), port);
        for udp in [false, true] {
            let said = Said { udp, ..Said::tcp(SYN) };
            for port in 1..4 {
                let old = Said { ttl: 1, payload: vec![], ..said };
                assert_eq!(node.verdict(&old.packet(other(port), vip)), Verdict::Answer(PortIndex(0)));
                let big = Said { payload: vec![0; 1500], ..old };
                assert_eq!(
                    node.verdict(&Said { ttl: 64, ..big }.packet(other(port), vip)),
                    Verdict::Answer(PortIndex(0))
                );
            }
            node.forwarded(&Said { udp, ..Said::tcp(SYN) }.packet(other(9), vip));
            let refused = node.verdict(&Said { udp, ..Said::tcp(SYN) }.packet(other(10), vip));
            assert_eq!(refused, Verdict::Drop(Reason::SnatExhausted));
        }
    }
}

#[test]
fn a_backend_behind_a_tag_is_told_there() {
    let tagged = |address: &str| {
        format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"02:00:00:00:00:aa\"\nport = \"wan0\"\nvlan = 7\n")
    };
    let config = [CONFIG, &tagged("10.1.0.1"), &tagged("fd00:1::1")].concat();
    for family in 0..2 {
        let mut node = Node::with(&plain(), &config, 1);
        let (client, vip, backend) = places(family);
        let mut one = |frame: Vec<u8>| node.burst(&[frame]).0.remove(0);
        let (_, sent) = one(framed(&Said::tcp(SYN).packet(client, vip)));
        assert_eq!(sent[12..16], [0x81, 0, 0, 7]);
        let source = ends(&sent[18..]).0;
        let old = Said { ttl: 1, ..Said::tcp(ACK) }.packet(backend, source);
        let mut frame = framed(&old);
        frame.splice(12..12, [0x81, 0, 0xa0, 9]);
        let (verdict, told) = one(frame);
        assert_eq!(verdict, Verdict::Answer(PortIndex(0)));
        assert_eq!((&told[..6], &told[6..12]), (&[2, 0, 0, 0, 0, 0xaa][..], &OUR_MAC.0[..]));
        assert_eq!(told[12..16], [0x81, 0, 0xa0, 7], "in the backend's VLAN, with the priority of its packet");
        assert_eq!(told[18 + [28, 48][family]..], old);
        // Nothing is said about an error.
        let about = error(backend.ip(), source.ip(), 1, &sent[18..], 100);
        assert_eq!(one(framed(&about)).0, Verdict::Drop(Reason::TtlExceeded));
    }
}

#[test]
fn the_last_hop_and_what_is_too_big() {
    let mut node = Node::new(&plain());
    let (client, vip, backend) = places(0);
    let (verdict, told) = node.receive(&Said { ttl: 1, ..Said::tcp(SYN) }.packet(client, vip));
    assert_eq!((verdict, told[20]), (Verdict::Answer(PortIndex(0)), 11));
    let source = node.source(&Said::tcp(SYN).packet(client, vip));
    let old = Said { ttl: 1, ..Said::tcp(ACK) }.packet(backend, source);
    let (verdict, told) = node.receive(&old);
    assert_eq!((verdict, told[20]), (Verdict::Answer(PortIndex(0)), 11));
    assert_eq!(
        (&told[12..16], &told[16..20]),
        (&[192, 0, 2, 1][..], &[10, 1, 0, 1][..]),
        "from the VIP to the backend"
    );
    assert_eq!(told[28..], old);
}

fn two(first: &str, second: &str) -> String {
    let backends =
        format!(r#"{{"address": "10.1.0.1", "port": 8080{first}}}, {{"address": "10.1.0.2", "port": 8080{second}}}"#);
    document(&[("web", r#""vip": "192.0.2.1", "port": 80"#, "tcp", &backends, "")])
}

#[test]
fn a_flow_stays_with_its_backend_while_that_is_there() {
    let (client, vip, _) = places(0);
    let mut node = Node::new(&two("", ""));
    let backend_of = |node: &mut Node, flags| ends(&node.forwarded(&Said::tcp(flags).packet(client, vip)));
    let (source, backend) = backend_of(&mut node, SYN);
    node.forwarded(&Said::tcp(SYN | ACK).packet(backend, source));
    assert_eq!(backend_of(&mut node, ACK), (source, backend));
    let is_first = backend.ip() == end(BACKENDS[0]).ip();
    let change = |how: &str| if is_first { two(how, "") } else { two("", how) };
    for how in [r#", "state": "draining""#, r#", "weight": 0"#, r#", "weight": 7"#, ""] {
        node.define(&change(how));
        // A forged SYN moves it as little as anything else.
        for flags in [SYN, ACK, SYN] {
            assert_eq!(backend_of(&mut node, flags), (source, backend), "{how}");
        }
    }
    node.define(&change(r#", "state": "down""#));
    let (other_source, other) = backend_of(&mut node, ACK);
    assert!(other != backend && other_source != source);
    // What its old backend still sends is no packet of the VIP's any more.
    assert_eq!(node.verdict(&Said::tcp(ACK).packet(backend, source)), Verdict::Punt);
    // And it does not go back.
    node.define(&two("", ""));
    assert_eq!(backend_of(&mut node, ACK), (other_source, other));
}

/// Services have other places among the others then.
#[test]
fn a_flow_stays_where_it_is_when_other_services_go_and_come() {
    let service = |name: &'static str, last: u8, backend: &'static str| {
        (
            name,
            format!(r#""vip": "192.0.2.{last}", "port": 80"#),
            format!(r#"{{"address": "{backend}", "port": 8080}}"#),
        )
    };
    let [first, ours, new] = [("first", 9, "10.1.0.9"), ("ours", 1, "10.1.0.1"), ("new", 8, "10.1.0.8")]
        .map(|(name, last, backend)| service(name, last, backend));
    let of = |services: &[&(&'static str, String, String)]| {
        document(
            &services
                .iter()
                .map(|(name, vip, backend)| (*name, vip.as_str(), "tcp", backend.as_str(), ""))
                .collect::<Vec<_>>(),
        )
    };
    let (client, vip, _) = places(0);
    let mut node = Node::new(&of(&[&first, &ours]));
    let (source, backend) = ends(&node.forwarded(&Said::tcp(SYN).packet(client, vip)));
    node.forwarded(&Said::tcp(SYN | ACK).packet(backend, source));
    for services in [of(&[&ours]), of(&[&ours, &new]), of(&[&new, &ours]), of(&[&first, &new, &ours])] {
        node.define(&services);
        for _ in 0..2 {
            assert_eq!(ends(&node.forwarded(&Said::tcp(ACK).packet(client, vip))), (source, backend), "{services}");
        }
    }
}

#[test]
fn a_connection_that_came_to_nothing_is_chosen_anew_where_its_backend_takes_none() {
    let (client, vip, _) = places(0);
    let way = |node: &mut Node, flags| ends(&node.forwarded(&Said::tcp(flags).packet(client, vip)));
    for how in [r#", "state": "draining""#, r#", "weight": 0"#] {
        let mut node = Node::new(&two("", ""));
        let (source, backend) = way(&mut node, SYN);
        node.define(&if backend.ip() == end(BACKENDS[0]).ip() { two(how, "") } else { two("", how) });
        assert_eq!(way(&mut node, ACK), (source, backend), "not a new one");
        let (other_source, other) = way(&mut node, SYN);
        assert!(other != backend && other_source != source, "{how}");
        assert_eq!(way(&mut node, SYN), (other_source, other));
    }
}

#[test]
fn after_a_connection_is_closed_the_next_is_chosen_anew_where_its_backend_takes_none() {
    let (client, vip, _) = places(0);
    let mut node = Node::new(&two("", ""));
    let way = |node: &mut Node, flags| ends(&node.forwarded(&Said::tcp(flags).packet(client, vip)));
    let (source, backend) = way(&mut node, SYN);
    node.forwarded(&Said::tcp(SYN | ACK).packet(backend, source));
    way(&mut node, ACK);
    let how = r#", "state": "draining""#;
    node.define(&if backend.ip() == end(BACKENDS[0]).ip() { two(how, "") } else { two("", how) });
    assert_eq!(way(&mut node, FIN | ACK), (source, backend));
    node.forwarded(&Said::tcp(FIN | ACK).packet(backend, source));
    assert_eq!(way(&mut node, ACK), (source, backend));
    let (other_source, other) = way(&mut node, SYN);
    assert!(other != backend && other_source != source);
}

#[test]
fn who_is_refused_by_new_ranges_is_refused_mid_flow() {
    let (client, vip, _) = places(0);
    let with =
        |more| document(&[("web", r#""vip": "192.0.2.1", "port": 80"#, "tcp", r#"{"address": "10.1.0.1"}"#, more)]);
    let mut node = Node::new(&with(""));
    node.forwarded(&Said::tcp(SYN).packet(client, vip));
    node.define(&with(r#", "deny_ranges": ["198.51.100.0/24"]"#));
    assert_eq!(node.verdict(&Said::tcp(ACK).packet(client, vip)), Verdict::Drop(Reason::SourceRefused));
}

#[test]
fn without_a_backend_nothing_is_opened() {
    let (client, vip, _) = places(0);
    for (backends, reason) in [
        ("", Reason::NoBackend),
        (r#"{"address": "10.1.0.1", "state": "down"}"#, Reason::NoBackend),
        (r#"{"address": "172.31.0.1"}"#, Reason::NoNextHop),
    ] {
        let config = CONFIG.replace("0.0.0.0/0", "10.0.0.0/8");
        let services = document(&[("web", r#""vip": "192.0.2.1", "port": 80"#, "tcp", backends, "")]);
        let mut node = Node::with(&services, &config, 1);
        for k in 0..20 {
            let flow = SocketAddr::new(client.ip(), 40000 + k);
            assert_eq!(node.verdict(&Said::tcp(SYN).packet(flow, vip)), Verdict::Drop(reason));
        }
    }
}

#[test]
fn prefixes_ranges_and_all_ports() {
    let services = document(&[
        ("net", r#""vip": "192.0.2.0/24", "port": "8000-8099""#, "tcp", r#"{"address": "10.1.0.1"}"#, ""),
        ("all", r#""vip": "2001:db8:1::/64", "port": 0"#, "udp", r#"{"address": "fd00:1::1"}"#, ""),
    ]);
    let mut node = Node::new(&services);
    for (client, vip, backend, said) in [
        (CLIENTS[0], "192.0.2.77:8042", "10.1.0.1:8042", Said::tcp(SYN)),
        (CLIENTS[0], "192.0.2.78:8043", "10.1.0.1:8043", Said::tcp(SYN)),
        (CLIENTS[1], "[2001:db8:1::abcd]:7", "[fd00:1::1]:7", Said::udp()),
    ] {
        let (client, vip, backend) = (end(client), end(vip), end(backend));
        let sent = node.forwarded(&said.packet(client, vip));
        let source = ends(&sent).0;
        assert_eq!(sent, said.older().packet(source, backend));
        assert_eq!(node.forwarded(&said.packet(backend, source)), said.older().packet(vip, client));
        // The same under a new snapshot.
        node.define(&services);
        assert_eq!(node.source(&said.packet(client, vip)), source);
    }
}

/// A packet of UDP over IPv4 in two fragments.
fn cut(packet: &[u8], id: u8) -> [Vec<u8>; 2] {
    let fragment = |payload: &[u8], word: u16| {
        let mut header = packet[..20].to_vec();
        header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        header[5] = id;
        header[6..8].copy_from_slice(&word.to_be_bytes());
        header[10..12].fill(0);
        let sum = internet_checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header[..], payload].concat()
    };
    [fragment(&packet[20..36], 0x2000), fragment(&packet[36..], 2)]
}

/// Both parts put together.
fn whole([first, later]: [Vec<u8>; 2]) -> Vec<u8> {
    let mut packet = [&first[..], &later[20..]].concat();
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[4..8].fill(0);
    packet[6] = 0x40;
    packet[10..12].fill(0);
    let sum = internet_checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However frames are dealt, each flow has one source, and what comes back is its own.
    #[test]
    fn several_lcores_do_what_one_does(
        lcores in 1usize..5,
        is_known: bool,
        steps in proptest::collection::vec((0u16..6, 0usize..4, 0usize..4, 0usize..5), 1..60),
    ) {
        let config = CONFIG.replace("2000-2003", "2000-2099");
        let dealing = Dealing::evenly(128, lcores);
        let mut node = Node::with(&plain(), &config, lcores);
        if is_known {
            node = node.dealt_by(dealing);
        }
        let deal = |lcore: usize| lcore % lcores;
        let mut sources: std::collections::HashMap<u16, SocketAddr> = Default::default();
        for (id, (flow, here, there, what)) in (0..).zip(steps) {
            let (client, vip, backend) = places(0);
            let client = SocketAddr::new(client.ip(), 40000 + flow);
            let said = Said { payload: vec![id; 32], ..Said::udp() };
            // The flow's own packets go to one lcore, as receive-side scaling deals them.
            let mine = dealing.lcore(client.ip(), vip.ip(), Some((client.port(), vip.port())));
            let source = match sources.get(&flow) {
                Some(&source) => source,
                // Or some fragment is first.
                None if is_known && there == 3 => {
                    let parts = cut(&said.packet(client, vip), id).map(|part| node.receive_on(deal(here), &part).1);
                    let source = ends(&parts[0]).0;
                    prop_assert_eq!(whole(parts), said.older().packet(source, backend));
                    *sources.entry(flow).or_insert(source)
                }
                None => {
                    let (verdict, sent) = node.receive_on(mine, &said.packet(client, vip));
                    prop_assert_eq!(verdict, Verdict::Forward(PortIndex(0)));
                    *sources.entry(flow).or_insert(ends(&sent).0)
                }
            };
            let sent = said.older().packet(source, backend);
            let forwarded = (Verdict::Forward(PortIndex(0)), sent.clone());
            match what {
                0 => prop_assert_eq!(node.receive_on(mine, &said.packet(client, vip)), forwarded),
                // A reply may come to any lcore.
                1 => {
                    let back = node.receive_on(deal(here), &said.packet(backend, source));
                    prop_assert_eq!(back, (Verdict::Forward(PortIndex(0)), said.older().packet(vip, client)));
                }
                // An error, too, in either direction.
                2 => {
                    let told = node.receive_on(deal(here), &error(backend.ip(), source.ip(), 9, &sent, 48));
                    let quoted = said.older().packet(client, vip);
                    prop_assert_eq!(told, (Verdict::Forward(PortIndex(0)), error(vip.ip(), client.ip(), 8, &quoted, 48)));
                    let back = said.packet(vip, client);
                    let told = node.receive_on(deal(there), &error(client.ip(), vip.ip(), 9, &back, 48));
                    let quoted = said.packet(backend, source);
                    prop_assert_eq!(told, (Verdict::Forward(PortIndex(0)), error(source.ip(), backend.ip(), 8, &quoted, 48)));
                }
                // All fragments of two addresses come to one lcore, whichever.
                3 => {
                    let parts = cut(&said.packet(client, vip), id).map(|part| node.receive_on(deal(here), &part).1);
                    prop_assert_eq!(whole(parts), sent);
                }
                _ => {
                    let parts = cut(&said.packet(backend, source), id).map(|part| node.receive_on(deal(there), &part).1);
                    prop_assert_eq!(whole(parts), said.older().packet(vip, client));
                }
            }
        }
        prop_assert!(lcores > 1 || node.handed == 0);
    }
}

/// A datagram that begins a flow by a fragment: where nobody knows how frames are dealt, the lcore that has the fragments opens it, when
/// none knows it.
#[test]
fn a_flow_may_begin_with_a_fragment() {
    for lcores in [1, 3] {
        let config = CONFIG.replace("2000-2003", "2000-2099");
        let mut node = Node::with(&plain(), &config, lcores);
        let (client, vip, backend) = places(0);
        let said = Said { payload: vec![7; 32], ..Said::udp() };
        let parts = cut(&said.packet(client, vip), 9).map(|part| node.receive_on(lcores - 1, &part).1);
        let source = ends(&parts[0]).0;
        assert_eq!(whole(parts), said.older().packet(source, backend));
        assert_eq!(node.handed, if lcores == 1 { 0 } else { lcores });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// But for the ports: each flow has one, whatever it begins with.
    #[test]
    fn replay_by_several_lcores_is_replay_by_one(
        steps in proptest::collection::vec((0u16..20, 0u16..4, 0usize..3), 1..80),
    ) {
        let config = CONFIG.replace("2000-2003", "2000-2399");
        let mut capture = Vec::new();
        for (id, (flow, host, what)) in (0..).zip(steps) {
            let (_, vip, _) = places(0);
            let client = end(&format!("198.51.100.{}:{}", 7 + host, 40000 + flow));
            let asked = Said { payload: vec![id; 32], ..Said::udp() }.packet(client, vip);
            match what {
                0 => capture.push(framed(&asked)),
                1 => capture.extend(cut(&asked, id).map(|part| framed(&part))),
                _ => {
                    let back = Said::udp().packet(vip, client);
                    capture.push(framed(&error(client.ip(), vip.ip(), 9, &back, 48)));
                }
            }
        }
        let of = |lcores: usize| {
            let replayed = support::replay::replayed(lcores, &config, &plain(), &capture);
            // Ports are known by the order in which they are first seen.
            let mut seen = Vec::new();
            let mut sent = Vec::new();
            for (at, mut frame) in replayed.sent {
                let (is_first, is_error) = (frame[20] & 0x1f | frame[21] == 0, frame[23] == 1);
                // In an error the quote has it, and the sum over that.
                let (port, sums) = if is_error { (64..66, [36, 68]) } else { (34..36, [40, 40]) };
                if is_first {
                    let source = [&frame[if is_error { 58..62 } else { 26..30 }], &frame[port.clone()]].concat();
                    let number = seen.iter().position(|other| *other == source).unwrap_or_else(|| {
                        seen.push(source);
                        seen.len() - 1
                    });
                    frame[port].copy_from_slice(&(number as u16).to_be_bytes());
                    sums.iter().for_each(|&sum| frame[sum..][..2].fill(0));
                }
                sent.push((at, frame));
            }
            (sent, replayed.report)
        };
        let one = of(1);
        for lcores in [2, 4] {
            prop_assert_eq!(&of(lcores), &one, "{} lcores", lcores);
        }
    }
}

#[test]
fn a_later_fragment_of_a_reply_may_wait_for_its_first() {
    use support::replay::replayed_at;
    let ((client, vip, backend), ms) = (places(0), 1_000_000);
    let said = Said { payload: vec![7; 32], ..Said::udp() };
    let asked = framed(&said.packet(client, vip));
    let holds = CONFIG.replace("[hash]", "[fragments]\nhold = \"20ms\"\n[hash]");
    for (lcores, config, [forwarded, punted, dropped]) in
        [(1, &holds[..], [4, 2, 1]), (4, &holds[..], [4, 2, 1]), (1, CONFIG, [3, 4, 0])]
    {
        let opened = replayed_at(lcores, config, &plain(), &[(0, asked.clone())]).sent;
        let source = ends(&opened[0].1[14..]).0;
        let parts = |from: SocketAddr, id| cut(&said.packet(from, source), id).map(|part| framed(&part));
        let [first, later] = parts(backend, 9);
        let mut capture = vec![(0, asked.clone()), (ms, later), (5 * ms, first)];
        // The kernel's own, to the same address, stay as they are, unless the first is missing.
        let [first, later] = parts(end("203.0.113.9:53"), 10);
        let [_, alone] = parts(end("203.0.113.9:53"), 11);
        capture.extend([(10 * ms, first), (10 * ms, later), (12 * ms, alone), (60 * ms, asked.clone())]);

        let replayed = replayed_at(lcores, config, &plain(), &capture);
        let totals = &replayed.report.totals;
        assert_eq!([totals.forwarded, totals.punted], [forwarded, punted], "{lcores} lcores");
        assert_eq!(totals.dropped[Reason::FragmentUnknown as usize], dropped, "{lcores} lcores");
        if forwarded == 4 {
            let parts = [1, 2].map(|at| replayed.sent[at].1[14..].to_vec());
            assert_eq!(whole([parts[0][..36].to_vec(), parts[1][..44].to_vec()]), said.older().packet(vip, client));
            assert_eq!([1, 2].map(|at| replayed.sent[at].0), [5 * ms; 2], "the later one goes out behind its first");
        }
    }
}

/// The first of its datagram says too little to be a service's or a reply's.
#[test]
fn what_is_behind_a_short_first_fragment_need_not_wait() {
    let packet = Said { payload: vec![7; 32], ..Said::tcp(ACK) }.packet(end("203.0.113.9:1000"), end("10.0.0.1:179"));
    let [first, later] = cut(&packet, 10).map(|part| framed(&part));
    let holds = CONFIG.replace("[hash]", "[fragments]\nhold = \"20ms\"\n[hash]");
    for config in [CONFIG, &holds] {
        let punted = support::replay::replayed(1, config, &plain(), &[first.clone(), later.clone()]).punted;
        assert_eq!(punted.len(), 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// New flows and known ones, of this mode and of others, in one burst: as if each came alone.
    #[test]
    fn a_burst_is_its_frames_one_by_one(
        bursts in proptest::collection::vec(
            proptest::collection::vec((0u16..3, 1u8..6, any::<bool>(), 0usize..4, 0u8..8, 0usize..3), 1..=32), 1..5,
        ),
    ) {
        let services = raw(&[
            r#""vip": "192.0.2.1", "protocol": "tcp", "forwarding": "snat", "backends": [A, B, C]"#,
            r#""vip": "192.0.2.1", "protocol": "udp", "forwarding": "snat", "backends": [A, B, C]"#,
            r#""vip": "192.0.2.2", "protocol": "tcp", "forwarding": "ipip", "backends": [A, B, C]"#,
            r#""vip": "192.0.2.2", "protocol": "udp", "forwarding": "gue", "hash": "source-ip", "backends": [A, B, C]"#,
            r#""vip": "192.0.2.3", "protocol": "tcp", "forwarding": "dscp", "dscp": 7, "source_ranges": ["198.51.100.0/24"], "backends": [A]"#,
            r#""vip": "192.0.2.4", "protocol": "udp", "forwarding": "ipip", "no_backend": "reject", "backends": []"#,
        ].iter().zip(0..).map(|(service, number)| format!(r#"{{"name": "{number}", "port": 80, {service}}}"#)).collect::<Vec<_>>().join(", ")
            .replace('A', r#"{"address": "10.1.0.1"}"#).replace('B', r#"{"address": "10.1.0.2"}"#).replace('C', r#"{"address": "10.1.0.3"}"#));
        let config = CONFIG.replace("2000-2003", "2000-2099").replace("[hash]", "[encap]\nipv4_source = \"10.0.0.1\"\n[hash]");
        let [mut together, mut alone] = [(), ()].map(|()| Node::with(&services, &config, 1));
        for burst in bursts {
            let frames: Vec<_> = burst.iter().map(|&(flow, vip, udp, flags, kind, length)| {
                let client = SocketAddr::new(if flow == 2 { "203.0.113.7" } else { "198.51.100.7" }.parse().unwrap(), 40000 + flow % 2);
                let payload = vec![9; [3, 1453, 1475][length]];
                let said = Said { udp, flags: [SYN, ACK, FIN | ACK, RST][flags], ttl: if kind == 1 { 1 } else { 64 }, payload };
                let packet = said.packet(client, SocketAddr::new([192, 0, 2, vip].into(), 80));
                match kind {
                    2 => {
                        let mut frame = framed(&packet);
                        frame.splice(12..12, [0x81, 0, 0x60, 5]);
                        frame
                    }
                    3 | 4 => {
                        let short = Said { payload: vec![9; 32], ..said }.packet(client, SocketAddr::new([192, 0, 2, vip].into(), 80));
                        framed(&cut(&short, 3)[usize::from(kind) - 3])
                    }
                    _ => framed(&packet),
                }
            }).collect();
            let ones: Vec<_> = frames.iter().map(|frame| alone.burst(std::slice::from_ref(frame)).0[0].clone()).collect();
            let (all, only) = together.burst(&frames);
            prop_assert_eq!(only.is_some(), ones.iter().all(|(verdict, _)| matches!(verdict, Verdict::Forward(_))));
            // Which port a new flow gets, and which number an outer header, depends on the order.
            let settled = |(verdict, mut bytes): (Verdict, Vec<u8>)| {
                let ranges = match (bytes[26..30] == [10, 0, 0, 1] || bytes[26..30] == [10, 0, 0, 2], bytes[23]) {
                    _ if matches!(verdict, Verdict::Drop(_)) => &[][..],
                    (true, 4) => &[18..20, 24..26],
                    (true, 6) => &[34..36, 50..52],
                    (true, 17) => &[18..20, 24..26, 34..36, 40..42],
                    _ => &[],
                };
                ranges.iter().for_each(|range| bytes[range.clone()].fill(0));
                (verdict, bytes)
            };
            for (at, (all, one)) in all.into_iter().zip(ones).enumerate() {
                prop_assert_eq!(settled(all), settled(one), "frame {} of {:?}", at, burst);
            }
        }
        let counted = |node: &Node| {
            let mut all: Vec<_> = node.compiler.totals().map(|total| format!("{total:?}")).collect();
            all.sort();
            all
        };
        prop_assert_eq!(counted(&together), counted(&alone));
    }
}

#[test]
fn what_check_says_of_snat() {
    let fits = |config: &str, services: &str| {
        let (config, _) = Config::read(config, "penstock.toml").unwrap();
        penstock::config::fit(&config, &read(services), "services.json").map_err(|errors| errors.to_string())
    };
    assert_eq!(fits(CONFIG, &plain()), Ok(()));
    let without = CONFIG.replace(r#"ipv6 = ["fd00::1"]"#, "");
    let reason = fits(&without, &plain()).unwrap_err();
    assert!(reason.starts_with("services.json: services[2].forwarding: \"snat\" needs source addresses"), "{reason}");
    let read = |from: &str, to: &str| Config::read(CONFIG.replace(from, to), "penstock.toml").unwrap_err().to_string();
    for (from, to, reason) in [
        (
            "\"10.0.0.2\"",
            "\"127.0.0.1\"",
            "penstock.toml: snat.ipv4[1]: 127.0.0.1 is a loopback address; replies come back to it",
        ),
        ("\"10.0.0.2\"", "\"10.0.0.1\"", "penstock.toml: snat.ipv4[1]: 10.0.0.1 is ipv4[0] already"),
        (
            "lcores = [1]",
            "lcores = [1, 2, 3, 4, 5]",
            "penstock.toml: snat.ports: 4 ports cannot be shared out among 5 lcores",
        ),
    ] {
        assert_eq!(read(from, to), reason);
    }
}

/// Services as they are written, one after the other.
fn raw(services: &str) -> String {
    format!(r#"{{"services": [{services}]}}"#)
}

const WEB: &str = r#"{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "snat",
    "backends": [{"address": "10.1.0.1", "port": 8080}]}"#;

#[test]
fn a_reply_is_its_flows_where_a_service_has_the_same_address_and_port() {
    let other = r#"{"name": "node", "vip": "10.0.0.1", "port": 2000, "protocol": "tcp", "forwarding": "dscp", "dscp": 5,
        "backends": [{"address": "10.1.0.9"}]}"#;
    let mut node = Node::new(&raw(&format!("{WEB}, {other}")));
    let (client, vip, backend) = places(0);
    let source = node.source(&Said::tcp(SYN).packet(client, vip));
    assert_eq!(source, end("10.0.0.1:2000"));
    assert_eq!(ends(&node.forwarded(&Said::tcp(SYN | ACK).packet(backend, source))), (vip, client));
    // A client's packet there is the service's.
    assert_eq!(ends(&node.forwarded(&Said::tcp(SYN).packet(client, source))).1, end("10.1.0.9:2000"));
}

#[test]
fn a_reply_of_no_flow_is_no_reply_of_dnat_either() {
    let other = r#"{"name": "d", "vip": "192.0.2.9", "port": 90, "protocol": "tcp", "forwarding": "dnat",
        "backends": [{"address": "10.1.0.1", "port": 8080}]}"#;
    let mut node = Node::new(&raw(&format!("{WEB}, {other}")));
    // An address of `[snat]` that is not the node's own.
    assert_eq!(node.verdict(&Said::tcp(ACK).packet(places(0).2, end("10.0.0.2:2001"))), Verdict::Punt);
}

#[test]
fn a_later_fragment_alone_opens_nothing() {
    let all = r#"{"name": "all", "vip": "192.0.2.1", "port": 0, "protocol": "udp", "forwarding": "snat", "hash": "source-ip",
        "backends": [{"address": "10.1.0.1"}]}"#;
    let mut node = Node::new(&raw(all));
    let (client, vip, _) = places(0);
    let [first, later] = cut(&Said { payload: vec![7; 32], ..Said::udp() }.packet(client, vip), 9);
    assert_eq!(node.verdict(&later), Verdict::Drop(Reason::FragmentUnknown));
    let parts = [first, later].map(|part| node.receive(&part));
    assert!(parts.iter().all(|(verdict, _)| *verdict == Verdict::Forward(PortIndex(0))));
    assert_eq!(parts[0].1[12..20], parts[1].1[12..20], "both have the same ends");
}

#[test]
fn a_connection_that_is_half_closed_gives_way_to_a_new_one_where_its_backend_takes_none() {
    let (client, vip, _) = places(0);
    let mut node = Node::new(&two("", ""));
    let way = |node: &mut Node, flags| ends(&node.forwarded(&Said::tcp(flags).packet(client, vip)));
    let (source, backend) = way(&mut node, SYN);
    node.forwarded(&Said::tcp(SYN | ACK).packet(backend, source));
    way(&mut node, ACK);
    let how = r#", "state": "draining""#;
    node.define(&if backend.ip() == end(BACKENDS[0]).ip() { two(how, "") } else { two("", how) });
    assert_eq!(way(&mut node, FIN | ACK), (source, backend));
    assert_eq!(way(&mut node, ACK), (source, backend));
    assert_ne!(way(&mut node, SYN).1, backend);
}

#[test]
fn a_connection_id_goes_before_what_is_remembered() {
    let quic = r#"{"name": "q", "vip": "192.0.2.1", "port": 443, "protocol": "udp", "forwarding": "snat", "hash": "quic-cid",
        "quic": {"config_id": 1, "server_id_length": 2},
        "backends": [{"address": "10.1.0.1", "server_id": "0001"}, {"address": "10.1.0.2", "server_id": "0002"}]}"#;
    let mut node = Node::new(&raw(quic));
    let (client, vip) = (end(CLIENTS[0]), end("192.0.2.1:443"));
    let said = |server: u8| Said { payload: [&[0x40, 0x20, 0, server][..], &[1; 20]].concat(), ..Said::udp() };
    for server in [1, 2, 2, 1, 2] {
        let backend = end(&format!("10.1.0.{server}:443"));
        let sent = node.forwarded(&said(server).packet(client, vip));
        let source = ends(&sent).0;
        assert_eq!(sent, said(server).older().packet(source, backend));
        let reply = said(server).packet(backend, source);
        assert_eq!(node.forwarded(&reply), said(server).older().packet(vip, client));
    }
    // Nor do two of one burst mix.
    let (sent, _) = node.burst(&[1, 2].map(|server| framed(&said(server).packet(client, vip))));
    for (server, (_, frame)) in [1, 2].into_iter().zip(&sent) {
        assert_eq!(ends(&frame[14..]).1, end(&format!("10.1.0.{server}:443")));
    }
}

#[test]
fn a_reset_of_a_backend_that_goes_on_talking_was_not_its_own() {
    let mut node = Node::new(&plain());
    let open = Connection::open(&mut node, places(0).0);
    open.answers(&mut node, RST);
    open.answers(&mut node, ACK);
    assert!(!open.has_freed_its_source_after(&mut node, 121));
}

#[test]
fn a_handshake_within_one_burst_is_a_handshake() {
    let (client, vip, backend) = places(0);
    let mut node = Node::new(&plain());
    let first = Connection::closed(&mut node, client);
    let packets = [
        Said::tcp(SYN).packet(client, vip),
        Said::tcp(SYN | ACK).packet(backend, first.source),
        Said::tcp(ACK).packet(client, vip),
    ];
    let (outcomes, _) = node.burst(&packets.map(|packet| framed(&packet)));
    assert!(outcomes.iter().all(|(verdict, _)| *verdict == Verdict::Forward(PortIndex(0))));
    assert!(!first.has_freed_its_source_after(&mut node, 121));
}

/// A tag sends a frame another way through the pipeline than those beside it.
#[test]
fn segments_of_a_burst_count_in_their_order() {
    let (client, vip, _) = places(0);
    let frames = |first: u8, then: u8| {
        let [mut first, then] = [first, then].map(|flags| framed(&Said::tcp(flags).packet(client, vip)));
        first.splice(12..12, [0x81, 0, 0, 0]);
        [first, then]
    };
    for (first, then, is_closed) in [(RST, ACK, false), (ACK, RST, true)] {
        let mut node = Node::new(&plain());
        let open = Connection::open(&mut node, client);
        let (outcomes, _) = node.burst(&frames(first, then));
        assert!(outcomes.iter().all(|(verdict, _)| *verdict == Verdict::Forward(PortIndex(0))));
        assert_eq!(open.has_freed_its_source_after(&mut node, 121), is_closed);
    }
}

#[test]
fn replies_of_a_backend_that_is_gone_keep_nothing_alive() {
    let service = |backends: &str| document(&[("dns", r#""vip": "192.0.2.1", "port": 80"#, "udp", backends, "")]);
    let (client, vip, backend) = places(0);
    let one = r#"{"address": "10.1.0.1", "port": 8080}"#;
    let still_after_a_day = |after: &str| {
        let mut node = Node::new(&service(one));
        let source = node.source(&Said::udp().packet(client, vip));
        node.define(after);
        (0..1_728).all(|k| {
            node.now = Millis(k * 50_000);
            node.verdict(&Said::udp().packet(backend, source)) == Verdict::Forward(PortIndex(0))
        })
    };
    assert!(still_after_a_day(&service(&one.replace('}', r#", "state": "draining"}"#))));
    let down = service(&one.replace('}', r#", "state": "down"}"#));
    for gone in [down, service(""), r#"{"services": []}"#.to_owned()] {
        assert!(!still_after_a_day(&gone), "{gone}");
    }
}
