//! Any definitions read back equal; no bytes at all make the reader panic.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::*;
use super::documents;

/// A duration as documents have them: whole milliseconds.
fn duration(least: u64, most: u64) -> impl Strategy<Value = Duration> {
    (least..=most).prop_map(Duration::from_millis)
}

fn ranges() -> impl Strategy<Value = Vec<IpNet>> {
    let range = (any::<IpAddr>(), 0..=32_u8).prop_map(|(address, length)| IpNet::new(address, length).unwrap().trunc());
    vec(range, 0..3)
}

fn health() -> impl Strategy<Value = Health> {
    let kinds = select(vec![
        CheckKind::Tcp,
        CheckKind::Http,
        CheckKind::Https,
        CheckKind::Udp,
        CheckKind::Ping,
        CheckKind::None,
    ]);
    let times = (duration(10, 3_600_000), duration(10, 3_600_000), 1..=1000_u16, 1..=1000_u16);
    let details = (option::of(1..=65535_u16), "/[a-z?]{0,9}", option::of("[a-z.]{1,9}"), 100..=599_u16);
    let check =
        (kinds, any::<bool>(), times, details).prop_map(|(kind, vip, (interval, timeout, rise, fall), details)| {
            let (port, path, host, expect_status) = details;
            let http = kind.speaks_http();
            HealthCheck {
                kind,
                target: if vip { CheckTarget::Vip } else { CheckTarget::Backend },
                port: port.filter(|_| !matches!(kind, CheckKind::Ping | CheckKind::None)),
                path: if http { path } else { "/".to_owned() },
                host: host.filter(|_| http),
                expect_status: if http { expect_status } else { 200 },
                interval,
                timeout,
                rise,
                fall,
            }
        });
    let all_down = select(vec![AllDown::Drop, AllDown::FailOpen]);
    (option::of(check), all_down).prop_map(|(check, all_down)| Health { check, all_down })
}

/// Services whose backends and endpoints clash with no other's: their addresses carry the service's number.
fn service(number: u8) -> impl Strategy<Value = Service> {
    let backend = (
        1..=200_u8,
        option::of(1..=65535_u16),
        any::<u16>(),
        select(vec![State::Active, State::Draining, State::Down]),
    );
    let outline = ("\\PC{1,20}", 1..=65535_u16, any::<bool>(), any::<bool>(), 0..3_u8);
    let rest = (ranges(), ranges(), [1000..=90_000_000_u64, 1000..=90_000_000, 1000..=90_000_000], health());
    let options = (option::of(select(vec![251_u32, 65537])), option::of(duration(1000, 90_000_000)));
    (outline, vec(backend, 0..6), rest, options).prop_map(
        move |((name, port, udp, dnat, tracking), backends, (source_ranges, deny_ranges, idle, health), options)| {
            let forwarding = if dnat { Forwarding::Dnat } else { Forwarding::Ipip };
            let backends = backends.into_iter().zip(1_u8..).map(|((low, own_port, weight, state), place)| Backend {
                address: IpAddr::from([10, number, place, low]),
                port: own_port.filter(|&own| dnat && own != port),
                weight,
                state,
            });
            let millis = Duration::from_millis;
            Service {
                name: format!("{name}{number}").into(),
                vip: Ipv4Addr::new(192, 0, 2, number).into(),
                port,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                forwarding,
                tracking: match tracking {
                    0 if !udp => Tracking::Transition,
                    1 => Tracking::None,
                    _ => Tracking::Full,
                },
                backends: backends.collect(),
                source_ranges,
                deny_ranges,
                idle_timeout: IdleTimeout { tcp: millis(idle[0]), tcp_closing: millis(idle[1]), udp: millis(idle[2]) },
                table_size: options.0,
                health,
                affinity_timeout: options.1,
            }
        },
    )
}

fn definitions() -> impl Strategy<Value = Definitions> {
    let services = (option::of(service(1)), option::of(service(2)), option::of(service(3)));
    (option::of("\\PC{0,20}"), services).prop_map(|(version, (a, b, c))| Definitions {
        version,
        services: [a, b, c].into_iter().flatten().map(Arc::new).collect(),
    })
}

proptest! {
    #[test]
    fn any_definitions_read_back_equal(definitions in definitions()) {
        let text = definitions.to_json();
        match read(&text, "s", None) {
            Ok((back, _)) => {
                prop_assert_eq!(&back, &definitions);
                prop_assert_eq!(back.to_json(), text);
            }
            Err(errors) => prop_assert!(false, "{errors}\n{text}"),
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = read(bytes, "s", None);
    }

    #[test]
    fn a_mutated_document_never_panics(
        document in select(documents()),
        changes in vec((any::<proptest::sample::Index>(), select(b"{}[],:\"\\019-.ex \xff".to_vec()), any::<bool>()), 1..6),
    ) {
        let mut document = document;
        document.truncate(2000);
        for (at, byte, insert) in changes {
            if document.is_empty() { break }
            let at = at.index(document.len());
            if insert { document.insert(at, byte) } else { document[at] = byte }
        }
        let _ = read(document, "s", None);
    }
}
