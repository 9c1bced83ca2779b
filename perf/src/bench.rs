//! The run: who is measured, in which order, on which rig.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use penstock::service::Forwarding;

use crate::hugepages::Hugepages;
use crate::machine::{self, Machine};
use crate::node::Task;
use crate::report::{ModeSample, Report, Sample};
use crate::stats::Summary;
use crate::traffic::Kind;
use crate::{interrupt, maglev, node, testpmd, traffic};

pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
pub const BACKENDS: usize = 100;
/// Flows of the frames that forwarding modes are compared by.
pub const MODE_FLOWS: usize = 1_000;
/// With how many SYNs and floods are measured.
pub const MOST_FLOWS: usize = 1_000_000;
/// Flows that are established in a flood, and those there is room for.
const ESTABLISHED: usize = 100_000;
const ROOM: usize = 131_072;
/// Frames of the capture that `replay` is timed with.
const REPLAYED: usize = 1_000_000;

#[derive(clap::Args)]
pub struct Options {
    /// Rounds; in each, every contestant runs once with every number of flows.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of one measurement, after one second of warming up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 100_000, MOST_FLOWS])]
    flows: Vec<usize>,
    /// Who is measured.
    #[arg(long, value_delimiter = ',', default_values_t = Contestant::ALL)]
    contestants: Vec<Contestant>,
    /// Forwarding modes that are measured besides `ipip`, or "none"; at 1 k flows, where these are among the flows.
    #[arg(long, value_delimiter = ',', default_values_t = others())]
    modes: Vec<String>,
    /// Two rounds of a second; printed, not stored.
    #[arg(long)]
    quick: bool,
    /// The CPU that polls.
    #[arg(long, default_value_t = 1)]
    lcore: u16,
    /// The CPU of everything else.
    #[arg(long, default_value_t = 0)]
    main: u16,
    /// Run the contestants ahead of all ordinary work (SCHED_FIFO), for a machine that others use too.
    #[arg(long)]
    realtime: bool,
    /// Measure even while other work runs on these CPUs; the result says so.
    #[arg(long)]
    force: bool,
    /// Seconds to wait for these CPUs to become idle.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
    /// The directory of RESULTS.md.
    #[arg(long, default_value = "perf")]
    results: PathBuf,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Contestant {
    /// testpmd takes and sends: the limit of the rig.
    Io,
    /// testpmd swaps MACs, addresses and ports: touches the headers, decides nothing.
    #[value(name = "5tswap")]
    Swap,
    /// penstock balances to 100 backends over ipip.
    Penstock,
    /// The same, and it remembers every flow: each packet is of one that it knows.
    Tracked,
    /// The same, and each packet is a SYN of a flow that it does not know, and remembers; with a million flows, a quarter of which fit.
    Syn,
    /// Tracked, a million frames of 100 k flows.
    Calm,
    /// The same, but every twelfth frame is a SYN of another flow.
    Flooded,
}

impl Contestant {
    pub const ALL: [Self; 7] =
        [Self::Io, Self::Swap, Self::Penstock, Self::Tracked, Self::Syn, Self::Calm, Self::Flooded];

    /// Whether it is measured with so many flows.
    fn takes(self, flows: usize) -> bool {
        !matches!(self, Self::Syn | Self::Calm | Self::Flooded) || flows == MOST_FLOWS
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Swap => "5tswap",
            Self::Penstock => "penstock",
            Self::Tracked => "penstock, tracked",
            Self::Syn => "penstock, SYN only",
            Self::Calm => "penstock, 100 k tracked",
            Self::Flooded => "penstock, 100 k tracked, flooded",
        }
    }
}

impl std::fmt::Display for Contestant {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Packets a second of the polling thread on its core.
    pub pps: f64,
    /// The share of the time in which the polling thread did not have its core.
    pub off_core: f64,
}

impl Rate {
    /// From packets a second by the clock.
    pub fn new(pps: f64, off_core: f64) -> Self {
        Self { pps: pps / (1.0 - off_core).max(f64::EPSILON), off_core }
    }
}

/// Measures again, twice at most, where others had the core for longer than that: such a rate means little.
fn undisturbed(mut measure: impl FnMut() -> anyhow::Result<Rate>) -> anyhow::Result<Rate> {
    const MOST_OFF_CORE: f64 = 0.05;
    let mut rate = measure()?;
    for _ in 0..2 {
        if rate.off_core <= MOST_OFF_CORE {
            break;
        }
        eprintln!("off its core {:.1} %: measured again", rate.off_core * 100.0);
        rate = measure()?;
    }
    Ok(rate)
}

/// What is the same for all contestants of a comparison.
#[derive(Clone)]
pub struct Rig {
    pub lcore: u16,
    pub main: u16,
    pub realtime: bool,
    pub warm_up: Duration,
    pub duration: Duration,
    /// The capture that the device plays round and round.
    pub capture: PathBuf,
    /// Size of the mempool: the device keeps one mbuf for each frame of the capture.
    pub mbufs: usize,
    /// Where a contestant may put its files.
    pub directory: PathBuf,
}

impl Rig {
    /// Of each queue; what penstock asks for. (net_pcap has none, but mbufs could be held by others.)
    pub const DESCRIPTORS: usize = 1024;
    /// Mbufs in an lcore's mempool cache; what penstock asks for.
    pub const MEMPOOL_CACHE: usize = 256;
    /// An mbuf with 2176 bytes of room, its header and its place in the ring.
    const MBUF_BYTES: usize = 2400;

    /// The same with as many frames of another kind.
    fn with(&self, kind: Kind) -> anyhow::Result<Self> {
        let capture = self.directory.join(format!("{kind:?}.pcap"));
        if !capture.exists() {
            traffic::write_kind(&capture, kind, MOST_FLOWS, VIP)?;
        }
        Ok(Self { capture, ..self.clone() })
    }

    pub fn device(&self) -> String {
        format!("net_pcap0,rx_pcap={},infinite_rx=1", self.capture.display())
    }

    /// A mempool for a capture of `frames`: 2^k - 1, as DPDK likes it, and room for what is under way.
    pub fn mbufs_for(frames: usize) -> usize {
        ((frames + 16_384).next_power_of_two() - 1).max(65_535)
    }

    /// Megabytes of hugepages that a process with this mempool takes.
    pub fn megabytes_for(mbufs: usize) -> u64 {
        (mbufs * Self::MBUF_BYTES / 1_000_000 + 128) as u64
    }
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    let (rounds, seconds) = if options.quick { (2, 1.0) } else { (options.rounds, options.seconds) };
    let mut report = Report::new(Machine::look()?, options.lcore, options.main, rounds, seconds);
    let patience = Duration::from_secs_f64(options.patience);
    if let Err(busy) = machine::wait_until_idle(options.lcore, options.main, patience) {
        interrupt::check()?;
        if !options.force {
            return Err(busy);
        }
        report.disturbed = true;
    }
    report.load = machine::load();
    report.realtime = options.realtime;

    let directory = tempfile::Builder::new().prefix("penstock-bench-").tempdir()?;
    let most_frames = options.flows.iter().copied().max().context("--flows is empty")?;
    let _hugepages = Hugepages::reserve(Rig::megabytes_for(Rig::mbufs_for(most_frames)))?;
    let rigs: Vec<(usize, Rig)> = options
        .flows
        .iter()
        .map(|&flows| Ok((flows, rig(options, flows, seconds, directory.path())?)))
        .collect::<anyhow::Result<_>>()?;

    let modes = modes(&options.modes)?;
    for round in 0..rounds {
        for (flows, rig) in &rigs {
            // Each goes first in turn, so that a drift of the machine favours nobody.
            let mut order = options.contestants.clone();
            order.retain(|contestant| contestant.takes(*flows));
            let first = round % order.len().max(1);
            order.rotate_left(first);
            for contestant in order {
                let rate = undisturbed(|| {
                    Ok(match contestant {
                        Contestant::Io | Contestant::Swap => {
                            let (rate, hz) = testpmd::measure(rig, contestant.name())?;
                            report.tsc_hz = hz;
                            rate
                        }
                        Contestant::Penstock => node::measure(rig, &options.penstock, Task::Forward(Forwarding::Ipip))?,
                        Contestant::Tracked => node::measure(rig, &options.penstock, Task::Remember(1 << 20))?,
                        Contestant::Syn => {
                            node::measure(&rig.with(Kind::Syns)?, &options.penstock, Task::RememberAll(MOST_FLOWS / 4))?
                        }
                        Contestant::Calm => {
                            node::measure(&rig.with(Kind::Acks(ESTABLISHED))?, &options.penstock, Task::Remember(ROOM))?
                        }
                        Contestant::Flooded => node::measure(
                            &rig.with(Kind::Flood(ESTABLISHED))?,
                            &options.penstock,
                            Task::Remember(ROOM),
                        )?,
                    })
                })?;
                eprintln!(
                    "round {} of {rounds}, {flows} flows, {:8} {:6.2} Mpps, off its core {:.1} %",
                    round + 1,
                    contestant.name(),
                    rate.pps / 1e6,
                    rate.off_core * 100.0
                );
                report.samples.push(Sample { round, flows: *flows, contestant, rate });
            }
            for &forwarding in modes.iter().filter(|_| *flows == MODE_FLOWS) {
                let rate = undisturbed(|| node::measure(rig, &options.penstock, Task::Forward(forwarding)))?;
                let (name, mpps) = (forwarding.name(), rate.pps / 1e6);
                eprintln!("round {} of {rounds}, {flows} flows, {name:8} {mpps:6.2} Mpps", round + 1);
                report.modes.push(ModeSample { round, forwarding, rate });
            }
        }
    }

    if options.contestants.contains(&Contestant::Penstock) {
        let capture = directory.path().join("replayed-in.pcap");
        traffic::write(&capture, most_frames, REPLAYED, 1, VIP, traffic::NET_PCAP_MAC)?;
        let rates: Vec<f64> = (0..3)
            .map(|_| node::replay_rate(&rigs[0].1, &options.penstock, &capture, REPLAYED))
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

/// The forwarding modes of these names.
/// All modes but that which every contestant has.
fn others() -> Vec<String> {
    Forwarding::NAMES.iter().filter(|&&name| name != Forwarding::Ipip.name()).map(|&name| name.to_owned()).collect()
}

pub fn modes(names: &[String]) -> anyhow::Result<Vec<Forwarding>> {
    let named = |name: &String| Forwarding::named(name).with_context(|| format!("--modes: there is no mode {name:?}"));
    names.iter().filter(|name| *name != "none").map(named).collect()
}

fn rig(options: &Options, flows: usize, seconds: f64, directory: &Path) -> anyhow::Result<Rig> {
    let directory = directory.join(flows.to_string());
    std::fs::create_dir(&directory)?;
    let capture = directory.join("rx.pcap");
    // The device plays it round and round; a whole burst of frames at least.
    let frames = flows.max(32);
    traffic::write(&capture, flows, frames, 1, VIP, traffic::NET_PCAP_MAC)?;
    Ok(Rig {
        lcore: options.lcore,
        main: options.main,
        realtime: options.realtime,
        warm_up: Duration::from_secs(1),
        duration: Duration::from_secs_f64(seconds),
        capture,
        mbufs: Rig::mbufs_for(frames),
        directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_half_a_core_is_half_as_fast_by_the_clock() {
        assert_eq!(Rate::new(10e6, 0.5).pps, 20e6);
        assert_eq!(Rate::new(10e6, 0.0).pps, 10e6);
    }

    #[test]
    fn modes_are_named() {
        assert_eq!(modes(&others()).unwrap().len() + 1, Forwarding::NAMES.len());
        assert!(modes(&["ipop".to_owned()]).is_err() && modes(&["none".to_owned()]).unwrap().is_empty());
    }

    #[test]
    fn the_mempool_holds_the_capture_and_more() {
        assert_eq!(Rig::mbufs_for(1), 65_535);
        assert_eq!(Rig::mbufs_for(100_000), 131_071);
        assert_eq!(Rig::mbufs_for(131_000), 262_143);
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
