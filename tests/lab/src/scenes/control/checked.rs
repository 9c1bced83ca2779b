//! Health checks: a server stops, and its backend is out; it comes back; a restart of the node between changes nothing.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Scene, is_up, require, until_up};
use crate::lab::{Lab, VIP, backend_address, services};
use crate::node::Options;
use crate::say::Story;
use crate::wait::{PATIENCE, until};

pub const SCENE: Scene = Scene { title: "a backend's server stops, and comes back", play };

const INTERVAL: Duration = Duration::from_millis(500);
const RISE: u32 = 2;
const FALL: u32 = 3;
/// What a verdict may take beyond its checks.
const SLACK: Duration = Duration::from_secs(1);
const STOPPED: usize = 3;
/// Requests after each step; none may fail.
const REQUESTS: usize = 60;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let mut set = services("checked", &[(1, 100), (2, 100), (3, 100)]);
    for service in 0..2 {
        set["services"][service]["health_check"] = json!({
            "kind": "http", "interval": "500ms", "timeout": "300ms", "rise": RISE, "fall": FALL,
        });
    }
    // Both services are asked for the same page at the same port, so they share what asks.
    set["services"][1]["health_check"]["port"] = json!(80);
    lab.node.start_anew(&Options::default(), &set)?;
    let stopped = backend_address(STOPPED);
    until("all have been asked", PATIENCE, || {
        let listed = lab.node.ask(&["backends", "--json"])?.document()?;
        let backends = listed["backends"].as_array().cloned().unwrap_or_default();
        Ok((backends.len() == 6 && backends.iter().all(|backend| backend["health"] == "up")).then_some(()))
    })?;

    story.claim("out of both services within fall × interval + 1 s, and from then on no request fails", || {
        lab.backends[STOPPED - 1].stop_server()?;
        let took = until_up(&lab.node, "web", &stopped, false)?;
        let most = INTERVAL * FALL + SLACK;
        require(took <= most, || format!("out after {took:.1?}"))?;
        until_up(&lab.node, "shop", &stopped, false)?;
        let answers = [80, 8080].map(|port| lab.client.curl_many(&format!("http://{VIP}:{port}/"), REQUESTS));
        let counts = answers.into_iter().map(|all| all.map(|all| all.len())).sum::<Result<usize>>()?;
        Ok(format!("out after {took:.1?} ({most:?} at most); {counts} requests met the others"))
    })?;
    story.claim("`status` says who is out, and why", || {
        let status = lab.node.ask(&["status"])?.good()?;
        let why = "3 of 3 failed: connection refused";
        require(status.contains(&stopped) && status.contains(why), || status.clone())?;
        let out = status.lines().filter(|line| line.contains(&stopped)).collect::<Vec<_>>().join("\n");
        Ok(out)
    })?;
    story.claim("a node that starts again knows it before it asks: still no request fails", || {
        lab.node.start(&Options::default())?;
        let answers = lab.client.curl_many(&format!("http://{VIP}/"), REQUESTS)?;
        let up = is_up(&lab.node, "web", &stopped)?;
        require(up == Some(false), || format!("up: {up:?}"))?;
        Ok(format!("{} requests right after the start", answers.len()))
    })?;
    story.claim("its server is back: it returns within rise × interval + 1 s, to its share", || {
        lab.backends[STOPPED - 1].start_server()?;
        let took = until_up(&lab.node, "web", &stopped, true)?;
        require(took <= INTERVAL * RISE + SLACK, || format!("back after {took:.1?}"))?;
        let name = lab.backends[STOPPED - 1].name.clone();
        let answers = lab.client.curl_many(&format!("http://{VIP}/"), 3 * REQUESTS)?;
        let its = answers.iter().filter(|answer| answer.backend == name).count();
        // A third of 180: the deviation is some 6.
        require((30..90).contains(&its), || format!("{its} of {} requests", answers.len()))?;
        Ok(format!("back after {took:.1?}; {its} of {} requests", answers.len()))
    })
}
