//! What must hold wherever a real server receives what a mode sends: the claims that the scenes of modes share.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::require;
use crate::lab::{CLIENT, Lab, TO_CLIENT, TO_NODE, VIP};
use crate::say::Story;
use crate::site::{MTU, Server};
use crate::sixth;

/// What goes up and down: larger than any window, and no two parts of it alike.
const BYTES: usize = 1 << 20;

/// One server of one service.
pub struct Case<'a> {
    /// The mode, and which families: "ipip, IPv4 in IPv6".
    pub title: &'a str,
    pub is_v4: bool,
    pub server: &'a Server,
    /// The address that the packets are sent to.
    pub backend: &'a str,
    /// The service's mode, with what belongs to it.
    pub mode: Value,
    /// The filter of tcpdump that knows its packets on the load balancer's wire.
    pub sent: &'a str,
}

impl Case<'_> {
    pub fn vip(&self) -> &'static str {
        if self.is_v4 { VIP } else { sixth::VIP }
    }

    fn client(&self) -> &'static str {
        if self.is_v4 { CLIENT } else { sixth::CLIENT }
    }

    fn url(&self) -> String {
        if self.is_v4 { format!("http://{VIP}/") } else { format!("http://[{}]/", sixth::VIP) }
    }

    /// The words that `penstock backend recipe` is asked by.
    fn recipe(&self) -> String {
        let key = |key: &str| self.mode[key].as_str().map_or_else(|| self.mode[key].to_string(), str::to_owned);
        let mut words =
            format!("--mode {} --vip {} --backend {} --port 80", key("forwarding"), self.vip(), self.backend);
        words += &format!(" --mtu {MTU}");
        if self.mode["dscp"].is_u64() {
            words += &format!(" --dscp {}", key("dscp"));
        }
        if self.mode["gue"].is_object() {
            words += &format!(" --gue-variant {}", self.mode["gue"]["variant"]);
        }
        words
    }

    fn definitions(&self) -> Value {
        let mut service = json!({
            "name": "received", "vip": self.vip(), "port": 80, "protocol": "tcp", "backends": [{"address": self.backend}],
        });
        if let Some((service, mode)) = service.as_object_mut().zip(self.mode.as_object()) {
            service.extend(mode.clone());
        }
        json!({"version": self.title, "services": [service]})
    }

    /// Sets the server up by the recipe, publishes the service, and checks what clients see of it.
    pub fn play(&self, lab: &Lab, story: &mut Story) -> Result<()> {
        let Self { title, server, sent, .. } = self;
        let (vip, url) = (self.vip(), self.url());
        let recipe = self.recipe();
        server.follow(&lab.node.recipe(&recipe)?)?;
        lab.node.publish(&self.definitions())?;
        let at_node =
            lab.capture_at_router(TO_NODE, &format!("{}-lb", server.name), "tcp or udp or icmp or icmp6 or ip or ip6")?;
        let at_client = lab.capture_at_router(TO_CLIENT, &format!("{}-client", server.name), "tcp")?;

        story.claim(&format!("{title}: curl gets its page from the VIP, {vip}"), || {
            let got = lab.client.curl(&url)?;
            require(got.backend == server.name, || format!("{} answered", got.backend))?;
            require(got.server == format!("{vip}:80"), || format!("curl talked to {}", got.server))?;
            require(got.server_seen == format!("{vip}:80"), || format!("it was addressed as {}", got.server_seen))?;
            require(got.client_seen == got.client, || format!("it saw {}, curl had {}", got.client_seen, got.client))?;
            at_node.until_it_has(1, sent)?;
            let first = at_node.packets(sent)?.remove(0).text;
            let first = first.split_once(": ").map_or(first.as_str(), |(_, packet)| packet);
            Ok(format!("recipe {recipe}\n{first}"))
        })?;
        story.claim(&format!("{title}: 1 MiB comes down and 1 MiB goes up, byte for byte"), || {
            let (down, up) = (noise(1), noise(2));
            std::fs::write(server.file("down"), &down)?;
            require(lab.client.get(&format!("{url}files/down"))? == down, || "another 1 MiB came down".into())?;
            lab.client.put(&format!("{url}files/up"), &up)?;
            require(std::fs::read(server.file("up"))? == up, || "another 1 MiB went up".into())?;
            let packets = at_node.packets(sent)?;
            let largest = packets.iter().filter_map(|packet| Some(packet.length()? - 14)).max().context("lengths")?;
            // Whether the segments are as full as the network allows, and no fuller: "too big" was never needed.
            require(largest == usize::from(MTU), || format!("the largest packet to the server had {largest} bytes"))?;
            let too_big = at_node.count("(icmp[0] == 3 and icmp[1] == 4) or (icmp6 and ip6[40] == 2)")?;
            require(too_big == 0, || format!("\"too big\" was said {too_big} times"))?;
            Ok(format!(
                "{} packets to the server, the largest of {largest} bytes; \"too big\" was never said",
                packets.len()
            ))
        })?;
        story.claim(&format!("{title}: the replies carry the VIP, and none crosses the load balancer"), || {
            let reply = format!("src {vip} and src port 80 and dst {}", self.client());
            at_client.until_it_has(2, &format!("{reply} and {}", fin(self.is_v4)))?;
            at_node.until_it_has(2, &format!("src {} and dst {vip} and {}", self.client(), fin(self.is_v4)))?;
            let (reached, strayed) = (at_client.count(&reply)?, at_node.count(&format!("src {vip}"))?);
            require(strayed == 0, || format!("{strayed} packets from the VIP on the load balancer's wire"))?;
            let own = at_node.count(&format!("src {} and tcp", self.backend))?;
            require(own == 0, || format!("{own} packets from the server itself on the load balancer's wire"))?;
            Ok(format!("{reached} packets of {vip} reached the client, 0 on the load balancer's wire"))
        })
    }
}

/// Segments with FIN; pcap's `tcp[…]` knows IPv4 only.
fn fin(is_v4: bool) -> &'static str {
    if is_v4 { "tcp[tcpflags] & tcp-fin != 0" } else { "ip6[6] == 6 and ip6[53] & 1 != 0" }
}

/// Bytes that follow no pattern (xorshift64).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..BYTES).map(|_| next()).collect()
}
