//! The control side: gRPC in other hands, the command line on a live node, and what happens where the control side dies or stands still.
//! `make lab-control`.

mod capture;
mod checked;
mod drain;
mod killed;
mod live;
mod orchestrator;
mod rolling;
mod sources;
mod stuck;
mod through;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Scene, require};
use crate::lab::{Lab, services};
use crate::node::{NO_FEED, Node, Options};
use crate::wait::{PATIENCE, until};

pub fn scenes() -> Vec<Scene> {
    vec![
        orchestrator::SCENE,
        live::SCENE,
        capture::SCENE,
        drain::SCENE,
        killed::SCENE,
        stuck::SCENE,
        checked::SCENE,
        through::SCENE,
        rolling::CHECKED,
        rolling::KUBERNETES,
        sources::ETCD,
        sources::RUBBISH,
    ]
}

/// Silent for so long, connections are forgotten: longer than any is silent here.
const IDLE: &str = "600s";

/// The lab's two services over all three backends; `web` remembers each flow, `shop` those that a change concerns.
fn definitions(version: &str, idle: &str) -> Value {
    let mut set = services(version, &[(1, 100), (2, 100), (3, 100)]);
    for (service, tracking) in [(0, "full"), (1, "transition")] {
        set["services"][service]["tracking"] = json!(tracking);
        set["services"][service]["idle_timeout"] = json!({"tcp": idle, "tcp_closing": "1s"});
    }
    set
}

/// Starts a node that has never run and that no feed rules, and gives it these definitions.
fn start_without_feed(lab: &mut Lab, definitions: &Value) -> Result<()> {
    lab.node.forget()?;
    lab.node.start(&Options { feed: NO_FEED.to_owned(), ..Options::default() })?;
    let file = lab.directory().join("definitions.json");
    std::fs::write(&file, definitions.to_string())?;
    lab.node.ask(&["apply", &file.display().to_string()])?.good()?;
    lab.node.until_resolved()
}

/// Waits until the node says that a backend is up, or down; how long that took.
fn until_up(node: &Node, service: &str, backend: &str, up: bool) -> Result<Duration> {
    let start = Instant::now();
    until(&format!("{backend} of {service} is up: {up}"), PATIENCE, || {
        Ok((is_up(node, service, backend)? == Some(up)).then_some(()))
    })?;
    Ok(start.elapsed())
}

/// Whether a backend may take packets of a service; `None`: it is none of it.
fn is_up(node: &Node, service: &str, backend: &str) -> Result<Option<bool>> {
    let metrics = node.metrics()?;
    let mut samples = metrics.of("penstock_backend_up");
    let sample = samples.find(|sample| sample.labels["service"] == service && sample.labels["backend"] == backend);
    Ok(sample.map(|sample| sample.value == 1.0))
}
