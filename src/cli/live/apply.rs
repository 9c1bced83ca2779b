//! `penstock apply`: a file of definitions in place of those of a running node; says first what that changes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::table::{Tone, is_coloured, paint};
use super::{Failure, Live, ask, print_json};
use crate::cli::{inputs, say};
use crate::proto::{GetRequest, ReplaceRequest};
use crate::proto::{message_of_set, tree_of_set};
use crate::service::{self, Definitions, Service};

/// Replace the definitions of a running node by those of a file, after saying what changes
///
/// The node must take definitions over the API ([feed] kind = "none"). If somebody else changes them meanwhile, nothing is
/// changed, and the exit code is 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The service definitions; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only say what would change, and whether the node would take it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    live: Live,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let (new, warnings) = inputs::definitions(&args.file)?;
    inputs::warn(&warnings);
    ask(&args.live, async |node| {
        let set = node.call(node.definitions().get(GetRequest::default())).await?.definitions.unwrap_or_default();
        let (old, _) = service::read_tree(&tree_of_set(&set), "the node's definitions", None)?;
        let difference = difference(&old, &new);
        if !args.live.json {
            let is_renamed = new.version.is_some() && new.version != old.version;
            print(&difference, is_renamed, args.dry_run)?;
        }
        let request = ReplaceRequest {
            definitions: Some(message_of_set(&new)),
            expected_version: Some(set.version.unwrap_or_default()),
            dry_run: args.dry_run,
        };
        let written = node.call(node.definitions().replace(request)).await?;
        for warning in &written.warnings {
            say(format_args!("warning: {warning}"));
        }
        if args.live.json {
            let lines: Vec<_> = difference.iter().map(|line| line.text.as_str()).collect();
            print_json(&json!({
                "version": written.version, "changed": written.changed, "dry_run": args.dry_run, "difference": lines,
            }))?;
        } else if written.changed {
            let verb = if args.dry_run { "would be" } else { "is" };
            writeln!(io::stdout().lock(), "version {} {verb} in force", written.version)?;
        }
        Ok(())
    })
}

/// A line of what differs.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    text: String,
    tone: Tone,
}

/// `is_renamed`: whether the version is another.
fn print(lines: &[Line], is_renamed: bool, is_dry_run: bool) -> io::Result<()> {
    let (mut out, coloured) = (io::stdout().lock(), is_coloured());
    if lines.is_empty() {
        let subject = if is_renamed { "only the version" } else { "nothing" };
        return writeln!(out, "{subject} {}", if is_dry_run { "would change" } else { "changes" });
    }
    lines.iter().try_for_each(|line| writeln!(out, "{}", paint(&line.text, line.tone, coloured)))
}

/// What differs between two sets: services by name, and of those in both each key and backend.
fn difference(old: &Definitions, new: &Definitions) -> Vec<Line> {
    let by_name = |set: &Definitions| -> BTreeMap<Arc<str>, Arc<Service>> {
        set.services.iter().map(|service| (service.name.clone(), service.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let mut names: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let mut lines = Vec::new();
    for name in names {
        match (old.get(&name), new.get(&name)) {
            (None, Some(service)) => lines.push(added(format!("+ {}", described(service)))),
            (Some(service), None) => lines.push(removed(format!("- {}", described(service)))),
            (Some(old), Some(new)) if old != new => {
                lines.push(Line { text: format!("~ service {name:?}"), tone: Tone::Doubtful });
                lines.extend(within(old, new));
            }
            _ => {}
        }
    }
    lines
}

fn added(text: String) -> Line {
    Line { text, tone: Tone::Good }
}

fn removed(text: String) -> Line {
    Line { text, tone: Tone::Bad }
}

fn described(service: &Service) -> String {
    let (vip, ports, protocol) = (service.vip_text(), service.ports, service.protocol.name());
    let backends = service.backends.len();
    format!(
        "service {:?}: {vip} port {ports} {protocol}, {}, {backends} backends",
        service.name,
        service.forwarding.name()
    )
}

/// What differs within a service, by its JSON.
fn within(old: &Service, new: &Service) -> Vec<Line> {
    let object = |service: &Service| -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(&service.to_json()).unwrap_or_default()
    };
    let (mut old, mut new) = (object(old), object(new));
    let backends = |object: &mut serde_json::Map<String, serde_json::Value>| -> BTreeMap<String, serde_json::Value> {
        let list = object.remove("backends").and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let named = |mut backend: serde_json::Value| {
            let members = backend.as_object_mut()?;
            let address = members.remove("address")?.as_str()?.to_owned();
            let name = match members.remove("port") {
                Some(port) => format!("{address} port {port}"),
                None => address,
            };
            Some((name, backend))
        };
        list.into_iter().filter_map(named).collect()
    };
    let (old_backends, new_backends) = (backends(&mut old), backends(&mut new));
    let mut lines = members("", &old, &new);
    for (name, backend) in &old_backends {
        match new_backends.get(name) {
            None => lines.push(removed(format!("  - backend {name}"))),
            Some(other) => {
                let (Some(old), Some(new)) = (backend.as_object(), other.as_object()) else { continue };
                lines.extend(members(&format!("backend {name} "), old, new));
            }
        }
    }
    for (name, backend) in new_backends.iter().filter(|(name, _)| !old_backends.contains_key(*name)) {
        let weight = backend.get("weight").map_or(String::new(), |weight| format!(", weight {weight}"));
        lines.push(added(format!("  + backend {name}{weight}")));
    }
    lines
}

fn members(
    prefix: &str,
    old: &serde_json::Map<String, serde_json::Value>,
    new: &serde_json::Map<String, serde_json::Value>,
) -> Vec<Line> {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let text = |value: Option<&serde_json::Value>| value.map_or("(default)".to_owned(), ToString::to_string);
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let line = |key: &String| Line {
        text: format!("  ~ {prefix}{key}: {} -> {}", text(old.get(key)), text(new.get(key))),
        tone: Tone::Doubtful,
    };
    changed.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(services: &[&str]) -> Definitions {
        service::native(format!(r#"{{"services": [{}]}}"#, services.join(", ")), "s", None).unwrap().0
    }

    #[test]
    fn what_differs_is_said_by_service_key_and_backend() {
        let old = set(&[
            r#"{"name": "gone", "vip": "192.0.2.9", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": []}"#,
            r#"{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip",
                "backends": [{"address": "10.1.0.1"}, {"address": "10.1.0.2"}]}"#,
        ]);
        let new = set(&[
            r#"{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "gre", "hash": "source-ip",
                "backends": [{"address": "10.1.0.2", "weight": 50, "state": "draining"}, {"address": "10.1.0.3"}]}"#,
            r#"{"name": "dns", "vip": "192.0.2.2", "port": 53, "protocol": "udp", "forwarding": "dnat", "backends": []}"#,
        ]);
        let lines: Vec<_> = difference(&old, &new).into_iter().map(|line| line.text).collect();
        assert_eq!(
            lines,
            [
                "+ service \"dns\": 192.0.2.2 port 53 udp, dnat, 0 backends",
                "- service \"gone\": 192.0.2.9 port 80 tcp, ipip, 0 backends",
                "~ service \"web\"",
                "  ~ forwarding: \"ipip\" -> \"gre\"",
                "  ~ hash: (default) -> \"source-ip\"",
                "  - backend 10.1.0.1",
                "  ~ backend 10.1.0.2 state: \"active\" -> \"draining\"",
                "  ~ backend 10.1.0.2 weight: 100 -> 50",
                "  + backend 10.1.0.3, weight 100",
            ]
        );
        assert_eq!(difference(&new, &new), []);
    }
}
