//! Chance that can be had again: by the same seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64; the value is its state.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// By the clock, so that no two runs are the same.
    pub fn of_now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64))
    }

    /// One of 0 to `below` − 1.
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) as usize % below
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.roll(of.len())])
    }
}
