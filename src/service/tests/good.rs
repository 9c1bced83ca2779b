//! Documents that hold.

use super::super::*;
use super::{read, several, web};

/// The example of the contract, as it stands there.
const EXAMPLE: &str = r#"{
  "version": "2026-11-23T10:00:00Z#41",
  "services": [
    {
      "name": "web",
      "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
      "forwarding": "ipip",
      "hash": "five-tuple",
      "tracking": "full",
      "backends": [
        {"address": "10.1.0.11", "weight": 100},
        {"address": "10.1.0.12", "weight": 100, "state": "draining"}
      ],
      "health_check": {"kind": "http", "path": "/healthz", "port": 80, "interval": "2s", "timeout": "1s", "rise": 2, "fall": 3},
      "source_ranges": ["0.0.0.0/0"],
      "affinity_timeout": "3h",
      "idle_timeout": {"tcp": "15m", "tcp_closing": "30s", "udp": "60s"}
    }
  ]
}"#;

#[test]
fn the_contracts_example_holds_with_warnings() {
    let (definitions, warnings) = read(EXAMPLE, "services.json", None).unwrap();
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["services.json: services[0].affinity_timeout: ignored: it needs \"hash\": \"source-ip\"",]);
    let web = &definitions.services[0];
    assert_eq!(
        (web.name.as_ref(), web.ports.single(), web.protocol, web.forwarding),
        ("web", Some(80), Protocol::Tcp, Forwarding::Ipip)
    );
    assert_eq!((web.tracking, web.idle_timeout.tcp), (Tracking::Full, Duration::from_secs(900)));
    assert_eq!((web.backends[0].weight, web.backends[1].state), (100, State::Draining));
    assert_eq!((web.source_ranges.len(), web.health.check.as_ref().unwrap().rise), (1, 2));
}

#[test]
fn what_is_absent_has_the_contracts_default() {
    let text = r#"{"services": [{"name": "dns", "vip": "192.0.2.1", "port": 53, "protocol": "udp", "forwarding": "dnat",
        "backends": [{"address": "10.1.0.11", "port": 5353}, {"address": "10.1.0.12", "port": 53}]}]}"#;
    let (definitions, warnings) = read(text, "s", None).unwrap();
    let dns = &definitions.services[0];
    assert_eq!((definitions.version.as_deref(), warnings.len(), dns.tracking), (None, 0, Tracking::Full));
    assert_eq!((dns.idle_timeout, dns.table_size, &dns.health), (IdleTimeout::default(), None, &Health::default()));
    let ports: Vec<_> = dns.backends.iter().map(|backend| (backend.port, backend.weight, backend.state)).collect();
    assert_eq!(ports, [(Some(5353), 100, State::Active), (None, 100, State::Active)]);
}

#[test]
fn unchanged_services_are_shared_with_the_previous_set() {
    let (before, _) = read(EXAMPLE, "s", None).unwrap();
    let (same, _) = read(EXAMPLE, "s", Some(&before)).unwrap();
    assert!(Arc::ptr_eq(&before.services[0], &same.services[0]));
    let (other, _) = read(EXAMPLE.replace("\"15m\"", "\"16m\""), "s", Some(&before)).unwrap();
    assert!(!Arc::ptr_eq(&before.services[0], &other.services[0]));
}

#[test]
fn an_example_reads_back_equal() {
    let (definitions, _) = read(EXAMPLE, "s", None).unwrap();
    assert_eq!(read(definitions.to_json(), "s", None).unwrap().0, definitions);
}

/// Documents that can look wrong, and are not.
fn unusual() -> Vec<String> {
    vec![
        r#"{"services": []}"#.to_owned(),
        "\u{feff}{\"services\": [], \"version\": \"\"}".to_owned(), // a byte order mark, as some editors write
        web(r#""backends": []"#),
        web(r#""backends": [{"address": "10.1.0.11", "port": 80}]"#),
        web(r#""backends": [{"address": "10.1.0.11", "weight": 0}, {"address": "10.1.0.12", "weight": 65535}]"#),
        web(r#""source_ranges": ["10.0.0.1/8", "fd00::/8"], "deny_ranges": []"#),
        web(r#""table_size": 251, "tracking": "transition", "idle_timeout": {"tcp": "1h30m"}"#),
        web(r#""health_check": {"kind": "none"}, "no_backend": "drop", "all_down": "drop", "udp_checksum": null"#),
        // The same address and port, for another protocol.
        several(&[
            r#""name": "a", "forwarding": "dnat", "port": 53"#,
            r#""name": "b", "forwarding": "dnat", "port": 53, "protocol": "udp""#,
        ]),
        // A backend of two services; with ipip it needs no endpoint of its own.
        several(&[r#""name": "a""#, r#""name": "b", "port": 81"#]),
        // Two endpoints of one address in one service.
        web(
            r#""forwarding": "dnat", "backends": [{"address": "10.1.0.11", "port": 1}, {"address": "10.1.0.11", "port": 2}]"#,
        ),
    ]
}

#[test]
fn what_looks_wrong_and_is_not_passes_without_a_warning() {
    for document in unusual() {
        match read(&document, "services.json", None) {
            Ok((_, warnings)) => assert!(warnings.is_empty(), "{document}: {warnings:?}"),
            Err(errors) => panic!("{document}\n{errors}"),
        }
    }
}

#[test]
fn what_will_not_act_is_warned_of_once() {
    let cases = [
        (
            web(r#""tracking": "none", "backends": [{"address": "10.1.0.11", "state": "draining"}]"#),
            "services[0].backends[0].state: \"draining\" with \"tracking\": \"none\", which remembers no flow: its flows move, as under \"down\"",
        ),
        (
            web(r#""source_ranges": ["fd00::/8"]"#),
            "services[0].source_ranges: no client of 192.0.2.1 is in any of these ranges: all are refused",
        ),
    ];
    for (document, expected) in cases {
        let (_, warnings) = read(&document, "s", None).unwrap();
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [format!("s: {expected}")]);
    }
}

/// Two hundred services of a hundred backends; and an object of a hundred thousand keys, all of them wrong.
#[test]
fn size_alone_makes_nothing_slow() {
    let backends: Vec<_> = (0..100).map(|k| format!("{{\"address\": \"10.1.0.{k}\"}}")).collect();
    let service = |k: u32| {
        format!(
            r#"{{"name": "s{k}", "vip": "192.0.2.1", "port": {}, "protocol": "tcp", "forwarding": "ipip", "backends": [{}]}}"#,
            k + 1,
            backends.join(", ")
        )
    };
    let many = format!("{{\"services\": [{}]}}", (0..200).map(service).collect::<Vec<_>>().join(", "));
    let keys = format!("{{\"services\": []{}}}", (0..100_000).map(|k| format!(", \"k{k}\": 1")).collect::<String>());
    let begun = std::time::Instant::now();
    assert_eq!(read(many, "s", None).unwrap().0.services.len(), 200);
    assert_eq!(read(keys, "s", None).unwrap_err().0.len(), 100_000);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

pub fn documents() -> Vec<Vec<u8>> {
    std::iter::once(EXAMPLE.to_owned()).chain(unusual()).map(String::into_bytes).collect()
}
