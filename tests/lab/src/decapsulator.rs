//! How the backends take `ipip` packets apart: their kernel's own tunnel device, or a small BPF program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::namespace::{Life, Namespace, named};
use crate::process::output;

const SOURCE: &str = include_str!("../bpf/decap.c");

#[derive(Debug)]
pub enum Decapsulator {
    /// The kernel's `ipip`. `loaded`: its module came because the lab asked, and goes with it.
    Kernel { loaded: bool },
    /// The program at tc's ingress hook.
    Tc(PathBuf),
    /// The program as generic XDP.
    Xdp(PathBuf),
}

impl Decapsulator {
    /// The first way that this kernel can go, tried out in a namespace of its own.
    pub fn choose(run: &str, directory: &Path) -> Result<Self> {
        let trial = Namespace::create(format!("{run}-trial"), Life::WithLab)?;
        let loaded_before = module_loaded();
        if trial.ip("link add decap type ipip local 192.0.2.2").is_ok() {
            return Ok(Self::Kernel { loaded: !loaded_before && module_loaded() });
        }
        let program = compile(directory)?;
        trial.ip("link add port type veth peer name other")?;
        let ways = [Self::Tc(program.clone()), Self::Xdp(program)];
        let mut refusals = Vec::new();
        for way in ways {
            match way.attach(&trial, "port") {
                Ok(()) => return Ok(way),
                Err(error) => refusals.push(format!("{error:#}")),
            }
        }
        bail!("this kernel has no ipip and takes no BPF program either: {}", refusals.join("; "))
    }

    /// Makes a backend take its packets apart.
    pub fn install(&self, backend: &Namespace, interface: &str, address: &str) -> Result<()> {
        match self {
            Self::Kernel { .. } => {
                backend.ip(&format!("link add decap type ipip local {address}"))?;
                backend.ip("link set decap up")?;
                backend.sysctl("net.ipv4.conf.decap.rp_filter", "0")
            }
            _ => self.attach(backend, interface),
        }
    }

    /// Ends that: its packets find nobody who takes them apart, until [`Decapsulator::install`].
    pub fn remove(&self, backend: &Namespace, interface: &str) -> Result<()> {
        match self {
            Self::Kernel { .. } => backend.ip("link delete decap").map(drop),
            Self::Tc(_) => {
                let tc = format!("-n {} qdisc delete dev {interface} clsact", backend.name());
                output(Command::new("tc").args(tc.split_whitespace())).map(drop)
            }
            Self::Xdp(_) => backend.ip(&format!("link set dev {interface} xdpgeneric off")).map(drop),
        }
    }

    /// Whether the kernel's module came because the lab asked for it.
    pub fn brought_module(&self) -> bool {
        matches!(self, Self::Kernel { loaded: true })
    }

    /// What is told of it.
    pub fn says(&self) -> &'static str {
        match self {
            Self::Kernel { .. } => "the kernel's own ipip device",
            Self::Tc(_) => "a BPF program at tc ingress (this kernel has no ipip)",
            Self::Xdp(_) => "a BPF program in XDP (this kernel has no ipip)",
        }
    }

    fn attach(&self, namespace: &Namespace, interface: &str) -> Result<()> {
        let tc = |line: String| output(Command::new("tc").args(["-n", namespace.name()]).args(line.split_whitespace()));
        match self {
            Self::Kernel { .. } => {}
            Self::Tc(program) => {
                tc(format!("qdisc add dev {interface} clsact"))?;
                tc(format!("filter add dev {interface} ingress bpf da obj {} sec tc", program.display()))?;
            }
            Self::Xdp(program) => {
                namespace.ip(&format!("link set dev {interface} xdpgeneric obj {} sec xdp", program.display()))?;
            }
        }
        Ok(())
    }
}

/// Dropped after the namespaces that use it.
impl Drop for Decapsulator {
    fn drop(&mut self) {
        if self.brought_module() {
            unload();
        }
    }
}

/// Takes the kernel's module away again, and with it the tunnel device in every namespace, unless a lab uses it now.
pub fn unload() {
    if named("penstock-").is_empty() {
        let _ = output(Command::new("modprobe").args(["-r", "ipip"]));
    }
}

fn module_loaded() -> bool {
    Path::new("/sys/module/ipip").exists()
}

fn compile(directory: &Path) -> Result<PathBuf> {
    let (source, program) = (directory.join("decap.c"), directory.join("decap.o"));
    std::fs::write(&source, SOURCE).with_context(|| source.display().to_string())?;
    // <asm/…> stands in the directory of the host's architecture, which clang does not look into for this target.
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let mut clang = Command::new("clang");
    clang.args(["-O2", "-g", "-Wall", "-target", "bpf", &include, "-c"]).arg(&source).arg("-o").arg(&program);
    output(&mut clang)?;
    Ok(program)
}
