//! The first stage: what a frame is, from its bytes alone. One bounds check a header.

use std::net::Ipv4Addr;

use crate::counters::Reason;
use crate::mode::Packet;
use crate::snapshot::Port;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4, protocol};
use crate::wire::{Malformed, icmp, tcp, udp};

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

    /// Reads a frame that `station` received.
    #[inline]
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
    #[inline]
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

    #[inline]
    fn take(&mut self, (source, destination): (u16, u16)) {
        self.kind = Kind::Ported;
        self.source_port = source;
        self.destination_port = destination;
    }

    #[inline]
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
