//! `dnat`: the destination becomes the backend; replies come back through the load balancer.
//!
//! ```text
//! request  client:port -> VIP:port      becomes  client:port -> backend:port
//! reply    backend:port -> client:port  becomes  VIP:port -> client:port
//! ```
//!
//! The backend needs nothing but a route to its clients that leads back here. Replies are recognised by their source, an
//! endpoint of a `dnat` service, without any state: so an endpoint serves one VIP and port only. TTL - 1 both ways;
//! checksums are patched (RFC 1624). Costs no MTU.

use std::net::{IpAddr, Ipv4Addr};

use super::{Context, Identification, Mode, NextHop, Packet, PortIndex};
use crate::counters::Reason;
use crate::wire::checksum::Delta;
use crate::wire::ipv4::{self, field, protocol};
use crate::wire::{Frame, Mac, be16, ethernet, tcp, udp};

/// The way to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnat {
    rewrite: Rewrite,
    source: Mac,
    destination: Mac,
    mtu: u16,
    port: PortIndex,
}

impl Mode for Dnat {
    const OVERHEAD: u16 = 0;

    fn prepare(context: &Context) -> Self {
        let (service, backend, hop) = (context.service, context.backend, context.next_hop);
        let (IpAddr::V4(vip), IpAddr::V4(address)) = (service.vip, backend.address) else {
            unreachable!("validation lets no IPv6 address through")
        };
        let rewrite = Rewrite::new((vip, service.port), (address, backend.port.unwrap_or(service.port)));
        Self { rewrite, source: hop.source, destination: hop.destination, mtu: hop.mtu, port: hop.port }
    }

    #[inline]
    fn apply<F: Frame>(&self, frame: &mut F, packet: Packet, _: &mut Identification) -> Result<PortIndex, Reason> {
        route(frame, packet, self.source, self.destination, self.mtu)?;
        self.rewrite.apply(frame.bytes_mut(), packet, field::DESTINATION, 2)?;
        Ok(self.port)
    }
}

/// The way back: what replies of an endpoint become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(Rewrite);

impl Reply {
    /// Of the endpoint `from`, which serves `vip`.
    pub fn new(from: (Ipv4Addr, u16), vip: (Ipv4Addr, u16)) -> Self {
        Self(Rewrite::new(from, vip))
    }

    /// Turns a reply's frame into what is to be sent to the client, which is reached by `hop`.
    pub fn apply<F: Frame>(&self, frame: &mut F, packet: Packet, hop: &NextHop) -> Result<PortIndex, Reason> {
        route(frame, packet, hop.source, hop.destination, hop.mtu)?;
        self.0.apply(frame.bytes_mut(), packet, field::SOURCE, 0)?;
        Ok(hop.port)
    }
}

/// One address and port put in place of another, and what that does to the checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rewrite {
    address: [u8; 4],
    port: [u8; 2],
    /// The change of the IP checksum: the address, and TTL - 1.
    ip: Delta,
    /// The change of the TCP or UDP checksum: the address in the pseudo-header, and the port.
    transport: Delta,
}

impl Rewrite {
    fn new(old: (Ipv4Addr, u16), new: (Ipv4Addr, u16)) -> Self {
        // The TTL is the upper byte of its word, so TTL - 1 is the word less 0x0100, whatever the word.
        const TTL_LESS_ONE: Delta = Delta::word(0x0100, 0x0000);
        let address = Delta::double_word(old.0.to_bits(), new.0.to_bits());
        let port = Delta::word(old.1, new.1);
        Self {
            address: new.0.octets(),
            port: new.1.to_be_bytes(),
            ip: address.and(TTL_LESS_ONE),
            transport: address.and(port),
        }
    }

    /// Rewrites the address at `address_at` in the IP header and the port at `port_at` behind it.
    #[inline]
    fn apply(&self, bytes: &mut [u8], packet: Packet, address_at: usize, port_at: usize) -> Result<(), Reason> {
        let (_, packet_bytes) = bytes.split_at_mut_checked(ethernet::HEADER).ok_or(Reason::Malformed)?;
        let (ip, segment) = packet_bytes.split_at_mut_checked(usize::from(packet.header)).ok_or(Reason::Malformed)?;
        let ip: &mut [u8; ipv4::HEADER] = ip.first_chunk_mut().ok_or(Reason::Malformed)?;
        if packet.protocol == protocol::TCP {
            let tcp: &mut [u8; tcp::HEADER] = segment.first_chunk_mut().ok_or(Reason::Malformed)?;
            let sum = self.transport.patch(be16(tcp, tcp::CHECKSUM));
            tcp[tcp::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            tcp[port_at..][..2].copy_from_slice(&self.port);
        } else {
            let udp: &mut [u8; udp::HEADER] = segment.first_chunk_mut().ok_or(Reason::Malformed)?;
            let sum = self.transport.patch_udp(be16(udp, udp::CHECKSUM));
            udp[udp::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            udp[port_at..][..2].copy_from_slice(&self.port);
        }
        let sum = self.ip.patch(be16(ip, field::CHECKSUM));
        ip[field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
        ip[field::TTL] -= 1;
        ip[address_at..][..4].copy_from_slice(&self.address);
        Ok(())
    }
}

/// What every router does: refuse what is too old or too big, cut what is behind the packet, put the next hop's addresses.
#[inline]
fn route<F: Frame>(frame: &mut F, packet: Packet, source: Mac, destination: Mac, mtu: u16) -> Result<(), Reason> {
    let ttl = frame.bytes().get(ethernet::HEADER + field::TTL).ok_or(Reason::Malformed)?;
    if *ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    if packet.total > mtu {
        return Err(Reason::TooBig);
    }
    let bytes = frame.reshape(0, packet.sent_length(frame)).ok_or(Reason::Malformed)?;
    let link: &mut [u8; ethernet::HEADER] = bytes.first_chunk_mut().ok_or(Reason::Malformed)?;
    link[..6].copy_from_slice(&destination.0);
    link[6..12].copy_from_slice(&source.0);
    Ok(())
}
