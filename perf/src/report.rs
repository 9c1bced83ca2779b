//! The result: a section of RESULTS.md, the samples as CSV, a plot.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;

use penstock::service::Forwarding;

use crate::bench::{BACKENDS, Contestant, MODE_FLOWS, Rate};
use crate::machine::Machine;
use crate::stats::Summary;
use crate::{plot, traffic};

/// One measurement of one contestant.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub round: usize,
    pub flows: usize,
    pub contestant: Contestant,
    pub rate: Rate,
}

/// One measurement of one forwarding mode, at [`MODE_FLOWS`].
#[derive(Debug, Clone, Copy)]
pub struct ModeSample {
    pub round: usize,
    pub forwarding: Forwarding,
    pub rate: Rate,
}

/// Everything that one run found.
pub struct Report {
    pub machine: Machine,
    pub lcore: u16,
    pub main: u16,
    pub rounds: usize,
    pub seconds: f64,
    /// Load averages before the run.
    pub load: String,
    /// Other work ran on the CPUs, and --force was given.
    pub disturbed: bool,
    /// The contestants ran ahead of all ordinary work.
    pub realtime: bool,
    pub tsc_hz: f64,
    pub samples: Vec<Sample>,
    pub modes: Vec<ModeSample>,
    /// Frames a second through `penstock replay`.
    pub replay: Option<Summary>,
    /// Seconds to build a Maglev table.
    pub maglev: Option<Summary>,
}

impl Report {
    pub fn new(machine: Machine, lcore: u16, main: u16, rounds: usize, seconds: f64) -> Self {
        let (load, samples) = (String::new(), Vec::new());
        Self {
            machine,
            lcore,
            main,
            rounds,
            seconds,
            load,
            disturbed: false,
            realtime: false,
            tsc_hz: 0.0,
            samples,
            modes: Vec::new(),
            replay: None,
            maglev: None,
        }
    }

    /// The numbers of flows, ascending.
    pub fn flows(&self) -> Vec<usize> {
        let mut flows: Vec<usize> = self.samples.iter().map(|sample| sample.flows).collect();
        flows.sort_unstable();
        flows.dedup();
        flows
    }

    fn of(&self, flows: usize, contestant: Contestant) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.flows == flows && sample.contestant == contestant)
    }

    /// Packets a second.
    pub fn pps(&self, flows: usize, contestant: Contestant) -> Option<Summary> {
        Summary::of(self.of(flows, contestant).map(|sample| sample.rate.pps))
    }

    /// The rate over that of 5tswap in the same round.
    fn ratio(&self, flows: usize, contestant: Contestant) -> Option<Summary> {
        let swap = |round| self.of(flows, Contestant::Swap).find(|sample| sample.round == round);
        Summary::of(self.of(flows, contestant).filter_map(|s| Some(s.rate.pps / swap(s.round)?.rate.pps)))
    }

    /// The section for RESULTS.md; `plot` is the path of the picture from there.
    pub fn markdown(&self, plot: Option<&str>) -> String {
        let machine = &self.machine;
        let mut text = format!("## {} UTC, {}\n\n", machine.date, machine.commit);
        let _ = writeln!(
            text,
            "{}, {} CPUs, TSC {:.0} MHz · Linux {} · DPDK {} · {}\n{} rounds of {} s; lcore on CPU {}, the rest on CPU {}; \
             load before {}; {BACKENDS} backends, `ipip`; no flow memory but where it says tracked.{}{}\n",
            machine.cpu,
            machine.cpus,
            self.tsc_hz / 1e6,
            machine.kernel,
            machine.dpdk,
            machine.rustc,
            self.rounds,
            self.seconds,
            self.lcore,
            self.main,
            self.load,
            if self.disturbed { " **Other work ran on these CPUs (`--force`).**" } else { "" },
            if self.realtime { " Contestants ran with `--realtime`." } else { "" },
        );
        text += "| flows | who | Mpps: median (min – max) | cycles/packet | above `io` | × 5tswap: median (min – max) | off core, worst |\n";
        text += "|--:|---|--:|--:|--:|--:|--:|\n";
        for flows in self.flows() {
            for contestant in Contestant::ALL {
                if let Some(row) = self.row(flows, contestant) {
                    text += &row;
                }
            }
        }
        text += &self.flood();
        text += &self.modes_table();
        if let Some(replay) = self.replay {
            let _ =
                writeln!(text, "\n`penstock replay`, files included: {:.2} M frames/s (goal 1).", replay.median / 1e6);
        }
        if let Some(maglev) = self.maglev {
            let (median, min, max) = (maglev.median * 1e3, maglev.min * 1e3, maglev.max * 1e3);
            let _ = writeln!(
                text,
                "\nMaglev table of {} slots, {BACKENDS} backends: {median:.2} ms ({min:.2} – {max:.2}; goal 1.5).",
                crate::maglev::SIZE
            );
        }
        if let Some(plot) = plot {
            let _ = writeln!(text, "\n![packets per second by flows]({plot})");
        }
        text
    }

    /// What a flood of SYNs leaves of the rate of established flows.
    fn flood(&self) -> String {
        const SYNS: f64 = 1.0 / traffic::FLOOD as f64;
        let calm = |round| self.samples.iter().find(|s| s.contestant == Contestant::Calm && s.round == round);
        let flooded = || self.samples.iter().filter(|sample| sample.contestant == Contestant::Flooded);
        let left = flooded().filter_map(|s| Some(s.rate.pps * (1.0 - SYNS) / calm(s.round)?.rate.pps));
        let (Some(left), Some(syns)) = (Summary::of(left), Summary::of(flooded().map(|s| s.rate.pps * SYNS))) else {
            return String::new();
        };
        format!(
            "\nUnder a flood of {:.2} M SYN/s, each of another flow, established flows have {:.3} ({:.3} – {:.3}) of the rate that they have without.\n",
            syns.median / 1e6,
            left.median,
            left.min,
            left.max
        )
    }

    /// The modes against `ipip` in the same round.
    fn modes_table(&self) -> String {
        let ipip = |round| self.of(MODE_FLOWS, Contestant::Penstock).find(|sample| sample.round == round);
        let mut forwardings: Vec<Forwarding> = Vec::new();
        for sample in &self.modes {
            if !forwardings.contains(&sample.forwarding) {
                forwardings.push(sample.forwarding);
            }
        }
        let mut text = String::new();
        for forwarding in forwardings {
            let samples = || self.modes.iter().filter(move |sample| sample.forwarding == forwarding);
            let ratios = samples().filter_map(|s| Some(s.rate.pps / ipip(s.round)?.rate.pps));
            let (Some(pps), ratio) = (Summary::of(samples().map(|s| s.rate.pps)), Summary::of(ratios)) else {
                continue;
            };
            if text.is_empty() {
                let flows = thousands(MODE_FLOWS);
                let _ = writeln!(
                    text,
                    "\n| mode, {flows} flows | Mpps: median (min – max) | × `ipip`: median (min – max) |"
                );
                text += "|---|--:|--:|\n";
            }
            let ratio = ratio.map_or("–".into(), |r| format!("{:.3} ({:.3} – {:.3})", r.median, r.min, r.max));
            let (median, min, max) = (pps.median / 1e6, pps.min / 1e6, pps.max / 1e6);
            let _ = writeln!(text, "| `{}` | {median:.2} ({min:.2} – {max:.2}) | {ratio} |", forwarding.name());
        }
        text
    }

    fn row(&self, flows: usize, contestant: Contestant) -> Option<String> {
        let pps = self.pps(flows, contestant)?;
        let cycles = self.tsc_hz / pps.median;
        let above = self.pps(flows, Contestant::Io).map(|io| cycles - self.tsc_hz / io.median);
        let worst = self.of(flows, contestant).map(|sample| sample.rate.off_core).fold(0.0, f64::max);
        let name = contestant.name();
        Some(format!(
            "| {} | {} | {:.2} ({:.2} – {:.2}) | {cycles:.1} | {} | {} | {:.1} % |\n",
            thousands(flows),
            if name.starts_with("penstock") { format!("**{name}**") } else { format!("`{name}`") },
            pps.median / 1e6,
            pps.min / 1e6,
            pps.max / 1e6,
            above.map_or("–".into(), |above| format!("{above:.1}")),
            self.ratio(flows, contestant)
                .map_or("–".into(), |r| format!("{:.3} ({:.3} – {:.3})", r.median, r.min, r.max)),
            worst * 100.0
        ))
    }

    /// Every sample, in the order in which they were measured.
    fn csv(&self) -> String {
        let mut text = "round,flows,contestant,packets_per_second,off_core_share\n".to_owned();
        for Sample { round, flows, contestant, rate } in &self.samples {
            let _ = writeln!(text, "{},{flows},{contestant},{:.0},{:.4}", round + 1, rate.pps, rate.off_core);
        }
        for ModeSample { round, forwarding, rate } in &self.modes {
            let (name, pps) = (forwarding.name(), rate.pps);
            let _ = writeln!(text, "{},{MODE_FLOWS},penstock {name},{pps:.0},{:.4}", round + 1, rate.off_core);
        }
        text
    }

    /// Appends to RESULTS.md in `directory`, and puts the samples and the plot beside it.
    pub fn store(&self, directory: &Path) -> anyhow::Result<()> {
        let stamp: String = self.machine.date.chars().filter(char::is_ascii_digit).collect();
        let run = format!("runs/{stamp}-{}", self.machine.commit);
        fs::create_dir_all(directory.join(&run)).with_context(|| format!("{run} in {}", directory.display()))?;
        fs::write(directory.join(&run).join("samples.csv"), self.csv())?;
        fs::write(directory.join(&run).join("plot.svg"), plot::svg(self))?;
        append(directory, &self.markdown(Some(&format!("{run}/plot.svg"))))?;
        eprintln!("samples and plot in {}", directory.join(run).display());
        Ok(())
    }
}

/// Appends a section to RESULTS.md in `directory`.
pub fn append(directory: &Path, section: &str) -> anyhow::Result<()> {
    let results = directory.join("RESULTS.md");
    let mut file = OpenOptions::new().create(true).append(true).open(&results)?;
    write!(file, "\n{section}")?;
    eprintln!("appended to {}", results.display());
    Ok(())
}

/// 1, 1 k, 100 k, 1 M; other figures as they are.
pub fn thousands(count: usize) -> String {
    match count {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{} M", n / 1_000_000),
        n if n >= 1_000 && n % 1_000 == 0 => format!("{} k", n / 1_000),
        n => n.to_string(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two rounds: the machine is half as fast in the second, penstock is at 80 % and 70 % of 5tswap.
    pub fn example() -> Report {
        let words = || "x".to_owned();
        let machine = Machine {
            cpu: words(),
            cpus: 2,
            kernel: words(),
            dpdk: words(),
            rustc: words(),
            commit: "abc".into(),
            date: "2026-01-02 03:04".into(),
        };
        let mut report = Report::new(machine, 1, 0, 2, 3.0);
        report.tsc_hz = 2e9;
        for (round, contestant, pps) in [
            (0, Contestant::Io, 40e6),
            (0, Contestant::Swap, 20e6),
            (0, Contestant::Penstock, 16e6),
            (1, Contestant::Io, 20e6),
            (1, Contestant::Swap, 10e6),
            (1, Contestant::Penstock, 7e6),
        ] {
            report.samples.push(Sample { round, flows: 1000, contestant, rate: Rate { pps, off_core: 0.01 } });
        }
        report
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let ratio = example().ratio(1000, Contestant::Penstock).unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.7, 0.75, 0.8));
    }

    #[test]
    fn a_mode_is_compared_with_ipip_of_its_round() {
        let mut report = example();
        assert_eq!(report.modes_table(), "");
        for (round, pps) in [(0, 8e6), (1, 7e6)] {
            let rate = Rate { pps, off_core: 0.0 };
            report.modes.push(ModeSample { round, forwarding: Forwarding::Gre, rate });
        }
        let table = report.modes_table();
        assert!(table.ends_with("| `gre` | 7.50 (7.00 – 8.00) | 0.750 (0.500 – 1.000) |\n"), "{table}");
    }

    #[test]
    fn a_row_as_it_stands_in_the_table() {
        let row = example().row(1000, Contestant::Penstock).unwrap();
        // 2 GHz over 11.5 Mpps is 173.9 cycles, over io's 30 Mpps 66.7.
        assert_eq!(
            row,
            "| 1 k | **penstock** | 11.50 (7.00 – 16.00) | 173.9 | 107.2 | 0.750 (0.700 – 0.800) | 1.0 % |\n"
        );
    }

    #[test]
    fn results_are_appended_with_their_samples_and_plot() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("RESULTS.md"), "# Results\n").unwrap();
        example().store(directory.path()).unwrap();
        let text = fs::read_to_string(directory.path().join("RESULTS.md")).unwrap();
        assert!(text.starts_with("# Results\n\n## 2026-01-02 03:04 UTC, abc\n"), "{text}");
        let run = directory.path().join("runs/202601020304-abc");
        assert_eq!(fs::read_to_string(run.join("samples.csv")).unwrap().lines().count(), 7);
        assert!(text.contains("(runs/202601020304-abc/plot.svg)") && run.join("plot.svg").exists());
    }
}
