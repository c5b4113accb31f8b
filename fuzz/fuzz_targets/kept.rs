//! Any bytes as what was kept of a changeset.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("kept", data));
