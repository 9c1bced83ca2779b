//! Metrics that are recorded when something happens, through the `metrics` crate, by the rooms that they are about.

use metrics::{Unit, counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::text::Kind;
use super::text::Kind::{Counter, Gauge, Histogram};
#[cfg(feature = "api")]
use crate::api;
use crate::{control, feed};

/// Name, kind and meaning.
const LIST: &[(&str, Kind, &str)] = &[
    (control::PUBLISH_DURATION, Histogram, "From the notice of a change until every lcore uses it."),
    (
        control::PUBLISH_PHASE_DURATION,
        Histogram,
        "Parts of that: read (and validate) a feed's document, compile, adopt (until every lcore uses it).",
    ),
    (control::COMMIT_DURATION, Histogram, "Until changes by the API that came together were on disk."),
    (control::JOURNAL_BYTES, Gauge, "Length of the file that changes by the API are appended to."),
    (control::STATE_ERRORS, Counter, "Times that something could not be kept in state_dir."),
    (control::AFFINITY_CLIENTS, Gauge, "Clients of source-ip affinity that the node remembers, as last looked at."),
    (control::FEED_ERRORS, Counter, "Definitions refused, and times that the feed could not be read, by reason."),
    (feed::CONNECTIONS, Counter, "Connections to the feed's source on the network, by result: made, failed."),
];

#[cfg(feature = "api")]
const OF_API: &[(&str, Kind, &str)] = &[
    (
        api::REQUESTS,
        Counter,
        "Calls of the API that were answered, by method and gRPC code; of a stream, its beginning.",
    ),
    (api::REQUEST_DURATION, Histogram, "Until a call of the API was answered; of a stream, until it began."),
    (
        api::REQUESTS_RUNNING,
        Gauge,
        "Calls of the API that wait for their answer: writes wait for the disk and the lcores.",
    ),
    (api::WATCHERS, Gauge, "Streams of Definitions/Watch that are open."),
];
#[cfg(not(feature = "api"))]
const OF_API: &[(&str, Kind, &str)] = &[];

/// Upper bounds of all these histograms, seconds.
const BOUNDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

pub fn listed() -> impl Iterator<Item = (&'static str, Kind, &'static str)> {
    LIST.iter().chain(OF_API).copied()
}

/// Holds what is recorded, from now on, in this whole process.
pub struct Recorded(PrometheusHandle);

impl Recorded {
    /// The first time in a process; whoever comes later records nothing.
    pub fn install() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), BOUNDS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_ok() {
            describe();
            begin();
        }
        Self(handle)
    }

    /// Sorts what was recorded into its buckets. To be called now and then: until then each observation takes memory.
    pub fn sort(&self) {
        self.0.run_upkeep();
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        self.sort();
        self.0.render()
    }
}

fn describe() {
    for (name, kind, help) in listed() {
        match kind {
            Counter => metrics::describe_counter!(name, help),
            Gauge => metrics::describe_gauge!(name, help),
            Histogram => metrics::describe_histogram!(name, Unit::Seconds, help),
        }
    }
}

/// What counts from zero stands there before it counts: else nobody would see the first.
fn begin() {
    for reason in control::FEED_ERROR_REASONS {
        counter!(control::FEED_ERRORS, "reason" => *reason).increment(0);
    }
    for result in feed::CONNECTION_RESULTS {
        counter!(feed::CONNECTIONS, "result" => *result).increment(0);
    }
    counter!(control::STATE_ERRORS).increment(0);
    gauge!(control::JOURNAL_BYTES).set(0);
    gauge!(control::AFFINITY_CLIENTS).set(0);
    #[cfg(feature = "api")]
    {
        gauge!(api::WATCHERS).set(0);
        for method in api::methods() {
            counter!(api::REQUESTS, "method" => method.clone(), "code" => "OK").increment(0);
            gauge!(api::REQUESTS_RUNNING, "method" => method).set(0);
        }
    }
}
