//! `penstock check`: both documents, every error, and what the tables will cost.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::inputs::{BadAnnotations, Findings, find, warn};
use super::{Failure, print_json};
use crate::config::Config;
use crate::flow::{Begun, Clients, Flows};
use crate::mode;
use crate::service::{Definitions, Errors, Problem, Service, State, Tracking};
use crate::wire::{ipv4, ipv6, tcp};

/// Check a node's configuration and its service definitions
///
/// Every error is printed with the file, the place in it, and the reason. Exit code 0: both can be used; 2: they cannot.
/// Needs neither root nor a DPDK device, and changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The service definitions; by default the file that the configuration's [feed] names
    #[arg(long, value_name = "FILE")]
    pub services: Option<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let findings = find(&args.config, args.services.as_deref(), BadAnnotations::Refuse);
    warn(&findings.warnings);
    if args.json {
        print_json(&document(&findings))?;
    }
    if !findings.errors.is_empty() {
        return Err(Errors(findings.errors).into());
    }
    if !args.json {
        print_summary(args, &findings)?;
    }
    Ok(())
}

/// What the Maglev tables of definitions take, the same table counted once.
struct Tables {
    count: usize,
    bytes: usize,
    /// Beside these: the tables of those services that have draining or down backends now.
    masked_count: usize,
    masked_bytes: usize,
}

impl Tables {
    /// What the bases of slots take besides, if every table that flows are remembered for is changing.
    fn changing(definitions: &Definitions, config: &Config) -> usize {
        let remembers =
            |service: &&Arc<Service>| service.tracking != Tracking::None && !service.forwarding.nature().keeps_flows;
        let services = definitions.services.iter().filter(remembers).cloned().collect();
        Self::of(&Definitions { version: None, services }, config).bytes
    }
}

/// What a mode costs in packet size, for the services of one mode and family.
struct Growth {
    mode: &'static str,
    is_v4: bool,
    services: usize,
    /// Bytes that packets grow by, at most.
    overhead: u16,
    /// The largest TCP segment that then fits every port; clients learn it from the servers or by "too big".
    mss: u16,
}

impl Growth {
    fn of(definitions: &Definitions, config: &Config) -> Vec<Self> {
        let mtu = config.ports.iter().map(|port| port.mtu).min().unwrap_or(0);
        // IPv4 before IPv6.
        let mut grown: BTreeMap<(&str, bool, u16), usize> = BTreeMap::new();
        for service in &definitions.services {
            let overheads = service.backends.iter().map(|backend| mode::overhead(service, backend));
            if let Some(overhead) = overheads.max() {
                *grown.entry((service.forwarding.name(), service.vip.addr().is_ipv6(), overhead)).or_default() += 1;
            }
        }
        let growth = |((mode, is_v6, overhead), services): ((_, bool, u16), _)| {
            let is_v4 = !is_v6;
            let headers = if is_v4 { ipv4::HEADER } else { ipv6::HEADER } + tcp::HEADER;
            let mss = mtu.saturating_sub(overhead).saturating_sub(headers as u16);
            Self { mode, is_v4, services, overhead, mss }
        };
        grown.into_iter().map(growth).collect()
    }
}

/// Bytes of a slot.
const SLOT: usize = 2;

impl Tables {
    fn of(definitions: &Definitions, config: &Config) -> Self {
        let size = |service: &Service| service.table_size.unwrap_or(config.hash.table_size);
        let (mut whole, mut masked) = (HashSet::new(), HashSet::new());
        for service in definitions.services.iter().filter(|service| service.backends.iter().any(|b| b.weight > 0)) {
            let mut members: Vec<_> = service
                .backends
                .iter()
                .map(|backend| ((backend.address, backend.port, backend.weight), backend.state != State::Active))
                .collect();
            members.sort_unstable();
            let (members, mask): (Vec<_>, Vec<_>) = members.into_iter().unzip();
            if mask.contains(&true) {
                masked.insert((members.clone(), mask, size(service)));
            }
            whole.insert((members, size(service)));
        }
        Self {
            count: whole.len(),
            bytes: whole.iter().map(|(_, size)| *size as usize * SLOT).sum(),
            masked_count: masked.len(),
            masked_bytes: masked.iter().map(|(_, _, size)| *size as usize * SLOT).sum(),
        }
    }
}

fn print_summary(args: &Args, findings: &Findings) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(config) = &findings.config {
        let (ports, lcores) = (config.ports.len(), config.dpdk.lcores.len());
        let (neighbors, routes) = (config.neighbors.len(), config.routes.len());
        writeln!(
            out,
            "{}: good: node {:?}, {}, {}, {}, {}",
            args.config.display(),
            config.node.name,
            count(ports, "port"),
            count(lcores, "lcore"),
            count(neighbors, "static neighbor"),
            count(routes, "static route")
        )?;
        if let Some((definitions, file)) = &findings.definitions {
            let services = &definitions.services;
            let backends = services.iter().map(|service| service.backends.len()).sum();
            let version =
                definitions.version.as_ref().map(|version| format!("version {version:?}, ")).unwrap_or_default();
            writeln!(
                out,
                "{file}: good: {version}{}, {}",
                count(services.len(), "service"),
                count(backends, "backend")
            )?;
            let tables = Tables::of(definitions, config);
            writeln!(
                out,
                "memory: {} for {}, shared by all lcores",
                bytes(tables.bytes),
                count(tables.count, "Maglev table")
            )?;
            if tables.masked_count > 0 {
                let masked = count(tables.masked_count, "more table");
                writeln!(
                    out,
                    "        {} for {masked}, while backends are draining or down",
                    bytes(tables.masked_bytes)
                )?;
            }
            let changing = Tables::changing(definitions, config);
            if changing > 0 {
                let more = if tables.count == 1 { "more for a table" } else { "more for all tables" };
                writeln!(out, "        {} {more}, while the flows of a change are remembered", bytes(changing))?;
            }
            let (flows, lcores) = (config.environment().flows, config.dpdk.lcores.len());
            writeln!(
                out,
                "        {} for {flows} flows on {}, {} for as many clients",
                bytes(Flows::bytes(flows) * lcores),
                if lcores == 1 { "1 lcore".to_owned() } else { format!("each of {lcores} lcores") },
                bytes(Clients::bytes(flows))
            )?;
            let knows_beginnings = |service: &Arc<Service>| {
                service.forwarding.nature().knows_beginnings && service.tracking == Tracking::Full
            };
            if definitions.services.iter().any(knows_beginnings) {
                let beginnings = bytes(Begun::bytes(flows) * lcores);
                writeln!(out, "        {beginnings} for the beginnings of flows that dnat-dsr knows")?;
            }
            let sources = &config.environment().sources;
            if !sources.is_empty() {
                let (flows, memory) = (sources.flows(), bytes(sources.memory()));
                let lcores = count(sources.lcores(), "lcore");
                writeln!(
                    out,
                    "snat: {flows} flows of TCP and as many of UDP at once; {memory}, shared out among {lcores}"
                )?;
            }
            for Growth { mode, is_v4, services, overhead, mss } in Growth::of(definitions, config) {
                let (family, services) = (if is_v4 { "IPv4" } else { "IPv6" }, count(services, "service"));
                let size = match overhead {
                    0 => "packets keep their size".to_owned(),
                    overhead => format!("packets grow by {overhead} bytes"),
                };
                writeln!(out, "{mode}: {services}, {family}: {size}; clients will see an MSS of at most {mss}")?;
            }
        } else {
            writeln!(out, "no service definitions were named, and the feed is no file: none were checked")?;
        }
    }
    out.flush()
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn bytes(number: usize) -> String {
    match number {
        0..1000 => format!("{number} bytes"),
        1000..1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
        _ => format!("{:.1} MB", number as f64 / 1e6),
    }
}

fn document(findings: &Findings) -> serde_json::Value {
    let problems = |problems: &[Problem]| -> Vec<_> {
        problems
            .iter()
            .map(|problem| json!({"file": &*problem.file, "path": problem.path, "reason": problem.reason}))
            .collect()
    };
    let mut document = json!({
        "good": findings.errors.is_empty(),
        "errors": problems(&findings.errors),
        "warnings": problems(&findings.warnings),
    });
    if let Some(config) = &findings.config {
        document["config"] = json!({
            "node": config.node.name,
            "ports": config.ports.len(),
            "lcores": config.dpdk.lcores.len(),
            "neighbors": config.neighbors.len(),
            "routes": config.routes.len(),
        });
    }
    if let Some((definitions, file)) = &findings.definitions {
        let services = &definitions.services;
        document["definitions"] = json!({
            "file": file,
            "version": definitions.version,
            "services": services.len(),
            "backends": services.iter().map(|service| service.backends.len()).sum::<usize>(),
        });
        if let Some(config) = &findings.config {
            let tables = Tables::of(definitions, config);
            document["tables"] = json!({
                "count": tables.count,
                "bytes": tables.bytes,
                "masked_count": tables.masked_count,
                "masked_bytes": tables.masked_bytes,
                "changing_bytes": Tables::changing(definitions, config),
            });
            let (flows, lcores) = (config.environment().flows, config.dpdk.lcores.len());
            document["memory"] = json!({
                "flows": flows * lcores,
                "flow_bytes": Flows::bytes(flows) * lcores,
                "clients": flows,
                "client_bytes": Clients::bytes(flows),
            });
            let growth = Growth::of(definitions, config).into_iter().map(|growth| {
                json!({
                    "forwarding": growth.mode,
                    "family": if growth.is_v4 { 4 } else { 6 },
                    "services": growth.services,
                    "overhead": growth.overhead,
                    "mss": growth.mss,
                })
            });
            document["growth"] = growth.collect();
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service;

    fn tables(services: &str) -> (usize, usize, usize, usize) {
        let config = "[dpdk]\nlcores = [1]\n[[port]]\nname = \"a\"\ndevice = \"net_null0\"\n[hash]\nseed = \"AAECAwQFBgcICQoLDA0ODw==\"\ntable_size = 101";
        let (config, _) = Config::read(config, "c").unwrap();
        let (definitions, _) = service::native(format!("{{\"services\": [{services}]}}"), "s", None).unwrap();
        let Tables { count, bytes, masked_count, masked_bytes } = Tables::of(&definitions, &config);
        (count, bytes, masked_count, masked_bytes)
    }

    fn service(name: &str, port: u16, more: &str, backends: &[&str]) -> String {
        let backends: Vec<_> = backends.iter().map(|backend| format!("{{\"address\": {backend}}}")).collect();
        format!(
            r#"{{"name": "{name}", "vip": "192.0.2.1", "port": {port}, "protocol": "tcp", "forwarding": "ipip", {more} "backends": [{}]}}"#,
            backends.join(", ")
        )
    }

    #[test]
    fn a_table_is_counted_once_for_all_services_that_share_it() {
        let one = service("a", 80, "", &["\"10.0.0.1\"", "\"10.0.0.2\""]);
        let same = service("b", 81, "", &["\"10.0.0.2\"", "\"10.0.0.1\""]);
        let heavier = service("c", 82, "", &["\"10.0.0.1\", \"weight\": 7", "\"10.0.0.2\""]);
        let larger = service("d", 83, "\"table_size\": 103,", &["\"10.0.0.1\"", "\"10.0.0.2\""]);
        let none = service("e", 84, "", &["\"10.0.0.1\", \"weight\": 0"]);
        assert_eq!(tables(&format!("{one}, {same}")), (1, 202, 0, 0));
        assert_eq!(tables(&format!("{one}, {same}, {heavier}, {larger}, {none}")), (3, 202 + 202 + 206, 0, 0));
    }

    #[test]
    fn a_masked_table_stands_beside_the_whole_one() {
        let one = service("a", 80, "", &["\"10.0.0.1\"", "\"10.0.0.2\""]);
        let masked = service("b", 81, "", &["\"10.0.0.1\", \"state\": \"down\"", "\"10.0.0.2\""]);
        assert_eq!(tables(&format!("{one}, {masked}")), (1, 202, 1, 202));
    }
}
