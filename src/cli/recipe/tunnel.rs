//! `ipip`, `gre` and `gue`: a device that takes the outer header off, and hands the packet inside to the server's own stack.

use std::net::IpAddr;

use super::{Asked, Own, Part, Step};

/// Kinds of the kernel's tunnel devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 in IPv4.
    Ipip,
    /// IPv6 in IPv4.
    Sit,
    /// Both in IPv6.
    Ip6tnl,
    Gre,
    Ip6gre,
}

pub fn ipip(asked: &Asked) -> Vec<Part> {
    vec![devices(asked, in_ip)]
}

pub fn gre(asked: &Asked) -> Vec<Part> {
    vec![devices(
        asked,
        |_, is_outer_v4| if is_outer_v4 { ("vip-gre", Kind::Gre) } else { ("vip-ip6gre", Kind::Ip6gre) },
    )]
}

/// The kernel takes UDP and GUE off and goes on with what is left, IP in IP; variant 1 (no GUE header) it tells by itself.
pub fn gue(asked: &Asked) -> Vec<Part> {
    let port = asked.gue().port;
    let mut outer: Vec<bool> = asked.families().map(|is_v4| is_v4_outside(asked.own(is_v4))).collect();
    outer.dedup();
    let why = format!(
        "UDP port {port} takes GUE: the kernel takes UDP and GUE off, and goes on with IP in IP.\n\
         A UDP checksum of zero is taken, over IPv6 too."
    );
    vec![Part::new(why, outer.into_iter().map(|is_v4| Step::Gue { port, is_v4 })), devices(asked, in_ip)]
}

fn in_ip(is_inner_v4: bool, is_outer_v4: bool) -> (&'static str, Kind) {
    match (is_inner_v4, is_outer_v4) {
        (true, true) => ("vip-ipip", Kind::Ipip),
        (false, true) => ("vip-sit", Kind::Sit),
        (_, false) => ("vip-ip6tnl", Kind::Ip6tnl),
    }
}

fn is_v4_outside(own: Own) -> bool {
    match own {
        Own::Named(address) => address.is_ipv4(),
        Own::OfDevice { is_v4 } => is_v4,
    }
}

/// The devices for what the VIPs' families need; `device`: name and kind by the families inside and outside.
fn devices(asked: &Asked, device: fn(bool, bool) -> (&'static str, Kind)) -> Part {
    let mut steps: Vec<Step> = Vec::new();
    let mut made = Vec::new();
    for is_inner_v4 in asked.families() {
        let own = asked.own(is_inner_v4);
        let (name, kind) = device(is_inner_v4, is_v4_outside(own));
        if !made.contains(&name) {
            made.push(name);
            let first = || asked.vips.iter().map(|vip| vip.addr()).find(IpAddr::is_ipv4);
            let address = is_inner_v4.then(first).flatten();
            steps.push(Step::Tunnel { device: name, kind, own, address });
        }
        if is_inner_v4 {
            steps.push(Step::Sysctl { device: name.into(), key: "rp_filter", value: 2 });
        }
    }
    let mut why = "Takes the outer header off. It takes packets from anyone: let a firewall admit them from the load balancers only,\n\
                   that is, from [encap] ipv4_source, ipv6_source and rss_source_…."
        .to_owned();
    if asked.families().any(|is_v4| is_v4) {
        why += "\nrp_filter: clients are not reached by that device, which a strict filter takes for a forgery. 2 is a loose one; even that\n\
                refuses what comes in by a device without an address, so it has the VIP, too.";
    }
    Part::new(why, steps)
}
