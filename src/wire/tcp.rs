//! TCP (RFC 9293): the ports, and whether the header is whole.

use super::{Malformed, be16};

pub const HEADER: usize = 20;
/// Where the data offset, the flags and the checksum lie, in bytes from the start of the header.
pub const OFFSET: usize = 12;
pub const FLAGS: usize = 13;
pub const CHECKSUM: usize = 16;

/// Flags.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Source and destination port of `segment`, the IP payload without padding. A first fragment must hold the whole
/// fixed header; what it says of options beyond itself is then not checked.
#[inline]
pub fn ports(segment: &[u8], is_first_fragment: bool) -> Result<(u16, u16), Malformed> {
    let header: &[u8; HEADER] = segment.first_chunk().ok_or(Malformed)?;
    let room = if is_first_fragment { usize::MAX } else { segment.len() };
    if is_whole(header, room, 0) { Ok((be16(header, 0), be16(header, 2))) } else { Err(Malformed) }
}

/// Bytes of the header as it says itself, unchecked.
#[inline]
pub fn header_length(header: &[u8; HEADER]) -> usize {
    usize::from(header[OFFSET] >> 4) * 4
}

/// Whether the header, options included, has a true length within the `room` bytes of a packet, of which others have `before`.
#[inline]
pub fn is_whole(header: &[u8; HEADER], room: usize, before: usize) -> bool {
    let length = header_length(header);
    length >= HEADER && before + length <= room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let mut segment = [0u8; 24];
        segment[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
        let mut ports_with = |offset: u8, length: usize, first| {
            segment[12] = offset << 4;
            ports(&segment[..length], first)
        };
        assert_eq!(ports_with(5, 20, false), Ok((12345, 80)));
        assert_eq!(ports_with(6, 24, false), Ok((12345, 80)));
        assert_eq!(ports_with(6, 20, true), Ok((12345, 80)));
        for (offset, length, first) in [(5, 19, false), (5, 19, true), (4, 20, false), (6, 20, false)] {
            assert_eq!(ports_with(offset, length, first), Err(Malformed), "{offset} {length}");
        }
    }
}
