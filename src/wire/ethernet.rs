//! Ethernet II (IEEE 802.3, clause 3): destination, source, EtherType.

use super::{Mac, be16};

/// Bytes of a header without tags.
pub const HEADER: usize = 14;
/// The shortest frame that leaves a station, without its check sequence.
pub const MINIMUM: usize = 60;

/// EtherTypes (IANA, IEEE 802 Numbers).
pub const IPV4: u16 = 0x0800;

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
}
