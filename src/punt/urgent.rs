//! Which frames the node cannot live without: those that keep neighbours and routes.

/// ARP, neighbour discovery, BGP and BFD. A VLAN tag is looked through.
pub fn is_urgent(frame: &[u8]) -> bool {
    const ARP: u16 = 0x0806;
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const VLAN: u16 = 0x8100;

    let Some((mut ethertype, mut rest)) = ethertype(frame.get(12..).unwrap_or_default()) else { return false };
    if ethertype == VLAN
        && let Some(inner) = self::ethertype(rest.get(2..).unwrap_or_default())
    {
        (ethertype, rest) = inner;
    }
    match ethertype {
        ARP => true,
        IPV4 => is_urgent_ipv4(rest).unwrap_or(false),
        IPV6 => is_urgent_ipv6(rest).unwrap_or(false),
        _ => false,
    }
}

fn ethertype(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (ethertype, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*ethertype), rest))
}

fn is_urgent_ipv4(packet: &[u8]) -> Option<bool> {
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let is_later_fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff != 0;
    Some(!is_later_fragment && is_routing(*packet.get(9)?, packet.get(header..)?)?)
}

fn is_urgent_ipv6(packet: &[u8]) -> Option<bool> {
    const HEADER: usize = 40;
    const ICMPV6: u8 = 58;
    let (next, payload) = (*packet.get(6)?, packet.get(HEADER..)?);
    if next == ICMPV6 {
        return Some((133..=137).contains(payload.first()?)); // RFC 4861: solicitations, advertisements, redirect
    }
    is_routing(next, payload)
}

/// BGP (RFC 4271) and BFD (RFC 5881, 5883), by their ports.
fn is_routing(protocol: u8, payload: &[u8]) -> Option<bool> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const BGP: u16 = 179;
    const BFD: [u16; 3] = [3784, 3785, 4784];

    let port = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    let (source, destination) = (port(0)?, port(2)?);
    Some(match protocol {
        TCP => source == BGP || destination == BGP,
        UDP => BFD.contains(&destination),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn ipv4() -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    }

    fn tcp(from: u16, to: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        ipv4().tcp(from, to, 1, 1).write(&mut frame, b"x").unwrap();
        frame
    }

    fn udp(to: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        ipv4().udp(50000, to).write(&mut frame, b"x").unwrap();
        frame
    }

    #[test]
    fn what_keeps_neighbours_and_routes_is_urgent_and_nothing_else() {
        let arp = [&[0xff; 6][..], &[2; 6], &[0x08, 0x06], &[0; 28]].concat();
        let tagged = [&[0xff; 6][..], &[2; 6], &[0x81, 0x00, 0x00, 0x05, 0x08, 0x06], &[0; 28]].concat();
        assert!(is_urgent(&arp) && is_urgent(&tagged));
        assert!(is_urgent(&tcp(179, 40000)) && is_urgent(&tcp(40000, 179)) && !is_urgent(&tcp(40000, 22)));
        assert!(is_urgent(&udp(3784)) && is_urgent(&udp(4784)) && !is_urgent(&udp(53)));
        for (kind, is) in [(133u8, true), (135, true), (136, true), (128, false)] {
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 255);
            builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &[0; 20]).unwrap();
            assert_eq!(is_urgent(&frame), is, "ICMPv6 type {kind}");
        }
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = tcp(179, 179);
        frame[14 + 7] = 5;
        assert!(!is_urgent(&frame));
    }

    #[test]
    fn a_frame_cut_anywhere_is_not_urgent_and_does_not_panic() {
        let frame = tcp(40000, 179);
        for cut in 0..14 + 20 + 4 {
            assert!(!is_urgent(&frame[..cut]), "cut to {cut}");
        }
    }
}
