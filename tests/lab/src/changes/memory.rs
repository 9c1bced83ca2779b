//! Whether memory grows: a line through what was measured.

/// A straight line by least squares.
#[derive(Debug, Clone, Copy)]
pub struct Trend {
    pub slope: f64,
    /// Standard error of the slope, by how far the points are off the line.
    pub error: f64,
}

impl Trend {
    /// Through (time, value); `None` for fewer than four.
    pub fn of(measured: &[(f64, f64)]) -> Option<Self> {
        if measured.len() < 4 {
            return None;
        }
        let count = measured.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| measured.iter().map(of).sum::<f64>() / count;
        let (time, value) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = measured.iter().map(|point| (point.0 - time).powi(2)).sum();
        let slope = measured.iter().map(|point| (point.0 - time) * (point.1 - value)).sum::<f64>() / spread;
        let off: f64 = measured.iter().map(|point| (point.1 - value - slope * (point.0 - time)).powi(2)).sum();
        Some(Self { slope, error: (off / (count - 2.0) / spread).sqrt() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..400).map(|at| (f64::from(at), value(f64::from(at)))).collect()
    }

    #[test]
    fn growth_is_seen_through_what_comes_and_goes() {
        let trend = Trend::of(&measured(|at| 100.0 + 0.5 * at + 30.0 * (at * 1.7).sin())).unwrap();
        assert!((trend.slope - 0.5).abs() < 3.0 * trend.error + 0.01, "{trend:?}");
        assert!(trend.error < 0.05, "{trend:?}");
    }

    #[test]
    fn no_growth_is_none() {
        let trend = Trend::of(&measured(|at| 100.0 + 30.0 * (at * 1.7).sin())).unwrap();
        assert!(trend.slope.abs() < 3.0 * trend.error + 0.001, "{trend:?}");
        assert!(Trend::of(&[(0.0, 1.0); 3]).is_none());
    }
}
