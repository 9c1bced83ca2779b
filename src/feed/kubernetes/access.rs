//! The API server, and how it is asked: as a kubeconfig says, or as the service account of the pod that this runs in.
//!
//! Each connection is made of the files as they are then, so they may be replaced at any time.

use std::path::Path;
use std::time::Duration;

use hyper::header::{ACCEPT, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube_client::client::{Body, Client, ConfigExt};
use kube_client::config::{Config, KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use tower::{BoxError, ServiceBuilder, ServiceExt};

use super::lines::{Lines, reason};
use crate::config;
use crate::feed::CONNECTIONS;
use crate::feed::network::{chain, secret};

/// For a connection, without its handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// For the beginning of an answer, the connection included; and for the whole of one that ends.
pub const ANSWER: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(30) };

/// A connection on which nothing comes is tried so often: a watch is silent for a minute at times.
const PROBE: Duration = Duration::from_secs(10);
const MOST_PROBES: u32 = 3;

/// Of an answer that refuses; more is no reason any more.
const MOST_REASON: usize = 64 << 10;

/// The API server.
pub struct Server {
    pub url: String,
    client: Client,
}

/// Why there is no answer of use.
pub enum Refusal {
    /// It says so itself.
    Said { status: StatusCode, message: String, retry_after: Option<Duration> },
    /// It does not answer.
    Silent(String),
}

impl Server {
    /// Reads the credentials, and runs what the kubeconfig names for it. Connections are made by what asks.
    pub async fn find(config: &config::Kubernetes) -> Result<Self, String> {
        let mut access = match &config.kubeconfig {
            Some(path) => by_kubeconfig(path, config.context.as_deref()).await?,
            None => Config::incluster().map_err(|error| {
                format!("no service account of a pod to ask as (outside of one, set `kubeconfig`): {}", chain(&error))
            })?,
        };
        let auth = &mut access.auth_info;
        if let (None, Some(file)) = (&auth.token, &auth.token_file) {
            auth.token = Some(secret(Path::new(file))?.into());
        }
        let url = access.cluster_url.to_string().trim_end_matches('/').to_owned();
        // A kubeconfig may name a program to be run for a token, and somebody waits here until it has one.
        let client = tokio::task::spawn_blocking(move || client(&access)).await.map_err(|error| error.to_string())?;
        Ok(Self { client: client.map_err(|error| format!("{url}: {}", reason(&error)))?, url })
    }

    /// Asks for a path of the API, and gives the lines of the answer, none longer than `most` bytes.
    pub async fn get(&self, path: &str, most: usize) -> Result<Lines, Refusal> {
        let request = Request::get(path)
            .header(USER_AGENT, concat!("penstock/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| Refusal::Silent(error.to_string()))?;
        let answer = tokio::time::timeout(ANSWER, self.client.send(request)).await;
        let answer = answer.map_err(|_| Refusal::Silent(format!("no answer within {ANSWER:?}")))?;
        let (head, body) = answer.map_err(|error| Refusal::Silent(reason(&error)))?.into_parts();
        if head.status.is_success() {
            return Ok(Lines::new(body, most));
        }
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let said = tokio::time::timeout(ANSWER, Lines::new(body, MOST_REASON).rest()).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        Err(Refusal::Said {
            status: head.status,
            message: message(&said),
            retry_after: retry_after.map(Duration::from_secs),
        })
    }
}

async fn by_kubeconfig(path: &Path, context: Option<&str>) -> Result<Config, String> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let access = match Kubeconfig::read_from(path) {
        Ok(kubeconfig) => {
            if let Some(proxy) = proxy(&kubeconfig, context) {
                return Err(format!("{}: no proxy is supported, and it names {proxy}", path.display()));
            }
            Config::from_custom_kubeconfig(kubeconfig, &options).await
        }
        Err(error) => Err(error),
    };
    access.map_err(|error| format!("{}: {}", path.display(), chain(&error)))
}

/// The proxy of the cluster that is meant.
fn proxy<'k>(kubeconfig: &'k Kubeconfig, context: Option<&'k str>) -> Option<&'k str> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.as_deref().filter(|proxy| !proxy.is_empty())
}

/// What kube makes by itself logs every failure, and asks anew without a word; this does neither, and notices dead connections.
fn client(access: &Config) -> Result<Client, Box<kube_client::Error>> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(PROBE));
    connector.set_keepalive_interval(Some(PROBE));
    connector.set_keepalive_retries(Some(MOST_PROBES));
    let connector = access.rustls_https_connector_with_connector(connector)?.map_result(counted);
    let service = ServiceBuilder::new()
        .layer(access.base_uri_layer())
        .option_layer(access.auth_layer()?)
        .layer(access.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, access.default_namespace.clone()))
}

/// A connection, made or not.
fn counted<T, E>(connected: Result<T, E>) -> Result<T, E> {
    let result = if connected.is_ok() { "made" } else { "failed" };
    metrics::counter!(CONNECTIONS, "result" => result).increment(1);
    connected
}

/// What a v1 Status says; nothing, where an answer is something else, a page of a proxy perhaps.
fn message(answer: &str) -> String {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        message: String,
    }
    serde_json::from_str(answer).map(|Status { message }| message).unwrap_or_default()
}
