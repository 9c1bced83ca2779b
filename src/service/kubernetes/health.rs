//! Whether the nodes of a service's endpoints take its traffic.
//!
//! With `externalTrafficPolicy: Local` each node tells a load balancer, at the service's `healthCheckNodePort`, whether it has a ready
//! endpoint of it: HTTP 200, else 503 (kube-proxy and Cilium alike). As packets go straight to an endpoint, they take no other hop in
//! any case, and slices say the same as the nodes; but a node that died says so sooner by not answering.
//!
//! An endpoint that terminates is not asked for: the answer counts ready ones only, and would take away what KEP-1669 lets stand in for them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::endpoints::Candidate;
use super::objects::{Node, Service, ServiceKind, TrafficPolicy};
use super::{Options, Said};
use crate::service::{CheckKind, CheckTarget, HealthCheck};

/// The addresses of nodes.
pub struct Nodes<'a> {
    known: HashMap<&'a str, &'a Node>,
    options: &'a Options,
}

impl<'a> Nodes<'a> {
    pub fn new(nodes: &'a [Node], options: &'a Options) -> Self {
        Self { known: nodes.iter().map(|node| (node.name.as_str(), node)).collect(), options }
    }

    /// Where a node is asked from outside, best in the family of its endpoint: by the document, else by the configuration.
    pub fn address(&self, name: &str, is_v4: bool) -> Option<IpAddr> {
        let addresses = self.known.get(name).map_or(&[][..], |node| &node.addresses);
        // The first of the best.
        let best = addresses.iter().min_by_key(|it| (it.address.is_ipv4() != is_v4, !it.is_internal));
        best.map(|best| best.address).or_else(|| self.options.node_addresses.get(name).copied())
    }
}

/// The check of a service's backends, where its nodes are to be asked.
pub fn check(service: &Service, options: &Options, said: &mut Said<'_>) -> Option<HealthCheck> {
    // A service of another type has no such port.
    let is_local = service.traffic_policy == TrafficPolicy::Local && service.kind == ServiceKind::LoadBalancer;
    if !options.health_check_node_ports || !is_local {
        return None;
    }
    if service.health_check_node_port.is_none() {
        said.whole(
            "its nodes are not checked, for it has no healthCheckNodePort: its endpoints count as up".to_owned(),
        );
    }
    Some(HealthCheck {
        kind: CheckKind::Http,
        target: CheckTarget::Backend,
        port: Some(service.health_check_node_port?),
        path: "/healthz".to_owned(),
        host: None,
        expect_status: 200,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise: 2,
        fall: 3,
    })
}

/// Says which endpoints' nodes cannot be asked.
pub fn tell_unknown(name: &str, unknown: &[&Candidate<'_>], said: &mut Said<'_>) {
    let nodes: BTreeSet<&str> = unknown.iter().filter_map(|candidate| candidate.node).collect();
    if !nodes.is_empty() {
        let nodes = nodes.into_iter().collect::<Vec<_>>().join(", ");
        let reason = format!(
            "not checked, and so up: the endpoints on {nodes}, of which no address is known; add \"nodes\" to the document, or set \
             [feed] node_addresses"
        );
        said.of(name, reason);
    }
    let homeless: Vec<_> = unknown.iter().filter(|it| it.node.is_none()).map(|it| it.address.to_string()).collect();
    if !homeless.is_empty() {
        said.of(name, format!("not checked, and so up: {}, whose slice names no node", homeless.join(", ")));
    }
}
