//! The metrics that are read when somebody asks: every name with its kind, its meaning, and where its numbers come from.
//!
//! Services and backends may be very many. So whoever asks may name what it wants ([`Wanted`]), and where there are more backends than
//! it is ready for, only those that are down have a series of their own; services are counted by the states of their backends always.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use super::sample::{LcoreSample, PortCounts, Sample, TwinCounts};
use super::text::Kind::{Counter, Gauge, Histogram};
use super::text::{Kind, Series};
use crate::control::Report;
use crate::counters::{Reason, Totals};
use crate::health::{Counts, Failure};
use crate::service::{Backend, Service, State};

/// A metric. Dashboards rely on the names.
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    of: Of,
}

/// What a metric tells of, and how it is filled.
#[derive(Clone, Copy)]
enum Of {
    Node(fn(&Sample, &mut Series<'_>)),
    /// What the control thread is asked for.
    Control(fn(&Report, &mut Series<'_>)),
    /// The same, by service, or by backend.
    Services(fn(&Told<'_>, &mut Series<'_>)),
}

/// How much the control thread is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    Nothing,
    Outline,
    /// Which goes over every backend.
    Report,
}

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Metrics whose names begin so, or more.
    pub prefix: String,
    /// Metrics of these services alone; empty: of everything.
    pub services: HashSet<String>,
    /// With a series of each backend, if there are so many at most.
    pub most_backends: usize,
}

impl Wanted {
    /// All metrics whose names begin so, or more.
    pub fn named(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), services: HashSet::new(), most_backends: usize::MAX }
    }

    fn has(&self, family: &Family) -> bool {
        let is_named = family.name.starts_with(&self.prefix) || self.prefix.starts_with(family.name);
        is_named && (self.services.is_empty() || matches!(family.of, Of::Services(_)))
    }

    fn has_service(&self, name: &str) -> bool {
        self.services.is_empty() || self.services.contains(name)
    }

    fn families(&self) -> impl Iterator<Item = &'static Family> {
        FAMILIES.iter().filter(|family| self.has(family))
    }

    /// What the control thread has to be asked for.
    pub fn asks(&self) -> Asks {
        let asks = self.families().map(|family| match family.of {
            Of::Node(_) => Asks::Nothing,
            Of::Control(_) => Asks::Outline,
            Of::Services(_) => Asks::Report,
        });
        asks.max().unwrap_or(Asks::Nothing)
    }

    /// Whether what is recorded when it happens is asked for.
    pub fn has_recorded(&self) -> bool {
        self.services.is_empty()
    }
}

/// A report to somebody.
struct Told<'a> {
    report: &'a Report,
    wanted: &'a Wanted,
    /// Whether each backend has a series.
    has_all_backends: bool,
}

impl<'a> Told<'a> {
    fn new(report: &'a Report, wanted: &'a Wanted) -> Self {
        let mut this = Self { report, wanted, has_all_backends: true };
        let backends: usize = this.services().map(|service| service.backends.len()).sum();
        this.has_all_backends = backends <= wanted.most_backends;
        this
    }

    /// With the states that packets meet.
    fn services(&self) -> impl Iterator<Item = &'a Service> {
        let services = self.report.masked.services.iter().map(|service| &**service);
        services.filter(|service| self.wanted.has_service(&service.name))
    }

    fn backends(&self) -> impl Iterator<Item = (&'a Service, &'a Backend)> {
        self.services().flat_map(|service| service.backends.iter().map(move |backend| (service, backend)))
    }

    /// Backends that have a series, by service.
    fn shows(&self, service: &str) -> bool {
        self.has_all_backends && self.wanted.has_service(service)
    }
}

/// In Prometheus' text format, those that are wanted.
pub fn render(sample: &Sample, wanted: &Wanted) -> String {
    let mut text = String::new();
    let told = sample.report.as_ref().map(|report| Told::new(report, wanted));
    for family in wanted.families() {
        let mut series = Series::new(&mut text, family.name, family.kind, family.help);
        match (family.of, &told) {
            (Of::Node(fill), _) => fill(sample, &mut series),
            (Of::Control(fill), Some(told)) => fill(told.report, &mut series),
            (Of::Services(fill), Some(told)) => fill(told, &mut series),
            (Of::Control(_) | Of::Services(_), None) => {}
        }
    }
    text
}

pub fn listed() -> impl Iterator<Item = (&'static str, Kind, &'static str)> {
    FAMILIES.iter().map(|family| (family.name, family.kind, family.help))
}

const fn family(name: &'static str, kind: Kind, help: &'static str, of: Of) -> Family {
    Family { name, kind, help, of }
}

/// Frames, by port and lcore.
const fn frames(name: &'static str, help: &'static str, of: fn(&Sample, &mut Series<'_>)) -> Family {
    family(name, Counter, help, Of::Node(of))
}

static FAMILIES: &[Family] = &[
    frames("penstock_received_packets_total", "Frames received.", |sample, series| {
        by_port_and_lcore(sample, series, |totals| totals.received);
    }),
    frames(
        "penstock_forwarded_packets_total",
        "Frames sent on to a backend, or a backend's reply to a client.",
        |sample, series| by_port_and_lcore(sample, series, |totals| totals.forwarded),
    ),
    frames("penstock_answered_packets_total", "Frames answered by the load balancer itself.", |sample, series| {
        by_port_and_lcore(sample, series, |totals| totals.answered)
    }),
    frames("penstock_punted_packets_total", "Frames handed to the kernel twin.", |sample, series| {
        by_port_and_lcore(sample, series, |totals| totals.punted);
    }),
    frames(
        "penstock_dropped_packets_total",
        "Frames dropped, by reason; `penstock schema counters` explains each.",
        |sample, series| {
            for (port, cpu, totals) in cells(sample) {
                for (reason, &count) in Reason::ALL.iter().zip(&totals.dropped) {
                    series.add(&[("port", port), ("lcore", cpu), ("reason", reason)], count);
                }
            }
        },
    ),
    frames("penstock_injected_packets_total", "Frames from the kernel twin that were sent.", |sample, series| {
        by_port_and_lcore(sample, series, |totals| totals.injected);
    }),
    frames(
        "penstock_inject_refused_packets_total",
        "Frames from the kernel twin that the device had no room for.",
        |sample, series| by_port_and_lcore(sample, series, |totals| totals.inject_refused),
    ),
    family(
        "penstock_service_packets_total",
        Counter,
        "Packets from clients that were sent to a backend of the service.",
        Of::Services(|told, series| {
            for service in told.report.services.iter().filter(|service| told.wanted.has_service(&service.of)) {
                series.add(&[("service", &service.of)], service.packets);
            }
        }),
    ),
    family(
        "penstock_service_bytes_total",
        Counter,
        "Bytes of IP from clients that were sent to a backend of the service.",
        Of::Services(|told, series| {
            for service in told.report.services.iter().filter(|service| told.wanted.has_service(&service.of)) {
                series.add(&[("service", &service.of)], service.bytes);
            }
        }),
    ),
    family(
        "penstock_service_backends",
        Gauge,
        "Backends of the service by what packets meet: active (takes new flows), draining (keeps those that it has; weight 0 too), down.",
        Of::Services(|told, series| {
            for service in told.services() {
                for (state, count) in STATES.iter().zip(by_state(service.backends.iter())) {
                    series.add(&[("service", &service.name), ("state", state)], count);
                }
            }
        }),
    ),
    family(
        "penstock_backend_packets_total",
        Counter,
        "Packets from clients that were sent to the backend.",
        Of::Services(|told, series| {
            for backend in told.report.backends.iter().filter(|backend| told.shows(&backend.of.0)) {
                of_backend(series, &backend.of.0, backend.of.1, backend.packets);
            }
        }),
    ),
    family(
        "penstock_backend_bytes_total",
        Counter,
        "Bytes of IP from clients that were sent to the backend.",
        Of::Services(|told, series| {
            for backend in told.report.backends.iter().filter(|backend| told.shows(&backend.of.0)) {
                of_backend(series, &backend.of.0, backend.of.1, backend.bytes);
            }
        }),
    ),
    family(
        "penstock_backend_up",
        Gauge,
        "1 if the backend may take packets, 0 if it is down.",
        Of::Services(|told, series| {
            let is_down = |backend: &Backend| backend.state == State::Down;
            let most = if told.has_all_backends { usize::MAX } else { told.wanted.most_backends };
            let shown = told.backends().filter(|(_, backend)| told.has_all_backends || is_down(backend)).take(most);
            for (service, backend) in shown {
                of_backend(series, &service.name, service.endpoint(backend), u8::from(!is_down(backend)));
            }
        }),
    ),
    family(
        "penstock_backend_weight",
        Gauge,
        "The backend's weight.",
        Of::Services(|told, series| {
            for (service, backend) in told.backends().filter(|_| told.has_all_backends) {
                of_backend(series, &service.name, service.endpoint(backend), backend.weight);
            }
        }),
    ),
    family(
        "penstock_backend_flows",
        Gauge,
        "Flows that lcores remember by the backend.",
        Of::Services(|told, series| {
            for ((service, endpoint), flows) in told.report.flows.iter().filter(|(of, _)| told.shows(&of.0)) {
                of_backend(series, service, *endpoint, flows);
            }
        }),
    ),
    family(
        "penstock_flows_refused_total",
        Counter,
        "Packets of new flows of the service that there was no room to remember.",
        Of::Services(|told, series| {
            for (service, packets) in told.report.refused.iter().filter(|(of, _)| told.wanted.has_service(of)) {
                series.add(&[("service", service)], packets);
            }
        }),
    ),
    family(
        "penstock_slots_moving",
        Gauge,
        "Slots of the service whose established flows are elsewhere than new ones go; no series: at rest.",
        Of::Services(|told, series| {
            for (service, slots) in told.report.moving.iter().filter(|(of, _)| told.wanted.has_service(of)) {
                series.add(&[("service", service)], slots);
            }
        }),
    ),
    family(
        "penstock_services",
        Gauge,
        "Services in force.",
        Of::Control(|report, series| series.add(&[], report.masked.services.len())),
    ),
    family(
        "penstock_backends",
        Gauge,
        "Backends of all services, each once for each service, by what packets meet: active, draining, down.",
        Of::Control(|report, series| {
            let backends = report.masked.services.iter().flat_map(|service| &service.backends);
            for (state, count) in STATES.iter().zip(by_state(backends)) {
                series.add(&[("state", state)], count);
            }
        }),
    ),
    family(
        "penstock_drains",
        Gauge,
        "Drains by hand that are not undone.",
        Of::Control(|report, series| series.add(&[], report.drained.len())),
    ),
    family(
        "penstock_services_left_out",
        Gauge,
        "Services of the newest set that are left out, or cut to what can be.",
        Of::Control(|report, series| series.add(&[], report.left_out.len())),
    ),
    family(
        "penstock_definitions_version_info",
        Gauge,
        "1; the label is the version of the definitions in force.",
        Of::Control(|report, series| {
            if let Some(definitions) = &report.definitions {
                series.add(&[("version", &definitions.version.as_deref().unwrap_or_default())], 1);
            }
        }),
    ),
    family(
        "penstock_feed_info",
        Gauge,
        "1; the label is the kind of feed.",
        Of::Node(|sample, series| series.add(&[("kind", &sample.feed)], 1)),
    ),
    family(
        "penstock_feed_up",
        Gauge,
        "1 if the feed's newest word is in force, 0 if it was refused or the source does not answer.",
        Of::Control(|report, series| series.add(&[], u8::from(report.feed_error.is_none()))),
    ),
    family(
        "penstock_feed_last_success_timestamp_seconds",
        Gauge,
        "When the feed last gave a valid set, new or the same; 0: never.",
        Of::Control(|report, series| {
            series.add(&[], seconds(report.feed_last_success.unwrap_or(UNIX_EPOCH)));
        }),
    ),
    family(
        "penstock_next_hops_unresolved",
        Gauge,
        "Next hops whose MAC is wanted and not known.",
        Of::Control(|report, series| series.add(&[], report.unresolved)),
    ),
    family(
        "penstock_health_checks_total",
        Counter,
        "Health checks that have ended, by kind and result: good, failed, no_verdict (could not be made, for a reason of this machine).",
        Of::Node(|sample, series| {
            for (kind, of) in Counts::KINDS.iter().zip(&sample.checks.by_kind) {
                for (result, count) in [("good", of.good), ("failed", of.failed), ("no_verdict", of.no_verdict)] {
                    series.add(&[("kind", &kind.name()), ("result", &result)], count);
                }
            }
        }),
    ),
    family(
        "penstock_health_failures_total",
        Counter,
        "Health checks that failed, by reason.",
        Of::Node(|sample, series| {
            for (reason, count) in Failure::NAMES.iter().zip(sample.checks.by_reason) {
                series.add(&[("reason", reason)], count);
            }
        }),
    ),
    family(
        "penstock_health_check_duration_seconds",
        Histogram,
        "How long health checks took that had a result, by kind.",
        Of::Node(|sample, series| {
            for (kind, of) in Counts::KINDS.iter().zip(&sample.checks.by_kind) {
                series.histogram(&[("kind", &kind.name())], &Counts::BOUNDS, &of.took, of.total.as_secs_f64());
            }
        }),
    ),
    family(
        "penstock_health_turns_total",
        Counter,
        "Verdicts of health checks that turned, by what to: up, down.",
        Of::Node(|sample, series| {
            for (to, count) in ["up", "down"].iter().zip(sample.checks.turned) {
                series.add(&[("to", to)], count);
            }
        }),
    ),
    family(
        "penstock_health_late_checks_total",
        Counter,
        "Health checks that began 50 ms after their moment or later.",
        Of::Node(|sample, series| series.add(&[], sample.checks.late)),
    ),
    family(
        "penstock_health_missed_checks_total",
        Counter,
        "Health checks that began more than an interval after their moment.",
        Of::Node(|sample, series| series.add(&[], sample.checks.missed)),
    ),
    family(
        "penstock_health_worst_delay_seconds",
        Gauge,
        "The most that a health check began after its moment, since the start.",
        Of::Node(|sample, series| series.add(&[], sample.checks.worst_delay.as_secs_f64())),
    ),
    family(
        "penstock_health_probes",
        Gauge,
        "Different probes that the services' health checks come to.",
        Of::Node(|sample, series| series.add(&[], sample.checks.probes)),
    ),
    family(
        "penstock_health_probes_running",
        Gauge,
        "Probes that wait for an answer at this moment.",
        Of::Node(|sample, series| series.add(&[], sample.checks.running)),
    ),
    family(
        "penstock_flows",
        Gauge,
        "Flows that the lcore remembers, those included that are over and not swept yet.",
        Of::Node(|sample, series| by_lcore(sample, series, |lcore| lcore.flows)),
    ),
    family(
        "penstock_flow_capacity",
        Gauge,
        "Flows that the lcore can remember.",
        Of::Node(|sample, series| {
            for lcore in &sample.lcores {
                series.add(&[("lcore", &lcore.cpu)], sample.flow_capacity);
            }
        }),
    ),
    family(
        "penstock_affinity_capacity",
        Gauge,
        "Clients of source-ip affinity that the node can remember.",
        Of::Node(|sample, series| series.add(&[], sample.flow_capacity)),
    ),
    family(
        "penstock_lcore_busy_ratio",
        Gauge,
        "Share of the last second that the lcore spent on frames, 0 to 1.",
        Of::Node(|sample, series| {
            for lcore in &sample.lcores {
                series.add(&[("lcore", &lcore.cpu)], lcore.busy);
            }
        }),
    ),
    family(
        "penstock_lcore_cycles_total",
        Counter,
        "TSC cycles of the lcore's loop: busy (it had frames), idle.",
        Of::Node(|sample, series| {
            for lcore in &sample.lcores {
                by_use(series, lcore, lcore.cycles);
            }
        }),
    ),
    family(
        "penstock_lcore_polls_total",
        Counter,
        "Iterations of the lcore's loop: busy (it had frames), idle.",
        Of::Node(|sample, series| {
            for lcore in &sample.lcores {
                by_use(series, lcore, lcore.polls);
            }
        }),
    ),
    family(
        "penstock_port_missed_packets_total",
        Counter,
        "Frames that the NIC lost because no lcore took them in time.",
        Of::Node(|sample, series| by_port(sample, series, |port| port.missed)),
    ),
    family(
        "penstock_port_received_bytes_total",
        Counter,
        "Bytes of frames that the device received, as it counts them.",
        Of::Node(|sample, series| by_port(sample, series, |port| port.received_bytes)),
    ),
    family(
        "penstock_port_sent_packets_total",
        Counter,
        "Frames that the device sent, as it counts them.",
        Of::Node(|sample, series| by_port(sample, series, |port| port.sent_packets)),
    ),
    family(
        "penstock_port_sent_bytes_total",
        Counter,
        "Bytes of these.",
        Of::Node(|sample, series| by_port(sample, series, |port| port.sent_bytes)),
    ),
    family(
        "penstock_port_receive_errors_total",
        Counter,
        "Frames that came damaged, as the device counts them.",
        Of::Node(|sample, series| by_port(sample, series, |port| port.receive_errors)),
    ),
    family(
        "penstock_port_send_errors_total",
        Counter,
        "Frames that the device could not send, as it counts them.",
        Of::Node(|sample, series| by_port(sample, series, |port| port.send_errors)),
    ),
    family(
        "penstock_port_up",
        Gauge,
        "1 if the device has a link.",
        Of::Node(|sample, series| by_port(sample, series, |port| u64::from(port.is_up))),
    ),
    family(
        "penstock_mempool_mbufs",
        Gauge,
        "Packet buffers in the mempool.",
        Of::Node(|sample, series| series.add(&[], sample.device.mbufs)),
    ),
    family(
        "penstock_mempool_mbufs_in_use",
        Gauge,
        "Packet buffers in use.",
        Of::Node(|sample, series| series.add(&[], sample.device.mbufs_in_use)),
    ),
    family(
        "penstock_twin_punted_packets_total",
        Counter,
        "Frames that the kernel twin took.",
        Of::Node(|sample, series| by_twin(sample, series, |twin| twin.punted)),
    ),
    family(
        "penstock_twin_refused_packets_total",
        Counter,
        "Frames that the kernel twin did not take.",
        Of::Node(|sample, series| by_twin(sample, series, |twin| twin.refused)),
    ),
    family(
        "penstock_twin_inject_full_packets_total",
        Counter,
        "Frames from the kernel twin dropped for want of room.",
        Of::Node(|sample, series| by_twin(sample, series, |twin| twin.inject_full)),
    ),
    family(
        "penstock_probe_packets_total",
        Counter,
        "Packets of health checks through services that were sent.",
        Of::Node(|sample, series| by_lcore(sample, series, |lcore| lcore.probes[0])),
    ),
    family(
        "penstock_probe_refused_packets_total",
        Counter,
        "Such packets that could not be sent: no next hop, or no such backend any more.",
        Of::Node(|sample, series| by_lcore(sample, series, |lcore| lcore.probes[1])),
    ),
    family(
        "penstock_probe_answers_total",
        Counter,
        "Packets that were answers to health checks through services.",
        Of::Node(|sample, series| series.add(&[], sample.device.probe_answers)),
    ),
    family(
        "penstock_probe_lost_packets_total",
        Counter,
        "Packets of such checks, either way, dropped for want of room.",
        Of::Node(|sample, series| series.add(&[], sample.device.probes_lost)),
    ),
    family(
        "penstock_certificate_expiry_timestamp_seconds",
        Gauge,
        "When the node's own certificate in that file expires; 0: it cannot be read.",
        Of::Node(|sample, series| {
            for (file, expiry) in &sample.certificates {
                series.add(&[("file", &file.display())], expiry.map_or(0.0, seconds));
            }
        }),
    ),
    family(
        "penstock_ready",
        Gauge,
        "1 if traffic should be sent here, as /readyz has it.",
        Of::Node(|sample, series| series.add(&[], u8::from(sample.is_ready))),
    ),
    family(
        "penstock_build_info",
        Gauge,
        "1; the label is the version of penstock.",
        Of::Node(|_, series| series.add(&[("version", &env!("CARGO_PKG_VERSION"))], 1)),
    ),
    family(
        "penstock_node_info",
        Gauge,
        "1; the label is the node's name.",
        Of::Node(|sample, series| series.add(&[("node", &sample.node)], 1)),
    ),
    family(
        "process_cpu_seconds_total",
        Counter,
        "CPU time, user and system, of all threads: an lcore that polls uses all of its CPU.",
        Of::Node(|sample, series| series.add(&[], sample.process.cpu_seconds)),
    ),
    family(
        "process_resident_memory_bytes",
        Gauge,
        "Memory that is resident, hugepages aside.",
        Of::Node(|sample, series| series.add(&[], sample.process.resident_bytes)),
    ),
    family(
        "process_virtual_memory_bytes",
        Gauge,
        "Size of the address space.",
        Of::Node(|sample, series| series.add(&[], sample.process.virtual_bytes)),
    ),
    family("process_threads", Gauge, "Threads.", Of::Node(|sample, series| series.add(&[], sample.process.threads))),
    family(
        "process_open_fds",
        Gauge,
        "Open file descriptors.",
        Of::Node(|sample, series| series.add(&[], sample.process.open_descriptors)),
    ),
    family(
        "process_max_fds",
        Gauge,
        "File descriptors that may be open.",
        Of::Node(|sample, series| series.add(&[], sample.process.most_descriptors)),
    ),
    family(
        "process_start_time_seconds",
        Gauge,
        "When the process began.",
        Of::Node(|sample, series| series.add(&[], sample.process.started)),
    ),
];

const STATES: [&str; 3] = ["active", "draining", "down"];

/// So many of each of [`STATES`].
fn by_state<'a>(backends: impl Iterator<Item = &'a Backend>) -> [usize; 3] {
    let mut counts = [0; 3];
    for backend in backends {
        counts[match (backend.state, backend.weight) {
            (State::Active, 1..) => 0,
            (State::Active | State::Draining, _) => 1,
            (State::Down, _) => 2,
        }] += 1;
    }
    counts
}

/// What each lcore counted on each port.
fn cells(sample: &Sample) -> impl Iterator<Item = (&String, &u16, &Totals)> {
    sample
        .lcores
        .iter()
        .flat_map(|lcore| sample.ports.iter().zip(&lcore.ports).map(move |(port, totals)| (port, &lcore.cpu, totals)))
}

fn by_port_and_lcore(sample: &Sample, series: &mut Series<'_>, of: fn(&Totals) -> u64) {
    for (port, cpu, totals) in cells(sample) {
        series.add(&[("port", port), ("lcore", cpu)], of(totals));
    }
}

fn by_port(sample: &Sample, series: &mut Series<'_>, of: fn(&PortCounts) -> u64) {
    for (name, port) in sample.ports.iter().zip(&sample.device.ports) {
        series.add(&[("port", name)], of(port));
    }
}

fn by_lcore(sample: &Sample, series: &mut Series<'_>, of: fn(&LcoreSample) -> u64) {
    for lcore in &sample.lcores {
        series.add(&[("lcore", &lcore.cpu)], of(lcore));
    }
}

fn by_twin(sample: &Sample, series: &mut Series<'_>, of: fn(&TwinCounts) -> u64) {
    for twin in &sample.device.twins {
        series.add(&[("twin", &twin.twin)], of(twin));
    }
}

fn by_use(series: &mut Series<'_>, lcore: &LcoreSample, [busy, idle]: [u64; 2]) {
    for (state, count) in [("busy", busy), ("idle", idle)] {
        series.add(&[("lcore", &lcore.cpu), ("state", &state)], count);
    }
}

/// One address may serve a service on two ports, so the endpoint's port is a label of its own.
fn of_backend(series: &mut Series<'_>, service: &str, endpoint: SocketAddr, value: impl Display) {
    let (address, port): (IpAddr, u16) = (endpoint.ip(), endpoint.port());
    series.add(&[("service", &service), ("backend", &address), ("backend_port", &port)], value);
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
