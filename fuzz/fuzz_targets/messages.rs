#![no_main]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../../tests/support/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::messages(input));
