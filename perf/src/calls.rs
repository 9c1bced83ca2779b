//! What a polling thread asks of the kernel while it forwards: nothing. strace watches all threads of the released binary; those of the
//! control side call, and the polling one does not.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::forwarder::Forwarder;
use crate::node::{Memory, Node, Task};
use crate::process::Process;
use crate::rig::Rig;
use crate::throughput::local;
use crate::traffic::Kind;

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// Flows that are remembered and found, and flows that begin, each in the place of another.
const CASES: [(Memory, Kind); 2] =
    [(Memory::Going(1 << 16), Kind::Acks(1_000)), (Memory::Beginning(500), Kind::Syns(1_000))];

#[test]
#[ignore = "needs the released binary (PENSTOCK says where), CPU 1 for itself, and strace: scripts/test has them and runs it"]
fn a_polling_thread_calls_the_kernel_for_nothing() {
    let penstock = std::env::var("PENSTOCK").expect("PENSTOCK: the released binary");
    let directory = tempfile::tempdir().unwrap();
    for (memory, traffic) in CASES {
        let rig = Rig::new(1, 0, traffic, directory.path(), directory.path().join(traffic.to_string())).unwrap();
        let rig = Rig { eal: local::EAL.map(str::to_owned).to_vec(), ..rig };
        let mut node = Node::start(&rig, Path::new(&penstock), Task::ipip(memory)).unwrap();

        let before = node.process().core_times().unwrap();
        sleep(WATCHED / 2);
        let polling = node.process().core_times().unwrap().polling_since(&before).unwrap();
        let (all, calls) = (node.process().id().to_string(), rig.directory.join("calls"));
        let watch = ["-qq", "-f", "-p", &all, "-o", &calls.display().to_string()].map(str::to_owned);
        let mut strace = Process::start("strace", &watch, false).unwrap();
        // Not before it holds that thread; then none of its calls is missed.
        let status = format!("/proc/{all}/task/{polling}/status");
        let is_held = || fs::read_to_string(&status).unwrap().contains(&format!("TracerPid:\t{}\n", strace.id()));
        assert!(
            (0..500).any(|_| is_held() || {
                sleep(Duration::from_millis(20));
                false
            }),
            "strace does not watch"
        );
        // It asks the node for its counters before and behind, and says how much it forwarded: a thread that stands still calls nobody either.
        let rate = node.rate(WATCHED).unwrap();
        strace.check_alive().unwrap();
        strace.stop(Duration::from_secs(5));
        assert!(rate.pps > 10_000.0, "{traffic}: {} packets a second", rate.pps);

        let calls = fs::read_to_string(calls).unwrap();
        let (own, others): (Vec<_>, Vec<_>) = calls.lines().partition(|line| line.split(' ').next() == Some(&polling));
        assert!(!others.is_empty(), "{traffic}: strace sees nobody call");
        assert!(own.is_empty(), "{traffic}: the polling thread calls the kernel:\n{}", own.join("\n"));
        Box::new(node).end().unwrap();
    }
}
