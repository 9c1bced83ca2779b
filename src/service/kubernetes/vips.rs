//! The addresses that a service is served at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::objects::{IpMode, Service, ServiceKind, ServicePort};
use super::{Options, Said};

/// The VIPs of a service, in order, each once; none where it is not for us.
///
/// They are the addresses that a load balancer has been given (`status`) in the mode "VIP" (KEP-1860: behind the other one, "Proxy", is
/// somebody who ends connections), and `spec.externalIPs`; only where neither gives any, the deprecated `spec.loadBalancerIP`, which
/// is a wish. A ClusterIP is the cluster's own.
pub fn vips(service: &Service, options: &Options, said: &mut Said<'_>) -> BTreeSet<IpAddr> {
    // Of an ExternalName there are no endpoints: it is an alias in the DNS.
    let is_ours = options.load_balancer_class.is_none() || service.class == options.load_balancer_class;
    if service.kind == ServiceKind::ExternalName || !is_ours {
        return BTreeSet::new();
    }
    let given = service.ingress.iter().filter(|ingress| ingress.mode == IpMode::Vip);
    let mut vips: BTreeSet<_> = given.filter_map(|ingress| ingress.address).collect();
    vips.extend(&service.external_ips);
    let is_wish = service.kind == ServiceKind::LoadBalancer && vips.is_empty();
    if let Some(text) = service.load_balancer_ip.as_ref().filter(|_| is_wish) {
        match text.parse() {
            Ok(vip) => drop(vips.insert(vip)),
            Err(_) => said.whole(format!("left out: its loadBalancerIP {text:?} is not an IPv4 or IPv6 address")),
        }
    }
    vips
}

/// The node port of a port, where it has one that is served.
pub fn node_port(service: &Service, port: &ServicePort) -> Option<u16> {
    let has_node_ports = matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer);
    port.node_port.filter(|_| has_node_ports)
}
