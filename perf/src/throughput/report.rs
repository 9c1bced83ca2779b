//! The result: a section of RESULTS.md, every trial as CSV, a plot.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::frames;
use super::plot;
use super::search::{Found, Search};
use super::trial::Trial;
use crate::machine::Machine;
use crate::report::append;
use crate::stats::Summary;
use crate::traffic::Kind;

/// One search.
pub struct Searched {
    pub round: usize,
    pub kind: Kind,
    pub found: Found,
    /// All trials, in the order in which they were made.
    pub trials: Vec<Trial>,
}

/// Everything that one run found.
pub struct Report {
    pub machine: Machine,
    /// What was searched for the rate of, and on what.
    pub forwarder: String,
    pub generator: String,
    /// It sends at its own rate only.
    pub is_flat: bool,
    pub search: Search,
    /// Seconds of a short and a long trial.
    pub seconds: [f64; 2],
    pub rounds: usize,
    pub searches: Vec<Searched>,
}

impl Report {
    /// The kinds of traffic, in the order in which they came.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for search in &self.searches {
            if !kinds.contains(&search.kind) {
                kinds.push(search.kind);
            }
        }
        kinds
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Searched> {
        self.searches.iter().filter(move |search| search.kind == kind)
    }

    /// Frames a second; 0 where none passed. Of a generator without a rate: what came back.
    pub fn rate(&self, kind: Kind) -> Option<Summary> {
        Summary::of(self.of(kind).map(|search| match (&search.found.best, self.is_flat) {
            (Some(best), true) => best.generated.returned as f64 / best.generated.seconds,
            (Some(best), false) => best.offered(),
            (None, _) => 0.0,
        }))
    }

    /// The section for RESULTS.md; `plot` is the path of the picture from there.
    pub fn markdown(&self, plot: Option<&str>) -> String {
        let what = if self.is_flat { "forwarded at the generator's full rate" } else { "throughput by RFC 2544" };
        let mut text = self.machine.heading(what);
        let [short, long] = self.seconds;
        let _ = writeln!(
            text,
            "The generator's machine, DPDK {}. {}; frames by {}.",
            self.machine.dpdk, self.forwarder, self.generator
        );
        if self.is_flat {
            let _ = writeln!(text, "{} rounds of {short} s.\n", self.rounds);
        } else {
            let _ = writeln!(
                text,
                "{} rounds; trials of {short} s, the rate found confirmed by one of {long} s; at most {} % of the frames lost; known to {} % of the rate that each search began with.\n",
                self.rounds,
                self.search.loss * 100.0,
                self.search.resolution * 100.0,
            );
        }
        text += "| traffic | bytes a frame | Mpps: median (min – max) | Gbit/s on the wire | lost at that | limit | lost above it |\n";
        text += "|---|--:|--:|--:|--:|---|---|\n";
        for kind in self.kinds() {
            text += &self.row(kind).unwrap_or_default();
        }
        if let Some(plot) = plot {
            let _ = writeln!(text, "\n![frames a second by traffic]({plot})");
        }
        text
    }

    fn row(&self, kind: Kind) -> Option<String> {
        let rate = self.rate(kind)?;
        let worst = |trials: &mut dyn Iterator<Item = &Trial>| trials.map(Trial::loss).fold(0.0, f64::max);
        let lost = worst(&mut self.of(kind).filter_map(|search| search.found.best.as_ref()));
        let generators = self.of(kind).filter(|search| search.found.is_generators_limit).count();
        let limit = match generators {
            _ if self.is_flat => "–".to_owned(),
            0 => "the forwarder".to_owned(),
            all if all == self.of(kind).count() => "the generator or the line".to_owned(),
            some => format!("the generator or the line in {some} of {}", self.of(kind).count()),
        };
        let above = self.of(kind).filter_map(|search| search.found.failed.as_ref().filter(|_| !self.is_flat)).last();
        Some(format!(
            "| `{kind}` | {:.0} | {:.4} ({:.4} – {:.4}) | {:.2} | {:.4} % | {limit} | {} |\n",
            frames::bytes(kind),
            rate.median / 1e6,
            rate.min / 1e6,
            rate.max / 1e6,
            rate.median * (frames::bytes(kind) + 20.0) * 8.0 / 1e9,
            lost * 100.0,
            above.map_or("–".to_owned(), |trial| format!("{:.2} %: {}", trial.loss() * 100.0, trial.lost_where()))
        ))
    }

    /// Every trial.
    fn csv(&self) -> String {
        let mut text =
            "round,traffic,wanted,offered,seconds,sent,returned,generator_missed,received,missed,forwarded,dropped\n"
                .to_owned();
        for search in &self.searches {
            for trial in &search.trials {
                let made = &trial.generated;
                let _ = write!(
                    text,
                    "{},{},{:.0},{:.0},{:.3},{},{},{}",
                    search.round + 1,
                    search.kind,
                    trial.wanted,
                    trial.offered(),
                    made.seconds,
                    made.sent,
                    made.returned,
                    made.missed
                );
                let _ = match &trial.node {
                    Some(node) => {
                        writeln!(text, ",{},{},{},{}", node.received, node.missed, node.forwarded, node.dropped())
                    }
                    None => writeln!(text, ",,,,"),
                };
            }
        }
        text
    }

    /// Appends to RESULTS.md in `directory`, and puts the trials and the plot beside it.
    pub fn store(&self, directory: &Path) -> anyhow::Result<()> {
        let run = format!("{}-throughput", self.machine.run_directory());
        fs::create_dir_all(directory.join(&run)).with_context(|| format!("{run} in {}", directory.display()))?;
        fs::write(directory.join(&run).join("trials.csv"), self.csv())?;
        fs::write(directory.join(&run).join("plot.svg"), plot::of(self))?;
        append(directory, &self.markdown(Some(&format!("{run}/plot.svg"))))?;
        eprintln!("trials and plot in {}", directory.join(run).display());
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::trial::tests::trial;
    use super::*;

    /// Two rounds: 0.8 and 1 Mpps, and in each a step above that failed.
    pub fn example() -> Report {
        let machine = Machine::example();
        let search = |round, passed: u64, failed: u64| {
            let (best, above) = (
                trial(passed, passed, 0, passed, 0, passed),
                trial(failed, passed, failed - passed, passed, 0, passed),
            );
            Searched {
                round,
                kind: "acks-1000".parse().unwrap(),
                found: Found { best: Some(best.clone()), failed: Some(above.clone()), is_generators_limit: false },
                trials: vec![above, best],
            }
        };
        Report {
            machine,
            forwarder: "penstock".into(),
            generator: "hand".into(),
            is_flat: false,
            search: Search { most: 2e6, resolution: 0.005, loss: 0.0 },
            seconds: [10.0, 60.0],
            rounds: 2,
            searches: vec![search(0, 8_000_000, 8_100_000), search(1, 10_000_000, 10_100_000)],
        }
    }

    #[test]
    fn a_row_as_it_stands_in_the_table() {
        assert_eq!(
            example().row("acks-1000".parse().unwrap()).unwrap(),
            "| `acks-1000` | 64 | 0.9000 (0.8000 – 1.0000) | 0.60 | 0.0000 % | the forwarder | 0.99 %: missed by its NIC 100 % |\n"
        );
        let mut report = example();
        report.searches[1].found.is_generators_limit = true;
        assert!(report.row("acks-1000".parse().unwrap()).unwrap().contains("the generator or the line in 1 of 2"));
        report.searches[0].found.best = None;
        assert_eq!(report.rate("acks-1000".parse().unwrap()).unwrap().min, 0.0);
    }

    #[test]
    fn results_are_appended_with_their_trials_and_plot() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("RESULTS.md"), "# Results\n").unwrap();
        example().store(directory.path()).unwrap();
        let text = fs::read_to_string(directory.path().join("RESULTS.md")).unwrap();
        assert!(text.starts_with("# Results\n\n## 2026-01-02 03:04 UTC, abc: throughput by RFC 2544\n"), "{text}");
        let run = directory.path().join("runs/202601020304-abc-throughput");
        let trials = fs::read_to_string(run.join("trials.csv")).unwrap();
        assert_eq!(
            trials.lines().nth(1).unwrap(),
            "1,acks-1000,810000,810000,10.000,8100000,8000000,0,8000000,100000,8000000,0"
        );
        assert_eq!(trials.lines().count(), 5);
        assert!(text.contains("(runs/202601020304-abc-throughput/plot.svg)") && run.join("plot.svg").exists());
    }
}
