//! Kubernetes-shaped documents: Services, EndpointSlices and Nodes as their API has them, to service definitions.
//!
//! A document comes from a file (Cilium's `--lb-state-file`, what `kubectl get -o json` prints) or from any other feed, and goes through
//! four steps: `documents` finds the `objects` in it; `join` makes of each Service what it can be, one service of ours for each port at
//! each of its `vips`, with the backends that `endpoints` finds in its slices and the checks that `health` knows of; `annotations` choose
//! what Kubernetes has no field for; `clashes` lets no two services have the same. The same objects in any order give the same
//! definitions.
//!
//! A document that is malformed is refused as a whole, like a native one. A service that is well formed and cannot be honoured is left
//! out, or cut to what can be, and said so: whoever writes one service of a cluster must not be able to hold back the others.

mod annotations;
mod clashes;
mod documents;
mod endpoints;
mod health;
mod join;
mod objects;
mod vips;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use super::problem::{Problem, Report};
use super::tree::Value;
use super::{Forwarding, Service};
use annotations::Fault;
use clashes::Taken;
use documents::Objects;
use health::Nodes;
use objects::{Name, Slice};

pub use documents::{are_shaped, version};

/// What a node's configuration says of Kubernetes-shaped documents.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Mode of services that name none; not "dscp", which needs more than its name.
    pub forwarding: Forwarding,
    /// Only services of this class have VIPs here; `None`: of any, or none.
    pub load_balancer_class: Option<String>,
    /// Whether the nodes of services with `externalTrafficPolicy: Local` are asked at their `healthCheckNodePort`.
    pub health_check_node_ports: bool,
    /// Whether each `nodePort` is also a service on the node's own addresses.
    pub node_ports: bool,
    /// Addresses of Kubernetes' nodes that the document does not tell.
    pub node_addresses: BTreeMap<String, IpAddr>,
    /// The node's own.
    pub own_addresses: Vec<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            forwarding: Forwarding::Ipip,
            load_balancer_class: None,
            health_check_node_ports: false,
            node_ports: false,
            node_addresses: BTreeMap::new(),
            own_addresses: Vec::new(),
        }
    }
}

/// A service that cannot be honoured as it is written: left out, or cut to what can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// `namespace/name:PORT/PROTOCOL@VIP`; `namespace/name`, where that is said of all of it.
    pub service: String,
    /// What is missing of it, and why.
    pub reason: String,
    /// The bad annotation behind it. `penstock check` takes such a document for bad.
    pub bad_annotation: Option<Problem>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.service, self.reason)
    }
}

/// Collects what is said of one object's services.
struct Said<'a> {
    object: &'a Name,
    file: &'a str,
    left_out: &'a mut Vec<LeftOut>,
}

impl Said<'_> {
    /// Of one service.
    fn of(&mut self, service: &str, reason: impl Into<String>) {
        self.left_out.push(LeftOut { service: service.to_owned(), reason: reason.into(), bad_annotation: None });
    }

    /// Of the whole object.
    fn whole(&mut self, reason: impl Into<String>) {
        self.of(&self.object.to_string(), reason);
    }

    fn fault(&mut self, Fault { path, annotation, reason }: Fault) {
        let service = self.object.to_string();
        let said = format!("left out: {annotation}: {reason}");
        let problem = Problem { file: self.file.into(), path, reason };
        self.left_out.push(LeftOut { service, reason: said, bad_annotation: Some(problem) });
    }
}

/// The services of all documents of a stream, in the order of their names, and what is left out of them. What is malformed is reported.
pub fn read(
    documents: Vec<Value<'_>>,
    file: &str,
    options: &Options,
    report: &mut Report,
) -> (Vec<Service>, Vec<LeftOut>) {
    let Objects { mut services, slices, nodes, .. } = Objects::read(documents, report);
    services.sort_by(|one, other| one.name.cmp(&other.name));
    let mut of_service: HashMap<&Name, Vec<&Slice>> = HashMap::new();
    for slice in &slices {
        if let Some(service) = &slice.service {
            of_service.entry(service).or_default().push(slice);
        }
    }
    let nodes = Nodes::new(&nodes, options);
    let (mut taken, mut served, mut left_out) = (Taken::default(), Vec::new(), Vec::new());
    for object in &services {
        let said = &mut Said { object: &object.name, file, left_out: &mut left_out };
        let slices = of_service.get(&object.name).map_or(&[][..], Vec::as_slice);
        let made = join::services(object, slices, &nodes, options, said);
        served.extend(made.into_iter().filter_map(|service| taken.admit(service, said)));
    }
    (served, left_out)
}

#[cfg(test)]
mod tests;
