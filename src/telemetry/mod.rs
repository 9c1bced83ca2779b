//! What a node tells of itself: metrics for Prometheus, health for whoever routes to it, logs for people.
//!
//! Two kinds of metrics meet on `/metrics`. What the lcores and the control side count anyway is read when somebody
//! asks, into a fresh set, so that what is gone leaves no series behind; nothing here ever touches an lcore. What
//! *happens* on the control side (a publish, a refused set) is recorded when it does, through the `metrics` crate.

mod families;
mod http;
mod logs;
mod process;
mod recorded;
mod sample;
mod text;

pub use families::Wanted;
pub use http::{Error, Health, Server};
pub use logs::start as start_logs;
pub use recorded::Recorded;
pub use sample::{Device, Lcores, PortCounts, Sources, TwinCounts};
pub use text::Kind;

/// Every metric: its name, how it behaves, what it means.
pub fn listed() -> impl Iterator<Item = (&'static str, Kind, &'static str)> {
    families::listed().chain(recorded::listed())
}
