//! `l2dsr`: only the Ethernet addresses change (also called direct routing, or gatewaying).
//!
//! ```text
//! router -> us       | IP client -> VIP | TCP or UDP | payload
//! us     -> backend  | IP client -> VIP | TCP or UDP | payload
//! ```
//!
//! The backend is on a network of the load balancer's own, owns the VIP without announcing it by ARP or ND, and answers the client
//! itself. The packet is untouched, TTL included. Costs no MTU. Refuses a backend behind a router (`no_next_hop`: its packets would
//! come straight back), and what exceeds the port's MTU (`too_big`).

use super::rewrite::Way;
use super::{Context, Mode, Packet, PortIndex, State};
use crate::counters::Reason;
use crate::service::{Backend, Service};
use crate::wire::Frame;

/// The way to a backend, which is a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L2dsr(Way);

impl Mode for L2dsr {
    fn overhead(_: &Service, _: &Backend) -> u16 {
        0
    }

    fn prepare(context: &Context) -> Self {
        Self(context.next_hop.into())
    }

    #[inline(always)]
    fn apply<F: Frame>(&self, frame: &mut F, packet: &Packet, _: u64, _: &mut State) -> Result<PortIndex, Reason> {
        self.0.pass(frame, packet)?;
        Ok(self.0.port)
    }
}
