//! The whole command line: every subcommand, and what each calls.

use clap::{Parser, Subcommand};

use super::{Failure, backend, check, explain, replay, schema};
#[cfg(feature = "control")]
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
    #[cfg(feature = "control")]
    Status(live::status::Args),
    #[cfg(feature = "control")]
    Top(live::top::Args),
    #[cfg(feature = "control")]
    Services(live::services::Args),
    #[cfg(feature = "control")]
    Backends(live::backends::Args),
    #[cfg(feature = "control")]
    Flows(live::flows::Args),
    #[cfg(feature = "control")]
    Drain(live::drain::Args),
    #[cfg(feature = "control")]
    Undrain(live::drain::UndrainArgs),
    #[cfg(feature = "control")]
    Apply(live::apply::Args),
    Backend(backend::Args),
    Schema(schema::Args),
    #[cfg(feature = "control")]
    Completions(completions::Args),
    #[cfg(feature = "control")]
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
            #[cfg(feature = "control")]
            Self::Status(args) => live::status::run(args),
            #[cfg(feature = "control")]
            Self::Top(args) => live::top::run(args),
            #[cfg(feature = "control")]
            Self::Services(args) => live::services::run(args),
            #[cfg(feature = "control")]
            Self::Backends(args) => live::backends::run(args),
            #[cfg(feature = "control")]
            Self::Flows(args) => live::flows::run(args),
            #[cfg(feature = "control")]
            Self::Drain(args) => live::drain::run(args),
            #[cfg(feature = "control")]
            Self::Undrain(args) => live::drain::undrain(args),
            #[cfg(feature = "control")]
            Self::Apply(args) => live::apply::run(args),
            Self::Backend(args) => backend::run(args),
            Self::Schema(args) => schema::run(args),
            #[cfg(feature = "control")]
            Self::Completions(args) => completions::run(args),
            #[cfg(feature = "control")]
            Self::Man(args) => man::run(args),
        }
    }
}
