//! penstock on the rig: the real binary, its rate read from the counters that it serves to Prometheus.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use penstock::service::Forwarding;
use penstock::wire::Mac;

use crate::forwarder::{Forwarder, Rate};
use crate::interrupt;
use crate::process::Process;
use crate::rig::{BACKENDS, Rig, VIP};
use crate::traffic::{self, NET_PCAP_MAC, ROUTER_MAC, VIP6};

const START: Duration = Duration::from_secs(60);

/// What a node does on the rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    pub forwarding: Forwarding,
    pub memory: Memory,
    /// Of the usual kind; over IPv6 with backends there; or over UDP.
    pub family: Family,
    pub services: usize,
    /// Of each service.
    pub backends: usize,
    /// Nothing that comes is worth forwarding.
    pub drops_all: bool,
}

/// What it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// `"tracking": "none"`.
    None,
    /// `"tracking": "transition"`, and nothing has changed: no flow is remembered.
    Rest,
    /// `"tracking": "transition"`, and each slot has changed its owner: every flow that goes on is remembered, so many at most.
    Going(usize),
    /// `"tracking": "full"`: every flow that begins is remembered, so many at most.
    Beginning(usize),
}

impl Memory {
    /// That of so many flows which go on, with room for a million at least.
    pub fn of_going(flows: usize) -> Self {
        Self::Going(flows.next_power_of_two().max(1 << 20))
    }
}

/// What the services speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Tcp,
    Udp,
    Tcp6,
}

impl Task {
    /// One service over TCP by `ipip`, the usual backends.
    pub const fn ipip(memory: Memory) -> Self {
        let (forwarding, family) = (Forwarding::Ipip, Family::Tcp);
        Self { forwarding, memory, family, services: 1, backends: BACKENDS, drops_all: false }
    }

    /// The sets of definitions, one after the other.
    pub fn sets(&self) -> Vec<String> {
        let tracking = match self.memory {
            Memory::None => "none",
            Memory::Rest => "transition",
            Memory::Going(_) => return changing_services(self.forwarding).to_vec(),
            Memory::Beginning(_) => "full",
        };
        vec![services(self, tracking, "", "0")]
    }

    fn remembers(&self) -> bool {
        matches!(self.memory, Memory::Going(_) | Memory::Beginning(_))
    }

    /// Flows that there is room for.
    pub fn capacity(&self) -> usize {
        match self.memory {
            Memory::Going(capacity) | Memory::Beginning(capacity) => capacity,
            Memory::None | Memory::Rest => 1 << 20,
        }
    }
}

pub struct Node {
    process: Process,
    listen: SocketAddr,
    directory: PathBuf,
    task: Task,
    /// What it counted before and after it was measured.
    counted: Option<[Counts; 2]>,
}

impl Node {
    /// Starts one, and gives it its sets; packets are under way, and it remembers all flows that it can.
    pub fn start(rig: &Rig, penstock: &Path, task: Task) -> anyhow::Result<Self> {
        let mut node = Self::begin(rig, penstock, task)?;
        node.go_through_sets()?;
        node.wait_until_flows_are_known()?;
        Ok(node)
    }

    /// Until it remembers hardly more than a moment ago: who has just met a million flows would take some turns to note them.
    fn wait_until_flows_are_known(&mut self) -> anyhow::Result<()> {
        let (deadline, mut known) = (Instant::now() + START, 0.0);
        while self.task.remembers() {
            interrupt::sleep(Duration::from_millis(100))?;
            let flows = Counts::read(self.listen)?.flows;
            if flows > 0.0 && flows <= known * 1.001 {
                break;
            }
            ensure!(Instant::now() < deadline, "{flows} flows, and still more after {START:?}");
            known = flows;
        }
        Ok(())
    }

    /// Starts one with the first of its sets.
    pub fn begin(rig: &Rig, penstock: &Path, task: Task) -> anyhow::Result<Self> {
        let listen = free_address()?;
        let sets = task.sets();
        let (config, file) = (rig.directory.join("penstock.toml"), rig.directory.join("services.json"));
        fs::write(&config, self::config(rig, listen, task.forwarding, task.capacity()))?;
        fs::write(&file, &sets[0])?;
        let arguments = ["run".to_owned(), "--config".to_owned(), config.display().to_string()];
        let process = Process::start(&penstock.display().to_string(), &arguments, rig.realtime)?;
        let mut node = Self { process, listen, directory: rig.directory.clone(), task, counted: None };
        wait_for_counters(&mut node.process, listen)?;
        Ok(node)
    }

    /// Gives it the others, once packets have come.
    pub fn go_through_sets(&mut self) -> anyhow::Result<()> {
        let (process, listen) = (&mut self.process, self.listen);
        wait_for_traffic(process, listen, self.task.drops_all)?;
        let file = self.directory.join("services.json");
        for (version, set) in self.task.sets().iter().enumerate().skip(1) {
            let new = file.with_extension("new");
            fs::write(&new, set)?;
            fs::rename(&new, &file)?;
            wait_for(process, listen, |text| {
                text.contains(&format!("penstock_definitions_version_info{{version=\"{version}\"}} 1"))
            })?;
        }
        Ok(())
    }

    /// What it has counted so far: `end` looks at what it did between the first time and the last.
    fn keep(&mut self, counts: Counts) {
        let first = self.counted.take().map_or_else(|| counts.clone(), |[first, _]| first);
        self.counted = Some([first, counts]);
    }

    /// Fails where it did something else than its task.
    fn check(&self) -> anyhow::Result<()> {
        let Some([start, end]) = &self.counted else { return Ok(()) };
        let (received, forwarded) = (end.received - start.received, end.forwarded - start.forwarded);
        let expected = if self.task.drops_all { 0.0 } else { received };
        // The counters of a burst are not read all at one moment.
        ensure!(
            received > 0.0 && (expected - forwarded).abs() <= received * 1e-3,
            "penstock received {received} frames and forwarded {forwarded}; dropped in all: {:?}",
            end.dropped
        );
        ensure!(
            self.task.remembers() == (end.flows > 0.0),
            "penstock remembers {} flows ({:?})",
            end.flows,
            self.task.memory
        );
        Ok(())
    }
}

impl Forwarder for Node {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn rate(&mut self, duration: Duration) -> anyhow::Result<Rate> {
        let (start, before) = (Counts::read(self.listen)?, self.process.core_times()?);
        interrupt::sleep(duration)?;
        let (end, after) = (Counts::read(self.listen)?, self.process.core_times()?);
        let pps = (end.received - start.received) / end.at.duration_since(start.at).as_secs_f64();
        self.keep(start);
        self.keep(end);
        Ok(Rate::new(pps, after.off_core_since(&before)?))
    }

    fn note(&mut self) -> anyhow::Result<()> {
        let counts = Counts::read(self.listen)?;
        self.keep(counts);
        Ok(())
    }

    fn end(mut self: Box<Self>) -> anyhow::Result<()> {
        self.process.check_alive()?;
        self.process.stop(Duration::from_secs(10));
        self.check()
    }
}

/// What it remembers lies outside of its directory, however it ends.
impl Drop for Node {
    fn drop(&mut self) {
        self.process.stop(Duration::from_secs(10));
        if let Err(error) = forget_flows(&self.directory.join("state")) {
            eprintln!("flows that a node remembered may be left in memory: {error:#}");
        }
    }
}

/// Removes what was remembered: the next measurement begins without.
fn forget_flows(state: &Path) -> anyhow::Result<()> {
    let record = match fs::read(state.join("flows")) {
        // It came to nothing.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        record => record?,
    };
    let record: serde_json::Value = serde_json::from_slice(&record)?;
    for lcore in record["lcores"].as_array().into_iter().flatten() {
        let _ = fs::remove_file(lcore["file"].as_str().unwrap_or_default());
    }
    Ok(fs::remove_dir_all(state)?)
}

/// Frames a second that `penstock replay` puts through the pipeline: the whole command, files included.
pub fn replay_rate(rig: &Rig, penstock: &Path, capture: &Path, frames: usize) -> anyhow::Result<f64> {
    let (config, services) = write_files(rig, free_address()?, Task::ipip(Memory::None))?;
    let out = rig.directory.join("replayed.pcap");
    let start = Instant::now();
    let output = Command::new(penstock)
        .arg("replay")
        .args([Path::new("--config"), &config, Path::new("--services"), &services])
        .args([Path::new("--in"), capture, Path::new("--out"), &out, Path::new("--json")])
        .output()?;
    let elapsed = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "penstock replay: {said}{}", String::from_utf8_lossy(&output.stderr));
    let all_forwarded = said.replace([' ', '\n'], "").contains(&format!("\"forwarded\":{frames},"));
    ensure!(all_forwarded, "penstock replay did not forward all of {frames} frames: {said}");
    Ok(frames as f64 / elapsed)
}

/// Writes penstock.toml and services.json.
fn write_files(rig: &Rig, metrics: SocketAddr, task: Task) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (config, sets) = documents(rig, metrics, task);
    let paths = (rig.directory.join("penstock.toml"), rig.directory.join("services.json"));
    fs::write(&paths.0, config)?;
    fs::write(&paths.1, &sets[0])?;
    Ok(paths)
}

/// Configuration and sets of definitions for a task.
pub fn documents(rig: &Rig, metrics: SocketAddr, task: Task) -> (String, Vec<String>) {
    (config(rig, metrics, task.forwarding, task.capacity()), task.sets())
}

/// Definitions between which every slot changes its owner, while all owners stay: so every flow is remembered after the second.
fn changing_services(forwarding: Forwarding) -> [String; 2] {
    let half = |first: usize, weight: usize| {
        (first..first + BACKENDS)
            .map(move |host| format!(",\n    {{\"address\": \"10.1.1.{}\", \"weight\": {weight}}}", host + 1))
    };
    [0, 1].map(|version| {
        let (old, new) = if version == 0 { (100, 0) } else { (0, 100) };
        let backends: String = half(0, old).chain(half(BACKENDS, new)).collect();
        let extra = format!("{{\"address\": \"10.1.0.1\", \"weight\": 0}}{backends}");
        let task = Task { forwarding, ..Task::ipip(Memory::Rest) };
        services(&task, "transition", &extra, &version.to_string())
    })
}

/// The services of a task; `backends`: as they are written, or the usual ones.
fn services(task: &Task, tracking: &str, backends: &str, version: &str) -> String {
    let usual = (0..task.backends).map(|backend| match task.family {
        Family::Tcp6 => format!("{{\"address\": \"2001:db8:1::{backend:x}\"}}"),
        Family::Tcp | Family::Udp => format!("{{\"address\": \"10.1.{}.{}\"}}", backend / 250, backend % 250 + 1),
    });
    let usual = usual.collect::<Vec<_>>().join(",\n    ");
    let backends = if backends.is_empty() { &usual } else { backends };
    let code = if task.forwarding == Forwarding::Dscp { "\"dscp\": 5, " } else { "" };
    let protocol = if task.family == Family::Udp { "udp" } else { "tcp" };
    let services = (0..task.services).map(|number| {
        let at = traffic::service(number, VIP);
        let vip = if task.family == Family::Tcp6 { VIP6.to_string() } else { at.ip().to_string() };
        let (port, forwarding) = (at.port(), task.forwarding.name());
        format!(
            "{{\"name\": \"web-{number}\", \"vip\": \"{vip}\", \"port\": {port}, \"protocol\": \"{protocol}\",\n  \
             \"forwarding\": \"{forwarding}\", {code}\"tracking\": \"{tracking}\", \"backends\": [\n    {backends}]}}"
        )
    });
    format!("{{\"version\": \"{version}\", \"services\": [{}]}}\n", services.collect::<Vec<_>>().join(",\n"))
}

fn config(rig: &Rig, metrics: SocketAddr, forwarding: Forwarding, capacity: usize) -> String {
    let feed = "[feed]\nkind = \"file\"\npath = \"services.json\"\n";
    format!("{}\n{feed}\n[metrics]\nlisten = \"{metrics}\"\n", forwarder(rig, forwarding, capacity))
}

/// The configuration but for where definitions come from, and who may ask.
pub fn forwarder(rig: &Rig, forwarding: Forwarding, capacity: usize) -> String {
    let mut config = format!(
        r#"[node]
name = "bench"
state_dir = "{state}"
stop_grace = "0s"

[dpdk]
lcores = [{lcore}]
eal_args = {eal:?}
mempool_mbufs = {mbufs}
idle = "poll"

[[port]]
name = "wan0"
device = "{device}"
mac = "{port_mac}"
addresses = ["10.0.0.1", "2001:db8:ffff::1"]

[encap]
ipv4_source = "10.0.0.1"
ipv6_source = "2001:db8:ffff::1"

[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="

[[neighbor]]
address = "10.0.0.254"
mac = "{router_mac}"
port = "wan0"

[[neighbor]]
address = "2001:db8:ffff::fe"
mac = "{router_mac}"
port = "wan0"

[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"

[[route]]
prefix = "::/0"
via = "2001:db8:ffff::fe"

[snat]
ipv4 = ["10.0.0.1"]

[flows]
capacity = {capacity}
"#,
        state = rig.directory.join("state").display(),
        lcore = rig.lcore,
        mbufs = rig.mbufs,
        eal = rig.eal,
        device = rig.device,
        port_mac = Mac(NET_PCAP_MAC),
        router_mac = Mac(ROUTER_MAC),
    );
    // The usual backends, and those of services that change.
    let usual = (0..BACKENDS).map(|host| (0, host));
    let changing = (0..2 * BACKENDS).map(|host| (1, host));
    for (network, host) in usual.chain(changing).filter(|_| forwarding == Forwarding::L2dsr) {
        let (address, mac) = (format!("10.1.{network}.{}", host + 1), Mac([2, 0, 0, 1, network, host as u8]));
        config += &format!("\n[[neighbor]]\naddress = \"{address}\"\nmac = \"{mac}\"\nport = \"wan0\"\n");
    }
    config
}

pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until the metrics say something.
fn wait_for(node: &mut Process, listen: SocketAddr, says: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    while !says(&get(listen, "/metrics")?) {
        node.check_alive()?;
        ensure!(Instant::now() < deadline, "the new definitions are not in force within {START:?}");
        interrupt::sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Until it serves its metrics.
fn wait_for_counters(node: &mut Process, listen: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    while let Err(error) = Counts::read(listen) {
        node.check_alive()?;
        if Instant::now() > deadline {
            return Err(error.context("penstock serves no metrics"));
        }
        interrupt::sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Until packets are forwarded, or, of a node that drops all, received.
fn wait_for_traffic(node: &mut Process, listen: SocketAddr, drops_all: bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        node.check_alive()?;
        match Counts::read(listen) {
            Ok(counts) if counts.forwarded > 0.0 || (drops_all && counts.received > 0.0) => return Ok(()),
            Ok(counts) if Instant::now() > deadline => {
                bail!("penstock received {} frames within {START:?} and forwarded none", counts.received)
            }
            Err(error) if Instant::now() > deadline => return Err(error.context("penstock serves no metrics")),
            _ => interrupt::sleep(Duration::from_millis(50))?,
        }
    }
}

/// The node's counters at one moment, all ports and lcores together.
#[derive(Clone)]
struct Counts {
    at: Instant,
    received: f64,
    forwarded: f64,
    flows: f64,
    dropped: BTreeMap<String, f64>,
}

impl Counts {
    fn read(listen: SocketAddr) -> anyhow::Result<Self> {
        let asked = Instant::now();
        let text = get(listen, "/metrics")?;
        let at = asked + asked.elapsed() / 2;
        let labels = |(series, value): (&str, f64)| {
            Some((series.split_once("reason=\"")?.1.split('"').next()?.to_owned(), value))
        };
        Ok(Self {
            at,
            received: series(&text, "penstock_received_packets_total").map(|(_, value)| value).sum(),
            forwarded: series(&text, "penstock_forwarded_packets_total").map(|(_, value)| value).sum(),
            flows: series(&text, "penstock_flows").map(|(_, value)| value).sum(),
            dropped: series(&text, "penstock_dropped_packets_total")
                .filter_map(labels)
                .filter(|&(_, n)| n > 0.0)
                .collect(),
        })
    }
}

/// The series of one metric in Prometheus's text format: labels and value.
pub fn series<'a>(text: &'a str, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let whole_name = labels.is_empty() || labels.starts_with('{');
        whole_name.then_some((labels, value.parse().ok()?))
    })
}

/// The body of an HTTP answer. Version 1.0, so that it comes in one piece and the connection ends with it.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let timeout = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 "), "{address}{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_those_of_the_whole_name() {
        let text = "# TYPE a counter\na{port=\"x y\",lcore=\"1\"} 5\na_more{b=\"1\"} 7\na 2\nb 3\n";
        let values: Vec<f64> = series(text, "a").map(|(_, value)| value).collect();
        assert_eq!(values, [5.0, 2.0]);
    }
}
