//! The first stage: what a frame is, from its bytes alone. One bounds check a header.

use std::net::Ipv4Addr;

use crate::counters::Reason;
use crate::mode::Packet;
use crate::snapshot::Port;
#[cfg(doc)]
use crate::wire::Mac;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4, protocol};
use crate::wire::{Malformed, icmp, tcp, udp};

/// Bytes that the straight path looks at: every frame of Ethernet's minimum has them.
const PLAIN: usize = ethernet::HEADER + ipv4::HEADER + tcp::HEADER;

/// What kind of thing a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not IPv4: the kernel's.
    Foreign,
    /// Too short to tell whose it is.
    Unreadable,
    /// TCP or UDP with its ports: a whole packet, or the first fragment of one.
    Ported,
    /// A later fragment of TCP or UDP.
    LaterFragment,
    EchoRequest,
    OtherIcmp,
    /// IPv4 with whatever else inside, or with a fault that hides what.
    Other,
}

/// A frame's findings. Address and port fields mean something for the kinds that have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub source_port: u16,
    pub destination_port: u16,
    pub packet: Packet,
    pub kind: Kind,
    /// Why a VIP would refuse it, as far as the bytes alone say; the first in the order of [`Reason`].
    pub fault: Option<Reason>,
}

/// Protocol, addresses and ports of a plain packet in one number: equal for the packets of a flow, and for no others.
///
/// The bytes of the packet from the TTL to the ports; the TTL and the checksum, which differ, are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow(u128);

impl Flow {
    /// That of no packet.
    pub const NONE: Self = Self(0);

    #[inline(always)]
    fn of(ip: &ipv4::Plain) -> Self {
        const DIFFER: u128 = u128::from_le_bytes([0xff, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self(ip.tuple() & !DIFFER)
    }

    /// What its packets have in common; their length is not.
    #[inline(always)]
    pub fn packet(self) -> Packet {
        Packet { header: ipv4::HEADER as u8, total: 0, protocol: self.protocol() }
    }

    #[inline(always)]
    pub fn protocol(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub fn source(self) -> Ipv4Addr {
        Ipv4Addr::from(((self.0 >> 32) as u32).to_le_bytes())
    }

    #[inline(always)]
    pub fn destination(self) -> Ipv4Addr {
        Ipv4Addr::from(((self.0 >> 64) as u32).to_le_bytes())
    }

    #[inline(always)]
    pub fn source_port(self) -> u16 {
        u16::from_be_bytes(((self.0 >> 96) as u16).to_le_bytes())
    }

    #[inline(always)]
    pub fn destination_port(self) -> u16 {
        u16::from_be_bytes(((self.0 >> 112) as u16).to_le_bytes())
    }
}

impl Parsed {
    pub const NOTHING: Self = Self {
        source: Ipv4Addr::UNSPECIFIED,
        destination: Ipv4Addr::UNSPECIFIED,
        source_port: 0,
        destination_port: 0,
        packet: Packet { header: 0, total: 0, protocol: 0 },
        kind: Kind::Unreadable,
        fault: None,
    };

    /// The straight path: a frame to the station `to` ([`Mac::bits`]) with a faultless, unfragmented TCP or UDP packet without
    /// IP options. All offsets are constant, so no bounds are checked but the first. `None`: something is special; whatever
    /// is found here, [`Parsed::of`] finds too. Gives the packet's length and flow.
    #[inline(always)]
    pub fn plain(frame: &[u8], to: u64) -> Option<(u16, Flow)> {
        const IP: usize = ethernet::HEADER;
        let (head, length): (&[u8; PLAIN], usize) = (frame.first_chunk()?, frame.len());
        let link = Ethernet::from(head.first_chunk()?);
        if link.destination_bits() != to || link.ether_type() != ethernet::IPV4 {
            return None;
        }
        let ip = ipv4::Plain::of(head[IP..].first_chunk()?)?;
        let segment: &[u8; tcp::HEADER] = head[IP + ipv4::HEADER..].first_chunk()?;
        let total = usize::from(ip.total_length());
        let room = total.checked_sub(ipv4::HEADER)?;
        match ip.protocol() {
            protocol::TCP if tcp::is_whole(segment, room) => {}
            protocol::UDP if udp::is_whole(segment, room) => {}
            _ => return None,
        }
        if total > length - IP || ip.is_fragment() {
            return None;
        }
        if !ip.checksum_verifies() || ipv4::may_be_martian(ip.source()) {
            return None;
        }
        Some((total as u16, Flow::of(&ip)))
    }

    /// Reads a frame that `station` received, whatever it is.
    pub fn of(frame: &[u8], station: &Port) -> Self {
        let Some(link) = Ethernet::of(frame) else { return Self::NOTHING };
        if link.ether_type() != ethernet::IPV4 {
            return Self { kind: Kind::Foreign, ..Self::NOTHING };
        }
        let bytes = &frame[ethernet::HEADER..];
        let Some(ip) = Ipv4::of(bytes) else { return Self::NOTHING };
        let mut parsed = Self {
            source: ip.source(),
            destination: ip.destination(),
            packet: Packet { protocol: ip.protocol(), ..Self::NOTHING.packet },
            kind: Kind::Other,
            ..Self::NOTHING
        };
        let malformed = parsed.read(&ip, bytes).is_err();
        let to = link.destination();
        parsed.fault = if to != station.mac && (to.is_group() || !station.promiscuous) {
            Some(Reason::NotForUs)
        } else if malformed {
            Some(Reason::Malformed)
        } else {
            parsed.fault(&ip, &bytes[ipv4::HEADER..usize::from(parsed.packet.header)])
        };
        parsed
    }

    /// Reads on behind the fixed IP header, as far as the lengths are true.
    fn read(&mut self, ip: &Ipv4, bytes: &[u8]) -> Result<(), Malformed> {
        let lengths = ip.lengths(bytes.len())?;
        self.packet.header = lengths.header as u8;
        self.packet.total = lengths.total as u16;
        let payload = &bytes[lengths.header..lengths.total];
        let is_fragment = ip.is_fragment();
        match ip.protocol() {
            protocol::TCP | protocol::UDP if ip.is_later_fragment() => self.kind = Kind::LaterFragment,
            protocol::TCP => self.take(tcp::ports(payload, is_fragment)?),
            protocol::UDP => self.take(udp::ports(payload, is_fragment)?),
            // A fragmented echo is not answered: it would have to be put together first.
            protocol::ICMP if ip.is_later_fragment() => self.kind = Kind::LaterFragment,
            protocol::ICMP if is_fragment => self.kind = Kind::OtherIcmp,
            protocol::ICMP if icmp::is_echo_request(payload)? => self.kind = Kind::EchoRequest,
            protocol::ICMP => self.kind = Kind::OtherIcmp,
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self, (source, destination): (u16, u16)) {
        self.kind = Kind::Ported;
        self.source_port = source;
        self.destination_port = destination;
    }

    fn fault(&self, ip: &Ipv4, options: &[u8]) -> Option<Reason> {
        if !ip.checksum_verifies(options) {
            Some(Reason::BadChecksum)
        } else if !options.is_empty() && ipv4::is_source_routed(options) {
            Some(Reason::SourceRouted)
        } else if ipv4::is_martian_source(self.source) {
            Some(Reason::BadSource)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Mac;
    use proptest::prelude::*;

    const STATION: Port = Port { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, promiscuous: false };

    fn sound(protocol: u8, payload: usize) -> Vec<u8> {
        let transport = if protocol == protocol::TCP { tcp::HEADER } else { udp::HEADER };
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1];
        ip[2..4].copy_from_slice(&((20 + transport + payload) as u16).to_be_bytes());
        let sum = !crate::wire::checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut segment = vec![0; transport + payload];
        segment[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        match protocol {
            protocol::TCP => segment[12] = 0x50,
            _ => segment[4..6].copy_from_slice(&((transport + payload) as u16).to_be_bytes()),
        }
        let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0][..], &ip, &segment].concat();
        frame.resize(frame.len().max(ethernet::MINIMUM), 0);
        frame
    }

    #[test]
    fn ordinary_traffic_takes_the_straight_path() {
        for frame in
            [sound(protocol::TCP, 0), sound(protocol::TCP, 1000), sound(protocol::UDP, 0), sound(protocol::UDP, 300)]
        {
            assert!(Parsed::plain(&frame, STATION.mac.bits()).is_some());
        }
    }

    #[test]
    fn a_flow_is_protocol_addresses_and_ports() {
        let flow = |frame: &[u8]| Flow::of(&ipv4::Plain::of(frame[14..].first_chunk().unwrap()).unwrap());
        let frame = sound(protocol::TCP, 0);
        for at in (0..frame.len()).filter(|&at| at != 14) {
            let mut other = frame.clone();
            other[at] ^= 1;
            let is_tuple = at == 23 || (26..38).contains(&at);
            assert_eq!(flow(&other) != flow(&frame), is_tuple, "byte {at}");
        }
        assert_ne!(flow(&frame), Flow::NONE);
    }

    proptest! {
        #[test]
        fn the_straight_path_finds_what_the_general_one_finds(
            udp: bool, payload in 0usize..40, damage in proptest::collection::vec((0usize..60, any::<u8>()), 0..3),
            seal: bool, length in prop_oneof![Just(usize::MAX), 54usize..80],
        ) {
            let mut frame = sound(if udp { protocol::UDP } else { protocol::TCP }, payload);
            for (at, byte) in damage { frame[at] = byte; }
            if seal {
                frame[24..26].fill(0);
                let sum = !crate::wire::checksum::sum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            frame.truncate(length);
            let any = Parsed::of(&frame, &STATION);
            if let Some((total, flow)) = Parsed::plain(&frame, STATION.mac.bits()) {
                let plain = Parsed {
                    source: flow.source(), destination: flow.destination(),
                    source_port: flow.source_port(), destination_port: flow.destination_port(),
                    packet: Packet { total, ..flow.packet() }, kind: Kind::Ported, fault: None,
                };
                prop_assert_eq!(plain, any);
            }
        }
    }
}
