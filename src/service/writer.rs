//! Definitions as the JSON that [`super::read`] reads back, equal; keys in the order of the contract.
//!
//! One thing has no native form: a check that asks for a backend's health elsewhere than at its address. It is left out, so that its
//! backends count as up, until the feed that told it tells it again.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::{
    AllDown, Backend, ByteOrder, Definitions, Forwarding, Hash, HealthCheck, IdleTimeout, NoBackend, Ports, Service,
    duration,
};

impl Definitions {
    /// A whole document, the same for equal sets.
    pub fn to_json(&self) -> String {
        let document = Document {
            version: self.version.as_deref(),
            services: self.services.iter().map(|service| written(service)).collect(),
        };
        serde_json::to_string_pretty(&document).expect("plain data has a JSON form") + "\n"
    }
}

impl Service {
    /// An element of a document's services, in one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&written(self)).expect("plain data has a JSON form")
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    services: Vec<Written<'a>>,
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    vip: String,
    port: WrittenPorts,
    protocol: &'a str,
    forwarding: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quic: Option<WrittenQuic>,
    tracking: &'a str,
    backends: Vec<WrittenBackend>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<WrittenCheck<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all_down: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    source_ranges: &'a [IpNet],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    deny_ranges: &'a [IpNet],
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_timeout: Option<String>,
    idle_timeout: WrittenIdleTimeout,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dscp: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gue: Option<WrittenGue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    geneve: Option<WrittenGeneve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp_checksum: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_order: Option<&'a str>,
}

/// A number, or a range as text.
#[derive(Serialize)]
#[serde(untagged)]
enum WrittenPorts {
    One(u16),
    Several(String),
}

#[derive(Serialize)]
struct WrittenQuic {
    config_id: u8,
    server_id_length: u8,
}

#[derive(Serialize)]
struct WrittenGue {
    variant: u8,
    port: u16,
}

#[derive(Serialize)]
struct WrittenGeneve {
    port: u16,
    vni: u32,
    inner_destination: String,
    inner_source: String,
}

#[derive(Serialize)]
struct WrittenBackend {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    weight: u16,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnel_endpoint: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id: Option<String>,
}

#[derive(Serialize)]
struct WrittenCheck<'a> {
    kind: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// These three only where the kind takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect_status: Option<u16>,
    interval: String,
    timeout: String,
    rise: u16,
    fall: u16,
}

#[derive(Serialize)]
struct WrittenIdleTimeout {
    tcp: String,
    tcp_closing: String,
    udp: String,
}

fn written(service: &Service) -> Written<'_> {
    let IdleTimeout { tcp, tcp_closing, udp } = service.idle_timeout;
    let text = |timeout: Duration| duration::format(timeout);
    Written {
        name: &service.name,
        vip: service.vip_text(),
        port: match service.ports {
            Ports::ALL => WrittenPorts::One(0),
            ports => ports.single().map_or_else(|| WrittenPorts::Several(ports.to_string()), WrittenPorts::One),
        },
        protocol: service.protocol.name(),
        forwarding: service.forwarding.name(),
        hash: Some(service.hash).filter(|&hash| hash != Hash::FiveTuple).map(Hash::name),
        quic: service
            .quic
            .map(|quic| WrittenQuic { config_id: quic.config_id, server_id_length: quic.server_id_length }),
        tracking: service.tracking.name(),
        backends: service.backends.iter().map(written_backend).collect(),
        health_check: service.health.check.as_ref().filter(|_| asks_backends(service)).map(written_check),
        all_down: Some(service.health.all_down).filter(|&all_down| all_down != AllDown::default()).map(AllDown::name),
        source_ranges: &service.source_ranges,
        deny_ranges: &service.deny_ranges,
        affinity_timeout: service.affinity_timeout.map(text),
        idle_timeout: WrittenIdleTimeout { tcp: text(tcp), tcp_closing: text(tcp_closing), udp: text(udp) },
        table_size: service.table_size,
        no_backend: Some(service.no_backend).filter(|&it| it != NoBackend::default()).map(NoBackend::name),
        dscp: service.dscp,
        gue: (service.forwarding == Forwarding::Gue)
            .then_some(WrittenGue { variant: service.gue.variant, port: service.gue.port }),
        geneve: (service.forwarding == Forwarding::Geneve).then(|| WrittenGeneve {
            port: service.geneve.port,
            vni: service.geneve.vni,
            inner_destination: service.geneve.inner_destination.to_string(),
            inner_source: service.geneve.inner_source.to_string(),
        }),
        udp_checksum: service.udp_checksum.then_some(true),
        byte_order: Some(service.byte_order).filter(|&order| order != ByteOrder::default()).map(ByteOrder::name),
    }
}

/// Whether the check asks each backend at its own address.
fn asks_backends(service: &Service) -> bool {
    service.backends.iter().all(|backend| backend.health_address.is_none() && !backend.is_unchecked)
}

fn written_backend(backend: &Backend) -> WrittenBackend {
    WrittenBackend {
        address: backend.address,
        port: backend.port,
        weight: backend.weight,
        state: backend.state.name(),
        tunnel_endpoint: backend.tunnel_endpoint,
        server_id: backend.server_id.as_ref().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn written_check(check: &HealthCheck) -> WrittenCheck<'_> {
    let http = check.kind.speaks_http();
    WrittenCheck {
        kind: check.kind.name(),
        target: check.target.name(),
        port: check.port,
        path: http.then_some(check.path.as_str()),
        host: check.host.as_deref(),
        expect_status: http.then_some(check.expect_status),
        interval: duration::format(check.interval),
        timeout: duration::format(check.timeout),
        rise: check.rise,
        fall: check.fall,
    }
}
