//! `penstock man`: the manual's pages, made of the same words as `--help`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;

use super::{Arguments, Failure};

/// Print penstock's manual page, or write the pages of all subcommands
///
/// penstock man | man -l - shows it; penstock man /usr/local/share/man/man1 installs all of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write one page a subcommand into this directory, which exists
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.directory {
        Some(directory) => clap_mangen::generate_to(Arguments::command(), directory)
            .map_err(|error| Failure::Failed(format!("{}: {error}", directory.display()))),
        None => {
            let mut out = io::stdout().lock();
            clap_mangen::Man::new(Arguments::command()).render(&mut out)?;
            Ok(out.flush()?)
        }
    }
}
