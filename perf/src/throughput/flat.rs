//! testpmd as a generator: it plays a capture by `net_pcap` into a NIC, as fast as both can. It cannot send at a given rate, so nothing can be
//! searched; what comes back at its own rate is a figure of its own (RFC 2285: forwarding rate at maximum offered load).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use penstock::wire::Mac;

use super::frames;
use super::generator::Generator;
use super::trial::Generated;
use crate::interrupt;
use crate::process::Process;
use crate::rig::Rig;
use crate::traffic::Kind;

const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

pub struct Testpmd {
    device: String,
    lcores: [u16; 2],
    eal: Vec<String>,
    mac: Mac,
    directory: PathBuf,
    capture: PathBuf,
    mbufs: usize,
}

impl Testpmd {
    pub fn new(device: &str, lcores: [u16; 2], eal: &[String], mac: Mac, directory: PathBuf) -> Self {
        Self { device: device.to_owned(), lcores, eal: eal.to_vec(), mac, directory, capture: PathBuf::new(), mbufs: 0 }
    }

    /// What stands in perf/pktgen/README.md as well.
    fn arguments(&self) -> Vec<String> {
        let [main, lcore] = self.lcores;
        let is_pci = self.device.split(',').next().is_some_and(|name| name.contains(':') && name.contains('.'));
        let device = if is_pci { format!("--allow={}", self.device) } else { format!("--vdev={}", self.device) };
        let mut arguments = vec![format!("--lcores={main},{lcore}"), format!("--main-lcore={main}"), device];
        arguments.push(format!("--vdev=net_pcap0,rx_pcap={},infinite_rx=1", self.capture.display()));
        if self.eal.is_empty() {
            arguments.push("--in-memory".into());
        }
        if self.eal.is_empty() && !is_pci {
            arguments.push("--no-pci".into());
        }
        arguments.extend_from_slice(&self.eal);
        // Two streams: the capture into the device, and what comes back into net_pcap, which frees it.
        let forward = "-- -i --forward-mode=io --nb-cores=1 --burst=32 --rxd=1024 --txd=1024";
        arguments.extend(forward.split_whitespace().map(str::to_owned));
        arguments.push(format!("--total-num-mbufs={}", self.mbufs));
        arguments
    }
}

/// A port's counters.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Port {
    received: u64,
    missed: u64,
    sent: u64,
}

impl Port {
    /// Of testpmd's `show port stats`: the port that is not net_pcap.
    fn read(testpmd: &mut Process, port: u16) -> anyhow::Result<Self> {
        testpmd.say(&format!("show port stats {port}"))?;
        let mut lines = String::new();
        testpmd.expect("port stats", ANSWER, |line| {
            lines += line;
            lines.push('\n');
            line.contains("Tx-pps:").then_some(())
        })?;
        Self::parse(&lines).with_context(|| lines.clone())
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |key: &str| text.rsplit_once(key)?.1.split_whitespace().next()?.parse().ok();
        Some(Self { received: number("RX-packets:")?, missed: number("RX-missed:")?, sent: number("TX-packets:")? })
    }
}

impl Generator for Testpmd {
    fn name(&self) -> String {
        format!("testpmd, net_pcap into {}", self.device)
    }

    fn load(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.capture = self.directory.join(format!("{kind}.pcap"));
        self.mbufs = Rig::mbufs_for(kind.frames());
        frames::write(kind, &self.capture, self.mac)
    }

    fn trial(&mut self, _: f64, seconds: f64, wait: f64) -> anyhow::Result<Generated> {
        let mut testpmd = Process::start("dpdk-testpmd", &self.arguments(), false)?;
        testpmd.expect("link status", START, |line| line.contains("Checking link statuses").then_some(()))?;
        // EAL probes PCI devices before virtual ones, and these in the order of the command line.
        let device = 0;
        testpmd.say(&format!("set promisc {device} on"))?;
        let before = Port::read(&mut testpmd, device)?;
        let start = Instant::now();
        testpmd.say("start")?;
        interrupt::sleep(Duration::from_secs_f64(seconds))?;
        testpmd.say("stop")?;
        testpmd.expect("end of forwarding", ANSWER, |line| line.contains("Accumulated forward").then_some(()))?;
        let elapsed = start.elapsed().as_secs_f64();
        // Nothing is sent any more; what is under way comes back.
        testpmd.say("set fwd rxonly")?;
        testpmd.say("start")?;
        interrupt::sleep(Duration::from_secs_f64(wait))?;
        testpmd.say("stop")?;
        let after = Port::read(&mut testpmd, device)?;
        testpmd.say("quit")?;
        let _ = testpmd.expect("good-bye", ANSWER, |line| line.contains("Bye...").then_some(()));
        ensure!(after.sent > before.sent, "testpmd has sent nothing into {}", self.device);
        Ok(Generated {
            sent: after.sent - before.sent,
            returned: after.received - before.received,
            missed: after.missed - before.missed,
            seconds: elapsed,
        })
    }

    fn has_rate(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_as_testpmd_prints_them() {
        let text = "\
  ######################## NIC statistics for port 0  ########################
  RX-packets: 1234       RX-missed: 5          RX-bytes:  74040
  RX-errors: 0
  RX-nombuf:  0
  TX-packets: 2000       TX-errors: 0          TX-bytes:  120000
";
        assert_eq!(Port::parse(text), Some(Port { received: 1234, missed: 5, sent: 2000 }));
    }
}
