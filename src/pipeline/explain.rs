//! Why a packet goes where it goes: the pipeline's own steps, one at a time, with what each found.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::matching::{self, Match};
use super::parse::Parsed;
use super::translation::seconds;
use super::{BURST, Pipeline, Verdict, spot};
use crate::counters::Reason;
use crate::flow::{Clients, Flow, Flows, Nat, Seconds};
use crate::mode;
use crate::service::{Backend, Hash, Service, State};
use crate::snapshot::{By as Slotted, Millis, PortIndex, Snapshot, Way};
use crate::wire::Frame;

/// What the pipeline does with one frame, and why.
#[derive(Debug)]
pub struct Explanation {
    pub matched: Matched,
    /// Of a service's packet.
    pub choice: Option<Choice>,
    /// Where the packet goes next: towards the backend, or the client of a reply or answer.
    pub way: Option<(IpAddr, Way)>,
    pub verdict: Verdict,
}

/// Whose the packet is.
#[derive(Debug)]
pub enum Matched {
    Service(Arc<Service>),
    /// From an endpoint of a `dnat` service, which serves this VIP and port.
    Reply((IpAddr, u16)),
    /// An echo request to a VIP.
    Echo,
    /// The verdict says it.
    Nobody,
}

/// How the backend was chosen.
#[derive(Debug)]
pub struct Choice {
    pub hash: u64,
    pub slot: usize,
    pub table_size: u32,
    /// Who has the slot by definitions alone; `None`: nobody has any weight.
    pub owner: Option<Chosen>,
    /// Who takes new flows; `None`: nobody may take anything.
    pub now: Option<Chosen>,
    /// Where flows of the slot are that nobody remembers, where that is another.
    pub base: Option<Chosen>,
    /// Who gets the packet, and why.
    pub goes: Option<Chosen>,
    pub by: By,
}

/// What decides where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Its slot.
    Slot,
    /// Its flow, which is remembered.
    Flow,
    /// Its client, who was somewhere before.
    Client,
}

/// What is remembered that matters to one packet; by default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory<'a> {
    /// Of its flow.
    pub flow: Option<Flow>,
    /// Where clients went.
    pub clients: Option<&'a Clients>,
}

/// A backend, as far as the choice is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub endpoint: SocketAddr,
    /// Where its packets are sent: elsewhere where a node takes the tunnel for it.
    pub to: IpAddr,
    /// Bytes that packets grow by, at most.
    pub overhead: u16,
    pub weight: u16,
    pub state: State,
}

/// Explains what becomes of `frame`, received on `port`, and does it to the frame. What is remembered stays as it is.
pub fn explain<F: Frame>(
    snapshot: &Snapshot,
    now: Millis,
    port: PortIndex,
    frame: &mut F,
    memory: Memory<'_>,
) -> Explanation {
    let parsed = Parsed::of(frame.bytes(), snapshot.port(port));
    let mut verdicts = [Verdict::Punt; BURST];
    let (mut pipeline, found) = (pipeline(snapshot, &parsed, now, memory), matching::find(&parsed, snapshot, now));
    pipeline.process(snapshot, now, port, std::slice::from_mut(frame), &mut verdicts);
    let way = |to: IpAddr| Some((to, snapshot.way(to)));
    let (matched, choice, way) = match found {
        Match::Service(service) => {
            let compiled = snapshot.compiled_service(service);
            let (flow, hash) = (&parsed.flow, snapshot.hash());
            let hash = match compiled.definition().hash {
                Hash::SourceIp => hash.source(flow.source),
                _ => hash.end(flow.source, flow.source_port),
            };
            let slot = compiled.slot(hash, |by| match by {
                Slotted::Client => snapshot.hash().end(flow.source, flow.source_port),
                Slotted::Source => snapshot.hash().source(flow.source),
            });
            let chosen = |backend: &Backend| Chosen {
                endpoint: compiled.definition().endpoint(backend),
                to: backend.tunnel_endpoint(),
                overhead: mode::overhead(compiled.definition(), backend),
                weight: backend.weight,
                state: backend.state,
            };
            let member = |member: Option<u16>| member.and_then(|member| compiled.backend(member)).map(chosen);
            let numbered = |number: u32| {
                let (_, endpoint) = snapshot.destination(number)?;
                let mut backends = compiled.definition().backends.iter();
                backends.find(|backend| compiled.definition().endpoint(backend) == endpoint).map(chosen)
            };
            // Its entry says where it went; where it left none it went by its slot.
            let flows = &pipeline.state.flows;
            let entry = flows.find(spot(flows, flow)).filter(|_| snapshot.recalls_of(service));
            let went = entry.and_then(|place| numbered(flows.get(place).destination));
            let is_known = |chosen: &Chosen| {
                let flow = memory.flow.filter(|flow| keeps(snapshot, flow, seconds(now)));
                flow.and_then(|flow| numbered(flow.destination)).as_ref() == Some(chosen)
            };
            let newly = member(slot.now);
            let by = match &went {
                Some(went) if is_known(went) => By::Flow,
                Some(went) if Some(went) != newly.as_ref() => By::Client,
                _ => By::Slot,
            };
            let goes = went.or_else(|| newly.clone());
            let way = goes.as_ref().and_then(|chosen| way(chosen.to));
            let choice = Choice {
                hash,
                slot: slot.number as usize,
                table_size: compiled.table_size(),
                owner: compiled.owner(slot.number as usize).map(chosen),
                base: member(slot.base).filter(|base| Some(base) != newly.as_ref()),
                now: newly,
                goes,
                by,
            };
            (Matched::Service(compiled.definition().clone()), Some(choice), way)
        }
        Match::Reply(_) => {
            let endpoint = snapshot.endpoint(parsed.flow.source, parsed.flow.source_port, parsed.flow.protocol);
            let matched = endpoint.map_or(Matched::Nobody, |(vip, _)| Matched::Reply(vip));
            (matched, None, way(parsed.destination))
        }
        Match::Echo => (Matched::Echo, None, way(parsed.source)),
        Match::Other(Verdict::Drop(Reason::SourceRefused)) => {
            let service = matching::find_service(&parsed, snapshot);
            let definition = |service| snapshot.compiled_service(service).definition().clone();
            (service.map_or(Matched::Nobody, |service| Matched::Service(definition(service))), None, None)
        }
        Match::Other(_) => (Matched::Nobody, None, None),
    };
    Explanation { matched, choice, way, verdict: verdicts[0] }
}

/// Whether a flow that is remembered is not over, and its backend is there and not down.
fn keeps(snapshot: &Snapshot, flow: &Flow, now: Seconds) -> bool {
    let fate = snapshot.fate_of(flow.destination);
    fate.is_some_and(|fate| fate.keeps && flow.age(now) <= fate.idle[flow.stage as usize - 1])
}

/// An lcore's that remembers nothing but what matters to one packet.
fn pipeline(snapshot: &Snapshot, parsed: &Parsed, now: Millis, memory: Memory<'_>) -> Pipeline {
    const ROOM: usize = 8;
    let mut flows = Flows::new(ROOM, [0; 2]);
    if let Some(flow) = &memory.flow {
        let spot = spot(&flows, &parsed.flow);
        flows.insert(spot, flow, &());
    }
    let pipeline = Pipeline::with(Nat::new(snapshot.sources(), 0, [0; 2])).remembering_in(flows, [0; 2]);
    let Some(clients) = memory.clients else { return pipeline };
    let copy = Clients::new(ROOM, [0; 2]);
    if let Match::Service(service) = matching::find(parsed, snapshot, now)
        && let Some(affinity) = snapshot.affinity(service)
        && let Some(client) = clients.find(clients.spot(affinity.service, parsed.flow.source))
    {
        copy.note(copy.spot(affinity.service, parsed.flow.source), client.destination, Seconds(client.seen), |_| false);
    }
    pipeline.sharing(Arc::new(copy))
}
