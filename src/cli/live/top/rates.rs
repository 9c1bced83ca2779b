//! How fast counters go: the difference of two looks over the time between them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Looks that lie closer together than this say little about a rate.
const SHORTEST: Duration = Duration::from_millis(200);

/// The rates of counters that have names.
#[derive(Debug, Default)]
pub struct Rates {
    base: Option<(Instant, HashMap<String, u64>)>,
    per_second: HashMap<String, f64>,
}

impl Rates {
    /// What the counters were at a moment.
    pub fn look(&mut self, at: Instant, counters: HashMap<String, u64>) {
        if let Some((then, before)) = &self.base {
            let elapsed = at.saturating_duration_since(*then);
            if elapsed < SHORTEST {
                return;
            }
            // A counter that went back began anew: its node was started again.
            let moved = |name: &str, now: u64| Some(now.checked_sub(*before.get(name)?).unwrap_or(now));
            let rate =
                |(name, now): (&String, &u64)| Some((name.clone(), moved(name, *now)? as f64 / elapsed.as_secs_f64()));
            self.per_second = counters.iter().filter_map(rate).collect();
        }
        self.base = Some((at, counters));
    }

    /// How often a second; `None` before the second look.
    pub fn of(&self, name: &str) -> Option<f64> {
        self.per_second.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_difference_of_two_looks_and_never_negative() {
        let (start, mut rates) = (Instant::now(), Rates::default());
        let mut look = |millis, counters: &[(&str, u64)]| {
            let counters = counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            rates.look(start + Duration::from_millis(millis), counters);
            ["a", "b"].map(|name| rates.of(name))
        };
        assert_eq!(look(0, &[("a", 1000)]), [None, None]);
        assert_eq!(look(2000, &[("a", 1500), ("b", 7)]), [Some(250.0), None]);
        // Asked again at once, because of a key: the rate of before stands.
        assert_eq!(look(2050, &[("a", 1501), ("b", 7)]), [Some(250.0), None]);
        assert_eq!(look(3000, &[("a", 1500), ("b", 9)]), [Some(0.0), Some(2.0)]);
        // The node was started again, and counted 30 since.
        assert_eq!(look(4000, &[("a", 30), ("b", 9)]), [Some(30.0), Some(0.0)]);
        assert_eq!(look(5000, &[("a", 40)]), [Some(10.0), None]);
    }
}
