//! A read-only hash table from packed keys to numbers: one multiplication, mostly one cache line.

/// Linear probing; keys are packed addresses and ports, all below `u64::MAX`. Sparse (a load of at most a quarter), since the
/// source of every packet is looked up and not found: it mostly meets a free cell at once, and the branch is foreseen.
#[derive(Debug)]
pub struct Index {
    cells: Box<[(u64, u32)]>,
    shift: u32,
}

const FREE: u64 = u64::MAX;

impl Index {
    /// Of two entries with one key the last counts.
    pub fn new(entries: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let entries: Vec<(u64, u32)> = entries.into_iter().collect();
        let size = (entries.len() * 4).next_power_of_two().max(64);
        // No search goes round: behind the last home is room for all that may be pushed there.
        let cells = vec![(FREE, 0); size + entries.len()].into();
        let mut index = Self { cells, shift: 64 - size.trailing_zeros() };
        for (key, value) in entries {
            debug_assert_ne!(key, FREE);
            let from = index.home(key);
            let place = index.cells[from..].iter_mut().find(|(found, _)| *found == key || *found == FREE);
            *place.expect("there are as many cells behind the last home as entries") = (key, value);
        }
        index
    }

    #[inline(always)]
    pub fn get(&self, key: u64) -> Option<u32> {
        let home = self.home(key);
        match self.cells.get(home) {
            Some(&(found, value)) if found == key => Some(value),
            Some(&(found, _)) if found != FREE => self.get_from(home + 1, key),
            _ => None,
        }
    }

    /// The rest of the search, which few need.
    #[cold]
    fn get_from(&self, at: usize, key: u64) -> Option<u32> {
        let (_, value) =
            self.cells[at..].iter().take_while(|(found, _)| *found != FREE).find(|(found, _)| *found == key)?;
        Some(*value)
    }

    /// Where the search for a key begins.
    #[inline(always)]
    fn home(&self, key: u64) -> usize {
        // Fibonacci hashing (Knuth, TAOCP 6.4): keys are the operator's, not a client's, so no secret is needed.
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn an_empty_index_finds_nothing() {
        let index = Index::new([]);
        assert_eq!((index.get(0), index.get(12345)), (None, None));
    }

    proptest! {
        #[test]
        fn it_is_a_map(entries in proptest::collection::vec((0u64..500, any::<u32>()), 0..300)) {
            let index = Index::new(entries.iter().copied());
            let map: HashMap<_, _> = entries.into_iter().collect();
            for key in 0..500 {
                prop_assert_eq!(index.get(key), map.get(&key).copied());
            }
        }
    }
}
