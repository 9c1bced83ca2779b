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
        let weighty = service.backends.iter().filter(|backend| backend.weight > 0).count();
        let size = config.hash.table_size;
        if service.table_size.is_none() && weighty > size as usize {
            report.error(
                format_args!("services[{index}].backends"),
                format!("{weighty} backends of weight above 0 do not fit into the node's tables of {size} slots; set a larger table_size"),
            );
        }
    }
    report.finish(|| ()).map(|_| ())
}
