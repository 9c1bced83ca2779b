//! How often each value was seen, without a place for each: values below 256 have one of their own, all others share theirs with those
//! that differ by less than one in 128. So whatever is read from it is right within 0.8 %, and nothing is allocated after the start.

/// Places of an octave, as a power of two.
const BITS: u32 = 7;
const PLACES: u64 = 1 << BITS;
/// Values have fewer bits than this; a greater one counts as the greatest.
const MOST_BITS: u32 = super::stamp::BITS;

pub struct Histogram {
    counts: Box<[u64]>,
    recorded: u64,
    most: u64,
}

impl Histogram {
    pub fn new() -> Self {
        let places = place((1 << MOST_BITS) - 1) + 1;
        Self { counts: vec![0; places].into(), recorded: 0, most: 0 }
    }

    #[inline]
    pub fn record(&mut self, value: u64) {
        let value = value.min((1 << MOST_BITS) - 1);
        self.counts[place(value)] += 1;
        self.recorded += 1;
        self.most = self.most.max(value);
    }

    /// How many values there are.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// The greatest, exactly.
    pub fn most(&self) -> Option<u64> {
        (self.recorded > 0).then_some(self.most)
    }

    /// The smallest value that so many in a thousand of `all` do not exceed, rounded up to the last that shares its place. Of `all`, those
    /// that were never recorded are greater than any: where the rank is among them, there is no such value.
    pub fn rank(&self, per_mille: u64, all: u64) -> Option<u64> {
        let rank = (all * per_mille).div_ceil(1000).max(1);
        let mut below = 0;
        let place = self.counts.iter().position(|&count| {
            below += count;
            below >= rank
        });
        place.map(|place| last(place).min(self.most))
    }
}

/// Where a value is counted.
fn place(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    (u64::from(shift) * PLACES + (value >> shift)) as usize
}

/// The greatest value of a place.
fn last(place: usize) -> u64 {
    let place = place as u64;
    let shift = (place / PLACES).saturating_sub(1);
    ((place - shift * PLACES + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_follow_each_other_without_a_gap() {
        let mut first = 0;
        for at in 0..=place((1 << MOST_BITS) - 1) {
            assert_eq!((place(first), place(last(at))), (at, at), "{first} – {}", last(at));
            assert!((last(at) - first) * PLACES <= first, "{first} – {}: too wide", last(at));
            first = last(at) + 1;
        }
        assert_eq!(first, 1 << MOST_BITS);
    }

    #[test]
    fn what_was_lost_is_greater_than_all_that_came() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.rank(500, 0), histogram.most()), (None, None));
        (1..=98).for_each(|value| histogram.record(value));
        assert_eq!((histogram.rank(500, 98), histogram.rank(500, 100)), (Some(49), Some(50)));
        assert_eq!((histogram.rank(980, 100), histogram.rank(990, 100)), (Some(98), None));
        histogram.record(u64::MAX);
        assert_eq!(histogram.most(), Some((1 << MOST_BITS) - 1));
    }

    proptest! {
        #[test]
        fn ranks_are_those_of_the_sorted_values(
            mut values in prop::collection::vec((0u32..MOST_BITS).prop_flat_map(|bits| 0..2u64 << bits), 1..400),
            per_mille in 0u64..=1000,
        ) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|&value| histogram.record(value));
            values.sort_unstable();
            let all = values.len() as u64;
            let exact = values[((all * per_mille).div_ceil(1000).max(1) - 1) as usize];
            let found = histogram.rank(per_mille, all).unwrap();
            prop_assert!(found >= exact && found <= exact + exact / PLACES, "{found} for {exact}");
            prop_assert_eq!(histogram.most(), values.last().copied());
            prop_assert_eq!(histogram.recorded(), all);
        }
    }
}
