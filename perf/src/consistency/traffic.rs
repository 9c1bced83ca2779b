//! The flows: when they come, how long they live, when they speak. The same for every contestant, whatever that does with them.

use super::random::{Random, mix, unit};
use super::time::Tick;

/// What the flows are like.
#[derive(Debug, Clone)]
pub struct Traffic {
    pub flows: u64,
    pub duration: Tick,
    /// No flow is silent for so long.
    pub idle: Tick,
}

/// A flow that comes.
#[derive(Debug, Clone, Copy)]
pub struct Birth {
    pub hash: u64,
    pub at: Tick,
    pub end: Tick,
}

/// How much busier or calmer the busiest and the calmest hour are than the mean.
const SWING: f64 = 0.4;

impl Traffic {
    /// All flows, in order.
    pub fn births(&self, seed: u64) -> impl Iterator<Item = Birth> + use<> {
        let mut random = Random::new(seed, 1);
        let (flows, duration) = (self.flows, f64::from(self.duration.0));
        let mut at = 0.0;
        std::iter::from_fn(move || {
            let busy = 1.0 - SWING * (std::f64::consts::TAU * at / duration).cos();
            at += random.exponential(duration / flows as f64 / busy);
            let born = Tick(at as u32);
            let end = born + Tick::of(lifetime(&mut random).max(0.2));
            Some(Birth { hash: random.word(), at: born, end })
        })
        .take_while(move |birth| f64::from(birth.at.0) < duration)
    }

    /// Flows that are alive at a time, in the mean.
    pub fn live(&self) -> f64 {
        const DRAWN: u32 = 1 << 18;
        let mut random = Random::new(0, 4);
        // What outlives the run does not count beyond it.
        let most = f64::from(self.duration.as_seconds()) / 2.0;
        let mean = (0..DRAWN).map(|_| lifetime(&mut random).min(most)).sum::<f64>() / f64::from(DRAWN);
        self.flows as f64 / f64::from(self.duration.as_seconds()) * mean
    }

    /// How long a flow is silent after a packet at `now`. A third of them are quiet: a minute and more, up to the idle timeout.
    pub fn silence(&self, hash: u64, now: Tick) -> Tick {
        let at_random = unit(mix(hash ^ u64::from(now.0) << 32));
        let idle = f64::from(self.idle.0);
        let (from, to) = if hash.is_multiple_of(3) { (idle / 15.0, idle * 0.97) } else { (1.0, idle / 15.0) };
        Tick((from + (to - from) * at_random) as u32 + 1)
    }
}

/// Seconds: three of four flows are short (log-normal, median one second); one in five is a transfer or a kept-alive connection (Pareto
/// from 20 s), one in twenty a session (Pareto from 5 min); none is longer than four hours. That the lengths of connections have such tails:
/// Paxson and Floyd, "Wide-area traffic: the failure of Poisson modeling", ToN 1995, sections 3 and 6.
fn lifetime(random: &mut Random) -> f64 {
    const LONGEST: f64 = 4.0 * 3600.0;
    let pareto = |from: f64, shape: f64, random: &mut Random| from / random.unit().powf(1.0 / shape);
    let seconds = match random.below(20) {
        0 => pareto(300.0, 1.2, random),
        1..5 => pareto(20.0, 1.1, random),
        _ => (1.2 * random.normal()).exp(),
    };
    seconds.min(LONGEST)
}
