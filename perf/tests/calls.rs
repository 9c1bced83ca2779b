//! What a polling thread asks of the kernel while it forwards: nothing. strace watches all threads of the released binary; those of the
//! control side call, and the polling one does not.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_penstock-perf");

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// A running program, ended with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

fn config(capture: &Path, metrics: SocketAddr) -> String {
    format!(
        r#"[node]
name = "watched"
state_dir = "state"
stop_grace = "0s"
[dpdk]
lcores = [1]
eal_args = ["--no-pci", "--no-huge", "--no-shconf", "-m", "256"]
mempool_mbufs = 16383
idle = "poll"
[[port]]
name = "wan0"
device = "net_pcap0,rx_pcap={},infinite_rx=1"
mac = "02:70:63:61:70:00"
addresses = ["10.0.0.1"]
[encap]
ipv4_source = "10.0.0.1"
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
[feed]
kind = "file"
path = "services.json"
[metrics]
listen = "{metrics}"
"#,
        capture.display()
    )
}

/// Every flow that comes is remembered where it begins, so that tables are read and written.
const SERVICES: &str = r#"{"version": "1", "services": [{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
    "forwarding": "ipip", "tracking": "full", "backends": [{"address": "10.1.0.1"}, {"address": "10.1.0.2"}]}]}"#;

/// Packets that the node has forwarded, as it says itself.
fn forwarded(metrics: SocketAddr) -> Option<f64> {
    let mut stream = TcpStream::connect(metrics).ok()?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {metrics}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let counts = text.lines().filter(|line| line.starts_with("penstock_forwarded_packets_total{"));
    Some(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// The thread that runs most of the time: its number.
fn polling_thread(process: u32) -> String {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let ran = |thread: &str| -> u64 {
        let stat = fs::read_to_string(tasks.join(thread).join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0)
    };
    let threads = fs::read_dir(&tasks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let before: Vec<(String, u64)> = threads.map(|thread| (ran(&thread), thread)).map(|(ran, id)| (id, ran)).collect();
    sleep(Duration::from_millis(500));
    before.into_iter().max_by_key(|(thread, before)| ran(thread) - before).unwrap().0
}

#[test]
#[ignore = "watches the released binary on CPU 1, with strace: scripts/test runs it, and says where that is (PENSTOCK)"]
fn a_polling_thread_calls_the_kernel_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut captures = Command::new(PROGRAM);
    captures.args(["captures", "acks-1000", "syns-1000", "--directory"]).arg(directory.path()).stdout(Stdio::null());
    assert!(captures.status().unwrap().success());
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    for traffic in ["acks-1000.pcap", "syns-1000.pcap"] {
        fs::write(at("penstock.toml"), config(&at(traffic), metrics)).unwrap();
        fs::write(at("services.json"), SERVICES).unwrap();
        let penstock = std::env::var("PENSTOCK").expect("PENSTOCK: the released binary");
        let said = fs::File::create(at("said")).unwrap();
        let node = Running::start(
            Command::new(penstock)
                .args(["run", "--config"])
                .arg(at("penstock.toml"))
                .stdout(Stdio::null())
                .stderr(said),
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        while forwarded(metrics).is_none_or(|count| count == 0.0) {
            let said = || fs::read_to_string(at("said")).unwrap();
            assert!(Instant::now() < deadline, "{traffic}: it forwards nothing:\n{}", said());
            sleep(Duration::from_millis(50));
        }

        let (process, polling) = (node.0.id(), polling_thread(node.0.id()));
        let mut strace = Running::start(
            Command::new("strace").args(["-qq", "-f", "-p", &process.to_string(), "-o"]).arg(at("calls")),
        );
        let before = forwarded(metrics).unwrap();
        sleep(WATCHED);
        let after = forwarded(metrics).unwrap();
        assert!(strace.0.try_wait().unwrap().is_none(), "strace ended by itself");
        // It lets go of who it watches.
        let interrupt = Command::new("kill").args(["-INT", &strace.0.id().to_string()]).status().unwrap();
        assert!(interrupt.success());
        strace.0.wait().unwrap();

        let calls = fs::read_to_string(at("calls")).unwrap();
        let (own, others): (Vec<_>, Vec<_>) = calls.lines().partition(|line| line.split(' ').next() == Some(&polling));
        assert!(!others.is_empty(), "strace sees nobody call");
        assert!(own.is_empty(), "{traffic}: the polling thread calls the kernel:\n{}", own.join("\n"));
        assert!(after - before > 10_000.0, "{traffic}: it forwards {before} to {after}");
    }
}
