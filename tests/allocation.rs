//! The pipeline allocates nothing, nor does a capture of all that goes through: a counting allocator watches them over everything that the
//! fuzz corpus has.

#[path = "../fuzz/harness/mod.rs"]
mod harness;
#[path = "support/oracle.rs"]
mod oracle;

use std::alloc::System;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use penstock::capture::{Captures, Filter, MOST_BYTES, MOST_RATE, Moment, Wanted};
use penstock::config::Config;
use penstock::counters::Reason;
use penstock::flow::Nat;
use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::service;
use penstock::snapshot::{Compiler, Millis, PortIndex, Snapshot};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Slots run out on the way, too.
fn a_capture_allocates_nothing(snapshot: &Snapshot, pipeline: &mut Pipeline) {
    let moment = || Moment { time: SystemTime::UNIX_EPOCH, ticks: 0, rate: 1 };
    let (captures, mut takers) = Captures::new(1, moment);
    let filter = Filter::new::<&str>(&[], &[], None).unwrap();
    let capture = captures.begin(Wanted { filter, bytes: MOST_BYTES, rate: MOST_RATE, sent: true }).unwrap();
    let taker = &mut takers[0];
    for _ in 0..3 {
        let mut bursts = bursts();
        let region = Region::new(ALLOCATOR);
        for (frames, second) in bursts.iter_mut().zip(0..) {
            taker.begin_round();
            let now = Millis(1000 * second);
            let mut watch = taker.watch(snapshot, now, second, PortIndex(0)).unwrap();
            pipeline.process_witnessed(snapshot, now, PortIndex(0), frames, &mut [Verdict::Punt; BURST], &mut watch);
            taker.refuse(Reason::TxFull, 1, |verdict| verdict.port().is_some());
        }
        taker.begin_round();
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0));
    }
    let counts = capture.counts();
    assert!(counts.taken > 100 && counts.lost > 0, "{counts:?}");
}

/// The frames of each kept input.
fn bursts() -> Vec<Vec<Buffer>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pipeline");
    let inputs = std::fs::read_dir(directory).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    inputs.map(|input| harness::frames(&input).iter().map(|frame| Buffer::new(frame)).collect()).collect()
}

// One test alone in its program: the allocator counts for all threads.
#[test]
fn bursts_of_everything_allocate_nothing() {
    let (config, _) = Config::read(include_str!("../fuzz/penstock.toml"), "c").unwrap();
    let (definitions, _) = service::native(include_str!("../fuzz/services.json"), "s", None).unwrap();
    let snapshot = Compiler::new(config.environment()).compile(&definitions, &config.fabric(), Millis(0));
    let mut pipeline = Pipeline::with(Nat::new(snapshot.sources(), 0, [0; 2]));
    // In whose place each frame gets its own.
    const NONE: Verdict = Verdict::HandOver(u16::MAX);
    let mut seen = BTreeSet::new();
    let mut bursts = bursts();

    // A second apart, so that errors may always be made.
    for (frames, second) in bursts.iter_mut().zip(0..) {
        let mut verdicts = [NONE; BURST];
        let region = Region::new(ALLOCATOR);
        pipeline.process(&snapshot, Millis(1000 * second), PortIndex(0), frames, &mut verdicts);
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0), "{verdicts:?}");
        assert_eq!(verdicts.iter().filter(|&&verdict| verdict != NONE).count(), frames.len(), "one verdict each");
        seen.extend(verdicts[..frames.len()].iter().map(|verdict| match verdict {
            Verdict::Forward(_) => "forward",
            Verdict::Answer(_) => "answer",
            Verdict::Reject(_) => "reject",
            Verdict::Hold => "hold",
            Verdict::HandOver(_) => "hand over",
            Verdict::Punt => "punt",
            Verdict::Drop(_) => "drop",
        }));
    }
    assert_eq!(seen.len(), 6, "only {seen:?} were seen");
    a_capture_allocates_nothing(&snapshot, &mut pipeline);

    let region = Region::new(ALLOCATOR);
    std::hint::black_box(vec![1]);
    assert_eq!(region.change().allocations, 1, "the allocator does not count");
}
