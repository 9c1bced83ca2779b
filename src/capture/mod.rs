//! Frames of a running node as they were received, with what became of them: taken by the lcores, sampled and bounded.
//!
//! ```text
//!   lcore                                                 control side
//!   Taker: a free slot ◄─────── free ◄──────────────────┐ Capture::take
//!     │ the frame, before it is rewritten               │
//!     └─ verdict ─► wanted? ──► full ───────────────────┘
//! ```
//!
//! **What it costs.** While no capture runs: a look at one flag a burst. While one does, an lcore copies at most `rate` frames a second, into
//! slots that were there before it began; it never allocates, locks, or calls the kernel. What is over the rate, or finds no free slot because
//! the other side is slow, is counted and otherwise forwarded as ever.
//!
//! **What is copied when.** A frame that goes on is rewritten in place, so what may be wanted of it is copied right before. One that is dropped
//! or punted is left as it was (its tags are kept aside), and is copied once that is known: whoever captures drops costs the others nothing.
//!
//! **The verdict is the final one.** A frame is handed over when its burst is done, when it is known what the device, the ring to the twin and
//! those to other lcores have taken.

mod filter;
mod taker;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam_queue::ArrayQueue;

use crate::counters::Counter;
use crate::pipeline::Outcome;
use crate::quiescent::{self, Publisher};
use crate::snapshot::PortIndex;

pub use filter::{Filter, Unknown};
pub use taker::Taker;

/// Bytes of a frame that are kept at most.
pub const MOST_BYTES: u16 = 16_384;

/// Frames a second that an lcore copies at most.
pub const MOST_RATE: u32 = 100_000;

/// What slots of an lcore may take together, bytes; there are some, whatever they take.
const MEMORY: usize = 4 << 20;
const SLOTS: [usize; 2] = [128, 4096];

/// What is to be captured.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub filter: Filter,
    /// Bytes of a frame that are kept, from its first on; at most [`MOST_BYTES`].
    pub bytes: u16,
    /// Frames a second that an lcore copies; at most [`MOST_RATE`].
    pub rate: u32,
    /// Each frame that was sent as it left, too.
    pub sent: bool,
}

/// A frame that was taken.
#[derive(Debug)]
pub struct Taken {
    /// When its burst was received, in ticks of the lcores' counter.
    ticks: u64,
    /// The port that received it; of one as it left, the one that sent it.
    pub port: PortIndex,
    /// As it left, not as it was received.
    pub is_sent: bool,
    pub outcome: Outcome,
    pub service: Option<Arc<str>>,
    /// Whom it went to, or came from; port 0: its own.
    pub backend: Option<SocketAddr>,
    /// Bytes of the frame, of which `bytes` may be fewer.
    pub length: usize,
    /// Never grows beyond the room that it was made with.
    pub bytes: Vec<u8>,
    /// What it was taken for in vain only goes back, by the control side: there a name is freed whose service is gone.
    is_wanted: bool,
}

/// How many frames were wanted; all lcores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub taken: u64,
    /// For want of a free slot.
    pub lost: u64,
    /// Left, since so many had been copied: at least so many, as of frames over the rate no more is looked at than is free.
    pub over: u64,
}

/// A capture under way, as lcores and control side share it.
#[derive(Debug)]
struct Session {
    number: u64,
    wanted: Wanted,
    lcores: Box<[Lane]>,
}

/// One lcore's part of it.
#[derive(Debug)]
struct Lane {
    free: ArrayQueue<Box<Taken>>,
    full: ArrayQueue<Box<Taken>>,
    taken: Counter,
    lost: Counter,
    over: Counter,
}

impl Lane {
    fn new(bytes: u16) -> Self {
        let each = size_of::<Taken>() + usize::from(bytes);
        let slots = (MEMORY / each).clamp(SLOTS[0], SLOTS[1]);
        let lane = Self {
            free: ArrayQueue::new(slots),
            full: ArrayQueue::new(slots),
            taken: Counter::default(),
            lost: Counter::default(),
            over: Counter::default(),
        };
        for _ in 0..slots {
            // Written once here, so that no lcore has to wait for the kernel to find the memory.
            let mut buffer = vec![1; bytes.into()];
            buffer.clear();
            let slot = Taken {
                ticks: 0,
                port: PortIndex(0),
                is_sent: false,
                outcome: Outcome::Punted,
                service: None,
                backend: None,
                length: 0,
                bytes: buffer,
                is_wanted: false,
            };
            lane.give_back(Box::new(slot));
        }
        lane
    }

    /// There is room for all that there are.
    fn give_back(&self, slot: Box<Taken>) {
        let _ = self.free.push(slot);
    }
}

type Published = Option<Arc<Session>>;

/// What the time was when the lcores' counter showed so many ticks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub time: SystemTime,
    pub ticks: u64,
    /// Ticks a second.
    pub rate: u64,
}

impl Moment {
    /// What it was, or will be, when the counter shows `ticks`. Ask soon: counters and clocks drift apart.
    fn at(&self, ticks: u64) -> SystemTime {
        let nanos = u128::from(ticks.abs_diff(self.ticks)) * 1_000_000_000 / u128::from(self.rate.max(1));
        let apart = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let time = if ticks < self.ticks { self.time.checked_sub(apart) } else { self.time.checked_add(apart) };
        time.unwrap_or(self.time)
    }
}

/// The control side's end: begins captures, one at a time.
pub struct Captures {
    state: Mutex<State>,
    lcores: usize,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
}

struct State {
    publisher: Publisher<Published>,
    number: u64,
    is_running: bool,
}

/// Another capture is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another capture is under way, and a node runs one at a time: end that one first")]
pub struct Busy;

impl Captures {
    /// With the lcores' ends, in order. `clock`: what the time is, and the lcores' counter shows.
    pub fn new(lcores: usize, clock: impl Fn() -> Moment + Send + Sync + 'static) -> (Arc<Self>, Vec<Taker>) {
        let (publisher, readers) = quiescent::channel(lcores, quiescent::Arc::new(None));
        let state = Mutex::new(State { publisher, number: 0, is_running: false });
        let takers = readers.into_iter().enumerate().map(|(lcore, reader)| Taker::new(lcore, reader)).collect();
        (Arc::new(Self { state, lcores, clock: Box::new(clock) }), takers)
    }

    /// Begins a capture, which lasts until what this gives is dropped.
    pub fn begin(self: &Arc<Self>, wanted: Wanted) -> Result<Capture, Busy> {
        let bytes = wanted.bytes.clamp(1, MOST_BYTES);
        let rate = wanted.rate.clamp(1, MOST_RATE);
        let mut state = self.state();
        if state.is_running {
            return Err(Busy);
        }
        state.is_running = true;
        state.number += 1;
        let session = Arc::new(Session {
            number: state.number,
            wanted: Wanted { bytes, rate, ..wanted },
            lcores: (0..self.lcores).map(|_| Lane::new(bytes)).collect(),
        });
        state.publisher.publish(quiescent::Arc::new(Some(session.clone())));
        Ok(Capture {
            captures: self.clone(),
            session,
            last: vec![SystemTime::UNIX_EPOCH; self.lcores].into(),
            first: 0,
        })
    }

    /// Frees the slots of captures that are over, unless an lcore has not heard of that yet; whether all are free.
    pub fn reclaim(&self) -> bool {
        self.state().publisher.reclaim()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A capture under way.
pub struct Capture {
    captures: Arc<Captures>,
    session: Arc<Session>,
    /// The time of each lcore's last frame: the clock may be set while an lcore's counter goes on.
    last: Box<[SystemTime]>,
    /// Whose frames come first the next time.
    first: usize,
}

impl Capture {
    /// Gives `see` up to `most` frames that were taken, each with its lcore and time: an lcore's in their order, and no time runs back.
    pub fn take(&mut self, most: usize, mut see: impl FnMut(usize, SystemTime, &Taken)) -> usize {
        let (now, mut seen) = ((self.captures.clock)(), 0);
        let lcores = self.last.len();
        // In turn, or a busy lcore would leave the others without slots.
        self.first += 1;
        for lcore in (self.first..self.first + lcores).map(|lcore| lcore % lcores) {
            let (lane, last) = (&self.session.lcores[lcore], &mut self.last[lcore]);
            while seen < most
                && let Some(mut taken) = lane.full.pop()
            {
                if taken.is_wanted {
                    *last = now.at(taken.ticks).max(*last);
                    see(lcore, *last, &taken);
                    seen += 1;
                }
                taken.service = None;
                lane.give_back(taken);
            }
        }
        seen
    }

    pub fn counts(&self) -> Counts {
        self.session.lcores.iter().fold(Counts::default(), |sum, lane| Counts {
            taken: sum.taken + lane.taken.get(),
            lost: sum.lost + lane.lost.get(),
            over: sum.over + lane.over.get(),
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let mut state = self.captures.state();
        state.publisher.publish(quiescent::Arc::new(None));
        state.is_running = false;
    }
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captures").field("lcores", &self.lcores).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("number", &self.session.number).field("counts", &self.counts()).finish()
    }
}
