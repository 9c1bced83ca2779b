//! A recipe as files of systemd-networkd, in a script that writes them. What networkd has no key for stands beside: kernel
//! parameters in `sysctl.d` (udev applies them whenever the device appears), rules for nft.

use std::fmt::Write;
use std::net::IpAddr;

use super::asked::Asked;
use super::shell::{comment, sysctl};
use super::tunnel::Kind;
use super::{Own, Part, Step};

/// Or why there is none.
pub(super) fn script(asked: &Asked, parts: &[Part]) -> Result<String, String> {
    let mut out = format!(
        "#!/bin/sh\n\
         # What a server needs to receive \"{}\", as printed by\n\
         #   {}\n\
         # Writes files of systemd-networkd. To be run once, as root.\n\
         set -eu\n",
        asked.mode.name(),
        asked.command
    );
    for Part { why, steps } in parts {
        out.push('\n');
        out += &comment(why);
        // Keys of one section of one file stand together.
        let vips: Vec<String> = steps.iter().filter_map(vip).collect();
        if let Some(first) = steps.iter().find_map(|step| if let Step::Vip(vip) = step { Some(vip) } else { None }) {
            out += &file("network/10-lo.network", "[Match]\nName=lo\n");
            out += &file(&format!("network/10-lo.network.d/vip-{}.conf", first.addr()), &vips.concat());
        }
        let sysctls: String = steps.iter().filter_map(setting).collect();
        if let Some(Step::Sysctl { device, .. }) = steps.iter().find(|step| matches!(step, Step::Sysctl { .. })) {
            out += &format!("mkdir -p /etc/sysctl.d\ncat >/etc/sysctl.d/90-{device}.conf <<'END'\n{sysctls}END\n");
        }
        for step in steps {
            out += &one(asked, step)?;
        }
    }
    if parts.iter().any(|part| !part.steps.is_empty()) {
        out += "\n# In force now, and at every start.\nnetworkctl reload\nsystemctl restart systemd-sysctl\n";
    }
    Ok(out)
}

fn one(asked: &Asked, step: &Step) -> Result<String, String> {
    Ok(match step {
        Step::Vip(_) | Step::Sysctl { .. } => String::new(),
        Step::Tunnel { device, kind, own, address } => {
            let (kind, mode) = match kind {
                Kind::Ipip => ("ipip", ""),
                Kind::Sit => ("sit", ""),
                Kind::Ip6tnl => ("ip6tnl", "Mode=any\n"),
                Kind::Gre => ("gre", ""),
                Kind::Ip6gre => ("ip6gre", ""),
            };
            let local = named(*own)?;
            let netdev = format!(
                "[NetDev]\nName={device}\nKind={kind}\n\n[Tunnel]\nIndependent=yes\nLocal={local}\nRemote=any\n{mode}"
            );
            let address = address.map_or(String::new(), |address| format!("Address={address}/32\n"));
            let network = format!(
                "[Match]\nName={device}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nLinkLocalAddressing=no\n{address}"
            );
            file(&format!("network/20-{device}.netdev"), &netdev)
                + &file(&format!("network/20-{device}.network"), &network)
        }
        // (Its kind "fou" knows IPv4 only, and systemd 252 fails at it: "Numerical result out of range".)
        Step::Gue { .. } => {
            return Err("--format: systemd-networkd opens no port for GUE; print the recipe as commands (--format shell), and run it from a unit".into());
        }
        Step::Restore { .. } => {
            return Err("--format: systemd-networkd knows no rules for code points; print the recipe as commands (--format shell), and run it from a unit".into());
        }
        Step::SegmentSize { is_v4, bytes } => {
            let family = if *is_v4 { "IPv4" } else { "IPv6" };
            format!(
                "# Add to the [Route] of the {family} default route, in the .network file of {}:\n#   TCPAdvertisedMaximumSegmentSize={bytes}\n",
                asked.device
            )
        }
    })
}

/// The section that makes a VIP the server's own.
fn vip(step: &Step) -> Option<String> {
    match step {
        Step::Vip(vip) if vip.prefix_len() == vip.max_prefix_len() => Some(format!("[Address]\nAddress={vip}\n")),
        Step::Vip(prefix) => Some(format!("[Route]\nDestination={prefix}\nType=local\nTable=local\n")),
        _ => None,
    }
}

fn setting(step: &Step) -> Option<String> {
    match step {
        Step::Sysctl { device, key, value } => Some(format!("{} = {value}\n", sysctl(device, key))),
        _ => None,
    }
}

fn named(own: Own) -> Result<IpAddr, String> {
    match own {
        Own::Named(address) => Ok(address),
        Own::OfDevice { .. } => {
            Err("--backend: systemd-networkd finds no address by itself; name the server's own".into())
        }
    }
}

/// Commands that write a file below /etc/systemd.
fn file(path: &str, text: &str) -> String {
    let mut out = String::new();
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let _ = write!(out, "mkdir -p /etc/systemd/{directory}\ncat >/etc/systemd/{path} <<'END'\n{text}END\n");
    out
}
