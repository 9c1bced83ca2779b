//! One Kubernetes service to services of ours: each port at each address.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use super::annotations::{self, Wishes};
use super::endpoints::{Candidate, Slices, state};
use super::health::{self, Nodes};
use super::objects::{self, Affinity, ServicePort, Slice};
use super::vips::{node_port, vips};
use super::{Options, Said};
use crate::service::{
    AllDown, Backend, ByteOrder, Geneve, Gue, Hash, Health, HealthCheck, IdleTimeout, MOST_BACKENDS, NoBackend, Ports,
    Protocol, Service, Tracking, not_one_station,
};
use crate::wire::Mac;

/// What all services of one object share.
struct Joint<'a> {
    object: &'a objects::Service,
    wishes: Wishes,
    slices: Slices<'a>,
    nodes: &'a Nodes<'a>,
    check: Option<HealthCheck>,
}

/// An address and port that clients connect to.
struct Frontend<'a> {
    vip: IpAddr,
    port: u16,
    of: &'a ServicePort,
}

impl Frontend<'_> {
    fn name(&self, object: &objects::Service) -> String {
        format!("{}:{}/{}@{}", object.name, self.port, self.of.protocol.to_lowercase(), self.vip)
    }
}

/// The services that an object becomes. What it cannot become is said.
pub fn services(
    object: &objects::Service,
    slices: &[&Slice],
    nodes: &Nodes<'_>,
    options: &Options,
    said: &mut Said<'_>,
) -> Vec<Service> {
    let frontends = frontends(object, options, said);
    if frontends.is_empty() {
        return Vec::new();
    }
    annotations::unknown(object).for_each(|reason| said.whole(reason));
    let (wishes, slices) = match (annotations::read(object, options.forwarding), Slices::new(slices)) {
        (Ok(wishes), Ok(slices)) => (wishes, slices),
        (wishes, slices) => {
            let faults = wishes.err().into_iter().chain(slices.err()).flatten();
            faults.for_each(|fault| said.fault(fault));
            return Vec::new();
        }
    };
    let joint = Joint { object, wishes, slices, nodes, check: health::check(object, options, said) };
    frontends.iter().filter_map(|frontend| joint.service(frontend, said)).collect()
}

/// Each port at each VIP, then each node port at each of the node's own addresses.
fn frontends<'a>(object: &'a objects::Service, options: &Options, said: &mut Said<'_>) -> Vec<Frontend<'a>> {
    let mut ports: Vec<_> = object.ports.iter().collect();
    ports.sort_by_key(|port| (port.port, &port.protocol, &port.name));
    let mut frontends = Vec::new();
    for vip in vips(object, options, said) {
        frontends.extend(ports.iter().map(|of| Frontend { vip, port: of.port, of }));
    }
    if options.node_ports {
        for &vip in options.own_addresses.iter().collect::<BTreeSet<_>>() {
            let port = |of: &&'a ServicePort| Some(Frontend { vip, port: node_port(object, of)?, of });
            frontends.extend(ports.iter().filter_map(port));
        }
    }
    frontends
}

impl Joint<'_> {
    fn service(&self, frontend: &Frontend<'_>, said: &mut Said<'_>) -> Option<Service> {
        let &Frontend { vip, port, of } = frontend;
        let (object, wishes, name) = (self.object, &self.wishes, frontend.name(self.object));
        let protocol = match of.protocol.as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => {
                said.of(&name, format!("left out: {other} is not balanced, only TCP and UDP are"));
                return None;
            }
        };
        if let Some(why) = not_one_station(vip) {
            said.of(&name, format!("left out: {vip} {why}; clients cannot connect to it"));
            return None;
        }
        let backends = self.backends(frontend, &name, said)?;

        let has_affinity = object.affinity == Affinity::ClientIp;
        let hash = wishes.hash.unwrap_or(if has_affinity { Hash::SourceIp } else { Hash::FiveTuple });
        let usual = if protocol == Protocol::Udp || has_affinity { Tracking::Full } else { Tracking::Transition };
        let tracking = match wishes.tracking.unwrap_or(usual) {
            Tracking::Transition if protocol == Protocol::Udp => {
                said.of(&name, "tracked in full: \"transition\" needs a SYN to tell a new flow by, and udp has none");
                Tracking::Full
            }
            tracking => tracking,
        };
        let affinity = Duration::from_secs(object.affinity_timeout.into());
        let is_kept = hash == Hash::SourceIp && tracking == Tracking::Full;
        if has_affinity && !is_kept {
            let reason = format!(
                "no client is remembered for sessionAffinity: that needs \"source-ip\" and \"full\", and by its annotations it has {:?} and {:?}",
                hash.name(),
                tracking.name()
            );
            said.of(&name, reason);
        }
        let ranges = object.ranges.clone();
        let is_other = |range: &ipnet::IpNet| range.addr().is_ipv4() != vip.is_ipv4();
        if !wishes.denies && !ranges.is_empty() && ranges.iter().all(is_other) {
            said.of(&name, format!("no client of {vip} is in any of its loadBalancerSourceRanges: all are refused"));
        }
        let (source_ranges, deny_ranges) = if wishes.denies { (Vec::new(), ranges) } else { (ranges, Vec::new()) };
        Some(Service {
            name: name.into(),
            vip: vip.into(),
            ports: Ports::one(port),
            protocol,
            forwarding: wishes.forwarding,
            hash,
            quic: None,
            tracking,
            no_backend: NoBackend::Drop,
            backends,
            source_ranges,
            deny_ranges,
            idle_timeout: IdleTimeout::default(),
            table_size: None,
            health: Health { check: self.check.clone(), all_down: AllDown::Drop },
            affinity_timeout: (has_affinity && is_kept).then_some(affinity),
            dscp: wishes.dscp,
            // As a native document has them that says nothing of them.
            gue: Gue { variant: 0, port: 6080 },
            geneve: Geneve {
                port: 6081,
                vni: 2,
                inner_destination: Mac([2, 0, 0, 0, 0, 2]),
                inner_source: Mac([2, 0, 0, 0, 0, 1]),
            },
            udp_checksum: false,
            byte_order: ByteOrder::Network,
        })
    }

    /// `None`: it was said why the service cannot be.
    fn backends(&self, frontend: &Frontend<'_>, name: &str, said: &mut Said<'_>) -> Option<Vec<Backend>> {
        let vip = frontend.vip;
        let mut candidates = self.slices.serving(frontend.of, vip.is_ipv4());
        let all = candidates.len();

        let mut ports = BTreeSet::new();
        let changes_port = self.wishes.forwarding.nature().changes_port;
        let keeps = |candidate: &Candidate<'_>| changes_port || candidate.port == frontend.port;
        ports.extend(candidates.iter().filter(|candidate| !keeps(candidate)).map(|candidate| candidate.port));
        candidates.retain(keeps);
        let mut reasons = usize::from(!ports.is_empty());
        if !ports.is_empty() {
            let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            let (own, mode) = (frontend.port, self.wishes.forwarding.name());
            let why = format!(
                "port {ports} differs from the service's {own}, and {mode:?} cannot change ports; let them listen on {own}, or annotate \
                 the service with a mode that can, as \"dnat\" (penstock.io/forwarding)"
            );
            said.of(name, cut(all - candidates.len(), all, why));
        }
        candidates.retain(|candidate| {
            let address = candidate.address;
            let why = match not_one_station(address) {
                Some(why) => format!("{address} {why}"),
                None if address == vip => {
                    format!("{address} is the service's own VIP: the packet would come straight back")
                }
                None => return true,
            };
            said.of(name, cut(1, all, why));
            reasons += 1;
            false
        });
        if candidates.is_empty() && all > 0 {
            // Where one reason took all, that was said with it.
            if reasons > 1 {
                said.of(name, NONE_LEFT);
            }
            return None;
        }
        if candidates.len() > MOST_BACKENDS {
            said.of(name, format!("left out: {} endpoints, at most {MOST_BACKENDS} are taken", candidates.len()));
            return None;
        }

        let has_ready = candidates.iter().any(|candidate| !candidate.is_terminating);
        let mut unknown = Vec::new();
        let backend = |candidate| {
            let &Candidate { address, port, weight, node, .. } = candidate;
            let asked = self.check.is_some() && !candidate.is_terminating;
            let health_address = node.filter(|_| asked).and_then(|node| self.nodes.address(node, address.is_ipv4()));
            if asked && health_address.is_none() {
                unknown.push(candidate);
            }
            Backend {
                address,
                port: Some(port).filter(|&port| port != frontend.port),
                weight,
                state: state(candidate, has_ready),
                tunnel_endpoint: None,
                server_id: None,
                health_address,
                is_unchecked: self.check.is_some() && health_address.is_none(),
            }
        };
        let backends = candidates.iter().map(backend).collect();
        health::tell_unknown(name, &unknown, said);
        Some(backends)
    }
}

/// What is said of a service whose endpoints were all cut, for more than one reason.
pub const NONE_LEFT: &str = "left out, for no endpoint is left";

/// Says that so many of all endpoints are left out.
pub fn cut(count: usize, all: usize, why: impl Display) -> String {
    match count {
        _ if count == all => format!("{NONE_LEFT}: {why}"),
        1 => format!("1 of {all} endpoints is left out: {why}"),
        count => format!("{count} of {all} endpoints are left out: {why}"),
    }
}
