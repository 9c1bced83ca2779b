//! The header views on any bytes, against etherparse's; and the reader of captures.

use etherparse::checksum::Sum16BitWords;
use etherparse::{Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6Slice, TcpSlice, UdpSlice};
use penstock::replay::Reader;
use penstock::wire::ethernet::Link;
use penstock::wire::icmp::{self, Message, Quote};
use penstock::wire::ipv4::{self, Ipv4};
use penstock::wire::ipv6::{self, Ipv6};
use penstock::wire::{quic, tcp, udp};

/// Input: a frame, a packet, a datagram, a capture, as it pleases.
pub fn headers(input: &[u8]) {
    if let Some(link) = Link::of(input) {
        assert!(link.length <= input.len() && matches!(link.length, 14 | 18 | 22) && link.priority < 8);
    }
    of_ipv4(input);
    of_ipv6(input);
    of_transports(input);
    of_icmp(input);
    if let Some(id) = quic::servers_connection_id(input) {
        assert!(id.len() < input.len());
    }
    if let Ok(mut reader) = Reader::new(input) {
        let mut frame = Vec::new();
        while let Ok(Some(_)) = reader.next(&mut frame) {
            assert!(frame.len() <= input.len());
        }
    }
}

fn of_ipv4(input: &[u8]) {
    let ours = Ipv4::of(input).and_then(|ip| ip.lengths(input.len()).ok().map(|lengths| (ip, lengths)));
    let theirs = Ipv4HeaderSlice::from_slice(input).ok().filter(|ip| {
        let total = usize::from(ip.total_len());
        (ip.slice().len()..=input.len()).contains(&total)
    });
    assert_eq!(ours.is_some(), theirs.is_some());
    let (Some((ip, lengths)), Some(theirs)) = (ours, theirs) else { return };
    assert_eq!((lengths.header, lengths.total), (theirs.slice().len(), usize::from(theirs.total_len())));
    assert_eq!((ip.source(), ip.destination()), (theirs.source_addr(), theirs.destination_addr()));
    assert_eq!(
        (ip.protocol(), ip.ttl(), ip.dont_fragment()),
        (theirs.protocol().0, theirs.ttl(), theirs.dont_fragment())
    );
    assert_eq!(ip.is_fragment(), theirs.is_fragmenting_payload());
    let options = &input[ipv4::HEADER..lengths.header];
    // Over the bytes as they are: their header forgets a reserved bit.
    let verifies = Sum16BitWords::new().add_slice(theirs.slice()).ones_complement() == 0;
    assert_eq!(ip.checksum_verifies(options), verifies);
    ipv4::is_source_routed(options);
}

fn of_ipv6(input: &[u8]) {
    let Some(ip) = Ipv6::of(input) else { return };
    let Ok(total) = ip.total(input.len()) else { return };
    let packet = &input[..total];
    let Ok(upper) = ipv6::upper(packet) else { return };
    assert!(upper.offset <= total && upper.after_hop_by_hop <= upper.offset && upper.next_header_at < upper.offset);
    // Theirs takes a length of 0 for a jumbogram's, goes on behind fragment headers, and knows extensions that are no load
    // balancer's business.
    if let Ok(theirs) = Ipv6Slice::from_slice(packet)
        && ip.payload_length() > 0
        && !theirs.is_payload_fragmented()
        && !matches!(upper.protocol, 135 | 139 | 140)
    {
        let payload = theirs.payload();
        assert_eq!((upper.protocol, total - upper.offset), (payload.ip_number.0, payload.payload.len()));
        assert_eq!(upper.fragment, None);
    }
}

fn of_transports(input: &[u8]) {
    let theirs = TcpSlice::from_slice(input).ok().map(|tcp| (tcp.source_port(), tcp.destination_port()));
    assert_eq!(tcp::ports(input, false).ok(), theirs);
    // Theirs takes a length of 0 for "all of it".
    let theirs = UdpSlice::from_slice(input).ok().filter(|udp| udp.length() >= 8);
    assert_eq!(udp::ports(input, false).ok(), theirs.map(|udp| (udp.source_port(), udp.destination_port())));
    for ports in [tcp::ports(input, true), udp::ports(input, true)].into_iter().flatten() {
        assert_eq!([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat(), input[..4]);
    }
}

fn of_icmp(input: &[u8]) {
    if let (Ok(message), Ok(theirs)) = (Message::of_v4(input), Icmpv4Slice::from_slice(input)) {
        assert_eq!(message == Message::EchoRequest, (theirs.type_u8(), theirs.code_u8()) == (8, 0));
    }
    if let (Ok(message), Ok(theirs)) = (Message::of_v6(input), Icmpv6Slice::from_slice(input)) {
        assert_eq!(message == Message::EchoRequest, (theirs.type_u8(), theirs.code_u8()) == (128, 0));
    }
    for quote in [Quote::of_v4(input), Quote::of_v6(input)].into_iter().flatten() {
        let transport = &input[icmp::HEADER + quote.header..];
        assert!(transport.len() >= 8);
        let ports = [quote.source_port.to_be_bytes(), quote.destination_port.to_be_bytes()].concat();
        assert_eq!(transport[..4], ports);
    }
}
