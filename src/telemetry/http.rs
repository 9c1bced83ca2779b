//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

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
    fn ready(&self, has_definitions: bool) -> Result<(), &'static str> {
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

    /// Answers until the runtime ends.
    pub async fn run(self, sources: Arc<Sources>, health: Arc<Health>) -> std::io::Result<()> {
        axum::serve(self.listener, router(Arc::new(Site { sources, health }))).await
    }
}

struct Site {
    sources: Arc<Sources>,
    health: Arc<Health>,
}

fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .with_state(site)
}

async fn scrape(State(site): State<Arc<Site>>) -> impl IntoResponse {
    match tokio::time::timeout(PATIENCE, site.sources.render("")).await {
        Ok(Some(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the control side does not answer\n").into_response(),
    }
}

async fn ready(State(site): State<Arc<Site>>) -> impl IntoResponse {
    match site.health.ready(site.sources.control.has_definitions()) {
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
}
