//! IPv6 in the whole lab, for as long as a [`Sixth`] lives: addresses and routes beside those of IPv4.

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use crate::backend::Backend;
use crate::client::Client;
use crate::lab::{TO_CLIENT, to_backend};
use crate::namespace::Namespace;
use crate::node::{Node, TWIN};
use crate::process::output;
use crate::wait::{PATIENCE, until};

pub const VIP: &str = "2001:db8:1::1";
pub const CLIENT: &str = "2001:db8:c::10";
/// The node's own address, on its kernel twin, and the router's towards it.
pub const NODE: &str = "fd00::1";
pub const GATEWAY: &str = "fd00::fe";

pub fn backend_address(number: usize) -> String {
    format!("fd00:1:{number}::2")
}

pub struct Sixth {
    hosts: Vec<Rc<Namespace>>,
    router: Rc<Namespace>,
    rules: Vec<String>,
}

impl Sixth {
    /// Whether this kernel has IPv6.
    pub fn is_known() -> bool {
        Path::new("/proc/sys/net/ipv6").exists()
    }

    /// `to_node`: the router's interface towards the load balancer.
    pub fn build(
        client: &Client,
        router: &Rc<Namespace>,
        to_node: &str,
        node: &Node,
        backends: &[Backend],
    ) -> Result<Self> {
        let others = [&client.namespace, router, &node.namespace].into_iter();
        let hosts: Vec<_> = others.chain(backends.iter().map(|backend| &backend.namespace)).cloned().collect();
        for host in &hosts {
            // Nobody announces routers or waits for duplicates here.
            host.sysctl("net.ipv6.conf.all.accept_ra", "0")?;
            let no_duplicates = "for dad in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $dad; done";
            output(host.command("sh").arg("-c").arg(no_duplicates))?;
            host.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
            host.sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
        }
        let mut this = Self { hosts, router: router.clone(), rules: Vec::new() };
        client.namespace.ip(&format!("address add {CLIENT}/64 dev eth0 nodad"))?;
        router.ip(&format!("address add 2001:db8:c::1/64 dev {TO_CLIENT} nodad"))?;
        client.namespace.ip("-6 route add default via 2001:db8:c::1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        router.ip(&format!("address add {GATEWAY}/64 dev {to_node} nodad"))?;
        node.namespace.ip(&format!("address add {NODE}/64 dev {TWIN} nodad"))?;
        node.namespace.ip(&format!("-6 route replace default via {GATEWAY} dev {TWIN}"))?;
        router.ip(&format!("-6 route add {VIP}/128 via {NODE} dev {to_node}"))?;
        router.ip(&format!("-6 route add 2001:db8:c::/64 via {NODE} dev {to_node} table 100"))?;
        for (number, backend) in (1..).zip(backends) {
            let (port, address) = (to_backend(number), backend_address(number));
            router.ip(&format!("address add fd00:1:{number}::1/64 dev {port} nodad"))?;
            let rule = format!("iif {port} from {address} lookup 100");
            router.ip(&format!("-6 rule add {rule}"))?;
            this.rules.push(rule);
            backend.namespace.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
            backend.namespace.ip(&format!("-6 route add default via fd00:1:{number}::1"))?;
            backend.namespace.ip(&format!("address add {VIP}/128 dev lo nodad"))?;
        }
        reaches(&client.namespace, "2001:db8:c::1")?;
        reaches(router, NODE)?;
        Ok(this)
    }

    /// Whether a host speaks IPv6 now.
    pub fn is_spoken_by(host: &Namespace) -> bool {
        let disabled = host.run("cat /proc/sys/net/ipv6/conf/all/disable_ipv6");
        disabled.is_ok_and(|disabled| disabled.trim() == "0")
    }
}

/// Waits until a host has found an address on its network.
pub fn reaches(host: &Namespace, address: &str) -> Result<()> {
    until(&format!("{} reaches {address}", host.name()), PATIENCE, || {
        Ok(host.run(&format!("ping -6 -n -q -c 1 -W 1 {address}")).ok())
    })
    .map(drop)
}

impl Drop for Sixth {
    /// With IPv6 go its addresses and routes.
    fn drop(&mut self) {
        for rule in &self.rules {
            let _ = self.router.ip(&format!("-6 rule delete {rule}"));
        }
        for host in &self.hosts {
            let _ = host.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        }
    }
}
