//! What must hold between the keys of a service, and between services.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Display};
use std::hash::Hash as Hashable;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::claims::{Claims, endpoint_text};
use super::problem::Report;
use super::reader::{BackendDraft, Draft};
use super::shape::Object;
use super::{CheckKind, Forwarding, Hash, HealthCheck, IdleTimeout, MOST_BACKENDS, Protocol, State, Tracking};

/// The rules of one service by itself.
pub fn within(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    keys_of_their_mode(object, draft, report);
    vip(object, draft, report);
    tracking(object, draft, report);
    clients(object, draft, report);
    health_check(object, draft, report);
    for (backend, drafted) in object.objects("backends").zip(&draft.backends) {
        backend_port(&backend, drafted, draft, report);
        backend_address(&backend, drafted, draft, report);
        server_id(object, &backend, report);
    }
    backends(object, draft, report);
}

/// Keys that mean something in some modes only.
fn keys_of_their_mode(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    let belongs: [(&str, &[Forwarding]); 5] = [
        ("dscp", &[Forwarding::Dscp]),
        ("gue", &[Forwarding::Gue]),
        ("geneve", &[Forwarding::Geneve]),
        ("udp_checksum", &[Forwarding::Gue, Forwarding::Geneve]),
        ("byte_order", &[Forwarding::DnatDsr]),
    ];
    if let Some(mode) = draft.mode {
        for (key, modes) in belongs {
            if object.has(key) && !modes.contains(&mode) {
                report.error(
                    object.path.key(key),
                    format!("belongs to {}, and this service is {:?}; leave it out", modes_text(modes), mode.name()),
                );
            }
        }
        for backend in
            object.objects("backends").filter(|backend| backend.has("tunnel_endpoint") && mode != Forwarding::Geneve)
        {
            let reason = format!("belongs to \"geneve\", and this service is {:?}; leave it out", mode.name());
            report.error(backend.path.key("tunnel_endpoint"), reason);
        }
        if mode == Forwarding::Dscp && !object.has("dscp") {
            report.error(
                object.path.key("dscp"),
                "required by \"dscp\", but absent. Give the code point, 1 to 63, that names the VIP to the backends",
            );
        }
    }
    if let Some(hash) = draft.hash {
        if hash == Hash::QuicCid && !object.has("quic") {
            report.error(
                object.path.key("quic"),
                "required by \"quic-cid\", but absent. Give \"config_id\" and \"server_id_length\"",
            );
        }
        if hash != Hash::QuicCid && object.has("quic") {
            report.error(
                object.path.key("quic"),
                format!("belongs to \"hash\": \"quic-cid\", and this service's is {:?}; leave it out", hash.name()),
            );
        }
        if hash == Hash::QuicCid && draft.protocol == Some(Protocol::Tcp) {
            report.error(
                object.path.key("hash"),
                "\"quic-cid\" reads QUIC, which runs over udp, and this service is tcp",
            );
        }
    }
}

fn modes_text(modes: &[Forwarding]) -> String {
    modes.iter().map(|mode| format!("{:?}", mode.name())).collect::<Vec<_>>().join(" and ")
}

fn vip(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    let Some(vip) = draft.vip else { return };
    if vip.prefix_len() == vip.max_prefix_len() {
        if let Some(why) = not_one_station(vip.addr()) {
            report.error(object.path.key("vip"), format!("{} {why}; clients cannot connect to it", vip.addr()));
        }
    } else if draft.mode.is_some_and(|mode| mode.nature().replies_by_endpoint) {
        report.error(
            object.path.key("vip"),
            format!("{vip} is a prefix, and \"dnat\" needs one address, which its replies then carry"),
        );
    }
}

/// Why nothing can be sent to an address, if so.
pub fn not_one_station(address: IpAddr) -> Option<&'static str> {
    let zero_net = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    match () {
        () if address.is_unspecified() || zero_net => Some("names no host"),
        () if address.is_loopback() => Some("is a loopback address"),
        () if address.is_multicast() => Some("is a multicast address"),
        () if broadcast => Some("is the broadcast address"),
        () => None,
    }
}

fn tracking(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    if object.has("tracking") && draft.tracking == Some(Tracking::Transition) && draft.protocol == Some(Protocol::Udp) {
        let reason = "\"transition\" needs a SYN to tell a new flow by, and udp has none; use \"full\" or \"none\"";
        report.error(object.path.key("tracking"), reason);
    }
    if draft.tracking == Some(Tracking::None) && !draft.mode.is_some_and(|mode| mode.nature().keeps_flows) {
        for (backend, drafted) in object.objects("backends").zip(&draft.backends) {
            if drafted.state == Some(State::Draining) {
                let reason = "\"draining\" with \"tracking\": \"none\", which remembers no flow: its flows move, as under \"down\"";
                report.warn(backend.path.key("state"), reason);
            }
        }
    }
    if let Some(idle) = draft.idle_timeout {
        let most = Duration::from_secs(IdleTimeout::MOST.into());
        for (key, time) in [("tcp", idle.tcp), ("tcp_closing", idle.tcp_closing), ("udp", idle.udp)] {
            if time > most {
                let reason = "longer than 12d, and counts as that: so long is the memory of when a packet came";
                report.warn(object.path.key("idle_timeout").key(key), reason);
            }
        }
    }
    if draft.affinity_timeout.is_some() {
        if draft.hash.is_some_and(|hash| hash != Hash::SourceIp) {
            report.warn(object.path.key("affinity_timeout"), "ignored: it needs \"hash\": \"source-ip\"");
        } else if draft.tracking.is_some_and(|tracking| tracking != Tracking::Full) {
            report.warn(object.path.key("affinity_timeout"), "ignored: it needs \"tracking\": \"full\"");
        }
    }
}

/// Ranges of the other family match nobody: a mistake, where nothing else is listed.
fn clients(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    let Some(vip) = draft.vip else { return };
    let other = |range: &IpNet| range.addr().is_ipv4() != vip.addr().is_ipv4();
    if !draft.source_ranges.is_empty() && draft.source_ranges.iter().all(other) {
        report.warn(
            object.path.key("source_ranges"),
            format!("no client of {} is in any of these ranges: all are refused", vip.addr()),
        );
    }
}

fn health_check(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    let Some(check) = draft.health.as_ref().and_then(|health| health.check.as_ref()) else { return };
    let written = object.object("health_check");
    for key in ["path", "host", "expect_status"] {
        if written.has(key) && !check.kind.speaks_http() {
            let reason = format!(
                "belongs to \"http\" and \"https\", and this check's kind is {:?}; leave it out",
                check.kind.name()
            );
            report.error(written.path.key(key), reason);
        }
    }
    if written.has("port") && matches!(check.kind, CheckKind::Ping | CheckKind::None) {
        report.error(
            written.path.key("port"),
            format!("a check of kind {:?} has no port; leave it out", check.kind.name()),
        );
    }
    let several = draft.ports.is_some_and(|ports| ports.single().is_none());
    if several && check.port.is_none() && !matches!(check.kind, CheckKind::Ping | CheckKind::None) {
        report.error(
            written.path.key("port"),
            "required, but absent. The service has many ports: say which one is checked",
        );
    }
    if check.goes_through_the_service() {
        for (key, reason) in not_a_clients(check, draft) {
            report.error(written.path.key(key), reason);
        }
    }
}

/// Why a check cannot go through its service as a client's packets do, by key.
fn not_a_clients(check: &HealthCheck, draft: &Draft) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let kind = check.kind.name();
    let needed = match check.kind {
        CheckKind::Ping => {
            let reason = "an echo request to a VIP is answered by the load balancer itself, and says nothing of a backend; \
                          use \"tcp\", \"http\" or \"udp\", or \"target\": \"backend\"";
            return vec![("kind", reason.to_owned())];
        }
        CheckKind::Udp => Protocol::Udp,
        CheckKind::Tcp | CheckKind::Http | CheckKind::Https | CheckKind::None => Protocol::Tcp,
    };
    if let Some(protocol) = draft.protocol.filter(|&protocol| protocol != needed) {
        let reason = format!(
            "{kind:?} needs {:?}, and goes through a service of {:?}; use \"target\": \"backend\"",
            needed.name(),
            protocol.name()
        );
        found.push(("kind", reason));
    }
    if let (Some(port), Some(ports)) = (check.port, draft.ports)
        && !ports.contains(port)
    {
        let reason = format!(
            "the check goes through the service, and {port} is not its port ({ports}); leave it out, or use \"target\": \"backend\""
        );
        found.push(("port", reason));
    }
    found
}

fn backend_port(backend: &Object<'_>, drafted: &BackendDraft, service: &Draft, report: &mut Report) {
    let (Some(port), Some(ports), Some(mode)) = (drafted.port, service.ports, service.mode) else { return };
    let reason = match ports.single() {
        Some(own) if port != own && !mode.nature().changes_port => {
            format!(
                "{port} differs from the service's {own}, and {:?} cannot change ports; leave it out, or use \"dnat\"",
                mode.name()
            )
        }
        None => "a service of several ports keeps the port of each packet; leave it out".to_owned(),
        Some(_) => return,
    };
    report.error(backend.path.key("port"), reason);
}

fn backend_address(backend: &Object<'_>, drafted: &BackendDraft, service: &Draft, report: &mut Report) {
    let Some(address) = drafted.address else { return };
    if let Some(why) = not_one_station(address) {
        report.error(backend.path.key("address"), format!("{address} {why}; a backend needs an address of its own"));
    }
    let Some(vip) = service.vip else { return };
    if vip.contains(&address) {
        report.error(
            backend.path.key("address"),
            format!("{address} is the service's own VIP: the packet would come straight back"),
        );
    }
    if let Some(mode) =
        service.mode.filter(|mode| !mode.nature().crosses_families && vip.addr().is_ipv4() != address.is_ipv4())
    {
        let but = if mode == Forwarding::Geneve { "; its \"tunnel_endpoint\" may be of either" } else { "" };
        let reason = format!(
            "{address} and the VIP {} are of different families, and {:?} cannot cross them{but}",
            vip.addr(),
            mode.name()
        );
        report.error(backend.path.key("address"), reason);
    }
}

fn server_id(service: &Object<'_>, backend: &Object<'_>, report: &mut Report) {
    if service.get("hash") != Some(Hash::QuicCid) {
        if backend.has("server_id") && service.get::<Hash>("hash").is_some() {
            report.error(backend.path.key("server_id"), "belongs to \"hash\": \"quic-cid\"; leave it out");
        }
        return;
    }
    if !backend.has("server_id") {
        report.error(backend.path.key("server_id"), "required by \"quic-cid\", but absent");
    }
    let bytes = backend.get::<String>("server_id").map(|id| id.len() / 2);
    let length = service.object("quic").get::<u8>("server_id_length").map(usize::from);
    if let (Some(bytes), Some(length)) = (bytes, length)
        && bytes != length
    {
        report.error(backend.path.key("server_id"), format!("has {bytes} bytes, and server_id_length says {length}"));
    }
}

/// The backends of one service together.
fn backends(object: &Object<'_>, draft: &Draft, report: &mut Report) {
    let count = draft.backends.len();
    if count > MOST_BACKENDS {
        report.error(object.path.key("backends"), format!("{count} backends, at most {MOST_BACKENDS} are taken"));
    }
    if let Some(size) = draft.table_size.filter(|&size| count > size as usize) {
        let reason = format!("{count} backends do not fit into a table of {size} slots; use a larger table_size");
        report.error(object.path.key("backends"), reason);
    }
    let mut ids = HashMap::new();
    for (index, (backend, drafted)) in object.objects("backends").zip(&draft.backends).enumerate() {
        if let Some(id) = &drafted.server_id
            && let Some(first) = first(&mut ids, id, index)
        {
            report.error(backend.path.key("server_id"), format!("is the ID of backends[{first}] already"));
        }
    }
    let Some(ports) = draft.ports else { return };
    let mut seen = HashMap::new();
    for (index, (backend, drafted)) in object.objects("backends").zip(&draft.backends).enumerate() {
        if let Some((address, port)) = drafted.endpoint(ports)
            && let Some(first) = first(&mut seen, (address, port), index)
        {
            report.error(backend.path, format!("{} is backends[{first}] already", endpoint_text(address, port)));
        }
    }
}

/// Who had this key first, if anybody.
fn first<K: Eq + Hashable, V: Copy>(seen: &mut HashMap<K, V>, key: K, value: V) -> Option<V> {
    match seen.entry(key) {
        Entry::Occupied(entry) => Some(*entry.get()),
        Entry::Vacant(entry) => {
            entry.insert(value);
            None
        }
    }
}

/// The rules between services.
pub fn across(drafts: &[Draft], report: &mut Report) {
    let mut claims = Claims::default();
    for (index, draft) in drafts.iter().enumerate() {
        let who = Place(index);
        for (key, reason) in claims.claim(draft, &who) {
            report.error(format_args!("{who}.{key}"), reason);
        }
    }
}

/// A service by its place in the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(usize);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "services[{}]", self.0)
    }
}
