//! The result: CSV, two plots, and the tables of CONSISTENCY.md below a line that says so.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::contestant::{Kind, Returning};
use super::fleet::Ecmp;
use super::run::{CAUSES, Outcome};
use super::{name, plot, scenario};

/// A number of nodes, and how flows are dealt to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    pub nodes: usize,
    pub ecmp: Ecmp,
}

/// One contestant in one fleet.
#[derive(Debug)]
pub struct Row {
    pub fleet: Fleet,
    pub capacity: usize,
    pub kind: Kind,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub flows: u64,
    pub hours: f64,
    pub idle_minutes: u32,
    pub returning: Returning,
    pub rows: Vec<Row>,
}

/// What stands above it in CONSISTENCY.md is written by hand, what stands below by the program.
const MARKER: &str = "<!-- Below: written by perf/consistency. -->";
const DIRECTORY: &str = "runs/consistency";

impl Fleet {
    pub fn name(self) -> String {
        match self.nodes {
            1 => "1 node".to_owned(),
            nodes => format!("{nodes} nodes, {}", name(self.ecmp)),
        }
    }
}

impl Row {
    /// At the peak.
    pub fn bytes(&self) -> f64 {
        self.outcome.peak(|sample| sample.entries) as f64 * self.kind.entry_bytes()
    }

    /// For each flow that is alive, in the mean over time.
    pub fn bytes_a_flow(&self) -> f64 {
        self.outcome.mean(|sample| sample.entries) * self.kind.entry_bytes() / self.outcome.mean(|sample| sample.live)
    }
}

impl Report {
    /// In the order in which they were asked for.
    pub fn fleets(&self) -> Vec<Fleet> {
        let mut fleets: Vec<Fleet> = self.rows.iter().map(|row| row.fleet).collect();
        fleets.dedup();
        fleets
    }

    pub fn of(&self, fleet: Fleet) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.fleet == fleet)
    }

    pub fn markdown(&self) -> String {
        let Self { seed, flows, hours, idle_minutes, .. } = self;
        let returning = name(self.returning);
        let mut text = format!(
            "`perf/consistency --seed {seed} --flows {flows} --hours {hours} --idle-minutes {idle_minutes} --returning {returning}`\n"
        );
        text += &self.summary();
        for fleet in self.fleets() {
            let Some(first) = self.of(fleet).next() else { continue };
            let live = first.outcome.mean(|sample| sample.live);
            let _ = writeln!(
                text,
                "\n### {}\n\n{:.0} flows alive in the mean; bounded tables of {} entries a node.\n",
                fleet.name(),
                live,
                first.capacity
            );
            text += "| who | broken | of a million |";
            scenario::Kind::ALL.iter().for_each(|kind| text += &format!(" {} |", kind.name()));
            text += " handshake | own outage | no change | off a down backend | refused | peak entries | peak bytes | bytes a flow, mean |\n|---|--:|--:|";
            text += &"--:|".repeat(CAUSES + 5);
            text += "\n";
            for row in self.of(fleet) {
                let Outcome { flows, broken, moved, refused, .. } = &row.outcome;
                let bold = if row.kind.is_penstock() { "**" } else { "" };
                let _ = write!(
                    text,
                    "| {bold}{}{bold} | {} | {:.1} |",
                    row.kind.name(),
                    row.outcome.broken(),
                    row.outcome.broken() as f64 * 1e6 / (*flows).max(1) as f64
                );
                broken.iter().for_each(|count| text += &format!(" {count} |"));
                let _ = writeln!(
                    text,
                    " {moved} | {refused} | {} | {:.0} | {:.1} |",
                    row.outcome.peak(|sample| sample.entries),
                    row.bytes(),
                    row.bytes_a_flow()
                );
            }
        }
        text
    }

    /// Broken flows alone.
    fn summary(&self) -> String {
        let fleets = self.fleets();
        let mut text = "\n### Broken flows\n\n| who |".to_owned();
        fleets.iter().for_each(|fleet| text += &format!(" {} |", fleet.name()));
        text += &format!("\n|---|{}\n", "--:|".repeat(fleets.len()));
        for first in fleets.first().into_iter().flat_map(|&fleet| self.of(fleet)) {
            let bold = if first.kind.is_penstock() { "**" } else { "" };
            text += &format!("| {bold}{}{bold} |", first.kind.name());
            for row in fleets.iter().flat_map(|&fleet| self.of(fleet)).filter(|row| row.kind == first.kind) {
                text += &format!(" {} |", row.outcome.broken());
            }
            text += "\n";
        }
        text
    }

    /// A line for each contestant and fleet.
    pub fn broken_csv(&self) -> String {
        let mut text = "seed,hours,ecmp,nodes,contestant,flows,packets,broken".to_owned();
        scenario::Kind::ALL.iter().for_each(|kind| text += &format!(",broken_{}", kind.name().replace(' ', "_")));
        text += ",broken_handshake,broken_own_outage,broken_no_change,moved_off_down,ended_with_backend,refused,capacity_a_node,peak_live,mean_live,\
                 peak_entries,mean_entries,entry_bytes,peak_bytes\n";
        for row in &self.rows {
            let outcome = &row.outcome;
            let Outcome { flows, packets, moved, ended, refused, .. } = outcome;
            let (Fleet { nodes, ecmp }, contestant, capacity) = (row.fleet, name(row.kind), row.capacity);
            let _ = write!(text, "{},{},{},{nodes},{contestant},", self.seed, self.hours, name(ecmp));
            let _ = write!(text, "{flows},{packets},{}", outcome.broken());
            outcome.broken.iter().for_each(|count| text += &format!(",{count}"));
            let (live, entries) = (outcome.mean(|sample| sample.live), outcome.mean(|sample| sample.entries));
            let (peak_live, peak) = (outcome.peak(|sample| sample.live), outcome.peak(|sample| sample.entries));
            let _ = writeln!(
                text,
                ",{moved},{ended},{refused},{capacity},{peak_live},{live:.1},{peak},{entries:.1},{:.2},{:.0}",
                row.kind.entry_bytes(),
                row.bytes()
            );
        }
        text
    }

    /// A line for every fifth minute, contestant and fleet.
    pub fn entries_csv(&self) -> String {
        let mut text = "ecmp,nodes,contestant,minute,live,entries\n".to_owned();
        for row in &self.rows {
            for sample in row.outcome.samples.iter().step_by(5) {
                let (minute, live, entries) = (sample.at.as_seconds() / 60, sample.live, sample.entries);
                let (Fleet { nodes, ecmp }, contestant) = (row.fleet, name(row.kind));
                let _ = writeln!(text, "{},{nodes},{contestant},{minute},{live},{entries}", name(ecmp));
            }
        }
        text
    }

    /// Into CONSISTENCY.md in `directory`, below its marker, and beside it.
    pub fn store(&self, directory: &Path) -> anyhow::Result<()> {
        let run = directory.join(DIRECTORY);
        fs::create_dir_all(&run).with_context(|| format!("{}", run.display()))?;
        fs::write(run.join("broken.csv"), self.broken_csv())?;
        fs::write(run.join("entries.csv"), self.entries_csv())?;
        fs::write(run.join("broken.svg"), plot::broken(self))?;
        fs::write(run.join("entries.svg"), plot::entries(self))?;
        let page = directory.join("CONSISTENCY.md");
        let text = fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
        let (by_hand, _) = text.split_once(MARKER).with_context(|| format!("{}: no {MARKER}", page.display()))?;
        let plots = format!("![broken flows]({DIRECTORY}/broken.svg)\n\n![entries over time]({DIRECTORY}/entries.svg)");
        fs::write(&page, format!("{by_hand}{MARKER}\n\n{plots}\n\n{}", self.markdown()))?;
        eprintln!("wrote {} and {}", page.display(), run.display());
        Ok(())
    }
}
