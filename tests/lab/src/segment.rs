//! The load balancer's network as one that others share: a bridge of the router's between it and them.

use std::rc::Rc;

use anyhow::Result;

use crate::lab::{FABRIC_MTU, GATEWAY, TO_NODE, face_node};
use crate::namespace::Namespace;
use crate::site::Port;
use crate::sixth;

/// The router's interface towards the load balancer, as long as there is a segment.
pub const BRIDGE: &str = "segment";

/// How servers are connected to it. (The first few addresses are the node's and the router's.)
pub const PORT: Port = Port { bridge: BRIDGE, networks: ("10.0.0.1", "fd00::1"), gateways: (GATEWAY, sixth::GATEWAY) };

pub struct Segment(Rc<Namespace>);

impl Segment {
    pub fn build(router: &Rc<Namespace>) -> Result<Self> {
        // With the address of the port it stands for, so that nobody has to learn another.
        let mac = router.mac(TO_NODE)?;
        router.ip(&format!("link add {BRIDGE} mtu {FABRIC_MTU} address {mac} type bridge"))?;
        let this = Self(router.clone());
        // With the last address go the routes.
        router.ip(&format!("address flush dev {TO_NODE}"))?;
        router.ip(&format!("link set {TO_NODE} master {BRIDGE}"))?;
        router.ip(&format!("link set {BRIDGE} up"))?;
        face_node(router, BRIDGE)?;
        Ok(this)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let _ = self.0.ip(&format!("link delete {BRIDGE}"));
        let _ = face_node(&self.0, TO_NODE);
    }
}
