//! The simulation behind CONSISTENCY.md: the same hours of traffic, changes and failures through Penstock and others, and whose flows break.

mod contestant;
mod fleet;
mod plot;
mod random;
mod report;
mod run;
mod scenario;
mod slab;
mod time;
mod traffic;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use clap::ValueEnum;

use contestant::{Given, Kind, Returning};
use fleet::Ecmp;
use report::{Fleet, Report, Row};
use run::Plan;
use scenario::Scenario;
use time::Tick;
use traffic::Traffic;

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Flows over the run.
    #[arg(long, default_value_t = 10_000_000)]
    flows: u64,
    /// Simulated.
    #[arg(long, default_value_t = 6.0)]
    hours: f64,
    /// Numbers of nodes, each a run of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 8, 16])]
    nodes: Vec<usize>,
    /// How the router deals flows to them.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Ecmp::Modulo, Ecmp::Resilient])]
    ecmp: Vec<Ecmp>,
    /// Entries of a node, of the contestants whose tables are bounded; default: two and a half for each flow that is alive in the mean.
    #[arg(long)]
    capacity: Option<usize>,
    /// Minutes after which a silent flow is forgotten.
    #[arg(long, default_value_t = 15)]
    idle_minutes: u32,
    /// With which bases a node of Penstock begins that comes back.
    #[arg(long, value_enum, default_value_t = Returning::OwnState)]
    returning: Returning,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::RULES)]
    contestants: Vec<Kind>,
    /// Seconds: a hundredth of the flows, on one and four nodes; prints, stores nothing.
    #[arg(long)]
    quick: bool,
    /// Where CONSISTENCY.md and runs/ are.
    #[arg(long, default_value = "perf")]
    results: PathBuf,
}

/// Entries of a bounded table for each flow that is alive in the mean: room for the busiest hour and for flows that have just ended.
const ROOM: f64 = 2.5;

pub fn run(options: &Options) -> anyhow::Result<()> {
    let start = Instant::now();
    let report = simulate(options)?;
    print!("{}", report.markdown());
    eprintln!("took {:.0} s", start.elapsed().as_secs_f64());
    if options.quick { Ok(()) } else { report.store(&options.results) }
}

fn simulate(options: &Options) -> anyhow::Result<Report> {
    let (flows, nodes) =
        if options.quick { (options.flows / 100, &[1, 4][..]) } else { (options.flows, options.nodes.as_slice()) };
    ensure!(options.hours > 0.0 && options.hours < 1000.0, "--hours {}: more than 0, less than 1000", options.hours);
    ensure!(flows > 0, "--flows {}: more than that", options.flows);
    ensure!(nodes.iter().all(|nodes| (1..=255).contains(nodes)), "--nodes: 1 to 255");
    ensure!((1..=1440).contains(&options.idle_minutes), "--idle-minutes {}: 1 to 1440", options.idle_minutes);
    let (duration, idle) = (Tick::of(options.hours * 3600.0), Tick::minutes(options.idle_minutes));
    let mut rows = Vec::new();
    let fleets = options.ecmp.iter().flat_map(|&ecmp| nodes.iter().map(move |&nodes| Fleet { nodes, ecmp }));
    // To one node there is one way.
    for fleet in fleets.filter(|fleet| fleet.nodes > 1 || fleet.ecmp == options.ecmp[0]) {
        let Fleet { nodes, ecmp } = fleet;
        let traffic = Traffic { flows, duration, idle };
        let capacity = options.capacity.unwrap_or_else(|| (traffic.live() * ROOM / nodes as f64).ceil() as usize);
        let plan = Plan::new(traffic, Scenario::day(duration, nodes), ecmp, options.seed);
        let given = Given { nodes, capacity, idle, closing: Tick::seconds(30), seed: options.seed };
        for &kind in &options.contestants {
            let start = Instant::now();
            let outcome = plan.run(&mut *kind.make(&plan.world(), &given, options.returning));
            eprintln!("{}, {}: {:.1} s", fleet.name(), kind.name(), start.elapsed().as_secs_f64());
            rows.push(Row { fleet, capacity, kind, outcome });
        }
    }
    Ok(Report {
        seed: options.seed,
        flows,
        hours: options.hours,
        idle_minutes: options.idle_minutes,
        returning: options.returning,
        rows,
    })
}

/// As it is given on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
