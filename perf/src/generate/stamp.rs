//! The time that a TCP frame carries: 48 bits of the TSC in the place of its sequence and acknowledgment numbers, which no load balancer
//! reads. (A frame of 60 bytes has no payload, and its padding does not survive an outer header.) The last 16 bits of the two numbers are
//! what keeps the checksum right.

use penstock::wire::checksum::Delta;
use penstock::wire::ethernet;
use penstock::wire::ipv4::Ipv4;
use penstock::wire::ipv6::{self, Ipv6};

/// Of the TSC; so many overflow once in a day.
pub const BITS: u32 = 48;

const TCP: u8 = 6;
const IN_IPV4: u8 = 4;
const IN_IPV6: u8 = 41;
/// Both numbers, from the start of the TCP header.
const NUMBERS: std::ops::Range<usize> = 4..12;

/// Writes a time into a frame; whether there was a place for it.
#[inline]
pub fn write(frame: &mut [u8], time: u64) -> bool {
    let Some(bytes) = place(frame).and_then(|place| frame[place..].first_chunk_mut::<8>()) else { return false };
    let old = u64::from_be_bytes(*bytes);
    let (high, low) = ((time >> 16) as u32, time as u16);
    let changed = Delta::double_word((old >> 32) as u32, high).and(Delta::word((old >> 16) as u16, low));
    *bytes = (time << 16 | u64::from(changed.patched(old as u16))).to_be_bytes();
    true
}

/// How long before `now` the time is that a frame carries, under an outer IP header or without one; `None` where it has no place for it.
#[inline]
pub fn age(frame: &[u8], now: u64) -> Option<u64> {
    let bytes = frame[place(frame)?..].first_chunk()?;
    let time = u64::from_be_bytes(*bytes) >> 16;
    Some(now.wrapping_sub(time) & ((1 << BITS) - 1))
}

/// Where the numbers of the TCP header begin, which all lie in the frame.
#[inline]
fn place(frame: &[u8]) -> Option<usize> {
    let mut at = ethernet::HEADER;
    let mut is_ipv6 = match frame.get(at - 2..at)? {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return None,
    };
    for _ in 0..2 {
        let packet = frame.get(at..)?;
        let (protocol, length) = match is_ipv6 {
            true => (Ipv6::of(packet)?.next_header(), ipv6::HEADER),
            false => Ipv4::of(packet).map(|header| (header.protocol(), header.header_length()))?,
        };
        at += length;
        match protocol {
            TCP => return (frame.len() >= at + NUMBERS.end).then_some(at + NUMBERS.start),
            IN_IPV4 => is_ipv6 = false,
            IN_IPV6 => is_ipv6 = true,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;
    use crate::rig::VIP;
    use crate::traffic::{Kind, frames_of};

    const TIME: u64 = 0x1234_5678_9abc_def0;

    /// The same with an outer header in front, as `ipip` has it: padding is cut.
    fn tunnelled(frame: &[u8]) -> Vec<u8> {
        let inner = &frame[ethernet::HEADER..];
        let (protocol, length) = match inner[0] >> 4 {
            4 => (IN_IPV4, usize::from(u16::from_be_bytes([inner[2], inner[3]]))),
            _ => (IN_IPV6, 40 + usize::from(u16::from_be_bytes([inner[4], inner[5]]))),
        };
        let mut outer = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 1, 0, 1], 64);
        builder.write(&mut outer, protocol.into(), &inner[..length]).unwrap();
        outer
    }

    #[test]
    fn a_time_is_read_again_with_and_without_an_outer_header() {
        for kind in [Kind::Acks(40), Kind::Syns(40), Kind::V6(40), Kind::Imix(40)] {
            for mut frame in frames_of(kind, VIP).unwrap() {
                assert!(write(&mut frame, TIME), "{kind}");
                assert_eq!(age(&frame, TIME + 5), Some(5), "{kind}");
                assert_eq!(age(&tunnelled(&frame), TIME + 1_000_000), Some(1_000_000), "{kind}");
            }
        }
    }

    #[test]
    fn the_counter_may_overflow() {
        let mut frame = frames_of(Kind::Acks(1), VIP).unwrap().remove(0);
        assert!(write(&mut frame, (1 << BITS) - 2));
        assert_eq!(age(&frame, (1 << BITS) + 3), Some(5));
    }

    #[test]
    fn a_frame_with_a_time_is_as_right_as_it_was() {
        for kind in [Kind::Acks(40), Kind::Imix(40)] {
            for (mut frame, number) in frames_of(kind, VIP).unwrap().into_iter().zip(0u64..) {
                write(&mut frame, TIME.wrapping_mul(number | 1));
                let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                let (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                    (packet.net, packet.transport)
                else {
                    panic!("{kind}")
                };
                let header = tcp.to_header();
                assert_eq!(
                    header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()),
                    Ok(header.checksum),
                    "{kind}"
                );
            }
        }
    }

    #[test]
    fn where_there_is_no_tcp_header_there_is_no_time() {
        let mut datagram = frames_of(Kind::Udp(1), VIP).unwrap().remove(0);
        assert!(!write(&mut datagram, TIME));
        assert_eq!((age(&datagram, TIME), age(&[], TIME)), (None, None));
        let ack = frames_of(Kind::Acks(1), VIP).unwrap().remove(0);
        assert!(age(&ack[..46], TIME).is_some());
        assert!((0..46).all(|length| age(&ack[..length], TIME).is_none()));
        // Nor behind three of IP.
        assert_eq!(age(&tunnelled(&tunnelled(&ack)), TIME), None);
    }
}
