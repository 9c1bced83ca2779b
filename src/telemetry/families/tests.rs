use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::control::{Count, Whom};
use crate::health::OfKind;
use crate::service::{self, Definitions, LeftOut};
use crate::telemetry::process::Process;
use crate::telemetry::sample::Device;

fn definitions(text: &str) -> Arc<Definitions> {
    Arc::new(service::native(text, "test", None).unwrap().0)
}

fn report(definitions: Arc<Definitions>) -> Report {
    let pairs = |definitions: &Definitions| {
        let of = |service: &Arc<Service>| {
            let endpoint = |backend| (service.name.clone(), service.endpoint(backend));
            service.backends.iter().map(endpoint).collect::<Vec<_>>()
        };
        definitions.services.iter().flat_map(of).collect::<Vec<_>>()
    };
    let (pairs, names) = (pairs(&definitions), definitions.services.iter().map(|service| service.name.clone()));
    Report {
        backends: pairs.iter().map(|of| Count { of: of.clone(), packets: 13, bytes: 14 }).collect(),
        services: names.clone().map(|of| Count { of, packets: 15, bytes: 16 }).collect(),
        flows: pairs.into_iter().map(|of| (of, 22)).collect(),
        moving: names.clone().map(|of| (of, 23)).collect(),
        refused: names.map(|of| (of, 24)).collect(),
        masked: definitions.clone(),
        definitions: Some(definitions),
        drained: vec![Whom { backend: "10.1.0.12".parse().unwrap(), service: None }],
        feed_last_success: Some(SystemTime::now()),
        unresolved: 17,
        left_out: vec![LeftOut { service: "a/b".to_owned(), reason: "c".to_owned(), bad_annotation: None }],
        ..Report::default()
    }
}

/// A node in which every number is other than zero.
fn busy_node() -> Sample {
    let definitions = definitions(
        r#"{"version": "v\"1", "services": [
            {"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": [
                {"address": "10.1.0.11"}, {"address": "10.1.0.12", "state": "draining"}]},
            {"name": "dns", "vip": "192.0.2.1", "port": 53, "protocol": "udp", "forwarding": "ipip", "backends": [
                {"address": "10.1.0.11"}, {"address": "10.1.0.13", "state": "down"}, {"address": "10.1.0.14", "weight": 0}]}]}"#,
    );
    let totals = Totals {
        received: 1,
        forwarded: 2,
        answered: 3,
        punted: 4,
        dropped: [5; Reason::COUNT],
        injected: 19,
        inject_refused: 20,
    };
    let port = PortCounts {
        missed: 6,
        received_bytes: 25,
        sent_packets: 26,
        sent_bytes: 27,
        receive_errors: 28,
        send_errors: 29,
        is_up: true,
    };
    let kind = OfKind { good: 30, failed: 31, no_verdict: 32, total: Duration::from_millis(33), took: [34; 10] };
    Sample {
        node: "edge-1".to_owned(),
        feed: "file",
        ports: vec!["wan0".to_owned()],
        lcores: vec![LcoreSample {
            cpu: 1,
            busy: 0.5,
            flows: 21,
            probes: [54, 55],
            cycles: [35, 36],
            polls: [37, 38],
            ports: vec![totals],
        }],
        flow_capacity: 39,
        device: Device {
            ports: vec![port],
            mbufs_in_use: 7,
            mbufs: 8,
            twins: vec![TwinCounts { twin: "wan0".to_owned(), punted: 9, refused: 11, inject_full: 12 }],
            probe_answers: 56,
            probes_lost: 57,
        },
        checks: Counts {
            by_kind: [kind; 5],
            by_reason: [40; 10],
            turned: [41, 42],
            late: 43,
            missed: 44,
            worst_delay: Duration::from_millis(45),
            running: 46,
            probes: 47,
            ..Counts::default()
        },
        certificates: vec![(PathBuf::from("/etc/penstock/api.pem"), Some(SystemTime::now()))],
        is_ready: true,
        process: Process {
            cpu_seconds: 0.5,
            resident_bytes: 48,
            virtual_bytes: 49,
            threads: 50,
            open_descriptors: 51,
            most_descriptors: 52,
            started: 53.5,
        },
        report: Some(report(definitions)),
    }
}

/// As many as a node is made for.
fn large_node() -> Sample {
    let service = |number: usize| {
        let backend = |place| format!(r#"{{"address": "10.{}.{}.{place}"}}"#, number / 250, number % 250);
        let backends: Vec<_> = (1..=20).map(backend).collect();
        format!(
            r#"{{"name": "service-{number}", "vip": "192.0.{}.{}", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": [{}]}}"#,
            number / 250,
            number % 250,
            backends.join(",")
        )
    };
    let services: Vec<_> = (0..10_000).map(service).collect();
    let definitions = definitions(&format!(r#"{{"services": [{}]}}"#, services.join(",")));
    Sample { report: Some(report(definitions)), ..busy_node() }
}

fn all(sample: &Sample) -> String {
    render(sample, &Wanted::named(""))
}

/// Names of the series, as they stand.
fn names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
}

#[test]
fn every_metric_is_filled() {
    let text = all(&busy_node());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!(value > 0.0 || line.starts_with("penstock_backend_") || line.contains("service_backends"), "{line}");
    }
    let mut wanted: BTreeSet<String> = FAMILIES.iter().map(|family| family.name.to_owned()).collect();
    for histogram in FAMILIES.iter().filter(|family| family.kind == Histogram) {
        wanted.remove(histogram.name);
        wanted.extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", histogram.name)));
    }
    assert_eq!(names(&text), wanted.iter().map(String::as_str).collect());
    for Family { name, kind, help, .. } in FAMILIES {
        assert!(text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name())), "{name}\n{text}");
    }
}

#[test]
fn names_are_as_prometheus_has_them() {
    for Family { name, kind, .. } in FAMILIES {
        assert_eq!(*kind == Counter, name.ends_with("_total"), "{name}");
        assert!(name.starts_with("penstock_") || name.starts_with("process_"), "{name}");
    }
}

#[test]
fn every_reason_is_a_series_of_its_own() {
    let text = all(&busy_node());
    for reason in Reason::ALL {
        let series = format!(r#"penstock_dropped_packets_total{{port="wan0",lcore="1",reason="{reason}"}} 5"#);
        assert!(text.contains(&series), "{series} is not in\n{text}");
    }
}

#[test]
fn backends_are_counted_by_what_packets_meet() {
    let text = all(&busy_node());
    for line in [
        r#"penstock_service_backends{service="web",state="active"} 1"#,
        r#"penstock_service_backends{service="web",state="draining"} 1"#,
        r#"penstock_service_backends{service="web",state="down"} 0"#,
        r#"penstock_service_backends{service="dns",state="draining"} 1"#,
        r#"penstock_backends{state="active"} 2"#,
        r#"penstock_backends{state="draining"} 2"#,
        r#"penstock_backends{state="down"} 1"#,
        r#"penstock_backend_up{service="dns",backend="10.1.0.13",backend_port="53"} 0"#,
        r#"penstock_backend_up{service="web",backend="10.1.0.12",backend_port="80"} 1"#,
        r#"penstock_definitions_version_info{version="v\"1"} 1"#,
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
    }
}

#[test]
fn who_asks_for_some_names_gets_all_of_them_and_spares_the_many_others() {
    let mut sample = busy_node();
    let whole = all(&sample);
    for prefix in ["penstock_service", "penstock_services", "penstock_backend_p", "penstock_dropped", "p", "x"] {
        let those = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
        };
        assert_eq!(those(&render(&sample, &Wanted::named(prefix))), those(&whole), "{prefix}");
    }
    assert!(!render(&sample, &Wanted::named("penstock_dropped")).contains("10.1.0.11"));
    sample.report = None;
    let wanted = Wanted::named("penstock_dropped_packets_total");
    let asks = ["penstock_dropped_", "penstock_feed_", "penstock_services", "penstock_service_", ""];
    let asks = asks.map(|prefix| Wanted::named(prefix).asks());
    assert_eq!(asks, [Asks::Nothing, Asks::Outline, Asks::Outline, Asks::Report, Asks::Report]);
    assert!(render(&sample, &wanted).contains("\npenstock_dropped_packets_total{"));
}

#[test]
fn who_asks_for_a_service_gets_that_alone() {
    let wanted = Wanted { services: ["dns".to_owned()].into(), ..Wanted::named("") };
    let text = render(&busy_node(), &wanted);
    assert!(text.contains(r#"penstock_backend_packets_total{service="dns",backend="10.1.0.14",backend_port="53"} 13"#));
    let others = text.lines().filter(|line| !line.starts_with('#') && !line.contains(r#"service="dns""#));
    assert_eq!(others.count(), 0, "{text}");
    assert!(!wanted.has_recorded());
}

#[test]
fn where_backends_are_too_many_those_that_are_down_are_shown() {
    let shown = |most_backends, services: &[&str]| {
        let services = services.iter().map(|&name| name.to_owned()).collect();
        let text = render(&busy_node(), &Wanted { most_backends, services, ..Wanted::named("") });
        text.lines().filter(|line| line.starts_with("penstock_backend_")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(shown(5, &[]).len(), 5 * 5);
    assert_eq!(shown(4, &[]), [r#"penstock_backend_up{service="dns",backend="10.1.0.13",backend_port="53"} 0"#]);
    // Those of one service are few enough.
    assert_eq!(shown(4, &["web"]).len(), 2 * 5);
    assert!(shown(0, &[]).is_empty());
}

#[test]
fn what_is_gone_leaves_no_series_behind() {
    let mut sample = busy_node();
    assert!(all(&sample).contains("10.1.0.11"));
    sample.report = Some(Report::default());
    let text = all(&sample);
    assert!(!text.contains("10.1.0.11") && !text.contains("version_info"), "{text}");
}

#[test]
fn a_scrape_of_ten_thousand_services_stays_small() {
    let sample = large_node();
    let size = |most_backends| render(&sample, &Wanted { most_backends, ..Wanted::named("") }).len();
    let (usual, whole) = (size(10_000), size(usize::MAX));
    assert!(usual < 5_000_000, "{usual} bytes");
    // Why there is a bound.
    assert!(whole > 80_000_000, "{whole} bytes");
}
