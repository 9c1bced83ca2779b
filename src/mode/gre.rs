//! `gre`: IP in GRE in IP (RFC 2784), for Layer-3 Direct Server Return.
//!
//! ```text
//! before                               Ethernet | IP client -> VIP | TCP or UDP | payload
//! after  Ethernet | IP us -> backend | GRE      | IP client -> VIP | TCP or UDP | payload
//! ```
//!
//! The GRE header is the shortest there is, four bytes: no flags, version 0, the EtherType of the inner packet. The backend
//! decapsulates (`gre0`, `ip6gre0`), owns the VIP and answers the client itself. Costs 24 bytes of MTU, or 44. Refuses
//! what exceeds the port's MTU once it has grown (`too_big`).

use super::outer::{Outer, TAIL_V4, TAIL_V6};
use super::{Context, Mode, Packet, PortIndex, State, Tunnel, ip_header};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::ipv4::protocol;
use crate::wire::{Frame, ethernet};

/// Bytes of the header.
const GRE: usize = 4;

/// The outer header to a backend, GRE's behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gre(Outer<{ TAIL_V4 + GRE }, { TAIL_V6 + GRE }>);

impl Mode for Gre {
    fn overhead(_: &Service, backend: &Backend) -> u16 {
        ip_header(backend.address) + GRE as u16
    }

    fn tunnel(_: &Service, backend: &Backend) -> Option<Tunnel> {
        let (endpoint, between) = (backend.address, GRE as u16);
        Some(Tunnel { endpoint, protocol: protocol::GRE, port: None, between, vip_at: None })
    }

    fn prepare(context: &Context) -> Self {
        let inner = if context.service.vip.addr().is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
        let [high, low] = inner.to_be_bytes();
        Self(Outer::new(context, context.backend.address, protocol::GRE, &[0, 0, high, low]))
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
