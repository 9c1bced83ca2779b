//! What an lcore remembers of flows: the translations of `snat`.

mod nat;
mod sources;

pub use nat::{Address, Ends, Head, KeyV4, Nat, Seconds, Slot, Table, Translation, Via};
pub use sources::Sources;
