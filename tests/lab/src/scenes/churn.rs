//! Ten thousand short connections from few ports, whose replies come back through the load balancer.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::backend::DNAT_PORT;
use crate::lab::{CLIENT, Lab, NODE, TO_CLIENT, TO_NODE, VIP, backend_address, two_backends};
use crate::node::Options;
use crate::say::Story;
use crate::sixth::{CLIENT as CLIENT6, NODE as NODE6, Sixth, VIP as VIP6, backend_address as address6};
use crate::wait::until;

pub const DNAT: Scene =
    Scene { title: "dnat: 10,000 short connections from 1000 ports", play: |lab, story| play(lab, story, &FEW_PORTS) };
pub const SNAT: Scene = Scene { title: "snat: 10,000 short connections from 8000 sources", play: snat };

const CONNECTIONS: u64 = 10_000;
/// At once.
const WORKERS: usize = 16;

/// A mode whose replies come back through the load balancer, and the client's ports.
struct Churn {
    forwarding: &'static str,
    ports: (u16, u16),
}

/// So few that each is used again and again.
const FEW_PORTS: Churn = Churn { forwarding: "dnat", ports: (40_000, 40_999) };
/// So many that each connection is a flow of its own, for which a source must be found.
const MANY_PORTS: Churn = Churn { forwarding: "snat", ports: (34_000, 60_999) };

/// What `snat` sends from: so few that they are used again, and as many as two seconds' connections, for which closed ones hold them.
const SOURCES: (u16, u16) = (20_000, 27_999);

/// On two lcores, where there are two CPUs: half of the replies then come to the other one.
fn snat(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let two = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    let lcores = if two { vec![0, 1] } else { Options::default().lcores };
    lab.node.start(&Options { lcores, sources: "20000-27999", ..Options::default() })?;
    let played = play(lab, story, &MANY_PORTS);
    lab.node.start(&Options::default())?;
    played
}

fn play(lab: &mut Lab, story: &mut Story, how: &Churn) -> Result<()> {
    let Churn { forwarding, ports } = *how;
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    }
    lab.node.publish(&services(forwarding))?;
    lab.node.until_resolved()?;
    let client = lab.client.namespace.clone();
    let range = client.run("cat /proc/sys/net/ipv4/ip_local_port_range")?;
    client.sysctl("net.ipv4.ip_local_port_range", &format!("{} {}", ports.0, ports.1))?;
    let played = churn(lab, story, how, "IPv4", &format!("{VIP}:8080")).and_then(|()| match Sixth::is_known() {
        true => churn(lab, story, how, "IPv6", &format!("[{VIP6}]:8080")),
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

fn churn(lab: &Lab, story: &mut Story, how: &Churn, family: &str, server: &str) -> Result<()> {
    let vip = server.rsplit_once(':').map_or("", |(vip, _)| vip).trim_matches(['[', ']']);
    let Churn { forwarding, ports } = *how;
    let (told, ports) = (format!("{forwarding}, {family}"), usize::from(ports.1 - ports.0) + 1);
    let wire = lab.capture_at_router(TO_CLIENT, &format!("churn-{forwarding}-{family}"), "tcp")?;
    let inside = lab.capture_at_router(TO_NODE, &format!("churn-{forwarding}-{family}-inside"), "tcp")?;
    let before = lab.backends.iter().map(|backend| backend.served()).sum::<usize>();
    story.claim(&format!("{told}: {CONNECTIONS} connections, {WORKERS} at once, none fails"), || {
        let report = lab.client.churn(server, CONNECTIONS, WORKERS)?;
        require(report.requests == CONNECTIONS && report.failed == 0, || report.to_string())?;
        let served = lab.backends.iter().map(|backend| backend.served()).sum::<usize>() - before;
        require(served as u64 == CONNECTIONS, || format!("the backends answered {served}"))?;
        require(report.backends.len() == lab.backends.len(), || format!("not all backends: {report}"))?;
        Ok(report.to_string())
    })?;
    story.claim(&format!("{told}: {ports} ports of the client were enough, and each reply came from the VIP"), || {
        let syns = format!("dst {vip} and {}", flags(vip, "0x12 = 2"));
        wire.until_it_has(CONNECTIONS as usize, &syns)?;
        let mut uses = BTreeMap::<u16, usize>::new();
        for syn in wire.packets(&syns)? {
            *uses.entry(source_port(&syn.text)?).or_default() += 1;
        }
        let (least, most) = (uses.values().min().unwrap_or(&0), uses.values().max().unwrap_or(&0));
        require(uses.len() <= ports && *most >= (CONNECTIONS as usize).div_ceil(ports), || {
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
    if forwarding == "snat" {
        let node = if vip.contains(':') { NODE6 } else { NODE };
        story.claim(
            &format!("{told}: each source was one connection's, and some another's later; nobody saw the client"),
            || {
                let syns = format!("src {node} and {}", flags(vip, "0x12 = 2"));
                inside.until_it_has(CONNECTIONS as usize, &syns)?;
                let mut uses = BTreeMap::<u16, usize>::new();
                for syn in inside.packets(&syns)? {
                    *uses.entry(source_of(&syn.text, node)?).or_default() += 1;
                }
                let most = uses.values().max().unwrap_or(&0);
                let are_own = uses.keys().all(|port| (SOURCES.0..=SOURCES.1).contains(port));
                require(are_own && *most > 1, || format!("{} sources, at most {most} times: {uses:?}", uses.len()))?;
                let client = if vip.contains(':') { CLIENT6 } else { CLIENT };
                let seen = inside.count(&format!("src {client} and not dst {vip}"))?;
                require(seen == 0, || format!("{seen} packets of {client} went on"))?;
                let metrics = lab.node.metrics()?;
                let by =
                    |lcore: &str| metrics.sum_where("penstock_forwarded_packets_total", "lcore", |name| name == lcore);
                let (zero, one) = (by("0"), by("1"));
                Ok(format!(
                    "{} sources, at most {most} times each; lcore 0 has forwarded {zero} packets, lcore 1 {one}",
                    uses.len()
                ))
            },
        )?;
    }
    story.claim(&format!("{told}: what came in is what went out"), || {
        until("the verdicts are counted, and sum up to what came", Duration::from_secs(2), || {
            let metrics = lab.node.metrics()?;
            let sum = |what: &str| metrics.sum(&format!("penstock_{what}_packets_total"));
            let received = sum("received");
            let [forwarded, answered, punted, dropped] = ["forwarded", "answered", "punted", "dropped"].map(sum);
            let told = format!(
                "received {received} = forwarded {forwarded} + answered {answered} + punted {punted} + dropped {dropped}"
            );
            Ok((received == forwarded + answered + punted + dropped).then_some(told))
        })
    })
}

/// A filter on TCP's flags; tcpdump finds them by itself over IPv4 only.
fn flags(vip: &str, holds: &str) -> String {
    if vip.contains(':') { format!("ip6[53] & {holds}") } else { format!("tcp[13] & {holds}") }
}

/// `… 198.51.100.10.40000 > 192.0.2.1.8080: …`
fn source_of(line: &str, node: &str) -> Result<u16> {
    let source = line.split_once(&format!("{node}.")).with_context(|| format!("tcpdump's {line}"))?.1;
    Ok(source.split(' ').next().unwrap_or_default().parse()?)
}

fn source_port(line: &str) -> Result<u16> {
    let source = line.split_once(" > 192.0.2.1.").or_else(|| line.split_once(&format!(" > {VIP6}.")));
    let source = source.with_context(|| format!("tcpdump's {line}"))?.0;
    Ok(source.rsplit('.').next().unwrap_or_default().parse()?)
}

fn services(forwarding: &str) -> Value {
    let over = |address: fn(usize) -> String| -> Vec<Value> {
        (1..=3).map(|number| json!({"address": address(number), "port": DNAT_PORT})).collect()
    };
    // What is closed is free again after a second.
    let idle = json!({"tcp_closing": if forwarding == "snat" { "1s" } else { "2m" }});
    json!({"version": format!("churn by {forwarding}"), "services": [
        {"name": "churn4", "vip": VIP, "port": 8080, "protocol": "tcp", "forwarding": forwarding,
         "idle_timeout": idle, "backends": over(backend_address)},
        {"name": "churn6", "vip": VIP6, "port": 8080, "protocol": "tcp", "forwarding": forwarding,
         "idle_timeout": idle, "backends": over(address6)},
    ]})
}
