//! The router fails over to another MAC address.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::{Scene, require};
use crate::lab::{Lab, TO_NODE, VIP, two_backends};
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "the router changes its MAC address", play };

const LIMIT_MS: f64 = 100.0;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("mac"))?;
    let old = lab.router.mac(TO_NODE)?;
    let new = "02:00:00:00:fe:02";
    // To a service's port without a connection: each is forwarded, and that is all that is looked at.
    let mut services = two_backends("mac and beat");
    services["services"][0]["protocol"] = "udp".into();
    services["services"][0]["tracking"] = "none".into();
    lab.node.publish(&services)?;
    let _beat = lab.client.beat(&format!("{VIP}:80"), Duration::from_millis(1))?;
    let capture = lab.capture_at_router(TO_NODE, "mac-router", "ip proto 4")?;
    capture.until_it_has(1, &format!("ether dst {old}"))?;

    let result = story.claim(&format!("frames leave with the new one within {LIMIT_MS} ms"), || {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        lab.router.ip(&format!("link set {TO_NODE} address {new}"))?;
        capture.until_it_has(1, &format!("ether dst {new}"))?;
        let packets = capture.packets(&format!("ether dst {new}"))?;
        let took = (packets.first().context("a packet")?.at - at) * 1e3;
        let lost = capture.packets(&format!("ether dst {old}"))?.iter().filter(|packet| packet.at > at).count();
        let told = format!("{took:.1} ms after the change; {lost} frames went to the old one ({old}) meanwhile");
        require(took <= LIMIT_MS, || told.clone())?;
        Ok(told)
    });
    lab.router.ip(&format!("link set {TO_NODE} address {old}"))?;
    capture.until_it_has(1, &format!("ether dst {new}"))?;
    result?;
    lab.node.publish(&two_backends("after mac")).map(drop)
}
