//! `Node`: the node itself, and its counters; and the standard health service.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::{Api, backends, capture, refusal};
use crate::config;
use crate::control::{Client, Report};
use crate::health::View;
use crate::proto::node_server::Node;
use crate::proto::{
    BackendOut, CaptureRequest, Counter, CountersRequest, CountersResponse, Drained, FeedStatus, LeftOut,
    MovingService, StatusRequest, StatusResponse,
};

#[tonic::async_trait]
impl Node for Api {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let report = self.control.outline().await.ok_or_else(refusal::stopping)?;
        let facts = (self.facts)();
        let stamp = |time: SystemTime| Some(prost_types::Timestamp::from(time));
        let definitions = report.definitions.as_deref();
        let next = report.next_move.map(Duration::from_millis);
        let moving = |(service, slots): &(std::sync::Arc<str>, usize)| MovingService {
            service: service.to_string(),
            slots: *slots as u32,
            next: next.and_then(|next| next.try_into().ok()),
        };
        let left_out =
            |left: &crate::service::LeftOut| LeftOut { service: left.service.clone(), reason: left.reason.clone() };
        let drained = |whom: &crate::control::Whom| Drained {
            backend: whom.backend.to_string(),
            service: whom.service.as_ref().map(ToString::to_string),
        };
        Ok(Response::new(StatusResponse {
            name: self.config.node.name.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            started: stamp(self.started),
            phase: facts.phase.to_owned(),
            version: definitions.map(|definitions| definitions.version.clone().unwrap_or_default()),
            services: definitions.map_or(0, |definitions| definitions.services.len() as u32),
            backends: definitions.map_or(0, |definitions| {
                definitions.services.iter().map(|service| service.backends.len() as u32).sum()
            }),
            feed: Some(FeedStatus {
                kind: self.config.feed.kind().name().to_owned(),
                source: source(&self.config.feed),
                last_success: report.feed_last_success.and_then(stamp),
                error: report.feed_error.clone().unwrap_or_default(),
                left_out: report.left_out.iter().map(left_out).collect(),
            }),
            lcores: facts.lcores,
            ports: facts.ports,
            out: out(self.control.health(), &report),
            moving: report.moving.iter().map(moving).collect(),
            drained: report.drained.iter().map(drained).collect(),
            unresolved_next_hops: report.unresolved as u32,
            mbufs_in_use: facts.mbufs_in_use,
            mbufs: facts.mbufs,
        }))
    }

    async fn counters(&self, request: Request<CountersRequest>) -> Result<Response<CountersResponse>, Status> {
        let prefix = request.into_inner().prefix;
        let text = (self.metrics)(&prefix).await.ok_or_else(refusal::stopping)?;
        let counters = text.lines().filter_map(counter).filter(|counter| counter.name.starts_with(&prefix));
        Ok(Response::new(CountersResponse { counters: counters.collect() }))
    }

    type CaptureStream = capture::Stream;

    async fn capture(&self, request: Request<CaptureRequest>) -> Result<Response<capture::Stream>, Status> {
        capture::capture(self, request.into_inner()).map(Response::new)
    }
}

/// Backends that are out by their checks, and why.
fn out(health: &View, report: &Report) -> Vec<BackendOut> {
    let services = report.definitions.iter().flat_map(|definitions| &definitions.services);
    let checked = services.filter(|service| service.health.check.is_some());
    let out = checked.flat_map(|service| {
        let down = health.down(service);
        let checks = if down.is_empty() { Default::default() } else { backends::checks(health, service) };
        let out = move |index: usize| BackendOut {
            service: service.name.to_string(),
            backend: service.endpoint(&service.backends[index]).to_string(),
            reason: checks.get(&index).map(|(_, why)| why.clone()).unwrap_or_default(),
        };
        down.into_iter().map(out)
    });
    out.take(MOST_OUT).collect()
}

/// Backends that are told of, at most: who wants all lists them.
const MOST_OUT: usize = 1000;

/// Where definitions come from, for people.
fn source(feed: &config::Feed) -> String {
    match feed {
        config::Feed::File { path } => path.display().to_string(),
        config::Feed::Http(http) => http.url.to_string(),
        config::Feed::Grpc(grpc) => grpc.url.to_string(),
        config::Feed::Etcd(etcd) => {
            let members: Vec<_> = etcd.endpoints.iter().map(ToString::to_string).collect();
            format!("{} of {}", etcd.prefix, members.join(","))
        }
        config::Feed::Kubernetes(kubernetes) => {
            let by = kubernetes.kubeconfig.as_ref().map(|path| path.display().to_string());
            let by = by.unwrap_or_else(|| "the pod's service account".to_owned());
            let namespace = kubernetes.namespace.as_ref().map(|namespace| format!("namespace {namespace}, "));
            format!("{}by {by}", namespace.unwrap_or_default())
        }
        config::Feed::None => String::new(),
    }
}

/// A sample line of Prometheus' text format.
fn counter(line: &str) -> Option<Counter> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, read_labels(labels.strip_suffix('}')?)?),
        None => (series, HashMap::new()),
    };
    Some(Counter { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// `name="value",…`; in a value a quote, a backslash and a newline stand behind a backslash.
fn read_labels(mut text: &str) -> Option<HashMap<String, String>> {
    let mut labels = HashMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut letters) = (String::new(), rest.char_indices());
        let end = loop {
            match letters.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match letters.next()?.1 {
                    'n' => '\n',
                    letter => letter,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest[end..].trim_start_matches(',');
    }
    Some(labels)
}

/// Tells the standard health service whether definitions are in force.
pub async fn report_health(reporter: HealthReporter, control: Client) {
    let mut definitions = control.definitions();
    let status = |control: &Client| match control.has_definitions() {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    loop {
        reporter.set_service_status("", status(&control)).await;
        if !control.has_definitions() {
            // It is noted a moment after the definitions are.
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else if definitions.changed().await.is_err() {
            return reporter.set_service_status("", ServingStatus::NotServing).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let read = |line: &str| {
            let counter = counter(line)?;
            let mut labels: Vec<_> = counter.labels.into_iter().collect();
            labels.sort();
            Some((counter.name, labels, counter.value))
        };
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("up 1"), Some(("up".to_owned(), vec![], 1.0)));
        assert_eq!(
            read(r#"up{a="1",b="x, y=\"z\" \\ {}\n"} 2.5e3"#),
            Some(("up".to_owned(), vec![label("a", "1"), label("b", "x, y=\"z\" \\ {}\n")], 2500.0))
        );
        for line in ["# TYPE up gauge", "", "up", "up{a=\"1} 2", "up{a} 2"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
