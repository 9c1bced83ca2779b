//! The run: everyone's turns, heat by heat.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::contestant::{Heat, MOST_FLOWS, Table};
use crate::forwarder::{Forwarder, Rate, Turn};
use crate::hugepages::Hugepages;
use crate::machine::{self, Cpus, Machine};
use crate::report::{Report, Sample};
use crate::rig::Rig;
use crate::stats::Summary;
use crate::traffic::Kind;
use crate::{interrupt, maglev, node, progress, rig};

/// Frames of the capture that `replay` is timed with.
const REPLAYED: usize = 1_000_000;

#[derive(clap::Args)]
pub struct Options {
    /// Everything that can be measured, in twice as many rounds; half an hour.
    #[arg(long)]
    full: bool,
    /// Eight rounds; printed, not stored.
    #[arg(long)]
    quick: bool,
    /// Rounds of a heat; in each, every contestant has one turn [default: 24, with --full 60].
    #[arg(long)]
    rounds: Option<usize>,
    /// How often every contestant is started anew; the starts share the rounds [default: 3, with --quick 1; without --full those with a million flows
    /// once, which takes half a minute].
    #[arg(long)]
    starts: Option<usize>,
    /// Seconds of a turn that count.
    #[arg(long, default_value_t = 0.07)]
    turn: f64,
    /// Seconds of a turn before these.
    #[arg(long, default_value_t = 0.03)]
    warm_up: f64,
    /// What is compared [default: flows and flood; with --full all].
    #[arg(long, value_delimiter = ',')]
    tables: Vec<Table>,
    /// Numbers of flows [default: 1, 1000, 100000, 1000000; with --full 10000000 where memory allows].
    #[arg(long, value_delimiter = ',')]
    flows: Vec<usize>,
    /// Those alone whose names hold one of these words, and the yardstick.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    cpus: Cpus,
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
    /// Another binary, which takes its turns beside the first: what a change has changed.
    #[arg(long)]
    other: Option<PathBuf>,
    /// The directory of RESULTS.md.
    #[arg(long, default_value = "perf")]
    results: PathBuf,
}

impl Options {
    fn rounds(&self) -> usize {
        match (self.rounds, self.quick, self.full) {
            (Some(rounds), ..) => rounds,
            (None, true, _) => 8,
            (None, false, true) => 60,
            (None, false, false) => 24,
        }
    }

    fn starts(&self) -> usize {
        self.starts.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// The rounds of a heat that a start of its contestants has; `None`: they are not started so often.
    fn rounds_of(&self, heat: &Heat, start: usize) -> Option<Range<usize>> {
        let is_slow = heat.table == Table::Flows && heat.flows >= MOST_FLOWS;
        let starts = if is_slow && !self.full && self.starts.is_none() { 1 } else { self.starts() };
        let rounds = self.rounds();
        (start < starts).then(|| rounds * start / starts..rounds * (start + 1) / starts)
    }

    fn turn(&self) -> Turn {
        let [warm_up, counted] = [self.warm_up, self.turn].map(Duration::from_secs_f64);
        Turn { warm_up, counted }
    }

    /// Everything that is compared, in heats of at most so many megabytes.
    fn heats(&self, room: u64) -> Vec<Heat> {
        let tables = match (self.tables.is_empty(), self.full) {
            (false, _) => self.tables.clone(),
            (true, true) => Table::value_variants().to_vec(),
            (true, false) => vec![Table::Flows, Table::Flood],
        };
        let mut flows = self.flows.clone();
        if flows.is_empty() {
            flows = vec![1, 1_000, 100_000, MOST_FLOWS];
            let most = 10 * MOST_FLOWS;
            let fits = || {
                Heat::of(Table::Flows, &[most])
                    .into_iter()
                    .flat_map(|heat| heat.within(room))
                    .all(|heat| heat.megabytes() <= room)
            };
            if self.full && fits() {
                flows.push(most);
            }
        }
        let heats = tables.iter().flat_map(|&table| Heat::of(table, &flows));
        let heats = heats.map(|heat| heat.only(&self.only)).map(|heat| match self.other {
            Some(_) => heat.with_other(),
            None => heat,
        });
        heats.flat_map(|heat| heat.within(room)).collect()
    }
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let (rounds, starts) = (options.rounds(), options.starts());
    ensure!((1..=rounds).contains(&starts), "{starts} starts cannot share {rounds} rounds");
    interrupt::note_signals()?;
    let Cpus { lcore, main, realtime, .. } = options.cpus;
    let mut report = Report::new(Machine::look()?, lcore, main, [starts, rounds], options.turn());
    report.disturbed = options.cpus.wait_until_idle()?;
    report.load = machine::load();
    report.realtime = realtime;

    let directory = tempfile::Builder::new().prefix("penstock-bench-").tempdir()?;
    // The rest is for those who have hugepages: their own memory, and the captures that are read.
    let room = machine::megabytes_available()? * 8 / 10;
    let megabytes_of = |heats: Vec<Heat>| heats.iter().map(Heat::megabytes).max().context("nothing is to be measured");
    let hugepages = Hugepages::reserve_about(megabytes_of(options.heats(room))?, megabytes_of(options.heats(0))?)?;
    report.heats = options.heats(hugepages.free_megabytes()?);
    // A start of all, then the next: what the machine is like for a while befalls one start of each.
    for start in 0..starts {
        for heat in 0..report.heats.len() {
            if let Some(rounds) = options.rounds_of(&report.heats[heat], start) {
                run_heat(options, &mut report, heat, start, rounds, directory.path())?;
            }
        }
    }

    if options.tables.is_empty() && options.only.is_empty() {
        let rig = rig(options, Kind::Acks(REPLAYED), directory.path(), "replay")?;
        let capture = rig::capture(Kind::Acks(REPLAYED), directory.path())?;
        let rates: Vec<f64> = (0..3)
            .map(|_| node::replay_rate(&rig, &options.penstock, &capture, REPLAYED))
            .collect::<anyhow::Result<_>>()?;
        report.replay = Summary::of(rates);
        report.maglev = maglev::build_seconds();
    }

    println!("{}", report.markdown(None));
    if !options.quick {
        report.store(&options.results)?;
    }
    Ok(())
}

/// Starts all of a heat, and gives them turns; in each round another begins.
fn run_heat(
    options: &Options,
    report: &mut Report,
    heat: usize,
    start: usize,
    rounds: Range<usize>,
    directory: &Path,
) -> anyhow::Result<()> {
    let contestants = report.heats[heat].contestants.clone();
    let mut running: Vec<Box<dyn Forwarder>> = Vec::new();
    for (number, contestant) in contestants.iter().enumerate() {
        progress::say(&format!("{} flows: {} starts", contestant.traffic.flows(), contestant.name));
        let rig = rig(options, contestant.traffic, directory, &format!("{heat}-{number}"))?;
        let mut forwarder = contestant.start(&rig, &options.penstock, options.other.as_deref())?;
        forwarder.process().hold()?;
        running.push(forwarder);
    }
    let turn = options.turn();
    for round in rounds {
        for step in 0..running.len() {
            let number = (round + step) % running.len();
            let name = || format!("{} flows, {}", contestants[number].traffic.flows(), contestants[number].name);
            progress::say(&format!("heat {} of {}, round {}: {}", heat + 1, report.heats.len(), round + 1, name()));
            let rate = undisturbed(|| turn.give(running[number].as_mut())).with_context(name)?;
            report.samples.push(Sample { heat, start, round, contestant: number, rate });
        }
    }
    progress::say("");
    for (forwarder, contestant) in running.into_iter().zip(&contestants) {
        forwarder.end().with_context(|| contestant.name.clone())?;
    }
    Ok(())
}

fn rig(options: &Options, traffic: Kind, directory: &Path, own: &str) -> anyhow::Result<Rig> {
    let Cpus { lcore, main, realtime, .. } = options.cpus;
    Ok(Rig { realtime, ..Rig::new(lcore, main, traffic, directory, directory.join(own))? })
}

/// Gives another turn, two at most, where others had the core for longer than that: such a rate means little.
fn undisturbed(mut measure: impl FnMut() -> anyhow::Result<Rate>) -> anyhow::Result<Rate> {
    const MOST_OFF_CORE: f64 = 0.05;
    let mut rate = measure()?;
    for _ in 0..2 {
        if rate.off_core <= MOST_OFF_CORE {
            break;
        }
        rate = measure()?;
    }
    ensure!(rate.pps.is_finite(), "no rate: {rate:?}");
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_heats_rounds_are_shared_by_its_starts() {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            options: Options,
        }
        let ends = |arguments: &str, flows: usize| -> Vec<[usize; 2]> {
            let options = Command::parse_from(format!("bench {arguments}").split_whitespace()).options;
            let heat = &Heat::of(Table::Flows, &[flows])[0];
            (0..5).filter_map(|start| options.rounds_of(heat, start)).map(|rounds| [rounds.start, rounds.end]).collect()
        };
        assert_eq!(ends("", 1), [[0, 8], [8, 16], [16, 24]]);
        assert_eq!(ends("", MOST_FLOWS), [[0, 24]]);
        assert_eq!(ends("--starts 2 --rounds 5", MOST_FLOWS), [[0, 2], [2, 5]]);
        assert_eq!(ends("--full", MOST_FLOWS), [[0, 20], [20, 40], [40, 60]]);
        assert_eq!(ends("--quick", MOST_FLOWS), [[0, 8]]);
    }

    #[test]
    fn what_was_disturbed_is_measured_again_but_not_for_ever() {
        let measured = |off_core: &[f64]| {
            let mut rest = off_core.iter();
            let rate = undisturbed(|| Ok(Rate::new(1.0, *rest.next().unwrap()))).unwrap();
            (rate.off_core, rest.len())
        };
        assert_eq!(measured(&[0.01, 0.5]), (0.01, 1));
        assert_eq!(measured(&[0.9, 0.06, 0.05, 0.5]), (0.05, 1));
        assert_eq!(measured(&[0.9, 0.8, 0.7, 0.0]), (0.7, 1));
    }
}
