//! Echo to a VIP, answered in place (RFC 792, RFC 1122 section 3.2.2.6): a VIP lives on no interface, so nobody else would.

use super::Verdict;
use super::parse::Parsed;
use crate::counters::Reason;
use crate::snapshot::Snapshot;
use crate::wire::checksum::{self, Delta};
use crate::wire::ipv4::field;
use crate::wire::{Frame, be16, ethernet, icmp};

const TTL: u8 = 64;

/// Turns an echo request into its reply, which leaves by the route to the client.
pub fn answer<F: Frame>(parsed: &Parsed, frame: &mut F, snapshot: &Snapshot) -> Verdict {
    let Some(hop) = snapshot.next_hop(parsed.source) else { return Verdict::Drop(Reason::NoNextHop) };
    if parsed.packet.total > hop.mtu {
        return Verdict::Drop(Reason::TooBig);
    }
    let link = ethernet::header(hop.destination, hop.source, ethernet::IPV4);
    let length = parsed.packet.sent_length(frame);
    match frame.reshape(0, length).and_then(|bytes| turn_round(bytes, parsed, &link)) {
        Some(()) => Verdict::Answer(hop.port),
        None => Verdict::Drop(Reason::Malformed),
    }
}

fn turn_round(bytes: &mut [u8], parsed: &Parsed, link: &[u8; ethernet::HEADER]) -> Option<()> {
    let (head, packet) = bytes.split_at_mut_checked(ethernet::HEADER)?;
    let (ip, message) = packet.split_at_mut_checked(usize::from(parsed.packet.header))?;
    head.copy_from_slice(link);

    ip[field::SOURCE..][..4].copy_from_slice(&parsed.destination.octets());
    ip[field::DESTINATION..][..4].copy_from_slice(&parsed.source.octets());
    ip[field::TTL] = TTL;
    ip[field::CHECKSUM..][..2].fill(0);
    let sum = !checksum::sum(ip);
    ip[field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());

    let message: &mut [u8; icmp::HEADER] = message.first_chunk_mut()?;
    message[0] = icmp::ECHO_REPLY;
    let change = Delta::word(u16::from(icmp::ECHO_REQUEST) << 8, u16::from(icmp::ECHO_REPLY) << 8);
    let sum = change.patch(be16(message, icmp::CHECKSUM));
    message[icmp::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}
