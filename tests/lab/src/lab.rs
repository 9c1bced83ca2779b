//! The lab: a client, a router, the load balancer on one arm of it, and three real servers behind it.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::backend::{Backend, DNAT_PORT};
use crate::capture::Capture;
use crate::client::Client;
use crate::decapsulator::Decapsulator;
use crate::namespace::{self, Life, Namespace, cable};
use crate::node::{NIC, Node, Options};
use crate::segment::{self, Segment};
use crate::site::Site;
use crate::sixth::Sixth;

pub const CLIENT: &str = "198.51.100.10";
pub const VIP: &str = "192.0.2.1";
/// The node's own address, on its kernel twin.
pub const NODE: &str = "10.0.0.1";
/// The router's address towards the load balancer.
pub const GATEWAY: &str = "10.0.0.254";
pub const BACKENDS: usize = 3;
/// The client's side of the world.
pub const CLIENT_MTU: u16 = 1500;
/// Full-size segments of the client grow by an outer header of 20 bytes.
pub const FABRIC_MTU: u16 = 1600;

pub const DRAWING: &str = "
    client                  router                      load balancer
  198.51.100.10 ────────── 198.51.100.1
                 MTU 1500      │                     nic0   penstock run, DPDK net_af_packet
                           10.0.0.254 ────────────── wan0   its kernel twin, 10.0.0.1
                               │        MTU 1600
                               ├────── backend1  10.1.1.2   nginx    VIP 192.0.2.1
                               ├────── backend2  10.1.2.2   nginx      :80    ipip, the reply goes straight back
                               └────── backend3  10.1.3.2   nginx      :8080  dnat, the reply comes back this way
";

pub fn backend_name(number: usize) -> String {
    format!("backend{number}")
}

pub fn backend_address(number: usize) -> String {
    format!("10.1.{number}.2")
}

/// The router's interface towards a backend.
pub fn to_backend(number: usize) -> String {
    format!("to-backend{number}")
}

pub const TO_CLIENT: &str = "to-client";
pub const TO_NODE: &str = "to-lb";

/// Everything is undone from the top down when it is dropped: processes, namespaces, files.
pub struct Lab {
    site: Option<Site>,
    pub client: Client,
    pub node: Node,
    pub backends: Vec<Backend>,
    pub router: Rc<Namespace>,
    pub decapsulator: Decapsulator,
    sixth: Option<Sixth>,
    segment: Option<Segment>,
    directory: Directory,
    /// The prefix of every name.
    run: String,
}

impl Lab {
    /// Builds it all and starts the load balancer. `run`: the prefix of every name, so that labs do not meet; `backends`: how many, at
    /// least two.
    pub fn build(run: &str, life: Life, backends: usize) -> Result<Self> {
        let directory = Directory::create(run)?;
        let decapsulator = Decapsulator::choose(run, directory.path())?;
        let host = |name: &str| Namespace::create(format!("{run}-{name}"), life).map(Rc::new);
        let (client, router, balancer) = (host("client")?, host("router")?, host("lb")?);

        cable((&router, TO_CLIENT), (&client, "eth0"), CLIENT_MTU)?;
        router.ip(&format!("address add 198.51.100.1/24 dev {TO_CLIENT}"))?;
        client.ip(&format!("address add {CLIENT}/24 dev eth0"))?;
        client.ip("route add default via 198.51.100.1")?;

        cable((&router, TO_NODE), (&balancer, NIC), FABRIC_MTU)?;
        hands_off(&balancer, NIC)?;

        router.sysctl("net.ipv4.ip_forward", "1")?;
        face_node(&router, TO_NODE)?;
        // A change of the router's MAC address is announced, as a failover between two routers would be.
        router.sysctl(&format!("net.ipv4.conf.{TO_NODE}.arp_notify"), "1")?;

        let numbers = 1..=backends;
        let mut backends = Vec::new();
        for number in numbers {
            let (name, address, port) = (backend_name(number), backend_address(number), to_backend(number));
            let backend = host(&name)?;
            cable((&router, &port), (&backend, "eth0"), FABRIC_MTU)?;
            router.ip(&format!("address add 10.1.{number}.1/24 dev {port}"))?;
            router.ip(&format!("rule add iif {port} from {address} lookup 100"))?;
            backend.ip(&format!("address add {address}/24 dev eth0"))?;
            backend.ip(&format!("route add default via 10.1.{number}.1"))?;
            backends.push(Backend::start(name, address, backend, &decapsulator, directory.path())?);
        }

        let mut node = Node::new(balancer, directory.path())?;
        node.write(&two_backends("first"))?;
        if let Err(error) = node.start(&Options::default()) {
            directory.keep();
            return Err(error.context(format!("the lab's files are kept in {}", directory.path().display())));
        }
        let client = Client { namespace: client, directory: directory.path().to_path_buf() };
        Ok(Self {
            client,
            node,
            backends,
            router,
            decapsulator,
            sixth: None,
            site: None,
            segment: None,
            directory,
            run: run.to_owned(),
        })
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Gives every host IPv6 beside IPv4, until [`Lab::speak_ipv4_only`].
    pub fn speak_ipv6(&mut self) -> Result<()> {
        if self.sixth.is_none() {
            let to_node = if self.segment.is_some() { segment::BRIDGE } else { TO_NODE };
            self.sixth = Some(Sixth::build(&self.client, &self.router, to_node, &self.node, &self.backends)?);
        }
        Ok(())
    }

    pub fn speak_ipv4_only(&mut self) {
        self.sixth = None;
    }

    /// The network of real servers that are not backends of the demo; built where a scene first asks for it.
    pub fn site(&mut self) -> Result<&Site> {
        let site = match self.site.take() {
            Some(site) => site,
            None => Site::build(&self.run, self.directory.path(), self.router.clone())?,
        };
        Ok(self.site.insert(site))
    }

    /// Makes the cable between router and load balancer a network that servers can be connected to, until [`Lab::part_segment`].
    pub fn share_segment(&mut self) -> Result<()> {
        self.speak_ipv4_only();
        self.segment = Some(Segment::build(&self.router)?);
        Ok(())
    }

    pub fn part_segment(&mut self) {
        self.speak_ipv4_only();
        self.segment = None;
    }

    /// One more host, for a scene.
    pub fn host(&self, name: &str) -> Result<Namespace> {
        Namespace::create(format!("{}-{name}", self.run), Life::WithLab)
    }

    /// A capture on the load balancer's port. `name`: of its file.
    pub fn capture_at_node(&self, name: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.node.namespace, NIC, filter, self.directory().join(format!("{name}.pcap")))
    }

    /// A capture at the client. `name`: of its file.
    pub fn capture_at_client(&self, name: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.client.namespace, "eth0", filter, self.directory().join(format!("{name}.pcap")))
    }

    /// A capture on an interface of the router. `name`: of its file.
    pub fn capture_at_router(&self, interface: &str, name: &str, filter: &str) -> Result<Capture> {
        Capture::start(&self.router, interface, filter, self.directory().join(format!("{name}.pcap")))
    }

    /// Keeps logs, captures, counters and the state of each namespace, and says where.
    pub fn keep_evidence(&self) -> Result<PathBuf> {
        self.directory.keep();
        let counters = self.node.metrics_text().unwrap_or_else(|error| format!("{error:#}"));
        std::fs::write(self.directory().join("metrics"), counters)?;
        let backends = self.backends.iter().map(|backend| &backend.namespace);
        for host in [&self.client.namespace, &self.router, &self.node.namespace].into_iter().chain(backends) {
            let state = ["-s address", "route show table all", "rule", "neighbour"]
                .map(|what| format!("# ip {what}\n{}", host.ip(what).unwrap_or_else(|error| format!("{error:#}\n"))));
            std::fs::write(self.directory().join(format!("{}.state", host.name())), state.concat())?;
        }
        self.site.iter().for_each(Site::keep_evidence);
        Ok(self.directory().to_path_buf())
    }

    /// Lets everything go on when the lab's own process ends.
    pub fn leave_standing(mut self) {
        self.directory.keep();
        if self.decapsulator.brought_module() {
            let _ = std::fs::write(self.directory().join(LOADED_MODULE), "");
        }
        self.node.leave_standing();
        self.backends.iter_mut().for_each(Backend::leave_standing);
        let backends = self.backends.iter().map(|backend| &backend.namespace);
        let all = [&self.client.namespace, &self.router, &self.node.namespace].into_iter().chain(backends);
        all.for_each(|namespace| namespace.leave_standing());
        std::mem::forget(self);
    }
}

/// Makes an interface of the router's the one to the load balancer.
pub fn face_node(router: &Namespace, interface: &str) -> Result<()> {
    router.ip(&format!("address add {GATEWAY}/24 dev {interface}"))?;
    router.ip(&format!("route add {VIP} via {NODE} dev {interface}"))?;
    // What a backend sends under its own address to a client is the answer to a `dnat` request: back it goes.
    router.ip(&format!("route add 198.51.100.0/24 via {NODE} dev {interface} table 100")).map(drop)
}

/// Leaves an interface to DPDK: the kernel neither answers ARP there nor sees a packet that comes in.
///
/// af_packet gets its copy before the netdev hook, so only the kernel's own stack is shut out. Without this, the
/// twin's address would be answered for twice: Linux takes packets for its addresses on any interface.
fn hands_off(balancer: &Namespace, interface: &str) -> Result<()> {
    balancer.ip(&format!("link set {interface} arp off"))?;
    let rules = format!(
        "add table netdev lab; \
         add chain netdev lab port {{ type filter hook ingress device \"{interface}\" priority 0; policy drop; }}"
    );
    crate::process::output(balancer.command("nft").arg(rules)).map(drop)
}

/// A set of services: `web` by `ipip` and `shop` by `dnat`, each over (backend number, weight).
pub fn services(version: &str, backends: &[(usize, u16)]) -> Value {
    let over = |port: Option<u16>| -> Vec<Value> {
        let one = |&(number, weight): &(usize, u16)| match port {
            Some(port) => json!({"address": backend_address(number), "port": port, "weight": weight}),
            None => json!({"address": backend_address(number), "weight": weight}),
        };
        backends.iter().map(one).collect()
    };
    json!({
        "version": version,
        "services": [
            {"name": "web", "vip": VIP, "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": over(None)},
            {"name": "shop", "vip": VIP, "port": 8080, "protocol": "tcp", "forwarding": "dnat",
             "backends": over(Some(DNAT_PORT))},
        ]
    })
}

pub fn two_backends(version: &str) -> Value {
    services(version, &[(1, 100), (2, 100)])
}

/// The lab's files: configuration, logs, captures. Gone with the value unless kept.
struct Directory {
    path: PathBuf,
    kept: std::cell::Cell<bool>,
    names_existed: bool,
}

impl Directory {
    fn create(run: &str) -> Result<Self> {
        let path = path_of(run);
        let names_existed = namespace::names_exist();
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        if !names_existed {
            std::fs::write(path.join(FIRST_USER), "")?;
        }
        Ok(Self { path, kept: false.into(), names_existed })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(&self) {
        self.kept.set(true);
    }
}

/// A file that says: `/run/netns` came with this lab.
pub const FIRST_USER: &str = "made-run-netns";

/// A file that says: the kernel's ipip module came with this lab.
pub const LOADED_MODULE: &str = "loaded-ipip";

pub fn path_of(run: &str) -> PathBuf {
    std::env::temp_dir().join(run)
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.kept.get() {
            crate::node::forget_flows(&self.path.join("penstock/state"));
            let _ = std::fs::remove_dir_all(&self.path);
        }
        if !self.names_existed {
            namespace::forget_names();
        }
    }
}
