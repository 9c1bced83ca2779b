//! `ipip`: IPv4 in IPv4 (RFC 2003), for Layer-3 Direct Server Return.
//!
//! ```text
//! before            Ethernet | IP client -> VIP     | TCP or UDP | payload
//! after  Ethernet | IP us -> backend, protocol 4 | IP client -> VIP     | TCP or UDP | payload
//! ```
//!
//! The inner packet is untouched, TTL included. The backend decapsulates (`tunl0`), owns the VIP and answers the client
//! itself. The outer header: TTL 64; ToS as the inner's, ECN included (RFC 6040, section 4.1, normal mode); DF as the
//! inner's; identification 0 with DF (RFC 6864), else a counter. Costs 20 bytes of MTU; what does not fit is refused,
//! never fragmented.

use super::{Context, Identification, Mode, Packet, PortIndex};
use crate::counters::Reason;
use crate::wire::ipv4::{self, field};
use crate::wire::{Frame, checksum, ethernet, le64};

/// Ethernet and outer IP header, whole but for what depends on the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipip {
    header: [u8; AFTER],
    /// Sum over the outer IP header's words that do not depend on the packet, which are the last three of 32 bits.
    partial_sum: u32,
    /// Largest inner packet, bytes.
    room: u16,
    port: PortIndex,
}

/// Bytes in front of the inner packet, afterwards.
const AFTER: usize = ethernet::HEADER + ipv4::HEADER;

impl Mode for Ipip {
    const OVERHEAD: u16 = ipv4::HEADER as u16;

    fn prepare(context: &Context) -> Self {
        let hop = context.next_hop;
        let std::net::IpAddr::V4(backend) = context.backend.address else {
            unreachable!("validation lets no IPv6 backend of an IPv4 VIP through")
        };
        let mut header = [0; AFTER];
        let (link, ip) = header.split_at_mut(ethernet::HEADER);
        link.copy_from_slice(&ethernet::header(hop.destination, hop.source, ethernet::IPV4));
        ip[field::TTL] = 64;
        ip[field::PROTOCOL] = ipv4::protocol::IPIP;
        ip[field::SOURCE..][..4].copy_from_slice(&context.ipv4_source.octets());
        ip[field::DESTINATION..][..4].copy_from_slice(&backend.octets());
        let partial_sum = u32::from(checksum::sum(ip).swap_bytes());
        Self { header, partial_sum, room: hop.mtu.saturating_sub(Self::OVERHEAD), port: hop.port }
    }

    #[inline]
    fn apply<F: Frame>(&self, frame: &mut F, packet: Packet, id: &mut Identification) -> Result<PortIndex, Reason> {
        const IP: usize = ethernet::HEADER;
        const INNER: usize = AFTER;
        if packet.total > self.room {
            return Err(Reason::TooBig);
        }
        // The headroom suffices by the contract of `Frame`, and the packet by that of `Packet`.
        let length = ethernet::HEADER + usize::from(packet.total);
        let bytes = frame.reshape(ipv4::HEADER, length).ok_or(Reason::Malformed)?;
        let head: &mut [u8; INNER + ipv4::HEADER] = bytes.first_chunk_mut().ok_or(Reason::Malformed)?;

        // The first eight bytes, from version to fragment offset, as one little-endian word; so are all sums.
        const KEPT: u64 = u64::from_le_bytes([0, 0xff, 0, 0, 0, 0, DF, 0]);
        const DF: u8 = (ipv4::DF >> 8) as u8;
        let kept = le64(head, INNER) & KEPT;
        let total = packet.total + Self::OVERHEAD;
        let id = if kept >> 48 == 0 { id.next() } else { 0 };
        let word = 0x45 | kept | u64::from(total.swap_bytes()) << 16 | u64::from(id.swap_bytes()) << 32;
        let sum = u64::from(self.partial_sum) + (word & 0xffff_ffff) + (word >> 32);

        head[..AFTER].copy_from_slice(&self.header);
        head[IP..][..8].copy_from_slice(&word.to_le_bytes());
        head[IP + field::CHECKSUM..][..2].copy_from_slice(&(!checksum::fold_wide(sum)).to_le_bytes());
        Ok(self.port)
    }
}
