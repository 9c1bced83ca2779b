//! An independent reading of frames (etherparse): lengths, header checksums and transport checksums, through tunnels, quotes and
//! fragments.

use etherparse::checksum::Sum16BitWords;
use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, NetSlice, SlicedPacket, TcpSlice, UdpSlice, ether_type, ip_number};

/// Ports that a tunnel's datagrams go to.
pub const GUE: u16 = 6080;
pub const GUE_VARIANT_1: u16 = 9886;
pub const GENEVE: u16 = 6081;

/// Reads frames in order, and puts their fragments together.
#[derive(Default)]
pub struct Oracle {
    fragments: IpDefragPool<(), ()>,
    /// Checksums that were verified.
    pub verified: usize,
}

type Sound = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Sound {
    if holds { Ok(()) } else { Err(what()) }
}

impl Oracle {
    /// Whether a frame is sound, whose packet may have padding behind it.
    pub fn frame(&mut self, frame: &[u8]) -> Sound {
        let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
        let payload = packet.ether_payload().ok_or("no EtherType")?;
        let is_ip = matches!(payload.ether_type, ether_type::IPV4 | ether_type::IPV6);
        ensure(is_ip, || format!("EtherType {:?}", payload.ether_type))?;
        let total = match payload.payload {
            [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([*high, *low])),
            [_, _, _, _, high, low, ..] => 40 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err("no packet".into()),
        };
        let bytes = payload.payload.get(..total).ok_or("a packet longer than its frame")?;
        // Ethernet's minimum, with a tag.
        ensure(frame.len() <= 64 || payload.payload.len() == total, || "bytes behind the packet".into())?;
        self.packet(bytes)
    }

    /// Whether these bytes are a sound packet, and nothing more.
    fn packet(&mut self, bytes: &[u8]) -> Sound {
        let packet = SlicedPacket::from_ip(bytes).map_err(|error| error.to_string())?;
        let (payload, pseudo) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                ensure(usize::from(header.total_len) == bytes.len(), || {
                    "not all of its bytes are the packet's".into()
                })?;
                ensure(header.calc_header_checksum() == header.header_checksum, || "IPv4 header checksum".into())?;
                self.verified += 1;
                (ip.payload().clone(), [header.source, header.destination].concat())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                let length = 40 + usize::from(header.payload_length);
                ensure(length == bytes.len(), || "not all of its bytes are the packet's".into())?;
                (ip.payload().clone(), [header.source, header.destination].concat())
            }
            other => return Err(format!("no IP: {other:?}")),
        };
        if !payload.fragmented {
            return self.upper(payload.ip_number, payload.payload, &pseudo);
        }
        let whole = self.fragments.process_sliced_packet(&packet, (), ()).map_err(|error| error.to_string())?;
        whole.map_or(Ok(()), |whole| self.upper(whole.ip_number, &whole.payload, &pseudo))
    }

    /// What a packet carries, whole.
    fn upper(&mut self, number: IpNumber, bytes: &[u8], pseudo: &[u8]) -> Sound {
        let sum = |pseudo: &[u8]| {
            let length = (bytes.len() as u32).to_be_bytes();
            let mut words = Sum16BitWords::new().add_slice(bytes);
            if !pseudo.is_empty() {
                words = words.add_slice(pseudo).add_4bytes(length).add_2bytes([0, number.0]);
            }
            words.ones_complement()
        };
        match number {
            ip_number::TCP => {
                TcpSlice::from_slice(bytes).map_err(|error| error.to_string())?;
                ensure(sum(pseudo) == 0, || "TCP checksum".into())?;
                self.verified += 1;
            }
            ip_number::UDP => {
                let udp = UdpSlice::from_slice(bytes).map_err(|error| error.to_string())?;
                ensure(usize::from(udp.length()) == bytes.len(), || "UDP length".into())?;
                let tunnel = udp.destination_port();
                if udp.checksum() != 0 {
                    ensure(sum(pseudo) == 0, || "UDP checksum".into())?;
                    self.verified += 1;
                } else {
                    let may_have_none = pseudo.len() == 8 || matches!(tunnel, GUE | GUE_VARIANT_1 | GENEVE);
                    ensure(may_have_none, || "no UDP checksum over IPv6".into())?;
                }
                match (tunnel, udp.payload()) {
                    (GUE, [0, 4 | 41, 0, 0, inner @ ..]) | (GUE_VARIANT_1, inner) => self.packet(inner)?,
                    (GUE, other) => return Err(format!("no GUE header: {other:02x?}")),
                    (GENEVE, [words, 0x40, 0x65, 0x58, _, _, _, 0, rest @ ..]) => {
                        let inner = rest.get(usize::from(words & 0x3f) * 4..).ok_or("Geneve options")?;
                        ensure(words >> 6 == 0, || "Geneve version".into())?;
                        self.frame(inner)?;
                    }
                    (GENEVE, other) => return Err(format!("no Geneve header: {other:02x?}")),
                    _ => {}
                }
            }
            ip_number::ICMP | ip_number::IPV6_ICMP => {
                ensure(sum(if number == ip_number::ICMP { &[] } else { pseudo }) == 0, || "ICMP checksum".into())?;
                self.verified += 1;
                self.quote(bytes.get(8..).ok_or("half an ICMP header")?)?;
            }
            ip_number::IPV4 | ip_number::IPV6 => self.packet(bytes)?,
            ip_number::GRE => match bytes {
                [0, 0, 8, 0, inner @ ..] | [0, 0, 0x86, 0xdd, inner @ ..] => self.packet(inner)?,
                other => return Err(format!("no plain GRE header: {other:02x?}")),
            },
            other => return Err(format!("protocol {other:?}")),
        }
        Ok(())
    }

    /// The packet that an error quotes: sound as far as it goes.
    fn quote(&mut self, bytes: &[u8]) -> Sound {
        let total = match bytes {
            [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([*high, *low])),
            [_, _, _, _, high, low, ..] => 40 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err("no quote".into()),
        };
        // Whoever quotes may quote padding, too.
        if let Some(packet) = bytes.get(..total) {
            return self.packet(packet);
        }
        if bytes[0] >> 4 == 4 {
            let (header, _) = etherparse::Ipv4Header::from_slice(bytes).map_err(|error| error.to_string())?;
            ensure(header.calc_header_checksum() == header.header_checksum, || "quoted IPv4 header checksum".into())?;
            self.verified += 1;
        }
        Ok(())
    }
}
