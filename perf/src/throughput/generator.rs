//! Who sends: one trait for all of them.

use super::trial::Generated;
use crate::traffic::Kind;

/// A generator of traffic, connected to the forwarder.
pub trait Generator {
    /// What it is, for the report.
    fn name(&self) -> String;

    /// Makes ready to send this.
    fn load(&mut self, kind: Kind) -> anyhow::Result<()>;

    /// Sends at `rate` frames a second for `seconds`, goes on receiving for `wait` seconds, and says what it counted.
    fn trial(&mut self, rate: f64, seconds: f64, wait: f64) -> anyhow::Result<Generated>;

    /// Whether it can send at any rate; else at its own only, and there is nothing to search.
    fn has_rate(&self) -> bool {
        true
    }
}
