//! `gue`: IP in Generic UDP Encapsulation (draft-ietf-intarea-gue), for Layer-3 Direct Server Return.
//!
//! ```text
//! before                                         Ethernet | IP client -> VIP | TCP or UDP | payload
//! after  Ethernet | IP us -> backend | UDP | GUE          | IP client -> VIP | TCP or UDP | payload
//! ```
//!
//! Variant 0 has a GUE header of four bytes: version 0, no flags, the protocol number of the inner packet (4 or 41); UDP port 6080 by
//! default. Variant 1 has none: IP stands directly in UDP, and its version nibble tells which; port 9886 by default. The backend
//! decapsulates (`fou`), owns the VIP and answers the client itself. Costs 32 bytes of MTU (variant 1: 28), 20 more over IPv6.
//! Refuses what exceeds the port's MTU once it has grown (`too_big`).

use super::outer::{Outer, TAIL_V4, TAIL_V6};
use super::{Context, Mode, Packet, PortIndex, State, Tunnel, ip_header, udp_tunnel};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::ipv4::protocol;
use crate::wire::{Frame, udp};

/// Bytes of the GUE header of variant 0.
const GUE: usize = 4;

/// The outer header to a backend, those of UDP and GUE behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gue {
    Variant0 { outer: Outer<{ TAIL_V4 + udp::HEADER + GUE }, { TAIL_V6 + udp::HEADER + GUE }>, has_checksum: bool },
    Variant1 { outer: Outer<{ TAIL_V4 + udp::HEADER }, { TAIL_V6 + udp::HEADER }>, has_checksum: bool },
}

impl Mode for Gue {
    fn overhead(service: &Service, backend: &Backend) -> u16 {
        ip_header(backend.address) + between(service)
    }

    fn tunnel(service: &Service, backend: &Backend) -> Option<Tunnel> {
        let (endpoint, port, between) = (backend.address, Some(service.gue.port), between(service));
        Some(Tunnel { endpoint, protocol: protocol::UDP, port, between, vip_at: None })
    }

    fn prepare(context: &Context) -> Self {
        let (service, to) = (context.service, context.backend.address);
        let udp = udp_tunnel::header(service.gue.port);
        let has_checksum = service.udp_checksum;
        if service.gue.variant == 0 {
            let inner = if service.vip.addr().is_ipv4() { protocol::IPIP } else { protocol::IPV6 };
            let tail = [&udp[..], &[0, inner, 0, 0]].concat();
            Self::Variant0 { outer: Outer::new(context, to, protocol::UDP, &tail), has_checksum }
        } else {
            Self::Variant1 { outer: Outer::new(context, to, protocol::UDP, &udp), has_checksum }
        }
    }

    #[inline(always)]
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason> {
        match self {
            Self::Variant0 { outer, has_checksum } => outer
                .wrap(frame, packet.total, hash, state, |frame, at| udp_tunnel::finish(frame, at, hash, *has_checksum)),
            Self::Variant1 { outer, has_checksum } => outer
                .wrap(frame, packet.total, hash, state, |frame, at| udp_tunnel::finish(frame, at, hash, *has_checksum)),
        }
    }
}

/// Bytes between the outer IP header and the inner one.
fn between(service: &Service) -> u16 {
    let gue = if service.gue.variant == 0 { GUE } else { 0 };
    (udp::HEADER + gue) as u16
}
