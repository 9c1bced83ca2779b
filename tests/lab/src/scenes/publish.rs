//! How long a new definitions file takes to the first packet that obeys it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::client::median;
use crate::lab::{Lab, TO_NODE, VIP, two_backends};
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "publish: from the file's rename to the first packet", play };

const ROUNDS: usize = 11;
/// What `perf/publish` measures is less; but here the control side shares one CPU with the client, the router and the capture.
const LIMIT_MS: f64 = 10.0;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    // Nobody lives there: only where packets are sent to matters, and no ICMP error comes back.
    lab.router.ip("route replace blackhole 10.2.0.0/16")?;
    let _beat = lab.client.beat(&format!("{VIP}:9"), Duration::from_micros(100))?;
    lab.node.publish(&hundred(0))?;
    let mut capture = lab.capture_at_router(TO_NODE, "publish-router", "ip proto 4")?;
    capture.until_it_has(1, "dst net 10.2.0.0/24")?;

    story.claim(&format!("1 service of 100 backends is in force within {LIMIT_MS} ms (median of {ROUNDS})"), || {
        let mut renamed = Vec::new();
        for round in 1..=ROUNDS {
            renamed.push(lab.node.publish(&hundred(round))?);
            capture.until_it_has(1, &format!("dst net 10.2.{round}.0/24"))?;
        }
        capture.stop()?;
        let mut times = Vec::new();
        for (round, at) in (1..).zip(renamed) {
            let first = capture.packets(&format!("dst net 10.2.{round}.0/24"))?;
            let at = at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
            times.push((first.first().context("a packet")?.at - at) * 1e3);
        }
        let (median, worst) = (median(&times), times.iter().copied().fold(f64::MIN, f64::max));
        let told = format!("median {median:.2} ms, worst {worst:.2} ms; a packet every 0.1 ms, seen at the router");
        require(median <= LIMIT_MS, || told.clone())?;
        Ok(told)
    })?;
    lab.node.publish(&two_backends("after publish")).map(drop)
}

/// The 100 backends of a round: all others than the round before, so that every packet changes its backend.
fn hundred(round: usize) -> Value {
    let backends: Vec<Value> = (1..=100).map(|host| json!({"address": format!("10.2.{round}.{host}")})).collect();
    json!({
        "version": format!("hundred {round}"),
        "services": [{"name": "beat", "vip": VIP, "port": 9, "protocol": "udp", "forwarding": "ipip",
                      "tracking": "none", "backends": backends}]
    })
}
