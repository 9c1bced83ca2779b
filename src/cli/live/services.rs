//! `penstock services`: what a node balances.

use serde_json::json;

use super::table::{self, cell};
use super::{Failure, Live, ask, print_json};
use crate::proto::tree_of_set;
use crate::proto::{GetRequest, ServiceSet};
use crate::service;

/// Show the services that a running node balances
///
/// With --json: the definitions in force, as native JSON that `apply` and a file feed take.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these services
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let set = ask(&args.live, async |node| {
        let request = GetRequest { services: args.names.clone() };
        Ok(node.call(node.definitions().get(request)).await?.definitions.unwrap_or_default())
    })?;
    if args.live.json {
        return Ok(print_json(&document(&set)?)?);
    }
    let port = |service: &crate::proto::Service| match (&service.port_range, service.port) {
        (Some(range), _) => range.clone(),
        (None, Some(0) | None) => "all".to_owned(),
        (None, Some(port)) => port.to_string(),
    };
    let row = |service: &crate::proto::Service| {
        vec![
            cell(&service.name),
            cell(&service.vip),
            cell(port(service)),
            cell(&service.protocol),
            cell(&service.forwarding),
            cell(service.hash.as_deref().unwrap_or("five-tuple")),
            cell(service.tracking.as_deref().unwrap_or_default()),
            cell(service.backends.len()),
        ]
    };
    let rows: Vec<_> = set.services.iter().map(row).collect();
    let headings = ["SERVICE", "VIP", "PORT ", "PROTOCOL", "FORWARDING", "HASH", "TRACKING", "BACKENDS "];
    table::print(&headings, &rows)?;
    Ok(())
}

/// The definitions as their own JSON.
fn document(set: &ServiceSet) -> Result<serde_json::Value, Failure> {
    let (definitions, _) = service::read_tree(&tree_of_set(set), "the node's answer", None)?;
    Ok(serde_json::from_str(&definitions.to_json()).unwrap_or_else(|_| json!({})))
}
