//! Packets of health checks that go through a service: the node's own, each to one backend, whoever the service would choose.
//!
//! ```text
//! own:port -> VIP:port     becomes  what the service's mode makes of it, towards the backend that the ticket names
//! VIP:port -> own:port     the answer where backends answer themselves: as it is
//! backend:port -> own:port the answer where they do not: VIP:port -> own:port
//! ```
//!
//! A probe's own address is the node's and its port its own ([`Passage`]), so that answers are known by where they go. Outward an lcore
//! sends it, for only there are devices and snapshots. Homeward it comes as any packet to an address of the node's own does, and
//! whoever would give it to the kernel twin turns it into what the probe waits for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::parse::{Kind, Parsed};
use crate::counters::Reason;
use crate::mode::rewrite::{Rewrite, Side};
use crate::mode::{PortIndex, State, link};
use crate::snapshot::Snapshot;
use crate::wire::{Frame, Mac, ethernet};

/// The way of a probe: what it asks for, and who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// The VIP and port that it asks.
    pub vip: SocketAddr,
    /// The backend, as its service names it: port 0 where the packet keeps one of several.
    pub backend: SocketAddr,
}

impl Passage {
    /// Address and port that packets to the backend get.
    fn endpoint(&self) -> SocketAddr {
        let port = if self.backend.port() == 0 { self.vip.port() } else { self.backend.port() };
        SocketAddr::new(self.backend.ip(), port)
    }
}

/// Says whom a probe's packet goes to; it stands in front of the frame.
struct Ticket(SocketAddr);

impl Ticket {
    const BYTES: usize = 18;

    /// IPv4 as IPv6 maps it.
    fn to_bytes(&self) -> [u8; Self::BYTES] {
        let address = match self.0.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&address.octets());
        bytes[16..].copy_from_slice(&self.0.port().to_be_bytes());
        bytes
    }

    fn of(frame: &[u8]) -> Option<Self> {
        let (bytes, _) = frame.split_first_chunk::<{ Self::BYTES }>()?;
        let (address, port) = bytes.split_first_chunk::<16>()?;
        let address = Ipv6Addr::from(*address).to_canonical();
        Some(Self(SocketAddr::new(address, u16::from_be_bytes([port[0], port[1]]))))
    }
}

/// The largest IP packet of a probe's, bytes: the least that IPv6 may ask of a link (RFC 8200, section 5), so that no tunnel makes it too big.
pub const MTU: usize = 1280;

/// Bytes that [`address`] wants in front of a packet.
pub const FRONT: usize = Ticket::BYTES + ethernet::HEADER;

/// Makes the packet behind the first [`FRONT`] bytes a frame for [`super::Pipeline::process_probes`]. `passage` knows the probe that has
/// an address and port. Whether it is one of that.
pub fn address(bytes: &mut [u8], passage: impl FnOnce(SocketAddr) -> Option<Passage>) -> bool {
    let Some((ticket, frame)) = bytes.split_first_chunk_mut::<{ Ticket::BYTES }>() else { return false };
    let ether_type = match frame.get(ethernet::HEADER).map(|first| first >> 4) {
        Some(4) => ethernet::IPV4,
        Some(6) => ethernet::IPV6,
        _ => return false,
    };
    frame[..ethernet::HEADER].copy_from_slice(&ethernet::header(Mac::default(), Mac::default(), ether_type));
    let parsed = Parsed::again(frame);
    let flow = &parsed.flow;
    if parsed.kind != Kind::Ported {
        return false;
    }
    let passage = passage(SocketAddr::new(flow.source, flow.source_port));
    let to = SocketAddr::new(flow.destination, flow.destination_port);
    let Some(passage) = passage.filter(|passage| passage.vip == to) else { return false };
    *ticket = Ticket(passage.backend).to_bytes();
    true
}

/// Turns the frame behind a ticket into what is to be sent, and says by which port.
pub(super) fn send<F: Frame>(frame: &mut F, snapshot: &Snapshot, state: &mut State) -> Result<PortIndex, Reason> {
    let ticket = Ticket::of(frame.bytes()).filter(|_| frame.strip(Ticket::BYTES)).ok_or(Reason::Malformed)?;
    let parsed = Parsed::again(frame.bytes());
    let flow = &parsed.flow;
    if let Some(reason) = parsed.fault {
        return Err(reason);
    }
    let found = snapshot.service(flow.destination, flow.destination_port, flow.protocol).ok_or(Reason::NoService)?;
    let mode = snapshot.probed(found.service, ticket.0).ok_or(Reason::NoBackend)?;
    let hash = snapshot.hash().end(flow.source, flow.source_port);
    mode.apply(frame, &parsed.packet, hash, state)
}

/// Turns a frame that came for the node's own address into the answer that a probe waits for, where it is one: its packet stands behind
/// an Ethernet header then. `passage` knows the probe that has an address and port.
pub fn receive<F: Frame>(frame: &mut F, passage: impl FnOnce(SocketAddr) -> Option<Passage>) -> bool {
    let parsed = Parsed::again(frame.bytes());
    let flow = &parsed.flow;
    let is_whole = parsed.fault.is_none() && parsed.datagram.is_none();
    if !is_whole || !matches!(parsed.kind, Kind::Ported | Kind::Error) || flow.destination != parsed.destination {
        return false;
    }
    let Some(passage) = passage(SocketAddr::new(flow.destination, flow.destination_port)) else { return false };
    let (from, vip, endpoint) = (SocketAddr::new(flow.source, flow.source_port), passage.vip, passage.endpoint());
    // Anybody may send an error about a flow: only those are heard who would be asked.
    let is_theirs = parsed.kind != Kind::Error || [vip.ip(), endpoint.ip()].contains(&parsed.source);
    if !is_theirs || (from != vip && from != endpoint) || !link::strip_tags(frame, usize::from(parsed.link)) {
        return false;
    }
    let Some(bytes) = frame.reshape(0, ethernet::HEADER + usize::from(parsed.packet.total)) else { return false };
    if from == vip {
        return true;
    }
    let rewrite = Rewrite::new((endpoint.ip(), Some(endpoint.port())), (vip.ip(), Some(vip.port())), 0);
    rewrite.apply(&mut bytes[ethernet::HEADER..], &parsed.packet, Side::Source).is_ok()
}
