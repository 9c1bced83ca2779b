//! What health checks cost: a prober with one CPU asks servers on loopback, which are another process on another CPU.
//!
//! The kernel's work for both ends of a connection on loopback is mostly done in the name of who sends, so the prober's
//! time contains some of the servers', as it would not on a network.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use penstock::health::{self, Counts, Prober};
use penstock::service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::machine::pin;

#[derive(clap::Args)]
pub struct Options {
    /// Kinds of checks, one measurement each: tcp, http, udp, ping.
    #[arg(long, value_delimiter = ',', default_values_t = ["tcp", "http", "udp", "ping"].map(str::to_owned))]
    kinds: Vec<String>,
    /// Probes: backends, each of one service.
    #[arg(long, default_value_t = 20_000)]
    probes: usize,
    /// Milliseconds between two probes of a backend.
    #[arg(long, default_value_t = 2_000)]
    interval_ms: u64,
    /// Milliseconds until a probe has failed.
    #[arg(long, default_value_t = 500)]
    timeout_ms: u64,
    /// Length of a measurement, which begins after the first interval.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// The CPU of the prober.
    #[arg(long, default_value_t = 1)]
    core: u16,
    /// The CPU of the servers.
    #[arg(long, default_value_t = 0)]
    servers: u16,
}

#[derive(clap::Args)]
pub struct Servers {
    kind: String,
    core: u16,
}

/// Ports that the servers listen on, so that no backlog fills.
const PORTS: usize = 16;

/// Backends of a service.
const BACKENDS: usize = 20;

pub fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "| kind | probes | checks/s | good | failed | no verdict | late | missed | worst delay | CPU | CPU a check | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for kind in &options.kinds {
        measure(kind, options)?;
    }
    Ok(())
}

fn measure(kind: &str, options: &Options) -> anyhow::Result<()> {
    let (_servers, ports) = start_servers(kind, options.servers)?;
    let services = services(kind, options, &ports)?;
    pin(&[options.core])?;
    let before = resident()?;
    let (prober, _changes) = Prober::start(health::Options::default(), [])?;
    pin(&[options.servers])?;
    prober.want(services.clone());
    let view = prober.view();
    thread::sleep(Duration::from_millis(options.interval_ms) + Duration::from_secs(1));
    let (first, begin, busy) = (view.counts(), Instant::now(), on_cpu()?);
    ensure!(first.probes == options.probes, "{} probes instead of {}", first.probes, options.probes);
    thread::sleep(Duration::from_secs(options.seconds));
    let (last, time, busy) = (view.counts(), begin.elapsed().as_secs_f64(), on_cpu()? - busy);
    let failure = failure(&view, &services);
    let memory = resident()?.saturating_sub(before) as f64 / 1024.0;
    let Counts { good, failed, no_verdict, late, missed, .. } = last;
    let (good, failed, no_verdict) = (good - first.good, failed - first.failed, no_verdict - first.no_verdict);
    let checks = (good + failed + no_verdict) as f64;
    let rate = checks / time;
    println!(
        "| {kind} | {} | {rate:.0} | {good} | {failed} | {no_verdict} | {} | {} | {:.1} ms | {:.0} % | {:.1} µs | {memory:.1} MiB |",
        options.probes,
        late - first.late,
        missed - first.missed,
        last.worst_delay.as_secs_f64() * 1e3,
        busy.as_secs_f64() / time * 100.0,
        busy.as_secs_f64() / checks * 1e6,
    );
    if let Some(failure) = failure {
        println!("\nFor example: {failure}\n");
    }
    Ok(())
}

/// What became of one that failed, if there is any.
fn failure(view: &health::View, services: &[Arc<service::Service>]) -> Option<String> {
    let mut states = services.iter().flat_map(|service| view.states(service));
    states.find_map(|(_, probe, state)| {
        let why = state?.failed?.why;
        Some(format!("{:?}: {why}", probe.subject.target))
    })
}

/// Services on loopback; each backend has an address of its own, so none shares a probe.
fn services(kind: &str, options: &Options, ports: &[u16]) -> anyhow::Result<Vec<Arc<service::Service>>> {
    let service = |number: usize| {
        let mut check = serde_json::json!({
            "kind": kind,
            "interval": format!("{}ms", options.interval_ms),
            "timeout": format!("{}ms", options.timeout_ms),
        });
        if kind != "ping" {
            check["port"] = ports[number % ports.len()].into();
        }
        let backends = (number * BACKENDS..options.probes.min((number + 1) * BACKENDS)).map(|backend| {
            let address = Ipv4Addr::from(0x0a01_0000 + u32::try_from(backend).unwrap_or(0));
            serde_json::json!({"address": address})
        });
        serde_json::json!({
            "name": format!("s{number}"), "vip": Ipv4Addr::from(0xc612_0000 + u32::try_from(number).unwrap_or(0)),
            "port": 80, "protocol": "tcp", "forwarding": "ipip", "health_check": check,
            "backends": backends.collect::<Vec<_>>(),
        })
    };
    let all: Vec<_> = (0..options.probes.div_ceil(BACKENDS)).map(service).collect();
    let document = serde_json::json!({"services": all}).to_string();
    let mut definitions = match service::native(document, "services.json", None) {
        Ok((definitions, _)) => definitions,
        Err(errors) => bail!("{errors}"),
    };
    // Definitions do not take what is on loopback: 10.x becomes 127.x when they are read.
    for backend in definitions.services.iter_mut().flat_map(|service| &mut Arc::make_mut(service).backends) {
        if let IpAddr::V4(address) = &mut backend.address {
            let [_, rest @ ..] = address.octets();
            *address = Ipv4Addr::new(127, rest[0], rest[1], rest[2]);
        }
    }
    Ok(definitions.services)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_servers(kind: &str, core: u16) -> anyhow::Result<(Running, Vec<u16>)> {
    let program = std::env::current_exe()?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args(["health-servers", kind, &core.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("setpriv cannot be started")?;
    let output = child.stdout.take().context("no stdout")?;
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let ports = line.split_whitespace().map(str::parse).collect::<Result<Vec<u16>, _>>()?;
    ensure!(ports.len() == PORTS, "the servers did not start");
    Ok((running, ports))
}

/// Serves until it is ended.
pub fn serve(servers: &Servers) -> anyhow::Result<()> {
    pin(&[servers.core])?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let mut ports = Vec::new();
        // Nobody reads those: silence is good.
        let mut datagrams = Vec::new();
        for _ in 0..PORTS {
            if servers.kind == "udp" {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
                ports.push(socket.local_addr()?.port().to_string());
                datagrams.push(socket);
                continue;
            }
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            ports.push(listener.local_addr()?.port().to_string());
            let answers = servers.kind == "http";
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) if answers => drop(tokio::spawn(answer(stream))),
                        Ok(_) => {}
                        // Its client is gone, or descriptors are: others come.
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            });
        }
        println!("{}", ports.join(" "));
        std::future::pending().await
    })
}

/// Resets are how checks end.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    // However much of the request comes, it is one.
    let _some = stream.read(&mut [0; 1024]).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n").await
}

/// How long the prober's thread had a CPU.
fn on_cpu() -> anyhow::Result<Duration> {
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == "health" {
            let schedstat = fs::read_to_string(path.join("schedstat"))?;
            let nanos = schedstat.split(' ').next().context("schedstat is empty")?;
            return Ok(Duration::from_nanos(nanos.parse()?));
        }
    }
    bail!("the prober's thread is gone")
}

/// Resident memory of this process, KiB.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
