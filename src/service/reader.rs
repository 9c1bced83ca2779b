//! A document of service definitions, read whole: every error at once, or a valid set.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::problem::{Errors, Path, Report, Warning};
use super::shape::{self, Object, Read, Shape};
use super::tree::{self, Value};
use super::{
    Backend, ByteOrder, Definitions, Forwarding, Geneve, Gue, Hash, Health, HealthCheck, IdleTimeout, NoBackend, Ports,
    Protocol, Quic, Service, State, Tracking,
};
use super::{LeftOut, keys, kubernetes, rules, yaml};

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    pub definitions: Definitions,
    pub warnings: Vec<Warning>,
    /// Of a Kubernetes-shaped document: what cannot be honoured, and holds nothing else back.
    pub left_out: Vec<LeftOut>,
    /// Whether the document is Kubernetes-shaped: then a service that does not fit the node is left out too.
    pub is_kubernetes: bool,
}

/// Reads a document of service definitions: native JSON, or Kubernetes-shaped JSON or YAML. `file` names it in errors;
/// services that are the same in `previous` are shared with it.
pub fn read(
    document: impl AsRef<[u8]>,
    file: &str,
    previous: Option<&Definitions>,
    options: &kubernetes::Options,
) -> Result<Reading, Errors> {
    let bytes = document.as_ref();
    let documents = if is_json(bytes) { vec![tree::json(bytes, file)?] } else { yaml_documents(bytes, file)? };
    if !documents.iter().any(kubernetes::are_shaped) {
        let [document] = documents.as_slice() else { return Err(no_yaml(file)) };
        let (definitions, warnings) = read_tree(document, file, previous)?;
        return Ok(Reading { definitions, warnings, ..Reading::default() });
    }
    let mut report = Report::new(file);
    let version = kubernetes::version(&documents);
    let (services, left_out) = kubernetes::read(documents, file, options, &mut report);
    let (services, warnings) = report.finish(|| shared(services, previous))?;
    Ok(Reading { definitions: Definitions { version, services }, warnings, left_out, is_kubernetes: true })
}

/// Reads a native document (JSON), as [`read`] does.
pub fn native(
    document: impl AsRef<[u8]>,
    file: &str,
    previous: Option<&Definitions>,
) -> Result<(Definitions, Vec<Warning>), Errors> {
    read_tree(&tree::json(document.as_ref(), file)?, file, previous)
}

/// Objects and lists begin with a bracket in JSON, and hardly ever in YAML.
fn is_json(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().first().is_none_or(|first| matches!(first, b'{' | b'['))
}

/// The documents of a stream of Kubernetes' objects; what is no YAML of any structure was meant as JSON.
fn yaml_documents<'a>(bytes: &'a [u8], file: &str) -> Result<Vec<Value<'a>>, Errors> {
    let documents = yaml::stream(bytes, file)?;
    if !documents.iter().any(|document| matches!(document, Value::Object(_) | Value::List(_))) {
        return Err(tree::json(bytes, file).err().unwrap_or_else(|| no_yaml(file)));
    }
    if !documents.iter().any(kubernetes::are_shaped) {
        return Err(no_yaml(file));
    }
    Ok(documents)
}

fn no_yaml(file: &str) -> Errors {
    Errors::whole(
        file,
        "not a JSON object, and not the YAML of Kubernetes' objects; native definitions are written as JSON",
    )
}

/// As [`native`], of a document that is a tree already.
pub fn read_tree(
    tree: &Value<'_>,
    file: &str,
    previous: Option<&Definitions>,
) -> Result<(Definitions, Vec<Warning>), Errors> {
    let mut report = Report::new(file);
    shape::check(tree, &Shape::Object(keys::DEFINITIONS), &Path::default(), &mut report);

    let root = Object::root(tree, keys::DEFINITIONS);
    let mut drafts = Vec::new();
    for object in root.objects("services") {
        let draft = Draft::read(&object);
        rules::within(&object, &draft, &mut report);
        drafts.push(draft);
    }
    rules::across(&drafts, &mut report);

    let mut services = Vec::with_capacity(drafts.len());
    if report.errors.is_empty() {
        for (index, draft) in drafts.into_iter().enumerate() {
            match draft.finish() {
                Some(service) => services.push(service),
                None => {
                    report.error(format_args!("services[{index}]"), "valid, but not understood: a mistake in penstock")
                }
            }
        }
    }
    report.finish(|| Definitions { version: root.get("version"), services: shared(services, previous) })
}

/// The services, those that are the same in `previous` shared with it.
fn shared(services: Vec<Service>, previous: Option<&Definitions>) -> Vec<Arc<Service>> {
    let mut known: HashMap<&str, &Arc<Service>> = HashMap::new();
    known.extend(
        previous.iter().flat_map(|previous| &previous.services).map(|service| (service.name.as_ref(), service)),
    );
    let share = |service: Service| match known.get(service.name.as_ref()) {
        Some(&same) if **same == service => same.clone(),
        _ => Arc::new(service),
    };
    services.into_iter().map(share).collect()
}

/// Reads one service, by itself: what others claim, who has them knows.
pub fn read_service(tree: &Value<'_>, file: &str) -> Result<(Arc<Service>, Vec<Warning>), Errors> {
    let mut report = Report::new(file);
    shape::check(tree, &Shape::Object(keys::SERVICE), &Path::default(), &mut report);
    let object = Object::root(tree, keys::SERVICE);
    let draft = Draft::read(&object);
    rules::within(&object, &draft, &mut report);
    let service = if report.errors.is_empty() { draft.finish() } else { None };
    if service.is_none() && report.errors.is_empty() {
        report.error("", "valid, but not understood: a mistake in penstock");
    }
    let (service, warnings) = report.finish(|| service)?;
    let service = service.ok_or_else(|| Errors::whole(file, "no service"))?;
    Ok((Arc::new(service), warnings))
}

impl Read for Ports {
    fn read(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Integer(0) => Some(Self::ALL),
            Value::Integer(port) => u16::try_from(*port).ok().map(|port| Self { first: port, last: port }),
            Value::Text(text) => shape::ports(text).map(|(first, last)| Self { first, last }),
            _ => None,
        }
    }
}

/// A VIP as a prefix; a plain address is one of full length.
struct Vip(IpNet);

impl Read for Vip {
    fn read(value: &Value<'_>) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        let address = text.parse::<IpAddr>().ok().map(IpNet::from);
        address.or_else(|| text.parse().ok().map(|prefix: IpNet| prefix.trunc())).map(Self)
    }
}

/// A service as it was written: what is malformed or absent is `None`, so that the rest can still be checked.
pub struct Draft {
    pub name: Option<String>,
    pub vip: Option<IpNet>,
    pub ports: Option<Ports>,
    pub protocol: Option<Protocol>,
    pub mode: Option<Forwarding>,
    pub hash: Option<Hash>,
    pub quic: Option<Quic>,
    /// As written, else by the protocol.
    pub tracking: Option<Tracking>,
    pub dscp: Option<u8>,
    pub no_backend: Option<NoBackend>,
    pub gue: Option<Gue>,
    pub geneve: Option<Geneve>,
    pub udp_checksum: Option<bool>,
    pub byte_order: Option<ByteOrder>,
    pub table_size: Option<u32>,
    pub source_ranges: Vec<IpNet>,
    pub deny_ranges: Vec<IpNet>,
    pub idle_timeout: Option<IdleTimeout>,
    pub affinity_timeout: Option<Duration>,
    pub health: Option<Health>,
    pub backends: Vec<BackendDraft>,
}

/// A backend as it was written.
pub struct BackendDraft {
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub weight: Option<u16>,
    pub state: Option<State>,
    pub tunnel_endpoint: Option<IpAddr>,
    pub server_id: Option<Vec<u8>>,
}

impl Draft {
    fn read(object: &Object<'_>) -> Self {
        let protocol = object.get("protocol");
        let usual = |protocol| if protocol == Protocol::Udp { Tracking::Full } else { Tracking::Transition };
        let tracking = if object.has("tracking") { object.get("tracking") } else { protocol.map(usual) };
        let idle = object.object("idle_timeout");
        Self {
            name: object.get("name"),
            vip: object.get("vip").map(|Vip(prefix)| prefix),
            ports: object.get("port"),
            protocol,
            mode: object.get("forwarding"),
            hash: object.get("hash"),
            quic: read_quic(&object.object("quic")),
            tracking,
            dscp: object.get("dscp"),
            no_backend: object.get("no_backend"),
            gue: read_gue(&object.object("gue")),
            geneve: read_geneve(&object.object("geneve")),
            udp_checksum: object.get("udp_checksum"),
            byte_order: object.get("byte_order"),
            table_size: object.get("table_size"),
            source_ranges: object.list("source_ranges"),
            deny_ranges: object.list("deny_ranges"),
            idle_timeout: read_idle_timeout(&idle),
            affinity_timeout: object.get("affinity_timeout"),
            health: read_health(object),
            backends: object.objects("backends").map(|backend| BackendDraft::read(&backend)).collect(),
        }
    }

    /// `None` where something is absent that the checks require.
    fn finish(self) -> Option<Service> {
        let ports = self.ports?;
        let backend = |backend: BackendDraft| {
            Some(Backend {
                address: backend.address?,
                // The service's own port is as good as none: equal sets are equal.
                port: backend.port.filter(|&own| Some(own) != ports.single()),
                weight: backend.weight?,
                state: backend.state?,
                tunnel_endpoint: backend.tunnel_endpoint,
                server_id: backend.server_id.map(Vec::into),
                health_address: None,
                is_unchecked: false,
            })
        };
        // As much room as they need, or their lists keep what their drafts took.
        let mut backends = Vec::with_capacity(self.backends.len());
        for draft in self.backends {
            backends.push(backend(draft)?);
        }
        Some(Service {
            name: self.name?.into(),
            vip: self.vip?,
            ports,
            protocol: self.protocol?,
            forwarding: self.mode?,
            hash: self.hash?,
            quic: self.quic.filter(|_| self.hash == Some(Hash::QuicCid)),
            tracking: self.tracking?,
            backends,
            source_ranges: self.source_ranges,
            deny_ranges: self.deny_ranges,
            idle_timeout: self.idle_timeout?,
            table_size: self.table_size,
            health: self.health?,
            affinity_timeout: self.affinity_timeout,
            no_backend: self.no_backend?,
            dscp: self.dscp,
            gue: self.gue?,
            geneve: self.geneve?,
            udp_checksum: self.udp_checksum?,
            byte_order: self.byte_order?,
        })
    }
}

impl BackendDraft {
    fn read(object: &Object<'_>) -> Self {
        Self {
            address: object.get("address"),
            port: object.get("port"),
            weight: object.get("weight"),
            state: object.get("state"),
            tunnel_endpoint: object.get("tunnel_endpoint"),
            server_id: object.get("server_id").and_then(|text: String| shape::hex(&text)),
        }
    }

    /// Where the backend of a service with these ports is sent to; 0 where the packet keeps its port.
    pub fn endpoint(&self, ports: Ports) -> Option<(IpAddr, u16)> {
        Some((self.address?, self.port.or(ports.single()).unwrap_or(0)))
    }
}

fn read_idle_timeout(object: &Object<'_>) -> Option<IdleTimeout> {
    Some(IdleTimeout { tcp: object.get("tcp")?, tcp_closing: object.get("tcp_closing")?, udp: object.get("udp")? })
}

fn read_quic(object: &Object<'_>) -> Option<Quic> {
    Some(Quic { config_id: object.get("config_id")?, server_id_length: object.get("server_id_length")? })
}

fn read_gue(object: &Object<'_>) -> Option<Gue> {
    let variant = object.get("variant")?;
    let usual = if variant == 0 { 6080 } else { 9886 };
    Some(Gue { variant, port: if object.has("port") { object.get("port")? } else { usual } })
}

fn read_geneve(object: &Object<'_>) -> Option<Geneve> {
    Some(Geneve {
        port: object.get("port")?,
        vni: object.get("vni")?,
        inner_destination: object.get("inner_destination")?,
        inner_source: object.get("inner_source")?,
    })
}

fn read_health(service: &Object<'_>) -> Option<Health> {
    let all_down = service.get("all_down")?;
    if !service.has("health_check") {
        return Some(Health { check: None, all_down });
    }
    let object = service.object("health_check");
    let check = HealthCheck {
        kind: object.get("kind")?,
        target: object.get("target")?,
        port: object.get("port"),
        path: object.get("path")?,
        host: object.get("host"),
        expect_status: object.get("expect_status")?,
        interval: object.get("interval")?,
        timeout: object.get("timeout")?,
        rise: object.get("rise")?,
        fall: object.get("fall")?,
    };
    Some(Health { check: Some(check), all_down })
}
