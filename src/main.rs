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
        Command::Backend(args) => cli::backend::run(&args),
        Command::Schema(args) => cli::schema::run(&args),
    })
}
