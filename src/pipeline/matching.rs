//! The second stage: whose a packet is. A service's, a reply's, ours to answer, the kernel's, or nobody's.

use std::net::Ipv4Addr;

use super::Verdict;
use super::parse::{Datagram, Flow, FlowV6, Kind, Parsed};
use super::words::{Words, WordsV6};
use crate::counters::Reason;
use crate::mode::Reply;
use crate::snapshot::{Millis, Owner, ServiceIndex, Snapshot};

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

/// Who was found last: packets of one service come together.
#[derive(Debug, Clone, Copy)]
pub struct Last {
    endpoint: u64,
    service: ServiceIndex,
    /// All ones where its flows may be remembered, else 0.
    recalls: u32,
}

impl Last {
    /// Nobody yet.
    pub const NONE: Self = Self { endpoint: u64::MAX, service: ServiceIndex::NONE, recalls: 0 };

    /// The service of a flow that [`Parsed::plain`] gave, where nothing but its table is left to ask, and, all ones or 0, whether its flows may be
    /// remembered; [`find`] has the rest.
    #[inline(always)]
    pub fn find_plain(&mut self, flow: Flow, snapshot: &Snapshot) -> Option<(ServiceIndex, u32)> {
        let endpoint = flow.endpoint();
        if endpoint != self.endpoint {
            let found = snapshot.exact_v4(flow.destination(), flow.destination_port(), flow.protocol());
            let service = found.filter(|found| found.is_plain).map_or(ServiceIndex::NONE, |found| found.service);
            *self = Self { endpoint, service, recalls: 0_u32.wrapping_sub(u32::from(snapshot.recalls_of(service))) };
        }
        let is_found = self.service != ServiceIndex::NONE && !snapshot.is_vip_v4(flow.source());
        is_found.then_some((self.service, self.recalls))
    }
}

/// Whose flows are that were looked at together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// [`Last::find_plain`] gives this for each.
    Of(ServiceIndex, u32),
    /// It gives nothing for any.
    OfNone,
    /// Each is to be asked for by itself.
    Apart,
}

/// What [`Last::find_plain`] gives for the first `count` of these flows, as far as that is told of all with little effort.
#[inline(always)]
pub fn find_together(flows: &Words, count: usize, snapshot: &Snapshot) -> Together {
    let mut first = Last::NONE;
    let found = first.find_plain(flows.get(0), snapshot);
    // The first was asked by itself.
    if count == 0 || count > 1 && !flows.are_for_one(count, snapshot.common_vip_v4()) {
        return Together::Apart;
    }
    match found {
        Some((service, recalls)) => Together::Of(service, recalls),
        None if first.service == ServiceIndex::NONE => Together::OfNone,
        // It is the first's source alone that is a VIP.
        None => Together::Apart,
    }
}

/// The same over IPv6.
#[derive(Debug, Clone, Copy)]
pub struct LastV6 {
    endpoint: (u128, u32),
    service: ServiceIndex,
    recalls: bool,
}

impl LastV6 {
    /// Nobody yet.
    pub const NONE: Self = Self { endpoint: (0, 0), service: ServiceIndex::NONE, recalls: false };

    /// As [`Last::find_plain`], of a flow that [`Parsed::plain_v6`] gave.
    #[inline(always)]
    pub fn find_plain(&mut self, flow: &FlowV6, snapshot: &Snapshot) -> Option<(ServiceIndex, bool)> {
        let endpoint = flow.endpoint();
        if endpoint != self.endpoint {
            let found = snapshot.exact_v6(flow.destination(), flow.destination_port(), flow.protocol());
            let found = found.filter(|found| found.is_plain);
            let service = found.map_or(ServiceIndex::NONE, |found| found.service);
            *self = Self { endpoint, service, recalls: snapshot.recalls_of(service) };
        }
        let may_be_vip = snapshot.common_vip_v6().may_be(flow.source_word());
        let is_found = self.service != ServiceIndex::NONE && !(may_be_vip && snapshot.is_vip_v6(flow.source()));
        is_found.then_some((self.service, self.recalls))
    }
}

/// What [`LastV6::find_plain`] gives for each of the first `count` of these flows, where that is the same for all and told with little effort.
#[inline(always)]
pub fn find_one_v6(flows: &WordsV6, count: usize, snapshot: &Snapshot) -> Option<(ServiceIndex, bool)> {
    let mut nobody = LastV6::NONE;
    let found = nobody.find_plain(&flows.get(0), snapshot).filter(|_| count > 0)?;
    // The first was asked by itself.
    (count == 1 || flows.are_for_one(count, snapshot.common_vip_v6())).then_some(found)
}

/// The address that was asked for last: floods are for one.
#[derive(Debug)]
pub struct LastVip {
    address: Ipv4Addr,
    is_vip: bool,
}

impl LastVip {
    /// None yet.
    pub const NONE: Self = Self { address: Ipv4Addr::UNSPECIFIED, is_vip: false };

    /// Whether the address is a VIP. (No VIP is unspecified.)
    #[inline(always)]
    fn is_it(&mut self, address: Ipv4Addr, snapshot: &Snapshot) -> bool {
        if address != self.address {
            *self = Self { address, is_vip: snapshot.is_vip_v4(address) };
        }
        self.is_vip
    }
}

/// Why a frame to the station `to` is refused, whatever else may be found out: [`find`] says the same. Floods of such frames are to cost little.
#[inline(always)]
pub fn refused_at_once(frame: &[u8], to: u64, snapshot: &Snapshot, last: &mut LastVip) -> Option<Reason> {
    let (destination, fault) = Parsed::fault_v4(frame, to)?;
    last.is_it(destination, snapshot).then_some(fault)
}

/// Matches a packet against the snapshot; refusals in the order of [`Reason`].
pub fn find<'a>(parsed: &Parsed, snapshot: &'a Snapshot, now: Millis) -> Match<'a> {
    match parsed.kind {
        Kind::Foreign => return Match::Other(Verdict::Punt),
        Kind::Unreadable => return Match::Other(Verdict::Drop(Reason::Malformed)),
        _ => {}
    }
    let service = find_service(parsed, snapshot);
    match snapshot.owner(parsed.destination) {
        Owner::Vip => {}
        // What no service takes of the node's own address is the kernel's.
        Owner::Node if service.is_some() => {}
        Owner::Node => return Match::Other(Verdict::Punt),
        Owner::Other => {
            return match find_reply(parsed, snapshot, now) {
                Some(reply) => Match::Reply(reply),
                None => Match::Other(Verdict::Punt),
            };
        }
    }
    match (refusal(parsed, snapshot, service), service) {
        (Some(reason), _) => Match::Other(Verdict::Drop(reason)),
        (None, Some(service)) => Match::Service(service),
        (None, None) => Match::Echo,
    }
}

/// The service that the packet's flow belongs to.
pub fn find_service(parsed: &Parsed, snapshot: &Snapshot) -> Option<ServiceIndex> {
    let flow = &parsed.flow;
    // An error says whose packet it quotes; somebody else's is none of the flow's.
    if flow.destination != parsed.destination {
        return None;
    }
    match parsed.kind {
        Kind::Ported | Kind::Error => {
            Some(snapshot.service(flow.destination, flow.destination_port, flow.protocol)?.service)
        }
        Kind::LaterFragment => snapshot.service_of_any_port(flow.destination, flow.protocol),
        _ => None,
    }
}

/// Why a packet to a VIP is refused; `None`: it is not, being for `service`, or without one an echo request.
fn refusal(parsed: &Parsed, snapshot: &Snapshot, service: Option<ServiceIndex>) -> Option<Reason> {
    if let Some(fault) = parsed.fault.filter(|&fault| fault < Reason::BadSource) {
        return Some(fault);
    }
    if parsed.fault.is_some() || snapshot.owner(parsed.source) == Owner::Vip {
        return Some(Reason::BadSource);
    }
    match (service, parsed.kind) {
        (Some(service), _) if snapshot.accepts(service, parsed.flow.source) => None,
        (Some(_), _) => Some(Reason::SourceRefused),
        (None, Kind::EchoRequest) => None,
        (None, Kind::OtherIcmp | Kind::Error) => Some(Reason::IcmpIgnored),
        (None, Kind::LaterFragment | Kind::LaterIcmp) => Some(Reason::FragmentUnknown),
        (None, Kind::Ported) => Some(Reason::NoService),
        (None, _) => Some(Reason::UnknownProtocol),
    }
}

/// Whether a later fragment that got this verdict may wait for its first. (Of ICMP none is worth it.)
pub fn may_wait(parsed: &Parsed, verdict: Verdict, snapshot: &Snapshot) -> bool {
    let is_unknown = match verdict {
        Verdict::Drop(reason) => reason == Reason::FragmentUnknown,
        Verdict::Punt => may_be_reply(parsed, snapshot),
        _ => false,
    };
    parsed.kind == Kind::LaterFragment && is_unknown && !snapshot.hold().is_zero()
}

/// Of a first fragment that is no reply: whose later ones would wait for it, since they may be a reply's.
pub fn is_waited_for(parsed: &Parsed, snapshot: &Snapshot) -> Option<Datagram> {
    let is_first = !matches!(parsed.kind, Kind::LaterFragment | Kind::LaterIcmp);
    parsed.datagram.filter(|_| is_first && !snapshot.hold().is_zero() && may_be_reply(parsed, snapshot))
}

/// Whether it may be a reply's, as far as its addresses say.
fn may_be_reply(parsed: &Parsed, snapshot: &Snapshot) -> bool {
    snapshot.sources().contains(parsed.destination) || snapshot.is_endpoint(parsed.source)
}

/// A sound packet of an endpoint that is not for us, or an error about one that went to it; everything else is left to the kernel.
fn find_reply<'a>(parsed: &Parsed, snapshot: &'a Snapshot, now: Millis) -> Option<&'a Reply> {
    let is_one = matches!(parsed.kind, Kind::Ported | Kind::Error)
        && parsed.fault.is_none()
        && parsed.flow.destination == parsed.destination
        // It was sent to a source of `snat` that no flow has any more.
        && snapshot.sources().owner(parsed.flow.destination, parsed.flow.destination_port).is_none();
    is_one.then(|| snapshot.reply(parsed.flow.source, parsed.flow.source_port, parsed.flow.protocol, now))?
}
