//! `snat`: full NAT. The destination becomes the backend, the source one of the node's own, so that replies come back.
//!
//! ```text
//! request  client:port -> VIP:port      becomes  source:port -> backend:port
//! reply    backend:port -> source:port  becomes  VIP:port -> client:port
//! ```
//!
//! The backend needs nothing at all: neither a route back through the load balancer, nor the VIP, and it may serve any number of
//! services. It does not see its clients' addresses. Each flow has a source address and port of its own (`[snat]`), kept in the
//! lcore's `flow::Nat`, which says what becomes of a packet in either direction. TTL - 1 both ways; checksums are patched (RFC 1624);
//! errors are translated with what they quote, and come from the source or the VIP whoever made them (RFC 5508, section 4.2),
//! as neither side knows the other's network. Costs no MTU. Refuses the last hop (`ttl_exceeded`), what exceeds the port's MTU
//! (`too_big`), and a new flow when every source is taken (`snat_exhausted`).

use super::rewrite::{Both, Family, V4, V6, Way, is_plain_tcp, split_plain_tcp};
use super::{Content, Context, Mode, NextHop, Packet, PortIndex, State};
use crate::counters::Reason;
use crate::flow::{Address, Nat, Seconds, Slot, Table, Translation};
use crate::service::{Backend, Service};
use crate::wire::{Frame, ethernet, ipv4, tcp};

/// The way to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snat {
    way: Way,
    is_v4: bool,
}

impl Mode for Snat {
    fn overhead(_: &Service, _: &Backend) -> u16 {
        0
    }

    fn prepare(context: &Context) -> Self {
        Self { way: context.next_hop.into(), is_v4: context.backend.address.is_ipv4() }
    }

    /// `hash` is the number of the flow's translation.
    #[inline(always)]
    fn apply<F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        state: &mut State,
    ) -> Result<PortIndex, Reason> {
        let (slot, now) = (Slot(hash as u32), state.now);
        if self.is_v4 {
            self.outward::<V4, F>(frame, packet, slot, &mut state.nat, now)
        } else {
            self.outward::<V6, F>(frame, packet, slot, &mut state.nat, now)
        }
    }
}

impl Snat {
    #[inline(always)]
    pub fn port(&self) -> PortIndex {
        self.way.port
    }

    /// As `apply`, of a TCP segment behind a plain IPv4 header.
    #[inline(always)]
    pub fn send_v4<F: Frame>(&self, frame: &mut F, total: u16, slot: u32, state: &mut State) -> Result<(), Reason> {
        let packet = Packet { header: ipv4::HEADER as u16, total, content: Content::Tcp, port: 0, priority: 0 };
        match self.is_v4 {
            true => self.outward::<V4, F>(frame, &packet, Slot(slot), &mut state.nat, state.now).map(|_| ()),
            false => Err(Reason::Malformed),
        }
    }

    #[inline(always)]
    fn outward<A: Family, F: Frame>(
        &self,
        frame: &mut F,
        packet: &Packet,
        slot: Slot,
        nat: &mut Nat,
        now: Seconds,
    ) -> Result<PortIndex, Reason>
    where
        A::Octets: Address,
    {
        let table = A::Octets::table(nat);
        let ip = self.way.route(frame, packet, A::TTL)?;
        if !is_plain_tcp::<A>(packet) {
            outward_other::<A>(ip, packet, slot, table, now)?;
            return Ok(self.way.port);
        }
        let (ip, tcp) = split_plain_tcp::<A>(ip)?;
        let translation = table.pass(slot, tcp[tcp::FLAGS], now).ok_or(Reason::Malformed)?;
        outward::<A>(translation).apply_to_tcp(ip, tcp);
        Ok(self.way.port)
    }
}

/// What is not plain TCP.
#[inline(never)]
fn outward_other<A: Family>(
    ip: &mut [u8],
    packet: &Packet,
    slot: Slot,
    table: &mut Table<A::Octets>,
    now: Seconds,
) -> Result<(), Reason>
where
    A::Octets: Address,
{
    let translation = match packet.content {
        Content::Tcp => {
            let flags = *ip.get(usize::from(packet.header) + tcp::FLAGS).ok_or(Reason::Malformed)?;
            table.pass(slot, flags, now)
        }
        Content::Udp | Content::LaterFragment => table.pass(slot, 0, now),
        // An error keeps nothing alive.
        Content::Error => Some(table.get(slot)),
    };
    outward::<A>(translation.ok_or(Reason::Malformed)?).apply(ip, packet)
}

/// What becomes of the client's packets.
#[inline(always)]
fn outward<A: Family>(translation: &Translation<A::Octets>) -> Both<A>
where
    A::Octets: Address,
{
    Both {
        source: translation.source,
        destination: translation.backend,
        addresses: translation.addresses,
        transport: translation.transport,
    }
}

/// What becomes of the backend's.
fn homeward<A: Family>(translation: &Translation<A::Octets>) -> Both<A>
where
    A::Octets: Address,
{
    let (client, vip) = A::Octets::ends(translation.key);
    Both {
        source: vip,
        destination: client,
        addresses: translation.addresses.inverse(),
        transport: translation.transport.inverse(),
    }
}

/// Turns the untagged frame of a reply, or of an error about the client's packets, into what is to be sent to the client, which is
/// reached by `hop`. `keeps`: the time, where it keeps the flow alive.
pub fn reply<A: Family, F: Frame>(
    frame: &mut F,
    packet: &Packet,
    slot: Slot,
    table: &mut Table<A::Octets>,
    keeps: Option<Seconds>,
    hop: &NextHop,
) -> Result<PortIndex, Reason>
where
    A::Octets: Address,
{
    let ip = Way::from(hop).route(frame, packet, A::TTL)?;
    if let Some(now) = keeps {
        match packet.content {
            Content::Tcp => {
                let flags = *ip.get(usize::from(packet.header) + tcp::FLAGS).ok_or(Reason::Malformed)?;
                table.note_reply(slot, flags, now);
            }
            Content::Udp | Content::LaterFragment => table.touch(slot, now),
            Content::Error => {}
        }
    }
    homeward::<A>(table.get(slot)).apply(ip, packet)?;
    if hop.tag(frame, packet.priority) { Ok(hop.port) } else { Err(Reason::Malformed) }
}

/// The flags of a TCP segment behind an IP header of `header` bytes in an untagged frame.
pub fn flags<F: Frame>(frame: &F, packet: &Packet) -> u8 {
    let at = ethernet::HEADER + usize::from(packet.header) + tcp::FLAGS;
    if packet.content == Content::Tcp { frame.bytes().get(at).copied().unwrap_or(0) } else { 0 }
}
