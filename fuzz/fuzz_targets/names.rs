//! Any bytes as names of all kinds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("names", data));
