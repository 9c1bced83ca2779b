//! `penstock flows`: what the lcores remember.

use serde_json::json;

use super::table::{self, cell};
use super::{Failure, Live, ask, print_json};
use crate::proto::{Flow, ListFlowsRequest};

/// Show the flows that a running node remembers
///
/// The memory holds a fingerprint of each flow, not its addresses; --client finds those of a client.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those that go to this backend: an address, perhaps with a port
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Only of this client: an address, perhaps with a port
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let flows = ask(&args.live, async |node| {
        let request = ListFlowsRequest {
            service: args.service.clone(),
            backend: args.backend.clone(),
            client: args.client.clone(),
            limit: args.limit,
        };
        let mut parts = node.call(node.flows().list(request)).await?;
        let mut flows = Vec::new();
        while let Some(part) = parts.message().await.map_err(|status| node.failure(&status))? {
            flows.extend(part.flows);
        }
        Ok(flows)
    })?;
    let silent = |flow: &Flow| flow.silent.as_ref().map_or(0, |silent| silent.seconds);
    if args.live.json {
        let document = |flow: &Flow| {
            json!({
                "lcore": flow.lcore, "service": flow.service, "backend": flow.backend, "stage": flow.stage,
                "silent_seconds": silent(flow), "slot": flow.slot, "client": flow.client,
            })
        };
        return Ok(print_json(&json!({"flows": flows.iter().map(document).collect::<Vec<_>>()}))?);
    }
    let row = |flow: &Flow| {
        vec![
            cell(flow.lcore),
            cell(&flow.service),
            cell(&flow.backend),
            cell(flow.client.as_deref().unwrap_or("-")),
            cell(&flow.stage),
            cell(format!("{} s", silent(flow))),
            cell(flow.slot),
        ]
    };
    let rows: Vec<_> = flows.iter().map(row).collect();
    table::print(&["CPU ", "SERVICE", "BACKEND", "CLIENT", "STAGE", "SILENT ", "SLOT "], &rows)?;
    if flows.len() == args.limit as usize {
        crate::cli::say(format_args!("these are {} of them; --limit shows more", args.limit));
    }
    Ok(())
}
