//! TRex, in its stateless mode, told by a program in Python of its own kind (perf/pktgen/trex_drive.py), which speaks with its server.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use penstock::wire::Mac;

use super::generator::Generator;
use super::software::generated;
use super::trial::Generated;
use crate::process::Process;
use crate::traffic::Kind;

const START: Duration = Duration::from_secs(60);

pub struct Trex {
    process: Process,
    at: String,
}

impl Trex {
    /// `python` finds TRex's own library by PYTHONPATH.
    pub fn connect(python: &str, driver: &Path, at: &str, ports: [u16; 2], mac: Mac) -> anyhow::Result<Self> {
        let [sends, receives] = ports;
        let arguments = [
            driver.display().to_string(),
            format!("--server={at}"),
            format!("--sends={sends}"),
            format!("--receives={receives}"),
            format!("--mac={mac}"),
        ];
        let mut process = Process::start(python, &arguments, false)?;
        process.expect("ready", START, |line| (line == "ready").then_some(()))?;
        Ok(Self { process, at: at.to_owned() })
    }
}

impl Generator for Trex {
    fn name(&self) -> String {
        format!("TRex at {}", self.at)
    }

    fn load(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.process.say(&format!("load {kind}"))?;
        self.process.expect("loaded", START, |line| line.starts_with("loaded ").then_some(()))
    }

    fn trial(&mut self, rate: f64, seconds: f64, wait: f64) -> anyhow::Result<Generated> {
        self.process.say(&format!("trial {rate} {seconds} {wait}"))?;
        let patience = Duration::from_secs_f64(seconds * 2.0 + wait + 20.0);
        let line = self.process.expect("trial", patience, |line| line.strip_prefix("trial ").map(str::to_owned))?;
        generated(&line).with_context(|| line.clone())
    }
}
