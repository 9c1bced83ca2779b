//! A small world for packets: a node's snapshot, and frames made by hand.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod dissect;
pub mod expected;
pub mod oracle;
pub mod packets;
pub mod replay;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use penstock::config::{self, Config};
use penstock::counters::{Reason, Totals};
use penstock::flow::{Nat, Sources};
use penstock::mode::Encap;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service::{
    self, Backend, ByteOrder, Definitions, Forwarding, Geneve, Gue, Hash, IdleTimeout, NoBackend, Ports, Protocol,
    Service, State, Tracking,
};
use penstock::snapshot::{Compiler, Environment, Fabric, Limit, Millis, Neighbor, Port, PortIndex, Route, Snapshot};
use penstock::wire::{Frame, Mac};

pub const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
pub const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
pub const BACKEND_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfd]);
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Its services: `web` (ipip, tcp 80), `dns` (ipip, udp 53).
pub const TUNNEL_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Its services: `nat` (dnat, tcp 80 to 8080), `nat-udp` (dnat, udp 53), `guarded` (dnat, tcp 443, some clients only).
pub const NAT_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Its services: `empty` (tcp 80, no backend), `lost` (tcp 81, no next hop).
pub const LONELY_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// The node's own, with one service on port 80.
pub const OWN_VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub fn backend(address: &str, port: Option<u16>) -> Backend {
    let address = address.parse().unwrap();
    Backend {
        address,
        port,
        weight: 100,
        state: State::Active,
        tunnel_endpoint: None,
        server_id: None,
        health_address: None,
        is_unchecked: false,
    }
}

pub fn service(
    name: &str,
    vip: Ipv4Addr,
    port: u16,
    protocol: Protocol,
    forwarding: Forwarding,
    backends: Vec<Backend>,
) -> Service {
    Service {
        name: name.into(),
        vip: IpAddr::from(vip).into(),
        ports: Ports::one(port),
        protocol,
        forwarding,
        hash: Hash::FiveTuple,
        quic: None,
        tracking: Tracking::None,
        backends,
        source_ranges: vec![],
        deny_ranges: vec![],
        idle_timeout: IdleTimeout::default(),
        table_size: Some(1009),
        health: Default::default(),
        affinity_timeout: None,
        no_backend: NoBackend::Drop,
        dscp: None,
        gue: Gue::default(),
        geneve: Geneve::default(),
        udp_checksum: false,
        byte_order: ByteOrder::Network,
    }
}

pub fn definitions() -> Definitions {
    use Forwarding::{Dnat, Ipip};
    use Protocol::{Tcp, Udp};
    let mut guarded = service("guarded", NAT_VIP, 443, Tcp, Dnat, vec![backend("10.1.0.5", None)]);
    guarded.deny_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let services = [
        service("web", TUNNEL_VIP, 80, Tcp, Ipip, vec![backend("10.1.0.1", None)]),
        service("dns", TUNNEL_VIP, 53, Udp, Ipip, vec![backend("10.1.0.2", None)]),
        service("nat", NAT_VIP, 80, Tcp, Dnat, vec![backend("10.1.0.3", Some(8080))]),
        service("nat-udp", NAT_VIP, 53, Udp, Dnat, vec![backend("10.1.0.4", None)]),
        guarded,
        service("empty", LONELY_VIP, 80, Tcp, Ipip, vec![]),
        service("lost", LONELY_VIP, 81, Tcp, Ipip, vec![backend("172.31.0.1", None)]),
        service("local", OWN_VIP, 80, Tcp, Ipip, vec![backend("10.1.0.6", None)]),
    ];
    Definitions { version: Some("1".into()), services: services.into_iter().map(Arc::new).collect() }
}

pub fn environment() -> Environment {
    Environment {
        seed: *b"0123456789abcdef",
        table_size: 65537,
        encap: Encap { ipv4_source: Some(SOURCE), ..Encap::default() },
        icmp_errors: Limit { per_second: 1000, burst: 100 },
        hold: Duration::ZERO,
        drain_timeout: Duration::from_secs(3600),
        lcores: 1,
        sources: Arc::new(Sources::none()),
        flows: 1024,
    }
}

pub fn fabric() -> Fabric {
    let neighbor =
        |address: &str, mac| Neighbor { address: address.parse().unwrap(), mac, port: PortIndex(0), vlan: None };
    let route = |prefix: &str, via: &str| Route { prefix: prefix.parse().unwrap(), via: Some(via.parse().unwrap()) };
    Fabric {
        ports: vec![Port { mac: OUR_MAC, mtu: 1500, promiscuous: false }],
        own: vec![IpAddr::from(OWN_VIP)],
        neighbors: vec![neighbor("10.0.0.254", CLIENT_MAC), neighbor("10.0.0.253", BACKEND_MAC)],
        // 172.16/12 leads to a gateway that nobody answers for.
        routes: vec![
            route("0.0.0.0/0", "10.0.0.254"),
            route("10.1.0.0/16", "10.0.0.253"),
            route("172.16.0.0/12", "10.0.0.9"),
        ],
    }
}

/// One lcore with a snapshot. Whatever a test sends through it is counted, and every frame must get its one verdict.
pub struct Node {
    pub compiler: Compiler,
    pub snapshot: Arc<Snapshot>,
    pub pipeline: Pipeline,
    pub now: Millis,
    /// The port by which all of the last burst was forwarded, as far as the pipeline says so.
    pub only: Option<PortIndex>,
    tally: Tally,
}

/// What no frame gets: it stands for "no verdict yet".
pub const NONE: Verdict = Verdict::Forward(PortIndex(u8::MAX));

/// Counts the frames of a test, and says that each has its one verdict.
#[derive(Default)]
pub struct Tally(Totals);

impl Tally {
    /// A frame as it came, and what came of it.
    pub fn take(&mut self, verdict: Verdict, before: &[u8], after: &[u8]) {
        let totals = &mut self.0;
        totals.received += 1;
        match verdict {
            NONE => {}
            Verdict::Forward(_) => totals.forwarded += 1,
            Verdict::Answer(_) => totals.answered += 1,
            Verdict::Punt => totals.punted += 1,
            Verdict::Reject(_) => totals.dropped[Reason::NoBackend as usize] += 1,
            Verdict::Drop(reason) => totals.dropped[reason as usize] += 1,
            // It comes again, or to another lcore.
            Verdict::Hold | Verdict::HandOver(_) => totals.received -= 1,
        }
        if matches!(verdict, Verdict::Punt | Verdict::Hold | Verdict::HandOver(_)) {
            assert_eq!(after, before, "{verdict:?}: unchanged");
        }
        assert_eq!(totals.received, totals.verdicts(), "received is the sum of the verdicts");
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new(&definitions(), &fabric())
    }
}

impl Node {
    pub fn new(definitions: &Definitions, fabric: &Fabric) -> Self {
        let mut compiler = Compiler::new(environment());
        let snapshot = compiler.compile(definitions, fabric, Millis(0));
        Self::of(compiler, snapshot)
    }

    pub fn of(compiler: Compiler, snapshot: Arc<Snapshot>) -> Self {
        let pipeline = Pipeline::new(0).remembering(1024, [0; 2]);
        Self { compiler, snapshot, pipeline, now: Millis(0), only: None, tally: Tally::default() }
    }

    /// Of a configuration and definitions as they are written.
    pub fn read(config: &str, services: &str) -> Self {
        let (config, _) = Config::read(config, "penstock.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let (definitions, _) =
            service::native(services, "services.json", None).unwrap_or_else(|errors| panic!("{errors}"));
        config::fit(&config, &definitions, "services.json").unwrap_or_else(|errors| panic!("{errors}"));
        let mut compiler = Compiler::new(config.environment());
        let snapshot = compiler.compile(&definitions, &config.fabric(), Millis(0));
        let mut node = Self::of(compiler, snapshot);
        // Translations take room; most tests have none.
        if definitions.services.iter().any(|service| service.forwarding == Forwarding::Snat) {
            node.pipeline = Pipeline::with(Nat::new(node.snapshot.sources(), 0, [0; 2]));
        }
        node
    }

    /// What becomes of the frames of one burst, and their bytes afterwards.
    pub fn burst(&mut self, frames: &[impl AsRef<[u8]>]) -> Vec<(Verdict, Vec<u8>)> {
        let mut buffers: Vec<_> = frames.iter().map(|frame| Buffer::new(frame.as_ref())).collect();
        let mut verdicts = [NONE; BURST];
        let only = self.pipeline.process(&self.snapshot, self.now, PortIndex(0), &mut buffers, &mut verdicts);

        let (verdicts, beyond) = verdicts.split_at(frames.len());
        assert!(beyond.iter().all(|&verdict| verdict == NONE), "a verdict for no frame");
        let forwarded_by = |port| verdicts.iter().all(|&verdict| verdict == Verdict::Forward(port));
        assert!(only.is_none_or(forwarded_by), "all by {only:?}? {verdicts:?}");
        self.only = only;
        for ((&verdict, buffer), frame) in verdicts.iter().zip(&buffers).zip(frames) {
            self.tally.take(verdict, frame.as_ref(), buffer.bytes());
        }
        verdicts.iter().copied().zip(buffers.iter().map(|buffer| buffer.bytes().to_vec())).collect()
    }

    /// What becomes of a frame, and its bytes afterwards.
    pub fn receive(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.burst(&[frame]).remove(0)
    }

    /// Packets and bytes by service and backend, replies not.
    pub fn counted(&self) -> HashMap<(Arc<str>, SocketAddr), (u64, u64)> {
        let counted =
            |(name, endpoint, packets, bytes): (&Arc<str>, _, _, _)| ((name.clone(), endpoint), (packets, bytes));
        self.compiler.totals().map(counted).collect()
    }

    pub fn verdict(&mut self, frame: &[u8]) -> Verdict {
        self.receive(frame).0
    }
}

/// A frame under construction: a client's packet to a VIP unless told otherwise.
#[derive(Clone)]
pub struct Made {
    pub to: Mac,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub tos: u8,
    pub id: u16,
    /// Flags and fragment offset.
    pub flags: u16,
    pub ttl: u8,
    pub options: Vec<u8>,
    pub segment: Vec<u8>,
    pub padding: usize,
}

pub const DF: u16 = 0x4000;
pub const MF: u16 = 0x2000;

impl Made {
    pub fn tcp(destination: Ipv4Addr, port: u16) -> Self {
        Self::with(destination, TCP, tcp_segment(CLIENT, 40000, destination, port, b"hello"))
    }

    pub fn udp(destination: Ipv4Addr, port: u16) -> Self {
        Self::with(destination, UDP, udp_segment(CLIENT, 40000, destination, port, b"hello"))
    }

    pub fn echo(destination: Ipv4Addr) -> Self {
        let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g', b'!'];
        let sum = internet_checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self::with(destination, 1, message)
    }

    pub fn with(destination: Ipv4Addr, protocol: u8, segment: Vec<u8>) -> Self {
        Self {
            to: OUR_MAC,
            source: CLIENT,
            destination,
            protocol,
            tos: 0,
            id: 0x1234,
            flags: DF,
            ttl: 33,
            options: vec![],
            segment,
            padding: 0,
        }
    }

    pub fn packet(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, self.tos, 0, 0, 0, 0, 0, 0, self.ttl, self.protocol, 0, 0];
        packet[2..4].copy_from_slice(&((header + self.segment.len()) as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&self.flags.to_be_bytes());
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let sum = internet_checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&self.segment);
        packet
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut frame = [&self.to.0[..], &CLIENT_MAC.0, &[8, 0]].concat();
        frame.extend(self.packet());
        frame.resize(frame.len() + self.padding, 0xaa);
        frame
    }
}

/// The Internet checksum over these bytes, by another implementation than the one under test.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    etherparse::checksum::Sum16BitWords::new().add_slice(bytes).ones_complement().to_be()
}

pub fn transport_sum(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, segment: &[u8]) -> u16 {
    let length = segment.len() as u16;
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, protocol], &length.to_be_bytes(), segment].concat();
    internet_checksum(&pseudo)
}

pub fn tcp_segment(source: Ipv4Addr, from: u16, destination: Ipv4Addr, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = [
        &from.to_be_bytes()[..],
        &to.to_be_bytes(),
        &[1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 0x72, 0x10, 0, 0, 0, 0],
        payload,
    ]
    .concat();
    let sum = transport_sum(source, destination, TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

pub fn udp_segment(source: Ipv4Addr, from: u16, destination: Ipv4Addr, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut segment = [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat();
    let sum = match transport_sum(source, destination, UDP, &segment) {
        0 => 0xffff,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    segment
}
