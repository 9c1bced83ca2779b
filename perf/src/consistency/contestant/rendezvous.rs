//! Rendezvous hashing by slots: in each slot every backend has a score, the best one owns it (Thaler and Ravishankar, "Using name-based mappings
//! to increase hit rates", ToN 1998; weights: Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005, logarithmic method).

use penstock::maglev;

use crate::consistency::random::{mix, unit};
use crate::consistency::scenario::Number;
use crate::consistency::world::{Backend, World};

/// Slots; GLB's forwarding table has as many rows.
const SLOTS: usize = if cfg!(test) { 1 << 11 } else { 1 << 16 };
const NOBODY: Number = Number::MAX;

/// All backends by slot, the best first, whether they are in use or not.
pub struct Rendezvous {
    ranks: Vec<Number>,
    /// By slot and backend: -ln u. Divided by the weight, the least is the best.
    scores: Vec<f32>,
    weights: Vec<u16>,
}

pub fn slot(hash: u64) -> usize {
    maglev::slot(hash, SLOTS as u32)
}

impl Rendezvous {
    pub fn new(world: &World) -> Self {
        let count = world.backends.len();
        let score = |place: usize| -unit(mix((place % count) as u64 ^ ((place / count) as u64) << 32)).ln() as f32;
        let scores: Vec<f32> = (0..SLOTS * count).map(score).collect();
        let mut ranks: Vec<Number> = (0..SLOTS).flat_map(|_| 0..count as Number).collect();
        let weights: Vec<u16> = world.backends.iter().map(|backend| backend.weight).collect();
        for (ranks, scores) in ranks.chunks_mut(count).zip(scores.chunks(count)) {
            ranks.sort_by(|&one, &other| value(scores, &weights, one).total_cmp(&value(scores, &weights, other)));
        }
        Self { ranks, scores, weights }
    }

    /// After a change of weights.
    pub fn weigh(&mut self, world: &World) {
        let count = self.weights.len();
        for (number, backend) in world.backends.iter().enumerate().filter(|(_, backend)| backend.weight > 0) {
            if std::mem::replace(&mut self.weights[number], backend.weight) == backend.weight {
                continue;
            }
            let number = number as Number;
            for (ranks, scores) in self.ranks.chunks_mut(count).zip(self.scores.chunks(count)) {
                let value = |number| value(scores, &self.weights, number);
                let Some(from) = ranks.iter().position(|&other| other == number) else { continue };
                ranks[from..].rotate_left(1);
                let to = ranks[..count - 1].partition_point(|&other| value(other) < value(number));
                ranks[to..].rotate_right(1);
            }
        }
    }

    /// The best and the second of some backends, by slot.
    pub fn best(&self, world: &World, is: impl Fn(&Backend) -> bool) -> Vec<[Number; 2]> {
        let is: Vec<bool> = world.backends.iter().map(is).collect();
        let best = |ranks: &[Number]| {
            let mut best = ranks.iter().copied().filter(|&number| is[usize::from(number)]);
            [(); 2].map(|()| best.next().unwrap_or(NOBODY))
        };
        self.ranks.chunks(is.len()).map(best).collect()
    }
}

fn value(scores: &[f32], weights: &[u16], number: Number) -> f32 {
    scores[usize::from(number)] / f32::from(weights[usize::from(number)])
}

/// As an answer: nobody is `None`.
pub fn somebody(number: Number) -> Option<Number> {
    (number != NOBODY).then_some(number)
}
