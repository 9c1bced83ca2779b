//! Frames between lcores and kernel twins.
//!
//! An lcore never makes a system call: what is not for a service goes into a bounded ring, and one thread here writes it
//! to the twin's tap. What the kernel sends comes the other way, through a ring to the port's first lcore. However much
//! junk arrives, it costs this thread and nobody else, and what keeps neighbours and routes goes first.

mod tap;
mod urgent;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::ring::{Consumer, Producer};
use dpdk::{BURST, Batch, Eal, Mbuf, Mempool, Registered};

use crate::counters::Counter;
use crate::lcore::Bell;

pub use tap::{Error, Tap};

/// Frames between one port and its twin. One writer: the thread.
#[derive(Debug, Default)]
pub struct Counts {
    /// Given to the kernel.
    pub punted: Counter,
    /// Not taken by the kernel, or dropped here because too many came for it.
    pub refused: Counter,
    /// From the kernel, dropped: the ring was full, or no mbuf free.
    pub inject_full: Counter,
}

/// One twin and the rings to its port.
pub struct Bridge {
    pub tap: Tap,
    /// From each lcore.
    pub from_lcores: Vec<Consumer>,
    /// To the port's first lcore.
    pub to_lcore: Producer,
    /// Wakes that lcore.
    pub bell: Bell,
    pub counts: Arc<Counts>,
}

/// Frames that may wait for the kernel, rings aside.
const BACKLOG: usize = 1024;

/// Once so many frames are written that are not urgent, the rings are looked at again.
const WRITES: usize = 64;

/// The longest nap when nothing comes, and by how much each is longer than the last. The kernel's timers add up to 50 µs,
/// so a frame waits 0.2 ms at most; the thread takes 5 to 10 % of a CPU (measured on virtual machines, whose timers are dear).
const NAP: Duration = Duration::from_micros(150);
const NAP_STEP: Duration = Duration::from_micros(10);

/// The running thread; it ends when this is dropped.
pub struct Punt {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Punt {
    /// `bell` will wake the thread.
    pub fn start(eal: Eal, pool: Mempool, bridges: Vec<Bridge>, bell: Bell) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let work = move || {
            bell.hang();
            // For the mempool's cache; without it everything works, only slower.
            let _registered = Registered::new(eal).inspect_err(|error| tracing::warn!("punt: not registered: {error}"));
            let mut lines: Vec<_> = bridges.into_iter().map(|bridge| Line::new(bridge, pool)).collect();
            let mut nap = Duration::ZERO;
            while !is_stopped.load(Ordering::Relaxed) {
                let mut has_worked = false;
                for line in &mut lines {
                    has_worked |= line.punt();
                    has_worked |= line.inject();
                }
                if has_worked {
                    nap = Duration::ZERO;
                } else {
                    nap = NAP.min(nap + NAP_STEP);
                    std::thread::park_timeout(nap);
                }
            }
        };
        let thread = std::thread::Builder::new().name("punt".to_owned()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Punt {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A bridge at work.
struct Line {
    bridge: Bridge,
    pool: Mempool,
    batch: Batch,
    /// Frames for the kernel that can wait, in order, and how many they are.
    backlog: VecDeque<Batch>,
    waiting: usize,
    /// An empty mbuf for the next frame from the kernel.
    spare: Option<Mbuf>,
}

impl Line {
    fn new(bridge: Bridge, pool: Mempool) -> Self {
        Self { bridge, pool, batch: Batch::new(), backlog: VecDeque::new(), waiting: 0, spare: None }
    }

    /// Empties the rings, gives the kernel what is urgent and some of the rest; whether there was anything.
    ///
    /// The rings must not fill up with junk, or something urgent would find no room in them: so all is taken out, and
    /// what is too much is dropped here.
    fn punt(&mut self) -> bool {
        let Self { bridge, batch, backlog, waiting, .. } = self;
        let mut has_worked = false;
        for ring in &mut bridge.from_lcores {
            for _ in 0..ring.len().div_ceil(BURST) {
                has_worked |= ring.pop(batch) > 0;
                let mut is_urgent = [false; BURST];
                for (frame, is_urgent) in batch.iter().zip(&mut is_urgent) {
                    *is_urgent = urgent::is_urgent(frame.bytes());
                }
                let mut sorted = [Batch::new(), Batch::new()];
                batch.deal(&mut sorted, |index| usize::from(is_urgent[index]));
                let [rest, urgent] = sorted;
                write(&bridge.tap, &bridge.counts, &urgent);
                if *waiting + rest.len() <= BACKLOG {
                    *waiting += rest.len();
                    backlog.push_back(rest);
                } else {
                    bridge.counts.refused.add(rest.len() as u64);
                }
            }
        }
        let mut written = 0;
        while written < WRITES
            && let Some(frames) = backlog.pop_front()
        {
            write(&bridge.tap, &bridge.counts, &frames);
            written += frames.len();
        }
        *waiting -= written;
        has_worked || written > 0
    }

    /// Hands the lcore what the kernel sends, at most a burst; whether there was anything.
    fn inject(&mut self) -> bool {
        let Self { bridge, pool, batch, spare, .. } = self;
        let mut count = 0;
        while count < BURST {
            let Some(mut mbuf) = spare.take().or_else(|| pool.alloc()) else {
                // Without an mbuf the frame is still taken, else the kernel's queue would stand still.
                if bridge.tap.read(&mut []).is_some() {
                    bridge.counts.inject_full.add(1);
                }
                break;
            };
            let room = mbuf.tailroom();
            let length = mbuf.append(room).and_then(|buffer| bridge.tap.read(buffer));
            mbuf.truncate(length.unwrap_or(0));
            match length {
                Some(_) => {
                    count += 1;
                    drop(batch.push(mbuf));
                }
                None => {
                    *spare = Some(mbuf);
                    break;
                }
            }
        }
        if count > 0 {
            let lost = bridge.to_lcore.push(batch);
            bridge.counts.inject_full.add(lost as u64);
            bridge.bell.ring();
        }
        count > 0
    }
}

/// Gives frames to the kernel, and counts.
fn write(tap: &Tap, counts: &Counts, frames: &[Mbuf]) {
    // A chain of mbufs (a frame beyond the data room) cannot be written as one.
    let written = frames.iter().filter(|frame| frame.is_contiguous() && tap.write(frame.bytes())).count();
    counts.punted.add(written as u64);
    counts.refused.add((frames.len() - written) as u64);
}
