//! The fuzz targets: what `fuzz/` runs on any input, and the tests here on the inputs that are kept.
//!
//! A target takes any bytes and panics where something is wrong. Its body stands with what it tries,
//! in `fuzz.rs` of that module.
#![allow(missing_docs, reason = "compiled for tests and fuzzing alone")]
#![cfg_attr(not(test), allow(unused, reason = "what a build without some features leaves out"))]

/// A target: any bytes in, a panic where something is wrong.
pub type Target = fn(&[u8]);

/// All targets, by the names that they have in `fuzz/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("apply", crate::changeset::fuzz::changeset),
    #[cfg(feature = "image")]
    ("archive", crate::image::fuzz::archive),
    ("compression", compression),
    ("headers", crate::changeset::fuzz::headers),
    ("kept", crate::changeset::fuzz::kept),
    #[cfg(feature = "image")]
    ("load", crate::driver::fuzz::loaded),
    ("marks", marks),
    ("merged", crate::merged::tests::fuzz::operations),
    ("mounts", mounts),
    ("names", names),
    ("records", crate::store::fuzz::records),
];

/// Runs a target by its name.
pub fn run(name: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(other, _)| *other == name);
    if let Some((_, target)) = found {
        target(data);
    }
}

fn marks(data: &[u8]) {
    crate::format::fuzz::marks(data);
    crate::changeset::fuzz::acls(data);
}

fn mounts(data: &[u8]) {
    crate::sys::fuzz::system_files(data);
    crate::mount::fuzz::options(data);
}

fn names(data: &[u8]) {
    crate::format::fuzz::names(data);
    crate::store::fuzz::names(data);
    #[cfg(feature = "image")]
    crate::image::fuzz::names(data);
}

fn compression(data: &[u8]) {
    crate::compression::fuzz::streams(data);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The inputs that are kept for a target, by file name.
    fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
        let root = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let folder = root.join("fuzz/seeds").join(match target {
            "apply" | "headers" => "changesets",
            "archive" | "load" => "images",
            own => own,
        });
        let Ok(entries) = std::fs::read_dir(&folder) else {
            // The published crate is without them.
            assert!(!root.join("fuzz").exists(), "no seeds in {}", folder.display());
            return Vec::new();
        };
        let read = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        };
        let mut seeds: Vec<_> = entries.map(|entry| read(entry.unwrap())).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{}", folder.display());
        seeds
    }

    /// The same numbers each time (splitmix64).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) % end.max(1) as u64).unwrap()
        }
    }

    /// A seed with a few changes: a byte, a bit, a run taken out, doubled, or taken from another.
    fn mutated(numbers: &mut Numbers, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(bytes.len() + 1);
            let end = (at + 1 + numbers.below(40)).min(bytes.len());
            match numbers.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
                1 | 2 if at < bytes.len() => {
                    let odd = [0, b'/', b'.', b'0', b'7', b'9', b'@', b' ', b'\n', 0x80, 0xff];
                    bytes[at] = odd[numbers.below(odd.len())];
                }
                3 if at < end => drop(bytes.drain(at..end)),
                4 if at < end => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                5 if !other.is_empty() => {
                    let from = numbers.below(other.len());
                    let until = (from + 1 + numbers.below(600)).min(other.len());
                    drop(bytes.splice(at..end.max(at), other[from..until].iter().copied()));
                }
                _ => bytes.truncate(at.max(bytes.len() / 2)),
            }
        }
        bytes
    }

    /// Runs a target on what is kept for it, and on `count` things like it.
    fn run_all(target: &str, count: usize) {
        let kept = seeds(target);
        let mut numbers = Numbers(1);
        let attempt = |name: &str, data: &[u8]| {
            let failed = std::panic::catch_unwind(|| run(target, data)).is_err();
            assert!(!failed, "{target} fails on {name}: {:?}", hex::encode(data));
        };
        for (name, data) in &kept {
            attempt(name, data);
        }
        for index in 0..count * usize::from(!kept.is_empty()) {
            let (name, seed) = &kept[index % kept.len()];
            let (_, other) = &kept[numbers.below(kept.len())];
            attempt(&format!("{name}, changed"), &mutated(&mut numbers, seed, other));
        }
    }

    macro_rules! targets {
        ($($(#[$cfg:meta])* $name:ident $count:literal)*) => {
            $(
                $(#[$cfg])*
                #[test]
                fn $name() {
                    run_all(stringify!($name), $count);
                }
            )*

            #[test]
            fn every_target_is_run_here_and_there() {
                let here: Vec<&str> =
                    TARGETS.iter().map(|(name, _)| *name).collect();
                let run = [$($(#[$cfg])* stringify!($name),)*];
                assert_eq!(here, run);
                let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
                for name in here {
                    let file = root.join(format!("fuzz_targets/{name}.rs"));
                    assert!(file.exists() || !root.exists(), "{}", file.display());
                }
            }
        };
    }

    targets! {
        apply 100
        #[cfg(feature = "image")]
        archive 300
        compression 300
        headers 2000
        kept 100
        #[cfg(feature = "image")]
        load 20
        marks 3000
        merged 40
        mounts 300
        names 3000
        records 60
    }
}
