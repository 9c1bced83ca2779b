//! How long a change takes from a valid set of definitions in hand to an lcore that uses it, among thousands of services.
//!
//! The compiler, the publisher and a polling reader are those of a node; what the control thread does between is done here step by step,
//! so that each can be timed. Before every change its whole document is read, as a node reads it: that leaves the caches as they are then.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use penstock::config::Config;
use penstock::quiescent::{self, Publisher, Reader};
use penstock::service::{self, Definitions};
use penstock::snapshot::{Compiler, Fabric, Millis, Snapshot};

use crate::machine::{self, Machine};
use crate::report;
use crate::stats::Ranks;

#[derive(clap::Args)]
pub struct Options {
    /// Services.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Backends of each.
    #[arg(long, default_value_t = 20)]
    backends: usize,
    /// Rounds of changes: in each, every kind of change is made once.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Who shares backends: "own" (every service has its own), "shared" (400 ports each have one set), "dnat" (as "own", by `dnat`).
    #[arg(long, value_delimiter = ',', default_values_t = Sharing::ALL.map(|sharing| sharing.name().to_owned()))]
    sets: Vec<String>,
    /// The CPU that polls.
    #[arg(long, default_value_t = 1)]
    lcore: u16,
    /// The CPU of everything else.
    #[arg(long, default_value_t = 0)]
    main: u16,
    /// Run ahead of all ordinary work (SCHED_FIFO), for a machine that others use too.
    #[arg(long)]
    realtime: bool,
    /// Append the result to RESULTS.md.
    #[arg(long)]
    store: bool,
    /// Where RESULTS.md lies.
    #[arg(long, default_value = "perf")]
    directory: PathBuf,
}

/// Who has which backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Every service its own, and its own table.
    Own,
    /// The ports of a VIP have one set, and so one table.
    Shared,
    /// As the first; replies come back by the node, which knows every endpoint.
    Dnat,
}

/// Ports that have one set of backends.
const PORTS: usize = 400;

impl Sharing {
    const ALL: [Self; 3] = [Self::Own, Self::Shared, Self::Dnat];

    const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Shared => "shared",
            Self::Dnat => "dnat",
        }
    }

    const fn forwarding(self) -> &'static str {
        if matches!(self, Self::Dnat) { "dnat" } else { "ipip" }
    }

    /// Where tables are many they are small: of 4099 slots each of 20 backends has 205, so that rounding makes no share wrong by more
    /// than half a percent, and 10,000 tables take 82 MB. Where they are few they have the usual size.
    const fn table_size(self) -> u32 {
        if matches!(self, Self::Shared) { 65_537 } else { 4_099 }
    }

    /// Which set of backends a service has.
    const fn set(self, service: usize) -> usize {
        if matches!(self, Self::Shared) { service / PORTS } else { service }
    }
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Weigh,
    Drain,
    Undrain,
    Remove,
    AddService,
    RemoveService,
    /// One more backend for all services that have the same, and one less.
    AddToSet,
    RemoveFromSet,
}

impl Change {
    const ALL: [Self; 9] = [
        Self::Add,
        Self::Weigh,
        Self::Drain,
        Self::Undrain,
        Self::Remove,
        Self::AddService,
        Self::RemoveService,
        Self::AddToSet,
        Self::RemoveFromSet,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add a backend",
            Self::Weigh => "change its weight",
            Self::Drain => "drain it",
            Self::Undrain => "undrain it",
            Self::Remove => "remove it",
            Self::AddService => "add a service",
            Self::RemoveService => "remove a service",
            Self::AddToSet => "add a backend to 400 services",
            Self::RemoveFromSet => "remove it from them",
        }
    }

    /// Whether it is of one backend of one service, as the goal has it.
    const fn is_single(self) -> bool {
        matches!(self, Self::Add | Self::Weigh | Self::Drain | Self::Undrain | Self::Remove)
    }

    fn is_of(self, sharing: Sharing) -> bool {
        sharing == Sharing::Shared || !matches!(self, Self::AddToSet | Self::RemoveFromSet)
    }
}

/// Durations of one change.
#[derive(Debug, Clone, Copy)]
struct Times {
    change: Change,
    read: Duration,
    compile: Duration,
    /// From a valid set in hand to a reader that has it.
    total: Duration,
    /// What the control thread does after that, before it is ready for the next change.
    rest: Duration,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.services > PORTS && options.services < 60_000 && options.backends < 200 && options.rounds > 0);
    let machine = Machine::look()?;
    let mut text = machine.heading("publish");
    let _ = writeln!(
        text,
        "{} services × {} backends, {} rounds of changes; the reader polls on CPU {}, the rest is on CPU {}; \
         load before {}.{}",
        options.services,
        options.backends,
        options.rounds,
        options.lcore,
        options.main,
        machine::load(),
        if options.realtime { " Run with `--realtime`." } else { "" }
    );
    for name in &options.sets {
        let sharing = Sharing::ALL.into_iter().find(|sharing| sharing.name() == name);
        text += &measure(options, sharing.with_context(|| format!("no such sets: {name}"))?)?;
    }
    print!("{text}");
    if options.store {
        report::append(&options.directory, &text)?;
    }
    Ok(())
}

/// A table for RESULTS.md.
fn measure(options: &Options, sharing: Sharing) -> anyhow::Result<String> {
    machine::pin(&[options.main])?;
    let mut scene = Scene::new(options, sharing)?;
    let mut times = Vec::new();
    for round in 0..options.rounds {
        for change in Change::ALL.into_iter().filter(|change| change.is_of(sharing)) {
            scene.documents.change(change, round);
            times.push(scene.put_in_force(change)?);
        }
    }
    let mut text = format!(
        "\n### {}: {}\n\nReading the first document took {:.0} ms, compiling all of it {:.0} ms. Tables: {:.1} MB. Resident: {:.0} MB \
         with the definitions read, {:.0} MB with them in force, {:.0} MB after all changes.\n\n",
        match sharing {
            Sharing::Own => "every service its own backends",
            Sharing::Shared => "400 ports of a VIP share backends",
            Sharing::Dnat => "every service its own backends, by `dnat`",
        },
        format_args!("tables of {} slots", sharing.table_size()),
        scene.first.0.as_secs_f64() * 1e3,
        scene.first.1.as_secs_f64() * 1e3,
        scene.compiler.table_bytes() as f64 / 1e6,
        scene.resident[0],
        scene.resident[1],
        resident()?,
    );
    text += "| change | read | compile: median, p99, most | **valid set to reader**: median, p99, most | rest |\n";
    text += "|---|--:|--:|--:|--:|\n";
    let mut row = |name: &str, of: &dyn Fn(Change) -> bool| {
        let times: Vec<_> = times.iter().filter(|times| of(times.change)).collect();
        let ranks = |of: &dyn Fn(&Times) -> Duration| Ranks::of(times.iter().map(|times| of(times)));
        let (compile, total) = (ranks(&|times| times.compile), ranks(&|times| times.total));
        let (read, rest) = (ranks(&|times| times.read).median, ranks(&|times| times.rest).median);
        let _ = writeln!(text, "| {name} | {read:.0} | {compile} | {total} | {rest:.2} |");
    };
    for change in Change::ALL.into_iter().filter(|change| change.is_of(sharing)) {
        row(change.name(), &|other| other == change);
    }
    row("**all of one backend**", &Change::is_single);
    text += "\nMilliseconds; the goal is a p99 of 5 from a valid set to the reader, for one backend of one service.\n";
    Ok(text)
}

/// The documents of a scene, by service, so that a change writes one anew.
struct Documents {
    sharing: Sharing,
    backends: usize,
    /// Those that are not added and removed again.
    count: usize,
    services: Vec<String>,
}

impl Documents {
    fn new(options: &Options, sharing: Sharing) -> Self {
        let mut documents = Self { sharing, backends: options.backends, count: options.services, services: Vec::new() };
        documents.services = (0..options.services).map(|service| documents.service(service, "")).collect();
        documents
    }

    /// `more`: of its backends.
    fn service(&self, service: usize, more: &str) -> String {
        let set = self.sharing.set(service);
        let backend = |number| format!(r#"{{"address": "{}"}}"#, address(set * self.backends + number));
        let backends: Vec<String> = (0..self.backends).map(backend).collect();
        let (vip, port) = match self.sharing {
            Sharing::Shared => (set, 1000 + service % PORTS),
            _ => (service, 443),
        };
        format!(
            r#"{{"name": "s{service}", "vip": "100.64.{}.{}", "port": {port}, "protocol": "tcp", "forwarding": "{}", "backends": [{}{more}]}}"#,
            vip / 256,
            vip % 256,
            self.sharing.forwarding(),
            backends.join(", ")
        )
    }

    /// Makes a change of a round, the last of which is as if there had been none.
    fn change(&mut self, change: Change, round: usize) {
        // Not neighbours.
        let count = self.count;
        let service = round * 7_919 % count;
        let more = |more: &str| format!(r#", {{"address": "{}"{more}}}"#, address(60_000 * 200 + round));
        let sharing = self.sharing;
        let mut rewrite = |service: usize, more: &str| self.services[service] = self.service(service, more);
        match change {
            Change::Add => rewrite(service, &more("")),
            Change::Weigh => rewrite(service, &more(r#", "weight": 50"#)),
            Change::Drain => rewrite(service, &more(r#", "weight": 50, "state": "draining""#)),
            Change::Undrain => rewrite(service, &more(r#", "weight": 50"#)),
            Change::Remove => rewrite(service, ""),
            Change::AddService => self.services.insert(service, self.service(count, "")),
            Change::RemoveService => _ = self.services.remove(service),
            Change::AddToSet | Change::RemoveFromSet => {
                let more = if change == Change::AddToSet { more("") } else { String::new() };
                let first = sharing.set(service) * PORTS;
                (first..count.min(first + PORTS)).for_each(|service| rewrite(service, &more));
            }
        }
    }

    fn text(&self) -> String {
        format!("{{\"services\": [\n{}\n]}}\n", self.services.join(",\n"))
    }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number as u32)
}

/// A control side, and a reader.
struct Scene {
    documents: Documents,
    fabric: Fabric,
    compiler: Compiler,
    publisher: Publisher<Snapshot>,
    definitions: Arc<Definitions>,
    unresolved: Vec<std::net::IpAddr>,
    lcore: Lcore,
    start: Instant,
    /// How long it took to read and to compile the first document.
    first: (Duration, Duration),
    /// Megabytes before and after it was in force.
    resident: [f64; 2],
}

impl Scene {
    fn new(options: &Options, sharing: Sharing) -> anyhow::Result<Self> {
        let documents = Documents::new(options, sharing);
        let (config, _) = Config::read(config(sharing.table_size()), "penstock.toml")?;
        let fabric = config.fabric();
        let mut compiler = Compiler::new(config.environment());
        let start = Instant::now();
        let definitions = Arc::new(service::native(documents.text(), "services.json", None)?.0);
        let (read, before) = (start.elapsed(), resident()?);
        let snapshot = compiler.compile(&definitions, &fabric, Millis(0));
        let first = (read, start.elapsed() - read);
        compiler.adopted(Millis(0));
        let (publisher, mut readers) = quiescent::channel(1, snapshot);
        let lcore = Lcore::start(readers.remove(0), options.lcore, start)?;
        if options.realtime {
            let pid = std::process::id().to_string();
            let status = Command::new("chrt").args(["--all-tasks", "--fifo", "--pid", "50", &pid]).status()?;
            ensure!(status.success(), "chrt failed: --realtime needs root");
        }
        let resident = [before, resident()?];
        let unresolved = Vec::new();
        Ok(Self { documents, fabric, compiler, publisher, definitions, unresolved, lcore, start, first, resident })
    }

    /// What the control thread does with a new document.
    fn put_in_force(&mut self, change: Change) -> anyhow::Result<Times> {
        let text = self.documents.text();
        let begin = Instant::now();
        let (definitions, _) = service::native(&text, "services.json", Some(&self.definitions))?;
        let read = begin.elapsed();
        self.lcore.wake();

        let begin = Instant::now();
        ensure!(*self.definitions != definitions, "{}: nothing changed", change.name());
        let old = std::mem::replace(&mut self.definitions, Arc::new(definitions));
        let snapshot = self.compiler.compile(&self.definitions, &self.fabric, self.now());
        let (compile, serial) = (begin.elapsed(), snapshot.serial());
        self.publisher.publish(snapshot);
        let published = Instant::now();
        self.unresolved = self.publisher.newest().unresolved().to_vec();
        let seen = self.lcore.when(serial)?;
        let total = (self.start + seen).duration_since(begin);

        drop(old);
        while !self.publisher.reclaim() {}
        self.compiler.adopted(self.now());
        drop(self.compiler.take_moved());
        self.compiler.forget_counters();
        Ok(Times { change, read, compile, total, rest: published.elapsed() })
    }

    fn now(&self) -> Millis {
        Millis(self.start.elapsed().as_millis() as u64)
    }
}

/// A thread that polls as an lcore does, while it is awake.
struct Lcore {
    thread: Option<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_awake: AtomicBool,
    is_polling: AtomicBool,
    is_over: AtomicBool,
    /// The serial of the newest snapshot that it has, and when it came, in nanoseconds.
    serial: AtomicU32,
    seen: AtomicU64,
}

impl Lcore {
    fn start(mut reader: Reader<Snapshot>, cpu: u16, start: Instant) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let work = move || {
            let shared = of_thread;
            machine::pin(&[cpu]).expect("the CPU of --lcore is there");
            while !shared.is_over.load(Ordering::Acquire) {
                if !shared.is_awake.load(Ordering::Acquire) {
                    shared.is_polling.store(false, Ordering::Release);
                    thread::park();
                    continue;
                }
                let serial = reader.quiescent().serial();
                if serial != shared.serial.load(Ordering::Relaxed) {
                    shared.seen.store(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                    shared.serial.store(serial, Ordering::Release);
                }
                shared.is_polling.store(true, Ordering::Release);
            }
        };
        Ok(Self { thread: Some(thread::Builder::new().name("lcore".to_owned()).spawn(work)?), shared })
    }

    /// Has it poll; returns once it does.
    fn wake(&self) {
        self.shared.is_awake.store(true, Ordering::Release);
        while !self.shared.is_polling.load(Ordering::Acquire) {
            self.thread.iter().for_each(|thread| thread.thread().unpark());
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// When it had this snapshot; then it rests.
    fn when(&self, serial: u32) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        while self.shared.serial.load(Ordering::Acquire) != serial {
            if begin.elapsed() > Duration::from_secs(5) {
                bail!("the reader never saw snapshot {serial}");
            }
            std::hint::spin_loop();
        }
        self.shared.is_awake.store(false, Ordering::Release);
        Ok(Duration::from_nanos(self.shared.seen.load(Ordering::Relaxed)))
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Megabytes that the process has in memory.
fn resident() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

fn config(table_size: u32) -> String {
    format!(
        r#"[dpdk]
lcores = [1]

[[port]]
name = "wan0"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["172.16.0.1"]

[encap]
ipv4_source = "172.16.0.1"

[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = {table_size}

[[neighbor]]
address = "172.16.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"

[[route]]
prefix = "0.0.0.0/0"
via = "172.16.0.254"
"#
    )
}
