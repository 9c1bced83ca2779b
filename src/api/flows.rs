//! `Flows`: what the lcores remember, and why a packet goes where it goes.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Api, backends, refusal};
use crate::control::Named;
use crate::explain::{self, Asked};
use crate::flow::{Flow, Remembered, Stage};
use crate::pipeline::Tuple;
use crate::proto::flows_server::Flows;
use crate::proto::{self, ExplainRequest, ExplainResponse, ListFlowsRequest, ListFlowsResponse};
use crate::service::{Protocol, Service};
use crate::snapshot::{Millis, PortIndex, Snapshot};

/// Flows of one message.
const PART: usize = 1000;

/// Where nobody says how many are wanted.
const USUAL: u32 = 10_000;

/// Places of a memory that are looked at in one go.
const STEP: usize = 1 << 16;

#[tonic::async_trait]
impl Flows for Api {
    type ListStream = Pin<Box<dyn Stream<Item = Result<ListFlowsResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListFlowsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let ListFlowsRequest { service, backend, client, limit } = request.into_inner();
        let fabric = self.control.seen().await.ok_or_else(refusal::stopping)?;
        let wanted = Wanted {
            backend: backend.as_deref().map(backends::named).transpose()?,
            client: client
                .as_deref()
                .map(|text| {
                    text.parse().map_err(|error: crate::control::NotNamed| refusal::field("client", error.to_string()))
                })
                .transpose()?,
            limit: if limit == 0 { USUAL } else { limit } as usize,
            service,
        };
        if let Some(name) = &wanted.service
            && !fabric.snapshot.services().any(|service| *service.definition().name == **name)
        {
            return Err(Status::not_found(format!("there is no service {name:?}")));
        }
        let memories = self.remembered.clone();
        let find = move || wanted.find(&memories, &fabric.snapshot, fabric.now);
        let found = tokio::task::spawn_blocking(find).await.map_err(|error| Status::internal(error.to_string()))?;
        let parts: Vec<_> = found.chunks(PART).map(|part| Ok(ListFlowsResponse { flows: part.to_vec() })).collect();
        Ok(Response::new(futures_util::stream::iter(parts).boxed()))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let ExplainRequest { source, destination, protocol, port } = request.into_inner();
        let address = |text: &str, key: &str| -> Result<SocketAddr, Status> {
            text.parse().map_err(|_| refusal::field(key, format!("{text:?} is not an address and port")))
        };
        let asked = Asked {
            source: address(&source, "source")?,
            destination: address(&destination, "destination")?,
            protocol: [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .find(|known| known.name() == protocol)
                .ok_or_else(|| refusal::field("protocol", format!("{protocol:?} is not one of tcp, udp")))?,
        };
        if asked.source.is_ipv4() != asked.destination.is_ipv4() {
            return Err(refusal::field("destination", "is of another family than the source"));
        }
        let names: Vec<&str> = self.config.ports.iter().map(|port| port.name.as_str()).collect();
        let port = match &port {
            None => 0,
            Some(name) => names
                .iter()
                .position(|other| other == name)
                .ok_or_else(|| refusal::field("port", format!("no [[port]] has the name {name:?}")))?,
        };
        let seen = self.control.seen().await.ok_or_else(refusal::stopping)?;
        let remembered = self.remembered(&asked, &seen.snapshot, seen.now);
        let memory =
            explain::Memory { flow: remembered.as_ref().map(|(_, flow, _)| *flow), clients: Some(&seen.clients) };
        let port = PortIndex(port as u8);
        let explained = explain::explain(&asked, &seen.snapshot, seen.now, port, &seen.fabric, &names, memory);
        let mut why = explained.lines();
        if let Some((cpu, flow, goes)) = &remembered {
            let silent = flow.age(seen.now.seconds());
            let stage = stage(flow.stage);
            why.push(match goes {
                Some(endpoint) => {
                    format!("memory: the lcore on CPU {cpu} remembers the flow ({stage}, silent for {silent} s), at {endpoint}")
                }
                None => format!("memory: the lcore on CPU {cpu} remembers the flow ({stage}, silent for {silent} s), but it is over, or its backend is gone or down"),
            });
        }
        Ok(Response::new(ExplainResponse {
            verdict: explained.verdict().to_owned(),
            reason: explained.reason().map(str::to_owned),
            service: explained.service().map(|service| service.name.to_string()),
            backend: explained.backend().map(|endpoint| endpoint.to_string()),
            forwarding: explained.service().map(|service| service.forwarding.name().to_owned()),
            remembered: explained.is_remembered(),
            slot: explained.slot(),
            why,
        }))
    }
}

impl Api {
    /// Who remembers the flow that somebody asks for, and where it goes, if its backend keeps it.
    fn remembered(&self, asked: &Asked, snapshot: &Snapshot, now: Millis) -> Option<(u16, Flow, Option<SocketAddr>)> {
        let tuple = tuple(asked);
        let (cpu, flow) = self
            .remembered
            .iter()
            .find_map(|(cpu, memory)| memory.find(explain::spot(memory, &tuple)).map(|flow| (*cpu, flow)))?;
        let goes = snapshot
            .fate_of(flow.destination)
            .filter(|fate| fate.keeps && flow.age(now.seconds()) <= fate.idle[flow.stage as usize - 1]);
        let endpoint = goes.and_then(|_| snapshot.destination(flow.destination)).map(|(_, endpoint)| endpoint);
        Some((cpu, flow, endpoint))
    }
}

fn tuple(asked: &Asked) -> Tuple {
    Tuple {
        source: asked.source.ip(),
        destination: asked.destination.ip(),
        source_port: asked.source.port(),
        destination_port: asked.destination.port(),
        protocol: asked.protocol.number(),
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Opening => "opening",
        Stage::Established => "established",
        Stage::Closing => "closing",
    }
}

/// Which flows somebody wants.
struct Wanted {
    service: Option<String>,
    backend: Option<Named>,
    client: Option<Named>,
    limit: usize,
}

impl Wanted {
    fn find(&self, memories: &[(u16, Remembered)], snapshot: &Snapshot, now: Millis) -> Vec<proto::Flow> {
        match self.client {
            Some(client) => self.find_of_client(client, memories, snapshot, now),
            None => self.find_all(memories, snapshot, now),
        }
    }

    fn find_all(&self, memories: &[(u16, Remembered)], snapshot: &Snapshot, now: Millis) -> Vec<proto::Flow> {
        let flows = memories.iter().flat_map(|(cpu, memory)| {
            let steps = (0..memory.places()).step_by(STEP);
            let flows = steps.flat_map(move |at| memory.flows(at..(at + STEP).min(memory.places())));
            flows.map(|flow| (*cpu, flow))
        });
        flows.filter_map(|(cpu, flow)| self.show(cpu, &flow, None, snapshot, now)).take(self.limit).collect()
    }

    /// An address alone may have flows from any port, to any service of its family.
    fn find_of_client(
        &self,
        client: Named,
        memories: &[(u16, Remembered)],
        snapshot: &Snapshot,
        now: Millis,
    ) -> Vec<proto::Flow> {
        let ports = client.port.map_or(0..=u16::MAX, |port| port..=port);
        let is_asked_for = |service: &Service| {
            self.service.as_ref().is_none_or(|name| *service.name == **name)
                && service.vip.addr().is_ipv4() == client.address.is_ipv4()
        };
        let mut found = Vec::new();
        for service in snapshot.services().map(|compiled| compiled.definition()).filter(|service| is_asked_for(service))
        {
            // Of a prefix, and of many ports, there are too many destinations to try: one that is named whole is.
            let (IpAddr::V4(_) | IpAddr::V6(_), Some(vip_port)) = (service.vip.addr(), service.ports.single()) else {
                continue;
            };
            if service.vip.prefix_len() != service.vip.max_prefix_len() {
                continue;
            }
            for port in ports.clone() {
                let source = SocketAddr::new(client.address, port);
                let destination = SocketAddr::new(service.vip.addr(), vip_port);
                let tuple = tuple(&Asked { source, destination, protocol: service.protocol });
                for (cpu, memory) in memories {
                    if let Some(flow) = memory.find(explain::spot(memory, &tuple)) {
                        found.extend(self.show(*cpu, &flow, Some(source), snapshot, now));
                        if found.len() == self.limit {
                            return found;
                        }
                    }
                }
            }
        }
        found
    }

    /// A flow as it is shown, if it is wanted, and not over.
    fn show(
        &self,
        cpu: u16,
        flow: &Flow,
        client: Option<SocketAddr>,
        snapshot: &Snapshot,
        now: Millis,
    ) -> Option<proto::Flow> {
        let (service, endpoint): (&Arc<Service>, _) = snapshot.destination(flow.destination)?;
        let is_wanted = self.service.as_ref().is_none_or(|name| *service.name == **name)
            && self.backend.is_none_or(|named| named.is(endpoint));
        let silent = flow.age(now.seconds());
        let is_over = silent > snapshot.fate_of(flow.destination)?.idle[flow.stage as usize - 1];
        (is_wanted && !is_over).then(|| proto::Flow {
            lcore: cpu.into(),
            service: service.name.to_string(),
            backend: endpoint.to_string(),
            stage: stage(flow.stage).to_owned(),
            silent: Duration::from_secs(silent.into()).try_into().ok(),
            slot: flow.slot,
            client: client.map(|client| client.to_string()),
        })
    }
}
