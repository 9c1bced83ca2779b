//! `penstock explain` on a running node: what would become of a packet now.

use std::io::{self, Write};

use serde_json::json;

use super::{Failure, Live, ask, print_json};
use crate::proto::ExplainRequest;

/// Asks the node what becomes of the packet.
pub fn run(live: &Live, request: ExplainRequest) -> Result<(), Failure> {
    let explained = ask(live, async |node| node.call(node.flows().explain(request)).await)?;
    if live.json {
        print_json(&json!({
            "service": explained.service,
            "forwarding": explained.forwarding,
            "slot": explained.slot,
            "backend": explained.backend,
            "remembered": explained.remembered,
            "verdict": explained.verdict,
            "reason": explained.reason,
            "why": explained.why,
        }))?;
        return Ok(());
    }
    let mut out = io::stdout().lock();
    for line in &explained.why {
        match line.split_once(": ") {
            Some((name, text)) => writeln!(out, "{name:<9} {text}")?,
            None => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}
