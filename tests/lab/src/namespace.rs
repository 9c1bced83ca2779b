//! Network namespaces and the cables between them, gone with the value that names them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::output;
use crate::wait::until;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// How long namespaces and what runs in them live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// As long as the lab's process, whatever ends that.
    WithLab,
    /// Until somebody takes them down, once they are left standing.
    Standing,
}

/// One host of the lab.
pub struct Namespace {
    name: String,
    life: Life,
    left_standing: std::cell::Cell<bool>,
}

impl Namespace {
    pub fn create(name: String, life: Life) -> Result<Self> {
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name, life, left_standing: false.into() };
        // The lab speaks IPv4; neighbour discovery would only stir the counters.
        for scope in ["all", "default"] {
            let key = format!("net.ipv6.conf.{scope}.disable_ipv6");
            if Path::new("/proc/sys/net/ipv6").exists() {
                namespace.sysctl(&key, "1")?;
            }
            // A reply whose way back is not the way it came is what DSR is about.
            namespace.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command to be run in here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A command that runs beside the lab; killed by the kernel should the lab itself be killed.
    pub fn helper(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        if self.life == Life::Standing {
            return self.command(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a line of words in here, and gives what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        output(self.command(words.next().unwrap_or_default()).args(words))
    }

    /// `ip …` in here.
    pub fn ip(&self, line: &str) -> Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        output(self.command("sh").arg("-c").arg(format!("echo {value} > {path}"))).map(drop)
    }

    /// The MAC address of an interface.
    pub fn mac(&self, interface: &str) -> Result<String> {
        Ok(self.run(&format!("cat /sys/class/net/{interface}/address"))?.trim().to_string())
    }

    /// Lets it go on after the lab's own end.
    pub fn leave_standing(&self) {
        self.left_standing.set(true);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.left_standing.get() {
            remove(&self.name);
        }
    }
}

/// Lays a cable between two namespaces: a veth pair, both ends up.
pub fn cable(one: (&Namespace, &str), other: (&Namespace, &str), mtu: u16) -> Result<()> {
    let (a, b) = (one.0.name(), other.0.name());
    let line =
        format!("link add name {} mtu {mtu} netns {a} type veth peer name {} mtu {mtu} netns {b}", one.1, other.1);
    output(Command::new("ip").args(line.split_whitespace()))?;
    for (namespace, interface) in [one, other] {
        // veth never computes the checksums that it promises, and a DPDK port sees the frame as it is.
        namespace.run(&format!("ethtool -K {interface} tx off"))?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// The names of all namespaces that begin so.
pub fn named(prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

/// Ends what runs in a namespace, and the namespace. Best effort: it is called on the way out.
pub fn remove(name: &str) {
    let processes = || output(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    let ended = |signal: &str, patience: Duration| {
        let pids = processes();
        let pids: Vec<&str> = pids.split_whitespace().collect();
        if !pids.is_empty() {
            let _ = output(Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", pids.join(" "))));
        }
        until("its processes ended", patience, || Ok(processes().trim().is_empty().then_some(()))).is_ok()
    };
    let _ = ended("TERM", Duration::from_secs(2)) || ended("KILL", Duration::from_secs(2));
    if let Err(error) = output(Command::new("ip").args(["netns", "del", name])) {
        eprintln!("{error:#}");
    }
}

/// Whether `ip netns` has been used on this machine since it started.
pub fn names_exist() -> bool {
    Path::new(NAMES).exists()
}

/// Takes away the directory and mount that the first `ip netns add` made, if nobody uses them.
pub fn forget_names() {
    if std::fs::read_dir(NAMES).is_ok_and(|mut entries| entries.next().is_none()) {
        let _ = output(Command::new("umount").arg(NAMES));
        let _ = std::fs::remove_dir(NAMES);
    }
}
