//! The outer header of tunnels: Ethernet, IPv4 or IPv6, and what a mode has between it and the inner packet, prepared as bytes.
//!
//! TTL or hop limit 64. ToS or traffic class as the inner's, ECN included (RFC 6040, section 4.1, normal mode). Outer IPv4: DF as
//! the inner's, and set where the inner packet is IPv6, which nobody on the way may fragment; identification 0 with DF (RFC
//! 6864), else a counter. Outer IPv6: the flow label is the flow's (RFC 6438). What does not fit is refused, never fragmented.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Context, NextHop, PortIndex, State};
use crate::counters::Reason;
use crate::wire::ipv4::{self, field};
use crate::wire::{Frame, checksum, ethernet, ipv6};

const TTL: u8 = 64;
/// An IPv4 header's first byte.
const VERSION_AND_LENGTH: u8 = 0x45;
const IP: usize = ethernet::HEADER;

/// Where what a mode puts behind an outer IPv4 header begins, and behind an outer IPv6 header.
pub const TAIL_V4: usize = IP + ipv4::HEADER;
pub const TAIL_V6: usize = IP + ipv6::HEADER;

/// An outer header to one backend, of `N4` bytes where it is IPv4, of `N6` where it is IPv6; the inner packet's family is the
/// VIP's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outer<const N4: usize, const N6: usize> {
    V4InV4(OuterV4<N4>),
    V6InV4(OuterV4<N4>),
    /// As the two before, with a source of the flow's own.
    SpreadV4InV4(OuterV4<N4>),
    SpreadV6InV4(OuterV4<N4>),
    V4InV6(Box<OuterV6<N6>>),
    V6InV6(Box<OuterV6<N6>>),
}

/// Of `N` bytes, Ethernet's included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OuterV4<const N: usize> {
    header: [u8; N],
    /// Largest inner packet, bytes.
    room: u16,
    port: PortIndex,
    /// Sum over the outer IP header's little-endian words that do not depend on the packet.
    partial_sum: u32,
    /// The bits of the source that are the flow's.
    spread: u32,
}

/// Of `N` bytes, Ethernet's included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OuterV6<const N: usize> {
    header: [u8; N],
    room: u16,
    port: PortIndex,
    /// Of the IP header's first eight bytes, as one number, what does not depend on the packet.
    first: u64,
    /// The bits of the source that are the flow's.
    spread: u128,
}

impl<const N4: usize, const N6: usize> Outer<N4, N6> {
    /// To `endpoint`; the header's `protocol` is that of `tail`, what follows it up to the inner packet.
    pub fn new(context: &Context, endpoint: IpAddr, protocol: u8, tail: &[u8]) -> Self {
        let (encap, is_v4) = (context.encap, context.service.vip.addr().is_ipv4());
        match endpoint {
            IpAddr::V4(to) => {
                let (source, spread) = match encap.rss_source_v4 {
                    Some(prefix) => (prefix.network(), prefix.hostmask().to_bits()),
                    None => (encap.ipv4_source.unwrap_or(Ipv4Addr::UNSPECIFIED), 0),
                };
                let outer = OuterV4::new(context.next_hop, source, spread, to, protocol, tail);
                match (is_v4, spread) {
                    (true, 0) => Self::V4InV4(outer),
                    (false, 0) => Self::V6InV4(outer),
                    (true, _) => Self::SpreadV4InV4(outer),
                    (false, _) => Self::SpreadV6InV4(outer),
                }
            }
            IpAddr::V6(to) => {
                let (source, spread) = match encap.rss_source_v6 {
                    Some(prefix) => (prefix.network(), prefix.hostmask().to_bits()),
                    None => (encap.ipv6_source.unwrap_or(Ipv6Addr::UNSPECIFIED), 0),
                };
                let outer = Box::new(OuterV6::new(context.next_hop, source, spread, to, protocol, tail));
                if is_v4 { Self::V4InV6(outer) } else { Self::V6InV6(outer) }
            }
        }
    }

    /// Puts the header in front of a packet of `total` bytes; `finish` gets the whole frame and where the tail begins.
    #[inline(always)]
    pub fn wrap<F: Frame>(
        &self,
        frame: &mut F,
        total: u16,
        hash: u64,
        state: &mut State,
        finish: impl FnOnce(&mut [u8], usize),
    ) -> Result<PortIndex, Reason> {
        match self {
            Self::V4InV4(outer) => outer.wrap::<F, InnerV4, false>(frame, total, hash, state, finish),
            Self::V6InV4(outer) => outer.wrap::<F, InnerV6, false>(frame, total, hash, state, finish),
            Self::SpreadV4InV4(outer) => outer.wrap::<F, InnerV4, true>(frame, total, hash, state, finish),
            Self::SpreadV6InV4(outer) => outer.wrap::<F, InnerV6, true>(frame, total, hash, state, finish),
            Self::V4InV6(outer) => outer.wrap::<F, InnerV4>(frame, total, hash, finish),
            Self::V6InV6(outer) => outer.wrap::<F, InnerV6>(frame, total, hash, finish),
        }
    }
}

/// What an outer header takes over from the packet inside.
trait Inner {
    /// Traffic class, and whether routers may fragment it; `ip` are the first [`TAKEN`] bytes of the packet.
    fn read(ip: &[u8]) -> (u8, bool);

    /// The traffic class where an IPv6 header's first word has it.
    fn class(ip: &[u8]) -> u32;
}

/// As a little-endian word.
const DF: u16 = ipv4::DF.swap_bytes();

/// Bytes of the inner packet that are looked at.
const TAKEN: usize = 8;

struct InnerV4;
struct InnerV6;

impl Inner for InnerV4 {
    #[inline(always)]
    fn read(ip: &[u8]) -> (u8, bool) {
        (ip[field::TOS], ip[field::FLAGS] & ipv4::DF.to_be_bytes()[0] == 0)
    }

    #[inline(always)]
    fn class(ip: &[u8]) -> u32 {
        u32::from(ip[field::TOS]) << 20
    }
}

impl Inner for InnerV6 {
    #[inline(always)]
    fn read(ip: &[u8]) -> (u8, bool) {
        (ip[0] << 4 | ip[1] >> 4, false)
    }

    #[inline(always)]
    fn class(ip: &[u8]) -> u32 {
        u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]) & 0xff << 20
    }
}

/// What an IPv4 packet got, and what for: those that are alike in that, to the same backend, get the same.
#[derive(Debug)]
pub struct Again<const N: usize> {
    header: [u8; N],
    /// What counts of the inner packet's first bytes, as a little-endian number: ToS, length, and DF, which is set.
    inner: u64,
    total: u16,
}

impl<const N: usize> Again<N> {
    const COUNTS: u64 = u64::from_le_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, ipv4::DF.to_be_bytes()[0], 0]);

    /// Of a packet of `total` bytes that [`OuterV4::wrap_v4`] has wrapped. `None`: it may be fragmented, and then each has an identification of its
    /// own.
    #[inline(always)]
    pub fn of<F: Frame>(frame: &F, total: u16) -> Option<Self> {
        let (header, inner) = frame.bytes().split_first_chunk()?;
        let inner = Self::counts(inner.first_chunk()?);
        (inner >> 48 != 0).then_some(Self { header: *header, inner, total })
    }

    /// Wraps the first of these packets, up to one that is not alike; gives how many.
    #[inline(always)]
    pub fn wrap_all<F: Frame>(&self, frames: &mut [F]) -> usize {
        frames.iter_mut().map_while(|frame| self.wrap(frame)).count()
    }

    #[inline(always)]
    fn wrap<F: Frame>(&self, frame: &mut F) -> Option<()> {
        let ip = frame.bytes().get(IP..IP + TAKEN)?.first_chunk()?;
        if Self::counts(ip) != self.inner {
            return None;
        }
        *frame.reshape(N - IP, IP + usize::from(self.total))?.first_chunk_mut()? = self.header;
        Some(())
    }

    #[inline(always)]
    fn counts(ip: &[u8; TAKEN]) -> u64 {
        u64::from_le_bytes(*ip) & Self::COUNTS
    }
}

impl<const N: usize> OuterV4<N> {
    /// By which packets go.
    #[inline(always)]
    pub fn port(&self) -> PortIndex {
        self.port
    }

    /// Of an IPv4 packet, with nothing of its own in the header.
    #[inline(always)]
    pub fn wrap_v4<F: Frame>(&self, frame: &mut F, total: u16, state: &mut State) -> Result<PortIndex, Reason> {
        self.wrap_v4_with(frame, total, state, |_, _| ())
    }

    /// The same, with what `finish` does to the whole frame, which gets where the tail begins.
    #[inline(always)]
    pub fn wrap_v4_with<F: Frame>(
        &self,
        frame: &mut F,
        total: u16,
        state: &mut State,
        finish: impl FnOnce(&mut [u8], usize),
    ) -> Result<PortIndex, Reason> {
        self.wrap::<F, InnerV4, false>(frame, total, 0, state, finish)
    }

    fn new(hop: &NextHop, source: Ipv4Addr, spread: u32, to: Ipv4Addr, protocol: u8, tail: &[u8]) -> Self {
        let mut header = [0; N];
        header[..IP].copy_from_slice(&ethernet::header(hop.destination, hop.source, ethernet::IPV4));
        let ip = &mut header[IP..TAIL_V4];
        ip[field::FLAGS..][..2].copy_from_slice(&ipv4::DF.to_be_bytes());
        ip[field::TTL] = TTL;
        ip[field::PROTOCOL] = protocol;
        ip[field::SOURCE..][..4].copy_from_slice(&source.octets());
        ip[field::DESTINATION..][..4].copy_from_slice(&to.octets());
        let partial_sum = u32::from(checksum::sum(ip).swap_bytes());
        header[TAIL_V4..].copy_from_slice(tail);
        let room = hop.mtu.saturating_sub((N - IP) as u16);
        Self { header, room, port: hop.port, partial_sum, spread }
    }

    #[inline(always)]
    fn wrap<F: Frame, I: Inner, const SPREAD: bool>(
        &self,
        frame: &mut F,
        total: u16,
        hash: u64,
        state: &mut State,
        finish: impl FnOnce(&mut [u8], usize),
    ) -> Result<PortIndex, Reason> {
        if total > self.room {
            return Err(Reason::TooBig);
        }
        // The headroom suffices by the contract of `Frame`, and the packet by that of `Packet`.
        let bytes = frame.reshape(N - IP, IP + usize::from(total)).ok_or(Reason::Malformed)?;
        // One check for all that follows.
        let head = bytes.get_mut(..N + TAKEN).ok_or(Reason::Malformed)?;

        // All as little-endian words of two bytes, in which what is copied and summed needs no swap.
        let (tos, may_be_fragmented) = I::read(&head[N..]);
        let length = (u32::from(total) + (N - IP) as u32).swap_bytes();
        let first = length | u32::from(tos) << 8 | u32::from(VERSION_AND_LENGTH);
        let mut sum = checksum::add(self.partial_sum, first);

        head[..N].copy_from_slice(&self.header);
        head[IP..][..4].copy_from_slice(&first.to_le_bytes());
        if may_be_fragmented {
            let id = state.id.next().swap_bytes();
            head[IP + field::IDENTIFICATION..][..4].copy_from_slice(&u32::from(id).to_le_bytes());
            sum = checksum::add(sum, u32::from(id) + u32::from(!DF));
        }
        if SPREAD {
            let own = (hash as u32 & self.spread).swap_bytes();
            sum = checksum::add(sum, own);
            let at = IP + field::SOURCE;
            let source = u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) | own;
            head[at..][..4].copy_from_slice(&source.to_le_bytes());
        }
        head[IP + field::CHECKSUM..][..2].copy_from_slice(&(!checksum::fold(sum)).to_le_bytes());
        finish(bytes, TAIL_V4);
        Ok(self.port)
    }
}

impl<const N: usize> OuterV6<N> {
    /// By which packets go.
    #[inline(always)]
    pub fn port(&self) -> PortIndex {
        self.port
    }

    /// Of an IPv6 packet, with nothing of its own in the header.
    #[inline(always)]
    pub fn wrap_v6<F: Frame>(&self, frame: &mut F, total: u16, hash: u64) -> Result<PortIndex, Reason> {
        self.wrap::<F, InnerV6>(frame, total, hash, |_, _| ())
    }

    fn new(hop: &NextHop, source: Ipv6Addr, spread: u128, to: Ipv6Addr, protocol: u8, tail: &[u8]) -> Self {
        use ipv6::field;
        let mut header = [0; N];
        header[..IP].copy_from_slice(&ethernet::header(hop.destination, hop.source, ethernet::IPV6));
        let ip = &mut header[IP..TAIL_V6];
        ip[0] = 6 << 4;
        ip[field::NEXT_HEADER] = protocol;
        ip[field::HOP_LIMIT] = TTL;
        ip[field::SOURCE..][..16].copy_from_slice(&source.octets());
        ip[field::DESTINATION..][..16].copy_from_slice(&to.octets());
        let first = ip.first_chunk().map_or(0, |&first| u64::from_be_bytes(first));
        header[TAIL_V6..].copy_from_slice(tail);
        Self { header, room: hop.mtu.saturating_sub((N - IP) as u16), port: hop.port, first, spread }
    }

    #[inline(always)]
    fn wrap<F: Frame, I: Inner>(
        &self,
        frame: &mut F,
        total: u16,
        hash: u64,
        finish: impl FnOnce(&mut [u8], usize),
    ) -> Result<PortIndex, Reason> {
        use ipv6::field;
        if total > self.room {
            return Err(Reason::TooBig);
        }
        let bytes = frame.reshape(N - IP, IP + usize::from(total)).ok_or(Reason::Malformed)?;
        let head = bytes.get_mut(..N + TAKEN).ok_or(Reason::Malformed)?;
        let (class, label) = (I::class(&head[N..]), hash as u32 & 0xf_ffff);

        head[..N].copy_from_slice(&self.header);
        let payload = total + (N - TAIL_V6) as u16;
        let word = self.first | u64::from(class | label) << 32 | u64::from(payload) << 16;
        head[IP..][..8].copy_from_slice(&word.to_be_bytes());
        if self.spread != 0 {
            let source = &mut head[IP + field::SOURCE..][..16];
            let own = (u128::from(hash) & self.spread).to_be_bytes();
            source.iter_mut().zip(own).for_each(|(byte, own)| *byte |= own);
        }
        finish(bytes, TAIL_V6);
        Ok(self.port)
    }
}
