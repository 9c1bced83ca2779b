//! `penstock replay`: a capture through the same pipeline that the lcores run.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Failure, inputs, print_json, services, warn};
use crate::config::Config;
use crate::counters::Reason;
use crate::replay::{self, CaptureError, Outputs, Plan, Reader, ReplayError, Report, Writer};
use crate::snapshot::{Compiler, PortIndex};

/// Put a capture through the pipeline, and write what would be sent
///
/// Reads classic pcap and pcapng (Ethernet). Needs neither root nor a DPDK device; time is the capture's time stamps, next
/// hops are the configuration's [[neighbor]] and [[route]].
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The service definitions at the start
    #[arg(long, value_name = "FILE")]
    pub services: PathBuf,
    /// The capture to read
    #[arg(long = "in", value_name = "PCAP")]
    pub input: PathBuf,
    /// Where to write the frames that would be sent: classic pcap, with the time stamps of the frames that caused them
    #[arg(long = "out", value_name = "PCAP")]
    pub output: PathBuf,
    /// Where to write the frames for the kernel twin, unchanged
    #[arg(long, value_name = "PCAP")]
    pub punted: Option<PathBuf>,
    /// Publish new definitions when the capture's clock, counted from its first frame, reaches so many seconds; may be repeated
    #[arg(long, value_name = "SECONDS=FILE", value_parser = change)]
    pub at: Vec<Change>,
    /// The port that receives the frames; the first if not named
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Deal the frames to so many lcores
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=128))]
    pub lcores: u8,
    /// Print the counters as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// New definitions, and when they come.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    nanos: u64,
    services: PathBuf,
}

fn change(text: &str) -> Result<Change, String> {
    let (seconds, file) = text.split_once('=').ok_or("it must be SECONDS=FILE, like 2.5=new.json")?;
    let seconds: f64 = seconds.parse().map_err(|_| format!("{seconds:?} is not a number of seconds"))?;
    if !(0.0..=1e9).contains(&seconds) {
        return Err(format!("{seconds} s is out of range: 0 to 1,000,000,000"));
    }
    Ok(Change { nanos: (seconds * 1e9).round() as u64, services: file.into() })
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let loaded = inputs(&args.config, &args.services)?;
    let port = port(&loaded.config, args.port.as_deref(), &args.config)?;
    let mut changes = Vec::new();
    for change in &args.at {
        let last = changes.last().map_or(&loaded.definitions, |(_, definitions)| definitions);
        let (definitions, warnings) = services(&change.services, &loaded.config, Some(last))?;
        warn(&warnings);
        changes.push((change.nanos, definitions));
    }
    changes.sort_by_key(|change| change.0);

    let input = File::open(&args.input).map_err(|error| bad(&args.input, error))?;
    let reader = Reader::new(BufReader::with_capacity(1 << 18, input)).map_err(|error| bad(&args.input, error))?;
    let lcores = usize::from(args.lcores);
    if loaded.config.snat.ports.count() < lcores {
        let ports = loaded.config.snat.ports;
        return Err(bad(&args.config, format!("snat.ports: {ports} cannot be shared out among {lcores} lcores")));
    }
    let plan = Plan {
        compiler: Compiler::new(loaded.config.environment_of(lcores)),
        fabric: loaded.config.fabric(),
        port,
        lcores,
        definitions: loaded.definitions,
        changes,
    };
    let create = |path: &Path, resolution| -> io::Result<_> {
        Writer::new(BufWriter::with_capacity(1 << 18, File::create(path)?), resolution)
    };
    let outputs = |resolution| {
        Ok(Outputs {
            sent: Some(create(&args.output, resolution)?),
            punted: args.punted.as_deref().map(|path| create(path, resolution)).transpose()?,
        })
    };
    let report = replay::run(plan, reader, outputs).map_err(|error| match error {
        ReplayError::Capture(error @ CaptureError::Io(_)) => {
            Failure::Failed(format!("{}: {error}", args.input.display()))
        }
        ReplayError::Capture(error) => bad(&args.input, error),
        ReplayError::Write(error) => Failure::Failed(format!("{}: {error}", args.output.display())),
    })?;
    if args.json {
        print_json(&document(&report))?
    } else {
        print(&report)?
    }
    Ok(())
}

/// The port of that name, the first if none is named.
pub(super) fn port(config: &Config, name: Option<&str>, file: &Path) -> Result<PortIndex, Failure> {
    let at = match name {
        None => Some(0),
        Some(name) => config.ports.iter().position(|port| port.name == name),
    };
    let known = || config.ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
    match at.filter(|&at| at < config.ports.len()).and_then(|at| u8::try_from(at).ok()) {
        Some(at) => Ok(PortIndex(at)),
        None => Err(Failure::BadInput(format!(
            "{}: no port is named {:?}; there are: {}",
            file.display(),
            name.unwrap_or_default(),
            known()
        ))),
    }
}

fn bad(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::BadInput(format!("{}: {error}", path.display()))
}

fn document(report: &Report) -> serde_json::Value {
    let dropped: serde_json::Map<_, _> =
        report.dropped().map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
    let backends: serde_json::Map<_, _> = report
        .backends
        .iter()
        .map(|(service, backends)| {
            let counts: serde_json::Map<_, _> =
                backends.iter().map(|(address, &count)| (address.to_string(), count.into())).collect();
            (service.to_string(), counts.into())
        })
        .collect();
    json!({
        "received": report.totals.received,
        "forwarded": report.totals.forwarded,
        "answered": report.totals.answered,
        "punted": report.totals.punted,
        "dropped": dropped,
        "backends": backends,
    })
}

fn print(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let totals = &report.totals;
    let mut line = |name: &str, count: u64| writeln!(out, "{name:<24} {count:>12}");
    line("received", totals.received)?;
    line("forwarded", totals.forwarded)?;
    line("answered", totals.answered)?;
    line("punted", totals.punted)?;
    line("dropped", totals.dropped.iter().sum())?;
    for (reason, count) in report.dropped() {
        line(&format!("  {}", Reason::name(reason)), count)?;
    }
    for (service, backends) in &report.backends {
        writeln!(out, "\n{service}")?;
        let sum: u64 = backends.values().sum();
        for (address, &count) in backends {
            let share = if sum == 0 { 0.0 } else { count as f64 * 100.0 / sum as f64 };
            let address: &IpAddr = address;
            writeln!(out, "  {:<22} {count:>12} {share:>6.1} %", address.to_string())?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seconds_and_a_file() {
        assert_eq!(change("2.5=new.json"), Ok(Change { nanos: 2_500_000_000, services: "new.json".into() }));
        assert_eq!(change("0=a=b.json").unwrap().services, PathBuf::from("a=b.json"));
        for bad in ["soon=x.json", "new.json", "-1=x.json", "NaN=x.json", "1e99=x.json"] {
            assert!(change(bad).is_err(), "{bad}");
        }
    }
}
