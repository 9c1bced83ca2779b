//! Slices to backends: which endpoints of a service may be used, and how.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use super::annotations::{self, Fault};
use super::objects::{AddressType, ServicePort, Slice};
use crate::service::State;

/// The slices of one service, in the order of their names, with their weights.
pub struct Slices<'a>(Vec<(&'a Slice, u16)>);

/// One endpoint of a service's port, told once by however many slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
    pub node: Option<&'a str>,
    is_ready: bool,
    serves: bool,
    pub is_terminating: bool,
}

impl<'a> Slices<'a> {
    pub fn new(slices: &[&'a Slice]) -> Result<Self, Vec<Fault>> {
        let (mut weighed, mut faults) = (Vec::with_capacity(slices.len()), Vec::new());
        for slice in slices {
            match annotations::weight(slice) {
                Ok(weight) => weighed.push((*slice, weight)),
                Err(fault) => faults.push(fault),
            }
        }
        weighed.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        if faults.is_empty() { Ok(Self(weighed)) } else { Err(faults) }
    }

    /// The endpoints of one port, in one family, that serve; in the order of their addresses.
    ///
    /// A port of a service and one of a slice are the same where name and protocol are. While an endpoint moves between slices it stands
    /// in two, perhaps not alike: the one that says it terminates is the later one, for no pod comes back from that; then the one by
    /// which it can be used; then the first by the slices' names, so that the document's order does not matter.
    pub fn serving(&self, port: &ServicePort, is_v4: bool) -> Vec<Candidate<'a>> {
        let family = if is_v4 { AddressType::Ipv4 } else { AddressType::Ipv6 };
        let mut found: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
        for &(slice, weight) in self.0.iter().filter(|(slice, _)| slice.address_type == family) {
            let same = slice.ports.iter().filter(|own| own.name == port.name && own.protocol == port.protocol);
            for port in same.filter_map(|own| own.port) {
                for endpoint in &slice.endpoints {
                    // KEP-1672: what is absent is taken so.
                    let is_ready = endpoint.ready.unwrap_or(true);
                    let serves = endpoint.serving.unwrap_or(is_ready);
                    let is_terminating = endpoint.terminating.unwrap_or(false);
                    for &address in &endpoint.addresses {
                        let node = endpoint.node.as_deref();
                        let candidate = Candidate { address, port, weight, node, is_ready, serves, is_terminating };
                        match found.entry((address, port)) {
                            Entry::Vacant(entry) => drop(entry.insert(candidate)),
                            Entry::Occupied(mut entry) if candidate.is_told_better_than(entry.get()) => {
                                entry.insert(candidate);
                            }
                            Entry::Occupied(_) => {}
                        }
                    }
                }
            }
        }
        found.into_values().filter(Candidate::is_of_use).collect()
    }
}

impl Candidate<'_> {
    fn is_told_better_than(&self, other: &Self) -> bool {
        let rank = |it: &Self| (it.is_terminating, it.is_ready, it.serves);
        rank(self) > rank(other)
    }

    /// Never one that does not serve.
    fn is_of_use(&self) -> bool {
        self.serves && (self.is_ready || self.is_terminating)
    }
}

/// The state of a candidate as a backend, beside ready ones or not (KEP-1669, told of kube-proxy).
///
/// Those that are ready and do not terminate are used; beside them, those that terminate and still serve keep their flows. Where there is
/// no ready one, those that terminate are better than nothing: they are used until they are gone.
pub fn state(candidate: &Candidate<'_>, has_ready: bool) -> State {
    if candidate.is_terminating && has_ready { State::Draining } else { State::Active }
}
