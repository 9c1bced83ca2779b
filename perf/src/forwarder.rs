//! A program that forwards on the rig, and has the core only while it is its turn.

use std::time::Duration;

use crate::interrupt;
use crate::process::Process;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Packets a second of the polling thread on its core.
    pub pps: f64,
    /// The share of the time in which the polling thread did not have its core.
    pub off_core: f64,
}

impl Rate {
    /// From packets a second by the clock.
    pub fn new(pps: f64, off_core: f64) -> Self {
        Self { pps: pps / (1.0 - off_core).max(f64::EPSILON), off_core }
    }
}

pub trait Forwarder {
    fn process(&mut self) -> &mut Process;

    /// The rate over the next `duration`.
    fn rate(&mut self, duration: Duration) -> anyhow::Result<Rate>;

    /// Notes what it has done so far, if it says so: `end` looks at what it did since the first time.
    fn note(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Ends it. Fails where it did not do with every packet what it should.
    fn end(self: Box<Self>) -> anyhow::Result<()>;
}

/// How long a turn is: the caches fill, then it counts.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub warm_up: Duration,
    pub counted: Duration,
}

impl Turn {
    /// Lets one that is held go on for a turn, and holds it again.
    pub fn give(self, forwarder: &mut dyn Forwarder) -> anyhow::Result<Rate> {
        forwarder.process().go_on()?;
        interrupt::sleep(self.warm_up)?;
        let rate = forwarder.rate(self.counted)?;
        forwarder.process().hold()?;
        Ok(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_half_a_core_is_half_as_fast_by_the_clock() {
        assert_eq!(Rate::new(10e6, 0.5).pps, 20e6);
        assert_eq!(Rate::new(10e6, 0.0).pps, 10e6);
    }
}
