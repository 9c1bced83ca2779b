//! `penstock-perf`: what `make bench` runs. See perf/README.md for how to read what it writes.

#![cfg_attr(not(feature = "others"), allow(dead_code, reason = "the other benches use it"))]

mod bench;
mod contestant;
mod forwarder;
mod hugepages;
mod interrupt;
mod machine;
mod maglev;
mod node;
mod plot;
mod process;
mod progress;
mod report;
mod rig;
mod stats;
mod svg;
mod testpmd;
mod traffic;
mod tsc;

// What `make bench` has no need of, and is built without.
#[cfg(feature = "others")]
mod bare;
#[cfg(all(test, feature = "others"))]
mod calls;
#[cfg(feature = "others")]
mod consistency;
#[cfg(feature = "others")]
mod control;
#[cfg(feature = "others")]
mod generate;
#[cfg(feature = "others")]
mod health;
#[cfg(feature = "others")]
mod instructions;
#[cfg(feature = "others")]
mod latency;
#[cfg(feature = "others")]
mod others;
#[cfg(feature = "others")]
mod publish;
#[cfg(feature = "others")]
mod stages;
#[cfg(feature = "others")]
mod throughput;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Compares penstock with testpmd in alternating rounds; appends the result to RESULTS.md.
    Bench(bench::Options),
    #[cfg(feature = "others")]
    #[command(flatten)]
    Other(others::Command),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Bench(options) => bench::run(&options),
        #[cfg(feature = "others")]
        Command::Other(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
