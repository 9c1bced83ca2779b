//! UDP (RFC 768): the ports, and whether the lengths fit.

use super::{Malformed, be16};

pub const HEADER: usize = 8;
/// Where the checksum lies, in bytes from the start of the header.
pub const CHECKSUM: usize = 6;

/// Source and destination port of `datagram`, the IP payload without padding. The length field of a first fragment
/// counts the whole datagram, so only its lower bound is checked there.
#[inline]
pub fn ports(datagram: &[u8], is_first_fragment: bool) -> Result<(u16, u16), Malformed> {
    let header: &[u8; HEADER] = datagram.first_chunk().ok_or(Malformed)?;
    let room = if is_first_fragment { usize::MAX } else { datagram.len() };
    if is_whole(header, room, 0) { Ok((be16(header, 0), be16(header, 2))) } else { Err(Malformed) }
}

/// Whether the length field of the header that `bytes` begin with is true within the `room` bytes of a packet, of which others have
/// `before`.
#[inline]
pub fn is_whole<const N: usize>(bytes: &[u8; N], room: usize, before: usize) -> bool {
    let length = usize::from(be16(bytes, 4));
    length >= HEADER && before + length <= room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let ports_with =
            |length: u8, got: usize, first| ports(&[0x30, 0x39, 0, 53, 0, length, 0, 0, b'q'][..got], first);
        assert_eq!(ports_with(9, 9, false), Ok((12345, 53)));
        assert_eq!(ports_with(8, 9, false), Ok((12345, 53)));
        assert_eq!(ports_with(200, 9, true), Ok((12345, 53)));
        for (length, got, first) in [(8, 7, false), (7, 9, false), (7, 9, true), (10, 9, false)] {
            assert_eq!(ports_with(length, got, first), Err(Malformed), "{length} {got}");
        }
    }
}
