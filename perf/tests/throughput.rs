//! The search for the throughput finds what is known: the limit of a forwarder that lets so many frames a second pass and no more.

mod pair;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use pair::{device, program};

const EAL: &str = "--eal=--no-pci --no-huge --no-shconf --no-telemetry -m 512";

/// Frames a second: few, so that a machine which others use as well can do it.
const LIMIT: f64 = 4_000.0;

#[test]
#[ignore = "takes time by the clock on CPUs 0 and 1, for itself: scripts/test runs it alone"]
fn the_search_finds_a_known_limit() {
    let directory = tempfile::tempdir().unwrap();
    let mut forwarder = program()
        .args(["reflect", "--lcore=0", "--burst=4", "--mbufs=32767", EAL, &device("server", directory.path())])
        .arg(format!("--limit={LIMIT}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(forwarder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the forwarder did not start");

    let results = directory.path().join("results");
    fs::create_dir(&results).unwrap();
    let search = program()
        .args(["throughput", "--node=none", "--lcore=1", "--traffic=acks-1000", "--rounds=1", EAL])
        .args(["--most=10000", "--resolution=2", "--loss=1", "--seconds=1", "--confirm=2", "--wait=0.2", "--pause=0.1"])
        .arg(device("client", directory.path()))
        .arg(format!("--results={}", results.display()))
        .output()
        .unwrap();
    drop(forwarder.stdin.take());
    assert!(forwarder.wait().unwrap().success());
    let said = String::from_utf8_lossy(&search.stdout) + String::from_utf8_lossy(&search.stderr);
    assert!(search.status.success(), "{said}");

    let section = fs::read_to_string(results.join("RESULTS.md")).unwrap();
    let row = section.lines().find(|line| line.starts_with("| `acks-1000`")).unwrap_or_else(|| panic!("{said}"));
    let found: f64 = row.split('|').nth(3).and_then(|cell| cell.split_whitespace().next()).unwrap().parse().unwrap();
    let (found, step) = (found * 1e6, 200.0);
    // At most 1 % may be lost, and one step is the resolution.
    assert!((LIMIT - step - 0.01 * LIMIT..=LIMIT * 1.02).contains(&found), "{found} of {LIMIT}:\n{said}");
    assert!(row.contains("the forwarder"), "{row}");

    let run = fs::read_dir(results.join("runs")).unwrap().next().unwrap().unwrap().path();
    let trials = fs::read_to_string(run.join("trials.csv")).unwrap();
    let first: Vec<&str> = trials.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(first[2], "10000", "it begins with the most: {trials}");
    assert!(fs::read_to_string(run.join("plot.svg")).unwrap().contains("<circle"));
}
