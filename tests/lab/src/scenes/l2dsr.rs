//! `l2dsr`: servers on the load balancer's own network, which have the VIP and answer no ARP for it.

use anyhow::Result;
use serde_json::json;

use super::receive::Case;
use super::{Scene, require};
use crate::lab::{Lab, NODE, VIP, two_backends};
use crate::say::Story;
use crate::segment;
use crate::site::Kernel;
use crate::sixth::{self, Sixth};

pub const SCENE: Scene = Scene { title: "l2dsr: a server on the load balancer's own network", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    lab.share_segment()?;
    let played = both_families(lab, story);
    lab.part_segment();
    played?;
    lab.node.publish(&two_backends("after l2dsr")).map(drop)
}

fn both_families(lab: &mut Lab, story: &mut Story) -> Result<()> {
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    }
    for family in [4, 6] {
        let title = format!("l2dsr, IPv{family}");
        if family == 6 && !Sixth::is_known() {
            story.skip(&format!("{title}: this kernel has no IPv6"));
            continue;
        }
        let server = lab.site()?.connect(&format!("l2dsr-{family}"), Kernel::Own, &segment::PORT)?;
        let backend = if family == 4 { &server.address } else { &server.address6 };
        let mac = server.run("cat /sys/class/net/eth0/address")?;
        let vip = if family == 4 { VIP } else { sixth::VIP };
        let sent = format!("ether dst {} and dst {vip}", mac.trim());
        let mode = json!({"forwarding": "l2dsr"});
        Case { title: &title, is_v4: family == 4, server: &server, backend, mode, sent: &sent }.play(lab, story)?;
        story.claim(&format!("{title}: the server does not say that the VIP is its own"), || {
            // The router asks there itself, for once.
            lab.router.ip(&format!("route replace {vip} dev {}", segment::BRIDGE))?;
            let answered = lab.router.run(&format!("ping -n -c 1 -W 1 {vip}"));
            let known = lab.router.ip(&format!("neighbour show {vip}"))?;
            let gateway = if family == 4 { NODE } else { sixth::NODE };
            lab.router.ip(&format!("route replace {vip} via {gateway} dev {}", segment::BRIDGE))?;
            require(answered.is_err() && !known.contains("lladdr"), || format!("somebody does: {known}"))?;
            Ok(format!("the router's question stays unanswered: {}", known.trim()))
        })?;
    }
    Ok(())
}
