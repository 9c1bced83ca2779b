//! What the sender is told of a packet that cannot go on, a client of one to its backend, a backend of a reply: ICMP errors (RFC 792,
//! RFC 1191, RFC 4443), or a TCP reset (RFC 9293). They come from the VIP, leave by the route to the sender, and are limited in
//! their rate, all together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::parse::Parsed;
use super::{Outcome, Verdict};
use crate::counters::Reason;
use crate::mode::{Content, NextHop, Packet};
use crate::service::NoBackend;
use crate::snapshot::{Millis, PortIndex, ServiceIndex, Snapshot};
use crate::wire::ipv4::{self, Ipv4, protocol};
use crate::wire::tcp::{self, ACK, FIN, FLAGS, RST, SYN};
use crate::wire::{Frame, be32, checksum, ethernet, icmp, ipv6};

/// A packet that its mode refused; its frame is untagged and as it came.
pub struct Refused {
    pub reason: Reason,
    pub packet: Packet,
    /// Of a reply none.
    pub service: ServiceIndex,
    /// Largest packet that would have gone, bytes.
    pub room: u16,
    /// The VIP, where the packet was not sent to it.
    pub vip: Option<IpAddr>,
}

impl Refused {
    /// A reply of `vip` that was to leave by `hop`.
    pub fn reply(reason: Reason, packet: Packet, vip: IpAddr, hop: &NextHop) -> Self {
        Self { reason, packet, service: ServiceIndex::NONE, room: hop.mtu, vip: Some(vip) }
    }
}

/// Bytes of a whole ICMP error at most (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4 c).
const MOST_V4: usize = 576;
const MOST_V6: usize = 1280;

const TTL: u8 = 64;

/// What is sent.
enum Answer {
    Icmp(Icmp),
    Reset,
}

/// An ICMP error, by type and code in either family, with the word behind the checksum.
struct Icmp {
    v4: (u8, u8),
    v6: (u8, u8),
    word: u32,
}

impl Icmp {
    fn too_big(room: u16) -> Self {
        let v4 = (icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED);
        Self { v4, v6: (icmp::v6::TOO_BIG, 0), word: room.into() }
    }
}

/// Turns the frame into what its sender is told, where there is something to tell and somebody to tell it to; `tell` is called right before.
#[cold]
#[inline(never)]
pub fn answer<F: Frame>(
    frame: &mut F,
    refused: Refused,
    snapshot: &Snapshot,
    now: Millis,
    tell: impl FnOnce(&F, Outcome),
) -> Verdict {
    let Refused { reason, packet, service, room, vip } = refused;
    let dropped = Verdict::Drop(reason);
    // An error about an error, or about a part without a beginning, is never sent (RFC 1122, section 3.2.2; RFC 4443, section 2.4 e).
    if matches!(packet.content, Content::Error | Content::LaterFragment) {
        return dropped;
    }
    let parsed = Parsed::again(frame.bytes());
    let icmp = |v4, v6| Some(Answer::Icmp(Icmp { v4, v6, word: 0 }));
    let answer = match reason {
        Reason::TooBig if may_be_fragmented(frame.bytes(), &parsed) => None,
        Reason::TooBig => Some(Answer::Icmp(Icmp::too_big(room))),
        Reason::TtlExceeded => icmp((icmp::v4::TIME_EXCEEDED, 0), (icmp::v6::TIME_EXCEEDED, 0)),
        Reason::NoBackend if snapshot.definition(service).no_backend == NoBackend::Reject => match packet.content {
            Content::Tcp => reset(frame.bytes(), packet),
            _ => icmp((icmp::v4::UNREACHABLE, icmp::v4::PORT), (icmp::v6::UNREACHABLE, icmp::v6::PORT)),
        },
        _ => None,
    };
    let Some(answer) = answer else { return dropped };
    let Some(hop) = snapshot.next_hop(parsed.source) else { return dropped };
    if !snapshot.limiter().allow(now) {
        return dropped;
    }
    let is_rejected = reason == Reason::NoBackend;
    tell(frame, if is_rejected { Outcome::Dropped(reason) } else { Outcome::Answered });
    let from = vip.unwrap_or(parsed.destination);
    let made = match answer {
        Answer::Icmp(error) => say(frame, packet, hop, from, error),
        Answer::Reset => reset_in_place(frame, packet, hop, from),
    };
    match made.filter(|()| hop.tag(frame, packet.priority)) {
        None => Verdict::Drop(Reason::Malformed),
        Some(()) if is_rejected => Verdict::Reject(hop.port),
        Some(()) => Verdict::Answer(hop.port),
    }
}

/// Turns a frame, whose packet is a client's or as much of one as is known, into "too big": `room` bytes would have gone.
pub fn tell_too_big<F: Frame>(
    frame: &mut F,
    packet: Packet,
    client: IpAddr,
    room: u16,
    snapshot: &Snapshot,
) -> Option<PortIndex> {
    let hop = snapshot.next_hop(client)?;
    let packet_bytes = frame.bytes().get(ethernet::HEADER..)?;
    let vip = match client {
        IpAddr::V4(_) => Ipv4::of(packet_bytes)?.destination().into(),
        IpAddr::V6(_) => ipv6::Ipv6::of(packet_bytes)?.destination().into(),
    };
    say(frame, packet, hop, vip, Icmp::too_big(room))?;
    hop.tag(frame, packet.priority).then_some(hop.port)
}

/// Whether the sender left it to the network to make the packet fit, which we do not do, and so has nothing to learn.
fn may_be_fragmented(frame: &[u8], parsed: &Parsed) -> bool {
    let ip = frame.get(ethernet::HEADER..).and_then(Ipv4::of);
    parsed.destination.is_ipv4() && ip.is_some_and(|ip| !ip.dont_fragment())
}

/// Makes room for the headers in front of the packet, which becomes the quote, cut to `most` bytes in all. Gives the new headers,
/// Ethernet's left out, and the quote.
fn quote<'a, F: Frame>(
    frame: &'a mut F,
    packet: Packet,
    hop: &NextHop,
    headers: usize,
    most: usize,
    ether_type: u16,
) -> Option<(&'a mut [u8], &'a mut [u8])> {
    let length = usize::from(packet.total).min(most - headers);
    let bytes = frame.reshape(headers, ethernet::HEADER + length)?;
    let (link, packet) = bytes.split_first_chunk_mut::<{ ethernet::HEADER }>()?;
    *link = ethernet::header(hop.destination, hop.source, ether_type);
    packet.split_at_mut_checked(headers)
}

/// Turns the frame into an error from `from` about its packet.
fn say<F: Frame>(frame: &mut F, packet: Packet, hop: &NextHop, from: IpAddr, error: Icmp) -> Option<()> {
    match from {
        IpAddr::V4(from) => say_v4(frame, packet, hop, from, error),
        IpAddr::V6(from) => say_v6(frame, packet, hop, from, error),
    }
}

fn say_v4<F: Frame>(frame: &mut F, packet: Packet, hop: &NextHop, from: Ipv4Addr, error: Icmp) -> Option<()> {
    const HEADERS: usize = ipv4::HEADER + icmp::HEADER;
    let (headers, quote) = quote(frame, packet, hop, HEADERS, MOST_V4, ethernet::IPV4)?;
    let (ip, message) = headers.split_first_chunk_mut::<{ ipv4::HEADER }>()?;
    *ip = header_v4(quote, protocol::ICMP, (HEADERS + quote.len()) as u16, from)?;
    message.copy_from_slice(&[error.v4.0, error.v4.1, 0, 0, 0, 0, 0, 0]);
    message[4..].copy_from_slice(&error.word.to_be_bytes());
    let sum = u32::from(checksum::sum(message)) + u32::from(checksum::sum(quote));
    message[icmp::CHECKSUM..][..2].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    Some(())
}

fn say_v6<F: Frame>(frame: &mut F, packet: Packet, hop: &NextHop, from: Ipv6Addr, error: Icmp) -> Option<()> {
    const HEADERS: usize = ipv6::HEADER + icmp::HEADER;
    let (headers, quote) = quote(frame, packet, hop, HEADERS, MOST_V6, ethernet::IPV6)?;
    let (ip, message) = headers.split_first_chunk_mut::<{ ipv6::HEADER }>()?;
    let length = icmp::HEADER + quote.len();
    *ip = header_v6(quote, protocol::ICMPV6, length as u16, from)?;
    message.copy_from_slice(&[error.v6.0, error.v6.1, 0, 0, 0, 0, 0, 0]);
    message[4..].copy_from_slice(&error.word.to_be_bytes());
    let parts = [&ip[ipv6::field::SOURCE..], message, quote].map(|part| u32::from(checksum::sum(part)));
    let sum = parts.into_iter().sum::<u32>() + length as u32 + u32::from(protocol::ICMPV6);
    message[icmp::CHECKSUM..][..2].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    Some(())
}

/// A header to where `packet` came from.
fn header_v4(packet: &[u8], number: u8, total: u16, from: Ipv4Addr) -> Option<[u8; ipv4::HEADER]> {
    use ipv4::field;
    let of = Ipv4::of(packet)?;
    let mut ip = [0; ipv4::HEADER];
    ip[0] = 0x45;
    ip[field::TOTAL_LENGTH..][..2].copy_from_slice(&total.to_be_bytes());
    ip[field::FLAGS..][..2].copy_from_slice(&ipv4::DF.to_be_bytes());
    ip[field::TTL] = TTL;
    ip[field::PROTOCOL] = number;
    ip[field::SOURCE..][..4].copy_from_slice(&from.octets());
    ip[field::DESTINATION..][..4].copy_from_slice(&of.source().octets());
    let sum = !checksum::sum(&ip);
    ip[field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
    Some(ip)
}

fn header_v6(packet: &[u8], number: u8, payload: u16, from: Ipv6Addr) -> Option<[u8; ipv6::HEADER]> {
    use ipv6::field;
    let of = ipv6::Ipv6::of(packet)?;
    let mut ip = [0; ipv6::HEADER];
    ip[0] = 0x60;
    ip[field::PAYLOAD_LENGTH..][..2].copy_from_slice(&payload.to_be_bytes());
    ip[field::NEXT_HEADER] = number;
    ip[field::HOP_LIMIT] = TTL;
    ip[field::SOURCE..][..16].copy_from_slice(&from.octets());
    ip[field::DESTINATION..][..16].copy_from_slice(&of.source().octets());
    Some(ip)
}

/// A reset, unless the segment is one itself.
fn reset(frame: &[u8], packet: Packet) -> Option<Answer> {
    let flags = frame.get(ethernet::HEADER + usize::from(packet.header) + FLAGS)?;
    (flags & RST == 0).then_some(Answer::Reset)
}

/// Puts a reset in the segment's place (RFC 9293, section 3.10.7.1).
fn reset_in_place<F: Frame>(frame: &mut F, packet: Packet, hop: &NextHop, from: IpAddr) -> Option<()> {
    // The fixed header of either family; a segment behind one of IPv4 has as many bytes.
    let old: [u8; ipv6::HEADER] = *frame.bytes().get(ethernet::HEADER..)?.first_chunk()?;
    let header = usize::from(packet.header);
    let segment: &[u8; tcp::HEADER] = frame.bytes().get(ethernet::HEADER + header..)?.first_chunk()?;
    let flags = segment[FLAGS];
    let mut reset = [0; tcp::HEADER];
    reset[..2].copy_from_slice(&segment[2..4]);
    reset[2..4].copy_from_slice(&segment[..2]);
    reset[12] = (tcp::HEADER as u8 / 4) << 4;
    if flags & ACK != 0 {
        reset[4..8].copy_from_slice(&segment[8..12]);
        reset[FLAGS] = RST;
    } else {
        // The options of a first fragment may reach into the next.
        let options = usize::from(segment[12] >> 4) * 4;
        let data = usize::from(packet.total).saturating_sub(header + options);
        let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        reset[8..12].copy_from_slice(&be32(segment, 4).wrapping_add(length).to_be_bytes());
        reset[FLAGS] = RST | ACK;
    }

    let ip_header = if from.is_ipv4() { ipv4::HEADER } else { ipv6::HEADER };
    let length = ethernet::HEADER + ip_header + tcp::HEADER;
    let padded = length.max(ethernet::MINIMUM).min(frame.bytes().len());
    let bytes = frame.reshape(0, padded)?;
    bytes.get_mut(length..)?.fill(0);
    let (link, rest) = bytes.split_first_chunk_mut::<{ ethernet::HEADER }>()?;
    let (ip, rest) = rest.split_at_mut_checked(ip_header)?;
    let addresses = match from {
        IpAddr::V4(from) => {
            *link = ethernet::header(hop.destination, hop.source, ethernet::IPV4);
            ip.copy_from_slice(&header_v4(&old, protocol::TCP, (ip_header + tcp::HEADER) as u16, from)?);
            &ip[ipv4::field::SOURCE..]
        }
        IpAddr::V6(from) => {
            *link = ethernet::header(hop.destination, hop.source, ethernet::IPV6);
            ip.copy_from_slice(&header_v6(&old, protocol::TCP, tcp::HEADER as u16, from)?);
            &ip[ipv6::field::SOURCE..]
        }
    };
    let sum = u32::from(checksum::sum(addresses)) + u32::from(checksum::sum(&reset));
    let sum = !checksum::fold(sum + u32::from(protocol::TCP) + tcp::HEADER as u32);
    reset[tcp::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
    rest.first_chunk_mut().map(|place| *place = reset)
}
