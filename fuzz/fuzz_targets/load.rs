//! Any bytes as an archive that is loaded into a store, saved and loaded again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("load", data));
