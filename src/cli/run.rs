//! `penstock run`: the load balancer, in the foreground.

use std::path::PathBuf;

use super::Failure;
use crate::config::Config;
use crate::{node, telemetry};

/// Forward packets, in the foreground, until SIGTERM
///
/// SIGTERM or SIGINT: /readyz answers 503, packets are forwarded for node.stop_grace, then it ends with exit code 0; a second
/// signal ends it at once. SIGHUP: the definitions are read again. Needs root. Logs go to stderr.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Log this and what is worse: error, warn, info, debug or trace; RUST_LOG, where set, says more, and wins
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    telemetry::start_logs(&args.log);
    let (config, warnings) = Config::load(&args.config)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    node::run(&config).map_err(|error| Failure::Failed(error.to_string()))
}
