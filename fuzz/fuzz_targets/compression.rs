//! Any bytes as a stream that may be compressed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("compression", data));
