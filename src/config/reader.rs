//! The document, read whole: every error at once, or a valid configuration.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path as FilePath, PathBuf};

use ipnet::IpNet;

use super::feed;
use super::keys::{self, CONFIG};
use super::{
    API_SOCKET, Api, ApiTls, Config, Dpdk, Flows, Fragments, Hash, Health, Icmp, Identity, Listen, Metrics, Neighbor,
    Node, Port, Route, Snat,
};
use crate::mode::Encap;
use crate::service::problem::{Errors, Path, Report, Warning};
use crate::service::shape::{self, Object, Shape};
use crate::service::tree;
use crate::service::{Forwarding, Ports, kubernetes, not_one_station};
use crate::wire::Mac;

impl Config {
    /// Reads the configuration in the file at `path`.
    pub fn load(path: &FilePath) -> Result<(Self, Vec<Warning>), Errors> {
        let name = path.display().to_string();
        let document = std::fs::read(path).map_err(|error| Errors::whole(&name, format!("cannot be read: {error}")))?;
        Self::read(&document, &name)
    }

    /// Reads a configuration. `file` names it in errors; its directory is where relative paths begin.
    pub fn read(document: impl AsRef<[u8]>, file: &str) -> Result<(Self, Vec<Warning>), Errors> {
        let tree = tree::toml(document.as_ref(), file)?;
        let mut report = Report::new(file);
        shape::check(&tree, &Shape::Object(CONFIG), &Path::default(), &mut report);
        let root = Object::root(&tree, CONFIG);
        let config = read(&root, FilePath::new(file), &mut report);
        if config.is_none() && report.errors.is_empty() {
            report.error(Path::default(), "valid, but not understood: a mistake in penstock");
        }
        let config = config.filter(|_| report.errors.is_empty());
        match config {
            Some(config) => report.finish(|| config),
            None => Err(Errors(report.errors)),
        }
    }
}

/// `None` where something is absent that the checks require.
fn read(root: &Object<'_>, file: &FilePath, report: &mut Report) -> Option<Config> {
    // Each part is read even where another one failed, for all the errors.
    let (node, dpdk, ports) = (read_node(root), read_dpdk(root, report), read_ports(root, report));
    let (neighbors, routes) = (read_neighbors(root, report), read_routes(root, report));
    let (encap, feed) = (read_encap(root, report), feed::read(&root.object("feed"), file, report));
    let (api, kubernetes) = (read_api(root, file, report), read_kubernetes(root, report));
    let snat = read_snat(root, dpdk.as_ref().map_or(1, |dpdk| dpdk.lcores.len()), report);
    let health =
        snat.as_ref().and_then(|snat| read_health(root, &encap, snat, ports.as_deref().unwrap_or(&[]), report));
    let (icmp, hash, flows) = (root.object("icmp"), root.object("hash"), root.object("flows"));
    let (fragments, metrics) = (root.object("fragments"), root.object("metrics"));
    Some(Config {
        node: node?,
        dpdk: dpdk?,
        ports: ports?,
        icmp: Icmp { errors_per_second: icmp.get("errors_per_second")?, burst: icmp.get("burst")? },
        encap,
        snat: snat?,
        health: health?,
        hash: Hash { seed: keys::seed(&hash.get::<String>("seed")?)?, table_size: hash.get("table_size")? },
        flows: Flows { capacity: flows.get("capacity")?, drain_timeout: flows.get("drain_timeout")? },
        fragments: Fragments { hold: fragments.get("hold")? },
        neighbors: neighbors?,
        routes: routes?,
        feed: feed?,
        api,
        kubernetes: kubernetes?,
        metrics: Metrics {
            listen: metrics.get::<String>("listen")?.parse().ok(),
            most_backends: metrics.get("most_backends")?,
        },
    })
}

fn read_node(root: &Object<'_>) -> Option<Node> {
    let node = root.object("node");
    Some(Node {
        name: node.get("name")?,
        state_dir: PathBuf::from(node.get::<String>("state_dir")?),
        stop_grace: node.get("stop_grace")?,
    })
}

fn read_dpdk(root: &Object<'_>, report: &mut Report) -> Option<Dpdk> {
    let dpdk = root.object("dpdk");
    let lcores: Vec<u16> = dpdk.list("lcores");
    for (index, lcore) in lcores.iter().enumerate() {
        if lcores[..index].contains(lcore) {
            report.error(dpdk.path.item("lcores", index), format!("CPU {lcore} is named twice"));
        }
    }
    Some(Dpdk {
        lcores,
        eal_args: dpdk.list("eal_args"),
        mempool_mbufs: dpdk.get("mempool_mbufs")?,
        mbuf_data_room: dpdk.get("mbuf_data_room")?,
        idle: dpdk.get("idle")?,
    })
}

fn read_ports(root: &Object<'_>, report: &mut Report) -> Option<Vec<Port>> {
    let mut seen: HashMap<(&str, String), usize> = HashMap::new();
    for (index, port) in root.objects("port").enumerate() {
        for key in ["name", "device", "twin"] {
            let Some(text) = port.get::<String>(key) else { continue };
            let first = *seen.entry((key, text.clone())).or_insert(index);
            if first != index {
                report.error(port.path.key(key), format!("{text:?} is the {key} of port[{first}] already"));
            }
        }
    }
    let read = |port: Object<'_>| {
        Some(Port {
            name: port.get("name")?,
            device: port.get("device")?,
            mtu: port.get("mtu")?,
            mac: port.get("mac"),
            addresses: port.list("addresses"),
            twin: port.get("twin"),
            promiscuous: port.get("promiscuous")?,
        })
    };
    root.objects("port").map(read).collect()
}

fn read_encap(root: &Object<'_>, report: &mut Report) -> Encap {
    let encap = root.object("encap");
    let ipv4_source: Option<Ipv4Addr> = encap.get("ipv4_source");
    let ipv6_source: Option<Ipv6Addr> = encap.get("ipv6_source");
    let sources = [("ipv4_source", ipv4_source.map(IpAddr::from)), ("ipv6_source", ipv6_source.map(IpAddr::from))];
    for (key, source) in sources {
        if let Some(source) = source.filter(|&source| not_one_station(source).is_some()) {
            report.error(encap.path.key(key), format!("{source} is not the address of one host"));
        }
    }
    let (spread_v4, spread_v6): (Option<IpNet>, Option<IpNet>) =
        (encap.get("rss_source_v4"), encap.get("rss_source_v6"));
    let mut refuse = |key: &str, prefix: Option<IpNet>, is_of_family: bool, example: &str| {
        let Some(prefix) = prefix else { return };
        if !is_of_family {
            report.error(encap.path.key(key), format!("{prefix} is of the other family; give a prefix like {example}"));
        } else if let Some(why) = not_one_station(prefix.addr()) {
            report.error(
                encap.path.key(key),
                format!("{prefix} {why}; the receivers' replies and errors come back to it"),
            );
        }
    };
    refuse("rss_source_v4", spread_v4, spread_v4.is_some_and(|prefix| prefix.addr().is_ipv4()), "100.64.0.0/16");
    refuse("rss_source_v6", spread_v6, spread_v6.is_some_and(|prefix| prefix.addr().is_ipv6()), "fd00:1::/96");
    let v4 = |prefix| if let IpNet::V4(prefix) = prefix { Some(prefix) } else { None };
    let v6 = |prefix| if let IpNet::V6(prefix) = prefix { Some(prefix) } else { None };
    Encap { ipv4_source, ipv6_source, rss_source_v4: spread_v4.and_then(v4), rss_source_v6: spread_v6.and_then(v6) }
}

fn read_snat(root: &Object<'_>, lcores: usize, report: &mut Report) -> Option<Snat> {
    let snat = root.object("snat");
    let (ipv4, ipv6): (Vec<Ipv4Addr>, Vec<Ipv6Addr>) = (snat.list("ipv4"), snat.list("ipv6"));
    let v4 = ipv4.iter().map(|&address| ("ipv4", IpAddr::from(address))).zip(0..);
    let v6 = ipv6.iter().map(|&address| ("ipv6", IpAddr::from(address))).zip(0..);
    let mut seen = HashMap::new();
    for ((key, address), index) in v4.chain(v6) {
        let place = snat.path.item(key, index);
        if let Some(why) = not_one_station(address) {
            report.error(place, format!("{address} {why}; replies come back to it"));
        } else if let Some(first) = seen.insert(address, index) {
            report.error(place, format!("{address} is {key}[{first}] already"));
        }
    }
    let ports: Ports = snat.get("ports")?;
    if ports.count() < lcores {
        let reason = format!("{} ports cannot be shared out among {lcores} lcores", ports.count());
        report.error(snat.path.key("ports"), reason);
    }
    Some(Snat { ipv4, ipv6, ports })
}

fn read_health(root: &Object<'_>, encap: &Encap, snat: &Snat, ports: &[Port], report: &mut Report) -> Option<Health> {
    let health = root.object("health");
    let (ipv4, ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>) = (health.get("ipv4_source"), health.get("ipv6_source"));
    for (key, source) in [("ipv4_source", ipv4.map(IpAddr::from)), ("ipv6_source", ipv6.map(IpAddr::from))] {
        if let Some((source, why)) = source.and_then(|source| Some((source, not_one_station(source)?))) {
            report.error(health.path.key(key), format!("{source} {why}; backends answer to it"));
        }
    }
    let own = || ports.iter().flat_map(|port| &port.addresses).copied();
    let own_v4 = || own().find_map(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None });
    let own_v6 = || own().find_map(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None });
    Some(Health {
        ipv4_source: ipv4.or(encap.ipv4_source).or_else(|| snat.ipv4.first().copied()).or_else(own_v4),
        ipv6_source: ipv6.or(encap.ipv6_source).or_else(|| snat.ipv6.first().copied()).or_else(own_v6),
        ports: health.get("ports")?,
    })
}

fn read_neighbors(root: &Object<'_>, report: &mut Report) -> Option<Vec<Neighbor>> {
    let ports: Vec<Option<String>> = root.objects("port").map(|port| port.get("name")).collect();
    let mut seen: HashMap<IpAddr, usize> = HashMap::new();
    let mut neighbors = Vec::new();
    let mut whole = true;
    for (index, neighbor) in root.objects("neighbor").enumerate() {
        let (address, mac): (Option<IpAddr>, Option<Mac>) = (neighbor.get("address"), neighbor.get("mac"));
        if let Some(address) = address
            && let Some(first) = seen.insert(address, index)
        {
            report
                .warn(neighbor.path.key("address"), format!("{address} is neighbor[{first}] already; this one counts"));
        }
        let port = neighbor.get::<String>("port").and_then(|name| {
            let found = ports.iter().position(|port| port.as_ref() == Some(&name));
            if found.is_none() {
                let names = ports.iter().flatten();
                let near = shape::nearest(&name, names.map(String::as_str));
                let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                report.error(neighbor.path.key("port"), format!("no [[port]] has the name {name:?}{hint}"));
            }
            found
        });
        match (address, mac, port) {
            (Some(address), Some(mac), Some(port)) => {
                neighbors.push(Neighbor { address, mac, port, vlan: neighbor.get("vlan") });
            }
            _ => whole = false,
        }
    }
    whole.then_some(neighbors)
}

fn read_routes(root: &Object<'_>, report: &mut Report) -> Option<Vec<Route>> {
    let mut seen: HashMap<IpNet, usize> = HashMap::new();
    let mut routes = Vec::new();
    let mut whole = true;
    for (index, route) in root.objects("route").enumerate() {
        let (Some(prefix), Some(via)) = (route.get::<IpNet>("prefix"), route.get::<IpAddr>("via")) else {
            whole = false;
            continue;
        };
        if prefix.addr().is_ipv4() != via.is_ipv4() {
            report.error(route.path.key("via"), format!("{via} and the prefix {prefix} are of different families"));
        }
        if let Some(first) = seen.insert(prefix, index) {
            report.warn(route.path.key("prefix"), format!("{prefix} is route[{first}] already; this one counts"));
        }
        routes.push(Route { prefix, via });
    }
    whole.then_some(routes)
}

fn read_api(root: &Object<'_>, file: &FilePath, report: &mut Report) -> Api {
    let api = root.object("api");
    let (listen, is_asked_for): (Vec<Listen>, _) = if api.has("listen") {
        (api.list::<String>("listen").iter().filter_map(|text| text.parse().ok()).collect(), true)
    } else {
        (vec![Listen::Unix(API_SOCKET.into())], false)
    };
    let tls = read_api_tls(&api, file, report);
    for (index, at) in listen.iter().enumerate() {
        if let Listen::Tcp(address) = at
            && !address.ip().is_loopback()
            && !["cert", "key", "ca"].iter().any(|key| api.has(key))
        {
            let reason = format!(
                "{address} can be reached from elsewhere, so it needs TLS with client certificates: set `cert`, `key` and `ca`, \
                 or use a Unix socket or a loopback address"
            );
            report.error(api.path.item("listen", index), reason);
        }
        if let Some(first) = listen[..index].iter().position(|other| other == at) {
            report.error(api.path.item("listen", index), format!("{at} is listen[{first}] already"));
        }
    }
    Api { listen, is_asked_for, group: api.get("group"), tls }
}

fn read_api_tls(api: &Object<'_>, file: &FilePath, report: &mut Report) -> Option<ApiTls> {
    const KEYS: [&str; 3] = ["cert", "key", "ca"];
    let given = KEYS.into_iter().find(|key| api.has(key));
    let Some(given) = given else {
        if api.has("roles") {
            report.error(api.path.key("roles"), "means something only with TLS: set `cert`, `key` and `ca`");
        }
        return None;
    };
    for absent in KEYS.into_iter().filter(|key| !api.has(key)) {
        report.error(api.path.key(absent), format!("absent, and goes together with `{given}`"));
    }
    let path = |key: &str| Some(file.parent().unwrap_or(FilePath::new("")).join(api.get::<String>(key)?));
    let roles = api.map("roles").into_iter().map(|(name, role)| (name.to_owned(), role)).collect();
    Some(ApiTls { identity: Identity { cert: path("cert")?, key: path("key")? }, ca: path("ca")?, roles })
}

/// What Kubernetes-shaped documents are read by, whatever feed they come from.
fn read_kubernetes(root: &Object<'_>, report: &mut Report) -> Option<kubernetes::Options> {
    let feed = root.object("feed");
    let forwarding: Forwarding = feed.get("forwarding")?;
    if forwarding == Forwarding::Dscp {
        let reason = "\"dscp\" needs a code point for each service; let those services that want it say so by the annotations \
                      penstock.io/forwarding and penstock.io/dscp";
        report.error(feed.path.key("forwarding"), reason);
    }
    let node_addresses: BTreeMap<String, IpAddr> =
        feed.map("node_addresses").into_iter().map(|(name, address)| (name.to_owned(), address)).collect();
    for (name, address) in &node_addresses {
        if let Some(why) = not_one_station(*address) {
            report.error(feed.path.key("node_addresses").key(name), format!("{address} {why}; a node is asked there"));
        }
    }
    let own_addresses: Vec<IpAddr> = root.objects("port").flat_map(|port| port.list("addresses")).collect();
    let node_ports = feed.get("node_ports")?;
    if node_ports && own_addresses.is_empty() {
        let reason = "node ports are served on the addresses of the [[port]]s, and none has any: set addresses there";
        report.warn(feed.path.key("node_ports"), reason);
    }
    Some(kubernetes::Options {
        forwarding,
        load_balancer_class: feed.get("load_balancer_class"),
        health_check_node_ports: feed.get("health_check_node_ports")?,
        node_ports,
        node_addresses,
        own_addresses,
    })
}
