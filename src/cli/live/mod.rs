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

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Failure, print_json};
use crate::config::{API_SOCKET, Identity, Tls};
use crate::proto::backends_client::BackendsClient;
use crate::proto::definitions_client::DefinitionsClient;
use crate::proto::flows_client::FlowsClient;
use crate::proto::node_client::NodeClient;
use crate::proto::{LARGEST_MESSAGE, channel_over};
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

/// A connection is waited for so long, its handshake included; then an answer.
const CONNECT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(400) } else { Duration::from_secs(30) };

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
            // The second: our own limit, in tonic's words.
            Code::DeadlineExceeded | Code::Cancelled => Failure::Failed(format!(
                "the node at {} did not answer within {PATIENCE:?}; is its process stopped, or are its CPUs all busy? Its log may say more",
                self.at
            )),
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
    let late = || {
        let late = io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT:?}"));
        Err(Failure::Failed(unreachable(at, &late)))
    };
    tokio::time::timeout(CONNECT, connect_at_last(place)).await.unwrap_or_else(|_| late())
}

async fn connect_at_last(place: &Place) -> Result<Channel, Failure> {
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

async fn speak<S>(at: &At, stream: S) -> Result<Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The name is never looked up.
    let endpoint = Endpoint::from_static("http://penstock").timeout(PATIENCE);
    channel_over(stream, endpoint, "the connection is over").await.map_err(|error| {
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
    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::proto::StatusRequest;
    use crate::tls::authority::Authority;

    /// What is said of a node that cannot be asked.
    fn said(place: Place) -> String {
        let asked = ask(&Live { place, json: false }, async |node| {
            node.call(node.node().status(StatusRequest::default())).await
        });
        match asked {
            Err(Failure::Failed(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn place(api: At) -> Place {
        Place { api, ca: None, cert: None, key: None }
    }

    #[test]
    fn a_node_that_takes_connections_and_says_nothing_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let why = said(place(At::Unix(path)));
        assert!(
            why.contains("did not answer within 400ms; is its process stopped, or are its CPUs all busy?"),
            "{why}"
        );
    }

    #[test]
    fn a_connection_that_does_not_come_is_not_waited_for_for_ever() {
        // One whose backlog is full, and one that says nothing when TLS should begin.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _held = std::net::TcpStream::connect(address).unwrap();
        let at = |port| At::Tcp { host: "127.0.0.1".to_owned(), port };
        let why = said(place(at(address.port())));
        assert!(why.contains(": no connection within 300ms; is `penstock run` running there"), "{why}");

        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (cert, key) = authority.issue("caller.example");
        let file = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
            Some(directory.path().join(name))
        };
        let (ca, cert, key) = (file("ca", &authority.pem), file("cert", &cert), file("key", &key));
        let why = said(Place { api: at(silent.local_addr().unwrap().port()), ca, cert, key });
        assert!(why.contains(": no connection within 300ms; is `penstock run` running there"), "{why}");
    }

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
