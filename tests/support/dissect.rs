//! A frame as text that people read and tests read back: a line a header, a group of digits a field, behind `#` what it says.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use super::oracle::{GENEVE, GUE, GUE_VARIANT_1};
use super::{BACKEND_MAC, CLIENT_MAC, OUR_MAC, TCP, UDP};

/// The fields of each line, for the head of a file.
pub const FIELDS: &str = "\
# Ethernet   destination, source, type
# IPv4       version and words, ToS, length, id, flags and offset, TTL, protocol, checksum, source, destination, then options
# IPv6       version, class and label; length, next header, hop limit, source, destination
# Options    (IPv6) next header, length, options
# Fragment   (IPv6) next header, reserved, offset and M, id
# TCP        source port, destination port, sequence number, acknowledgement, words, flags, window, checksum, urgent, then options
# UDP        source port, destination port, length, checksum
# ICMP       type, code, checksum, unused and MTU; what it quotes stands behind >
# GRE        flags, type
# GUE        version and words, protocol, flags
# Geneve     words, flags, type, VNI, reserved; then the option: class, type, words, VIP, port, zeros
";

/// The text of a frame. What it has is all there: [`parse`] gives the same bytes back.
pub fn dissect(frame: &[u8]) -> String {
    let mut text = Text { rest: frame, mark: "", lines: String::new() };
    text.ethernet();
    assert_eq!(parse(&text.lines), frame);
    text.lines
}

/// The bytes of a dissected frame.
pub fn parse(lines: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.lines() {
        let line = line.split('#').next().unwrap().trim_start().trim_start_matches('>').trim_start();
        let (_, fields) = line.split_once(' ').unwrap_or_else(|| panic!("no header's name in {line:?}"));
        let digits: Vec<u8> = fields.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16);
        bytes.extend(digits.chunks(2).map(|pair| byte(pair).unwrap_or_else(|error| panic!("{error} in {line:?}"))));
    }
    bytes
}

struct Text<'a> {
    rest: &'a [u8],
    /// What stands before the name of a quoted packet's headers.
    mark: &'static str,
    lines: String,
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
}

impl<'a> Text<'a> {
    /// A header with fields of so many bytes, as far as it is there; an empty field takes no place.
    fn line(&mut self, name: &str, widths: &[usize], note: &str) -> &'a [u8] {
        let length = widths.iter().sum::<usize>().min(self.rest.len());
        let (header, rest) = self.rest.split_at(length);
        let (mut fields, mut left) = (String::new(), header);
        for width in widths {
            let (field, more) = left.split_at((*width).min(left.len()));
            if !field.is_empty() {
                fields.push(' ');
            }
            field.iter().for_each(|byte| write!(fields, "{byte:02x}").unwrap());
            left = more;
        }
        let line = format!("  {}{name:<10}{fields}", self.mark);
        let line = if note.is_empty() { line } else { format!("{line:<78}  # {note}") };
        writeln!(self.lines, "{line}").unwrap();
        self.rest = rest;
        header
    }

    fn payload(&mut self) {
        let (rest, mut note) = (self.rest, String::new());
        if !rest.is_empty() {
            if rest.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
                note = format!("{:?}", str::from_utf8(rest).unwrap());
            }
            self.line("payload", &[rest.len()], &note);
        }
    }

    fn ethernet(&mut self) {
        let name = |mac: &[u8]| match [OUR_MAC, CLIENT_MAC, BACKEND_MAC].iter().position(|known| mac == known.0) {
            Some(0) => "penstock",
            Some(1) => "router",
            Some(2) => "backend",
            _ => "?",
        };
        let note = format!("{} > {}", name(&self.rest[6..12]), name(&self.rest[..6]));
        let note = if note.contains('?') { String::new() } else { note };
        self.line("Ethernet", &[6, 6, 2], &note);
        self.ip();
    }

    fn ip(&mut self) {
        match self.rest.first().map(|first| first >> 4) {
            Some(4) => self.ipv4(),
            Some(6) => self.ipv6(),
            _ => self.payload(),
        }
    }

    /// What is left, without what is not the packet's; that comes back behind it as padding.
    fn within(&mut self, length: usize, inside: impl FnOnce(&mut Self)) {
        let (packet, padding) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = packet;
        inside(self);
        self.rest = padding;
        if !padding.is_empty() {
            self.line("padding", &[padding.len()], "");
        }
    }

    fn ipv4(&mut self) {
        let ip = self.rest;
        let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        let (header, word) = (usize::from(ip[0] & 0xf) * 4, be16(ip, 6));
        let mut note = format!("{} > {}, TTL {}, ToS {:02x}", address(12), address(16), ip[8], ip[1]);
        note += if word & 0x4000 != 0 { ", DF" } else { "" };
        let offset = (word & 0x1fff) * 8;
        if word & 0x2000 != 0 || offset > 0 {
            let more = if word & 0x2000 != 0 { ", more to come" } else { "" };
            write!(note, ", fragment at {offset}{more}").unwrap();
        }
        self.within(usize::from(be16(ip, 2)), |text| {
            text.line("IPv4", &[1, 1, 2, 2, 2, 1, 1, 2, 4, 4, header - 20], &note);
            text.upper(ip[9], offset > 0);
        });
    }

    fn ipv6(&mut self) {
        let ip = self.rest;
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
        let class = be16(ip, 0) >> 4 & 0xff;
        let note = format!("{} > {}, hop limit {}, class {class:02x}", address(8), address(24), ip[7]);
        self.within(40 + usize::from(be16(ip, 4)), |text| {
            text.line("IPv6", &[4, 2, 1, 1, 16, 16], &note);
            text.upper(ip[6], false);
        });
    }

    /// What `number` says that follows.
    fn upper(&mut self, number: u8, is_later_fragment: bool) {
        let bytes = self.rest;
        if is_later_fragment || bytes.is_empty() {
            return self.payload();
        }
        match number {
            0 | 60 => {
                let length = 8 + 8 * usize::from(bytes[1]);
                self.line("Options", &[1, 1, length - 2], "");
                self.upper(bytes[0], false);
            }
            44 => {
                let offset = be16(bytes, 2) & 0xfff8;
                let more = if bytes[3] & 1 != 0 { ", more to come" } else { "" };
                self.line("Fragment", &[1, 1, 2, 4], &format!("fragment at {offset}{more}"));
                self.upper(bytes[0], offset > 0);
            }
            TCP => {
                let flags = ["FIN", "SYN", "RST", "PSH", "ACK"].iter().enumerate();
                let flags = flags.filter(|(bit, _)| bytes.get(13).is_some_and(|flags| flags & 1 << bit != 0));
                let flags: String = flags.map(|(_, name)| format!(" {name}")).collect();
                let options = bytes.get(12).map_or(0, |words| usize::from(words >> 4) * 4 - 20);
                let note = format!("{} > {}{flags}", be16(bytes, 0), be16(bytes, 2));
                self.line("TCP", &[2, 2, 4, 4, 1, 1, 2, 2, 2, options], &note);
                self.payload();
            }
            UDP => {
                let (port, none) = (be16(bytes, 2), if be16(bytes, 6) == 0 { ", no checksum" } else { "" });
                self.line("UDP", &[2, 2, 2, 2], &format!("{} > {port}{none}", be16(bytes, 0)));
                match port {
                    GUE => {
                        self.line("GUE", &[1, 1, 2], "");
                        self.ip();
                    }
                    GUE_VARIANT_1 => self.ip(),
                    GENEVE => {
                        let address = usize::from(bytes[8 + 11]) * 4 - 4;
                        self.line("Geneve", &[1, 1, 2, 3, 1, 2, 1, 1, address, 2, 2], "");
                        self.ethernet();
                    }
                    _ => self.payload(),
                }
            }
            1 | 58 => {
                let what = match (number, bytes[0], bytes[1]) {
                    (1, 3, 3) => "port unreachable".into(),
                    (1, 3, 4) => format!("fragmentation needed, MTU {}", be16(bytes, 6)),
                    (58, 1, 4) => "port unreachable".into(),
                    (58, 2, 0) => format!("packet too big, MTU {}", be16(bytes, 6)),
                    _ => String::new(),
                };
                self.line("ICMP", &[1, 1, 2, 4], &what);
                self.mark = "> ";
                self.ip();
                self.mark = "";
            }
            4 | 41 => self.ip(),
            47 => {
                self.line("GRE", &[2, 2], "");
                self.ip();
            }
            _ => self.payload(),
        }
    }
}
