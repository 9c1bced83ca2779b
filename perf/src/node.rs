//! penstock on the rig: the real binary, its rate read from the counters that it serves to Prometheus.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use penstock::service::Forwarding;

use crate::bench::{BACKENDS, Rate, Rig, VIP};
use crate::interrupt;
use crate::process::Process;
use crate::traffic::{NET_PCAP_MAC, ROUTER_MAC};

const START: Duration = Duration::from_secs(60);

/// What a node does on the rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Forwards by this mode, and remembers nothing.
    Forward(Forwarding),
    /// Remembers every flow that goes on (`ipip`), of at most so many.
    Remember(usize),
    /// Remembers every flow that begins (`ipip`, `"tracking": "full"`), of at most so many.
    RememberAll(usize),
}

/// The rate at which a node on the rig does this.
pub fn measure(rig: &Rig, penstock: &Path, task: Task) -> anyhow::Result<Rate> {
    let listen = free_address()?;
    let (forwarding, capacity) = match task {
        Task::Forward(forwarding) => (forwarding, 1 << 20),
        Task::Remember(capacity) | Task::RememberAll(capacity) => (Forwarding::Ipip, capacity),
    };
    let sets = match task {
        Task::Forward(forwarding) => vec![services(forwarding, "none", "", "0")],
        Task::Remember(_) => changing_services(forwarding).to_vec(),
        Task::RememberAll(_) => vec![services(forwarding, "full", "", "0")],
    };
    let (config, file) = (rig.directory.join("penstock.toml"), rig.directory.join("services.json"));
    fs::write(&config, self::config(rig, listen, forwarding, capacity))?;
    fs::write(&file, &sets[0])?;
    let arguments = ["run".to_owned(), "--config".to_owned(), config.display().to_string()];
    let mut node = Process::start(&penstock.display().to_string(), &arguments, rig.realtime)?;
    wait_for_traffic(&mut node, listen)?;
    for (version, set) in sets.iter().enumerate().skip(1) {
        let new = file.with_extension("new");
        fs::write(&new, set)?;
        fs::rename(&new, &file)?;
        wait_for(&mut node, listen, |text| {
            text.contains(&format!("penstock_definitions_version_info{{version=\"{version}\"}} 1"))
        })?;
    }
    interrupt::sleep(rig.warm_up)?;

    let (start, before) = (Counts::read(listen)?, node.core_time()?);
    interrupt::sleep(rig.duration)?;
    let (end, after) = (Counts::read(listen)?, node.core_time()?);
    node.check_alive()?;
    node.stop(Duration::from_secs(10));
    forget_flows(&rig.directory.join("state"))?;

    let elapsed = end.at.duration_since(start.at).as_secs_f64();
    let (received, forwarded) = (end.received - start.received, end.forwarded - start.forwarded);
    // The counters of a burst are not read all at one moment.
    ensure!(
        received > 0.0 && (received - forwarded).abs() <= received * 1e-3,
        "penstock received {received} frames and forwarded {forwarded}; dropped in all: {:?}",
        end.dropped
    );
    let is_remembered = task == Task::Forward(forwarding) || end.flows > 0.0;
    ensure!(is_remembered, "penstock remembers no flow");
    Ok(Rate::new(forwarded / elapsed, after.off_core_since(before)))
}

/// Removes what was remembered: the next measurement begins without.
fn forget_flows(state: &Path) -> anyhow::Result<()> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(state.join("flows"))?)?;
    for lcore in record["lcores"].as_array().into_iter().flatten() {
        let _ = fs::remove_file(lcore["file"].as_str().unwrap_or_default());
    }
    Ok(fs::remove_dir_all(state)?)
}

/// Frames a second that `penstock replay` puts through the pipeline: the whole command, files included.
pub fn replay_rate(rig: &Rig, penstock: &Path, capture: &Path, frames: usize) -> anyhow::Result<f64> {
    let (config, services) = write_files(rig, free_address()?, Forwarding::Ipip)?;
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
fn write_files(rig: &Rig, metrics: SocketAddr, forwarding: Forwarding) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (config, services) = documents(rig, metrics, forwarding);
    let paths = (rig.directory.join("penstock.toml"), rig.directory.join("services.json"));
    fs::write(&paths.0, config)?;
    fs::write(&paths.1, services)?;
    Ok(paths)
}

/// Configuration and definitions: one service, [`BACKENDS`] backends behind one router; those of `l2dsr` are neighbours.
pub fn documents(rig: &Rig, metrics: SocketAddr, forwarding: Forwarding) -> (String, String) {
    (config(rig, metrics, forwarding, 1 << 20), services(forwarding, "none", "", "1"))
}

/// Definitions between which every slot changes its owner, while all owners stay: so every flow is remembered after the second.
pub fn changing_services(forwarding: Forwarding) -> [String; 2] {
    let half = |first: usize, weight: usize| {
        (first..first + BACKENDS)
            .map(move |host| format!(",\n    {{\"address\": \"10.1.1.{}\", \"weight\": {weight}}}", host + 1))
    };
    [0, 1].map(|version| {
        let (old, new) = if version == 0 { (100, 0) } else { (0, 100) };
        let backends: String = half(0, old).chain(half(BACKENDS, new)).collect();
        let extra = format!("{{\"address\": \"10.1.0.1\", \"weight\": 0}}{backends}");
        services(forwarding, "transition", &extra, &version.to_string())
    })
}

/// One service; `backends`: as they are written, or the usual ones.
pub fn services(forwarding: Forwarding, tracking: &str, backends: &str, version: &str) -> String {
    let usual = (0..BACKENDS).map(|backend| format!("{{\"address\": \"10.1.0.{}\"}}", backend + 1));
    let usual = usual.collect::<Vec<_>>().join(",\n    ");
    let backends = if backends.is_empty() { &usual } else { backends };
    let code = if forwarding == Forwarding::Dscp { "\"dscp\": 5, " } else { "" };
    format!(
        "{{\"version\": \"{version}\", \"services\": [{{\"name\": \"web\", \"vip\": \"{}\", \"port\": {}, \"protocol\": \"tcp\",\n  \
         \"forwarding\": \"{}\", {code}\"tracking\": \"{tracking}\", \"backends\": [\n    {backends}]}}]}}\n",
        VIP.ip(),
        VIP.port(),
        forwarding.name()
    )
}

fn config(rig: &Rig, metrics: SocketAddr, forwarding: Forwarding, capacity: usize) -> String {
    let feed = "[feed]\nkind = \"file\"\npath = \"services.json\"\n";
    format!("{}\n{feed}\n[metrics]\nlisten = \"{metrics}\"\n", forwarder(rig, forwarding, capacity))
}

/// The configuration but for where definitions come from, and who may ask.
pub fn forwarder(rig: &Rig, forwarding: Forwarding, capacity: usize) -> String {
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let mut config = format!(
        r#"[node]
name = "bench"
state_dir = "{state}"
stop_grace = "0s"

[dpdk]
lcores = [{lcore}]
eal_args = ["--no-pci", "--in-memory"]
mempool_mbufs = {mbufs}
idle = "poll"

[[port]]
name = "wan0"
device = "{device}"
mac = "{port_mac}"
addresses = ["10.0.0.1"]

[encap]
ipv4_source = "10.0.0.1"

[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="

[[neighbor]]
address = "10.0.0.254"
mac = "{router_mac}"
port = "wan0"

[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"

[snat]
ipv4 = ["10.0.0.1"]

[flows]
capacity = {capacity}
"#,
        state = rig.directory.join("state").display(),
        lcore = rig.lcore,
        mbufs = rig.mbufs,
        device = rig.device(),
        port_mac = mac(NET_PCAP_MAC),
        router_mac = mac(ROUTER_MAC),
    );
    // The usual backends, and those of services that change.
    let usual = (0..BACKENDS).map(|host| (0, host));
    let changing = (0..2 * BACKENDS).map(|host| (1, host));
    for (network, host) in usual.chain(changing).filter(|_| forwarding == Forwarding::L2dsr) {
        let (address, mac) = (format!("10.1.{network}.{}", host + 1), mac([2, 0, 0, 1, network, host as u8]));
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

fn wait_for_traffic(node: &mut Process, listen: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        node.check_alive()?;
        match Counts::read(listen) {
            Ok(counts) if counts.forwarded > 0.0 => return Ok(()),
            Ok(counts) if Instant::now() > deadline => {
                bail!("penstock received {} frames within {START:?} and forwarded none", counts.received)
            }
            Err(error) if Instant::now() > deadline => return Err(error.context("penstock serves no metrics")),
            _ => interrupt::sleep(Duration::from_millis(50))?,
        }
    }
}

/// The node's counters at one moment, all ports and lcores together.
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
fn series<'a>(text: &'a str, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
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
