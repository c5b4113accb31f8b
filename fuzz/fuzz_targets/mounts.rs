//! Any bytes as tables of mounts, files of ids, and names of directories to mount.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| overlay2::fuzzing::run("mounts", data));
