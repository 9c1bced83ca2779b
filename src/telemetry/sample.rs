//! Everything that a scrape tells, read at one moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::metrics::{self, Recorded};
#[cfg(feature = "api")]
use crate::api;
use crate::control::{Client, Report};
use crate::counters::{LcoreBlock, Totals};
#[cfg(feature = "api")]
use crate::proto;

/// Where a scrape reads.
pub struct Sources {
    /// Names of the ports, in the configuration's order.
    pub ports: Vec<String>,
    pub lcores: Lcores,
    pub control: Client,
    /// Asks the devices; this room knows none.
    pub device: Box<dyn Fn() -> Device + Send + Sync>,
    /// What is recorded when it happens.
    pub recorded: Recorded,
}

/// What the devices count.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// By port: frames that the NIC lost because no lcore took them in time.
    pub missed: Vec<u64>,
    pub mbufs_in_use: u64,
    /// The mempool's size.
    pub mbufs: u64,
    pub twins: Vec<TwinCounts>,
    /// Of health checks through services: answers that reached them, and packets either way that there was no room for.
    pub probe_answers: u64,
    pub probes_lost: u64,
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
            LcoreSample {
                cpu: *cpu,
                busy,
                flows: polling.flows.get(),
                probes: [polling.probes.get(), polling.probes_refused.get()],
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
    /// By port.
    pub ports: Vec<Totals>,
}

/// A scrape's content.
pub(super) struct Sample<'a> {
    pub ports: &'a [String],
    pub lcores: Vec<LcoreSample>,
    pub device: Device,
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
            status.missed = device.missed.get(index).copied().unwrap_or(0);
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

    /// All metrics in Prometheus' text format, or at least those whose name begins so. `None` where the control side does not answer.
    pub async fn render(&self, prefix: &str) -> Option<String> {
        Some(metrics::render(&self.sample(prefix).await?, prefix) + &self.recorded.render())
    }

    /// Looks how busy the lcores are, for ever.
    pub async fn measure(&self) {
        let mut period = tokio::time::interval(Lcores::PERIOD);
        loop {
            period.tick().await;
            self.lcores.measure();
        }
    }

    async fn sample(&self, prefix: &str) -> Option<Sample<'_>> {
        let report = if metrics::needs_report(prefix) { Some(self.control.report().await?) } else { None };
        Some(Sample { ports: &self.ports, lcores: self.lcores.iter().collect(), device: (self.device)(), report })
    }
}
