//! What an lcore does when nothing arrives.

use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use dpdk::cycles;

/// What an lcore does when nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Polls on at once: the least latency, the whole core.
    Poll,
    /// Polls on after one `pause` instruction (about 70 ns): leaves power, and room to a sibling thread of the core.
    Pause,
    /// As `Pause` for [`PATIENCE`] rounds, then naps between polls that get longer, up to [`NAP`], until something arrives.
    ///
    /// Takes about a tenth of the core instead of all of it. The price: a frame after a quiet time waits for up to a nap,
    /// about 0.2 ms; where frames are further apart than the patience lasts (some 20 µs), each waits about as long as the
    /// pause before it. A receive queue of 1024 holds what arrives in the longest nap at up to 5 million frames a second.
    Sleep,
}

/// Empty rounds before the first nap.
const PATIENCE: u32 = 256;

/// The longest nap, and by how much each is longer than the last. The kernel adds its timer slack (50 µs by default).
const NAP: Duration = Duration::from_micros(150);
const NAP_STEP: Duration = Duration::from_micros(10);

impl Idle {
    /// Called after the `empty`-th round in a row that found nothing. Whether it slept.
    #[inline]
    pub(super) fn rest(self, empty: u32) -> bool {
        let sleeps = self == Self::Sleep && empty > PATIENCE;
        if sleeps {
            thread::park_timeout(NAP.min(NAP_STEP.saturating_mul(empty - PATIENCE)));
        } else if self != Self::Poll {
            cycles::pause();
        }
        sleeps
    }
}

/// Ends another thread's nap ([`thread::park_timeout`]): whoever has something for it need not wait until it looks.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<OnceLock<Thread>>);

impl Bell {
    /// From now on it wakes the calling thread.
    pub fn hang(&self) {
        let _ = self.0.set(thread::current());
    }

    /// A system call if that thread naps, else an atomic exchange.
    pub fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// Who wakes whom about frames for the kernel twins, and from them.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    /// Wakes the lcore.
    pub lcore: Bell,
    /// Wakes the punt thread. Only [`Idle::Sleep`] rings it, since it may take a system call; the others let it look by itself.
    pub punt: Bell,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_bell_ends_a_nap() {
        let naps = |ring: &dyn Fn()| {
            let start = Instant::now();
            for _ in 0..100 {
                ring();
                assert!(Idle::Sleep.rest(PATIENCE + 100));
            }
            start.elapsed()
        };
        let bell = Bell::default();
        bell.ring(); // nobody's yet
        assert!(naps(&|| ()) >= 100 * NAP);
        bell.hang();
        assert!(naps(&|| bell.ring()) < 50 * NAP);
    }
}
