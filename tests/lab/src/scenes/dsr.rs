//! Direct Server Return: the request goes through the load balancer, the reply does not.

use anyhow::{Context, Result};

use super::{Scene, require};
use crate::lab::{Lab, NODE, TO_CLIENT, TO_NODE, VIP, two_backends};
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "ipip: the backend answers the client itself", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("dsr"))?;
    let at_node = lab.capture_at_node("dsr-lb", "ip")?;
    let at_router = lab.capture_at_router(TO_NODE, "dsr-router", "ip")?;
    let at_client = lab.capture_at_router(TO_CLIENT, "dsr-client", "ip")?;

    let url = format!("http://{VIP}/");
    let mut answer = None;
    story.claim("curl gets its page, from the VIP", || {
        let got = lab.client.curl(&url)?;
        require(got.server == format!("{VIP}:80"), || format!("curl talked to {}", got.server))?;
        let told = format!("curl {url}: {}, answered by {}", got.server, got.backend);
        answer = Some(got);
        Ok(told)
    })?;
    let answer = answer.context("an answer")?;
    let backend = lab.backends.iter().find(|backend| backend.name == answer.backend).context("a backend of the lab")?;

    story.claim("the backend saw the client's own address, and itself as the VIP", || {
        require(answer.client_seen == answer.client, || {
            format!("it saw {}, curl had {}", answer.client_seen, answer.client)
        })?;
        require(answer.server_seen == format!("{VIP}:80"), || format!("it was addressed as {}", answer.server_seen))?;
        Ok(format!("{} saw {} -> {}", answer.backend, answer.client_seen, answer.server_seen))
    })?;
    story.claim("the request left the load balancer inside another IP header", || {
        let tunnelled = format!("ip proto 4 and src {NODE} and dst {}", backend.address);
        at_router.until_it_has(1, &tunnelled)?;
        // Ethernet, then the two IP headers on one line.
        let first = at_router.packets(&tunnelled)?.remove(0).text;
        Ok(first.split_once(": ").map_or(first.clone(), |(_, packet)| packet.to_string()))
    })?;
    story.claim("the reply did not cross the load balancer", || {
        let (request, reply) = (format!("src {} and dst {VIP}", crate::lab::CLIENT), format!("src {VIP} and tcp"));
        at_client.until_it_has(1, &format!("{reply} and tcp[tcpflags] & tcp-fin != 0"))?;
        // The last packet of the client's, so that everything before it has been caught.
        at_node.until_it_has(1, &format!("{request} and tcp[tcpflags] & tcp-fin != 0"))?;
        let replies = at_client.count(&reply)?;
        // At its port and at the far end of its wire: neither end alone sees both directions for certain.
        let (requests, strayed) = (at_node.count(&request)?, at_node.count(&reply)? + at_router.count(&reply)?);
        require(strayed == 0, || format!("{strayed} packets from the VIP on the load balancer's wire"))?;
        Ok(format!("load balancer's wire: {requests} packets of the client, 0 of the reply\nclient's wire: {replies} of the reply"))
    })?;
    story.claim("full-size segments fit: 1 MiB goes up through the tunnel", || {
        let sent = lab.client.upload(&url, 1 << 20)?;
        require(sent == 1 << 20, || format!("curl sent {sent} bytes"))?;
        let full = "ip proto 4 and ip[2:2] = 1520";
        at_router.until_it_has(1, full)?;
        Ok(format!("{} packets of 1520 bytes, the client's 1500 and the outer header's 20", at_router.count(full)?))
    })
}
