//! The IPv4 option (RFC 791, 3.1) and the IPv6 destination option (RFC 8200, 4.6) that tell a Cilium node the VIP and port.
//!
//! A receiver takes the option out, so that the backend meets the packet that the client sent, but for its destination.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};

use super::packet::{DESTINATION_OPTIONS, Extension, Ip, address, be16, extensions, fill_header_checksum};

/// Copied into fragments, class "control", number 26.
const TYPE_V4: u8 = 0x9a;
const LENGTH_V4: usize = 8;
/// To be skipped where it is unknown, not changed on the way, number 27.
const TYPE_V6: u8 = 0x1b;
const LENGTH_V6: usize = 20;

/// The order of bytes in the option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Network,
    /// As a little-endian host has numbers in its memory; over IPv6 this concerns the port only.
    Host,
}

/// The packet without the option, and what that said; `None` where there is none.
pub fn take(packet: &[u8], ip: &Ip, order: Order) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    if ip.source.is_ipv4() { take_v4(packet, ip, order) } else { take_v6(packet, order) }
}

fn take_v4(packet: &[u8], ip: &Ip, order: Order) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    let mut at = 20;
    while at < ip.payload {
        let length = match packet[at] {
            0 => break,
            1 => 1,
            _ => {
                ensure!(at + 2 <= ip.payload, "an option without its length");
                usize::from(packet[at + 1])
            }
        };
        ensure!((1..=ip.payload - at).contains(&length), "an option of {length} bytes, {} are left", ip.payload - at);
        if packet[at] == TYPE_V4 {
            ensure!(length == LENGTH_V4, "a DSR option of {length} bytes");
            let mut port = [packet[at + 2], packet[at + 3]];
            let mut vip: [u8; 4] = packet[at + 4..at + 8].try_into()?;
            if order == Order::Host {
                port.reverse();
                vip.reverse();
            }
            let mut without = [&packet[..at], &packet[at + LENGTH_V4..]].concat();
            without[0] -= (LENGTH_V4 / 4) as u8;
            shrink(&mut without, 2, LENGTH_V4);
            fill_header_checksum(&mut without);
            return Ok(Some((without, (IpAddr::V4(Ipv4Addr::from(vip)), u16::from_be_bytes(port)).into())));
        }
        at += length;
    }
    Ok(None)
}

fn take_v6(packet: &[u8], order: Order) -> Result<Option<(Vec<u8>, SocketAddr)>> {
    // Where the type of the header at hand stands.
    let mut named_at = 6;
    for header in extensions(packet)? {
        if header.kind == DESTINATION_OPTIONS
            && let Some(mut frontend) = option_v6(packet, &header)?
        {
            if order == Order::Host {
                frontend.set_port(frontend.port().swap_bytes());
            }
            let mut without = [&packet[..header.at], &packet[header.at + header.length..]].concat();
            without[named_at] = packet[header.at];
            shrink(&mut without, 4, header.length);
            return Ok(Some((without, frontend)));
        }
        named_at = header.at;
    }
    Ok(None)
}

/// What the DSR option in a header of destination options says.
fn option_v6(packet: &[u8], header: &Extension) -> Result<Option<SocketAddr>> {
    let options = &packet[header.at..header.at + header.length];
    let (mut at, mut frontend, mut others) = (2, None, 0);
    while at < options.len() {
        if options[at] == 0 {
            at += 1;
            continue;
        }
        ensure!(at + 2 <= options.len(), "an option without its length");
        let (kind, length) = (options[at], usize::from(options[at + 1]));
        ensure!(at + 2 + length <= options.len(), "an option of {length} bytes, {} are left", options.len() - at - 2);
        match kind {
            TYPE_V6 => {
                ensure!(length == LENGTH_V6, "a DSR option of {length} bytes");
                let data = &options[at + 2..][..length];
                ensure!(data[18..] == [0, 0], "the DSR option does not end in zeros");
                frontend = Some((address(&data[..16]), be16(data, 16)).into());
            }
            1 => {}
            _ => others += 1,
        }
        at += 2 + length;
    }
    ensure!(frontend.is_none() || others == 0, "the DSR option shares its header with others");
    Ok(frontend)
}

/// Takes `by` off the length that stands at `at`.
fn shrink(packet: &mut [u8], at: usize, by: usize) {
    let length = be16(packet, at) - by as u16;
    packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::hex;
    use super::*;

    fn taken(text: &str, order: Order) -> Option<(Vec<u8>, SocketAddr)> {
        let packet = hex(text);
        take(&packet, &Ip::read(&packet).unwrap(), order).unwrap()
    }

    /// A SYN of 192.168.0.7:40000 to 10.2.1.2:8081, for 172.16.10.2:80.
    const FOUR: &str = "
        4700 0030 0001 4000 3f06 1da9 c0a8 0007 0a02 0102   # IPv4: a header of 28 bytes, 48 in all
        9a 08 0050 ac10 0a02                                # option: type 154, 8 bytes, 80, 172.16.10.2
        9c40 1f91 0000 0001 0000 0000 5002 ffff 285d 0000   # TCP
    ";
    const FOUR_WITHOUT: &str = "
        4500 0028 0001 4000 3f06 701c c0a8 0007 0a02 0102
        9c40 1f91 0000 0001 0000 0000 5002 ffff 285d 0000
    ";

    #[test]
    fn ipv4_by_hand() {
        let frontend = "172.16.10.2:80".parse().unwrap();
        assert_eq!(taken(FOUR, Order::Network), Some((hex(FOUR_WITHOUT), frontend)));
        let host = FOUR.replace("9a 08 0050 ac10 0a02", "9a 08 5000 020a 10ac").replace("1da9", "7155");
        assert_eq!(taken(&host, Order::Host), Some((hex(FOUR_WITHOUT), frontend)));
        assert_eq!(taken(FOUR_WITHOUT, Order::Network), None);
    }

    /// The client's own option, a router alert, comes behind it and stays.
    #[test]
    fn another_ipv4_option_stays() {
        let both = "
            4800 0034 0001 4000 3f06 0000 c0a8 0007 0a02 0102
            9a 08 0050 ac10 0a02  94 04 0000
            9c40 1f91 0000 0001 0000 0000 5002 ffff 285d 0000
        ";
        let one = "
            4600 002c 0001 4000 3f06 0000 c0a8 0007 0a02 0102
            94 04 0000
            9c40 1f91 0000 0001 0000 0000 5002 ffff 285d 0000
        ";
        let [mut both, mut one] = [hex(both), hex(one)];
        fill_header_checksum(&mut both);
        fill_header_checksum(&mut one);
        let got = take(&both, &Ip::read(&both).unwrap(), Order::Network).unwrap();
        assert_eq!(got, Some((one, "172.16.10.2:80".parse().unwrap())));
    }

    /// The same flow over IPv6; 2001:db8:1::1 port 443.
    const SIX: &str = "
        6000 0000 002c 3c 3f 2001 0db8 000c 0000 0000 0000 0000 0010  # IPv6: 44 bytes, destination options
                             fd00 0002 0001 0000 0000 0000 0000 0002
        06 02 1b 14 2001 0db8 0001 0000 0000 0000 0000 0001 01bb 0000 # TCP follows; 24 bytes; the option
        9c40 1f91 0000 0001 0000 0000 5002 ffff c935 0000
    ";
    const SIX_WITHOUT: &str = "
        6000 0000 0014 06 3f 2001 0db8 000c 0000 0000 0000 0000 0010
                             fd00 0002 0001 0000 0000 0000 0000 0002
        9c40 1f91 0000 0001 0000 0000 5002 ffff c935 0000
    ";

    #[test]
    fn ipv6_by_hand() {
        let frontend = "[2001:db8:1::1]:443".parse().unwrap();
        assert_eq!(taken(SIX, Order::Network), Some((hex(SIX_WITHOUT), frontend)));
        assert_eq!(taken(&SIX.replace("01bb", "bb01"), Order::Host), Some((hex(SIX_WITHOUT), frontend)));
        assert_eq!(taken(SIX_WITHOUT, Order::Network), None);
    }

    #[test]
    fn ipv6_behind_a_hop_by_hop_header() {
        let hop = "3c 00 05 02 0000 01 00  # destination options follow; 8 bytes; router alert, PadN";
        let with = SIX.replace("002c 3c", "0034 00").replace("06 02 1b", &format!("{hop}\n06 02 1b"));
        let without = SIX_WITHOUT.replace("0014 06", "001c 00");
        let without = without.replace("9c40 1f91", &format!("{}\n9c40 1f91", hop.replace("3c 00 05", "06 00 05")));
        assert_eq!(taken(&with, Order::Network).unwrap().0, hex(&without));
    }

    #[test]
    fn a_broken_option_is_refused() {
        for (from, to, refusal) in [
            ("06 02 1b 14", "06 02 1b 15", "an option of 21 bytes, 20 are left"),
            ("06 02 1b 14", "06 02 1b 10", "a DSR option of 16 bytes"),
            ("01bb 0000", "01bb 0001", "the DSR option does not end in zeros"),
        ] {
            let packet = hex(&SIX.replace(from, to));
            let error = take(&packet, &Ip::read(&packet).unwrap(), Order::Network).unwrap_err();
            assert_eq!(format!("{error:#}"), refusal, "{to}");
        }
    }
}
