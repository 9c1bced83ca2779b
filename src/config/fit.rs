//! Whether definitions fit a node: what neither document shows by itself.

use super::Config;
use crate::service::problem::{Errors, Report};
use crate::service::{Definitions, Forwarding};

/// Checks valid definitions (read from `file`) against a valid configuration. `check`, `replay` and the feed call it
/// before they compile.
pub fn fit(config: &Config, definitions: &Definitions, file: &str) -> Result<(), Errors> {
    let mut report = Report::new(file);
    for (index, service) in definitions.services.iter().enumerate() {
        if service.forwarding == Forwarding::Ipip && config.encap.ipv4_source.is_none() {
            report.error(
                format_args!("services[{index}].forwarding"),
                "\"ipip\" needs an outer source address, and the node has none: set [encap] ipv4_source in its configuration",
            );
        }
        let (count, size) = (service.backends.len(), config.hash.table_size);
        if service.table_size.is_none() && count > size as usize {
            let reason =
                format!("{count} backends do not fit into the node's tables of {size} slots; set a larger table_size");
            report.error(format_args!("services[{index}].backends"), reason);
        }
    }
    report.finish(|| ()).map(|_| ())
}
