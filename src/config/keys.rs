//! Every key of the node's configuration: its values, its default, what it means. The one place for all three.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::url::{self, Url};
use super::{FeedKind, Idle, Listen, Role};
use crate::service::Forwarding;
use crate::service::keys::TABLE_SIZE;
use crate::service::shape::Otherwise::{Bool, Integer, Text};
use crate::service::shape::{Format, Key, Shape, format};

/// Ports that a node can have: a port is one byte to an lcore, and a few values of it mean other things.
pub const MOST_PORTS: usize = 250;

pub static CONFIG: &[Key] = &[
    Key::optional("node", Shape::Object(NODE), "The node itself."),
    Key::required("dpdk", Shape::Object(DPDK), "Cores and memory; `lcores` has no default."),
    Key::required(
        "port",
        Shape::List { of: &Shape::Object(PORT), least: 1, most: MOST_PORTS },
        "One [[port]] for each NIC or virtual device.",
    ),
    Key::optional("icmp", Shape::Object(ICMP), "ICMP errors that the node makes, all lcores together; a token bucket."),
    Key::optional("encap", Shape::Object(ENCAP), "Outer headers of tunnels."),
    Key::optional("snat", Shape::Object(SNAT), "Source addresses and ports of \"snat\", shared out among the lcores."),
    Key::optional(
        "health",
        Shape::Object(HEALTH),
        "Where health checks come from that go through a service (\"target\": \"vip\").",
    ),
    Key::required("hash", Shape::Object(HASH), "How flows are spread; `seed` has no default."),
    Key::optional("flows", Shape::Object(FLOWS), "Flow memory."),
    Key::optional("fragments", Shape::Object(FRAGMENTS), "IP fragments."),
    Key::optional(
        "neighbor",
        Shape::list(&Shape::Object(NEIGHBOR)),
        "Static next hops; the kernel's are added to these.",
    ),
    Key::optional("route", Shape::list(&Shape::Object(ROUTE)), "Static routes; the kernel's are added to these."),
    Key::optional("feed", Shape::Object(FEED), "Where service definitions come from."),
    Key::optional("api", Shape::Object(API), "The gRPC API."),
    Key::optional("metrics", Shape::Object(METRICS), "The HTTP endpoints /metrics, /healthz, /readyz."),
];

static NODE: &[Key] = &[
    Key::default("name", Shape::Text(&format::NAME), Text("penstock"), "The node's name in logs."),
    Key::default("state_dir", Shape::Text(&FILE), Text("/var/lib/penstock"), "Directory of what outlives a restart."),
    Key::default(
        "stop_grace",
        Shape::Duration { least: "0ms", most: "1h" },
        Text("5s"),
        "After SIGTERM the node is not ready, but forwards so long.",
    ),
];

static DPDK: &[Key] = &[
    Key::required(
        "lcores",
        Shape::List { of: &Shape::Integer { least: 0, most: 1023 }, least: 1, most: 128 },
        "CPU numbers of the polling cores, for example [1]; the control side runs on the others.",
    ),
    Key::optional(
        "eal_args",
        Shape::list(&Shape::Text(&format::ANY)),
        "Arguments of DPDK's EAL, passed through as they are.",
    ),
    Key::default(
        "mempool_mbufs",
        Shape::Integer { least: 1023, most: 1 << 26 },
        Integer(65535),
        "Packet buffers of the node, about 2.3 KB each with the default data room; best a power of two less one.",
    ),
    Key::default(
        "mbuf_data_room",
        Shape::Integer { least: 1152, most: 65535 },
        Integer(2176),
        "Bytes of a packet buffer, 128 of them headroom.",
    ),
    Key::default("idle", Shape::Choice(Idle::NAMES), Text("poll"), "What an lcore does when nothing arrives."),
];

static PORT: &[Key] = &[
    Key::required("name", Shape::Text(&format::NAME), "A name of its own, for metrics and [[neighbor]]."),
    Key::required(
        "device",
        Shape::Text(&DEVICE),
        "A PCI address like \"0000:03:00.0\", or a virtual device like \"net_af_packet0,iface=veth0\".",
    ),
    // An IPv4 host accepts 576 bytes (RFC 791); 9710 is the most that common NICs take.
    Key::default("mtu", Shape::Integer { least: 576, most: 9710 }, Integer(1500), "Largest IP packet, bytes."),
    Key::optional("mac", Shape::Text(&format::MAC), "By default the device's own."),
    Key::optional(
        "addresses",
        Shape::list(&Shape::Text(&format::ADDRESS)),
        "The node's own addresses, added to the twin's.",
    ),
    Key::optional("twin", Shape::Text(&INTERFACE), "Name of the kernel twin, a persistent tap; absent: none."),
    Key::default("promiscuous", Shape::Bool, Bool(false), "Whether frames for other stations are taken too."),
];

static ICMP: &[Key] = &[
    Key::default(
        "errors_per_second",
        Shape::Integer { least: 0, most: 1_000_000 },
        Integer(1000),
        "The rate; 0: no more than `burst`, ever.",
    ),
    Key::default(
        "burst",
        Shape::Integer { least: 0, most: 1_000_000 },
        Integer(100),
        "How many at once; full at start.",
    ),
];

static ENCAP: &[Key] = &[
    Key::optional("ipv4_source", Shape::Text(&format::IPV4), "Outer source of IPv4 tunnels."),
    Key::optional("ipv6_source", Shape::Text(&format::IPV6), "Outer source of IPv6 tunnels."),
    Key::optional(
        "rss_source_v4",
        Shape::Text(&format::PREFIX),
        "Spreads the outer IPv4 source by flow over this prefix.",
    ),
    Key::optional(
        "rss_source_v6",
        Shape::Text(&format::PREFIX),
        "Spreads the outer IPv6 source by flow over this prefix.",
    ),
];

static SNAT: &[Key] = &[
    Key::optional("ipv4", Shape::list(&Shape::Text(&format::IPV4)), "Source addresses, IPv4."),
    Key::optional("ipv6", Shape::list(&Shape::Text(&format::IPV6)), "Source addresses, IPv6."),
    Key::default(
        "ports",
        Shape::Text(&format::PORTS),
        Text("1024-32767"),
        "Ports, apart from the kernel's own ephemeral ones.",
    ),
];

static HEALTH: &[Key] = &[
    Key::optional(
        "ipv4_source",
        Shape::Text(&format::IPV4),
        "An IPv4 address of the node's own; by default [encap]'s, else the first of [snat], else of a [[port]].",
    ),
    Key::optional("ipv6_source", Shape::Text(&format::IPV6), "The same of IPv6."),
    Key::default(
        "ports",
        Shape::Text(&format::PORTS),
        Text("61000-65535"),
        "Source ports, as many as checks may be under way: apart from the kernel's own ephemeral ones, and from [snat]'s.",
    ),
];

static HASH: &[Key] = &[
    Key::required(
        "seed",
        Shape::Text(&SEED),
        "The same on every node of a fleet; make one with: head -c 16 /dev/urandom | base64",
    ),
    Key::default("table_size", TABLE_SIZE, Integer(65537), "Slots of a Maglev table; a service may override it."),
];

static FLOWS: &[Key] = &[
    Key::default(
        "capacity",
        Shape::Integer { least: 1, most: 1 << 30 },
        Integer(1_048_576),
        "Flows an lcore remembers, 18 bytes each; and clients of `source-ip` affinity that the node does, 10 bytes each.",
    ),
    Key::default(
        "drain_timeout",
        Shape::Duration { least: "0s", most: "365d" },
        Text("1h"),
        "How long replies of an endpoint that left are still translated.",
    ),
];

static FRAGMENTS: &[Key] = &[Key::default(
    "hold",
    Shape::Duration { least: "0ms", most: "10s" },
    Text("0ms"),
    "How long a later fragment waits for its first.",
)];

static NEIGHBOR: &[Key] = &[
    Key::required("address", Shape::Text(&format::ADDRESS), "Its address."),
    Key::required("mac", Shape::Text(&format::MAC), "Its MAC address."),
    Key::required("port", Shape::Text(&format::NAME), "Name of the [[port]] that it is reached by."),
    Key::optional("vlan", Shape::Integer { least: 1, most: 4094 }, "VLAN tag that frames to it carry."),
];

static ROUTE: &[Key] = &[
    Key::required("prefix", Shape::Text(&format::PREFIX), "Where to, for example \"0.0.0.0/0\"."),
    Key::required("via", Shape::Text(&format::ADDRESS), "Address of the router."),
];

static FEED: &[Key] = &[
    Key::default("kind", Shape::Choice(FeedKind::NAMES), Text("file"), "What kind of feed; \"none\": the API alone."),
    Key::default(
        "path",
        Shape::Text(&FILE),
        Text("services.json"),
        "The file; relative to the configuration's directory.",
    ),
    Key::default(
        "forwarding",
        Shape::Choice(Forwarding::NAMES),
        Text("ipip"),
        "Mode of Kubernetes services that name none.",
    ),
    Key::optional(
        "load_balancer_class",
        Shape::Text(&format::NAME),
        "Only Kubernetes services of this class are taken.",
    ),
    Key::default(
        "health_check_node_ports",
        Shape::Bool,
        Bool(false),
        "Whether Kubernetes' healthCheckNodePort is probed.",
    ),
    Key::default(
        "node_ports",
        Shape::Bool,
        Bool(false),
        "Whether a Kubernetes nodePort is a service on the node's own addresses.",
    ),
    Key::optional(
        "node_addresses",
        Shape::Map(&Shape::Text(&format::ADDRESS)),
        "Addresses of Kubernetes nodes, by name.",
    ),
    Key::optional(
        "url",
        Shape::Text(&FEED_URL),
        "Where a feed on the network is; of etcd several members, with commas between.",
    ),
    Key::default(
        "poll_interval",
        Shape::Duration { least: "100ms", most: "1d" },
        Text("10s"),
        "How often an http feed is asked.",
    ),
    Key::optional(
        "wait",
        Shape::Duration { least: "1s", most: "1h" },
        "How long an http server may hold its answer back until there is something new (RFC 7240).",
    ),
    Key::default(
        "timeout",
        Shape::Duration { least: "100ms", most: "1h" },
        Text("30s"),
        "How long an answer of an http feed may take in all, `wait` not counted.",
    ),
    Key::default(
        "max_bytes",
        Shape::Integer { least: 1024, most: 1 << 30 },
        Integer(64 << 20),
        "Size of a set from a feed on the network, at most.",
    ),
    Key::optional("token_file", Shape::Text(&FILE), "File of a bearer token."),
    Key::optional("user", Shape::Text(&format::NAME), "User of etcd."),
    Key::optional("password_file", Shape::Text(&FILE), "File of the user's password."),
    Key::optional(
        "ca",
        Shape::Text(&FILE),
        "File of the certificates that the feed's own is checked by; absent: the system's.",
    ),
    Key::optional("cert", Shape::Text(&FILE), "File of the client certificate."),
    Key::optional("key", Shape::Text(&FILE), "File of its key."),
    Key::default(
        "prefix",
        Shape::Text(&PREFIX),
        Text("/penstock/services/"),
        "What keys in etcd begin with; the rest of a key is the service's name.",
    ),
    Key::optional(
        "kubeconfig",
        Shape::Text(&FILE),
        "How Kubernetes' API server is asked; absent: as the service account of the pod that this runs in.",
    ),
    Key::optional("context", Shape::Text(&format::NAME), "Context of the kubeconfig; absent: its current one."),
    Key::optional(
        "namespace",
        Shape::Text(&NAMESPACE),
        "The one that Kubernetes services are taken from; absent: all.",
    ),
    Key::optional(
        "label_selector",
        Shape::Text(&SELECTOR),
        "Labels that Kubernetes services must have, as for `kubectl get -l`.",
    ),
];

/// Keys of `[feed]` that mean something to some kinds of feed only.
pub const OF_FEEDS: &[(&str, &[FeedKind])] = &[
    ("path", &[FeedKind::File]),
    ("url", NETWORK),
    ("poll_interval", &[FeedKind::Http]),
    ("wait", &[FeedKind::Http]),
    ("timeout", &[FeedKind::Http]),
    ("max_bytes", &[FeedKind::Http, FeedKind::Grpc, FeedKind::Etcd, FeedKind::Kubernetes]),
    ("token_file", NETWORK),
    ("user", &[FeedKind::Etcd]),
    ("password_file", &[FeedKind::Etcd]),
    ("ca", NETWORK),
    ("cert", NETWORK),
    ("key", NETWORK),
    ("prefix", &[FeedKind::Etcd]),
    ("kubeconfig", &[FeedKind::Kubernetes]),
    ("context", &[FeedKind::Kubernetes]),
    ("namespace", &[FeedKind::Kubernetes]),
    ("label_selector", &[FeedKind::Kubernetes]),
];

const NETWORK: &[FeedKind] = &[FeedKind::Http, FeedKind::Grpc, FeedKind::Etcd];

static FEED_URL: Format = Format {
    what: url::WHAT,
    pattern: r"^[hH][tT][tT][pP][sS]?://[^\s#]+$",
    holds: |text| text.split(',').all(|url| url.parse::<Url>().is_ok()),
};

static PREFIX: Format = Format {
    what: "a prefix of keys, at least one character, none of them a control character",
    pattern: r"^[^\x00-\x1f\x7f-\x9f]+$",
    holds: |text| !text.is_empty() && !text.contains(char::is_control),
};

static NAMESPACE: Format = Format {
    what: "the name of a namespace: lower-case letters, digits and dashes within, at most 63",
    pattern: "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    holds: |text| {
        let is_kept = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        (1..=63).contains(&text.len())
            && text.chars().all(|letter| is_kept(letter) || letter == '-')
            && text.starts_with(is_kept)
            && text.ends_with(is_kept)
    },
};

/// Its grammar is the API server's to know.
static SELECTOR: Format = Format {
    what: "a selector of labels like \"tier=edge,zone in (a, b)\"",
    pattern: r"^[ -~]*[!-~][ -~]*$",
    holds: |text| !text.trim().is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '),
};

static API: &[Key] = &[
    Key::optional(
        "listen",
        Shape::list(&Shape::Text(&API_LISTEN)),
        "Unix sockets and TCP addresses; by default \"unix:/run/penstock/api.sock\", [] for none.",
    ),
    Key::optional("group", Shape::Text(&format::NAME), "The group that may use the Unix sockets (mode 0660)."),
    Key::optional("cert", Shape::Text(&FILE), "File of the node's certificate, for TLS on the TCP addresses."),
    Key::optional("key", Shape::Text(&FILE), "File of its key."),
    Key::optional("ca", Shape::Text(&FILE), "File of the certificates that callers' own are checked by."),
    Key::optional(
        "roles",
        Shape::Map(&Shape::Choice(Role::NAMES)),
        "What callers may do, by a DNS name in their certificate; \"*\" is everyone else, by default \"read\".",
    ),
];

static METRICS: &[Key] = &[
    Key::default("listen", Shape::Text(&METRICS_LISTEN), Text("127.0.0.1:9341"), "Address and port, or \"none\"."),
    Key::default(
        "most_backends",
        Shape::Integer { least: 0, most: 1 << 30 },
        Integer(10_000),
        "Where there are more backends, /metrics has a series only of those that are down.",
    ),
];

static FILE: Format = Format {
    what: "the name of a file or directory",
    pattern: r"^[^\x00]+$",
    holds: |text| !text.is_empty() && !text.contains('\0'),
};

static DEVICE: Format = Format {
    what: "a PCI address like \"0000:03:00.0\", or a virtual device like \"net_af_packet0,iface=veth0\"",
    pattern: r"^[^\s\x00]+$",
    holds: |text| !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter == '\0'),
};

static INTERFACE: Format = Format {
    what: "the name of a network interface: 1 to 15 bytes, no spaces, slashes or colons",
    pattern: r"^[^\s/:\x00]{1,15}$",
    holds: |text| {
        (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && !text.contains(|letter: char| letter.is_whitespace() || matches!(letter, '/' | ':' | '\0'))
    },
};

static SEED: Format = Format {
    what: "16 bytes in base64; make them with: head -c 16 /dev/urandom | base64",
    pattern: "^[A-Za-z0-9+/]{22}==$",
    holds: |text| seed(text).is_some(),
};

/// The bytes of a seed.
pub fn seed(text: &str) -> Option<[u8; 16]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

static API_LISTEN: Format = Format {
    what: "\"unix:\" and the path of a socket, or an address and port",
    pattern: "^(unix:/.*|.+:[0-9]+)$",
    holds: |text| text.parse::<Listen>().is_ok(),
};

static METRICS_LISTEN: Format = Format {
    what: "an address and port like \"127.0.0.1:9341\", or \"none\"",
    pattern: "^(none|.+:[0-9]+)$",
    holds: |text| text == "none" || text.parse::<SocketAddr>().is_ok(),
};
