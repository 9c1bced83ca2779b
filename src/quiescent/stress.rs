//! The claims of the room on real threads, by sheer number. The models try the interleavings one by one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::*;

/// A value that knows where it may be freed, and is counted while it lives.
struct Value {
    version: usize,
    /// Spoilt by drop: who reads another figure reads freed memory.
    check: usize,
    owner: ThreadId,
    alive: std::sync::Arc<AtomicUsize>,
}

/// Makes values of ascending version for the thread that made the maker.
struct Maker {
    next: usize,
    owner: ThreadId,
    alive: std::sync::Arc<AtomicUsize>,
}

impl Maker {
    fn new() -> Self {
        Self { next: 0, owner: thread::current().id(), alive: Default::default() }
    }

    fn make(&mut self) -> Arc<Value> {
        self.next += 1;
        self.alive.fetch_add(1, Ordering::SeqCst);
        Arc::new(Value { version: self.next, check: !self.next, owner: self.owner, alive: self.alive.clone() })
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.owner, "version {} was freed by a reader", self.version);
        self.check = 0;
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ends the readers also when the publishing thread panics, so that a failed test ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn twenty_thousand_publishes_under_polling_readers() {
    const PUBLISHES: usize = 20_000;
    const READERS: usize = 3;
    let mut maker = Maker::new();
    let (mut publisher, readers) = channel(READERS, maker.make());
    let stop = AtomicBool::new(false);

    let adopted: Vec<usize> = thread::scope(|scope| {
        let stop = &stop;
        let _stop = StopOnDrop(stop);
        let lcores: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                scope.spawn(move || {
                    let (mut version, mut adopted) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let value = reader.quiescent();
                        assert_eq!(value.check, !value.version);
                        assert!(value.version >= version, "{} after {version}", value.version);
                        adopted += usize::from(value.version > version);
                        version = value.version;
                    }
                    adopted
                })
            })
            .collect();
        for _ in 0..PUBLISHES {
            publisher.publish(maker.make());
            assert!(maker.alive() <= READERS + 1, "{} values alive for {READERS} readers", maker.alive());
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !publisher.reclaim() {
            assert!(Instant::now() < deadline, "the readers did not adopt the newest within 10 s");
            thread::yield_now();
        }
        assert_eq!(maker.alive(), 1, "all readers have adopted the newest");
        stop.store(true, Ordering::Relaxed);
        lcores.into_iter().map(|lcore| lcore.join().unwrap()).collect()
    });
    assert!(adopted.iter().all(|&adopted| adopted > 0), "each reader has seen something new: {adopted:?}");
    drop(publisher);
    assert_eq!(maker.alive(), 0);
}

#[test]
fn a_stuck_reader_costs_one_value() {
    let mut maker = Maker::new();
    let (mut publisher, mut readers) = channel(2, maker.make());
    for _ in 0..100 {
        publisher.publish(maker.make());
        readers[1].quiescent();
        assert!(!publisher.reclaim(), "reader 0 never came");
        assert_eq!(maker.alive(), 2, "the newest, and the first for reader 0");
    }
    assert_eq!(readers[0].quiescent().version, 101);
    assert!(publisher.reclaim());
    assert_eq!(maker.alive(), 1);
}

#[test]
fn a_reader_that_ends_is_not_waited_for_and_keeps_nothing() {
    let mut maker = Maker::new();
    let (mut publisher, mut readers) = channel(2, maker.make());
    publisher.publish(maker.make());
    readers[0].quiescent();
    let ended = readers.pop().unwrap(); // the first value in hand, the second in its mailbox
    thread::spawn(move || drop(ended)).join().unwrap();
    assert!(publisher.reclaim());
    assert_eq!(maker.alive(), 1);
}

#[test]
fn a_value_published_again_is_the_newest_again() {
    let mut maker = Maker::new();
    let (one, two) = (maker.make(), maker.make());
    let (mut publisher, mut readers) = channel(1, one.clone());
    for _ in 0..10 {
        publisher.publish(two.clone());
        publisher.publish(one.clone());
        publisher.publish(one.clone());
    }
    assert_eq!(readers[0].quiescent().version, 1);
    publisher.publish(maker.make());
    assert_eq!(readers[0].quiescent().version, 3);
    assert!(publisher.reclaim());
    assert_eq!(maker.alive(), 3, "the caller shares two");
    drop((one, two));
    publisher.reclaim();
    assert_eq!(maker.alive(), 1, "and has let go of them");
}

/// What the hot path costs is said here, so that a change that doubles it is seen: a flag and a pointer, one line each.
#[test]
fn a_mailbox_fills_one_cache_line() {
    assert_eq!((size_of::<Mailbox<Value>>(), align_of::<Mailbox<Value>>()), (64, 64));
}
