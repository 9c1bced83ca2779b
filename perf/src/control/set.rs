//! The set of services, as a message and as JSON.

use std::net::Ipv4Addr;

use penstock::proto;

use super::Options;
use crate::rig::VIP;

/// Of each service: of 4099 slots each of 20 backends has 205, so that rounding makes no share wrong by more than half a percent.
pub const TABLE_SIZE: u32 = 4_099;

/// A service of a set in which every backend has this weight; the first has the VIP that packets go to.
pub fn service(options: &Options, number: usize, weight: u32) -> proto::Service {
    let (vip, port) = match number {
        0 => (*VIP.ip(), VIP.port()),
        _ => (address(0x6440_0000, number), 443),
    };
    proto::Service {
        name: name(number),
        vip: vip.to_string(),
        port: Some(port.into()),
        protocol: "tcp".to_owned(),
        forwarding: "ipip".to_owned(),
        table_size: Some(TABLE_SIZE),
        backends: backends(options, number, weight),
        ..proto::Service::default()
    }
}

pub fn name(number: usize) -> String {
    format!("s{number}")
}

/// Nobody else's.
pub fn backends(options: &Options, number: usize, weight: u32) -> Vec<proto::Backend> {
    let backend = |host| proto::Backend {
        address: address(0x0a01_0000, number * options.backends + host).to_string(),
        weight: Some(weight),
        ..proto::Backend::default()
    };
    (0..options.backends).map(backend).collect()
}

fn address(base: u32, number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(base + number as u32)
}

pub fn message(options: &Options, version: &str, weight: u32) -> proto::ServiceSet {
    let services = (0..options.services).map(|number| service(options, number, weight));
    proto::ServiceSet { version: Some(version.to_owned()), services: services.collect() }
}

/// The JSON object of a service.
pub fn json(service: &proto::Service) -> serde_json::Value {
    let backend = |backend: &proto::Backend| serde_json::json!({"address": backend.address, "weight": backend.weight});
    serde_json::json!({
        "name": service.name, "vip": service.vip, "port": service.port, "protocol": service.protocol,
        "forwarding": service.forwarding, "table_size": service.table_size,
        "backends": service.backends.iter().map(backend).collect::<Vec<_>>(),
    })
}

/// The document of a set.
pub fn document(set: &proto::ServiceSet) -> String {
    let services: Vec<_> = set.services.iter().map(json).collect();
    serde_json::json!({"version": set.version, "services": services}).to_string()
}
