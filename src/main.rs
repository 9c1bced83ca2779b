//! The command line; what each subcommand does stands in its own file of `cli/`.

use std::process::ExitCode;

use clap::Parser;
use penstock::cli::{self, Arguments};

fn main() -> ExitCode {
    cli::end(Arguments::parse().command.run())
}
