//! Any definitions read back equal; no bytes at all make the reader panic.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::*;
use super::{documents, read};

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
    let forwarding =
        (0..Forwarding::NAMES.len()).prop_map(|number| Forwarding::named(Forwarding::NAMES[number]).unwrap());
    let ports = prop_oneof![
        Just(Ports::ALL),
        (1..=65535_u16).prop_map(Ports::one),
        (1..=65534_u16).prop_flat_map(|first| (first + 1..=65535).prop_map(move |last| Ports { first, last })),
    ];
    let outline = ("\\PC{1,20}", ports, any::<bool>(), forwarding, 0..3_u8);
    let rest = (ranges(), ranges(), [1000..=90_000_000_u64, 1000..=90_000_000, 1000..=90_000_000], health());
    let details = (any::<bool>(), any::<bool>(), any::<bool>(), 1..=63_u8, 0..=1_u8, 1..=65535_u16, 0..1_u32 << 24);
    let options = (option::of(select(vec![251_u32, 65537])), option::of(duration(1000, 90_000_000)), details);
    (outline, vec(backend, 0..6), rest, options).prop_map(
        move |(
            (name, ports, udp, forwarding, tracking),
            backends,
            (source_ranges, deny_ranges, idle, mut health),
            options,
        )| {
            use Forwarding::{Dnat, DnatDsr, Dscp, Geneve as Eth, Gue as Udp};
            let (by_source, rejects, is_summed, dscp, variant, port, vni) = options.2;
            // A check needs a port where the service has several.
            if let Some(check) = &mut health.check
                && ports.single().is_none()
                && !matches!(check.kind, CheckKind::Ping | CheckKind::None)
            {
                check.port.get_or_insert(80);
            }
            // Through the service goes only what is its own.
            if let Some(check) = &mut health.check {
                let is_of_protocol = match check.kind {
                    CheckKind::None => true,
                    CheckKind::Ping => false,
                    kind => udp == (kind == CheckKind::Udp),
                };
                if !is_of_protocol || check.port.is_some_and(|port| !ports.contains(port)) {
                    check.target = CheckTarget::Backend;
                }
            }
            let own = |port: Option<u16>| {
                port.filter(|&own| {
                    matches!(forwarding, Dnat | DnatDsr | Eth) && ports.single().is_some_and(|port| port != own)
                })
            };
            let is_geneve = forwarding == Eth;
            let by_cid = udp && is_summed && !by_source;
            let backends = backends.into_iter().zip(1_u8..).map(|((low, own_port, weight, state), place)| Backend {
                address: IpAddr::from([10, number, place, low]),
                port: own(own_port),
                weight,
                state,
                tunnel_endpoint: (is_geneve && weight % 2 == 1).then_some(IpAddr::from([10, 99, place, low])),
                server_id: by_cid.then(|| vec![place, low].into()),
                health_address: None,
                is_unchecked: false,
            });
            let millis = Duration::from_millis;
            Service {
                name: format!("{name}{number}").into(),
                vip: IpAddr::from([192, 0, 2, number]).into(),
                ports,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                forwarding,
                hash: match () {
                    () if by_source => Hash::SourceIp,
                    () if by_cid => Hash::QuicCid,
                    () => Hash::FiveTuple,
                },
                quic: by_cid.then_some(Quic { config_id: variant, server_id_length: 2 }),
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
                no_backend: if rejects { NoBackend::Reject } else { NoBackend::Drop },
                dscp: (forwarding == Dscp).then_some(dscp),
                gue: Gue {
                    variant: if forwarding == Udp { variant } else { 0 },
                    port: if forwarding == Udp { port } else { 6080 },
                },
                geneve: Geneve {
                    port: if is_geneve { port } else { 6081 },
                    vni: if is_geneve { vni } else { 2 },
                    inner_destination: Mac([2, 0, 0, 0, 0, 2]),
                    inner_source: Mac([2, 0, 0, 0, 0, if is_geneve { number } else { 1 }]),
                },
                udp_checksum: is_summed && matches!(forwarding, Udp | Eth),
                byte_order: if is_summed && forwarding == DnatDsr { ByteOrder::Host } else { ByteOrder::Network },
            }
        },
    )
}

pub fn definitions() -> impl Strategy<Value = Definitions> {
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
