//! A node with thousands of services in force and packets under way, driven from outside: how long a whole set takes to load by each source, how
//! long a change takes by the API, how many changes a second it bears, and what those who watch it cost the lcore.
//!
//! The node is the real binary on the rig of the bench. An answer of the API means that every lcore has the change, so the time to an answer is
//! the time to the first packet at most.

mod changes;
mod etcd;
mod load;
mod node;
mod set;
mod watched;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::hugepages::Hugepages;
use crate::machine::{self, Machine, pin};
use crate::rig::Rig;
use crate::traffic::Kind;
use crate::{interrupt, report};

#[derive(Clone, clap::Args)]
pub struct Options {
    /// Services.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Backends of each.
    #[arg(long, default_value_t = 20)]
    backends: usize,
    /// Changes that are made one by one.
    #[arg(long, default_value_t = 1_000)]
    changes: usize,
    /// Changes a second that many make at once.
    #[arg(long, default_value_t = 1_000)]
    rate: usize,
    /// How many make them.
    #[arg(long, default_value_t = 20)]
    writers: usize,
    /// For how many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Rounds in which the rate of packets is measured without and with those who watch.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where the set comes from: file, api, etcd.
    #[arg(long, value_delimiter = ',', default_values_t = load::SOURCES.map(str::to_owned))]
    sources: Vec<String>,
    /// The CPU that polls.
    #[arg(long, default_value_t = 1)]
    lcore: u16,
    /// The CPU of everything else.
    #[arg(long, default_value_t = 0)]
    main: u16,
    /// Append the result to RESULTS.md.
    #[arg(long)]
    store: bool,
    /// Where RESULTS.md lies.
    #[arg(long, default_value = "perf")]
    directory: PathBuf,
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
}

/// Flows of the packets that are under way.
const FLOWS: usize = 1_000;

pub fn run(options: &Options) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    ensure!((1..60_000).contains(&options.services) && (1..=200).contains(&options.backends));
    ensure!((1..=options.services).contains(&options.writers) && options.rate > 0 && options.changes > 0);
    let machine = Machine::look()?;
    let mut text = machine.heading("control");
    let _ = writeln!(
        text,
        "{} services × {} backends, tables of {} slots; lcore on CPU {}, everything else, the askers too, on CPU {}; \
         load before {}.",
        options.services,
        options.backends,
        set::TABLE_SIZE,
        options.lcore,
        options.main,
        machine::load()
    );
    let directory = tempfile::Builder::new().prefix("penstock-bench-").tempdir()?;
    let rig = rig(options, directory.path())?;
    let _hugepages = Hugepages::reserve(Rig::megabytes_for(rig.mbufs))?;
    // Everything but the lcore shares a CPU; only who starts a node may use the lcore's, for the node inherits that.
    pin(&[options.main])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        text += &load::measure(options, &rig).await?;
        let mut node = load::started(options, &rig).await?;
        text += &changes::one_by_one(options, &node).await?;
        text += &changes::many(options, &mut node).await?;
        text += &watched::measure(options, &mut node).await?;
        node.end()
    })?;
    print!("{text}");
    if options.store {
        report::append(&options.directory, &text)?;
    }
    Ok(())
}

fn rig(options: &Options, directory: &Path) -> anyhow::Result<Rig> {
    Rig::new(options.lcore, options.main, Kind::Acks(FLOWS), directory, directory.to_owned())
}
