//! Flows of `snat`: each keeps the translation that it got, on the lcore that gave it.
//!
//! A client's packets mostly meet their translation here, as do replies, since each lcore has ports of its own. What may know another
//! lcore better is handed over: a reply goes to the lcore that has its port; a fragment or an error, which receive-side
//! scaling deals by addresses alone, to the one that gets its flow's whole packets, or where that is not known once round.

use std::net::{IpAddr, SocketAddr};

use super::parse::{Kind, Parsed, Tuple};
use super::recall;
use super::refusal::{self, Refused};
use super::{Outcome, Verdict};
use crate::counters::Reason;
use crate::flow::{Address, Dealing, Ends, Head, KeyV4, Nat, Seconds, Slot, Translation, Via};
use crate::mode::rewrite::{self, Family, V4, V6};
use crate::mode::{Content, State, snat};
use crate::service::{Hash, Protocol};
use crate::snapshot::{Millis, ServiceIndex, Snapshot, TargetIndex};
use crate::wire::Frame;
use crate::wire::tcp::{ACK, SYN};

/// Whole seconds of a clock's milliseconds; after 136 years always the last one.
pub fn seconds(now: Millis) -> Seconds {
    Seconds(u32::try_from(now.0 / 1000).unwrap_or(u32::MAX))
}

/// Where a client's packet goes.
#[derive(Debug, Clone, Copy)]
pub struct Outward {
    pub target: TargetIndex,
    /// `None`: the target refuses it anyway.
    pub slot: Option<Slot>,
}

/// How many lcores have looked at a frame before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round(pub u8);

impl Round {
    pub const RECEIVED: Self = Self(0);

    /// The next lcore, if any has not looked. The first looks again at the end, and then knows that no other took it.
    fn next(self, nat: &Nat) -> Option<Verdict> {
        let lcores = nat.lcores();
        (lcores > 1 && usize::from(self.0) < lcores).then(|| Verdict::HandOver(((nat.lcore() + 1) % lcores) as u16))
    }
}

/// The translation of a plain packet's flow, where nothing is to be asked about it any more under this snapshot.
#[inline(always)]
pub fn current(nat: &Nat, head: Head, key: &KeyV4, serial: u32, now: Seconds) -> Option<(Slot, Via)> {
    let (slot, translation) = nat.v4.find_behind(head, key, now)?;
    (translation.via.serial == serial && !translation.is_closing()).then_some((slot, translation.via))
}

/// Whether a packet of a service is better known to another lcore, and to whom it goes then.
pub fn elsewhere(
    parsed: &Parsed,
    service: ServiceIndex,
    snapshot: &Snapshot,
    state: &State,
    now: Seconds,
    round: Round,
    dealing: Option<Dealing>,
) -> Option<Verdict> {
    let flow = &parsed.flow;
    let nature = snapshot.definition(service).forwarding.nature();
    // Without ports it belongs to no flow.
    let is_remembered = nature.keeps_flows || snapshot.recalls_of(service) && parsed.kind != Kind::LaterFragment;
    let is_dealt_by_flow = parsed.datagram.is_none() && parsed.packet.content != Content::Error;
    if !is_remembered || is_dealt_by_flow {
        return None;
    }
    let is_known = if nature.keeps_flows {
        // Where the VIP is a source, too, all that comes to a port has come to its owner by now.
        let is_owned = snapshot.sources().owner(flow.destination, flow.destination_port).is_some();
        is_owned || is_known(parsed, &state.nat, now)
    } else {
        state.flows.find(recall::spot(&state.flows, flow)).is_some()
    };
    if is_known {
        return None;
    }
    let home = |dealing: Dealing| {
        let home = dealing.lcore(flow.source, flow.destination, Some((flow.source_port, flow.destination_port)));
        (round == Round::RECEIVED && home != state.nat.lcore()).then_some(Verdict::HandOver(home as u16))
    };
    dealing.map_or_else(|| round.next(&state.nat), home)
}

fn is_known(parsed: &Parsed, nat: &Nat, now: Seconds) -> bool {
    let (key4, key6) = (key::<V4>(&parsed.flow), key::<V6>(&parsed.flow));
    key4.is_some_and(|key| nat.v4.find(&key, now).is_some()) || key6.is_some_and(|key| nat.v6.find(&key, now).is_some())
}

/// Finds the way of a packet to a `snat` service, whose frame is untagged: that of its flow, or a new one.
pub fn outward<F: Frame>(
    frame: &F,
    parsed: &Parsed,
    service: ServiceIndex,
    named: Option<TargetIndex>,
    snapshot: &Snapshot,
    nat: &mut Nat,
    now: Seconds,
) -> Result<Outward, Reason> {
    match parsed.flow.destination {
        IpAddr::V4(_) => flow::<V4, F>(frame, parsed, service, named, snapshot, nat, now),
        IpAddr::V6(_) => flow::<V6, F>(frame, parsed, service, named, snapshot, nat, now),
    }
}

/// A family, as far as packets say addresses of it.
trait Spoken: Family {
    fn address(address: IpAddr) -> Option<Self::Octets>;
    fn say(address: Self::Octets) -> IpAddr;
}

impl Spoken for V4 {
    fn address(address: IpAddr) -> Option<[u8; 4]> {
        if let IpAddr::V4(v4) = address { Some(v4.octets()) } else { None }
    }

    fn say(address: [u8; 4]) -> IpAddr {
        address.into()
    }
}

impl Spoken for V6 {
    fn address(address: IpAddr) -> Option<[u8; 16]> {
        if let IpAddr::V6(v6) = address { Some(v6.octets()) } else { None }
    }

    fn say(address: [u8; 16]) -> IpAddr {
        address.into()
    }
}

fn key<A: Spoken>(flow: &Tuple) -> Option<<A::Octets as Address>::Key>
where
    A::Octets: Address,
{
    let client = (A::address(flow.source)?, flow.source_port);
    let vip = (A::address(flow.destination)?, flow.destination_port);
    Some(A::Octets::key(client, vip, Protocol::numbered(flow.protocol)?))
}

fn flow<A: Spoken, F: Frame>(
    frame: &F,
    parsed: &Parsed,
    service: ServiceIndex,
    named: Option<TargetIndex>,
    snapshot: &Snapshot,
    nat: &mut Nat,
    now: Seconds,
) -> Result<Outward, Reason>
where
    A::Octets: Address,
{
    let table = A::Octets::table(nat);
    let key = key::<A>(&parsed.flow).ok_or(Reason::IcmpIgnored)?;
    let definition = snapshot.definition(service);
    let is_error = parsed.packet.content == Content::Error;
    if let Some(slot) = table.find(&key, now) {
        let translation = table.get(slot);
        let (address, port) = translation.backend;
        let kept = snapshot.kept(service, SocketAddr::new(A::say(address), port));
        // A new connection on the ends of one that came to nothing, or is closing, need not go where that went.
        let flags = snat::flags(frame, &parsed.packet);
        let is_opening = flags & (SYN | ACK) == SYN;
        let is_anew = is_opening && (!translation.is_established() || translation.is_closing());
        let is_over = is_opening && translation.is_closed();
        // A connection ID goes before what is remembered. The translation stays as it is: other packets of this burst may go by it.
        let is_named_elsewhere = |kept| named.is_some_and(|named| named != kept);
        match kept {
            Some(kept) if (kept.takes_new || !is_anew) && !is_named_elsewhere(kept.target) => {
                if !is_error {
                    // Whoever opens a connection where none is taken comes by here again.
                    let is_settled = kept.takes_new || translation.is_established();
                    // And so does every packet that may name its server.
                    let serial = if is_settled && definition.hash != Hash::QuicCid { snapshot.serial() } else { 0 };
                    if is_over {
                        table.reopen(slot);
                    }
                    let (service, target) = kept.target.to_bits();
                    let via = Via { serial, service, target };
                    table.set_via(slot, via);
                    table.take_times(slot, &definition.idle_timeout, now);
                }
                return Ok(Outward { target: kept.target, slot: Some(slot) });
            }
            _ if is_error => return Err(Reason::IcmpIgnored),
            _ => table.retire(slot, now),
        }
    }
    if is_error {
        return Err(Reason::IcmpIgnored);
    }

    let hash = match definition.hash {
        Hash::SourceIp => snapshot.hash().source(parsed.flow.source),
        _ => snapshot.hash().end(parsed.flow.source, parsed.flow.source_port),
    };
    let target = named.unwrap_or_else(|| snapshot.selected(service, hash));
    // What the mode will refuse takes no source.
    let leaves = rewrite::check(frame, parsed.packet.total.into(), snapshot.target(target).room, A::TTL).is_ok();
    let Some(endpoint) = snapshot.endpoint_of(target).filter(|_| leaves) else {
        return Ok(Outward { target, slot: None });
    };
    let Some(address) = A::address(endpoint.ip()) else {
        return Ok(Outward { target: TargetIndex::NOBODY, slot: None });
    };
    let slot = table
        .open(key, (address, port_of(endpoint, parsed)), &definition.idle_timeout, now)
        .ok_or(Reason::SnatExhausted)?;
    let serial = if definition.hash == Hash::QuicCid { 0 } else { snapshot.serial() };
    let (service, member) = target.to_bits();
    let via = Via { serial, service, target: member };
    table.set_via(slot, via);
    Ok(Outward { target, slot: Some(slot) })
}

/// The port that a packet gets: an endpoint without one keeps the packet's.
fn port_of(endpoint: SocketAddr, parsed: &Parsed) -> u16 {
    if endpoint.port() == 0 { parsed.flow.destination_port } else { endpoint.port() }
}

/// What becomes of a packet to a source of `snat`; `None`: it belongs to no flow. `tell` is called right before the frame changes, with the
/// VIP and port whose reply it is.
pub fn homeward<F: Frame>(
    frame: &mut F,
    parsed: &Parsed,
    snapshot: &Snapshot,
    state: &mut State,
    now: Millis,
    strip: impl FnOnce(&mut F) -> bool,
    tell: &mut impl FnMut(&F, Outcome, SocketAddr),
) -> Option<Verdict> {
    let is_one = matches!(parsed.kind, Kind::Ported | Kind::Error)
        && parsed.fault.is_none()
        && parsed.flow.destination == parsed.destination;
    if !is_one {
        return None;
    }
    let owner = snapshot.sources().owner(parsed.flow.destination, parsed.flow.destination_port)?;
    if owner != state.nat.lcore() {
        return Some(Verdict::HandOver(owner as u16));
    }
    let verdict = match parsed.flow.destination {
        IpAddr::V4(_) => reply::<V4, F>(frame, parsed, snapshot, &mut state.nat, now, strip, tell)?,
        IpAddr::V6(_) => reply::<V6, F>(frame, parsed, snapshot, &mut state.nat, now, strip, tell)?,
    };
    Some(verdict)
}

/// Whether the flow's service still has its backend: without, replies keep nothing alive.
fn is_kept<A: Spoken>(translation: &Translation<A::Octets>, parsed: &Parsed, snapshot: &Snapshot) -> bool
where
    A::Octets: Address,
{
    if translation.via.serial == snapshot.serial() {
        return true;
    }
    let (vip, backend) = (A::Octets::ends(translation.key).1, translation.backend);
    let found = snapshot.service(A::say(vip.0), vip.1, parsed.flow.protocol);
    let backend = SocketAddr::new(A::say(backend.0), backend.1);
    found.is_some_and(|found| snapshot.kept(found.service, backend).is_some())
}

fn reply<A: Spoken, F: Frame>(
    frame: &mut F,
    parsed: &Parsed,
    snapshot: &Snapshot,
    nat: &mut Nat,
    now: Millis,
    strip: impl FnOnce(&mut F) -> bool,
    tell: &mut impl FnMut(&F, Outcome, SocketAddr),
) -> Option<Verdict>
where
    A::Octets: Address + Ord,
{
    let table = A::Octets::table(nat);
    let end = |address: IpAddr, port: u16| Some::<Ends<A::Octets>>((A::address(address)?, port));
    let (to, from) = (
        end(parsed.flow.destination, parsed.flow.destination_port)?,
        end(parsed.flow.source, parsed.flow.source_port)?,
    );
    let slot = table.find_reply(to, from, Protocol::numbered(parsed.flow.protocol)?, seconds(now))?;
    if !strip(frame) {
        return Some(Verdict::Drop(Reason::Malformed));
    }
    let (client, vip) = A::Octets::ends(table.get(slot).key);
    let Some(hop) = snapshot.next_hop(A::say(client.0)) else {
        return Some(Verdict::Drop(Reason::NoNextHop));
    };
    let vip = SocketAddr::new(A::say(vip.0), vip.1);
    tell(frame, Outcome::Forwarded, vip);
    let keeps = is_kept::<A>(table.get(slot), parsed, snapshot);
    Some(match snat::reply::<A, F>(frame, &parsed.packet, slot, table, keeps.then_some(seconds(now)), hop) {
        Ok(port) => Verdict::Forward(port),
        Err(reason) => {
            let refused = Refused::reply(reason, parsed.packet, vip.ip(), hop);
            refusal::answer(frame, refused, snapshot, now, |frame, outcome| tell(frame, outcome, vip))
        }
    })
}
