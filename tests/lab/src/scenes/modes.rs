//! IPv6, and modes whose receiver every Linux has: `dscp`, by one stateless nftables rule, and `dnat`.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Scene, require};
use crate::backend::DNAT_PORT;
use crate::capture::Capture;
use crate::lab::{CLIENT, Lab, TO_NODE, VIP, backend_address, two_backends};
use crate::namespace::Namespace;
use crate::process::output;
use crate::say::Story;
use crate::sixth::{self, CLIENT as CLIENT6, Sixth, VIP as VIP6};

pub const SCENE: Scene = Scene { title: "modes: dscp and dnat, over IPv4 and IPv6", play };

/// The code points that name the VIPs to the backends.
pub(super) const CODES: (u8, u8) = (5, 6);

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    // Without IPv6 in the kernel half of it can still be shown.
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    }
    for backend in &lab.backends {
        speak_dscp(&backend.namespace)?;
    }
    lab.node.publish(&services())?;
    let at_node = lab.capture_at_router(TO_NODE, "modes-lb", "tcp or icmp6")?;

    dscp(lab, story, &at_node, "IPv4", (CLIENT, VIP), &format!("http://{VIP}/"))?;
    if Sixth::is_known() {
        dscp(lab, story, &at_node, "IPv6", (CLIENT6, VIP6), &format!("http://[{VIP6}]/"))?;
        sixth_dnat(lab, story)?;
    }
    lab.speak_ipv4_only();
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
        {"name": "code6", "vip": VIP6, "port": 80, "protocol": "tcp", "forwarding": "dscp", "dscp": CODES.1, "backends": over(sixth::backend_address, None)},
        {"name": "shop6", "vip": VIP6, "port": 8080, "protocol": "tcp", "forwarding": "dnat", "backends": over(sixth::backend_address, Some(DNAT_PORT))},
    ]})
}

/// What a `dscp` backend needs beside the VIP on its loopback: one stateless rule a VIP.
pub(super) fn speak_dscp(backend: &Namespace) -> Result<()> {
    let rules = format!(
        "add table inet lab-dscp; \
         add chain inet lab-dscp vip {{ type filter hook prerouting priority raw; }}; \
         add rule inet lab-dscp vip ip dscp {} ip daddr set {VIP}; \
         add rule inet lab-dscp vip ip6 dscp {} ip6 daddr set {VIP6}",
        CODES.0, CODES.1
    );
    output(backend.command("nft").arg(rules)).map(drop)
}
