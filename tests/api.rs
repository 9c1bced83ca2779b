//! The gRPC API over a real control thread: calls, refusals, and that no acknowledged write is ever lost.
#![cfg(feature = "api")]

#[path = "../src/tls/authority.rs"]
mod authority;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use authority::Authority;
use hyper_util::rt::TokioIo;
use penstock::api::{Api, Facts, LISTS, Listeners, WATCHES};
use penstock::capture::{Captures, Moment};
use penstock::config::{Config, Listen};
use penstock::control::{Control, Setup};
use penstock::flow::{Clients, Flow as Remembers, Flows, Remembered, Stage};
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::proto::backends_client::BackendsClient;
use penstock::proto::definitions_client::DefinitionsClient;
use penstock::proto::flows_client::FlowsClient;
use penstock::proto::node_client::NodeClient;
use penstock::proto::*;
use penstock::quiescent::Reader;
use penstock::replay::Buffer;
use penstock::snapshot::{Millis, PortIndex, Snapshot};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A node without ports of its own: control thread and API on a socket in `directory`, and an lcore that adopts whatever
/// comes, and receives a burst a round while they are captured.
struct Node {
    control: Option<Control>,
    stop: Arc<AtomicBool>,
    lcore: Option<std::thread::JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
    /// Where it listens on TCP.
    addresses: Vec<SocketAddr>,
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("api.sock")
}

fn config(directory: &Path, feed: &str) -> Config {
    config_with(directory, feed, "")
}

/// `more`: of [api].
fn config_with(directory: &Path, feed: &str, more: &str) -> Config {
    let listen = if more.contains("listen") { String::new() } else { listen_on(directory) };
    let document = format!(
        r#"
        [node]
        state_dir = "{}"
        [dpdk]
        lcores = [0]
        [[port]]
        name = "wan0"
        device = "net_null0"
        [encap]
        ipv4_source = "10.0.0.1"
        [hash]
        seed = "AAECAwQFBgcICQoLDA0ODw=="
        table_size = 251
        [feed]
        {feed}
        [api]
        {listen}
        {more}
        "#,
        directory.display()
    );
    Config::read(document, &directory.join("penstock.toml").display().to_string()).unwrap().0
}

fn listen_on(directory: &Path) -> String {
    format!("listen = [\"unix:{}\"]", socket(directory).display())
}

impl Node {
    fn start(directory: &Path) -> Self {
        Self::with(config(directory, r#"kind = "none""#))
    }

    fn with(config: Config) -> Self {
        Self::remembering(config, Vec::new(), Arc::new(Clients::new(8, [0; 2])))
    }

    /// With what its lcore remembers.
    fn remembering(config: Config, remembered: Vec<Remembered>, clients: Arc<Clients>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let start = Instant::now();
        let setup = Setup {
            through: None,
            fixed: config.fabric(),
            config: config.clone(),
            twins: vec![],
            clock: Box::new(move || Millis(start.elapsed().as_millis() as u64)),
            remembered: remembered.clone(),
            clients,
            knows_flows: false,
            memory: 0,
        };
        let (control, mut readers) = Control::start(setup).unwrap();
        let mut reader: Reader<Snapshot> = readers.remove(0);
        let ticks = move || start.elapsed().as_nanos() as u64;
        let moment = move || Moment { time: SystemTime::now(), ticks: ticks(), rate: 1_000_000_000 };
        let (captures, mut takers) = Captures::new(1, moment);
        let mut taker = takers.remove(0);
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let lcore = std::thread::spawn(move || {
            let mut pipeline = Pipeline::new(0);
            while !is_over.load(Ordering::Relaxed) {
                taker.begin_round();
                let snapshot = reader.quiescent();
                let now = Millis(start.elapsed().as_millis() as u64);
                if let Some(mut watch) = taker.watch(snapshot, now, ticks(), PortIndex(0)) {
                    let mut frames: Vec<_> =
                        [80, 81].iter().cycle().take(BURST).map(|&port| Buffer::new(&packet(port))).collect();
                    let mut verdicts = [Verdict::Punt; BURST];
                    pipeline.process_witnessed(snapshot, now, PortIndex(0), &mut frames, &mut verdicts, &mut watch);
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let api = Arc::new(Api {
            control: control.client(),
            config: Arc::new(config.clone()),
            started: SystemTime::now(),
            facts: Box::new(|| Facts { phase: "forwarding", ..Facts::default() }),
            metrics: Box::new(|_| Box::pin(async { Some("# HELP up\nup{a=\"b\"} 1\nother 2\n".to_owned()) })),
            remembered: remembered.into_iter().map(|remembered| (1, remembered)).collect(),
            lists: Arc::new(tokio::sync::Semaphore::new(LISTS)),
            watches: Arc::new(tokio::sync::Semaphore::new(WATCHES)),
            captures,
        });
        let (serving, addresses) = runtime.block_on(async {
            let listeners = Listeners::bind(&config.api).await.unwrap();
            let addresses = listeners.addresses();
            (listeners.serve(api), addresses)
        });
        // The socket goes with the directory.
        std::mem::forget(serving);
        Self { control: Some(control), stop, lcore: Some(lcore), runtime: Some(runtime), addresses }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.lcore.take().map(std::thread::JoinHandle::join);
        drop(self.control.take());
    }
}

async fn connect(directory: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = socket(directory);
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://penstock").connect_with_connector(connector).await
}

/// Runs a test against a fresh node.
fn against_a_node<F: Future<Output = ()>>(test: impl FnOnce(Channel) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path());
    against(directory.path(), test);
    drop(node);
}

fn against<F: Future<Output = ()>>(directory: &Path, test: impl FnOnce(Channel) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(connect(directory).await.unwrap()).await });
}

fn service(name: &str, vip: u8, backends: &[u8]) -> Service {
    let backend = |last| Backend { address: format!("10.1.0.{last}"), ..Backend::default() };
    Service {
        name: name.to_owned(),
        vip: format!("192.0.2.{vip}"),
        port: Some(80),
        protocol: "tcp".to_owned(),
        forwarding: "ipip".to_owned(),
        backends: backends.iter().map(backend).collect(),
        ..Service::default()
    }
}

fn upsert(service: Service) -> UpsertServiceRequest {
    UpsertServiceRequest { service: Some(service), ..UpsertServiceRequest::default() }
}

/// From a client to this port of the VIP of `service("…", 1, …)`.
fn packet(port: u16) -> Vec<u8> {
    let ip =
        etherparse::PacketBuilder::ethernet2([2; 6], [2, 0, 0, 0, 0, 1]).ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64);
    let mut frame = Vec::new();
    ip.tcp(40_000, port, 1, 512).syn().write(&mut frame, &[0; 20]).unwrap();
    frame
}

async fn names(client: &mut DefinitionsClient<Channel>) -> (Option<String>, Vec<String>) {
    let set = client.get(GetRequest::default()).await.unwrap().into_inner().definitions.unwrap();
    (set.version, set.services.into_iter().map(|service| service.name).collect())
}

fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("there are details").field_violations;
    violations.iter().map(|violation| (violation.field.clone(), violation.description.clone())).collect()
}

#[test]
fn every_write_is_there_to_be_read_and_counts_the_version_on() {
    against_a_node(|channel| async move {
        let mut client = DefinitionsClient::new(channel);
        assert_eq!(names(&mut client).await, (None, vec![]));
        let written = client.upsert_service(upsert(service("web", 1, &[1, 2]))).await.unwrap().into_inner();
        assert_eq!((written.version.as_str(), written.changed), ("#1", true));
        let set = ServiceSet {
            version: Some("2026-11-23T10:00:00Z#41".to_owned()),
            services: vec![service("web", 1, &[1]), service("dns", 2, &[2])],
        };
        let replace = ReplaceRequest { definitions: Some(set), ..ReplaceRequest::default() };
        client.replace(replace.clone()).await.unwrap();
        assert!(!client.replace(replace).await.unwrap().into_inner().changed, "the same again");
        let request = SetBackendsRequest {
            service: "web".to_owned(),
            backends: service("", 0, &[7, 8]).backends,
            ..SetBackendsRequest::default()
        };
        assert_eq!(client.set_backends(request).await.unwrap().into_inner().version, "2026-11-23T10:00:00Z#42");
        let request = DeleteServiceRequest { name: "dns".to_owned(), ..DeleteServiceRequest::default() };
        client.delete_service(request).await.unwrap();
        assert_eq!(names(&mut client).await, (Some("2026-11-23T10:00:00Z#43".to_owned()), vec!["web".to_owned()]));
        let request = GetRequest { services: vec!["web".to_owned()] };
        let set = client.get(request).await.unwrap().into_inner().definitions.unwrap();
        let addresses: Vec<_> = set.services[0].backends.iter().map(|backend| backend.address.as_str()).collect();
        assert_eq!(addresses, ["10.1.0.7", "10.1.0.8"]);
        assert_eq!(client.get(GetRequest { services: vec!["no".into()] }).await.unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn what_is_refused_says_every_path_and_reason_and_changes_nothing() {
    against_a_node(|channel| async move {
        let mut client = DefinitionsClient::new(channel);
        client.upsert_service(upsert(service("web", 1, &[1]))).await.unwrap();
        let mut bad = service("dns", 2, &[2, 2]);
        bad.protocol = "sctp".to_owned();
        bad.backends[0].weight = Some(70_000);
        let status = client.upsert_service(upsert(bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let fields: Vec<_> = violations(&status).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["service.protocol", "service.backends[0].weight", "service.backends[1]"]);
        assert!(
            status.message().contains("service.protocol: \"sctp\" is not one of tcp, udp; did you mean"),
            "{status}"
        );

        let status = client.upsert_service(upsert(service("other", 1, &[2]))).await.unwrap_err();
        let expected = ("service.vip".to_owned(), "192.0.2.1 port 80 tcp is service \"web\" already".to_owned());
        assert_eq!((status.code(), violations(&status)), (Code::InvalidArgument, vec![expected]));

        let set = ServiceSet { version: None, services: vec![service("a", 1, &[1]), service("b", 1, &[1])] };
        let replace = ReplaceRequest { definitions: Some(set), ..ReplaceRequest::default() };
        let status = client.replace(replace).await.unwrap_err();
        assert_eq!(violations(&status)[0].0, "definitions.services[1].vip");
        let status = client.replace(ReplaceRequest::default()).await.unwrap_err();
        assert_eq!(violations(&status), [("definitions".to_owned(), "required, but absent".to_owned())]);

        let request = SetBackendsRequest {
            service: "web".to_owned(),
            backends: vec![Backend { address: "10.1.0".to_owned(), ..Backend::default() }],
            ..SetBackendsRequest::default()
        };
        let status = client.set_backends(request).await.unwrap_err();
        assert_eq!(violations(&status)[0].0, "backends[0].address");

        // What does not fit this node: it has no IPv6 source to send tunnels from.
        let mut six = service("six", 3, &[]);
        six.backends = vec![Backend { address: "fd00::1".to_owned(), ..Backend::default() }];
        let status = client.upsert_service(upsert(six)).await.unwrap_err();
        assert_eq!(violations(&status)[0].0, "service.forwarding");

        let request = DeleteServiceRequest { name: "no".to_owned(), ..DeleteServiceRequest::default() };
        assert_eq!(client.delete_service(request).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(names(&mut client).await, (Some("#1".to_owned()), vec!["web".to_owned()]));
    });
}

#[test]
fn a_write_for_another_version_is_aborted_and_a_dry_run_changes_nothing() {
    against_a_node(|channel| async move {
        let mut client = DefinitionsClient::new(channel);
        let mut request = upsert(service("web", 1, &[1]));
        request.expected_version = Some("old".to_owned());
        assert_eq!(client.upsert_service(request.clone()).await.unwrap_err().code(), Code::Aborted);
        // None is in force.
        request.expected_version = Some(String::new());
        client.upsert_service(request.clone()).await.unwrap();
        assert_eq!(client.upsert_service(request).await.unwrap_err().code(), Code::Aborted);
        let mut request = upsert(service("web", 1, &[1, 2]));
        (request.expected_version, request.dry_run) = (Some("#1".to_owned()), true);
        let written = client.upsert_service(request).await.unwrap().into_inner();
        assert_eq!((written.version.as_str(), written.changed), ("#2", true));
        let set = client.get(GetRequest::default()).await.unwrap().into_inner().definitions.unwrap();
        assert_eq!((set.version.as_deref(), set.services[0].backends.len()), (Some("#1"), 1));
    });
}

#[test]
fn where_a_feed_rules_nobody_writes_and_everybody_may_drain() {
    let directory = tempfile::tempdir().unwrap();
    let definitions = r#"{"version": "f", "services": [{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
        "forwarding": "ipip", "backends": [{"address": "10.1.0.1"}]}]}"#;
    std::fs::write(directory.path().join("services.json"), definitions).unwrap();
    let node = Node::with(config(directory.path(), r#"kind = "file""#));
    against(directory.path(), |channel| async move {
        let mut client = DefinitionsClient::new(channel.clone());
        let start = Instant::now();
        while names(&mut client).await.1.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(5), "the file is never read");
        }
        let refusals = [
            client.upsert_service(UpsertServiceRequest::default()).await.unwrap_err(),
            client.replace(ReplaceRequest::default()).await.unwrap_err(),
            client.delete_service(DeleteServiceRequest::default()).await.unwrap_err(),
            client.set_backends(SetBackendsRequest::default()).await.unwrap_err(),
        ];
        for status in refusals {
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert!(status.message().contains("(kind = \"file\")"), "{status}");
        }
        let drain = DrainRequest { backend: "10.1.0.1".to_owned(), service: None };
        let drained = BackendsClient::new(channel).drain(drain).await.unwrap().into_inner();
        assert_eq!(drained.services, ["web"]);
    });
    drop(node);
}

#[test]
fn a_drain_lasts_until_it_is_undone_whatever_happens() {
    let directory = tempfile::tempdir().unwrap();
    let list = |channel: &Channel| {
        let mut client = BackendsClient::new(channel.clone());
        async move {
            let list = client.list(ListBackendsRequest::default()).await.unwrap().into_inner().backends;
            list.into_iter().map(|it| (it.service, it.address, it.state, it.slots)).collect::<Vec<_>>()
        }
    };
    let row = |service: &str, last: u8, state: &str, slots| {
        (service.to_owned(), format!("10.1.0.{last}"), state.to_owned(), slots)
    };
    let node = Node::start(directory.path());
    against(directory.path(), |channel| async move {
        let mut definitions = DefinitionsClient::new(channel.clone());
        for name in [("a", 1), ("b", 2)] {
            definitions.upsert_service(upsert(service(name.0, name.1, &[1, 2]))).await.unwrap();
        }
        let mut client = BackendsClient::new(channel.clone());
        let whom = |backend: &str, service: Option<&str>| DrainRequest {
            backend: backend.to_owned(),
            service: service.map(str::to_owned),
        };
        for (backend, of, code) in [
            ("web", None, Code::InvalidArgument),
            ("", None, Code::InvalidArgument),
            ("10.1.0.9", None, Code::NotFound),
            ("10.1.0.1:81", None, Code::NotFound),
            ("10.1.0.1", Some("c"), Code::NotFound),
        ] {
            assert_eq!(client.drain(whom(backend, of)).await.unwrap_err().code(), code, "{backend} {of:?}");
        }
        assert_eq!(client.drain(whom("10.1.0.1", Some("a"))).await.unwrap().into_inner().services, ["a"]);
        assert_eq!(client.drain(whom("10.1.0.2", None)).await.unwrap().into_inner().services, ["a", "b"]);
        let backends = client.list(ListBackendsRequest::default()).await.unwrap().into_inner().backends;
        let unsettled: Vec<bool> = backends.iter().map(|backend| backend.unsettled_slots > 0).collect();
        assert_eq!(unsettled, [true, true, false, true], "who drains may have flows that nobody knows of");
        assert!(backends.iter().all(|backend| !backend.flows_known), "nobody has counted since");
        let before = list(&channel).await;
        assert_eq!(before[..2], [row("a", 1, "draining", 0), row("a", 2, "draining", 0)]);
        assert_eq!(before[2..], [row("b", 1, "active", 251), row("b", 2, "draining", 0)]);
        // New definitions change nothing about it.
        definitions.upsert_service(upsert(service("b", 2, &[2, 3]))).await.unwrap();
        assert_eq!(list(&channel).await[2..], [row("b", 2, "draining", 0), row("b", 3, "active", 251)]);
        let request = UndrainRequest { backend: "10.1.0.3".to_owned(), service: None };
        assert_eq!(client.undrain(request).await.unwrap_err().code(), Code::NotFound);
    });
    drop(node);
    let node = Node::start(directory.path());
    against(directory.path(), |channel| async move {
        assert_eq!(list(&channel).await[2..], [row("b", 2, "draining", 0), row("b", 3, "active", 251)]);
        let mut client = BackendsClient::new(channel.clone());
        for backend in ["10.1.0.1", "10.1.0.2"] {
            client.undrain(UndrainRequest { backend: backend.to_owned(), service: None }).await.unwrap();
        }
        let states: Vec<_> = list(&channel).await.into_iter().map(|row| row.2).collect();
        assert_eq!(states, ["active"; 4]);
        let status = NodeClient::new(channel.clone()).status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.services, status.backends, status.drained.len()), (2, 4, 0));
        assert_eq!((status.version.as_deref(), status.feed.unwrap().kind.as_str()), (Some("#3"), "none"));
    });
    drop(node);
}

#[test]
fn who_watches_slowly_gets_the_newest_only_and_the_first_at_once() {
    against_a_node(|channel| async move {
        let mut client = DefinitionsClient::new(channel);
        let mut watch = client.watch(WatchRequest {}).await.unwrap().into_inner();
        let next = async |watch: &mut tonic::Streaming<WatchResponse>| {
            watch.message().await.unwrap().unwrap().definitions.unwrap()
        };
        assert_eq!(next(&mut watch).await.services.len(), 0);
        // All of them together are more than a connection has room for.
        let backends: Vec<u8> = (1..=50).collect();
        let write = |name: usize| upsert(service(&format!("s{name}"), name as u8, &backends));
        client.upsert_service(write(1)).await.unwrap();
        assert_eq!(next(&mut watch).await.services.len(), 1);
        for name in 2..200 {
            client.upsert_service(write(name)).await.unwrap();
        }
        let (mut sets, mut last) = (0, 0);
        while last < 199 {
            let set = next(&mut watch).await;
            assert!(set.services.len() > last, "never backwards");
            (sets, last) = (sets + 1, set.services.len());
        }
        assert!(sets < 198, "none was left out");
        println!("{sets} of 198 sets were sent");
    });
}

#[test]
fn no_more_may_watch_than_there_are_places() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let node = Node::start(path);
    against(path, |channel| async move {
        let mut watches = Vec::new();
        // A connection has room for 64 calls.
        for _ in 0..WATCHES / 32 {
            let mut client = DefinitionsClient::new(connect(path).await.unwrap());
            for _ in 0..32 {
                watches.push(client.watch(WatchRequest {}).await.unwrap().into_inner());
            }
        }
        let mut client = DefinitionsClient::new(channel);
        let refused = client.watch(WatchRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().starts_with("256 callers watch the definitions already: end "), "{refused}");
        client.get(GetRequest::default()).await.expect("everything else is answered");
        drop(watches);
        let start = Instant::now();
        while client.watch(WatchRequest {}).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "places are given back");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    drop(node);
}

#[test]
fn ten_writers_at_once_are_all_in_the_final_state_in_one_order() {
    const WRITERS: u8 = 10;
    const EACH: u8 = 20;
    against_a_node(|channel| async move {
        let write = |writer: u8| {
            let mut client = DefinitionsClient::new(channel.clone());
            async move {
                let mut versions = Vec::new();
                for number in 0..EACH {
                    let request = upsert(service(&format!("{writer}-{number}"), writer * EACH + number, &[1]));
                    versions.push(client.upsert_service(request).await.unwrap().into_inner().version);
                    // And all change one and the same.
                    let request = SetBackendsRequest {
                        service: "shared".to_owned(),
                        backends: service("", 0, &[writer * EACH + number + 1]).backends,
                        ..SetBackendsRequest::default()
                    };
                    versions.push(client.set_backends(request).await.unwrap().into_inner().version);
                }
                versions
            }
        };
        let mut client = DefinitionsClient::new(channel.clone());
        client.upsert_service(upsert(service("shared", 250, &[255]))).await.unwrap();
        let versions = futures_util::future::join_all((0..WRITERS).map(write)).await.concat();
        let numbers: std::collections::BTreeSet<u32> =
            versions.iter().map(|version| version.strip_prefix('#').unwrap().parse().unwrap()).collect();
        let writes = u32::from(WRITERS) * u32::from(EACH) * 2;
        assert_eq!(numbers, (2..2 + writes).collect(), "each has a version of its own");
        let (version, names) = names(&mut client).await;
        assert_eq!((version, names.len() as u32), (Some(format!("#{}", writes + 1)), writes / 2 + 1));
    });
}

#[test]
fn counters_can_be_asked_for_and_a_live_packet_is_explained() {
    against_a_node(|channel| async move {
        let mut node = NodeClient::new(channel.clone());
        let request = CountersRequest { prefix: "up".to_owned() };
        let counters = node.counters(request).await.unwrap().into_inner().counters;
        assert_eq!((counters.len(), counters[0].value), (1, 1.0));
        DefinitionsClient::new(channel.clone()).upsert_service(upsert(service("web", 1, &[1]))).await.unwrap();
        let request = |destination: &str| ExplainRequest {
            source: "198.51.100.7:40000".to_owned(),
            destination: destination.to_owned(),
            protocol: "tcp".to_owned(),
            port: None,
        };
        let mut flows = FlowsClient::new(channel);
        let explained = flows.explain(request("192.0.2.1:80")).await.unwrap().into_inner();
        assert_eq!(explained.backend.as_deref(), Some("10.1.0.1:80"));
        assert_eq!((explained.verdict.as_str(), explained.reason.as_deref()), ("dropped", Some("no_next_hop")));
        let status = flows.explain(request("192.0.2.1")).await.unwrap_err();
        assert_eq!(violations(&status)[0].0, "destination");
        let mut list = flows.list(ListFlowsRequest::default()).await.unwrap().into_inner();
        assert!(list.message().await.unwrap().is_none(), "nothing is remembered");
    });
}

fn tuple(source_port: u16) -> penstock::pipeline::Tuple {
    penstock::pipeline::Tuple {
        source: "198.51.100.7".parse().unwrap(),
        destination: "192.0.2.1".parse().unwrap(),
        source_port,
        destination_port: 80,
        protocol: 6,
    }
}

/// A memory of so many flows of one client, to the first backend of the first service.
fn flows(count: u16) -> Flows {
    let mut flows = Flows::new(100_000, [1, 2]);
    for port in 0..count {
        let flow = Remembers { destination: 0, slot: 1, stage: Stage::Established, seen: 0 };
        let spot = penstock::explain::spot(&flows, &tuple(port));
        flows.insert(spot, &flow, &());
    }
    flows
}

#[test]
fn flows_are_listed_part_by_part_as_long_as_somebody_listens() {
    // Some 50 bytes each: more than connection and sockets hold of a list that nobody reads, about 2.5 MB.
    const FLOWS: u16 = 65_000;
    let directory = tempfile::tempdir().unwrap();
    let flows = flows(FLOWS);
    let config = config(directory.path(), r#"kind = "none""#);
    let node = Node::remembering(config, vec![flows.remembered()], Arc::new(Clients::new(8, [0; 2])));
    against(directory.path(), |channel| async move {
        let web = Service { tracking: Some("full".to_owned()), ..service("web", 1, &[1, 2]) };
        DefinitionsClient::new(channel.clone()).upsert_service(upsert(web)).await.unwrap();
        let mut client = FlowsClient::new(channel.clone());
        let all = || ListFlowsRequest { limit: u32::MAX, ..ListFlowsRequest::default() };
        // Who goes away is told no more: else soon nobody would be.
        for _ in 0..3 * LISTS {
            let start = Instant::now();
            let mut list = loop {
                match client.list(all()).await {
                    Ok(list) => break list.into_inner(),
                    Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
                }
                assert!(start.elapsed() < Duration::from_secs(10), "callers who went are still told");
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            assert_eq!(list.message().await.unwrap().unwrap().flows.len(), 1000);
        }
        let mut lists = Vec::new();
        let refused = loop {
            match client.list(all()).await {
                Ok(list) => lists.push(list.into_inner()),
                Err(status) => break status,
            }
            assert!(lists.len() <= LISTS, "each holds a thread");
        };
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let (mut list, mut found) = (lists.remove(0), 0);
        drop(lists);
        while let Some(part) = list.message().await.unwrap() {
            assert!(part.flows.len() <= 1000);
            found += part.flows.len();
        }
        assert_eq!(found, usize::from(FLOWS));

        let of = async |service: Option<&str>, client_name: &str, limit| {
            let (service, name) = (service.map(str::to_owned), Some(client_name.to_owned()));
            let request = ListFlowsRequest { service, client: name, limit, backend: None };
            let mut list = client.clone().list(request).await?.into_inner();
            let mut found = 0;
            while let Some(part) = list.message().await? {
                found += part.flows.len();
            }
            Ok::<_, Status>(found)
        };
        assert_eq!(of(Some("web"), "198.51.100.7", u32::MAX).await.unwrap(), usize::from(FLOWS));
        assert_eq!(of(Some("web"), "198.51.100.7", 7).await.unwrap(), 7);
        assert_eq!(of(None, "198.51.100.7:77", 0).await.unwrap(), 1);
        assert_eq!(of(None, "198.51.100.7", 7).await.unwrap(), 7);
        let services = (0..300).map(|port| Service { port: Some(1 + port), ..service(&format!("s{port}"), 2, &[1]) });
        let set = ServiceSet { version: None, services: services.collect() };
        let replace = ReplaceRequest { definitions: Some(set), ..ReplaceRequest::default() };
        DefinitionsClient::new(channel).replace(replace).await.unwrap();
        assert_eq!(violations(&of(None, "198.51.100.7", 0).await.unwrap_err())[0].0, "service");
    });
    drop(node);
}

#[test]
fn a_live_explanation_says_what_the_lcore_would_do() {
    let directory = tempfile::tempdir().unwrap();
    let clients = Arc::new(Clients::new(8, [3, 4]));
    let config = config(directory.path(), r#"kind = "none""#);
    let node = Node::remembering(config, vec![flows(3).remembered()], clients.clone());
    let control = node.control.as_ref().unwrap().client();
    against(directory.path(), |channel| async move {
        let mut definitions = DefinitionsClient::new(channel.clone());
        let mut web = Service { tracking: Some("full".to_owned()), ..service("web", 1, &[1]) };
        definitions.upsert_service(upsert(web.clone())).await.unwrap();
        let mut client = FlowsClient::new(channel.clone());
        let mut explain = async |port: u16| {
            let request = ExplainRequest {
                source: format!("198.51.100.7:{port}"),
                destination: "192.0.2.1:80".to_owned(),
                protocol: "tcp".to_owned(),
                port: None,
            };
            let explained = client.explain(request).await.unwrap().into_inner();
            (explained.backend.unwrap(), explained.remembered, explained.why.join("\n"))
        };
        let (first, second) = ("10.1.0.1:80".to_owned(), "10.1.0.2:80".to_owned());
        let (backend, is_remembered, why) = explain(40_000).await;
        assert_eq!((backend, is_remembered), (first.clone(), false));
        assert!(why.contains("at rest"), "{why}");

        // All new flows go to another now: one that is remembered does not, and those that nobody remembers may still be there.
        web.backends = service("", 0, &[1, 2]).backends;
        web.backends[0].state = Some("draining".to_owned());
        definitions.upsert_service(upsert(web.clone())).await.unwrap();
        let (backend, is_remembered, why) = explain(40_000).await;
        assert_eq!((backend, is_remembered), (second.clone(), false));
        assert!(why.contains("still with 10.1.0.1:80 (base)") && !why.contains("at rest"), "{why}");
        let (backend, is_remembered, why) = explain(1).await;
        assert_eq!((backend, is_remembered), (first.clone(), true));
        assert!(why.contains("10.1.0.1:80 keeps it"), "{why}");
        assert!(why.lines().any(|line| line.starts_with("next hop: ") && line.contains("10.1.0.1")), "{why}");
        web.backends[0].state = Some("down".to_owned());
        definitions.upsert_service(upsert(web.clone())).await.unwrap();
        assert_eq!(explain(1).await.0, second);

        // A client that was somewhere goes there again, by whatever port.
        web.backends[0].state = None;
        web.hash = Some("source-ip".to_owned());
        web.affinity_timeout = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
        definitions.upsert_service(upsert(web)).await.unwrap();
        let usual = explain(40_000).await.0;
        let seen = control.seen().await.unwrap();
        let affinity = {
            let found = seen.snapshot.service("192.0.2.1".parse().unwrap(), 80, 6).unwrap();
            seen.snapshot.affinity(found.service).unwrap()
        };
        let spot = clients.spot(affinity.service, "198.51.100.7".parse().unwrap());
        let other = u32::from(usual == first);
        clients.note(spot, other, seen.now.seconds(), |_| false);
        let (backend, is_remembered, why) = explain(40_000).await;
        assert_eq!((backend, is_remembered), ([first, second][other as usize].clone(), false));
        assert!(why.contains("affinity"), "{why}");
        assert_eq!(clients.find(spot).unwrap().destination, other, "nothing is changed");
    });
    drop(node);
}

#[test]
fn what_a_caller_said_is_cut_where_it_comes_back() {
    against_a_node(|channel| async move {
        let mut client = DefinitionsClient::new(channel.clone());
        client.upsert_service(upsert(service("web", 1, &[1]))).await.unwrap();
        let long = "x".repeat(100_000);
        let delete = DeleteServiceRequest { name: long.clone(), ..DeleteServiceRequest::default() };
        let versioned =
            DeleteServiceRequest { name: "web".to_owned(), expected_version: Some(long.clone()), dry_run: false };
        let drain = |backend: &str, service| DrainRequest { backend: backend.to_owned(), service };
        let mut backends = BackendsClient::new(channel);
        let refusals = [
            client.delete_service(delete).await.unwrap_err(),
            client.delete_service(versioned).await.unwrap_err(),
            client.get(GetRequest { services: vec![long.clone()] }).await.unwrap_err(),
            backends.drain(drain(&long, None)).await.unwrap_err(),
            backends.drain(drain("10.1.0.9", Some(long.clone()))).await.unwrap_err(),
            backends.list(ListBackendsRequest { service: Some(long.clone()), backend: None }).await.unwrap_err(),
        ];
        for status in refusals {
            assert!(status.message().contains("xxx") && status.message().len() < 300, "{status:.300}");
        }
    });
}

/// Other tests of this process call, too: so only what stands there is looked at, not how often.
#[test]
fn calls_and_watchers_are_counted() {
    let recorded = penstock::telemetry::Recorded::install();
    let value = |series: &str| {
        let text = recorded.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse::<f64>().unwrap())
    };
    assert!(value(r#"penstock_api_requests_total{method="Flows/Explain",code="OK"}"#).is_some());
    against_a_node(|channel| async move {
        let mut client = DefinitionsClient::new(channel.clone());
        let nobody = DeleteServiceRequest { name: "nobody".to_owned(), ..DeleteServiceRequest::default() };
        client.delete_service(nobody).await.unwrap_err();
        let refused = r#"penstock_api_requests_total{method="Definitions/DeleteService",code="NOT_FOUND"}"#;
        assert!(value(refused) >= Some(1.0));
        assert!(
            value(r#"penstock_api_request_duration_seconds_count{method="Definitions/DeleteService"}"#) >= Some(1.0)
        );
        let watch = client.watch(WatchRequest {}).await.unwrap();
        assert!(value("penstock_api_watchers") >= Some(1.0));
        drop(watch);
        client.upsert_service(upsert(service("web", 1, &[1]))).await.unwrap();
        assert!(value("penstock_commit_duration_seconds_count") >= Some(1.0));
        assert!(value("penstock_journal_bytes").is_some());
        assert!(value(r#"penstock_publish_phase_duration_seconds_count{phase="compile"}"#) >= Some(1.0));
    });
}

#[test]
fn the_standard_health_service_and_reflection_answer() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    against_a_node(|channel| async move {
        let mut health = HealthClient::new(channel.clone());
        let mut is = async |expected: ServingStatus| {
            let start = Instant::now();
            loop {
                let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
                if status == expected {
                    return;
                }
                assert!(start.elapsed() < Duration::from_secs(5), "{status:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        is(ServingStatus::NotServing).await;
        DefinitionsClient::new(channel.clone()).upsert_service(upsert(service("web", 1, &[1]))).await.unwrap();
        is(ServingStatus::Serving).await;

        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut reflection = ServerReflectionClient::new(channel);
        let mut answers =
            reflection.server_reflection_info(futures_util::stream::iter([request])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["Definitions", "Backends", "Node", "Flows", "Feed"] {
            assert!(names.contains(&format!("penstock.v1.{name}").as_str()), "{name} is not in {names:?}");
        }
    });
}

/// The process ends between keeping a change and putting it in force: then nothing on disk says yet what it moves.
#[test]
fn a_change_that_was_kept_but_never_in_force_moves_no_flow_by_a_restart() {
    let more: fn(Channel) -> std::pin::Pin<Box<dyn Future<Output = ()>>> = |channel| {
        Box::pin(async move {
            let request = upsert(service("web", 1, &[1, 2, 3, 4]));
            DefinitionsClient::new(channel).upsert_service(request).await.unwrap();
        })
    };
    let replaced: fn(Channel) -> std::pin::Pin<Box<dyn Future<Output = ()>>> = |channel| {
        Box::pin(async move {
            let set = ServiceSet { version: None, services: vec![service("web", 1, &[1, 2, 3, 4])] };
            let request = ReplaceRequest { definitions: Some(set), ..ReplaceRequest::default() };
            DefinitionsClient::new(channel).replace(request).await.unwrap();
        })
    };
    let drained: fn(Channel) -> std::pin::Pin<Box<dyn Future<Output = ()>>> = |channel| {
        Box::pin(async move {
            let request = DrainRequest { backend: "10.1.0.1".to_owned(), service: None };
            BackendsClient::new(channel).drain(request).await.unwrap();
        })
    };
    // The sets before the last move nothing, so no bases are kept of them.
    let again: fn(Channel) -> std::pin::Pin<Box<dyn Future<Output = ()>>> = |channel| {
        Box::pin(async move {
            let mut client = DefinitionsClient::new(channel);
            let mut set = client.get(GetRequest::default()).await.unwrap().into_inner().definitions.unwrap();
            for version in ["a", "b"] {
                set.version = Some(version.to_owned());
                let request = ReplaceRequest { definitions: Some(set.clone()), ..ReplaceRequest::default() };
                client.replace(request).await.unwrap();
            }
            client.upsert_service(upsert(service("web", 1, &[1, 2, 3, 4]))).await.unwrap();
        })
    };
    for (name, change) in [("upsert", more), ("replace", replaced), ("drain", drained), ("again", again)] {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let node = Node::start(directory.path());
        against(directory.path(), |channel| async move {
            let mut client = DefinitionsClient::new(channel);
            client.upsert_service(upsert(service("other", 2, &[1]))).await.unwrap();
            client.upsert_service(upsert(service("web", 1, &[1, 2]))).await.unwrap();
        });
        drop(node);
        std::fs::copy(file("bases"), file("aside")).unwrap();
        let node = Node::start(directory.path());
        against(directory.path(), change);
        drop(node);
        std::fs::copy(file("aside"), file("bases")).unwrap();
        let node = Node::start(directory.path());
        against(directory.path(), |channel| async move {
            let request = ListBackendsRequest { service: Some("web".to_owned()), backend: None };
            let list = BackendsClient::new(channel).list(request).await.unwrap().into_inner().backends;
            let first = &list[0];
            assert!(first.unsettled_slots > 0, "{name}: {first:?} has flows in slots that are another's now");
            let slots: u32 = list.iter().map(|backend| backend.slots).sum();
            assert_eq!((list.len() > 2 || first.slots == 0, slots), (true, 251), "{name}: {list:?}");
        });
        drop(node);
    }
}

/// What the test below runs again and again, and kills.
#[test]
fn a_node_to_be_killed() {
    let Some(directory) = std::env::var_os("PENSTOCK_NODE_TO_BE_KILLED") else { return };
    let _node = Node::start(Path::new(&directory));
    std::thread::sleep(Duration::from_secs(60));
}

fn node_to_be_killed(directory: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_node_to_be_killed"]).env("PENSTOCK_NODE_TO_BE_KILLED", directory);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn however_often_it_is_killed_no_acknowledged_write_is_lost() {
    const KILLS: u32 = 200;
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // By service, its only backend, as it was acknowledged; and what was asked for when the node was killed, which may be either.
    let mut acknowledged: BTreeMap<String, Option<u8>> = BTreeMap::new();
    let (mut writes, mut number) = (0, 0u32);
    // How long a write takes here.
    let mut usual = Duration::from_millis(8);
    for kill in 0..KILLS {
        let mut child = node_to_be_killed(directory.path());
        runtime.block_on(async {
            let start = Instant::now();
            let channel = loop {
                match connect(directory.path()).await {
                    Ok(channel) => break channel,
                    Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "kill {kill}: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let mut client = DefinitionsClient::new(channel);
            let set = client.get(GetRequest::default()).await.unwrap().into_inner().definitions.unwrap();
            let found: BTreeMap<String, u8> = set
                .services
                .iter()
                .map(|service| {
                    let last = service.backends[0].address.rsplit('.').next().unwrap().parse().unwrap();
                    (service.name.clone(), last)
                })
                .collect();
            let expected: BTreeMap<String, u8> =
                acknowledged.iter().filter_map(|(name, last)| Some((name.clone(), (*last)?))).collect();
            assert_eq!(found, expected, "after kill {kill}");

            // Somewhere within the next five writes or so.
            let after = usual * (kill.wrapping_mul(2_654_435_761) % 5_000) / 1_000;
            let deadline = tokio::time::sleep(after);
            tokio::pin!(deadline);
            loop {
                number += 1;
                let (name, last) = (format!("s{}", number % 7), (number % 250) as u8 + 1);
                let before = acknowledged.get(&name).copied().flatten();
                let write = async {
                    match number % 11 {
                        3 if before.is_some() => {
                            let request = DeleteServiceRequest { name: name.clone(), ..Default::default() };
                            client.delete_service(request).await.map(|_| None)
                        }
                        7 => {
                            let set = ServiceSet { version: None, services: vec![service(&name, 1, &[last])] };
                            let request = ReplaceRequest { definitions: Some(set), ..Default::default() };
                            client.replace(request).await.map(|_| Some((true, last)))
                        }
                        _ => {
                            let request = upsert(service(&name, 1 + (number % 7) as u8, &[last]));
                            client.upsert_service(request).await.map(|_| Some((false, last)))
                        }
                    }
                };
                let begun = Instant::now();
                let written = tokio::select! {
                    written = write => written,
                    () = &mut deadline => break,
                };
                writes += 1;
                usual = (7 * usual + begun.elapsed().min(Duration::from_secs(1))) / 8;
                match written {
                    Ok(None) => _ = acknowledged.insert(name, None),
                    Ok(Some((is_whole, last))) => {
                        if is_whole {
                            acknowledged.clear();
                        }
                        acknowledged.insert(name, Some(last));
                    }
                    // A VIP that a whole set gave to another.
                    Err(status) if status.code() == Code::InvalidArgument => {}
                    Err(status) => panic!("{status}"),
                }
            }
        });
        child.kill().unwrap();
        child.wait().unwrap();
        // The write under way may be there or not: whoever comes next says which.
        let node = Node::start(directory.path());
        acknowledged = settle(&runtime, directory.path(), acknowledged, number);
        drop(node);
    }
    println!("{writes} writes were acknowledged before {KILLS} kills");
    assert!(writes > KILLS, "{writes} writes");
}

/// What is there, where it differs from what was acknowledged by the one write that was under way.
fn settle(
    runtime: &tokio::runtime::Runtime,
    directory: &Path,
    acknowledged: BTreeMap<String, Option<u8>>,
    number: u32,
) -> BTreeMap<String, Option<u8>> {
    runtime.block_on(async {
        let mut client = DefinitionsClient::new(connect(directory).await.unwrap());
        let set = client.get(GetRequest::default()).await.unwrap().into_inner().definitions.unwrap();
        let last = |service: &Service| service.backends[0].address.rsplit('.').next().unwrap().parse::<u8>().unwrap();
        let found: BTreeMap<String, Option<u8>> =
            set.services.iter().map(|service| (service.name.clone(), Some(last(service)))).collect();
        let (name, written) = (format!("s{}", number % 7), (number % 250) as u8 + 1);
        let before: BTreeMap<_, _> = acknowledged.into_iter().filter(|(_, last)| last.is_some()).collect();
        let mut upserted = before.clone();
        upserted.insert(name.clone(), Some(written));
        let mut deleted = before.clone();
        deleted.remove(&name);
        let replaced = BTreeMap::from([(name, Some(written))]);
        let is_one_of = [&before, &upserted, &deleted, &replaced].contains(&&found);
        assert!(is_one_of, "{found:?} is neither what was acknowledged ({before:?}) nor that with write {number}");
        found
    })
}

#[test]
fn a_socket_that_is_in_use_is_refused_and_one_that_was_left_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let api = config(directory.path(), r#"kind = "none""#).api;
    let bind = || runtime.block_on(Listeners::bind(&api));
    let first = bind().unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(socket(directory.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = bind().unwrap_err().to_string();
    assert!(error.ends_with("is in use by another process"), "{error}");
    drop(first);
    drop(bind().unwrap());
    std::fs::remove_file(socket(directory.path())).unwrap();
    std::fs::write(socket(directory.path()), "precious").unwrap();
    let error = bind().unwrap_err().to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(socket(directory.path())).unwrap(), "precious");
    let listen = vec![Listen::Unix(directory.path().join("g"))];
    let api = penstock::config::Api { listen, group: Some("no-such-group".to_owned()), ..api.clone() };
    let group = runtime.block_on(Listeners::bind(&api));
    assert!(group.unwrap_err().to_string().contains("no group \"no-such-group\""));
}

/// Puts a certificate FILE.pem for the name and its FILE.key into the directory, and gives their paths.
fn issue(authority: &Authority, directory: &Path, file: &str, name: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (directory.join(format!("{file}.pem")), directory.join(format!("{file}.key")));
    let (cert_pem, key_pem) = authority.issue(name);
    std::fs::write(&cert, cert_pem).unwrap();
    std::fs::write(&key, key_pem).unwrap();
    (cert, key)
}

/// A node that listens on TCP in a directory with an authority's certificates.
fn tls_node(directory: &Path, authority: &Authority) -> Node {
    std::fs::write(directory.join("ca.pem"), &authority.pem).unwrap();
    issue(authority, directory, "node", "127.0.0.1");
    let more = r#"
        listen = ["127.0.0.1:0"]
        cert = "node.pem"
        key = "node.key"
        ca = "ca.pem"
        roles = {"orchestrator.example" = "write", "ops.example" = "drain"}
    "#;
    Node::with(config_with(directory, r#"kind = "none""#, more))
}

/// Connects to it.
async fn tls_connect(
    directory: &Path,
    address: SocketAddr,
    identity: Option<(PathBuf, PathBuf)>,
) -> Result<Channel, String> {
    use penstock::config::{Identity, Tls};

    let identity = identity.map(|(cert, key)| Identity { cert, key });
    let mut client = penstock::tls::Client::new(Tls { ca: Some(directory.join("ca.pem")), identity }, "h2");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = client.connect("127.0.0.1", stream).await.map_err(|error| error.to_string())?;
    let endpoint = Endpoint::from_static("http://penstock");
    channel_over(stream, endpoint, "it is over").await.map_err(|error| error.to_string())
}

#[test]
fn callers_who_say_nothing_keep_no_other_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let node = tls_node(directory.path(), &authority);
    let address = node.addresses[0];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut silent = Vec::new();
        for _ in 0..200 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            silent.push(socket.connect(address).await.unwrap());
        }
        let start = Instant::now();
        let identity = issue(&authority, directory.path(), "caller", "ops.example");
        let channel = tls_connect(directory.path(), address, Some(identity)).await.unwrap();
        NodeClient::new(channel).status(StatusRequest {}).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    });
    drop(node);
}

#[test]
fn what_a_caller_may_not_do_is_not_even_read() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let node = tls_node(directory.path(), &authority);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let identity = issue(&authority, directory.path(), "caller", "somebody.example");
        let channel = tls_connect(directory.path(), node.addresses[0], Some(identity)).await.unwrap();
        // More than a message of this call may have.
        let drain = DrainRequest { backend: "x".repeat(5 << 20), service: None };
        let status = BackendsClient::new(channel).drain(drain).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:.300}");
    });
    drop(node);
}

#[test]
fn a_socket_is_never_open_to_everybody() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = socket(directory.path());
    let api = config(directory.path(), r#"kind = "none""#).api;
    let is_over = Arc::new(AtomicBool::new(false));
    let looking = std::thread::spawn({
        let (path, is_over) = (path.clone(), is_over.clone());
        move || {
            let mut modes = std::collections::BTreeSet::new();
            while !is_over.load(Ordering::Relaxed) {
                modes.extend(std::fs::metadata(&path).ok().map(|metadata| metadata.permissions().mode() & 0o777));
            }
            modes
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..500 {
        drop(runtime.block_on(Listeners::bind(&api)).unwrap());
    }
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(looking.join().unwrap().into_iter().collect::<Vec<_>>(), [0o660]);
    let there: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(there, [path]);
}

#[test]
fn over_tcp_a_caller_may_do_what_the_name_of_its_certificate_says() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let file = |name: &str| directory.path().join(name);
    let node = tls_node(directory.path(), &authority);
    let connect = |identity| tls_connect(directory.path(), node.addresses[0], identity);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // By name: what reading, draining and writing give.
        let may = async |name: &str| {
            let channel = connect(Some(issue(&authority, directory.path(), "caller", name))).await.unwrap();
            let read = NodeClient::new(channel.clone()).status(StatusRequest {}).await;
            let drain = DrainRequest { backend: "10.1.0.1".to_owned(), service: None };
            let drain = BackendsClient::new(channel.clone()).drain(drain).await;
            let write = DefinitionsClient::new(channel).upsert_service(upsert(service("web", 1, &[1]))).await;
            let code = |status: Status| status.code();
            (read.err().map(code), drain.err().map(code), write.err().map(code))
        };
        let denied = Some(Code::PermissionDenied);
        assert_eq!(may("orchestrator.example").await, (None, Some(Code::NotFound), None));
        assert_eq!(may("ops.example").await, (None, None, denied));
        assert_eq!(may("somebody.example").await, (None, denied, denied));

        // Without a certificate, or with a stranger's, nobody is heard at all.
        let stranger = issue(&stranger, directory.path(), "stranger", "orchestrator.example");
        for identity in [None, Some(stranger)] {
            let answered = match connect(identity).await {
                Ok(channel) => NodeClient::new(channel).status(StatusRequest {}).await.is_ok(),
                Err(_) => false,
            };
            assert!(!answered);
        }

        // A certificate that is replaced is used from then on; rubbish in its place is not.
        issue(&authority, directory.path(), "node", "elsewhere.example");
        let identity = || Some(issue(&authority, directory.path(), "caller", "ops.example"));
        assert!(connect(identity()).await.unwrap_err().contains("is for another name"));
        std::fs::write(file("node.pem"), "rubbish").unwrap();
        assert!(connect(identity()).await.unwrap_err().contains("is for another name"));
        issue(&authority, directory.path(), "node", "127.0.0.1");
        connect(identity()).await.unwrap();
    });
    drop(node);
}

#[test]
fn waiting_for_a_drained_backend_ends_well_when_it_is_taken_away() {
    use std::io::{BufRead, BufReader};

    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path());
    against(directory.path(), |channel| async move {
        let mut client = DefinitionsClient::new(channel);
        client.upsert_service(upsert(service("web", 1, &[1, 2]))).await.unwrap();
    });
    let mut drain = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(["drain", "10.1.0.1", "--wait", "--timeout", "20"])
        .arg(format!("--api=unix:{}", socket(directory.path()).display()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(drain.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waits = said.next().unwrap();
    assert!(waits.starts_with("unknown how many flows are left"), "{waits}");
    against(directory.path(), |channel| async move {
        let mut client = DefinitionsClient::new(channel);
        client.upsert_service(upsert(service("web", 1, &[2]))).await.unwrap();
    });
    let rest: Vec<_> = said.collect();
    assert_eq!(drain.wait().unwrap().code(), Some(0), "{rest:?}");
    assert_eq!(rest, ["10.1.0.1 is gone: no service has a backend 10.1.0.1; what it had is chosen anew"]);
    drop(node);
}

/// In a terminal of its own (`script` makes it).
#[test]
fn top_shows_a_node_says_when_it_is_gone_and_gives_the_terminal_back() {
    use std::io::{Read, Write};

    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path());
    let command = format!("{} top --api unix:{}", env!("CARGO_BIN_EXE_penstock"), socket(directory.path()).display());
    let mut top = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("stty rows 24 columns 80; {command}"), "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (top.stdin.take().unwrap(), top.stdout.take().unwrap());
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let all = seen.clone();
    let reading = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = screen.read(&mut bytes) {
            *all.lock().unwrap() += &String::from_utf8_lossy(&bytes[..length]);
        }
    });
    // Only what changes on the screen is written, so words come one by one.
    let until = |word: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !seen.lock().unwrap().contains(word) {
            assert!(Instant::now() < deadline, "no {word:?} in {:?}", seen.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("forwarding");
    keys.write_all(b"3").unwrap();
    until("WEIGHT");
    drop(node);
    std::fs::remove_file(socket(directory.path())).unwrap();
    until("since");
    keys.write_all(b"q").unwrap();
    assert!(top.wait().unwrap().success());
    reading.join().unwrap();
    let all = seen.lock().unwrap();
    let (opened, closed) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
    assert!(all.find(opened) < all.rfind(closed) && all.contains(closed), "{all:?}");
}

/// Begins a capture, once no other is under way.
async fn capture(channel: &Channel, request: &CaptureRequest) -> (CaptureResponse, tonic::Streaming<CaptureResponse>) {
    let start = Instant::now();
    loop {
        match NodeClient::new(channel.clone()).capture(request.clone()).await {
            Ok(parts) => {
                let mut parts = parts.into_inner();
                return (parts.message().await.unwrap().expect("a first message"), parts);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                assert!(start.elapsed() < Duration::from_secs(5), "the one before never ends");
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn frames_are_captured_with_their_verdict_until_there_are_enough() {
    against_a_node(|channel| async move {
        DefinitionsClient::new(channel.clone()).upsert_service(upsert(service("web", 1, &[1]))).await.unwrap();
        let wanted = |reason: &str, service: Option<&str>| CaptureRequest {
            reasons: vec![reason.to_owned()],
            service: service.map(str::to_owned),
            count: 100,
            snap_length: 60,
            ..CaptureRequest::default()
        };
        let before = SystemTime::now();
        for (port, reason, service) in [(81, "no_service", None), (80, "no_next_hop", Some("web"))] {
            let (first, mut parts) = capture(&channel, &wanted(reason, service)).await;
            assert_eq!((first.ports, first.frames), (vec!["wan0".to_owned()], vec![]));
            let (mut frames, mut counts) = (Vec::new(), None);
            while let Some(part) = parts.message().await.unwrap() {
                frames.extend(part.frames);
                counts = part.counts;
            }
            assert_eq!(frames.len(), 100);
            for frame in &frames {
                assert_eq!((frame.verdict.as_str(), frame.reason.as_str()), ("dropped", reason));
                assert_eq!((frame.port.as_str(), frame.lcore, frame.sent), ("wan0", 0, false));
                assert_eq!(frame.service, service.unwrap_or_default());
                assert_eq!((&frame.data[..], frame.length), (&packet(port)[..60], packet(port).len() as u32));
                let time = SystemTime::try_from(frame.time.unwrap()).unwrap();
                assert!(time >= before - Duration::from_secs(1) && time <= SystemTime::now() + Duration::from_secs(1));
            }
            assert!(frames.is_sorted_by_key(|frame| frame.time.map(|time| (time.seconds, time.nanos))));
            assert!(counts.unwrap().taken >= 100);
        }
    });
}

#[test]
fn one_capture_at_a_time_and_it_ends_with_who_asked_for_it() {
    against_a_node(|channel| async move {
        let (_, parts) = capture(&channel, &CaptureRequest::default()).await;
        let status = NodeClient::new(channel.clone()).capture(CaptureRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("another capture is under way"), "{status}");
        drop(parts);
        let duration = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
        let request = CaptureRequest { reasons: vec!["tx_full".to_owned()], duration, ..CaptureRequest::default() };
        let (_, mut parts) = capture(&channel, &request).await;
        // Nothing comes, and it ends by itself.
        let start = Instant::now();
        while let Some(part) = parts.message().await.unwrap() {
            assert_eq!(part.frames, []);
        }
        assert!(
            (Duration::from_millis(40)..Duration::from_secs(5)).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    });
}

#[test]
fn who_takes_frames_too_slowly_loses_them_and_is_told() {
    against_a_node(|channel| async move {
        let request = CaptureRequest { rate: 100_000, snap_length: 16_384, ..CaptureRequest::default() };
        let (_, mut parts) = capture(&channel, &request).await;
        let start = Instant::now();
        loop {
            // Nothing is read until all that may be on the way is, and more has come.
            tokio::time::sleep(Duration::from_secs(1)).await;
            for _ in 0..1000 {
                let counts = parts.message().await.unwrap().unwrap().counts.unwrap();
                if counts.lost > 0 {
                    return;
                }
                assert!(start.elapsed() < Duration::from_secs(30), "nothing is lost: {counts:?}");
            }
        }
    });
}

#[test]
fn captures_that_cannot_be_are_refused_with_the_field() {
    against_a_node(|channel| async move {
        let all = CaptureRequest::default;
        let cases = [
            (CaptureRequest { verdicts: vec!["drop".to_owned()], ..all() }, "verdicts"),
            (CaptureRequest { reasons: vec!["dropped".to_owned()], ..all() }, "reasons"),
            (CaptureRequest { snap_length: 16_385, ..all() }, "snap_length"),
            (CaptureRequest { rate: 100_001, ..all() }, "rate"),
            (CaptureRequest { duration: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..all() }, "duration"),
        ];
        for (request, field) in cases {
            let status = NodeClient::new(channel.clone()).capture(request).await.unwrap_err();
            assert_eq!((status.code(), violations(&status)[0].0.as_str()), (Code::InvalidArgument, field));
        }
    });
}
