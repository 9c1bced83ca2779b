//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! All sums are of 16-bit words in network order, as numbers, but where it says otherwise.

use super::le16;

/// How a checksum changes when words under it change: the folded sum of `!old + new` over those words.
///
/// Deltas of independent changes add up, so what is known before a packet (an address, a port) is summed once.
///
/// (With the bytes of its words swapped, like those of the sums that it is added to when they are read as they lie in memory: RFC 1071,
/// section 2 B.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// One word of 16 bits in place of another, as numbers.
    pub const fn word(old: u16, new: u16) -> Self {
        Self(fold(!old as u32 + new as u32).swap_bytes())
    }

    /// The same of 32 bits.
    pub const fn double_word(old: u32, new: u32) -> Self {
        let old = !old;
        Self(fold((old >> 16) + (old & 0xffff) + (new >> 16) + (new & 0xffff)).swap_bytes())
    }

    /// Both changes.
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// That of the change undone.
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The checksum `sum`, a number, after the change; never 0xffff where `sum` was right (RFC 1624, section 3).
    #[inline]
    pub const fn patched(self, sum: u16) -> u16 {
        self.after(sum.swap_bytes()).swap_bytes()
    }

    /// The same of a little-endian word.
    #[inline(always)]
    const fn after(self, sum: u16) -> u16 {
        !fold(!sum as u32 + self.0 as u32)
    }

    /// Puts [`Delta::patched`] in place of the checksum at `at`.
    #[inline(always)]
    pub fn patch(self, bytes: &mut [u8], at: usize) {
        let sum = self.after(le16(bytes, at));
        bytes[at..][..2].copy_from_slice(&sum.to_le_bytes());
    }

    /// As [`Delta::patch`] for UDP (RFC 768): "none" (0) stays none, and a sum that comes out as 0 is sent as 0xffff.
    #[inline(always)]
    pub fn patch_udp(self, bytes: &mut [u8], at: usize) {
        let sum = match le16(bytes, at) {
            0 => return,
            sum => self.after(sum),
        };
        let sum = if sum == 0 { 0xffff } else { sum };
        bytes[at..][..2].copy_from_slice(&sum.to_le_bytes());
    }
}

/// A 32-bit sum of words brought back to 16 bits with end-around carry.
#[inline]
pub const fn fold(sum: u32) -> u16 {
    // The upper half of this sum is that of both halves, and the carry out of the lower one.
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The sum of two such sums, with end-around carry.
#[inline]
pub const fn add(sum: u32, more: u32) -> u32 {
    let (sum, carry) = sum.overflowing_add(more);
    sum + carry as u32
}

/// As [`fold`], from 64 bits.
#[inline]
pub const fn fold_wide(sum: u64) -> u16 {
    fold((sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32)
}

/// Whether a sum of words, of any width and byte order, folds to 0xffff, as that over a right checksum does.
#[inline]
pub const fn is_all_ones(sum: u64) -> bool {
    // A multiple of 2^16 - 1 that is not zero. A multiple of an odd number is what its inverse modulo 2^64 takes to the
    // quotient (Warren, Hacker's Delight, 10-17).
    const MODULUS: u64 = 0xffff;
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(MODULUS.wrapping_mul(INVERSE) == 1) }
    sum.wrapping_mul(INVERSE) <= u64::MAX / MODULUS && sum != 0
}

/// The one's complement sum of `bytes`, an odd last byte padded with zero. Not yet complemented.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // Carries of 32-bit words gather in the upper half and fold in at the end: 2^32 words before it could overflow.
    let mut words = bytes.chunks_exact(4);
    let mut total: u64 =
        words.by_ref().map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_be_bytes(last));
    fold_wide(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 4.1, word by word.
    fn obvious(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: 0xdd2f, a word goes from 0x5555 to 0x3285; equation 3 gives 0x0000, not 0xffff.
        assert_eq!(Delta::word(0x5555, 0x3285).patched(0xdd2f), 0x0000);
    }

    #[test]
    fn udp_none_stays_none_and_a_computed_zero_is_all_ones() {
        let delta = Delta::word(0x5555, 0x3285);
        let mut sums = [0, 0, 0xdd, 0x2f, 0xdd, 0x2f];
        delta.patch_udp(&mut sums, 0);
        delta.patch_udp(&mut sums, 2);
        delta.patch(&mut sums, 4);
        assert_eq!(sums, [0, 0, 0xff, 0xff, 0, 0]);
    }

    proptest! {
        #[test]
        fn the_sum_is_the_obvious_sum(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sum(&bytes), obvious(&bytes));
        }

        #[test]
        fn a_patched_sum_is_the_sum_of_the_patched(mut bytes: [u8; 24], at in 0usize..5, word: u32, half: u16) {
            let before = !sum(&bytes);
            let old = super::super::be32(&bytes, at * 4);
            let old_half = super::super::be16(&bytes, 20);
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
            bytes[20..22].copy_from_slice(&half.to_be_bytes());
            let delta = Delta::double_word(old, word).and(Delta::word(old_half, half));
            let (patched, after) = (delta.patched(before), !sum(&bytes));
            let mut field = before.to_be_bytes();
            delta.patch(&mut field, 0);
            prop_assert_eq!(field, patched.to_be_bytes());
            prop_assert!(patched == after || (patched % 0xffff == 0 && after % 0xffff == 0), "{patched:04x} {after:04x}");
        }
    }
}
