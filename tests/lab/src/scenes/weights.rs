//! Weights: the shares of connections follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use super::{Scene, require};
use crate::lab::{Lab, NODE, TO_NODE, VIP, services};
use crate::say::Story;
use crate::wait::{until, with};

pub const SCENE: Scene = Scene { title: "weights 100 and 300", play };

const CONNECTIONS: usize = 400;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&services("weights", &[(1, 100), (2, 300)]))?;
    let at_router = lab.capture_at_router(TO_NODE, "weights-router", "ip proto 4")?;
    let before = lab.node.metrics()?;

    story.claim(&format!("of {CONNECTIONS} connections, a quarter meet backend1 and the rest backend2"), || {
        let answers = lab.client.curl_many(&format!("http://{VIP}/"), CONNECTIONS)?;
        let connections: BTreeSet<&String> = answers.iter().map(|answer| &answer.client).collect();
        require(connections.len() == CONNECTIONS, || format!("only {} connections were made", connections.len()))?;
        let mut met = BTreeMap::<&str, usize>::new();
        answers.iter().for_each(|answer| *met.entry(&answer.backend).or_default() += 1);
        let (one, two) = (met.get("backend1").copied().unwrap_or(0), met.get("backend2").copied().unwrap_or(0));
        // Each connection is a draw with p = 1/4: 100 expected, standard deviation sqrt(400 · 1/4 · 3/4) = 8.7. Four
        // of those either way: a right load balancer fails this once in 16,000 runs.
        let (expected, deviation) = (CONNECTIONS as f64 / 4.0, (CONNECTIONS as f64 * 0.25 * 0.75).sqrt());
        let off = (one as f64 - expected) / deviation;
        let told = format!(
            "backend1 {one}, backend2 {two}: {off:+.1} standard deviations from {expected} and {}",
            3.0 * expected
        );
        require(one + two == CONNECTIONS && off.abs() <= 4.0, || told.clone())?;
        Ok(told)
    })?;
    story.claim("the counters agree with what was seen on the wire, packet for packet", || {
        let mut last = String::new();
        until("the counters equal the capture", Duration::from_secs(3), || {
            let now = lab.node.metrics()?;
            let mut agree = true;
            let mut told = Vec::new();
            for backend in &lab.backends[..2] {
                let packets = |metrics: &crate::metrics::Metrics| metrics.backend_packets("web", &backend.address);
                let counted = packets(&now) - packets(&before);
                let captured = at_router.count(&format!("src {NODE} and dst {}", backend.address))? as u64;
                agree &= counted == captured && counted > 0;
                told.push(format!("{}: {counted} packets counted, {captured} captured", backend.name));
            }
            last = told.join("\n");
            Ok(agree.then_some(()))
        })
        .map_err(with(|| last.clone()))?;
        Ok(last)
    })
}
