//! Any bytes as a changeset that is applied, written again and applied again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("apply", data));
