//! What lcores know of flows: the translations of `snat` and the sources that these have, which flows of `dnat-dsr` an lcore has seen begin,
//! to which lcore a NIC deals them, and where the clients of `source-ip` affinity went.

mod begun;
mod clients;
mod dealing;
mod memory;
mod nat;
mod rule;
mod sources;
mod table;

pub use begun::{Begun, Mark};
pub use clients::{Client, ClientSpot, Clients};
pub use dealing::Dealing;
pub use memory::{Memory, prefetch};
pub use nat::{Address, Ends, Head, KeyV4, Nat, Seconds, Slot, Table, Translation, Via};
pub use rule::{Choice, Fate, Goes, Judging, Known, Says};
pub use sources::Sources;
pub use table::{
    Bucket, Flow, Flows, Home, Inserted, Judge, Marks, Place, Remembered, Spot, Spots, Stage, Worth, Young,
};

/// What [`fold`] is keyed by: a seed of few bits, as replay has, must do as well as a secret.
const fn key(seed: [u64; 2]) -> [u64; 2] {
    // The fractions of the square roots of 2 and 3.
    [seed[0] ^ 0x6a09_e667_f3bc_c909, seed[1] ^ 0xbb67_ae85_84ca_a73b]
}

/// Both halves of a product, folded together: every bit of it depends on all of both (as in wyhash and rapidhash).
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}
