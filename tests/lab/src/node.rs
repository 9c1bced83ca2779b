//! The load balancer under test: the real `penstock run` on a DPDK port, in its namespace.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::{FABRIC_MTU, GATEWAY, NODE};
use crate::metrics::Metrics;
use crate::namespace::Namespace;
use crate::process::{Process, output};
use crate::sixth::NODE as NODE6;
use crate::wait::{PATIENCE, until, with};

/// The veth that plays the NIC. The kernel owns no address on it.
pub const NIC: &str = "nic0";
/// The tap that penstock makes; the node's address lives there.
pub const TWIN: &str = "wan0";
pub const METRICS: &str = "127.0.0.1:9341";
/// The API beside its socket, inside the node's namespace.
pub const API: &str = "127.0.0.1:9340";

/// The [feed] that reads [`Node::services`].
pub const FILE: &str = "kind = \"file\"\npath = \"services/services.json\"";
/// No feed: definitions come by the API.
pub const NO_FEED: &str = "kind = \"none\"";

/// What may differ from one start to the next.
#[derive(Debug, Clone)]
pub struct Options {
    pub lcores: Vec<usize>,
    pub idle: &'static str,
    pub stop_grace: &'static str,
    pub driver: Driver,
    /// Of the port.
    pub mtu: u16,
    /// How long a later fragment may wait for its first.
    pub hold: &'static str,
    /// The ports that `snat` sends from.
    pub sources: &'static str,
    /// Room for so many in each lcore's flow table.
    pub flows: usize,
    /// The lines of [feed].
    pub feed: String,
    /// More lines of [api].
    pub api: String,
}

/// The DPDK driver of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    AfPacket,
    /// Through libpcap; it does not put fragments together, as `net_af_packet` does.
    Pcap,
}

impl Default for Options {
    /// One lcore, kind to a machine of two CPUs.
    fn default() -> Self {
        let last = std::thread::available_parallelism().map_or(1, usize::from).min(2) - 1;
        Self {
            lcores: vec![last],
            idle: "sleep",
            stop_grace: "1s",
            driver: Driver::AfPacket,
            mtu: FABRIC_MTU,
            hold: "0ms",
            sources: "1024-32767",
            flows: 1 << 20,
            feed: FILE.to_owned(),
            api: String::new(),
        }
    }
}

/// What a subcommand did that asked the running node.
pub struct Asked {
    command: String,
    pub code: i32,
    pub said: String,
    /// On stderr.
    pub complained: String,
}

impl Asked {
    /// What it printed, if it went well.
    pub fn good(self) -> Result<String> {
        let Self { command, code, said, complained } = self;
        if code == 0 { Ok(said) } else { bail!("penstock {command}: exit code {code}: {complained}{said}") }
    }

    /// What it complained of, if it ended by this code.
    pub fn refused(self, wanted: i32) -> Result<String> {
        let Self { command, code, said, complained } = self;
        if code == wanted {
            Ok(complained)
        } else {
            bail!("penstock {command}: exit code {code}, not {wanted}: {complained}{said}")
        }
    }

    /// The document that it printed by --json.
    pub fn document(self) -> Result<Value> {
        let command = self.command.clone();
        serde_json::from_str(&self.good()?).with_context(|| format!("penstock {command}: not one JSON document"))
    }
}

pub struct Node {
    pub namespace: Rc<Namespace>,
    program: PathBuf,
    directory: PathBuf,
    process: Option<Process>,
}

/// Removes the memory in which a node with this state directory remembers flows, and which outlives it.
pub fn forget_flows(state: &Path) {
    let record = std::fs::read(state.join("flows")).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let lcores = record.as_ref().and_then(|record| record["lcores"].as_array());
    for file in lcores.into_iter().flatten().filter_map(|lcore| lcore["file"].as_str()) {
        let _ = std::fs::remove_file(file);
    }
}

impl Node {
    pub fn new(namespace: Rc<Namespace>, directory: &Path) -> Result<Self> {
        let directory = directory.join("penstock");
        for part in ["services", "state", "run"] {
            std::fs::create_dir_all(directory.join(part))?;
        }
        Ok(Self { namespace, program: program()?, directory, process: None })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.join("penstock.toml")
    }

    /// The file that the feed reads.
    pub fn services(&self) -> PathBuf {
        self.directory.join("services/services.json")
    }

    /// Where its API listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/api.sock")
    }

    /// The same, as `--api` and gRPC's libraries take it.
    pub fn api(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn log_file(&self) -> PathBuf {
        self.directory.join("penstock.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts it and waits until it is ready and its twin can reach the router.
    pub fn start(&mut self, options: &Options) -> Result<()> {
        self.stop()?;
        std::fs::write(self.configuration(), self.configuration_text(options))?;
        // A narrow port has narrowed its interface, which a wider one does not undo.
        self.namespace.ip(&format!("link set {NIC} mtu {FABRIC_MTU}"))?;
        let mut process = self.run(&self.log_file())?;
        let twin = until(&format!("penstock makes its twin, {TWIN}"), Duration::from_secs(30), || {
            let made = self.namespace.ip(&format!("link show {TWIN}")).is_ok();
            Ok((made || !process.running()).then_some(made))
        });
        let twin = twin.map_err(with(|| process.tail()))?;
        if !twin {
            bail!("penstock ended at once:\n{}", process.tail());
        }
        self.namespace.ip(&format!("address replace {NODE}/24 dev {TWIN}"))?;
        self.namespace.ip(&format!("link set {TWIN} up"))?;
        self.namespace.ip(&format!("route replace default via {GATEWAY} dev {TWIN}"))?;
        // Without a feed there may be no definitions yet, and then nobody is ready.
        let page = if options.feed == NO_FEED { "healthz" } else { "readyz" };
        until(&format!("/{page} says 200"), Duration::from_secs(30), || Ok((self.health(page)? == 200).then_some(())))
            .map_err(with(|| process.tail()))?;
        until("the twin reaches the router", Duration::from_secs(10), || {
            self.namespace.run(&format!("ping -n -c 1 -W 1 {GATEWAY}")).map(Some)
        })
        .map_err(with(|| process.tail()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it, and has it forget that it ever ran.
    pub fn forget(&mut self) -> Result<()> {
        self.stop()?;
        let state = self.directory.join("state");
        forget_flows(&state);
        std::fs::remove_dir_all(&state)?;
        Ok(std::fs::create_dir(&state)?)
    }

    /// Starts it as one that has never run, with these services.
    pub fn start_anew(&mut self, options: &Options, services: &Value) -> Result<()> {
        self.forget()?;
        self.write(services)?;
        self.start(options)?;
        self.until_version(version_of(services)?)?;
        self.until_resolved()
    }

    /// One more `penstock run` on the configuration as it is. `log`: of its output.
    pub fn run(&self, log: &Path) -> Result<Process> {
        let mut command = self.namespace.helper(&self.program);
        command.arg("run").arg("--config").arg(self.configuration());
        // DPDK keeps its runtime files there instead of in /var/run, where they would stay.
        command.env("RUNTIME_DIRECTORY", self.directory.join("run"));
        Process::start(&mut command, log)
    }

    /// Publishes a set of services as an operator would: a new file beside the old, then a rename. Gives when that was.
    pub fn write(&self, services: &Value) -> Result<SystemTime> {
        self.write_text(&format!("{services:#}\n"))
    }

    pub fn write_text(&self, text: &str) -> Result<SystemTime> {
        let new = self.services().with_extension("new");
        std::fs::write(&new, text)?;
        let at = SystemTime::now();
        std::fs::rename(&new, self.services())?;
        Ok(at)
    }

    /// Publishes, and waits until the node says that this version is in force.
    pub fn publish(&self, services: &Value) -> Result<SystemTime> {
        let at = self.write(services)?;
        self.until_version(version_of(services)?)?;
        Ok(at)
    }

    pub fn until_version(&self, version: &str) -> Result<()> {
        until(&format!("definitions \"{version}\" are in force"), PATIENCE, || {
            Ok((self.metrics()?.version() == Some(version)).then_some(()))
        })
    }

    /// Waits until the MAC address of every next hop is known, so that no packet is dropped for want of one.
    pub fn until_resolved(&self) -> Result<()> {
        until("every next hop is resolved", Duration::from_secs(15), || {
            Ok((self.metrics()?.sum("penstock_next_hops_unresolved") == 0).then_some(()))
        })
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.metrics_text()?)
    }

    pub fn metrics_text(&self) -> Result<String> {
        self.namespace.run(&format!("curl --silent --show-error --fail --max-time 2 http://{METRICS}/metrics"))
    }

    /// The status code of `/readyz` or `/healthz`.
    pub fn health(&self, page: &str) -> Result<u16> {
        let curl = "curl --silent --show-error --max-time 2 --output /dev/null --write-out %{http_code}";
        Ok(self.namespace.run(&format!("{curl} http://{METRICS}/{page}"))?.trim().parse()?)
    }

    /// `penstock check` on what lies there now: its exit code and what it printed.
    pub fn check(&self) -> Result<(i32, String)> {
        let mut command = Command::new(&self.program);
        command.arg("check").arg("--config").arg(self.configuration()).arg("--services").arg(self.services());
        let done = command.output()?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        Ok((done.status.code().unwrap_or(-1), said))
    }

    /// A subcommand that asks the running node.
    pub fn ask(&self, words: &[&str]) -> Result<Asked> {
        self.ask_at(&self.api(), words)
    }

    /// The same, of whoever is at `api`.
    pub fn ask_at(&self, api: &str, words: &[&str]) -> Result<Asked> {
        Self::asked(Command::new(&self.program), api, words)
    }

    /// The same, from the node's own namespace.
    pub fn ask_inside(&self, api: &str, words: &[&str]) -> Result<Asked> {
        Self::asked(self.namespace.command(&self.program), api, words)
    }

    fn asked(mut command: Command, api: &str, words: &[&str]) -> Result<Asked> {
        let done = command.args(words).args(["--api", api]).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = done.status.code().unwrap_or(-1);
        Ok(Asked { command: words.join(" "), code, said: text(done.stdout), complained: text(done.stderr) })
    }

    /// Such a subcommand in the background. `log`: of its output.
    pub fn ask_on(&self, words: &[&str], log: &Path) -> Result<Process> {
        let mut command = self.namespace.helper(&self.program);
        Process::start(command.args(words).args(["--api", &self.api()]), log)
    }

    /// What `penstock backend recipe` prints for these words.
    pub fn recipe(&self, words: &str) -> Result<String> {
        output(Command::new(&self.program).args(["backend", "recipe"]).args(words.split_whitespace()))
    }

    /// Which backend `penstock explain` names for a client's new connection under the services of that file; `None`: no one.
    pub fn explain(&self, services: &Path, client: SocketAddr, server: SocketAddr) -> Result<Option<IpAddr>> {
        let mut command = Command::new(&self.program);
        command.arg("explain").arg("--config").arg(self.configuration()).arg("--services").arg(services);
        let said = output(command.args([client.to_string(), server.to_string(), "tcp".into()]))?;
        let named = said.lines().find_map(|line| line.strip_prefix("backend ")?.trim().split([',', ' ']).next());
        Ok(named.and_then(|endpoint| endpoint.parse::<SocketAddr>().ok()).map(|endpoint| endpoint.ip()))
    }

    /// What `penstock schema … --json` prints.
    pub fn schema(&self, of: &str) -> Result<String> {
        output(Command::new(&self.program).args(["schema", of, "--json"]))
    }

    /// What `penstock replay` prints.
    pub fn replay(&self, words: &[&str]) -> Result<String> {
        output(Command::new(&self.program).arg("replay").args(words))
    }

    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("penstock does not run")
    }

    /// Starts it as usual where a scene has left it stopped.
    pub fn ensure_running(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(Process::running) { Ok(()) } else { self.start(&Options::default()) }
    }

    /// Stops it by SIGTERM and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take()
            && process.running()
        {
            process.signal("TERM")?;
            process.until_it_ends(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Kills it: no chance to tidy up.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal("KILL")?;
            process.until_it_ends(Duration::from_secs(5))?;
        }
        Ok(())
    }

    /// CPU time that its lcores have used so far, in seconds.
    pub fn lcore_seconds(&mut self) -> Result<f64> {
        let mut seconds = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process()?.pid()))? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            // proc(5): the name in parentheses; after it utime and stime are the 12th and 13th words, in ticks of 1/100 s.
            let (name, rest) = stat.rsplit_once(')').context("/proc/…/stat")?;
            if name.contains("(rte-worker") {
                let words: Vec<&str> = rest.split_whitespace().collect();
                seconds += (words[11].parse::<f64>()? + words[12].parse::<f64>()?) / 100.0;
            }
        }
        Ok(seconds)
    }

    /// Memory that it has resident, in bytes.
    pub fn resident_bytes(&mut self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process()?.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes = line.trim().strip_suffix(" kB").context("VmRSS is not in kB")?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    }

    pub fn leave_standing(&mut self) {
        self.process.iter_mut().for_each(Process::leave_standing);
    }

    fn configuration_text(&self, options: &Options) -> String {
        let Options { lcores, idle, stop_grace, driver, mtu, hold, sources, flows, feed, api } = options;
        let (directory, queues, socket) = (self.directory.display(), lcores.len(), self.api());
        let device = match driver {
            Driver::AfPacket => format!("net_af_packet0,iface={NIC},qpairs={queues}"),
            Driver::Pcap => format!("net_pcap0,rx_iface_in={NIC},tx_iface={NIC}"),
        };
        format!(
            r#"[node]
name = "lab"
state_dir = "{directory}/state"
stop_grace = "{stop_grace}"

[dpdk]
lcores = {lcores:?}
eal_args = ["--no-huge", "--no-shconf", "-m", "128", "--no-pci"]
mempool_mbufs = 16383
idle = "{idle}"

[[port]]
name = "wan0"
device = "{device}"
mtu = {mtu}
twin = "{TWIN}"

[encap]
ipv4_source = "{NODE}"
ipv6_source = "{NODE6}"

[snat]
ipv4 = ["{NODE}"]
ipv6 = ["{NODE6}"]
ports = "{sources}"

[flows]
capacity = {flows}

[fragments]
hold = "{hold}"

[hash]
seed = "cGVuc3RvY2sgbGFiIDAwMQ=="
table_size = 65537

[feed]
{feed}

[api]
listen = ["{socket}", "{API}"]
{api}

[metrics]
listen = "{METRICS}"
"#
        )
    }
}

fn version_of(services: &Value) -> Result<&str> {
    services["version"].as_str().context("the lab's services have versions")
}

/// The binary: `PENSTOCK`, else the one built beside the lab's own.
fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PENSTOCK") {
        return std::fs::canonicalize(&path).with_context(|| format!("PENSTOCK={}", path.display()));
    }
    let beside = std::env::current_exe()?.with_file_name("penstock");
    if !beside.exists() {
        bail!("{} is not there: build it, or name it in PENSTOCK", beside.display());
    }
    Ok(beside)
}
