//! What an lcore costs while nothing arrives.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, VIP};
use crate::node::Options;
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "an idle lcore's CPU time", play };

/// How long it is watched. This is a measurement, not a wait.
const WATCHED: Duration = Duration::from_secs(1);

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let mut share = |idle: &'static str| -> Result<f64> {
        lab.node.start(&Options { idle, ..Options::default() })?;
        lab.client.curl(&format!("http://{VIP}/"))?;
        let (begun, before) = (Instant::now(), lab.node.lcore_seconds()?);
        std::thread::sleep(WATCHED);
        Ok((lab.node.lcore_seconds()? - before) / begun.elapsed().as_secs_f64() * 100.0)
    };
    story.claim("idle = \"sleep\" leaves most of its CPU to others, \"poll\" takes it whole", || {
        let (poll, pause, sleep) = (share("poll")?, share("pause")?, share("sleep")?);
        let told = format!("poll {poll:.0} %, pause {pause:.0} %, sleep {sleep:.0} % of a CPU, nothing arriving");
        // Others may run on this machine: poll cannot take what it is not given.
        require(sleep < 30.0 && sleep < poll / 2.0, || told.clone())?;
        Ok(told)
    })?;
    lab.node.start(&Options::default())
}
