//! SIGTERM: not ready any more, forwarding on for the grace, then a clean end.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, VIP, two_backends};
use crate::node::Options;
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "SIGTERM drains and stops", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.start(&Options { stop_grace: "2s", ..Options::default() })?;
    lab.node.publish(&two_backends("stop"))?;
    let started = Instant::now();
    story.claim("/readyz says 503 while requests still succeed", || {
        let ready = lab.node.health("readyz")?;
        lab.node.process()?.signal("TERM")?;
        until("/readyz says 503", Duration::from_secs(1), || Ok((lab.node.health("readyz")? == 503).then_some(())))?;
        let answer = lab.client.curl(&format!("http://{VIP}/"))?;
        Ok(format!("readyz {ready}, then 503; {} still answered", answer.backend))
    })?;
    story.claim("it ends by itself after stop_grace, exit 0", || {
        let status = lab.node.process()?.until_it_ends(Duration::from_secs(6))?;
        let took = started.elapsed().as_secs_f64();
        require(status.success(), || format!("{status}"))?;
        require((1.9..4.0).contains(&took), || format!("it took {took:.1} s, stop_grace is 2 s"))?;
        Ok(format!("{status}, {took:.1} s after the signal"))
    })?;
    story.claim("a second SIGTERM ends it at once", || {
        lab.node.start(&Options { stop_grace: "1m", ..Options::default() })?;
        let process = lab.node.process()?;
        process.signal("TERM")?;
        until("/readyz says 503", Duration::from_secs(2), || Ok((lab.node.health("readyz")? == 503).then_some(())))?;
        lab.node.process()?.signal("TERM")?;
        let status = lab.node.process()?.until_it_ends(Duration::from_secs(3))?;
        require(status.success(), || format!("{status}"))?;
        Ok(format!("{status}, though stop_grace was a minute"))
    })?;
    lab.node.start(&Options::default())
}
