//! The benches that stand beside `bench`, by their subcommands.

use clap::Subcommand;

use crate::{consistency, control, generate, health, instructions, latency, publish, stages, throughput};

/// What there is but `bench`.
#[derive(Subcommand)]
pub enum Command {
    /// Writes the captures of what `throughput` sends.
    Captures(throughput::captures::Options),
    /// Simulates hours of changes and failures, and counts whose flows break: Penstock's and others'.
    Consistency(consistency::Options),
    /// Times a node with thousands of services: loads, changes by the API, and what those who watch it cost.
    Control(control::Options),
    /// Plays a capture on a DPDK device at a given rate, and counts what comes back; told by stdin what to do.
    Generate(generate::Options),
    /// Runs health checks against servers on loopback, and says what they cost.
    Health(health::Options),
    /// The servers that `health` asks.
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

impl Command {
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Captures(options) => throughput::captures::run(options),
            Self::Consistency(options) => consistency::run(options),
            Self::Control(options) => control::run(options),
            Self::Generate(options) => generate::run(options),
            Self::Health(options) => health::run(options),
            Self::HealthServers(servers) => health::serve(servers),
            Self::Instructions(options) => instructions::run(options),
            Self::Pipeline(work) => instructions::work(work),
            Self::Latency(options) => latency::run(options),
            Self::Publish(options) => publish::run(options),
            Self::Reflect(options) => generate::reflect::run(options),
            Self::Stages(options) => stages::run(options),
            Self::Throughput(options) => throughput::run(options),
        }
    }
}
