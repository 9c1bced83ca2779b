//! What each subcommand prints: one file a subcommand, with its `Args` and `run(&Args) -> Result<(), Failure>`.
//!
//! Results go to stdout, errors and warnings to stderr. With `--json` stdout is one JSON document and nothing else.

pub mod backend;
pub mod check;
mod command;
#[cfg(feature = "api")]
pub mod completions;
pub mod explain;
mod inputs;
#[cfg(feature = "api")]
pub mod live;
#[cfg(feature = "api")]
pub mod man;
pub mod recipe;
pub mod replay;
#[cfg(all(feature = "dpdk", feature = "control"))]
pub mod run;
pub mod schema;

use std::io::{self, Write};
use std::process::ExitCode;

pub use command::{Arguments, Command};
pub use inputs::{Inputs, inputs, services, warn};

use crate::service::Errors;

/// Why a subcommand did not do what it was asked to. Its text is what stderr gets.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was given cannot be used: exit 2.
    #[error("{0}")]
    BadInput(String),
    /// It was good, but the work failed: exit 1.
    #[error("{0}")]
    Failed(String),
    /// The result could not be printed. A reader that had enough (`| head`) is no failure.
    #[error("cannot print the result: {0}")]
    Output(#[from] io::Error),
}

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Self {
        Self::BadInput(errors.to_string())
    }
}

/// The exit code of a subcommand, after its errors were printed.
pub fn end(result: Result<(), Failure>) -> ExitCode {
    let (failure, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(failure @ Failure::BadInput(_)) => (failure, 2),
        Err(failure) => (failure, 1),
    };
    say(failure);
    ExitCode::from(code)
}

/// Prints a line to stderr; where that is closed, nobody listens.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints one JSON document.
fn print_json(document: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)?;
    out.flush()
}
