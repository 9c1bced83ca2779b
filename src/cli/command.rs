//! The whole command line: every subcommand, and what each calls.

use clap::{Parser, Subcommand};

use super::{Failure, backend, check, explain, replay, schema};
#[cfg(feature = "api")]
use super::{completions, live, man};

/// A layer-4 load balancer for the bare-metal edge, on DPDK
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = "Exit codes: 0 good, 1 failed, 2 bad input. Errors go to stderr.")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[cfg(all(feature = "dpdk", feature = "control"))]
    Run(super::run::Args),
    Check(check::Args),
    Replay(replay::Args),
    Explain(explain::Args),
    #[cfg(feature = "api")]
    Status(live::status::Args),
    #[cfg(feature = "api")]
    Top(live::top::Args),
    #[cfg(feature = "api")]
    Services(live::services::Args),
    #[cfg(feature = "api")]
    Backends(live::backends::Args),
    #[cfg(feature = "api")]
    Flows(live::flows::Args),
    #[cfg(feature = "api")]
    Capture(live::capture::Args),
    #[cfg(feature = "api")]
    Drain(live::drain::Args),
    #[cfg(feature = "api")]
    Undrain(live::drain::UndrainArgs),
    #[cfg(feature = "api")]
    Apply(live::apply::Args),
    Backend(backend::Args),
    Schema(schema::Args),
    #[cfg(feature = "api")]
    Completions(completions::Args),
    #[cfg(feature = "api")]
    Man(man::Args),
}

impl Command {
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            #[cfg(all(feature = "dpdk", feature = "control"))]
            Self::Run(args) => super::run::run(args),
            Self::Check(args) => check::run(args),
            Self::Replay(args) => replay::run(args),
            Self::Explain(args) => explain::run(args),
            #[cfg(feature = "api")]
            Self::Status(args) => live::status::run(args),
            #[cfg(feature = "api")]
            Self::Top(args) => live::top::run(args),
            #[cfg(feature = "api")]
            Self::Services(args) => live::services::run(args),
            #[cfg(feature = "api")]
            Self::Backends(args) => live::backends::run(args),
            #[cfg(feature = "api")]
            Self::Flows(args) => live::flows::run(args),
            #[cfg(feature = "api")]
            Self::Capture(args) => live::capture::run(args),
            #[cfg(feature = "api")]
            Self::Drain(args) => live::drain::run(args),
            #[cfg(feature = "api")]
            Self::Undrain(args) => live::drain::undrain(args),
            #[cfg(feature = "api")]
            Self::Apply(args) => live::apply::run(args),
            Self::Backend(args) => backend::run(args),
            Self::Schema(args) => schema::run(args),
            #[cfg(feature = "api")]
            Self::Completions(args) => completions::run(args),
            #[cfg(feature = "api")]
            Self::Man(args) => man::run(args),
        }
    }
}
