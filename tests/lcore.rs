//! The poll loop on a real EAL, without hugepages or a device of the machine; what becomes of a frame is said by its first
//! byte. One EAL for all tests, as a process has only one.
#![cfg(feature = "dpdk")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use dpdk::port::Config;
use dpdk::{Batch, Eal, Mbuf, Mempool, Port, eal, ring};

use penstock::counters::{LcoreBlock, Reason, Totals};
use penstock::lcore::{self, Bells, Clock, Handed, Handoff, Idle, Lane, Plan, Refused, Work};
use penstock::pipeline::{BURST, Verdict};
use penstock::snapshot::{Millis, PortIndex};
use penstock::wire::Frame;

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        // On a thread of its own: EAL pins the one that starts it, and the tests' threads would inherit that.
        let start = || Eal::init(&eal::allowed_cpus()?[..1], ["--no-pci", "--no-huge", "--no-shconf", "-m", "256"]);
        thread::spawn(start).join().unwrap().unwrap_or_else(|error| panic!("{error}"))
    })
}

#[test]
fn the_key_that_ports_are_told_is_the_one_that_is_reckoned_with() {
    assert_eq!(dpdk::port::RSS_KEY[..40], penstock::flow::Dealing::KEY);
}

/// Does what a frame's first byte says.
struct AsTold {
    /// Frames that wait, five at most.
    kept: Vec<Mbuf>,
    /// The only lcore's.
    handoff: Handoff,
    refused: Arc<Mutex<Vec<(usize, Refused)>>>,
    bursts: Arc<Mutex<Vec<Burst>>>,
    round: usize,
}

/// The round in which a port gave so many frames.
type Burst = (usize, PortIndex, usize);

impl Default for AsTold {
    fn default() -> Self {
        let handoff = Handoff::of(1).remove(0);
        Self { kept: Vec::new(), handoff, refused: Arc::default(), bursts: Arc::default(), round: 0 }
    }
}

const FORWARD: u8 = b'f';
const ANSWER: u8 = b'a';
const PUNT: u8 = b'p';
const DROP: u8 = b'd';
/// Forward by port 1.
const ACROSS: u8 = b'x';
/// Wait until five do.
const HOLD: u8 = b'h';
/// Hand over to this lcore itself, which forwards it; and to one that is not there.
const HAND_OVER: u8 = b'o';
const ASTRAY: u8 = b's';

impl Work for AsTold {
    fn begin_round(&mut self) {
        self.round += 1;
    }

    fn process(
        &mut self,
        _: Millis,
        port: PortIndex,
        frames: &mut [Mbuf],
        verdicts: &mut [Verdict; BURST],
    ) -> Option<PortIndex> {
        self.bursts.lock().unwrap().push((self.round, port, frames.len()));
        for (frame, verdict) in frames.iter_mut().zip(&mut *verdicts) {
            *verdict = match frame.bytes()[0] {
                FORWARD => {
                    let length = frame.bytes().len();
                    Frame::reshape(frame, 4, length).unwrap()[..4].copy_from_slice(b"out:");
                    Verdict::Forward(port)
                }
                ACROSS => Verdict::Forward(PortIndex(1)),
                ANSWER => Verdict::Answer(port),
                PUNT => Verdict::Punt,
                HOLD => Verdict::Hold,
                HAND_OVER => Verdict::HandOver(0),
                ASTRAY => Verdict::HandOver(1),
                _ => Verdict::Drop(Reason::Malformed),
            };
        }
        verdicts[..frames.len()].iter().all(|&verdict| verdict == Verdict::Forward(port)).then_some(port)
    }

    fn probe(&mut self, frames: &mut [Mbuf], verdicts: &mut [Verdict; BURST]) {
        self.process(Millis(0), PortIndex(0), frames, verdicts);
    }

    fn hold(&mut self, _: Millis, _: PortIndex, frames: &mut Batch) {
        while self.kept.len() < 5
            && let Some(frame) = frames.pop()
        {
            self.kept.push(frame);
        }
    }

    fn hand_over(&mut self, port: PortIndex, frames: &mut Batch, verdicts: &[Verdict]) {
        let refused = self.handoff.push_all(port, 1, frames, verdicts);
        assert_eq!(refused.count_ones() as usize, frames.len());
    }

    fn refused(&mut self, count: usize, by: Refused) {
        self.refused.lock().unwrap().push((count, by));
    }

    fn release(&mut self, _: Millis, frames: &mut Batch, verdicts: &mut [Verdict; BURST]) -> Option<PortIndex> {
        if let Some(Handed { frame, port, lcores: 1 }) = self.handoff.pop() {
            frames.push(frame).unwrap();
            verdicts[0] = Verdict::Forward(port);
            return Some(port);
        }
        if self.kept.len() < 5 {
            return None;
        }
        self.kept.drain(..).for_each(|frame| frames.push(frame).unwrap());
        verdicts[..5].copy_from_slice(&[Verdict::Forward(PortIndex(0)); 5]);
        Some(PortIndex(0))
    }
}

/// Frames to receive and frames sent, as files in a fresh directory.
struct Wire {
    directory: tempfile::TempDir,
}

impl Wire {
    fn new(kinds: impl IntoIterator<Item = u8>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Classic pcap: a header of 24 bytes, then 16 bytes before each frame; times do not matter here.
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
        for (number, kind) in kinds.into_iter().enumerate() {
            let mut frame = [kind; 60];
            frame[1..5].copy_from_slice(&(number as u32).to_be_bytes());
            file.extend(words(&[0, 0, 60, 60]));
            file.extend(frame);
        }
        std::fs::write(directory.path().join("in"), file).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn device(&self, name: &str) -> String {
        format!("{name},rx_pcap={},tx_pcap={}", self.path("in").display(), self.path("out").display())
    }
}

fn frames(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    let (mut rest, mut frames) = (&file[24..], Vec::new());
    while let Some((header, more)) = rest.split_at_checked(16) {
        let (frame, more) = more.split_at(u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize);
        frames.push(frame.to_vec());
        rest = more;
    }
    frames
}

/// A loop under way on some thread.
struct Loop {
    pool: Mempool,
    ports: Vec<Port>,
    counters: Arc<LcoreBlock>,
    bells: Bells,
    refused: Arc<Mutex<Vec<(usize, Refused)>>>,
    bursts: Arc<Mutex<Vec<Burst>>>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

type Ends = (Option<ring::Producer>, Option<ring::Consumer>);

impl Loop {
    fn start(name: &str, devices: &[&str], idle: Idle, ends: Vec<Ends>) -> Self {
        Self::start_with(name, devices, idle, ends, None)
    }

    /// With packets of health checks, too.
    fn start_with(
        name: &str,
        devices: &[&str],
        idle: Idle,
        mut ends: Vec<Ends>,
        probes: Option<ring::Consumer>,
    ) -> Self {
        let pool = Mempool::new(eal(), name, 4095, 2176).unwrap();
        ends.resize_with(devices.len(), || (None, None));
        let mut ports: Vec<Port> = devices.iter().map(|device| Port::open(eal(), device, 1).unwrap()).collect();
        let lanes = ports.iter_mut().zip(ends).map(|(port, (punt, inject))| {
            let mut queues = port.start(&Config { descriptors: 64, ..Config::default() }, pool).unwrap();
            Lane { queue: queues.remove(0), punt, inject }
        });
        let (lanes, counters) = (lanes.collect::<Vec<_>>(), Arc::new(LcoreBlock::new(devices.len())));
        let stop = Arc::new(AtomicBool::new(false));
        let (block, flag, clock) = (counters.clone(), stop.clone(), Clock::start(eal(), Millis(0)));
        let (bells, work) = (Bells::default(), AsTold::default());
        let (hung, refused, bursts) = (bells.clone(), work.refused.clone(), work.bursts.clone());
        let thread = thread::spawn(move || {
            let _registered = dpdk::Registered::new(eal()).unwrap();
            lcore::run(Plan { ports: lanes, probes, work, counters: block, clock, idle, bells: hung, stop: flag });
        });
        Self { pool, ports, counters, bells, refused, bursts, stop, thread }
    }

    /// How many frames the work was told of that found no room there.
    fn refused(&self, by: Refused) -> usize {
        self.refused.lock().unwrap().iter().filter(|(_, other)| *other == by).map(|(count, _)| count).sum()
    }

    fn totals(&self, port: usize) -> Totals {
        let mut totals = Totals::default();
        totals.add(&self.counters.ports[port]);
        totals
    }

    fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "not within 10 s: {what}; {:?}", self.totals(0));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it, and gives what each port counted. All mbufs must be back in the pool, when `rings` are dropped.
    fn end(self, rings: impl Sized) -> Vec<Totals> {
        self.stop.store(true, Ordering::Relaxed);
        let totals: Vec<usize> = (0..self.counters.ports.len()).collect();
        self.thread.join().unwrap();
        let totals = totals.iter().map(|&port| {
            let mut totals = Totals::default();
            totals.add(&self.counters.ports[port]);
            totals
        });
        let totals: Vec<Totals> = totals.collect();
        drop((self.ports, rings));
        assert_eq!(self.pool.in_use(), 0, "mbufs lost");
        for totals in &totals {
            assert_eq!(totals.received, totals.verdicts());
        }
        totals
    }
}

#[test]
fn every_frame_goes_where_its_verdict_says_and_is_counted_once() {
    let kinds = [FORWARD, ANSWER, DROP, PUNT, FORWARD, FORWARD, PUNT];
    let wire = Wire::new(kinds.into_iter().cycle().take(700));
    let (producer, mut twin) = ring::single(eal(), 1024).unwrap();
    let poll = Loop::start("verdicts", &[&wire.device("net_pcap_verdicts")], Idle::Pause, vec![(Some(producer), None)]);
    poll.wait_until("700 received", |poll| poll.totals(0).received == 700);

    let (mut punted, mut batch) = (Vec::new(), Batch::new());
    while twin.pop(&mut batch) > 0 {
        punted.extend(batch.iter().map(|mbuf| Mbuf::bytes(mbuf).to_vec()));
        batch.clear();
    }
    let totals = &poll.end(twin)[0];
    assert_eq!((totals.forwarded, totals.answered, totals.punted), (300, 100, 200));
    assert_eq!(totals.dropped[Reason::Malformed as usize], 100);

    let numbers = |frames: &[Vec<u8>], at: usize| -> Vec<u32> {
        frames.iter().map(|frame| u32::from_be_bytes(frame[at + 1..at + 5].try_into().unwrap())).collect()
    };
    let (mut forwarded, mut answered) = (Vec::new(), Vec::new());
    for frame in frames(&wire.path("out")) {
        if frame.starts_with(b"out:") { forwarded.push(frame) } else { answered.push(frame) }
    }
    let of = |kind: u8| (0..700u32).filter(|&number| kinds[number as usize % 7] == kind).collect::<Vec<_>>();
    assert_eq!(numbers(&forwarded, 4), of(FORWARD));
    assert_eq!(numbers(&answered, 0), of(ANSWER));
    assert_eq!(numbers(&punted, 0), of(PUNT));
    assert!(punted.iter().all(|frame| frame.len() == 60) && forwarded.iter().all(|frame| frame.len() == 64));
}

#[test]
fn ports_that_give_full_bursts_have_four_of_them_in_turn() {
    let [here, there] = [0, 1].map(|_| Wire::new([FORWARD; 9 * BURST + 5]));
    let devices = [&*here.device("net_pcap_here"), &there.device("net_pcap_there")];
    let poll = Loop::start("turns", &devices, Idle::Pause, vec![]);
    poll.wait_until("all received", |poll| (0..2).all(|port| poll.totals(port).received == 9 * BURST as u64 + 5));
    let bursts = poll.bursts.lock().unwrap().clone();
    poll.end(());

    let first = bursts[0].0;
    let turn = |round: usize, full: usize, rest: Option<usize>| {
        [0, 1].into_iter().flat_map(move |port| {
            let counts = std::iter::repeat_n(BURST, full).chain(rest);
            counts.map(move |count| (first + round, PortIndex(port), count))
        })
    };
    let expected: Vec<Burst> = turn(0, 4, None).chain(turn(1, 4, None)).chain(turn(2, 1, Some(5))).collect();
    assert_eq!(bursts, expected);
}

#[test]
fn a_burst_that_others_get_some_of_ends_its_ports_turn() {
    let wire = Wire::new([FORWARD, HAND_OVER].into_iter().cycle().take(3 * BURST));
    let poll = Loop::start("asides", &[&wire.device("net_pcap_asides")], Idle::Pause, vec![]);
    poll.wait_until("all forwarded", |poll| poll.totals(0).forwarded == 3 * BURST as u64);
    let bursts = poll.bursts.lock().unwrap().clone();
    poll.end(());
    let first = bursts[0].0;
    assert_eq!(bursts, [0, 1, 2].map(|round| (first + round, PortIndex(0), BURST)));
}

#[test]
fn a_port_without_a_twin_counts_punts_and_frees_them() {
    let wire = Wire::new([PUNT; 100]);
    let poll = Loop::start("twinless", &[&wire.device("net_pcap_twinless")], Idle::Pause, vec![]);
    poll.wait_until("100 received", |poll| poll.totals(0).received == 100);
    assert_eq!(poll.end(())[0].punted, 100);
}

#[test]
fn what_waits_is_counted_once_it_goes() {
    let wire = Wire::new([HOLD, HOLD, FORWARD, HOLD, HOLD, HOLD, HOLD, HOLD, HOLD]);
    let poll = Loop::start("hold", &[&wire.device("net_pcap_hold")], Idle::Pause, vec![]);
    poll.wait_until("9 received", |poll| poll.totals(0).received == 9);
    let totals = &poll.end(())[0];
    assert_eq!((totals.forwarded, totals.dropped[Reason::FragmentUnknown as usize]), (6, 3));
}

#[test]
fn what_another_lcore_takes_is_counted_where_it_gets_its_verdict() {
    let kinds = [HAND_OVER, FORWARD, ASTRAY, HAND_OVER, DROP];
    let wire = Wire::new(kinds.into_iter().cycle().take(500));
    let poll = Loop::start("handoff", &[&wire.device("net_pcap_handoff")], Idle::Pause, vec![]);
    poll.wait_until("500 received", |poll| poll.totals(0).received == 500);
    let totals = &poll.end(())[0];
    assert_eq!((totals.forwarded, totals.dropped[Reason::HandoffFull as usize], totals.verdicts()), (300, 100, 500));
    // Each goes to the lcore that its own verdict names, in order.
    let sent = frames(&wire.path("out"));
    let handed: Vec<_> = sent.iter().filter(|frame| frame[0] == HAND_OVER && frame.len() == 60).collect();
    assert!(handed.len() == 200 && handed.is_sorted_by_key(|frame| frame[1..5].to_vec()));
    assert!(sent.iter().all(|frame| frame[0] != ASTRAY));
}

#[test]
fn what_the_punt_ring_has_no_room_for_is_dropped_punt_full() {
    let wire = Wire::new([PUNT; 100]);
    let (producer, twin) = ring::single(eal(), 70).unwrap();
    let poll = Loop::start("puntfull", &[&wire.device("net_pcap_puntfull")], Idle::Pause, vec![(Some(producer), None)]);
    poll.wait_until("100 received", |poll| poll.totals(0).received == 100);
    assert_eq!(poll.refused(Refused::Twin), 30);
    let totals = &poll.end(twin)[0];
    assert_eq!((totals.punted, totals.dropped[Reason::PuntFull as usize]), (70, 30));
}

#[test]
fn what_a_device_has_no_room_for_is_dropped_tx_full() {
    // A memif that nobody is connected to takes nothing.
    let wire = Wire::new([ACROSS, DROP, FORWARD].into_iter().cycle().take(300));
    let memif = format!("net_memif_full,role=server,socket-abstract=no,socket={}", wire.path("memif").display());
    let poll = Loop::start("txfull", &[&wire.device("net_pcap_txfull"), &memif], Idle::Pause, vec![]);
    poll.wait_until("300 received", |poll| poll.totals(0).received == 300);
    assert_eq!(poll.refused(Refused::Port(PortIndex(1))), 100);
    let totals = &poll.end(())[0];
    assert_eq!((totals.forwarded, totals.dropped[Reason::TxFull as usize]), (100, 100));
}

#[test]
fn packets_of_health_checks_are_sent_and_counted_apart() {
    let wire = Wire::new([DROP; 5]);
    let (mut producer, probes) = ring::single(eal(), 256).unwrap();
    let device = wire.device("net_pcap_probes");
    let poll = Loop::start_with("probes", &[&device], Idle::Pause, vec![], Some(probes));
    for kind in [FORWARD, DROP, FORWARD, PUNT].into_iter().cycle().take(100) {
        let mut mbuf = poll.pool.alloc().unwrap();
        mbuf.append(60).unwrap().fill(kind);
        assert_eq!(producer.push(&mut Batch::from(mbuf)), 0);
    }
    let counted = |poll: &Loop| (poll.counters.polling.probes.get(), poll.counters.polling.probes_refused.get());
    poll.wait_until("100 probes, 5 received", |poll| counted(poll) == (50, 50) && poll.totals(0).received == 5);
    let totals = &poll.end(producer)[0];
    assert_eq!((totals.received, totals.forwarded, totals.punted), (5, 0, 0));
    assert_eq!(frames(&wire.path("out")).len(), 50);
}

#[test]
fn frames_of_the_twin_leave_by_their_port() {
    let wire = Wire::new([DROP; 5]);
    let (mut producer, inject) = ring::single(eal(), 256).unwrap();
    let (mut to_full, inject_full) = ring::single(eal(), 256).unwrap();
    let memif = format!("net_memif_twin,role=server,socket-abstract=no,socket={}", wire.path("memif").display());
    let ends = vec![(None, Some(inject)), (None, Some(inject_full))];
    let poll = Loop::start("inject", &[&wire.device("net_pcap_inject"), &memif], Idle::Sleep, ends);
    for number in 0..100 {
        let mut mbuf = poll.pool.alloc().unwrap();
        mbuf.append(60).unwrap().fill(number);
        assert_eq!(producer.push(&mut mbuf.into()), 0);
    }
    assert_eq!(to_full.push(&mut poll.pool.alloc().unwrap().into()), 0);
    poll.wait_until("100 injected", |poll| poll.totals(0).injected == 100 && poll.totals(1).inject_refused == 1);
    let totals = poll.end((producer, to_full));
    assert_eq!((totals[0].received, totals[0].forwarded, totals[1].injected), (5, 0, 0));
    let sent: Vec<u8> = frames(&wire.path("out")).iter().map(|frame| frame[59]).collect();
    assert_eq!(sent, (0..100).collect::<Vec<u8>>());
}

#[test]
fn a_ring_port_forwards_to_itself_for_ever_without_losing_an_mbuf() {
    let (mut producer, inject) = ring::single(eal(), 64).unwrap();
    let poll = Loop::start("forever", &["net_ring_forever"], Idle::Poll, vec![(None, Some(inject))]);
    for _ in 0..50 {
        let mut mbuf = poll.pool.alloc().unwrap();
        mbuf.append(60).unwrap().fill(ANSWER);
        producer.push(&mut mbuf.into());
    }
    poll.wait_until("100,000 round trips", |poll| poll.totals(0).answered > 100_000);
    let polling = &poll.counters.polling;
    assert!(polling.busy_polls.get() > 0 && polling.busy_cycles.get() <= polling.total_cycles.get());
    // Its ring still holds some; they come back with the device's end.
    assert_eq!(poll.pool.in_use(), 50);
    poll.stop.store(true, Ordering::Relaxed);
    poll.thread.join().unwrap();
}

#[test]
fn who_waits_for_punted_frames_is_woken() {
    let (punt, mut twin) = ring::single(eal(), 64).unwrap();
    let (mut kernel, inject) = ring::single(eal(), 64).unwrap();
    // What is sent comes back.
    let poll = Loop::start("bells", &["net_ring_bells"], Idle::Sleep, vec![(Some(punt), Some(inject))]);
    poll.bells.punt.hang();
    for _ in 0..3 {
        let mut mbuf = poll.pool.alloc().unwrap();
        mbuf.append(60).unwrap().fill(0);
        mbuf.bytes_mut()[0] = PUNT;
        let start = Instant::now();
        assert_eq!(kernel.push(&mut Batch::from(mbuf)), 0);
        thread::park_timeout(Duration::from_secs(5));
        assert!(start.elapsed() < Duration::from_secs(2), "woken after {:?}", start.elapsed());
        assert_eq!(twin.pop(&mut Batch::new()), 1);
    }
    poll.stop.store(true, Ordering::Relaxed);
    poll.thread.join().unwrap();
}

/// CPU time of the calling thread, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
fn sleep_saves_cpu_and_pause_and_poll_do_not() {
    /// The share of its core that an idle lcore takes over half a second.
    fn share(name: &'static str, idle: Idle) -> f64 {
        let pool = Mempool::new(eal(), name, 255, 2176).unwrap();
        let mut port = Port::open(eal(), &format!("net_ring_{name}"), 1).unwrap();
        let queue = port.start(&Config { descriptors: 64, ..Config::default() }, pool).unwrap().remove(0);
        let stop = Arc::new(AtomicBool::new(false));
        let plan = Plan {
            ports: vec![Lane { queue, punt: None, inject: None }],
            probes: None,
            work: AsTold::default(),
            counters: Arc::new(LcoreBlock::new(1)),
            clock: Clock::start(eal(), Millis(0)),
            idle,
            bells: Bells::default(),
            stop: stop.clone(),
        };
        let counters = plan.counters.clone();
        let running = eal().lcores()[0].launch(move || {
            let (cpu, time) = (cpu_seconds(), Instant::now());
            lcore::run(plan);
            (cpu_seconds() - cpu) / time.elapsed().as_secs_f64()
        });
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let share = running.unwrap().join().unwrap();
        let rounds = counters.polling.idle_polls.get();
        println!("idle = {name}: {:.1} % of the core, {rounds} rounds", 100.0 * share);
        assert_eq!(counters.polling.busy_cycles.get(), 0);
        assert!(counters.polling.total_cycles.get() > dpdk::cycles::tsc_hz(eal()) / 3);
        share
    }
    // One at a time: there is one lcore.
    static LCORE: Mutex<()> = Mutex::new(());
    let _one = LCORE.lock();
    let (poll, pause, sleep) = (share("poll", Idle::Poll), share("pause", Idle::Pause), share("sleep", Idle::Sleep));
    // Other work on the machine may take its part of the core; and to wake up costs a virtual machine up to a hundred microseconds.
    assert!(sleep < poll / 3.0 && sleep < pause / 3.0, "{sleep} of a core asleep");
}
