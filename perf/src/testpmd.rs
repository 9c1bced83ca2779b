//! testpmd on the rig: DPDK's own forwarder, the yardstick.

use std::time::Duration;

use anyhow::Context;

use crate::bench::{Rate, Rig};
use crate::interrupt;
use crate::process::Process;

const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// The rate of one forward mode (`io`, `5tswap`), and the frequency of the TSC in Hz, which EAL prints.
///
/// The rate is testpmd's own: it divides by its clock what the port counted between two `show port stats`.
pub fn measure(rig: &Rig, mode: &str) -> anyhow::Result<(Rate, f64)> {
    let arguments = format!(
        "-l {main},{lcore} --main-lcore {main} --no-pci --in-memory --log-level=lib.eal:debug --vdev {device} -- -i \
         --forward-mode={mode} --nb-cores=1 --burst=32 --rxd={descriptors} --txd={descriptors} \
         --total-num-mbufs={mbufs} --mbcache={cache}",
        main = rig.main,
        lcore = rig.lcore,
        device = rig.device(),
        descriptors = Rig::DESCRIPTORS,
        mbufs = rig.mbufs,
        cache = Rig::MEMPOOL_CACHE,
    );
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    let mut testpmd = Process::start("dpdk-testpmd", &arguments, rig.realtime)?;
    let hz = testpmd.expect("TSC frequency", START, tsc_hz)?;
    testpmd.expect("link status", START, |line| line.contains("Checking link statuses").then_some(()))?;
    testpmd.say("start")?;
    interrupt::sleep(rig.warm_up)?;

    received_pps(&mut testpmd)?;
    let before = testpmd.core_time()?;
    interrupt::sleep(rig.duration)?;
    let after = testpmd.core_time()?;
    let pps = received_pps(&mut testpmd)?;

    testpmd.say("stop")?;
    testpmd.say("quit")?;
    let _ = testpmd.expect("good-bye", ANSWER, |line| line.contains("Bye...").then_some(()));
    anyhow::ensure!(pps > 0.0, "testpmd forwards nothing");
    Ok((Rate::new(pps, after.off_core_since(before)), hz))
}

/// Packets received a second since the last time that this was asked.
fn received_pps(testpmd: &mut Process) -> anyhow::Result<f64> {
    testpmd.say("show port stats 0")?;
    let text = testpmd.expect("Rx-pps", ANSWER, |line| Some(line.split_once("Rx-pps:")?.1.to_owned()))?;
    let number = text.split_whitespace().next().context("Rx-pps has no figure")?;
    number.parse().with_context(|| format!("Rx-pps: {text}"))
}

/// `EAL: TSC frequency is ~2100000 KHz`
fn tsc_hz(line: &str) -> Option<f64> {
    let khz = line.split_once("TSC frequency is ~")?.1.strip_suffix(" KHz")?;
    khz.parse::<f64>().ok().map(|khz| khz * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tsc_as_eal_prints_it() {
        assert_eq!(tsc_hz("EAL: TSC frequency is ~2100000 KHz"), Some(2.1e9));
        assert_eq!(tsc_hz("EAL: Detected CPU lcores: 2"), None);
    }
}
