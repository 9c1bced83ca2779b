//! Documents of Kubernetes' objects, and what becomes of them.

mod broken;
mod cases;
mod random;

use super::*;
use crate::service::{Hash, Reading, Tracking, read as read_document};

/// A state file of services, slices and nodes, each written as a YAML flow mapping.
fn state(services: &[String], slices: &[String], nodes: &[&str]) -> String {
    let list = |key: &str, items: &[String]| match items {
        [] => format!("{key}: []\n"),
        items => format!("{key}:\n") + &items.iter().map(|item| format!("- {item}\n")).collect::<String>(),
    };
    let nodes: Vec<_> = nodes.iter().map(|node| (*node).to_owned()).collect();
    list("services", services) + &list("endpoints", slices) + &list("nodes", &nodes)
}

/// A service `shop/NAME` of type LoadBalancer at some VIPs.
fn balanced(name: &str, spec: &str, vips: &[&str]) -> String {
    annotated(name, "", spec, vips)
}

fn annotated(name: &str, annotations: &str, spec: &str, vips: &[&str]) -> String {
    let ingress: Vec<_> = vips.iter().map(|vip| format!("{{ip: \"{vip}\"}}")).collect();
    let ingress = ingress.join(", ");
    format!(
        "{{metadata: {{namespace: shop, name: {name}, annotations: {{{annotations}}}}}, spec: {{type: LoadBalancer, {spec}}}, \
         status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
    )
}

/// A slice of `shop/NAME`, of IPv4 but where an address says otherwise.
fn slice(of: &str, ports: &str, endpoints: &str) -> String {
    slice_named("", of, "", ports, endpoints)
}

fn slice_named(name: &str, of: &str, annotations: &str, ports: &str, endpoints: &str) -> String {
    let family = if endpoints.contains("::") { "IPv6" } else { "IPv4" };
    format!(
        "{{metadata: {{name: '{name}', namespace: shop, labels: {{kubernetes.io/service-name: {of}}}, annotations: {{{annotations}}}}}, \
         addressType: {family}, ports: [{ports}], endpoints: [{endpoints}]}}"
    )
}

/// An endpoint with some of its conditions.
fn endpoint(address: &str, conditions: &str) -> String {
    format!("{{addresses: [\"{address}\"], conditions: {{{conditions}}}}}")
}

fn read_state(document: &str, options: &Options) -> Reading {
    read_document(document, "state.yaml", None, options).unwrap_or_else(|errors| panic!("{errors}\n{document}"))
}

/// A service in a line, without what is usual.
fn line(service: &Service) -> String {
    let mut line = format!("{} {}", service.name, service.forwarding.name());
    let mut say = |text: String| {
        line.push(' ');
        line.push_str(&text);
    };
    if service.hash != Hash::FiveTuple {
        say(service.hash.name().to_owned());
    }
    if service.tracking != Tracking::Transition {
        say(service.tracking.name().to_owned());
    }
    if let Some(timeout) = service.affinity_timeout {
        say(format!("for {}s", timeout.as_secs()));
    }
    if let Some(dscp) = service.dscp {
        say(format!("dscp {dscp}"));
    }
    service.source_ranges.iter().for_each(|range| say(format!("+{range}")));
    service.deny_ranges.iter().for_each(|range| say(format!("-{range}")));
    if let Some(check) = &service.health.check {
        say(format!("{} {}", check.kind.name(), check.port.unwrap()));
    }
    for backend in &service.backends {
        let mut text = format!("| {}", backend.address);
        if let Some(port) = backend.port {
            text += &format!(" port {port}");
        }
        if backend.weight != 100 {
            text += &format!(" weight {}", backend.weight);
        }
        if backend.state != super::super::State::Active {
            text += &format!(" {}", backend.state.name());
        }
        if let Some(address) = backend.health_address {
            text += &format!(" asks {address}");
        }
        if backend.is_unchecked {
            text += " unchecked";
        }
        say(text);
    }
    line
}

/// Services, then what was left out, then warnings: a line each.
fn lines(reading: &Reading) -> Vec<String> {
    let services = reading.definitions.services.iter().map(|service| line(service));
    let left_out = reading.left_out.iter().map(|left| format!("! {left}"));
    let warnings = reading.warnings.iter().map(|warning| format!("? {warning}"));
    services.chain(left_out).chain(warnings).collect()
}
