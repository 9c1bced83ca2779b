//! `Flows`: what the lcores remember, and why a packet goes where it goes.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, LISTS, refusal};
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

/// Who takes nothing for so long keeps a place from others, and is told no more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Services, times lcores, that all ports of a client are tried for: some seconds.
const MOST_LOOKED_THROUGH: usize = 256;

/// Places of a memory that are looked at in one go.
const STEP: usize = 1 << 16;

#[tonic::async_trait]
impl Flows for Api {
    type ListStream = Pin<Box<dyn Stream<Item = Result<ListFlowsResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListFlowsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let ListFlowsRequest { service, backend, client, limit } = request.into_inner();
        let named = |text: &str, key| {
            text.parse().map_err(|error: crate::control::NotNamed| refusal::field(key, error.to_string()))
        };
        let wanted = Wanted {
            backend: backend.as_deref().map(|text| named(text, "backend")).transpose()?,
            client: client.as_deref().map(|text| named(text, "client")).transpose()?,
            limit: if limit == 0 { USUAL } else { limit } as usize,
            service,
        };
        let seen = self.control.seen().await.ok_or_else(refusal::stopping)?;
        let looked_through = seen.snapshot.services().count() * self.remembered.len();
        if wanted.client.is_some_and(|client| client.port.is_none())
            && wanted.service.is_none()
            && looked_through > MOST_LOOKED_THROUGH
        {
            let reason = "required: a client without a port is looked for by all of its ports, which takes too long for so many services; or give its port";
            return Err(refusal::field("service", reason));
        }
        if let Some(name) = &wanted.service
            && !seen.snapshot.services().any(|service| *service.definition().name == **name)
        {
            return Err(refusal::no_service(name));
        }
        let permit = self.lists.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{LISTS} callers are told of flows at this moment; try again"))
        })?;
        let (sender, found) = mpsc::channel(1);
        let memories = self.remembered.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut told = Told { caller: sender, part: Vec::new(), left: wanted.limit };
            // It ends early where nobody listens any more.
            if wanted.find(&memories, &seen.snapshot, seen.now, &mut told).is_continue() {
                let _ = told.send();
            }
        });
        Ok(Response::new(passed_on(found, PATIENCE).boxed()))
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

/// Parts as they are found, to a caller who has so much `patience` for each. When this ends, so does whoever finds them.
fn passed_on<T: Send + 'static>(
    mut found: mpsc::Receiver<T>,
    patience: Duration,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let (sender, receiver) = mpsc::channel(1);
    let (say_why, why) = oneshot::channel();
    tokio::spawn(async move {
        loop {
            let part = tokio::select! {
                part = found.recv() => part,
                () = sender.closed() => None,
            };
            let Some(part) = part else { return };
            match timeout(patience, sender.send(Ok(part))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    let reason = format!("nothing was taken for {patience:?}, and others want the place; ask again");
                    // There is no room for it among the parts.
                    let _ = say_why.send(Status::deadline_exceeded(reason));
                    return;
                }
            }
        }
    });
    let end = stream::once(why).filter_map(async |why| why.ok().map(Err));
    ReceiverStream::new(receiver).chain(end)
}

/// What a caller is told, part by part: the next is found when one was taken.
struct Told {
    caller: mpsc::Sender<ListFlowsResponse>,
    part: Vec<proto::Flow>,
    /// How many more are wanted.
    left: usize,
}

impl Told {
    /// `Break`: nobody wants more.
    fn tell(&mut self, flow: proto::Flow) -> ControlFlow<()> {
        self.part.push(flow);
        self.left -= 1;
        if self.part.len() == PART || self.left == 0 {
            self.send()?;
        }
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn send(&mut self) -> ControlFlow<()> {
        let flows = std::mem::take(&mut self.part);
        if flows.is_empty() {
            return ControlFlow::Continue(());
        }
        match self.caller.blocking_send(ListFlowsResponse { flows }) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Between two steps: `Break` where nobody listens any more.
    fn is_heard(&self) -> ControlFlow<()> {
        if self.caller.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Wanted {
    /// `Break`: the caller wants no more.
    fn find(
        &self,
        memories: &[(u16, Remembered)],
        snapshot: &Snapshot,
        now: Millis,
        told: &mut Told,
    ) -> ControlFlow<()> {
        match self.client {
            Some(client) => self.find_of_client(client, memories, snapshot, now, told),
            None => self.find_all(memories, snapshot, now, told),
        }
    }

    fn find_all(
        &self,
        memories: &[(u16, Remembered)],
        snapshot: &Snapshot,
        now: Millis,
        told: &mut Told,
    ) -> ControlFlow<()> {
        for (cpu, memory) in memories {
            for at in (0..memory.places()).step_by(STEP) {
                told.is_heard()?;
                for flow in memory.flows(at..(at + STEP).min(memory.places())) {
                    if let Some(flow) = self.show(*cpu, &flow, None, snapshot, now) {
                        told.tell(flow)?;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// An address alone may have flows from any port.
    fn find_of_client(
        &self,
        client: Named,
        memories: &[(u16, Remembered)],
        snapshot: &Snapshot,
        now: Millis,
        told: &mut Told,
    ) -> ControlFlow<()> {
        let ports = client.port.map_or(0..=u16::MAX, |port| port..=port);
        let is_asked_for = |service: &Service| {
            self.service.as_ref().is_none_or(|name| *service.name == **name)
                && service.vip.addr().is_ipv4() == client.address.is_ipv4()
        };
        for service in snapshot.services().map(|compiled| compiled.definition()).filter(|service| is_asked_for(service))
        {
            told.is_heard()?;
            // Of a prefix, and of many ports, there are too many destinations to try: one that is named whole is.
            let Some(vip_port) = service.ports.single() else { continue };
            if service.vip.prefix_len() != service.vip.max_prefix_len() {
                continue;
            }
            for port in ports.clone() {
                let source = SocketAddr::new(client.address, port);
                let destination = SocketAddr::new(service.vip.addr(), vip_port);
                let tuple = tuple(&Asked { source, destination, protocol: service.protocol });
                for (cpu, memory) in memories {
                    let flow = memory.find(explain::spot(memory, &tuple));
                    if let Some(flow) = flow.and_then(|flow| self.show(*cpu, &flow, Some(source), snapshot, now)) {
                        told.tell(flow)?;
                    }
                }
            }
        }
        ControlFlow::Continue(())
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_told_no_more_and_why() {
        let patience = Duration::from_millis(50);
        let (sender, found) = mpsc::channel(1);
        let told = passed_on(found, patience);
        let finds =
            tokio::task::spawn_blocking(move || (0..).take_while(|&part| sender.blocking_send(part).is_ok()).count());
        let count = timeout(Duration::from_secs(5), finds).await.expect("its place is free again").unwrap();
        let told: Vec<Result<i32, Code>> = told.map(|part| part.map_err(|status| status.code())).collect().await;
        assert_eq!(told, [Ok(0), Err(Code::DeadlineExceeded)], "{count} were found");
    }

    #[tokio::test]
    async fn who_takes_parts_slowly_is_told_all_and_who_goes_none() {
        let (sender, found) = mpsc::channel(1);
        let told = passed_on(found, Duration::from_millis(200));
        let finds = tokio::task::spawn_blocking(move || (0..8).all(|part| sender.blocking_send(part).is_ok()));
        let mut told = std::pin::pin!(told);
        for part in 0..8 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            assert_eq!(told.next().await.unwrap().unwrap(), part);
        }
        assert!(told.next().await.is_none() && finds.await.unwrap());

        let (sender, found) = mpsc::channel::<i32>(1);
        drop(passed_on(found, PATIENCE));
        timeout(Duration::from_secs(5), sender.closed()).await.expect("whoever finds nothing ends, too");
    }
}
