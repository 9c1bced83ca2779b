//! Kubernetes-shaped documents through the real binary: `check`, `replay` and `explain`.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use penstock::replay::{Resolution, Writer};
use support::Made;
use tempfile::TempDir;

const CONFIG: &str = r#"
[dpdk]
lcores = [1]
[[port]]
name = "wan0"
device = "net_null0"
addresses = ["10.0.0.1"]
[encap]
ipv4_source = "10.0.0.1"
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 251
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
[feed]
path = "list.json"
"#;

const STATE: &str = include_str!("../conf/kubernetes.yaml");
const LIST: &str = include_str!("kubernetes/list.json");

/// What is said on stderr of the list, at any time.
const LEFT_OUT: &str = "warning: list.json: dns/resolver:3868/sctp@192.0.2.53: left out: SCTP is not balanced, only TCP and UDP are\n\
    warning: list.json: shop/web:443/tcp@192.0.2.10: left out, for no endpoint is left: port 8443 differs from the service's 443, and \
    \"ipip\" cannot change ports; let them listen on 443, or annotate the service with a mode that can, as \"dnat\" (penstock.io/forwarding)\n";

/// Exit code, stdout, stderr of a command in a fresh directory with these files.
fn penstock(files: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String, TempDir) {
    let place = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(place.path().join(name), text).unwrap();
    }
    fs::write(place.path().join("penstock.toml"), CONFIG).unwrap();
    write_capture(&place.path().join("in.pcap"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let output = command.current_dir(place.path()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr), place)
}

/// A packet to each of two VIPs, now and after two seconds.
fn write_capture(path: &Path) {
    let mut writer = Writer::new(fs::File::create(path).unwrap(), Resolution::Nano).unwrap();
    for seconds in [0, 2] {
        for vip in [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 53)] {
            writer.write(seconds * 1_000_000_000, &Made::udp(vip, 53).frame()).unwrap();
            writer.write(seconds * 1_000_000_000, &Made::tcp(vip, 80).frame()).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn check_takes_them_and_says_what_is_left_out() {
    let (code, out, errors, _) = penstock(&[("list.json", LIST)], &["check", "--config", "penstock.toml"]);
    assert_eq!((code, errors.as_str()), (0, LEFT_OUT));
    assert_eq!(out.lines().nth(1), Some("list.json: good: 4 services, 7 backends"));
    let arguments = ["check", "--config", "penstock.toml", "--services", "state.yaml", "--json"];
    let (code, out, errors, _) = penstock(&[("state.yaml", STATE)], &arguments);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!((&document["definitions"]["services"], &document["definitions"]["backends"]), (&1.into(), &2.into()));
}

#[test]
fn a_bad_annotation_is_an_error_to_check_and_a_service_less_to_the_others() {
    let bad = LIST.replace("\"penstock.io/forwarding\": \"dnat\"", "\"penstock.io/hash\": \"nonsense\"");
    let reason = "\"nonsense\" is not one of five-tuple, source-ip, quic-cid; did you mean \"source-ip\"?";
    let files = [("list.json", bad.as_str())];
    let (code, out, errors, _) = penstock(&files, &["check", "--config", "penstock.toml"]);
    let error = format!("list.json: items[2].metadata.annotations.penstock.io/hash: {reason}\n");
    assert_eq!((code, out.as_str(), errors), (2, "", format!("{LEFT_OUT}{error}")));
    let given = ["--config", "penstock.toml", "--services", "list.json"];
    let explain = [&["explain"][..], &given, &["198.51.100.7:1000", "192.0.2.53:53", "udp"]].concat();
    let replay = [&["replay"][..], &given, &["--in", "in.pcap", "--out", "out.pcap"]].concat();
    for arguments in [explain, replay] {
        let (code, _, errors, _) = penstock(&files, &arguments);
        let warning = format!("warning: list.json: shop/api: left out: penstock.io/hash: {reason}\n");
        assert_eq!(code, 0, "{errors}");
        assert!(errors.contains(&warning), "{errors}");
    }
}

#[test]
fn replay_sends_by_them_and_by_the_next() {
    let arguments = [
        "replay",
        "--config",
        "penstock.toml",
        "--services",
        "state.yaml",
        "--at",
        "1=list.json",
        "--in",
        "in.pcap",
        "--out",
        "out.pcap",
        "--json",
    ];
    let (code, out, errors, _) = penstock(&[("state.yaml", STATE), ("list.json", LIST)], &arguments);
    assert_eq!((code, errors.as_str()), (0, LEFT_OUT));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["received"], &report["forwarded"]), (&8.into(), &2.into()));
    let backends = report["backends"].as_object().unwrap();
    let counted = |service: &str| {
        backends[service].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((counted("test/echo:80/tcp@192.0.2.1"), counted("dns/resolver:53/udp@192.0.2.53")), (1, 1));
}

#[test]
fn explain_names_the_service_by_its_object() {
    let arguments = [
        "explain",
        "--config",
        "penstock.toml",
        "--services",
        "state.yaml",
        "198.51.100.7:1000",
        "192.0.2.1:80",
        "tcp",
    ];
    let (code, out, errors, _) = penstock(&[("state.yaml", STATE)], &arguments);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(out.contains("service   \"test/echo:80/tcp@192.0.2.1\": VIP 192.0.2.1, port 80, tcp"), "{out}");
}

#[test]
fn a_service_that_does_not_fit_the_node_holds_nothing_else_back() {
    let both = format!(
        "{STATE}---\nkind: Service\nmetadata: {{name: echo6, namespace: test}}\nspec: {{externalIPs: ['2001:db8::1'], ports: [{{port: 80}}]}}\n\
         ---\nkind: EndpointSlice\nmetadata: {{namespace: test, labels: {{kubernetes.io/service-name: echo6}}}}\naddressType: IPv6\n\
         ports: [{{port: 80}}]\nendpoints: [{{addresses: ['fd00::11']}}]\n"
    );
    let arguments = ["check", "--config", "penstock.toml", "--services", "state.yaml"];
    let (code, out, errors, _) = penstock(&[("state.yaml", &both)], &arguments);
    let warning = "warning: state.yaml: test/echo6:80/tcp@2001:db8::1: left out: \"ipip\" needs an outer source address, and the node has \
                   none to send to fd00::11 from: set [encap] ipv6_source in its configuration\n";
    assert_eq!((code, errors.as_str()), (0, warning));
    assert_eq!(out.lines().nth(1), Some("state.yaml: good: 1 service, 2 backends"));
}

#[test]
fn a_broken_document_is_refused_with_its_place() {
    let broken = LIST.replace("\"addressType\": \"IPv4\"", "\"addressType\": \"v4\"");
    let (code, out, errors, _) = penstock(&[("list.json", &broken)], &["check", "--config", "penstock.toml"]);
    let first = "list.json: items[6].addressType: \"v4\" is not one of IPv4, IPv6, FQDN; did you mean \"IPv4\"?";
    assert_eq!((code, out.as_str(), errors.lines().next()), (2, "", Some(first)));
    assert_eq!(errors.lines().count(), 5, "{errors}");
}
