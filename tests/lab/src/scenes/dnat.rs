//! `dnat`: the destination is rewritten, port included, and the reply is translated back.

use anyhow::{Context, Result};

use super::{Scene, require};
use crate::backend::DNAT_PORT;
use crate::lab::{CLIENT, Lab, TO_CLIENT, TO_NODE, VIP, two_backends};
use crate::say::Story;

pub const SCENE: Scene = Scene { title: "dnat: another port, and the reply comes back this way", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.node.publish(&two_backends("dnat"))?;
    // The load balancer's wire is watched from the router's end: af_packet sends past a capture on its own interface.
    let at_node = lab.capture_at_router(TO_NODE, "dnat-lb", "tcp")?;
    let at_client = lab.capture_at_router(TO_CLIENT, "dnat-client", "tcp")?;

    let url = format!("http://{VIP}:8080/");
    let mut answer = None;
    story.claim(&format!("curl gets its page from the VIP's port 8080, served on port {DNAT_PORT}"), || {
        let got = lab.client.curl(&url)?;
        let backend =
            lab.backends.iter().find(|backend| backend.name == got.backend).context("a backend of the lab")?;
        let endpoint = format!("{}:{DNAT_PORT}", backend.address);
        require(got.server == format!("{VIP}:8080"), || format!("curl talked to {}", got.server))?;
        require(got.server_seen == endpoint, || format!("the backend was addressed as {}", got.server_seen))?;
        require(got.client_seen == got.client, || {
            format!("the backend saw {}, curl had {}", got.client_seen, got.client)
        })?;
        let told = format!("curl talked to {}\n{} saw {} -> {endpoint}", got.server, got.backend, got.client_seen);
        answer = Some((got, backend.address.clone()));
        Ok(told)
    })?;
    let (answer, address) = answer.context("an answer")?;
    let port = answer.client.rsplit(':').next().unwrap_or_default();

    story.claim("the reply came back as the backend's and went on as the VIP's", || {
        let from_backend = format!("src {address} and src port {DNAT_PORT} and dst {CLIENT} and dst port {port}");
        let from_vip = format!("src {VIP} and src port 8080 and dst {CLIENT} and dst port {port}");
        let last = "tcp[tcpflags] & tcp-fin != 0";
        at_node.until_it_has(1, &format!("{from_vip} and {last}"))?;
        at_client.until_it_has(1, &format!("{from_vip} and {last}"))?;
        let (came, left) = (at_node.count(&from_backend)?, at_node.count(&from_vip)?);
        require(came == left, || format!("{came} came from the backend, {left} left from the VIP"))?;
        let (strangers, reached) = (at_client.count(&from_backend)?, at_client.count(&from_vip)?);
        require(strangers == 0, || format!("{strangers} packets reached the client from {address}"))?;
        Ok(format!("{came} from {address}:{DNAT_PORT}, {left} from {VIP}:8080; {reached} reached the client, 0 of them untranslated"))
    })?;
    story.claim("1 MiB goes up, checksums right all the way", || {
        let sent = lab.client.upload(&url, 1 << 20)?;
        require(sent == 1 << 20, || format!("curl sent {sent} bytes"))?;
        Ok(format!("{sent} bytes sent and answered"))
    })
}
