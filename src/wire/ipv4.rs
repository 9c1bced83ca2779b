//! IPv4 (RFC 791): a view over the fixed part of a header, and the checks of the rest.

use std::net::Ipv4Addr;

use super::{Malformed, be16, be32, checksum, le64};

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// Protocol numbers (IANA).
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;
}

/// Where each field lies, in bytes from the start of the header.
pub mod field {
    pub const TOS: usize = 1;
    pub const TOTAL_LENGTH: usize = 2;
    pub const IDENTIFICATION: usize = 4;
    pub const FLAGS: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SOURCE: usize = 12;
    pub const DESTINATION: usize = 16;
}

/// "Don't fragment", in the word at [`field::FLAGS`].
pub const DF: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Any of these bits: of a fragment, the first too.
const ANY_FRAGMENT: u16 = MORE_FRAGMENTS | FRAGMENT_OFFSET;

/// The fixed part of a header. What it says of lengths is not checked until [`Ipv4::lengths`] is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a>(&'a [u8; HEADER]);

/// Lengths of a packet that fit together and into what was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Bytes of the header, options included: 20 to 60.
    pub header: usize,
    /// Bytes of header and payload.
    pub total: usize,
}

impl<'a> From<&'a [u8; HEADER]> for Ipv4<'a> {
    #[inline]
    fn from(header: &'a [u8; HEADER]) -> Self {
        Self(header)
    }
}

impl<'a> Ipv4<'a> {
    /// `None` where `packet` is shorter than a header.
    #[inline]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        packet.first_chunk().map(Self)
    }

    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(be32(self.0, field::SOURCE))
    }

    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(be32(self.0, field::DESTINATION))
    }

    #[inline]
    pub fn protocol(&self) -> u8 {
        self.0[field::PROTOCOL]
    }

    #[inline]
    pub fn ttl(&self) -> u8 {
        self.0[field::TTL]
    }

    #[inline]
    pub fn tos(&self) -> u8 {
        self.0[field::TOS]
    }

    #[inline]
    pub fn total_length(&self) -> u16 {
        be16(self.0, field::TOTAL_LENGTH)
    }

    #[inline]
    pub fn header_checksum(&self) -> u16 {
        be16(self.0, field::CHECKSUM)
    }

    #[inline]
    pub fn identification(&self) -> u16 {
        be16(self.0, field::IDENTIFICATION)
    }

    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags() & DF != 0
    }

    /// Bytes of the header as it says itself, unchecked.
    #[inline]
    pub fn header_length(&self) -> usize {
        usize::from(self.0[0] & 0xf) * 4
    }

    /// Part of a fragmented packet, the first part included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags() & ANY_FRAGMENT != 0
    }

    /// A part without the transport header.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.flags() & FRAGMENT_OFFSET != 0
    }

    /// Checks version, header length and total length against the `captured` bytes from the header on; padding behind
    /// the packet is allowed.
    #[inline]
    pub fn lengths(&self, captured: usize) -> Result<Lengths, Malformed> {
        let (version, header) = (self.0[0] >> 4, self.header_length());
        let total = usize::from(self.total_length());
        if version == 4 && header >= HEADER && header <= total && total <= captured {
            Ok(Lengths { header, total })
        } else {
            Err(Malformed)
        }
    }

    /// Whether the checksum over the header verifies; `options` are the header's bytes behind the fixed part.
    #[inline]
    pub fn checksum_verifies(&self, options: &[u8]) -> bool {
        checksum::fold(u32::from(checksum::sum(self.0)) + u32::from(checksum::sum(options))) == 0xffff
    }

    #[inline]
    fn flags(&self) -> u16 {
        be16(self.0, field::FLAGS)
    }
}

/// A header without options, with the four bytes behind it (the ports of TCP and UDP), as three little-endian words. What is asked for by
/// itself is loaded by itself, which costs less than to take it out of a word.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    total_length: u16,
    protocol: u8,
    /// The first of the source.
    octet: u8,
    /// Version to fragment offset.
    first: u64,
    /// TTL to source.
    second: u64,
    /// Destination and ports.
    third: u64,
}

impl Plain {
    /// Bytes looked at.
    pub const LENGTH: usize = HEADER + 4;
    /// Of the first word, what a fragment has any bit of.
    pub const FRAGMENT: u64 = {
        let [high, low] = ANY_FRAGMENT.to_be_bytes();
        u64::from_le_bytes([0, 0, 0, 0, 0, 0, high, low])
    };

    /// `None` where `bytes` begin with anything but version 4 and a header without options.
    #[inline(always)]
    pub fn of(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        if bytes[0] != 0x45 {
            return None;
        }
        let total_length = be16(bytes, field::TOTAL_LENGTH);
        let (protocol, octet) = (bytes[field::PROTOCOL], bytes[field::SOURCE]);
        let [first, second, third] = [0, 8, 16].map(|at| le64(bytes, at));
        Some(Self { total_length, protocol, octet, first, second, third })
    }

    #[inline(always)]
    pub fn total_length(&self) -> u16 {
        self.total_length
    }

    /// Any fragment, the first too.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.first & Self::FRAGMENT != 0
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// As [`may_be_martian`] says of its source.
    #[inline(always)]
    pub fn may_be_martian(&self) -> bool {
        MAY_BE_MARTIAN[usize::from(self.octet)]
    }

    /// Whether the checksum over the header verifies. A one's complement sum may be taken in words of any width and byte
    /// order (RFC 1071, section 2).
    #[inline(always)]
    pub fn checksum_verifies(&self) -> bool {
        let (sum, carry) = self.first.overflowing_add(self.second);
        let (sum, carry) = (sum + u64::from(carry)).overflowing_add(self.third & 0xffff_ffff);
        checksum::is_all_ones(sum + u64::from(carry))
    }

    /// From the TTL to the ports, in the order of their bytes, the lowest first.
    #[inline(always)]
    pub fn tuple(&self) -> u128 {
        u128::from(self.third) << 64 | u128::from(self.second)
    }
}

/// Whether `options` hold a loose or strict source route (RFC 791, section 3.1; RFC 7126, section 4.3 and 4.4).
pub fn is_source_routed(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LSRR: u8 = 131;
    const SSRR: u8 = 137;
    loop {
        options = match *options {
            [] | [END, ..] => return false,
            [LSRR | SSRR, ..] => return true,
            [NOP, ..] => &options[1..],
            // A length below 2 or beyond the header ends the reading: nothing behind it could be told apart.
            [_, length, ..] if length >= 2 => match options.get(usize::from(length)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        };
    }
}

/// A source address that no client can have: "this network", loopback, multicast, broadcast (RFC 1122, section 3.2.1.3).
pub fn is_martian_source(source: Ipv4Addr) -> bool {
    may_be_martian(source) && (source.octets()[0] < 240 || source == Ipv4Addr::BROADCAST)
}

/// Whether the first octet is one of a martian's, for which one look suffices.
pub fn may_be_martian(source: Ipv4Addr) -> bool {
    MAY_BE_MARTIAN[usize::from(source.octets()[0])]
}

/// By the first octet.
const MAY_BE_MARTIAN: [bool; 256] = {
    let mut may_be = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        may_be[octet] = matches!(octet, 0 | 127 | 224..);
        octet += 1;
    }
    may_be
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lengths_are_refused() {
        let mut bytes = [0u8; 24];
        let mut lengths = |first: u8, total: u16, captured| {
            bytes[0] = first;
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            Ipv4::of(&bytes).unwrap().lengths(captured)
        };
        assert_eq!(lengths(0x45, 20, 20), Ok(Lengths { header: 20, total: 20 }));
        assert_eq!(lengths(0x46, 24, 46), Ok(Lengths { header: 24, total: 24 }));
        for (first, total, captured) in [(0x65, 20, 20), (0x44, 20, 20), (0x46, 23, 24), (0x45, 21, 20), (0x45, 19, 20)]
        {
            assert_eq!(lengths(first, total, captured), Err(Malformed), "{first:#x} {total} {captured}");
        }
        assert!(Ipv4::of(&[0; 19]).is_none());
    }

    #[test]
    fn source_routes_are_found_among_other_options() {
        for (options, routed) in [
            (&[][..], false),
            (&[131, 3, 4, 0], true),
            (&[137, 3, 4, 0], true),
            (&[1, 1, 131, 3], true),
            (&[7, 3, 4, 131, 3, 4, 0, 0], true),
            (&[7, 4, 131, 137], false),
            (&[0, 131, 3, 4], false),
            (&[68, 0, 131, 3], false),
            (&[68, 1, 131, 3], false),
            (&[68, 40, 131, 3], false),
            (&[68], false),
        ] {
            assert_eq!(is_source_routed(options), routed, "{options:?}");
        }
    }

    #[test]
    fn martians() {
        for (address, martian) in [
            ([0, 1, 2, 3], true),
            ([127, 0, 0, 1], true),
            ([224, 0, 0, 1], true),
            ([239, 255, 255, 255], true),
            ([255, 255, 255, 255], true),
            ([10, 0, 0, 1], false),
            ([100, 64, 0, 1], false),
            ([169, 254, 0, 1], false),
            ([192, 0, 2, 1], false),
            ([240, 0, 0, 1], false),
        ] {
            assert_eq!(is_martian_source(address.into()), martian, "{address:?}");
        }
    }
}
