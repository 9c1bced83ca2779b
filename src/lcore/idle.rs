//! What an lcore does when nothing arrives.

use std::thread;
use std::time::Duration;

use dpdk::cycles;

/// What an lcore does when nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Polls on at once: the least latency, the whole core.
    Poll,
    /// Polls on after one `pause` instruction (about 70 ns): leaves power, and room to a sibling thread of the core.
    Pause,
    /// As `Pause` for [`PATIENCE`] rounds, then [`NAP`]s between polls, until something arrives.
    ///
    /// Takes a few percent of the core instead of all of it. The price: the first frame after a quiet time waits for up to a
    /// nap, about 0.1 ms, and so does each frame where they are further apart than the patience lasts (some 20 µs). A
    /// receive queue of 1024 holds what arrives in a nap at up to 9 million frames a second.
    Sleep,
}

/// Empty rounds before the first nap.
const PATIENCE: u32 = 256;

/// Asked of the kernel, which adds its timer slack (50 µs by default).
const NAP: Duration = Duration::from_micros(50);

impl Idle {
    /// Called after the `empty`-th round in a row that found nothing. Whether it slept.
    #[inline]
    pub(super) fn rest(self, empty: u32) -> bool {
        let sleeps = self == Self::Sleep && empty > PATIENCE;
        if sleeps {
            thread::sleep(NAP);
        } else if self != Self::Poll {
            cycles::pause();
        }
        sleeps
    }
}
