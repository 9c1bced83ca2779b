//! Pods behind the backends, which then are what Cilium nodes are: they take `geneve` and `dnat-dsr` apart, and their pods answer
//! as the VIP (see `receiver`).
//!
//! ```text
//! router ── eth0 backend1 pods ── eth0 pod1   nginx, echo
//!                 │    │
//!                 └dsr─┘  all packets between the two go through the receiver
//! ```

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use crate::backend::Server;
use crate::datagram;
use crate::lab::{Lab, backend_address};
use crate::namespace::{Namespace, cable};
use crate::process::Process;
use crate::wait::PATIENCE;

/// Where the pods' nginx and echo server are asked.
pub const TCP_PORT: u16 = crate::backend::DNAT_PORT;
pub const UDP_PORT: u16 = 5353;

const MTU: u16 = 1500;
/// The receiver's device, and the table of routes that lead there.
const DEVICE: &str = "dsr";
const TABLE: u32 = 200;

pub fn pod_address(number: usize) -> IpAddr {
    IpAddr::from([10, 2, number as u8, 2])
}

pub fn pod_address6(number: usize) -> IpAddr {
    IpAddr::from([0xfd00, 2, number as u16, 0, 0, 0, 0, 2])
}

/// Where a node takes its tunnels.
pub fn endpoint(number: usize) -> IpAddr {
    IpAddr::from([10, 2, number as u8, 254])
}

pub fn endpoint6(number: usize) -> IpAddr {
    IpAddr::from([0xfd00, 2, number as u16, 0, 0, 0, 0, 0xfe])
}

/// And where tunnels come in that carry packets of the other family. What is learnt of the way to one does not hold for the other.
pub fn other_endpoint(number: usize) -> IpAddr {
    IpAddr::from([10, 2, number as u8, 253])
}

pub fn other_endpoint6(number: usize) -> IpAddr {
    IpAddr::from([0xfd00, 2, number as u16, 0, 0, 0, 0, 0xfd])
}

/// One behind each backend, for as long as this lives.
pub struct Pods<'a> {
    lab: &'a Lab,
    pods: Vec<Pod>,
    receivers: Vec<Process>,
    has_ipv6: bool,
}

struct Pod {
    // Dropped in this order: what runs, then where.
    _server: Server,
    _echoes: Vec<Process>,
    _namespace: Namespace,
}

impl<'a> Pods<'a> {
    /// `has_ipv6`: whether the lab has it at the moment.
    pub fn build(lab: &'a Lab, has_ipv6: bool) -> Result<Self> {
        let mut this = Self { lab, pods: Vec::new(), receivers: Vec::new(), has_ipv6 };
        for number in 1..=lab.backends.len() {
            let pod = this.pod(number).with_context(|| format!("pod{number}"))?;
            this.pods.push(pod);
        }
        Ok(this)
    }

    fn pod(&self, number: usize) -> Result<Pod> {
        let (lab, node) = (self.lab, &*self.lab.backends[number - 1].namespace);
        let namespace = lab.host(&format!("pod{number}"))?;
        cable((node, "pods"), (&namespace, "eth0"), MTU)?;
        node.ip(&format!("address add 10.2.{number}.1/24 dev pods"))?;
        namespace.ip(&format!("address add {}/24 dev eth0", pod_address(number)))?;
        namespace.ip(&format!("route add default via 10.2.{number}.1"))?;
        lab.router.ip(&format!("route replace 10.2.{number}.0/24 via {}", backend_address(number)))?;
        node.sysctl("net.ipv4.ip_forward", "1")?;
        node.ip(&format!("rule add iif eth0 to 10.2.{number}.0/24 lookup {TABLE}"))?;
        node.ip(&format!("rule add iif pods lookup {TABLE}"))?;
        let mut addresses = vec![pod_address(number)];
        if self.has_ipv6 {
            for scope in ["all", "lo"] {
                namespace.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "0")?;
            }
            node.ip(&format!("address add fd00:2:{number}::1/64 dev pods nodad"))?;
            namespace.ip(&format!("address add {}/64 dev eth0 nodad", pod_address6(number)))?;
            namespace.ip(&format!("-6 route add default via fd00:2:{number}::1"))?;
            lab.router.ip(&format!("-6 route replace fd00:2:{number}::/64 via fd00:1:{number}::2"))?;
            node.sysctl("net.ipv6.conf.all.forwarding", "1")?;
            node.ip(&format!("-6 rule add iif eth0 to fd00:2:{number}::/64 lookup {TABLE}"))?;
            node.ip(&format!("-6 rule add iif pods lookup {TABLE}"))?;
            addresses.push(pod_address6(number));
        }

        let name = format!("pod{number}");
        let server = Server::start(&name, &namespace, lab.directory())?;
        let mut echoes = Vec::new();
        for address in addresses {
            echoes.push(datagram::serve(&namespace, SocketAddr::new(address, UDP_PORT), lab.directory())?);
        }
        Ok(Pod { _server: server, _echoes: echoes, _namespace: namespace })
    }

    /// Starts the receivers, in place of those that run. `order`: of the bytes of an option, `network` or `host`.
    pub fn receive(&mut self, order: &str) -> Result<()> {
        self.receivers.clear();
        for (number, backend) in (1..).zip(&self.lab.backends) {
            let node = &*backend.namespace;
            let log = self.lab.directory().join(format!("receiver{number}.log"));
            let _ = std::fs::remove_file(&log);
            let mut command = node.helper(std::env::current_exe()?);
            let list = |of: &[fn(usize) -> IpAddr]| -> String {
                of.iter().map(|address| address(number).to_string()).collect::<Vec<_>>().join(",")
            };
            let endpoints = list(&[endpoint, endpoint6, other_endpoint, other_endpoint6]);
            command.args(["receive", DEVICE, order, &endpoints, &list(&[pod_address, pod_address6])]);
            let mut receiver = Process::start(&mut command, &log)?;
            receiver.until_it_says("ready", PATIENCE)?;
            // The node has the VIP on its loopback for other scenes; here its packets only come through.
            node.sysctl(&format!("net.ipv4.conf.{DEVICE}.accept_local"), "1")?;
            node.ip(&format!("link set {DEVICE} up"))?;
            node.ip(&format!("route add default dev {DEVICE} table {TABLE}"))?;
            if self.has_ipv6 {
                node.ip(&format!("-6 route add default dev {DEVICE} table {TABLE}"))?;
            }
            self.receivers.push(receiver);
        }
        Ok(())
    }

    /// What the receivers have said: `told CLIENT VIP:PORT` for each packet that told so, `refused REASON` for each refused one.
    pub fn said(&self) -> Vec<String> {
        self.receivers
            .iter()
            .flat_map(|receiver| receiver.said().lines().map(String::from).collect::<Vec<_>>())
            .collect()
    }
}

impl Drop for Pods<'_> {
    fn drop(&mut self) {
        self.receivers.clear();
        self.pods.clear();
        for (number, backend) in (1..).zip(&self.lab.backends) {
            let (node, router) = (&*backend.namespace, &*self.lab.router);
            // The pod's end goes with its namespace, some time; this one must not be there when the next pods are made.
            let _ = node.ip("link del pods");
            let _ = node.ip(&format!("rule flush table {TABLE}"));
            let _ = node.sysctl("net.ipv4.ip_forward", "0");
            let _ = router.ip(&format!("route del 10.2.{number}.0/24"));
            if self.has_ipv6 {
                let _ = node.ip(&format!("-6 rule flush table {TABLE}"));
                let _ = node.sysctl("net.ipv6.conf.all.forwarding", "0");
                let _ = router.ip(&format!("-6 route del fd00:2:{number}::/64"));
            }
        }
    }
}
