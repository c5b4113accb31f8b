//! Any bytes as the values of attributes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("marks", data));
