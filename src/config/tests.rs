//! Configurations and what is said about them.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::service::{self, Forwarding};

/// The least that holds.
const LEAST: &str = r#"
[dpdk]
lcores = [1]

[[port]]
name = "wan0"
device = "net_null0"

[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
"#;

/// Everything, as in the contract's example.
const WHOLE: &str = r#"
[node]
name = "edge-1"
state_dir = "/var/lib/penstock"
stop_grace = "5s"

[dpdk]
lcores = [1, 2]
eal_args = ["--no-huge"]
mempool_mbufs = 65535
mbuf_data_room = 2176
idle = "sleep"

[[port]]
name = "wan0"
device = "0000:03:00.0"
mtu = 9000
mac = "02:00:00:00:00:07"
addresses = ["10.0.0.1"]
twin = "wan0"
promiscuous = true

[[port]]
name = "lan0"
device = "net_af_packet0,iface=veth0"

[icmp]
errors_per_second = 0
burst = 7

[encap]
ipv4_source = "10.0.0.1"
ipv6_source = "fd00::1"

[snat]
ipv4 = ["10.0.0.1"]
ipv6 = ["fd00::1"]
ports = "1024-32767"

[health]
ipv4_source = "10.0.0.2"
ipv6_source = "fd00::2"
ports = "61000-65535"

[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 251

[flows]
capacity = 1048576
drain_timeout = "1h"

[fragments]
hold = "0ms"

[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "lan0"

[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"

[feed]
kind = "file"
path = "services.json"
forwarding = "ipip"
load_balancer_class = "penstock"
health_check_node_ports = false
node_ports = false
node_addresses = {node-1 = "10.0.9.1"}

[api]
listen = ["unix:/run/penstock/api.sock", "127.0.0.1:9340"]

[metrics]
listen = "127.0.0.1:9342"
most_backends = 7
"#;

fn read(document: &str) -> Config {
    let (config, warnings) =
        Config::read(document, "/etc/penstock/penstock.toml").unwrap_or_else(|errors| panic!("{errors}"));
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

#[test]
fn every_key_of_the_contract_is_read() {
    let config = read(WHOLE);
    assert_eq!((config.node.name.as_str(), config.node.stop_grace), ("edge-1", Duration::from_secs(5)));
    assert_eq!(
        (config.dpdk.lcores.as_slice(), config.dpdk.eal_args.len(), config.dpdk.idle),
        (&[1, 2][..], 1, Idle::Sleep)
    );
    let port = &config.ports[0];
    assert_eq!((port.mtu, port.mac, port.promiscuous), (9000, Some(Mac([2, 0, 0, 0, 0, 7])), true));
    assert_eq!((port.twin.as_deref(), port.addresses.as_slice()), (Some("wan0"), &[IpAddr::from([10, 0, 0, 1])][..]));
    assert_eq!((config.icmp.errors_per_second, config.icmp.burst), (0, 7));
    assert_eq!(config.encap.ipv4_source, Some(Ipv4Addr::new(10, 0, 0, 1)));
    let own = (Some(Ipv4Addr::new(10, 0, 0, 2)), "fd00::2".parse().ok());
    assert_eq!((config.health.ipv4_source, config.health.ipv6_source), own);
    assert_eq!((config.hash.seed[15], config.hash.table_size), (15, 251));
    assert_eq!((config.neighbors[0].port, config.routes[0].via), (1, IpAddr::from([10, 0, 0, 254])));
    assert_eq!((config.metrics.listen, config.metrics.most_backends), (Some("127.0.0.1:9342".parse().unwrap()), 7));
}

#[test]
fn what_is_absent_has_the_contracts_default() {
    let config = read(LEAST);
    assert_eq!(
        (config.node.state_dir.as_path(), config.node.stop_grace),
        (Path::new("/var/lib/penstock"), Duration::from_secs(5))
    );
    assert_eq!((config.dpdk.mempool_mbufs, config.dpdk.mbuf_data_room, config.dpdk.idle), (65535, 2176, Idle::Poll));
    assert_eq!((config.ports[0].mtu, config.ports[0].mac, config.ports[0].promiscuous), (1500, None, false));
    assert_eq!((config.icmp.errors_per_second, config.icmp.burst), (1000, 100));
    assert_eq!((config.hash.table_size, config.flows.capacity), (65537, 1_048_576));
    assert_eq!((config.flows.drain_timeout, config.encap.ipv4_source), (Duration::from_secs(3600), None));
    assert_eq!(
        (config.metrics.listen, config.metrics.most_backends),
        (Some("127.0.0.1:9341".parse().unwrap()), 10_000)
    );
}

#[test]
fn checks_through_a_service_come_from_the_address_that_is_known() {
    let own = |keys: &str| {
        let document = LEAST.replace("[[port]]", &format!("{keys}\n[[port]]\naddresses = [\"fd00::9\", \"10.0.0.9\"]"));
        let health = read(&document).health;
        (health.ipv4_source.unwrap().to_string(), health.ipv6_source.unwrap().to_string())
    };
    let pair = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
    assert_eq!(own(""), pair("10.0.0.9", "fd00::9"));
    let snat = "[snat]\nipv4 = [\"10.0.0.8\"]\nipv6 = [\"fd00::8\"]\n";
    assert_eq!(own(snat), pair("10.0.0.8", "fd00::8"));
    let encap = format!("{snat}[encap]\nipv4_source = \"10.0.0.7\"\n");
    assert_eq!(own(&encap), pair("10.0.0.7", "fd00::8"));
    assert_eq!(own(&format!("{encap}[health]\nipv4_source = \"10.0.0.6\"\n")), pair("10.0.0.6", "fd00::8"));
}

#[test]
fn a_relative_feed_begins_at_the_configurations_directory() {
    let path = |feed: &str| match read(&format!("{LEAST}{feed}")).feed {
        Feed::File { path } => path,
        _ => PathBuf::new(),
    };
    assert_eq!(path(""), Path::new("/etc/penstock/services.json"));
    assert_eq!(path("[feed]\npath = \"feed/s.json\""), Path::new("/etc/penstock/feed/s.json"));
    assert_eq!(path("[feed]\npath = \"/srv/s.json\""), Path::new("/srv/s.json"));
    assert_eq!(path("[feed]\nkind = \"none\""), Path::new(""));
}

#[test]
fn kubernetes_is_read_by_the_feeds_keys_and_the_ports_addresses() {
    assert_eq!(read(LEAST).kubernetes, kubernetes::Options::default());
    let document = WHOLE.replace("forwarding = \"ipip\"", "forwarding = \"snat\"").replace(
        "health_check_node_ports = false\nnode_ports = false",
        "health_check_node_ports = true\nnode_ports = true",
    );
    let expected = kubernetes::Options {
        forwarding: Forwarding::Snat,
        load_balancer_class: Some("penstock".to_owned()),
        health_check_node_ports: true,
        node_ports: true,
        node_addresses: [("node-1".to_owned(), IpAddr::from([10, 0, 9, 1]))].into(),
        own_addresses: vec![IpAddr::from([10, 0, 0, 1])],
    };
    assert_eq!(read(&document).kubernetes, expected);
    let (_, warnings) = Config::read(format!("{LEAST}[feed]\nnode_ports = true"), "p").unwrap();
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    let reason = "node ports are served on the addresses of the [[port]]s, and none has any: set addresses there";
    assert_eq!(warnings, [format!("p: feed.node_ports: {reason}")]);
}

#[test]
fn feeds_on_the_network() {
    let feed = |keys: &str| read(&format!("{LEAST}[feed]\n{keys}")).feed;
    let Feed::Http(http) = feed("kind = \"http\"\nurl = \"https://feed/s.json\"\nca = \"ca.pem\"\nwait = \"1m\"")
    else {
        panic!("another kind")
    };
    assert_eq!(
        (http.url.to_string().as_str(), http.max_bytes, http.token_file),
        ("https://feed/s.json", 64 << 20, None)
    );
    assert_eq!((http.poll_interval, http.timeout), (Duration::from_secs(10), Duration::from_secs(30)));
    assert_eq!(http.wait, Some(Duration::from_secs(60)));
    assert_eq!(http.tls.ca.as_deref(), Some(Path::new("/etc/penstock/ca.pem")));
    let Feed::Etcd(etcd) = feed(
        "kind = \"etcd\"\nurl = \"https://a:2379,https://b:2379\"\ncert = \"/c\"\nkey = \"k\"\nuser = \"u\"\npassword_file = \"p\"",
    ) else {
        panic!("another kind")
    };
    let identity = etcd.tls.identity.unwrap();
    assert_eq!((etcd.endpoints.len(), etcd.endpoints[1].host.as_str()), (2, "b"));
    assert_eq!((identity.cert.as_path(), identity.key.as_path()), (Path::new("/c"), Path::new("/etc/penstock/k")));
    assert_eq!(etcd.login.unwrap().password_file, Path::new("/etc/penstock/p"));
    assert_eq!(etcd.prefix, "/penstock/services/");
    let Feed::Kubernetes(kubernetes) = feed("kind = \"kubernetes\"") else { panic!("another kind") };
    assert_eq!((kubernetes.kubeconfig, kubernetes.namespace, kubernetes.nodes), (None, None, false));
    let keys = "kind = \"kubernetes\"\nkubeconfig = \"k\"\ncontext = \"edge\"\nnamespace = \"a-1\"\nhealth_check_node_ports = true";
    let Feed::Kubernetes(kubernetes) = feed(keys) else { panic!("another kind") };
    assert_eq!(kubernetes.kubeconfig.as_deref(), Some(Path::new("/etc/penstock/k")));
    assert_eq!((kubernetes.context.as_deref(), kubernetes.namespace.as_deref()), (Some("edge"), Some("a-1")));
    assert!(kubernetes.nodes);
}

#[test]
fn a_secret_that_goes_out_unencrypted_is_warned_of() {
    let warnings = |url: &str| {
        let document = format!("{LEAST}[feed]\nkind = \"http\"\nurl = \"{url}\"\ntoken_file = \"t\"");
        Config::read(document, "p").unwrap().1.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let warning =
        "p: feed.url: http://feed/ is not encrypted, so anybody on the way can read what `token_file` holds; use https";
    assert_eq!(warnings("http://feed"), [warning]);
    assert!(warnings("https://feed").is_empty());
    assert!(warnings("http://127.0.0.1:8080").is_empty());
}

#[test]
fn metrics_can_be_turned_off() {
    assert_eq!(read(&format!("{LEAST}[metrics]\nlisten = \"none\"")).metrics.listen, None);
}

#[test]
fn the_compiler_gets_what_the_configuration_says() {
    let config = read(WHOLE);
    let (environment, fabric) = (config.environment(), config.fabric());
    assert_eq!((environment.lcores, environment.table_size, environment.seed[1]), (2, 251, 1));
    assert_eq!(fabric.ports.iter().map(|port| port.mac).collect::<Vec<_>>(), [Mac([2, 0, 0, 0, 0, 7]), REPLAY_MAC]);
    assert_eq!((fabric.ports[0].mtu, fabric.ports[0].promiscuous, fabric.ports[1].promiscuous), (9000, true, false));
    assert_eq!((fabric.own.as_slice(), fabric.neighbors[0].port.0), (&[IpAddr::from([10, 0, 0, 1])][..], 1));
    assert_eq!(fabric.routes[0].via, Some(IpAddr::from([10, 0, 0, 254])));
    let of_device = Mac([6, 0, 0, 0, 0, 1]);
    assert_eq!(config.fabric_on(|_| of_device).ports[1].mac, of_device);
}

#[test]
fn of_two_entries_the_last_counts_and_is_warned_of() {
    let again = "[[neighbor]]\naddress = \"10.0.0.254\"\nmac = \"02:00:00:00:00:fd\"\nport = \"wan0\"\n[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"10.0.0.253\"";
    let (_, warnings) = Config::read(format!("{WHOLE}{again}"), "p").unwrap();
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "p: neighbor[1].address: 10.0.0.254 is neighbor[0] already; this one counts",
            "p: route[1].prefix: 0.0.0.0/0 is route[0] already; this one counts",
        ]
    );
}

#[test]
fn definitions_must_fit_the_node() {
    let definitions = |more: &str| {
        let text = format!(
            r#"{{"services": [{{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", {more}
            "backends": [{{"address": "10.1.0.1"}}, {{"address": "10.1.0.2"}}, {{"address": "10.1.0.3"}}, {{"address": "10.1.0.4"}}]}}]}}"#
        );
        service::native(text, "s", None).unwrap().0
    };
    let said = |config: &str, more: &str| {
        fit(&read(config), &definitions(more), "s.json").map_err(|errors| errors.to_string())
    };
    let small = format!("{LEAST}table_size = 3");
    assert_eq!(said(WHOLE, r#""forwarding": "ipip","#), Ok(()));
    assert_eq!(said(LEAST, r#""forwarding": "dnat","#), Ok(()));
    assert_eq!(said(&small, r#""forwarding": "dnat", "table_size": 5,"#), Ok(()));
    assert_eq!(
        said(LEAST, r#""forwarding": "ipip","#),
        Err("s.json: services[0].forwarding: \"ipip\" needs an outer source address, and the node has none to send to 10.1.0.1 from: \
             set [encap] ipv4_source in its configuration"
            .to_owned())
    );
    assert_eq!(
        said(&small, r#""forwarding": "dnat","#),
        Err("s.json: services[0].backends: 4 backends do not fit into the node's tables of 3 slots; set a larger table_size".to_owned())
    );
}

#[test]
fn checks_through_a_service_need_a_twin_an_address_and_ports_of_their_own() {
    let text = r#"{"services": [{"name": "web", "vip": "2001:db8::1", "port": 80, "protocol": "tcp", "forwarding": "dnat",
        "health_check": {"kind": "tcp", "target": "vip"}, "backends": [{"address": "fd00:1::1"}]}]}"#;
    let definitions = service::native(text, "s", None).unwrap().0;
    let said = |config: &str| match fit(&read(config), &definitions, "s.json") {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string().replace("s.json: services[0].health_check.target: ", ""),
    };
    assert_eq!(said(WHOLE), "");
    assert_eq!(
        said(&WHOLE.replace("twin = \"wan0\"\n", "")),
        "\"vip\" needs a kernel twin, by which the backends' answers come back, and no [[port]] of the node has one: set twin there, or use \"backend\""
    );
    let twin = LEAST.replace("[[port]]", "[[port]]\ntwin = \"wan0\"");
    assert_eq!(
        said(&twin),
        "\"vip\" needs an address of the node's own to ask from, and none of this family is known: set [health] ipv6_source in its configuration"
    );
    assert_eq!(said(&twin.replace("[[port]]", "[[port]]\naddresses = [\"fd00::1\"]")), "");
    assert_eq!(
        said(&twin.replace("[[port]]", "[[port]]\naddresses = [\"2001:db8::1\"]")),
        "\"vip\" asks from 2001:db8::1, which is the VIP: set another [health] ipv6_source in the node's configuration, or use \"backend\""
    );
    // An address that `snat` takes ports of, too, and ports that it takes.
    let shared = WHOLE.replace("ipv6_source = \"fd00::2\"", "ipv6_source = \"fd00::1\"");
    assert_eq!(said(&shared), "");
    assert_eq!(
        said(&shared.replace("ports = \"61000-65535\"", "ports = \"30000-40000\"")),
        "\"vip\" asks from fd00::1, ports 30000-40000, and of these \"snat\" has some (1024-32767): set [health] ports, or those of [snat], in the node's configuration"
    );
}

#[test]
fn a_service_at_the_nodes_own_address_takes_no_answers_of_checks() {
    let said = |config: &str, vip: &str, port: &str| {
        let text = format!(
            r#"{{"services": [{{"name": "web", "vip": "{vip}", "port": "{port}", "protocol": "tcp", "forwarding": "ipip",
            "backends": [{{"address": "10.1.0.1"}}]}}]}}"#
        );
        let definitions = service::native(text, "s", None).unwrap().0;
        fit(&read(config), &definitions, "s.json").err().map(|errors| errors.to_string())
    };
    let reason = |own: &str, ports: &str, key: &str| {
        format!(
            "s.json: services[0].port: of {own} the node itself needs ports {ports}, to which answers to health checks through services \
             come: leave them out, or set another [health] ports or {key} in the node's configuration"
        )
    };
    let v4 = Some(reason("10.0.0.2", "61000-65535", "ipv4_source"));
    assert_eq!(said(WHOLE, "10.0.0.2", "60000-61000"), v4);
    assert_eq!(said(WHOLE, "10.0.0.0/24", "65535-65535"), v4);
    assert_eq!(said(WHOLE, "fd00::2", "61000-61001"), Some(reason("fd00::2", "61000-65535", "ipv6_source")));
    // Beside them, at another address, with other ports for checks, and where none goes through.
    assert_eq!(said(WHOLE, "10.0.0.2", "1-60999"), None);
    assert_eq!(said(WHOLE, "10.0.0.1", "60000-61000"), None);
    assert_eq!(said(&WHOLE.replace("61000-65535", "62000-62999"), "10.0.0.2", "60000-61000"), None);
    assert_eq!(said(&WHOLE.replace("twin = \"wan0\"\n", ""), "10.0.0.2", "60000-61000"), None);
}

const NO_DURATION: &str = "written like \"2h4m\" or \"500ms\"";

/// `LEAST` or `WHOLE` with a text replaced by another, and the errors.
fn broken() -> Vec<(String, Vec<String>)> {
    let mac = "is not the MAC address of one station, six bytes like 02:00:00:00:00:01 (not a group's, whose first byte is odd, nor all zeros)";
    let cases: Vec<(&str, &str, String)> = vec![
        ("lcores = [1, 2]", "", "dpdk.lcores: required, but absent. CPU numbers of the polling cores, for example [1]; the control side runs on the others.".into()),
        ("lcores = [1, 2]", "lcores = []", "dpdk.lcores: 0 given, at least 1 needed".into()),
        ("lcores = [1, 2]", "lcores = [1, 1]", "dpdk.lcores[1]: CPU 1 is named twice".into()),
        ("lcores = [1, 2]", "lcores = [-1]", "dpdk.lcores[0]: -1 is not a number from 0 to 1023".into()),
        ("lcores = [1, 2]", "lcores = 1", "dpdk.lcores: 1 is not a list".into()),
        ("idle = \"sleep\"", "idle = \"slep\"", "dpdk.idle: \"slep\" is not one of poll, pause, sleep; did you mean \"sleep\"?".into()),
        ("mempool_mbufs = 65535", "mempool_mbufs = 64", "dpdk.mempool_mbufs: 64 is not a number from 1023 to 67108864".into()),
        ("[icmp]", "[icpm]", "icpm: unknown key; did you mean \"icmp\"?".into()),
        ("burst = 7", "bursts = 7", "icmp.bursts: unknown key; did you mean \"burst\"?".into()),
        ("stop_grace = \"5s\"", "stop_grace = 5", format!("node.stop_grace: 5 is not a duration from 0ms to 1h, {NO_DURATION}")),
        ("stop_grace = \"5s\"", "stop_grace = 2026-11-23", format!("node.stop_grace: an object is not a duration from 0ms to 1h, {NO_DURATION}")),
        ("name = \"lan0\"", "name = \"lan0\"\ntwin = \"wan0\"", "port[1].twin: \"wan0\" is the twin of port[0] already".into()),
        ("device = \"0000:03:00.0\"", "device = \"net_af_packet0,iface=veth0\"", "port[1].device: \"net_af_packet0,iface=veth0\" is the device of port[0] already".into()),
        ("device = \"0000:03:00.0\"", "", "port[0].device: required, but absent. A PCI address like \"0000:03:00.0\", or a virtual device like \"net_af_packet0,iface=veth0\".".into()),
        ("mtu = 9000", "mtu = 100", "port[0].mtu: 100 is not a number from 576 to 9710".into()),
        ("mac = \"02:00:00:00:00:07\"", "mac = \"03:00:00:00:00:07\"", format!("port[0].mac: \"03:00:00:00:00:07\" {mac}")),
        ("mac = \"02:00:00:00:00:fe\"", "mac = \"02-00-00-00-00-fe\"", format!("neighbor[0].mac: \"02-00-00-00-00-fe\" {mac}")),
        ("twin = \"wan0\"", "twin = \"a-name-that-is-too-long\"", "port[0].twin: \"a-name-that-is-too-long\" is not the name of a network interface: 1 to 15 bytes, no spaces, slashes or colons".into()),
        ("ipv4_source = \"10.0.0.1\"", "ipv4_source = \"fd00::1\"", "encap.ipv4_source: \"fd00::1\" is not an IPv4 address".into()),
        ("ipv4_source = \"10.0.0.1\"", "ipv4_source = \"0.0.0.0\"", "encap.ipv4_source: 0.0.0.0 is not the address of one host".into()),
        ("ipv4_source = \"10.0.0.1\"", "rss_source_v4 = \"fd00::/16\"", "encap.rss_source_v4: fd00::/16 is of the other family; give a prefix like 100.64.0.0/16".into()),
        ("ipv4_source = \"10.0.0.1\"", "rss_source_v4 = \"224.0.0.0/8\"", "encap.rss_source_v4: 224.0.0.0/8 is a multicast address; the receivers' replies and errors come back to it".into()),
        ("ports = \"1024-32767\"", "ports = \"0-9\"", "snat.ports: \"0-9\" is not a range of ports like \"8000-8099\"".into()),
        ("seed = \"AAECAwQFBgcICQoLDA0ODw==\"", "", "hash.seed: required, but absent. The same on every node of a fleet; make one with: head -c 16 /dev/urandom | base64".into()),
        ("seed = \"AAECAwQFBgcICQoLDA0ODw==\"", "seed = \"AAECAwQF\"", "hash.seed: \"AAECAwQF\" is not 16 bytes in base64; make them with: head -c 16 /dev/urandom | base64".into()),
        ("table_size = 251", "table_size = 65536", "hash.table_size: 65536 is not a prime from 3 to 16777216".into()),
        ("hold = \"0ms\"", "hold = \"11s\"", format!("fragments.hold: \"11s\" is not a duration from 0ms to 10s, {NO_DURATION}")),
        ("port = \"lan0\"", "port = \"lan1\"", "neighbor[0].port: no [[port]] has the name \"lan1\"; did you mean \"lan0\"?".into()),
        ("port = \"lan0\"", "port = \"lan0\"\nvlan = 4095", "neighbor[0].vlan: 4095 is not a number from 1 to 4094".into()),
        ("prefix = \"0.0.0.0/0\"", "prefix = \"0.0.0.0\"", "route[0].prefix: \"0.0.0.0\" is not a prefix like \"198.51.100.0/24\" (one address: \"/32\" or \"/128\")".into()),
        ("prefix = \"0.0.0.0/0\"", "prefix = \"::/0\"", "route[0].via: 10.0.0.254 and the prefix ::/0 are of different families".into()),
        ("kind = \"file\"", "kind = \"fiel\"", "feed.kind: \"fiel\" is not one of file, http, grpc, etcd, kubernetes, none; did you mean \"file\"?".into()),
        ("kind = \"file\"", "url = \"http://x\"", "feed.url: belongs to a feed of kind http or grpc or etcd, and this one's is \"file\"; leave it out".into()),
        ("kind = \"file\"", "kind = \"file\"\nprefix = \"/x/\"", "feed.prefix: belongs to a feed of kind etcd, and this one's is \"file\"; leave it out".into()),
        ("forwarding = \"ipip\"", "forwarding = \"geu\"", "feed.forwarding: \"geu\" is not one of ipip, gre, gue, geneve, dscp, l2dsr, dnat, dnat-dsr, snat; did you mean \"gue\"?".into()),
        ("forwarding = \"ipip\"", "forwarding = \"dscp\"", "feed.forwarding: \"dscp\" needs a code point for each service; let those services that want it say so by the annotations penstock.io/forwarding and penstock.io/dscp".into()),
        ("{node-1 = \"10.0.9.1\"}", "{node-1 = \"127.0.0.1\"}", "feed.node_addresses.node-1: 127.0.0.1 is a loopback address; a node is asked there".into()),
        ("{node-1 = \"10.0.9.1\"}", "{node-1 = \"x\"}", "feed.node_addresses.node-1: \"x\" is not an IPv4 or IPv6 address".into()),
        ("listen = \"127.0.0.1:9342\"", "listen = 9342", "metrics.listen: 9342 is not an address and port like \"127.0.0.1:9341\", or \"none\"".into()),
        ("\"unix:/run/penstock/api.sock\"", "\"unix:api.sock\"", "api.listen[0]: \"unix:api.sock\" is not \"unix:\" and the path of a socket, or an address and port".into()),
        ("[flows]", "[flows", "line 49, column 7: not TOML: unclosed table, expected `]`".into()),
        ("[flows]", "[hash]", "line 49, column 2: not TOML: duplicate key".into()),
        ("burst = 7", "burst = 7\nburst = 8", "line 30, column 1: not TOML: duplicate key".into()),
    ];
    let mut broken: Vec<_> = cases
        .into_iter()
        .map(|(from, to, error)| {
            assert!(WHOLE.contains(from), "{from}");
            (WHOLE.replacen(from, to, 1), vec![error])
        })
        .collect();
    let feeds: &[(&str, &[&str])] = &[
        ("kind = \"http\"", &["url: required for a feed of kind \"http\", but absent"]),
        ("kind = \"etcd\"", &["url: required for a feed of kind \"etcd\", but absent"]),
        (
            "kind = \"http\"\nurl = \"feed:80\"",
            &[
                "url: \"feed:80\" is not a URL like \"https://feed.example:8443/services.json\", without user, password and fragment",
            ],
        ),
        ("kind = \"http\"\nurl = \"https://a,https://b\"", &["url: an http feed has one URL, without commas"]),
        (
            "kind = \"http\"\nurl = \"http://a\"\nca = \"ca.pem\"",
            &["ca: means something only with https, and the feed is http://a/"],
        ),
        ("kind = \"http\"\nurl = \"https://a\"\ncert = \"c.pem\"", &["key: absent, and goes together with `cert`"]),
        ("kind = \"http\"\nurl = \"https://a\"\nkey = \"k.pem\"", &["cert: absent, and goes together with `key`"]),
        (
            "kind = \"http\"\nurl = \"https://a\"\npath = \"s\"\nuser = \"u\"",
            &[
                "path: belongs to a feed of kind file, and this one's is \"http\"; leave it out",
                "user: belongs to a feed of kind etcd, and this one's is \"http\"; leave it out",
            ],
        ),
        (
            "kind = \"http\"\nurl = \"https://a\"\nmax_bytes = 5",
            &["max_bytes: 5 is not a number from 1024 to 1073741824"],
        ),
        (
            "kind = \"etcd\"\nurl = \"https://a/v3\"",
            &["url: https://a/v3 has a path, and etcd has none; `prefix` is what keys begin with"],
        ),
        (
            "kind = \"etcd\"\nurl = \"https://a\"\nuser = \"u\"",
            &["password_file: absent, and goes together with `user`"],
        ),
        (
            "kind = \"etcd\"\nurl = \"https://a\"\nuser = \"u\"\npassword_file = \"p\"\ntoken_file = \"t\"",
            &["token_file: either this, or `user` and `password_file`"],
        ),
        (
            "kind = \"kubernetes\"\nurl = \"https://a\"\nca = \"ca.pem\"",
            &[
                "url: belongs to a feed of kind http or grpc or etcd, and this one's is \"kubernetes\"; leave it out",
                "ca: belongs to a feed of kind http or grpc or etcd, and this one's is \"kubernetes\"; leave it out",
            ],
        ),
        ("kind = \"kubernetes\"\ncontext = \"edge\"", &["kubeconfig: absent, and `context` is one of those in it"]),
        (
            "kind = \"kubernetes\"\nnamespace = \"Shop\"",
            &[
                "namespace: \"Shop\" is not the name of a namespace: lower-case letters, digits and dashes within, at most 63",
            ],
        ),
        (
            "kind = \"kubernetes\"\nlabel_selector = \" \"",
            &["label_selector: \" \" is not a selector of labels like \"tier=edge,zone in (a, b)\""],
        ),
        (
            "kind = \"etcd\"\nurl = \"https://a\"\nnamespace = \"shop\"",
            &["namespace: belongs to a feed of kind kubernetes, and this one's is \"etcd\"; leave it out"],
        ),
        (
            "kind = \"etcd\"\nurl = \"https://a\"\nprefix = \"\"",
            &["prefix: \"\" is not a prefix of keys, at least one character, none of them a control character"],
        ),
    ];
    broken.extend(feeds.iter().map(|(feed, errors)| {
        (format!("{LEAST}[feed]\n{feed}"), errors.iter().map(|error| format!("feed.{error}")).collect())
    }));
    let empty = [
        "dpdk: required, but absent. Cores and memory; `lcores` has no default.",
        "port: required, but absent. One [[port]] for each NIC or virtual device.",
        "hash: required, but absent. How flows are spread; `seed` has no default.",
    ];
    broken.push((String::new(), empty.map(str::to_owned).to_vec()));
    broken.push((
        WHOLE.replacen("name = \"lan0\"", "name = \"wan0\"", 1),
        vec![
            "port[1].name: \"wan0\" is the name of port[0] already".to_owned(),
            "neighbor[0].port: no [[port]] has the name \"lan0\"; did you mean \"wan0\"?".to_owned(),
        ],
    ));
    let too_many: String = (0..251).map(|k| format!("[[port]]\nname = \"p{k}\"\ndevice = \"net_null{k}\"\n")).collect();
    let [_, rest] = LEAST.split("[hash]").collect::<Vec<_>>()[..] else { panic!("one [hash]") };
    broken.push((
        format!("[dpdk]\nlcores = [1]\n{too_many}[hash]{rest}"),
        vec!["port: 251 given, at most 250 are taken".to_owned()],
    ));
    broken
}

#[test]
fn every_error_says_what_where_and_why() {
    let mut wrong = Vec::new();
    for (document, expected) in broken() {
        let said: Vec<_> = match Config::read(&document, "penstock.toml") {
            Ok(_) => vec!["accepted".to_owned()],
            Err(errors) => errors.to_string().lines().map(|line| line.replacen("penstock.toml: ", "", 1)).collect(),
        };
        if said != expected {
            wrong.push(format!("said     {said:#?}\nexpected {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every document of these tests, for the test that the JSON Schema says the same.
pub(crate) fn documents() -> Vec<String> {
    broken().into_iter().map(|(document, _)| document).chain([LEAST.to_owned(), WHOLE.to_owned()]).collect()
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Config::read(bytes, "c");
    }

    #[test]
    fn a_mutated_document_never_panics(
        changes in proptest::collection::vec(
            (any::<proptest::sample::Index>(), proptest::sample::select(b"[]={}\",.\n#-19 \xff".to_vec()), any::<bool>()), 1..6),
    ) {
        let mut document = WHOLE.as_bytes().to_vec();
        for (at, byte, insert) in changes {
            let at = at.index(document.len());
            if insert { document.insert(at, byte) } else { document[at] = byte }
        }
        let _ = Config::read(document, "c");
    }
}
