//! What an lcore remembers of flows: the translations of `snat`.

mod nat;
mod sources;

pub use nat::{Address, By, Ends, Key, Nat, Seconds, Slot, Table, Translation, Via};
pub use sources::Sources;
