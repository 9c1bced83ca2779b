//! The outer UDP header of `gue` and `geneve`.
//!
//! The source port is the flow's, from the dynamic range (49152 to 65535), so that the fabric and the receiver spread flows by
//! it (RFC 7510, section 3). The checksum is zero over both families (RFC 6935) unless the service asks for one.

use crate::wire::ipv4::{self, protocol};
use crate::wire::{checksum, ethernet, ipv6, udp};

/// A header with its destination port; the rest depends on the packet.
pub const fn header(port: u16) -> [u8; udp::HEADER] {
    let [high, low] = port.to_be_bytes();
    [0, 0, high, low, 0, 0, 0, 0]
}

/// Completes the header at `at` of the frame, which ends with the packet.
#[inline(always)]
pub fn finish(frame: &mut [u8], at: usize, hash: u64, has_checksum: bool) {
    let length = (frame.len() - at) as u16;
    if let Some(udp) = frame.get_mut(at..).and_then(|tail| tail.first_chunk_mut::<{ udp::HEADER }>()) {
        udp[..2].copy_from_slice(&(0xc000 | hash as u16 & 0x3fff).to_be_bytes());
        udp[4..6].copy_from_slice(&length.to_be_bytes());
    }
    if has_checksum {
        sum(frame, at);
    }
}

/// Puts the checksum (RFC 768) in; its field is zero so far.
fn sum(frame: &mut [u8], at: usize) {
    // The addresses are the last fields of both fixed headers.
    let addresses = if at == ethernet::HEADER + ipv6::HEADER { 32 } else { 8 };
    debug_assert!(addresses == 32 || at == ethernet::HEADER + ipv4::HEADER);
    let length = (frame.len() - at) as u32;
    let parts = [u32::from(checksum::sum(&frame[at - addresses..])), u32::from(protocol::UDP), length];
    let sum = match !checksum::fold(parts.into_iter().sum()) {
        0 => 0xffff,
        sum => sum,
    };
    frame[at + udp::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}
