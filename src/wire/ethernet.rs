//! Ethernet II (IEEE 802.3, clause 3): destination, source, EtherType.

use super::{Mac, be16};

/// Bytes of a header without tags.
pub const HEADER: usize = 14;
/// The shortest frame that leaves a station, without its check sequence.
pub const MINIMUM: usize = 60;

/// Bytes of a tag.
pub const TAG: usize = 4;

/// EtherTypes (IANA, IEEE 802 Numbers).
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const SERVICE_VLAN: u16 = 0x88a8;

/// The header of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Ethernet<'a>(&'a [u8; HEADER]);

impl<'a> From<&'a [u8; HEADER]> for Ethernet<'a> {
    #[inline]
    fn from(header: &'a [u8; HEADER]) -> Self {
        Self(header)
    }
}

impl<'a> Ethernet<'a> {
    /// `None` where `frame` is shorter than a header.
    #[inline]
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        frame.first_chunk().map(Self)
    }

    #[inline]
    pub fn destination(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = *self.0;
        Mac([a, b, c, d, e, f])
    }

    /// As [`Mac::bits`].
    #[inline]
    pub fn destination_bits(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) << 16
    }

    #[inline]
    pub fn source(&self) -> Mac {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.0;
        Mac([a, b, c, d, e, f])
    }

    #[inline]
    pub fn ether_type(&self) -> u16 {
        be16(self.0, 12)
    }
}

/// What stands in front of a frame's payload, tags (IEEE 802.1Q) included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Bytes of header and tags.
    pub length: usize,
    /// Of the payload.
    pub ether_type: u16,
    /// The outer tag's priority (PCP), 0 to 7; 0 without one.
    pub priority: u8,
}

impl Link {
    /// Reads a frame's header and up to two tags. `None` where the frame is shorter than they are.
    #[inline]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut link = Self { length: HEADER, ether_type: Ethernet::of(frame)?.ether_type(), priority: 0 };
        for depth in 0..2 {
            if !matches!(link.ether_type, VLAN | SERVICE_VLAN) {
                break;
            }
            let tag: &[u8; TAG] = frame.get(link.length..)?.first_chunk()?;
            if depth == 0 {
                link.priority = tag[0] >> 5;
            }
            link.ether_type = be16(tag, 2);
            link.length += TAG;
        }
        Some(link)
    }
}

/// A header as bytes.
pub fn header(destination: Mac, source: Mac, ether_type: u16) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..6].copy_from_slice(&destination.0);
    bytes[6..12].copy_from_slice(&source.0);
    bytes[12..].copy_from_slice(&ether_type.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let bytes = header(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]), IPV4);
        let view = Ethernet::of(&bytes).unwrap();
        assert_eq!(
            (view.destination_bits(), view.destination().bits()),
            (0x0100_0000_0002_0000, 0x0100_0000_0002_0000)
        );
        assert_eq!((view.destination().0[5], view.source().0[5], view.ether_type()), (1, 2, IPV4));
        assert!(Ethernet::of(&bytes[..13]).is_none());
    }

    #[test]
    fn up_to_two_tags_are_read() {
        let frame = |rest: &[u8]| [&[2; 12][..], rest].concat();
        let link = |length, ether_type, priority| Some(Link { length, ether_type, priority });
        assert_eq!(Link::of(&frame(&[8, 0])), link(14, IPV4, 0));
        assert_eq!(Link::of(&frame(&[0x81, 0, 0xa0, 7, 8, 0])), link(18, IPV4, 5));
        assert_eq!(Link::of(&frame(&[0x88, 0xa8, 0x60, 7, 0x81, 0, 0xe0, 1, 0x86, 0xdd])), link(22, IPV6, 3));
        assert_eq!(Link::of(&frame(&[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 8, 0])), link(22, VLAN, 0));
        assert_eq!(Link::of(&frame(&[0x81, 0, 0xa0, 7, 8])), None);
        assert_eq!(Link::of(&[2; 13]), None);
    }
}
