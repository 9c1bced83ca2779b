//! What one service leaves no other: its name, its VIP and ports, its endpoints (`dnat`), its code point on a backend (`dscp`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::reader::Draft;
use super::{Forwarding, Ports, Protocol, Service};

/// The claims of many services. `W` tells one from another, and to a person which it is.
#[derive(Debug)]
pub struct Claims<W> {
    names: HashMap<Arc<str>, W>,
    vips: HashMap<(IpNet, Protocol), Vec<(Ports, W)>>,
    /// A reply of `dnat` is known by its source alone, so an endpoint serves one VIP and port.
    endpoints: HashMap<(IpAddr, Protocol), Vec<(Ports, W)>>,
    /// A `dscp` backend knows the VIP by the code point alone.
    code_points: HashMap<(IpAddr, u8), Vec<(IpNet, W)>>,
}

/// What a service claims; what is malformed or absent claims nothing.
pub trait Claimant {
    fn name(&self) -> Option<Arc<str>>;
    fn vip(&self) -> Option<IpNet>;
    fn ports(&self) -> Option<Ports>;
    fn protocol(&self) -> Option<Protocol>;
    fn mode(&self) -> Option<Forwarding>;
    fn dscp(&self) -> Option<u8>;
    /// Address, and port where it has one of its own, of each backend.
    fn backends(&self) -> impl Iterator<Item = (Option<IpAddr>, Option<u16>)>;
}

/// A claim that somebody else has: at which key, and what to say of it.
pub type Conflict = (String, String);

impl<W> Default for Claims<W> {
    fn default() -> Self {
        Self { names: HashMap::new(), vips: HashMap::new(), endpoints: HashMap::new(), code_points: HashMap::new() }
    }
}

impl<W: Clone + Eq + Display> Claims<W> {
    /// Enters what `who` claims, beside what others claim already; says where that is the same.
    pub fn claim(&mut self, of: &impl Claimant, who: &W) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        conflicts.extend(self.claim_name(of, who));
        conflicts.extend(self.claim_vip(of, who));
        self.claim_endpoints(of, who, &mut conflicts);
        self.claim_code_points(of, who, &mut conflicts);
        conflicts
    }

    /// Forgets what `who` claimed.
    pub fn release(&mut self, of: &impl Claimant, who: &W) {
        if let Some(name) = of.name()
            && let Entry::Occupied(entry) = self.names.entry(name)
            && entry.get() == who
        {
            entry.remove();
        }
        if let (Some(vip), Some(protocol)) = (of.vip(), of.protocol()) {
            forget(&mut self.vips, (vip, protocol), who);
        }
        for address in of.backends().filter_map(|(address, _)| address) {
            if let Some(protocol) = of.protocol().filter(|_| replies_by_endpoint(of)) {
                forget(&mut self.endpoints, (address, protocol), who);
            }
            if let Some(dscp) = of.dscp().filter(|_| of.mode() == Some(Forwarding::Dscp)) {
                forget(&mut self.code_points, (address, dscp), who);
            }
        }
    }

    fn claim_name(&mut self, of: &impl Claimant, who: &W) -> Option<Conflict> {
        match self.names.entry(of.name()?) {
            Entry::Vacant(entry) => {
                entry.insert(who.clone());
                None
            }
            Entry::Occupied(entry) => {
                Some(("name".to_owned(), format!("{:?} is the name of {} already", entry.key(), entry.get())))
            }
        }
    }

    /// No two services take the same packet: the same ports of a VIP, or ranges that overlap. (A range around another
    /// service's single port is fine: the exact port wins.)
    fn claim_vip(&mut self, of: &impl Claimant, who: &W) -> Option<Conflict> {
        let (vip, ports, protocol) = (of.vip()?, of.ports()?, of.protocol()?);
        let is_range = |ports: Ports| ports.single().is_none() && ports != Ports::ALL;
        let others = self.vips.entry((vip, protocol)).or_default();
        let clash = others
            .iter()
            .find(|(other, _)| *other == ports || (is_range(*other) && is_range(ports) && other.overlaps(ports)));
        let conflict = clash.map(|(other, service)| {
            let vip_text =
                if vip.prefix_len() == vip.max_prefix_len() { vip.addr().to_string() } else { vip.to_string() };
            let reason = match ports.single() {
                _ if *other != ports => format!(
                    "{}-{} overlaps {}-{} of {service}, on the same VIP and protocol",
                    ports.first, ports.last, other.first, other.last
                ),
                Some(port) => format!("{vip_text} port {port} {} is {service} already", protocol.name()),
                None if ports == Ports::ALL => {
                    format!("all ports of {vip_text} {} are {service} already", protocol.name())
                }
                None => {
                    format!("{vip_text} ports {}-{} {} are {service} already", ports.first, ports.last, protocol.name())
                }
            };
            ((if *other == ports { "vip" } else { "port" }).to_owned(), reason)
        });
        others.push((ports, who.clone()));
        conflict
    }

    fn claim_endpoints(&mut self, of: &impl Claimant, who: &W, conflicts: &mut Vec<Conflict>) {
        let (Some(service_ports), Some(protocol)) = (of.ports(), of.protocol()) else { return };
        if !replies_by_endpoint(of) {
            return;
        }
        for (number, (address, port)) in of.backends().enumerate() {
            let Some(address) = address else { continue };
            let ports = port.map_or(service_ports, Ports::one);
            let others = self.endpoints.entry((address, protocol)).or_default();
            if let Some((_, other)) = others.iter().find(|(other, service)| service != who && other.overlaps(ports)) {
                let endpoint = endpoint_text(address, ports.single().unwrap_or(0));
                let reason = format!(
                    "{endpoint} {} is an endpoint of {other} too; \"dnat\" could not tell whose replies come from it. \
                     Let it serve on another port, or from another address",
                    protocol.name()
                );
                conflicts.push((format!("backends[{number}]"), reason));
            }
            others.push((ports, who.clone()));
        }
    }

    fn claim_code_points(&mut self, of: &impl Claimant, who: &W, conflicts: &mut Vec<Conflict>) {
        let (Some(vip), Some(dscp)) = (of.vip(), of.dscp()) else { return };
        if of.mode() != Some(Forwarding::Dscp) {
            return;
        }
        for (number, (address, _)) in of.backends().enumerate() {
            let Some(address) = address else { continue };
            let others = self.code_points.entry((address, dscp)).or_default();
            if let Some((_, other)) = others.iter().find(|(other, service)| service != who && *other != vip) {
                let reason = format!(
                    "{address} gets DSCP {dscp} for the VIP of {other} too, and could not tell the VIPs apart; use another code point"
                );
                conflicts.push((format!("backends[{number}].address"), reason));
            }
            others.push((vip, who.clone()));
        }
    }
}

fn replies_by_endpoint(of: &impl Claimant) -> bool {
    of.mode().is_some_and(|mode| mode.nature().replies_by_endpoint)
}

fn forget<K: Eq + Hash, T, W: Eq>(claims: &mut HashMap<K, Vec<(T, W)>>, key: K, who: &W) {
    if let Entry::Occupied(mut entry) = claims.entry(key) {
        entry.get_mut().retain(|(_, other)| other != who);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

/// How an endpoint is named to a person; port 0: the packet keeps one of several.
pub fn endpoint_text(address: IpAddr, port: u16) -> String {
    if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

impl Claimant for Draft {
    fn name(&self) -> Option<Arc<str>> {
        self.name.as_deref().map(Arc::from)
    }
    fn vip(&self) -> Option<IpNet> {
        self.vip
    }
    fn ports(&self) -> Option<Ports> {
        self.ports
    }
    fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }
    fn mode(&self) -> Option<Forwarding> {
        self.mode
    }
    fn dscp(&self) -> Option<u8> {
        self.dscp
    }
    fn backends(&self) -> impl Iterator<Item = (Option<IpAddr>, Option<u16>)> {
        self.backends.iter().map(|backend| (backend.address, backend.port))
    }
}

impl Claimant for Service {
    fn name(&self) -> Option<Arc<str>> {
        Some(self.name.clone())
    }
    fn vip(&self) -> Option<IpNet> {
        Some(self.vip)
    }
    fn ports(&self) -> Option<Ports> {
        Some(self.ports)
    }
    fn protocol(&self) -> Option<Protocol> {
        Some(self.protocol)
    }
    fn mode(&self) -> Option<Forwarding> {
        Some(self.forwarding)
    }
    fn dscp(&self) -> Option<u8> {
        self.dscp
    }
    fn backends(&self) -> impl Iterator<Item = (Option<IpAddr>, Option<u16>)> {
        self.backends.iter().map(|backend| (Some(backend.address), backend.port))
    }
}
