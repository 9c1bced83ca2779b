//! The command line; what each subcommand does stands in its own file of `cli/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use penstock::cli;

/// A layer-4 load balancer for the bare-metal edge, on DPDK
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 good, 1 failed, 2 bad input. Errors go to stderr.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(all(feature = "dpdk", feature = "control"))]
    Run(cli::run::Args),
    Check(cli::check::Args),
    Replay(cli::replay::Args),
    Explain(cli::explain::Args),
    #[cfg(feature = "control")]
    Status(cli::live::status::Args),
    #[cfg(feature = "control")]
    Services(cli::live::services::Args),
    #[cfg(feature = "control")]
    Backends(cli::live::backends::Args),
    #[cfg(feature = "control")]
    Flows(cli::live::flows::Args),
    #[cfg(feature = "control")]
    Drain(cli::live::drain::Args),
    #[cfg(feature = "control")]
    Undrain(cli::live::drain::UndrainArgs),
    #[cfg(feature = "control")]
    Apply(cli::live::apply::Args),
    Backend(cli::backend::Args),
    Schema(cli::schema::Args),
}

fn main() -> ExitCode {
    cli::end(match Arguments::parse().command {
        #[cfg(all(feature = "dpdk", feature = "control"))]
        Command::Run(args) => cli::run::run(&args),
        Command::Check(args) => cli::check::run(&args),
        Command::Replay(args) => cli::replay::run(&args),
        Command::Explain(args) => cli::explain::run(&args),
        #[cfg(feature = "control")]
        Command::Status(args) => cli::live::status::run(&args),
        #[cfg(feature = "control")]
        Command::Services(args) => cli::live::services::run(&args),
        #[cfg(feature = "control")]
        Command::Backends(args) => cli::live::backends::run(&args),
        #[cfg(feature = "control")]
        Command::Flows(args) => cli::live::flows::run(&args),
        #[cfg(feature = "control")]
        Command::Drain(args) => cli::live::drain::run(&args),
        #[cfg(feature = "control")]
        Command::Undrain(args) => cli::live::drain::undrain(&args),
        #[cfg(feature = "control")]
        Command::Apply(args) => cli::live::apply::run(&args),
        Command::Backend(args) => cli::backend::run(&args),
        Command::Schema(args) => cli::schema::run(&args),
    })
}
