//! The throughput of a forwarder by RFC 2544, section 26.1: the highest rate at which it loses nothing, with a generator on the other
//! machine of a lab (docs/lab.md) or, to try it all without a NIC, on this one.
//!
//! A trial is believed when both sides agree: the generator says what it sent and what came back, the node what it received, missed and
//! forwarded.

pub mod captures;
mod counters;
mod flat;
mod frames;
pub mod generator;
pub mod local;
mod pktgen;
mod plot;
mod report;
pub mod search;
pub mod software;
mod trex;
pub mod trial;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use penstock::wire::Mac;

use crate::interrupt;
use crate::machine::Machine;
use crate::traffic::Kind;

use generator::Generator;
use report::{Report, Searched};
use search::{Found, Length, Search};
use trial::Trial;

#[derive(clap::Args)]
pub struct Options {
    /// Who sends.
    #[arg(long, default_value = "software")]
    generator: Which,
    /// What is sent: acks, syns, udp, v6 or imix, and a number of flows.
    #[arg(long, value_delimiter = ',', default_value = "acks-1,acks-1000,acks-100000")]
    traffic: Vec<Kind>,
    /// The node's own MAC.
    #[arg(long, default_value = "02:70:63:61:70:00")]
    mac: Mac,
    /// Where the node serves its metrics, or "none" for a forwarder that has none.
    #[arg(long, default_value = "127.0.0.1:9341")]
    node: String,
    /// What forwards and on what machine, for the heading.
    #[arg(long, default_value = "penstock, ipip, one lcore")]
    forwarder: String,

    /// software, testpmd: the device, a PCI address or a virtual one. Of two, the first sends and the second receives.
    #[arg(long)]
    device: Vec<String>,
    /// software, testpmd: the CPU that polls.
    #[arg(long, default_value_t = 1)]
    lcore: u16,
    /// software: frames that are made up for at once after others had its core.
    #[arg(long, default_value_t = 256)]
    behind: u64,
    /// testpmd: the CPU of its main thread.
    #[arg(long, default_value_t = 0)]
    main: u16,
    /// software, testpmd: arguments of EAL.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ' ')]
    eal: Vec<String>,
    /// pktgen: its Lua socket [default: 127.0.0.1:22022]; trex: its server [default: 127.0.0.1].
    #[arg(long)]
    at: Option<String>,
    /// pktgen, trex: the port that sends, and the one that receives.
    #[arg(long, value_delimiter = ',', default_value = "0,0")]
    ports: Vec<u16>,
    /// pktgen: how to start it for each kind of traffic, which stands for {}: "pktgen -l 0-2 … -- -P -G -m [1:2].0 -f {}.pkt" (or
    /// "-s 0:{}.pcap"); by ssh -tt on another machine. By default it runs, and was started with the one kind of --traffic.
    #[arg(long)]
    start: Option<String>,
    /// trex: the interpreter; PYTHONPATH leads it to TRex's library.
    #[arg(long, default_value = "python3")]
    python: String,

    /// Bits a second of the line, in thousands of millions: the search begins with as many frames as it takes.
    #[arg(long, default_value_t = 10.0)]
    gbit: f64,
    /// Frames a second that the search begins with, instead.
    #[arg(long)]
    most: Option<f64>,
    /// How well the rate is to be known, in percent of that which the search began with.
    #[arg(long, default_value_t = 0.5)]
    resolution: f64,
    /// Percent of the frames that may be lost. RFC 2544 says none.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Seconds of a trial.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds of the trial that confirms the rate (RFC 2544, section 24: at least 60).
    #[arg(long, default_value_t = 60.0)]
    confirm: f64,
    /// Seconds in which frames may still come back after a trial (section 23: 2).
    #[arg(long, default_value_t = 2.0)]
    wait: f64,
    /// Seconds between two trials (section 23: 5).
    #[arg(long, default_value_t = 5.0)]
    pause: f64,
    /// Searches for each kind of traffic.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Starts the node on this machine, by conf/perf.toml, and the generator at the other end of a memif: a trial of the tools. Needs no NIC and
    /// no hugepages, and stores nothing.
    #[arg(long)]
    local: bool,
    /// The CPU that polls in the node.
    #[arg(long, default_value_t = 0)]
    node_lcore: u16,
    #[arg(long, default_value = "target/release/penstock")]
    penstock: PathBuf,
    /// Prints the result, and stores nothing.
    #[arg(long)]
    print: bool,
    /// The directory of RESULTS.md.
    #[arg(long, default_value = "perf")]
    results: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// `perf/generate`, on any DPDK device.
    Software,
    /// Pktgen-DPDK.
    Pktgen,
    Trex,
    /// testpmd with a capture, at its own rate only.
    Testpmd,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    interrupt::note_signals()?;
    ensure!(options.rounds > 0, "--rounds: at least one");
    ensure!(options.resolution > 0.0 && options.seconds > 0.0, "--resolution and --seconds: above 0");
    let directory = tempfile::Builder::new().prefix("penstock-throughput-").tempdir()?;
    let node = match options.local {
        true => {
            let conf = local::conf(&options.results);
            Some(local::Node::start(&options.penstock, &conf, options.node_lcore, options.mac, directory.path())?)
        }
        false => None,
    };
    let metrics: Option<SocketAddr> = match (&node, options.node.as_str()) {
        (Some(node), _) => Some(node.metrics),
        (None, "none") => None,
        (None, address) => Some(address.parse().with_context(|| format!("--node {address}: expected 127.0.0.1:9341"))?),
    };
    let mut generator = open(options, node.as_ref(), directory.path().to_owned())?;

    let mut report = Report {
        machine: Machine::look()?,
        forwarder: options.forwarder.clone(),
        generator: generator.name(),
        is_flat: !generator.has_rate(),
        search: Search { most: 0.0, resolution: options.resolution / 100.0, loss: options.loss / 100.0 },
        seconds: [options.seconds, options.confirm],
        rounds: options.rounds,
        searches: Vec::new(),
    };
    for round in 0..options.rounds {
        for &kind in &options.traffic {
            generator.load(kind)?;
            let most = options.most.unwrap_or_else(|| frames::line_rate(kind, options.gbit * 1e9));
            let search = Search { most, ..report.search };
            let mut trials = Vec::new();
            let mut trial = |rate: f64, length: Length| {
                let seconds = if length == Length::Long { options.confirm } else { options.seconds };
                let trial = one(&mut *generator, metrics, rate, seconds, options.wait)?;
                eprintln!(
                    "round {} of {}, {kind}: {:9.4} Mpps for {:.1} s, lost {:.4} %: {}",
                    round + 1,
                    options.rounds,
                    trial.offered() / 1e6,
                    trial.generated.seconds,
                    trial.loss() * 100.0,
                    trial.lost_where()
                );
                trials.push(trial.clone());
                interrupt::sleep(Duration::from_secs_f64(options.pause))?;
                Ok(trial)
            };
            let found = if report.is_flat {
                let trial = trial(most, Length::Short)?;
                Found { best: Some(trial), failed: None, is_generators_limit: false }
            } else {
                search.run(trial)?
            };
            report.searches.push(Searched { round, kind, found, trials });
        }
    }
    println!("{}", report.markdown(None));
    if !options.print && !options.local {
        report.store(&options.results)?;
    }
    // Measured, but of what: nothing came through.
    let dead = report.kinds().into_iter().find(|&kind| report.rate(kind).is_some_and(|rate| rate.min == 0.0));
    ensure!(
        dead.is_none(),
        "{}: frames were lost at every rate that was tried",
        dead.map_or(String::new(), |kind| kind.to_string())
    );
    Ok(())
}

/// One trial, seen from both sides.
fn one(
    generator: &mut dyn Generator,
    metrics: Option<SocketAddr>,
    rate: f64,
    seconds: f64,
    wait: f64,
) -> anyhow::Result<Trial> {
    let before = metrics.map(counters::at_rest).transpose()?;
    let generated = generator.trial(rate, seconds, wait)?;
    let after = metrics.map(counters::at_rest).transpose()?;
    let node = after.zip(before).map(|(after, before)| after.since(&before));
    let trial = Trial { wanted: rate, generated, node };
    trial.check()?;
    Ok(trial)
}

fn open(options: &Options, node: Option<&local::Node>, directory: PathBuf) -> anyhow::Result<Box<dyn Generator>> {
    let local = local::EAL.map(str::to_owned);
    let (devices, eal) = match node {
        Some(node) if options.device.is_empty() => (vec![node.peer.clone()], local.to_vec()),
        _ => (options.device.clone(), options.eal.clone()),
    };
    let ports = match options.ports[..] {
        [both] => [both; 2],
        [sends, receives] => [sends, receives],
        _ => anyhow::bail!("--ports: the one that sends, and the one that receives"),
    };
    let at = |usual: &'static str| options.at.as_deref().unwrap_or(usual);
    let is_elsewhere = matches!(options.generator, Which::Pktgen | Which::Trex);
    ensure!(node.is_none() || !is_elsewhere, "--local: only software and testpmd reach its node");
    Ok(match options.generator {
        Which::Software => {
            ensure!(!devices.is_empty(), "--device: the generator's own, or --local");
            let (lcore, behind) = (options.lcore, options.behind);
            let place = software::Place { devices, lcore, behind, mbufs: None, eal, realtime: false };
            let mut software = software::Software::start(&place, options.mac, directory)?;
            software.wait_until_up()?;
            Box::new(software)
        }
        Which::Testpmd => {
            ensure!(devices.len() == 1, "--device: one, which sends and receives, or --local");
            let lcores = [options.main, options.lcore];
            Box::new(flat::Testpmd::new(&devices[0], lcores, &eal, options.mac, directory))
        }
        Which::Pktgen => Box::new(pktgen::Pktgen::new(at("127.0.0.1:22022"), options.start.as_deref(), ports)),
        Which::Trex => {
            let driver = options.results.join("pktgen/trex_drive.py");
            Box::new(trex::Trex::connect(&options.python, &driver, at("127.0.0.1"), ports, options.mac)?)
        }
    })
}
