//! Everything that a scrape tells, read at one moment.
//!
//! Numbers are read where somebody asks; they are written down as text by a thread of their own, one scrape after another, so that neither
//! the control thread nor the one that serves the API ever does it. An lcore does nothing for a scrape.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::families::{self, Asks, Wanted};
use super::http::Health;
use super::process::Process;
use super::recorded::Recorded;
#[cfg(feature = "api")]
use crate::api;
use crate::control::{Client, Report};
use crate::counters::{LcoreBlock, Totals};
use crate::health::Counts;
#[cfg(feature = "api")]
use crate::proto;
use crate::tls;

/// Where a scrape reads.
pub struct Sources {
    /// The node's name.
    pub node: String,
    /// The kind of feed.
    pub feed: &'static str,
    /// Names of the ports, in the configuration's order.
    pub ports: Vec<String>,
    pub lcores: Lcores,
    /// Flows that each lcore can remember.
    pub flow_capacity: usize,
    /// Files of the node's own certificates.
    pub certificates: Vec<PathBuf>,
    pub health: Arc<Health>,
    pub control: Client,
    /// Asks the devices; this room knows none.
    pub device: Box<dyn Fn() -> Device + Send + Sync>,
    /// What is recorded when it happens.
    pub recorded: Recorded,
    /// Held while a scrape is written down: thousands of services make megabytes of it.
    pub writing: Arc<tokio::sync::Mutex<()>>,
}

/// What the devices count.
#[derive(Debug, Clone, Default)]
pub struct Device {
    pub ports: Vec<PortCounts>,
    pub mbufs_in_use: u64,
    /// The mempool's size.
    pub mbufs: u64,
    pub twins: Vec<TwinCounts>,
    /// Of health checks through services: answers that reached them, and packets either way that there was no room for.
    pub probe_answers: u64,
    pub probes_lost: u64,
}

/// What the device of one port counts by itself.
#[derive(Debug, Clone, Default)]
pub struct PortCounts {
    /// Frames that the NIC lost because no lcore took them in time, or no buffer was free.
    pub missed: u64,
    pub received_bytes: u64,
    pub sent_packets: u64,
    pub sent_bytes: u64,
    /// Frames that came damaged.
    pub receive_errors: u64,
    /// Frames that could not be sent.
    pub send_errors: u64,
    /// Has a link.
    pub is_up: bool,
}

/// Frames between one port and its kernel twin.
#[derive(Debug, Clone, Default)]
pub struct TwinCounts {
    pub twin: String,
    /// To the kernel.
    pub punted: u64,
    /// To the kernel, refused by it (the twin is down, or its queue is full).
    pub refused: u64,
    /// From the kernel, dropped because the lcore's ring or the mempool was full.
    pub inject_full: u64,
}

/// The lcores' own counts, and how busy each was of late.
pub struct Lcores {
    /// CPU number and counts of each.
    blocks: Vec<(u16, Arc<LcoreBlock>)>,
    /// Busy share in the last [`Lcores::PERIOD`], as the bits of an `f64`.
    ratios: Vec<AtomicU64>,
    /// (busy, total) cycles at the end of the period before.
    before: Mutex<Vec<(u64, u64)>>,
}

impl Lcores {
    /// How often [`Lcores::measure`] wants to be called.
    pub const PERIOD: Duration = Duration::from_secs(1);

    pub fn new(blocks: Vec<(u16, Arc<LcoreBlock>)>) -> Self {
        let ratios = blocks.iter().map(|_| AtomicU64::new(0)).collect();
        let before = Mutex::new(vec![(0, 0); blocks.len()]);
        Self { blocks, ratios, before }
    }

    /// Ends one period and begins the next.
    pub fn measure(&self) {
        let mut before = self.before.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (((_, block), ratio), before) in self.blocks.iter().zip(&self.ratios).zip(before.iter_mut()) {
            let now = (block.polling.busy_cycles.get(), block.polling.total_cycles.get());
            let (busy, total) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
            // The two are read one after the other, so the first may be a burst ahead.
            let share = if total == 0 { 0.0 } else { (busy as f64 / total as f64).min(1.0) };
            ratio.store(share.to_bits(), Ordering::Relaxed);
            *before = now;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = LcoreSample> {
        self.blocks.iter().zip(&self.ratios).map(|((cpu, block), ratio)| {
            let totals = block.ports.iter().map(|port| {
                let mut totals = Totals::default();
                totals.add(port);
                totals
            });
            let busy = f64::from_bits(ratio.load(Ordering::Relaxed));
            let polling = &block.polling;
            let (busy_cycles, cycles) = (polling.busy_cycles.get(), polling.total_cycles.get());
            LcoreSample {
                cpu: *cpu,
                busy,
                flows: polling.flows.get(),
                probes: [polling.probes.get(), polling.probes_refused.get()],
                cycles: [busy_cycles, cycles.saturating_sub(busy_cycles)],
                polls: [polling.busy_polls.get(), polling.idle_polls.get()],
                ports: totals.collect(),
            }
        })
    }
}

/// What one lcore tells.
pub(super) struct LcoreSample {
    pub cpu: u16,
    /// Share of time spent on frames.
    pub busy: f64,
    pub flows: u64,
    /// Packets of health checks through services: sent, and refused.
    pub probes: [u64; 2],
    /// Busy, and idle.
    pub cycles: [u64; 2],
    /// Busy, and idle.
    pub polls: [u64; 2],
    /// By port.
    pub ports: Vec<Totals>,
}

/// A scrape's content.
pub(super) struct Sample {
    pub node: String,
    pub feed: &'static str,
    pub ports: Vec<String>,
    pub lcores: Vec<LcoreSample>,
    pub flow_capacity: usize,
    pub device: Device,
    pub checks: Counts,
    /// Each with its expiry, if it can be read.
    pub certificates: Vec<(PathBuf, Option<SystemTime>)>,
    pub is_ready: bool,
    pub process: Process,
    /// Absent where none of its metrics is wanted.
    pub report: Option<Report>,
}

impl Sources {
    /// What the API tells of lcores and devices.
    #[cfg(feature = "api")]
    pub fn facts(&self, phase: &'static str) -> api::Facts {
        let (device, lcores): (_, Vec<LcoreSample>) = ((self.device)(), self.lcores.iter().collect());
        let port = |(index, name): (usize, &String)| {
            let mut status = proto::PortStatus { name: name.clone(), ..proto::PortStatus::default() };
            for totals in lcores.iter().filter_map(|lcore| lcore.ports.get(index)) {
                status.received += totals.received;
                status.forwarded += totals.forwarded;
                status.answered += totals.answered;
                status.punted += totals.punted;
                status.dropped += totals.dropped.iter().sum::<u64>();
            }
            status.missed = device.ports.get(index).map_or(0, |port| port.missed);
            status
        };
        let ports = self.ports.iter().enumerate().map(port).collect();
        let lcore = |lcore: &LcoreSample| proto::LcoreStatus {
            cpu: lcore.cpu.into(),
            busy_ratio: lcore.busy,
            flows: lcore.flows,
        };
        let lcores = lcores.iter().map(lcore).collect();
        api::Facts { phase, lcores, ports, mbufs_in_use: device.mbufs_in_use, mbufs: device.mbufs }
    }

    /// What is wanted, or more, in Prometheus' text format. `None` where the control side does not answer.
    pub async fn render(self: &Arc<Self>, wanted: Wanted) -> Option<String> {
        let alone = self.writing.clone().lock_owned().await;
        let report = match wanted.asks() {
            Asks::Nothing => None,
            Asks::Outline => Some(self.control.outline().await?),
            Asks::Report => Some(self.control.report().await?),
        };
        let this = self.clone();
        let write = move || {
            // Until it is written, be whoever asked gone.
            let _alone = alone;
            let mut text = families::render(&this.sample(report), &wanted);
            if wanted.has_recorded() {
                text += &this.recorded.render();
            }
            text
        };
        tokio::task::spawn_blocking(write).await.ok()
    }

    /// Whether traffic should be sent here; `Err`: why not.
    pub fn ready(&self) -> Result<(), &'static str> {
        self.health.ready(self.control.has_definitions())
    }

    /// Looks how busy the lcores are, for ever.
    pub async fn measure(&self) {
        let mut period = tokio::time::interval(Lcores::PERIOD);
        loop {
            period.tick().await;
            self.lcores.measure();
            self.recorded.sort();
        }
    }

    fn sample(&self, report: Option<Report>) -> Sample {
        let with_expiry = |file: &PathBuf| (file.clone(), tls::expiry(file).ok());
        Sample {
            node: self.node.clone(),
            feed: self.feed,
            ports: self.ports.clone(),
            lcores: self.lcores.iter().collect(),
            flow_capacity: self.flow_capacity,
            device: (self.device)(),
            checks: self.control.health().counts(),
            certificates: self.certificates.iter().map(with_expiry).collect(),
            is_ready: self.ready().is_ok(),
            process: Process::now(),
            report,
        }
    }
}
