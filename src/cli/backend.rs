//! `penstock backend`: what the backends themselves need.

use super::{Failure, recipe};

/// What backends need
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    Recipe(recipe::Args),
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Recipe(args) => recipe::run(args),
    }
}
