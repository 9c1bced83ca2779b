//! `geneve` and `dnat-dsr` in front of receivers that do what a Cilium node does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, require};
use crate::backend::BIG;
use crate::capture::Capture;
use crate::datagram::Order;
use crate::lab::{CLIENT, Lab, TO_NODE, VIP, two_backends};
use crate::pods::{
    Pods, TCP_PORT, UDP_PORT, endpoint, endpoint6, other_endpoint, other_endpoint6, pod_address, pod_address6,
};
use crate::say::Story;
use crate::sixth::{CLIENT as CLIENT6, Sixth, VIP as VIP6};
use crate::wait::with;

pub const GENEVE: Scene =
    Scene { title: "geneve: nodes take the tunnel apart, their pods answer as the VIP", play: geneve };
pub const DNAT_DSR: Scene =
    Scene { title: "dnat-dsr: an option tells the node the VIP, its pod answers as the VIP", play: dnat_dsr };

/// For a UDP query, which nobody repeats.
const PATIENCE: Duration = Duration::from_secs(5);

/// One way to a VIP: HTTP on a port of it, an echo of UDP on that port plus 1000.
pub(super) struct Way {
    pub told: &'static str,
    pub vip: IpAddr,
    pub client: &'static str,
    pub port: u16,
    pub pod: fn(usize) -> IpAddr,
    pub endpoint: fn(usize) -> IpAddr,
}

impl Way {
    pub fn http(&self, page: &str) -> String {
        format!("http://{}/{page}", self.frontend())
    }

    fn frontend(&self) -> SocketAddr {
        (self.vip, self.port).into()
    }

    fn udp(&self) -> SocketAddr {
        (self.vip, self.port + 1000).into()
    }

    /// Its two services.
    pub fn services(&self, forwarding: &str, more: &Value) -> [Value; 2] {
        [("tcp", self.port, TCP_PORT), ("udp", self.udp().port(), UDP_PORT)].map(|(protocol, port, pod_port)| {
            let backend = |number| {
                let mut backend = json!({"address": (self.pod)(number), "port": pod_port});
                if forwarding == "geneve" {
                    backend["tunnel_endpoint"] = json!((self.endpoint)(number));
                }
                backend
            };
            let mut service = json!({
                "name": format!("{}-{protocol}-{port}", if self.vip.is_ipv4() { 4 } else { 6 }),
                "vip": self.vip, "port": port, "protocol": protocol, "forwarding": forwarding,
                "backends": (1..=3).map(backend).collect::<Vec<_>>(),
            });
            for (key, value) in more.as_object().into_iter().flatten() {
                service[key] = value.clone();
            }
            service
        })
    }
}

/// The ways within one family, IPv6's if the lab has it.
fn ways(has_ipv6: bool) -> Vec<Way> {
    let vips: (IpAddr, IpAddr) = (VIP.parse().expect("an address"), VIP6.parse().expect("an address"));
    let mut ways = vec![Way { told: "IPv4", vip: vips.0, client: CLIENT, port: 80, pod: pod_address, endpoint }];
    if has_ipv6 {
        ways.push(Way { told: "IPv6", vip: vips.1, client: CLIENT6, port: 80, pod: pod_address6, endpoint: endpoint6 });
    }
    ways
}

/// The ways of a tunnel: also those whose outer header is of the other family.
pub(super) fn through_both(has_ipv6: bool) -> Vec<Way> {
    let mut all = ways(has_ipv6);
    if has_ipv6 {
        all.extend(ways(true).into_iter().map(|way| match way.vip {
            IpAddr::V4(_) => Way { told: "IPv4 through IPv6", port: 81, endpoint: other_endpoint6, ..way },
            IpAddr::V6(_) => Way { told: "IPv6 through IPv4", port: 81, endpoint: other_endpoint, ..way },
        }));
    }
    all
}

fn geneve(lab: &mut Lab, story: &mut Story) -> Result<()> {
    with_pods(lab, |lab, pods, has_ipv6| {
        let all = through_both(has_ipv6);
        if !has_ipv6 {
            story.skip("geneve over IPv6: this kernel has none");
        }
        pods.receive("network")?;
        publish(lab, "geneve", "geneve", &all, &json!({}))?;
        for way in &all {
            let wire =
                lab.capture_at_router(TO_NODE, &format!("geneve-{}", way.told.replace(' ', "-")), "ip or ip6")?;
            answers(lab, story, pods, way, "geneve", &wire)?;
            story.claim(&format!("geneve, {}: what the client sent left in Geneve, all of it", way.told), || {
                let ends =
                    (1..=3).map(|number| format!("dst {}", (way.endpoint)(number))).collect::<Vec<_>>().join(" or ");
                let tunnelled = format!("udp dst port 6081 and ({ends})");
                let asked = format!("src {} and dst {}", way.client, way.vip);
                wire.until_it_has(wire.count(&asked)?, &tunnelled)?;
                let (asked, left) = (wire.count(&asked)?, wire.count(&tunnelled)?);
                require(asked == left, || format!("{asked} packets came for the VIP, {left} left in Geneve"))?;
                let first = wire.packets(&tunnelled)?.swap_remove(0).text;
                Ok(format!(
                    "{left} of {asked}, the first:\n{}",
                    first.split_once(": ").map_or("", |(_, packet)| packet)
                ))
            })?;
        }
        refused_nothing(story, pods)
    })
}

fn dnat_dsr(lab: &mut Lab, story: &mut Story) -> Result<()> {
    with_pods(lab, |lab, pods, has_ipv6| {
        let ways = ways(has_ipv6);
        if !has_ipv6 {
            story.skip("dnat-dsr over IPv6: this kernel has none");
        }
        for order in ["network", "host"] {
            pods.receive(order)?;
            publish(lab, &format!("dnat-dsr {order}"), "dnat-dsr", &ways, &json!({"byte_order": order}))?;
            for way in &ways {
                let what = format!("dnat-dsr, {order} byte order");
                let wire = lab.capture_at_router(TO_NODE, &format!("dnat-dsr-{order}-{}", way.told), "ip or ip6")?;
                answers(lab, story, pods, way, &what, &wire)?;
                options(story, way, &what, &wire)?;
            }
            refused_nothing(story, pods)?;
        }
        story.claim(
            "a node that reads the other byte order gives replies another source, and curl hears nothing",
            || {
                pods.receive("network")?;
                let heard = lab.client.curl(&ways[0].http(""));
                require(heard.is_err(), || "curl was answered all the same".into())?;
                let told =
                    pods.said().into_iter().find(|line| line.starts_with("told")).context("an option that was read")?;
                Ok(format!("the receiver read: {told}"))
            },
        )
    })
}

/// Whether the option stands where it must, and only there.
fn options(story: &mut Story, way: &Way, what: &str, wire: &Capture) -> Result<()> {
    story.claim(&format!("{what}, {}: SYNs and UDP carry the option, the rest does not", way.told), || {
        let to_pod = (1..=3).map(|number| format!("dst {}", (way.pod)(number))).collect::<Vec<_>>().join(" or ");
        // The protocol behind the option stands in the IPv6 option's first byte; it and TCP's flags are found by hand.
        let [with, syn, udp] = match way.vip {
            IpAddr::V4(_) => ["ip[0] & 15 = 7", "ip[9] = 6 and ip[41] & 0x12 = 2", "ip[9] = 17"],
            IpAddr::V6(_) => ["ip6[6] = 60", "ip6[40] = 6 and ip6[77] & 0x12 = 2", "ip6[40] = 17"],
        };
        let count = |filter: &str| wire.count(&format!("({to_pod}) and ({filter})"));
        let (all, with_option) = (count("ip or ip6")?, count(with)?);
        let (syns, datagrams) = (count(&format!("{with} and {syn}"))?, count(&format!("{with} and {udp}"))?);
        let bare_syns =
            wire.count(&format!("src {} and ({to_pod}) and tcp[tcpflags] & 0x12 = 2 and not ({with})", way.client));
        require(syns == 3 && datagrams == 1 && with_option == 4, || {
            format!("{with_option} options: on {syns} SYNs of 3, on {datagrams} datagrams of 1")
        })?;
        let bare = if way.vip.is_ipv4() { bare_syns? } else { 0 };
        require(bare == 0, || format!("{bare} SYNs without it"))?;
        require(all > 500, || format!("{all} packets in all: no upload?"))?;
        Ok(format!("{all} packets to the pods, the option on {with_option}: {syns} SYNs, {datagrams} UDP"))
    })
}

/// HTTP both ways and a UDP query; the pod answers as the VIP, past the load balancer.
fn answers(lab: &Lab, story: &mut Story, pods: &Pods, way: &Way, what: &str, wire: &Capture) -> Result<()> {
    let (vip, told) = (way.vip, way.told);
    story.claim(&format!("{what}, {told}: curl gets its page from the VIP, a pod sent it"), || {
        let got = lab.client.curl(&way.http("")).map_err(with(|| pods.said().join("\n")))?;
        require(got.server == format!("{vip}:{}", way.port), || format!("curl talked to {}", got.server))?;
        require(got.client_seen == got.client, || format!("it saw {}, curl had {}", got.client_seen, got.client))?;
        let number: usize = got.backend.strip_prefix("pod").context("a pod")?.parse()?;
        let pod = format!("{}:{TCP_PORT}", (way.pod)(number));
        require(got.server_seen == pod, || format!("it was addressed as {}", got.server_seen))?;
        let port = got.client.rsplit(':').next().context("a port")?.parse()?;
        let client = SocketAddr::new(way.client.parse()?, port);
        let line = format!("told {client} {}", way.frontend());
        require(pods.said().contains(&line), || format!("no receiver said \"{line}\":\n{}", pods.said().join("\n")))?;
        Ok(format!("{} saw {} -> {pod}; its node was {line}", got.backend, got.client_seen))
    })?;
    story.claim(&format!("{what}, {told}: 1 MiB comes down, 1 MiB goes up"), || {
        let came = lab.client.get(&way.http("big"))?.len();
        require(came == BIG, || format!("{came} bytes came"))?;
        let sent = lab.client.upload(&way.http(""), BIG)?;
        require(sent == BIG, || format!("curl sent {sent} bytes"))?;
        // The client's own full size, on its way here.
        let full = format!("src {} and dst {vip} and {}", way.client, full_size(vip));
        wire.until_it_has(600, &full)?;
        Ok(format!("{came} bytes down, {sent} up, in {} packets of 1500 bytes", wire.count(&full)?))
    })?;
    story.claim(&format!("{what}, {told}: a UDP query is answered, too"), || {
        require(lab.client.ask(way.udp(), way.client, 1000, Order::Forward, PATIENCE)?, || "no answer".into())?;
        Ok(format!("1000 bytes came back from {}", way.udp()))
    })?;
    story.claim(&format!("{what}, {told}: no reply crossed the load balancer"), || {
        let requests = wire.count(&format!("src {} and dst {vip}", way.client))?;
        let strayed = wire.count(&format!("src {vip} or dst {}", way.client))?;
        require(strayed == 0, || format!("{strayed} packets from the VIP or to the client"))?;
        Ok(format!("its wire: {requests} packets of the client to the VIP, 0 of replies"))
    })
}

fn full_size(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "ip[2:2] = 1500" } else { "ip6[4:2] = 1460" }
}

fn refused_nothing(story: &mut Story, pods: &Pods) -> Result<()> {
    story.claim("the receivers found nothing to refuse: every length, checksum and reserved bit was right", || {
        let said = pods.said();
        let refusals: Vec<&String> = said.iter().filter(|line| line.starts_with("refused")).collect();
        require(refusals.is_empty(), || format!("{refusals:?}"))?;
        Ok(format!("{} packets told a VIP and port", said.iter().filter(|line| line.starts_with("told")).count()))
    })
}

fn publish(lab: &Lab, version: &str, forwarding: &str, ways: &[Way], more: &Value) -> Result<()> {
    let services: Vec<Value> = ways.iter().flat_map(|way| way.services(forwarding, more)).collect();
    lab.node.publish(&json!({"version": version, "services": services}))?;
    lab.node.until_resolved()
}

/// Lends the lab IPv6, where the kernel has it, and pods.
pub(super) fn with_pods(lab: &mut Lab, play: impl FnOnce(&Lab, &mut Pods, bool) -> Result<()>) -> Result<()> {
    let has_ipv6 = Sixth::is_known();
    if has_ipv6 {
        lab.speak_ipv6()?;
    }
    let played = Pods::build(lab, has_ipv6).and_then(|mut pods| play(lab, &mut pods, has_ipv6));
    lab.speak_ipv4_only();
    played?;
    lab.node.publish(&two_backends("after pods")).map(drop)
}
