//! The first stage: what a frame is, from its bytes alone. One bounds check a header.

use std::hint::cold_path;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::counters::Reason;
use crate::flow::{KeyV4, Says};
use crate::maglev::{Client, ClientV6};
use crate::mode::{Content, Packet};
use crate::snapshot::Port;
use crate::wire::ethernet::{self, Ethernet, Link};
use crate::wire::ipv4::{self, Ipv4, protocol};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{Mac, Malformed, icmp, tcp, udp};

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Where the IP header of a frame without tags begins.
pub(super) const IP: usize = ethernet::HEADER;
/// Where what a plain packet over IPv4 carries begins.
pub(super) const TRANSPORT: usize = IP + ipv4::HEADER;
/// Bytes that the straight path looks at: every frame of Ethernet's minimum has them.
pub(super) const PLAIN: usize = TRANSPORT + tcp::HEADER;

/// What kind of thing a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not IP: the kernel's.
    Foreign,
    /// Too short to tell whose it is.
    Unreadable,
    /// TCP or UDP with its ports: a whole packet, or the first fragment of one.
    Ported,
    /// A later fragment of TCP or UDP.
    LaterFragment,
    /// A later fragment of ICMP.
    LaterIcmp,
    EchoRequest,
    /// An ICMP error that quotes a TCP or UDP packet.
    Error,
    OtherIcmp,
    /// IP with whatever else inside, or with a fault that hides what.
    Other,
}

/// Who sends what to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
}

/// What the fragments of one packet have in common (RFC 791, RFC 8200).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Datagram {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identification: u32,
    pub protocol: u8,
}

/// A frame's findings. What a kind does not have means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of an error: that of the packet which it quotes, turned round, so that it goes where its flow goes.
    pub flow: Tuple,
    pub packet: Packet,
    pub kind: Kind,
    /// Which packet a fragment is part of.
    pub datagram: Option<Datagram>,
    /// Why a VIP would refuse it, as far as the bytes alone say; the first in the order of [`Reason`].
    pub fault: Option<Reason>,
    /// Bytes of the Ethernet header, tags included.
    pub link: u8,
}

/// Protocol, addresses and ports of a plain packet in one number: equal for the packets of a flow, and for no others.
///
/// The bytes of the packet from the TTL to the ports; the checksum, which differs, is 0, and in place of the TTL stand the flags of a
/// TCP segment that opens or ends something: what a segment says of its flow may differ.
#[derive(Debug, Clone, Copy, Eq)]
pub struct Flow(u128);

impl PartialEq for Flow {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        // In halves: mostly one tells.
        (self.0 >> 64) as u64 == (other.0 >> 64) as u64 && self.0 as u64 == other.0 as u64
    }
}

/// The flags that count.
pub(super) const SAYING: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK;

/// Those of them without which nothing is opened or ended.
pub(super) const OPENS_OR_ENDS: u8 = tcp::FIN | tcp::SYN | tcp::RST;

/// What stands in their place where the packet is UDP.
pub(super) const DATAGRAM: u8 = 0x20;

/// What either says.
const SAYS: [Says; 0x40] = {
    let mut says = [Says::Datagram; 0x40];
    let mut flags = 0;
    while flags < DATAGRAM {
        says[flags as usize] = Says::of_tcp(flags);
        flags += 1;
    }
    says
};

/// Where among these is what opens or ends something, a bit each.
const TELLING: u64 = {
    let (mut telling, mut at) = (0, 0);
    while at < SAYS.len() {
        telling |= (matches!(SAYS[at], Says::Opens | Says::Ends) as u64) << at;
        at += 1;
    }
    telling
};

impl Flow {
    /// That of no packet.
    pub const NONE: Self = Self(0);

    /// Of the upper half, all but the source's port.
    const DESTINATION: u64 = 0xffff_0000_ffff_ffff;

    /// Of the lower half of the packet's bytes, what is no flow's: TTL and checksum.
    pub(super) const DIFFER: u64 = u64::from_le_bytes([0xff, 0, 0xff, 0xff, 0, 0, 0, 0]);

    #[inline(always)]
    fn of(ip: &ipv4::Plain, flags: u8) -> Self {
        Self(ip.tuple() & !u128::from(Self::DIFFER) | u128::from(flags))
    }

    /// What its packets say of it.
    #[inline(always)]
    pub fn says(self) -> Says {
        SAYS[self.0 as usize % SAYS.len()]
    }

    /// What its packets have in common; their length is not.
    #[inline(always)]
    pub fn packet(self) -> Packet {
        let content = if self.protocol() == protocol::TCP { Content::Tcp } else { Content::Udp };
        Packet { header: ipv4::HEADER as u16, total: 0, content, port: self.destination_port(), priority: 0 }
    }

    #[inline(always)]
    pub fn key(self) -> KeyV4 {
        KeyV4(self.0 & !0xff)
    }

    /// Destination, its port and the protocol in one number.
    #[inline(always)]
    pub fn endpoint(self) -> u64 {
        // Where the source's port is stands the protocol.
        (self.0 >> 64) as u64 & Self::DESTINATION | u64::from(self.protocol()) << 32
    }

    /// 0 where both have the same [`Flow::endpoint`].
    #[inline(always)]
    pub fn endpoint_differs(self, other: Self) -> u64 {
        let [[low, high], [other_low, other_high]] = [self, other].map(Self::words);
        (low ^ other_low) & 0xff00 | (high ^ other_high) & Self::DESTINATION
    }

    /// Its two halves.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }

    #[inline(always)]
    pub const fn from_words([low, high]: [u64; 2]) -> Self {
        Self((high as u128) << 64 | low as u128)
    }

    /// Whether its packets open or end something.
    #[inline(always)]
    pub fn is_telling(self) -> bool {
        TELLING >> (self.0 as usize % SAYS.len()) & 1 != 0
    }

    /// Its source as a little-endian word.
    #[inline(always)]
    pub fn source_word(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As it is hashed.
    #[inline(always)]
    pub fn client(self) -> Client {
        Client::v4(self.source(), self.source_port())
    }

    pub fn tuple(self) -> Tuple {
        Tuple {
            source: self.source().into(),
            destination: self.destination().into(),
            source_port: self.source_port(),
            destination_port: self.destination_port(),
            protocol: self.protocol(),
        }
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

/// [`Flow`] of a plain packet over IPv6, in little-endian words.
#[derive(Debug, Clone, Copy, Eq)]
pub struct FlowV6 {
    source: u128,
    destination: u128,
    /// The ports in the order of their bytes, then the protocol and the flags that count.
    rest: u64,
}

impl PartialEq for FlowV6 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        // Mostly one tells.
        self.rest == other.rest && self.source == other.source && self.destination == other.destination
    }
}

impl FlowV6 {
    /// That of no packet.
    pub const NONE: Self = Self { source: 0, destination: 0, rest: 0 };

    /// What its packets say of it.
    #[inline(always)]
    pub fn says(&self) -> Says {
        SAYS[(self.rest >> 40) as usize % SAYS.len()]
    }

    /// Destination; its port and the protocol.
    #[inline(always)]
    pub fn endpoint(&self) -> (u128, u32) {
        (self.destination, (self.rest >> 16) as u32 & 0xff_ffff)
    }

    /// 0 where both have the same [`FlowV6::endpoint`].
    #[inline(always)]
    pub fn endpoint_differs(&self, other: &Self) -> u64 {
        let [[.., low, high, rest], [.., other_low, other_high, other_rest]] = [self, other].map(Self::words);
        (low ^ other_low) | (high ^ other_high) | (rest ^ other_rest) & 0xff_ffff_0000
    }

    /// Source, destination, and the rest; the lowest first.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 5] {
        let Self { source, destination, rest } = *self;
        [source as u64, (source >> 64) as u64, destination as u64, (destination >> 64) as u64, rest]
    }

    #[inline(always)]
    pub const fn from_words([source_low, source_high, low, high, rest]: [u64; 5]) -> Self {
        let source = (source_high as u128) << 64 | source_low as u128;
        Self { source, destination: (high as u128) << 64 | low as u128, rest }
    }

    #[inline(always)]
    pub fn source_word(&self) -> u128 {
        self.source
    }

    /// As it is hashed.
    #[inline(always)]
    pub fn client(&self) -> ClientV6 {
        ClientV6::new(self.source, self.source_port())
    }

    #[inline(always)]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.source.to_le_bytes())
    }

    #[inline(always)]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.destination.to_le_bytes())
    }

    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        (self.rest as u16).swap_bytes()
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        ((self.rest >> 16) as u16).swap_bytes()
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.rest >> 32) as u8
    }

    /// What its packets have in common; their length is not.
    #[inline(always)]
    pub fn packet(&self) -> Packet {
        let content = if self.protocol() == protocol::TCP { Content::Tcp } else { Content::Udp };
        Packet { header: ipv6::HEADER as u16, total: 0, content, port: self.destination_port(), priority: 0 }
    }

    pub fn tuple(&self) -> Tuple {
        Tuple {
            source: self.source().into(),
            destination: self.destination().into(),
            source_port: self.source_port(),
            destination_port: self.destination_port(),
            protocol: self.protocol(),
        }
    }
}

impl Parsed {
    pub const NOTHING: Self = Self {
        source: NOBODY,
        destination: NOBODY,
        flow: Tuple { source: NOBODY, destination: NOBODY, source_port: 0, destination_port: 0, protocol: 0 },
        packet: Packet { header: 0, total: 0, content: Content::LaterFragment, port: 0, priority: 0 },
        kind: Kind::Unreadable,
        datagram: None,
        fault: None,
        link: ethernet::HEADER as u8,
    };

    /// The straight path: a frame to the station `to` ([`Mac::bits`]) with a faultless, unfragmented TCP or UDP packet without
    /// IP options. All offsets are constant, so no bounds are checked but the first. `None`: something is special; whatever
    /// is found here, [`Parsed::of`] finds too. Gives the packet's length and flow.
    #[inline(always)]
    pub fn plain(frame: &[u8], to: u64) -> Option<(u16, Flow)> {
        let (head, length): (&[u8; PLAIN], usize) = (frame.first_chunk()?, frame.len());
        let link = Ethernet::from(head.first_chunk()?);
        // First what most frames differ in that are none of these.
        if link.ether_type() != ethernet::IPV4 || link.destination_bits() != to {
            return None;
        }
        let ip = ipv4::Plain::of(head[IP..].first_chunk()?)?;
        let segment: &[u8; tcp::HEADER] = head[TRANSPORT..].first_chunk()?;
        let total = usize::from(ip.total_length());
        let flags = if ip.protocol() == protocol::TCP {
            if !tcp::is_whole(segment, total, ipv4::HEADER) {
                return None;
            }
            segment[tcp::FLAGS] & SAYING
        } else {
            cold_path();
            if ip.protocol() != protocol::UDP || !udp::is_whole(segment, total, ipv4::HEADER) {
                return None;
            }
            DATAGRAM
        };
        if total > length - IP || ip.is_fragment() {
            return None;
        }
        if !ip.checksum_verifies() || ip.may_be_martian() {
            return None;
        }
        Some((total as u16, Flow::of(&ip, flags)))
    }

    /// The same over IPv6, without extension headers.
    #[inline(always)]
    pub fn plain_v6(frame: &[u8], to: u64) -> Option<(u16, FlowV6)> {
        const TRANSPORT: usize = IP + ipv6::HEADER;
        /// What is behind it only TCP has.
        const PLAIN: usize = TRANSPORT + udp::HEADER;
        let (head, length): (&[u8; PLAIN], usize) = (frame.first_chunk()?, frame.len());
        let link = Ethernet::from(head.first_chunk()?);
        if link.destination_bits() != to || link.ether_type() != ethernet::IPV6 {
            return None;
        }
        let header: &[u8; ipv6::HEADER] = head[IP..].first_chunk()?;
        let ip = Ipv6::from(header);
        let total = ip.total(length - IP).ok()?;
        let flags = match ip.next_header() {
            protocol::TCP => {
                let segment: &[u8; tcp::HEADER] = frame.get(TRANSPORT..)?.first_chunk()?;
                if !tcp::is_whole(segment, total, ipv6::HEADER) {
                    return None;
                }
                segment[tcp::FLAGS] & SAYING
            }
            protocol::UDP if udp::is_whole::<{ udp::HEADER }>(head.last_chunk()?, total, ipv6::HEADER) => DATAGRAM,
            _ => return None,
        };
        let (source, destination) = (ip.source(), ip.destination());
        if ipv6::is_martian_source(source) {
            return None;
        }
        let ports = u32::from_le_bytes(*head[TRANSPORT..].first_chunk()?);
        let rest = u64::from(ports) | u64::from(ip.next_header()) << 32 | u64::from(flags) << 40;
        let word = |address: Ipv6Addr| u128::from_le_bytes(address.octets());
        let flow = FlowV6 { source: word(source), destination: word(destination), rest };
        Some((u16::try_from(total).ok()?, flow))
    }

    /// The destination of an untagged frame's IPv4 packet that is not what it claims to be, and its fault, where that is the first that
    /// [`Parsed::of`] finds, too; `to` is the station. `None`: it takes more to tell.
    #[inline(always)]
    pub fn fault_v4(frame: &[u8], to: u64) -> Option<(Ipv4Addr, Reason)> {
        let link = Ethernet::of(frame)?;
        if link.destination_bits() != to || link.ether_type() != ethernet::IPV4 {
            return None;
        }
        let bytes = &frame[ethernet::HEADER..];
        let ip = Ipv4::of(bytes)?;
        let Ok(lengths) = ip.lengths(bytes.len()) else { return Some((ip.destination(), Reason::Malformed)) };
        let (payload, is_first) = (&bytes[lengths.header..lengths.total], ip.is_fragment());
        let is_whole = ip.is_later_fragment()
            || match ip.protocol() {
                protocol::TCP => tcp::ports(payload, is_first).is_ok(),
                protocol::UDP => udp::ports(payload, is_first).is_ok(),
                _ => return None,
            };
        let fault = match () {
            () if !is_whole => Reason::Malformed,
            () if !ip.checksum_verifies(&bytes[ipv4::HEADER..lengths.header]) => Reason::BadChecksum,
            () => return None,
        };
        Some((ip.destination(), fault))
    }

    /// Reads a frame again whose station has been looked at before.
    pub fn again(frame: &[u8]) -> Self {
        Self::of(frame, &Port { mac: Mac::default(), mtu: 0, promiscuous: true })
    }

    /// Reads a frame that `station` received, whatever it is.
    pub fn of(frame: &[u8], station: &Port) -> Self {
        let (Some(header), Some(link)) = (Ethernet::of(frame), Link::of(frame)) else { return Self::NOTHING };
        let bytes = &frame[link.length..];
        let read = match link.ether_type {
            ethernet::IPV4 => Self::of_v4(bytes),
            ethernet::IPV6 => Self::of_v6(bytes),
            _ => return Self { kind: Kind::Foreign, ..Self::NOTHING },
        };
        let Some(mut parsed) = read else { return Self::NOTHING };
        parsed.link = link.length as u8;
        parsed.packet.priority = link.priority;
        let to = header.destination();
        if to != station.mac && (to.is_group() || !station.promiscuous) {
            parsed.fault = Some(Reason::NotForUs);
        }
        parsed
    }

    /// Gives a later fragment the ports of its first, where they are known: it goes where that went.
    pub fn take_ports(&mut self, ports: Option<(u16, u16)>) {
        if let Some(ports) = ports {
            (self.flow.source_port, self.flow.destination_port) = ports;
            self.packet.port = ports.1;
            self.kind = Kind::Ported;
        }
    }

    /// Whether it has the ports that later ones lack.
    pub fn is_first_fragment(&self) -> bool {
        self.kind == Kind::Ported && self.datagram.is_some() && self.packet.content != Content::LaterFragment
    }

    /// `None` where the addresses are not all there.
    fn of_v4(bytes: &[u8]) -> Option<Self> {
        let ip = Ipv4::of(bytes)?;
        let mut parsed = Self::between(ip.source().into(), ip.destination().into(), ip.protocol());
        parsed.fault = parsed.read_v4(&ip, bytes).err();
        Some(parsed)
    }

    fn of_v6(bytes: &[u8]) -> Option<Self> {
        let ip = Ipv6::of(bytes)?;
        let mut parsed = Self::between(ip.source().into(), ip.destination().into(), ip.next_header());
        parsed.fault = parsed.read_v6(&ip, bytes).err();
        Some(parsed)
    }

    fn between(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        let flow = Tuple { source, destination, protocol, ..Self::NOTHING.flow };
        Self { source, destination, flow, kind: Kind::Other, ..Self::NOTHING }
    }

    /// Reads on behind the fixed header, as far as the lengths are true; gives the fault.
    fn read_v4(&mut self, ip: &Ipv4, bytes: &[u8]) -> Result<(), Reason> {
        let lengths = ip.lengths(bytes.len())?;
        self.packet.header = lengths.header as u16;
        self.packet.total = lengths.total as u16;
        let payload = &bytes[lengths.header..lengths.total];
        let part = match (ip.is_fragment(), ip.is_later_fragment()) {
            (false, _) => Part::Whole,
            (true, false) => Part::First,
            (true, true) => Part::Later,
        };
        if part != Part::Whole {
            self.datagram = Some(self.datagram(u32::from(ip.identification())));
        }
        match ip.protocol() {
            protocol::ICMP => self.read_icmp(part, payload, icmp::Message::of_v4, icmp::Quote::of_v4)?,
            number => self.read_transport(number, part, payload)?,
        }
        let options = &bytes[ipv4::HEADER..lengths.header];
        match () {
            () if !ip.checksum_verifies(options) => Err(Reason::BadChecksum),
            () if !options.is_empty() && ipv4::is_source_routed(options) => Err(Reason::SourceRouted),
            () if ipv4::is_martian_source(ip.source()) => Err(Reason::BadSource),
            () => Ok(()),
        }
    }

    fn read_v6(&mut self, ip: &Ipv6, bytes: &[u8]) -> Result<(), Reason> {
        let total = ip.total(bytes.len())?;
        let upper = ipv6::upper(&bytes[..total])?;
        self.flow.protocol = upper.protocol;
        self.packet.header = upper.offset as u16;
        self.packet.total = u16::try_from(total).unwrap_or(u16::MAX);
        let payload = &bytes[upper.offset..total];
        let part = match upper.fragment {
            None => Part::Whole,
            Some(fragment) if fragment.is_later => Part::Later,
            Some(_) => Part::First,
        };
        self.datagram = upper.fragment.map(|fragment| self.datagram(fragment.identification));
        match upper.protocol {
            protocol::ICMPV6 => self.read_icmp(part, payload, icmp::Message::of_v6, icmp::Quote::of_v6)?,
            number => self.read_transport(number, part, payload)?,
        }
        match () {
            () if upper.is_source_routed => Err(Reason::SourceRouted),
            () if ipv6::is_martian_source(ip.source()) => Err(Reason::BadSource),
            () => Ok(()),
        }
    }

    fn datagram(&self, identification: u32) -> Datagram {
        let (source, destination, protocol) = (self.source, self.destination, self.flow.protocol);
        Datagram { source, destination, identification, protocol }
    }

    fn read_transport(&mut self, number: u8, part: Part, payload: &[u8]) -> Result<(), Malformed> {
        let (content, ports) = match number {
            protocol::TCP | protocol::UDP if part == Part::Later => {
                self.kind = Kind::LaterFragment;
                return Ok(());
            }
            protocol::TCP => (Content::Tcp, tcp::ports(payload, part == Part::First)?),
            protocol::UDP => (Content::Udp, udp::ports(payload, part == Part::First)?),
            _ => return Ok(()),
        };
        self.kind = Kind::Ported;
        self.packet.content = content;
        (self.flow.source_port, self.flow.destination_port) = ports;
        self.packet.port = self.flow.destination_port;
        Ok(())
    }

    fn read_icmp(
        &mut self,
        part: Part,
        payload: &[u8],
        kind: impl Fn(&[u8]) -> Result<icmp::Message, Malformed>,
        quote: impl Fn(&[u8]) -> Option<icmp::Quote>,
    ) -> Result<(), Malformed> {
        self.kind = match part {
            Part::Later => Kind::LaterIcmp,
            // What is fragmented is not answered: it would have to be put together first.
            Part::First => Kind::OtherIcmp,
            Part::Whole => match kind(payload)? {
                icmp::Message::EchoRequest => Kind::EchoRequest,
                icmp::Message::Other => Kind::OtherIcmp,
                icmp::Message::Error => match quote(payload) {
                    // The flow's own packets come from where the quoted one was going.
                    Some(quote) => {
                        self.flow = Tuple {
                            source: quote.destination,
                            destination: quote.source,
                            source_port: quote.destination_port,
                            destination_port: quote.source_port,
                            protocol: quote.protocol,
                        };
                        self.packet.content = Content::Error;
                        self.packet.port = quote.source_port;
                        Kind::Error
                    }
                    None => Kind::OtherIcmp,
                },
            },
        };
        Ok(())
    }
}

/// Which part of a packet a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Later,
}

impl From<Malformed> for Reason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::Frame;
    use proptest::prelude::*;

    pub const STATION: Port = Port { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, promiscuous: false };

    /// A frame that is only read.
    #[derive(Debug)]
    pub struct Bytes(pub Vec<u8>);

    impl Frame for Bytes {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
        fn reshape(&mut self, _front: usize, _length: usize) -> Option<&mut [u8]> {
            None
        }
        fn strip(&mut self, _count: usize) -> bool {
            false
        }
    }

    pub fn sound(protocol: u8, payload: usize) -> Vec<u8> {
        let transport = if protocol == protocol::TCP { tcp::HEADER } else { udp::HEADER };
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1];
        ip[2..4].copy_from_slice(&((20 + transport + payload) as u16).to_be_bytes());
        let mut segment = vec![0; transport + payload];
        segment[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        match protocol {
            protocol::TCP => segment[12] = 0x50,
            _ => segment[4..6].copy_from_slice(&((transport + payload) as u16).to_be_bytes()),
        }
        let mut frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0][..], &ip, &segment].concat();
        frame.resize(frame.len().max(ethernet::MINIMUM), 0);
        seal(&mut frame);
        frame
    }

    /// Gives its IPv4 header the checksum that it ought to have.
    pub fn seal(frame: &mut [u8]) {
        frame[24..26].fill(0);
        let sum = !crate::wire::checksum::sum(&frame[IP..TRANSPORT]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    fn sound_v6(protocol: u8, payload: usize) -> Vec<u8> {
        let transport = if protocol == protocol::TCP { tcp::HEADER } else { udp::HEADER };
        let mut ip = [0; ipv6::HEADER];
        (ip[0], ip[5], ip[6], ip[7]) = (0x60, (transport + payload) as u8, protocol, 64);
        (ip[8], ip[23], ip[24], ip[39]) = (0x20, 7, 0x20, 1);
        let mut segment = vec![0; transport + payload];
        segment[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        match protocol {
            protocol::TCP => segment[12] = 0x50,
            _ => segment[5] = (transport + payload) as u8,
        }
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd][..], &ip, &segment].concat()
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
        let flow = |frame: &[u8]| Flow::of(&ipv4::Plain::of(frame[14..].first_chunk().unwrap()).unwrap(), 0);
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
            is_sealed: bool, length in prop_oneof![Just(usize::MAX), 54usize..80],
        ) {
            let mut frame = sound(if udp { protocol::UDP } else { protocol::TCP }, payload);
            for (at, byte) in damage { frame[at] = byte; }
            if is_sealed {
                seal(&mut frame);
            }
            frame.truncate(length);
            let any = Parsed::of(&frame, &STATION);
            if let Some((total, flow)) = Parsed::plain(&frame, STATION.mac.bits()) {
                let plain = Parsed {
                    source: flow.source().into(), destination: flow.destination().into(), flow: flow.tuple(),
                    packet: Packet { total, ..flow.packet() }, kind: Kind::Ported, ..Parsed::NOTHING
                };
                prop_assert_eq!(plain, any);
            }
            if let Some((destination, fault)) = Parsed::fault_v4(&frame, STATION.mac.bits()) {
                prop_assert_eq!((IpAddr::from(destination), Some(fault)), (any.destination, any.fault));
            } else {
                let is_for_us = frame.len() >= 34 && frame[..6] == STATION.mac.0 && frame[12..14] == [8, 0];
                let is_known = matches!(frame.get(23), Some(&(protocol::TCP | protocol::UDP)));
                let is_at_once = matches!(any.fault, Some(Reason::Malformed | Reason::BadChecksum));
                prop_assert!(!(is_for_us && is_known && is_at_once), "{any:?}");
            }
        }

        #[test]
        fn so_it_does_over_ipv6(
            udp: bool, payload in 0usize..40, damage in proptest::collection::vec((0usize..80, any::<u8>()), 0..3),
            length in prop_oneof![Just(usize::MAX), 54usize..100],
        ) {
            let mut frame = sound_v6(if udp { protocol::UDP } else { protocol::TCP }, payload);
            if damage.is_empty() && length == usize::MAX {
                prop_assert!(Parsed::plain_v6(&frame, STATION.mac.bits()).is_some());
            }
            let size = frame.len();
            for (at, byte) in damage { frame[at % size] = byte; }
            frame.truncate(length);
            let any = Parsed::of(&frame, &STATION);
            if let Some((total, flow)) = Parsed::plain_v6(&frame, STATION.mac.bits()) {
                let plain = Parsed {
                    source: flow.source().into(), destination: flow.destination().into(), flow: flow.tuple(),
                    packet: Packet { total, ..flow.packet() }, kind: Kind::Ported, ..Parsed::NOTHING
                };
                prop_assert_eq!(plain, any);
            }
        }
    }
}
