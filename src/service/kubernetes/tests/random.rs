//! Objects in any order, any mutation of a document, and any services at all.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::service::native;

/// A few objects that clash in every way: names, VIPs, endpoints and slices out of small sets.
fn objects() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    let spec = select(vec![
        "ports: [{port: 80}]",
        "ports: [{port: 80, nodePort: 30080}], sessionAffinity: ClientIP",
        "ports: [{name: b, port: 81}, {name: a, port: 80}, {name: u, port: 53, protocol: UDP}], externalIPs: ['192.0.2.9', 'fd00::9']",
        "ports: [{port: 80}, {name: s, port: 80, protocol: SCTP}], externalTrafficPolicy: Local, healthCheckNodePort: 32000",
    ]);
    let annotations = select(vec![
        "",
        "penstock.io/forwarding: dnat",
        "penstock.io/forwarding: dscp, penstock.io/dscp: 7",
        "penstock.io/forwarding: snat, penstock.io/tracking: transition",
        "penstock.io/hash: nonsense",
    ]);
    let vips = select(vec![vec!["192.0.2.1"], vec!["192.0.2.2", "192.0.2.1"], vec!["2001:db8::1", "192.0.2.3"]]);
    let service = (spec, annotations, vips);
    let services = proptest::collection::btree_map("[a-c]", service, 1..4).prop_map(|services| {
        services
            .into_iter()
            .map(|(name, (spec, annotations, vips))| annotated(&name, annotations, spec, &vips))
            .collect()
    });
    let conditions =
        select(vec!["", "ready: false", "ready: false, serving: true, terminating: true", "terminating: true"]);
    let endpoint = (1..5_u8, conditions, 1..4_u8).prop_map(|(host, conditions, node)| {
        format!("{{addresses: [10.1.0.{host}], nodeName: node-{node}, conditions: {{{conditions}}}}}")
    });
    let ports = select(vec![
        "{port: 80}",
        "{port: 8080}",
        "{name: a, port: 80}, {name: b, port: 8080}",
        "{name: u, port: 53, protocol: UDP}",
    ]);
    let weight = select(vec!["", "service.cilium.io/weight: 7", "service.cilium.io/weight: 0"]);
    let slice = ("[a-c]", ports, weight, proptest::collection::vec(endpoint, 0..4));
    let slices = proptest::collection::vec(slice, 0..6).prop_map(|slices| {
        let named = slices.into_iter().enumerate();
        let slice = |(number, (of, ports, weight, endpoints)): (usize, (String, &str, &str, Vec<String>))| {
            slice_named(&format!("s{number}"), &of, weight, ports, &endpoints.join(", "))
        };
        named.map(slice).collect()
    });
    (services, slices)
}

fn options() -> Options {
    Options {
        health_check_node_ports: true,
        node_ports: true,
        own_addresses: vec!["192.0.2.3".parse().unwrap(), "10.0.0.1".parse().unwrap()],
        node_addresses: [("node-1".to_owned(), "10.0.9.1".parse().unwrap())].into(),
        ..Options::default()
    }
}

const NODES: [&str; 1] = ["{metadata: {name: node-2}, status: {addresses: [{type: InternalIP, address: 10.0.9.2}]}}"];

proptest! {
    #[test]
    fn the_order_of_objects_does_not_matter(
        (services, slices) in objects(),
        swaps in proptest::collection::vec((any::<Index>(), any::<Index>()), 0..8),
    ) {
        let (mut other_services, mut other_slices) = (services.clone(), slices.clone());
        for (one, other) in &swaps {
            let (one_at, other_at) = (one.index(services.len()), other.index(services.len()));
            other_services.swap(one_at, other_at);
            if !slices.is_empty() {
                other_slices.swap(one.index(slices.len()), other.index(slices.len()));
            }
        }
        let one = read_state(&state(&services, &slices, &NODES), &options());
        let other = read_state(&state(&other_services, &other_slices, &NODES), &options());
        prop_assert_eq!(&one.definitions, &other.definitions);
        let said = |reading: &Reading| {
            reading.left_out.iter().map(|left| (left.service.clone(), left.reason.clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(said(&one), said(&other));
    }

    #[test]
    fn whatever_is_made_is_good_by_the_native_rules((services, slices) in objects()) {
        let made = read_state(&state(&services, &slices, &NODES), &options()).definitions;
        let (back, _) = native(made.to_json(), "back", None).unwrap_or_else(|errors| panic!("{errors}"));
        prop_assert_eq!(back.to_json(), made.to_json());
    }

    #[test]
    fn a_mutated_document_never_panics(
        text in select(vec![
            include_str!("../../../../conf/kubernetes.yaml"),
            include_str!("../../../../tests/kubernetes/list.json"),
        ]),
        changes in proptest::collection::vec((any::<Index>(), select(b"[]{}\":,.\n#-&*!|> 19\xff".to_vec()), any::<bool>()), 1..6),
    ) {
        let mut document = text.as_bytes().to_vec();
        for (at, byte, insert) in changes {
            let at = at.index(document.len());
            if insert { document.insert(at, byte) } else { document[at] = byte }
        }
        let _ = read_document(document, "s", None, &options());
    }

    #[test]
    fn yaml_of_any_punctuation_never_panics(text in "(services: |kind: |- |[\\[\\]{}:,&*!|>#%@`'\"?~ \n\tab1-]){0,60}") {
        let _ = read_document(text, "s", None, &options());
    }
}
