//! Path MTU: a tunnel's packets that do not fit, by the load balancer's own port or by a link behind it, and clients that learn it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::cilium::{Way, through_both, with_pods};
use super::{Scene, require};
use crate::capture::Capture;
use crate::lab::{CLIENT, FABRIC_MTU, Lab, NODE, TO_NODE, VIP, services, to_backend};
use crate::node::Options;
use crate::pods::{Pods, endpoint, pod_address};
use crate::process::output;
use crate::say::Story;
use crate::sixth::NODE as NODE6;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "path MTU: what does not fit is told to the client, as from the VIP", play };

/// Uploaded in each case.
const BYTES: usize = 1_000_000;
/// Of the load balancer's port, in the first half: no more than its clients have.
const PORT_MTU: u16 = 1500;
/// Of the links between router and backends, in the second half.
const LINK_MTU: u16 = 1400;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let played = narrow_port(lab, story).and_then(|()| {
        // Anew: what it has learnt of the ways, it forgets.
        lab.node.start(&Options::default())?;
        narrow_links(lab, story)
    });
    lab.node.start(&Options::default())?;
    played
}

fn narrow_port(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.start(&Options { mtu: PORT_MTU, ..Options::default() })?;
    with_pods(lab, |lab, pods, has_ipv6| {
        let cases = publish(lab, pods, "a narrow port", has_ipv6)?;
        if !has_ipv6 {
            story.skip("path MTU over IPv6: this kernel has none");
        }
        story.line(format!("   The load balancer's port takes {PORT_MTU} bytes, as much as the clients send."));
        cases.iter().try_for_each(|case| case.told_by_the_node(lab, story, PORT_MTU))
    })
}

fn narrow_links(lab: &mut Lab, story: &mut Story) -> Result<()> {
    with_pods(lab, |lab, pods, has_ipv6| {
        let cases = publish(lab, pods, "a narrow link", has_ipv6)?;
        story.line(format!("   The links behind the router take {LINK_MTU} bytes, all others {FABRIC_MTU}."));
        let links = Links::narrow(lab)?;
        for case in &cases {
            case.told_by_the_fabric(lab, story, LINK_MTU)?;
        }
        cases[0].known_from_now_on(lab, story)?;
        without_the_message(lab, story, &cases[0])?;
        drop(links);
        // Other scenes' packets have their full size again.
        forget(lab, false)
    })
}

/// One service, and what its tunnel takes.
struct Case {
    told: String,
    way: Way,
    overhead: u16,
    /// The family of the outer header.
    outer_is_ipv6: bool,
}

/// `ipip` and, where there is IPv6, `geneve` in all pairs of families; each is published.
fn publish(lab: &Lab, pods: &mut Pods, version: &str, has_ipv6: bool) -> Result<Vec<Case>> {
    let vip: IpAddr = VIP.parse()?;
    // Its services are the lab's own; pods have no part in it.
    let ipip = Way { told: "IPv4", vip, client: CLIENT, port: 80, pod: pod_address, endpoint };
    let mut cases = vec![Case { told: "ipip, IPv4".into(), way: ipip, overhead: 20, outer_is_ipv6: false }];
    let geneve = through_both(has_ipv6).into_iter().map(|way| {
        let outer_is_ipv6 = (way.endpoint)(1).is_ipv6();
        let overhead = if outer_is_ipv6 { 82 } else { 62 } + if way.vip.is_ipv6() { 12 } else { 0 };
        Case {
            told: format!("geneve, {}", way.told),
            way: Way { port: way.port + 100, ..way },
            overhead,
            outer_is_ipv6,
        }
    });
    cases.extend(geneve);
    // One backend: what has been learnt of the way to it holds for whoever comes next.
    let all = services(version, &[(1, 100)]);
    let mut all = all["services"].as_array().context("services")?.clone();
    all.extend(cases[1..].iter().flat_map(|case| case.way.services("geneve", &json!({}))));
    pods.receive("network")?;
    lab.node.publish(&json!({"version": version, "services": all}))?;
    lab.node.until_resolved()?;
    Ok(cases)
}

impl Case {
    /// The port itself is too narrow: the load balancer says so at once.
    fn told_by_the_node(&self, lab: &Lab, story: &mut Story, mtu: u16) -> Result<()> {
        let fits = mtu - self.overhead;
        story.claim(&format!("{}: the upload gets through, in packets of {fits} bytes", self.told), || {
            self.uploads(lab, fits)
        })
    }

    /// The router behind it says so to the tunnel's source, and the load balancer to the client.
    fn told_by_the_fabric(&self, lab: &Lab, story: &mut Story, mtu: u16) -> Result<()> {
        let name = format!("mtu-{}", self.told.replace([' ', ','], "-"));
        let at_node = lab.capture_at_router(TO_NODE, &name, "icmp or icmp6")?;
        let fits = mtu - self.overhead;
        story.claim(&format!("{}: the upload gets through, in packets of {fits} bytes", self.told), || {
            let told = self.uploads(lab, fits)?;
            let node = if self.outer_is_ipv6 { NODE6 } else { NODE };
            let error = if self.outer_is_ipv6 {
                // Type 2, and the MTU.
                format!("dst {node} and icmp6[0] = 2 and icmp6[4:4] = {mtu}")
            } else {
                format!("dst {node} and icmp[0:2] = 0x0304 and icmp[6:2] = {mtu}")
            };
            at_node.until_it_has(1, &error)?;
            Ok(format!("the router to the tunnel's source: {}\n{told}", short(&at_node, &error)?))
        })
    }

    /// Another client is told before its packet gets to the narrow link.
    fn known_from_now_on(&self, lab: &Lab, story: &mut Story) -> Result<()> {
        let at_node = lab.capture_at_router(TO_NODE, "mtu-known", "icmp or icmp6")?;
        story.claim("who comes later is told by the load balancer, which has learnt it", || {
            let told = self.uploads(lab, LINK_MTU - self.overhead)?;
            at_node.until_it_has(1, &format!("src {VIP} and icmp[0:2] = 0x0304"))?;
            let errors = at_node.count(&format!("dst {NODE} and icmp[0:2] = 0x0304"))?;
            require(errors == 0, || format!("{errors} errors of the router"))?;
            Ok(format!("{told}\n0 errors of the router"))
        })
    }

    /// Uploads, the path's MTU unknown before; the evidence that the client has learnt that it is `fits`.
    fn uploads(&self, lab: &Lab, fits: u16) -> Result<String> {
        let client = &lab.client.namespace;
        let (vip, is_ipv6) = (self.way.vip, self.way.vip.is_ipv6());
        forget(lab, is_ipv6)?;
        let known = client.ip(&format!("route get {vip}"))?;
        require(!known.contains(" mtu "), || format!("known before: {known}"))?;
        let name = format!("mtu-client-{}-{fits}", self.told.replace([' ', ','], "-"));
        let at_client = lab.capture_at_client(&name, &format!("host {vip}"))?;
        let sent = lab.client.upload(&self.way.http(""), BYTES)?;
        require(sent == BYTES, || format!("curl sent {sent} bytes"))?;

        let too_big = if is_ipv6 {
            format!("src {vip} and icmp6[0] = 2 and icmp6[4:4] = {fits}")
        } else {
            format!("src {vip} and icmp[0:2] = 0x0304 and icmp[6:2] = {fits}")
        };
        at_client.until_it_has(1, &too_big)?;
        let learnt = client.ip(&format!("route get {vip}"))?;
        require(learnt.contains(&format!(" mtu {fits}")), || format!("route get {vip}: {learnt}"))?;
        let full = if is_ipv6 { format!("ip6[4:2] = {}", fits - 40) } else { format!("ip[2:2] = {fits}") };
        let full = format!("dst {vip} and tcp and {full}");
        at_client.until_it_has(500, &full)?;
        Ok(format!(
            "to the client: {}\nip route get: {}\n{sent} bytes sent and answered, {} packets of {fits} bytes",
            short(&at_client, &too_big)?,
            learnt.split_whitespace().collect::<Vec<_>>().join(" "),
            at_client.count(&full)?
        ))
    }
}

/// Shows that it is the message that lets the upload through: without it, none does.
fn without_the_message(lab: &Lab, story: &mut Story, case: &Case) -> Result<()> {
    let client = &lab.client.namespace;
    story.claim("where the client's firewall drops that message, the upload hangs", || {
        forget(lab, false)?;
        let rules = "add table ip lab-deaf; \
                     add chain ip lab-deaf input { type filter hook input priority 0; }; \
                     add rule ip lab-deaf input icmp type destination-unreachable counter drop";
        output(client.command("nft").arg(rules))?;
        let heard = lab.client.upload_within(&case.way.http(""), BYTES, Duration::from_secs(2));
        let dropped = output(client.command("nft").arg("list table ip lab-deaf"))?;
        output(client.command("nft").arg("delete table ip lab-deaf"))?;
        let error = heard.err().context("it was answered")?;
        // curl is gone, but its kernel goes on to send what is left; now it hears the message.
        until("the connection that hung is over", Duration::from_secs(20), || {
            let open = "ss -Htn exclude listening exclude time-wait exclude fin-wait-2";
            Ok(client.run(&format!("{open} dst {}", case.way.vip))?.trim().is_empty().then_some(()))
        })?;
        let error = format!("{error:#}");
        let dropped = dropped.lines().find(|line| line.contains("counter")).unwrap_or_default().trim().to_string();
        require(!dropped.contains("packets 0 "), || format!("nothing was dropped: {dropped}\n{error}"))?;
        Ok(format!("{}\nnft: {dropped}", error.split_once("): ").map_or(error.as_str(), |(_, why)| why)))
    })
}

/// Makes the client forget the path's MTU, which hangs on the route.
fn forget(lab: &Lab, is_ipv6: bool) -> Result<()> {
    let (family, gateway) = if is_ipv6 { ("-6 ", "2001:db8:c::1") } else { ("", "198.51.100.1") };
    lab.client.namespace.ip(&format!("{family}route del default"))?;
    lab.client.namespace.ip(&format!("{family}route add default via {gateway}"))?;
    until("the client's way is back", Duration::from_secs(2), || {
        Ok(lab.client.namespace.ip(&format!("{family}route show default"))?.contains(gateway).then_some(()))
    })
}

/// The first packet of a filter, without its Ethernet header.
fn short(capture: &Capture, filter: &str) -> Result<String> {
    let text = capture.packets(filter)?.swap_remove(0).text;
    Ok(text.split_once(": ").map_or(text.clone(), |(_, packet)| packet.to_string()))
}

/// The links behind the router, narrow as long as this lives; the backends announce the segments of an MTU of 1500 all the same.
struct Links<'a>(&'a Lab);

impl<'a> Links<'a> {
    fn narrow(lab: &'a Lab) -> Result<Self> {
        let this = Self(lab);
        this.set(LINK_MTU, " advmss 1460")?;
        Ok(this)
    }

    fn set(&self, mtu: u16, more: &str) -> Result<()> {
        for (number, backend) in (1..).zip(&self.0.backends) {
            self.0.router.ip(&format!("link set {} mtu {mtu}", to_backend(number)))?;
            backend.namespace.ip(&format!("link set eth0 mtu {mtu}"))?;
            backend.namespace.ip(&format!("route replace default via 10.1.{number}.1{more}"))?;
        }
        Ok(())
    }
}

impl Drop for Links<'_> {
    fn drop(&mut self) {
        let _ = self.set(FABRIC_MTU, "");
    }
}
