//! Queries that come in fragments, through a driver that leaves them so.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::modes::{CODES, speak_dscp};
use super::{Scene, require};
use crate::datagram::{self, Order};
use crate::lab::{CLIENT, CLIENT_MTU, FABRIC_MTU, Lab, TO_NODE, VIP, backend_address};
use crate::namespace::Namespace;
use crate::node::{Driver, Options};
use crate::process::{Process, output};
use crate::say::Story;
use crate::sixth::{CLIENT as CLIENT6, Sixth, VIP as VIP6, backend_address as address6};
use crate::wait::until;

pub const SCENE: Scene =
    Scene { title: "fragments: a query of 4000 bytes is answered, in any order if told to wait", play };

const BYTES: usize = 4000;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long none will come.
const NO_ANSWER: Duration = Duration::from_secs(1);
/// Ports of the services; the echo of the first two is on the VIP itself.
const IPIP: u16 = 5301;
const DSCP: u16 = 5302;
const DNAT: u16 = 5303;
/// Where `dnat` sends.
const DNAT_TO: u16 = 5353;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let played = through_pcap(lab, story);
    lab.node.start(&Options::default())?;
    played
}

fn through_pcap(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let options = Options { driver: Driver::Pcap, ..Options::default() };
    lab.node.start(&options)?;
    with_echoes(lab, story, |lab, story, ways| {
        for way in ways.iter().filter(|way| way.server.is_ipv6()) {
            way.told_of_the_link(lab, story)?;
        }
        announce(lab, CLIENT_MTU)?;
        story.line("   A later fragment whose first is not known is dropped.");
        for way in ways {
            way.answered(lab, story, Order::Forward)?;
            way.unanswered(lab, story)?;
        }
        Ok(())
    })?;
    lab.node.start(&Options { hold: "20ms", ..options })?;
    with_echoes(lab, story, |lab, story, ways| {
        announce(lab, CLIENT_MTU)?;
        story.line("   A later fragment may wait 20 ms for its first.");
        ways.iter().try_for_each(|way| way.answered(lab, story, Order::Reverse))
    })
}

/// A service to be asked.
struct Way {
    told: &'static str,
    client: &'static str,
    server: SocketAddr,
    /// Whether the answer comes back through the load balancer, in fragments as the query.
    comes_back: bool,
}

impl Way {
    fn answered(&self, lab: &Lab, story: &mut Story, order: Order) -> Result<()> {
        let how = if order == Order::Reverse { ", the last fragment first" } else { "" };
        story.claim(&format!("{}: {BYTES} bytes go and come back{how}", self.told), || {
            let fragments = if self.comes_back { 6 } else { 3 };
            let counted = Counted::now(lab)?;
            require(lab.client.ask(self.server, self.client, BYTES, order, PATIENCE)?, || "no answer".into())?;
            counted.since(lab, Counted { forwarded: fragments, unknown: 0 })?;
            let of = if self.comes_back { "3 of the query, 3 of the answer" } else { "all of the query" };
            Ok(format!("forwarded {fragments} ({of}), fragment_unknown 0"))
        })
    }

    /// A backend's fragments are too big for the client's link, which no router mends over IPv6: the error goes to the VIP.
    fn told_of_the_link(&self, lab: &Lab, story: &mut Story) -> Result<()> {
        story.claim(&format!("{}: \"too big\", sent to the VIP about an answer, finds its backend", self.told), || {
            announce(lab, FABRIC_MTU)?;
            let answered = lab.client.ask(self.server, self.client, BYTES, Order::Forward, NO_ANSWER)?;
            require(!answered, || "it was answered, so no link was too narrow".into())?;
            let learnt = || -> Result<Option<String>> {
                for backend in &lab.backends {
                    let route = backend.namespace.ip(&format!("route get {}", self.client))?;
                    if route.contains(&format!(" mtu {CLIENT_MTU}")) {
                        let words: Vec<&str> = route.split_whitespace().collect();
                        return Ok(Some(format!("{}, ip route get: {}", backend.name, words.join(" "))));
                    }
                }
                Ok(None)
            };
            until("a backend has learnt the MTU", Duration::from_secs(2), learnt)
        })
    }

    fn unanswered(&self, lab: &Lab, story: &mut Story) -> Result<()> {
        story.claim(&format!("{}: the last fragment first, two of three are dropped", self.told), || {
            let counted = Counted::now(lab)?;
            let answered = lab.client.ask(self.server, self.client, BYTES, Order::Reverse, NO_ANSWER)?;
            require(!answered, || "it was answered all the same".into())?;
            counted.since(lab, Counted { forwarded: 1, unknown: 2 })?;
            Ok("forwarded 1, fragment_unknown 2; no answer within 1 s".into())
        })
    }
}

/// The verdicts that fragments get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    forwarded: u64,
    unknown: u64,
}

impl Counted {
    fn now(lab: &Lab) -> Result<Self> {
        let metrics = lab.node.metrics()?;
        let dropped = "penstock_dropped_packets_total";
        Ok(Self {
            forwarded: metrics.sum("penstock_forwarded_packets_total"),
            unknown: metrics.sum_where(dropped, "reason", |reason| reason == "fragment_unknown"),
        })
    }

    /// Whether just so many came since.
    fn since(self, lab: &Lab, expected: Self) -> Result<()> {
        let since = until("as many verdicts as frames", Duration::from_secs(2), || {
            let now = Self::now(lab)?;
            let since = Self { forwarded: now.forwarded - self.forwarded, unknown: now.unknown - self.unknown };
            let enough = since.forwarded + since.unknown >= expected.forwarded + expected.unknown;
            Ok(enough.then_some(since))
        })?;
        require(since == expected, || format!("{since:?}, not {expected:?}"))
    }
}

/// Lets the backends send packets so big over IPv6, whatever they have learnt.
fn announce(lab: &Lab, mtu: u16) -> Result<()> {
    for (number, backend) in (1..).zip(&lab.backends) {
        // Where there is no IPv6 there is no route.
        if backend.namespace.ip("-6 route del default").is_ok() {
            backend.namespace.ip(&format!("-6 route add default via fd00:1:{number}::1 mtu {mtu}"))?;
        }
    }
    Ok(())
}

/// Lends the lab IPv6, rules for `dscp` and echo servers.
fn with_echoes(
    lab: &mut Lab,
    story: &mut Story,
    play: impl FnOnce(&Lab, &mut Story, &[Way]) -> Result<()>,
) -> Result<()> {
    let has_ipv6 = Sixth::is_known();
    if has_ipv6 {
        lab.speak_ipv6()?;
    }
    for backend in &lab.backends {
        speak_dscp(&backend.namespace)?;
    }
    let played = echoes(lab, has_ipv6).and_then(|echoes| {
        lab.node.publish(&services())?;
        lab.node.until_resolved()?;
        if has_ipv6 {
            meet(lab)?;
        }
        // For whoever wonders about a count.
        let wire = lab.capture_at_router(TO_NODE, "fragments", "ip or ip6")?;
        let played = play(lab, story, &ways(has_ipv6)?);
        drop(wire);
        drop(echoes);
        played
    });
    for backend in &lab.backends {
        output(backend.namespace.command("nft").arg("delete table inet lab-dscp"))?;
    }
    lab.speak_ipv4_only();
    played
}

/// Waits until neighbours know each other over IPv6: a query is not asked a second time.
fn meet(lab: &Lab) -> Result<()> {
    let reach = |host: &Namespace, address: &str| {
        until(&format!("{} reaches {address}", host.name()), crate::wait::PATIENCE, || {
            host.run(&format!("ping -n -c 1 -W 1 {address}")).map(Some)
        })
    };
    reach(&lab.client.namespace, "2001:db8:c::1")?;
    (1..)
        .zip(&lab.backends)
        .try_for_each(|(number, backend)| reach(&backend.namespace, &format!("fd00:1:{number}::1")).map(drop))
}

fn echoes(lab: &Lab, has_ipv6: bool) -> Result<Vec<Process>> {
    let mut echoes = Vec::new();
    for (number, backend) in (1..).zip(&lab.backends) {
        let mut addresses = vec![(VIP.to_string(), IPIP), (VIP.to_string(), DSCP), (backend_address(number), DNAT_TO)];
        if has_ipv6 {
            addresses.extend([(VIP6.to_string(), DSCP), (address6(number), DNAT_TO)]);
        }
        for (address, port) in addresses {
            let address = SocketAddr::new(address.parse()?, port);
            echoes.push(datagram::serve(&backend.namespace, address, lab.directory())?);
        }
    }
    Ok(echoes)
}

fn ways(has_ipv6: bool) -> Result<Vec<Way>> {
    let (vip, vip6) = (VIP.parse()?, VIP6.parse()?);
    let mut ways = vec![
        Way { told: "ipip, IPv4", client: CLIENT, server: SocketAddr::new(vip, IPIP), comes_back: false },
        Way { told: "dscp, IPv4", client: CLIENT, server: SocketAddr::new(vip, DSCP), comes_back: false },
        Way { told: "dnat, IPv4", client: CLIENT, server: SocketAddr::new(vip, DNAT), comes_back: true },
    ];
    if has_ipv6 {
        ways.extend([
            Way { told: "dscp, IPv6", client: CLIENT6, server: SocketAddr::new(vip6, DSCP), comes_back: false },
            Way { told: "dnat, IPv6", client: CLIENT6, server: SocketAddr::new(vip6, DNAT), comes_back: true },
        ]);
    }
    Ok(ways)
}

fn services() -> Value {
    let over = |address: fn(usize) -> String, port: Option<u16>| -> Vec<Value> {
        let one = |number| match port {
            Some(port) => json!({"address": address(number), "port": port}),
            None => json!({"address": address(number)}),
        };
        (1..=3).map(one).collect()
    };
    let mut services = vec![json!({
        "name": "ipip4", "vip": VIP, "port": IPIP, "protocol": "udp", "forwarding": "ipip",
        "backends": over(backend_address, None),
    })];
    for (family, vip, code, address) in
        [(4, VIP, CODES.0, backend_address as fn(usize) -> String), (6, VIP6, CODES.1, address6)]
    {
        services.push(json!({
            "name": format!("dscp{family}"), "vip": vip, "port": DSCP, "protocol": "udp", "forwarding": "dscp", "dscp": code,
            "backends": over(address, None),
        }));
        services.push(json!({
            "name": format!("dnat{family}"), "vip": vip, "port": DNAT, "protocol": "udp", "forwarding": "dnat",
            "backends": over(address, Some(DNAT_TO)),
        }));
    }
    json!({"version": "fragments", "services": services})
}
