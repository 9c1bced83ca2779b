//! Instructions that the pipeline takes for a packet, counted by callgrind: the same on every run and every day, whatever else the
//! machine does. Not a rate, but where a rate has changed they say whose doing it was.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use penstock::config::Config;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service::{self, Forwarding};
use penstock::snapshot::{Compiler, Millis, PortIndex};

use crate::bench::{self, Rig, VIP};
use crate::traffic::Kind;
use crate::{node, traffic};

#[derive(clap::Args)]
pub struct Options {
    /// Forwarding modes.
    #[arg(long, value_delimiter = ',', default_values_t = Forwarding::NAMES.iter().map(|name| (*name).to_owned()))]
    modes: Vec<String>,
    /// Numbers of flows, each packet of another than the one before.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000])]
    flows: Vec<usize>,
    /// Count what flow memory costs: every packet is of a flow that is remembered.
    #[arg(long)]
    tracked: bool,
    /// Count what beginnings cost: every packet is the SYN of a flow that is not known, and takes the place of another.
    #[arg(long, conflicts_with = "tracked")]
    opening: bool,
}

#[derive(clap::Args)]
pub struct Work {
    #[arg(long)]
    mode: Option<String>,
    #[arg(long)]
    flows: usize,
    #[arg(long)]
    bursts: usize,
    #[arg(long)]
    tracked: bool,
    #[arg(long)]
    opening: bool,
}

/// Bursts of the two runs whose difference is taken: what a program does to start and to warm up is in both.
const BURSTS: [usize; 2] = [200, 1_200];

pub fn run(options: &Options) -> anyhow::Result<()> {
    println!("Instructions a packet, parse to apply, by callgrind; bursts of {BURST}.\n");
    println!("| mode |{}", options.flows.iter().map(|flows| format!(" {flows} flows |")).collect::<String>());
    println!("|---|{}", "--:|".repeat(options.flows.len()));
    let of = match () {
        () if options.tracked => Some("--tracked"),
        () if options.opening => Some("--opening"),
        () => None,
    };
    let bare: Vec<f64> = options.flows.iter().map(|&flows| count(None, flows, None)).collect::<anyhow::Result<_>>()?;
    for mode in bench::modes(&options.modes)? {
        let mut line = format!("| `{}` |", mode.name());
        for (&flows, bare) in options.flows.iter().zip(&bare) {
            line += &format!(" {:.1} |", count(Some(mode), flows, of)? - bare);
        }
        println!("{line}");
    }
    Ok(())
}

/// Of a packet of this mode; without one, of filling its buffer alone.
fn count(mode: Option<Forwarding>, flows: usize, of: Option<&str>) -> anyhow::Result<f64> {
    let [few, many] = BURSTS.map(|bursts| collected(mode, flows, of, bursts));
    Ok((many? - few?) / ((BURSTS[1] - BURSTS[0]) * BURST) as f64)
}

fn collected(mode: Option<Forwarding>, flows: usize, of: Option<&str>, bursts: usize) -> anyhow::Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    valgrind.args(["pipeline", "--flows", &flows.to_string(), "--bursts", &bursts.to_string()]);
    if let Some(mode) = mode {
        valgrind.args(["--mode", mode.name()]);
    }
    valgrind.args(of);
    let output = valgrind.stdin(Stdio::null()).output().context("valgrind cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let count = said.lines().find_map(|line| line.split_once("Collected :"));
    count.and_then(|(_, count)| count.trim().parse().ok()).with_context(|| format!("callgrind said: {said}"))
}

/// What is counted: bursts of the bench's frames through one lcore's pipeline.
pub fn work(work: &Work) -> anyhow::Result<()> {
    let frames = match work.opening {
        true => traffic::frames_of(Kind::Syns, BURSTS[1] * BURST, VIP)?,
        false => traffic::frames(work.flows, work.flows.max(BURST), 1, VIP, traffic::NET_PCAP_MAC)?,
    };
    let mode = work.mode.as_ref().map(|name| bench::modes(std::slice::from_ref(name))).transpose()?;
    let mode = mode.and_then(|modes| modes.first().copied());
    let forwarding = mode.unwrap_or(Forwarding::Ipip);
    let (config, services) = node::documents(&nowhere(), ([127, 0, 0, 1], 1).into(), forwarding);
    let (config, _) = Config::read(config, "penstock.toml")?;
    let sets = match () {
        () if work.tracked => node::changing_services(forwarding).to_vec(),
        () if work.opening => vec![node::services(forwarding, "full", "", "1")],
        () => vec![services],
    };
    let mut compiler = Compiler::new(config.environment());
    let mut snapshot = None;
    for set in sets {
        let (definitions, _) = service::native(set, "services.json", None)?;
        snapshot = Some(compiler.compile(&definitions, &config.fabric(), Millis(0)));
    }
    let snapshot = snapshot.context("no definitions")?;
    // Full after the first of the two runs.
    let room = if work.opening { BURSTS[0] * BURST / 2 } else { 1 << 20 };
    let mut pipeline =
        Pipeline::with(penstock::flow::Nat::new(snapshot.sources(), 0, [0; 2])).remembering(room, [1, 2]);
    let mut buffers = vec![Buffer::default(); BURST];
    let mut verdicts = [Verdict::Punt; BURST];
    let mut next = frames.iter().cycle();
    for _ in 0..work.bursts {
        buffers.iter_mut().zip(&mut next).for_each(|(buffer, frame)| buffer.fill(frame));
        if mode.is_some() {
            pipeline.process(&snapshot, Millis(0), PortIndex(0), &mut buffers, &mut verdicts);
            ensure!(verdicts == [Verdict::Forward(PortIndex(0)); BURST], "{verdicts:?}");
        }
    }
    Ok(())
}

/// A rig on which nothing is started.
fn nowhere() -> Rig {
    Rig {
        lcore: 1,
        main: 0,
        realtime: false,
        warm_up: Duration::ZERO,
        duration: Duration::ZERO,
        capture: "none.pcap".into(),
        mbufs: 1023,
        directory: ".".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_every_mode_are_forwarded() {
        for mode in Forwarding::NAMES {
            for (tracked, opening) in [(false, false), (true, false), (false, true)] {
                let work = self::work(&Work { mode: Some((*mode).to_owned()), flows: 1, bursts: 2, tracked, opening });
                work.unwrap_or_else(|error| panic!("{mode}, tracked {tracked}, opening {opening}: {error}"));
            }
        }
    }
}
