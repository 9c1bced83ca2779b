//! What each mode makes of each kind of packet, byte for byte, as tables to read: `tests/golden/<mode>.txt`.
//!
//! The frames that go in are made here, from scratch; what comes out is what the pipeline made of them when the file was last
//! written. After a change that is meant,
//!
//! ```text
//! PENSTOCK_GOLDEN=write cargo test --no-default-features --test golden
//! ```
//!
//! writes the files anew, and their diff is what a review reads. No checksum or length gets in so unless etherparse finds it right,
//! too; `tests/modes.rs` compares with packets built from scratch.

mod support;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use penstock::counters::Reason;
use penstock::pipeline::Verdict;
use penstock::snapshot::PortIndex;
use support::dissect::{FIELDS, dissect, parse};
use support::oracle::Oracle;
use support::packets::*;
use support::replay::several_lcores_do_what_one_does;
use support::{Node, OUR_MAC, TCP};

const FORWARD: Verdict = Verdict::Forward(PortIndex(0));

/// A file of cases.
struct Mode {
    file: &'static str,
    /// What the service says of its mode, in JSON.
    forwarding: &'static str,
    /// A backend in JSON, by the families of VIP and backend and the service's port.
    backend: fn(usize, usize, u16) -> String,
    /// The families of VIP and backend.
    families: &'static [(usize, usize)],
    /// Packets from the backends, where they come back through the load balancer: by the family, and what was sent so far.
    replies: fn(usize, &[Vec<u8>]) -> Vec<Step>,
}

const TUNNELS: &[(usize, usize)] = &[(0, 0), (0, 1), (1, 0), (1, 1)];
const REWRITES: &[(usize, usize)] = &[(0, 0), (1, 1)];

const MODES: &[Mode] = &[
    Mode::new("ipip", r#""forwarding": "ipip""#, same_port, TUNNELS),
    Mode::new("gre", r#""forwarding": "gre""#, same_port, TUNNELS),
    Mode::new("gue", r#""forwarding": "gue""#, same_port, TUNNELS),
    Mode::new("gue-1", r#""forwarding": "gue", "gue": {"variant": 1}"#, same_port, TUNNELS),
    Mode::new("gue-checksum", r#""forwarding": "gue", "udp_checksum": true"#, same_port, TUNNELS),
    Mode::new("geneve", r#""forwarding": "geneve""#, pod, TUNNELS),
    Mode::new("geneve-checksum", r#""forwarding": "geneve", "udp_checksum": true"#, pod, TUNNELS),
    Mode::new("dscp", r#""forwarding": "dscp", "dscp": 5"#, same_port, REWRITES),
    Mode::new("l2dsr", r#""forwarding": "l2dsr""#, same_port, REWRITES),
    Mode { replies: of_dnat, ..Mode::new("dnat", r#""forwarding": "dnat""#, own_port, REWRITES) },
    Mode::new("dnat-dsr", r#""forwarding": "dnat-dsr""#, own_port, REWRITES),
    Mode::new("dnat-dsr-host", r#""forwarding": "dnat-dsr", "byte_order": "host""#, own_port, REWRITES),
    Mode { replies: of_snat, ..Mode::new("snat", r#""forwarding": "snat""#, own_port, REWRITES) },
];

impl Mode {
    const fn new(
        file: &'static str,
        forwarding: &'static str,
        backend: fn(usize, usize, u16) -> String,
        families: &'static [(usize, usize)],
    ) -> Self {
        Self { file, forwarding, backend, families, replies: |_, _| vec![] }
    }

    fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(self.file).with_extension("txt")
    }
}

/// What backends add to the service's port, where the mode can change it.
const OWN_PORT: u16 = 8000;

fn same_port(_: usize, backend: usize, _: u16) -> String {
    format!(r#"{{"address": "{}"}}"#, BACKEND[backend])
}

fn own_port(_: usize, backend: usize, port: u16) -> String {
    format!(r#"{{"address": "{}", "port": {}}}"#, BACKEND[backend], port + OWN_PORT)
}

fn pod(vip: usize, backend: usize, port: u16) -> String {
    let (pod, node) = (["10.9.0.7", "fd00:9::7"][vip], BACKEND[backend]);
    format!(r#"{{"address": "{pod}", "port": {}, "tunnel_endpoint": "{node}"}}"#, port + OWN_PORT)
}

/// A frame to receive, by a title.
type Step = (&'static str, Vec<u8>);

fn received(packet: &[u8]) -> Vec<u8> {
    // Ethernet's minimum, as it comes from a wire.
    frame(packet, &[], 46_usize.saturating_sub(packet.len()))
}

/// A client's packet: expedited forwarding, ECT(1).
fn client(family: usize, udp: bool, payload: &str) -> Packet {
    Packet { tos: 0xb9, payload: payload.into(), ..plain(family, udp, 0) }
}

/// What opens a connection: a SYN with the option of its MSS.
fn syn(family: usize) -> Vec<u8> {
    let Packet { from, to, tos, ttl, id, df, .. } = client(family, false, "");
    let head = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let rest = [1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0x72, 0x10, 0, 0, 0, 0, 2, 4, 5, 0xb4];
    let mut segment = [&head[..], &rest].concat();
    let sum = upper_sum(from.0, to.0, TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Header { tos, ttl, id, df, options: 0 }.before(from.0, to.0, TCP, &segment)
}

/// All that a client sends, or somebody on the way to it.
fn requests(family: usize) -> Vec<Step> {
    let (segment, datagram) = (client(family, false, "hi"), client(family, true, "which address?"));
    let vip = segment.to.0;
    let about = |packet: &Packet, kept: usize| error(ROUTER[family], vip, 60, 0, &answer_to(packet), kept);
    let header = [20, 40][family];
    let [first, later] = fragments(&client(family, true, "a long question"), 16, 7);
    let mut steps = vec![
        ("TCP, a SYN", syn(family)),
        ("TCP", segment.bytes()),
        ("UDP", datagram.bytes()),
        ("UDP, which may be fragmented", Packet { df: false, ..datagram.clone() }.bytes()),
        ("UDP behind options", Packet { options: 2, ..datagram.clone() }.bytes()),
        ("ICMP error that quotes all of an answer by TCP", about(&segment, usize::MAX)),
        ("ICMP error that quotes all of an answer by UDP", about(&datagram, usize::MAX)),
        ("ICMP error that quotes eight bytes of TCP", about(&segment, header + 8)),
        ("UDP, first fragment", first),
        ("UDP, later fragment", later),
    ];
    if family == 0 {
        steps.insert(4, ("UDP without a checksum", Packet { summed: false, ..datagram }.bytes()));
    }
    steps.into_iter().map(|(title, packet)| (title, received(&packet))).collect()
}

/// What backends answer to the client itself.
fn of_dnat(family: usize, _: &[Vec<u8>]) -> Vec<Step> {
    replies(family, |udp| client(family, udp, "").from)
}

/// What backends answer to the source that a flow got; the first frame was sent for a flow of TCP, the third for one of UDP.
fn of_snat(family: usize, sent: &[Vec<u8>]) -> Vec<Step> {
    replies(family, |udp| {
        let ip = &sent[if udp { 2 } else { 0 }][14..];
        let port = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        match family {
            0 => (<[u8; 4]>::try_from(&ip[12..16]).unwrap().into(), port(20)),
            _ => (<[u8; 16]>::try_from(&ip[8..24]).unwrap().into(), port(40)),
        }
    })
}

/// What backends answer to whom they saw, and errors about what went to them.
fn replies(family: usize, seen: impl Fn(bool) -> (IpAddr, u16)) -> Vec<Step> {
    let backend = |udp: bool| (ip(BACKEND[family]), OWN_PORT + if udp { 53 } else { 80 });
    let request = |udp: bool| Packet { from: seen(udp), to: backend(udp), ..client(family, udp, "hi") };
    let reply = |udp: bool| Packet { tos: 0, ..answer_to(&request(udp)) };
    let about = |from: &str, udp: bool| error(from, reply(udp).to.0, 60, 0, &request(udp), usize::MAX);
    let steps = [
        ("TCP, a reply", reply(false).bytes()),
        ("UDP, a reply", reply(true).bytes()),
        ("ICMP error by a router about a request", about(ROUTER[family], false)),
        ("ICMP error by the backend about a request", about(BACKEND[family], true)),
    ];
    steps.into_iter().map(|(title, packet)| (title, received(&packet))).collect()
}

/// What a node does under some services, from its start.
#[derive(Default)]
struct Section {
    services: Vec<String>,
    cases: Vec<Case>,
}

/// A frame that is received, and what is sent of it.
struct Case {
    title: String,
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl Section {
    fn services(&self) -> String {
        format!("{{\"services\": [{}]}}", self.services.join(", "))
    }

    fn node(&self) -> Node {
        Node::read(CONFIG, &self.services())
    }
}

/// What the file should say, by what comes out now.
fn text(mode: &Mode) -> String {
    let mut text = format!(
        "# What penstock makes of packets under {}, on the node of penstock.toml.\n\
         # Written by `PENSTOCK_GOLDEN=write cargo test --no-default-features --test golden`, and held against by tests/golden.rs.\n\
         #\n{FIELDS}",
        mode.forwarding
    );
    for &(vip, backend) in mode.families {
        let service = |(protocol, port): (&str, u16)| {
            format!(
                r#"{{"name": "{protocol}", "vip": "{}", "port": {port}, "protocol": "{protocol}", {}, "tracking": "none", "backends": [{}]}}"#,
                VIP[vip],
                mode.forwarding,
                (mode.backend)(vip, backend, port)
            )
        };
        let section = Section { services: [("tcp", 80), ("udp", 53)].map(service).to_vec(), cases: vec![] };
        let of = |family: usize| ["IPv4", "IPv6"][family];
        write!(text, "\n=== {} to the VIP, {} to the backend\n", of(vip), of(backend)).unwrap();
        section.services.iter().for_each(|service| writeln!(text, "service {service}").unwrap());
        let (mut node, mut all_sent) = (section.node(), Vec::new());
        let mut pass = |steps: Vec<Step>, all_sent: &mut Vec<Vec<u8>>| {
            for (title, received) in steps {
                let (verdict, sent) = node.receive(&received);
                assert_eq!(verdict, FORWARD, "{}: {title}", mode.file);
                write!(text, "\n--- {title}\nreceived\n{}sent\n{}", dissect(&received), dissect(&sent)).unwrap();
                all_sent.push(sent);
            }
        };
        pass(requests(vip), &mut all_sent);
        pass((mode.replies)(vip, &all_sent), &mut all_sent);
    }
    text
}

/// What the file says.
fn written(mode: &Mode) -> Vec<Section> {
    let path = mode.path();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, sections) = text.split_once("\n=== ").unwrap_or_else(|| panic!("{}: no section", path.display()));
    let section = |text: &str| {
        let (head, cases) = text.split_once("\n--- ").expect("a case");
        let services = head.lines().filter_map(|line| line.strip_prefix("service ")).map(str::to_owned).collect();
        let case = |text: &str| {
            let (title, frames) = text.split_once("\nreceived\n").expect("received");
            let (received, sent) = frames.split_once("\nsent\n").expect("sent");
            Case { title: title.into(), received: parse(received), sent: parse(sent.trim_end()) }
        };
        Section { services, cases: cases.split("\n--- ").map(case).collect() }
    };
    sections.split("\n=== ").map(section).collect()
}

fn all_sections() -> impl Iterator<Item = (&'static str, Section)> {
    MODES.iter().flat_map(|mode| written(mode).into_iter().map(|section| (mode.file, section)))
}

/// Whichever test comes first writes, before any reads.
fn write_if_asked() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if std::env::var("PENSTOCK_GOLDEN").is_ok_and(|value| value == "write") {
            MODES.iter().for_each(|mode| std::fs::write(mode.path(), text(mode)).unwrap());
        }
    });
}

#[test]
fn what_is_written_is_what_comes_out() {
    write_if_asked();
    for (file, section) in all_sections() {
        let mut node = section.node();
        for case in &section.cases {
            let (verdict, sent) = node.receive(&case.received);
            assert_eq!(verdict, FORWARD, "{file}: {}", case.title);
            assert!(
                sent == case.sent,
                "{file}: {}\nreceived\n{}sent\n{}instead of\n{}",
                case.title,
                dissect(&case.received),
                dissect(&sent),
                dissect(&case.sent)
            );
        }
    }
}

/// Case by case, in the same words: nothing is missing, and no remark is out of date.
#[test]
fn the_files_are_as_they_would_be_written() {
    write_if_asked();
    for mode in MODES {
        let (there, wanted) = (std::fs::read_to_string(mode.path()).unwrap(), text(mode));
        let differs = there.lines().zip(wanted.lines()).position(|(there, wanted)| there != wanted);
        let at = differs.unwrap_or(there.lines().count().min(wanted.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
        assert!(there == wanted, "{}.txt:{}\n{}\nshould be\n{}", mode.file, at + 1, line(&there), line(&wanted));
    }
    let there = std::fs::read_dir(MODES[0].path().parent().unwrap()).unwrap();
    let there = there.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("txt".as_ref()));
    assert_eq!(there.count(), MODES.len(), "a file for each, and no others");
}

#[test]
fn etherparse_finds_every_frame_sound() {
    write_if_asked();
    for (file, section) in all_sections() {
        let (mut before, mut after) = (Oracle::default(), Oracle::default());
        for case in &section.cases {
            for (oracle, what, frame) in [(&mut before, "received", &case.received), (&mut after, "sent", &case.sent)] {
                oracle.frame(frame).unwrap_or_else(|error| {
                    panic!("{file}: {}: {what}: {error}\n{}", case.title, dissect(frame));
                });
            }
        }
        let sums = (before.verified, after.verified);
        assert!(sums.0 >= 8 && sums.1 >= sums.0, "{file}: only {sums:?} checksums to verify");
    }
}

/// The length of a received frame without padding, and whether it is for the VIP.
fn packet_of(frame: &[u8]) -> (usize, bool) {
    let ip = &frame[14..];
    let word = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let (total, destination) = if ip[0] >> 4 == 4 { (word(2), &ip[16..20]) } else { (40 + word(4), &ip[24..40]) };
    (14 + total, VIP.iter().any(|vip| octets(self::ip(vip)) == destination))
}

#[test]
fn a_frame_cut_anywhere_is_malformed_and_never_read_beyond() {
    write_if_asked();
    for (file, section) in all_sections() {
        let mut node = section.node();
        for Case { title, received, .. } in &section.cases {
            let (end, is_for_vip) = packet_of(received);
            let readable = if received[14] >> 4 == 4 { 34 } else { 54 };
            for length in 0..=received.len() {
                let (verdict, sent) = node.receive(&received[..length]);
                let wanted = match length {
                    _ if length >= end => FORWARD,
                    // What an endpoint sends to others is the kernel's where it is no reply.
                    _ if length >= readable && !is_for_vip => Verdict::Punt,
                    _ => Verdict::Drop(Reason::Malformed),
                };
                assert_eq!(verdict, wanted, "{file}: {title}: cut to {length}");
                if verdict == FORWARD {
                    // Parts of a datagram were seen before: each by itself, then.
                    Oracle::default().frame(&sent).unwrap_or_else(|error| panic!("{file}: {title}: {length}: {error}"));
                }
            }
        }
    }
}

/// Whatever a router sends back to us of our own: outer headers, options, translated packets.
#[test]
fn what_was_sent_and_comes_back_cut_anywhere_gets_one_verdict() {
    write_if_asked();
    for (file, section) in all_sections() {
        let mut node = section.node();
        for Case { title, sent, .. } in &section.cases {
            let back = [&OUR_MAC.0[..], &sent[6..]].concat();
            for length in 0..=back.len() {
                let (verdict, after) = node.receive(&back[..length]);
                if let Verdict::Forward(_) | Verdict::Answer(_) = verdict {
                    Oracle::default()
                        .frame(&after)
                        .unwrap_or_else(|error| panic!("{file}: {title}: {length}: {error}"));
                }
            }
        }
    }
}

#[test]
fn a_packet_that_ends_anywhere_gets_one_verdict_and_true_lengths() {
    write_if_asked();
    for (file, section) in all_sections() {
        let mut node = section.node();
        for Case { title, received, .. } in &section.cases {
            let (end, _) = packet_of(received);
            let header = if received[14] >> 4 == 4 { usize::from(received[14] & 0xf) * 4 } else { 40 };
            for length in 14 + header..end {
                let mut cut = received[..length].to_vec();
                let total = (length - 14) as u16;
                if header == 40 && cut[14] >> 4 == 6 {
                    cut[18..20].copy_from_slice(&(total - 40).to_be_bytes());
                } else {
                    cut[16..18].copy_from_slice(&total.to_be_bytes());
                    cut[24..26].fill(0);
                    let sum = !penstock::wire::checksum::sum(&cut[14..14 + header]);
                    cut[24..26].copy_from_slice(&sum.to_be_bytes());
                }
                let (verdict, sent) = node.receive(&cut);
                match verdict {
                    Verdict::Forward(_) => {
                        let read = etherparse::SlicedPacket::from_ethernet(&sent);
                        assert!(read.is_ok(), "{file}: {title}: {length}: {read:?}\n{sent:02x?}");
                    }
                    Verdict::Drop(Reason::Malformed | Reason::IcmpIgnored | Reason::UnknownProtocol) => {}
                    Verdict::Punt if matches!(file, "dnat" | "snat") => {}
                    other => panic!("{file}: {title}: {length}: {other:?}"),
                }
            }
            node.receive(received);
        }
    }
}

#[test]
fn several_lcores_do_the_same_with_all_of_it() {
    write_if_asked();
    // Whoever translates takes ports of the lcore's own.
    for (_, section) in all_sections().filter(|(file, _)| *file != "snat") {
        let frames: Vec<_> = section.cases.iter().map(|case| case.received.clone()).collect();
        several_lcores_do_what_one_does(CONFIG, &section.services(), &frames);
    }
}

/// The oracle sees any byte that changes behind the Ethernet header of what `dnat` sends.
#[test]
fn the_oracle_can_fail() {
    write_if_asked();
    let sections = written(MODES.iter().find(|mode| mode.file == "dnat").unwrap());
    for case in sections.iter().flat_map(|section| &section.cases) {
        // Fragments are verified together; a datagram without a checksum, what is quoted in part, and IPv6's options not at all.
        let unverified = ["fragment", "without a checksum", "eight bytes", "options"];
        if unverified.iter().any(|words| case.title.contains(words)) {
            continue;
        }
        let (end, _) = packet_of(&case.sent);
        // An IPv6 header has no checksum of its own: what no pseudo-header has can be anything.
        let from = if case.sent[14] >> 4 == 4 { 14 } else { 14 + 8 };
        for at in from..end {
            let mut damaged = case.sent.clone();
            damaged[at] ^= 0x10;
            assert!(Oracle::default().frame(&damaged).is_err(), "{}: {at}\n{}", case.title, dissect(&case.sent));
        }
    }
}
