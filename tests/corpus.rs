//! The inputs that fuzzing found worth keeping (`fuzz/corpus`), and frames of every kind, cut everywhere, through the fuzz targets'
//! own checks.

#[path = "../fuzz/harness.rs"]
mod harness;

use std::fs;
use std::path::Path;

fn kept(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        check(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 10, "only {inputs} inputs in {}", directory.display());
}

#[test]
fn frames_that_were_kept() {
    kept("pipeline", harness::pipeline);
}

#[test]
fn documents_that_were_kept() {
    kept("definitions", harness::definitions);
}
