//! Subcommands that talk to a running node, over its gRPC API.

pub mod apply;
pub mod backends;
pub mod capture;
pub mod drain;
pub mod explain;
pub mod flows;
pub mod services;
pub mod status;
mod table;
pub mod top;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::{Failure, print_json};
use crate::config::{API_SOCKET, Identity, Tls};
use crate::proto::LARGEST_MESSAGE;
use crate::proto::backends_client::BackendsClient;
use crate::proto::definitions_client::DefinitionsClient;
use crate::proto::flows_client::FlowsClient;
use crate::proto::node_client::NodeClient;
use crate::tls;

/// Which node, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub struct Live {
    #[command(flatten)]
    pub place: Place,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which node, and as whom it is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The node's API: unix:PATH, or HOST:PORT
    #[arg(long, value_name = "WHERE", default_value_t = At::Unix(API_SOCKET.into()))]
    pub api: At,
    /// With HOST:PORT: TLS, the node's certificate checked by those in this file
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    pub ca: Option<PathBuf>,
    /// With --ca: who we are
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub cert: Option<PathBuf>,
    /// With --ca: the key of --cert
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub key: Option<PathBuf>,
}

/// Where a node's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl FromStr for At {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str =
            "write unix:/run/penstock/api.sock, or a host and port like edge-1.example:9340 or [fd00::1]:9340";
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(WHAT) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(WHAT)?;
        let port = port.parse().map_err(|_| WHAT)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host,
            None if host.contains([':', '/']) || host.is_empty() => return Err(WHAT),
            None => host,
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what asks a node, on a runtime of its own.
fn ask<T>(live: &Live, asking: impl AsyncFnOnce(Node) -> Result<T, Failure>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let node = Node { channel: connect(&live.place).await?, at: live.place.api.clone() };
        asking(node).await
    })
}

/// A node that answers.
#[derive(Clone)]
struct Node {
    channel: Channel,
    at: At,
}

impl Node {
    fn definitions(&self) -> DefinitionsClient<Channel> {
        DefinitionsClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    fn backends(&self) -> BackendsClient<Channel> {
        BackendsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    fn flows(&self) -> FlowsClient<Channel> {
        FlowsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// The answer to a call, or why there is none.
    async fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Failure> {
        match call.await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.failure(&status)),
        }
    }

    fn failure(&self, status: &Status) -> Failure {
        let text = status.message();
        match status.code() {
            Code::InvalidArgument | Code::NotFound => Failure::BadInput(text.to_owned()),
            Code::FailedPrecondition | Code::Aborted => Failure::Failed(text.to_owned()),
            Code::Unavailable => Failure::Failed(format!("the node at {} does not answer: {text}", self.at)),
            Code::DeadlineExceeded => {
                Failure::Failed(format!("the node at {} did not answer within {PATIENCE:?}", self.at))
            }
            Code::PermissionDenied => Failure::Failed(text.to_owned()),
            Code::Unimplemented => {
                Failure::Failed(format!("the node at {} does not know this call: it is of another release", self.at))
            }
            code => Failure::Failed(format!("the node at {}: {code:?}: {text}", self.at)),
        }
    }
}

async fn connect(place: &Place) -> Result<Channel, Failure> {
    let at = &place.api;
    let failed = |error: io::Error| Failure::Failed(unreachable(at, &error));
    match at {
        At::Unix(path) => speak(at, UnixStream::connect(path).await.map_err(failed)?).await,
        At::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            let Some(ca) = &place.ca else { return speak(at, stream).await };
            let identity = place.cert.clone().zip(place.key.clone()).map(|(cert, key)| Identity { cert, key });
            let mut tls = tls::Client::new(Tls { ca: Some(ca.clone()), identity }, "h2");
            let stream = tls.connect(host, stream).await;
            speak(at, stream.map_err(|error| Failure::Failed(format!("the node at {at}: {error}")))?).await
        }
    }
}

/// HTTP/2 over a connection that was made.
async fn speak<S>(at: &At, stream: S) -> Result<Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::other("the connection is over")))
    });
    // The name is never looked up.
    let endpoint = Endpoint::from_static("http://penstock").timeout(PATIENCE);
    let connected = endpoint.connect_with_connector(once).await;
    connected.map_err(|error| {
        let advice =
            if matches!(at, At::Tcp { .. }) { "; where it wants TLS, name --ca, --cert and --key" } else { "" };
        Failure::Failed(format!("cannot talk to the node at {at}: {error}{advice}"))
    })
}

/// What to do where nobody answers.
fn unreachable(at: &At, error: &io::Error) -> String {
    let advice = match (error.kind(), at) {
        (io::ErrorKind::PermissionDenied, _) => "be root, or a member of the group that [api] group names",
        (io::ErrorKind::NotFound, At::Unix(_)) => {
            "is `penstock run` running here? Where its [api] listen is another, name it with --api"
        }
        (io::ErrorKind::ConnectionRefused, At::Unix(_)) => "the process that made the socket has ended",
        _ => "is `penstock run` running there, and does its [api] listen name this address?",
    };
    format!("cannot reach a node at {at}: {error}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_node_is() {
        for text in ["unix:/run/penstock/api.sock", "edge-1.example:9340", "127.0.0.1:9340", "[fd00::1]:9340"] {
            assert_eq!(text.parse::<At>().unwrap().to_string(), text);
        }
        for text in
            ["", "unix:", "edge-1", "edge-1:http", "fd00::1:9340", "http://edge-1:9340", ":9340", "edge-1:99999"]
        {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
    }
}
