//! Weights in, table out (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4), and the mask of members that may take nothing.
//!
//! Everything here is a pure function of the members, their weights, the size and the seed: the same on every node, in
//! whatever order the members came. `docs/selection.md` has test vectors; a fleet of mixed versions relies on them.

mod mask;
mod siphash;
mod table;

pub use mask::masked;
pub use siphash::{Client, ClientV6, SelectionHash};
pub use table::{Member, is_prime, table};

/// The slot value "no member may take this".
pub const NOBODY: u16 = u16::MAX;

/// The slot of `hash` in a table of `size` slots: the hash's upper half, scaled.
#[inline]
pub fn slot(hash: u64, size: u32) -> usize {
    (((hash >> 32) * u64::from(size)) >> 32) as usize
}
