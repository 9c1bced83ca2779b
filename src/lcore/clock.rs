//! The node's monotonic clock, read from the time stamp counter.

use dpdk::{Eal, cycles};

use crate::snapshot::Millis;

/// Milliseconds since the node started, the same for all lcores and for the control side, which copy it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: u64,
    /// Milliseconds a cycle, times 2^64: a multiplication instead of a division by the frequency.
    scale: u64,
}

impl Clock {
    /// A clock that shows 0 now.
    pub fn start(eal: Eal) -> Self {
        Self::new(cycles::tsc(), cycles::tsc_hz(eal))
    }

    fn new(origin: u64, hz: u64) -> Self {
        // Rounded up, so that a whole millisecond is never shown as one less.
        let scale = (1000_u128 << 64).div_ceil(u128::from(hz));
        Self { origin, scale: u64::try_from(scale).expect("a counter is faster than 1 kHz") }
    }

    /// What it shows now.
    pub fn now(self) -> Millis {
        self.at(cycles::tsc())
    }

    /// What it shows when the counter stands at `tsc`. Counters of two cores may differ by a few cycles: never before 0.
    #[inline]
    pub fn at(self, tsc: u64) -> Millis {
        let cycles = tsc.saturating_sub(self.origin);
        Millis(((u128::from(cycles) * u128::from(self.scale)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_is_exact_to_the_millisecond() {
        let (origin, hz) = (7_000_000_000, 2_099_999_000);
        let clock = Clock::new(origin, hz);
        let year = 365 * 24 * 3600;
        assert_eq!(clock.at(origin + hz * year + hz / 2), Millis(year * 1000 + 500));
        assert_eq!((clock.at(origin), clock.at(origin - 5)), (Millis(0), Millis(0)));
    }
}
