//! `penstock status`: whether a node is well.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::table::{Tone, grouped, is_coloured, paint};
use super::{Failure, Live, ask, print_json};
use crate::proto::{StatusRequest, StatusResponse};

/// Show how a running node is
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let status = ask(&args.live, async |node| node.call(node.node().status(StatusRequest {})).await)?;
    if args.live.json {
        print_json(&document(&status))?;
    } else {
        print(&status)?;
    }
    Ok(())
}

pub(super) fn since(stamp: Option<&prost_types::Timestamp>) -> Option<Duration> {
    SystemTime::now().duration_since(SystemTime::try_from(*stamp?).ok()?).ok()
}

/// A duration as people say it: two units at most.
pub(super) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match () {
        () if days > 0 => format!("{days} d {hours} h"),
        () if hours > 0 => format!("{hours} h {minutes} min"),
        () if minutes > 0 => format!("{minutes} min {} s", seconds % 60),
        () => format!("{seconds} s"),
    }
}

fn print(status: &StatusResponse) -> io::Result<()> {
    let (mut out, coloured) = (io::stdout().lock(), is_coloured());
    let mut line = |name: &str, text: String, tone| writeln!(out, "{name:<13}{}", paint(&text, tone, coloured));
    let age = since(status.started.as_ref()).map(|age| format!(", for {}", spoken(age))).unwrap_or_default();
    let phase = if status.phase == "forwarding" { Tone::Good } else { Tone::Doubtful };
    line("node", format!("{}, penstock {}: {}{age}", status.name, status.release, status.phase), phase)?;
    match &status.version {
        Some(version) => {
            let version = if version.is_empty() { "(none)" } else { version };
            let (services, backends) = (status.services, status.backends);
            line("definitions", format!("version {version}: {services} services, {backends} backends"), Tone::Plain)?;
        }
        None => line("definitions", "none yet: every packet to a VIP goes to the kernel".to_owned(), Tone::Bad)?,
    }
    if let Some(feed) = &status.feed {
        let from = match feed.kind.as_str() {
            "none" => "none: written over the API".to_owned(),
            kind => format!("{kind} {}", feed.source),
        };
        let age = match since(feed.last_success.as_ref()) {
            Some(age) => format!("; last good set {} ago", spoken(age)),
            None if feed.kind == "none" => String::new(),
            None => "; no good set yet".to_owned(),
        };
        line("feed", from + &age, Tone::Plain)?;
        for text in feed.error.lines() {
            line("", format!("not in force: {text}"), Tone::Bad)?;
        }
        for left in &feed.left_out {
            line("", format!("left out: {}: {}", left.service, left.reason), Tone::Doubtful)?;
        }
    }
    for lcore in &status.lcores {
        let text = format!("CPU {}: {:.0} % busy, {} flows", lcore.cpu, lcore.busy_ratio * 100.0, grouped(lcore.flows));
        line("lcore", text, Tone::Plain)?;
    }
    for port in &status.ports {
        let text = format!(
            "{}: {} received, {} forwarded, {} answered, {} punted, {} dropped, {} missed",
            port.name,
            grouped(port.received),
            grouped(port.forwarded),
            grouped(port.answered),
            grouped(port.punted),
            grouped(port.dropped),
            grouped(port.missed)
        );
        line("port", text, if port.missed > 0 { Tone::Doubtful } else { Tone::Plain })?;
    }
    line("mbufs", format!("{} of {} in use", grouped(status.mbufs_in_use), grouped(status.mbufs)), Tone::Plain)?;
    if status.unresolved_next_hops > 0 {
        line("next hops", format!("{} without a MAC address", status.unresolved_next_hops), Tone::Bad)?;
    }
    for out in &status.out {
        line("out", format!("{} of {}: {}", out.backend, out.service, out.reason), Tone::Bad)?;
    }
    for drained in &status.drained {
        let of = drained.service.as_ref().map_or("every service".to_owned(), |name| format!("service {name:?}"));
        line("drained", format!("{} of {of}, by hand", drained.backend), Tone::Doubtful)?;
    }
    for moving in &status.moving {
        let text = format!("{:?}: {} slots have flows elsewhere than new ones go", moving.service, moving.slots);
        line("moving", text, Tone::Plain)?;
    }
    Ok(())
}

fn document(status: &StatusResponse) -> serde_json::Value {
    let time = |stamp: Option<&prost_types::Timestamp>| stamp.map(ToString::to_string);
    json!({
        "name": status.name,
        "release": status.release,
        "started": time(status.started.as_ref()),
        "phase": status.phase,
        "version": status.version,
        "services": status.services,
        "backends": status.backends,
        "feed": status.feed.as_ref().map(|feed| json!({
            "kind": feed.kind,
            "source": feed.source,
            "last_success": time(feed.last_success.as_ref()),
            "error": feed.error,
            "left_out": feed.left_out.iter().map(|left| json!({"service": left.service, "reason": left.reason}))
                .collect::<Vec<_>>(),
        })),
        "lcores": status.lcores.iter().map(|lcore| json!({
            "cpu": lcore.cpu, "busy_ratio": lcore.busy_ratio, "flows": lcore.flows,
        })).collect::<Vec<_>>(),
        "ports": status.ports.iter().map(|port| json!({
            "name": port.name, "received": port.received, "forwarded": port.forwarded, "answered": port.answered,
            "punted": port.punted, "dropped": port.dropped, "missed": port.missed,
        })).collect::<Vec<_>>(),
        "out": status.out.iter().map(|out| json!({
            "service": out.service, "backend": out.backend, "reason": out.reason,
        })).collect::<Vec<_>>(),
        "moving": status.moving.iter().map(|moving| json!({
            "service": moving.service, "slots": moving.slots,
        })).collect::<Vec<_>>(),
        "drained": status.drained.iter().map(|drained| json!({
            "backend": drained.backend, "service": drained.service,
        })).collect::<Vec<_>>(),
        "unresolved_next_hops": status.unresolved_next_hops,
        "mbufs_in_use": status.mbufs_in_use,
        "mbufs": status.mbufs,
    })
}
