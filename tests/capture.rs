//! What a capture takes of an lcore's frames: as they were received, with what became of them, and no more than it may.

#[path = "../fuzz/harness/mod.rs"]
mod harness;
#[path = "support/oracle.rs"]
mod oracle;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder};
use penstock::capture::{Busy, Capture, Captures, Counts, Filter, MOST_BYTES, MOST_RATE, Moment, Taken, Taker, Wanted};
use penstock::config::Config;
use penstock::counters::Reason;
use penstock::flow::Nat;
use penstock::pipeline::{BURST, Outcome, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, PortIndex, Snapshot};
use penstock::wire::Frame;

const CONFIG: &str = r#"
[dpdk]
lcores = [1]
[[port]]
name = "wan0"
device = "net_null0"
mac = "02:00:00:00:00:01"
[encap]
ipv4_source = "10.0.0.1"
[snat]
ipv4 = ["10.0.0.1"]
ports = "2000-2999"
[hash]
seed = "AAECAwQFBgcICQoLDA0ODw=="
table_size = 101
[[neighbor]]
address = "10.0.0.254"
mac = "02:00:00:00:00:fe"
port = "wan0"
[[route]]
prefix = "0.0.0.0/0"
via = "10.0.0.254"
"#;

const SERVICES: &str = r#"{"services": [
    {"name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "forwarding": "ipip", "backends": [{"address": "10.1.0.1"}]},
    {"name": "shop", "vip": "192.0.2.1", "port": 81, "protocol": "tcp", "forwarding": "dnat",
     "backends": [{"address": "10.1.0.2", "port": 8080}]},
    {"name": "mail", "vip": "192.0.2.1", "port": 82, "protocol": "tcp", "forwarding": "snat", "backends": [{"address": "10.1.0.3"}]},
    {"name": "none", "vip": "192.0.2.1", "port": 83, "protocol": "tcp", "forwarding": "ipip", "no_backend": "reject", "backends": []},
    {"name": "closed", "vip": "192.0.2.1", "port": 84, "protocol": "tcp", "forwarding": "ipip", "source_ranges": ["10.0.0.0/8"],
     "backends": [{"address": "10.1.0.1"}]}
]}"#;

/// An lcore, and who may begin captures.
struct Lcore {
    snapshot: Arc<Snapshot>,
    pipeline: Pipeline,
    captures: Arc<Captures>,
    taker: Taker,
    now: Millis,
}

/// A frame that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    outcome: Outcome,
    is_sent: bool,
    service: Option<String>,
    backend: Option<SocketAddr>,
    length: usize,
    bytes: Vec<u8>,
}

fn shown(taken: &Taken) -> Shown {
    Shown {
        outcome: taken.outcome,
        is_sent: taken.is_sent,
        service: taken.service.as_deref().map(str::to_owned),
        backend: taken.backend,
        length: taken.length,
        bytes: taken.bytes.clone(),
    }
}

/// Everything, as fast as may be.
fn everything() -> Wanted {
    Wanted { filter: filter(&[], &[], None), bytes: MOST_BYTES, rate: MOST_RATE, sent: false }
}

fn filter(verdicts: &[&str], reasons: &[&str], service: Option<&str>) -> Filter {
    Filter::new(verdicts, reasons, service).unwrap()
}

fn only(verdicts: &[&str], reasons: &[&str], service: Option<&str>) -> Wanted {
    Wanted { filter: filter(verdicts, reasons, service), ..everything() }
}

/// A millisecond of whose counter is a tick.
fn captures() -> (Arc<Captures>, Taker) {
    let moment = || Moment { time: SystemTime::UNIX_EPOCH + Duration::from_secs(100), ticks: 100_000, rate: 1000 };
    let (captures, mut takers) = Captures::new(1, moment);
    (captures, takers.remove(0))
}

impl Lcore {
    fn new() -> Self {
        Self::with(CONFIG, SERVICES)
    }

    fn with(config: &str, services: &str) -> Self {
        let (config, _) = Config::read(config, "c").unwrap_or_else(|errors| panic!("{errors}"));
        let (definitions, _) = service::native(services, "s", None).unwrap_or_else(|errors| panic!("{errors}"));
        let snapshot = Compiler::new(config.environment()).compile(&definitions, &config.fabric(), Millis(0));
        let pipeline = Pipeline::with(Nat::new(snapshot.sources(), 0, [0; 2])).remembering(64, [1, 2]);
        let (captures, taker) = captures();
        Self { snapshot, pipeline, captures, taker, now: Millis(0) }
    }

    /// What becomes of a burst, and its bytes afterwards; as the poll loop has it.
    fn burst(&mut self, frames: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>)> {
        let mut buffers: Vec<_> = frames.iter().map(|frame| Buffer::new(frame)).collect();
        let mut verdicts = [Verdict::Punt; BURST];
        let (snapshot, now, port) = (self.snapshot.clone(), self.now, PortIndex(0));
        self.taker.begin_round();
        match self.taker.is_on() {
            false => _ = self.pipeline.process(&snapshot, now, port, &mut buffers, &mut verdicts),
            true => {
                let mut watch = self.taker.watch(&snapshot, now, now.0, port).unwrap();
                self.pipeline.process_witnessed(&snapshot, now, port, &mut buffers, &mut verdicts, &mut watch);
            }
        }
        verdicts.into_iter().zip(buffers.iter().map(|buffer| buffer.bytes().to_vec())).collect()
    }

    /// What a capture takes of a burst.
    fn captured(&mut self, wanted: Wanted, frames: &[Vec<u8>]) -> Vec<Shown> {
        let mut capture = self.captures.begin(wanted).unwrap();
        self.burst(frames);
        let taken = self.end_round(&mut capture);
        drop(capture);
        self.taker.begin_round();
        taken
    }

    /// What was taken by the end of the round.
    fn end_round(&mut self, capture: &mut Capture) -> Vec<Shown> {
        self.taker.begin_round();
        let mut taken = Vec::new();
        capture.take(usize::MAX, |_, _, one| taken.push(shown(one)));
        taken
    }
}

/// From a client to this port of the VIP.
fn packet(port: u16) -> Vec<u8> {
    between(([198, 51, 100, 7], 40_000), ([192, 0, 2, 1], port))
}

fn between(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 0, 1]).ipv4(from.0, to.0, 64);
    ip.tcp(from.1, to.1, 1, 512).ack(1).write(&mut frame, b"payload").unwrap();
    frame
}

fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    let (old, new) = (u16::from(frame[22]) << 8, u16::from(ttl) << 8);
    frame[22] = ttl;
    let sum = u32::from(!u16::from_be_bytes([frame[24], frame[25]])) + u32::from(!old) + u32::from(new);
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0x20, 7], &frame[12..]].concat()
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 0, 1]);
    ip.ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64).icmpv4_echo_request(1, 2).write(&mut frame, b"ping").unwrap();
    frame
}

/// A frame, what becomes of it, and whose it is: service and backend.
type Kind = (Vec<u8>, Outcome, Option<&'static str>, Option<&'static str>);

/// One of each.
fn kinds() -> Vec<Kind> {
    use Outcome::{Answered, Dropped, Forwarded, Punted};
    let elsewhere = between(([198, 51, 100, 7], 40_000), ([203, 0, 113, 1], 80));
    vec![
        (packet(80), Forwarded, Some("web"), Some("10.1.0.1:80")),
        (packet(81), Forwarded, Some("shop"), Some("10.1.0.2:8080")),
        (packet(82), Forwarded, Some("mail"), Some("10.1.0.3:82")),
        (packet(83), Dropped(Reason::NoBackend), Some("none"), None),
        (packet(84), Dropped(Reason::SourceRefused), Some("closed"), None),
        (packet(85), Dropped(Reason::NoService), None, None),
        (with_ttl(packet(81), 1), Answered, Some("shop"), None),
        (between(([10, 1, 0, 2], 8080), ([198, 51, 100, 7], 40_000)), Forwarded, Some("shop"), Some("10.1.0.2:8080")),
        (ping(), Answered, None, None),
        (elsewhere, Punted, None, None),
        (packet(80)[..30].to_vec(), Dropped(Reason::Malformed), None, None),
    ]
}

#[test]
fn each_frame_is_shown_as_it_was_received_with_what_became_of_it() {
    for tag in [false, true] {
        let frame = |frame: Vec<u8>| if tag { tagged(&frame) } else { frame };
        for (bytes, outcome, service, backend) in kinds() {
            let bytes = frame(bytes);
            let mut lcore = Lcore::new();
            let taken = lcore.captured(everything(), std::slice::from_ref(&bytes));
            // Whoever is answered is nobody's backend's, but where it would have gone is known.
            let backend = match outcome {
                Outcome::Answered if service.is_some() => taken[0].backend,
                _ => backend.map(|backend| backend.parse().unwrap()),
            };
            let (service, length) = (service.map(str::to_owned), bytes.len());
            assert_eq!(taken, [Shown { outcome, is_sent: false, service, backend, length, bytes }], "tagged: {tag}");
        }
    }
}

#[test]
fn a_reply_of_snat_is_its_services() {
    let mut lcore = Lcore::new();
    let sent = lcore.burst(&[packet(82)]).remove(0).1;
    let source = u16::from_be_bytes([sent[34], sent[35]]);
    let reply = between(([10, 1, 0, 3], 82), ([10, 0, 0, 1], source));
    let taken = lcore.captured(only(&["forwarded"], &[], Some("mail")), std::slice::from_ref(&reply));
    assert_eq!((taken.len(), &taken[0].bytes, taken[0].outcome), (1, &reply, Outcome::Forwarded));
    assert_eq!(taken[0].backend, Some(([10, 1, 0, 3], 82).into()));
}

#[test]
fn an_error_of_the_fabric_whose_client_cannot_be_told_is_shown_as_dropped() {
    // To backends there is a way, to clients none.
    let mut lcore = Lcore::with(&CONFIG.replace("0.0.0.0/0", "10.0.0.0/8"), SERVICES);
    let sent = lcore.burst(&[packet(80)]).remove(0).1;
    let mut error = Vec::new();
    let ip =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 0, 1]).ipv4([10, 0, 0, 254], [10, 0, 0, 1], 64);
    let too_big = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 };
    ip.icmpv4(Icmpv4Type::DestinationUnreachable(too_big)).write(&mut error, &sent[14..]).unwrap();
    for bytes in [error.clone(), tagged(&error)] {
        let taken = lcore.captured(only(&["dropped"], &[], None), std::slice::from_ref(&bytes));
        let (outcome, length) = (Outcome::Dropped(Reason::NoNextHop), bytes.len());
        assert_eq!(taken, [Shown { outcome, is_sent: false, service: None, backend: None, length, bytes }]);
    }
}

/// The frames of each kept input of the fuzzer.
fn corpus() -> Vec<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pipeline");
    let inputs = std::fs::read_dir(directory).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    inputs.map(|input| harness::frames(&input).iter().map(|frame| frame.to_vec()).collect()).collect()
}

#[test]
fn of_everything_that_there_is_each_frame_is_shown_once_and_goes_where_it_would_have_gone() {
    let lcore = || Lcore::with(include_str!("../fuzz/penstock.toml"), include_str!("../fuzz/services.json"));
    let filters: [&[&str]; 5] = [&[], &["forwarded"], &["answered"], &["punted"], &["dropped"]];
    for verdicts in filters {
        let (mut plain, mut watched) = (lcore(), lcore());
        let mut capture = watched.captures.begin(only(verdicts, &[], None)).unwrap();
        let (mut seen, mut missed) = (0, 0);
        for (frames, second) in corpus().iter().zip(0..) {
            // Errors may always be made.
            (plain.now, watched.now) = (Millis(1000 * second), Millis(1000 * second));
            let (expected, found) = (plain.burst(frames), watched.burst(frames));
            assert_eq!(found, expected, "{verdicts:?}");
            let taken = watched.end_round(&mut capture);
            let wanted = frames.iter().zip(&found).filter_map(|(frame, (verdict, _))| {
                let outcome = verdict.outcome()?;
                (verdicts.is_empty() || verdicts.contains(&outcome.name())).then_some((outcome, frame))
            });
            let mut taken = taken.iter().peekable();
            for (outcome, frame) in wanted {
                if taken.next_if(|taken| (taken.outcome, &taken.bytes) == (outcome, frame)).is_some() {
                    seen += 1;
                } else {
                    // It was made into something else before it came out that nobody can be told.
                    let is_unknown = verdicts == ["dropped"] && outcome == Outcome::Dropped(Reason::Malformed);
                    assert!(is_unknown, "{verdicts:?}: {outcome:?} is not shown, or not as it was: {frame:02x?}");
                    missed += 1;
                }
            }
            assert_eq!(taken.next(), None, "{verdicts:?}");
        }
        assert!(seen >= 10 && missed < 5, "{verdicts:?}: {seen}, {missed}");
        assert_eq!(capture.counts(), Counts { taken: seen, lost: 0, over: 0 });
    }
}

#[test]
fn only_what_is_wanted_is_taken() {
    let mut lcore = Lcore::new();
    let frames: Vec<_> = kinds().into_iter().map(|(frame, ..)| frame).collect();
    let mut taken = |verdicts: &[&str], reasons: &[&str], service: Option<&str>| -> Vec<_> {
        // A second later errors may be sent again.
        lcore.now.0 += 1000;
        let taken = lcore.captured(only(verdicts, reasons, service), &frames);
        taken.iter().map(|one| frames.iter().position(|frame| *frame == one.bytes).unwrap()).collect()
    };
    assert_eq!(taken(&["punted"], &[], None), [9]);
    assert_eq!(taken(&["answered"], &[], None), [6, 8]);
    assert_eq!(taken(&["dropped"], &[], None), [3, 4, 5, 10]);
    assert_eq!(taken(&[], &["no_service", "source_refused"], None), [4, 5]);
    assert_eq!(taken(&["punted"], &["no_service"], None), [5, 9]);
    assert_eq!(taken(&[], &[], Some("shop")), [1, 6, 7]);
    assert_eq!(taken(&["forwarded"], &[], Some("shop")), [1, 7]);
    assert_eq!(taken(&["dropped"], &[], Some("closed")), [4]);
    assert_eq!(taken(&["dropped"], &[], Some("none")), [3]);
    assert_eq!(taken(&[], &[], Some("unheard of")), [0; 0]);
}

#[test]
fn a_frame_that_was_sent_is_shown_as_it_left_behind_itself() {
    let mut lcore = Lcore::new();
    let frames = [packet(80), packet(85), ping()];
    let sent = lcore.burst(&frames);
    let taken = lcore.captured(Wanted { sent: true, ..everything() }, &frames);
    let expected =
        [(false, &frames[0]), (true, &sent[0].1), (false, &frames[1]), (false, &frames[2]), (true, &sent[2].1)];
    let found: Vec<_> = taken.iter().map(|taken| (taken.is_sent, &taken.bytes)).collect();
    // The outer identification counts on, and its checksum with it.
    let alike = |one: &[u8], other: &[u8]| {
        let other_than = |at: &usize| !(18..20).contains(at) && !(24..26).contains(at);
        one.len() == other.len() && (0..one.len()).filter(other_than).all(|at| one[at] == other[at])
    };
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.0 == expected.0 && alike(found.1, expected.1), "{found:02x?}\n{expected:02x?}");
    }
    assert_eq!(taken[1].service.as_deref(), Some("web"));
}

#[test]
fn frames_are_cut_to_what_is_kept_and_say_how_long_they_were() {
    let mut lcore = Lcore::new();
    for (frame, ..) in kinds() {
        let frame = tagged(&frame);
        let taken = lcore.captured(Wanted { bytes: 16, ..everything() }, std::slice::from_ref(&frame));
        assert_eq!((taken[0].bytes.as_slice(), taken[0].length), (&frame[..16], frame.len()));
    }
}

#[test]
fn an_lcore_copies_no_more_than_the_rate() {
    for service in [None, Some("web")] {
        let mut lcore = Lcore::new();
        let wanted = Wanted { rate: 100, ..only(&[], &[], service) };
        let mut capture = lcore.captures.begin(wanted).unwrap();
        let mut taken = Vec::new();
        // Ten seconds, in which ten thousand come.
        for millis in 0..10_000 {
            lcore.now = Millis(millis);
            lcore.burst(&[packet(80)]);
            taken.extend(lcore.end_round(&mut capture));
        }
        let counts = capture.counts();
        assert_eq!((counts.taken + counts.over, counts.lost), (10_000, 0), "{counts:?}");
        // So many may follow one another before the rate counts.
        assert!((1_000..=1_040).contains(&counts.taken) && taken.len() as u64 == counts.taken, "{counts:?}");
    }
}

#[test]
fn looking_for_a_service_among_drops_is_part_of_the_budget() {
    let mut lcore = Lcore::new();
    let wanted = Wanted { rate: 1, ..only(&["dropped"], &[], Some("closed")) };
    let mut capture = lcore.captures.begin(wanted).unwrap();
    for _ in 0..100 {
        lcore.burst(&vec![packet(85); BURST]);
    }
    lcore.burst(&[packet(84)]);
    assert_eq!(lcore.end_round(&mut capture), [], "all of it went into looking");
    lcore.now = Millis(5000);
    lcore.burst(&[packet(84)]);
    assert_eq!(lcore.end_round(&mut capture).len(), 1);
}

#[test]
fn what_nobody_takes_is_lost_and_counted_and_no_memory_grows() {
    let mut lcore = Lcore::new();
    let mut capture = lcore.captures.begin(everything()).unwrap();
    let frames = vec![packet(85); BURST];
    for _ in 0..200 {
        lcore.burst(&frames);
    }
    let kept = lcore.end_round(&mut capture).len() as u64;
    let counts = capture.counts();
    assert_eq!((counts.taken, counts.taken + counts.lost, counts.over), (kept, 200 * BURST as u64, 0), "{counts:?}");
    assert!(kept < 1000, "{kept} slots of {MOST_BYTES} bytes");
    // There is room again.
    lcore.burst(&frames);
    assert_eq!(lcore.end_round(&mut capture).len(), BURST);
}

#[test]
fn what_finds_no_room_is_dropped_after_all() {
    let frames = [packet(80), packet(85), packet(80), kinds()[9].0.clone(), ping()];
    let outcomes = |refuse: &dyn Fn(&mut Taker), wanted: Wanted| {
        let mut lcore = Lcore::new();
        let mut capture = lcore.captures.begin(wanted).unwrap();
        lcore.burst(&frames);
        refuse(&mut lcore.taker);
        lcore.end_round(&mut capture).iter().map(|taken| (taken.outcome, taken.is_sent)).collect::<Vec<_>>()
    };
    use Outcome::{Dropped, Forwarded, Punted};
    let by_port = |taker: &mut Taker| taker.refuse(Reason::TxFull, 2, |verdict| verdict.port() == Some(PortIndex(0)));
    let (lost, unknown) = (Dropped(Reason::TxFull), Dropped(Reason::NoService));
    let found = outcomes(&by_port, Wanted { sent: true, ..everything() });
    assert_eq!(
        found,
        [(Forwarded, false), (Forwarded, true), (unknown, false), (lost, false), (Punted, false), (lost, false)]
    );
    assert_eq!(outcomes(&by_port, only(&[], &["tx_full"], None)), [(lost, false); 2]);
    assert_eq!(outcomes(&by_port, only(&["dropped"], &[], None)), [(unknown, false)], "it costs others nothing");
    let by_twin = |taker: &mut Taker| taker.refuse(Reason::PuntFull, 1, |verdict| verdict == Verdict::Punt);
    assert_eq!(outcomes(&by_twin, only(&[], &["punt_full"], None)), [(Dropped(Reason::PuntFull), false)]);
}

#[test]
fn no_lcore_frees_the_name_of_a_service_that_is_gone() {
    let mut lcore = Lcore::new();
    let of = |snapshot: &Snapshot| snapshot.services().next().unwrap().definition().name.clone();
    let name = of(&lcore.snapshot);
    let shares = Arc::strong_count(&name);
    let mut capture = lcore.captures.begin(only(&[], &["tx_full"], None)).unwrap();
    lcore.burst(&[packet(80), packet(81), packet(82)]);
    assert_eq!(lcore.end_round(&mut capture), []);
    assert_eq!(Arc::strong_count(&name), shares);
}

#[test]
fn one_capture_at_a_time_and_its_slots_are_freed() {
    let mut lcore = Lcore::new();
    let capture = lcore.captures.begin(everything()).unwrap();
    assert_eq!(lcore.captures.begin(everything()).err(), Some(Busy));
    lcore.burst(&[packet(80)]);
    drop(capture);
    assert!(!lcore.captures.reclaim(), "the lcore has not heard of it");
    lcore.burst(&[packet(80)]);
    assert!(lcore.captures.reclaim());
    assert!(!lcore.taker.is_on());
    // What was taken for one is not shown by the next.
    assert_eq!(lcore.captured(everything(), &[packet(85)]).len(), 1);
}

#[test]
fn times_are_those_of_the_lcores_counter() {
    let mut lcore = Lcore::new();
    let mut capture = lcore.captures.begin(everything()).unwrap();
    for millis in [99_000, 101_000] {
        lcore.now = Millis(millis);
        lcore.burst(&[packet(80)]);
    }
    lcore.taker.begin_round();
    let mut times = Vec::new();
    capture.take(10, |lcore, time, _| times.push((lcore, time.duration_since(SystemTime::UNIX_EPOCH).unwrap())));
    assert_eq!(times, [(0, Duration::from_secs(99)), (0, Duration::from_secs(101))]);
}
