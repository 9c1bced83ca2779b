//! Pktgen-DPDK, told by its Lua socket (`pktgen … -- -G`).
//!
//! What it sends it was started with: a command file, perf/pktgen/*.pkt (`-f acks-1000.pkt`), or a capture (`-s 0:acks-1000.pcap`), which it sends
//! as it is. What a command file cannot make as the bench does stands in perf/pktgen/README.md.

use std::io::{BufRead, BufReader, ErrorKind, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::frames;
use super::generator::Generator;
use super::software::generated;
use super::trial::Generated;
use crate::interrupt;
use crate::process::Process;
use crate::traffic::Kind;

/// Its part of the work.
const LUA: &str = include_str!("../../pktgen/bench.lua");

pub struct Pktgen {
    at: String,
    /// How it is started, `{}` for the kind of traffic; `None`: it runs.
    start: Option<String>,
    /// The sending port and the receiving one.
    ports: [u16; 2],
    running: Option<Running>,
}

struct Running {
    kind: Kind,
    socket: Socket,
    /// Bits a second of the sending port, as Pktgen reckons.
    line: f64,
    /// Ends with this.
    _process: Option<Process>,
}

const START: Duration = Duration::from_secs(60);
/// Frames that it sends at once. Every command file says so in its last line: then it has been carried out. (Its default is another.)
const BURST: usize = 32;

impl Pktgen {
    pub fn new(at: &str, start: Option<&str>, ports: [u16; 2]) -> Self {
        Self { at: at.to_owned(), start: start.map(str::to_owned), ports, running: None }
    }
}

/// Its Lua socket: a line goes in, what the Lua writes comes out.
struct Socket {
    at: String,
    stream: BufReader<TcpStream>,
}

impl Socket {
    fn connect(at: &str) -> anyhow::Result<Self> {
        let address = at.to_socket_addrs().with_context(|| at.to_owned())?.next().context("no address")?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("{at}: Pktgen's Lua socket; was it started with -G?"))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self { at: at.to_owned(), stream: BufReader::new(stream) })
    }

    fn say(&mut self, lua: &str) -> anyhow::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(lua.as_bytes())?;
        stream.write_all(b"\n")?;
        Ok(stream.flush()?)
    }

    /// The rest of the next line whose first word is `answer`.
    fn hear(&mut self, answer: &str, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        let mut line = String::new();
        loop {
            interrupt::check()?;
            match self.stream.read_line(&mut line) {
                Ok(0) => bail!("{}: Pktgen has closed its Lua socket", self.at),
                Ok(_) => {
                    let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
                    if word == answer {
                        return Ok(rest.to_owned());
                    }
                    line.clear();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    ensure!(Instant::now() < deadline, "{}: no {answer:?} from Pktgen within {patience:?}", self.at);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Generator for Pktgen {
    fn name(&self) -> String {
        "Pktgen-DPDK".to_owned()
    }

    fn load(&mut self, kind: Kind) -> anyhow::Result<()> {
        if self.running.as_ref().is_some_and(|running| running.kind == kind) {
            return Ok(());
        }
        ensure!(
            self.start.is_some() || self.running.is_none(),
            "Pktgen sends what it was started with: name one kind of --traffic, or say by --start how to start it"
        );
        self.running = None;
        let process = match &self.start {
            // It wants a terminal, which `script` gives it, and a session of its own, since it ends whatever is in its own.
            Some(command) => {
                let command = command.replace("{}", &kind.to_string());
                let arguments = ["script", "-qfec", &command, "/dev/null"].map(str::to_owned);
                Some(Process::start("setsid", &arguments, false)?)
            }
            None => None,
        };
        let deadline = Instant::now() + START;
        let mut socket = loop {
            match Socket::connect(&self.at) {
                Err(error) if process.is_none() || Instant::now() > deadline => return Err(error),
                Err(_) => interrupt::sleep(Duration::from_millis(200))?,
                Ok(socket) => break socket,
            }
        };
        // One statement, so that its local names hold throughout.
        ensure!(!LUA.contains("]==]"), "bench.lua cannot be quoted");
        socket.say(&format!("assert(load([==[\n{LUA}]==], '=bench.lua'))()"))?;
        let (deadline, sends) = (Instant::now() + START, self.ports[0]);
        loop {
            socket.say(&format!("bench_burst({sends})"))?;
            if socket.hear("burst", Duration::from_secs(10))? == BURST.to_string() {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "Pktgen has carried out no command file that ends by \"set {sends} burst {BURST}\" within {START:?}: -f acks-1000.pkt, or \
                 -f replay.pkt with a capture"
            );
            interrupt::sleep(Duration::from_millis(200))?;
        }
        socket.say(&format!("bench_line({sends})"))?;
        let mbits = socket.hear("line", Duration::from_secs(10))?;
        let line = mbits.parse::<f64>().with_context(|| mbits.clone())? * 1e6;
        self.running = Some(Running { kind, socket, line, _process: process });
        Ok(())
    }

    fn trial(&mut self, rate: f64, seconds: f64, wait: f64) -> anyhow::Result<Generated> {
        let Running { kind, socket, line, .. } = self.running.as_mut().context("nothing is loaded")?;
        let percent = 100.0 * rate / frames::line_rate(*kind, *line);
        ensure!(percent <= 100.001, "{rate:.0} frames a second are {percent:.0} % of Pktgen's line: lower --most");
        let [sends, receives] = self.ports;
        let count = (rate * seconds).round();
        let patience = Duration::from_secs_f64(seconds * 2.0 + wait + 20.0);
        socket.say(&format!("bench_trial({sends}, {receives}, {percent:.6}, {count:.0}, {seconds}, {wait})"))?;
        // Lua has no clock finer than a second; here is one.
        socket.hear("begun", patience)?;
        let start = Instant::now();
        socket.hear("ended", patience)?;
        let elapsed = start.elapsed().as_secs_f64();
        let said = socket.hear("trial", patience)?;
        generated(&format!("{said} seconds={elapsed}")).with_context(|| said.clone())
    }
}

#[cfg(test)]
mod tests {
    use penstock::wire::Mac;

    use std::fmt::Write as _;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::rig::VIP;
    use crate::traffic::{NET_PCAP_MAC, ROUTER_MAC, VIP6};

    /// Bytes of the frames of an IMIX, FCS included, as the bench has them in turn.
    const SIZES: [usize; 12] = [64, 594, 64, 594, 64, 1498, 64, 594, 64, 594, 64, 64];

    /// So many flows as a range of addresses and one of ports through which Pktgen steps at once: all pairs come when the two lengths have no
    /// divisor in common.
    fn split(flows: usize) -> anyhow::Result<(usize, usize)> {
        const MOST_ADDRESSES: usize = 1 << 17;
        let coprime = |a: usize, b: usize| {
            let (mut a, mut b) = (a, b);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a == 1
        };
        let fits = |&ports: &usize| {
            flows.is_multiple_of(ports)
                && flows / ports <= MOST_ADDRESSES
                && ports <= flows / ports
                && coprime(ports, flows / ports)
        };
        let ports = (1..=32_768).rev().find(fits);
        let ports = ports.with_context(|| {
            format!("{flows} flows are no product of addresses (at most {MOST_ADDRESSES}) and ports without a common divisor; 10 to any power is one")
        })?;
        Ok((flows / ports, ports))
    }

    /// What a command file for this has in it.
    fn commands(kind: Kind, port: u16, mac: Mac) -> anyhow::Result<String> {
        let router = Mac(ROUTER_MAC);
        let (vip, service) = (VIP.ip(), VIP.port());
        let mut text = String::new();
        if matches!(kind, Kind::Imix(_)) {
            ensure!(
                kind.flows() == SIZES.len(),
                "imix-{}: Pktgen makes an IMIX by a sequence, of {} flows; or it replays a capture",
                kind.flows(),
                SIZES.len()
            );
            let _ = writeln!(text, "disable {port} range\nset {port} seq_cnt {}", SIZES.len());
            for (at, size) in SIZES.iter().enumerate() {
                let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + at as u32);
                let _ = writeln!(
                    text,
                    "seq {at} {port} {mac} {router} {vip} {client}/32 32768 {service} ipv4 tcp 1 {size}"
                );
            }
            let _ = writeln!(text, "set {port} burst {BURST}");
            return Ok(text);
        }
        let (addresses, ports) = split(kind.flows())?;
        let step = |count: usize| usize::from(count > 1);
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        let last = first + addresses as u32 - 1;
        let is_v6 = matches!(kind, Kind::V6(_));
        let of = |address: u32| match is_v6 {
            true => Ipv6Addr::from((0x2001_0002u128 << 96) | u128::from(address)).to_string(),
            false => Ipv4Addr::from(address).to_string(),
        };
        let none = if is_v6 { "::" } else { "0.0.0.0" };
        let (version, vip) = if is_v6 { ("ipv6", VIP6.to_string()) } else { ("ipv4", vip.to_string()) };
        let protocol = if matches!(kind, Kind::Udp(_)) { "udp" } else { "tcp" };
        let step_ip = match (addresses > 1, is_v6) {
            (false, _) => none,
            (true, true) => "::1",
            (true, false) => "0.0.0.1",
        };
        let _ = writeln!(text, "set {port} seq_cnt 0");
        let _ = writeln!(text, "range {port} type {version}\nrange {port} proto {protocol}");
        for (name, mac) in [("dst", mac), ("src", router)] {
            let _ = writeln!(text, "range {port} {name} mac {mac} {mac} {mac} 00:00:00:00:00:00");
        }
        let (start, end) = (of(first), of(last));
        let _ = writeln!(text, "range {port} dst ip {vip} {vip} {vip} {none}");
        let _ = writeln!(text, "range {port} src ip {start} {start} {end} {step_ip}");
        let _ = writeln!(text, "range {port} dst port {service} {service} {service} 0");
        let _ = writeln!(text, "range {port} src port 32768 32768 {} {}", 32_767 + ports, step(ports));
        if protocol == "tcp" {
            let flag = if matches!(kind, Kind::Syns(_)) { "syn" } else { "ack" };
            let _ = writeln!(text, "range {port} tcp flag clr all\nrange {port} tcp flag set {flag}");
            let _ = writeln!(text, "range {port} tcp seq 1000000 1000000 1000000 0");
            let ack = if matches!(kind, Kind::Syns(_)) { 0 } else { 2_000_000 };
            let _ = writeln!(text, "range {port} tcp ack {ack} {ack} {ack} 0");
        }
        let size = frames::bytes(kind);
        let _ = writeln!(text, "range {port} size {size} {size} {size} 0\nenable {port} range");
        let _ = writeln!(text, "set {port} burst {BURST}");
        Ok(text)
    }

    #[test]
    fn flows_are_all_pairs_of_two_ranges() {
        let known = [
            (1, (1, 1)),
            (1_000, (125, 8)),
            (100_000, (3_125, 32)),
            (1_000_000, (15_625, 64)),
            (10_000_000, (78_125, 128)),
        ];
        for (flows, pair) in known {
            assert_eq!(split(flows).unwrap(), pair);
            // As Pktgen steps: both at once.
            let seen: std::collections::HashSet<_> =
                (0..flows.min(100_000)).map(|at| (at % pair.0, at % pair.1)).collect();
            assert_eq!(seen.len(), flows.min(100_000));
        }
        assert!(split(131_101).is_err(), "a prime, too large to be addresses alone");
    }

    /// `PENSTOCK_PKTGEN=write` writes them.
    #[test]
    fn the_command_files_are_these() {
        let kinds =
            ["acks-1", "acks-1000", "acks-100000", "acks-1000000", "acks-10000000", "syns-1000000", "syns-10000000"];
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pktgen");
        for name in kinds.into_iter().chain(["udp-1000", "v6-1000", "v6-100000", "imix-12"]) {
            let path = directory.join(format!("{name}.pkt"));
            let head = format!(
                "# {name}: made by the test of perf/src/throughput/pktgen.rs. The first MAC is the node's: put yours.\n"
            );
            let wanted = head + &commands(name.parse().unwrap(), 0, Mac(NET_PCAP_MAC)).unwrap();
            if std::env::var("PENSTOCK_PKTGEN").is_ok_and(|value| value == "write") {
                std::fs::write(&path, &wanted).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), wanted, "{}", path.display());
        }
        let replay = std::fs::read_to_string(directory.join("replay.pkt")).unwrap();
        assert_eq!(replay.lines().last(), Some(&*format!("set 0 burst {BURST}")));
        assert!(commands("imix-1000".parse().unwrap(), 0, Mac(NET_PCAP_MAC)).is_err());
    }
}
