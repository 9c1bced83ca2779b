//! Every server is restarted, one after the other, under load: as Kubernetes does it, and by hand behind health checks.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, require, until_up};
use crate::lab::{Lab, VIP, backend_address, services};
use crate::node::Options;
use crate::say::Story;
use crate::wait::{PATIENCE, until};

pub const KUBERNETES: Scene = Scene { title: "Kubernetes: a rolling update", play: kubernetes };
pub const CHECKED: Scene = Scene { title: "a rolling restart behind checks through the VIP", play: checked };

/// Requests at once, and the pause of each worker between two.
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(60);

/// What becomes of a pod in a rolling update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pod {
    Ready,
    /// Told to end; it serves those whom it has.
    Terminating,
    Gone,
}

/// Service and slice as an API server shows them.
fn document(pods: &[Pod; 3]) -> Value {
    let endpoint = |(number, pod): (usize, &Pod)| {
        (*pod != Pod::Gone).then(|| {
            let terminating = *pod == Pod::Terminating;
            json!({
                "addresses": [backend_address(number + 1)],
                "conditions": {"ready": !terminating, "serving": true, "terminating": terminating},
            })
        })
    };
    let name = json!({"name": "web", "namespace": "shop"});
    json!({
        "services": [{
            "metadata": name,
            "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": VIP}]}},
        }],
        "endpoints": [{
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "endpoints": pods.iter().enumerate().filter_map(endpoint).collect::<Vec<_>>(),
        }],
    })
}

fn kubernetes(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let mut pods = [Pod::Ready; 3];
    lab.node.forget()?;
    lab.node.write(&document(&pods))?;
    lab.node.start(&Options::default())?;
    in_force(lab, &pods)?;
    lab.node.until_resolved()?;
    story.claim("each pod terminates while it serves, goes, and a new one is ready: no request fails", || {
        let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;
        for number in 0..pods.len() {
            for (pod, then) in [(Pod::Terminating, Step::Wait), (Pod::Gone, Step::Restart), (Pod::Ready, Step::Wait)] {
                pods[number] = pod;
                lab.node.write(&document(&pods))?;
                in_force(lab, &pods)?;
                match then {
                    // What was sent to it before still arrives, and is answered.
                    Step::Wait => std::thread::sleep(Duration::from_millis(500)),
                    Step::Restart => {
                        lab.backends[number].stop_server()?;
                        lab.backends[number].start_server()?;
                    }
                }
            }
        }
        let report = load.stop()?;
        require(report.failed + report.repeated == 0 && report.backends.len() == 3, || report.to_string())?;
        Ok(report.to_string())
    })?;
    story.claim("all pods terminate at once: those that serve are used (KEP-1669), and no request fails", || {
        let pods = [Pod::Terminating; 3];
        lab.node.write(&document(&pods))?;
        until("all are used", PATIENCE, || {
            Ok((states(lab)?
                == vec![
                    (backend_address(1), "active".to_owned()),
                    (backend_address(2), "active".to_owned()),
                    (backend_address(3), "active".to_owned()),
                ])
            .then_some(()))
        })?;
        Ok(format!("{} requests", lab.client.curl_many(&format!("http://{VIP}/"), 60)?.len()))
    })
}

/// What happens to a server after its pod's change.
enum Step {
    Wait,
    Restart,
}

/// Address and state of every backend, as the node has them.
fn states(lab: &Lab) -> Result<Vec<(String, String)>> {
    let listed = lab.node.ask(&["backends", "--json"])?.document()?;
    let backends = listed["backends"].as_array().context("no backends")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(backends.iter().map(|backend| (text(&backend["address"]), text(&backend["state"]))).collect())
}

/// Waits until the node has what the document says.
fn in_force(lab: &Lab, pods: &[Pod; 3]) -> Result<()> {
    let wanted: Vec<_> = (1..)
        .zip(pods)
        .filter_map(|(number, pod)| {
            let state = match pod {
                Pod::Ready => "active",
                Pod::Terminating => "draining",
                Pod::Gone => return None,
            };
            Some((backend_address(number), state.to_owned()))
        })
        .collect();
    until(&format!("{wanted:?}"), PATIENCE, || Ok((states(lab).ok().as_ref() == Some(&wanted)).then_some(())))
}

fn checked(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let mut set = services("rolling", &[(1, 100), (2, 100), (3, 100)]);
    set["services"].as_array_mut().context("services")?.truncate(1);
    set["services"][0]["health_check"] = json!({
        "kind": "http", "target": "vip", "interval": "200ms", "timeout": "150ms", "rise": 2, "fall": 2,
    });
    lab.node.start_anew(&Options::default(), &set)?;
    for number in 1..=3 {
        until_up(&lab.node, "web", &backend_address(number), true)?;
    }
    story.claim("drained first, each of three servers is stopped and started: no request fails", || {
        let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;
        for number in 1..=3 {
            let address = backend_address(number);
            lab.node.ask(&["drain", &address])?.good()?;
            // Connections of this load live for a request.
            std::thread::sleep(Duration::from_millis(300));
            restart(lab, number)?;
            lab.node.ask(&["undrain", &address])?.good()?;
        }
        let report = load.stop()?;
        require(report.failed + report.repeated == 0 && report.backends.len() == 3, || report.to_string())?;
        Ok(report.to_string())
    })?;
    story.claim("not drained, requests fail only until the checks have seen it: they are counted", || {
        let load = lab.client.load(&format!("{VIP}:80"), WORKERS, PAUSE)?;
        for number in 1..=3 {
            restart(lab, number)?;
        }
        let report = load.stop()?;
        let lost = report.failed + report.repeated;
        // A third of them for some half a second, three times.
        require(lost > 0 && lost < report.requests / 3, || report.to_string())?;
        let (requests, failures) = (report.requests, report.failures.len());
        Ok(format!("{lost} of {requests} requests met a server that had stopped ({failures} told)"))
    })
}

/// Stops a server, waits until it is out, starts it, waits until it is back.
fn restart(lab: &mut Lab, number: usize) -> Result<()> {
    let address = backend_address(number);
    lab.backends[number - 1].stop_server()?;
    let out = until_up(&lab.node, "web", &address, false)?;
    lab.backends[number - 1].start_server()?;
    let back = until_up(&lab.node, "web", &address, true)?;
    require(out + back < LONGEST, || format!("out after {out:?}, back after {back:?}"))
}
