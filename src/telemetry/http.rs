//! `/metrics`, `/healthz` and `/readyz`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::families::Wanted;
use super::sample::Sources;

/// A scrape waits so long for the control side.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why nobody can scrape.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("metrics.listen: cannot listen on {address}: {reason}")]
    Bind { address: SocketAddr, reason: std::io::Error },
}

/// Whether traffic should be sent here.
#[derive(Debug, Default)]
pub struct Health {
    is_forwarding: AtomicBool,
    is_stopping: AtomicBool,
}

impl Health {
    /// The lcores poll.
    pub fn forwarding(&self) {
        self.is_forwarding.store(true, Ordering::Relaxed);
    }

    /// Send new traffic elsewhere: the end is near.
    pub fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Where the node is in its life.
    pub fn phase(&self) -> &'static str {
        match (self.is_stopping.load(Ordering::Relaxed), self.is_forwarding.load(Ordering::Relaxed)) {
            (true, _) => "stopping",
            (false, false) => "starting",
            (false, true) => "forwarding",
        }
    }

    /// `Err`: why not.
    pub(super) fn ready(&self, has_definitions: bool) -> Result<(), &'static str> {
        match (self.is_stopping.load(Ordering::Relaxed), self.is_forwarding.load(Ordering::Relaxed), has_definitions) {
            (true, ..) => Err("stopping"),
            (_, false, _) => Err("starting"),
            (_, _, false) => Err("no definitions yet"),
            (false, true, true) => Ok(()),
        }
    }
}

/// A bound socket; [`Server::run`] answers on it.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds `address`.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(|reason| Error::Bind { address, reason })?;
        Ok(Self { listener })
    }

    /// Where it listens; the port that the kernel chose where port 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the runtime ends. A scrape has a series of each backend, if there are `most_backends` at most.
    pub async fn run(self, sources: Arc<Sources>, most_backends: usize) -> std::io::Result<()> {
        axum::serve(self.listener, router(Arc::new(Site { sources, most_backends }))).await
    }
}

struct Site {
    sources: Arc<Sources>,
    most_backends: usize,
}

fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(site)
}

async fn scrape(State(site): State<Arc<Site>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let services = match services(query.as_deref().unwrap_or_default()) {
        Ok(services) => services,
        Err(why) => return (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    };
    let wanted = Wanted { prefix: String::new(), services, most_backends: site.most_backends };
    match tokio::time::timeout(PATIENCE, site.sources.render(wanted)).await {
        Ok(Some(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the control side does not answer\n").into_response(),
    }
}

/// The values of `service=` in a query.
fn services(query: &str) -> Result<HashSet<String>, String> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let read = |parameter: &str| {
        let value = parameter.strip_prefix("service=").ok_or_else(|| format!("{parameter}: not service=NAME"))?;
        decoded(value).ok_or_else(|| format!("{parameter}: not percent-encoded UTF-8"))
    };
    parameters.map(read).collect()
}

/// A value of a query (the URL standard's application/x-www-form-urlencoded).
fn decoded(value: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

async fn ready(State(site): State<Arc<Site>>) -> impl IntoResponse {
    match site.sources.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_forwards_with_definitions_and_does_not_stop() {
        let health = Health::default();
        assert_eq!(health.ready(true), Err("starting"));
        health.forwarding();
        assert_eq!(health.ready(false), Err("no definitions yet"));
        assert_eq!(health.ready(true), Ok(()));
        health.stopping();
        assert_eq!(health.ready(true), Err("stopping"));
    }

    #[test]
    fn services_are_named_as_urls_name_them() {
        let read = |query: &str| {
            let mut names: Vec<_> = services(query)?.into_iter().collect();
            names.sort();
            Ok::<_, String>(names)
        };
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("service=web&service=shop%2Fweb%3a80/tcp"), Ok(vec!["shop/web:80/tcp".into(), "web".into()]));
        assert_eq!(read("service=a+b"), Ok(vec!["a b".into()]));
        for query in ["servce=web", "service=%", "service=%4", "service=%zz", "service=%ff"] {
            assert!(read(query).is_err(), "{query}");
        }
    }
}
