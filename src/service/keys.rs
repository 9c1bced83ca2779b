//! Every key of a document of service definitions: its values, its default, what it means.

use super::shape::Otherwise::{Bool, Integer, Text};
use super::shape::{Format, Key, Shape, format};
use super::{AllDown, ByteOrder, CheckKind, CheckTarget, Hash, NoBackend, Protocol, State, Tracking};
use ipnet::IpNet;
use std::net::IpAddr;

/// A port that a packet can be sent to.
const PORT: Shape = Shape::Integer { least: 1, most: 65535 };

/// Most slots of a Maglev table: 32 MB at two bytes each, far more than the field uses.
pub const TABLE_SIZE: Shape = Shape::Prime { least: 3, most: 1 << 24 };

static VIP: Format = Format {
    what: "an IPv4 or IPv6 address, or a prefix",
    pattern: r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$",
    holds: |text| text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok(),
};

static URL_PATH: Format = Format {
    what: "the path of a URL, which begins with \"/\" and has neither spaces nor control characters",
    pattern: r"^/[^\x00-\x20\x7f]*$",
    holds: |text| text.starts_with('/') && !text.bytes().any(|byte| byte <= b' ' || byte == 0x7f),
};

static HOST: Format = Format {
    what: "a host name, perhaps with a port",
    pattern: r"^[^\x00-\x20\x7f/]{1,255}$",
    holds: |text| {
        (1..=255).contains(&text.chars().count())
            && !text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'/')
    },
};

pub static DEFINITIONS: &[Key] = &[
    Key::optional("version", Shape::Text(&format::ANY), "Any text that names this version; shown in metrics and logs."),
    Key::required("services", Shape::list(&Shape::Object(SERVICE)), "The services; [] for none."),
];

pub static SERVICE: &[Key] = &[
    Key::required("name", Shape::Text(&format::NAME), "A name of its own, for metrics and commands."),
    Key::required("vip", Shape::Text(&VIP), "The address that clients connect to, or a prefix of addresses."),
    Key::required(
        "port",
        Shape::IntegerOr { least: 0, most: 65535, format: &format::PORTS },
        "1 to 65535; 0 for all ports; or a range like \"8000-8099\".",
    ),
    Key::required("protocol", Shape::Choice(Protocol::NAMES), "\"tcp\" or \"udp\"."),
    Key::required("forwarding", Shape::Choice(FORWARDING), "What is done to a packet so that it reaches its backend."),
    Key::required("backends", Shape::list(&Shape::Object(BACKEND)), "The addresses that serve it; [] for none."),
    Key::default("hash", Shape::Choice(HASH), Text("five-tuple"), "What of a packet chooses its backend."),
    Key::optional("quic", Shape::Object(QUIC), "Routable connection IDs, for \"hash\": \"quic-cid\"."),
    Key::optional(
        "tracking",
        Shape::Choice(Tracking::NAMES),
        "Which flows are remembered; by default \"transition\" for tcp, \"full\" for udp.",
    ),
    Key::optional(
        "dscp",
        Shape::Integer { least: 1, most: 63 },
        "The code point that names the VIP to a backend, for \"dscp\".",
    ),
    Key::default(
        "no_backend",
        Shape::Choice(NO_BACKEND),
        Text("drop"),
        "What a packet gets when no backend may take it.",
    ),
    Key::default(
        "all_down",
        Shape::Choice(AllDown::NAMES),
        Text("drop"),
        "When every backend fails its health check: drop, or use them all.",
    ),
    Key::optional("source_ranges", Shape::list(&RANGE), "Clients that may use the service; absent or []: all."),
    Key::optional("deny_ranges", Shape::list(&RANGE), "Clients that may not, whatever source_ranges says."),
    Key::optional(
        "affinity_timeout",
        Shape::Duration { least: "1s", most: "365d" },
        "How long a client that comes back meets the same backend, with \"hash\": \"source-ip\" and \"tracking\": \"full\".",
    ),
    Key::optional("idle_timeout", Shape::Object(IDLE_TIMEOUT), "When a silent flow is forgotten."),
    Key::optional("table_size", TABLE_SIZE, "Slots of the Maglev table; by default the node's."),
    Key::default(
        "udp_checksum",
        Shape::Bool,
        Bool(false),
        "Whether the outer UDP header of \"gue\" and \"geneve\" has a checksum.",
    ),
    Key::default(
        "byte_order",
        Shape::Choice(ByteOrder::NAMES),
        Text("network"),
        "Of the VIP that \"dnat-dsr\" writes.",
    ),
    Key::optional("gue", Shape::Object(GUE), "Details of \"gue\"."),
    Key::optional("geneve", Shape::Object(GENEVE), "Details of \"geneve\"."),
    Key::optional(
        "health_check",
        Shape::Object(HEALTH_CHECK),
        "How backends are checked; a backend is up until it has failed.",
    ),
];

pub static BACKEND: &[Key] = &[
    Key::required("address", Shape::Text(&format::ADDRESS), "An IPv4 or IPv6 address."),
    Key::optional("port", PORT, "Where the mode can change ports; elsewhere the service's, or absent."),
    Key::default(
        "weight",
        Shape::Integer { least: 0, most: 65535 },
        Integer(100),
        "Its share of new flows; 0: no new flow.",
    ),
    Key::default(
        "state",
        Shape::Choice(State::NAMES),
        Text("active"),
        "\"draining\" keeps its flows and gets no new one, \"down\" gets nothing.",
    ),
    Key::optional(
        "tunnel_endpoint",
        Shape::Text(&format::ADDRESS),
        "The outer destination of \"geneve\"; by default the address.",
    ),
    Key::optional(
        "server_id",
        Shape::Text(&format::HEX),
        "Its ID within QUIC connection IDs, for \"hash\": \"quic-cid\".",
    ),
];

static QUIC: &[Key] = &[
    Key::required("config_id", Shape::Integer { least: 0, most: 6 }, "The first three bits of a connection ID."),
    // QUIC-LB: connection IDs have at most 20 bytes, one of them the first, and at least four of a nonce.
    Key::required("server_id_length", Shape::Integer { least: 1, most: 15 }, "Bytes of a server ID."),
];

static IDLE_TIMEOUT: &[Key] = &[
    Key::default("tcp", IDLE, Text("2h4m"), "An established TCP flow (RFC 5382)."),
    Key::default("tcp_closing", IDLE, Text("2m"), "A TCP flow after FIN or RST."),
    Key::default("udp", IDLE, Text("60s"), "A UDP flow."),
];

static GUE: &[Key] = &[
    Key::default(
        "variant",
        Shape::Integer { least: 0, most: 1 },
        Integer(0),
        "1: IP directly in UDP, without a GUE header.",
    ),
    Key::optional("port", PORT, "UDP destination; by default 6080, for variant 1 9886."),
];

static GENEVE: &[Key] = &[
    Key::default("port", PORT, Integer(6081), "UDP destination."),
    Key::default("vni", Shape::Integer { least: 0, most: (1 << 24) - 1 }, Integer(2), "Virtual network identifier."),
    Key::default("inner_destination", Shape::Text(&format::MAC), Text("02:00:00:00:00:02"), "MAC address."),
    Key::default("inner_source", Shape::Text(&format::MAC), Text("02:00:00:00:00:01"), "MAC address."),
];

static HEALTH_CHECK: &[Key] = &[
    Key::required("kind", Shape::Choice(CheckKind::NAMES), "What a probe is."),
    Key::default(
        "target",
        Shape::Choice(CheckTarget::NAMES),
        Text("backend"),
        "\"backend\": its address; \"vip\": through the service's own forwarding mode to the VIP.",
    ),
    Key::optional("port", PORT, "By default the port that the backend serves on."),
    Key::default("path", Shape::Text(&URL_PATH), Text("/"), "What http and https ask for."),
    Key::optional("host", Shape::Text(&HOST), "The Host header (and SNI) of http and https."),
    Key::default(
        "expect_status",
        Shape::Integer { least: 100, most: 599 },
        Integer(200),
        "Status of a good answer to http and https.",
    ),
    Key::default("interval", PROBE, Text("2s"), "Between the beginnings of two probes."),
    Key::default("timeout", PROBE, Text("1s"), "A probe without an answer for so long has failed."),
    Key::default("rise", PROBES, Integer(2), "Good probes in a row that bring a backend up."),
    Key::default("fall", PROBES, Integer(3), "Failed probes in a row that take it down."),
];

const RANGE: Shape = Shape::Text(&format::PREFIX);
const IDLE: Shape = Shape::Duration { least: "1s", most: "365d" };
const PROBE: Shape = Shape::Duration { least: "10ms", most: "1h" };
const PROBES: Shape = Shape::Integer { least: 1, most: 1000 };
const FORWARDING: &[&str] = super::Forwarding::NAMES;
const HASH: &[&str] = Hash::NAMES;
const NO_BACKEND: &[&str] = NoBackend::NAMES;
