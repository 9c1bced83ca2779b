//! Every verdict and reason of the pipeline, and their order.

mod support;

use std::collections::BTreeSet;

use penstock::counters::Reason;
use penstock::pipeline::Verdict::{self, Answer, Drop, Forward, Punt};
use penstock::snapshot::PortIndex;
use penstock::wire::Mac;
use support::*;

const HERE: PortIndex = PortIndex(0);

type Case = (&'static str, Verdict, Vec<u8>);

fn made(change: impl FnOnce(&mut Made)) -> Vec<u8> {
    let mut made = Made::tcp(TUNNEL_VIP, 80);
    change(&mut made);
    made.frame()
}

fn patched(at: usize, byte: u8) -> Vec<u8> {
    let mut frame = Made::tcp(TUNNEL_VIP, 80).frame();
    frame[at] = byte;
    frame
}

fn nat(change: impl FnOnce(&mut Made)) -> Vec<u8> {
    let mut made = Made::tcp(NAT_VIP, 80);
    change(&mut made);
    made.frame()
}

/// A packet of the endpoint of `nat` to a client.
fn reply(change: impl FnOnce(&mut Made)) -> Vec<u8> {
    let endpoint = "10.1.0.3".parse().unwrap();
    let mut made = Made::with(CLIENT, TCP, tcp_segment(endpoint, 8080, CLIENT, 40000, b"hello"));
    made.source = endpoint;
    change(&mut made);
    made.frame()
}

fn cases() -> Vec<Case> {
    let ip = |text: &str| text.parse().unwrap();
    let mut cases = vec![
        ("tcp through a tunnel", Forward(HERE), Made::tcp(TUNNEL_VIP, 80).frame()),
        ("udp through a tunnel", Forward(HERE), Made::udp(TUNNEL_VIP, 53).frame()),
        ("tcp to another port", Forward(HERE), Made::tcp(NAT_VIP, 80).frame()),
        ("udp", Forward(HERE), Made::udp(NAT_VIP, 53).frame()),
        ("options that are no source route", Forward(HERE), made(|m| m.options = vec![7, 3, 4, 0])),
        ("a first fragment", Forward(HERE), made(|m| m.flags = MF)),
        ("padding", Forward(HERE), made(|m| m.padding = 6)),
        ("a reply", Forward(HERE), reply(|_| ())),
        ("echo to a VIP", Answer(HERE), Made::echo(TUNNEL_VIP).frame()),
        ("arp", Punt, [&[0xff; 6][..], &CLIENT_MAC.0, &[8, 6], &[0; 28]].concat()),
        ("ipv6", Punt, [&OUR_MAC.0[..], &CLIENT_MAC.0, &[0x86, 0xdd, 0x60], &[0; 39]].concat()),
        ("a tagged frame", Punt, [&OUR_MAC.0[..], &CLIENT_MAC.0, &[0x81, 0, 0, 7, 8, 0], &[0; 40]].concat()),
        ("a stranger's address", Punt, Made::tcp(ip("203.0.113.1"), 80).frame()),
        (
            "a stranger's address by broadcast",
            Punt,
            made(|m| (m.destination, m.to) = (ip("203.0.113.1"), Mac([0xff; 6]))),
        ),
        ("the node's own address, no service's port", Punt, Made::tcp(OWN_VIP, 22).frame()),
        ("the node's own address, a service's port", Forward(HERE), Made::tcp(OWN_VIP, 80).frame()),
        ("echo to the node's own address", Punt, Made::echo(OWN_VIP).frame()),
        ("from an endpoint to the node itself", Punt, reply(|m| m.destination = OWN_VIP)),
        ("from an endpoint's other port", Punt, reply(|m| m.segment[1] = 0)),
        ("less than a header", Drop(Reason::Malformed), vec![2; 13]),
        ("too little to tell the destination", Drop(Reason::Malformed), made(|_| ())[..33].to_vec()),
        ("version 6 in an IPv4 frame", Drop(Reason::Malformed), patched(14, 0x65)),
        ("a header of 16 bytes", Drop(Reason::Malformed), patched(14, 0x44)),
        ("a header longer than the packet", Drop(Reason::Malformed), patched(14, 0x4f)),
        ("a total length beyond the frame", Drop(Reason::Malformed), patched(17, 200)),
        ("a tcp header of 16 bytes", Drop(Reason::Malformed), patched(46, 0x40)),
        ("half a tcp header", Drop(Reason::Malformed), made(|m| m.segment.truncate(10))),
        ("a udp length of 7", Drop(Reason::Malformed), {
            let mut made = Made::udp(TUNNEL_VIP, 53);
            made.segment[5] = 7;
            made.frame()
        }),
        ("half an icmp header", Drop(Reason::Malformed), {
            let mut made = Made::echo(TUNNEL_VIP);
            made.segment.truncate(5);
            made.frame()
        }),
        ("a wrong header checksum", Drop(Reason::BadChecksum), patched(25, 0)),
        ("by broadcast", Drop(Reason::NotForUs), made(|m| m.to = Mac([0xff; 6]))),
        ("by multicast", Drop(Reason::NotForUs), made(|m| m.to = Mac([1, 0, 0x5e, 0, 0, 1]))),
        ("for another station", Drop(Reason::NotForUs), made(|m| m.to = Mac([2, 0, 0, 0, 0, 9]))),
        ("a loose source route", Drop(Reason::SourceRouted), made(|m| m.options = vec![131, 3, 4, 0])),
        ("a strict source route", Drop(Reason::SourceRouted), made(|m| m.options = vec![1, 137, 3, 4])),
        ("from loopback", Drop(Reason::BadSource), made(|m| m.source = ip("127.0.0.1"))),
        ("from a group", Drop(Reason::BadSource), made(|m| m.source = ip("224.0.0.1"))),
        ("from a VIP", Drop(Reason::BadSource), made(|m| m.source = NAT_VIP)),
        ("from the node's own VIP", Forward(HERE), made(|m| m.source = OWN_VIP)),
        ("another protocol", Drop(Reason::UnknownProtocol), made(|m| m.protocol = 47)),
        ("a port without a service", Drop(Reason::NoService), Made::tcp(TUNNEL_VIP, 81).frame()),
        ("a service's port, the other protocol", Drop(Reason::NoService), Made::udp(TUNNEL_VIP, 80).frame()),
        ("a client that the service refuses", Drop(Reason::SourceRefused), Made::tcp(NAT_VIP, 443).frame()),
        (
            "a client that it takes",
            Forward(HERE),
            nat(|m| {
                *m = Made::tcp(NAT_VIP, 443);
                m.source = ip("203.0.113.9");
            }),
        ),
        ("a later fragment", Forward(HERE), made(|m| m.flags = 3)),
        (
            "a later fragment whose first never came",
            Drop(Reason::FragmentUnknown),
            made(|m| (m.flags, m.id) = (3, 0x4321)),
        ),
        ("a later fragment of an echo", Drop(Reason::FragmentUnknown), {
            let mut m = Made::echo(TUNNEL_VIP);
            m.flags = 3;
            m.frame()
        }),
        ("a first fragment of an echo", Drop(Reason::IcmpIgnored), {
            let mut m = Made::echo(TUNNEL_VIP);
            m.flags = MF;
            m.frame()
        }),
        ("an echo reply", Drop(Reason::IcmpIgnored), {
            let mut m = Made::echo(TUNNEL_VIP);
            m.segment[0] = 0;
            m.frame()
        }),
        ("a service without backends", Drop(Reason::NoBackend), Made::tcp(LONELY_VIP, 80).frame()),
        ("a backend without a next hop", Drop(Reason::NoNextHop), Made::tcp(LONELY_VIP, 81).frame()),
        ("the last hop of a ttl", Answer(HERE), nat(|m| m.ttl = 1)),
        ("a ttl of none", Answer(HERE), nat(|m| m.ttl = 0)),
        ("a tunnel leaves the ttl alone", Forward(HERE), made(|m| m.ttl = 1)),
        ("a reply's last hop", Answer(HERE), reply(|m| m.ttl = 1)),
        ("a reply to nowhere", Drop(Reason::NoNextHop), reply(|m| m.destination = ip("172.31.0.9"))),
        ("a reply with a wrong checksum", Punt, {
            let mut frame = reply(|_| ());
            frame[25] ^= 1;
            frame
        }),
    ];
    for (name, total, verdict) in
        [("the biggest that fits a tunnel", 1480, Forward(HERE)), ("one byte more", 1481, Answer(HERE))]
    {
        cases.push((name, verdict, made(|m| m.segment.resize(total - 20, 0))));
    }
    for (name, total, verdict) in [
        ("the biggest that fits a tunnel, without DF", 1480, Forward(HERE)),
        ("one byte more, without DF", 1481, Drop(Reason::TooBig)),
    ] {
        cases.push((
            name,
            verdict,
            made(|m| {
                m.flags = 0;
                m.segment.resize(total - 20, 0);
            }),
        ));
    }
    for (name, total, verdict) in [
        ("the biggest that fits the port", 1500, Forward(HERE)),
        ("one byte more than the port takes", 1501, Answer(HERE)),
    ] {
        cases.push((name, verdict, nat(|m| m.segment.resize(total - 20, 0))));
    }
    cases
}

#[test]
fn each_gets_its_verdict() {
    let mut node = Node::default();
    for (name, verdict, frame) in cases() {
        assert_eq!(node.verdict(&frame), verdict, "{name}");
    }
}

#[test]
fn what_is_not_sent_stays_as_it_was() {
    let mut node = Node::default();
    for (name, _, frame) in cases() {
        let (verdict, after) = node.receive(&frame);
        if matches!(verdict, Punt) {
            assert_eq!(after, frame, "{name}");
        }
    }
}

/// A reason that nothing can cause has no business in the list.
#[test]
fn every_reason_of_the_pipeline_occurs() {
    let counted: BTreeSet<Reason> = cases()
        .into_iter()
        .filter_map(|(_, verdict, _)| match verdict {
            Drop(reason) => Some(reason),
            _ => None,
        })
        .collect();
    // Some are the poll loop's, which tests them itself; others are tested with their modes, or with changes of the definitions.
    let of_the_loop = [Reason::HandoffFull, Reason::PuntFull, Reason::TxFull];
    let of_changes = [Reason::FlowTableFull];
    let of_modes = [Reason::NoRoomForOption, Reason::IcmpLimited, Reason::SnatExhausted, Reason::TtlExceeded];
    let elsewhere = [&of_the_loop[..], &of_changes, &of_modes].concat();
    let missing: Vec<_> =
        Reason::ALL.iter().filter(|reason| !counted.contains(reason) && !elsewhere.contains(reason)).collect();
    assert!(missing.is_empty(), "nothing here causes {missing:?}");
}

/// Faults are piled onto one frame, the last in the order first: each new one takes over.
#[test]
fn of_several_reasons_the_first_in_the_contract_counts() {
    let mut node = Node::default();
    let mut made = Made::tcp(TUNNEL_VIP, 81);
    assert_eq!(node.verdict(&made.frame()), Drop(Reason::NoService));
    made.protocol = 47;
    assert_eq!(node.verdict(&made.frame()), Drop(Reason::UnknownProtocol));
    made.source = "127.0.0.1".parse().unwrap();
    assert_eq!(node.verdict(&made.frame()), Drop(Reason::BadSource));
    made.options = vec![131, 3, 4, 0];
    assert_eq!(node.verdict(&made.frame()), Drop(Reason::SourceRouted));
    let mut frame = made.frame();
    frame[25] ^= 1;
    assert_eq!(node.verdict(&frame), Drop(Reason::BadChecksum));
    frame[17] = 255;
    assert_eq!(node.verdict(&frame), Drop(Reason::Malformed));
    frame[5] = 9;
    assert_eq!(node.verdict(&frame), Drop(Reason::NotForUs));
}

#[test]
fn a_martian_to_a_service_is_refused_before_its_ranges_are_asked() {
    let mut node = Node::default();
    let mut made = Made::tcp(NAT_VIP, 443);
    made.source = NAT_VIP;
    assert_eq!(node.verdict(&made.frame()), Drop(Reason::BadSource));
}

#[test]
fn a_promiscuous_port_takes_other_stations_frames_but_no_groups() {
    let mut fabric = fabric();
    fabric.ports[0].promiscuous = true;
    let mut node = Node::new(&definitions(), &fabric);
    assert_eq!(node.verdict(&made(|m| m.to = Mac([2, 0, 0, 0, 0, 9]))), Forward(HERE));
    assert_eq!(node.verdict(&made(|m| m.to = Mac([0xff; 6]))), Drop(Reason::NotForUs));
}

#[test]
fn draining_and_down_backends_get_nothing_new() {
    use penstock::service::State::{Active, Down, Draining};
    let mut definitions = definitions();
    let mut states = |states: [penstock::service::State; 2]| {
        let web = std::sync::Arc::make_mut(&mut definitions.services[0]);
        web.backends = vec![backend("10.1.0.1", None), backend("10.1.0.2", None)];
        web.backends[0].state = states[0];
        web.backends[1].state = states[1];
        let (verdict, bytes) = Node::new(&definitions, &fabric()).receive(&Made::tcp(TUNNEL_VIP, 80).frame());
        (verdict, bytes[33])
    };
    let (_, active) = states([Active, Active]);
    let other = 3 - active;
    let masked = |state| if active == 1 { [state, Active] } else { [Active, state] };
    assert_eq!(states(masked(Draining)), (Forward(HERE), other));
    assert_eq!(states(masked(Down)), (Forward(HERE), other));
    assert_eq!(states([Draining, Down]).0, Drop(Reason::NoBackend));
}

#[test]
fn replies_of_an_endpoint_that_left_are_translated_until_the_drain_timeout() {
    use penstock::snapshot::{Compiler, Millis};
    let mut compiler = Compiler::new(environment());
    let (all, fabric) = (definitions(), fabric());
    compiler.compile(&all, &fabric, Millis(0));
    let mut fewer = all.clone();
    fewer.services.retain(|service| &*service.name != "nat");
    let hour = 3_600_000;
    let mut node = Node::default();
    node.snapshot = compiler.compile(&fewer, &fabric, Millis(5));
    let reply = reply(|_| ());
    node.now = Millis(hour + 4);
    assert_eq!(node.verdict(&reply), Forward(HERE));
    node.now = Millis(hour + 5);
    assert_eq!(node.verdict(&reply), Punt);
    // One that comes back in time stays.
    node.snapshot = compiler.compile(&all, &fabric, Millis(6));
    node.now = Millis(3 * hour);
    assert_eq!(node.verdict(&reply), Forward(HERE));
}

#[test]
fn of_packets_that_follow_each_other_one_is_refused_alone() {
    let sized = |payload: usize| {
        let segment = tcp_segment(CLIENT, 40000, TUNNEL_VIP, 80, &vec![0x55; payload]);
        Made { segment, ..Made::tcp(TUNNEL_VIP, 80) }.frame()
    };
    let (fits, does_not) = (sized(1440), sized(1441));
    let frames = [&fits, &fits, &does_not, &fits, &fits, &fits].map(Clone::clone);
    let outcomes = |frames: &[Vec<u8>]| Node::new(&definitions(), &fabric()).burst(frames);
    let alone: Vec<_> = frames.iter().flat_map(|frame| outcomes(std::slice::from_ref(frame))).collect();
    assert_eq!(alone.iter().filter(|(verdict, _)| *verdict == Forward(HERE)).count(), 5);
    assert_eq!(outcomes(&frames), alone);
}
