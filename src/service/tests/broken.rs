//! Broken documents, each with every line that is said about it.

use super::{read, several, web};

/// A document and the errors that it must give, without the `services.json: ` before each.
pub type Case = (Vec<u8>, Vec<&'static str>);

/// Documents that are no JSON, or not of the right outline.
fn outlines() -> Vec<Case> {
    let case = |document: &[u8], error| (document.to_vec(), vec![error]);
    vec![
        case(b"", "the file is empty; no services at all are written {\"services\": []}"),
        case(b" \n", "the file is empty; no services at all are written {\"services\": []}"),
        case(b"{\"services\": [}", "line 1, column 15: not JSON: expected value"),
        case(b"{\n  \"services\": [],\n}", "line 3, column 1: not JSON: trailing comma"),
        case(b"{\"services\": []} {}", "line 1, column 18: not JSON: trailing characters"),
        case(b"{\"services\": [\n{\"name\": \"web\"", "line 2, column 14: not JSON: EOF while parsing an object"),
        case(b"\n{\"version\": \"\xff\"}", "line 2: not UTF-8 text (byte 14), so not JSON"),
        case(&[b'['; 100_000], "line 1, column 128: not JSON: recursion limit exceeded"),
        case(b"[]", "a list is not an object"),
        case(b"{}", "services: required, but absent. The services; [] for none."),
        case(b"{\"services\": null}", "services: null is not a list"),
        case(b"{\"services\": {}}", "services: an object is not a list"),
        case(b"{\"services\": [], \"version\": 41}", "version: 41 is not text"),
        case(b"{\"services\": [], \"verison\": \"41\"}", "verison: unknown key; did you mean \"version\"?"),
        case(b"{\"services\": [], \"services\": []}", "services: this key stands twice in one object; keep one"),
        (
            b"{\"services\": [7, {}]}".to_vec(),
            vec![
                "services[0]: 7 is not an object",
                "services[1].name: required, but absent. A name of its own, for metrics and commands.",
                "services[1].vip: required, but absent. The address that clients connect to, or a prefix of addresses.",
                "services[1].port: required, but absent. 1 to 65535; 0 for all ports; or a range like \"8000-8099\".",
                "services[1].protocol: required, but absent. \"tcp\" or \"udp\".",
                "services[1].forwarding: required, but absent. What is done to a packet so that it reaches its backend.",
                "services[1].backends: required, but absent. The addresses that serve it; [] for none.",
            ],
        ),
    ]
}

/// Changes to the service of [`web`], and the error.
fn services() -> Vec<Case> {
    let cases: &[(&str, &str)] = &[
        // Keys and values by themselves.
        (r#""vips": []"#, "vips: unknown key; did you mean \"vip\"?"),
        (r#""health_chek": {}"#, "health_chek: unknown key; did you mean \"health_check\"?"),
        (r#""name": """#, "name: \"\" is not a name: 1 to 512 characters, none of them a control character"),
        (r#""name": 7"#, "name: 7 is not a name: 1 to 512 characters, none of them a control character"),
        (r#""vip": "192.0.2.256""#, "vip: \"192.0.2.256\" is not an IPv4 or IPv6 address, or a prefix"),
        (r#""vip": "web.example""#, "vip: \"web.example\" is not an IPv4 or IPv6 address, or a prefix"),
        (r#""vip": "224.0.0.1""#, "vip: 224.0.0.1 is a multicast address; clients cannot connect to it"),
        (r#""vip": "0.0.0.0""#, "vip: 0.0.0.0 names no host; clients cannot connect to it"),
        (r#""vip": "127.0.0.1""#, "vip: 127.0.0.1 is a loopback address; clients cannot connect to it"),
        (r#""port": "80""#, "port: \"80\" is not a number from 0 to 65535, or a range of ports like \"8000-8099\""),
        (r#""port": 65536"#, "port: 65536 is not a number from 0 to 65535, or a range of ports like \"8000-8099\""),
        (r#""port": 80.5"#, "port: 80.5 is not a number from 0 to 65535, or a range of ports like \"8000-8099\""),
        (
            r#""port": "90-80""#,
            "port: \"90-80\" is not a number from 0 to 65535, or a range of ports like \"8000-8099\"",
        ),
        (r#""protocol": "TCP""#, "protocol: \"TCP\" is not one of tcp, udp; did you mean \"tcp\"?"),
        (r#""protocol": "sctp""#, "protocol: \"sctp\" is not one of tcp, udp; did you mean \"tcp\"?"),
        (
            r#""forwarding": "ipop""#,
            "forwarding: \"ipop\" is not one of ipip, gre, gue, geneve, dscp, l2dsr, dnat, dnat-dsr, snat; did you mean \"ipip\"?",
        ),
        (
            r#""tracking": "transision""#,
            "tracking: \"transision\" is not one of full, transition, none; did you mean \"transition\"?",
        ),
        (r#""no_backend": true"#, "no_backend: true is not one of drop, reject"),
        (r#""source_ranges": "10.0.0.0/8""#, "source_ranges: \"10.0.0.0/8\" is not a list"),
        (
            r#""deny_ranges": ["10.0.0.0/8", "10.0.0.1"]"#,
            "deny_ranges[1]: \"10.0.0.1\" is not a prefix like \"198.51.100.0/24\" (one address: \"/32\" or \"/128\")",
        ),
        (
            r#""idle_timeout": {"tcp": 900}"#,
            "idle_timeout.tcp: 900 is not a duration from 1s to 365d, written like \"2h4m\" or \"500ms\"",
        ),
        (
            r#""idle_timeout": {"udp": "500ms"}"#,
            "idle_timeout.udp: \"500ms\" is not a duration from 1s to 365d, written like \"2h4m\" or \"500ms\"",
        ),
        (r#""idle_timeout": {"tpc": "1m"}"#, "idle_timeout.tpc: unknown key; did you mean \"tcp\"?"),
        (r#""table_size": 65536"#, "table_size: 65536 is not a prime from 3 to 16777216"),
        (r#""table_size": 65539.0"#, "table_size: 65539 is not a prime from 3 to 16777216"),
        (r#""table_size": 1001"#, "table_size: 1001 is not a prime from 3 to 16777216"),
        // Backends.
        (
            r#""backends": [{"address": "10.1.0.11", "zone": "a"}]"#,
            "backends[0].zone: unknown key; did you mean \"port\"? Known here: address, port, weight, state, tunnel_endpoint, server_id",
        ),
        (r#""backends": ["10.1.0.11"]"#, "backends[0]: \"10.1.0.11\" is not an object"),
        (r#""backends": [{"weight": 1}]"#, "backends[0].address: required, but absent. An IPv4 or IPv6 address."),
        (
            r#""backends": [{"address": "10.1.0.11:80"}]"#,
            "backends[0].address: \"10.1.0.11:80\" is not an IPv4 or IPv6 address",
        ),
        (
            r#""backends": [{"address": "255.255.255.255"}]"#,
            "backends[0].address: 255.255.255.255 is the broadcast address; a backend needs an address of its own",
        ),
        (
            r#""backends": [{"address": "192.0.2.1"}]"#,
            "backends[0].address: 192.0.2.1 is the service's own VIP: the packet would come straight back",
        ),
        (
            r#""backends": [{"address": "10.1.0.11", "weight": -1}]"#,
            "backends[0].weight: -1 is not a number from 0 to 65535",
        ),
        (
            r#""backends": [{"address": "10.1.0.11", "weight": 65536}]"#,
            "backends[0].weight: 65536 is not a number from 0 to 65535",
        ),
        (
            r#""backends": [{"address": "10.1.0.11", "state": "drain"}]"#,
            "backends[0].state: \"drain\" is not one of active, draining, down; did you mean \"draining\"?",
        ),
        (r#""backends": [{"address": "10.1.0.11", "port": 0}]"#, "backends[0].port: 0 is not a number from 1 to 65535"),
        (
            r#""backends": [{"address": "10.1.0.11", "port": 8080}]"#,
            "backends[0].port: 8080 differs from the service's 80, and \"ipip\" cannot change ports; leave it out, or use \"dnat\"",
        ),
        (
            r#""backends": [{"address": "10.1.0.11"}, {"address": "10.1.0.12"}, {"address": "10.1.0.11", "port": 80}]"#,
            "backends[2]: 10.1.0.11:80 is backends[0] already",
        ),
        (
            r#""table_size": 3, "backends": [{"address": "10.0.0.1"}, {"address": "10.0.0.2"}, {"address": "10.0.0.3"}, {"address": "10.0.0.4"}]"#,
            "backends: 4 backends do not fit into a table of 3 slots; use a larger table_size",
        ),
        // Keys that do not go together.
        (
            r#""protocol": "udp", "tracking": "transition""#,
            "tracking: \"transition\" needs a SYN to tell a new flow by, and udp has none; use \"full\" or \"none\"",
        ),
        (r#""dscp": 5"#, "dscp: belongs to \"dscp\", and this service is \"ipip\"; leave it out"),
        (r#""gue": {"variant": 1}"#, "gue: belongs to \"gue\", and this service is \"ipip\"; leave it out"),
        (
            r#""forwarding": "geneve", "backends": [{"address": "fd00:10::11", "tunnel_endpoint": "10.1.0.11"}]"#,
            "backends[0].address: fd00:10::11 and the VIP 192.0.2.1 are of different families, and \"geneve\" cannot cross them; \
             its \"tunnel_endpoint\" may be of either",
        ),
        (r#""geneve": {"vni": 7}"#, "geneve: belongs to \"geneve\", and this service is \"ipip\"; leave it out"),
        (
            r#""udp_checksum": true"#,
            "udp_checksum: belongs to \"gue\" and \"geneve\", and this service is \"ipip\"; leave it out",
        ),
        (r#""byte_order": "host""#, "byte_order: belongs to \"dnat-dsr\", and this service is \"ipip\"; leave it out"),
        (
            r#""backends": [{"address": "10.1.0.11", "tunnel_endpoint": "10.2.0.1"}]"#,
            "backends[0].tunnel_endpoint: belongs to \"geneve\", and this service is \"ipip\"; leave it out",
        ),
        (
            r#""quic": {"config_id": 1, "server_id_length": 4}"#,
            "quic: belongs to \"hash\": \"quic-cid\", and this service's is \"five-tuple\"; leave it out",
        ),
        (
            r#""backends": [{"address": "10.1.0.11", "server_id": "0a0b"}]"#,
            "backends[0].server_id: belongs to \"hash\": \"quic-cid\"; leave it out",
        ),
        (r#""health_check": {}"#, "health_check.kind: required, but absent. What a probe is."),
        (
            r#""health_check": {"kind": "tcp", "path": "/"}"#,
            "health_check.path: belongs to \"http\" and \"https\", and this check's kind is \"tcp\"; leave it out",
        ),
        (
            r#""health_check": {"kind": "ping", "port": 80}"#,
            "health_check.port: a check of kind \"ping\" has no port; leave it out",
        ),
        (
            r#""health_check": {"kind": "ping", "target": "vip"}"#,
            "health_check.kind: an echo request to a VIP is answered by the load balancer itself, and says nothing of a backend; use \"tcp\", \"http\" or \"udp\", or \"target\": \"backend\"",
        ),
        (
            r#""health_check": {"kind": "udp", "target": "vip"}"#,
            "health_check.kind: \"udp\" needs \"udp\", and goes through a service of \"tcp\"; use \"target\": \"backend\"",
        ),
        (
            r#""health_check": {"kind": "http", "target": "vip", "port": 8080}"#,
            "health_check.port: the check goes through the service, and 8080 is not its port (80); leave it out, or use \"target\": \"backend\"",
        ),
        (
            r#""health_check": {"kind": "http", "path": "healthz"}"#,
            "health_check.path: \"healthz\" is not the path of a URL, which begins with \"/\" and has neither spaces nor control characters",
        ),
        (
            r#""health_check": {"kind": "http", "timeout": "0ms"}"#,
            "health_check.timeout: \"0ms\" is not a duration from 10ms to 1h, written like \"2h4m\" or \"500ms\"",
        ),
    ];
    let error = |error: &str| -> &'static str { format!("services[0].{error}").leak() };
    cases.iter().map(|(changes, reason)| (web(changes).into_bytes(), vec![error(reason)])).collect()
}

/// What several errors, or several services, give.
fn together() -> Vec<Case> {
    vec![
        (
            several(&["", r#""port": 81"#]).into_bytes(),
            vec!["services[1].name: \"web\" is the name of services[0] already"],
        ),
        (
            several(&["", r#""name": "other""#]).into_bytes(),
            vec!["services[1].vip: 192.0.2.1 port 80 tcp is services[0] already"],
        ),
        (
            several(&[r#""forwarding": "dnat""#, r#""name": "b", "forwarding": "dnat", "port": 81, "backends": [{"address": "10.1.0.11", "port": 80}]"#])
                .into_bytes(),
            vec![
                "services[1].backends[0]: 10.1.0.11:80 tcp is an endpoint of services[0] too; \"dnat\" could not tell whose \
                 replies come from it. Let it serve on another port, or from another address",
            ],
        ),
        (
            several(&[r#""forwarding": "dnat", "port": 0"#, r#""name": "b", "forwarding": "dnat", "port": 81"#]).into_bytes(),
            vec![
                "services[1].backends[0]: 10.1.0.11:81 tcp is an endpoint of services[0] too; \"dnat\" could not tell whose \
                 replies come from it. Let it serve on another port, or from another address",
            ],
        ),
        (
            several(&[r#""port": "80-90""#, r#""name": "b", "port": "90-99""#]).into_bytes(),
            vec![
                "services[1].port: 90-99 overlaps 80-90 of services[0], on the same VIP and protocol",
            ],
        ),
        (
            several(&[
                r#""forwarding": "dscp", "dscp": 5"#,
                r#""name": "b", "vip": "192.0.2.2", "forwarding": "dscp", "dscp": 5"#,
            ])
            .into_bytes(),
            vec![
                "services[1].backends[0].address: 10.1.0.11 gets DSCP 5 for the VIP of services[0] too, and could not tell the \
                 VIPs apart; use another code point",
            ],
        ),
        (
            web(r#""forwarding": "dscp", "vip": "2001:db8::1""#).into_bytes(),
            vec![
                "services[0].dscp: required by \"dscp\", but absent. Give the code point, 1 to 63, that names the VIP to the backends",
                "services[0].backends[0].address: 10.1.0.11 and the VIP 2001:db8::1 are of different families, and \"dscp\" cannot cross them",
            ],
        ),
        (
            web(r#""forwarding": "dnat", "vip": "192.0.2.0/24""#).into_bytes(),
            vec![
                "services[0].vip: 192.0.2.0/24 is a prefix, and \"dnat\" needs one address, which its replies then carry",
            ],
        ),
        (
            web(r#""hash": "quic-cid""#).into_bytes(),
            vec![
                "services[0].quic: required by \"quic-cid\", but absent. Give \"config_id\" and \"server_id_length\"",
                "services[0].hash: \"quic-cid\" reads QUIC, which runs over udp, and this service is tcp",
                "services[0].backends[0].server_id: required by \"quic-cid\", but absent",
            ],
        ),
        (
            web(
                r#""protocol": "udp", "hash": "quic-cid", "quic": {"config_id": 7, "server_id_length": 4}, "backends": [{"address": "10.1.0.11", "server_id": "0a0b"}]"#,
            )
            .into_bytes(),
            vec![
                "services[0].quic.config_id: 7 is not a number from 0 to 6",
                "services[0].backends[0].server_id: has 2 bytes, and server_id_length says 4",
            ],
        ),
        // One mistake hides no other.
        (
            web(r#""vip": "x", "port": 99999, "backends": [{"address": "y"}, {"address": "10.1.0.1", "port": 0, "wait": 3}]"#)
                .into_bytes(),
            vec![
                "services[0].backends[0].address: \"y\" is not an IPv4 or IPv6 address",
                "services[0].backends[1].port: 0 is not a number from 1 to 65535",
                "services[0].backends[1].wait: unknown key; did you mean \"weight\"?",
                "services[0].port: 99999 is not a number from 0 to 65535, or a range of ports like \"8000-8099\"",
                "services[0].vip: \"x\" is not an IPv4 or IPv6 address, or a prefix",
            ],
        ),
        (
            br#"{"services": [{"name": "web", "name": "web2", "vip": "192.0.2.1", "port": 80, "protocol": "tcp",
                "forwarding": "ipip", "backends": [{"address": "10.1.0.11", "weight": 1, "weight": 2}]}]}"#
                .to_vec(),
            vec![
                "services[0].name: this key stands twice in one object; keep one",
                "services[0].backends[0].weight: this key stands twice in one object; keep one",
            ],
        ),
    ]
}

pub fn cases() -> Vec<Case> {
    [outlines(), services(), together()].concat()
}

#[test]
fn every_error_says_what_where_and_why() {
    let mut wrong = Vec::new();
    for (document, expected) in cases() {
        let said = match read(&document, "services.json", None) {
            Ok(_) => vec!["accepted".to_owned()],
            Err(errors) => errors.to_string().lines().map(|line| line.replacen("services.json: ", "", 1)).collect(),
        };
        if said != expected {
            wrong.push(format!(
                "{}\n  said     {said:#?}\n  expected {expected:#?}",
                String::from_utf8_lossy(&document[..document.len().min(400)])
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
