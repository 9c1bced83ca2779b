//! The result: a section of RESULTS.md, the samples as CSV, everything as JSON, plots.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::contestant::{Contestant, Heat, Table};
use crate::forwarder::{Rate, Turn};
use crate::machine::Machine;
use crate::rig::BACKENDS;
use crate::stats::Summary;
use crate::{plot, traffic};

/// One turn of one contestant: its places among the heats, and in its heat.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub heat: usize,
    pub start: usize,
    pub round: usize,
    pub contestant: usize,
    pub rate: Rate,
}

/// Everything that one run found.
pub struct Report {
    pub machine: Machine,
    pub lcore: u16,
    pub main: u16,
    /// How often each contestant was started.
    pub starts: usize,
    /// Of all starts together.
    pub rounds: usize,
    pub turn: Turn,
    /// Load averages before the run.
    pub load: String,
    /// Other work ran on the CPUs, and --force was given.
    pub disturbed: bool,
    /// The contestants ran ahead of all ordinary work.
    pub realtime: bool,
    pub heats: Vec<Heat>,
    pub samples: Vec<Sample>,
    /// Frames a second through `penstock replay`.
    pub replay: Option<Summary>,
    /// Seconds to build a Maglev table.
    pub maglev: Option<Summary>,
}

/// A line of a table: all samples of one contestant with so many flows.
pub struct Row<'a> {
    pub table: Table,
    pub flows: usize,
    pub contestant: &'a Contestant,
    /// Packets a second.
    pub pps: Summary,
    /// Over the yardstick; `None` of the yardstick.
    pub ratio: Option<Ratio>,
    /// The largest share of a turn in which others had the core.
    pub off_core: f64,
}

/// Of two. Each start has the median of its rounds: what slows a machine down for longer than a round befalls both. A program keeps for its
/// life the places in memory that it got at its start, and with them some percent of its speed: of the starts, this is the median again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub value: f64,
    /// The least and the most of the starts.
    pub low: f64,
    pub high: f64,
}

/// Of one start there is nothing to tell apart.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, low, high } = self;
        write!(f, "{value:.3}")?;
        if low < high { write!(f, " ({low:.3} – {high:.3})") } else { Ok(()) }
    }
}

impl Table {
    /// What stands above it.
    fn title(self) -> &'static str {
        match self {
            Self::Flows => "Flows",
            Self::Flood => "A flood of SYNs",
            Self::Modes => "Forwarding modes",
            Self::Packets => "Kinds of packets",
            Self::Growth => "Services × backends",
        }
    }
}

impl Report {
    pub fn new(machine: Machine, lcore: u16, main: u16, [starts, rounds]: [usize; 2], turn: Turn) -> Self {
        Self {
            machine,
            lcore,
            main,
            starts,
            rounds,
            turn,
            load: String::new(),
            disturbed: false,
            realtime: false,
            heats: Vec::new(),
            samples: Vec::new(),
            replay: None,
            maglev: None,
        }
    }

    fn heat(&self, sample: &Sample) -> &Heat {
        &self.heats[sample.heat]
    }

    fn contestant(&self, sample: &Sample) -> &Contestant {
        &self.heat(sample).contestants[sample.contestant]
    }

    /// All lines, in the order in which they first appeared.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut keys = Vec::new();
        for heat in &self.heats {
            for contestant in &heat.contestants {
                let key = (heat.table, heat.flows, contestant);
                if !keys.iter().any(|&(table, flows, known): &(Table, usize, &Contestant)| {
                    (table, flows, known.name.as_str()) == (key.0, key.1, contestant.name.as_str())
                }) {
                    keys.push(key);
                }
            }
        }
        keys.into_iter().filter_map(|(table, flows, contestant)| self.row(table, flows, contestant)).collect()
    }

    fn row<'a>(&'a self, table: Table, flows: usize, contestant: &'a Contestant) -> Option<Row<'a>> {
        let samples = || {
            self.samples.iter().filter(move |&sample| {
                let heat = self.heat(sample);
                (heat.table, heat.flows) == (table, flows) && self.contestant(sample).name == contestant.name
            })
        };
        Some(Row {
            table,
            flows,
            contestant,
            pps: Summary::of(samples().map(|sample| sample.rate.pps))?,
            ratio: self.ratio(samples),
            off_core: samples().map(|sample| sample.rate.off_core).fold(0.0, f64::max),
        })
    }

    /// Of samples to those of the yardsticks of their heats and rounds.
    fn ratio<'a, I: Iterator<Item = &'a Sample>>(&self, samples: impl Fn() -> I) -> Option<Ratio> {
        let yardsticks = self.samples.iter().filter(|sample| sample.contestant == 0);
        let yardsticks: HashMap<_, _> = yardsticks.map(|yard| ((yard.heat, yard.round), yard.rate.pps)).collect();
        let of_start = |start| {
            let those = samples().filter(|sample| sample.contestant != 0 && sample.start == start);
            let of_rounds = Summary::of(those.filter_map(|s| Some(s.rate.pps / yardsticks.get(&(s.heat, s.round))?)));
            Some(of_rounds?.median)
        };
        let starts = Summary::of((0..self.starts).filter_map(of_start))?;
        Some(Ratio { value: starts.median, low: starts.min, high: starts.max })
    }

    /// Whether there is a heat that was started less often than others.
    fn has_fewer_starts(&self) -> bool {
        let last = |heat| self.samples.iter().filter(|sample| sample.heat == heat).map(|sample| sample.start).max();
        (0..self.heats.len()).filter_map(last).any(|last| last + 1 < self.starts)
    }

    /// The section for RESULTS.md; `run` is the directory of samples and plots from there.
    pub fn markdown(&self, run: Option<&str>) -> String {
        let machine = &self.machine;
        let mut text = format!("## {} UTC, {}\n\n", machine.date, machine.commit);
        let _ = writeln!(
            text,
            "{}, {} CPUs, TSC {:.0} MHz · Linux {} · DPDK {} · {}\n{} starts{}, {} rounds in all, turns of {} s after {} s; lcore on CPU {}, the rest on CPU {}; \
             load before {}; {BACKENDS} backends, `ipip`; flow memory only where it says so.{}{}",
            machine.cpu,
            machine.cpus,
            machine.tsc_hz / 1e6,
            machine.kernel,
            machine.dpdk,
            machine.rustc,
            self.starts,
            if self.has_fewer_starts() { " (of a million flows one)" } else { "" },
            self.rounds,
            self.turn.counted.as_secs_f64(),
            self.turn.warm_up.as_secs_f64(),
            self.lcore,
            self.main,
            self.load,
            if self.disturbed { " **Other work ran on these CPUs (`--force`).**" } else { "" },
            if self.realtime { " Contestants ran with `--realtime`." } else { "" },
        );
        let rows = self.rows();
        let mut last = None;
        for row in &rows {
            if last != Some(row.table) {
                text += &self.table_head(row, rows.iter().filter(|other| other.table == row.table));
                last = Some(row.table);
            }
            let io = rows.iter().find(|io| (io.flows, io.contestant.name.as_str()) == (row.flows, "io"));
            text += &self.line(row, io);
        }
        text += &self.flood(&rows);
        if let Some(replay) = self.replay {
            let _ =
                writeln!(text, "\n`penstock replay`, files included: {:.2} M frames/s (goal 1).", replay.median / 1e6);
        }
        if let Some(maglev) = self.maglev {
            let (median, low, high) = (maglev.median * 1e3, maglev.low * 1e3, maglev.high * 1e3);
            let _ = writeln!(
                text,
                "\nMaglev table of {} slots, {BACKENDS} backends: {median:.2} ms ({low:.2} – {high:.2}; goal 1.5).",
                crate::maglev::SIZE
            );
        }
        if let Some(run) = run {
            for plot in plot::names(self) {
                let _ = writeln!(text, "\n![{}]({run}/{}.svg)", plot.title, plot.name);
            }
        }
        text
    }

    /// What stands above the lines of a table. Its yardstick, too, where all have the same.
    fn table_head<'a>(&self, row: &Row, mut rows: impl Iterator<Item = &'a Row<'a>>) -> String {
        let is_about_flows = row.table == Table::Flows;
        let yardstick = match rows.all(|other| other.ratio.is_some() || other.contestant.name == row.contestant.name) {
            true => format!("`{}`", row.contestant.name),
            false if is_about_flows => "`5tswap`".to_owned(),
            false => "the first".to_owned(),
        };
        let of = if is_about_flows { String::new() } else { format!(", {} flows", thousands(row.flows)) };
        let (flows, above) = if is_about_flows { ("flows | ", " above `io` |") } else { ("", "") };
        let (line, end) = if is_about_flows { ("--:|", "--:|") } else { ("", "") };
        format!(
            "\n### {}{of}\n\n| {flows}who | Mpps (median) | cycles/packet |{above} × {yardstick} (by starts) | off core, worst |\n\
             |{line}---|--:|--:|{end}--:|--:|\n",
            row.table.title()
        )
    }

    fn line(&self, row: &Row, io: Option<&Row>) -> String {
        let cycles = |pps: Summary| self.machine.tsc_hz / pps.ninth;
        let name = &row.contestant.name;
        let name = if row.contestant.is_penstock() { format!("**{name}**") } else { format!("`{name}`") };
        let (flows, above) = match row.table {
            Table::Flows => {
                let above = io.map_or("–".into(), |io| format!("{:.1}", cycles(row.pps) - cycles(io.pps)));
                (format!("{} | ", thousands(row.flows)), format!(" {above} |"))
            }
            _ => Default::default(),
        };
        format!(
            "| {flows}{name} | {:.2} ({:.2}) | {:.1} |{above} {} | {:.1} % |\n",
            row.pps.ninth / 1e6,
            row.pps.median / 1e6,
            cycles(row.pps),
            row.ratio.map_or("1".into(), |ratio| ratio.to_string()),
            row.off_core * 100.0
        )
    }

    /// What a flood of SYNs leaves of the rate of established flows.
    fn flood(&self, rows: &[Row]) -> String {
        const SYNS: f64 = 1.0 / traffic::FLOOD as f64;
        let flooded = rows.iter().filter(|row| row.table == Table::Flood);
        let lines = flooded.filter_map(|row| Some((row.pps, row.ratio?))).map(|(pps, ratio)| {
            let [value, low, high] = [ratio.value, ratio.low, ratio.high].map(|ratio| ratio * (1.0 - SYNS));
            format!(
                "\nUnder a flood of {:.2} M SYN/s, each of another flow, established flows have {} of the rate that they have without.\n",
                pps.ninth * SYNS / 1e6,
                Ratio { value, low, high }
            )
        });
        lines.collect()
    }

    /// Every sample, in the order in which they were measured.
    fn csv(&self) -> String {
        let mut text = "heat,start,round,flows,contestant,packets_per_second,off_core_share\n".to_owned();
        for sample in &self.samples {
            let (heat, start, round, rate) = (sample.heat + 1, sample.start + 1, sample.round + 1, sample.rate);
            let (flows, name) = (self.heat(sample).flows, &self.contestant(sample).name);
            let _ = writeln!(text, "{heat},{start},{round},{flows},\"{name}\",{:.0},{:.4}", rate.pps, rate.off_core);
        }
        text
    }

    /// Machine and lines, for programs.
    fn json(&self) -> serde_json::Value {
        let machine = &self.machine;
        let summary = |s: Summary| json!({"ninth_decile": s.ninth, "median": s.median, "min": s.min, "max": s.max});
        let rows = self.rows();
        let rows = rows.iter().map(|row| {
            json!({
                "table": format!("{:?}", row.table).to_lowercase(),
                "flows": row.flows,
                "who": row.contestant.name,
                "packets_per_second": summary(row.pps),
                "ratio": row.ratio.map(|r| json!({"value": r.value, "least_start": r.low, "most_start": r.high})),
                "off_core": row.off_core,
            })
        });
        json!({
            "machine": {"cpu": machine.cpu, "cpus": machine.cpus, "kernel": machine.kernel, "dpdk": machine.dpdk, "rustc": machine.rustc},
            "commit": machine.commit,
            "date": machine.date,
            "tsc_hz": machine.tsc_hz,
            "starts": self.starts,
            "rounds": self.rounds,
            "turn_seconds": self.turn.counted.as_secs_f64(),
            "warm_up_seconds": self.turn.warm_up.as_secs_f64(),
            "is_disturbed": self.disturbed,
            "is_realtime": self.realtime,
            "rows": rows.collect::<Vec<_>>(),
            "replay_frames_per_second": self.replay.map(summary),
            "maglev_seconds": self.maglev.map(summary),
        })
    }

    /// Appends to RESULTS.md in `directory`, and puts samples and plots beside it.
    pub fn store(&self, directory: &Path) -> anyhow::Result<()> {
        let run = self.machine.run_directory();
        let of = |name: &str| directory.join(&run).join(name);
        fs::create_dir_all(of("")).with_context(|| format!("{run} in {}", directory.display()))?;
        fs::write(of("samples.csv"), self.csv())?;
        fs::write(of("result.json"), serde_json::to_string_pretty(&self.json())? + "\n")?;
        for plot in plot::names(self) {
            fs::write(of(&format!("{}.svg", plot.name)), (plot.svg)(self))?;
        }
        append(directory, &self.markdown(Some(&run)))?;
        eprintln!("samples and plots in {}", directory.join(run).display());
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
    use std::time::Duration;

    use super::*;

    fn sample(heat: usize, [start, round]: [usize; 2], contestant: usize, pps: f64) -> Sample {
        Sample { heat, start, round, contestant, rate: Rate { pps, off_core: 0.01 } }
    }

    /// Two starts of a round each: the machine is half as fast in the second, penstock is at 80 % and 70 % of 5tswap.
    pub fn example() -> Report {
        let machine = Machine::example();
        let turn = Turn { warm_up: Duration::from_millis(100), counted: Duration::from_millis(200) };
        let mut report = Report::new(machine, 1, 0, [2, 2], turn);
        report.heats = Heat::of(Table::Flows, &[1000]);
        report.heats.extend(Heat::of(Table::Flood, &[]));
        for (round, io, swap, penstock) in [(0, 40e6, 20e6, 16e6), (1, 20e6, 10e6, 7e6)] {
            let all = [swap, io, 15e6, penstock].into_iter().enumerate();
            report.samples.extend(all.map(|(contestant, pps)| sample(0, [round, round], contestant, pps)));
            report.samples.extend([0, 1].map(|contestant| sample(1, [round, round], contestant, 12e6)));
        }
        report
    }

    #[test]
    fn a_ratio_is_of_turns_in_the_same_round() {
        let report = example();
        let rows = report.rows();
        let row = rows.iter().find(|row| row.contestant.name == "penstock").unwrap();
        let ratio = row.ratio.unwrap();
        assert!((ratio.value - 0.75).abs() < 1e-9, "{ratio:?}");
        assert_eq!((ratio.low, ratio.high), (0.7, 0.8));
        assert!(rows[0].ratio.is_none());
    }

    #[test]
    fn who_was_started_less_often_is_told() {
        let mut report = example();
        assert!(report.markdown(None).contains("\n2 starts, 2 rounds in all"));
        report.samples.retain(|sample| sample.heat == 0 || sample.start == 0);
        assert!(report.markdown(None).contains("\n2 starts (of a million flows one), 2 rounds in all"));
    }

    #[test]
    fn every_start_counts_as_much_however_its_rounds_differ() {
        let mut report = example();
        (report.starts, report.rounds) = (3, 5);
        // With the three rounds of the third start, the median of all rounds is 0.85.
        for (round, penstock) in [(2, 8.5e6), (3, 9e6), (4, 9e6)] {
            report.samples.extend([(0, 10e6), (3, penstock)].map(|(who, pps)| sample(0, [2, round], who, pps)));
        }
        let rows = report.rows();
        let ratio = rows.iter().find(|row| row.contestant.name == "penstock").unwrap().ratio.unwrap();
        assert_eq!(ratio, Ratio { value: 0.8, low: 0.7, high: 0.9 });
    }

    #[test]
    fn lines_as_they_stand_in_the_tables() {
        let text = example().markdown(None);
        // 2 GHz over 15.1 Mpps is 132.5 cycles, over io's 38 Mpps 52.6.
        for line in [
            "| flows | who | Mpps (median) | cycles/packet | above `io` | × `5tswap` (by starts) | off core, worst |",
            "| 1 k | **penstock** | 15.10 (11.50) | 132.5 | 79.8 | 0.750 (0.700 – 0.800) | 1.0 % |",
            "### A flood of SYNs, 100 k flows",
            "| **penstock, 100 k tracked** | 12.00 (12.00) | 166.7 | 1 | 1.0 % |",
            "Under a flood of 1.00 M SYN/s, each of another flow, established flows have 0.917 of the rate",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn results_are_appended_with_their_samples_and_plots() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("RESULTS.md"), "# Results\n").unwrap();
        example().store(directory.path()).unwrap();
        let text = fs::read_to_string(directory.path().join("RESULTS.md")).unwrap();
        assert!(text.starts_with("# Results\n\n## 2026-01-02 03:04 UTC, abc\n"), "{text}");
        let run = directory.path().join("runs/202601020304-abc");
        assert_eq!(fs::read_to_string(run.join("samples.csv")).unwrap().lines().count(), 13);
        let result: serde_json::Value = serde_json::from_slice(&fs::read(run.join("result.json")).unwrap()).unwrap();
        assert_eq!(result["rows"][1]["ratio"]["value"], 2.0);
        assert!(text.contains("(runs/202601020304-abc/flows.svg)") && run.join("flows.svg").exists());
    }
}
