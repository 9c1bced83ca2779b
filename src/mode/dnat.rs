//! `dnat`: the destination becomes the backend; replies come back through the load balancer.
//!
//! ```text
//! request  client:port -> VIP:port      becomes  client:port -> backend:port
//! reply    backend:port -> client:port  becomes  VIP:port -> client:port
//! ```
//!
//! The backend needs nothing but a route to its clients that leads back here. Replies are recognised by their source, an
//! endpoint of a `dnat` service, without any state: so an endpoint serves one VIP and port only. TTL - 1 both ways;
//! checksums are patched (RFC 1624), errors translated with what they quote. Costs no MTU. Refuses the last hop (`ttl_exceeded`), and
//! what exceeds the port's MTU (`too_big`).

use std::net::IpAddr;

use super::rewrite::{End, Rewrite, Side, Way, ttl_at};
use super::{Context, Mode, NextHop, Packet, PortIndex, State};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::{Frame, ipv4, ipv6};

/// The way to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnat {
    rewrite: Rewrite,
    way: Way,
}

impl Mode for Dnat {
    fn overhead(_: &Service, _: &Backend) -> u16 {
        0
    }

    fn prepare(context: &Context) -> Self {
        let (service, backend) = (context.service, context.backend);
        let old = (service.vip.addr(), service.ports.single());
        let new = (backend.address, backend.port.or(service.ports.single()));
        Self { rewrite: Rewrite::new(old, new, 1).for_all_of(service.vip), way: context.next_hop.into() }
    }

    #[inline(always)]
    fn apply<F: Frame>(&self, frame: &mut F, packet: &Packet, _: u64, _: &mut State) -> Result<PortIndex, Reason> {
        let ip = match &self.rewrite {
            Rewrite::V4(_) => self.way.route(frame, packet, ipv4::field::TTL)?,
            Rewrite::V6(_) => self.way.route(frame, packet, ipv6::field::HOP_LIMIT)?,
        };
        self.rewrite.apply(ip, packet, Side::Destination)?;
        Ok(self.way.port)
    }
}

/// The way back: what replies of an endpoint become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    rewrite: Rewrite,
    pub vip: IpAddr,
}

impl Reply {
    /// Of the endpoint `from`, which serves `vip`.
    pub fn new(from: End, vip: End) -> Self {
        Self { rewrite: Rewrite::new(from, vip, 1), vip: vip.0 }
    }

    /// Turns a reply's frame, untagged, into what is to be sent to the client, which is reached by `hop`.
    pub fn apply<F: Frame>(&self, frame: &mut F, packet: &Packet, hop: &NextHop) -> Result<PortIndex, Reason> {
        let ip = Way::from(hop).route(frame, packet, ttl_at(self.vip))?;
        self.rewrite.apply(ip, packet, Side::Source)?;
        if hop.tag(frame, packet.priority) { Ok(hop.port) } else { Err(Reason::Malformed) }
    }
}
