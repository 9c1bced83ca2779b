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
use crate::wire::{Frame, checksum, ethernet, le16};

/// Ethernet and outer IP header, whole but for what depends on the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipip {
    header: [u8; AFTER],
    /// Sum over the outer IP header's little-endian words that do not depend on the packet.
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
        ip[0] = 0x45;
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

        // All as little-endian words of two bytes, in which what is copied and summed needs no swap.
        const DF: u16 = ipv4::DF.swap_bytes();
        let tos = u16::from_le_bytes([0, head[INNER + field::TOS]]);
        let flags = le16(head, INNER + field::FLAGS) & DF;
        let total = (packet.total + Self::OVERHEAD).swap_bytes();
        let id = if flags == 0 { id.next().swap_bytes() } else { 0 };
        let sum = [tos, total, id, flags].into_iter().fold(self.partial_sum, |sum, word| sum + u32::from(word));

        head[..AFTER].copy_from_slice(&self.header);
        let word = u64::from(flags) << 48 | u64::from(id) << 32 | u64::from(total) << 16 | u64::from(tos | 0x45);
        head[IP..][..8].copy_from_slice(&word.to_le_bytes());
        head[IP + field::CHECKSUM..][..2].copy_from_slice(&(!checksum::fold(sum)).to_le_bytes());
        Ok(self.port)
    }
}
