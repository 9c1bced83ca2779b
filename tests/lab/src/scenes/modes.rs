//! IPv6, and modes whose receiver every Linux has: `dscp`, by one stateless nftables rule, and `dnat`.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Scene, require};
use crate::backend::DNAT_PORT;
use crate::capture::Capture;
use crate::lab::{CLIENT, Lab, TO_CLIENT, TO_NODE, VIP, backend_address, to_backend, two_backends};
use crate::namespace::Namespace;
use crate::node::TWIN;
use crate::process::output;
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "modes: dscp and dnat, over IPv4 and IPv6", play };

const VIP6: &str = "2001:db8:1::1";
const CLIENT6: &str = "2001:db8:c::10";
/// The code points that name the VIPs to the backends.
const CODES: (u8, u8) = (5, 6);

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    // Without IPv6 in the kernel half of it can still be shown.
    let sixth = Path::new("/proc/sys/net/ipv6").exists().then(|| Sixth::build(lab)).transpose()?;
    for backend in &lab.backends {
        speak_dscp(&backend.namespace)?;
    }
    lab.node.publish(&services())?;
    let at_node = lab.capture_at_router(TO_NODE, "modes-lb", "tcp or icmp6")?;

    dscp(lab, story, &at_node, "IPv4", (CLIENT, VIP), &format!("http://{VIP}/"))?;
    if sixth.is_some() {
        dscp(lab, story, &at_node, "IPv6", (CLIENT6, VIP6), &format!("http://[{VIP6}]/"))?;
        sixth_dnat(lab, story)?;
    }
    drop(sixth);
    for backend in &lab.backends {
        output(backend.namespace.command("nft").arg("delete table inet lab-dscp"))?;
    }
    lab.node.publish(&two_backends("after modes")).map(drop)
}

fn dscp(
    lab: &Lab,
    story: &mut Story,
    at_node: &Capture,
    family: &str,
    (client, vip): (&str, &str),
    url: &str,
) -> Result<()> {
    story.claim(&format!("dscp, {family}: the backend answers the client itself, as the VIP"), || {
        let got = lab.client.curl(url)?;
        require(got.server_seen == format!("{vip}:80"), || format!("it was addressed as {}", got.server_seen))?;
        require(got.client_seen == got.client, || format!("it saw {}, curl had {}", got.client_seen, got.client))?;
        at_node.until_it_has(1, &format!("src {client} and dst {vip} and tcp"))?;
        let strayed = at_node.count(&format!("src {vip} and tcp"))?;
        require(strayed == 0, || format!("{strayed} packets from the VIP on the load balancer's wire"))?;
        Ok(format!(
            "{} saw {} -> {}; 0 packets of the reply at the load balancer",
            got.backend, got.client_seen, got.server_seen
        ))
    })?;
    story.claim(&format!("dscp, {family}: 1 MiB goes up, checksums right all the way"), || {
        let sent = lab.client.upload(url, 1 << 20)?;
        require(sent == 1 << 20, || format!("curl sent {sent} bytes"))?;
        Ok(format!("{sent} bytes sent and answered"))
    })
}

fn sixth_dnat(lab: &Lab, story: &mut Story) -> Result<()> {
    story.claim("dnat, IPv6: another port, and the reply comes back translated", || {
        let url = format!("http://[{VIP6}]:8080/");
        let got = lab.client.curl(&url)?;
        require(got.server == format!("{VIP6}:8080"), || format!("curl talked to {}", got.server))?;
        require(got.server_seen.ends_with(&format!("::2:{DNAT_PORT}")), || {
            format!("addressed as {}", got.server_seen)
        })?;
        let sent = lab.client.upload(&url, 1 << 20)?;
        require(sent == 1 << 20, || format!("curl sent {sent} bytes"))?;
        Ok(format!("{} saw {} -> {}; {sent} bytes went up", got.backend, got.client_seen, got.server_seen))
    })?;
    story.claim("a ping to the IPv6 VIP is answered, by the lcore itself", || {
        let before = lab.node.metrics()?.sum("penstock_answered_packets_total");
        lab.client.namespace.run(&format!("ping -6 -n -q -c 5 -i 0.05 -W 1 {VIP6}"))?;
        let answered = lab.node.metrics()?.sum("penstock_answered_packets_total") - before;
        require(answered == 5, || format!("{answered} answers counted"))?;
        Ok(format!("5 of 5, {answered} answers counted"))
    })
}

fn services() -> Value {
    let over = |address: fn(usize) -> String, port: Option<u16>| -> Vec<Value> {
        let one = |number| match port {
            Some(port) => json!({"address": address(number), "port": port}),
            None => json!({"address": address(number)}),
        };
        (1..=2).map(one).collect()
    };
    json!({"version": "modes", "services": [
        {"name": "code4", "vip": VIP, "port": 80, "protocol": "tcp", "forwarding": "dscp", "dscp": CODES.0, "backends": over(backend_address, None)},
        {"name": "code6", "vip": VIP6, "port": 80, "protocol": "tcp", "forwarding": "dscp", "dscp": CODES.1, "backends": over(address6, None)},
        {"name": "shop6", "vip": VIP6, "port": 8080, "protocol": "tcp", "forwarding": "dnat", "backends": over(address6, Some(DNAT_PORT))},
    ]})
}

fn address6(number: usize) -> String {
    format!("fd00:1:{number}::2")
}

/// What a `dscp` backend needs beside the VIP on its loopback: one stateless rule a VIP.
fn speak_dscp(backend: &Namespace) -> Result<()> {
    let rules = format!(
        "add table inet lab-dscp; \
         add chain inet lab-dscp vip {{ type filter hook prerouting priority raw; }}; \
         add rule inet lab-dscp vip ip dscp {} ip daddr set {VIP}; \
         add rule inet lab-dscp vip ip6 dscp {} ip6 daddr set {VIP6}",
        CODES.0, CODES.1
    );
    output(backend.command("nft").arg(rules)).map(drop)
}

/// IPv6 in the whole lab, for as long as this lives.
struct Sixth<'a> {
    hosts: Vec<&'a Namespace>,
    router: &'a Namespace,
}

impl<'a> Sixth<'a> {
    fn build(lab: &'a Lab) -> Result<Self> {
        let (client, router, balancer) = (&*lab.client.namespace, &*lab.router, &*lab.node.namespace);
        let backends = lab.backends.iter().map(|backend| &*backend.namespace);
        let hosts: Vec<&Namespace> = [client, router, balancer].into_iter().chain(backends).collect();
        for host in &hosts {
            // Nobody announces routers or waits for duplicates here.
            host.sysctl("net.ipv6.conf.all.accept_ra", "0")?;
            host.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
            host.sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
        }
        let this = Self { hosts, router };
        client.ip(&format!("address add {CLIENT6}/64 dev eth0 nodad"))?;
        router.ip(&format!("address add 2001:db8:c::1/64 dev {TO_CLIENT} nodad"))?;
        client.ip("-6 route add default via 2001:db8:c::1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        router.ip(&format!("address add fd00::fe/64 dev {TO_NODE} nodad"))?;
        balancer.ip(&format!("address add fd00::1/64 dev {TWIN} nodad"))?;
        balancer.ip(&format!("-6 route replace default via fd00::fe dev {TWIN}"))?;
        router.ip(&format!("-6 route add {VIP6}/128 via fd00::1 dev {TO_NODE}"))?;
        router.ip(&format!("-6 route add 2001:db8:c::/64 via fd00::1 dev {TO_NODE} table 100"))?;
        for (number, backend) in (1..).zip(&lab.backends) {
            let (port, address) = (to_backend(number), address6(number));
            router.ip(&format!("address add fd00:1:{number}::1/64 dev {port} nodad"))?;
            router.ip(&format!("-6 rule add iif {port} from {address} lookup 100"))?;
            backend.namespace.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
            backend.namespace.ip(&format!("-6 route add default via fd00:1:{number}::1"))?;
            backend.namespace.ip(&format!("address add {VIP6}/128 dev lo nodad"))?;
        }
        Ok(this)
    }
}

impl Drop for Sixth<'_> {
    /// With IPv6 go its addresses and routes.
    fn drop(&mut self) {
        let _ = self.router.ip("-6 rule flush");
        for host in &self.hosts {
            let _ = host.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        }
    }
}
