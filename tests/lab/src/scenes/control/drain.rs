//! `penstock drain BACKEND --wait`, as before maintenance of a server, and back.

use std::time::Duration;

use anyhow::Result;

use super::{Scene, definitions, require, start_without_feed};
use crate::backend::DNAT_PORT;
use crate::crowd::{Crowd, Size};
use crate::lab::{Lab, VIP, backend_address};
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "a backend is drained under load, and comes back", play };

const SIZE: Size = Size { seats: 60, pause: Duration::from_millis(500), rate: 100 };
/// Silent for so long, connections are forgotten; the crowd asks far more often.
const IDLE: &str = "5s";
/// Forgetting takes the idle time, and a look over the whole memory, once in ten seconds.
const FORGOTTEN: Duration = Duration::from_secs(60);
const NAME: &str = "backend3";

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    start_without_feed(lab, &definitions("before maintenance", IDLE))?;
    let address = backend_address(3);
    let mut crowd = Crowd::start(&lab.client, &[format!("{VIP}:80"), format!("{VIP}:8080")], &SIZE)?;
    crowd.count()?;
    let before = crowd.until_settled(2, 200)?;
    let on_it = before.open.get(NAME).copied().unwrap_or(0);
    require(on_it > 0 && before.flows.contains_key(NAME), || format!("nobody is on {NAME}: {before:?}"))?;
    let mut drain = lab.node.ask_on(&["drain", &address, "--wait"], &lab.directory().join("drain.log"))?;

    story.claim("it gets no new connection, keeps those that it has, and `drain --wait` waits for them", || {
        drain.until_it_says(&format!("{address} drains in shop, web"), Duration::from_secs(10))?;
        crowd.count()?;
        let after = crowd.until_settled(3, 300)?;
        require(!after.flows.contains_key(NAME) && after.open.get(NAME) == Some(&on_it), || format!("{after:?}"))?;
        require(drain.running(), || format!("it has returned: {}", drain.said()))?;
        let listed = lab.node.ask(&["backends", &address, "--json"])?.document()?;
        let backends = listed["backends"].as_array().cloned().unwrap_or_default();
        let drains = |backend: &serde_json::Value| {
            backend["state"] == "draining"
                && backend["defined_state"] == "active"
                && backend["drained"] == true
                && backend["slots"] == 0
        };
        require(backends.len() == 2 && backends.iter().all(drains), || listed.to_string())?;
        let status = lab.node.ask(&["status"])?.good()?;
        let line = status.lines().find(|line| line.starts_with("drained") && line.contains(&address));
        let line = line.ok_or_else(|| anyhow::anyhow!("status does not say it:\n{status}"))?;
        Ok(format!("{on_it} connections stay, of {} new ones none came\n{line}", after.flows.values().sum::<u64>()))
    })?;
    story.claim("when its clients have left, the command returns", || {
        crowd.leave(NAME)?;
        let status = drain.until_it_ends(FORGOTTEN)?;
        require(status.success(), || format!("{status}: {}", drain.said()))?;
        require(drain.said().contains("no flow is left that this node knows of"), || drain.said())?;
        Ok(drain.said())
    })?;
    story.claim("after that its server has no connection, and gets no packet", || {
        let server = &lab.backends[2].namespace;
        let ports = format!("( sport = :80 or sport = :{DNAT_PORT} )");
        let mut ss = server.command("ss");
        let open = crate::process::output(ss.args(["-Htn", "state", "established"]).arg(ports))?;
        require(open.is_empty(), || open.clone())?;
        let packets = || -> Result<u64> {
            let metrics = lab.node.metrics()?;
            Ok(["web", "shop"].map(|service| metrics.backend_packets(service, &address)).iter().sum())
        };
        let then = packets()?;
        crowd.count()?;
        let progress = crowd.until_settled(2, 200)?;
        require(packets()? == then && !progress.open.contains_key(NAME), || format!("{progress:?}"))?;
        Ok(format!("{} new connections went to the others", progress.flows.values().sum::<u64>()))
    })?;
    story.claim("`undrain` brings it back to its share", || {
        let said = lab.node.ask(&["undrain", &address])?.good()?;
        crowd.count()?;
        let progress = crowd.until_settled(2, 600)?;
        let (its, all) = (progress.flows.get(NAME).copied().unwrap_or(0), progress.flows.values().sum::<u64>());
        // A third of some 600: the deviation is some 12.
        require((all / 4..all / 2).contains(&its), || format!("{progress:?}"))?;
        Ok(format!("{said}{its} of {all} new connections"))
    })?;
    story.claim("through all of it no connection broke, and no request failed", || {
        let window = crowd.stop()?;
        let (open, short) = (window.connections(), window.short);
        let good = window.broken.is_empty() && window.moved.is_empty() && window.failed.is_empty();
        require(good && short > 1000, || format!("{window:?}"))?;
        let (answers, closed) = (window.answers, window.closed);
        Ok(format!("{open} long ones with {answers} answers, {closed} closed as told; {short} short ones"))
    })?;
    story.claim("what cannot be done is said, with exit code 2", || {
        let again = lab.node.ask(&["undrain", &address])?.refused(2)?;
        let nobody = lab.node.ask(&["drain", "10.9.9.9"])?.refused(2)?;
        let elsewhere = lab.node.ask(&["drain", &address, "--service", "wbe"])?.refused(2)?;
        Ok([again, nobody, elsewhere].concat())
    })?;
    story.claim("`--timeout` gives up with exit code 1 while somebody is there, and the backend drains on", || {
        let crowd = Crowd::start(&lab.client, &[format!("{VIP}:80")], &Size { rate: 1, ..SIZE })?;
        until("the crowd is on the backend", Duration::from_secs(20), || {
            let listed = lab.node.ask(&["backends", &address, "--service", "web", "--json"])?.document()?;
            Ok((listed["backends"][0]["flows"].as_u64() > Some(0)).then_some(()))
        })?;
        let gave_up = lab.node.ask(&["drain", &address, "--wait", "--timeout", "1"])?.refused(1)?;
        let state = lab.node.ask(&["backends", &address, "--json"])?.document()?["backends"][0]["state"].clone();
        require(gave_up.contains("gave up waiting") && state == "draining", || format!("{state} {gave_up}"))?;
        lab.node.ask(&["undrain", &address])?.good()?;
        crowd.stop()?;
        Ok(gave_up)
    })
}
