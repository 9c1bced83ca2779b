//! Echo to a VIP, answered in place (RFC 792, RFC 1122 section 3.2.2.6, RFC 4443): a VIP lives on no interface, so nobody else
//! would.

use super::Verdict;
use super::parse::Parsed;
use crate::counters::Reason;
use crate::mode::NextHop;
use crate::snapshot::Snapshot;
use crate::wire::checksum::{self, Delta};
use crate::wire::{Frame, ethernet, icmp, ipv4, ipv6};

const TTL: u8 = 64;

/// Turns an echo request, untagged, into its reply, which leaves by the route to the client; `tell` is called right before.
pub fn answer<F: Frame>(parsed: &Parsed, frame: &mut F, snapshot: &Snapshot, tell: impl FnOnce(&F)) -> Verdict {
    let Some(hop) = snapshot.next_hop(parsed.source) else { return Verdict::Drop(Reason::NoNextHop) };
    if parsed.packet.total > hop.mtu {
        return Verdict::Drop(Reason::TooBig);
    }
    tell(frame);
    let length = parsed.packet.sent_length(frame);
    let turned = frame.reshape(0, length).and_then(|bytes| turn_round(bytes, parsed, hop));
    match turned.filter(|()| hop.tag(frame, parsed.packet.priority)) {
        Some(()) => Verdict::Answer(hop.port),
        None => Verdict::Drop(Reason::Malformed),
    }
}

fn turn_round(bytes: &mut [u8], parsed: &Parsed, hop: &NextHop) -> Option<()> {
    let (head, packet) = bytes.split_first_chunk_mut::<{ ethernet::HEADER }>()?;
    let (ip, message) = packet.split_at_mut_checked(usize::from(parsed.packet.header))?;
    let (ether_type, request, reply) = if parsed.destination.is_ipv4() {
        let (from, to) = ip.get_mut(ipv4::field::SOURCE..ipv4::HEADER)?.split_at_mut(4);
        from.swap_with_slice(to);
        ip[ipv4::field::TTL] = TTL;
        ip[ipv4::field::CHECKSUM..][..2].fill(0);
        let sum = !checksum::sum(ip);
        ip[ipv4::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
        (ethernet::IPV4, icmp::v4::ECHO_REQUEST, icmp::v4::ECHO_REPLY)
    } else {
        // The pseudo-header's sum does not know which address is which.
        let (from, to) = ip.get_mut(ipv6::field::SOURCE..ipv6::HEADER)?.split_at_mut(16);
        from.swap_with_slice(to);
        ip[ipv6::field::HOP_LIMIT] = TTL;
        (ethernet::IPV6, icmp::v6::ECHO_REQUEST, icmp::v6::ECHO_REPLY)
    };
    *head = ethernet::header(hop.destination, hop.source, ether_type);

    let message: &mut [u8; icmp::HEADER] = message.first_chunk_mut()?;
    message[0] = reply;
    let change = Delta::word(u16::from(request) << 8, u16::from(reply) << 8);
    change.patch(message, icmp::CHECKSUM);
    Some(())
}
