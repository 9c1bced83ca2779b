//! A token bucket for the ICMP errors that a node makes, all its lcores together.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Millis;

/// A rate, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub per_second: u32,
    pub burst: u32,
}

/// The bucket, full at the start, in the form of the generic cell rate algorithm (ITU-T I.371): one number, the time at which it will
/// be full again. Shared, but touched only where an error is about to be made.
#[derive(Debug)]
pub struct Limiter {
    /// Nanoseconds.
    full_at: AtomicU64,
    per_token: u64,
    /// How far ahead of now the bucket may be full: that of an empty one.
    most: u64,
}

impl Limiter {
    pub fn new(limit: Limit) -> Self {
        let burst = u64::from(limit.burst);
        // Without a rate the bucket is full at the start, and never again: a token takes the better part of all time.
        let per_token =
            1_000_000_000_u64.checked_div(u64::from(limit.per_second)).unwrap_or(u64::MAX / 2 / burst.max(1));
        let most = per_token * burst;
        Self { full_at: AtomicU64::new(0), per_token, most }
    }

    /// Takes a token, if there is one.
    #[cold]
    pub fn allow(&self, now: Millis) -> bool {
        let now = now.0.saturating_mul(1_000_000);
        let take = |full_at: u64| {
            let next = full_at.max(now).saturating_add(self.per_token);
            (next - now <= self.most).then_some(next)
        };
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: u32, burst: u32) -> impl Fn(u64, usize) -> usize {
        let limiter = Limiter::new(Limit { per_second, burst });
        move |ms, tries| (0..tries).filter(|_| limiter.allow(Millis(ms))).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let allowed = limiter(1000, 100);
        assert_eq!(allowed(0, 200), 100);
        assert_eq!(allowed(1, 10), 1);
        assert_eq!(allowed(11, 20), 10);
        assert_eq!(allowed(10_000, 1000), 100, "never more than the burst");
    }

    #[test]
    fn slow_rates_are_kept_too() {
        let allowed = limiter(2, 1);
        assert_eq!([0, 499, 500, 999, 1000].map(|ms| allowed(ms, 3)), [1, 0, 1, 0, 1]);
    }

    #[test]
    fn without_a_rate_a_burst_and_without_a_burst_none() {
        let allowed = limiter(0, 100);
        assert_eq!([0, 1000, 1_000_000_000].map(|ms| allowed(ms, 60)), [60, 40, 0]);
        assert_eq!(limiter(1000, 0)(5, 10), 0);
        assert_eq!(limiter(0, 0)(5, 10), 0);
    }
}
