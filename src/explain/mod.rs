//! Why a packet goes where it goes, in words: the pipeline's own steps on the first packet of a flow, for `penstock explain` and the API alike.

mod packet;
mod steps;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;

use crate::counters::Reason;
use crate::pipeline::{self, Chosen, Explanation, Matched, Verdict};
use crate::replay::Buffer;
use crate::service::{Protocol, Service};
use crate::snapshot::{Fabric, Millis, PortIndex, Snapshot, Way};
use crate::wire::Frame;

pub use crate::pipeline::{By, Memory, spot};
use packet::{first_packet, headers};
use steps::{Step, is_sent};

/// Which packet: source and destination are of one family.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
}

/// What becomes of it, and why.
#[derive(Debug)]
pub struct Explained<'a> {
    found: Explanation,
    steps: Vec<Step>,
    frame: Buffer,
    /// Names of the ports.
    names: &'a [&'a str],
}

/// Explains what becomes of the first packet of a flow, received on `port`, by an lcore with this memory. `names`: of the ports.
pub fn explain<'a>(
    asked: &Asked,
    snapshot: &Snapshot,
    now: Millis,
    port: PortIndex,
    fabric: &Fabric,
    names: &'a [&'a str],
    memory: Memory<'_>,
) -> Explained<'a> {
    let mut frame = Buffer::new(&first_packet(asked, fabric.ports[usize::from(port.0)].mac));
    let found = pipeline::explain(snapshot, now, port, &mut frame, memory);
    let name = |port: PortIndex| names[usize::from(port.0)];
    let steps = steps::steps(asked, &found, fabric, &name, name(port), frame.bytes());
    Explained { found, steps, frame, names }
}

impl Explained<'_> {
    /// A line a step: its name, and what it found and why.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.steps.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// The same, as texts.
    pub fn lines(&self) -> Vec<String> {
        self.steps().map(|(name, text)| format!("{name}: {text}")).collect()
    }

    pub fn service(&self) -> Option<&Arc<Service>> {
        match &self.found.matched {
            Matched::Service(service) => Some(service),
            _ => None,
        }
    }

    /// Where the packet goes.
    pub fn backend(&self) -> Option<SocketAddr> {
        self.found.choice.as_ref()?.goes.as_ref().map(|chosen| chosen.endpoint)
    }

    /// Whether it goes there because its flow is remembered.
    pub fn is_remembered(&self) -> bool {
        self.found.choice.as_ref().is_some_and(|choice| choice.by == By::Flow)
    }

    pub fn slot(&self) -> Option<u32> {
        let choice = self.found.choice.as_ref().filter(|choice| choice.owner.is_some());
        choice.map(|choice| choice.slot as u32)
    }

    pub fn verdict(&self) -> &'static str {
        self.verdict_port_reason().0
    }

    pub fn reason(&self) -> Option<&'static str> {
        self.verdict_port_reason().2
    }

    fn verdict_port_reason(&self) -> (&'static str, Option<&str>, Option<&'static str>) {
        let name = |port: PortIndex| self.names[usize::from(port.0)];
        match self.found.verdict {
            Verdict::Forward(port) => ("forwarded", Some(name(port)), None),
            Verdict::Answer(port) => ("answered", Some(name(port)), None),
            Verdict::Hold => ("held", None, None),
            Verdict::HandOver(_) => ("handed over", None, None),
            Verdict::Punt => ("punted", None, None),
            Verdict::Reject(port) => ("dropped", Some(name(port)), Some(Reason::NoBackend.name())),
            Verdict::Drop(reason) => ("dropped", None, Some(reason.name())),
        }
    }

    /// As one JSON document.
    pub fn to_json(&self) -> serde_json::Value {
        let name = |port: PortIndex| self.names[usize::from(port.0)];
        let chosen = |chosen: &Chosen| {
            json!({
                "address": chosen.endpoint.ip().to_string(), "port": chosen.endpoint.port(),
                "weight": chosen.weight, "state": chosen.state.name(),
            })
        };
        let (verdict, port, reason) = self.verdict_port_reason();
        let service = self.service();
        let next_hop = match &self.found.way {
            Some((_, Way::Hop(hop))) => {
                json!({"mac": hop.destination.to_string(), "port": name(hop.port), "mtu": hop.mtu})
            }
            _ => serde_json::Value::Null,
        };
        let sent = is_sent(self.found.verdict);
        json!({
            "service": service.map(|service| &*service.name),
            "forwarding": service.map(|service| service.forwarding.name()),
            "hash": self.found.choice.as_ref().map(|choice| format!("{:#018x}", choice.hash)),
            "slot": self.found.choice.as_ref().filter(|choice| choice.owner.is_some()).map(|choice| choice.slot),
            "table_size": self.found.choice.as_ref().map(|choice| choice.table_size),
            "owner": self.found.choice.as_ref().and_then(|choice| choice.owner.as_ref()).map(chosen),
            "backend": self.found.choice.as_ref().and_then(|choice| choice.goes.as_ref()).map(chosen),
            "next_hop": next_hop,
            "verdict": verdict,
            "port": port,
            "reason": reason,
            "headers": if sent { headers(self.frame.bytes()) } else { Vec::new() },
            "why": self.lines(),
        })
    }
}
