//! What the fabric says of tunnelled packets: "too big", sent to their outer source (RFC 1191, RFC 8201; RFC 2003, section 4).
//!
//! The way to the endpoint then counts as narrower for a while, and the client is told, where the error quotes enough of its packet.

use std::net::IpAddr;

use super::parse::{Kind, Parsed};
use super::{Verdict, refusal};
use crate::counters::Reason;
use crate::mode::{Packet, Tunnel, link, rewrite};
use crate::snapshot::{Millis, Owner, Snapshot};
use crate::wire::icmp::Quote;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{Frame, be16, be32, ethernet, icmp};

/// Nobody is believed who says less: hosts accept so much (RFC 791, RFC 8200).
const LEAST_V4: u16 = 576;
const LEAST_V6: u16 = 1280;

/// The verdict on an error about a packet of a tunnel of ours; `None`: it is none, or it tells too little, and nothing changed
/// but what is known of the way.
///
/// `tell` is called right before the frame changes.
pub fn relay<F: Frame>(
    parsed: &Parsed,
    frame: &mut F,
    snapshot: &Snapshot,
    now: Millis,
    tell: impl FnOnce(&F),
) -> Option<Verdict> {
    let is_error = matches!(parsed.kind, Kind::OtherIcmp | Kind::Error) && parsed.fault.is_none();
    if !is_error || !snapshot.is_outer_source(parsed.destination) {
        return None;
    }
    let message_at = usize::from(parsed.link) + usize::from(parsed.packet.header);
    let end = usize::from(parsed.link) + usize::from(parsed.packet.total);
    let message = frame.bytes().get(message_at..end)?;
    let mtu = too_big(message, parsed.destination.is_ipv4())?;
    let quoted = message.get(icmp::HEADER..)?;
    let outer = Outer::of(quoted, parsed.destination.is_ipv4())?;
    if outer.source != parsed.destination {
        return None;
    }
    let tunnel = *snapshot.tunnels(outer.destination).find(|tunnel| outer.is_of(tunnel, quoted))?;
    snapshot.learned().note(tunnel.endpoint, mtu);

    let inner_at = outer.header + usize::from(tunnel.between);
    let inner = quoted.get(inner_at..)?;
    let client = client(message.get(inner_at..)?, &tunnel, quoted.get(outer.header..)?, snapshot)?;
    let overhead = (outer.header + usize::from(tunnel.between)) as u16;
    let packet = Packet { total: inner.len() as u16, ..parsed.packet };
    // Asked before anything changes, so that whoever looks on sees what is dropped as it was received.
    if snapshot.next_hop(client).is_none() {
        return Some(Verdict::Drop(Reason::NoNextHop));
    }
    if !snapshot.limiter().allow(now) {
        return Some(Verdict::Drop(Reason::IcmpLimited));
    }

    // The inner packet takes the error's place in the frame.
    tell(frame);
    let mut told = || {
        let quoted_at = message_at + icmp::HEADER;
        if let Some(at) = tunnel.vip_at {
            restore(frame.bytes_mut(), quoted_at + outer.header + usize::from(at), quoted_at + inner_at)?;
        }
        if !link::strip_tags(frame, usize::from(parsed.link)) {
            return None;
        }
        let gone = message_at - usize::from(parsed.link) + icmp::HEADER + inner_at;
        let length = (ethernet::HEADER + gone + usize::from(packet.total)).min(frame.bytes().len());
        frame.reshape(0, length)?;
        if !frame.strip(gone) {
            return None;
        }
        refusal::tell_too_big(frame, packet, client, mtu.saturating_sub(overhead), snapshot)
    };
    Some(told().map_or(Verdict::Drop(Reason::Malformed), Verdict::Answer))
}

/// The MTU of a "too big", of which `None` says that it is something else.
fn too_big(message: &[u8], is_v4: bool) -> Option<u16> {
    let header: &[u8; icmp::HEADER] = message.first_chunk()?;
    let kind = (header[0], header[1]);
    if is_v4 {
        let is_it = kind == (icmp::v4::UNREACHABLE, icmp::v4::FRAGMENTATION_NEEDED);
        // 0: a router from before RFC 1191, which says nothing.
        let mtu = Some(be16(header, 6)).filter(|&mtu| is_it && mtu > 0)?;
        return Some(mtu.max(LEAST_V4));
    }
    let mtu = Some(be32(header, 4)).filter(|_| kind == (icmp::v6::TOO_BIG, 0))?;
    Some(u16::try_from(mtu).unwrap_or(u16::MAX).max(LEAST_V6))
}

/// The outer header in a quote.
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Its bytes.
    header: usize,
}

impl Outer {
    fn of(quoted: &[u8], is_v4: bool) -> Option<Self> {
        if is_v4 {
            let ip = Ipv4::of(quoted)?;
            let (source, destination) = (ip.source().into(), ip.destination().into());
            return Some(Self { source, destination, protocol: ip.protocol(), header: ip.header_length() });
        }
        let ip = Ipv6::of(quoted)?;
        let (source, destination) = (ip.source().into(), ip.destination().into());
        Some(Self { source, destination, protocol: ip.next_header(), header: ipv6::HEADER })
    }

    fn is_of(&self, tunnel: &Tunnel, quoted: &[u8]) -> bool {
        let port = || quoted.get(self.header..)?.first_chunk::<4>().map(|udp| be16(udp, 2));
        self.protocol == tunnel.protocol && (tunnel.port.is_none() || tunnel.port == port())
    }
}

/// Whose packet was inside, where it was on its way to a VIP and enough of it is quoted. Of an ICMP error or a later fragment nobody is
/// told (RFC 1122, section 3.2.2). `message`: the packet behind as many bytes as an error has in front of what it quotes.
fn client(message: &[u8], tunnel: &Tunnel, between: &[u8], snapshot: &Snapshot) -> Option<IpAddr> {
    let is_v4 = message.get(icmp::HEADER)? >> 4 == 4;
    let inner = if is_v4 { Quote::of_v4(message) } else { Quote::of_v6(message) }?;
    let destination = match tunnel.vip_at {
        None => inner.destination,
        Some(at) if is_v4 => IpAddr::from(*between.get(usize::from(at)..)?.first_chunk::<4>()?),
        Some(at) => IpAddr::from(*between.get(usize::from(at)..)?.first_chunk::<16>()?),
    };
    // Whoever makes errors up about packets that we would not send gets nothing relayed.
    (snapshot.owner(destination) != Owner::Other).then_some(inner.source)
}

/// Puts the VIP and port of an option back into the packet that it came with.
fn restore(bytes: &mut [u8], option_at: usize, inner_at: usize) -> Option<()> {
    let (head, inner) = bytes.split_at_mut_checked(inner_at)?;
    let option = head.get(option_at..)?;
    let (old, vip, header): (IpAddr, IpAddr, _) = if inner.first()? >> 4 == 4 {
        let ip = Ipv4::of(inner)?;
        (ip.destination().into(), IpAddr::from(*option.first_chunk::<4>()?), ip.header_length())
    } else {
        let ip = Ipv6::of(inner)?;
        (ip.destination().into(), IpAddr::from(*option.first_chunk::<16>()?), ipv6::upper(inner).ok()?.offset)
    };
    let address = if vip.is_ipv4() { 4 } else { 16 };
    let (port, old_port) = (be16(option.get(address..address + 2)?, 0), be16(inner.get(header + 2..header + 4)?, 0));
    rewrite::redirect(inner, (old, Some(old_port)), (vip, Some(port))).ok()
}
