//! `penstock schema`: what documents may say, and what counters mean.

use std::io::{self, Write};

use serde_json::json;

use super::{Failure, print_json};
use crate::config::keys::CONFIG;
use crate::counters::Reason;
use crate::service::keys::DEFINITIONS;
use crate::service::shape;

/// Print the JSON Schema of a document, or what the counters mean
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    pub of: Of,
    /// Print the counters as one JSON document too (schemas always are)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Of {
    /// The JSON Schema (draft 2020-12) of service definitions
    Services,
    /// The JSON Schema of the node's configuration, which is written in TOML
    Config,
    /// Every drop reason and metric, with its meaning
    Counters,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match (args.of, args.json) {
        (Of::Services, _) => print_json(&services())?,
        (Of::Config, _) => print_json(&config())?,
        (Of::Counters, true) => print_json(&counters())?,
        (Of::Counters, false) => print_counters()?,
    }
    Ok(())
}

pub fn services() -> serde_json::Value {
    shape::schema("Penstock: service definitions", DEFINITIONS)
}

pub fn config() -> serde_json::Value {
    shape::schema("Penstock: the node's configuration, penstock.toml", CONFIG)
}

fn counters() -> serde_json::Value {
    let reasons: Vec<_> =
        Reason::ALL.iter().map(|reason| json!({"name": reason.name(), "meaning": reason.help()})).collect();
    json!({"reasons": reasons})
}

fn print_counters() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "Why a frame was dropped, in the order in which refusals are tested")?;
    let width = Reason::ALL.iter().map(|reason| reason.name().len()).max().unwrap_or(0);
    for reason in Reason::ALL {
        writeln!(out, "  {:width$}  {}", reason.name(), reason.help())?;
    }
    out.flush()
}
