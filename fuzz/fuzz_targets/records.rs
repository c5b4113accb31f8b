//! Any bytes as the records of a store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("records", data));
