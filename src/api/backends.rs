//! `Backends`: each as it is, and draining by hand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status};

use super::{Api, refusal};
use crate::control::{Named, Report, Whom};
use crate::health::{Probe, State, View};
use crate::proto::backends_server::Backends;
use crate::proto::{
    BackendStatus, DrainRequest, DrainResponse, ListBackendsRequest, ListBackendsResponse, UndrainRequest,
    UndrainResponse,
};
use crate::service::Service;
use crate::service::tree::quote;
use crate::snapshot::Snapshot;

#[tonic::async_trait]
impl Backends for Api {
    async fn list(&self, request: Request<ListBackendsRequest>) -> Result<Response<ListBackendsResponse>, Status> {
        let ListBackendsRequest { service, backend } = request.into_inner();
        let named = backend.as_deref().map(named).transpose()?;
        let report = match &service {
            Some(service) => self.control.report_of(service).await,
            None => self.control.report().await,
        };
        let report = report.ok_or_else(refusal::stopping)?;
        let seen = self.control.seen().await.ok_or_else(refusal::stopping)?;
        let health = self.control.health().clone();
        let list = move || list(&report, &seen.snapshot, &health, service.as_deref(), named);
        // Thousands of tables are counted.
        tokio::task::spawn_blocking(list).await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let DrainRequest { backend, service } = request.into_inner();
        let whom = whom(&backend, service)?;
        let services = self.control.drain(whom).await.map_err(|refused| refusal::refused(refused, ""))?;
        Ok(Response::new(DrainResponse { services: services.iter().map(ToString::to_string).collect() }))
    }

    async fn undrain(&self, request: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        let UndrainRequest { backend, service } = request.into_inner();
        let whom = whom(&backend, service)?;
        let services = self.control.undrain(whom).await.map_err(|refused| refusal::refused(refused, ""))?;
        Ok(Response::new(UndrainResponse { services: services.iter().map(ToString::to_string).collect() }))
    }
}

pub(super) fn named(text: &str) -> Result<Named, Status> {
    if text.is_empty() {
        return Err(refusal::field("backend", "required, but absent"));
    }
    text.parse().map_err(|error: crate::control::NotNamed| refusal::field("backend", error.to_string()))
}

fn whom(backend: &str, service: Option<String>) -> Result<Whom, Status> {
    Ok(Whom { backend: named(backend)?, service: service.filter(|name| !name.is_empty()).map(Arc::from) })
}

/// Of each backend that is checked whether it is up, and why.
pub(super) fn checks(health: &View, service: &Service) -> HashMap<usize, (bool, String)> {
    let now = SystemTime::now();
    let told = |(index, probe, state): (usize, Probe, Option<State>)| {
        let told = state.map_or((true, "not asked yet".to_owned()), |it| (it.up, it.why(&probe.rhythm, now)));
        (index, told)
    };
    health.states(service).into_iter().map(told).collect()
}

fn list(
    report: &Report,
    snapshot: &Snapshot,
    health: &View,
    service: Option<&str>,
    named: Option<Named>,
) -> Result<ListBackendsResponse, Status> {
    let Some(definitions) = &report.definitions else { return Ok(ListBackendsResponse::default()) };
    let is_asked_for = |of: &Service| service.is_none_or(|name| *of.name == *name);
    if let Some(name) = service
        && !definitions.services.iter().any(|service| is_asked_for(service))
    {
        return Err(refusal::no_service(name));
    }
    let counts: HashMap<&(Arc<str>, SocketAddr), (u64, u64)> =
        report.backends.iter().map(|count| (&count.of, (count.packets, count.bytes))).collect();
    let flows: HashMap<&(Arc<str>, SocketAddr), u64> = report.flows.iter().map(|(of, flows)| (of, *flows)).collect();
    let masked: HashMap<&str, &Arc<Service>> =
        report.masked.services.iter().map(|service| (&*service.name, service)).collect();
    let has_named =
        |of: &Service| named.is_none_or(|named| of.backends.iter().any(|backend| named.is(of.endpoint(backend))));
    let slots: HashMap<&str, HashMap<SocketAddr, u32>> = snapshot
        .services()
        .filter(|compiled| is_asked_for(compiled.definition()) && has_named(compiled.definition()))
        .map(|compiled| (&*compiled.definition().name, compiled.slots()))
        .collect();
    let mut backends = Vec::new();
    for service in definitions.services.iter().filter(|service| is_asked_for(service) && has_named(service)) {
        let masked = masked.get(&*service.name).copied().unwrap_or(service);
        let table_size: u32 = slots.get(&*service.name).map_or(0, |slots| slots.values().sum());
        let checks: HashMap<usize, (bool, String)> = checks(health, service);
        for (index, (backend, masked)) in service.backends.iter().zip(&masked.backends).enumerate() {
            let endpoint = service.endpoint(backend);
            if named.is_some_and(|named| !named.is(endpoint)) {
                continue;
            }
            let pair = (service.name.clone(), endpoint);
            let (packets, bytes) = counts.get(&pair).copied().unwrap_or_default();
            let unsettled_slots = report.unsettled.get(&pair).map_or(0, |&slots| slots as u32);
            backends.push(BackendStatus {
                service: service.name.to_string(),
                address: backend.address.to_string(),
                port: endpoint.port().into(),
                weight: backend.weight.into(),
                defined_state: backend.state.name().to_owned(),
                drained: report.drained.iter().any(|whom| whom.is(&service.name, endpoint)),
                health: checks.get(&index).map(|(up, _)| if *up { "up" } else { "down" }.to_owned()),
                health_reason: checks.get(&index).map(|(_, why)| why.clone()).unwrap_or_default(),
                state: masked.state.name().to_owned(),
                slots: slots.get(&*service.name).and_then(|slots| slots.get(&endpoint)).copied().unwrap_or(0),
                table_size,
                packets,
                bytes,
                flows: flows.get(&pair).copied().unwrap_or(0),
                unsettled_slots,
                flows_known: unsettled_slots == 0 && !report.uncounted.contains(&service.name),
            });
        }
    }
    if let Some(named) = named.filter(|_| backends.is_empty()) {
        let of = service.map_or("no service has".to_owned(), |name| format!("service {} has no", quote(name)));
        let word = if service.is_some() { "backend" } else { "a backend" };
        return Err(Status::not_found(format!("{of} {word} {named}")));
    }
    Ok(ListBackendsResponse { version: definitions.version.clone().unwrap_or_default(), backends })
}
