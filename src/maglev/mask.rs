//! The mask: members that may take nothing (draining, down, failed checks) give their slots to others.
//!
//! A masked owner's slot takes the owner of another slot of the same table, drawn at random by the slot's number: so the
//! shares follow the weights, no other slot moves, the slots return exactly when the mask goes, and the result does not
//! depend on history.

use super::siphash::SelectionHash;
use super::{NOBODY, slot as slot_of};

/// Redraws before the search goes on slot by slot.
const REDRAWS: u32 = 64;

/// `owners` with the slots of members for which `is_masked` redrawn; [`NOBODY`] everywhere if nobody is left.
pub fn masked(owners: &[u16], is_masked: impl Fn(u16) -> bool, hash: &SelectionHash) -> Vec<u16> {
    let size = owners.len();
    if owners.iter().all(|&owner| is_masked(owner)) {
        return vec![NOBODY; size];
    }
    let redraw = |slot: usize| {
        let drawn = (1..=REDRAWS).map(|attempt| owners[slot_of(hash.redraw(slot as u32, attempt), size as u32)]);
        let upwards = (1..size).map(|step| owners[(slot + step) % size]);
        drawn.chain(upwards).find(|&owner| !is_masked(owner)).unwrap_or(NOBODY)
    };
    owners.iter().enumerate().map(|(slot, &owner)| if is_masked(owner) { redraw(slot) } else { owner }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Member, table};
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn made(weights: &[u16], size: u32, seed: [u8; 16]) -> (Vec<u16>, SelectionHash) {
        let hash = SelectionHash::new(seed);
        let address = |k| Ipv4Addr::from_bits(k).into();
        let members: Vec<_> = weights
            .iter()
            .zip(1u32..)
            .map(|(&weight, k)| Member { address: address(k), port: Some(80), weight })
            .collect();
        (table(&members, size, &hash), hash)
    }

    #[test]
    fn all_masked_leaves_nobody() {
        let (owners, hash) = made(&[1, 1], 1009, [0; 16]);
        assert!(masked(&owners, |_| true, &hash).iter().all(|&owner| owner == NOBODY));
        assert!(masked(&[], |_| true, &hash).is_empty());
    }

    #[test]
    fn the_slots_of_a_masked_member_are_shared_out_by_weight() {
        let (owners, hash) = made(&[100, 100, 200, 400], 65537, [7; 16]);
        let now = masked(&owners, |owner| owner == 3, &hash);
        for (owner, share) in [(0, 0.25), (1, 0.25), (2, 0.5)] {
            let got = now.iter().filter(|&&o| o == owner).count() as f64 / 65537.0;
            assert!((got - share).abs() < 0.01, "member {owner} has {got} of the slots, its share is {share}");
        }
    }

    proptest! {
        #[test]
        fn only_masked_slots_move_and_only_to_the_unmasked(
            weights in proptest::collection::vec(1u16..9, 2..20), seed: [u8; 16], mask: u32,
        ) {
            let (owners, hash) = made(&weights, 1009, seed);
            let is_masked = |owner: u16| mask >> owner & 1 != 0;
            prop_assume!((0..weights.len() as u16).any(|owner| !is_masked(owner)));
            let now = masked(&owners, is_masked, &hash);
            for (&before, &after) in owners.iter().zip(&now) {
                prop_assert!(!is_masked(after));
                prop_assert!(is_masked(before) || before == after);
            }
        }

        /// What a slot gets follows from who is masked now: a second mask moves only what it covers.
        #[test]
        fn a_second_mask_moves_only_what_it_covers(
            weights in proptest::collection::vec(1u16..9, 3..20), seed: [u8; 16], one: u32, two: u32,
        ) {
            let (owners, hash) = made(&weights, 1009, seed);
            prop_assume!((0..weights.len()).any(|owner| (one | two) >> owner & 1 == 0));
            let first = masked(&owners, |owner| one >> owner & 1 != 0, &hash);
            let both = masked(&owners, |owner| (one | two) >> owner & 1 != 0, &hash);
            for (&before, &after) in first.iter().zip(&both) {
                prop_assert!(before == after || two >> before & 1 != 0);
            }
        }

        #[test]
        fn with_few_left_the_search_still_ends(seed: [u8; 16], left in 0u16..600) {
            let (owners, hash) = made(&[1; 600], 1009, seed);
            prop_assert!(masked(&owners, |owner| owner != left, &hash).iter().all(|&owner| owner == left));
        }
    }
}
