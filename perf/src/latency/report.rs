//! The result: a section of RESULTS.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::Options;
use super::pair::{LOSS, Turn};
use crate::generate::stopwatch::Timed;
use crate::machine::{Cpus, Machine};
use crate::report::thousands;

pub struct Report<'a> {
    pub machine: Machine,
    pub load: String,
    /// Other work ran on the CPUs, and --force was given.
    pub disturbed: bool,
    pub options: &'a Options,
    /// Frames a second, of all.
    pub rate: f64,
    /// What each can do, if that was looked for.
    pub limits: Vec<(&'static str, f64)>,
    /// The first is the yardstick.
    pub rows: Vec<Row>,
}

pub struct Row {
    pub name: &'static str,
    pub turns: Vec<Turn>,
}

impl Turn {
    /// Whether one of both polling threads was kept from its CPU for so long that of the slowest frames, this share of all, half may be slow
    /// for that alone.
    fn is_disturbed(&self, slowest: f64) -> bool {
        let late = self.timed.late as f64 / self.timed.sent.max(1) as f64;
        late.max(self.off_core) > slowest / 2.0
    }
}

impl Row {
    /// The median of a figure of all turns. No mean of two, since frames that are lost take for ever.
    fn median(&self, figure: impl Fn(&Timed) -> f64) -> f64 {
        middle(self.turns.iter().map(|turn| figure(&turn.timed)))
    }

    /// By how many microseconds a figure is more than the yardstick's in the same round: the median of those rounds in which nothing of it was
    /// lost.
    fn above(&self, yardstick: &Self, figure: impl Fn(&Timed) -> f64) -> String {
        let rounds = self.turns.iter().zip(&yardstick.turns);
        let above = rounds.map(|(turn, other)| figure(&turn.timed) - figure(&other.timed));
        let above = middle(above.filter(|difference| difference.is_finite()));
        if above.is_nan() { "–".to_owned() } else { format!("{:+.1}", above / 1e3) }
    }

    fn sum(&self, count: impl Fn(&Timed) -> u64) -> u64 {
        self.turns.iter().map(|turn| count(&turn.timed)).sum()
    }

    fn line(&self, yardstick: &Self) -> String {
        let name =
            if self.name.starts_with("penstock") { format!("**{}**", self.name) } else { format!("`{}`", self.name) };
        let above = match self.name == yardstick.name {
            true => "–".to_owned(),
            false => {
                let ranks: [fn(&Timed) -> f64; 3] = [|timed| timed.median, |timed| timed.p99, |timed| timed.p999];
                ranks.map(|rank| self.above(yardstick, rank)).join(", ")
            }
        };
        let worst = self.turns.iter().map(|turn| turn.timed.most).fold(0.0, f64::max);
        let disturbed = |slowest| self.turns.iter().filter(|turn| turn.is_disturbed(slowest)).count();
        format!(
            "| {name} | {:.3} | {} | {} | {} | {} ({}) | {above} | {} of {:.2} M | {}, {} of {} |\n",
            self.median(|timed| timed.sent as f64 / timed.seconds) / 1e6,
            microseconds(self.median(|timed| timed.median)),
            microseconds(self.median(|timed| timed.p99)),
            microseconds(self.median(|timed| timed.p999)),
            microseconds(self.median(|timed| timed.most)),
            microseconds(worst),
            self.sum(Timed::lost),
            self.sum(|timed| timed.sent) as f64 / 1e6,
            disturbed(0.01),
            disturbed(0.001),
            self.turns.len()
        )
    }
}

/// The one in the middle; NaN of none.
fn middle(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of nanoseconds. What was lost has no time.
fn microseconds(nanoseconds: f64) -> String {
    if nanoseconds.is_finite() { format!("{:.1}", nanoseconds / 1e3) } else { "lost".to_owned() }
}

impl Report<'_> {
    /// The section for RESULTS.md; `run` is the directory of the turns' figures from there.
    pub fn markdown(&self, run: Option<&str>) -> String {
        let Options { flows, rounds, seconds, warm_up, ring, .. } = self.options;
        let Cpus { lcore, main, realtime, .. } = self.options.cpus;
        let mut text = self.machine.heading("latency");
        let _ = writeln!(
            text,
            "DPDK {}. Frames of 60 bytes of {} flows, over a memif of {} slots; {rounds} rounds, turns of {seconds} s after {warm_up} s; the forwarder polls on \
             CPU {lcore}, the generator on CPU {main}; load before {}.{}{}{}",
            self.machine.dpdk,
            thousands(*flows),
            1u64 << ring,
            self.load,
            if self.disturbed { " **Other work ran on these CPUs (`--force`).**" } else { "" },
            if realtime { " Run with `--realtime`." } else { "" },
            if self.options.no_huge { " **Without hugepages.**" } else { "" },
        );
        let _ = writeln!(text, "{}\n", self.rate_in_words());
        text += "| who | Mpps | p50, µs | p99 | p99.9 | max (worst) | above `io`: p50, p99, p99.9 | lost | disturbed: p99, p99.9 |\n";
        text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        for row in &self.rows {
            text += &row.line(&self.rows[0]);
        }
        if let Some(run) = run {
            let _ = writeln!(text, "\n[All turns]({run}/turns.csv)");
        }
        text
    }

    /// What all were sent, and why so much.
    fn rate_in_words(&self) -> String {
        let rate = self.rate / 1e6;
        let mut slowest_first = self.limits.clone();
        slowest_first.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        let of = |&(name, limit): &(&str, f64)| format!("{name} {:.2}", limit / 1e6);
        match &slowest_first[..] {
            [] => format!("All were sent {rate:.3} Mpps (`--rate`)."),
            limits => format!(
                "All were sent {rate:.3} Mpps, half of what the slowest takes from this generator with {} % lost at most: {}.",
                LOSS * 100.0,
                limits.iter().map(of).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// Every turn.
    fn csv(&self) -> String {
        let mut text =
            "round,who,sent,returned,late,latest_ns,off_core_share,p50_ns,p99_ns,p99.9_ns,max_ns\n".to_owned();
        for round in 0..self.options.rounds {
            for Row { name, turns } in &self.rows {
                let Some(Turn { timed, off_core }) = turns.get(round) else { continue };
                let Timed { sent, returned, late, latest, median, p99, p999, most, .. } = timed;
                let _ = writeln!(
                    text,
                    "{},\"{name}\",{sent},{returned},{late},{latest:.0},{off_core:.5},{median:.0},{p99:.0},{p999:.0},{most:.0}",
                    round + 1
                );
            }
        }
        text
    }

    /// Appends to RESULTS.md in `directory`, and puts the turns' figures beside it.
    pub fn store(&self, directory: &Path) -> anyhow::Result<()> {
        let run = format!("{}-latency", self.machine.run_directory());
        fs::create_dir_all(directory.join(&run)).with_context(|| format!("{run} in {}", directory.display()))?;
        fs::write(directory.join(&run).join("turns.csv"), self.csv())?;
        crate::report::append(directory, &self.markdown(Some(&run)))
    }

    /// Fails where nothing came through: then nothing was measured.
    pub fn check(&self) -> anyhow::Result<()> {
        for row in &self.rows {
            let [sent, returned, stray] = [row.sum(|t| t.sent), row.sum(|t| t.returned), row.sum(|t| t.stray)];
            ensure!(returned > 0, "{}: of {sent} frames none came back, and {stray} that nobody sent", row.name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    /// A round in which half of the frames took so many microseconds, and the slowest ten times as long.
    fn turn(median: f64) -> Turn {
        let (median, most) = (median * 1e3, median * 1e4);
        let timed = Timed {
            sent: 100_000,
            returned: 100_000,
            stray: 0,
            late: 0,
            latest: 0.0,
            seconds: 0.1,
            median,
            p99: most / 2.0,
            p999: most,
            most,
        };
        Turn { timed, off_core: 0.0 }
    }

    fn row(name: &'static str, medians: &[f64]) -> Row {
        Row { name, turns: medians.iter().map(|&median| turn(median)).collect() }
    }

    fn options() -> Options {
        let command = Options::augment_args(clap::Command::new("latency"));
        let arguments = ["latency", "--rounds", "3"];
        Options::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
    }

    /// The machine is half as fast in the second round, and in the third others have the CPU.
    fn example(options: &Options) -> Report<'_> {
        let (io, mut penstock) = (row("io", &[1.0, 2.0, 1.0]), row("penstock, at rest", &[1.5, 2.6, 900.0]));
        let theft = &mut penstock.turns[2].timed;
        (theft.returned, theft.late, theft.p999) = (99_000, 700, f64::INFINITY);
        Report {
            machine: Machine::example(),
            load: "0 0 0".into(),
            disturbed: false,
            options,
            rate: 1e6,
            limits: vec![("io", 3e6), ("penstock, at rest", 2e6)],
            rows: vec![io, penstock],
        }
    }

    #[test]
    fn a_theft_in_one_round_is_not_in_the_medians() {
        let options = options();
        let text = example(&options).markdown(None);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows[1], "| `io` | 1.000 | 1.0 | 5.0 | 10.0 | 10.0 (20.0) | – | 0 of 0.30 M | 0, 0 of 3 |");
        assert_eq!(
            rows[2],
            "| **penstock, at rest** | 1.000 | 2.6 | 13.0 | 26.0 | 26.0 (9000.0) | +0.6, +3.0, +6.0 | 1000 of 0.30 M | 1, 1 of 3 |"
        );
        assert!(text.contains(
            "half of what the slowest takes from this generator with 0.1 % lost at most: penstock, at rest 2.00, io 3.00."
        ));
        assert!(example(&options).check().is_ok());
    }

    #[test]
    fn a_forwarder_that_is_kept_from_its_core_is_disturbed_too() {
        let mut turn = turn(1.0);
        turn.off_core = 0.002;
        assert_eq!((turn.is_disturbed(0.001), turn.is_disturbed(0.01)), (true, false));
    }

    #[test]
    fn what_is_lost_mostly_is_said_and_fails_where_nothing_comes() {
        let options = options();
        let mut report = example(&options);
        for turn in &mut report.rows[1].turns {
            (turn.timed.returned, turn.timed.median, turn.timed.p99, turn.timed.p999) =
                (0, f64::INFINITY, f64::INFINITY, f64::INFINITY);
        }
        assert!(report.markdown(None).contains("| 1.000 | lost | lost | lost |"));
        assert!(report.markdown(None).contains("| –, –, – |"));
        assert!(report.check().unwrap_err().to_string().contains("penstock, at rest: of 300000 frames none came back"));
    }

    #[test]
    fn results_are_appended_with_their_turns() {
        let (directory, options) = (tempfile::tempdir().unwrap(), options());
        example(&options).store(directory.path()).unwrap();
        let text = fs::read_to_string(directory.path().join("RESULTS.md")).unwrap();
        assert!(text.contains("## 2026-01-02 03:04 UTC, abc: latency\n"), "{text}");
        assert!(text.contains("(runs/202601020304-abc-latency/turns.csv)"), "{text}");
        let turns = fs::read_to_string(directory.path().join("runs/202601020304-abc-latency/turns.csv")).unwrap();
        assert_eq!(
            turns.lines().nth(2).unwrap(),
            "1,\"penstock, at rest\",100000,100000,0,0,0.00000,1500,7500,15000,15000"
        );
        assert_eq!(turns.lines().count(), 7);
    }
}
