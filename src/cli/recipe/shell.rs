//! A recipe as commands: ip, sysctl and nft, in a script that may be run again.

use std::fmt::Write;

use super::asked::Asked;
use super::tunnel::Kind;
use super::{Own, Part, Step};

pub(super) fn script(asked: &Asked, parts: &[Part]) -> String {
    let mut out = format!(
        "#!/bin/sh\n\
         # What a server needs to receive \"{}\", as printed by\n\
         #   {}\n\
         # To be run as root, at each start of the server; it may be run again.\n\
         set -eu\n",
        asked.mode.name(),
        asked.command
    );
    let steps = || parts.iter().flat_map(|part| &part.steps);
    for is_v4 in [true, false] {
        let wanted = |step: &Step| matches!(step, Step::Tunnel { own, .. } | Step::Restore { own, .. } if *own == Own::OfDevice { is_v4 });
        if steps().any(wanted) {
            out += &own_address(&asked.device, is_v4);
        }
    }
    for part in parts {
        out.push('\n');
        out += &comment(&part.why);
        if part.steps.iter().any(|step| matches!(step, Step::Vip(_))) {
            out += "ip link set lo up\n";
        }
        if part.steps.iter().any(|step| matches!(step, Step::Gue { .. })) {
            out += "modprobe -q fou 2>/dev/null || : # the kernel does not load it by itself\n";
        }
        part.steps.iter().for_each(|step| out += &commands(step));
    }
    out
}

/// Each line behind a `#`.
pub(super) fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

/// Finds the server's own address, the first of its device.
fn own_address(device: &str, is_v4: bool) -> String {
    let (number, family) = if is_v4 { (4, "inet") } else { (6, "inet6") };
    format!(
        "\n# The server's own address that packets are sent to: the first of {device}. (--backend names another.)\n\
         own{number}=$(ip -{number} -o address show dev {device} scope global | sed -n '1s/.* {family} \\([^/ ]*\\).*/\\1/p')\n\
         [ -n \"$own{number}\" ] || {{ echo '{device} has no IPv{number} address; name the one that the definitions have, by --backend' >&2; exit 1; }}\n"
    )
}

fn commands(step: &Step) -> String {
    match step {
        Step::Vip(vip) if vip.prefix_len() == vip.max_prefix_len() => format!("ip address replace {vip} dev lo\n"),
        Step::Vip(prefix) => format!("ip route replace local {prefix} dev lo\n"),
        Step::Sysctl { device, key, value } => format!("sysctl -qw {}={value}\n", sysctl(device, key)),
        Step::Tunnel { device, kind, own, address } => {
            let (kind, mode) = match kind {
                Kind::Ipip => ("ipip", ""),
                Kind::Sit => ("sit", ""),
                Kind::Ip6tnl => ("ip6tnl", " mode any"),
                Kind::Gre => ("gre", ""),
                Kind::Ip6gre => ("ip6gre", ""),
            };
            let address =
                address.map_or(String::new(), |address| format!("ip address replace {address}/32 dev {device}\n"));
            format!(
                "ip link show dev {device} >/dev/null 2>&1 || ip link add {device} type {kind}{mode} local {} remote any\n\
                 {address}ip link set {device} up\n",
                shown(*own)
            )
        }
        Step::Gue { port, is_v4 } => {
            let family = if *is_v4 { 4 } else { 6 };
            format!("ip -{family} fou show | grep -q '^port {port} ' || ip -{family} fou add port {port} gue\n")
        }
        Step::Restore { code, own, vip } => {
            let family = if vip.is_ipv4() { "ip" } else { "ip6" };
            let chain = format!("inet penstock dscp{code}-{family}");
            let mut rules = String::new();
            let _ = write!(
                rules,
                "nft -f - <<END\n\
                 add table inet penstock\n\
                 add chain {chain} {{ type filter hook prerouting priority raw; }}\n\
                 flush chain {chain}\n\
                 add rule {chain} {family} daddr {} {family} dscp {code} {family} daddr set {vip}\n\
                 END\n",
                shown(*own)
            );
            rules
        }
        Step::SegmentSize { is_v4, bytes } => {
            let family = if *is_v4 { 4 } else { 6 };
            format!(
                "ip -{family} -o route show default | grep -v ' proto ra ' | tr -d '\\\\' |\n    \
                 sed 's/ advmss [0-9]*//; s/^default/& advmss {bytes}/' |\n    \
                 while read -r route; do ip -{family} route replace $route; done\n"
            )
        }
    }
}

/// A key of a device, which may have dots in its name.
pub(super) fn sysctl(device: &str, key: &str) -> String {
    format!("net.ipv4.conf.{}.{key}", device.replace('.', "/"))
}

fn shown(own: Own) -> String {
    match own {
        Own::Named(address) => address.to_string(),
        Own::OfDevice { is_v4: true } => "$own4".into(),
        Own::OfDevice { is_v4: false } => "$own6".into(),
    }
}
