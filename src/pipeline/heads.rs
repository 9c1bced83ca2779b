//! The heads of four frames at a time, in vector registers of a lane a frame: what is asked of one is asked of four by the same instruction.

#![allow(unsafe_code, reason = "words put together to a vector are not always found to be one load")]

use std::arch::x86_64::*;

use super::parse::{DATAGRAM, Flow, IP, PLAIN, SAYING, TRANSPORT};
use crate::wire::ipv4::{self, field, protocol};
use crate::wire::{Frame, ethernet, le16, tcp, udp};

/// So many frames are read together.
pub const FOUR: usize = 4;

/// What [`Parsed::plain`](super::parse::Parsed::plain) finds of each of four frames: the halves of its flow, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Four {
    pub low: [u64; FOUR],
    pub high: [u64; FOUR],
    pub totals: [u16; FOUR],
}

/// What stands beside what, of frames that are read one four after the other.
#[derive(Debug, Clone, Copy)]
pub struct Beside {
    /// Both halves of the last four flows in one, the lanes turned by one: the last of them is the lowest.
    before: __m256i,
    /// All ones in a lane in which one was as the one before it.
    alike: __m256i,
}

impl Beside {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn nothing() -> Self {
        let nothing = _mm256_setzero_si256();
        Self { before: nothing, alike: nothing }
    }

    /// Whether any frame may be of the same flow as the one before it. (If not, none is.)
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn may_be_alike(&self) -> bool {
        _mm256_testz_si256(self.alike, self.alike) == 0
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, low: __m256i, high: __m256i) {
        let both = _mm256_xor_si256(low, high);
        let turned = _mm256_permute4x64_epi64::<0b10_01_00_11>(both);
        let before = _mm256_blend_epi32::<0b11>(turned, self.before);
        self.alike = _mm256_or_si256(self.alike, _mm256_cmpeq_epi64(both, before));
        self.before = turned;
    }
}

type Heads<'a> = [&'a [u8; PLAIN]; FOUR];

/// Of a lane, its lower half, its lowest two bytes, and its sign.
const HALF: u64 = 0xffff_ffff;
const WORD: u64 = 0xffff;
const SIGN: u64 = 1 << 63;

/// Of the lane from TTL to source, the protocol, and the source's first octet.
const PROTOCOL: u64 = lane([0, 0xff, 0, 0, 0, 0, 0, 0]);
const OCTET: u64 = lane([0, 0, 0, 0, 0xff, 0, 0, 0]);

/// Reads the frames that a station ([`Mac::bits`](crate::wire::Mac::bits)) received. `None`: not all of them are plain.
#[inline]
#[target_feature(enable = "avx2")]
pub fn plain<F: Frame>(frames: &[F; FOUR], station: u64, beside: &mut Beside) -> Option<Four> {
    let (heads, lengths) = heads(frames)?;
    // Version to fragment offset; TTL to source; destination and ports; what follows these; TCP's offset and flags, and more.
    let [first, second] = columns::<IP>(heads);
    let [third, after] = columns::<{ IP + field::DESTINATION }>(heads);
    let [_, told] = columns::<{ PLAIN - 16 }>(heads);

    let zero = _mm256_setzero_si256();
    let total = number::<{ field::TOTAL_LENGTH }>(first);
    let mut size = _mm256_and_si256(_mm256_srli_epi64::<2>(told), all(0x3c));
    let mut least = all(tcp::HEADER as u64);
    let mut flags = _mm256_and_si256(_mm256_srli_epi64::<8>(told), all(SAYING.into()));
    let mut faults = zero;
    let other = _mm256_and_si256(_mm256_xor_si256(second, all(of(protocol::TCP))), all(PROTOCOL));
    if _mm256_testz_si256(other, other) == 0 {
        let is_tcp = _mm256_cmpeq_epi64(other, zero);
        let is_udp = _mm256_cmpeq_epi64(other, all(of(protocol::TCP ^ protocol::UDP)));
        faults = _mm256_andnot_si256(_mm256_or_si256(is_tcp, is_udp), all(SIGN));
        size = _mm256_blendv_epi8(size, number::<0>(after), is_udp);
        least = _mm256_blendv_epi8(least, all(udp::HEADER as u64), is_udp);
        flags = _mm256_blendv_epi8(flags, all(DATAGRAM.into()), is_udp);
    }

    // What is less than it must be is so below zero: header of TCP or datagram of UDP, packet, and frame.
    let room = _mm256_sub_epi64(_mm256_sub_epi64(total, all(ipv4::HEADER as u64)), size);
    let rest = _mm256_sub_epi64(each(lengths), total);
    let less = _mm256_or_si256(_mm256_or_si256(_mm256_sub_epi64(size, least), room), rest);
    faults = _mm256_or_si256(faults, _mm256_and_si256(less, all(SIGN)));

    faults = _mm256_or_si256(faults, _mm256_zextsi128_si256(link_differs(heads, station)));
    faults = _mm256_or_si256(faults, _mm256_and_si256(first, all(ipv4::Plain::FRAGMENT)));
    faults = _mm256_or_si256(faults, _mm256_and_si256(may_be_martian(second), all(OCTET)));
    faults = _mm256_or_si256(faults, checksum_differs(first, second, third));
    if _mm256_testz_si256(faults, faults) == 0 {
        return None;
    }
    let low = _mm256_or_si256(_mm256_andnot_si256(all(Flow::DIFFER), second), flags);
    beside.add(low, third);
    Some(Four { low: words(low), high: words(third), totals: numbers(total) })
}

/// A segment that [`plain`] reads, and what it takes for others to be of the same flow and to say the same of it.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Pieces of its head: from its beginning, from its IP header, and up to its end.
    link: __m128i,
    packet: __m256i,
    last: __m128i,
    /// Bytes that the packet has at least, by its TCP header.
    least: u64,
    /// What the sum of the words of the IP header that may differ is to be all ones with.
    balance: u64,
}

impl Segment {
    /// That of `frame`, which is plain and TCP's.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let head: &[u8; PLAIN] = frame.first_chunk()?;
        let word = |at| u64::from(le16(head, IP + at));
        let varying = word(field::TOTAL_LENGTH) + word(field::IDENTIFICATION) + word(field::CHECKSUM);
        let least = ipv4::HEADER + tcp::header_length(head.last_chunk()?);
        let (link, packet, last) = (pair::<0>(head), piece::<IP>(head), pair::<LAST>(head));
        Some(Self { link, packet, last, least: least as u64, balance: 3 * WORD - varying })
    }

    /// The lengths of the packets in `frames`, where all are plain, of the same flow, and say the same. `None`: it takes more to tell.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn totals<F: Frame>(&self, frames: &[F; FOUR]) -> Option<[u16; FOUR]> {
        let (heads, lengths) = heads(frames)?;
        let [a, b, c, d] = heads;
        // Loaded once: what lies in another load, too, would be put together from that by a handful of instructions.
        let packets = [piece::<IP>(a), piece::<IP>(b), piece::<IP>(c), piece::<IP>(d)];
        let (mut link, mut packet, mut last) = (_mm_setzero_si128(), _mm256_setzero_si256(), _mm_setzero_si128());
        for (head, its) in heads.into_iter().zip(packets) {
            link = _mm_or_si128(link, _mm_xor_si128(pair::<0>(head), self.link));
            packet = _mm256_or_si256(packet, _mm256_xor_si256(its, self.packet));
            last = _mm_or_si128(last, _mm_xor_si128(pair::<LAST>(head), self.last));
        }
        let packet = _mm256_and_si256(packet, piece::<IP>(&SAME));
        let ends = [_mm_and_si128(link, pair::<0>(&SAME)), _mm_and_si128(last, pair::<LAST>(&SAME))];
        let differ = _mm256_or_si256(packet, _mm256_set_m128i(ends[0], ends[1]));

        let [a, b, c, d] = packets;
        let low = [
            _mm256_castsi256_si128(a),
            _mm256_castsi256_si128(b),
            _mm256_castsi256_si128(c),
            _mm256_castsi256_si128(d),
        ];
        let [first, second] = halves(low);
        let total = number::<{ field::TOTAL_LENGTH }>(first);
        let less = _mm256_or_si256(_mm256_sub_epi64(total, all(self.least)), _mm256_sub_epi64(each(lengths), total));
        let length = _mm256_and_si256(_mm256_srli_epi64::<16>(first), all(WORD));
        let identification = _mm256_and_si256(_mm256_srli_epi64::<32>(first), all(WORD));
        let checksum = _mm256_and_si256(_mm256_srli_epi64::<16>(second), all(WORD));
        let varying = _mm256_add_epi64(_mm256_add_epi64(length, identification), checksum);
        let faults = _mm256_or_si256(
            _mm256_or_si256(differ, _mm256_and_si256(less, all(SIGN))),
            not_all_ones(_mm256_add_epi64(varying, all(self.balance))),
        );
        if _mm256_testz_si256(faults, faults) == 0 {
            return None;
        }
        Some(numbers(total))
    }
}

/// Where the last piece of a head begins.
const LAST: usize = PLAIN - 16;
// No byte is left out.
const _: () = assert!(IP <= 16 && LAST <= IP + 32);

/// The bits of a head that must not differ.
const SAME: [u8; PLAIN] = {
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
    same
};

const fn lane(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

/// A protocol where it stands.
const fn of(protocol: u8) -> u64 {
    (protocol as u64) << 8
}

/// The heads of frames, and how many bytes the frames have behind Ethernet's header.
#[inline(always)]
fn heads<F: Frame>([a, b, c, d]: &[F; FOUR]) -> Option<(Heads<'_>, [i64; FOUR])> {
    let [a, b, c, d] = [a.bytes(), b.bytes(), c.bytes(), d.bytes()];
    let heads = [a.first_chunk()?, b.first_chunk()?, c.first_chunk()?, d.first_chunk()?];
    let behind = |frame: &[u8]| (frame.len() - IP) as i64;
    Some((heads, [behind(a), behind(b), behind(c), behind(d)]))
}

/// One in each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn each([a, b, c, d]: [i64; FOUR]) -> __m256i {
    _mm256_setr_epi64x(a, b, c, d)
}

/// The same in all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn all(word: u64) -> __m256i {
    _mm256_set1_epi64x(word as i64)
}

/// The lanes, the first frame's first.
#[inline]
#[target_feature(enable = "avx2")]
fn words(lanes: __m256i) -> [u64; FOUR] {
    [
        _mm256_extract_epi64::<0>(lanes) as u64,
        _mm256_extract_epi64::<1>(lanes) as u64,
        _mm256_extract_epi64::<2>(lanes) as u64,
        _mm256_extract_epi64::<3>(lanes) as u64,
    ]
}

/// The lanes as words of two bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn numbers(lanes: __m256i) -> [u16; FOUR] {
    const LOWEST: i64 = 0x0908_0100;
    let pairs = _mm256_shuffle_epi8(lanes, _mm256_set1_epi64x(LOWEST));
    let all = _mm_unpacklo_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
    let all = _mm_cvtsi128_si64(all);
    [all as u16, (all >> 16) as u16, (all >> 32) as u16, (all >> 48) as u16]
}

/// Sixteen bytes of a head.
#[inline]
#[target_feature(enable = "avx2")]
fn pair<const AT: usize>(head: &[u8; PLAIN]) -> __m128i {
    const { assert!(AT + 16 <= PLAIN) }
    // SAFETY: so many bytes lie within the array, as is asserted; the load asks for no alignment, and any bytes are a vector.
    unsafe { _mm_loadu_si128(head.as_ptr().add(AT).cast()) }
}

/// Thirty-two.
#[inline]
#[target_feature(enable = "avx2")]
fn piece<const AT: usize>(head: &[u8; PLAIN]) -> __m256i {
    const { assert!(AT + 32 <= PLAIN) }
    // SAFETY: as in `pair`.
    unsafe { _mm256_loadu_si256(head.as_ptr().add(AT).cast()) }
}

/// The eight bytes at `AT` of each, and the eight behind them.
#[inline]
#[target_feature(enable = "avx2")]
fn columns<const AT: usize>([a, b, c, d]: Heads) -> [__m256i; 2] {
    halves([pair::<AT>(a), pair::<AT>(b), pair::<AT>(c), pair::<AT>(d)])
}

/// The first eight bytes of each, and the eight behind them.
#[inline]
#[target_feature(enable = "avx2")]
fn halves([a, b, c, d]: [__m128i; FOUR]) -> [__m256i; 2] {
    let (even, odd) = (_mm256_set_m128i(c, a), _mm256_set_m128i(d, b));
    [_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd)]
}

/// The number in two bytes of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn number<const AT: usize>(lanes: __m256i) -> __m256i {
    let nothing = 1 << 7;
    let bytes = lane([AT as u8 + 1, AT as u8, nothing, nothing, nothing, nothing, nothing, nothing]);
    // Either half of a register has places of its own, of which the upper lane is eight further.
    let both = _mm_set_epi64x((bytes | 0x0808) as i64, bytes as i64);
    _mm256_shuffle_epi8(lanes, _mm256_broadcastsi128_si256(both))
}

/// 0 where all go to the station, and carry IPv4 with a header without options.
#[inline]
#[target_feature(enable = "avx2")]
fn link_differs(heads: Heads, station: u64) -> __m128i {
    const BEHIND: u64 = {
        let [high, low] = ethernet::IPV4.to_be_bytes();
        lane([0, 0, 0, 0, high, low, 0x45, 0])
    };
    let wanted = _mm_set_epi64x(BEHIND as i64, (station >> 16) as i64);
    let mut any = _mm_setzero_si128();
    for head in heads {
        any = _mm_or_si128(any, _mm_xor_si128(pair::<0>(head), wanted));
    }
    let counts = [lane([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]), lane([0, 0, 0, 0, 0xff, 0xff, 0xff, 0])];
    _mm_and_si128(any, _mm_set_epi64x(counts[1] as i64, counts[0] as i64))
}

/// Of each byte, whether it is not zero: as [`ipv4::may_be_martian`] says of a first octet.
#[inline]
#[target_feature(enable = "avx2")]
fn may_be_martian(octets: __m256i) -> __m256i {
    // From 224 on, and, around the corner, 0.
    let high = _mm256_subs_epu8(_mm256_set1_epi8(33), _mm256_add_epi8(octets, _mm256_set1_epi8(32)));
    _mm256_or_si256(high, _mm256_cmpeq_epi8(octets, _mm256_set1_epi8(127)))
}

/// 0 where the sum over a header is all ones (RFC 1071, section 2); of the third word, its lower half is the header's.
#[inline]
#[target_feature(enable = "avx2")]
fn checksum_differs(first: __m256i, second: __m256i, third: __m256i) -> __m256i {
    // Words can only be added in pairs as if they had signs: each is taken for 2^15 less than it is.
    let pairs = |lanes| {
        let less = _mm256_xor_si256(lanes, _mm256_set1_epi16(i16::MIN));
        _mm256_madd_epi16(less, _mm256_set1_epi16(1))
    };
    let third = _mm256_and_si256(third, all(HALF));
    let sums = _mm256_add_epi32(_mm256_add_epi32(pairs(first), pairs(second)), pairs(third));
    let both = _mm256_add_epi32(sums, _mm256_srli_epi64::<32>(sums));
    // Of twelve words, two of them 0.
    not_all_ones(_mm256_and_si256(_mm256_add_epi32(both, all(12 << 15)), all(HALF)))
}

/// 0 where a sum of fewer than 2^16 words that is not 0 folds to all ones.
#[inline]
#[target_feature(enable = "avx2")]
fn not_all_ones(sums: __m256i) -> __m256i {
    // n times 2^16 - 1 is n - 1 times 2^16 and what n misses from it: folded once it is right.
    let folded = _mm256_add_epi64(_mm256_and_si256(sums, all(WORD)), _mm256_srli_epi64::<16>(sums));
    _mm256_xor_si256(folded, all(WORD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::parse::Parsed;
    use crate::pipeline::parse::tests::{Bytes, STATION, seal, sound};
    use proptest::prelude::*;

    /// All fours, and whether any frame may be as the one before it. `None`: this CPU has no AVX2, and nothing is tested.
    #[multiversion::multiversion(targets("x86_64+avx2"))]
    fn read(frames: &[Bytes]) -> Option<(Vec<Option<Four>>, bool)> {
        multiversion::target::match_target! {
            "x86_64+avx2" => {
                let mut beside = Beside::nothing();
                let fours = frames.as_chunks().0.iter();
                let read = fours.map(|four| plain(four, STATION.mac.bits(), &mut beside)).collect();
                Some((read, beside.may_be_alike()))
            },
            _ => {
                let _ = frames;
                None
            }
        }
    }

    /// The lengths of four that are as `first`.
    #[multiversion::multiversion(targets("x86_64+avx2"))]
    fn totals(first: &Bytes, frames: &[Bytes; FOUR]) -> Option<Option<[u16; FOUR]>> {
        multiversion::target::match_target! {
            "x86_64+avx2" => Some(Segment::of(&first.0).unwrap().totals(frames)),
            _ => {
                let _ = (first, frames);
                None
            }
        }
    }

    fn found(frame: &Bytes) -> Option<(u16, Flow)> {
        Parsed::plain(&frame.0, STATION.mac.bits())
    }

    /// What is expected of four.
    fn each(frames: &[Bytes; FOUR]) -> Option<Four> {
        let all = frames.iter().map(found).collect::<Option<Vec<_>>>()?;
        let of = |at: usize| all[at].1.words();
        Some(Four {
            low: std::array::from_fn(|at| of(at)[0]),
            high: std::array::from_fn(|at| of(at)[1]),
            totals: std::array::from_fn(|at| all[at].0),
        })
    }

    /// A frame like others, but for these bytes: of them mostly none, or what makes another flow of it.
    fn frame() -> impl Strategy<Value = Bytes> {
        let kind = prop_oneof![3 => Just(protocol::TCP), 1 => Just(protocol::UDP)];
        let changes = prop_oneof![
            3 => Just(vec![]),
            3 => (29_usize..31, 1_u8..4).prop_map(|change| vec![change]),
            1 => prop::collection::vec((0_usize..60, any::<u8>()), 1..3),
        ];
        let length = prop_oneof![12 => Just(usize::MAX), 1 => 50_usize..80];
        (kind, 0_usize..40, changes, length, prop::bool::weighted(0.9)).prop_map(
            |(kind, payload, changes, length, is_sealed)| {
                let mut frame = sound(kind, payload);
                for (at, byte) in changes {
                    let at = at % frame.len();
                    frame[at] = byte;
                }
                if is_sealed {
                    seal(&mut frame);
                }
                frame.truncate(length);
                Bytes(frame)
            },
        )
    }

    /// A frame with each value of one byte, with a checksum that is right for it, and without.
    fn with(at: usize) -> impl Iterator<Item = Bytes> {
        (0..=u8::MAX).flat_map(move |byte| {
            [true, false].map(|is_sealed| {
                let mut frame = sound(protocol::TCP, 40);
                frame[at] = byte;
                if is_sealed {
                    seal(&mut frame);
                }
                Bytes(frame)
            })
        })
    }

    #[test]
    fn each_byte_of_a_head_is_read_as_by_itself() {
        for at in 0..PLAIN {
            for odd in with(at) {
                for place in 0..FOUR {
                    let mut four = [0, 1, 2, 3].map(|payload| Bytes(sound(protocol::TCP, payload)));
                    four[place] = Bytes(odd.0.clone());
                    if let Some((read, _)) = read(&four) {
                        assert_eq!(read[0], each(&four), "byte {at} of frame {place}: {}", odd.0[at]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_segment_that_differs_in_what_counts_is_not_told() {
        let first = Bytes(sound(protocol::TCP, 20));
        let flow = found(&first).unwrap().1;
        for at in 0..PLAIN {
            for odd in with(at) {
                let mut four = [0, 1, 2, 3].map(|payload| Bytes(sound(protocol::TCP, payload)));
                let alike = found(&odd).filter(|found| found.1 == flow).map(|found| found.0);
                four[at % FOUR] = odd;
                if let Some(Some(told)) = totals(&first, &four) {
                    assert_eq!(Some(told[at % FOUR]), alike, "byte {at}: {}", four[at % FOUR].0[at]);
                }
            }
        }
    }

    #[test]
    fn what_differs_from_segment_to_segment_may_differ() {
        let [first, sound] = [10, 1000].map(|payload| sound(protocol::TCP, payload));
        let mut next = sound.clone();
        // The source's station; identification; sequence and acknowledgement numbers; PSH; the window.
        next[6..12].fill(0x66);
        next[18..20].copy_from_slice(&[0x12, 0x34]);
        next[38..46].fill(0x77);
        next[47] |= 0x08;
        next[48..50].fill(0x55);
        seal(&mut next);
        let of = |fourth: &[u8]| {
            let all = [&first[..], &sound, &next, fourth].map(|frame| Bytes(frame.to_vec()));
            totals(&Bytes(first.clone()), &all)
        };
        let Some(all) = of(&next) else { return };
        assert_eq!(all, Some([50, 1040, 1040, 1040]));
        assert_eq!(of(&next[..100]), Some(None));
    }

    #[test]
    fn a_segment_has_room_for_its_options() {
        let with_options = |payload: usize| {
            let mut frame = sound(protocol::TCP, payload);
            frame[TRANSPORT + tcp::OFFSET] = 8 << 4;
            Bytes(frame)
        };
        let of = |payload| totals(&with_options(20), &[20, 20, payload, 20].map(with_options));
        let Some(all) = of(12) else { return };
        assert_eq!(all, Some([60, 60, 52, 60]));
        assert_eq!(of(11), Some(None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn of_four_is_told_what_is_of_each(frames in prop::collection::vec(frame(), 2 * FOUR..=2 * FOUR)) {
            let expected: Vec<Option<Four>> = frames.as_chunks().0.iter().map(each).collect();
            let Some((read, may_be_alike)) = read(&frames) else { return Ok(()) };
            let is_alike = frames.windows(2).any(|two| found(&two[0]).map(|found| found.1) == found(&two[1]).map(|found| found.1));
            if expected.iter().all(Option::is_some) {
                prop_assert_eq!(may_be_alike, is_alike);
            }
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn what_is_alike_is_plain_and_of_the_same_flow(first in 0_usize..40, frames in [frame(), frame(), frame(), frame()]) {
            let first = Bytes(sound(protocol::TCP, first));
            let Some(told) = totals(&first, &frames) else { return Ok(()) };
            let flow = found(&first).unwrap().1;
            let is_alike = |frame: &Bytes| found(frame).filter(|found| found.1 == flow).map(|found| found.0);
            let expected = frames.iter().map(is_alike).collect::<Option<Vec<u16>>>();
            // What differs in nothing that counts may still not be told, as the ToS does.
            if let Some(told) = told {
                prop_assert_eq!(Some(told.to_vec()), expected);
            }
        }
    }
}
