//! IP packets as the receiver reads them: from the RFCs, and without a line of penstock's own.
//!
//! Nothing damaged goes further: a receiver that computed checksums anew without looking would hide what it is there to show.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail, ensure};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Extension headers that may stand before the payload (RFC 8200, 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;

/// Where the parts of a whole, sound packet lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of what comes after all IP headers.
    pub protocol: u8,
    /// Where that begins.
    pub payload: usize,
    /// Whether it is the first part of a datagram, or all of it.
    pub is_first: bool,
    /// Whether it is a part only.
    pub is_fragment: bool,
}

impl Ip {
    /// Reads a packet that must be as long as it says, with every checksum right.
    pub fn read(packet: &[u8]) -> Result<Self> {
        let ip = Self::read_tunnel(packet)?;
        let has_none = ip.source.is_ipv6() && ip.protocol == UDP && !ip.is_fragment && ip.checksum(packet) == Some(0);
        ensure!(!has_none, "UDP over IPv6 without a checksum");
        Ok(ip)
    }

    /// As `read`, for a tunnel's packet: that may do without a UDP checksum over IPv6, too (RFC 6935).
    pub fn read_tunnel(packet: &[u8]) -> Result<Self> {
        let ip = match packet.first().map(|first| first >> 4) {
            Some(4) => Self::read_v4(packet)?,
            Some(6) => Self::read_v6(packet)?,
            version => bail!("IP version {version:?}"),
        };
        if !ip.is_fragment && matches!(ip.protocol, TCP | UDP) {
            let Some(checksum) = ip.checksum(packet) else {
                bail!("a transport header of {} bytes", packet.len() - ip.payload);
            };
            let has_none = ip.protocol == UDP && checksum == 0;
            let sum = ip.sum(&packet[ip.payload..]);
            ensure!(has_none || sum == 0, "a transport checksum that is off by {sum:#06x}");
        }
        Ok(ip)
    }

    fn read_v4(packet: &[u8]) -> Result<Self> {
        ensure!(packet.len() >= 20, "{} bytes of IPv4", packet.len());
        let header = usize::from(packet[0] & 15) * 4;
        let total = usize::from(be16(packet, 2));
        ensure!(header >= 20 && header <= total, "IPv4 header of {header} bytes, total {total}");
        ensure!(total == packet.len(), "IPv4 says {total} bytes, {} are there", packet.len());
        ensure!(fold(add(&packet[..header])) == 0, "the IPv4 header's checksum is wrong");
        let fragment = be16(packet, 6);
        Ok(Self {
            source: address(&packet[12..16]),
            destination: address(&packet[16..20]),
            protocol: packet[9],
            payload: header,
            is_first: fragment & 0x1fff == 0,
            is_fragment: fragment & 0x3fff != 0,
        })
    }

    fn read_v6(packet: &[u8]) -> Result<Self> {
        ensure!(packet.len() >= 40, "{} bytes of IPv6", packet.len());
        let length = usize::from(be16(packet, 4));
        ensure!(packet.len() == 40 + length, "IPv6 says {} bytes, {} are there", 40 + length, packet.len());
        let mut ip = Self {
            source: address(&packet[8..24]),
            destination: address(&packet[24..40]),
            protocol: packet[6],
            payload: 40,
            is_first: true,
            is_fragment: false,
        };
        for header in extensions(packet)? {
            if header.kind == FRAGMENT {
                let offset = be16(packet, header.at + 2);
                (ip.is_fragment, ip.is_first) = (offset & !6 != 0, offset >> 3 == 0);
            }
            (ip.protocol, ip.payload) = (packet[header.at], header.at + header.length);
        }
        Ok(ip)
    }

    /// Source and destination port.
    pub fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        let has = self.is_first && matches!(self.protocol, TCP | UDP) && packet.len() >= self.payload + 4;
        has.then(|| (be16(packet, self.payload), be16(packet, self.payload + 2)))
    }

    fn checksum(&self, packet: &[u8]) -> Option<u16> {
        packet.get(self.checksum_at()..)?.first_chunk().map(|&two| u16::from_be_bytes(two))
    }

    /// Where the checksum of TCP or UDP stands.
    fn checksum_at(&self) -> usize {
        self.payload + if self.protocol == TCP { 16 } else { 6 }
    }

    /// The sum over the pseudo-header and the payload (RFC 1071); 0 where the payload's checksum is right.
    pub fn sum(&self, payload: &[u8]) -> u16 {
        let addresses = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => add(&source.octets()) + add(&destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => add(&source.octets()) + add(&destination.octets()),
            _ => unreachable!("both are of the packet's family"),
        };
        fold(addresses + u64::from(self.protocol) + payload.len() as u64 + add(payload))
    }
}

/// One IPv6 extension header.
pub struct Extension {
    pub kind: u8,
    pub at: usize,
    pub length: usize,
}

/// The extension headers of an IPv6 packet, in order.
pub fn extensions(packet: &[u8]) -> Result<Vec<Extension>> {
    let (mut kind, mut at, mut found) = (packet[6], 40, Vec::new());
    while matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        ensure!(packet.len() >= at + 8, "an extension header that is cut");
        let length = if kind == FRAGMENT { 8 } else { (usize::from(packet[at + 1]) + 1) * 8 };
        ensure!(packet.len() >= at + length, "an extension header of {length} bytes, {} are left", packet.len() - at);
        found.push(Extension { kind, at, length });
        let is_later = kind == FRAGMENT && be16(packet, at + 2) >> 3 != 0;
        (kind, at) = (packet[at], at + length);
        if is_later {
            break;
        }
    }
    Ok(found)
}

/// Gives a packet another source; its checksums are computed from nothing.
pub fn set_source(packet: &mut [u8], ip: &Ip, address: IpAddr, port: u16) {
    match address {
        IpAddr::V4(address) => packet[12..16].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => packet[8..24].copy_from_slice(&address.octets()),
    }
    packet[ip.payload..][..2].copy_from_slice(&port.to_be_bytes());
    if address.is_ipv4() {
        fill_header_checksum(packet);
    }
    let at = ip.checksum_at();
    if ip.protocol == UDP && packet[at..at + 2] == [0, 0] {
        return;
    }
    packet[at..at + 2].fill(0);
    let sum = Ip { source: address, ..*ip }.sum(&packet[ip.payload..]);
    let sum = if ip.protocol == UDP && sum == 0 { 0xffff } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

pub fn fill_header_checksum(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = fold(add(&packet[..header]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An address from its 4 or 16 bytes.
pub fn address(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("4 bytes or 16")).into(),
    }
}

fn add(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    words.sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Bytes from hex, as a person writes them: spaces, and all that follows a `#` on a line, are nothing.
    pub fn hex(text: &str) -> Vec<u8> {
        let digits = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().chars());
        let digits: Vec<u8> =
            digits.filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("a hex digit") as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// The packet of RFC 1071's own kind: the header that many textbooks sum by hand, checksum b861.
    #[test]
    fn a_checksum_known_from_elsewhere() {
        let mut header = hex("4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7");
        fill_header_checksum(&mut header);
        assert_eq!(be16(&header, 10), 0xb861);
    }

    #[test]
    fn damage_is_refused() {
        let sound = hex("4500 001d 0001 0000 4011 0000 0a00 0001 0a00 0002 # IPv4, checksum below
             1000 0035 0009 0000 71                            # UDP without a checksum, one byte
            ");
        let mut sound = sound;
        fill_header_checksum(&mut sound);
        assert_eq!(Ip::read(&sound).unwrap().ports(&sound), Some((0x1000, 53)));
        let refusal = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = sound.clone();
            change(&mut packet);
            format!("{:#}", Ip::read(&packet).unwrap_err())
        };
        assert_eq!(refusal(&|packet| packet[8] -= 1), "the IPv4 header's checksum is wrong");
        assert_eq!(refusal(&|packet| packet.push(0)), "IPv4 says 29 bytes, 30 are there");
        assert!(refusal(&|packet| packet[27] = 1).starts_with("a transport checksum that is off by"));
    }
}
