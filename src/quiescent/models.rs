//! Every interleaving of a few publishes and quiescent points, by loom:
//! `RUSTFLAGS="--cfg penstock_loom" cargo test --no-default-features --lib quiescent`.
//!
//! Loom also reports a value that is never freed, and a share used after it was given up.

use std::sync::Mutex as Ledger;
use std::sync::atomic::AtomicU32;

use loom::thread::{self, ThreadId};

use super::*;

/// What a model looks at from outside. Its own types are the standard library's, so loom sees no step in them.
#[derive(Default)]
struct World {
    freed: Ledger<Vec<u32>>,
    /// The version that each reader looks at between two quiescent points, 0 at a quiescent point.
    reading: [AtomicU32; 2],
}

impl World {
    fn freed(&self) -> Vec<u32> {
        let mut freed = self.freed.lock().unwrap().clone();
        freed.sort_unstable();
        freed
    }
}

struct Value {
    version: u32,
    owner: ThreadId,
    world: std::sync::Arc<World>,
}

impl Drop for Value {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the model has failed already
        }
        assert_eq!(thread::current().id(), self.owner, "version {} was freed by a reader", self.version);
        for reading in &self.world.reading {
            assert_ne!(reading.load(Ordering::SeqCst), self.version, "freed while a reader looks at it");
        }
        self.world.freed.lock().unwrap().push(self.version);
    }
}

fn value(version: u32, world: &std::sync::Arc<World>) -> Arc<Value> {
    Arc::new(Value { version, owner: thread::current().id(), world: world.clone() })
}

/// An lcore that passes `points` quiescent points and ends (or gives its reader back).
fn poll(mut reader: Reader<Value>, index: usize, points: usize, world: &World) -> Reader<Value> {
    let mut last = 0;
    for _ in 0..points {
        world.reading[index].store(0, Ordering::SeqCst);
        let version = reader.quiescent().version;
        world.reading[index].store(version, Ordering::SeqCst);
        assert!(version >= last, "version {version} after {last}");
        last = version;
    }
    world.reading[index].store(0, Ordering::SeqCst);
    reader
}

#[test]
fn the_newest_wins_and_the_publisher_frees_the_rest() {
    loom::model(|| {
        let world = std::sync::Arc::new(World::default());
        let (mut publisher, mut readers) = channel(1, value(1, &world));
        let reader = readers.pop().unwrap();
        let lcore = thread::spawn({
            let world = world.clone();
            move || poll(reader, 0, 2, &world)
        });
        publisher.publish(value(2, &world));
        publisher.publish(value(3, &world));
        let mut reader = lcore.join().unwrap();
        // A reader that found the publisher at its mailbox comes again; alone with it, it adopts the newest.
        assert_eq!(reader.quiescent().version, 3);
        assert!(publisher.reclaim());
        assert_eq!(world.freed(), [1, 2], "each once");
        drop((reader, publisher));
        assert_eq!(world.freed(), [1, 2, 3]);
    });
}

#[test]
fn what_was_adopted_everywhere_has_been_freed() {
    loom::model(|| {
        let world = std::sync::Arc::new(World::default());
        let (mut publisher, mut readers) = channel(1, value(1, &world));
        let reader = readers.pop().unwrap();
        let lcore = thread::spawn({
            let world = world.clone();
            move || poll(reader, 0, 2, &world)
        });
        publisher.publish(value(2, &world));
        if publisher.reclaim() {
            assert_eq!(world.freed(), [1], "nobody can see the first any more");
        } else {
            assert!(!world.freed().contains(&2));
        }
        lcore.join().unwrap();
    });
}

#[test]
fn two_readers_at_their_own_pace() {
    // Three threads: at most three switches that were not forced, which finds all known faults of this kind.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = std::sync::Arc::new(World::default());
        let (mut publisher, readers) = channel(2, value(1, &world));
        let lcores: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(index, reader)| {
                let world = world.clone();
                thread::spawn(move || poll(reader, index, 1, &world))
            })
            .collect();
        publisher.publish(value(2, &world));
        if publisher.reclaim() {
            assert_eq!(world.freed(), [1], "both let go of the first");
        }
        for lcore in lcores {
            assert_eq!(lcore.join().unwrap().quiescent().version, 2);
        }
        assert!(publisher.reclaim());
        assert_eq!(world.freed(), [1]);
    });
}

#[test]
fn a_reader_that_ends_leaves_all_to_the_publisher() {
    loom::model(|| {
        let world = std::sync::Arc::new(World::default());
        let (mut publisher, mut readers) = channel(1, value(1, &world));
        let reader = readers.pop().unwrap();
        let lcore = thread::spawn({
            let world = world.clone();
            move || drop(poll(reader, 0, 1, &world))
        });
        publisher.publish(value(2, &world));
        if publisher.reclaim() {
            assert_eq!(world.freed(), [1], "who ended lets go of its value first");
        }
        lcore.join().unwrap();
        assert!(publisher.reclaim(), "who ended is not waited for");
        assert_eq!(world.freed(), [1]);
        drop(publisher);
        assert_eq!(world.freed(), [1, 2]);
    });
}
