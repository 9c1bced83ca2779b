//! Between the messages of `proto/penstock/v1` and definitions.
//!
//! What comes in becomes a tree of values with the keys of the JSON, which the one reader of definitions judges: a field that is absent is a
//! key that is absent.

use std::borrow::Cow;
use std::time::Duration;

use crate::proto;
use crate::service::tree::Value;
use crate::service::{
    self, AllDown, ByteOrder, CheckTarget, Definitions, Forwarding, Hash, NoBackend, Ports, duration,
};

/// An object, as it is filled.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Members<'a> {
    fn put(&mut self, key: &'static str, value: Option<Value<'a>>) {
        if let Some(value) = value {
            self.0.push((Cow::Borrowed(key), value));
        }
    }

    fn done(self) -> Value<'a> {
        Value::Object(self.0)
    }
}

/// A text that must be there: an empty one is absent (proto3 cannot tell).
fn required(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Text(Cow::Borrowed(text)))
}

fn text(text: &Option<String>) -> Option<Value<'_>> {
    text.as_deref().map(|text| Value::Text(Cow::Borrowed(text)))
}

fn number(number: Option<u32>) -> Option<Value<'static>> {
    number.map(|number| Value::Integer(number.into()))
}

fn texts(texts: &[String]) -> Option<Value<'_>> {
    let list = texts.iter().map(|text| Value::Text(Cow::Borrowed(text.as_str()))).collect();
    (!texts.is_empty()).then_some(Value::List(list))
}

/// As JSON writes it; what no duration of JSON's can be, as it is.
fn time(time: &Option<prost_types::Duration>) -> Option<Value<'static>> {
    let time = time.as_ref()?;
    let text = match Duration::try_from(*time) {
        Ok(positive) => duration::format(positive),
        Err(_) => format!("{}s and {}ns", time.seconds, time.nanos),
    };
    Some(Value::Text(Cow::Owned(text)))
}

/// A whole set, as the tree of its JSON.
pub fn tree_of_set(set: &proto::ServiceSet) -> Value<'_> {
    let mut members = Members::default();
    members.put("version", text(&set.version));
    members.put("services", Some(Value::List(set.services.iter().map(tree_of).collect())));
    members.done()
}

/// A service, as the tree of its JSON.
pub fn tree_of(service: &proto::Service) -> Value<'_> {
    let mut members = Members::default();
    members.put("name", required(&service.name));
    members.put("vip", required(&service.vip));
    members.put("port", number(service.port));
    members.put("port", text(&service.port_range));
    members.put("protocol", required(&service.protocol));
    members.put("forwarding", required(&service.forwarding));
    members.put("backends", Some(tree_of_backends(&service.backends)));
    members.put("hash", text(&service.hash));
    members.put(
        "quic",
        service.quic.as_ref().map(|quic| {
            let mut members = Members::default();
            members.put("config_id", number(quic.config_id));
            members.put("server_id_length", number(quic.server_id_length));
            members.done()
        }),
    );
    members.put("tracking", text(&service.tracking));
    members.put("dscp", number(service.dscp));
    members.put("no_backend", text(&service.no_backend));
    members.put("all_down", text(&service.all_down));
    members.put("source_ranges", texts(&service.source_ranges));
    members.put("deny_ranges", texts(&service.deny_ranges));
    members.put("affinity_timeout", time(&service.affinity_timeout));
    members.put(
        "idle_timeout",
        service.idle_timeout.as_ref().map(|idle| {
            let mut members = Members::default();
            members.put("tcp", time(&idle.tcp));
            members.put("tcp_closing", time(&idle.tcp_closing));
            members.put("udp", time(&idle.udp));
            members.done()
        }),
    );
    members.put("table_size", number(service.table_size));
    members.put("udp_checksum", service.udp_checksum.map(Value::Bool));
    members.put("byte_order", text(&service.byte_order));
    members.put(
        "gue",
        service.gue.as_ref().map(|gue| {
            let mut members = Members::default();
            members.put("variant", number(gue.variant));
            members.put("port", number(gue.port));
            members.done()
        }),
    );
    members.put(
        "geneve",
        service.geneve.as_ref().map(|geneve| {
            let mut members = Members::default();
            members.put("port", number(geneve.port));
            members.put("vni", number(geneve.vni));
            members.put("inner_destination", text(&geneve.inner_destination));
            members.put("inner_source", text(&geneve.inner_source));
            members.done()
        }),
    );
    members.put(
        "health_check",
        service.health_check.as_ref().map(|check| {
            let mut members = Members::default();
            members.put("kind", required(&check.kind));
            members.put("target", text(&check.target));
            members.put("port", number(check.port));
            members.put("path", text(&check.path));
            members.put("host", text(&check.host));
            members.put("expect_status", number(check.expect_status));
            members.put("interval", time(&check.interval));
            members.put("timeout", time(&check.timeout));
            members.put("rise", number(check.rise));
            members.put("fall", number(check.fall));
            members.done()
        }),
    );
    members.done()
}

/// Backends, as the tree of their JSON.
fn tree_of_backends(backends: &[proto::Backend]) -> Value<'_> {
    Value::List(backends.iter().map(tree_of_backend).collect())
}

fn tree_of_backend(backend: &proto::Backend) -> Value<'_> {
    let mut members = Members::default();
    members.put("address", required(&backend.address));
    members.put("port", number(backend.port));
    members.put("weight", number(backend.weight));
    members.put("state", text(&backend.state));
    members.put("tunnel_endpoint", text(&backend.tunnel_endpoint));
    members.put("server_id", text(&backend.server_id));
    members.done()
}

/// A whole set, as its message.
pub fn message_of_set(definitions: &Definitions) -> proto::ServiceSet {
    proto::ServiceSet {
        version: definitions.version.clone(),
        services: definitions.services.iter().map(|service| message_of(service)).collect(),
    }
}

/// A service, as its message: what has a default is absent where it has that.
pub fn message_of(service: &service::Service) -> proto::Service {
    let span = |time: Duration| prost_types::Duration::try_from(time).ok();
    let idle = service.idle_timeout;
    let (port, port_range) = match service.ports {
        Ports::ALL => (Some(0), None),
        ports => match ports.single() {
            Some(port) => (Some(port.into()), None),
            None => (None, Some(ports.to_string())),
        },
    };
    proto::Service {
        name: service.name.to_string(),
        vip: service.vip_text(),
        port,
        port_range,
        protocol: service.protocol.name().to_owned(),
        forwarding: service.forwarding.name().to_owned(),
        backends: service.backends.iter().map(message_of_backend).collect(),
        hash: (service.hash != Hash::FiveTuple).then(|| service.hash.name().to_owned()),
        quic: service.quic.map(|quic| proto::Quic {
            config_id: Some(quic.config_id.into()),
            server_id_length: Some(quic.server_id_length.into()),
        }),
        tracking: Some(service.tracking.name().to_owned()),
        dscp: service.dscp.map(u32::from),
        no_backend: (service.no_backend != NoBackend::default()).then(|| service.no_backend.name().to_owned()),
        all_down: (service.health.all_down != AllDown::default()).then(|| service.health.all_down.name().to_owned()),
        source_ranges: service.source_ranges.iter().map(ToString::to_string).collect(),
        deny_ranges: service.deny_ranges.iter().map(ToString::to_string).collect(),
        affinity_timeout: service.affinity_timeout.and_then(span),
        idle_timeout: Some(proto::IdleTimeout {
            tcp: span(idle.tcp),
            tcp_closing: span(idle.tcp_closing),
            udp: span(idle.udp),
        }),
        table_size: service.table_size,
        udp_checksum: service.udp_checksum.then_some(true),
        byte_order: (service.byte_order != ByteOrder::default()).then(|| service.byte_order.name().to_owned()),
        gue: (service.forwarding == Forwarding::Gue)
            .then(|| proto::Gue { variant: Some(service.gue.variant.into()), port: Some(service.gue.port.into()) }),
        geneve: (service.forwarding == Forwarding::Geneve).then(|| proto::Geneve {
            port: Some(service.geneve.port.into()),
            vni: Some(service.geneve.vni),
            inner_destination: Some(service.geneve.inner_destination.to_string()),
            inner_source: Some(service.geneve.inner_source.to_string()),
        }),
        health_check: service.health.check.as_ref().map(message_of_check),
    }
}

fn message_of_backend(backend: &service::Backend) -> proto::Backend {
    proto::Backend {
        address: backend.address.to_string(),
        port: backend.port.map(u32::from),
        weight: Some(backend.weight.into()),
        state: (backend.state != service::State::default()).then(|| backend.state.name().to_owned()),
        tunnel_endpoint: backend.tunnel_endpoint.map(|address| address.to_string()),
        server_id: backend.server_id.as_ref().map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn message_of_check(check: &service::HealthCheck) -> proto::HealthCheck {
    let span = |time: Duration| prost_types::Duration::try_from(time).ok();
    let http = check.kind.speaks_http();
    proto::HealthCheck {
        kind: check.kind.name().to_owned(),
        target: (check.target != CheckTarget::Backend).then(|| check.target.name().to_owned()),
        port: check.port.map(u32::from),
        path: http.then(|| check.path.clone()),
        host: check.host.clone(),
        expect_status: http.then(|| check.expect_status.into()),
        interval: span(check.interval),
        timeout: span(check.timeout),
        rise: Some(check.rise.into()),
        fall: Some(check.fall.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::random::definitions;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_definitions_come_back_equal_from_their_message(definitions in definitions()) {
            let message = message_of_set(&definitions);
            let (back, _) = service::read_tree(&tree_of_set(&message), "request", None).unwrap();
            prop_assert_eq!(back, definitions);
        }
    }

    #[test]
    fn what_is_absent_has_the_jsons_default() {
        let message = proto::Service {
            name: "web".to_owned(),
            vip: "192.0.2.1".to_owned(),
            port: Some(80),
            protocol: "tcp".to_owned(),
            forwarding: "ipip".to_owned(),
            backends: vec![proto::Backend { address: "10.1.0.11".to_owned(), ..proto::Backend::default() }],
            ..proto::Service::default()
        };
        let json = r#"{"services": [{"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip",
            "backends": [{"address": "10.1.0.11"}]}]}"#;
        let (service, _) = service::read_service(&tree_of(&message), "request").unwrap();
        assert_eq!(service, service::native(json, "s", None).unwrap().0.services[0]);
    }

    #[test]
    fn a_message_is_refused_as_its_json_would_be() {
        let second = prost_types::Duration { seconds: -1, nanos: 0 };
        let message = proto::Service {
            vip: "192.0.2".to_owned(),
            port: Some(80),
            port_range: Some("80-90".to_owned()),
            protocol: "sctp".to_owned(),
            affinity_timeout: Some(second),
            ..proto::Service::default()
        };
        let errors = service::read_service(&tree_of(&message), "request").unwrap_err().to_string();
        for said in [
            "request: name: required, but absent",
            "request: vip: \"192.0.2\" is not",
            "request: port: this key stands twice",
            "request: protocol: ",
            "request: affinity_timeout: ",
            "request: forwarding: required",
        ] {
            assert!(errors.contains(said), "{said} is not in\n{errors}");
        }
    }
}
