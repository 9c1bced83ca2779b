//! How long frames are under way through penstock, and through testpmd on the same rig: a memif, the generator at one end of it and the
//! forwarder at the other, each with a CPU of its own. All are sent the same rate, half of what the slowest of them can do, and have rounds
//! of a fraction of a second in turn; those whose turn it is not are held.

mod pair;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use penstock::wire::Mac;

use crate::contestant::Engine;
use crate::hugepages::Hugepages;
use crate::machine::{self, Cpus, Machine};
use crate::node::{Memory, Task};
use crate::rig::Rig;
use crate::throughput::local;
use crate::traffic::Kind;
use crate::{interrupt, progress};

use pair::Pair;
use report::{Report, Row};

#[derive(clap::Args)]
pub struct Options {
    /// Flows of the frames, ACKs of 60 bytes.
    #[arg(long, default_value_t = 1_000)]
    flows: usize,
    /// Those alone whose names hold one of these words, and `io`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Frames a second [default: half of what the slowest can do].
    #[arg(long)]
    rate: Option<f64>,
    /// Frames a second that nobody can do: the search for the half begins with it.
    #[arg(long, default_value_t = 16e6)]
    most: f64,
    /// Rounds; in each, everyone has a turn.
    #[arg(long, default_value_t = 51)]
    rounds: usize,
    /// Seconds of a turn that count.
    #[arg(long, default_value_t = 0.1)]
    seconds: f64,
    /// Seconds of a turn before these.
    #[arg(long, default_value_t = 0.05)]
    warm_up: f64,
    /// Seconds in which frames may still come back after these.
    #[arg(long, default_value_t = 0.02)]
    wait: f64,
    /// Seconds between two turns, for others: who gets nothing for a second takes what he needs from a turn.
    #[arg(long, default_value_t = 0.06)]
    pause: f64,
    /// Slots of a memif's ring, as a power of two.
    #[arg(long, default_value_t = 12)]
    ring: u32,
    // The generator polls on the CPU of everything else.
    #[command(flatten)]
    cpus: Cpus,
    /// Do without hugepages, for a trial: all is slower then.
    #[arg(long)]
    no_huge: bool,
    /// Append the result to RESULTS.md.
    #[arg(long)]
    store: bool,
    /// Where RESULTS.md lies.
    #[arg(long, default_value = "perf")]
    directory: PathBuf,
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
}

/// Packet buffers of each side: what lies in a memif's ring takes none.
const MBUFS: usize = 16_383;
/// Megabytes of each process without hugepages.
const MEGABYTES: &str = "256";

/// Who is measured. The first is the yardstick.
fn contestants(flows: usize) -> Vec<(&'static str, Engine)> {
    let penstock = |memory| Engine::Penstock(Task::ipip(memory));
    vec![
        ("io", Engine::Testpmd("io")),
        ("5tswap", Engine::Testpmd("5tswap")),
        ("penstock, at rest", penstock(Memory::Rest)),
        ("penstock, tracked", penstock(Memory::of_going(flows))),
    ]
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    ensure!(
        options.rounds > 0 && options.seconds > 0.0 && options.most > 0.0,
        "--rounds, --seconds and --most: above 0"
    );
    ensure!(options.cpus.lcore != options.cpus.main, "--lcore and --main: two CPUs, for both sides poll");
    let machine = Machine::look()?;
    let disturbed = options.cpus.wait_until_idle()?;
    let load = machine::load();
    let mut contestants = contestants(options.flows);
    let is_wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|word| name.contains(word.as_str()));
    contestants.retain(|&(name, _)| name == "io" || is_wanted(name));

    let directory = tempfile::Builder::new().prefix("penstock-latency-").tempdir()?;
    let megabytes = 2 * contestants.len() as u64 * Rig::megabytes_for(MBUFS);
    let _hugepages = if options.no_huge { None } else { Some(Hugepages::reserve(megabytes)?) };
    let mut pairs = Vec::new();
    for (number, &(name, engine)) in contestants.iter().enumerate() {
        progress::say(&format!("{name} starts"));
        let rig = rig(options, &directory.path().join(number.to_string()))?;
        pairs.push(Pair::start(name, engine, rig, options).with_context(|| name.to_owned())?);
    }
    let mut limits = Vec::new();
    let rate = match options.rate {
        Some(rate) => rate,
        None => {
            for pair in &mut pairs {
                progress::say(&format!("{}: the highest rate", pair.name));
                limits.push((pair.name, pair.limit(options).with_context(|| pair.name)?));
            }
            limits.iter().map(|&(_, limit)| limit).fold(f64::INFINITY, f64::min) / 2.0
        }
    };
    for pair in &mut pairs {
        pair.note().with_context(|| pair.name)?;
    }
    for round in 0..options.rounds {
        for step in 0..pairs.len() {
            let number = (round + step) % pairs.len();
            let pair = &mut pairs[number];
            progress::say(&format!("round {} of {}: {}", round + 1, options.rounds, pair.name));
            pair.turn(rate, options).with_context(|| pair.name)?;
        }
    }
    progress::say("");
    let mut rows = Vec::new();
    for mut pair in pairs {
        let (name, turns) = (pair.name, std::mem::take(&mut pair.turns));
        rows.push(Row { name, turns });
        pair.end().with_context(|| name)?;
    }
    let report = Report { machine, load, disturbed, options, rate, limits, rows };
    print!("{}", report.markdown(None));
    if options.store {
        report.store(&options.directory)?;
    }
    report.check()
}

/// A rig with its forwarder's end of a memif.
fn rig(options: &Options, directory: &Path) -> anyhow::Result<Rig> {
    std::fs::create_dir_all(directory)?;
    let eal: Vec<&str> = match options.no_huge {
        true => local::eal(MEGABYTES).to_vec(),
        false => Rig::EAL.to_vec(),
    };
    let Cpus { lcore, main, realtime, .. } = options.cpus;
    Ok(Rig {
        lcore,
        main,
        realtime,
        // A memif has whatever MAC it is told.
        device: format!("{},mac={}", memif("server", options, directory), Mac(crate::traffic::NET_PCAP_MAC)),
        eal: eal.into_iter().map(str::to_owned).collect(),
        mbufs: MBUFS,
        directory: directory.to_owned(),
    })
}

fn memif(role: &str, options: &Options, directory: &Path) -> String {
    crate::rig::memif(role, &directory.join("memif"), options.ring)
}

fn kind(options: &Options) -> Kind {
    Kind::Acks(options.flows)
}
