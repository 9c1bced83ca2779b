//! The node's monotonic clock, read from the time stamp counter.

use dpdk::{Eal, cycles};

use crate::snapshot::Millis;

/// Milliseconds since the machine started, the same for all lcores, for the control side, and for a process that comes after this.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What the counter showed at some moment, and what this clock showed then.
    origin: u64,
    start: Millis,
    /// Milliseconds a cycle, times 2^64: a multiplication instead of a division by the frequency.
    scale: u64,
}

impl Clock {
    /// A clock that shows `start` now.
    pub fn start(eal: Eal, start: Millis) -> Self {
        Self::new(cycles::tsc(), start, cycles::tsc_hz(eal))
    }

    /// How long the machine has been running.
    pub fn uptime() -> Millis {
        let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = text.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
        Millis(seconds.map_or(0, |seconds| (seconds * 1000.0) as u64))
    }

    fn new(origin: u64, start: Millis, hz: u64) -> Self {
        // Rounded up, so that a whole millisecond is never shown as one less.
        let scale = (1000_u128 << 64).div_ceil(u128::from(hz));
        Self { origin, start, scale: u64::try_from(scale).expect("a counter is faster than 1 kHz") }
    }

    /// What it shows now.
    pub fn now(self) -> Millis {
        self.at(cycles::tsc())
    }

    /// What it shows when the counter stands at `tsc`. Counters of two cores may differ by a few cycles: never before the start.
    #[inline]
    pub fn at(self, tsc: u64) -> Millis {
        let cycles = tsc.saturating_sub(self.origin);
        Millis(self.start.0 + ((u128::from(cycles) * u128::from(self.scale)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_is_exact_to_the_millisecond() {
        let (origin, hz) = (7_000_000_000, 2_099_999_000);
        let clock = Clock::new(origin, Millis(0), hz);
        let year = 365 * 24 * 3600;
        assert_eq!(clock.at(origin + hz * year + hz / 2), Millis(year * 1000 + 500));
        assert_eq!((clock.at(origin), clock.at(origin - 5)), (Millis(0), Millis(0)));
        assert_eq!(Clock::new(origin, Millis(77), hz).at(origin + hz), Millis(1077));
    }
}
