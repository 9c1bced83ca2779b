//! Frames between lcores and kernel twins.
//!
//! An lcore never makes a system call: what is not for a service goes into a bounded ring, and one thread here writes it
//! to the twin's tap. What the kernel sends comes the other way, through a ring to the port's first lcore. However much
//! junk arrives, it costs this thread and nobody else, and what keeps neighbours and routes goes first.

mod tap;
mod urgent;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::ring::{Consumer, Producer};
use dpdk::{BURST, Batch, Eal, Mbuf, Mempool, Registered};

use crate::counters::Counter;
use crate::lcore::Bell;
use crate::pipeline::probe::{self, Passage};
use crate::wire::ethernet;

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

/// Probes of health checks that go through services: by the lcores' pipeline, and not as the kernel routes.
pub struct Probes {
    pub door: Box<dyn Door + Send>,
    /// To the lcore that sends them.
    pub to_lcore: Producer,
    pub counts: Arc<ProbeCounts>,
}

/// Where probes come out of the kernel, and answers to them go in. Nothing here waits.
pub trait Door {
    /// Whether there may be any.
    fn is_open(&self) -> bool;

    /// Takes an IP packet that the kernel sends, cut to the buffer's length; `None` where there is none.
    fn read(&self, buffer: &mut [u8]) -> Option<usize>;

    /// Gives an IP packet to the kernel; whether it took it.
    fn write(&self, packet: &[u8]) -> bool;

    /// The way of the probe that has this address and port.
    fn passage(&self, own: SocketAddr) -> Option<Passage>;
}

/// Packets of probes. One writer: the thread.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    /// Answers that reached a probe.
    pub answers: Counter,
    /// Packets of probes, or answers, that there was no room for.
    pub lost: Counter,
}

/// Frames that may wait for the kernel, rings aside.
const BACKLOG: usize = 1024;

/// Once so many frames are written that are not urgent, the rings are looked at again.
const WRITES: usize = 64;

/// So many answers to probes are given to the kernel before the rings are looked at again; 10,000 checks a second bring one or two a round.
const ANSWERS: usize = 256;

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
    pub fn start(
        eal: Eal,
        pool: Mempool,
        bridges: Vec<Bridge>,
        mut probes: Option<Probes>,
        bell: Bell,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let work = move || {
            bell.hang();
            // For the mempool's cache; without it everything works, only slower.
            let _registered = Registered::new(eal).inspect_err(|error| tracing::warn!("punt: not registered: {error}"));
            let mut lines: Vec<_> = bridges.into_iter().map(|bridge| Line::new(bridge, pool)).collect();
            let (mut nap, mut batch) = (Duration::ZERO, Batch::new());
            while !is_stopped.load(Ordering::Relaxed) {
                let mut has_worked = false;
                for line in &mut lines {
                    has_worked |= line.punt(probes.as_ref());
                    has_worked |= line.inject();
                }
                if let Some(probes) = &mut probes
                    && probes.inject(pool, &mut batch)
                {
                    has_worked = true;
                    // They go to the same lcore as a twin's.
                    lines.iter().take(1).for_each(|line| line.bridge.bell.ring());
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
    fn punt(&mut self, probes: Option<&Probes>) -> bool {
        let Self { bridge, batch, backlog, waiting, .. } = self;
        let mut has_worked = false;
        let probes = probes.filter(|probes| probes.door.is_open());
        let mut answers = 0;
        for ring in &mut bridge.from_lcores {
            for _ in 0..ring.len().div_ceil(BURST) {
                has_worked |= ring.pop(batch) > 0;
                let mut classes = [REST; BURST];
                for (frame, class) in batch.iter_mut().zip(&mut classes) {
                    if probes.is_some_and(|probes| probes.take(frame, &mut answers)) {
                        *class = TAKEN;
                    } else if urgent::is_urgent(frame.bytes()) {
                        *class = URGENT;
                    }
                }
                let mut sorted = [Batch::new(), Batch::new(), Batch::new()];
                batch.deal(&mut sorted, |index| classes[index]);
                let [rest, urgent, _] = sorted;
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

/// What becomes of a frame for the kernel: it can wait, or cannot, or was an answer to a probe.
const REST: usize = 0;
const URGENT: usize = 1;
const TAKEN: usize = 2;

impl Probes {
    /// Gives a frame to the probe whose answer it is, if it is one. `taken`: answers of this round.
    fn take(&self, frame: &mut Mbuf, taken: &mut usize) -> bool {
        if !probe::receive(frame, |own| self.door.passage(own)) {
            return false;
        }
        // Who guesses a probe's port must not keep the thread from what is urgent.
        *taken += 1;
        let has_room = *taken <= ANSWERS;
        let is_taken = has_room && frame.bytes().get(ethernet::HEADER..).is_some_and(|packet| self.door.write(packet));
        let counter = if is_taken { &self.counts.answers } else { &self.counts.lost };
        counter.add(1);
        true
    }

    /// Hands the lcore what probes send, at most a burst; whether there was anything.
    fn inject(&mut self, pool: Mempool, batch: &mut Batch) -> bool {
        if !self.door.is_open() {
            return false;
        }
        let (mut bytes, mut count) = ([0; probe::FRONT + probe::MTU], 0);
        while count < BURST
            && let Some(length) = self.door.read(&mut bytes[probe::FRONT..])
        {
            count += 1;
            let frame = &mut bytes[..probe::FRONT + length];
            // What the kernel says besides has no passage: it greets its neighbours, of whom there are none.
            if !probe::address(frame, |own| self.door.passage(own)) {
                continue;
            }
            let mbuf = pool.alloc().and_then(|mut mbuf| {
                mbuf.append(frame.len())?.copy_from_slice(frame);
                Some(mbuf)
            });
            match mbuf {
                Some(mbuf) => drop(batch.push(mbuf)),
                None => self.counts.lost.add(1),
            }
        }
        if !batch.is_empty() {
            let lost = self.to_lcore.push(batch);
            self.counts.lost.add(lost as u64);
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
