//! Where the cycles of a packet go: a pipeline by itself, and the TSC read between its stages. What a device, its mbufs and their cache misses
//! cost is not in it; what tables cost that fit no cache is, less what the fastest bursts are spared of it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use dpdk::cycles;
use penstock::pipeline::{BURST, Stage, Verdict, Witness};
use penstock::replay::Buffer;
use penstock::snapshot::{Millis, PortIndex};

use crate::bare::Bare;
use crate::machine::{self, Machine};
use crate::node::{Family, Memory, Task};
use crate::report::{self, thousands};
use crate::svg;
use crate::traffic::Kind;

#[derive(clap::Args)]
pub struct Options {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 100_000, 1_000_000])]
    flows: Vec<usize>,
    /// The CPU that it runs on.
    #[arg(long, default_value_t = 1)]
    lcore: u16,
    /// Append to RESULTS.md, with a plot.
    #[arg(long)]
    store: bool,
    /// The directory of RESULTS.md.
    #[arg(long, default_value = "perf")]
    results: PathBuf,
}

/// Bursts that are measured, at least; else as many as all flows take.
const BURSTS: usize = 20_000;

/// Of the bursts the fastest tenth counts: neighbours only ever slow.
const COUNTED: usize = 10;

/// Cycles of a packet, by stage.
type Cycles = [f64; Stage::ALL.len()];

/// What is compared.
fn cases(flows: usize) -> [(&'static str, Task, Kind); 3] {
    let (rest, going) = (Task::ipip(Memory::Rest), Task::ipip(Memory::of_going(flows)));
    [
        ("at rest", rest, Kind::Acks(flows)),
        ("tracked", going, Kind::Acks(flows)),
        ("IPv6, at rest", Task { family: Family::Tcp6, ..rest }, Kind::V6(flows)),
    ]
}

/// A line of the table.
struct Row {
    flows: usize,
    case: &'static str,
    cycles: Cycles,
}

/// Reads the clock between the stages.
struct Clock {
    last: u64,
    spent: [u64; Stage::ALL.len()],
}

impl Witness<Buffer> for Clock {
    #[inline(always)]
    fn passed(&mut self, stage: Stage) {
        let now = cycles::tsc();
        self.spent[stage as usize] = now - self.last;
        self.last = now;
    }
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let load = machine::load();
    machine::pin(&[options.lcore])?;
    let mut rows = Vec::new();
    for &flows in &options.flows {
        for (case, task, traffic) in cases(flows) {
            rows.push(Row { flows, case, cycles: measure(task, traffic)? });
        }
    }
    let machine = Machine::look()?;
    let (run, title) = (machine.run_directory(), format!("TSC cycles a packet by stage: {}", machine.commit));
    let mut text = machine.heading("stages");
    let _ = writeln!(
        text,
        "The pipeline alone, on CPU {}; the fastest tenth of the bursts; load before {load}.\n\n{}",
        options.lcore,
        table(&rows)
    );
    if options.store {
        let directory = options.results.join(&run);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        fs::write(directory.join("stages.svg"), plot(&title, &rows))?;
        let _ = writeln!(text, "![cycles a packet by stage]({run}/stages.svg)");
        report::append(&options.results, &text)?;
    }
    print!("{text}");
    Ok(())
}

fn measure(task: Task, traffic: Kind) -> anyhow::Result<Cycles> {
    let mut bare = Bare::new(task, traffic)?;
    let bursts = BURSTS.max(traffic.frames() / BURST);
    let mut measured = Vec::with_capacity(bursts);
    // All flows have come before.
    for burst in 0..2 * bursts {
        bare.receive();
        let mut clock = Clock { last: cycles::tsc(), spent: [0; Stage::ALL.len()] };
        let Bare { pipeline, snapshot, frames, verdicts, .. } = &mut bare;
        pipeline.process_witnessed(snapshot, Millis(0), PortIndex(0), frames, verdicts, &mut clock);
        ensure!(verdicts.iter().all(|&verdict| verdict == Verdict::Forward(PortIndex(0))), "{verdicts:?}");
        if burst >= bursts {
            measured.push(clock.spent);
        }
    }
    measured.sort_unstable_by_key(|spent| spent.iter().sum::<u64>());
    let fast = &measured[..bursts / COUNTED];
    Ok(std::array::from_fn(|stage| {
        fast.iter().map(|spent| spent[stage] as f64).sum::<f64>() / (fast.len() * BURST) as f64
    }))
}

fn table(rows: &[Row]) -> String {
    let names = Stage::ALL.map(Stage::name).join(" | ");
    let mut text = format!("| flows | what | {names} | sum |\n|--:|---|{}--:|\n", "--:|".repeat(Stage::ALL.len()));
    for Row { flows, case, cycles } in rows {
        let stages = cycles.map(|cycles| format!("{cycles:.1}")).join(" | ");
        let sum: f64 = cycles.iter().sum();
        let _ = writeln!(text, "| {} | {case} | {stages} | {sum:.1} |", thousands(*flows));
    }
    text
}

/// A bar for each row, a part for each stage.
fn plot(title: &str, rows: &[Row]) -> String {
    const LINE: f64 = 22.0;
    /// Readable by the colour-blind (Okabe and Ito).
    const COLOURS: [&str; Stage::ALL.len()] = ["#56b4e9", "#bbbbbb", "#d55e00", "#e69f00", "#f0e442"];
    let (width, left, top) = (720.0, 150.0, 40.0);
    let height = top + LINE * (rows.len() as f64 + 2.0);
    let most = rows.iter().map(|row| row.cycles.iter().sum::<f64>()).fold(1.0, f64::max);
    let scale = (width - left - 60.0) / most;
    let mut svg = svg::head(width, height, 20.0, title);
    for (row, number) in rows.iter().zip(0..) {
        let (y, mut x) = (top + LINE * f64::from(number), left);
        let name = format!("{} flows, {}", thousands(row.flows), row.case);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{}</text>",
            left - 6.0,
            y + 14.0,
            svg::escaped(&name)
        );
        for (cycles, colour) in row.cycles.iter().zip(COLOURS) {
            let width = cycles * scale;
            let _ =
                writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{colour}\"/>");
            x += width;
        }
        let sum: f64 = row.cycles.iter().sum();
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" font-size=\"11\">{sum:.0}</text>", x + 4.0, y + 14.0);
    }
    for (place, (stage, colour)) in Stage::ALL.iter().zip(COLOURS).enumerate() {
        let (x, y) = (left + 100.0 * place as f64, height - LINE);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 18.0,
            y + 10.0,
            stage.name()
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_told_and_drawn() {
        let rows = [Row { flows: 1_000, case: "at rest", cycles: [10.0, 2.0, 30.0, 20.0, 1.5] }];
        assert!(table(&rows).contains("| 1 k | at rest | 10.0 | 2.0 | 30.0 | 20.0 | 1.5 | 63.5 |"), "{}", table(&rows));
        let svg = plot("cycles", &rows);
        for stage in Stage::ALL {
            assert!(svg.contains(&format!(">{}<", stage.name())), "{svg}");
        }
        // The ground, the bar's parts, the legend.
        assert_eq!(svg.matches("<rect").count(), 1 + 2 * Stage::ALL.len());
    }

    #[test]
    fn a_burst_passes_all_stages() {
        let mut bare = Bare::new(Task::ipip(Memory::Rest), Kind::Acks(1)).unwrap();
        bare.receive();
        let mut clock = Clock { last: 0, spent: [0; Stage::ALL.len()] };
        let Bare { pipeline, snapshot, frames, verdicts, .. } = &mut bare;
        pipeline.process_witnessed(snapshot, Millis(0), PortIndex(0), frames, verdicts, &mut clock);
        assert!(clock.spent.iter().all(|&spent| spent > 0), "{:?}", clock.spent);
    }
}
