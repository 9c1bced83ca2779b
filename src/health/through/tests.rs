//! The way through the kernel and back, with a backend that is made by hand.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use serde_json::json;

use super::*;
use crate::health::ask::Asker;
use crate::health::tests::{service, until};
use crate::health::{Failure, Options, Outcome, Probe, Prober, Question, Rhythm, Subject, Target};
use crate::service::{CheckKind, Forwarding};

const SOURCE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))];
const VIP: [&str; 2] = ["192.0.2.1:80", "[2001:db8:1::1]:80"];
const PORTS: Ports = Ports { first: 61000, last: 61001 };

/// Runs the test named `test` again, in a network namespace of its own; `true` in there.
fn in_a_namespace(test: &str) -> bool {
    if std::env::var_os("PENSTOCK_IN_A_NAMESPACE").is_some() {
        return true;
    }
    let test = format!("health::through::tests::{test}");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &test, "--nocapture"]).env("PENSTOCK_IN_A_NAMESPACE", "1");
    assert!(command.status().unwrap().success(), "see above");
    false
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split_whitespace()).status().unwrap().success(), "ip {arguments}");
}

fn through(ports: Ports) -> Arc<Through> {
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (SOURCE[0], SOURCE[1]) else { unreachable!("one of each family") };
    Arc::new(Through::new(Some(v4), Some(v6), ports))
}

fn probe(kind: CheckKind, family: usize) -> Probe {
    let question = Question { kind, path: "/".into(), host: None, expect_status: 200 };
    let vip: SocketAddr = VIP[family].parse().unwrap();
    let target = Target::Through { vip, backend: backend(family), forwarding: Forwarding::Dnat };
    let second = Duration::from_secs(1);
    Probe {
        subject: Subject { target, question: question.into() },
        rhythm: Rhythm { interval: second, timeout: second, rise: 1, fall: 1 },
    }
}

fn backend(family: usize) -> SocketAddr {
    ["10.1.0.1:8080", "[fd00:1::1]:8080"][family].parse().unwrap()
}

/// What a backend says to a packet: to SYN, SYN and ACK; to a datagram, that nobody listens. The probe must be known by its port.
fn answer(through: &Through, packet: &[u8]) -> Option<Vec<u8>> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (from, to): (IpAddr, IpAddr) = match sliced.net? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    let back = || match (to, from) {
        (IpAddr::V4(to), IpAddr::V4(from)) => PacketBuilder::ipv4(to.octets(), from.octets(), 60),
        (IpAddr::V6(to), IpAddr::V6(from)) => PacketBuilder::ipv6(to.octets(), from.octets(), 60),
        _ => unreachable!("both are of one family"),
    };
    let family = usize::from(from.is_ipv6());
    let known = |from_port: u16, to_port: u16| {
        let passage = through.passage(SocketAddr::new(from, from_port)).expect("its port is known");
        let vip = SocketAddr::new(to, to_port);
        assert_eq!((passage.vip, passage.backend, vip.to_string()), (vip, backend(family), VIP[family].to_owned()));
        assert!(from == SOURCE[family] && PORTS.contains(from_port));
    };
    let mut bytes = Vec::new();
    match sliced.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() => {
            known(tcp.source_port(), tcp.destination_port());
            let builder = back().tcp(tcp.destination_port(), tcp.source_port(), 7, 1000).syn();
            builder.ack(tcp.sequence_number() + 1).write(&mut bytes, &[]).unwrap();
        }
        TransportSlice::Udp(udp) => {
            known(udp.source_port(), udp.destination_port());
            let (IpAddr::V4(to), IpAddr::V4(from)) = (to, from) else { return None };
            let unreachable = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
            let builder = PacketBuilder::ipv4(to.octets(), from.octets(), 60).icmpv4(unreachable);
            builder.write(&mut bytes, packet).unwrap();
            assert_eq!(bytes[9], IpNumber::ICMP.0);
        }
        _ => return None,
    }
    Some(bytes)
}

/// A backend that answers as long as this lives.
struct Answering(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Answering {
    fn start(through: Arc<Through>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let work = move || {
            let mut buffer = [0; 2048];
            while !is_stopped.load(Ordering::Relaxed) {
                match through.read(&mut buffer) {
                    Some(length) => {
                        if let Some(bytes) = answer(&through, &buffer[..length]) {
                            assert!(through.write(&bytes));
                        }
                    }
                    None => std::thread::sleep(Duration::from_micros(100)),
                }
            }
        };
        Self(stop, Some(std::thread::spawn(work)))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let ended = self.1.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "see above");
    }
}

#[tokio::test]
async fn a_probe_goes_its_own_way_and_its_answer_comes_back() {
    if !in_a_namespace("a_probe_goes_its_own_way_and_its_answer_comes_back") {
        return;
    }
    // The kernel would ask itself, and have the other VIP nowhere.
    ip("link set lo up");
    ip("address add 192.0.2.1/32 dev lo");
    ip("-6 route add blackhole 2001:db8:1::1/128");
    let through = through(PORTS);
    assert!(!through.is_open(), "nobody went this way");
    let asker = Asker::new(Some(through.clone()));
    let _answering = Answering::start(through.clone());
    // More often than there are ports.
    for family in [0, 1, 0, 1, 0, 1] {
        assert_eq!(asker.ask(&probe(CheckKind::Tcp, family)).await.0, Outcome::Good, "family {family}");
    }
    assert_eq!(asker.ask(&probe(CheckKind::Udp, 0)).await.0, Outcome::Failed(Failure::Refused));
    // The thread is back where it was: there, nobody listens.
    let refused = std::net::TcpStream::connect(VIP[0]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn as_many_go_as_there_are_ports_and_the_others_wait() {
    if !in_a_namespace("as_many_go_as_there_are_ports_and_the_others_wait") {
        return;
    }
    let through = through(PORTS);
    let way = Passage { vip: VIP[0].parse().unwrap(), backend: backend(0) };
    let other = Passage { backend: "10.1.0.2:80".parse().unwrap(), ..way };
    let (first, second) = (through.enter(way).await.unwrap(), through.enter(other).await.unwrap());
    let own = first.own;
    assert_eq!((through.passage(own), through.passage(second.own)), (Some(way), Some(other)));
    assert_eq!(through.passage(SocketAddr::new(SOURCE[1], own.port())), None, "of the other family");
    assert_eq!(through.passage(SocketAddr::new(own.ip(), 60999)), None);
    let mut third = std::pin::pin!(through.enter(other));
    assert!(futures_util::FutureExt::now_or_never(third.as_mut()).is_none(), "there is no port");
    drop(first);
    assert_eq!(through.passage(own), Some(way), "its last packets still go where they went");
    let third = third.await.unwrap();
    assert_eq!((third.own, through.passage(own)), (own, Some(other)));
}

#[tokio::test]
async fn those_that_wait_for_a_port_keep_no_direct_check_waiting() {
    if !in_a_namespace("those_that_wait_for_a_port_keep_no_direct_check_waiting") {
        return;
    }
    ip("link set lo up");
    // Nobody answers: each keeps its port.
    let addresses: Vec<IpAddr> = (1..=40).map(|n| Ipv4Addr::new(10, 1, 0, n).into()).collect();
    let check = json!({"kind": "tcp", "target": "vip", "interval": "10ms", "timeout": "1h"});
    let silent = service("silent", &addresses, 80, check);
    let check = json!({"kind": "tcp", "interval": "10ms", "timeout": "1s"});
    let closed = service("closed", &[Ipv4Addr::LOCALHOST.into()], 9, check);
    let options = Options { at_once: 8, through: Some(through(PORTS)) };
    let (prober, _changes) = Prober::start(options, []).unwrap();
    prober.want(vec![silent.clone()]);
    until("the ports are taken", || prober.view().counts().running >= PORTS.count()).await;
    prober.want(vec![silent, closed]);
    until("direct checks come again and again", || prober.view().counts().failed > 20).await;
    let running = prober.view().counts().running;
    assert!((PORTS.count()..=PORTS.count() + 1).contains(&running), "{running} are asked");
}

#[tokio::test]
async fn without_an_address_or_a_way_there_is_no_verdict() {
    let nowhere = Arc::new(Through::new(None, None, PORTS));
    for through in [None, Some(nowhere)] {
        let outcome = Asker::new(through).ask(&probe(CheckKind::Tcp, 0)).await.0;
        assert!(matches!(outcome, Outcome::NoVerdict(_)), "{outcome:?}");
    }
}
