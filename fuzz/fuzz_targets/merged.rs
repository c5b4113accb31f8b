//! Any bytes as layers, and operations on the tree that they make.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("merged", data));
