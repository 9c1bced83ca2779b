//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and the packets that errors quote.

use std::net::IpAddr;

use super::ipv4::{self, Ipv4};
use super::ipv6::{self, Ipv6};
use super::{Malformed, be16};

/// Bytes of type, code, checksum and the word behind them; what an error quotes begins there.
pub const HEADER: usize = 8;
/// Where the checksum lies, in bytes from the start of the message.
pub const CHECKSUM: usize = 2;

/// Types and codes of ICMP.
pub mod v4 {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const ECHO_REQUEST: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Codes of [`UNREACHABLE`].
    pub const PORT: u8 = 3;
    pub const FRAGMENTATION_NEEDED: u8 = 4;
}

/// Types and codes of ICMPv6.
pub mod v6 {
    pub const UNREACHABLE: u8 = 1;
    pub const TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    /// Code of [`UNREACHABLE`].
    pub const PORT: u8 = 4;
}

/// What a message is, as far as a load balancer cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    EchoRequest,
    /// Quotes the packet that it is about.
    Error,
    Other,
}

impl Message {
    /// Of an ICMP `message`, the IP payload without padding.
    pub fn of_v4(message: &[u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER] = message.first_chunk().ok_or(Malformed)?;
        Ok(match (header[0], header[1]) {
            (v4::ECHO_REQUEST, 0) => Self::EchoRequest,
            (v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM, _) => Self::Error,
            _ => Self::Other,
        })
    }

    /// Of an ICMPv6 `message`.
    pub fn of_v6(message: &[u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER] = message.first_chunk().ok_or(Malformed)?;
        Ok(match (header[0], header[1]) {
            (v6::ECHO_REQUEST, 0) => Self::EchoRequest,
            (v6::UNREACHABLE..=v6::PARAMETER_PROBLEM, _) => Self::Error,
            _ => Self::Other,
        })
    }
}

/// The beginning of a TCP or UDP packet within an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes from the start of the quoted packet to its transport header.
    pub header: usize,
}

/// Bytes of the transport header that a quote has at least (RFC 792).
const QUOTED: usize = 8;

impl Quote {
    /// Of an ICMP error. `None` where it quotes nothing that has ports; its lengths and checksums are nobody's business, since
    /// quotes are cut.
    pub fn of_v4(message: &[u8]) -> Option<Self> {
        let quoted = message.get(HEADER..)?;
        let ip = Ipv4::of(quoted)?;
        let header = ip.header_length();
        if quoted[0] >> 4 != 4 || header < ipv4::HEADER || ip.is_later_fragment() {
            return None;
        }
        Self::new(ip.source().into(), ip.destination().into(), ip.protocol(), header, quoted)
    }

    /// Of an ICMPv6 error.
    pub fn of_v6(message: &[u8]) -> Option<Self> {
        let quoted = message.get(HEADER..)?;
        let ip = Ipv6::of(quoted)?;
        let upper = ipv6::upper(quoted).ok()?;
        if quoted[0] >> 4 != 6 || upper.fragment.is_some_and(|fragment| fragment.is_later) {
            return None;
        }
        Self::new(ip.source().into(), ip.destination().into(), upper.protocol, upper.offset, quoted)
    }

    fn new(source: IpAddr, destination: IpAddr, protocol: u8, header: usize, quoted: &[u8]) -> Option<Self> {
        let transport: &[u8; QUOTED] = quoted.get(header..)?.first_chunk()?;
        let has_ports = matches!(protocol, ipv4::protocol::TCP | ipv4::protocol::UDP);
        has_ports.then(|| Self {
            source,
            destination,
            protocol,
            source_port: be16(transport, 0),
            destination_port: be16(transport, 2),
            header,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_echo_request_is_one() {
        assert_eq!(Message::of_v4(&[8, 0, 0, 0, 0, 0, 0, 0]), Ok(Message::EchoRequest));
        assert_eq!(Message::of_v4(&[0, 0, 0, 0, 0, 0, 0, 0]), Ok(Message::Other));
        assert_eq!(Message::of_v4(&[8, 1, 0, 0, 0, 0, 0, 0]), Ok(Message::Other));
        assert_eq!(Message::of_v4(&[8, 0, 0, 0, 0, 0, 0]), Err(Malformed));
        assert_eq!(Message::of_v6(&[128, 0, 0, 0, 0, 0, 0, 0]), Ok(Message::EchoRequest));
        assert_eq!(Message::of_v6(&[8, 0, 0, 0, 0, 0, 0, 0]), Ok(Message::Other));
        assert_eq!(Message::of_v6(&[128, 0, 0, 0]), Err(Malformed));
    }

    #[test]
    fn errors_are_those_that_quote() {
        let (is_v4, is_v6) = (
            |kind| Message::of_v4(&[kind, 0, 0, 0, 0, 0, 0, 0]) == Ok(Message::Error),
            |kind| Message::of_v6(&[kind, 0, 0, 0, 0, 0, 0, 0]) == Ok(Message::Error),
        );
        assert_eq!((0..=255).filter(|&kind| is_v4(kind)).collect::<Vec<u8>>(), [3, 11, 12]);
        assert_eq!((0..=255).filter(|&kind| is_v6(kind)).collect::<Vec<u8>>(), [1, 2, 3, 4]);
    }

    fn v4(change: impl Fn(&mut Vec<u8>)) -> Option<Quote> {
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 120];
        message.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 60, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
        message.extend([0, 80, 0x9c, 0x40, 1, 2, 3, 4]);
        change(&mut message);
        Quote::of_v4(&message)
    }

    #[test]
    fn eight_bytes_of_transport_are_enough() {
        let quote = Quote {
            source: "192.0.2.1".parse().unwrap(),
            destination: "198.51.100.7".parse().unwrap(),
            protocol: 6,
            source_port: 80,
            destination_port: 40000,
            header: 20,
        };
        assert_eq!(v4(|_| ()), Some(quote));
        assert_eq!(v4(|m| m.truncate(35)), None);
        assert_eq!(v4(|m| m[8] = 0x46).map(|quote| quote.header), None, "options take the ports' place");
        assert_eq!(v4(|m| m[8] = 0x44), None);
        assert_eq!(v4(|m| m[8] = 0x65), None);
        assert_eq!(v4(|m| m[15] = 1), None, "a later fragment");
        assert_eq!(v4(|m| m[17] = 1), None, "an echo");
        assert_eq!(v4(|m| m[17] = 17).map(|quote| quote.protocol), Some(17));
    }

    #[test]
    fn extensions_of_a_quote_are_stepped_over() {
        let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0, 0x60, 0, 0, 0, 5, 0, 60, 64];
        message.extend([0x20; 16]);
        message.extend([0x30; 16]);
        message.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        message.extend([0, 53, 0x9c, 0x40, 0, 9, 0, 0]);
        let quote = Quote::of_v6(&message).unwrap();
        assert_eq!((quote.protocol, quote.source_port, quote.destination_port, quote.header), (17, 53, 40000, 48));
        message.pop();
        assert_eq!(Quote::of_v6(&message), None);
    }
}
