//! `"target": "vip"`: a check goes the way of a client's packets, and so sees what a check of the backend's own address cannot.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Scene, is_up, require, until_up};
use crate::backend::DNAT_PORT;
use crate::lab::{Lab, NODE, TO_NODE, VIP, backend_address, services};
use crate::node::Options;
use crate::say::Story;
use crate::wait::{PATIENCE, until};

pub const SCENE: Scene = Scene { title: "a check through the VIP goes as a client's packets do", play };

const INTERVAL: Duration = Duration::from_millis(500);
const RISE: u32 = 2;
const FALL: u32 = 3;
/// What a verdict may take beyond its probes.
const SLACK: Duration = Duration::from_secs(1);
/// Whose tunnel breaks, and whose port of `shop` closes.
const BROKEN: usize = 3;
const CLOSED: usize = 2;
const REQUESTS: usize = 60;
const TUNNELLED: &str = "ip proto 4";
/// From 10.0.0.1 to 192.0.2.1, behind an outer header.
const WITHIN: &str = "ip[32:4] = 0x0a000001 and ip[36:4] = 0xc0000201";

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let mut set = services("through", &[(1, 100), (2, 100), (3, 100)]);
    for service in 0..2 {
        set["services"][service]["health_check"] = json!({
            "kind": "http", "target": "vip", "interval": "500ms", "timeout": "300ms", "rise": RISE, "fall": FALL,
        });
    }
    // What operators have, and no check may mind: the node announces the VIP from its own kernel, and filters by source.
    lab.node.namespace.ip(&format!("route add blackhole {VIP}/32"))?;
    lab.node.namespace.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
    let told = tell(lab, story, &set);
    lab.node.namespace.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    lab.node.namespace.ip(&format!("route delete blackhole {VIP}/32"))?;
    told
}

fn tell(lab: &mut Lab, story: &mut Story, set: &serde_json::Value) -> Result<()> {
    let mut capture = lab.capture_at_router(TO_NODE, "through", &format!("src host {NODE} and {TUNNELLED}"))?;
    lab.node.start_anew(&Options::default(), set)?;

    story.claim("all are up: asked by `ipip` and by `dnat`, and no service counts that", || {
        until("every backend has been asked some times", PATIENCE, || {
            Ok((lab.node.metrics()?.sum("penstock_probe_answers_total") >= 6 * 3 * 5).then_some(()))
        })?;
        let listed = lab.node.ask(&["backends", "--json"])?.document()?;
        let backends = listed["backends"].as_array().context("no backends")?;
        let is_good = |backend: &serde_json::Value| {
            backend["health"] == "up"
                && backend["health_reason"].as_str().is_some_and(|reason| reason.starts_with("good"))
        };
        require(backends.len() == 6 && backends.iter().all(is_good), || format!("{listed:#}"))?;
        let metrics = lab.node.metrics()?;
        let counted = ["penstock_service_packets_total", "penstock_flows", "penstock_probe_lost_packets_total"];
        require(counted.iter().all(|name| metrics.sum(name) == 0), || format!("{metrics:?}"))?;
        let sent = metrics.sum("penstock_probe_packets_total");
        let answers = metrics.sum("penstock_probe_answers_total");
        Ok(format!("{sent} packets of probes, {answers} answers; none counted for a service, no flow remembered"))
    })?;
    story.claim("what is sent to a backend has the VIP within, from the node's own address", || {
        capture.stop()?;
        let (all, such) = (capture.count(TUNNELLED)?, capture.count(&format!("{TUNNELLED} and {WITHIN}"))?);
        require(such > 0 && such == all, || format!("{such} of {all}"))?;
        Ok(format!("{such} packets"))
    })?;

    let broken = backend_address(BROKEN);
    story.claim("a backend's tunnel breaks, while its own address answers: it is out of `web`, in time", || {
        lab.decapsulator.remove(&lab.backends[BROKEN - 1].namespace, "eth0")?;
        let took = until_up(&lab.node, "web", &broken, false)?;
        let most = INTERVAL * FALL + SLACK;
        require(took <= most, || format!("out after {took:.1?}"))?;
        let curl = format!("curl --silent --show-error --fail --max-time 2 http://{broken}:{DNAT_PORT}/");
        lab.router.run(&curl)?;
        let shop = is_up(&lab.node, "shop", &broken)?;
        require(shop == Some(true), || format!("in shop: {shop:?}"))?;
        let answers = lab.client.curl_many(&format!("http://{VIP}/"), REQUESTS)?;
        let status = lab.node.ask(&["status"])?.good()?;
        require(status.contains("3 of 3 failed: no connection within the timeout"), || status.clone())?;
        Ok(format!("out after {took:.1?} ({most:?} at most); {} requests met the others\n{status}", answers.len()))
    })?;
    story.claim("the tunnel works again: it returns", || {
        lab.decapsulator.install(&lab.backends[BROKEN - 1].namespace, "eth0", &broken)?;
        let took = until_up(&lab.node, "web", &broken, true)?;
        require(took <= INTERVAL * RISE + SLACK, || format!("back after {took:.1?}"))?;
        Ok(format!("back after {took:.1?}"))
    })?;

    let closed = backend_address(CLOSED);
    story.claim(
        "the port that `dnat` sends to closes: its backend is out of `shop`, stays in `web`, and returns",
        || {
            let backend = &lab.backends[CLOSED - 1].namespace;
            let rules = format!(
                "add table ip lab; add chain ip lab in {{ type filter hook input priority 0; }}; \
             add rule ip lab in tcp dport {DNAT_PORT} reject with tcp reset"
            );
            crate::process::output(backend.command("nft").arg(rules))?;
            let out = until_up(&lab.node, "shop", &closed, false)?;
            let web = is_up(&lab.node, "web", &closed)?;
            let status = lab.node.ask(&["status"])?.good()?;
            crate::process::output(backend.command("nft").arg("delete table ip lab"))?;
            require(out <= INTERVAL * FALL + SLACK && web == Some(true), || {
                format!("out after {out:.1?}, web: {web:?}")
            })?;
            require(status.contains("3 of 3 failed: connection refused"), || status.clone())?;
            let back = until_up(&lab.node, "shop", &closed, true)?;
            require(back <= INTERVAL * RISE + SLACK, || format!("back after {back:.1?}"))?;
            Ok(format!("out after {out:.1?}, back after {back:.1?}"))
        },
    )
}
