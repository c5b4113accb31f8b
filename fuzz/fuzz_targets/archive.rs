//! Any bytes as an archive of images, or as the documents in one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("archive", data));
