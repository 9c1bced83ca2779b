//! How soon a source is asked again: spread, so that a fleet does not ask all at once, and ever more slowly while it fails.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first pause after a failure, and the longest: so late does a node learn at most that its source is mended.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// The longest pause that a server may ask for (Retry-After): whoever mends it does not want to wait for days.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// A connection that lasted so long was a good one, however it ended. One that ends sooner, again and again, is a failure each time, be
/// what came over it good.
#[cfg(feature = "api")]
pub const LASTING: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(10) };

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    pub fn reset(&mut self) {
        self.0 = 0;
    }

    /// The pause after one more failure, spread between half and the whole; at least what the server `asked` for.
    pub fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.0.min(16)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        let own = whole.mul_f64(0.5 + fraction() / 2.0);
        own.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }
}

/// `interval`, give or take a tenth.
pub fn spread(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + fraction() / 5.0)
}

/// Any number from 0 to 1; another each time, and on each node.
fn fraction() -> f64 {
    f64::from((RandomState::new().hash_one(()) >> 32) as u32) / f64::from(u32::MAX)
}

/// Any of so many things, by its index; another each time, and on each node.
#[cfg(feature = "etcd")]
pub fn any_index(of: usize) -> usize {
    (RandomState::new().hash_one(()) % (of.max(1) as u64)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_an_answer() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..100).map(|_| backoff.pause(None)).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2, "{pauses:?}");
        assert!(pauses[3] >= FIRST * 4, "{pauses:?}");
        assert!(pauses.iter().all(|&pause| pause <= LONGEST), "{pauses:?}");
        assert!(pauses[99] >= LONGEST / 2, "{pauses:?}");
        backoff.reset();
        assert!(backoff.pause(None) <= FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_granted_within_bounds() {
        let pause = |asked| Backoff::default().pause(Some(Duration::from_secs(asked)));
        assert_eq!(pause(7), Duration::from_secs(7));
        assert!(pause(0) >= FIRST / 2);
        assert_eq!(pause(1_000_000), LONGEST_ASKED);
    }

    #[test]
    fn nodes_do_not_ask_at_the_same_time() {
        let spread: Vec<_> = (0..100).map(|_| spread(Duration::from_secs(10))).collect();
        assert!(spread.iter().all(|pause| (9.0..=11.0).contains(&pause.as_secs_f64())), "{spread:?}");
        assert!(spread.iter().any(|pause| pause != &spread[0]));
    }
}
