//! The pipeline allocates nothing: a counting allocator watches it over mixed traffic.

mod support;

use std::alloc::System;

use penstock::pipeline::{BURST, Pipeline, Verdict};
use penstock::replay::Buffer;
use penstock::snapshot::{Compiler, Millis, PortIndex};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::*;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_burst_of_everything_allocates_nothing() {
    let mixed = [
        Made::tcp(TUNNEL_VIP, 80).frame(),
        Made::udp(TUNNEL_VIP, 53).frame(),
        Made::tcp(NAT_VIP, 80).frame(),
        Made::tcp(NAT_VIP, 443).frame(),
        Made::echo(TUNNEL_VIP).frame(),
        Made::tcp(TUNNEL_VIP, 81).frame(),
        Made::tcp(OWN_VIP, 22).frame(),
        vec![0; 60],
        vec![0; 3],
    ];
    let snapshot = Compiler::new(environment()).compile(&definitions(), &fabric(), Millis(0));
    let mut pipeline = Pipeline::new(0);
    let mut verdicts = [Verdict::Punt; BURST];
    let mut frames: Vec<Buffer> = mixed.iter().cycle().take(BURST).map(|frame| Buffer::new(frame)).collect();

    let region = Region::new(ALLOCATOR);
    pipeline.process(&snapshot, Millis(0), PortIndex(0), &mut frames, &mut verdicts);
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0));
    for wanted in [Verdict::Punt, Verdict::Forward(PortIndex(0)), Verdict::Answer(PortIndex(0))] {
        assert!(verdicts.contains(&wanted), "no {wanted:?} among the verdicts");
    }

    let region = Region::new(ALLOCATOR);
    std::hint::black_box(vec![1]);
    assert_eq!(region.change().allocations, 1, "the allocator does not count");
}
