//! Whether definitions fit a node: what neither document shows by itself.

use std::net::IpAddr;

use super::Config;
use crate::mode;
use crate::service::problem::{Errors, Report};
use crate::service::{Definitions, LeftOut, Reading, Service};

/// Checks valid definitions (read from `file`) against a valid configuration. `check`, `replay` and the feed call it
/// before they compile.
pub fn fit(config: &Config, definitions: &Definitions, file: &str) -> Result<(), Errors> {
    let mut report = Report::new(file);
    for (index, service) in definitions.services.iter().enumerate() {
        for (key, reason) in misfits(config, service) {
            report.error(format_args!("services[{index}].{key}"), reason);
        }
    }
    report.finish(|| ()).map(|_| ())
}

/// Checks one valid service against a valid configuration.
pub fn fit_service(config: &Config, service: &Service, file: &str) -> Result<(), Errors> {
    let mut report = Report::new(file);
    misfits(config, service).into_iter().for_each(|(key, reason)| report.error(key, reason));
    report.finish(|| ()).map(|_| ())
}

/// As [`fit`], of what was read: services of Kubernetes that do not fit are left out, and hold nothing else back.
pub fn admit(config: &Config, reading: &mut Reading, file: &str) -> Result<(), Errors> {
    if !reading.is_kubernetes {
        return fit(config, &reading.definitions, file);
    }
    reading.left_out.extend(leave_out(config, &mut reading.definitions));
    Ok(())
}

/// Takes services out of valid definitions that do not fit a valid configuration, and says why.
pub fn leave_out(config: &Config, definitions: &mut Definitions) -> Vec<LeftOut> {
    let mut said = Vec::new();
    definitions.services.retain(|service| {
        let misfits = misfits(config, service);
        let left_out = |(_, reason): &(_, String)| LeftOut {
            service: service.name.to_string(),
            reason: format!("left out: {reason}"),
            bad_annotation: None,
        };
        said.extend(misfits.iter().map(left_out));
        misfits.is_empty()
    });
    said
}

/// Keys by which a service does not fit the node, with the reasons.
fn misfits(config: &Config, service: &Service) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let encap = &config.encap;
    let has_v4 = encap.ipv4_source.is_some() || encap.rss_source_v4.is_some();
    let has_v6 = encap.ipv6_source.is_some() || encap.rss_source_v6.is_some();
    let lacks = |to: IpAddr| if to.is_ipv4() { !has_v4 } else { !has_v6 };
    let mut outer =
        service.backends.iter().filter_map(|backend| mode::tunnel(service, backend)).map(|tunnel| tunnel.endpoint);
    if let Some(to) = outer.find(|&to| lacks(to)) {
        let key = if to.is_ipv4() { "ipv4_source" } else { "ipv6_source" };
        let reason = format!(
            "{:?} needs an outer source address, and the node has none to send to {to} from: set [encap] {key} in its configuration",
            service.forwarding.name()
        );
        found.push(("forwarding", reason));
    }
    let sources = &config.snat;
    let has_sources = if service.vip.addr().is_ipv4() { !sources.ipv4.is_empty() } else { !sources.ipv6.is_empty() };
    if service.forwarding.nature().keeps_flows && !has_sources {
        let key = if service.vip.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let reason = format!(
            "\"snat\" needs source addresses, and the node has none of this family: set [snat] {key} in its configuration"
        );
        found.push(("forwarding", reason));
    }
    found.extend(no_way_through(config, service).map(|reason| ("health_check.target", reason)));
    found.extend(takes_answers(config, service).map(|reason| ("port", reason)));
    let (count, size) = (service.backends.len(), config.hash.table_size);
    if service.table_size.is_none() && count > size as usize {
        let reason =
            format!("{count} backends do not fit into the node's tables of {size} slots; set a larger table_size");
        found.push(("backends", reason));
    }
    found
}

/// Why the node cannot check this service's backends through the service, where it is to.
fn no_way_through(config: &Config, service: &Service) -> Option<String> {
    let check = service.health.check.as_ref()?;
    if !check.goes_through_the_service() {
        return None;
    }
    if config.ports.iter().all(|port| port.twin.is_none()) {
        let reason = "\"vip\" needs a kernel twin, by which the backends' answers come back, and no [[port]] of the node has one: \
                      set twin there, or use \"backend\"";
        return Some(reason.to_owned());
    }
    let health = &config.health;
    let (source, key, is_shared) = match service.vip.addr() {
        IpAddr::V4(_) => {
            let is_shared = health.ipv4_source.is_some_and(|source| config.snat.ipv4.contains(&source));
            (health.ipv4_source.map(IpAddr::from), "ipv4_source", is_shared)
        }
        IpAddr::V6(_) => {
            let is_shared = health.ipv6_source.is_some_and(|source| config.snat.ipv6.contains(&source));
            (health.ipv6_source.map(IpAddr::from), "ipv6_source", is_shared)
        }
    };
    match source {
        None => Some(format!(
            "\"vip\" needs an address of the node's own to ask from, and none of this family is known: set [health] {key} in its configuration"
        )),
        Some(source) if service.vip.contains(&source) => Some(format!(
            "\"vip\" asks from {source}, which is the VIP: set another [health] {key} in the node's configuration, or use \"backend\""
        )),
        Some(source) if is_shared && health.ports.overlaps(config.snat.ports) => Some(format!(
            "\"vip\" asks from {source}, ports {}, and of these \"snat\" has some ({}): set [health] ports, or those of [snat], in the node's configuration",
            health.ports, config.snat.ports
        )),
        Some(_) => None,
    }
}

/// Why this service would take the answers to checks that go through services, whosever they are: they come to an address of the node's
/// own, and there services go first.
fn takes_answers(config: &Config, service: &Service) -> Option<String> {
    let health = &config.health;
    let own = [health.ipv4_source.map(IpAddr::from), health.ipv6_source.map(IpAddr::from)];
    let own = own.into_iter().flatten().find(|own| service.vip.contains(own))?;
    // Without a twin none goes through.
    let takes = service.ports.overlaps(health.ports) && config.ports.iter().any(|port| port.twin.is_some());
    let key = if own.is_ipv4() { "ipv4_source" } else { "ipv6_source" };
    takes.then(|| {
        format!(
            "of {own} the node itself needs ports {}, to which answers to health checks through services come: leave them out, or set \
             another [health] ports or {key} in the node's configuration",
            health.ports
        )
    })
}
