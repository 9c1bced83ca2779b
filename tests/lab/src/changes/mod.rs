//! The lab under load: thousands of connections, while backends come and go, weights change and the node starts again. No connection may
//! break or be answered by another backend, no request may fail, and new flows must go by the weights.

mod dice;
mod events;
mod fleet;
mod memory;
mod shares;
mod soak;
mod table;
mod trial;

use anyhow::Result;

pub use dice::Dice;

use crate::in_lab;
use crate::process::output;

/// Behind the router; the services begin with fewer.
const BACKENDS: usize = 8;

/// `make lab-changes`: some two minutes.
pub fn changes(dice: Dice) -> Result<bool> {
    allow_many_files()?;
    in_lab("Penstock: thousands of connections, and everything around them changes", BACKENDS, |lab, story| {
        events::play(lab, story, dice);
    })
}

/// `make lab-soak`.
pub fn soak(minutes: f64) -> Result<bool> {
    allow_many_files()?;
    in_lab(&format!("Penstock: random changes under load, for {minutes} minutes"), BACKENDS, |lab, story| {
        soak::play(lab, story, minutes, Dice::of_now());
    })
}

/// For the crowd and for each nginx, which inherit it.
fn allow_many_files() -> Result<()> {
    let process = std::process::id().to_string();
    output(std::process::Command::new("prlimit").args(["--pid", &process, "--nofile=16384:16384"])).map(drop)
}
