//! The metrics: every name with its kind and help, and how each is filled.

use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Label, Unit, counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::sample::{LcoreSample, Sample};
use crate::control::{FEED_ERRORS, PUBLISH_DURATION};
use crate::counters::Reason;
use crate::service::State;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}
use Kind::{Counter, Gauge, Histogram};

/// Read when somebody asks. Dashboards rely on the names.
const READ: &[(&str, Kind, &str)] = &[
    ("penstock_received_packets_total", Counter, "Frames received."),
    ("penstock_forwarded_packets_total", Counter, "Frames sent on to a backend, or a backend's reply to a client."),
    ("penstock_answered_packets_total", Counter, "Frames answered by the load balancer itself."),
    ("penstock_punted_packets_total", Counter, "Frames handed to the kernel twin."),
    ("penstock_dropped_packets_total", Counter, "Frames dropped, by reason; `penstock schema counters` explains each."),
    ("penstock_injected_packets_total", Counter, "Frames from the kernel twin that were sent."),
    ("penstock_inject_refused_packets_total", Counter, "Frames from the kernel twin that the device had no room for."),
    ("penstock_service_packets_total", Counter, "Packets from clients that were sent to a backend of the service."),
    ("penstock_service_bytes_total", Counter, "Bytes of IP from clients that were sent to a backend of the service."),
    ("penstock_backend_packets_total", Counter, "Packets from clients that were sent to the backend."),
    ("penstock_backend_bytes_total", Counter, "Bytes of IP from clients that were sent to the backend."),
    ("penstock_backend_up", Gauge, "1 if the backend may take packets, 0 if it is down."),
    ("penstock_backend_weight", Gauge, "The backend's weight."),
    ("penstock_flows", Gauge, "Flows that the lcore remembers, those included that are over and not swept yet."),
    (
        "penstock_flows_refused_total",
        Counter,
        "Packets of new flows of the service that there was no room to remember.",
    ),
    ("penstock_backend_flows", Gauge, "Flows that lcores remember by the backend."),
    ("penstock_slots_moving", Gauge, "Slots of the service whose established flows are elsewhere than new ones go."),
    ("penstock_definitions_version_info", Gauge, "1; the label is the version of the definitions in force."),
    ("penstock_services", Gauge, "Services in force."),
    ("penstock_services_left_out", Gauge, "Services of the newest set that are left out, or cut to what can be."),
    (
        "penstock_feed_last_success_timestamp_seconds",
        Gauge,
        "When the feed last gave a valid set, new or the same; 0: never.",
    ),
    ("penstock_next_hops_unresolved", Gauge, "Next hops whose MAC is wanted and not known."),
    ("penstock_lcore_busy_ratio", Gauge, "Share of the last second that the lcore spent on frames, 0 to 1."),
    ("penstock_port_missed_packets_total", Counter, "Frames that the NIC lost because no lcore took them in time."),
    ("penstock_mempool_mbufs", Gauge, "Packet buffers in the mempool."),
    ("penstock_mempool_mbufs_in_use", Gauge, "Packet buffers in use."),
    ("penstock_twin_punted_packets_total", Counter, "Frames that the kernel twin took."),
    ("penstock_twin_refused_packets_total", Counter, "Frames that the kernel twin did not take."),
    ("penstock_twin_inject_full_packets_total", Counter, "Frames from the kernel twin dropped for want of room."),
    ("penstock_probe_packets_total", Counter, "Packets of health checks through services that were sent."),
    (
        "penstock_probe_refused_packets_total",
        Counter,
        "Such packets that could not be sent: no next hop, or no such backend any more.",
    ),
    ("penstock_probe_answers_total", Counter, "Packets that were answers to health checks through services."),
    ("penstock_probe_lost_packets_total", Counter, "Packets of such checks, either way, dropped for want of room."),
    ("penstock_build_info", Gauge, "1; the label is the version of penstock."),
];

/// Recorded when they happen, by `control`.
const RECORDED: &[(&str, Kind, &str)] = &[
    (PUBLISH_DURATION, Histogram, "From the notice of a change until every lcore uses it."),
    (FEED_ERRORS, Counter, "Definitions refused, and times the feed could not be read."),
];

/// Every metric: its name, how it behaves, what it means.
pub fn listed() -> impl Iterator<Item = (&'static str, Kind, &'static str)> {
    READ.iter().chain(RECORDED).copied()
}

/// Upper bounds of the publish histogram, seconds.
const PUBLISH_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Holds what is recorded, from now on, in this whole process.
pub struct Recorded(PrometheusHandle);

impl Recorded {
    /// The first time in a process; whoever comes later records nothing.
    pub fn install() -> Self {
        let recorder = recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_ok() {
            describe(RECORDED);
            counter!(FEED_ERRORS).increment(0);
        }
        Self(handle)
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// A sample in Prometheus' text format. Services and backends may be very many, and are left out where no name of theirs begins so.
pub fn render(sample: &Sample, prefix: &str) -> String {
    let recorder = recorder();
    metrics::with_local_recorder(&recorder, || {
        describe(READ);
        fill(sample, prefix);
    });
    recorder.handle().render()
}

/// Whether metrics whose name begins so are of the control side. Its report goes over every backend, and drops are asked for every second.
pub fn needs_report(prefix: &str) -> bool {
    !prefix.starts_with("penstock_dropped_")
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(PUBLISH_DURATION.to_owned()), PUBLISH_BUCKETS)
        .expect("the list of buckets is not empty")
        .build_recorder()
}

fn describe(list: &[(&'static str, Kind, &'static str)]) {
    for &(name, kind, help) in list {
        match kind {
            Counter => metrics::describe_counter!(name, help),
            Gauge => metrics::describe_gauge!(name, help),
            Histogram => metrics::describe_histogram!(name, Unit::Seconds, help),
        }
    }
}

fn fill(sample: &Sample, prefix: &str) {
    for LcoreSample { cpu, busy, flows, probes, ports } in &sample.lcores {
        counter!("penstock_probe_packets_total", "lcore" => cpu.to_string()).absolute(probes[0]);
        counter!("penstock_probe_refused_packets_total", "lcore" => cpu.to_string()).absolute(probes[1]);
        gauge!("penstock_lcore_busy_ratio", "lcore" => cpu.to_string()).set(*busy);
        gauge!("penstock_flows", "lcore" => cpu.to_string()).set(*flows as f64);
        for (port, totals) in sample.ports.iter().zip(ports) {
            let labels = [Label::new("port", port.clone()), Label::new("lcore", cpu.to_string())];
            let verdict = |name, count| counter!(name, labels.iter()).absolute(count);
            verdict("penstock_received_packets_total", totals.received);
            verdict("penstock_forwarded_packets_total", totals.forwarded);
            verdict("penstock_answered_packets_total", totals.answered);
            verdict("penstock_punted_packets_total", totals.punted);
            verdict("penstock_injected_packets_total", totals.injected);
            verdict("penstock_inject_refused_packets_total", totals.inject_refused);
            for (reason, &count) in Reason::ALL.iter().zip(&totals.dropped) {
                let labels = labels.iter().cloned().chain([Label::new("reason", reason.name())]);
                counter!("penstock_dropped_packets_total", labels.collect::<Vec<_>>()).absolute(count);
            }
        }
    }

    let device = &sample.device;
    for (port, &missed) in sample.ports.iter().zip(&device.missed) {
        counter!("penstock_port_missed_packets_total", "port" => port.clone()).absolute(missed);
    }
    gauge!("penstock_mempool_mbufs").set(device.mbufs as f64);
    gauge!("penstock_mempool_mbufs_in_use").set(device.mbufs_in_use as f64);
    counter!("penstock_probe_answers_total").absolute(device.probe_answers);
    counter!("penstock_probe_lost_packets_total").absolute(device.probes_lost);
    for counts in &device.twins {
        let twin = |name, count| counter!(name, "twin" => counts.twin.clone()).absolute(count);
        twin("penstock_twin_punted_packets_total", counts.punted);
        twin("penstock_twin_refused_packets_total", counts.refused);
        twin("penstock_twin_inject_full_packets_total", counts.inject_full);
    }

    let Some(report) = &sample.report else { return };
    let is_wanted = |family: &str| family.starts_with(prefix) || prefix.starts_with(family);
    for service in report.services.iter().filter(|_| is_wanted("penstock_service_")) {
        let name = service.of.to_string();
        counter!("penstock_service_packets_total", "service" => name.clone()).absolute(service.packets);
        counter!("penstock_service_bytes_total", "service" => name).absolute(service.bytes);
    }
    // One address may serve a service on two ports, so the endpoint's port is a label of its own.
    let labels = |service: &str, endpoint: std::net::SocketAddr| {
        [
            Label::new("service", service.to_owned()),
            Label::new("backend", endpoint.ip().to_string()),
            Label::new("backend_port", endpoint.port().to_string()),
        ]
    };
    for backend in report.backends.iter().filter(|_| is_wanted("penstock_backend_")) {
        let labels = labels(&backend.of.0, backend.of.1);
        counter!("penstock_backend_packets_total", labels.iter()).absolute(backend.packets);
        counter!("penstock_backend_bytes_total", labels.iter()).absolute(backend.bytes);
    }
    for (backend, flows) in report.flows.iter().filter(|_| is_wanted("penstock_backend_")) {
        gauge!("penstock_backend_flows", labels(&backend.0, backend.1).iter()).set(*flows as f64);
    }
    for (service, packets) in &report.refused {
        counter!("penstock_flows_refused_total", "service" => service.to_string()).absolute(*packets);
    }
    for (service, slots) in &report.moving {
        gauge!("penstock_slots_moving", "service" => service.to_string()).set(*slots as f64);
    }
    if let Some(definitions) = &report.definitions {
        let version = definitions.version.clone().unwrap_or_default();
        gauge!("penstock_definitions_version_info", "version" => version).set(1.0);
        gauge!("penstock_services").set(definitions.services.len() as f64);
        gauge!("penstock_services_left_out").set(report.left_out.len() as f64);
        for service in report.masked.services.iter().filter(|_| is_wanted("penstock_backend_")) {
            for backend in &service.backends {
                let labels = labels(&service.name, service.endpoint(backend));
                let is_up = backend.state != State::Down;
                gauge!("penstock_backend_up", labels.iter()).set(f64::from(u8::from(is_up)));
                gauge!("penstock_backend_weight", labels.iter()).set(f64::from(backend.weight));
            }
        }
    }
    let last_success = report.feed_last_success.unwrap_or(UNIX_EPOCH);
    gauge!("penstock_feed_last_success_timestamp_seconds").set(seconds(last_success));
    gauge!("penstock_next_hops_unresolved").set(report.unresolved as f64);
    gauge!("penstock_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::control::{Count, Report};
    use crate::counters::Totals;
    use crate::service::{self, LeftOut};
    use crate::telemetry::{Device, TwinCounts};

    /// A node in which every number is other than zero.
    fn busy_node(ports: &[String]) -> Sample<'_> {
        let text = r#"{"version": "v\"1", "services": [{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
            "forwarding": "ipip", "backends": [{"address": "10.1.0.11"}]}]}"#;
        let (definitions, _) = service::native(text, "test", None).unwrap();
        let service = definitions.services[0].clone();
        let endpoint = service.endpoint(&service.backends[0]);
        let dropped = [5; Reason::COUNT];
        let totals =
            Totals { received: 1, forwarded: 2, answered: 3, punted: 4, dropped, injected: 19, inject_refused: 20 };
        Sample {
            ports,
            lcores: vec![LcoreSample { cpu: 1, busy: 0.5, flows: 21, probes: [25, 26], ports: vec![totals] }],
            device: Device {
                missed: vec![6],
                mbufs_in_use: 7,
                mbufs: 8,
                twins: vec![TwinCounts { twin: "wan0".to_owned(), punted: 9, refused: 11, inject_full: 12 }],
                probe_answers: 27,
                probes_lost: 28,
            },
            report: Some(Report {
                backends: vec![Count { of: (service.name.clone(), endpoint), packets: 13, bytes: 14 }],
                services: vec![Count { of: service.name.clone(), packets: 15, bytes: 16 }],
                flows: vec![((service.name.clone(), endpoint), 22)],
                moving: vec![(service.name.clone(), 23)],
                refused: vec![(service.name.clone(), 24)],
                masked: Arc::new(definitions.clone()),
                definitions: Some(Arc::new(definitions)),
                feed_last_success: Some(SystemTime::now()),
                unresolved: 17,
                left_out: vec![LeftOut { service: "a/b".to_owned(), reason: "c".to_owned(), bad_annotation: None }],
                ..Report::default()
            }),
        }
    }

    #[test]
    fn every_declared_metric_is_filled_and_no_other() {
        let text = render(&busy_node(&["wan0".to_owned()]), "");
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut filled = BTreeSet::new();
        for sample in samples {
            let value: f64 = sample.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(value > 0.0, "nothing fills {sample}");
            filled.insert(sample.split(['{', ' ']).next().unwrap());
        }
        assert_eq!(filled, READ.iter().map(|&(name, ..)| name).collect());
        for &(name, kind, help) in READ {
            let kind = if kind == Counter { "counter" } else { "gauge" };
            assert!(text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")), "{name}\n{text}");
        }
    }

    #[test]
    fn every_reason_is_a_series_of_its_own() {
        let text = render(&busy_node(&["wan0".to_owned()]), "");
        for reason in Reason::ALL {
            let series = format!(r#"penstock_dropped_packets_total{{port="wan0",lcore="1",reason="{reason}"}} 5"#);
            assert!(text.contains(&series), "{series} is not in\n{text}");
        }
    }

    #[test]
    fn who_asks_for_some_names_gets_all_of_them_and_spares_the_many_others() {
        let ports = ["wan0".to_owned()];
        let mut sample = busy_node(&ports);
        let all = render(&sample, "");
        for prefix in ["penstock_service", "penstock_services", "penstock_backend_p", "penstock_dropped", "p", "x"] {
            let those = |text: &str| {
                let mut lines: Vec<_> =
                    text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(those(&render(&sample, prefix)), those(&all), "{prefix}");
        }
        assert!(!render(&sample, "penstock_dropped").contains("10.1.0.11"));
        sample.report = None;
        let filled = render(&sample, "");
        let without: Vec<_> = READ.iter().filter(|(name, ..)| !needs_report(name)).collect();
        assert!(without.iter().all(|(name, ..)| filled.contains(&format!("\n{name}{{"))) && !without.is_empty());
    }

    #[test]
    fn what_is_gone_leaves_no_series_behind() {
        let ports = ["wan0".to_owned()];
        let mut sample = busy_node(&ports);
        assert!(render(&sample, "").contains("10.1.0.11"));
        sample.report = Some(Report::default());
        let text = render(&sample, "");
        assert!(!text.contains("10.1.0.11") && !text.contains("version_info"), "{text}");
    }
}
