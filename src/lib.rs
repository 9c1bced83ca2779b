//! Penstock: a layer-4 load balancer for the bare-metal edge.
//!
//! The rooms, from the ground up; a room uses only rooms above it in this list (a test holds it to that).

pub mod wire; // header views over bytes, checksums, the frame they live in
pub mod counters; // what is counted and dropped, by name; the per-lcore blocks of plain numbers
pub mod maglev; // weights in, table out; the mask of backends that may take nothing
pub mod service; // what to balance: services, backends, their validation; the JSON reader
pub mod flow; // what lcores know of flows: translations of `snat`, beginnings for `dnat-dsr`, and whose lcore they are
pub mod mode; // one file a forwarding mode: `prepare` before any packet, `apply` on the packet
pub mod snapshot; // definitions + next hops -> the immutable thing an lcore reads
pub mod quiescent; // publish snapshots, retire them once every lcore has let go
pub mod ring; // a bounded way from many threads to one, without a lock
pub mod pipeline; // a burst in, verdicts out: parse -> match -> select -> mode
pub mod capture; // frames of a running node with their verdict: taken by lcores, sampled and bounded
#[cfg(feature = "dpdk")]
pub mod lcore; // the poll loop: rx, pipeline, tx, punt
pub mod replay; // a capture through the same pipeline, N lcores in one thread
pub mod explain; // why a packet goes where it goes, in words
#[cfg(all(feature = "dpdk", feature = "control"))]
pub mod punt; // tap <-> rings: frames for the kernel twin and back
pub mod config; // the node (TOML, parsed once, checked whole)
#[cfg(feature = "api")]
pub mod proto; // the gRPC contract: its messages and calls, and definitions to and from them
#[cfg(feature = "control")]
pub mod tls; // certificates and keys from files -> TLS, by rustls
#[cfg(feature = "control")]
pub mod feed; // where definitions come from: a file, an HTTP server, a gRPC stream, etcd, Kubernetes
#[cfg(feature = "control")]
pub mod health; // active checks: which backends answer
#[cfg(feature = "control")]
pub mod kernel; // netlink: twins, neighbours, routes
#[cfg(feature = "control")]
pub mod control; // the control thread: feed + neighbours -> snapshot -> publish
#[cfg(feature = "api")]
pub mod api; // the gRPC server, on a handle of `control` only, and its client
#[cfg(feature = "control")]
pub mod telemetry; // the Prometheus collector, health endpoints, logs
#[cfg(all(feature = "dpdk", feature = "control"))]
pub mod node; // assembly, signals, life and death of a running node
pub mod cli; // what each subcommand prints
