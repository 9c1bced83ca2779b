//! Frames between rings and a real tap, in a network namespace of the test's own.
#![cfg(all(feature = "dpdk", feature = "control"))]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dpdk::ring::{self, Consumer, Producer};
use dpdk::{Batch, Eal, Mempool, eal};
use penstock::lcore::Bell;
use penstock::pipeline::probe::{self, Passage};
use penstock::punt::{Bridge, Counts, Door, ProbeCounts, Probes, Punt, Tap};

/// Runs this test binary again, in a network namespace of its own; `true` in there.
fn in_a_namespace() -> bool {
    if std::env::var_os("PENSTOCK_IN_A_NAMESPACE").is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap()).arg("--nocapture");
    assert!(command.env("PENSTOCK_IN_A_NAMESPACE", "1").status().unwrap().success(), "see above");
    false
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split_whitespace()).status().unwrap().success(), "ip {arguments}");
}

/// Who has 10.0.0.1? Tell 10.0.0.2.
fn arp_request() -> Vec<u8> {
    [
        &[0xff; 6][..],
        &[2, 0, 0, 0, 0, 2],
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &[2, 0, 0, 0, 0, 2],
        &[10, 0, 0, 2],
        &[0; 6],
        &[10, 0, 0, 1],
    ]
    .concat()
}

/// A ping from 10.0.0.2 to 10.0.0.1.
fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let builder = builder.ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).icmpv4_echo_request(1, 1);
    builder.write(&mut frame, &[0; 16]).unwrap();
    frame
}

fn is_arp_answer(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6] && frame[20..22] == [0, 2]
}

fn is_ping_answer(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0
}

/// A frame that the kernel has no use for.
fn junk() -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 2], &[0x88, 0xb5], &[0; 46]].concat()
}

fn push(pool: Mempool, ring: &mut Producer, frame: &[u8]) -> bool {
    let Some(mut mbuf) = pool.alloc() else { return false };
    mbuf.append(frame.len()).unwrap().copy_from_slice(frame);
    ring.push(&mut Batch::from(mbuf)) == 0
}

const OWN: ([u8; 4], u16) = ([10, 0, 0, 1], 61000);
const VIP: ([u8; 4], u16) = ([192, 0, 2, 1], 80);

/// A probe's packets, one after another, and what came for it.
#[derive(Default)]
struct Hand {
    sends: Mutex<VecDeque<Vec<u8>>>,
    got: Mutex<Vec<Vec<u8>>>,
}

struct ByHand(Arc<Hand>);

impl Door for ByHand {
    fn is_open(&self) -> bool {
        true
    }

    fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        let packet = self.0.sends.lock().unwrap().pop_front()?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Some(packet.len())
    }

    fn write(&self, packet: &[u8]) -> bool {
        self.0.got.lock().unwrap().push(packet.to_vec());
        true
    }

    fn passage(&self, own: SocketAddr) -> Option<Passage> {
        (own == OWN.into()).then(|| Passage { vip: VIP.into(), backend: "10.1.0.1:80".parse().unwrap() })
    }
}

/// An Ethernet frame with a TCP segment.
fn segment(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    builder.ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1000).syn().write(&mut frame, &[]).unwrap();
    frame
}

struct Scene {
    pool: Mempool,
    to_kernel: Producer,
    from_kernel: Consumer,
    bell: Bell,
    counts: Arc<Counts>,
    hand: Arc<Hand>,
    probes: Consumer,
    probe_counts: Arc<ProbeCounts>,
    _punt: Punt,
}

impl Scene {
    /// `first` are in the ring before the thread runs.
    fn new(first: &[Vec<u8>]) -> Self {
        // On a thread of its own: EAL pins the one that starts it.
        let start = || Eal::init(&eal::allowed_cpus()?[..1], ["--no-pci", "--no-huge", "--no-shconf", "-m", "64"]);
        let eal = thread::spawn(start).join().unwrap().unwrap();
        let pool = Mempool::new(eal, "frames", 8191, 2176).unwrap();
        let tap = Tap::open("wan0").unwrap();
        ip("link set wan0 address 02:00:00:00:00:01");
        ip("address add 10.0.0.1/24 dev wan0");
        ip("link set wan0 up");
        ip("neighbor replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev wan0");
        let (mut to_kernel, consumer) = ring::single(eal, 1024).unwrap();
        let (producer, from_kernel) = ring::single(eal, 1024).unwrap();
        for frame in first {
            assert!(push(pool, &mut to_kernel, frame));
        }
        let (bell, counts) = (Bell::default(), Arc::new(Counts::default()));
        let bridge =
            Bridge { tap, from_lcores: vec![consumer], to_lcore: producer, bell: bell.clone(), counts: counts.clone() };
        let (hand, probe_counts) = (Arc::new(Hand::default()), Arc::new(ProbeCounts::default()));
        let (to_lcore, from_probes) = ring::single(eal, 1024).unwrap();
        let probes = Probes { door: Box::new(ByHand(hand.clone())), to_lcore, counts: probe_counts.clone() };
        let punt = Punt::start(eal, pool, vec![bridge], Some(probes), Bell::default()).unwrap();
        Self { pool, to_kernel, from_kernel, bell, counts, hand, probes: from_probes, probe_counts, _punt: punt }
    }

    /// Pushes a frame as an lcore does; whether the ring had room.
    fn push(&mut self, frame: &[u8]) -> bool {
        push(self.pool, &mut self.to_kernel, frame)
    }

    /// How long until the kernel's answer to the ARP request comes.
    fn until_answer(&mut self) -> Duration {
        let (start, mut batch) = (Instant::now(), Batch::new());
        loop {
            self.from_kernel.pop(&mut batch);
            if batch.iter().any(|mbuf| is_arp_answer(mbuf.bytes())) {
                return start.elapsed();
            }
            batch.clear();
            assert!(start.elapsed() < Duration::from_secs(2), "the kernel did not answer");
        }
    }
}

/// One test, as a process has one EAL.
#[test]
fn frames_between_lcores_and_the_kernel() {
    if !in_a_namespace() {
        return;
    }
    // What is urgent overtakes all that came before it: the kernel answers in the order in which it is asked.
    const PINGS: usize = 500;
    let mut first = vec![ping(); PINGS];
    first.push(arp_request());
    let mut scene = Scene::new(&first);
    let (deadline, mut batch) = (Instant::now() + Duration::from_secs(2), Batch::new());
    let mut answers = Vec::new();
    while answers.len() < PINGS + 1 {
        assert!(Instant::now() < deadline, "{} answers to {} frames", answers.len(), PINGS + 1);
        scene.from_kernel.pop(&mut batch);
        let answer = |frame: &[u8]| (is_arp_answer(frame) || is_ping_answer(frame)).then(|| is_arp_answer(frame));
        answers.extend(batch.iter().filter_map(|mbuf| answer(mbuf.bytes())));
        batch.clear();
    }
    let place = answers.iter().position(|&is_arp| is_arp);
    assert_eq!(place, Some(0), "the ARP request was asked {place:?}th");

    // An answer comes within a nap of the idle thread, most of the time.
    let mut delays: Vec<_> = (0..21)
        .map(|_| {
            thread::sleep(Duration::from_millis(5));
            assert!(scene.push(&arp_request()));
            scene.until_answer()
        })
        .collect();
    delays.sort();
    assert!(delays[5] < Duration::from_micros(500), "{delays:?}");

    // The lcore, if it naps, is woken for the answer.
    scene.bell.hang();
    assert!(scene.push(&arp_request()));
    let start = Instant::now();
    thread::park_timeout(Duration::from_secs(2));
    assert!(start.elapsed() < Duration::from_secs(1), "nobody rang");
    scene.until_answer();

    // A flood of junk does not keep its answer from us, either.
    let before = scene.counts.punted.get() + scene.counts.refused.get();
    let mut pushed = 0;
    for round in 0..2000 {
        for _ in 0..10 {
            pushed += u64::from(scene.push(&junk()));
        }
        if round == 1000 {
            while !scene.push(&arp_request()) {}
            pushed += 1;
            scene.until_answer();
        }
        scene.from_kernel.pop(&mut batch);
        batch.clear();
    }
    assert!(pushed > 2_000, "only {pushed} found room in the ring");

    // Every frame that went into the ring is counted once.
    let deadline = Instant::now() + Duration::from_secs(2);
    while scene.counts.punted.get() + scene.counts.refused.get() - before < pushed {
        assert!(Instant::now() < deadline, "{:?} of {pushed}", scene.counts);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(scene.counts.punted.get() + scene.counts.refused.get() - before, pushed);

    // What a probe sends goes to the lcore, and its answers to it; what is like either goes as if there were none.
    let elsewhere = (OWN.0, OWN.1 + 1);
    let (sent, answer) = (segment(OWN, VIP), segment(VIP, OWN));
    scene.hand.sends.lock().unwrap().extend([segment(elsewhere, VIP), sent.clone()].map(|frame| frame[14..].to_vec()));
    let deadline = Instant::now() + Duration::from_secs(2);
    while scene.probes.pop(&mut batch) == 0 {
        assert!(Instant::now() < deadline, "the lcore gets nothing");
    }
    assert_eq!((batch.len(), batch[0].bytes().len()), (1, probe::FRONT + sent.len() - 14));
    assert!(batch[0].bytes().ends_with(&sent[14..]));
    batch.clear();
    let punted = scene.counts.punted.get();
    for frame in [segment(VIP, elsewhere), answer.clone(), segment(([198, 51, 100, 7], 80), OWN)] {
        assert!(scene.push(&frame));
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    while scene.counts.punted.get() < punted + 2 || scene.probe_counts.answers.get() < 1 {
        assert!(Instant::now() < deadline, "{:?} {:?}", scene.counts, scene.probe_counts);
    }
    assert_eq!(*scene.hand.got.lock().unwrap(), [answer[14..].to_vec()]);
    assert_eq!((scene.counts.punted.get(), scene.probe_counts.lost.get()), (punted + 2, 0));

    // Many at once are not all given to the kernel: those that are urgent must not wait behind them.
    const MANY: u64 = 1000;
    let kernel_is_slow = scene.hand.got.lock().unwrap();
    for _ in 0..MANY {
        assert!(push(scene.pool, &mut scene.to_kernel, &answer));
    }
    drop(kernel_is_slow);
    let deadline = Instant::now() + Duration::from_secs(2);
    while scene.probe_counts.answers.get() + scene.probe_counts.lost.get() < MANY + 1 {
        assert!(Instant::now() < deadline, "{:?}", scene.probe_counts);
    }
    let lost = scene.probe_counts.lost.get();
    // They are taken in two rounds, three at most: that in which the first of them waited, and what had come meanwhile.
    assert!((MANY - 3 * 256..MANY).contains(&lost), "{lost} lost");

    // A twin that is down takes nothing, and that is counted, too.
    ip("link set wan0 down");
    let refused = scene.counts.refused.get();
    assert!(scene.push(&junk()));
    let deadline = Instant::now() + Duration::from_secs(2);
    while scene.counts.refused.get() == refused {
        assert!(Instant::now() < deadline, "{:?}", scene.counts);
    }
}
