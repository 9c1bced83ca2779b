//! Medians and spreads of a few samples, ranks of many.

use std::fmt;
use std::time::Duration;

/// What stands in a table for one row of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub median: f64,
    /// The quartiles beside it: half of the samples lie between them.
    pub low: f64,
    pub high: f64,
    pub min: f64,
    pub max: f64,
    /// Nine of ten samples are at most this.
    pub ninth: f64,
}

impl Summary {
    /// `None` of no samples.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        // Between two samples there is as much of each as the rank is near to it.
        let quantile = |share: f64| {
            let rank = share * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
            below + (above - below) * rank.fract()
        };
        Some(Self { median: quantile(0.5), low: quantile(0.25), high: quantile(0.75), min, max, ninth: quantile(0.9) })
    }
}

/// Of many durations, in milliseconds.
pub struct Ranks {
    pub median: f64,
    pub p99: f64,
    pub most: f64,
}

impl Ranks {
    /// Of at least one.
    pub fn of(samples: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<f64> = samples.map(|sample| sample.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        // The smallest that so many of a hundred do not exceed.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Self { median: rank(50), p99: rank(99), most: rank(100) }
    }
}

impl fmt::Display for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}, {:.2}, {:.2}", self.median, self.p99, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of([]), None);
        let summary = Summary::of([5.0, 1.0, 9.0, 2.0, 8.0]).unwrap();
        assert_eq!(summary, Summary { median: 5.0, low: 2.0, high: 8.0, min: 1.0, max: 9.0, ninth: 8.6 });
        assert_eq!(Summary::of([4.0, 1.0, 9.0, 2.0]).unwrap().median, 3.0);
    }

    #[test]
    fn a_rank_is_a_sample() {
        let ranks = Ranks::of((1..=200).rev().map(Duration::from_millis));
        assert_eq!((ranks.median, ranks.p99, ranks.most), (100.0, 198.0, 200.0));
    }
}
