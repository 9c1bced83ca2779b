//! The inputs that fuzzing found worth keeping (`fuzz/corpus`) through the fuzz targets' own checks, and through several lcores.

#[path = "../fuzz/harness/mod.rs"]
mod harness;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use penstock::counters::Reason;
use penstock::pipeline::Verdict;
use support::oracle;
use support::replay::several_lcores_do_what_one_does;

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let there = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = there.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "only {} inputs in {}", files.len(), directory.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn bursts_that_were_kept() {
    inputs("pipeline").iter().for_each(|input| harness::pipeline(input));
}

#[test]
fn scenes_that_were_kept() {
    inputs("scenes").iter().for_each(|input| drop(harness::scenes(input)));
}

#[test]
fn headers_that_were_kept() {
    inputs("headers").iter().for_each(|input| harness::headers(input));
}

#[test]
fn documents_that_were_kept() {
    inputs("definitions").iter().for_each(|input| harness::definitions(input));
}

#[cfg(feature = "api")]
#[test]
fn messages_that_were_kept() {
    inputs("messages").iter().for_each(|input| harness::messages(input));
}

#[test]
fn kubernetes_documents_that_were_kept() {
    inputs("kubernetes").iter().for_each(|input| harness::kubernetes(input));
}

#[test]
fn several_lcores_do_the_same_with_all_frames_that_were_kept() {
    let frames: Vec<_> = inputs("pipeline").iter().flat_map(|input| harness::frames(input)).collect();
    assert!(frames.len() > 100);
    let (config, services) = (include_str!("../fuzz/penstock.toml"), include_str!("../fuzz/services.json"));
    several_lcores_do_what_one_does(config, services, &frames);
}

/// What the scenes are made of is rich: by chance alone, each service gets something, and each reason occurs.
#[test]
fn scenes_reach_every_service_and_every_verdict() {
    let mut random = 1_u64;
    let mut byte = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    };
    let mut seen = BTreeSet::new();
    for _ in 0..1500 {
        let input: Vec<u8> = (0..2000).map(|_| byte()).collect();
        seen.extend(harness::scenes(&input).iter().map(|outcome| match outcome.verdict {
            Verdict::Forward(port) => format!("forward by {port:?}"),
            Verdict::Drop(reason) => reason.name().to_owned(),
            other => format!("{other:?}"),
        }));
    }
    let missing: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).filter(|name| !seen.contains(*name)).collect();
    // One needs a change of the definitions, the others are the poll loop's.
    let elsewhere = vec!["flow_table_full", "handoff_full", "punt_full", "tx_full"];
    assert_eq!((missing, harness::unserved()), (elsewhere, vec![]), "seen: {seen:?}");
    assert_eq!(seen.len(), Reason::COUNT - 4 + 7, "{seen:?}");
}
