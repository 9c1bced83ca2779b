//! Frames that follow each other in a flow: of the next it is told by comparison with one that was read, which takes less than to read it.

use super::parse::{Flow, IP, PLAIN, SAYING, TRANSPORT};
use crate::wire::ipv4::{self, field, protocol};
use crate::wire::{be16, checksum, le16, tcp};

/// A frame that [`Parsed::plain`](super::parse::Parsed::plain) reads, with TCP, and what it takes for another to be of the same flow and to say
/// the same of it.
#[derive(Debug, Clone, Copy)]
pub struct Alike<'a> {
    head: &'a [u8; PLAIN],
    /// [`SAME`].
    same: [Piece; 2],
    /// Bytes that the packet has at least, by its TCP header.
    least: usize,
    /// What the sum of [`varying`] folds to all ones with, where the checksum is right.
    balance: u32,
}

impl<'a> Alike<'a> {
    /// To this one, which is plain, and whose flow is `flow`; `None` where it is not of TCP.
    #[inline(always)]
    pub fn to(frame: &'a [u8], flow: Flow) -> Option<Self> {
        let head: &[u8; PLAIN] = frame.first_chunk().filter(|_| flow.protocol() == protocol::TCP)?;
        let least = ipv4::HEADER + tcp::header_length(head.last_chunk()?);
        Some(Self { head, same: SAME, least, balance: 3 * 0xffff - varying(head) })
    }

    /// The length of the packet in `frame`, where it is plain, of the same flow, and says the same. `None`: it takes more to tell.
    #[inline(always)]
    pub fn total(&self, frame: &[u8]) -> Option<u16> {
        let (head, length): (&[u8; PLAIN], usize) = (frame.first_chunk()?, frame.len());
        // Station and EtherType, version to ToS, flags to protocol, addresses and ports, and what TCP says, are as they were, and were found plain.
        let [first, last] = self.same;
        if differ(piece::<0>(head), piece::<0>(self.head), first)
            | differ(piece::<LAST>(head), piece::<LAST>(self.head), last)
        {
            return None;
        }
        let total = be16(head, IP + field::TOTAL_LENGTH);
        if usize::from(total) < self.least || usize::from(total) > length - IP {
            return None;
        }
        (checksum::fold(varying(head) + self.balance) == 0xffff).then_some(total)
    }
}

/// Of two pieces, which together are all that is looked at, the first begins at 0, and the last here.
const LAST: usize = PLAIN - size_of::<Piece>();

/// As many bytes as a vector register has, in little-endian words.
type Piece = [u64; 4];

/// The bits of both pieces that must not differ. (Handed on as if they were not known before: of constant ones the compiler would read the bytes
/// that count one by one.)
const SAME: [Piece; 2] = {
    let (mut same, mut at) = ([0; PLAIN], 0);
    while at < PLAIN {
        same[at] = match at {
            // Station; EtherType, version to ToS.
            ..6 | 12..16 => 0xff,
            _ if at >= IP + field::FLAGS && at <= IP + field::PROTOCOL => 0xff,
            _ if at >= IP + field::SOURCE && at < TRANSPORT + 4 => 0xff,
            _ if at == TRANSPORT + tcp::OFFSET => 0xff,
            _ if at == TRANSPORT + tcp::FLAGS => SAYING,
            _ => 0,
        };
        at += 1;
    }
    [words(&same, 0), words(&same, LAST)]
};

const fn words(bytes: &[u8; PLAIN], at: usize) -> Piece {
    let (mut words, mut byte) = ([0; 4], 0);
    while byte < size_of::<Piece>() {
        words[byte / 8] |= (bytes[at + byte] as u64) << (byte % 8 * 8);
        byte += 1;
    }
    words
}

/// The piece from `AT` on.
#[inline(always)]
fn piece<const AT: usize>(head: &[u8; PLAIN]) -> Piece {
    // Whole words: byte by byte it would not be found to be one load.
    std::array::from_fn(|word| head[AT + word * 8..].first_chunk().map_or(0, |&bytes| u64::from_le_bytes(bytes)))
}

/// Whether two of them differ in one of these bits.
#[inline(always)]
fn differ(one: Piece, other: Piece, bits: Piece) -> bool {
    let mut any = 0;
    for word in 0..one.len() {
        any |= (one[word] ^ other[word]) & bits[word];
    }
    any != 0
}

/// The sum of those words of an IPv4 header that may differ.
#[inline(always)]
fn varying(head: &[u8; PLAIN]) -> u32 {
    let word = |at| u32::from(le16(head, IP + at));
    word(field::TOTAL_LENGTH) + word(field::IDENTIFICATION) + word(field::CHECKSUM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::parse::Parsed;
    use crate::pipeline::parse::tests::{STATION, seal, sound};
    use proptest::prelude::*;

    fn to_any(frame: &[u8]) -> Option<Alike<'_>> {
        let (_, flow) = Parsed::plain(frame, STATION.mac.bits()).expect("a plain frame");
        Alike::to(frame, flow)
    }

    fn to(frame: &[u8]) -> Alike<'_> {
        to_any(frame).expect("a segment")
    }

    #[test]
    fn what_differs_from_segment_to_segment_may_differ() {
        let first = sound(protocol::TCP, 10);
        let mut next = sound(protocol::TCP, 1000);
        // The source's station; identification; sequence and acknowledgement numbers; PSH; the window.
        next[6..12].fill(0x66);
        next[18..20].copy_from_slice(&[0x12, 0x34]);
        next[38..46].fill(0x77);
        next[47] |= 0x08;
        next[48..50].fill(0x55);
        seal(&mut next);
        assert_eq!(to(&first).total(&next), Some(1040));
        assert_eq!(to(&first).total(&first), Some(50));
        assert_eq!(to(&first).total(&next[..100]), None);
        assert!(to_any(&sound(protocol::UDP, 40)).is_none());
    }

    #[test]
    fn a_segment_has_room_for_its_options() {
        let with_options = |payload: usize| {
            let mut frame = sound(protocol::TCP, payload);
            frame[TRANSPORT + tcp::OFFSET] = 8 << 4;
            frame
        };
        let first = with_options(20);
        assert_eq!(to(&first).total(&with_options(12)), Some(52));
        assert_eq!(to(&first).total(&with_options(11)), None);
    }

    proptest! {
        #[test]
        fn what_is_alike_is_plain_and_of_the_same_flow(
            payloads in [0_usize..40, 0_usize..40], damage in proptest::collection::vec((0_usize..60, any::<u8>()), 0..3),
            length in prop_oneof![Just(usize::MAX), 54_usize..80], is_sealed: bool,
        ) {
            let [first, mut next] = payloads.map(|payload| sound(protocol::TCP, payload));
            for (at, byte) in damage {
                let at = at % next.len();
                next[at] ^= byte;
            }
            if is_sealed {
                seal(&mut next);
            }
            next.truncate(length);
            let read = |frame: &[u8]| Parsed::plain(frame, STATION.mac.bits());
            if let Some(total) = to(&first).total(&next) {
                let (_, flow) = read(&first).unwrap();
                prop_assert_eq!(read(&next), Some((total, flow)));
            }
        }
    }
}
