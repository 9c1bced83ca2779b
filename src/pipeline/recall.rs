//! Flow memory as the pipeline asks it: where a packet's flow is looked for, what the packet says of it, and who takes what is not known.

use std::net::IpAddr;

use super::parse::{Parsed, Tuple};
use crate::flow::{
    Address, Choice, Client, Clients, Fate, Flow, Flows, Goes, Inserted, Judging, Known, Says, Seconds, Spot, Spots,
    Stage, Worth,
};
use crate::mode::{Content, State, snat};
use crate::service::{Protocol, Tracking};
use crate::snapshot::{Affinity, By, ServiceIndex, Snapshot, Target};
use crate::wire::Frame;

/// A snapshot, asked by a packet of a service.
pub struct View<'a> {
    pub snapshot: &'a Snapshot,
    pub service: ServiceIndex,
}

impl Known for View<'_> {
    #[inline(always)]
    fn fate(&self, destination: u32) -> Fate {
        self.snapshot.fate(destination)
    }

    #[inline(always)]
    fn idle(&self, destination: u32, stage: Stage) -> Option<u32> {
        self.snapshot.idle(destination, stage)
    }

    #[inline(always)]
    fn least_idle(&self) -> u32 {
        self.snapshot.least_idle()
    }

    #[inline(always)]
    fn is_asked_for(&self, destination: u32) -> bool {
        self.snapshot.is_of(destination, self.service)
    }

    fn base(&self, destination: u32, slot: u32) -> Option<u32> {
        self.snapshot.base(destination, slot)
    }

    fn note_no_room(&self, destination: u32, slot: u32) {
        self.snapshot.note_no_room(destination, slot);
    }
}

/// Where a flow of either family is looked for.
pub fn spot(flows: &impl Spots, flow: &Tuple) -> Spot {
    let Some(protocol) = Protocol::numbered(flow.protocol) else { return flows.spot([0; 2]) };
    match (flow.source, flow.destination) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            let (client, vip) = ((client.octets(), flow.source_port), (vip.octets(), flow.destination_port));
            flows.spot(<[u8; 4]>::key(client, vip, protocol).words())
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let (client, vip) = (client.to_bits(), vip.to_bits());
            let ports = u64::from(flow.source_port) << 16 | u64::from(flow.destination_port);
            let rest = ports << 8 | u64::from(flow.protocol);
            flows.spot_of_all(&[(client >> 64) as u64, client as u64, (vip >> 64) as u64, vip as u64, rest])
        }
        _ => flows.spot([0; 2]),
    }
}

/// What a packet, whose frame is untagged, says of its flow.
pub fn says<F: Frame>(frame: &F, parsed: &Parsed) -> Says {
    match parsed.packet.content {
        Content::Tcp => Says::of_tcp(snat::flags(frame, &parsed.packet)),
        Content::Udp => Says::Datagram,
        Content::LaterFragment | Content::Error => Says::Nothing,
    }
}

/// Where a new flow of a client goes: where it went, if it came within the timeout and the backend takes new flows; else to `owner`, but
/// that another lcore may have sent it elsewhere in this moment.
fn settle_client(clients: &Clients, affinity: Affinity, client: IpAddr, owner: u32, view: &View, now: Seconds) -> u32 {
    let takes = |destination| view.is_asked_for(destination) && view.fate(destination).takes_new;
    let spot = clients.spot(affinity.service, client);
    if let Some(found) = clients.find(spot)
        && takes(found.destination)
        && found.age(now) <= affinity.timeout
    {
        return found.destination;
    }
    let is_over = |client: &Client| view.snapshot.is_client_over(client, now);
    let settled = clients.note(spot, owner, now, is_over);
    if takes(settled) { settled } else { owner }
}

/// Notes that a client came again, which went to `destination` before.
pub fn renew_client(view: &View, destination: u32, client: IpAddr, state: &State) {
    if let Some((clients, affinity)) = state.clients.as_deref().zip(view.snapshot.affinity(view.service)) {
        let is_over = |client: &Client| view.snapshot.is_client_over(client, state.now);
        clients.note(clients.spot(affinity.service, client), destination, state.now, is_over);
    }
}

/// Packets of one flow that say the same of it.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    pub spot: Spot,
    /// Whether it is known already that the flow is not remembered.
    pub is_absent: bool,
    pub says: Says,
    pub packets: u32,
}

/// The target of packets of a flow that opens, is not remembered, and is from now on; `hash`: of its client's address and port. `None`: there is
/// more to ask, which [`enter`] does.
#[inline(always)]
pub fn open<'a>(view: &View<'a>, spot: Spot, hash: u64, state: &mut State) -> Option<&'a Target> {
    let View { snapshot, service } = *view;
    let compiled = snapshot.compiled_service(service);
    let opening = compiled.opening(hash)?;
    let flow = Flow {
        destination: opening.destination,
        slot: opening.slot,
        stage: Stage::Opening,
        seen: state.now.0 % Flow::SECONDS,
    };
    match state.flows.insert(spot, &flow, &Judging { known: view, now: state.now }) {
        Inserted::For(Worth::Substitutable, other) => view.note_no_room(other.destination, other.slot),
        Inserted::Room | Inserted::For(..) => {}
        // Where no base is held, the owner now takes who is not remembered, too.
        Inserted::None if compiled.is_at_rest() => {}
        Inserted::None => return None,
    }
    Some(opening.target)
}

/// The target of packets whose flow is not known; `hash`: what their slot is found by; `client_hash`: that of the client's address and port.
#[inline(always)]
pub fn enter<'a>(
    view: &View<'a>,
    train: Train,
    hash: u64,
    client_hash: u64,
    client: impl Fn() -> IpAddr,
    state: &mut State,
) -> &'a Target {
    let Train { spot, is_absent, says, packets } = train;
    let View { snapshot, service } = *view;
    let State { flows, clients, now, nat, .. } = state;
    let now = *now;
    let find = |flows: &Flows| if is_absent { None } else { flows.find(spot) };
    let compiled = snapshot.compiled_service(service);
    if compiled.tracking() == Tracking::Transition && compiled.is_at_rest() {
        if let Some(place) = find(flows) {
            let look = |destination| snapshot.recalled(service, destination);
            if let Some(target) = flows.follow(place, says, now, look) {
                return target;
            }
            // Whom it went to may return, but it is here now. (What opens a flow anew has been forgotten.)
            if !matches!(says, Says::Opens | Says::Nothing) {
                flows.remove(place);
            }
        }
        return snapshot.select(service, hash);
    }
    let slot = compiled.slot(hash, |by| match by {
        By::Client => client_hash,
        By::Source => snapshot.hash().source(client()),
    });
    let number = |member: Option<u16>| member.and_then(|member| compiled.destination(member));
    // What UDP begins anew has no base.
    let is_new = compiled.definition().protocol == Protocol::Udp && says == Says::Nothing;
    let base = number(slot.base).filter(|_| !is_new);
    let affinity = clients.as_deref().zip(snapshot.affinity(service)).filter(|_| says != Says::Nothing);
    let owner = number(slot.now);
    // Asked only where the flow itself does not say: it notes the client.
    let choose = || {
        let settled = affinity.filter(|_| matches!(says, Says::Opens | Says::Datagram)).zip(owner);
        let settled =
            settled.map(|((clients, affinity), owner)| settle_client(clients, affinity, client(), owner, view, now));
        Choice { slot: slot.number, now: owner, settled, base, tracking: compiled.tracking() }
    };
    match flows.decide(spot, find(flows), says, now, view, choose) {
        Goes::To(destination) => {
            if let Some((clients, affinity)) = affinity {
                let is_over = |client: &Client| snapshot.is_client_over(client, now);
                clients.note(clients.spot(affinity.service, client()), destination, now, is_over);
            }
            // That there are more of them says more than the first alone.
            if says == Says::Datagram
                && packets > 1
                && let Some(place) = flows.find(spot)
            {
                flows.follow(place, says, now, |destination| snapshot.recalled(service, destination));
            }
            snapshot.recalled(service, destination).map(|(_, target)| target)
        }
        Goes::Nowhere => None,
        Goes::Refused => Some(snapshot.no_room(service, nat.lcore(), packets)),
    }
    .unwrap_or_else(|| snapshot.select(service, hash))
}
