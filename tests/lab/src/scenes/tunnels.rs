//! `ipip`, `gre` and `gue`: the kernel's own tunnel devices take the outer header off, IPv4 and IPv6 inside and outside.

use anyhow::Result;
use serde_json::{Value, json};

use super::Scene;
use super::receive::Case;
use crate::lab::{Lab, two_backends};
use crate::say::Story;
use crate::site::Kernel;
use crate::sixth::Sixth;

pub const IPIP: Scene = Scene {
    title: "ipip: the kernel's ipip, sit and ip6tnl",
    play: |lab, story| {
        play(
            lab,
            story,
            "ipip",
            json!({"forwarding": "ipip"}),
            ["ip proto 4", "ip proto 41", "ip6 proto 4", "ip6 proto 41"],
        )
    },
};
pub const GRE: Scene = Scene {
    title: "gre: the kernel's gre and ip6gre",
    play: |lab, story| {
        play(
            lab,
            story,
            "gre",
            json!({"forwarding": "gre"}),
            ["ip proto 47", "ip proto 47", "ip6 proto 47", "ip6 proto 47"],
        )
    },
};
pub const GUE: Scene = Scene {
    title: "gue: the kernel's fou",
    play: |lab, story| {
        play(lab, story, "gue", json!({"forwarding": "gue", "gue": {"variant": 0}}), ["udp dst port 6080"; 4])
    },
};
pub const GUE_1: Scene = Scene {
    title: "gue, variant 1: the kernel's fou, which tells it by itself",
    play: |lab, story| {
        play(lab, story, "gue1", json!({"forwarding": "gue", "gue": {"variant": 1}}), ["udp dst port 9886"; 4])
    },
};

/// `looks`: what the outer packet is known by; IPv4 in IPv4, 6 in 4, 4 in 6, 6 in 6.
fn play(lab: &mut Lab, story: &mut Story, name: &str, mode: Value, looks: [&str; 4]) -> Result<()> {
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    }
    let played = all_pairs(lab, story, name, mode, looks);
    lab.speak_ipv4_only();
    played?;
    lab.node.publish(&two_backends(&format!("after {name}"))).map(drop)
}

fn all_pairs(lab: &mut Lab, story: &mut Story, name: &str, mode: Value, looks: [&str; 4]) -> Result<()> {
    story.note(format!("Received by {}.", lab.site()?.says()?));
    for ((inner, outer), looks) in [(4, 4), (6, 4), (4, 6), (6, 6)].into_iter().zip(looks) {
        let title = format!("{name}, IPv{inner} in IPv{outer}");
        if !Sixth::is_known() && (inner, outer) != (4, 4) {
            story.skip(&format!("{title}: this kernel has no IPv6"));
            continue;
        }
        let server = lab.site()?.server(&format!("{name}-{inner}in{outer}"), Kernel::WithTunnels)?;
        let backend = if outer == 4 { &server.address } else { &server.address6 };
        let sent = format!("{looks} and dst {backend}");
        Case { title: &title, is_v4: inner == 4, server: &server, backend, mode: mode.clone(), sent: &sent }
            .play(lab, story)?;
    }
    Ok(())
}
