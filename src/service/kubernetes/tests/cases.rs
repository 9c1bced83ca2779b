//! The table of cases: a document, and what is made of it.

use super::*;
use crate::service::Definitions;

const PORT_80: &str = "ports: [{port: 80}]";

/// What is said of a document, line by line.
#[track_caller]
fn becomes(options: &Options, document: &str, expected: &[&str]) {
    assert_eq!(lines(&read_state(document, options)), expected, "{document}");
}

/// The same of services and slices.
#[track_caller]
fn become_usually(services: &[String], slices: &[String], expected: &[&str]) {
    becomes(&Options::default(), &state(services, slices, &[]), expected);
}

fn ready(address: &str) -> String {
    endpoint(address, "ready: true")
}

/// `shop/web` with port 80 at 192.0.2.10, and one ready endpoint.
fn web(spec: &str) -> [String; 2] {
    [balanced("web", &format!("{PORT_80}, {spec}"), &["192.0.2.10"]), slice("web", "{port: 80}", &ready("10.1.0.1"))]
}

#[track_caller]
fn web_becomes(options: &Options, spec: &str, expected: &[&str]) {
    let [service, slice] = web(spec);
    becomes(options, &state(&[service], &[slice], &[]), expected);
}

#[test]
fn ciliums_state_file_is_taken_as_it_is() {
    becomes(
        &Options::default(),
        include_str!("../../../../conf/kubernetes.yaml"),
        &["test/echo:80/tcp@192.0.2.1 ipip | 10.1.0.11 | 10.1.0.12"],
    );
}

#[test]
fn a_list_of_kubectls_is_taken_as_it_is() {
    let options = Options {
        health_check_node_ports: true,
        node_addresses: [("node-1".to_owned(), IpAddr::from([10, 0, 9, 1]))].into(),
        ..Options::default()
    };
    becomes(
        &options,
        include_str!("../../../../tests/kubernetes/list.json"),
        &[
            "dns/resolver:53/tcp@192.0.2.53 ipip | 10.1.0.31",
            "dns/resolver:53/udp@192.0.2.53 ipip full | 10.1.0.31",
            "shop/api:443/tcp@192.0.2.11 dnat http 32100 | 10.1.0.21 port 8443 asks 10.0.9.1 | 10.1.0.22 port 8443 unchecked",
            "shop/web:80/tcp@192.0.2.10 ipip source-ip full for 10800s +198.51.100.0/24 | 10.1.0.11 | 10.1.0.12 | 10.1.0.13 draining",
            "! dns/resolver:3868/sctp@192.0.2.53: left out: SCTP is not balanced, only TCP and UDP are",
            "! shop/api:443/tcp@192.0.2.11: not checked, and so up: the endpoints on node-2, of which no address is known; \
             add \"nodes\" to the document, or set [feed] node_addresses",
            "! shop/web:443/tcp@192.0.2.10: left out, for no endpoint is left: port 8443 differs from the service's 443, and \
             \"ipip\" cannot change ports; let them listen on 443, or annotate the service with a mode that can, as \"dnat\" \
             (penstock.io/forwarding)",
        ],
    );
}

#[test]
fn json_yaml_lists_and_streams_are_the_same() {
    let object =
        |kind: &str, group: &str, fields: &str| format!(r#"{{"kind": "{kind}", "apiVersion": "{group}", {fields}}}"#);
    let service = r#""metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]}"#;
    let slice = r#""metadata": {"labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4",
        "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.1.0.1"]}]"#;
    let (whole_service, whole_slice) =
        (object("Service", "v1", service), object("EndpointSlice", "discovery.k8s.io/v1", slice));
    let expected = ["default/a:80/tcp@192.0.2.1 ipip | 10.1.0.1"];
    for document in [
        format!(r#"{{"services": [{{{service}}}], "endpoints": [{{{slice}}}]}}"#),
        format!("services: [{{{service}}}]\nendpoints: [{{{slice}}}]"),
        format!(r#"{{"kind": "List", "apiVersion": "v1", "items": [{whole_slice}, {whole_service}]}}"#),
        format!("# kubectl\nkind: List\nitems: [{whole_slice}, {whole_service}]"),
        format!("---\n{whole_service}\n---\n{whole_slice}\n"),
        format!(
            "---\nkind: ServiceList\nitems: [{{{service}}}]\n---\nkind: EndpointSliceList\napiVersion: discovery.k8s.io/v1\nitems: [{{{slice}}}]"
        ),
        format!("\u{feff}---\nservices: [{{{service}}}]\n---\nservices: null\nendpoints: [{{{slice}}}]"),
    ] {
        becomes(&Options::default(), &document, &expected);
    }
}

#[test]
fn shapes_are_told_apart_by_the_top() {
    let is_kubernetes = |document: &str| read_state(document, &Options::default()).is_kubernetes;
    let native =
        r#"{"name": "a", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": []}"#;
    assert!(!is_kubernetes(r#"{"services": []}"#));
    assert!(!is_kubernetes(&format!(r#"{{"version": "41", "services": [{native}]}}"#)));
    assert!(is_kubernetes(r#"{"services": [], "endpoints": []}"#));
    assert!(is_kubernetes(r#"{"services": null, "endpoints": null}"#));
    assert!(is_kubernetes(r#"{"services": [{"metadata": {"name": "a"}, "spec": {}}]}"#));
    assert!(is_kubernetes(r#"{"kind": "List", "items": []}"#));
    assert!(is_kubernetes("kind: Service\nmetadata: {name: a}\nspec: {}"));
}

#[test]
fn a_slice_joins_the_service_of_its_label_in_its_namespace() {
    let elsewhere = slice("web", "{port: 80}", &ready("10.1.0.9")).replace("namespace: shop", "namespace: test");
    let [service, own] = web("");
    let nobodys = slice("web", "{port: 80}", &ready("10.1.0.8")).replace("kubernetes.io/service-name", "app");
    become_usually(&[service], &[elsewhere, own, nobodys], &["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1"]);
}

#[test]
fn slices_are_merged_and_an_endpoint_in_two_is_one() {
    let [service, _] = web("");
    let slices = [
        slice_named("b", "web", "", "{port: 80}", &[ready("10.1.0.2"), ready("10.1.0.1")].join(", ")),
        slice_named("a", "web", "", "{port: 80}", &[ready("10.1.0.3"), ready("10.1.0.1")].join(", ")),
    ];
    become_usually(&[service], &slices, &["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1 | 10.1.0.2 | 10.1.0.3"]);
}

#[test]
fn of_an_endpoint_told_twice_the_termination_counts_then_the_use() {
    let [service, _] = web("");
    let told = |conditions: &[&str]| {
        let slices: Vec<_> = conditions
            .iter()
            .map(|conditions| {
                let endpoints = [endpoint("10.1.0.1", conditions), ready("10.1.0.9")].join(", ");
                slice("web", "{port: 80}", &endpoints)
            })
            .collect();
        let reading = read_state(&state(std::slice::from_ref(&service), &slices, &[]), &Options::default());
        reading.definitions.services[0]
            .backends
            .iter()
            .find(|it| it.address == IpAddr::from([10, 1, 0, 1]))
            .map(|it| it.state.name())
    };
    let terminating = "ready: false, serving: true, terminating: true";
    for (one, other, expected) in [
        ("ready: true", terminating, Some("draining")),
        ("ready: true", "ready: false", Some("active")),
        ("ready: false", terminating, Some("draining")),
        ("ready: true", "ready: false, serving: false, terminating: true", None),
    ] {
        assert_eq!((told(&[one, other]), told(&[other, one])), (expected, expected), "{one} and {other}");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let service = balanced(
        "web",
        "ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: other, port: 81}]",
        &["192.0.2.10"],
    );
    let slices = [
        slice("web", "{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}", &ready("10.1.0.1")),
        slice("web", "{name: http, port: 80}, {name: dns, port: 53}, {name: other}", &ready("10.1.0.2")),
    ];
    become_usually(
        &[service],
        &slices,
        &[
            "shop/web:53/tcp@192.0.2.10 ipip | 10.1.0.1",
            "shop/web:53/udp@192.0.2.10 ipip full | 10.1.0.1",
            "shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.2",
            "shop/web:81/tcp@192.0.2.10 ipip",
        ],
    );
}

#[test]
fn vips_are_what_a_load_balancer_was_given_and_external_ips_else_the_wish() {
    let served = |spec: &str, ingress: &str| -> Vec<String> {
        let service = format!(
            "{{metadata: {{namespace: shop, name: web}}, spec: {{{PORT_80}, {spec}}}, status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
        );
        lines(&read_state(&state(&[service], &[], &[]), &Options::default()))
    };
    let at = |vips: &[&str]| vips.iter().map(|vip| format!("shop/web:80/tcp@{vip} ipip")).collect::<Vec<_>>();
    let balanced = "type: LoadBalancer";
    assert_eq!(served(balanced, "{ip: 192.0.2.2}, {ip: 192.0.2.1, ipMode: VIP}"), at(&["192.0.2.1", "192.0.2.2"]));
    assert_eq!(served(balanced, "{ip: 192.0.2.1, ipMode: Proxy}, {hostname: lb.example}"), at(&[]));
    assert_eq!(
        served("type: LoadBalancer, externalIPs: [192.0.2.1, 192.0.2.3]", "{ip: 192.0.2.1}"),
        at(&["192.0.2.1", "192.0.2.3"])
    );
    assert_eq!(served("externalIPs: [192.0.2.3]", ""), at(&["192.0.2.3"]));
    assert_eq!(served("type: LoadBalancer, loadBalancerIP: 192.0.2.4", ""), at(&["192.0.2.4"]));
    assert_eq!(served("type: LoadBalancer, loadBalancerIP: 192.0.2.4", "{ip: 192.0.2.1}"), at(&["192.0.2.1"]));
    assert_eq!(
        served("type: LoadBalancer, loadBalancerIP: 192.0.2.4, externalIPs: [192.0.2.3]", ""),
        at(&["192.0.2.3"])
    );
    assert_eq!(
        served("type: LoadBalancer, loadBalancerIP: 192.0.2.4", "{ip: 192.0.2.1, ipMode: Proxy}"),
        at(&["192.0.2.4"])
    );
    assert_eq!(served("type: LoadBalancer, loadBalancerIP: 192.0.2.4", "{hostname: lb.example}"), at(&["192.0.2.4"]));
    assert_eq!(served("type: NodePort, loadBalancerIP: 192.0.2.4", ""), at(&[]));
    assert_eq!(
        served("type: LoadBalancer, loadBalancerIP: pool-a", ""),
        ["! shop/web: left out: its loadBalancerIP \"pool-a\" is not an IPv4 or IPv6 address"]
    );
    // Not for us, and nothing to say of them.
    assert_eq!(served("clusterIP: 10.96.0.1", ""), at(&[]));
    assert_eq!(served("clusterIP: None", ""), at(&[]));
    assert_eq!(served("type: ExternalName, externalName: web.example, externalIPs: [192.0.2.3]", ""), at(&[]));
    assert_eq!(served("clusterIP: None, externalIPs: [192.0.2.3]", ""), at(&["192.0.2.3"]));
}

#[test]
fn a_vip_joins_slices_of_its_own_family() {
    let service = balanced("web", PORT_80, &["2001:db8::10", "192.0.2.10"]);
    let slices = [slice("web", "{port: 80}", &ready("fd00::1")), slice("web", "{port: 80}", &ready("10.1.0.1"))];
    let names = "{metadata: {namespace: shop, labels: {kubernetes.io/service-name: web}}, addressType: FQDN, ports: [{port: 80}], \
                 endpoints: [{addresses: [web.example]}]}";
    become_usually(
        &[service],
        &[slices.as_slice(), &[names.to_owned()]].concat(),
        &["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1", "shop/web:80/tcp@2001:db8::10 ipip | fd00::1"],
    );
}

#[test]
fn where_a_class_is_asked_for_it_must_be_that() {
    let class = |class: &str| Options { load_balancer_class: Some(class.to_owned()), ..Options::default() };
    let served = ["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1"];
    web_becomes(&Options::default(), "loadBalancerClass: penstock.io/edge", &served);
    web_becomes(&Options::default(), "", &served);
    web_becomes(&class("penstock.io/edge"), "loadBalancerClass: penstock.io/edge", &served);
    web_becomes(&class("penstock.io/edge"), "loadBalancerClass: other.io/lb", &[]);
    web_becomes(&class("penstock.io/edge"), "", &[]);
}

#[test]
fn readiness_is_what_the_conditions_say_and_their_absence() {
    let [service, _] = web("");
    let said = |conditions: &str| {
        let endpoints = [endpoint("10.1.0.1", conditions), ready("10.1.0.9")].join(", ");
        let reading = read_state(
            &state(std::slice::from_ref(&service), &[slice("web", "{port: 80}", &endpoints)], &[]),
            &Options::default(),
        );
        let backends = &reading.definitions.services[0].backends;
        backends.iter().find(|it| it.address == IpAddr::from([10, 1, 0, 1])).map(|it| it.state.name())
    };
    let (active, draining) = (Some("active"), Some("draining"));
    for (conditions, expected) in [
        ("", active),
        ("ready: null", active),
        ("ready: true", active),
        ("ready: true, serving: true, terminating: false", active),
        ("ready: false", None),
        ("serving: true", active),
        ("serving: false", None),
        ("ready: true, serving: false", None),
        ("ready: false, serving: true", None),
        ("ready: false, serving: true, terminating: true", draining),
        ("ready: false, terminating: true", None),
        ("serving: false, terminating: true", None),
        // As published before they are ready: ready to the end.
        ("ready: true, terminating: true", draining),
        ("terminating: true", draining),
    ] {
        assert_eq!(said(conditions), expected, "{conditions}");
    }
}

#[test]
fn without_a_ready_one_those_that_terminate_and_serve_are_used() {
    let [service, _] = web("");
    let endpoints = [
        endpoint("10.1.0.1", "ready: false, serving: true, terminating: true"),
        endpoint("10.1.0.2", "ready: false, serving: false, terminating: true"),
        endpoint("10.1.0.3", "ready: false"),
    ];
    let slices = [slice("web", "{port: 80}", &endpoints.join(", "))];
    become_usually(&[service], &slices, &["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1"]);
}

#[test]
fn a_service_without_endpoints_stands_there_without_backends() {
    let [service, _] = web("");
    become_usually(std::slice::from_ref(&service), &[], &["shop/web:80/tcp@192.0.2.10 ipip"]);
    let none = slice("web", "", "").replace("[]", "null");
    become_usually(&[service], &[none], &["shop/web:80/tcp@192.0.2.10 ipip"]);
}

#[test]
fn affinity_is_source_ip_in_full_for_its_time() {
    let options = Options::default();
    let line = |rest: &str| format!("shop/web:80/tcp@192.0.2.10 ipip {rest} | 10.1.0.1");
    web_becomes(&options, "sessionAffinity: ClientIP", &[&line("source-ip full for 10800s")]);
    let timed = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
    web_becomes(&options, timed, &[&line("source-ip full for 60s")]);
    web_becomes(&options, "sessionAffinity: None", &["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1"]);
    let [_, slice] = web("");
    let spec = "ports: [{port: 80}], sessionAffinity: ClientIP";
    let service = annotated("web", "penstock.io/tracking: transition", spec, &["192.0.2.10"]);
    become_usually(
        &[service],
        &[slice],
        &[
            "shop/web:80/tcp@192.0.2.10 ipip source-ip | 10.1.0.1",
            "! shop/web:80/tcp@192.0.2.10: no client is remembered for sessionAffinity: that needs \"source-ip\" and \"full\", and by its \
             annotations it has \"source-ip\" and \"transition\"",
        ],
    );
}

#[test]
fn source_ranges_are_those_that_may_or_by_ciliums_policy_those_that_may_not() {
    let ranges = "ports: [{port: 80}], loadBalancerSourceRanges: [' 198.51.100.7/24', '203.0.113.0/24 ']";
    let [_, slice] = web("");
    for (annotations, expected) in [
        ("", "+198.51.100.0/24 +203.0.113.0/24"),
        ("service.cilium.io/src-ranges-policy: allow", "+198.51.100.0/24 +203.0.113.0/24"),
        ("service.cilium.io/src-ranges-policy: deny", "-198.51.100.0/24 -203.0.113.0/24"),
    ] {
        let service = annotated("web", annotations, ranges, &["192.0.2.10"]);
        let expected = format!("shop/web:80/tcp@192.0.2.10 ipip {expected} | 10.1.0.1");
        become_usually(&[service], std::slice::from_ref(&slice), &[&expected]);
    }
    let other = balanced("web", "ports: [{port: 80}], loadBalancerSourceRanges: ['2001:db8::/32']", &["192.0.2.10"]);
    become_usually(
        &[other],
        &[slice],
        &[
            "shop/web:80/tcp@192.0.2.10 ipip +2001:db8::/32 | 10.1.0.1",
            "! shop/web:80/tcp@192.0.2.10: no client of 192.0.2.10 is in any of its loadBalancerSourceRanges: all are refused",
        ],
    );
}

/// `shop/web` with the policy Local, an endpoint on each of these nodes, and one that terminates.
fn local(spec: &str, nodes: &[&str]) -> [String; 2] {
    let mut endpoints: Vec<_> = nodes
        .iter()
        .zip(1..)
        .map(|(node, number)| format!("{{addresses: [10.1.0.{number}], nodeName: {node}}}"))
        .collect();
    endpoints.push(
        "{addresses: [10.1.0.9], nodeName: node-1, conditions: {ready: false, serving: true, terminating: true}}"
            .to_owned(),
    );
    [
        balanced("web", &format!("{PORT_80}, externalTrafficPolicy: Local, {spec}"), &["192.0.2.10"]),
        slice("web", "{port: 80}", &endpoints.join(", ")),
    ]
}

#[test]
fn nodes_of_local_services_are_asked_where_that_is_wanted() {
    let node =
        |name: &str, addresses: &str| format!("{{metadata: {{name: {name}}}, status: {{addresses: [{addresses}]}}}}");
    let nodes = [
        node(
            "node-1",
            "{type: Hostname, address: node-1}, {type: ExternalIP, address: 203.0.113.1}, {type: InternalIP, address: 'fd00::1'}, {type: InternalIP, address: 10.0.9.1}",
        ),
        node("node-2", "{type: InternalIP, address: 'fd00::2'}, {type: ExternalIP, address: 203.0.113.2}"),
        node("node-3", "{type: InternalIP, address: 'fd00::3'}"),
        node("node-4", "{type: Hostname, address: node-4}"),
    ];
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let wanted = Options {
        health_check_node_ports: true,
        node_addresses: [("node-4", [10, 0, 9, 4]), ("node-1", [10, 9, 9, 9])]
            .map(|(name, a)| (name.to_owned(), IpAddr::from(a)))
            .into(),
        ..Options::default()
    };
    let [service, slice] =
        local("healthCheckNodePort: 32100", &["node-1", "node-2", "node-3", "node-4", "node-5", "null"]);
    let document = state(&[service], &[slice], &nodes);
    becomes(
        &wanted,
        &document,
        &[
            "shop/web:80/tcp@192.0.2.10 ipip http 32100 | 10.1.0.1 asks 10.0.9.1 | 10.1.0.2 asks 203.0.113.2 | 10.1.0.3 asks fd00::3 \
             | 10.1.0.4 asks 10.0.9.4 | 10.1.0.5 unchecked | 10.1.0.6 unchecked | 10.1.0.9 draining unchecked",
            "! shop/web:80/tcp@192.0.2.10: not checked, and so up: the endpoints on node-5, of which no address is known; add \"nodes\" to \
             the document, or set [feed] node_addresses",
            "! shop/web:80/tcp@192.0.2.10: not checked, and so up: 10.1.0.6, whose slice names no node",
        ],
    );
    let check = &read_state(&document, &wanted).definitions.services[0].health.check.clone().unwrap();
    assert_eq!((check.path.as_str(), check.expect_status, check.host.as_ref()), ("/healthz", 200, None));
    // Not wanted, or not Local.
    let unasked = "shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1 | 10.1.0.9 draining";
    let [service, slice] = local("healthCheckNodePort: 32100", &["node-1"]);
    becomes(
        &Options::default(),
        &state(std::slice::from_ref(&service), std::slice::from_ref(&slice), &nodes),
        &[unasked],
    );
    let cluster = service.replace("Local", "Cluster");
    becomes(&wanted, &state(&[cluster], std::slice::from_ref(&slice), &nodes), &[unasked]);
    let [service, _] = local("", &[]);
    becomes(
        &wanted,
        &state(&[service], &[slice], &nodes),
        &[
            unasked,
            "! shop/web: its nodes are not checked, for it has no healthCheckNodePort: its endpoints count as up",
        ],
    );
}

#[test]
fn what_has_no_native_form_is_left_out_of_the_native_document() {
    let wanted = Options {
        health_check_node_ports: true,
        node_addresses: [("node-1".to_owned(), IpAddr::from([10, 0, 9, 1]))].into(),
        ..Options::default()
    };
    let [service, slice] = local("healthCheckNodePort: 32100", &["node-1"]);
    let text = read_state(&state(&[service], &[slice], &[]), &wanted).definitions.to_json();
    let (back, _) = crate::service::native(&text, "back", None).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(line(&back.services[0]), "shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1 | 10.1.0.9 draining");
}

#[test]
fn what_cannot_be_is_left_out_or_cut_and_holds_nothing_else_back() {
    let service = balanced(
        "web",
        "ports: [{name: a, port: 80}, {name: s, port: 38412, protocol: SCTP}, {name: i, port: 1, protocol: ICMP}]",
        &["192.0.2.10"],
    );
    let endpoints = [ready("10.1.0.1"), ready("192.0.2.10"), ready("127.0.0.1"), ready("10.1.0.2")].join(", ");
    let slices = [
        slice("web", "{name: a, port: 80}", &endpoints),
        slice("web", "{name: a, port: 8080}", &[ready("10.1.0.3"), ready("10.1.0.4")].join(", ")),
        slice("web", "{name: a, port: 8081}", &ready("10.1.0.5")),
    ];
    become_usually(
        &[balanced("loop", PORT_80, &["127.0.0.1"]), service],
        &slices,
        &[
            "shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1 | 10.1.0.2",
            "! shop/loop:80/tcp@127.0.0.1: left out: 127.0.0.1 is a loopback address; clients cannot connect to it",
            "! shop/web:1/icmp@192.0.2.10: left out: ICMP is not balanced, only TCP and UDP are",
            "! shop/web:80/tcp@192.0.2.10: 3 of 7 endpoints are left out: port 8080, 8081 differs from the service's 80, and \"ipip\" cannot \
             change ports; let them listen on 80, or annotate the service with a mode that can, as \"dnat\" (penstock.io/forwarding)",
            "! shop/web:80/tcp@192.0.2.10: 1 of 7 endpoints is left out: 127.0.0.1 is a loopback address",
            "! shop/web:80/tcp@192.0.2.10: 1 of 7 endpoints is left out: 192.0.2.10 is the service's own VIP: the packet would come straight back",
            "! shop/web:38412/sctp@192.0.2.10: left out: SCTP is not balanced, only TCP and UDP are",
        ],
    );
}

#[test]
fn a_service_without_an_endpoint_left_is_said_to_be_out_whatever_the_reasons() {
    let slices = [
        slice("web", "{port: 80}", &[ready("192.0.2.10"), ready("127.0.0.1")].join(", ")),
        slice("web", "{port: 8080}", &ready("10.1.0.3")),
    ];
    become_usually(
        &[balanced("web", PORT_80, &["192.0.2.10"])],
        &slices,
        &[
            "! shop/web:80/tcp@192.0.2.10: 1 of 3 endpoints is left out: port 8080 differs from the service's 80, and \"ipip\" cannot \
             change ports; let them listen on 80, or annotate the service with a mode that can, as \"dnat\" (penstock.io/forwarding)",
            "! shop/web:80/tcp@192.0.2.10: 1 of 3 endpoints is left out: 127.0.0.1 is a loopback address",
            "! shop/web:80/tcp@192.0.2.10: 1 of 3 endpoints is left out: 192.0.2.10 is the service's own VIP: the packet would come straight back",
            "! shop/web:80/tcp@192.0.2.10: left out, for no endpoint is left",
        ],
    );
    let dnat = |name: &str, vip: &str| annotated(name, "penstock.io/forwarding: dnat", PORT_80, &[vip]);
    let endpoints = [ready("10.1.0.1"), ready("10.1.0.2")].join(", ");
    become_usually(
        &[dnat("a", "192.0.2.10"), dnat("b", "192.0.2.11")],
        &[slice("a", "{port: 80}", &endpoints), slice("b", "{port: 80}", &endpoints)],
        &[
            "shop/a:80/tcp@192.0.2.10 dnat | 10.1.0.1 | 10.1.0.2",
            "! shop/b:80/tcp@192.0.2.11: 1 of 2 endpoints is left out: 10.1.0.1:80 is an endpoint of shop/a:80/tcp@192.0.2.10 too, and \
             \"dnat\" could not tell whose replies come from it",
            "! shop/b:80/tcp@192.0.2.11: 1 of 2 endpoints is left out: 10.1.0.2:80 is an endpoint of shop/a:80/tcp@192.0.2.10 too, and \
             \"dnat\" could not tell whose replies come from it",
            "! shop/b:80/tcp@192.0.2.11: left out, for no endpoint is left",
        ],
    );
}

#[test]
fn the_port_that_cannot_be_changed_is_cut_before_readiness_is_judged() {
    // A change of the target port: the ready ones have the new one.
    let [service, _] = web("");
    let slices = [
        slice("web", "{port: 8080}", &ready("10.1.0.1")),
        slice("web", "{port: 80}", &endpoint("10.1.0.2", "ready: false, serving: true, terminating: true")),
    ];
    let reading = read_state(&state(&[service], &slices, &[]), &Options::default());
    assert_eq!(lines(&reading)[0], "shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.2");
}

#[test]
fn of_two_that_want_the_same_the_first_by_namespace_and_name_has_it() {
    let [_, slice_of_web] = web("");
    let services = [
        balanced("web", PORT_80, &["192.0.2.10"]),
        balanced("aaa", PORT_80, &["192.0.2.10", "192.0.2.11"]),
        balanced("twice", "ports: [{name: a, port: 80}, {name: b, port: 80}]", &["192.0.2.12"]),
    ];
    become_usually(
        &services,
        &[slice_of_web],
        &[
            "shop/aaa:80/tcp@192.0.2.10 ipip",
            "shop/aaa:80/tcp@192.0.2.11 ipip",
            "shop/twice:80/tcp@192.0.2.12 ipip",
            "! shop/twice:80/tcp@192.0.2.12: left out: 192.0.2.12 port 80 tcp is shop/twice:80/tcp@192.0.2.12 already",
            "! shop/web:80/tcp@192.0.2.10: left out: 192.0.2.10 port 80 tcp is shop/aaa:80/tcp@192.0.2.10 already",
        ],
    );
}

#[test]
fn an_endpoint_of_dnat_serves_one_vip() {
    let dnat = Options { forwarding: Forwarding::Dnat, ..Options::default() };
    let services = [balanced("a", PORT_80, &["192.0.2.10", "192.0.2.11"]), balanced("b", PORT_80, &["192.0.2.12"])];
    let slices = [
        slice("a", "{port: 8080}", &ready("10.1.0.1")),
        slice("b", "{port: 8080}", &[ready("10.1.0.1"), ready("10.1.0.2")].join(", ")),
    ];
    becomes(
        &dnat,
        &state(&services, &slices, &[]),
        &[
            "shop/a:80/tcp@192.0.2.10 dnat | 10.1.0.1 port 8080",
            "shop/b:80/tcp@192.0.2.12 dnat | 10.1.0.2 port 8080",
            "! shop/a:80/tcp@192.0.2.11: left out, for no endpoint is left: 10.1.0.1:8080 is an endpoint of shop/a:80/tcp@192.0.2.10 too, and \
             \"dnat\" could not tell whose replies come from it",
            "! shop/b:80/tcp@192.0.2.12: 1 of 2 endpoints is left out: 10.1.0.1:8080 is an endpoint of shop/a:80/tcp@192.0.2.10 too, and \
             \"dnat\" could not tell whose replies come from it",
        ],
    );
}

#[test]
fn a_backend_of_dscp_is_told_one_vip_by_one_code_point() {
    let service = |name: &str, dscp: u8, vips: &[&str]| {
        annotated(name, &format!("penstock.io/forwarding: dscp, penstock.io/dscp: {dscp}"), "ports: [{port: 80}]", vips)
    };
    let services = [service("a", 10, &["192.0.2.10", "192.0.2.11"]), service("b", 11, &["192.0.2.12"])];
    let slices = [slice("a", "{port: 80}", &ready("10.1.0.1")), slice("b", "{port: 80}", &ready("10.1.0.1"))];
    become_usually(
        &services,
        &slices,
        &[
            "shop/a:80/tcp@192.0.2.10 dscp dscp 10 | 10.1.0.1",
            "shop/b:80/tcp@192.0.2.12 dscp dscp 11 | 10.1.0.1",
            "! shop/a:80/tcp@192.0.2.11: left out, for no endpoint is left: 10.1.0.1 gets DSCP 10 for the VIP of shop/a:80/tcp@192.0.2.10 too, \
             and could not tell the VIPs apart",
        ],
    );
}

#[test]
fn a_slices_weight_is_that_of_all_its_endpoints() {
    let [service, _] = web("");
    let weighed = |weight: &str, address: &str| {
        slice_named(address, "web", &format!("service.cilium.io/weight: {weight}"), "{port: 80}", &ready(address))
    };
    let slices =
        [weighed("'0'", "10.1.0.1"), weighed("250", "10.1.0.2"), slice("web", "{port: 80}", &ready("10.1.0.3"))];
    become_usually(
        &[service],
        &slices,
        &["shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1 weight 0 | 10.1.0.2 weight 250 | 10.1.0.3"],
    );
}

#[test]
fn node_ports_are_services_on_the_nodes_own_addresses() {
    let options = Options {
        node_ports: true,
        forwarding: Forwarding::Snat,
        own_addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::99".parse().unwrap()],
        load_balancer_class: Some("other".to_owned()),
        ..Options::default()
    };
    let spec = "type: NodePort, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 0}]";
    let service = format!("{{metadata: {{namespace: shop, name: web}}, spec: {{{spec}}}}}");
    let slices = [
        slice("web", "{name: a, port: 8080}", &ready("10.1.0.1")),
        slice("web", "{name: a, port: 30080}", &ready("fd00::1")),
    ];
    let document = state(std::slice::from_ref(&service), &slices, &[]);
    becomes(
        &options,
        &document,
        &["shop/web:30080/tcp@10.0.0.1 snat | 10.1.0.1 port 8080", "shop/web:30080/tcp@fd00::99 snat | fd00::1"],
    );
    becomes(&Options { node_ports: false, ..options.clone() }, &document, &[]);
    // What is no node port of Kubernetes' is none here.
    becomes(&options, &state(&[service.replace("NodePort, ports", "ClusterIP, ports")], &slices, &[]), &[]);
}

#[test]
fn annotations_choose_what_kubernetes_has_no_field_for() {
    let [_, slice] = web("");
    for (annotations, expected) in [
        ("penstock.io/forwarding: gue", "gue"),
        ("penstock.io/hash: source-ip", "ipip source-ip"),
        ("penstock.io/tracking: none", "ipip none"),
        ("penstock.io/tracking: full", "ipip full"),
        ("penstock.io/forwarding: dscp, penstock.io/dscp: '46'", "dscp dscp 46"),
    ] {
        let service = annotated("web", annotations, PORT_80, &["192.0.2.10"]);
        let expected = format!("shop/web:80/tcp@192.0.2.10 {expected} | 10.1.0.1");
        become_usually(&[service], std::slice::from_ref(&slice), &[&expected]);
    }
    let service =
        annotated("web", "penstock.io/tracking: transition", "ports: [{port: 80, protocol: UDP}]", &["192.0.2.10"]);
    become_usually(
        &[service],
        &[],
        &[
            "shop/web:80/udp@192.0.2.10 ipip full",
            "! shop/web:80/udp@192.0.2.10: tracked in full: \"transition\" needs a SYN to tell a new flow by, and udp has none",
        ],
    );
    let service = annotated("web", "penstock.io/hahs: source-ip, other.io/x: 1", PORT_80, &["192.0.2.10"]);
    become_usually(
        &[service],
        &[],
        &[
            "shop/web:80/tcp@192.0.2.10 ipip",
            "! shop/web: the annotation \"penstock.io/hahs\" is not known and not obeyed; did you mean \"penstock.io/hash\"?",
        ],
    );
}

#[test]
fn a_bad_annotation_leaves_its_service_out_and_says_where_it_stands() {
    let [good, slice_of_web] = web("");
    let said = |annotations: &str, weight: &str| {
        let bad = annotated("bad", annotations, PORT_80, &["192.0.2.11"]);
        let slices = [slice_of_web.clone(), slice_named("", "bad", weight, "{port: 80}", &ready("10.1.0.1"))];
        let reading = read_state(&state(&[good.clone(), bad], &slices, &[]), &Options::default());
        assert_eq!(lines(&reading)[0], "shop/web:80/tcp@192.0.2.10 ipip | 10.1.0.1");
        assert_eq!(reading.definitions.services.len(), 1, "{annotations}");
        let problems = reading.left_out.iter().map(|left| {
            let problem = left.bad_annotation.as_ref().unwrap_or_else(|| panic!("{left}"));
            let annotation = problem.path.split_once("annotations.").unwrap().1;
            assert_eq!(left.to_string(), format!("shop/bad: left out: {annotation}: {}", problem.reason));
            problem.to_string()
        });
        problems.collect::<Vec<_>>().join("\n")
    };
    let at = "state.yaml: services[1].metadata.annotations.";
    for (annotations, expected) in [
        (
            "penstock.io/hash: nonsense",
            "penstock.io/hash: \"nonsense\" is not one of five-tuple, source-ip, quic-cid; did you mean \"source-ip\"?",
        ),
        (
            "penstock.io/hash: ''",
            "penstock.io/hash: \"\" is not one of five-tuple, source-ip, quic-cid; did you mean \"quic-cid\"?",
        ),
        (
            "penstock.io/hash: quic-cid",
            "penstock.io/hash: \"quic-cid\" needs an ID for each backend, and a slice has no place for it; use \"five-tuple\" or \"source-ip\"",
        ),
        (
            "penstock.io/forwarding: ipop",
            "penstock.io/forwarding: \"ipop\" is not one of ipip, gre, gue, geneve, dscp, l2dsr, dnat, dnat-dsr, snat; did you mean \"ipip\"?",
        ),
        (
            "penstock.io/tracking: ful",
            "penstock.io/tracking: \"ful\" is not one of full, transition, none; did you mean \"full\"?",
        ),
        ("penstock.io/dscp: 10", "penstock.io/dscp: belongs to \"dscp\", and this service is \"ipip\"; leave it out"),
        ("penstock.io/forwarding: dscp, penstock.io/dscp: 64", "penstock.io/dscp: \"64\" is not a number from 1 to 63"),
        (
            "penstock.io/forwarding: dscp",
            "penstock.io/dscp: required by \"dscp\", but absent: the code point, 1 to 63, that names the VIP to the backends",
        ),
        (
            "service.cilium.io/src-ranges-policy: drop",
            "service.cilium.io/src-ranges-policy: \"drop\" is not one of allow, deny; did you mean \"deny\"?",
        ),
    ] {
        assert_eq!(said(annotations, ""), format!("{at}{expected}"));
    }
    assert_eq!(
        said("", "service.cilium.io/weight: heavy"),
        "state.yaml: endpoints[1].metadata.annotations.service.cilium.io/weight: \"heavy\" is not a number from 0 to 65535"
    );
    assert_eq!(said("penstock.io/hash: x, penstock.io/tracking: y", "service.cilium.io/weight: -1").lines().count(), 3);
}

#[test]
fn objects_of_other_kinds_are_told_and_not_read() {
    let object = "kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}], externalIPs: [192.0.2.1]}\n";
    let others =
        "---\nkind: Service\napiVersion: serving.knative.dev/v1\nmetadata: {name: a}\n---\nkind: Pod\n---\nkind: Pod\n";
    becomes(
        &Options::default(),
        &format!("{object}{others}"),
        &[
            "default/a:80/tcp@192.0.2.1 ipip",
            "? state.yaml: objects of other kinds are not read: 2 of \"Pod\", 1 of \"serving.knative.dev/v1 Service\"",
        ],
    );
}

#[test]
fn unknown_fields_are_somebody_elses() {
    let text = include_str!("../../../../conf/kubernetes.yaml");
    let more = text
        .replace(
            "    spec:\n",
            "    spec:\n      selector: {app: echo}\n      allocateLoadBalancerNodePorts: [1, {a: b}]\n",
        )
        .replace(
            "        conditions:\n",
            "        zone: a\n        hints: {forZones: [{name: a}]}\n        conditions:\n",
        );
    assert!(more.len() > text.len() + 150);
    assert_eq!(lines(&read_state(&more, &Options::default())), lines(&read_state(text, &Options::default())));
}

#[test]
fn unchanged_services_are_shared_with_the_set_before() {
    let text = include_str!("../../../../conf/kubernetes.yaml");
    let options = Options::default();
    let before: Definitions = read_state(text, &options).definitions;
    let same = read_document(text, "s", Some(&before), &options).unwrap().definitions;
    assert!(std::sync::Arc::ptr_eq(&before.services[0], &same.services[0]));
    let other =
        read_document(text.replace("10.1.0.12", "10.1.0.13"), "s", Some(&before), &options).unwrap().definitions;
    assert!(!std::sync::Arc::ptr_eq(&before.services[0], &other.services[0]));
}
