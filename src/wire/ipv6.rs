//! IPv6 (RFC 8200): a view over the fixed header, and the chain of extension headers behind it.

use std::net::Ipv6Addr;

use super::{Malformed, be16, be32, le64};

/// Bytes of the fixed header.
pub const HEADER: usize = 40;

/// The most extension headers that are read: those of RFC 8200, section 4.1, each as often as it may stand there, and one
/// to spare. A longer chain is malformed.
pub const MOST_EXTENSIONS: usize = 8;

/// Where each field lies, in bytes from the start of the header (RFC 8200, section 3).
pub mod field {
    pub const PAYLOAD_LENGTH: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SOURCE: usize = 8;
    pub const DESTINATION: usize = 24;
}

/// Next-header numbers of extension headers (IANA).
/// Next header values of extension headers (RFC 8200, section 4; RFC 4302).
pub mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// The fixed header. What it says of lengths is not checked until [`Ipv6::total`] is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a>(&'a [u8; HEADER]);

impl<'a> From<&'a [u8; HEADER]> for Ipv6<'a> {
    #[inline]
    fn from(header: &'a [u8; HEADER]) -> Self {
        Self(header)
    }
}

impl<'a> Ipv6<'a> {
    /// `None` where `packet` is shorter than a header.
    #[inline]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        packet.first_chunk().map(Self)
    }

    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        address(self.0, field::SOURCE)
    }

    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        address(self.0, field::DESTINATION)
    }

    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (be16(self.0, 0) >> 4) as u8
    }

    /// 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        be32(self.0, 0) & 0xf_ffff
    }

    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.0[field::HOP_LIMIT]
    }

    #[inline]
    pub fn next_header(&self) -> u8 {
        self.0[field::NEXT_HEADER]
    }

    #[inline]
    pub fn payload_length(&self) -> u16 {
        be16(self.0, field::PAYLOAD_LENGTH)
    }

    /// Bytes of header and payload. Checks version and length against the `captured` bytes from the header on; padding
    /// behind the packet is allowed.
    #[inline]
    pub fn total(&self, captured: usize) -> Result<usize, Malformed> {
        let total = HEADER + usize::from(self.payload_length());
        if self.0[0] >> 4 == 6 && total <= captured { Ok(total) } else { Err(Malformed) }
    }
}

#[inline(always)]
fn address(header: &[u8; HEADER], at: usize) -> Ipv6Addr {
    // In two words: byte by byte it is more than the compiler sees through.
    (u128::from(le64(header, at + 8)) << 64 | u128::from(le64(header, at))).to_le_bytes().into()
}

/// What a fragment header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    pub identification: u32,
    /// Whether it is a part without the beginning.
    pub is_later: bool,
}

/// What stands behind the fixed header and its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// Of what follows the last extension header that was read.
    pub protocol: u8,
    /// Bytes from the start of the packet to it.
    pub offset: usize,
    /// `None`: a whole packet; one that is whole in a single fragment is that too (RFC 6946).
    pub fragment: Option<Fragment>,
    /// A routing header names further stations: the destination is only the next of them.
    pub is_source_routed: bool,
    /// Bytes from the start of the packet to the end of a hop-by-hop header, or of the fixed header; and where the number of
    /// what follows stands.
    pub after_hop_by_hop: usize,
    pub next_header_at: usize,
}

/// Reads the extension headers of `packet`, which has the length that its header says. Stops at a later fragment, whose
/// rest is payload.
pub fn upper(packet: &[u8]) -> Result<Upper, Malformed> {
    let header = Ipv6::of(packet).ok_or(Malformed)?;
    let mut upper = Upper {
        protocol: header.next_header(),
        offset: HEADER,
        fragment: None,
        is_source_routed: false,
        after_hop_by_hop: HEADER,
        next_header_at: field::NEXT_HEADER,
    };
    for count in 0..=MOST_EXTENSIONS {
        let kind = upper.protocol;
        let is_extension = matches!(
            kind,
            extension::HOP_BY_HOP
                | extension::ROUTING
                | extension::FRAGMENT
                | extension::AUTHENTICATION
                | extension::DESTINATION_OPTIONS
        );
        if !is_extension {
            return Ok(upper);
        }
        // Hop-by-hop options stand first or not at all (RFC 8200, section 4.1).
        if count == MOST_EXTENSIONS || (kind == extension::HOP_BY_HOP && count > 0) {
            return Err(Malformed);
        }
        let start: &[u8; 8] = packet.get(upper.offset..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
        let length = match kind {
            extension::FRAGMENT => 8,
            extension::AUTHENTICATION => (usize::from(start[1]) + 2) * 4,
            _ => (usize::from(start[1]) + 1) * 8,
        };
        let next_header_at = upper.offset;
        upper.protocol = start[0];
        upper.offset += length;
        if upper.offset > packet.len() || length < 8 {
            return Err(Malformed);
        }
        match kind {
            extension::HOP_BY_HOP => (upper.after_hop_by_hop, upper.next_header_at) = (upper.offset, next_header_at),
            extension::ROUTING => upper.is_source_routed |= start[3] > 0,
            extension::FRAGMENT => {
                let word = be16(start, 2);
                let (offset, more) = (word >> 3, word & 1 != 0);
                if offset > 0 || more {
                    upper.fragment = Some(Fragment { identification: be32(start, 4), is_later: offset > 0 });
                }
                if offset > 0 {
                    return Ok(upper);
                }
            }
            _ => {}
        }
    }
    Err(Malformed)
}

/// A source address that no client can have: unspecified, loopback, multicast (RFC 4291, section 2.5 and 2.7).
pub fn is_martian_source(source: Ipv6Addr) -> bool {
    source.is_unspecified() || source.is_loopback() || source.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
        bytes.extend([0x20; 16]);
        bytes.extend([0x30; 16]);
        bytes.extend(rest);
        bytes
    }

    fn found(next: u8, rest: &[u8]) -> Option<(u8, usize)> {
        upper(&packet(next, rest)).ok().map(|upper| (upper.protocol, upper.offset))
    }

    #[test]
    fn the_fixed_header_reads_back() {
        let mut bytes = packet(17, &[0; 8]);
        bytes[..4].copy_from_slice(&[0x6a, 0xb1, 0x23, 0x45]);
        let view = Ipv6::of(&bytes).unwrap();
        assert_eq!((view.traffic_class(), view.flow_label(), view.hop_limit()), (0xab, 0x1_2345, 64));
        assert_eq!((view.total(48), view.total(47)), (Ok(48), Err(Malformed)));
        assert_eq!((view.source().octets(), view.destination().octets()), ([0x20; 16], [0x30; 16]));
        bytes[0] = 0x4a;
        assert_eq!(Ipv6::of(&bytes).unwrap().total(48), Err(Malformed));
        assert!(Ipv6::of(&bytes[..39]).is_none());
    }

    #[test]
    fn extensions_are_stepped_over() {
        assert_eq!(found(6, &[0; 20]), Some((6, 40)));
        assert_eq!(found(0, &[17, 0, 1, 4, 0, 0, 0, 0]), Some((17, 48)));
        assert_eq!(found(60, &[[60, 1].as_slice(), &[0; 14], &[6, 0, 1, 4, 0, 0, 0, 0]].concat()), Some((6, 64)));
        // Authentication counts words of four bytes, less two (RFC 4302).
        assert_eq!(found(51, &[[17, 4].as_slice(), &[0; 22]].concat()), Some((17, 64)));
        // Nothing follows, or what nobody reads: the upper layer is that.
        assert_eq!(found(59, &[]), Some((59, 40)));
        assert_eq!(found(50, &[0; 16]), Some((50, 40)));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(found(0, &[17, 0, 1, 4]), None, "half an extension");
        assert_eq!(found(0, &[17, 1, 1, 4, 0, 0, 0, 0]), None, "longer than the packet");
        assert_eq!(found(60, &[[0, 0].as_slice(), &[0; 6], &[6, 0], &[0; 6]].concat()), None, "hop-by-hop, second");
        let chain = |count: usize| -> Vec<u8> {
            (0..count).flat_map(|k| [if k + 1 == count { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]).collect()
        };
        assert_eq!(found(60, &chain(MOST_EXTENSIONS)), Some((6, 40 + 8 * MOST_EXTENSIONS)));
        assert_eq!(found(60, &chain(MOST_EXTENSIONS + 1)), None);
    }

    #[test]
    fn fragments() {
        let of = |word: u16| {
            let [a, b] = word.to_be_bytes();
            upper(&packet(44, &[17, 0, a, b, 1, 2, 3, 4, 0, 0])).unwrap()
        };
        assert_eq!((of(0).fragment, of(0).offset), (None, 48));
        let fragment = |is_later| Some(Fragment { identification: 0x0102_0304, is_later });
        assert_eq!((of(1).fragment, of(8).fragment, of(9).fragment), (fragment(false), fragment(true), fragment(true)));
        // What follows a later fragment's header is payload, whatever its number.
        let later = upper(&packet(44, &[60, 0, 0, 8, 0, 0, 0, 1, 0xff])).unwrap();
        assert_eq!((later.protocol, later.offset), (60, 48));
    }

    #[test]
    fn routing_headers_with_stations_left() {
        let of = |left| upper(&packet(43, &[6, 0, 0, left, 0, 0, 0, 0])).unwrap().is_source_routed;
        assert_eq!((of(0), of(1)), (false, true));
    }

    #[test]
    fn martians() {
        let is = |text: &str| is_martian_source(text.parse().unwrap());
        assert!(is("::") && is("::1") && is("ff02::1"));
        assert!(!is("fe80::1") && !is("fd00::1") && !is("2001:db8::1") && !is("::ffff:192.0.2.1"));
    }

    proptest! {
        #[test]
        fn any_chain_is_read_within_its_packet(next: u8, rest in proptest::collection::vec(prop_oneof![Just(0u8), Just(60), Just(44), any::<u8>()], 0..120)) {
            if let Ok(upper) = upper(&packet(next, &rest)) {
                prop_assert!(upper.offset <= 40 + rest.len() && upper.after_hop_by_hop <= upper.offset);
            }
        }
    }
}
