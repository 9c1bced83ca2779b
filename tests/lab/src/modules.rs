//! Kernel modules that come because the lab asks for what they do, and go with it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::process::output;

/// What tunnels stand on.
const OURS: [&str; 13] = [
    "ipip",
    "sit",
    "ip6_gre",
    "ip_gre",
    "gre",
    "fou6",
    "fou",
    "ip6_tunnel",
    "tunnel4",
    "tunnel6",
    "ip_tunnel",
    "ip6_udp_tunnel",
    "udp_tunnel",
];

/// Those that were there before.
pub struct Modules(BTreeSet<String>);

impl Modules {
    pub fn now() -> Self {
        Self(loaded())
    }
}

/// Takes away what came since, as far as nobody uses it; a module that another stands on goes in a later round.
impl Drop for Modules {
    fn drop(&mut self) {
        let mut gone = true;
        while gone {
            gone = loaded().difference(&self.0).any(|module| output(Command::new("rmmod").arg(module)).is_ok());
        }
    }
}

fn loaded() -> BTreeSet<String> {
    let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    let names = modules.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| OURS.contains(name)).map(str::to_owned).collect()
}
