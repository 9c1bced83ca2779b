//! Real servers on loopback, and a prober that asks them at short intervals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

use super::ask::Asker;
use super::*;
use crate::service::{self, CheckKind, Health};
use crate::wire::checksum;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const TIMEOUT: Duration = Duration::from_millis(150);
/// What a busy machine may add to anything.
const SLACK: Duration = Duration::from_millis(150);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Waits for a condition.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// A TCP server: every connection is given to `serve`. Gives where it listens.
async fn server<F: Future<Output = Option<()>> + Send>(
    address: IpAddr,
    serve: impl Fn(TcpStream) -> F + Send + Sync + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let bound = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move { serve(stream).await });
        }
    });
    bound
}

/// Reads a request to its end.
async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(text).ok()
}

/// An HTTP server that answers with these bytes, and keeps the connection.
async fn answering(address: IpAddr, answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Arc<[u8]> = answer.into().into();
    let serve = move |mut stream: TcpStream| {
        let answer = answer.clone();
        async move {
            request(&mut stream).await?;
            stream.write_all(&answer).await.ok()?;
            wait_for_end(stream).await
        }
    };
    server(address, serve).await
}

async fn wait_for_end(mut stream: TcpStream) -> Option<()> {
    while stream.read(&mut [0; 64]).await.ok()? > 0 {}
    Some(())
}

/// A port where nobody listens.
async fn closed(address: IpAddr) -> SocketAddr {
    TcpListener::bind((address, 0)).await.unwrap().local_addr().unwrap()
}

fn probe(kind: CheckKind, address: SocketAddr, expect_status: u16) -> Probe {
    let host = kind.speaks_http().then(|| "backend.example".into());
    let question = Question { kind, path: "/ready".into(), host, expect_status };
    let subject = Subject { target: Target::Direct { address }, question: question.into() };
    Probe { subject, rhythm: Rhythm { interval: TIMEOUT * 2, timeout: TIMEOUT, rise: 1, fall: 1 } }
}

/// The targets of a service's checks, in words.
fn targets(change: serde_json::Value) -> Vec<String> {
    let mut service = json!({
        "name": "a", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "dnat",
        "backends": [{"address": "10.1.0.1", "port": 8080}], "health_check": {"kind": "tcp", "target": "vip"},
    });
    for (key, value) in change.as_object().unwrap() {
        service[key] = value.clone();
    }
    let document = json!({"services": [service]}).to_string();
    let (definitions, _) = service::native(document, "s", None).unwrap_or_else(|errors| panic!("{errors}"));
    Probe::all_of(&definitions.services[0]).map(|(_, probe)| format!("{:?}", probe.subject.target)).collect()
}

#[test]
fn checks_through_services_that_differ_are_not_shared() {
    let target = |vip: &str, backend: &str, mode: &str| {
        format!("Through {{ vip: {vip}, backend: {backend}, forwarding: {mode} }}")
    };
    let (vip, backend) = ("192.0.2.1:80", "10.1.0.1:8080");
    assert_eq!(targets(json!({})), [target(vip, backend, "Dnat")]);
    assert_eq!(targets(json!({"name": "b", "tracking": "full"})), [target(vip, backend, "Dnat")]);
    assert_eq!(targets(json!({"forwarding": "dnat-dsr"})), [target(vip, backend, "DnatDsr")]);
    assert_eq!(targets(json!({"vip": "192.0.2.2"})), [target("192.0.2.2:80", backend, "Dnat")]);
    assert_eq!(targets(json!({"port": 81})), [target("192.0.2.1:81", backend, "Dnat")]);
    assert_eq!(targets(json!({"backends": [{"address": "10.1.0.2"}]})), [target(vip, "10.1.0.2:80", "Dnat")]);
    // Of several ports one is asked, and of a prefix one address.
    let several = json!({"forwarding": "ipip", "port": "80-90", "backends": [{"address": "10.1.0.1"}],
        "health_check": {"kind": "http", "target": "vip", "port": 85}});
    assert_eq!(targets(several), [target("192.0.2.1:85", "10.1.0.1:0", "Ipip")]);
    for (vip, asked) in [("192.0.2.0/24", "192.0.2.1:80"), ("192.0.2.4/31", "192.0.2.4:80")] {
        let prefix = json!({"forwarding": "ipip", "vip": vip, "backends": [{"address": "10.1.0.1"}]});
        assert_eq!(targets(prefix), [target(asked, "10.1.0.1:80", "Ipip")]);
    }
    let v6 = |vip: &str| targets(json!({"forwarding": "ipip", "vip": vip, "backends": [{"address": "10.1.0.1"}]}));
    assert_eq!(v6("2001:db8::/64"), [target("[2001:db8::1]:80", "10.1.0.1:80", "Ipip")]);
    assert_eq!(v6("2001:db8::7"), [target("[2001:db8::7]:80", "10.1.0.1:80", "Ipip")]);
}

/// One probe, without a prober.
async fn outcome(kind: CheckKind, address: SocketAddr) -> Outcome {
    Asker::new(None).ask(&probe(kind, address, 200)).await.0
}

/// A service whose backends are at these addresses, and checked on that port.
pub(super) fn service(name: &str, addresses: &[IpAddr], port: u16, check: serde_json::Value) -> Arc<Service> {
    let mut check = check;
    if check["kind"] != "ping" {
        check["port"] = json!(port);
    }
    let backends: Vec<_> =
        (0..addresses.len()).map(|n| json!({"address": format!("10.1.{}.{}", n / 250, n % 250 + 1)})).collect();
    let document = json!({"services": [{
        "name": name, "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip",
        "backends": backends, "health_check": check,
    }]});
    let (definitions, _) = service::native(document.to_string(), "services.json", None).unwrap();
    let mut service = (*definitions.services[0]).clone();
    // Definitions need not take what is on loopback.
    for (backend, address) in service.backends.iter_mut().zip(addresses) {
        backend.address = *address;
    }
    Arc::new(service)
}

fn start(last: Vec<LastState>) -> (Prober, Changes) {
    Prober::start(Options::default(), last).unwrap()
}

/// Waits for the next change of this service.
async fn change(changes: &mut Changes, service: &str) -> Change {
    let next = async {
        loop {
            let news = changes.next().await;
            if let Some(change) = news.into_iter().find(|change| change.services.iter().any(|name| **name == *service))
            {
                return change;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), next)
        .await
        .unwrap_or_else(|_| panic!("{service} did not change in 5 s"))
}

fn quick() -> serde_json::Value {
    json!({"kind": "tcp", "interval": "20ms", "timeout": "200ms", "rise": 2, "fall": 3})
}

#[tokio::test]
async fn tcp_asks_whether_one_can_connect() {
    for family in [V4, V6] {
        let good = server(family, wait_for_end).await;
        assert_eq!(outcome(CheckKind::Tcp, good).await, Outcome::Good);
        let refused = outcome(CheckKind::Tcp, closed(family).await).await;
        assert_eq!(refused, Outcome::Failed(Failure::Refused));
    }
}

#[tokio::test]
async fn a_full_backlog_is_no_connection() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::new(V4, 0).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _held = std::net::TcpStream::connect(address).unwrap();
    assert_eq!(outcome(CheckKind::Tcp, address).await, Outcome::Failed(Failure::NoConnection));
}

#[tokio::test]
async fn a_tcp_check_ends_with_a_reset_and_leaves_no_time_wait() {
    let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let serve = move |mut stream: TcpStream| {
        let sender = sender.clone();
        async move {
            let end = stream.read(&mut [0]).await.map_err(|error| error.kind());
            sender.send(end).ok()
        }
    };
    let address = server(V4, serve).await;
    assert_eq!(outcome(CheckKind::Tcp, address).await, Outcome::Good);
    assert_eq!(ends.recv().await, Some(Err(io::ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn http_is_as_good_as_its_status_line() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    let cases = [
        (OK.to_owned(), Outcome::Good),
        (long, Outcome::Good),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned(), Outcome::Failed(Failure::Status(503))),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), Outcome::Failed(Failure::Status(204))),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), Outcome::Failed(Failure::NotHttp)),
        ("x".repeat(1 << 20), Outcome::Failed(Failure::NotHttp)),
        // Never ends its line.
        ("HTTP/1.1 200 OK".to_owned(), Outcome::Failed(Failure::NoAnswer)),
        (String::new(), Outcome::Failed(Failure::NoAnswer)),
    ];
    for family in [V4, V6] {
        for (answer, expected) in &cases {
            let address = answering(family, answer.as_bytes()).await;
            let start = answer.chars().take(40).collect::<String>();
            assert_eq!(outcome(CheckKind::Http, address).await, *expected, "{start:?}");
        }
    }
    let address = answering(V4, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(Asker::new(None).ask(&probe(CheckKind::Http, address, 204)).await.0, Outcome::Good);
}

#[tokio::test]
async fn http_servers_that_close_half_or_early() {
    let half = |answer: &'static str| {
        server(V4, move |mut stream: TcpStream| async move {
            request(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()?;
            wait_for_end(stream).await
        })
    };
    assert_eq!(outcome(CheckKind::Http, half(OK).await).await, Outcome::Good);
    for answer in ["", "HTTP/1.1 200 OK"] {
        let cut = outcome(CheckKind::Http, half(answer).await).await;
        assert_eq!(cut, Outcome::Failed(Failure::Closed), "{answer:?}");
    }
    let abrupt = server(V4, async |stream: TcpStream| {
        stream.set_zero_linger().ok();
        None
    });
    let cut = outcome(CheckKind::Http, abrupt.await).await;
    assert_eq!(cut, Outcome::Failed(Failure::Reset));
}

#[tokio::test]
async fn a_slow_drip_does_not_outlast_the_timeout() {
    let drip = server(V4, async |mut stream: TcpStream| {
        request(&mut stream).await?;
        for byte in OK.bytes().cycle() {
            stream.write_u8(byte.max(b' ')).await.ok()?;
            sleep(Duration::from_millis(20)).await;
        }
        None
    });
    let silent = server(V4, wait_for_end);
    for address in [drip.await, silent.await] {
        let (outcome, latency) = Asker::new(None).ask(&probe(CheckKind::Http, address, 200)).await;
        assert_eq!(outcome, Outcome::Failed(Failure::NoAnswer));
        assert!((TIMEOUT..TIMEOUT + SLACK).contains(&latency), "{latency:?}");
    }
}

#[tokio::test]
async fn an_http_request_is_whole_and_asks_to_close() {
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let address = server(V4, move |mut stream: TcpStream| {
        let sender = sender.clone();
        async move { sender.send(request(&mut stream).await?).ok() }
    });
    outcome(CheckKind::Http, address.await).await;
    assert_eq!(
        requests.recv().await.unwrap(),
        "GET /ready HTTP/1.1\r\nHost: backend.example\r\nUser-Agent: penstock-health\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
}

#[tokio::test]
async fn https_takes_any_certificate_and_names_the_host() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["other.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (sender, mut names) = tokio::sync::mpsc::unbounded_channel();
    let serve = move |stream: TcpStream| {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.ok()?;
            sender.send(stream.get_ref().1.server_name().map(str::to_owned)).ok()?;
            let request = request(&mut stream).await?;
            let status = if request.starts_with("GET /ready ") { "200 OK" } else { "404 Not Found" };
            stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.ok()?;
            stream.flush().await.ok()
        }
    };
    for family in [V4, V6] {
        let address = server(family, serve.clone()).await;
        assert_eq!(outcome(CheckKind::Https, address).await, Outcome::Good);
        assert_eq!(names.recv().await.unwrap().as_deref(), Some("backend.example"));
    }
    let plain = answering(V4, "no\r\n").await;
    let refused = outcome(CheckKind::Https, plain).await;
    assert!(matches!(refused, Outcome::Failed(Failure::NoAnswer | Failure::Tls(_))), "{refused:?}");
    let speaks_first = server(V4, async |mut stream: TcpStream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.ok()?;
        wait_for_end(stream).await
    });
    let refused = outcome(CheckKind::Https, speaks_first.await).await;
    assert!(matches!(refused, Outcome::Failed(Failure::Tls(_))), "{refused:?}");
}

#[tokio::test]
async fn udp_fails_where_the_port_is_closed_and_silence_is_good() {
    for family in [V4, V6] {
        let socket = UdpSocket::bind((family, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let silent = Asker::new(None).ask(&probe(CheckKind::Udp, address, 200)).await;
        assert_eq!(silent.0, Outcome::Good);
        assert!((TIMEOUT..TIMEOUT + SLACK).contains(&silent.1), "{:?}", silent.1);
        let answer = async {
            loop {
                let mut byte = [1; 2];
                let (length, from) = socket.recv_from(&mut byte).await.unwrap();
                assert_eq!((length, byte[0]), (1, 0));
                socket.send_to(b"what?", from).await.unwrap();
            }
        };
        let asked = tokio::select! {
            asked = async { Asker::new(None).ask(&probe(CheckKind::Udp, address, 200)).await } => asked,
            never = answer => never,
        };
        assert_eq!(asked.0, Outcome::Good);
        assert!(asked.1 < TIMEOUT, "an answer ends it at once, not after {:?}", asked.1);
        drop(socket);
        // The kernel sends so many ICMP errors a second and no more, and other tests cause some, too.
        for left in (0..10).rev() {
            match outcome(CheckKind::Udp, address).await {
                Outcome::Good if left > 0 => tokio::time::sleep(Duration::from_millis(100)).await,
                refused => {
                    assert_eq!(refused, Outcome::Failed(Failure::Refused));
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn udp_hears_that_the_host_is_unreachable() {
    let Ok(router) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) else {
        eprintln!("SKIPPED: to answer as a router does one must be root");
        return;
    };
    let socket = UdpSocket::bind((V4, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let answer = async {
        let (_, from) = socket.recv_from(&mut [0; 2]).await.unwrap();
        // Type 3, code 1, and the beginning of the question: its IPv4 header and ports (RFC 792).
        let mut packet = [0; 8 + 20 + 8];
        packet[..2].copy_from_slice(&[3, 1]);
        packet[8..20].copy_from_slice(&[0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        packet[20..28].copy_from_slice(&[127, 0, 0, 1, 127, 0, 0, 1]);
        packet[28..30].copy_from_slice(&from.port().to_be_bytes());
        packet[30..32].copy_from_slice(&address.port().to_be_bytes());
        packet[33] = 9;
        let sum = !checksum::sum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        router.send_to(&packet, &SocketAddr::new(V4, 0).into()).unwrap();
        std::future::pending::<Outcome>().await
    };
    let asked = tokio::select! {
        asked = outcome(CheckKind::Udp, address) => asked,
        never = answer => never,
    };
    assert_eq!(asked, Outcome::Failed(Failure::Unreachable));
}

#[tokio::test]
async fn ping_asks_loopback() {
    for family in [V4, V6] {
        match outcome(CheckKind::Ping, SocketAddr::new(family, 0)).await {
            Outcome::NoVerdict(errno) => {
                let why = io::Error::from_raw_os_error(errno);
                eprintln!("SKIPPED: ping {family} needs root or net.ipv4.ping_group_range: {why}");
            }
            outcome => assert_eq!(outcome, Outcome::Good, "{family}"),
        }
    }
}

#[tokio::test]
async fn many_pings_at_once_share_a_socket_and_find_their_answers() {
    let asker = Arc::new(Asker::new(None));
    if let Outcome::NoVerdict(_) = asker.ask(&probe(CheckKind::Ping, SocketAddr::new(V4, 0), 200)).await.0 {
        eprintln!("SKIPPED: ping needs root or net.ipv4.ping_group_range");
        return;
    }
    let ask = |n: u8| {
        let asker = asker.clone();
        let address = SocketAddr::new(Ipv4Addr::new(127, 0, 1, n).into(), 0);
        tokio::spawn(async move { asker.ask(&probe(CheckKind::Ping, address, 200)).await.0 })
    };
    let all: Vec<_> = (0..=255).map(ask).collect();
    for task in all {
        assert_eq!(task.await.unwrap(), Outcome::Good);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_gives_no_verdict() {
    // A link-local address without its link.
    let nowhere = "[fe80::1]:80".parse().unwrap();
    for kind in [CheckKind::Tcp, CheckKind::Http, CheckKind::Https, CheckKind::Udp] {
        assert_eq!(outcome(kind, nowhere).await, Outcome::NoVerdict(Errno::INVAL.raw_os_error()), "{kind:?}");
    }
}

#[tokio::test]
async fn a_backend_is_up_until_it_failed_fall_times_and_down_until_it_was_good_rise_times() {
    let port = closed(V4).await.port();
    let web = service("web", &[V4], port, quick());
    let (prober, mut changes) = start(vec![]);
    prober.want(vec![web.clone()]);
    assert_eq!(prober.view().down(&web), [0; 0]);

    let down = change(&mut changes, "web").await;
    assert_eq!((down.state.up, down.state.bad), (false, 3));
    assert!(down.why().starts_with("3 of 3 failed: connection refused, last "), "{}", down.why());
    assert_eq!(prober.view().down(&web), [0]);

    let listener = TcpListener::bind((V4, port)).await.unwrap();
    let up = change(&mut changes, "web").await;
    assert_eq!((up.state.up, up.state.good), (true, 2));
    assert_eq!(prober.view().down(&web), [0; 0]);
    let (_, _, state) = prober.view().states(&web).remove(0);
    assert!(state.unwrap().why(&up.probe.rhythm, SystemTime::now()).starts_with("good, last "));
    drop(listener);
    assert!(!change(&mut changes, "web").await.state.up);
}

#[tokio::test]
async fn services_that_check_the_same_share_a_probe_and_hear_of_it_together() {
    let port = closed(V4).await.port();
    let named = |name| service(name, &[V4], port, quick());
    let mut other_interval = quick();
    other_interval["interval"] = json!("30ms");
    let third = service("c", &[V4], port, other_interval);
    let (prober, mut changes) = start(vec![]);
    prober.want(vec![named("b"), named("a"), third]);
    let down = change(&mut changes, "a").await;
    assert_eq!(down.services, ["a".into(), "b".into()]);
    assert_eq!(prober.view().counts().probes, 2);

    // Who comes later finds the verdict, and who leaves takes it away from nobody.
    let late = named("late");
    assert_eq!(prober.view().down(&late), [0]);
    prober.want(vec![late.clone(), named("b")]);
    until("only one probe is left", || prober.view().counts().probes == 1).await;
    assert!(!prober.view().states(&late)[0].2.as_ref().unwrap().up);
    drop(TcpListener::bind((V4, port)).await.unwrap());
    let listener = TcpListener::bind((V4, port)).await.unwrap();
    assert_eq!(change(&mut changes, "b").await.services, ["b".into(), "late".into()]);
    drop(listener);
}

#[tokio::test]
async fn what_is_not_checked_has_no_probe_and_is_up() {
    let none = service("none", &[V4], 80, json!({"kind": "tcp"}));
    let mut none = (*none).clone();
    none.health.check.as_mut().unwrap().kind = CheckKind::None;
    let none = Arc::new(none);
    let (prober, _changes) = start(vec![]);
    prober.want(vec![none.clone()]);
    until("the set is taken", || prober.view.0.inbox().is_none()).await;
    assert_eq!((prober.view().counts().probes, prober.view().states(&none).len()), (0, 0));
    assert_eq!(prober.view().down(&none), [0; 0]);
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let port = closed(V4).await.port();
    let web = service("web", &[V4, V6], port, quick());
    let listener = TcpListener::bind((V6, port)).await.unwrap();
    let (prober, mut changes) = start(vec![]);
    prober.want(vec![web.clone()]);
    change(&mut changes, "web").await;
    let text = serde_json::to_string(&prober.view().last_states()).unwrap();
    drop(prober);

    // With another rhythm, which does not make it unknown, and so slow that nothing is asked here.
    let slow = service("web", &[V4, V6], port, json!({"kind": "tcp", "interval": "1h"}));
    let (prober, mut changes) = start(serde_json::from_str(&text).unwrap());
    let view = prober.view();
    assert_eq!(view.down(&slow), [0], "before it is wanted");
    prober.want(vec![slow.clone()]);
    until("it is known", || view.states(&slow).iter().all(|(_, _, state)| state.is_some())).await;
    assert_eq!(view.down(&slow), [0], "when it is wanted");
    let (_, probe, state) = view.states(&slow).remove(0);
    let why = state.unwrap().why(&probe.rhythm, SystemTime::now());
    assert!(why.starts_with("down when last asked, ") && why.ends_with(": connection refused"), "{why}");
    assert_eq!(view.last_states().len(), 1);

    // And it comes back as always.
    let _v4 = TcpListener::bind((V4, port)).await.unwrap();
    prober.want(vec![web.clone()]);
    let up = change(&mut changes, "web").await;
    assert_eq!((up.state.up, up.state.good), (true, 2));
    assert_eq!(view.last_states(), []);
    drop(listener);
}

#[tokio::test]
async fn probes_of_many_backends_are_no_herd() {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn({
        let arrivals = arrivals.clone();
        async move {
            while let Ok((_, _)) = listener.accept().await {
                arrivals.lock().unwrap().push(Instant::now());
            }
        }
    });
    let backends: Vec<IpAddr> = (0..200).map(|n| Ipv4Addr::new(127, 0, 2, n).into()).collect();
    let web = service("web", &backends, port, json!({"kind": "tcp", "interval": "500ms"}));
    let (prober, _changes) = start(vec![]);
    let begin = Instant::now();
    prober.want(vec![web]);
    until("each was asked twice", || arrivals.lock().unwrap().len() >= 400).await;
    let rounds = begin.elapsed().as_secs_f64() / 0.5;
    assert!((1.9..2.5).contains(&rounds), "400 probes took {rounds:.2} intervals");
    let mut tenths = [0; 10];
    for arrival in arrivals.lock().unwrap().iter().take(200) {
        tenths[(arrival.duration_since(begin).as_millis() / 50).min(9) as usize] += 1;
    }
    let most = tenths.iter().max().unwrap();
    assert!(*most < 60, "of 200 probes, in each tenth of the interval: {tenths:?}");
}

#[tokio::test]
async fn no_more_are_asked_at_once_than_is_allowed() {
    let backends: Vec<IpAddr> = (0..10).map(|n| Ipv4Addr::new(127, 0, 0, n + 1).into()).collect();
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn({
        let (open, most) = (open.clone(), most.clone());
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                most.fetch_max(open.fetch_add(1, Relaxed) + 1, Relaxed);
                let open = open.clone();
                tokio::spawn(async move {
                    wait_for_end(stream).await;
                    open.fetch_sub(1, Relaxed);
                });
            }
        }
    });
    let check = json!({"kind": "http", "interval": "100ms", "timeout": "100ms"});
    let (prober, _changes) = Prober::start(Options { at_once: 3, ..Options::default() }, []).unwrap();
    prober.want(vec![service("web", &backends, port, check)]);
    until("nine failed", || prober.view().counts().failed >= 9).await;
    let counts = prober.view().counts();
    assert!(most.load(Relaxed) <= 4 && counts.running <= 3, "{} at once, {counts:?}", most.load(Relaxed));
    assert!(counts.late > 0, "{counts:?}");
}

#[tokio::test]
async fn ten_thousand_changes_of_the_set_leave_nothing_behind() {
    let silent = server(Ipv4Addr::UNSPECIFIED.into(), wait_for_end).await;
    let check = json!({"kind": "http", "interval": "10ms", "timeout": "5s"});
    let services: Vec<_> = (0..6_u8)
        .map(|n| {
            let backends: Vec<IpAddr> = (1..=4).map(|m| Ipv4Addr::new(127, 0, n, m).into()).collect();
            service(&format!("s{n}"), &backends, silent.port(), check.clone())
        })
        .collect();
    let (prober, _changes) = start(vec![]);
    for round in 0..10_000_usize {
        let set = services.iter().enumerate().filter(|(n, _)| ((round * 0x9e37) >> n) & 1 == 0);
        prober.want(set.map(|(_, service)| service.clone()).collect());
        while prober.view.0.inbox().is_some() {
            tokio::task::yield_now().await;
        }
    }
    prober.want(services[..1].to_vec());
    until("the last set's probes are asked", || prober.view().counts().running == 4).await;
    assert_eq!(prober.view().counts().probes, 4);
    assert!(prober.view.0.board().places() <= 24, "{} places", prober.view.0.board().places());
    prober.want(vec![]);
    until("no probe is left", || prober.view().counts().probes == 0).await;
    until("nothing runs", || prober.view().counts().running == 0).await;
}

#[tokio::test]
async fn a_set_that_comes_while_a_large_one_is_taken_is_taken_too() {
    let port = closed(V4).await.port();
    let checked = service("checked", &[V4], port, json!({"kind": "tcp", "interval": "1h"}));
    let (prober, _changes) = start(vec![]);
    for _ in 0..100 {
        let unchecked = |n| Service { name: format!("s{n}").into(), health: Health::default(), ..(*checked).clone() };
        prober.want((0..150).map(unchecked).map(Arc::new).collect());
        // The first piece of it is being taken.
        while prober.view.0.inbox().is_some() {
            std::hint::spin_loop();
        }
        prober.want(vec![checked.clone()]);
        until("the second set is taken", || prober.view().counts().probes == 1).await;
        prober.want(vec![]);
        until("none is wanted", || prober.view().counts().probes == 0).await;
    }
}

#[tokio::test]
async fn a_probe_that_is_not_wanted_any_more_is_given_up_at_once() {
    let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let serve = move |stream: TcpStream| {
        let (sender, begun) = (sender.clone(), begun.clone());
        async move {
            begun.send(()).ok()?;
            wait_for_end(stream).await;
            sender.send(Instant::now()).ok()
        }
    };
    let silent = server(V4, serve).await;
    let web = service("web", &[V4], silent.port(), json!({"kind": "http", "interval": "50ms", "timeout": "1h"}));
    let (prober, _changes) = start(vec![]);
    prober.want(vec![web.clone()]);
    begins.recv().await.unwrap();
    prober.want(vec![]);
    tokio::time::timeout(Duration::from_secs(2), ends.recv()).await.expect("its connection ends");
    prober.want(vec![web]);
    begins.recv().await.unwrap();
    let dropped = Instant::now();
    drop(prober);
    assert!(dropped.elapsed() < Duration::from_secs(1), "the thread ends with the prober");
    tokio::time::timeout(Duration::from_secs(2), ends.recv()).await.expect("its connection ends");
}
