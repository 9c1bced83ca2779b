//! Frames with plausible headers: clients', backends' and routers', whole and in fragments, some damaged.

use std::net::IpAddr;

use penstock::wire::checksum;

use super::draw::Draw;

/// A frame, and whether all its lengths and checksums are right.
pub struct Made {
    pub bytes: Vec<u8>,
    pub is_right: bool,
}

/// Sound frames that went through, as they came and as they were sent: to come again, to be answered, to be complained of.
#[derive(Default)]
pub struct Known(Vec<(Vec<u8>, Vec<u8>)>);

impl Known {
    pub fn note(&mut self, received: Vec<u8>, sent: Vec<u8>) {
        if self.0.len() < 8 {
            self.0.push((received, sent));
        }
    }

    fn pick(&self, draw: &mut Draw) -> Option<&(Vec<u8>, Vec<u8>)> {
        (!self.0.is_empty()).then(|| &self.0[draw.below(self.0.len())])
    }
}

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// Of each family.
const CLIENTS: [[&str; 4]; 2] = [
    ["203.0.113.7", "203.0.113.8", "198.51.100.7", "10.7.0.1"],
    ["2001:db8:c::7", "2001:db8:c::8", "2001:db8:bad::7", "fd00:7::1"],
];
/// VIPs, single and of prefixes, and the node's own address.
const VIPS: [[&str; 6]; 2] = [
    ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.129", "192.0.2.2", "10.0.0.1"],
    ["2001:db8:1::1", "2001:db8:1::1", "2001:db8:1::1", "2001:db8:2::9", "2001:db8:1::2", "fd00::1"],
];
/// Who no client should be, and where no service is.
const ODD: [[&str; 6]; 2] = [
    ["10.0.0.1", "10.1.0.1", "127.0.0.1", "224.0.0.1", "192.0.2.1", "0.0.0.0"],
    ["fd00::1", "fd00:1::1", "::1", "ff02::1", "2001:db8:1::1", "::"],
];
const OUTER_SOURCES: [&str; 2] = ["10.0.0.1", "fd00:7::1234:5678"];
const PAYLOADS: [usize; 12] = [0, 1, 7, 8, 26, 100, 537, 1232, 1400, 1433, 1472, 1900];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A port of one of the services, or any.
fn port(draw: &mut Draw) -> u16 {
    match draw.below(25) {
        at @ 0..=11 => 80 + at as u16,
        at @ 12..=21 => [443, 444, 445, 446, 447, 448, 450, 8000, 8099, 8100][at - 12],
        22 => 53,
        _ => draw.word(),
    }
}

/// Who sends to whom, and what it carries.
struct Packet {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    upper: Vec<u8>,
}

pub fn frame(draw: &mut Draw, known: &Known) -> Made {
    let family = draw.below(2);
    let packet = match draw.below(16) {
        0..=6 => request(draw, family),
        7 => echo(draw, family),
        8 => error(draw, family),
        9 | 10 => match known.pick(draw) {
            Some((_, sent)) => complaint(draw, sent),
            None => request(draw, family),
        },
        11 => reply(draw, family),
        12 => match known.pick(draw).and_then(|(_, sent)| answer(sent)) {
            Some(bytes) => return if draw.one_in(4) { damaged(draw, bytes) } else { Made { bytes, is_right: true } },
            None => reply(draw, family),
        },
        13 => {
            let packet = Packet { protocol: draw.byte(), ..request(draw, family) };
            return Made { is_right: false, ..around(draw, &packet) };
        }
        14 => {
            if let Some((received, _)) = known.pick(draw) {
                return damaged(draw, received.clone());
            }
            request(draw, family)
        }
        _ => {
            let ether_type = draw.pick(&[[8, 6], [0x88, 0xcc], [0, 40], [8, 0], [0x86, 0xdd]]);
            let bytes = [&OURS[..], &ROUTER, &ether_type, &[draw.byte(); 30]].concat();
            return Made { bytes, is_right: false };
        }
    };
    let made = around(draw, &packet);
    if !draw.one_in(4) {
        return made;
    }
    let damaged = damaged(draw, made.bytes);
    Made { is_right: made.is_right && damaged.is_right, ..damaged }
}

fn request(draw: &mut Draw, family: usize) -> Packet {
    let (mut from, mut to) = (draw.pick(&CLIENTS[family]), draw.pick(&VIPS[family]));
    if draw.one_in(16) {
        from = draw.pick(&ODD[family]);
    }
    if draw.one_in(16) {
        to = draw.pick(&ODD[family]);
    }
    transported(draw, (ip(from), 40000), ip(to))
}

/// TCP or UDP.
fn transported(draw: &mut Draw, from: (IpAddr, u16), to: IpAddr) -> Packet {
    let (is_udp, to_port) = (draw.byte() & 1 == 1, port(draw));
    let mut payload = vec![b'x'; draw.pick(&PAYLOADS)];
    if is_udp && draw.one_in(4) {
        // QUIC: a short header, or a long one, with a connection ID of a server's.
        let long = [0xc0 | (draw.below(4) as u8) << 4, 0, 0, 0, 1, draw.pick(&[2, 0, 8, 20, 255])];
        let head: &[u8] = if draw.one_in(2) { &long } else { &[0x40] };
        payload = [head, &[draw.below(8) as u8 * 32, draw.below(4) as u8], &payload[..payload.len().min(40)]].concat();
    }
    let protocol = if is_udp { 17 } else { 6 };
    let upper = segment(draw, is_udp, from, (to, to_port), &payload);
    Packet { from: from.0, to, protocol, upper }
}

fn segment(draw: &mut Draw, is_udp: bool, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let (mut upper, at) = if is_udp {
        ([&ports[..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0], payload].concat(), 6)
    } else {
        let flags = draw.pick(&[0x10, 0x02, 0x12, 0x18, 0x11, 0x04, 0x14, 0]);
        let options = if draw.one_in(4) { vec![1; 4 * draw.below(11)] } else { vec![] };
        let words = (5 + options.len() as u8 / 4) << 4;
        ([&ports[..], &[1, 2, 3, 4, 5, 6, 7, 8, words, flags, 0x72, 0x10, 0, 0, 0, 0], &options, payload].concat(), 16)
    };
    if is_udp && from.0.is_ipv4() && draw.one_in(4) {
        return upper; // no checksum
    }
    let sum = match sum(from.0, to.0, if is_udp { 17 } else { 6 }, &upper) {
        0 if is_udp => 0xffff,
        sum => sum,
    };
    upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    upper
}

/// The checksum of TCP, UDP or ICMPv6.
fn sum(from: IpAddr, to: IpAddr, protocol: u8, upper: &[u8]) -> u16 {
    let length = (upper.len() as u32).to_be_bytes();
    !checksum::sum(&[&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol], upper].concat())
}

fn icmp(from: IpAddr, to: IpAddr, mut message: Vec<u8>) -> Packet {
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    let sum = if from.is_ipv4() { !checksum::sum(&message) } else { sum(from, to, protocol, &message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Packet { from, to, protocol, upper: message }
}

fn echo(draw: &mut Draw, family: usize) -> Packet {
    let kind = [8, 128][family] ^ if draw.one_in(8) { 1 } else { 0 };
    // The oracle looks for a packet behind the header of any ICMP.
    let inside = around_plainly(&request(draw, family));
    let (from, to) = (ip(draw.pick(&CLIENTS[family])), ip(draw.pick(&VIPS[family])));
    icmp(from, to, [&[kind, 0, 0, 0, 0, 1, 0, 2][..], &inside].concat())
}

/// An error about what a service or an endpoint sent, or was sent.
fn error(draw: &mut Draw, family: usize) -> Packet {
    let about = if draw.one_in(3) { reply(draw, family) } else { request(draw, family) };
    // Turned round: the VIP's answer is what a router on the way to the client complains of.
    let (from, to) = (about.to, about.from);
    let mut upper = about.upper.clone();
    if matches!(about.protocol, 6 | 17) && upper.len() >= 4 {
        let (source, destination) = upper.split_at_mut(2);
        source.swap_with_slice(&mut destination[..2]);
    }
    // Both ends change places under the checksum, which stays.
    let quoted = around_plainly(&Packet { from, to, protocol: about.protocol, upper });
    let kept = if draw.one_in(2) { quoted.len() } else { (28 + draw.below(100)).min(quoted.len()) };
    let head =
        [[[3, 4], [3, 3], [11, 0], [12, 0], [5, 0]], [[2, 0], [1, 4], [3, 0], [4, 1], [137, 0]]][family][draw.below(5)];
    let mtu = draw.pick(&[1400_u16, 0, 68, 576, 1280, 9000]).to_be_bytes();
    let router = ip(["203.0.113.99", "2001:db8:c::99"][family]);
    icmp(router, from, [&head[..], &[0, 0, 0, 0], &mtu, &quoted[..kept.min(1200)]].concat())
}

/// "Too big", to the source of an outer header.
fn complaint(draw: &mut Draw, sent: &[u8]) -> Packet {
    let at = if sent[12..14] == [0x81, 0] { 18 } else { 14 };
    let quoted = &sent[at..];
    let kept = if draw.one_in(2) { quoted.len().min(1200) } else { (20 + draw.below(200)).min(quoted.len()) };
    let (router, to, head) = if quoted[0] >> 4 == 4 {
        let source: [u8; 4] = quoted[12..16].try_into().unwrap();
        (ip("10.9.9.9"), IpAddr::from(source), [3, 4])
    } else {
        let source: [u8; 16] = quoted[8..24].try_into().unwrap();
        (ip("fd00:9::9"), IpAddr::from(source), [2, 0])
    };
    let to = if draw.one_in(8) { ip(OUTER_SOURCES[usize::from(to.is_ipv6())]) } else { to };
    let mtu = draw.pick(&[1300_u16, 0, 68, 1280, 1499, 9000]).to_be_bytes();
    icmp(router, to, [&head[..], &[0, 0, 0, 0], &mtu, &quoted[..kept]].concat())
}

/// From an endpoint of `dnat` to a client.
fn reply(draw: &mut Draw, family: usize) -> Packet {
    let from = match draw.below(4) {
        0 => (ip(["10.1.0.1", "fd00:1::1"][family]), port(draw)),
        1 => (ip(["10.1.0.1", "fd00:1::1"][family]), 86),
        _ => (ip(["10.1.0.3", "fd00:1::3"][family]), 8080),
    };
    let client = (ip(draw.pick(&CLIENTS[family])), 40000);
    let (is_udp, payload) = (draw.byte() & 1 == 1, vec![b'r'; draw.pick(&PAYLOADS)]);
    let upper = segment(draw, is_udp, from, client, &payload);
    Packet { from: from.0, to: client.0, protocol: if is_udp { 17 } else { 6 }, upper }
}

/// A frame turned round, as whoever received it would answer: what changes places leaves every sum as it is. `None`: it has more
/// than the plainest headers.
fn answer(sent: &[u8]) -> Option<Vec<u8>> {
    let (addresses, length, upper) = match sent.get(12..15)? {
        [8, 0, 0x45] if matches!(sent[23], 6 | 17) && sent[20..22] == [0x40, 0] => (26, 4, 34),
        [0x86, 0xdd, _] if matches!(sent[20], 6 | 17) => (22, 16, 54),
        _ => return None,
    };
    let mut bytes = sent.to_vec();
    bytes[..12].copy_from_slice(&[OURS, ROUTER].concat());
    for (at, length) in [(addresses, length), (upper, 2)] {
        let (one, other) = bytes.get_mut(at..at + 2 * length)?.split_at_mut(length);
        one.swap_with_slice(other);
    }
    Some(bytes)
}

/// The packet in the plainest header.
fn around_plainly(packet: &Packet) -> Vec<u8> {
    header(packet, packet.protocol, 0, 60, 7, 0x4000, &[], &packet.upper)
}

#[expect(clippy::too_many_arguments, reason = "the fields of a header")]
fn header(packet: &Packet, next: u8, tos: u8, ttl: u8, id: u16, flags: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    if packet.from.is_ipv4() {
        let words = 5 + options.len() as u8 / 4;
        let total = (usize::from(words) * 4 + payload.len()) as u16;
        let mut bytes = vec![0x40 | words, tos];
        [total, id, flags].iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        bytes.extend([ttl, next, 0, 0]);
        bytes.extend(octets(packet.from));
        bytes.extend(octets(packet.to));
        bytes.extend(options);
        let sum = !checksum::sum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(payload);
        return bytes;
    }
    let first = 6 << 28 | u32::from(tos) << 20 | u32::from(flags);
    let length = (options.len() + payload.len()) as u16;
    let mut bytes = [&first.to_be_bytes()[..], &length.to_be_bytes(), &[next, ttl]].concat();
    bytes.extend(octets(packet.from));
    bytes.extend(octets(packet.to));
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

/// The packet in a frame: with options, extension headers, tags, padding, or a part of it as a fragment.
fn around(draw: &mut Draw, packet: &Packet) -> Made {
    let (tos, ttl) = (draw.pick(&[0, 1, 3, 0xb9, 0xff]), draw.pick(&[64, 255, 2, 1, 0]));
    let (id, df) = (u16::from(draw.pick(&[1_u8, 2, 3])), if draw.one_in(3) { 0 } else { 0x4000_u16 });
    let mut is_right = true;

    let (mut offset, mut more) = (0, false);
    let mut payload = &packet.upper[..];
    if draw.one_in(4) {
        // Cut where it may be cut.
        let cut = (8 * (1 + draw.below(8))).min(payload.len() / 8 * 8);
        if cut > 0 && cut < payload.len() {
            (offset, more) = if draw.one_in(2) { (cut, false) } else { (0, true) };
            payload = if more { &payload[..cut] } else { &payload[cut..] };
        }
    }
    let is_fragment = offset > 0 || more;
    // Of what is fragmented no oracle that sees one part can tell.
    is_right &= !is_fragment;

    let bytes = if packet.from.is_ipv4() {
        let options: Vec<u8> = match draw.below(16) {
            13 => vec![1; 4 * draw.below(11)],
            14 => vec![7, 7, 4, 1, 2, 3, 4, 0],
            15 => draw.pick(&[[131, 3, 4, 0], [137, 3, 4, 0], [148, 4, 0, 0], [7, 40, 4, 0]]).to_vec(),
            _ => vec![],
        };
        let flags = if is_fragment { (offset / 8) as u16 | if more { 0x2000 } else { 0 } } else { df };
        header(packet, packet.protocol, tos, ttl, id, flags, &options, payload)
    } else {
        let mut chain: Vec<u8> = (0..if draw.one_in(6) { draw.below(10) } else { 0 })
            .map(|at| draw.pick(&[60, 43, 60, 0, 51, 44]) * u8::from(at > 0))
            .collect();
        if is_fragment {
            chain.push(44);
        }
        let mut extensions = Vec::new();
        for (at, &kind) in chain.iter().enumerate() {
            let next = chain.get(at + 1).copied().unwrap_or(packet.protocol);
            let is_last = at + 1 == chain.len();
            match kind {
                44 => {
                    let word = if is_last && is_fragment { offset as u16 | u16::from(more) } else { 0 };
                    extensions.extend([&[next, 0][..], &word.to_be_bytes(), &u32::from(id).to_be_bytes()].concat());
                }
                43 => extensions.extend([next, 0, 0, draw.below(16) as u8 / 15, 0, 0, 0, 0]),
                51 => extensions.extend([next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]),
                _ => extensions.extend([next, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        // An authentication header would have to be computed anew, and a chain may be out of order.
        is_right &= chain.iter().all(|kind| matches!(kind, 0 | 60));
        let first = chain.first().copied().unwrap_or(packet.protocol);
        header(packet, first, tos, ttl, 0, 0, &extensions, payload)
    };

    let to = match draw.below(16) {
        13 => [0xff; 6],
        14 => [1, 0, 0x5e, 0, 0, 1],
        15 => [2, 0, 0, 0, 0, 9],
        _ => OURS,
    };
    let mut frame = [&to[..], &ROUTER].concat();
    for _ in 0..if draw.one_in(4) { draw.below(4) } else { 0 } {
        frame.extend(draw.pick(&[[0x81, 0], [0x88, 0xa8]]));
        frame.extend([draw.byte(), 7]);
    }
    frame.extend(if packet.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
    frame.extend(bytes);
    frame.resize(frame.len().max(60), 0xaa);
    Made { bytes: frame, is_right }
}

/// The frame with some bytes overwritten, cut or longer; mostly with a header checksum that fits, so that it gets past that.
fn damaged(draw: &mut Draw, mut frame: Vec<u8>) -> Made {
    let mut is_right = true;
    for _ in 0..draw.below(4) {
        let at = if draw.one_in(4) { usize::from(draw.word()) } else { draw.below(100) };
        let byte = draw.byte();
        if let Some(place) = frame.get_mut(at) {
            *place = byte;
            is_right = false;
        }
    }
    match draw.below(8) {
        6 => {
            let length = frame.len().min(usize::from(draw.word()) % 1600);
            frame.truncate(length);
            is_right = false;
        }
        7 => frame.resize(frame.len() + draw.below(40), 0xbb),
        _ => {}
    }
    if !draw.one_in(8)
        && let Some(ip) = frame.get_mut(14..)
        && ip.len() >= 20
        && ip[0] >> 4 == 4
        && let header = usize::from(ip[0] & 0xf) * 4
        && (20..=ip.len()).contains(&header)
    {
        ip[10..12].fill(0);
        let sum = !checksum::sum(&ip[..header]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    // Bytes behind a packet are cut off where it is sent.
    Made { bytes: frame, is_right }
}
