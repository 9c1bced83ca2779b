//! One address, and perhaps port, put in place of another in a packet, and what that does to the checksums.
//!
//! What the change does to each checksum is summed before any packet (RFC 1624). An error (RFC 5508, RFC 4443) is translated
//! inside, too: the packet that it quotes went the other way, so there the other side is the one that changes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Content, NextHop, Packet, PortIndex};
use crate::counters::Reason;
use crate::wire::checksum::Delta;
use crate::wire::ipv4::protocol;
use crate::wire::{Frame, Mac, be16, ethernet, icmp, ipv4, ipv6, tcp, udp};

/// Which end of a packet changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// Where its port stands in a transport header.
    #[inline(always)]
    const fn port_at(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }
}

/// An end of a flow; no port: whatever the packet has.
pub type End = (IpAddr, Option<u16>);

/// A change of a packet of either family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    V4(Change<V4>),
    V6(Box<Change<V6>>),
}

impl Rewrite {
    /// From `old` to `new`, which are of one family. `hops`: how far the TTL or hop limit goes down, 0 or 1.
    pub fn new(old: End, new: End, hops: u8) -> Self {
        match (old.0, new.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Self::V4(Change::new(from.octets(), to.octets(), (old.1, new.1), hops))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Self::V6(Box::new(Change::new(from.octets(), to.octets(), (old.1, new.1), hops)))
            }
            _ => unreachable!("validation lets no modes that rewrite across families through"),
        }
    }

    /// From any address, that which the packet has, where `vip` is a prefix; else as it is.
    pub fn for_all_of(mut self, vip: IpNet) -> Self {
        let is_any = vip.prefix_len() < vip.max_prefix_len();
        match &mut self {
            Self::V4(change) => change.is_any = is_any,
            Self::V6(change) => change.is_any = is_any,
        }
        self
    }

    /// As it is, but for what errors quote: that stays as it came.
    pub fn keeping_quotes(mut self) -> Self {
        match &mut self {
            Self::V4(change) => change.keeps_quotes = true,
            Self::V6(change) => change.keeps_quotes = true,
        }
        self
    }

    /// Changes one side of the IP packet that `bytes` begin with.
    #[inline(always)]
    pub fn apply(&self, bytes: &mut [u8], packet: &Packet, side: Side) -> Result<(), Reason> {
        match self {
            Self::V4(change) => change.apply(bytes, packet, side, None),
            Self::V6(change) => change.apply(bytes, packet, side, None),
        }
    }
}

/// What differs between the families.
pub trait Family: Copy {
    type Octets: AsRef<[u8]> + for<'a> TryFrom<&'a [u8]> + Copy + PartialEq + std::fmt::Debug;
    /// Bytes of the fixed header.
    const HEADER: usize;
    const TTL: usize;
    const ICMP: u8;
    /// Where the header's own checksum stands, if it has one.
    const CHECKSUM: Option<usize>;
    /// Where an address begins.
    fn address_at(side: Side) -> usize;
    /// Protocol and place of the transport header in a quote.
    fn transport(quoted: &[u8]) -> Option<(u8, usize)>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct V4;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct V6;

impl Family for V4 {
    type Octets = [u8; 4];
    const HEADER: usize = ipv4::HEADER;
    const TTL: usize = ipv4::field::TTL;
    const ICMP: u8 = protocol::ICMP;
    const CHECKSUM: Option<usize> = Some(ipv4::field::CHECKSUM);

    #[inline(always)]
    fn address_at(side: Side) -> usize {
        match side {
            Side::Source => ipv4::field::SOURCE,
            Side::Destination => ipv4::field::DESTINATION,
        }
    }

    fn transport(quoted: &[u8]) -> Option<(u8, usize)> {
        let ip = ipv4::Ipv4::of(quoted)?;
        Some((ip.protocol(), ip.header_length()))
    }
}

impl Family for V6 {
    type Octets = [u8; 16];
    const HEADER: usize = ipv6::HEADER;
    const TTL: usize = ipv6::field::HOP_LIMIT;
    const ICMP: u8 = protocol::ICMPV6;
    const CHECKSUM: Option<usize> = None;

    #[inline(always)]
    fn address_at(side: Side) -> usize {
        match side {
            Side::Source => ipv6::field::SOURCE,
            Side::Destination => ipv6::field::DESTINATION,
        }
    }

    fn transport(quoted: &[u8]) -> Option<(u8, usize)> {
        let upper = ipv6::upper(quoted).ok()?;
        Some((upper.protocol, upper.offset))
    }
}

/// A change of a packet of family `F`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<F: Family> {
    old: F::Octets,
    new: F::Octets,
    ports: (Option<u16>, Option<u16>),
    hops: u8,
    /// `old` stands for whatever address the packet has.
    is_any: bool,
    keeps_quotes: bool,
    /// The address alone.
    address: Delta,
    /// The IP header: the address, and the TTL.
    header: Delta,
    /// The TCP or UDP checksum: the address in the pseudo-header, and the port.
    transport: Delta,
}

impl<F: Family> Change<F> {
    fn new(old: F::Octets, new: F::Octets, ports: (Option<u16>, Option<u16>), hops: u8) -> Self {
        let words = old.as_ref().chunks_exact(2).zip(new.as_ref().chunks_exact(2));
        let address = words.fold(Delta::NONE, |sum, (old, new)| sum.and(Delta::word(be16(old, 0), be16(new, 0))));
        // The TTL is the upper byte of its word, so the word goes down by 0x0100 a hop, whatever it is.
        let header = address.and(Delta::word(u16::from(hops) << 8, 0));
        let transport = match ports {
            (Some(old), Some(new)) => address.and(Delta::word(old, new)),
            _ => address,
        };
        Self { old, new, ports, hops, is_any: false, keeps_quotes: false, address, header, transport }
    }

    /// `more`: how the header has changed already, which its checksum does not say yet.
    #[inline(always)]
    pub fn apply(&self, bytes: &mut [u8], packet: &Packet, side: Side, more: Option<Delta>) -> Result<(), Reason> {
        if is_plain_tcp::<F>(packet) && !self.is_any {
            let (ip, tcp) = split_plain_tcp::<F>(bytes)?;
            self.put_tcp(tcp, side);
            self.put_address(ip, side, more);
            return Ok(());
        }
        self.apply_to_other(bytes, packet, side, more)
    }

    #[inline(never)]
    fn apply_to_other(&self, bytes: &mut [u8], packet: &Packet, side: Side, more: Option<Delta>) -> Result<(), Reason> {
        if self.is_any {
            return self.apply_to_any(bytes, packet, side, more);
        }
        let (ip, rest) = bytes.split_at_mut_checked(usize::from(packet.header)).ok_or(Reason::Malformed)?;
        let ip = ip.get_mut(..F::HEADER).ok_or(Reason::Malformed)?;
        match packet.content {
            Content::Tcp => {
                self.put_tcp(rest.first_chunk_mut().ok_or(Reason::Malformed)?, side);
            }
            Content::Udp => {
                let udp: &mut [u8; udp::HEADER] = rest.first_chunk_mut().ok_or(Reason::Malformed)?;
                self.transport.patch_udp(udp, udp::CHECKSUM);
                self.put_port(udp, side);
            }
            Content::LaterFragment => {}
            Content::Error => return self.apply_to_error(ip, rest, side, more),
        }
        self.put_address(ip, side, more);
        Ok(())
    }

    #[inline(always)]
    fn put_tcp(&self, tcp: &mut [u8; tcp::HEADER], side: Side) {
        self.transport.patch(tcp, tcp::CHECKSUM);
        self.put_port(tcp, side);
    }

    /// Of a VIP that is a prefix: what changes is only known with the packet.
    #[inline(never)]
    fn apply_to_any(&self, bytes: &mut [u8], packet: &Packet, side: Side, more: Option<Delta>) -> Result<(), Reason> {
        let (at, length) = (F::address_at(side), self.old.as_ref().len());
        let old = bytes.get(at..at + length).and_then(|old| old.try_into().ok()).ok_or(Reason::Malformed)?;
        let change = Self::new(old, self.new, self.ports, self.hops);
        Self { keeps_quotes: self.keeps_quotes, ..change }.apply(bytes, packet, side, more)
    }

    #[inline(always)]
    fn put_port<const N: usize>(&self, transport: &mut [u8; N], side: Side) {
        if let (Some(_), Some(port)) = self.ports {
            transport[side.port_at()..][..2].copy_from_slice(&port.to_be_bytes());
        }
    }

    #[inline(always)]
    fn put_address(&self, ip: &mut [u8], side: Side, more: Option<Delta>) {
        patch_header::<F>(ip, more.map_or(self.header, |more| self.header.and(more)));
        ip[F::TTL] -= self.hops;
        let new = self.new.as_ref();
        ip[F::address_at(side)..][..new.len()].copy_from_slice(new);
    }

    /// Translates an error and what it quotes. Its sender may be somebody on the way, whose address is his own; a destination
    /// is always the end that changes.
    #[cold]
    fn apply_to_error(&self, ip: &mut [u8], message: &mut [u8], side: Side, more: Option<Delta>) -> Result<(), Reason> {
        let mut change = Delta::NONE;
        let (new, at) = (self.new.as_ref(), F::address_at(side));
        if ip[at..][..new.len()] == *self.old.as_ref() {
            self.put_address(ip, side, more);
            if F::ICMP == protocol::ICMPV6 {
                change = self.address; // the pseudo-header
            }
        } else {
            patch_header::<F>(ip, Delta::word(u16::from(self.hops) << 8, 0).and(more.unwrap_or(Delta::NONE)));
            ip[F::TTL] -= self.hops;
        }

        let (head, quoted) = message.split_first_chunk_mut::<{ icmp::HEADER }>().ok_or(Reason::Malformed)?;
        if self.keeps_quotes {
            change.patch(head, icmp::CHECKSUM);
            return Ok(());
        }
        change = change.and(self.translate(quoted, side.other())?);
        change.patch(head, icmp::CHECKSUM);
        Ok(())
    }

    /// Changes one side of a packet that may be cut behind eight bytes of its transport header, and says how that changes a sum
    /// over it.
    fn translate(&self, quoted: &mut [u8], side: Side) -> Result<Delta, Reason> {
        let (number, header) = F::transport(quoted).ok_or(Reason::Malformed)?;
        let mut change = put(quoted, F::address_at(side), self.new.as_ref());
        if let Some(at) = F::CHECKSUM {
            let sum = self.address.patched(be16(quoted, at));
            change = change.and(put(quoted, at, &sum.to_be_bytes()));
        }
        let transport = quoted.get_mut(header..).ok_or(Reason::Malformed)?;
        if let (Some(_), Some(port)) = self.ports {
            change = change.and(put(transport, side.port_at(), &port.to_be_bytes()));
        }
        Ok(change.and(patch_transport(number, transport, self.transport)))
    }
}

/// Both ends of a packet put in place of others.
#[derive(Debug, Clone, Copy)]
pub struct Both<F: Family> {
    pub source: (F::Octets, u16),
    pub destination: (F::Octets, u16),
    /// What that does to a sum over both addresses, and over the ports, too.
    pub addresses: Delta,
    pub transport: Delta,
}

impl<F: Family> Both<F> {
    /// Changes the IP packet that `bytes` begin with, which is one hop on its way further.
    pub fn apply(&self, bytes: &mut [u8], packet: &Packet) -> Result<(), Reason> {
        let (ip, rest) = bytes.split_at_mut_checked(usize::from(packet.header)).ok_or(Reason::Malformed)?;
        let ip = ip.get_mut(..F::HEADER).ok_or(Reason::Malformed)?;
        match packet.content {
            Content::Tcp => {
                self.apply_to_tcp(ip, rest.first_chunk_mut().ok_or(Reason::Malformed)?);
                return Ok(());
            }
            Content::Udp => {
                let udp: &mut [u8; udp::HEADER] = rest.first_chunk_mut().ok_or(Reason::Malformed)?;
                self.transport.patch_udp(udp, udp::CHECKSUM);
                self.put_ports(udp);
            }
            Content::LaterFragment => {}
            Content::Error => return self.apply_to_error(ip, rest),
        }
        self.put_addresses(ip);
        Ok(())
    }

    /// The same with a TCP segment, between whose header and that of IP may be more.
    #[inline(always)]
    pub fn apply_to_tcp(&self, ip: &mut [u8], tcp: &mut [u8; tcp::HEADER]) {
        self.transport.patch(tcp, tcp::CHECKSUM);
        self.put_ports(tcp);
        self.put_addresses(ip);
    }

    #[inline(always)]
    fn put_addresses(&self, ip: &mut [u8]) {
        patch_header::<F>(ip, self.addresses.and(ONE_HOP));
        ip[F::TTL] -= 1;
        let length = self.source.0.as_ref().len();
        ip[F::address_at(Side::Source)..][..length].copy_from_slice(self.source.0.as_ref());
        ip[F::address_at(Side::Destination)..][..length].copy_from_slice(self.destination.0.as_ref());
    }

    #[inline(always)]
    fn put_ports<const N: usize>(&self, transport: &mut [u8; N]) {
        transport[Side::Source.port_at()..][..2].copy_from_slice(&self.source.1.to_be_bytes());
        transport[Side::Destination.port_at()..][..2].copy_from_slice(&self.destination.1.to_be_bytes());
    }

    /// Translates an error and what it quotes, whoever sent it.
    #[cold]
    fn apply_to_error(&self, ip: &mut [u8], message: &mut [u8]) -> Result<(), Reason> {
        let addresses = put(ip, F::address_at(Side::Source), self.source.0.as_ref()).and(put(
            ip,
            F::address_at(Side::Destination),
            self.destination.0.as_ref(),
        ));
        patch_header::<F>(ip, addresses.and(ONE_HOP));
        ip[F::TTL] -= 1;
        let (head, quoted) = message.split_first_chunk_mut::<{ icmp::HEADER }>().ok_or(Reason::Malformed)?;
        // The quoted packet went the other way.
        let mut change = Self { source: self.destination, destination: self.source, ..*self }.translate(quoted)?;
        if F::ICMP == protocol::ICMPV6 {
            change = change.and(addresses); // the pseudo-header
        }
        change.patch(head, icmp::CHECKSUM);
        Ok(())
    }

    /// Changes a packet that may be cut behind eight bytes of its transport header, and says how that changes a sum over it.
    fn translate(&self, quoted: &mut [u8]) -> Result<Delta, Reason> {
        let (number, header) = F::transport(quoted).ok_or(Reason::Malformed)?;
        let addresses = put(quoted, F::address_at(Side::Source), self.source.0.as_ref()).and(put(
            quoted,
            F::address_at(Side::Destination),
            self.destination.0.as_ref(),
        ));
        let mut change = addresses;
        if let Some(at) = F::CHECKSUM {
            let sum = addresses.patched(be16(quoted, at));
            change = change.and(put(quoted, at, &sum.to_be_bytes()));
        }
        let transport = quoted.get_mut(header..).ok_or(Reason::Malformed)?;
        let ports = put(transport, Side::Source.port_at(), &self.source.1.to_be_bytes()).and(put(
            transport,
            Side::Destination.port_at(),
            &self.destination.1.to_be_bytes(),
        ));
        change = change.and(ports).and(patch_transport(number, transport, addresses.and(ports)));
        Ok(change)
    }
}

/// Puts `new` in place of the destination `old` of a packet that may be cut behind eight bytes of its transport header.
pub fn redirect(quoted: &mut [u8], old: End, new: End) -> Result<(), Reason> {
    let ports = (old.1, new.1);
    let translated = match (old.0, new.0) {
        (IpAddr::V4(old), IpAddr::V4(new)) => {
            Change::<V4>::new(old.octets(), new.octets(), ports, 0).translate(quoted, Side::Destination)
        }
        (IpAddr::V6(old), IpAddr::V6(new)) => {
            Change::<V6>::new(old.octets(), new.octets(), ports, 0).translate(quoted, Side::Destination)
        }
        _ => Err(Reason::Malformed),
    };
    translated.map(|_| ())
}

/// Whether it is what most packets are: TCP right behind the fixed header. All offsets are constant then.
#[inline(always)]
pub fn is_plain_tcp<F: Family>(packet: &Packet) -> bool {
    packet.content == Content::Tcp && usize::from(packet.header) == F::HEADER
}

/// Both headers of such a packet.
#[inline(always)]
pub fn split_plain_tcp<F: Family>(bytes: &mut [u8]) -> Result<(&mut [u8], &mut [u8; tcp::HEADER]), Reason> {
    let (ip, rest) = bytes.split_at_mut_checked(F::HEADER).ok_or(Reason::Malformed)?;
    Ok((ip, rest.first_chunk_mut().ok_or(Reason::Malformed)?))
}

/// Patches the checksum of a TCP or UDP header, where it is there, and says how that changes a sum over it.
fn patch_transport(number: u8, transport: &mut [u8], delta: Delta) -> Delta {
    let (at, patch): (_, fn(Delta, &mut [u8], usize)) = match number {
        protocol::TCP => (tcp::CHECKSUM, Delta::patch),
        _ => (udp::CHECKSUM, Delta::patch_udp),
    };
    if transport.len() < at + 2 {
        return Delta::NONE;
    }
    let old = be16(transport, at);
    patch(delta, transport, at);
    Delta::word(old, be16(transport, at))
}

/// The TTL is the upper byte of its word, so the word goes down by 0x0100, whatever it is.
const ONE_HOP: Delta = Delta::word(0x0100, 0);

/// Patches the header's own checksum, where there is one.
#[inline(always)]
fn patch_header<F: Family>(ip: &mut [u8], delta: Delta) {
    if let Some(at) = F::CHECKSUM {
        delta.patch(ip, at);
    }
}

/// Writes whole words, and says how that changes a sum over them.
fn put(bytes: &mut [u8], at: usize, new: &[u8]) -> Delta {
    let Some(place) = bytes.get_mut(at..at + new.len()) else { return Delta::NONE };
    let mut delta = Delta::NONE;
    for (old, new) in place.chunks_exact_mut(2).zip(new.chunks_exact(2)) {
        delta = delta.and(Delta::word(be16(old, 0), be16(new, 0)));
        old.copy_from_slice(new);
    }
    delta
}

/// Refuses the packet behind an untagged Ethernet header where this would be its last hop, or where the `total` bytes that it is to
/// have are more than `most`.
#[inline(always)]
pub fn check<F: Frame>(frame: &F, total: usize, most: u16, ttl_at: usize) -> Result<(), Reason> {
    match frame.bytes().get(ethernet::HEADER + ttl_at) {
        None => Err(Reason::Malformed),
        Some(0 | 1) => Err(Reason::TtlExceeded),
        Some(_) if total > usize::from(most) => Err(Reason::TooBig),
        Some(_) => Ok(()),
    }
}

/// A next hop, as far as a rewritten packet needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    source: Mac,
    destination: Mac,
    mtu: u16,
    pub port: PortIndex,
}

impl From<&NextHop> for Way {
    fn from(hop: &NextHop) -> Self {
        Self { source: hop.source, destination: hop.destination, mtu: hop.mtu, port: hop.port }
    }
}

impl Way {
    /// What every router does: refuses what is too old or too big, cuts what is behind the packet, puts the next hop's
    /// addresses. Gives the packet's bytes.
    #[inline(always)]
    pub fn route<'a, F: Frame>(
        &self,
        frame: &'a mut F,
        packet: &Packet,
        ttl_at: usize,
    ) -> Result<&'a mut [u8], Reason> {
        self.check(frame, packet, 0, ttl_at)?;
        self.pass(frame, packet)
    }

    /// Refuses what is too old, or too big once it has grown by so many bytes.
    #[inline(always)]
    pub fn check<F: Frame>(&self, frame: &F, packet: &Packet, grows: usize, ttl_at: usize) -> Result<(), Reason> {
        check(frame, usize::from(packet.total) + grows, self.mtu, ttl_at)
    }

    /// As [`Way::route`], without regard to the TTL.
    #[inline(always)]
    pub fn pass<'a, F: Frame>(&self, frame: &'a mut F, packet: &Packet) -> Result<&'a mut [u8], Reason> {
        if packet.total > self.mtu {
            return Err(Reason::TooBig);
        }
        let bytes = frame.reshape(0, packet.sent_length(frame)).ok_or(Reason::Malformed)?;
        self.address(bytes)
    }

    /// As [`Way::pass`], with `count` bytes more behind the first `at` of the packet, which are whatever lay there. Whether the
    /// packet still fits has been checked.
    pub fn insert<'a, F: Frame>(
        &self,
        frame: &'a mut F,
        packet: &Packet,
        at: usize,
        count: usize,
    ) -> Result<&'a mut [u8], Reason> {
        let bytes = frame.reshape(count, ethernet::HEADER + usize::from(packet.total)).ok_or(Reason::Malformed)?;
        let before = count..(count + ethernet::HEADER + at).min(bytes.len());
        bytes.copy_within(before, 0);
        self.address(bytes)
    }

    #[inline(always)]
    fn address<'a>(&self, bytes: &'a mut [u8]) -> Result<&'a mut [u8], Reason> {
        let (link, ip) = bytes.split_first_chunk_mut::<{ ethernet::HEADER }>().ok_or(Reason::Malformed)?;
        link[..6].copy_from_slice(&self.destination.0);
        link[6..12].copy_from_slice(&self.source.0);
        Ok(ip)
    }
}

/// Where the TTL or hop limit stands in a packet to this address.
pub fn ttl_at(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => V4::TTL,
        IpAddr::V6(_) => V6::TTL,
    }
}
