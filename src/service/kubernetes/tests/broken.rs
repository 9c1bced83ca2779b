//! Broken documents, each with every line that is said about it.

use super::*;

/// A state file whose service, slice and node are good, but for a text in them replaced by another; and the errors.
const GOOD: &str = r#"{
"services": [{
  "metadata": {"name": "web", "namespace": "shop", "annotations": {"a": "b"}},
  "spec": {
    "type": "LoadBalancer", "loadBalancerClass": "c", "externalIPs": ["192.0.2.1"],
    "loadBalancerSourceRanges": ["198.51.100.0/24"], "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
    "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}]
  },
  "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}]}}
}],
"endpoints": [{
  "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
  "addressType": "IPv4",
  "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": "n1"}],
  "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]
}],
"nodes": [{"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.9.1"}]}}]
}"#;

fn changes() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        // The lists, and what is in them.
        (
            r#""services": ["#,
            r#""services": [], "services": ["#,
            "services: this key stands twice in one object; keep one",
        ),
        (
            "\"endpoints\": [{\n",
            "\"endpoints\": null, \"endpoints\": [{\n",
            "endpoints: this key stands twice in one object; keep one",
        ),
        (r#""services": ["#, r#""services": 7, "x": ["#, "services: 7 is not a list"),
        (r#""services": ["#, r#""services": [7, "#, "services[0]: 7 is not an object"),
        (r#""services": ["#, r#""servies": ["#, "services: required, but absent. The v1 Services; [] for none."),
        ("\"endpoints\": [{\n", "\"endpoints\": {}, \"x\": [{\n", "endpoints: an object is not a list"),
        ("\"endpoints\": [{\n", "\"endpoints\": [\"a\", {\n", "endpoints[0]: \"a\" is not an object"),
        (r#""nodes": ["#, r#""nodes": "n1", "x": ["#, "nodes: \"n1\" is not a list"),
        // The service.
        (
            r#""metadata": {"name": "web", "namespace": "shop", "annotations": {"a": "b"}},"#,
            "",
            "services[0].metadata: required, but absent. The object's name and namespace.",
        ),
        (
            r#"{"name": "web", "namespace""#,
            r#"{"namespace""#,
            "services[0].metadata.name: required, but absent. The object's name.",
        ),
        (
            r#"{"name": "web", "namespace""#,
            r#"{"name": "", "namespace""#,
            "services[0].metadata.name: required, but absent. The object's name.",
        ),
        (
            r#"{"name": "web", "namespace""#,
            r#"{"name": 7, "namespace""#,
            "services[0].metadata.name: 7 is not the name of an object: 1 to 253 characters, without spaces and slashes",
        ),
        (
            r#"{"name": "web", "namespace""#,
            r#"{"name": "a/b", "namespace""#,
            "services[0].metadata.name: \"a/b\" is not the name of an object: 1 to 253 characters, without spaces and slashes",
        ),
        (
            r#""annotations": {"a": "b"}"#,
            r#""annotations": ["a"]"#,
            "services[0].metadata.annotations: a list is not an object",
        ),
        (
            r#""annotations": {"a": "b"}"#,
            r#""annotations": {"a": {}}"#,
            "services[0].metadata.annotations.a: an object is not text",
        ),
        (
            r#""annotations": {"a": "b"}"#,
            r#""annotations": {"a": "b", "a": "c"}"#,
            "services[0].metadata.annotations.a: this key stands twice in one object; keep one",
        ),
        (r#""spec": {"#, r#""spek": {"#, "services[0].spec: required, but absent. What the service is."),
        (r#""spec": {"#, r#""spec": "x", "y": {"#, "services[0].spec: \"x\" is not an object"),
        (
            r#""type": "LoadBalancer""#,
            r#""type": "Loadbalancer""#,
            "services[0].spec.type: \"Loadbalancer\" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName; did you mean \"LoadBalancer\"?",
        ),
        (
            r#""type": "LoadBalancer""#,
            r#""type": true"#,
            "services[0].spec.type: true is not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
        ),
        (
            r#""loadBalancerClass": "c""#,
            r#""loadBalancerClass": ["c"]"#,
            "services[0].spec.loadBalancerClass: a list is not text",
        ),
        (
            r#""externalIPs": ["192.0.2.1"]"#,
            r#""externalIPs": "192.0.2.1""#,
            "services[0].spec.externalIPs: \"192.0.2.1\" is not a list",
        ),
        (
            r#""externalIPs": ["192.0.2.1"]"#,
            r#""externalIPs": ["192.0.2.1", "192.0.2.256"]"#,
            "services[0].spec.externalIPs[1]: \"192.0.2.256\" is not an IPv4 or IPv6 address",
        ),
        (r#""externalIPs": ["192.0.2.1"]"#, r#""loadBalancerIP": 7"#, "services[0].spec.loadBalancerIP: 7 is not text"),
        (
            r#""198.51.100.0/24""#,
            r#""198.51.100.0""#,
            "services[0].spec.loadBalancerSourceRanges[0]: \"198.51.100.0\" is not a prefix like \"198.51.100.0/24\" (one address: \"/32\" or \"/128\")",
        ),
        (
            r#""198.51.100.0/24""#,
            r#""198.51.100.0/33""#,
            "services[0].spec.loadBalancerSourceRanges[0]: \"198.51.100.0/33\" is not a prefix like \"198.51.100.0/24\" (one address: \"/32\" or \"/128\")",
        ),
        (
            r#""Local""#,
            r#""local""#,
            "services[0].spec.externalTrafficPolicy: \"local\" is not one of Cluster, Local; did you mean \"Local\"?",
        ),
        ("32100", "65536", "services[0].spec.healthCheckNodePort: 65536 is not a number from 0 to 65535"),
        ("32100", "\"32100\"", "services[0].spec.healthCheckNodePort: \"32100\" is not a number from 0 to 65535"),
        (
            r#""ClientIP""#,
            r#""ClientIp""#,
            "services[0].spec.sessionAffinity: \"ClientIp\" is not one of None, ClientIP; did you mean \"ClientIP\"?",
        ),
        (
            r#""timeoutSeconds": 60"#,
            r#""timeoutSeconds": 0"#,
            "services[0].spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not a number from 1 to 86400",
        ),
        (
            r#""timeoutSeconds": 60"#,
            r#""timeoutSeconds": "3h""#,
            "services[0].spec.sessionAffinityConfig.clientIP.timeoutSeconds: \"3h\" is not a number from 1 to 86400",
        ),
        (
            r#"{"clientIP": {"timeoutSeconds": 60}}"#,
            "60",
            "services[0].spec.sessionAffinityConfig: 60 is not an object",
        ),
        (
            r#""ports": [{"name": "http", "protocol""#,
            r#""ports": [80, {"name": "http", "protocol""#,
            "services[0].spec.ports[0]: 80 is not an object",
        ),
        (
            r#""port": 80, "nodePort""#,
            r#""nodePort""#,
            "services[0].spec.ports[0].port: required, but absent. The port that clients connect to.",
        ),
        (
            r#""port": 80, "nodePort""#,
            r#""port": 0, "nodePort""#,
            "services[0].spec.ports[0].port: 0 is not a number from 1 to 65535",
        ),
        (
            r#""port": 80, "nodePort""#,
            r#""port": "http", "nodePort""#,
            "services[0].spec.ports[0].port: \"http\" is not a number from 1 to 65535",
        ),
        (
            r#""nodePort": 30080"#,
            r#""nodePort": -1"#,
            "services[0].spec.ports[0].nodePort: -1 is not a number from 0 to 65535",
        ),
        (
            r#""protocol": "TCP", "port""#,
            r#""protocol": 6, "port""#,
            "services[0].spec.ports[0].protocol: 6 is not text",
        ),
        (
            r#""ip": "192.0.2.2""#,
            r#""ip": "lb.example""#,
            "services[0].status.loadBalancer.ingress[0].ip: \"lb.example\" is not an IPv4 or IPv6 address",
        ),
        (
            r#""ipMode": "VIP""#,
            r#""ipMode": "vip""#,
            "services[0].status.loadBalancer.ingress[0].ipMode: \"vip\" is not one of VIP, Proxy; did you mean \"VIP\"?",
        ),
        (
            r#"{"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}]}"#,
            "[]",
            "services[0].status.loadBalancer: a list is not an object",
        ),
        // The slice.
        (
            r#""addressType": "IPv4","#,
            "",
            "endpoints[0].addressType: required, but absent. What the endpoints' addresses are.",
        ),
        (
            r#""addressType": "IPv4""#,
            r#""addressType": "ipv4""#,
            "endpoints[0].addressType: \"ipv4\" is not one of IPv4, IPv6, FQDN; did you mean \"IPv4\"?",
        ),
        (
            r#""addressType": "IPv4""#,
            r#""addressType": "IPv6""#,
            "endpoints[0].endpoints[0].addresses[0]: \"10.1.0.1\" is not an IPv6 address, as the slice's addressType says",
        ),
        (
            r#"["10.1.0.1"]"#,
            r#"["10.1.0.1", "fd00::1"]"#,
            "endpoints[0].endpoints[0].addresses[1]: \"fd00::1\" is not an IPv4 address, as the slice's addressType says",
        ),
        (
            r#"["10.1.0.1"]"#,
            r#"["web-1"]"#,
            "endpoints[0].endpoints[0].addresses[0]: \"web-1\" is not an IPv4 address, as the slice's addressType says",
        ),
        (r#"["10.1.0.1"]"#, "[]", "endpoints[0].endpoints[0].addresses: 0 given, at least 1 needed"),
        (
            r#""addresses": ["10.1.0.1"], "#,
            "",
            "endpoints[0].endpoints[0].addresses: required, but absent. Where the endpoint is.",
        ),
        (
            r#""ready": true"#,
            r#""ready": "true""#,
            "endpoints[0].endpoints[0].conditions.ready: \"true\" is not true or false",
        ),
        (
            r#""terminating": false"#,
            r#""terminating": 0"#,
            "endpoints[0].endpoints[0].conditions.terminating: 0 is not true or false",
        ),
        (r#""nodeName": "n1""#, r#""nodeName": 1"#, "endpoints[0].endpoints[0].nodeName: 1 is not text"),
        (
            r#""port": 80, "protocol""#,
            r#""port": 70000, "protocol""#,
            "endpoints[0].ports[0].port: 70000 is not a number from 0 to 65535",
        ),
        (
            r#""labels": {"kubernetes.io/service-name": "web"}"#,
            r#""labels": "web""#,
            "endpoints[0].metadata.labels: \"web\" is not an object",
        ),
        // The node.
        (
            r#""metadata": {"name": "n1"}, "status""#,
            r#""status""#,
            "nodes[0].metadata: required, but absent. The object's name.",
        ),
        (r#""address": "10.0.9.1""#, r#""address": 7"#, "nodes[0].status.addresses[0].address: 7 is not text"),
    ]
}

/// Documents that are no list of objects.
fn outlines() -> Vec<(String, &'static str)> {
    let neither = "neither a list of objects (\"items\"), nor an object (\"kind\"), nor \"services\" and \"endpoints\"";
    let native = "not a JSON object, and not the YAML of Kubernetes' objects; native definitions are written as JSON";
    let object = |name: &str| format!("{{metadata: {{name: {name}}}, spec: {{}}}}");
    let plain = |text: &str| text.to_owned();
    vec![
        (plain("{\"endpoints\": []}"), "services: required, but absent. The v1 Services; [] for none."),
        (plain("{\"apiVersion\": \"v1\"}"), neither),
        (plain("kind: List\nitems: 7"), "items: 7 is not a list"),
        (plain("kind: List\nitems: [7]"), "items[0]: 7 is not an object"),
        (
            plain("kind: List\nitems: [{metadata: {name: a}}]"),
            "items[0].kind: required, but absent. What the object is.",
        ),
        (
            plain("kind: List\nitems: [{kind: Service, spec: {}}]"),
            "items[0].metadata: required, but absent. The object's name and namespace.",
        ),
        (
            plain("kind: ConfigMap\nmetadata: {name: a}"),
            "no v1 Service, discovery.k8s.io/v1 EndpointSlice or v1 Node is in it; there are 1 of \"ConfigMap\"",
        ),
        (
            plain("kind: List\nitems: [{kind: Endpoints, apiVersion: v1}, {kind: Pod}, {kind: Pod}]"),
            "no v1 Service, discovery.k8s.io/v1 EndpointSlice or v1 Node is in it; there are 2 of \"Pod\", 1 of \"v1 Endpoints\"",
        ),
        (plain("kind: Service\nmetadata: {name: a}\nspec: {}\n---\n- 7\n"), "documents[1]: a list is not an object"),
        (
            plain("kind: Service\nmetadata: {name: a}\nspec: {}\n---\nname: web\n"),
            "documents[1]: neither a list of objects (\"items\"), nor an object (\"kind\"), nor \"services\" and \"endpoints\"",
        ),
        (
            plain(
                "kind: Service\nmetadata: {name: a}\nspec: {}\n---\nkind: Service\nmetadata: {name: b}\nspec: {type: 7}\n",
            ),
            "documents[1].spec.type: 7 is not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
        ),
        (
            format!("services: [{}, {}]\nendpoints: []", object("a"), object("a")),
            "services[1].metadata.name: Service \"default/a\" is services[0] already",
        ),
        (
            plain("services: []\nendpoints: []\nnodes: [{metadata: {name: n}}, {metadata: {name: n}}]"),
            "nodes[1].metadata.name: Node \"n\" is nodes[0] already",
        ),
        // YAML, and what is not.
        (plain("services:\n- name: web\n  vip: 192.0.2.1\n"), native),
        (plain("HTTP/1.1 502: Bad Gateway\n"), native),
        (plain("<html>\n<body>Bad Gateway</body>"), "line 1, column 1: not JSON: expected value"),
        (plain("# nothing\n"), "line 1, column 1: not JSON: expected value"),
        (
            plain("services: [\n"),
            "line 2, column 1: not YAML: while parsing a node, did not find expected node content",
        ),
        (
            plain("services:\n\t- a"),
            "line 2, column 2: not YAML: tabs disallowed within this context (block indentation)",
        ),
        (plain("services: []\nendpoints: *x"), "line 2, column 12: not YAML: while parsing node, found unknown anchor"),
        (
            plain("{\"services\": [{\"metadata\": {\"name\": \"a\"}}"),
            "line 1, column 41: not JSON: EOF while parsing a list",
        ),
    ]
}

#[test]
fn every_error_says_what_where_and_why() {
    let mut cases = outlines();
    cases.extend(changes().into_iter().map(|(from, to, error)| {
        assert_eq!(GOOD.matches(from).count(), 1, "{from}");
        (GOOD.replace(from, to), error)
    }));
    assert!(cases.len() >= 70, "{}", cases.len());
    let mut wrong = Vec::new();
    for (document, expected) in cases {
        let said: Vec<_> = match read_document(&document, "services.json", None, &Options::default()) {
            Ok(reading) => lines(&reading),
            Err(errors) => errors.to_string().lines().map(|line| line.replacen("services.json: ", "", 1)).collect(),
        };
        if said != [expected] {
            wrong.push(format!("{document}\nsaid     {said:#?}\nexpected {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_errors_are_said_at_once() {
    let document = GOOD.replace("32100", "-1").replace("\"IPv4\"", "4").replace("\"n1\"}", "\"\"}");
    let errors = read_document(document, "s", None, &Options::default()).unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["services[0].spec.healthCheckNodePort", "endpoints[0].addressType", "nodes[0].metadata.name"]);
}

#[test]
fn the_document_that_is_broken_here_is_good() {
    let reading = read_state(GOOD, &Options::default());
    assert_eq!(reading.definitions.services.len(), 2, "{:?}", lines(&reading));
    assert_eq!((reading.left_out.len(), reading.warnings.len()), (0, 0));
}
