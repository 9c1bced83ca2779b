//! Geneve as it arrives at a node (RFC 8926, 3), with the DSR option that Cilium defines (class 0x014b).

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};

use super::packet::{Ip, UDP, address, be16};

pub const PORT: u16 = 6081;

/// An Ethernet frame is inside (RFC 8926, 3.4).
const ETHERNET: u16 = 0x6558;
/// "Critical options present", and the bits beside it (RFC 8926, 3.4).
const CONTROL: u8 = 0x80;
const CRITICAL: u8 = 0x40;
/// Cilium's option class, assigned by IANA, and its DSR option, whose highest bit says that it is critical.
const CLASS: u16 = 0x014b;
const DSR: u8 = 0x81;

/// What was inside.
#[derive(Debug, PartialEq, Eq)]
pub struct Unwrapped {
    pub vni: u32,
    /// Destination and source of the inner Ethernet header.
    pub stations: [[u8; 6]; 2],
    /// Whom the client talked to.
    pub frontend: SocketAddr,
    /// The inner IP packet.
    pub packet: Vec<u8>,
}

/// Takes a tunnel packet apart, whose outer IP header has been read as `outer`.
pub fn unwrap(packet: &[u8], outer: &Ip) -> Result<Unwrapped> {
    ensure!(outer.protocol == UDP && !outer.is_fragment, "protocol {} in a fragment or not", outer.protocol);
    let udp = &packet[outer.payload..];
    let length = usize::from(be16(udp, 4));
    ensure!(length == udp.len(), "UDP says {length} bytes, {} are there", udp.len());
    let geneve = &udp[8..];
    ensure!(geneve.len() >= 8, "{} bytes of Geneve", geneve.len());
    ensure!(geneve[0] >> 6 == 0, "Geneve version {}", geneve[0] >> 6);
    ensure!(geneve[1] & CONTROL == 0, "a control packet");
    ensure!(geneve[1] & 0x3f == 0 && geneve[7] == 0, "reserved bits are set");
    ensure!(be16(geneve, 2) == ETHERNET, "protocol {:#06x} inside", be16(geneve, 2));
    let options_end = 8 + usize::from(geneve[0] & 0x3f) * 4;
    ensure!(geneve.len() >= options_end + 14, "{} bytes of Geneve, options to {options_end}", geneve.len());

    let mut frontend = None;
    let (mut options, mut has_critical) = (&geneve[8..options_end], false);
    while !options.is_empty() {
        let (class, kind, length) = (be16(options, 0), options[2], usize::from(options[3] & 0x1f) * 4);
        ensure!(options[3] & 0xe0 == 0, "reserved bits of an option are set");
        ensure!(options.len() >= 4 + length, "an option of {length} bytes, {} are left", options.len() - 4);
        has_critical |= kind & 0x80 != 0;
        match (class, kind) {
            (CLASS, DSR) => frontend = Some(dsr(&options[4..4 + length])?),
            (_, 0x80..) => bail!("a critical option of class {class:#06x}, type {kind:#04x}, which is unknown here"),
            _ => {}
        }
        options = &options[4 + length..];
    }
    ensure!(has_critical == (geneve[1] & CRITICAL != 0), "the C bit and the options disagree");
    let Some(frontend) = frontend else { bail!("no DSR option") };

    let frame = &geneve[options_end..];
    let packet = frame[14..].to_vec();
    let ether_type = be16(frame, 12);
    let inner = Ip::read(&packet)?;
    ensure!(ether_type == if inner.source.is_ipv4() { 0x0800 } else { 0x86dd }, "EtherType {ether_type:#06x}");
    let station = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).expect("six bytes");
    let vni = u32::from_be_bytes([0, geneve[4], geneve[5], geneve[6]]);
    Ok(Unwrapped { vni, stations: [station(0), station(6)], frontend, packet })
}

/// Address, port, two bytes of zero.
fn dsr(data: &[u8]) -> Result<SocketAddr> {
    let at = match data.len() {
        8 => 4,
        20 => 16,
        length => bail!("a DSR option of {length} bytes"),
    };
    ensure!(data[at + 2..] == [0, 0], "the DSR option does not end in zeros");
    Ok((address(&data[..at]), be16(data, at)).into())
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::hex;
    use super::*;

    /// From 10.0.0.1 to the node 10.1.1.2, in it 198.51.100.10:40000 to 10.2.1.2:8081, for 192.0.2.1:80.
    const FOUR: &str = "
        4500 0066 0000 4000 4011 2584 0a00 0001 0a01 0102   # IPv4: 102 bytes, DF, TTL 64, UDP
        c3e8 17c1 0052 0000                                 # UDP: 50152 to 6081, 82 bytes, no checksum
        03 40 6558 000002 00                                # Geneve: 3 words of options, C, Ethernet, VNI 2
        014b 81 02  c0000201 0050 0000                      # option: class 0x014b, DSR, 2 words: 192.0.2.1, 80
        020000000002 020000000001 0800                      # Ethernet: IPv4
        4500 0028 0001 4000 3f06 068e c633 640a 0a02 0102   # IPv4: 40 bytes, DF, TTL 63, TCP
        9c40 1f91 0000 0001 0000 0000 5002 ffff bece 0000   # TCP: 40000 to 8081, SYN
    ";

    /// The same with IPv6 inside and outside; 2001:db8:1::1 port 443.
    const SIX: &str = "
        6002 5a3c 0072 11 40 fd00 0000 0000 0000 0000 0000 0000 0001  # IPv6: 114 bytes, UDP
                             fd00 0001 0001 0000 0000 0000 0000 0002
        c001 17c1 0072 0000                                   # UDP: 114 bytes; no checksum, RFC 6935
        06 40 6558 000002 00                                  # Geneve: 6 words of options
        014b 81 05  2001 0db8 0001 0000 0000 0000 0000 0001  01bb 0000
        020000000002 020000000001 86dd
        6000 0000 0014 06 3f 2001 0db8 000c 0000 0000 0000 0000 0010
                             fd00 0002 0001 0000 0000 0000 0000 0002
        9c40 1f91 0000 0001 0000 0000 5002 ffff c935 0000
    ";

    fn unwrapped(text: &str) -> Result<Unwrapped> {
        let packet = hex(text);
        unwrap(&packet, &Ip::read_tunnel(&packet)?)
    }

    #[test]
    fn ipv4_by_hand() {
        let got = unwrapped(FOUR).unwrap();
        assert_eq!((got.vni, got.frontend), (2, "192.0.2.1:80".parse().unwrap()));
        assert_eq!(got.stations, [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]]);
        assert_eq!(got.packet, hex(FOUR)[62..]);
    }

    #[test]
    fn ipv6_by_hand() {
        let got = unwrapped(SIX).unwrap();
        assert_eq!(got.frontend, "[2001:db8:1::1]:443".parse().unwrap());
        assert_eq!(got.packet, hex(SIX)[94..]);
    }

    #[test]
    fn what_the_rfc_lets_a_receiver_refuse() {
        for (from, to, refusal) in [
            ("03 40 6558", "43 40 6558", "Geneve version 1"),
            ("03 40 6558", "03 c0 6558", "a control packet"),
            ("03 40 6558", "03 00 6558", "the C bit and the options disagree"),
            ("03 40 6558", "03 41 6558", "reserved bits are set"),
            ("03 40 6558", "03 40 0800", "protocol 0x0800 inside"),
            ("014b 81 02", "014c 81 02", "a critical option of class 0x014c, type 0x81, which is unknown here"),
            ("014b 81 02", "014b 01 02", "the C bit and the options disagree"),
            ("014b 81 02", "014b 81 03", "an option of 12 bytes, 8 are left"),
            ("0050 0000", "0050 0001", "the DSR option does not end in zeros"),
            ("020000000001 0800", "020000000001 86dd", "EtherType 0x86dd"),
            ("c3e8 17c1 0052", "c3e8 17c1 0051", "UDP says 81 bytes, 82 are there"),
            ("5002 ffff bece", "5002 ffff becf", "a transport checksum that is off by 0xfffe"),
        ] {
            assert!(FOUR.contains(from), "{from}");
            assert_eq!(format!("{:#}", unwrapped(&FOUR.replace(from, to)).unwrap_err()), refusal, "{to}");
        }
    }
}
