//! `penstock-perf generate`, on any DPDK device: the bench's frames to the byte.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use penstock::wire::Mac;

use super::frames;
use super::generator::Generator;
use super::trial::Generated;
use crate::generate::number;
use crate::generate::stopwatch::Timed;
use crate::process::Process;
use crate::traffic::Kind;

const START: Duration = Duration::from_secs(60);

/// Where it sends, and with what.
pub struct Place {
    /// One that sends and receives, or one that sends and one that receives.
    pub devices: Vec<String>,
    pub lcore: u16,
    /// Frames that it makes up for at once.
    pub behind: u64,
    /// Packet buffers, if not as many as it takes by itself.
    pub mbufs: Option<usize>,
    pub eal: Vec<String>,
    /// Ahead of all ordinary work.
    pub realtime: bool,
}

pub struct Software {
    process: Process,
    devices: Vec<String>,
    /// Where its captures go.
    directory: PathBuf,
    /// To whom frames go.
    mac: Mac,
}

impl Software {
    pub fn start(place: &Place, mac: Mac, directory: PathBuf) -> anyhow::Result<Self> {
        let Place { devices, lcore, behind, mbufs, eal, realtime } = place;
        let mut arguments = vec!["generate".to_owned(), format!("--lcore={lcore}"), format!("--behind={behind}")];
        arguments.extend(mbufs.map(|mbufs| format!("--mbufs={mbufs}")));
        arguments.extend(devices.iter().map(|device| format!("--device={device}")));
        // A process looks for others by their telemetry, and waits for those that are held.
        if !eal.is_empty() {
            arguments.extend(eal.iter().map(|argument| format!("--eal={argument}")));
            arguments.push("--eal=--no-telemetry".to_owned());
        }
        let program = std::env::current_exe()?.display().to_string();
        let mut process = Process::start(&program, &arguments, *realtime)?;
        process.expect("ready", START, |line| (line == "ready").then_some(()))?;
        Ok(Self { process, devices: devices.clone(), directory, mac })
    }

    /// Sends at `rate` for `warm_up` seconds, and for others that count; goes on receiving for `wait` seconds.
    pub fn latency(&mut self, rate: f64, warm_up: f64, seconds: f64, wait: f64) -> anyhow::Result<Timed> {
        self.process.say(&format!("latency {rate} {warm_up} {seconds} {wait}"))?;
        let patience = Duration::from_secs_f64((warm_up + seconds) * 2.0 + wait + 10.0);
        let line = self.process.expect("latency", patience, |line| line.strip_prefix("latency ").map(str::to_owned))?;
        Timed::read(&line)
    }

    /// Waits until its devices are up: a memif is when the other side has come.
    pub fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let deadline = std::time::Instant::now() + START;
        loop {
            self.process.say("up")?;
            let is_up = self.process.expect("up", START, |line| Some(line.strip_prefix("up ")? == "true"))?;
            if is_up {
                return Ok(());
            }
            anyhow::ensure!(std::time::Instant::now() < deadline, "{:?} is not up within {START:?}", self.devices);
            crate::interrupt::sleep(Duration::from_millis(50))?;
        }
    }
}

impl Generator for Software {
    fn name(&self) -> String {
        format!("penstock-perf generate on {}", self.devices.join(" and "))
    }

    fn load(&mut self, kind: Kind) -> anyhow::Result<()> {
        let capture = self.directory.join(format!("{kind}.pcap"));
        frames::write(kind, &capture, self.mac)?;
        self.process.say(&format!("load {}", capture.display()))?;
        self.process.expect("loaded", START, |line| line.starts_with("loaded ").then_some(()))?;
        Ok(std::fs::remove_file(capture)?)
    }

    fn trial(&mut self, rate: f64, seconds: f64, wait: f64) -> anyhow::Result<Generated> {
        self.process.say(&format!("trial {rate} {seconds} {wait}"))?;
        let patience = Duration::from_secs_f64(seconds * 2.0 + wait + 10.0);
        let line = self.process.expect("trial", patience, |line| line.strip_prefix("trial ").map(str::to_owned))?;
        generated(&line).with_context(|| line.clone())
    }
}

/// `sent=10 returned=9 … seconds=1.5`; what is not there is 0.
pub fn generated(line: &str) -> anyhow::Result<Generated> {
    let number = |key: &str| number(line, key);
    let count = |key: &str| Ok::<u64, anyhow::Error>(number(key)?.unwrap_or(0.0) as u64);
    Ok(Generated {
        sent: number("sent")?.context("no sent=")? as u64,
        returned: number("returned")?.context("no returned=")? as u64,
        seconds: number("seconds")?.filter(|&seconds| seconds > 0.0).context("no seconds=")?,
        missed: count("missed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_trial_says() {
        let said = generated("sent=10 returned=9 foreign=1 refused=0 seconds=1.5").unwrap();
        assert_eq!(said, Generated { sent: 10, returned: 9, seconds: 1.5, missed: 0 });
        assert!(generated("sent=10 seconds=1").is_err() && generated("sent=x returned=1 seconds=1").is_err());
        assert_eq!(generated("sent=1 returned=1 missed=7 seconds=1").unwrap().missed, 7);
    }
}
