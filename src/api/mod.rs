//! The gRPC API: `penstock.v1`, as `proto/` has it, over a handle of `control` alone.
//!
//! A request becomes the same tree of values that a JSON document does (room `proto`), so what is refused, and the path and reason of each error,
//! are the same whichever way definitions come. Reads are of what is in force; a write is answered once it is on disk and every lcore goes by
//! it. Nothing here can keep the control thread waiting: it only answers.

mod backends;
mod caller;
mod capture;
mod counted;
mod definitions;
mod flows;
mod listen;
mod node;
mod refusal;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Semaphore;
use tonic::transport::Server as Transport;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use crate::capture::Captures;
use crate::control::Client;
use crate::proto::{self, DESCRIPTORS, LARGEST_MESSAGE};
use caller::Guarded;
use counted::Counted;

pub use counted::methods;
pub use listen::{Error, Listeners};

/// Metrics that are recorded here when they happen.
pub const REQUESTS: &str = "penstock_api_requests_total";
pub const REQUEST_DURATION: &str = "penstock_api_request_duration_seconds";
pub const REQUESTS_RUNNING: &str = "penstock_api_requests_running";
pub const WATCHERS: &str = "penstock_api_watchers";

/// What the calls answer from.
pub struct Api {
    pub control: Client,
    pub config: Arc<crate::config::Config>,
    pub started: SystemTime,
    /// What only the node's other parts know.
    pub facts: Box<dyn Fn() -> Facts + Send + Sync>,
    /// Everything that /metrics tells, in Prometheus' text format.
    pub metrics: Box<Metrics>,
    /// The flows that each lcore remembers, with its CPU.
    pub remembered: Vec<(u16, crate::flow::Remembered)>,
    /// So many callers may be told of flows at once: each holds a thread, and a snapshot, for as long as it listens.
    pub lists: Arc<Semaphore>,
    /// So many callers may watch the definitions at once.
    pub watches: Arc<Semaphore>,
    /// Takes frames from the lcores, in the order of `[dpdk] lcores`.
    pub captures: Arc<Captures>,
}

/// For [`Api::lists`].
pub const LISTS: usize = 16;

/// For [`Api::watches`]: each is sent every set, of which a slow one holds its own.
pub const WATCHES: usize = 256;

/// Renders metrics, at least those whose name begins so; nothing where the node is about to end.
pub type Metrics = dyn Fn(&str) -> futures_util::future::BoxFuture<'static, Option<String>> + Send + Sync;

/// What lcores and devices tell.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// "starting", "forwarding" or "stopping".
    pub phase: &'static str,
    pub lcores: Vec<proto::LcoreStatus>,
    pub ports: Vec<proto::PortStatus>,
    pub mbufs_in_use: u64,
    pub mbufs: u64,
}

/// All services, ready to answer.
pub fn router(api: Arc<Api>) -> Router<Stack<Guarded, Stack<Counted, Identity>>> {
    use proto::backends_server::BackendsServer;
    use proto::definitions_server::DefinitionsServer;
    use proto::flows_server::FlowsServer;
    use proto::node_server::NodeServer;

    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .expect("the descriptors were made with this program");
    let older_reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1alpha()
        .expect("the descriptors were made with this program");
    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = api.control.clone();
    tokio::spawn(node::report_health(reporter, serving));
    let definitions = DefinitionsServer::from_arc(api.clone())
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    Transport::builder()
        .layer(Counted)
        .layer(Guarded)
        .concurrency_limit_per_connection(64)
        .max_concurrent_streams(Some(64))
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .add_service(definitions)
        .add_service(BackendsServer::from_arc(api.clone()).max_encoding_message_size(LARGEST_MESSAGE))
        .add_service(NodeServer::from_arc(api.clone()).max_encoding_message_size(LARGEST_MESSAGE))
        .add_service(FlowsServer::from_arc(api))
        .add_service(health)
        .add_service(reflection)
        .add_service(older_reflection)
}
