//! One look at a node: what is asked depends on what is on the screen.
//!
//! A node may have 10,000 services with 200,000 backends, whose counters and slots it would have to gather every second. So only the status and
//! the drops are asked for always; the services' counters where the overview or the services are shown (the overview of many services does
//! without); definitions of the services whose rows are on the screen; backends of one service, unless there are few in all.

use std::collections::HashMap;
use std::time::Instant;

use super::super::Node;
use crate::cli::Failure;
use crate::proto::{BackendStatus, Counter, CountersRequest, GetRequest, ListBackendsRequest, Service, StatusRequest};
use crate::proto::{CountersResponse, StatusResponse};

/// What is asked beside the status and the drops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Packets and bytes of every service.
    pub services: bool,
    /// Definitions of these services.
    pub details: Vec<String>,
    pub backends: Option<Backends>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backends {
    All,
    Of(String),
}

/// What a node said.
#[derive(Debug)]
pub struct Look {
    pub at: Instant,
    pub status: StatusResponse,
    /// By reason.
    pub drops: HashMap<String, u64>,
    /// Packets and bytes by service, where they were asked for.
    pub services: Option<HashMap<String, (u64, u64)>>,
    pub details: Vec<Service>,
    /// Where they were asked for.
    pub backends: Option<(Backends, Vec<BackendStatus>)>,
}

pub async fn look(node: &Node, wanted: Wanted) -> Result<Look, Failure> {
    let counters = async |prefix: &str| {
        let request = CountersRequest { prefix: prefix.to_owned() };
        node.call(node.node().counters(request)).await.map(|CountersResponse { counters }| counters)
    };
    let status = node.call(node.node().status(StatusRequest {})).await?;
    let drops = sums(&counters("penstock_dropped_packets_total").await?, "reason");
    let services = match wanted.services {
        true => Some(services(&counters("penstock_service_").await?)),
        false => None,
    };
    let details = match wanted.details.is_empty() {
        true => Vec::new(),
        false => {
            let request = GetRequest { services: wanted.details };
            gone_is_none(node.call(node.definitions().get(request)).await)?
                .and_then(|answer| answer.definitions)
                .map_or_else(Vec::new, |set| set.services)
        }
    };
    let backends = match wanted.backends {
        Some(of) => {
            let service = match &of {
                Backends::All => None,
                Backends::Of(service) => Some(service.clone()),
            };
            let request = ListBackendsRequest { service, backend: None };
            let list = gone_is_none(node.call(node.backends().list(request)).await)?;
            Some((of, list.unwrap_or_default().backends))
        }
        None => None,
    };
    Ok(Look { at: Instant::now(), status, drops, services, details, backends })
}

/// A service may go between two looks; the next look will not ask for it.
fn gone_is_none<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Failure::BadInput(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Counters added up by one of their labels.
fn sums(counters: &[Counter], label: &str) -> HashMap<String, u64> {
    let mut sums = HashMap::new();
    for counter in counters {
        if let Some(name) = counter.labels.get(label) {
            *sums.entry(name.clone()).or_default() += counter.value as u64;
        }
    }
    sums
}

fn services(counters: &[Counter]) -> HashMap<String, (u64, u64)> {
    let mut services: HashMap<String, (u64, u64)> = HashMap::new();
    for counter in counters {
        let Some(name) = counter.labels.get("service") else { continue };
        let (packets, bytes) = services.entry(name.clone()).or_default();
        match counter.name.as_str() {
            "penstock_service_packets_total" => *packets += counter.value as u64,
            "penstock_service_bytes_total" => *bytes += counter.value as u64,
            _ => {}
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_by_what_they_are_of() {
        let counter = |name: &str, labels: &[(&str, &str)], value| Counter {
            name: name.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            value,
        };
        let dropped =
            |lcore, reason, value| counter("penstock_dropped", &[("lcore", lcore), ("reason", reason)], value);
        let drops = [dropped("1", "malformed", 2.0), dropped("2", "malformed", 3.0), dropped("1", "too_big", 1.0)];
        let expected = HashMap::from([("malformed".to_owned(), 5), ("too_big".to_owned(), 1)]);
        assert_eq!(sums(&drops, "reason"), expected);
        let of = [("service", "web")];
        let counters = [
            counter("penstock_service_packets_total", &of, 2.0),
            counter("penstock_service_bytes_total", &of, 120.0),
            counter("penstock_service_new_one", &of, 9.0),
        ];
        assert_eq!(services(&counters), HashMap::from([("web".to_owned(), (2, 120))]));
    }
}
