//! What no two services can have. The first in the order of namespace and name has it, whatever the order of the document.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::Said;
use super::join::{NONE_LEFT, cut};
use crate::service::{Protocol, Service};

/// What the services so far have taken.
#[derive(Default)]
pub struct Taken {
    /// VIP, protocol and port.
    frontends: HashMap<(IpAddr, Protocol, u16), Arc<str>>,
    /// Endpoints whose replies come back by the node, known by their source alone.
    endpoints: HashMap<(IpAddr, Protocol, u16), Arc<str>>,
    /// Backends that know their VIP by a code point alone, and that VIP.
    code_points: HashMap<(IpAddr, u8), (IpAddr, Arc<str>)>,
}

impl Taken {
    /// The service without what others have, where anything is left of it.
    pub fn admit(&mut self, mut service: Service, said: &mut Said<'_>) -> Option<Service> {
        let (name, vip, protocol) = (service.name.clone(), service.vip.addr(), service.protocol);
        let port = service.ports.first;
        if let Some(other) = self.frontends.get(&(vip, protocol, port)) {
            let reason = format!("left out: {vip} port {port} {} is {other} already", protocol.name());
            said.of(&name, reason);
            return None;
        }
        let all = service.backends.len();
        if service.forwarding.nature().replies_by_endpoint {
            service.backends.retain(|backend| {
                let key = (backend.address, protocol, backend.port.unwrap_or(port));
                let Some(other) = self.endpoints.get(&key) else { return true };
                let why = format!(
                    "{} is an endpoint of {other} too, and \"dnat\" could not tell whose replies come from it",
                    std::net::SocketAddr::new(key.0, key.2)
                );
                said.of(&name, cut(1, all, why));
                false
            });
        }
        if let Some(dscp) = service.dscp {
            service.backends.retain(|backend| match self.code_points.get(&(backend.address, dscp)) {
                Some((other_vip, other)) if *other_vip != vip => {
                    let why = format!(
                        "{} gets DSCP {dscp} for the VIP of {other} too, and could not tell the VIPs apart",
                        backend.address
                    );
                    said.of(&name, cut(1, all, why));
                    false
                }
                _ => true,
            });
        }
        if service.backends.is_empty() && all > 0 {
            // Of one, that was said with its reason.
            if all > 1 {
                said.of(&name, NONE_LEFT);
            }
            return None;
        }
        self.frontends.insert((vip, protocol, port), name.clone());
        for backend in &service.backends {
            if service.forwarding.nature().replies_by_endpoint {
                self.endpoints.insert((backend.address, protocol, backend.port.unwrap_or(port)), name.clone());
            }
            if let Some(dscp) = service.dscp {
                self.code_points.entry((backend.address, dscp)).or_insert_with(|| (vip, name.clone()));
            }
        }
        Some(service)
    }
}
