//! The second stage: whose a packet is. A service's, a reply's, ours to answer, the kernel's, or nobody's.

use super::Verdict;
use super::parse::{Flow, Kind, Parsed};
use crate::counters::Reason;
use crate::mode::Reply;
use crate::snapshot::{Millis, ServiceIndex, Snapshot, Vip};
use crate::wire::Frame;

/// Whose a packet is.
#[derive(Debug)]
pub enum Match<'a> {
    Service(ServiceIndex),
    /// From an endpoint to its client.
    Reply(&'a Reply),
    /// An echo request to a VIP.
    Echo,
    Other(Verdict),
}

/// The service of a flow that [`Parsed::plain`] gave, where nothing is refused; [`find`] has the rest.
#[inline(always)]
pub fn find_plain(flow: Flow, snapshot: &Snapshot) -> Option<ServiceIndex> {
    let service = snapshot.service(flow.destination(), flow.destination_port(), flow.protocol())?;
    (snapshot.vip(flow.source()) != Vip::Yes && snapshot.accepts(service, flow.source())).then_some(service)
}

/// Matches a packet against the snapshot; refusals in the order of [`Reason`].
pub fn find<'a>(parsed: &Parsed, snapshot: &'a Snapshot, now: Millis) -> Match<'a> {
    if parsed.kind == Kind::Ported {
        let service = snapshot.service(parsed.destination, parsed.destination_port, parsed.packet.protocol);
        if let Some(service) = service {
            return match refusal(parsed, snapshot, Some(service)) {
                None => Match::Service(service),
                Some(reason) => Match::Other(Verdict::Drop(reason)),
            };
        }
    }
    find_other(parsed, snapshot, now)
}

/// All that is not for a service.
fn find_other<'a>(parsed: &Parsed, snapshot: &'a Snapshot, now: Millis) -> Match<'a> {
    match parsed.kind {
        Kind::Foreign => return Match::Other(Verdict::Punt),
        Kind::Unreadable => return Match::Other(Verdict::Drop(Reason::Malformed)),
        _ => {}
    }
    match snapshot.vip(parsed.destination) {
        Vip::Yes => match refusal(parsed, snapshot, None) {
            None => Match::Echo,
            Some(reason) => Match::Other(Verdict::Drop(reason)),
        },
        Vip::Own => Match::Other(Verdict::Punt),
        Vip::No => match find_reply(parsed, snapshot, now) {
            Some(reply) => Match::Reply(reply),
            None => Match::Other(Verdict::Punt),
        },
    }
}

/// Why a packet to a VIP is refused; `None`: it is not, being for `service`, or without one an echo request.
#[inline]
fn refusal(parsed: &Parsed, snapshot: &Snapshot, service: Option<ServiceIndex>) -> Option<Reason> {
    if let Some(fault) = parsed.fault.filter(|&fault| fault < Reason::BadSource) {
        return Some(fault);
    }
    if parsed.fault.is_some() || snapshot.vip(parsed.source) == Vip::Yes {
        return Some(Reason::BadSource);
    }
    match (service, parsed.kind) {
        (Some(service), _) if snapshot.accepts(service, parsed.source) => None,
        (Some(_), _) => Some(Reason::SourceRefused),
        (None, Kind::EchoRequest) => None,
        (None, Kind::OtherIcmp) => Some(Reason::IcmpIgnored),
        (None, Kind::LaterFragment) => Some(Reason::FragmentUnknown),
        (None, Kind::Ported) => Some(Reason::NoService),
        (None, _) => Some(Reason::UnknownProtocol),
    }
}

/// A sound packet of an endpoint that is not for us; everything else is left to the kernel.
fn find_reply<'a>(parsed: &Parsed, snapshot: &'a Snapshot, now: Millis) -> Option<&'a Reply> {
    if parsed.kind != Kind::Ported || parsed.fault.is_some() || snapshot.is_own(parsed.destination) {
        return None;
    }
    snapshot.reply(parsed.source, parsed.source_port, parsed.packet.protocol, now)
}

/// Sends a reply on to its client.
pub fn translate<F: Frame>(reply: &Reply, parsed: &Parsed, frame: &mut F, snapshot: &Snapshot) -> Verdict {
    match snapshot.next_hop(parsed.destination) {
        None => Verdict::Drop(Reason::NoNextHop),
        Some(hop) => match reply.apply(frame, parsed.packet, hop) {
            Ok(port) => Verdict::Forward(port),
            Err(reason) => Verdict::Drop(reason),
        },
    }
}
