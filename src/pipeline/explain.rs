//! Why a packet goes where it goes: the pipeline's own steps, one at a time, with what each found.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::matching::{self, Match};
use super::parse::Parsed;
use super::{BURST, Pipeline, Verdict};
use crate::counters::Reason;
use crate::flow::Nat;
use crate::maglev;
use crate::mode;
use crate::service::{Backend, Hash, Service, State};
use crate::snapshot::{Millis, PortIndex, Snapshot, Way};
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
    /// Who takes it now; `None`: nobody may take anything.
    pub now: Option<Chosen>,
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

/// Explains what becomes of `frame`, received on `port`, and does it to the frame.
pub fn explain<F: Frame>(snapshot: &Snapshot, now: Millis, port: PortIndex, frame: &mut F) -> Explanation {
    let parsed = Parsed::of(frame.bytes(), snapshot.port(port));
    let way = |to: IpAddr| Some((to, snapshot.way(to)));
    let (matched, choice, way) = match matching::find(&parsed, snapshot, now) {
        Match::Service(service) => {
            let compiled = snapshot.compiled_service(service);
            let (flow, hash) = (&parsed.flow, snapshot.hash());
            let hash = match compiled.definition().hash {
                Hash::SourceIp => hash.source(flow.source),
                _ => hash.end(flow.source, flow.source_port),
            };
            let slot = maglev::slot(hash, compiled.table_size());
            let chosen = |backend: &Backend| Chosen {
                endpoint: compiled.definition().endpoint(backend),
                to: backend.tunnel_endpoint(),
                overhead: mode::overhead(compiled.definition(), backend),
                weight: backend.weight,
                state: backend.state,
            };
            let taker = compiled.taker(hash).and_then(|member| compiled.backend(member)).map(chosen);
            let way = taker.as_ref().and_then(|taker| way(taker.to));
            let owner = compiled.owner(slot).map(chosen);
            let choice = Choice { hash, slot, table_size: compiled.table_size(), owner, now: taker };
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
    let mut verdicts = [Verdict::Punt; BURST];
    Pipeline::with(Nat::new(snapshot.sources(), 0, [0; 2])).process(
        snapshot,
        now,
        port,
        std::slice::from_mut(frame),
        &mut verdicts,
    );
    Explanation { matched, choice, way, verdict: verdicts[0] }
}
