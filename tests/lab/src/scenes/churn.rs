//! Ten thousand short connections from few ports, whose replies come back through the load balancer.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::backend::DNAT_PORT;
use crate::lab::{Lab, TO_CLIENT, VIP, backend_address, two_backends};
use crate::say::Story;
use crate::sixth::{Sixth, VIP as VIP6, backend_address as address6};
use crate::wait::until;

pub const DNAT: Scene =
    Scene { title: "dnat: 10,000 short connections from 1000 ports", play: |lab, story| play(lab, story, "dnat") };

const CONNECTIONS: u64 = 10_000;
/// At once.
const WORKERS: usize = 16;
/// The client's ports: so few that each is used again and again.
const PORTS: (u16, u16) = (40_000, 40_999);

/// `forwarding`: a mode whose replies come back through the load balancer.
fn play(lab: &mut Lab, story: &mut Story, forwarding: &str) -> Result<()> {
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    }
    lab.node.publish(&services(forwarding))?;
    lab.node.until_resolved()?;
    let client = lab.client.namespace.clone();
    let range = client.run("cat /proc/sys/net/ipv4/ip_local_port_range")?;
    client.sysctl("net.ipv4.ip_local_port_range", &format!("{} {}", PORTS.0, PORTS.1))?;
    let played = churn(lab, story, forwarding, "IPv4", &format!("{VIP}:8080")).and_then(|()| match Sixth::is_known() {
        true => churn(lab, story, forwarding, "IPv6", &format!("[{VIP6}]:8080")),
        false => {
            story.skip(&format!("{forwarding} over IPv6: this kernel has none"));
            Ok(())
        }
    });
    client.sysctl("net.ipv4.ip_local_port_range", &range.split_whitespace().collect::<Vec<_>>().join(" "))?;
    lab.speak_ipv4_only();
    played?;
    lab.node.publish(&two_backends("after churn")).map(drop)
}

fn churn(lab: &Lab, story: &mut Story, forwarding: &str, family: &str, server: &str) -> Result<()> {
    let vip = server.rsplit_once(':').map_or("", |(vip, _)| vip).trim_matches(['[', ']']);
    let told = format!("{forwarding}, {family}");
    let wire = lab.capture_at_router(TO_CLIENT, &format!("churn-{forwarding}-{family}"), "tcp")?;
    let before = lab.backends.iter().map(|backend| backend.served()).sum::<usize>();
    story.claim(&format!("{told}: {CONNECTIONS} connections, {WORKERS} at once, none fails"), || {
        let report = lab.client.churn(server, CONNECTIONS, WORKERS)?;
        require(report.requests == CONNECTIONS && report.failed == 0, || report.to_string())?;
        let served = lab.backends.iter().map(|backend| backend.served()).sum::<usize>() - before;
        require(served as u64 == CONNECTIONS, || format!("the backends answered {served}"))?;
        require(report.backends.len() == lab.backends.len(), || format!("not all backends: {report}"))?;
        Ok(report.to_string())
    })?;
    story.claim(&format!("{told}: each port was used again and again, each reply came from the VIP"), || {
        let syns = format!("dst {vip} and {}", flags(vip, "0x12 = 2"));
        wire.until_it_has(CONNECTIONS as usize, &syns)?;
        let mut uses = BTreeMap::<u16, usize>::new();
        for syn in wire.packets(&syns)? {
            *uses.entry(source_port(&syn.text)?).or_default() += 1;
        }
        let (least, most) = (uses.values().min().unwrap_or(&0), uses.values().max().unwrap_or(&0));
        let ports = usize::from(PORTS.1 - PORTS.0) + 1;
        require(uses.len() <= ports && *most >= CONNECTIONS as usize / ports, || {
            format!("{} ports, at most {most} times", uses.len())
        })?;
        let strangers = wire.count(&format!("not host {vip}"))?;
        require(strangers == 0, || format!("{strangers} packets of others than the VIP at the client"))?;
        let resets = wire.count(&format!("src {vip} and {}", flags(vip, "4 != 0")))?;
        require(resets == 0, || format!("{resets} resets from the VIP"))?;
        let (up, down) = (wire.count(&format!("dst {vip}"))?, wire.count(&format!("src {vip}"))?);
        Ok(format!(
            "{} ports, each {least} to {most} times; {up} packets to the VIP, {down} from it, 0 resets, 0 of anybody else",
            uses.len()
        ))
    })?;
    story.claim(&format!("{told}: what came in is what went out"), || {
        until("the verdicts are counted, and sum up to what came", Duration::from_secs(2), || {
            let metrics = lab.node.metrics()?;
            let sum = |what: &str| metrics.sum(&format!("penstock_{what}_packets_total"));
            let received = sum("received");
            let [forwarded, answered, punted, dropped] = ["forwarded", "answered", "punted", "dropped"].map(sum);
            let told = format!(
                "received {received} = forwarded {forwarded} + answered {answered} + punted {punted} + dropped {dropped}"
            );
            Ok((received == forwarded + answered + punted + dropped && dropped == 0).then_some(told))
        })
    })
}

/// A filter on TCP's flags; tcpdump finds them by itself over IPv4 only.
fn flags(vip: &str, holds: &str) -> String {
    if vip.contains(':') { format!("ip6[53] & {holds}") } else { format!("tcp[13] & {holds}") }
}

/// `… 198.51.100.10.40000 > 192.0.2.1.8080: …`
fn source_port(line: &str) -> Result<u16> {
    let source = line.split_once(" > 192.0.2.1.").or_else(|| line.split_once(&format!(" > {VIP6}.")));
    let source = source.with_context(|| format!("tcpdump's {line}"))?.0;
    Ok(source.rsplit('.').next().unwrap_or_default().parse()?)
}

fn services(forwarding: &str) -> Value {
    let over = |address: fn(usize) -> String| -> Vec<Value> {
        (1..=3).map(|number| json!({"address": address(number), "port": DNAT_PORT})).collect()
    };
    json!({"version": format!("churn by {forwarding}"), "services": [
        {"name": "churn4", "vip": VIP, "port": 8080, "protocol": "tcp", "forwarding": forwarding, "backends": over(backend_address)},
        {"name": "churn6", "vip": VIP6, "port": 8080, "protocol": "tcp", "forwarding": forwarding, "backends": over(address6)},
    ]})
}
