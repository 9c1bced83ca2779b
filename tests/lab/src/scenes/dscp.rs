//! `dscp`: one stateless rule puts the VIP back.

use anyhow::Result;
use serde_json::json;

use super::Scene;
use super::receive::Case;
use crate::lab::{Lab, two_backends};
use crate::say::Story;
use crate::site::Kernel;
use crate::sixth::Sixth;

pub const SCENE: Scene = Scene { title: "dscp: one rule of nftables", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    if Sixth::is_known() {
        lab.speak_ipv6()?;
    }
    let played = both_families(lab, story);
    lab.speak_ipv4_only();
    played?;
    lab.node.publish(&two_backends("after dscp")).map(drop)
}

fn both_families(lab: &mut Lab, story: &mut Story) -> Result<()> {
    // ToS and traffic class, but for ECN.
    for (family, code, looks) in [(4, 5, "ip[1] & 0xfc == 5 << 2"), (6, 6, "ip6[0:2] & 0x0fc0 == 6 << 6")] {
        let title = format!("dscp, IPv{family}");
        if family == 6 && !Sixth::is_known() {
            story.skip(&format!("{title}: this kernel has no IPv6"));
            continue;
        }
        let server = lab.site()?.server(&format!("dscp-{family}"), Kernel::Own)?;
        let backend = if family == 4 { &server.address } else { &server.address6 };
        let sent = format!("{looks} and dst {backend}");
        let mode = json!({"forwarding": "dscp", "dscp": code});
        Case { title: &title, is_v4: family == 4, server: &server, backend, mode, sent: &sent }.play(lab, story)?;
    }
    Ok(())
}
