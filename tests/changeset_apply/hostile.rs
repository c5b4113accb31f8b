//! Nothing outside the layer directory is ever touched, whoever moves things inside it meanwhile.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::symlink as make_symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::run::{Scratch, WAYS, Way, is_root};
use crate::tar::{BLOCK, Entry, dir, fifo, file, link, mark, symlink, tar};
use crate::tree::{self, Tree};

/// Files around the layer that nobody may touch.
fn surround(scratch: &Scratch) -> (BTreeSet<OsString>, Tree) {
    let outside = scratch.place.path().join("outside");
    std::fs::create_dir_all(outside.join("d/e")).unwrap();
    for name in ["f", "d/f", "d/e/f", "x0"] {
        std::fs::write(outside.join(name), "untouched").unwrap();
    }
    around(scratch)
}

/// What is around the layer: the names beside it, and the files in what is neither the layer nor
/// what is kept of it.
fn around(scratch: &Scratch) -> (BTreeSet<OsString>, Tree) {
    let place = scratch.place.path();
    let names = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files = tree::read(overlay2::Dir::open_ambient(place.join("outside")).unwrap());
    // For a moment while it writes a file back, ext4 says that it has no blocks.
    files.values_mut().for_each(|node| node.allocated = 0);
    (names.collect(), files)
}

fn escapes(target: &Path) -> Vec<Entry> {
    let target = target.to_str().unwrap();
    let mut entries = vec![dir("d"), dir("d/e")];
    for round in 0..40 {
        entries.extend([
            file(format!("d/x{round}"), "x"),
            file(format!("d/e/x{round}"), "x").mode(0o777),
            dir(format!("d/e/n{round}")),
            mark(format!("d/e/.wh.y{round}")),
            symlink(format!("d/e/s{round}"), target),
            file(format!("d/e/s{round}/f"), "x"),
            link(format!("d/e/l{round}"), "d/f"),
            file("d/f", "again"),
            mark("d/e/.wh.f"),
        ]);
    }
    entries.extend([fifo("d/e/p"), mark(".wh.d"), mark("d/e/.wh..wh..opq")]);
    entries
}

#[test]
fn e12_directories_that_turn_into_symlinks_meanwhile() {
    for way in WAYS.into_iter().filter(|way| is_root() || *way == Way::PlainUser) {
        let (mut swaps, started) = (0_u64, Instant::now());
        for round in 0.. {
            // How many swaps hit is a matter of how busy the machine is.
            if (round >= 12 && swaps > 100) || started.elapsed() > Duration::from_secs(20) {
                break;
            }
            let scratch = Scratch::new(way);
            let before = surround(&scratch);
            let outside = scratch.place.path().join("outside");
            let bytes = tar(&escapes(&outside));
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let swapper =
                    scope.spawn(|| swap(&scratch.place.path().join("layer"), &outside, &done));
                // Whether this works out is a matter of luck; where it wrote is not.
                let _ = scratch.apply(&bytes);
                done.store(true, Ordering::Relaxed);
                swaps += swapper.join().unwrap();
            });
            assert_eq!(around(&scratch), before, "{way:?}");
        }
        assert!(swaps > 0, "{way:?}: nothing was swapped");
    }
}

/// Puts symlinks that lead outside in the place of directories of the layer, and takes them back.
fn swap(layer: &Path, outside: &Path, done: &AtomicBool) -> u64 {
    let mut swaps = 0;
    while !done.load(Ordering::Relaxed) {
        for (inner, target) in [("d", outside.to_owned()), ("d/e", outside.join("d"))] {
            let (real, aside) = (layer.join(inner), layer.join("aside"));
            if std::fs::rename(&real, &aside).is_ok() {
                if make_symlink(&target, &real).is_ok() {
                    swaps += 1;
                    std::thread::yield_now();
                    let _ = std::fs::remove_file(&real);
                }
                let _ = std::fs::rename(&aside, &real);
            }
        }
    }
    swaps
}

/// Small archives with everything in them, to be damaged.
fn sample() -> Vec<u8> {
    tar(&[
        dir("d"),
        file("d/f", "content").pax("mtime", "1.5").xattr("user.a", "b"),
        link("l", "d/f"),
        symlink("s", "d"),
        file("s/g", "x").after(crate::tar::gnu_long(b'L', "s/a-longer-name")),
        mark("d/.wh.gone"),
        mark("d/.wh..wh..opq"),
        file("h", "abc").pax("GNU.sparse.size", "9").pax("GNU.sparse.map", "0,1,4,1,8,1"),
        fifo("p"),
    ])
}

/// Makes the checksum of the header at `block` right again, so that damage gets past it.
fn repair(bytes: &mut [u8], block: usize) {
    let Some(header) = bytes.get_mut(block * BLOCK..(block + 1) * BLOCK) else { return };
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn harmless(bytes: &[u8]) -> Result<(), TestCaseError> {
    let scratch = Scratch::new(Way::PlainUser);
    let before = surround(&scratch);
    if scratch.apply(bytes).is_ok() && bytes.get(..2) != Some(b"\x1f\x8b") {
        prop_assert!(scratch.reassembled() == bytes);
    }
    prop_assert_eq!(around(&scratch), before);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_harmless(bytes in vec(any::<u8>(), 0..3_000)) {
        harmless(&bytes)?;
    }

    #[test]
    fn any_damage_is_harmless(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
            repair(&mut bytes, at / BLOCK);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        harmless(&bytes)?;
    }

    #[test]
    fn any_digits_in_a_field_are_harmless(
        block in 0_usize..24,
        field in prop::sample::select(vec![(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155), (386, 96), (482, 13)]),
        bytes in vec(prop::sample::select(b"0177 \0\x80\xff/.wh.a-S5".to_vec()), 0..40),
    ) {
        let mut tar = sample();
        let from = block * BLOCK + field.0;
        for (offset, byte) in bytes.iter().take(field.1).enumerate() {
            if let Some(at) = tar.get_mut(from + offset) {
                *at = *byte;
            }
        }
        repair(&mut tar, block);
        harmless(&tar)?;
    }
}
