//! `dscp`: the destination becomes the backend, and the code point tells it the VIP (Yahoo's L3DSR).
//!
//! ```text
//! client:port -> VIP:port  becomes  client:port -> backend:port, DSCP of the service
//! ```
//!
//! The backend turns the code point back into the VIP (one stateless nftables rule) and answers the client itself. The port stays;
//! ECN stays; TTL - 1; checksums are patched (RFC 1624). Of a later fragment only the IP header changes; an error goes with its
//! quote untouched. Costs no MTU. Refuses the last hop (`ttl_exceeded`), and what exceeds the port's MTU
//! (`too_big`).

use super::rewrite::{Rewrite, Side, Way};
use super::{Context, Mode, Packet, PortIndex, State};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::checksum::Delta;
use crate::wire::{Frame, be16, ipv4, ipv6};

/// A backend's address and the service's code point, as changes of a packet, and the way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dscp {
    rewrite: Rewrite,
    way: Way,
    /// In the upper six bits, as in the traffic class.
    code: u8,
}

/// The lower two bits of a traffic class (RFC 3168).
const ECN: u8 = 3;

impl Mode for Dscp {
    fn overhead(_: &Service, _: &Backend) -> u16 {
        0
    }

    fn prepare(context: &Context) -> Self {
        let (vip, backend) = (context.service.vip, context.backend.address);
        Self {
            rewrite: Rewrite::new((vip.addr(), None), (backend, None), 1).for_all_of(vip).keeping_quotes(),
            way: context.next_hop.into(),
            code: context.service.dscp.unwrap_or(0) << 2,
        }
    }

    #[inline(always)]
    fn apply<F: Frame>(&self, frame: &mut F, packet: &Packet, _: u64, _: &mut State) -> Result<PortIndex, Reason> {
        match &self.rewrite {
            Rewrite::V4(change) => {
                let ip = self.way.route(frame, packet, ipv4::field::TTL)?;
                let head: &mut [u8; ipv4::HEADER] = ip.first_chunk_mut().ok_or(Reason::Malformed)?;
                let old = be16(head, 0);
                head[1] = self.code | head[1] & ECN;
                let marked = Delta::word(old, be16(head, 0));
                change.apply(ip, packet, Side::Destination, Some(marked))?;
            }
            Rewrite::V6(change) => {
                let ip = self.way.route(frame, packet, ipv6::field::HOP_LIMIT)?;
                let head: &mut [u8; ipv6::HEADER] = ip.first_chunk_mut().ok_or(Reason::Malformed)?;
                let class = self.code | (be16(head, 0) >> 4) as u8 & ECN;
                head[0] = 0x60 | class >> 4;
                head[1] = class << 4 | head[1] & 0xf;
                change.apply(ip, packet, Side::Destination, None)?;
            }
        }
        Ok(self.way.port)
    }
}
