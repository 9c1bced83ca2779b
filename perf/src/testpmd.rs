//! testpmd on the rig: DPDK's own forwarder, the yardstick.

use std::time::Duration;

use anyhow::Context;

use crate::forwarder::{Forwarder, Rate};
use crate::interrupt;
use crate::process::Process;
use crate::rig::Rig;

const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

pub struct Testpmd {
    process: Process,
}

impl Testpmd {
    /// Starts one that forwards by this mode of its own (`io`, `5tswap`, `csum`).
    pub fn start(rig: &Rig, mode: &str) -> anyhow::Result<Self> {
        let arguments = format!(
            "-l {main},{lcore} --main-lcore {main} {eal} --no-telemetry --vdev {device} -- -i \
             --forward-mode={mode} --nb-cores=1 --burst=32 --rxd={descriptors} --txd={descriptors} \
             --total-num-mbufs={mbufs} --mbcache={cache}",
            main = rig.main,
            lcore = rig.lcore,
            eal = rig.eal.join(" "),
            device = rig.device,
            descriptors = Rig::DESCRIPTORS,
            mbufs = rig.mbufs,
            cache = Rig::MEMPOOL_CACHE,
        );
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let mut process = Process::start("dpdk-testpmd", &arguments, rig.realtime)?;
        process.expect("link status", START, |line| line.contains("Checking link statuses").then_some(()))?;
        process.say("start")?;
        Ok(Self { process })
    }

    /// Packets received a second since the last time that this was asked: testpmd divides by its clock what the port counted.
    fn received_pps(&mut self) -> anyhow::Result<f64> {
        self.process.say("show port stats 0")?;
        let text = self.process.expect("Rx-pps", ANSWER, |line| Some(line.split_once("Rx-pps:")?.1.to_owned()))?;
        let number = text.split_whitespace().next().context("Rx-pps has no figure")?;
        number.parse().with_context(|| format!("Rx-pps: {text}"))
    }
}

impl Forwarder for Testpmd {
    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn rate(&mut self, duration: Duration) -> anyhow::Result<Rate> {
        self.received_pps()?;
        let before = self.process.core_times()?;
        interrupt::sleep(duration)?;
        let after = self.process.core_times()?;
        let pps = self.received_pps()?;
        anyhow::ensure!(pps > 0.0, "testpmd forwards nothing");
        Ok(Rate::new(pps, after.off_core_since(&before)?))
    }

    fn end(mut self: Box<Self>) -> anyhow::Result<()> {
        // Held, it would not hear.
        self.process.go_on()?;
        self.process.say("stop")?;
        self.process.say("quit")?;
        let _ = self.process.expect("good-bye", ANSWER, |line| line.contains("Bye...").then_some(()));
        Ok(())
    }
}
