//! `ipip`: IP in IP, for Layer-3 Direct Server Return; IPv4 or IPv6 inside and outside (RFC 2003, RFC 2473, RFC 4213).
//!
//! ```text
//! before                         Ethernet | IP client -> VIP | TCP or UDP | payload
//! after  Ethernet | IP us -> backend      | IP client -> VIP | TCP or UDP | payload
//! ```
//!
//! The outer header's protocol is 4 where the inner packet is IPv4, 41 where it is IPv6. The inner packet is untouched, TTL
//! included. The backend decapsulates (`tunl0`, `sit0`, `ip6tnl0`), owns the VIP and answers the client itself. Costs 20 bytes
//! of MTU, or 40. Refuses what exceeds the port's MTU once it has grown (`too_big`).

use super::outer::{Outer, TAIL_V4, TAIL_V6};
use super::{Context, Mode, Packet, PortIndex, State, Tunnel, ip_header};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::Frame;
use crate::wire::ipv4::protocol;

/// The outer header to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipip(pub(super) Outer<TAIL_V4, TAIL_V6>);

impl Mode for Ipip {
    fn overhead(_: &Service, backend: &Backend) -> u16 {
        ip_header(backend.address)
    }

    fn tunnel(service: &Service, backend: &Backend) -> Option<Tunnel> {
        Some(Tunnel { endpoint: backend.address, protocol: number(service), port: None, between: 0, vip_at: None })
    }

    fn prepare(context: &Context) -> Self {
        Self(Outer::new(context, context.backend.address, number(context.service), &[]))
    }

    #[inline(always)]
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason> {
        self.0.wrap(frame, packet.total, hash, state, |_, _| ())
    }
}

/// The outer protocol: that of the inner packet.
fn number(service: &Service) -> u8 {
    if service.vip.addr().is_ipv4() { protocol::IPIP } else { protocol::IPV6 }
}
