//! The crate on a real EAL, without hugepages or a device of the machine: one EAL for all tests, as a process has only one.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use dpdk::eal::{self, EalError};
use dpdk::port::{Config, PortError};
use dpdk::{BURST, Batch, Eal, Errno, Mbuf, Mempool, Port, Queue, Registered, cycles, ring};

fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        // On a thread of its own: EAL pins the one that starts it, and the tests' threads would inherit that.
        let start = || Eal::init(&eal::allowed_cpus()?[..1], ["--no-pci", "--no-huge", "--no-shconf", "-m", "128"]);
        thread::spawn(start).join().unwrap().unwrap_or_else(|error| panic!("{error}"))
    })
}

fn pool(name: &str) -> Mempool {
    Mempool::new(eal(), name, 2047, 2176).unwrap()
}

/// A started port of the device.
fn start(device: &str, pool: Mempool, queues: u16) -> (Port, Vec<Queue>) {
    let mut port = Port::open(eal(), device, queues).unwrap();
    let queues = port.start(&Config { descriptors: 128, ..Config::default() }, pool).unwrap();
    (port, queues)
}

/// A frame of 60 bytes, all `byte`.
fn frame(pool: Mempool, byte: u8) -> Mbuf {
    let mut mbuf = pool.alloc().unwrap();
    mbuf.append(60).unwrap().fill(byte);
    mbuf
}

#[test]
fn eal_starts_once() {
    eal();
    assert_eq!(Eal::init(&eal::allowed_cpus().unwrap()[..1], ["--no-pci"]).err(), Some(EalError::Twice));
}

#[test]
fn a_pool_gets_back_what_is_dropped() {
    let pool = pool("back");
    let one = pool.alloc().unwrap();
    let mut many = Batch::new();
    assert!(many.push(pool.alloc().unwrap()).is_ok() && pool.fill(&mut many));
    assert_eq!((many.len(), pool.in_use(), pool.available()), (BURST, 1 + BURST as u32, 2047 - 1 - BURST as u32));
    assert!(many.push(pool.alloc().unwrap()).is_err(), "a full batch took one more");
    drop(many.pop());
    assert_eq!((many.len(), pool.in_use()), (BURST - 1, BURST as u32));
    drop(one);
    many.clear();
    assert_eq!((many.len(), pool.in_use()), (0, 0));
}

#[test]
fn an_empty_pool_says_so() {
    let pool = Mempool::new(eal(), "small", 63, 256).unwrap();
    let mut batches: [Batch; 2] = Default::default();
    assert!(pool.fill(&mut batches[0]));
    assert!(!pool.fill(&mut batches[1]), "32 of 31 left");
    assert!(batches[1].is_empty());
    let rest: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((rest.len(), pool.available()), (31, 0));
}

#[test]
fn a_refused_pool_names_the_reason() {
    let error = Mempool::new(eal(), "huge", 10_000_000, 2176).unwrap_err();
    assert_eq!(error.reason, Errno::OutOfMemory);
    let _first = Mempool::new(eal(), "same", 63, 256).unwrap();
    assert_eq!(Mempool::new(eal(), "same", 63, 256).unwrap_err().reason, Errno::Exists);
}

#[test]
fn a_frame_grows_and_shrinks_within_its_buffer() {
    let pool = pool("grow");
    let mut mbuf = frame(pool, 7);
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.frame_length()), (128, 2176 - 128 - 60, 60));
    assert!(mbuf.is_contiguous());

    assert!(mbuf.prepend(129).is_none() && mbuf.append(2176).is_none(), "beyond the buffer");
    assert_eq!(mbuf.bytes(), [7; 60]);

    let grown = mbuf.prepend(20).unwrap();
    assert_eq!((grown.len(), &grown[20..]), (80, &[7; 60][..]));
    grown[..20].fill(1);
    assert_eq!((mbuf.headroom(), mbuf.frame_length()), (108, 80));

    assert!(!mbuf.truncate(81) && !mbuf.strip(81), "longer than the frame");
    assert!(mbuf.truncate(30) && mbuf.strip(18));
    assert!(mbuf.reshape(0, 13).is_none() && mbuf.reshape(129, 12).is_none());
    assert_eq!(mbuf.bytes(), [1, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.frame_length()), (126, 2176 - 126 - 12, 12));

    mbuf.reshape(4, 6).unwrap()[..4].fill(3);
    assert_eq!(mbuf.bytes(), [3, 3, 3, 3, 1, 1, 7, 7, 7, 7]);
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.frame_length()), (122, 2176 - 122 - 10, 10));

    let rest = mbuf.tailroom();
    mbuf.append(rest).unwrap().fill(9);
    assert_eq!((mbuf.tailroom(), mbuf.bytes().last()), (0, Some(&9)));
}

#[test]
fn a_frame_in_several_segments_keeps_its_shape() {
    // Classic pcap: a header of 24 bytes, then 16 before the frame, which is longer than a buffer of the pool.
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let file = [words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1, 0, 0, 400, 400]), vec![5; 400]].concat();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    std::fs::write(&path, file).unwrap();

    let pool = Mempool::new(eal(), "chain", 255, 128 + 256).unwrap();
    let (_port, mut queues) = start(&format!("net_pcap_chain,rx_pcap={}", path.display()), pool, 1);
    let mut received = Batch::new();
    assert_eq!(queues[0].receive(&mut received), 1);
    let mbuf = &mut received[0];
    assert!(!mbuf.is_contiguous());
    assert!(mbuf.reshape(0, 100).is_none() && mbuf.reshape(20, 256).is_none());
    assert_eq!((mbuf.bytes(), mbuf.frame_length(), mbuf.headroom()), (&[5; 256][..], 400, 128));
}

#[test]
fn a_reused_buffer_starts_anew() {
    let pool = pool("reuse");
    for _ in 0..3000 {
        let mut mbuf = pool.alloc().unwrap();
        assert_eq!((mbuf.frame_length(), mbuf.headroom()), (0, 128));
        mbuf.append(100).unwrap();
        mbuf.prepend(50).unwrap();
    }
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn dealing_keeps_the_order_and_loses_none() {
    let pool = pool("deal");
    let mut from = Batch::new();
    for byte in 0..BURST as u8 {
        from.push(frame(pool, byte)).unwrap();
    }
    let mut to: [Batch; 2] = Default::default();
    // The 31st goes nowhere: freed.
    from.deal(&mut to, |index| if index == 30 { 2 } else { index % 2 });
    let bytes = |batch: &Batch| batch.iter().map(|mbuf| mbuf.bytes()[0]).collect::<Vec<_>>();
    assert_eq!(bytes(&to[0]), (0..30).step_by(2).collect::<Vec<u8>>());
    assert_eq!(bytes(&to[1]), (1..32).step_by(2).collect::<Vec<u8>>());
    assert_eq!((from.len(), pool.in_use()), (0, 31));
}

#[test]
fn a_full_ring_frees_the_rest_and_a_dropped_one_all() {
    let pool = pool("ring");
    let (mut producer, mut consumer) = ring::single(eal(), 40).unwrap();
    let mut batch = Batch::new();
    assert!(pool.fill(&mut batch));
    assert_eq!((producer.push(&mut batch), batch.len(), consumer.len()), (0, 0, 32));
    assert!(pool.fill(&mut batch));
    assert_eq!((producer.push(&mut batch), batch.len(), consumer.len()), (24, 0, 40));
    assert_eq!(pool.in_use(), 40);

    assert_eq!((consumer.pop(&mut batch), batch.len(), consumer.len()), (32, 32, 8));
    drop(batch.pop());
    assert_eq!((consumer.pop(&mut batch), batch.len()), (1, 32), "only what has room");
    batch.clear();
    assert!(!consumer.is_empty() && !producer.is_abandoned());
    drop(consumer);
    assert!(producer.is_abandoned());
    drop(producer);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn frames_cross_a_ring_between_threads_in_order() {
    const FRAMES: u32 = 20_000;
    let pool = pool("cross");
    let (producer, mut consumer) = ring::shared(eal(), 256).unwrap();
    let producers: Vec<_> = (0..2u8)
        .map(|which| {
            let producer = producer.clone();
            thread::spawn(move || {
                let _registered = Registered::new(eal()).unwrap();
                let mut lost = 0;
                for number in 0..FRAMES {
                    let Some(mut mbuf) = pool.alloc() else {
                        lost += 1;
                        continue;
                    };
                    mbuf.append(5).unwrap()[..4].copy_from_slice(&number.to_be_bytes());
                    mbuf.bytes_mut()[4] = which;
                    lost += producer.push(&mut mbuf.into()) as u32;
                    if number % 64 == 0 {
                        thread::yield_now();
                    }
                }
                lost
            })
        })
        .collect();
    let (mut seen, mut next, mut batch) = (0, [0u32; 2], Batch::new());
    let mut take = |consumer: &mut ring::Consumer| {
        let count = consumer.pop(&mut batch);
        for mbuf in batch.iter() {
            let (number, which) = mbuf.bytes().split_at(4);
            let number = u32::from_be_bytes(number.try_into().unwrap());
            let next = &mut next[usize::from(which[0])];
            assert!(number >= *next, "{number} after {next}");
            *next = number + 1;
        }
        batch.clear();
        seen += count as u32;
        count
    };
    while producers.iter().any(|producer| !producer.is_finished()) {
        if take(&mut consumer) == 0 {
            thread::yield_now();
        }
    }
    while take(&mut consumer) > 0 {}
    let lost: u32 = producers.into_iter().map(|producer| producer.join().unwrap()).sum();
    assert_eq!(seen + lost, 2 * FRAMES);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_null_port_gives_frames_and_takes_them() {
    let pool = pool("null");
    let (port, mut queues) = start("net_null0,size=60", pool, 1);
    let mut batch = Batch::new();
    assert_eq!((queues[0].receive(&mut batch), batch.len()), (BURST, BURST));
    assert_eq!((batch[0].bytes().len(), batch[31].headroom()), (60, 128));
    assert_eq!(queues[0].receive(&mut batch), 0, "no room, none fetched");
    assert_eq!((queues[0].send(&mut batch), batch.len(), pool.in_use()), (0, 0, 0));
    let stats = port.stats().unwrap();
    assert_eq!((stats.received_packets, stats.sent_packets, stats.send_errors), (32, 32, 0));
    let info = port.info().unwrap();
    assert_eq!((info.driver.as_str(), info.device.as_str()), ("net_null", "net_null0,size=60"));
    assert!(port.link().unwrap().up);
}

#[test]
fn what_a_device_does_not_take_is_freed_and_counted() {
    let pool = pool("loop");
    // What it sends it receives, by a ring of 1024 (the driver's default).
    let (_port, mut queues) = start("net_ring0", pool, 1);
    let mut batch = Batch::new();
    let mut refused = 0;
    for _ in 0..40 {
        assert!(pool.fill(&mut batch));
        refused += queues[0].send(&mut batch);
        assert!(batch.is_empty());
    }
    assert_eq!(pool.in_use() as usize + refused, 40 * BURST);
    assert!(refused > 0);
    let mut received = 0;
    while queues[0].receive(&mut batch) > 0 {
        received += batch.len();
        batch.clear();
    }
    assert_eq!((received + refused, pool.in_use()), (40 * BURST, 0));
}

#[test]
fn a_port_runs_until_its_last_queue_goes_and_can_be_opened_again() {
    let pool = pool("again");
    for _ in 0..2 {
        let (mut port, mut queues) = start("net_null1", pool, 2);
        assert_eq!(port.table(), None, "it takes no key");
        assert_eq!(queues.iter().map(Queue::index).collect::<Vec<_>>(), [0, 1]);
        assert!(matches!(Port::open(eal(), "net_null1", 1), Err(PortError::Open(_))));
        assert!(matches!(port.start(&Config::default(), pool), Err(PortError::Runs(_))));
        drop(queues.pop());
        drop(port);
        let mut batch = Batch::new();
        assert_eq!(queues[0].receive(&mut batch), BURST);
    }
    let mut port = Port::open(eal(), "net_null1", 3).unwrap();
    for _ in 0..2 {
        assert_eq!(port.start(&Config::default(), pool).unwrap().len(), 3, "a stopped port starts again");
    }
}

#[test]
fn impossible_ports_are_named() {
    assert!(matches!(Port::open(eal(), "", 1), Err(PortError::Name(_))));
    assert!(matches!(Port::open(eal(), "net_nonsense0", 1), Err(PortError::Probe(_))));
    let mut port = Port::open(eal(), "net_null2", 5000).unwrap();
    let error = port.start(&Config::default(), pool("many")).unwrap_err();
    assert!(matches!(error, PortError::Queues { wanted: 5000, .. }), "{error}");
}

#[test]
fn a_mac_is_set_where_the_driver_can() {
    let mut null = Port::open(eal(), "net_null3", 1).unwrap();
    assert_eq!(null.table(), None);
    assert_eq!(null.set_mac([2, 0, 0, 0, 0, 9]), Ok(()));
    assert_eq!(null.info().unwrap().mac, [2, 0, 0, 0, 0, 9]);

    let mut pcap = Port::open(eal(), "net_pcap0,tx_pcap=/dev/null", 1).unwrap();
    assert_eq!(pcap.set_mac([2, 0, 0, 0, 0, 9]), Err(Errno::NotSupported));
}

#[test]
fn all_groups_are_taken_where_that_is_asked_for() {
    const IFF_ALLMULTI: u32 = 0x200;
    for (interface, all_multicast) in [("ptest-am0", false), ("ptest-am1", true)] {
        let pool = pool(interface);
        let mut port = Port::open(eal(), &format!("net_tap_{interface},iface={interface}"), 1).unwrap();
        let queues = port.start(&Config { all_multicast, descriptors: 128, ..Config::default() }, pool).unwrap();
        let flags = std::fs::read_to_string(format!("/sys/class/net/{interface}/flags")).unwrap();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
        assert_eq!(flags & IFF_ALLMULTI != 0, all_multicast);
        drop((queues, port));
    }
}

#[test]
fn an_lcore_runs_work_and_gives_its_result_or_panic() {
    let lcore = eal().lcores()[0];
    assert_eq!(eal().lcores().len(), 1);
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let pool = pool("lcore");
    let running = lcore
        .launch(move || {
            let known = Registered::new(eal()).is_err();
            let cpus = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let pinned = format!("Cpus_allowed_list:\t{}\n", eal::allowed_cpus().unwrap()[0]);
            assert!(cpus.contains(&pinned), "not on its CPU: {cpus}");
            let mbuf = frame(pool, 3);
            gate.recv().unwrap();
            (known, mbuf.bytes()[59])
        })
        .unwrap();
    assert_eq!(lcore.launch(|| ()).map(drop), Err(Errno::Busy));
    assert!(!running.is_finished());
    open.send(()).unwrap();
    assert_eq!(running.join().unwrap(), (true, 3));
    assert_eq!(pool.in_use(), 0);

    let panicked = lcore.launch(|| panic!("on an lcore")).unwrap().join();
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on an lcore"));
    assert_eq!(lcore.launch(|| 5).unwrap().join().unwrap(), 5);
}

#[test]
fn a_thread_is_registered_once_at_a_time() {
    thread::spawn(|| {
        for _ in 0..2 {
            let registered = Registered::new(eal()).unwrap();
            assert_eq!(Registered::new(eal()).unwrap_err(), Errno::Invalid);
            drop(registered);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn the_counters_frequency_is_that_of_the_clock() {
    let (start, before) = (Instant::now(), cycles::tsc());
    thread::sleep(Duration::from_millis(100));
    let (seconds, cycles) = (start.elapsed().as_secs_f64(), cycles::tsc() - before);
    let ratio = cycles as f64 / seconds / cycles::tsc_hz(eal()) as f64;
    assert!((0.98..1.02).contains(&ratio), "{ratio}");
}
