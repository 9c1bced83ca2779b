//! A pipeline by itself, on plain memory instead of mbufs and a device: for what is measured of it alone.

use std::sync::Arc;

use anyhow::Context;
use penstock::config::Config;
use penstock::flow::Nat;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, Snapshot};

use crate::node::{self, Task};
use crate::rig::{Rig, VIP};
use crate::traffic::{self, Kind};

/// One lcore's pipeline, and the frames of some traffic, burst by burst, round and round.
pub struct Bare {
    pub pipeline: Pipeline,
    pub snapshot: Arc<Snapshot>,
    pub frames: Vec<Buffer>,
    pub verdicts: [Verdict; BURST],
    traffic: Vec<Vec<u8>>,
    next: usize,
}

impl Bare {
    pub fn new(task: Task, traffic: Kind) -> anyhow::Result<Self> {
        let (config, sets) = node::documents(&nowhere(), ([127, 0, 0, 1], 1).into(), task);
        let (config, _) = Config::read(config, "penstock.toml")?;
        let mut compiler = Compiler::new(config.environment());
        let mut snapshot = None;
        for set in sets {
            let (definitions, _) = service::native(set, "services.json", None)?;
            snapshot = Some(compiler.compile(&definitions, &config.fabric(), Millis(0)));
        }
        let snapshot = snapshot.context("no definitions")?;
        let pipeline = Pipeline::with(Nat::new(snapshot.sources(), 0, [0; 2])).remembering(task.capacity(), [1, 2]);
        let (frames, verdicts) = (vec![Buffer::default(); BURST], [Verdict::Punt; BURST]);
        Ok(Self { pipeline, snapshot, frames, verdicts, traffic: traffic::frames_of(traffic, VIP)?, next: 0 })
    }

    /// Takes the next burst.
    pub fn receive(&mut self) {
        for buffer in &mut self.frames {
            buffer.fill(&self.traffic[self.next]);
            self.next = (self.next + 1) % self.traffic.len();
        }
    }
}

/// A rig on which nothing is started.
fn nowhere() -> Rig {
    let (device, directory) = ("net_null0".into(), ".".into());
    Rig { lcore: 1, main: 0, realtime: false, device, eal: Vec::new(), mbufs: 1023, directory }
}
