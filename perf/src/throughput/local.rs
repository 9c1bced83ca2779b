//! Both sides on this machine, without a NIC: a node by conf/perf.toml, whose device is a memif instead of a PCI address, and the generator at
//! the memif's other end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use penstock::wire::Mac;

use super::counters;
use crate::interrupt;
use crate::node::free_address;
use crate::process::Process;
use crate::rig;

const START: Duration = Duration::from_secs(60);
/// What EAL is told on both sides: memory of the process's own, so that no hugepages are needed.
pub const EAL: [&str; 5] = eal("1024");

/// The same of so many megabytes.
pub const fn eal(megabytes: &str) -> [&str; 5] {
    ["--no-pci", "--no-huge", "--no-shconf", "-m", megabytes]
}

/// Slots of a ring, as a power of two: as many as a memif can have, for two that both have to share their CPUs.
const RING: u32 = 14;

/// A running node.
pub struct Node {
    /// Ends with this.
    _process: Process,
    pub metrics: SocketAddr,
    /// What the generator's side of the memif is.
    pub peer: String,
}

impl Node {
    /// Starts it with `lcore` polling; `conf` is the directory of perf.toml and perf-services.json.
    pub fn start(penstock: &Path, conf: &Path, lcore: u16, mac: Mac, directory: &Path) -> anyhow::Result<Self> {
        let metrics = free_address()?;
        let socket = directory.join("memif");
        let read = |name: &str| {
            let path = conf.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let device = |role: &str| rig::memif(role, &socket, RING);
        // A memif has whatever MAC it is told.
        let own = format!("{},mac={mac}", device("server"));
        let config = moved(&read("perf.toml")?, &own, lcore, metrics, directory)?;
        let path = directory.join("perf.toml");
        std::fs::write(&path, config)?;
        std::fs::write(directory.join("perf-services.json"), read("perf-services.json")?)?;
        let arguments = ["run".to_owned(), "--config".to_owned(), path.display().to_string()];
        let mut process = Process::start(&penstock.display().to_string(), &arguments, false)?;
        let deadline = Instant::now() + START;
        while counters::read(metrics).is_err() {
            process.check_alive()?;
            ensure!(Instant::now() < deadline, "the node serves no metrics within {START:?}");
            interrupt::sleep(Duration::from_millis(50))?;
        }
        Ok(Self { _process: process, metrics, peer: device("client") })
    }
}

/// A configuration moved to this machine: what a machine decides is replaced, all else stays. Each key stands on a line of its own.
fn moved(config: &str, device: &str, lcore: u16, metrics: SocketAddr, directory: &Path) -> anyhow::Result<String> {
    let eal = EAL.map(|argument| format!("{argument:?}")).join(", ");
    let place = |name: &str| format!("{:?}", directory.join(name));
    let replacements = [
        ("state_dir = ", place("state")),
        ("lcores = ", format!("[{lcore}]")),
        ("eal_args = ", format!("[{eal}]")),
        ("device = ", format!("{device:?}")),
        // The API's is a list.
        ("listen = \"", format!("{metrics}\"")),
    ];
    let mut text = config.to_owned();
    for (key, value) in replacements {
        let lines: Vec<&str> = config.lines().filter(|line| line.starts_with(key)).collect();
        ensure!(lines.len() == 1, "perf.toml: {} lines begin with {key}, expected one", lines.len());
        text = text.replacen(lines[0], &format!("{key}{value}"), 1);
    }
    Ok(text)
}

/// The repository's own directory of configurations, beside that of the results.
pub fn conf(results: &Path) -> PathBuf {
    results.join("../conf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_machine_decides_is_moved() {
        let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/perf.toml")).unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let text = moved(&config, "net_null0", 7, address, Path::new("/x")).unwrap();
        for line in ["lcores = [7]", "device = \"net_null0\"", "state_dir = \"/x/state\"", "listen = \"127.0.0.1:1\""] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        let changed = config.lines().zip(text.lines()).filter(|(before, after)| before != after).count();
        assert_eq!((changed, config.lines().count()), (5, text.lines().count()));
    }
}
