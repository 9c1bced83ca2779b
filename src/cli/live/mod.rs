//! Subcommands that talk to a running node, over its gRPC API.

pub mod apply;
pub mod backends;
pub mod drain;
pub mod explain;
pub mod flows;
pub mod services;
pub mod status;
mod table;
pub mod top;

use std::future::Future;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::{Failure, print_json};
use crate::config::{API_SOCKET, Listen};
use crate::proto::LARGEST_MESSAGE;
use crate::proto::backends_client::BackendsClient;
use crate::proto::definitions_client::DefinitionsClient;
use crate::proto::flows_client::FlowsClient;
use crate::proto::node_client::NodeClient;

/// Which node, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub struct Live {
    /// The node's API: unix:PATH, or an address and port
    #[arg(long, value_name = "WHERE", default_value_t = Listen::Unix(API_SOCKET.into()), value_parser = where_it_is)]
    pub api: Listen,
    /// Print the result as one JSON document
    #[arg(long)]
    pub json: bool,
}

fn where_it_is(text: &str) -> Result<Listen, String> {
    text.parse()
        .map_err(|()| "write unix:/run/penstock/api.sock, or an address and port like 127.0.0.1:9340".to_owned())
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
        let node = Node { channel: connect(&live.api).await?, at: live.api.clone() };
        asking(node).await
    })
}

/// A node that answers.
#[derive(Clone)]
struct Node {
    channel: Channel,
    at: Listen,
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
            Code::Unimplemented => {
                Failure::Failed(format!("the node at {} does not know this call: it is of another release", self.at))
            }
            code => Failure::Failed(format!("the node at {}: {code:?}: {text}", self.at)),
        }
    }
}

async fn connect(at: &Listen) -> Result<Channel, Failure> {
    // The name is never looked up: the connection is made below.
    let endpoint = |uri: String| Endpoint::from_shared(uri).map(|endpoint| endpoint.timeout(PATIENCE));
    let connected = match at {
        Listen::Unix(path) => {
            // What is wrong with the socket itself is said best by trying it.
            UnixStream::connect(path).await.map_err(|error| Failure::Failed(unreachable(at, &error)))?;
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            match endpoint("http://penstock".to_owned()) {
                Ok(endpoint) => endpoint.connect_with_connector(connector).await,
                Err(error) => Err(error),
            }
        }
        Listen::Tcp(address) => {
            let tried = tokio::net::TcpStream::connect(address).await;
            tried.map_err(|error| Failure::Failed(unreachable(at, &error)))?;
            match endpoint(format!("http://{address}")) {
                Ok(endpoint) => endpoint.connect().await,
                Err(error) => Err(error),
            }
        }
    };
    connected.map_err(|error| Failure::Failed(format!("cannot talk to the node at {at}: {error}")))
}

/// What to do where nobody answers.
fn unreachable(at: &Listen, error: &io::Error) -> String {
    let advice = match (error.kind(), at) {
        (io::ErrorKind::PermissionDenied, _) => "be root, or a member of the group that [api] group names",
        (io::ErrorKind::NotFound, Listen::Unix(_)) => {
            "is `penstock run` running here? Where its [api] listen is another, name it with --api"
        }
        (io::ErrorKind::ConnectionRefused, Listen::Unix(_)) => "the process that made the socket has ended",
        _ => "is `penstock run` running there, and does its [api] listen name this address?",
    };
    format!("cannot reach a node at {at}: {error}; {advice}")
}
