//! Whether new flows go by the weights: Pearson's chi-square test.

use std::collections::BTreeMap;
use std::fmt;

/// Least probability that passes. A run has fewer than twenty such tests, so a right load balancer fails one of them less than once
/// in 50,000 runs.
pub const LEAST: f64 = 1e-6;

/// How well what was seen fits what is expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    pub flows: u64,
    pub chi_square: f64,
    pub degrees: usize,
    /// That chance alone is off by as much or more.
    pub probability: f64,
}

impl Fit {
    /// `weights` of those that may take new flows; whoever else got one fits not at all.
    pub fn of(flows: &BTreeMap<String, u64>, weights: &BTreeMap<String, f64>) -> Self {
        let (all, sum) = (flows.values().sum::<u64>(), weights.values().sum::<f64>());
        let square = |(backend, weight): (&String, &f64)| {
            let expected = all as f64 * weight / sum;
            (flows.get(backend).copied().unwrap_or(0) as f64 - expected).powi(2) / expected
        };
        let degrees = weights.len() - 1;
        let is_strange = flows.keys().any(|backend| !weights.contains_key(backend));
        let chi_square = if is_strange { f64::INFINITY } else { weights.iter().map(square).sum() };
        Self { flows: all, chi_square, degrees, probability: beyond(chi_square, degrees) }
    }

    /// The probability, as it is shown.
    pub fn p(&self) -> String {
        let p = self.probability;
        if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
    }

    pub fn is_good(&self) -> bool {
        self.probability >= LEAST
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, chi_square, degrees, .. } = self;
        write!(f, "{flows} new flows, chi-square {chi_square:.1} of {degrees} degrees, p = {}", self.p())
    }
}

/// The probability that a chi-square of so many degrees of freedom is as large or larger.
fn beyond(chi_square: f64, degrees: usize) -> f64 {
    if chi_square.is_infinite() || degrees == 0 {
        return if chi_square > 0.0 { 0.0 } else { 1.0 };
    }
    // Q(a + 1, y) = Q(a, y) + y^a e^-y / Γ(a + 1), from Q(1, y) = e^-y, or Q(1/2, y) = erfc(√y).
    let y = chi_square / 2.0;
    let (mut a, mut sum, mut term) = match degrees % 2 {
        0 => (1.0, (-y).exp(), y * (-y).exp()),
        _ => (0.5, erfc(y.sqrt()), 2.0 * (y / std::f64::consts::PI).sqrt() * (-y).exp()),
    };
    while a * 2.0 < degrees as f64 {
        sum += term;
        a += 1.0;
        term *= y / a;
    }
    sum
}

/// For x ≥ 0, with a relative error below 1.2e-7 (Numerical Recipes, 6.2).
fn erfc(x: f64) -> f64 {
    const TERMS: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let t = 1.0 / (1.0 + x / 2.0);
    t * (TERMS.iter().rev().fold(0.0, |sum, term| sum * t + term) - x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_that_of_the_tables() {
        let known = [
            (3.841, 1, 0.05),
            (10.828, 1, 0.001),
            (5.991, 2, 0.05),
            (14.067, 7, 0.05),
            (24.322, 7, 0.001),
            (26.124, 8, 0.001),
        ];
        for (chi_square, degrees, probability) in known {
            let got = beyond(chi_square, degrees);
            assert!((got / probability - 1.0).abs() < 0.002, "{chi_square} of {degrees}: {got}");
        }
    }

    fn by_name<T: Copy>(of: &[(&str, T)]) -> BTreeMap<String, T> {
        of.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn shares_by_the_weights_fit_and_others_do_not() {
        let weights = by_name(&[("a", 100.0), ("b", 300.0)]);
        assert!(Fit::of(&by_name(&[("a", 110), ("b", 290)]), &weights).is_good());
        assert!(!Fit::of(&by_name(&[("a", 200), ("b", 200)]), &weights).is_good());
        assert!(!Fit::of(&by_name(&[("b", 400)]), &weights).is_good());
    }

    #[test]
    fn one_flow_to_somebody_else_does_not_fit() {
        let weights = by_name(&[("a", 100.0), ("b", 100.0)]);
        assert!(!Fit::of(&by_name(&[("a", 200), ("b", 200), ("c", 1)]), &weights).is_good());
    }
}
