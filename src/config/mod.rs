//! The node's configuration, `penstock.toml`: parsed once, checked whole.
//!
//! Read by the same machinery as service definitions (`service::shape`), from the table in `keys`.

mod fabric;
mod feed;
mod fit;
pub mod keys;
mod reader;
mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::mode::Encap;
use crate::service::shape::choice;
use crate::service::{Ports, kubernetes};
use crate::wire::Mac;

pub use fabric::REPLAY_MAC;
pub use feed::{Etcd, Grpc, Http, Identity, Kubernetes, Login, Tls};
pub use fit::{admit, fit, fit_service, leave_out};
pub use url::Url;

/// A whole, valid configuration. Every key, its default and its range stand in `keys.rs`.
#[derive(Debug, Clone)]
pub struct Config {
    pub node: Node,
    pub dpdk: Dpdk,
    pub ports: Vec<Port>,
    pub icmp: Icmp,
    pub encap: Encap,
    pub snat: Snat,
    pub health: Health,
    pub hash: Hash,
    pub flows: Flows,
    pub fragments: Fragments,
    pub neighbors: Vec<Neighbor>,
    pub routes: Vec<Route>,
    pub feed: Feed,
    pub api: Api,
    /// What Kubernetes-shaped documents are read by.
    pub kubernetes: kubernetes::Options,
    pub metrics: Metrics,
}

/// The gRPC API.
#[derive(Debug, Clone)]
pub struct Api {
    pub listen: Vec<Listen>,
    /// Whether that is what the operator wrote: else the node goes on without, where it cannot be.
    pub is_asked_for: bool,
    /// Who may use the Unix sockets, besides their owner.
    pub group: Option<String>,
    /// Of the TCP listeners; `None`: they are on loopback, and in the clear.
    pub tls: Option<ApiTls>,
}

/// How callers over TCP are told apart, by PEM files.
#[derive(Debug, Clone)]
pub struct ApiTls {
    pub identity: Identity,
    /// Certificates that a caller's own is checked by.
    pub ca: PathBuf,
    /// What callers may do, by a name of their certificate; `*`: everyone else.
    pub roles: BTreeMap<String, Role>,
}

choice! {
    /// What a caller may do; each may do what those above it may.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    Role {
        Read "read"
        /// And drain backends.
        Drain "drain"
        /// And write definitions.
        Write "write"
    }
}

/// Where the API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Where the API listens unless the configuration says otherwise, and where the command line looks for it.
pub const API_SOCKET: &str = "/run/penstock/api.sock";

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl FromStr for Listen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(()),
            None => text.parse().map(Self::Tcp).map_err(|_| ()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub state_dir: PathBuf,
    pub stop_grace: Duration,
}

#[derive(Debug, Clone)]
pub struct Dpdk {
    /// CPU numbers of the polling cores, at least one.
    pub lcores: Vec<u16>,
    pub eal_args: Vec<String>,
    pub mempool_mbufs: u32,
    pub mbuf_data_room: u16,
    pub idle: Idle,
}

choice! {
    /// What an lcore does when nothing arrives.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Idle {
        Poll "poll"
        Pause "pause"
        Sleep "sleep"
    }
}

#[derive(Debug, Clone)]
pub struct Port {
    pub name: String,
    pub device: String,
    pub mtu: u16,
    pub mac: Option<Mac>,
    /// The node's own addresses, added to the twin's.
    pub addresses: Vec<IpAddr>,
    pub twin: Option<String>,
    pub promiscuous: bool,
}

#[derive(Debug, Clone)]
pub struct Icmp {
    pub errors_per_second: u32,
    pub burst: u32,
}

/// What `snat` takes sources from.
#[derive(Debug, Clone)]
pub struct Snat {
    pub ipv4: Vec<Ipv4Addr>,
    pub ipv6: Vec<Ipv6Addr>,
    /// At least as many as lcores.
    pub ports: Ports,
}

/// Where health checks come from that go through a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Addresses of the node's own, to which backends answer; `None`: it has none of the family that is known.
    pub ipv4_source: Option<Ipv4Addr>,
    pub ipv6_source: Option<Ipv6Addr>,
    pub ports: Ports,
}

#[derive(Debug, Clone)]
pub struct Hash {
    pub seed: [u8; 16],
    /// Slots of a Maglev table, a prime.
    pub table_size: u32,
}

#[derive(Debug, Clone)]
pub struct Flows {
    pub capacity: u32,
    pub drain_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct Fragments {
    /// How long a later fragment waits for its first.
    pub hold: Duration,
}

#[derive(Debug, Clone)]
pub struct Neighbor {
    pub address: IpAddr,
    pub mac: Mac,
    /// Index into [`Config::ports`].
    pub port: usize,
    /// 1 to 4094.
    pub vlan: Option<u16>,
}

#[derive(Debug, Clone)]
pub struct Route {
    pub prefix: IpNet,
    pub via: IpAddr,
}

#[derive(Debug, Clone)]
pub enum Feed {
    /// Relative paths are relative to the configuration's directory.
    File {
        path: PathBuf,
    },
    Http(Http),
    Grpc(Grpc),
    Etcd(Etcd),
    Kubernetes(Kubernetes),
    None,
}

impl Config {
    /// Files of the certificates by which the node shows who it is.
    pub fn certificates(&self) -> impl Iterator<Item = &Path> {
        let of_api = self.api.tls.as_ref().map(|tls| &tls.identity);
        of_api.into_iter().chain(self.feed.identity()).map(|identity| identity.cert.as_path())
    }
}

impl Feed {
    /// The certificate that the node shows to the feed's source.
    fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Http(http) => http.tls.identity.as_ref(),
            Self::Grpc(grpc) => grpc.tls.identity.as_ref(),
            Self::Etcd(etcd) => etcd.tls.identity.as_ref(),
            // Of Kubernetes the kubeconfig knows it.
            Self::File { .. } | Self::Kubernetes(_) | Self::None => None,
        }
    }

    pub fn kind(&self) -> FeedKind {
        match self {
            Self::File { .. } => FeedKind::File,
            Self::Http(_) => FeedKind::Http,
            Self::Grpc(_) => FeedKind::Grpc,
            Self::Etcd(_) => FeedKind::Etcd,
            Self::Kubernetes(_) => FeedKind::Kubernetes,
            Self::None => FeedKind::None,
        }
    }
}

choice! {
    /// Every kind of feed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    FeedKind {
        File "file"
        Http "http"
        Grpc "grpc"
        Etcd "etcd"
        Kubernetes "kubernetes"
        None "none"
    }
}

#[derive(Debug, Clone)]
pub struct Metrics {
    /// `None`: no metrics.
    pub listen: Option<SocketAddr>,
    /// Backends that have series of their own, at most.
    pub most_backends: u32,
}

#[cfg(test)]
pub(crate) mod tests;
