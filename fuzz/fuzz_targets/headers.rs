//! Any bytes as the headers of a tar.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("headers", data));
