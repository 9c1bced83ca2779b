//! kill -9, then another start.

use std::time::Instant;

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, NODE, VIP, two_backends};
use crate::node::{Options, TWIN};
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "kill -9 and start again", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("before the crash"))?;
    lab.client.curl(&format!("http://{VIP}/"))?;
    lab.node.kill()?;
    story.claim("the kernel twin outlives it, with its address", || {
        let addresses = lab.node.namespace.ip(&format!("address show dev {TWIN}"))?;
        require(addresses.contains(NODE), || addresses.clone())?;
        Ok(addresses.lines().find(|line| line.contains(NODE)).unwrap_or_default().trim().to_string())
    })?;
    story.claim("a second start forwards again, both ways", || {
        let begun = Instant::now();
        lab.node.start(&Options::default())?;
        let ready = begun.elapsed().as_secs_f64();
        lab.client.curl_many(&format!("http://{VIP}/"), 20)?;
        lab.client.curl_many(&format!("http://{VIP}:8080/"), 20)?;
        Ok(format!("ready after {ready:.1} s; 20 requests by ipip and 20 by dnat answered"))
    })
}
