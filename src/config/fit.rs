//! Whether definitions fit a node: what neither document shows by itself.

use std::net::IpAddr;

use super::Config;
use crate::mode;
use crate::service::problem::{Errors, Report};
use crate::service::{Definitions, Service};

/// Checks valid definitions (read from `file`) against a valid configuration. `check`, `replay` and the feed call it
/// before they compile.
pub fn fit(config: &Config, definitions: &Definitions, file: &str) -> Result<(), Errors> {
    let mut report = Report::new(file);
    for (index, service) in definitions.services.iter().enumerate() {
        fit_service(config, service, &format!("services[{index}]."), &mut report);
    }
    report.finish(|| ()).map(|_| ())
}

/// Checks one valid service against a valid configuration; `prefix` stands in front of each path.
pub fn fit_service(config: &Config, service: &Service, prefix: &str, report: &mut Report) {
    let encap = &config.encap;
    let has_v4 = encap.ipv4_source.is_some() || encap.rss_source_v4.is_some();
    let has_v6 = encap.ipv6_source.is_some() || encap.rss_source_v6.is_some();
    let (has_sources_v4, has_sources_v6) = (!config.snat.ipv4.is_empty(), !config.snat.ipv6.is_empty());
    let lacks = |to: IpAddr| if to.is_ipv4() { !has_v4 } else { !has_v6 };
    let mut outer =
        service.backends.iter().filter_map(|backend| mode::tunnel(service, backend)).map(|tunnel| tunnel.endpoint);
    if let Some(to) = outer.find(|&to| lacks(to)) {
        let key = if to.is_ipv4() { "ipv4_source" } else { "ipv6_source" };
        let reason = format!(
            "{:?} needs an outer source address, and the node has none to send to {to} from: set [encap] {key} in its configuration",
            service.forwarding.name()
        );
        report.error(format_args!("{prefix}forwarding"), reason);
    }
    let is_v4 = service.vip.addr().is_ipv4();
    if service.forwarding.nature().keeps_flows && !if is_v4 { has_sources_v4 } else { has_sources_v6 } {
        let key = if is_v4 { "ipv4" } else { "ipv6" };
        let reason = format!(
            "\"snat\" needs source addresses, and the node has none of this family: set [snat] {key} in its configuration"
        );
        report.error(format_args!("{prefix}forwarding"), reason);
    }
    let (count, size) = (service.backends.len(), config.hash.table_size);
    if service.table_size.is_none() && count > size as usize {
        let reason =
            format!("{count} backends do not fit into the node's tables of {size} slots; set a larger table_size");
        report.error(format_args!("{prefix}backends"), reason);
    }
}
