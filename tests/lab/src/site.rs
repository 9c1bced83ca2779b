//! Where the real servers of a mode stand: fresh hosts on a network of their own behind the router, each a namespace of this
//! machine's kernel, or of the guest's where this one lacks the tunnels. What makes such a host a receiver is the recipe alone.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::backend;
use crate::guest::{self, Guest, NotHere};
use crate::modules::Modules;
use crate::namespace::{Life, Namespace, cable};
use crate::process::Process;
use crate::sixth::{self, Sixth};
use crate::wait::{PATIENCE, until, with};

/// The router's port towards this network, a bridge.
pub const TO_SITE: &str = "to-site";
/// Packets have to fit after they have grown, and clients send of up to 1500 bytes, too.
pub const MTU: u16 = 1500;

pub struct Site {
    run: String,
    directory: PathBuf,
    router: Rc<Namespace>,
    /// The kernel that has tunnels; `None`: this machine's.
    tunnels: OnceCell<Result<Option<Rc<Guest>>, NotHere>>,
    made: Cell<usize>,
    /// Modules that came because the lab asked; after all that uses them.
    _modules: Modules,
}

/// Which kernel a server is to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// This machine's.
    Own,
    /// One that has ipip, sit, ip6tnl, gre, ip6gre and fou.
    WithTunnels,
}

/// A host with nginx.
pub struct Server {
    pub name: String,
    pub address: String,
    pub address6: String,
    place: Place,
    directory: PathBuf,
    _nginx: Option<Process>,
}

enum Place {
    Here(Namespace),
    Guest(Rc<Guest>, String),
}

/// How a server is connected.
pub struct Port<'a> {
    /// The bridge in the router's namespace.
    pub bridge: &'a str,
    /// Networks, without the host's number: "10.2.0." and "fd00:2::".
    pub networks: (&'a str, &'a str),
    /// The router's addresses.
    pub gateways: (&'a str, &'a str),
}

const PORT: Port = Port { bridge: TO_SITE, networks: ("10.2.0.", "fd00:2::"), gateways: ("10.2.0.254", "fd00:2::fe") };

impl Site {
    /// The network alone.
    pub fn build(run: &str, directory: &Path, router: Rc<Namespace>) -> Result<Self> {
        router.ip(&format!("link add {TO_SITE} mtu {MTU} type bridge"))?;
        router.ip(&format!("address add {}/24 dev {TO_SITE}", PORT.gateways.0))?;
        router.ip(&format!("link set {TO_SITE} up"))?;
        let (run, directory) = (run.to_owned(), directory.to_owned());
        Ok(Self { run, directory, router, tunnels: OnceCell::new(), made: 0.into(), _modules: Modules::now() })
    }

    /// A server of that name on this network; nothing but its addresses and its default routes is set up.
    pub fn server(&self, name: &str, kernel: Kernel) -> Result<Server> {
        if Sixth::is_known() {
            // It goes whenever the lab gives IPv6 up.
            self.router.ip(&format!("address replace {}/64 dev {TO_SITE} nodad", PORT.gateways.1))?;
        }
        self.connect(name, kernel, &PORT)
    }

    pub fn connect(&self, name: &str, kernel: Kernel, port: &Port) -> Result<Server> {
        let number = self.made.get() + 1;
        self.made.set(number);
        let veth = format!("port{number}");
        let guest = match kernel {
            Kernel::WithTunnels => self.tunnels()?,
            Kernel::Own => None,
        };
        let place = match guest {
            Some(guest) => {
                let cable = format!("link add name {veth} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {name}");
                let plug = format!("link set {veth} master {} up", guest::BRIDGE);
                guest.run(&format!("ip netns add {name} && ip {cable} && ip {plug}"))?;
                Place::Guest(guest, name.to_owned())
            }
            None => {
                let namespace = Namespace::create(format!("{}-{name}", self.run), Life::WithLab)?;
                cable((&self.router, &veth), (&namespace, "eth0"), MTU)?;
                self.router.ip(&format!("link set {veth} master {}", port.bridge))?;
                if Sixth::is_known() {
                    namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
                }
                Place::Here(namespace)
            }
        };
        let (address, address6) = (format!("{}{number}", port.networks.0), format!("{}{number}", port.networks.1));
        let mut lines = vec![
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            format!("address add {address}/24 dev eth0"),
            format!("route add default via {}", port.gateways.0),
        ];
        if Sixth::is_known() {
            lines.push(format!("address add {address6}/64 dev eth0 nodad"));
            lines.push(format!("-6 route add default via {}", port.gateways.1));
        }
        place.ip(&lines)?;
        // As many distributions have it: what tunnels bring in must pass that, too.
        let strict = ["all", "default", "eth0"].map(|scope| format!("net.ipv4.conf.{scope}.rp_filter=1"));
        place.run(&format!("sysctl -qw {}", strict.join(" ")))?;
        let server = Server::start(name, (address, address6), place, &self.directory)?;
        until(&format!("{name} serves"), PATIENCE, || {
            let url = format!("http://{}/", server.address);
            Ok(self.router.run(&format!("curl --silent --fail --output /dev/null --max-time 5 {url}")).ok())
        })
        .map_err(with(|| std::fs::read_to_string(server.directory.join("nginx.log")).unwrap_or_default()))?;
        if Sixth::is_spoken_by(&self.router) {
            sixth::reaches(&self.router, &server.address6)?;
        }
        Ok(server)
    }

    /// What is told of the kernel that has tunnels.
    pub fn says(&self) -> Result<String> {
        Ok(match self.tunnels()? {
            Some(guest) => {
                format!("Linux {} under User Mode Linux, as this machine's kernel lacks tunnels", guest.release()?)
            }
            None => "this machine's kernel".into(),
        })
    }

    /// Keeps the state of the servers in the guest, as the lab does for its own hosts.
    pub fn keep_evidence(&self) {
        if let Some(Ok(Some(guest))) = self.tunnels.get() {
            let state = "for name in $(ip netns list | cut -d' ' -f1); do echo \"# $name\"; \
                 ip -n $name -s -d address; ip -n $name route show table all; ip -n $name -6 route show table all; \
                 ip -n $name -4 fou show; ip -n $name -6 fou show; NSTAT_HISTORY=/dev/null ip netns exec $name nstat -a; done; dmesg";
            let state = guest.run(state).unwrap_or_else(|error| format!("{error:#}"));
            let _ = std::fs::write(self.directory.join("guest.state"), state);
        }
    }

    fn tunnels(&self) -> Result<Option<Rc<Guest>>> {
        if let Some(kernel) = self.tunnels.get() {
            return Ok(kernel.clone()?);
        }
        let guest = match has_tunnels(&format!("{}-tunnels", self.run))? {
            true => Ok(None),
            false => match Guest::boot(&self.router, MTU, &self.directory) {
                Ok(guest) => {
                    self.router.ip(&format!("link set {} master {TO_SITE}", guest::TAP))?;
                    Ok(Some(Rc::new(guest)))
                }
                Err(error) => Err(error.downcast::<NotHere>()?),
            },
        };
        Ok(self.tunnels.get_or_init(|| guest).clone()?)
    }
}

/// Whether this machine's kernel has all that recipes for tunnels ask for; tried in a namespace of that name.
fn has_tunnels(name: &str) -> Result<bool> {
    let trial = Namespace::create(name.to_owned(), Life::WithLab)?;
    let _ = trial.run("modprobe -q fou");
    let devices = [
        "type ipip local 192.0.2.2",
        "type sit local 192.0.2.2",
        "type ip6tnl mode any local 2001:db8::2",
        "type gre local 192.0.2.2",
        "type ip6gre local 2001:db8::2",
    ];
    let has = |(number, device)| trial.ip(&format!("link add trial{number} {device}")).is_ok();
    Ok(devices.into_iter().enumerate().all(has) && trial.ip("fou add port 6080 gue").is_ok())
}

impl Drop for Site {
    fn drop(&mut self) {
        // The guest first: it holds the tap.
        self.tunnels.take();
        let _ = self.router.ip(&format!("link delete {TO_SITE}"));
    }
}

impl Place {
    /// `ip …` line by line; for the guest, where each command takes its time, by one.
    fn ip(&self, lines: &[String]) -> Result<()> {
        match self {
            Self::Here(namespace) => lines.iter().try_for_each(|line| namespace.ip(line).map(drop)),
            Self::Guest(guest, name) => {
                let commands: Vec<String> = lines.iter().map(|line| format!("ip -n {name} {line}")).collect();
                guest.run(&commands.join(" && ")).map(drop)
            }
        }
    }

    /// A line of words.
    fn run(&self, line: &str) -> Result<String> {
        match self {
            Self::Here(namespace) => namespace.run(line),
            Self::Guest(guest, name) => guest.run(&format!("ip netns exec {name} {line}")),
        }
    }
}

impl Server {
    /// Starts nginx; it may take a moment until it serves.
    fn start(name: &str, (address, address6): (String, String), place: Place, directory: &Path) -> Result<Self> {
        let directory = directory.join(name);
        std::fs::create_dir_all(directory.join("files"))?;
        let configuration = directory.join("nginx.conf");
        std::fs::write(&configuration, backend::configuration(name, &directory, Sixth::is_known()))?;
        let log = directory.join("nginx.log");
        let line = format!("nginx -e stderr -p {} -c {}", directory.display(), configuration.display());
        let nginx = match &place {
            Place::Here(namespace) => {
                Some(Process::start(namespace.helper("nginx").args(line.split(' ').skip(1)), &log)?)
            }
            Place::Guest(..) => {
                place.run(&format!("{line} >{} 2>&1 &", log.display()))?;
                None
            }
        };
        Ok(Self { name: name.to_owned(), address, address6, place, directory, _nginx: nginx })
    }

    /// Runs a line of words on it.
    pub fn run(&self, line: &str) -> Result<String> {
        self.place.run(line)
    }

    /// Makes it a receiver: runs what `penstock backend recipe` prints, as it is. Gives that.
    pub fn follow(&self, recipe: &str) -> Result<()> {
        let file = self.directory.join("recipe.sh");
        std::fs::write(&file, recipe).with_context(|| file.display().to_string())?;
        // Twice, as it says that it may be.
        for _ in 0..2 {
            self.run(&format!("sh {}", file.display()))?;
        }
        Ok(())
    }

    /// A file of the server's, served as `/files/…`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join("files").join(name)
    }
}
