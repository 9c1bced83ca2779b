//! `penstock backends`: each backend as it is.

use std::io::{self, Write};

use serde_json::json;

use super::table::{self, cell, grouped, state};
use super::{Failure, Live, ask, print_json};
use crate::proto::{BackendStatus, ListBackendsRequest};

/// Show the backends of a running node: their state, share and flows
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this one: an address, perhaps with a port
    #[arg(value_name = "BACKEND")]
    backend: Option<String>,
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let list = ask(&args.live, async |node| {
        let request = ListBackendsRequest { service: args.service.clone(), backend: args.backend.clone() };
        node.call(node.backends().list(request)).await
    })?;
    if args.live.json {
        let backends: Vec<_> = list.backends.iter().map(document).collect();
        return Ok(print_json(&json!({"version": list.version, "backends": backends}))?);
    }
    let row = |backend: &BackendStatus| {
        vec![
            cell(&backend.service),
            cell(endpoint(backend)),
            cell(backend.weight),
            state(&backend.state),
            cell(why(backend)),
            cell(share(backend)),
            cell(flows(backend)),
            cell(grouped(backend.packets)),
            cell(grouped(backend.bytes)),
        ]
    };
    let rows: Vec<_> = list.backends.iter().map(row).collect();
    let headings = ["SERVICE", "BACKEND", "WEIGHT ", "STATE", "WHY", "NEW FLOWS ", "FLOWS ", "PACKETS ", "BYTES "];
    table::print(&headings, &rows)?;
    if list.backends.iter().any(|backend| backend.unsettled_slots > 0) {
        writeln!(io::stdout().lock(), "+ and flows that are not known yet, since their slots are not at rest")?;
    }
    Ok(())
}

pub fn endpoint(backend: &BackendStatus) -> String {
    let address: Result<std::net::IpAddr, _> = backend.address.parse();
    match (address, u16::try_from(backend.port)) {
        (Ok(address), Ok(port)) if port > 0 => std::net::SocketAddr::new(address, port).to_string(),
        _ => backend.address.clone(),
    }
}

pub(super) fn why(backend: &BackendStatus) -> String {
    match () {
        () if backend.health.as_deref() == Some("down") => format!("health: {}", backend.health_reason),
        () if backend.state == backend.defined_state && backend.state != "active" => "by definition".to_owned(),
        () if backend.drained => "drained by hand".to_owned(),
        () => String::new(),
    }
}

pub(super) fn share(backend: &BackendStatus) -> String {
    if backend.table_size == 0 {
        return "0 %".to_owned();
    }
    format!("{:.1} %", f64::from(backend.slots) * 100.0 / f64::from(backend.table_size))
}

pub(super) fn flows(backend: &BackendStatus) -> String {
    grouped(backend.flows) + if backend.unsettled_slots > 0 { "+" } else { "" }
}

pub fn document(backend: &BackendStatus) -> serde_json::Value {
    json!({
        "service": backend.service,
        "address": backend.address,
        "port": backend.port,
        "weight": backend.weight,
        "state": backend.state,
        "defined_state": backend.defined_state,
        "drained": backend.drained,
        "health": backend.health,
        "health_reason": backend.health_reason,
        "slots": backend.slots,
        "table_size": backend.table_size,
        "packets": backend.packets,
        "bytes": backend.bytes,
        "flows": backend.flows,
        "unsettled_slots": backend.unsettled_slots,
        "flows_known": backend.flows_known,
    })
}
