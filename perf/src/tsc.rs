//! How fast the TSC counts.

use std::thread;
use std::time::{Duration, Instant};

use dpdk::cycles;

/// For how long both clocks are watched, at least: a microsecond too much at either end is then 20 ppm.
const WATCHED: Duration = Duration::from_millis(100);

/// Cycles in a second, by the monotonic clock.
pub fn hz() -> f64 {
    hz_over(WATCHED)
}

fn hz_over(watched: Duration) -> f64 {
    let (begun, first) = both();
    thread::sleep(watched);
    let (ended, last) = both();
    (last - first) as f64 / ended.duration_since(begun).as_secs_f64()
}

/// Both clocks at one moment. Who loses the core between the two readings tries again: of some, the closest count.
fn both() -> (Instant, u64) {
    let read = || {
        let (before, tsc) = (Instant::now(), cycles::tsc());
        (before.elapsed(), before, tsc)
    };
    let (_, at, tsc) = (0..20).map(|_| read()).min_by_key(|&(apart, ..)| apart).unwrap_or_else(read);
    (at, tsc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_same_however_long_it_is_watched() {
        let (short, long) = (hz_over(Duration::from_millis(20)), hz_over(Duration::from_millis(100)));
        assert!((short / long - 1.0).abs() < 1e-3, "{short} Hz, {long} Hz");
    }
}
