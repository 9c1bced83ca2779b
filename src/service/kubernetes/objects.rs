//! The objects that are read, and of them what matters here: v1 Service, discovery.k8s.io/v1 EndpointSlice, v1 Node.
//!
//! What stands there by Kubernetes' API and is malformed is an error with its place; fields beside those of the tables are
//! somebody else's. As in Go, where these documents come from, `null`, an empty text and zero are as good as absent.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::service::problem::{Path, Report};
use crate::service::shape::{self, Format, Key, Object, Otherwise, Read, Shape, choice, format, read_choice};
use crate::service::tree::Value;

/// Namespace and name: what an object is known by, and the order in which services are served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A v1 Service.
#[derive(Debug)]
pub struct Service {
    pub name: Name,
    /// Where in the document it stands.
    pub path: String,
    pub annotations: Vec<(String, String)>,
    pub kind: ServiceKind,
    pub class: Option<String>,
    pub ports: Vec<ServicePort>,
    pub ingress: Vec<Ingress>,
    pub external_ips: Vec<IpAddr>,
    /// As it is written: Kubernetes does not check it.
    pub load_balancer_ip: Option<String>,
    pub ranges: Vec<IpNet>,
    pub affinity: Affinity,
    /// Of the affinity, in seconds.
    pub affinity_timeout: u32,
    pub traffic_policy: TrafficPolicy,
    pub health_check_node_port: Option<u16>,
}

#[derive(Debug)]
pub struct ServicePort {
    /// Empty: the only one, without a name.
    pub name: String,
    /// In capitals, as Kubernetes writes it.
    pub protocol: String,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// An address that a load balancer serves.
#[derive(Debug)]
pub struct Ingress {
    /// `None`: it has a host name only.
    pub address: Option<IpAddr>,
    pub mode: IpMode,
}

read_choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    ServiceKind {
        ClusterIp "ClusterIP"
        NodePort "NodePort"
        LoadBalancer "LoadBalancer"
        ExternalName "ExternalName"
    }
}

read_choice! {
    /// What a load balancer does with an address (KEP-1860).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    IpMode {
        /// Packets come with the address as destination.
        Vip "VIP"
        /// Somebody ends connections there, and makes others.
        Proxy "Proxy"
    }
}

read_choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Affinity {
        None "None"
        ClientIp "ClientIP"
    }
}

read_choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    TrafficPolicy {
        Cluster "Cluster"
        Local "Local"
    }
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Debug)]
pub struct Slice {
    /// The service's: the label's value, in the slice's namespace. `None`: of no service.
    pub service: Option<Name>,
    /// Its own name, where it has one.
    pub name: String,
    /// The annotation of the weight, as it is written, with its place in the document.
    pub weight: Option<(String, String)>,
    pub address_type: AddressType,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    AddressType {
        Ipv4 "IPv4"
        Ipv6 "IPv6"
        Fqdn "FQDN"
    }
}

#[derive(Debug)]
pub struct SlicePort {
    pub name: String,
    pub protocol: String,
    /// `None`: the slice says nothing of ports, which is of no use to a service.
    pub port: Option<u16>,
}

#[derive(Debug)]
pub struct Endpoint {
    /// Empty in a slice of names.
    pub addresses: Vec<IpAddr>,
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub node: Option<String>,
}

/// A v1 Node.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub path: String,
    pub addresses: Vec<NodeAddress>,
}

#[derive(Debug)]
pub struct NodeAddress {
    pub is_internal: bool,
    pub address: IpAddr,
}

/// The label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Cilium's annotation of a slice: the weight of all its endpoints.
pub const WEIGHT: &str = "service.cilium.io/weight";

static NAME: Format = Format {
    what: "the name of an object: 1 to 253 characters, without spaces and slashes",
    pattern: "",
    holds: |text| (1..=253).contains(&text.len()) && !text.contains(|l: char| l.is_control() || l == ' ' || l == '/'),
};

/// Kubernetes takes spaces around a range.
static RANGE: Format =
    Format { what: format::PREFIX.what, pattern: "", holds: |text| text.trim().parse::<IpNet>().is_ok() };

const ANY: Shape = Shape::Text(&format::ANY);
const ADDRESS: Shape = Shape::Text(&format::ADDRESS);
/// 0: none.
const PORT: Shape = Shape::Integer { least: 0, most: 65535 };

/// Most keys need no help: what they mean stands in Kubernetes' API.
const fn known(name: &'static str, shape: Shape) -> Key {
    Key::optional(name, shape, "")
}

const fn usual(name: &'static str, shape: Shape, otherwise: &'static str) -> Key {
    Key::default(name, shape, Otherwise::Text(otherwise), "")
}

static METADATA: &[Key] = &[
    Key::required("name", Shape::Text(&NAME), "The object's name."),
    usual("namespace", Shape::Text(&NAME), "default"),
    known("annotations", Shape::Map(&ANY)),
];

static SERVICE: &[Key] = &[
    Key::required("metadata", Shape::Open(METADATA), "The object's name and namespace."),
    Key::required("spec", Shape::Open(SPEC), "What the service is."),
    known("status", Shape::Open(STATUS)),
];

static SPEC: &[Key] = &[
    usual("type", Shape::Choice(ServiceKind::NAMES), "ClusterIP"),
    known("loadBalancerClass", ANY),
    known("ports", Shape::list(&Shape::Open(SERVICE_PORT))),
    known("externalIPs", Shape::list(&ADDRESS)),
    known("loadBalancerIP", ANY),
    known("loadBalancerSourceRanges", Shape::list(&Shape::Text(&RANGE))),
    usual("sessionAffinity", Shape::Choice(Affinity::NAMES), "None"),
    known("sessionAffinityConfig", Shape::Open(AFFINITY_CONFIG)),
    usual("externalTrafficPolicy", Shape::Choice(TrafficPolicy::NAMES), "Cluster"),
    known("healthCheckNodePort", PORT),
];

static SERVICE_PORT: &[Key] = &[
    usual("name", ANY, ""),
    usual("protocol", ANY, "TCP"),
    Key::required("port", Shape::Integer { least: 1, most: 65535 }, "The port that clients connect to."),
    known("nodePort", PORT),
];

static AFFINITY_CONFIG: &[Key] = &[known("clientIP", Shape::Open(CLIENT_IP))];
static CLIENT_IP: &[Key] =
    &[Key::default("timeoutSeconds", Shape::Integer { least: 1, most: 86400 }, Otherwise::Integer(10800), "")];

static STATUS: &[Key] = &[known("loadBalancer", Shape::Open(LOAD_BALANCER))];
static LOAD_BALANCER: &[Key] = &[known("ingress", Shape::list(&Shape::Open(INGRESS)))];
static INGRESS: &[Key] = &[known("ip", ADDRESS), usual("ipMode", Shape::Choice(IpMode::NAMES), "VIP")];

static SLICE: &[Key] = &[
    known("metadata", Shape::Open(SLICE_METADATA)),
    Key::required("addressType", Shape::Choice(AddressType::NAMES), "What the endpoints' addresses are."),
    known("endpoints", Shape::list(&Shape::Open(ENDPOINT))),
    known("ports", Shape::list(&Shape::Open(SLICE_PORT))),
];

static SLICE_METADATA: &[Key] = &[
    usual("name", Shape::Text(&NAME), "(without a name)"),
    usual("namespace", Shape::Text(&NAME), "default"),
    known("annotations", Shape::Map(&ANY)),
    known("labels", Shape::Map(&ANY)),
];

static ENDPOINT: &[Key] = &[
    Key::required("addresses", Shape::List { of: &ANY, least: 1, most: 100 }, "Where the endpoint is."),
    known("conditions", Shape::Open(CONDITIONS)),
    known("nodeName", ANY),
];

static CONDITIONS: &[Key] =
    &[known("ready", Shape::Bool), known("serving", Shape::Bool), known("terminating", Shape::Bool)];
static SLICE_PORT: &[Key] = &[usual("name", ANY, ""), usual("protocol", ANY, "TCP"), known("port", PORT)];

static NODE: &[Key] = &[
    Key::required("metadata", Shape::Open(METADATA), "The object's name."),
    known("status", Shape::Open(NODE_STATUS)),
];
static NODE_STATUS: &[Key] = &[known("addresses", Shape::list(&Shape::Open(NODE_ADDRESS)))];
static NODE_ADDRESS: &[Key] = &[usual("type", ANY, ""), usual("address", ANY, "")];

/// A range with its spaces.
struct Range(IpNet);

impl Read for Range {
    fn read(value: &Value<'_>) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        text.trim().parse().ok().map(|prefix: IpNet| Self(prefix.trunc()))
    }
}

/// Whether what was reported since is worth nothing: then the object is not used, and the document not taken.
fn checked(value: &Value<'_>, keys: &'static [Key], path: &Path<'_>, report: &mut Report) -> bool {
    let before = report.errors.len();
    shape::check(value, &Shape::Open(keys), path, report);
    report.errors.len() == before
}

impl Service {
    /// `None`: it was reported why not.
    pub fn read(value: &Value<'_>, path: &Path<'_>, report: &mut Report) -> Option<Self> {
        if !checked(value, SERVICE, path, report) {
            return None;
        }
        let object = Object::new(Some(value), SERVICE, *path);
        let (metadata, spec, status) = (object.object("metadata"), object.object("spec"), object.object("status"));
        let port = |port: Object<'_>| {
            Some(ServicePort {
                name: port.get("name")?,
                protocol: port.get("protocol")?,
                port: port.get("port")?,
                node_port: port.get("nodePort").filter(|&port| port > 0),
            })
        };
        let ingress = |ingress: Object<'_>| Some(Ingress { address: ingress.get("ip"), mode: ingress.get("ipMode")? });
        let annotations = metadata.map::<String>("annotations");
        Some(Self {
            name: Name { namespace: metadata.get("namespace")?, name: metadata.get("name")? },
            path: path.to_string(),
            annotations: annotations.into_iter().map(|(name, text)| (name.to_owned(), text)).collect(),
            kind: spec.get("type")?,
            class: spec.get("loadBalancerClass"),
            ports: spec.objects("ports").filter_map(port).collect(),
            ingress: status.object("loadBalancer").objects("ingress").filter_map(ingress).collect(),
            external_ips: spec.list("externalIPs"),
            load_balancer_ip: spec.get("loadBalancerIP"),
            ranges: spec.list("loadBalancerSourceRanges").into_iter().map(|Range(range)| range).collect(),
            affinity: spec.get("sessionAffinity")?,
            affinity_timeout: spec.object("sessionAffinityConfig").object("clientIP").get("timeoutSeconds")?,
            traffic_policy: spec.get("externalTrafficPolicy")?,
            health_check_node_port: spec.get("healthCheckNodePort").filter(|&port| port > 0),
        })
    }
}

impl Slice {
    /// `None`: it was reported why not.
    pub fn read(value: &Value<'_>, path: &Path<'_>, report: &mut Report) -> Option<Self> {
        if !checked(value, SLICE, path, report) {
            return None;
        }
        let object = Object::new(Some(value), SLICE, *path);
        let metadata = object.object("metadata");
        let address_type: AddressType = object.get("addressType")?;
        let namespace: String = metadata.get("namespace")?;
        let service = metadata.map::<String>("labels").into_iter().find(|(name, _)| *name == SERVICE_NAME);
        let weight = metadata.map::<String>("annotations").into_iter().find(|(name, _)| *name == WEIGHT);
        let mut endpoints = Vec::new();
        for endpoint in object.objects("endpoints") {
            let conditions = endpoint.object("conditions");
            endpoints.push(Endpoint {
                addresses: addresses(&endpoint, address_type, report),
                ready: conditions.get("ready"),
                serving: conditions.get("serving"),
                terminating: conditions.get("terminating"),
                node: endpoint.get("nodeName"),
            });
        }
        let port = |port: Object<'_>| {
            let number = port.get("port").filter(|&port| port > 0);
            Some(SlicePort { name: port.get("name")?, protocol: port.get("protocol")?, port: number })
        };
        Some(Self {
            service: service.map(|(_, name)| Name { namespace, name }),
            name: metadata.get("name")?,
            weight: weight.map(|(_, text)| (text, format!("{path}.metadata.annotations.{WEIGHT}"))),
            address_type,
            ports: object.objects("ports").filter_map(port).collect(),
            endpoints,
        })
    }
}

/// An endpoint's addresses, each of the slice's type. (Kubernetes itself writes one; Cilium takes all.)
fn addresses(endpoint: &Object<'_>, address_type: AddressType, report: &mut Report) -> Vec<IpAddr> {
    if address_type == AddressType::Fqdn {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for (index, text) in endpoint.list::<String>("addresses").into_iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_ipv4() == (address_type == AddressType::Ipv4) => addresses.push(address),
            _ => {
                let reason =
                    format!("{text:?} is not an {} address, as the slice's addressType says", address_type.name());
                report.error(endpoint.path.item("addresses", index), reason);
            }
        }
    }
    addresses
}

impl Node {
    /// `None`: it was reported why not.
    pub fn read(value: &Value<'_>, path: &Path<'_>, report: &mut Report) -> Option<Self> {
        if !checked(value, NODE, path, report) {
            return None;
        }
        let object = Object::new(Some(value), NODE, *path);
        // A host name is an address to Kubernetes, too.
        let address = |address: Object<'_>| {
            let is_internal = address.get::<String>("type")? == "InternalIP";
            Some(NodeAddress { is_internal, address: address.get::<String>("address")?.parse().ok()? })
        };
        Some(Self {
            name: object.object("metadata").get("name")?,
            path: path.to_string(),
            addresses: object.object("status").objects("addresses").filter_map(address).collect(),
        })
    }
}
