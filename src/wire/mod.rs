//! Header views over bytes: lengths are checked once, nothing fails after.

pub mod checksum;
pub mod ethernet;
mod frame;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod quic;
pub mod tcp;
pub mod udp;

pub use frame::Frame;
pub use mac::{Mac, ParseMacError};

/// Lengths in a packet that cannot be true, or bytes that its headers promise and the capture lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

/// The two bytes at `at`, in network order. Inlined into constant offsets of arrays, where no check remains.
#[inline(always)]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The eight bytes at `at` as one word, the first lowest: for what is looked at in one go. Sums of such words are sums of
/// swapped ones (RFC 1071, section 2 B).
#[inline(always)]
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|k| bytes[at + k]))
}

/// The same of two bytes.
#[inline(always)]
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(chunk(bytes, at))
}

/// All at once: byte by byte is not always found to be one load.
#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let chunk: &[u8; N] = bytes[at..].first_chunk().expect("within the bytes");
    *chunk
}

/// The four bytes at `at`, in network order.
#[inline(always)]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
