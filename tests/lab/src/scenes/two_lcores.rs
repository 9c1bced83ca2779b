//! Two lcores, each with its own queue of the port.

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, VIP, two_backends};
use crate::node::Options;
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "two lcores share the port's flows", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        story.skip("two lcores want two CPUs");
        return Ok(());
    }
    lab.node.start(&Options { lcores: vec![0, 1], ..Options::default() })?;
    lab.node.publish(&two_backends("two lcores"))?;
    story.claim("200 connections by ipip and 200 by dnat succeed, and both lcores took some", || {
        lab.client.curl_many(&format!("http://{VIP}/"), 200)?;
        lab.client.curl_many(&format!("http://{VIP}:8080/"), 200)?;
        let metrics = lab.node.metrics()?;
        let took = |lcore: &str| metrics.sum_where("penstock_received_packets_total", "lcore", |name| name == lcore);
        let (zero, one) = (took("0"), took("1"));
        require(zero > 0 && one > 0, || format!("lcore 0 received {zero} frames, lcore 1 {one}"))?;
        Ok(format!("lcore 0 received {zero} frames, lcore 1 {one}"))
    })?;
    lab.node.start(&Options::default())
}
