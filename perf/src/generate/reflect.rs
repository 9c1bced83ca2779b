//! A forwarder that can do so much and no more: frames go back with their MACs swapped, at most so many a second since the first one after a
//! pause; the rest is dropped. What the search of `throughput` finds on it must be its limit, even where others had its core for a while.
//! It may keep each frame for a while, too: no less must be what `latency` says of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use dpdk::{Batch, cycles};

use super::Rig;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    rig: Rig,
    /// Frames a second.
    #[arg(long)]
    limit: f64,
    /// Seconds for which every frame is kept.
    #[arg(long, default_value_t = 0.0)]
    delay: f64,
    /// Frames at once.
    #[arg(long, default_value_t = 64.0)]
    burst: f64,
}

/// Ends with its stdin.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut running = options.rig.start()?;
    let hz = cycles::tsc_hz(running.eal) as f64;
    let mut bucket = Bucket::new(options.limit / hz, options.burst, (PAUSE * hz) as u64);
    let delay = (options.delay * hz) as u64;
    let ends = Arc::new(AtomicBool::new(false));
    let lcore = *running.eal.lcores().first().context("EAL has no lcore to poll with")?;
    let stop = ends.clone();
    let work = lcore.launch(move || {
        let mut came = Batch::new();
        let mut waiting: VecDeque<(u64, Batch)> = VecDeque::new();
        let (mut received, mut dropped) = (0u64, 0u64);
        while !stop.load(Ordering::Relaxed) {
            received += running.receive_into(&mut came) as u64;
            let passed = bucket.take(came.len(), cycles::tsc());
            dropped += (came.len() - passed) as u64;
            while came.len() > passed {
                came.pop();
            }
            for mbuf in came.iter_mut() {
                if let Some(macs) = mbuf.bytes_mut().first_chunk_mut::<12>() {
                    macs.rotate_left(6);
                }
            }
            let now = cycles::tsc();
            if !came.is_empty() {
                waiting.push_back((now + delay, std::mem::take(&mut came)));
            }
            while let Some((_, mut goes)) = waiting.pop_front_if(|(due, _)| *due <= now) {
                dropped += running.send.send(&mut goes) as u64;
            }
        }
        (received, dropped)
    })?;
    println!("ready");
    for line in std::io::stdin().lines() {
        if line? == "quit" {
            break;
        }
    }
    ends.store(true, Ordering::Relaxed);
    let (received, dropped) = work.join().map_err(|_| anyhow::anyhow!("the polling thread has ended"))?;
    println!("reflected received={received} dropped={dropped}");
    Ok(())
}

/// Seconds without a frame, after which it is another trial.
const PAUSE: f64 = 0.25;

/// Tokens by the clock's cycles. There is no limit to what is saved within a trial, so that a late forwarder forwards as many as one in time;
/// what was saved is lost in a pause.
struct Bucket {
    per_cycle: f64,
    burst: f64,
    pause: u64,
    tokens: f64,
    filled_at: u64,
}

impl Bucket {
    fn new(per_cycle: f64, burst: f64, pause: u64) -> Self {
        Self { per_cycle, burst, pause, tokens: burst, filled_at: 0 }
    }

    /// How many of `wanted` may pass now.
    fn take(&mut self, wanted: usize, now: u64) -> usize {
        if wanted == 0 {
            return 0;
        }
        let passed = now.saturating_sub(self.filled_at);
        self.tokens = if passed > self.pause { self.burst } else { self.tokens + passed as f64 * self.per_cycle };
        self.filled_at = now;
        let taken = (self.tokens as usize).min(wanted);
        self.tokens -= taken as f64;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_a_burst() {
        let mut bucket = Bucket::new(0.01, 5.0, 2_000);
        assert_eq!((bucket.take(9, 5_000), bucket.take(9, 5_099), bucket.take(9, 5_200)), (5, 0, 2));
        let passed: usize = (5_201..105_201).step_by(10).map(|now| bucket.take(1, now)).sum();
        assert!((999..=1001).contains(&passed), "{passed}");
        // Late, it makes up for it; after a pause it has but its burst.
        assert_eq!((bucket.take(90, 106_650), bucket.take(90, 110_000)), (15, 5));
    }
}
