//! `penstock-perf`: what `make bench` runs. See perf/README.md for how to read what it writes.

mod bare;
mod bench;
#[cfg(test)]
mod calls;
mod consistency;
mod contestant;
#[cfg(feature = "control")]
mod control;
mod forwarder;
mod generate;
#[cfg(feature = "control")]
mod health;
mod hugepages;
mod instructions;
mod interrupt;
mod latency;
mod machine;
mod maglev;
mod node;
mod plot;
mod process;
mod progress;
mod publish;
mod report;
mod rig;
mod stages;
mod stats;
mod svg;
mod testpmd;
mod throughput;
mod traffic;
mod tsc;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
enum Command {
    /// Compares penstock with testpmd in alternating rounds; appends the result to RESULTS.md.
    Bench(bench::Options),
    /// Writes the captures of what `throughput` sends.
    Captures(throughput::captures::Options),
    /// Simulates hours of changes and failures, and counts whose flows break: Penstock's and others'.
    Consistency(consistency::Options),
    /// Times a node with thousands of services: loads, changes by the API, and what those who watch it cost.
    #[cfg(feature = "control")]
    Control(control::Options),
    /// Plays a capture on a DPDK device at a given rate, and counts what comes back; told by stdin what to do.
    Generate(generate::Options),
    /// Runs health checks against servers on loopback, and says what they cost.
    #[cfg(feature = "control")]
    Health(health::Options),
    /// The servers that `health` asks.
    #[cfg(feature = "control")]
    #[command(hide = true)]
    HealthServers(health::Servers),
    /// Counts the instructions that the pipeline takes for a packet, by callgrind.
    Instructions(instructions::Options),
    /// What `instructions` counts.
    #[command(hide = true)]
    Pipeline(instructions::Work),
    /// Measures how long frames are under way through penstock, and through testpmd on the same rig.
    Latency(latency::Options),
    /// Times changes among thousands of services, from a valid set to a reader that uses it.
    Publish(publish::Options),
    /// Sends frames back, no more than so many a second: a forwarder whose limit is known.
    #[command(hide = true)]
    Reflect(generate::reflect::Options),
    /// Times the pipeline's stages, one by one.
    Stages(stages::Options),
    /// Searches the highest rate at which a forwarder loses nothing (RFC 2544), with pktgen, TRex, testpmd or `generate`.
    Throughput(throughput::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Bench(options) => bench::run(&options),
        Command::Captures(options) => throughput::captures::run(&options),
        Command::Consistency(options) => consistency::run(&options),
        #[cfg(feature = "control")]
        Command::Control(options) => control::run(&options),
        Command::Generate(options) => generate::run(&options),
        #[cfg(feature = "control")]
        Command::Health(options) => health::run(&options),
        #[cfg(feature = "control")]
        Command::HealthServers(servers) => health::serve(&servers),
        Command::Instructions(options) => instructions::run(&options),
        Command::Pipeline(work) => instructions::work(&work),
        Command::Latency(options) => latency::run(&options),
        Command::Publish(options) => publish::run(&options),
        Command::Reflect(options) => generate::reflect::run(&options),
        Command::Stages(options) => stages::run(&options),
        Command::Throughput(options) => throughput::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
