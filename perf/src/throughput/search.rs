//! The search of RFC 2544, section 26.1: the highest rate at which nothing is lost, halved down to.

use super::trial::Trial;

/// How it is searched.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Frames a second: the line's rate, or more than anyone expects.
    pub most: f64,
    /// The search ends when the answer is known so well; a share of `most`.
    pub resolution: f64,
    /// The share of frames that may be lost. RFC 2544 and RFC 1242 mean by throughput: none.
    pub loss: f64,
}

/// What a search found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The trial that stands: the longest at the highest rate that passed. `None`: even the lowest rate lost too much.
    pub best: Option<Trial>,
    /// The lowest rate that failed. `None`: none did.
    pub failed: Option<Trial>,
    /// The generator, or the line, could do no more: the forwarder's limit lies above.
    pub is_generators_limit: bool,
}

/// A length of trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// While searching.
    Short,
    /// To confirm (RFC 2544, section 24: at least 60 s).
    Long,
}

/// Generators send what was asked for within this share.
const RATE_TOLERANCE: f64 = 0.01;
/// Steps of one resolution that a long trial takes back, before they double.
const SINGLE_STEPS_BACK: usize = 10;
/// How often a generator that is too slow in a long trial gets another.
const MOST_TRIES: usize = 3;
/// No search has so many short trials: halving comes to an end before, unless rates jump about.
const MOST_TRIALS: usize = 100;

impl Search {
    pub fn passes(&self, trial: &Trial) -> bool {
        trial.loss() <= self.loss
    }

    /// Runs trials until the rate is found, and confirms it.
    pub fn run(&self, mut trial: impl FnMut(f64, Length) -> anyhow::Result<Trial>) -> anyhow::Result<Found> {
        let step = self.resolution * self.most;
        let mut found = Found { best: None, failed: None, is_generators_limit: false };
        let (mut low, mut high) = (0.0, self.most);
        let mut rate = self.most;
        let is_slow = |offered: f64, rate: f64| offered < rate * (1.0 - RATE_TOLERANCE);
        for _ in 0..MOST_TRIALS {
            let at = trial(rate, Length::Short)?;
            let offered = at.offered();
            if self.passes(&at) {
                // One that was only kept from its work for a moment gets another try at a higher rate.
                let gets_nowhere = is_slow(offered, rate) && offered <= low;
                low = offered.max(low);
                if gets_nowhere || rate == self.most {
                    found.is_generators_limit = true;
                    break;
                }
            } else {
                high = offered.min(rate);
                found.failed = Some(at);
            }
            if high - low <= step {
                break;
            }
            rate = (low + high) / 2.0;
        }
        // What a long trial does not confirm is looked for below.
        let (mut back, mut steps, mut tries) = (step, 0, 0);
        while low > 0.0 {
            let at = trial(low, Length::Long)?;
            let is_too_slow = is_slow(at.offered(), low);
            if self.passes(&at) && is_too_slow && tries < MOST_TRIES {
                tries += 1;
            } else if self.passes(&at) {
                found.is_generators_limit |= is_too_slow;
                found.best = Some(at);
                break;
            } else {
                found.is_generators_limit = false;
                found.failed = Some(at);
                steps += 1;
                back *= if steps > SINGLE_STEPS_BACK { 2.0 } else { 1.0 };
                low -= back;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::{Generated, Trial};
    use super::*;

    const SEARCH: Search = Search { most: 1e6, resolution: 0.005, loss: 0.0 };

    /// A forwarder with a limit and a queue, in arithmetic: seconds of a short and a long trial.
    struct Limited {
        limit: f64,
        queue: f64,
        /// What the generator can do.
        generates: f64,
        rates: Vec<f64>,
    }

    impl Limited {
        fn new(limit: f64) -> Self {
            Self { limit, queue: 0.0, generates: f64::INFINITY, rates: Vec::new() }
        }

        fn trial(&mut self, rate: f64, length: Length) -> Trial {
            self.rates.push(rate);
            let seconds = if length == Length::Long { 60.0 } else { 10.0 };
            let sent = rate.min(self.generates) * seconds;
            let returned = sent.min(self.limit * seconds + self.queue);
            Trial {
                wanted: rate,
                generated: Generated { sent: sent as u64, returned: returned as u64, seconds, ..Generated::default() },
                node: None,
            }
        }

        fn search(&mut self, search: Search) -> Found {
            search.run(|rate, length| Ok(self.trial(rate, length))).unwrap()
        }
    }

    #[test]
    fn the_limit_is_found_within_the_resolution() {
        for limit in [7_000.0, 123_456.0, 500_000.0, 600_001.0, 999_000.0] {
            let found = Limited::new(limit).search(SEARCH);
            let rate = found.best.unwrap().offered();
            assert!(rate <= limit && limit - rate <= 5_000.0, "{rate} of {limit}");
            assert!(found.failed.is_some_and(|trial| trial.offered() > limit && trial.offered() - limit <= 5_000.0));
            assert!(!found.is_generators_limit);
        }
    }

    #[test]
    fn rates_are_halved_and_the_last_is_confirmed() {
        let mut forwarder = Limited::new(300_000.0);
        forwarder.search(Search { resolution: 0.1, ..SEARCH });
        assert_eq!(forwarder.rates, [1e6, 5e5, 2.5e5, 3.75e5, 3.125e5, 2.5e5]);
    }

    #[test]
    fn who_loses_nothing_is_faster_than_the_generator() {
        let mut forwarder = Limited::new(f64::INFINITY);
        let found = forwarder.search(SEARCH);
        assert!(found.is_generators_limit && found.failed.is_none() && found.best.unwrap().offered() == 1e6);
        // It can do less than it is asked for.
        let mut forwarder = Limited { generates: 400_000.0, ..Limited::new(f64::INFINITY) };
        let found = forwarder.search(SEARCH);
        assert!(found.is_generators_limit && found.best.unwrap().offered() == 400_000.0);
        assert_eq!(forwarder.rates, [1e6, 4e5]);
        // And loses even of that: the limit is the forwarder's.
        let found = Limited { generates: 400_000.0, ..Limited::new(200_000.0) }.search(SEARCH);
        assert!(!found.is_generators_limit && (195_000.0..=200_000.0).contains(&found.best.unwrap().offered()));
    }

    #[test]
    fn a_generator_that_was_kept_from_its_work_once_is_not_the_limit() {
        let mut forwarder = Limited::new(300_000.0);
        let mut number = 0;
        let found = SEARCH.run(|rate, length| {
            number += 1;
            forwarder.generates = if number == 3 { 150_000.0 } else { f64::INFINITY };
            Ok(forwarder.trial(rate, length))
        });
        let found = found.unwrap();
        let rate = found.best.unwrap().offered();
        assert!(!found.is_generators_limit && (295_000.0..=300_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn what_a_queue_hides_a_long_trial_shows() {
        // The queue takes 2 % of a short trial, a third of a percent of a long one.
        let mut forwarder = Limited { queue: 100_000.0, ..Limited::new(500_000.0) };
        let found = forwarder.search(SEARCH);
        let rate = found.best.unwrap().offered();
        assert!((495_000.0..=501_667.0).contains(&rate), "{rate}");
        assert!(forwarder.rates.len() > 9, "{:?}", forwarder.rates);
    }

    #[test]
    fn a_rate_that_no_long_trial_comes_near_is_given_up_step_by_step() {
        // The queue takes all of a short trial, a sixth of a long one.
        let mut forwarder = Limited { queue: 1_000_000.0, ..Limited::new(100_000.0) };
        let rate = forwarder.search(SEARCH).best.unwrap().offered();
        assert!((30_000.0..=116_667.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_generator_that_is_slow_in_the_long_trial_is_no_limit_of_the_forwarders() {
        let mut forwarder = Limited::new(300_000.0);
        let mut slow_trials = 1;
        let mut search = |slow: usize| {
            slow_trials = slow;
            SEARCH.run(|rate, length| {
                let is_slow = length == Length::Long && slow_trials > 0;
                slow_trials -= usize::from(is_slow);
                forwarder.generates = if is_slow { 100_000.0 } else { f64::INFINITY };
                Ok(forwarder.trial(rate, length))
            })
        };
        let found = search(1).unwrap();
        assert!(!found.is_generators_limit && found.best.unwrap().offered() >= 295_000.0);
        let found = search(100).unwrap();
        assert!(found.is_generators_limit && found.best.unwrap().offered() == 100_000.0);
    }

    #[test]
    fn some_loss_may_be_allowed() {
        let rate = Limited::new(500_000.0).search(Search { loss: 0.02, ..SEARCH }).best.unwrap().offered();
        assert!((505_000.0..=510_205.0).contains(&rate), "{rate}");
    }

    #[test]
    fn who_loses_at_every_rate_has_no_throughput() {
        let found = Limited::new(0.0).search(SEARCH);
        assert!(found.best.is_none() && found.failed.is_some());
    }
}
