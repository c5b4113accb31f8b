//! Removal: what the caller waits for, and how long it takes until the space is back.
//!
//! The floor lists each directory and unlinks what it holds, on one thread.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]
#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "its results go there")]
#![allow(clippy::disallowed_methods, reason = "paths of its own")]

mod beside;

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use overlay2::{Driver, Durability, Watch};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};

use beside::{Way, layer, measure, scaled, store};

fn floor(dir: &impl AsFd) {
    let mut space = vec![MaybeUninit::uninit(); 64 << 10];
    let mut entries = RawDir::new(dir.as_fd(), &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        if [b".".as_slice(), b".."].contains(&name.to_bytes()) {
            continue;
        }
        let mut flags = AtFlags::empty();
        if entry.file_type() == FileType::Directory {
            let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            floor(&rustix::fs::openat(dir, name, how, Mode::empty()).expect("open"));
            flags = AtFlags::REMOVEDIR;
        }
        rustix::fs::unlinkat(dir, name, flags).expect("unlink");
    }
}

/// A store with one layer; what became of it is timed.
fn fresh(
    files: usize,
    durability: Durability,
    timed: impl FnOnce(&Driver) -> Duration,
) -> Duration {
    let place = tempfile::tempdir().expect("a temporary directory");
    let driver = store(&place.path().join("store"), durability);
    layer(&driver, files);
    timed(&driver)
}

fn by_floor(driver: &Driver) -> Duration {
    let layers = File::open(driver.store().path().join("layers")).expect("open");
    let begin = Instant::now();
    floor(&layers);
    begin.elapsed()
}

fn by_driver(driver: &Driver) -> (Duration, Duration) {
    let chain = driver.layers().expect("layers")[0].chain_id;
    let begin = Instant::now();
    driver.remove_layer(&chain, Watch::new()).expect("removed");
    let removed = begin.elapsed();
    driver.empty_trash(Watch::new()).expect("deleted");
    (removed, begin.elapsed())
}

fn benches(criterion: &mut Criterion) {
    for files in [scaled(1_000, 50), scaled(20_000, 200)] {
        let none = Durability::None;
        let ways = vec![
            Way { name: "floor", once: Box::new(move || fresh(files, none, by_floor)) },
            Way {
                name: "the caller waits",
                once: Box::new(move || fresh(files, none, |driver| by_driver(driver).0)),
            },
            Way {
                name: "the caller waits, durable",
                once: Box::new(move || {
                    fresh(files, Durability::Full, |driver| by_driver(driver).0)
                }),
            },
            Way {
                name: "the space is back",
                once: Box::new(move || fresh(files, none, |driver| by_driver(driver).1)),
            },
        ];
        measure(criterion, &format!("a layer of {files} files removed"), ways);
    }
}

criterion_group!(remove_benches, benches);
criterion_main!(remove_benches);
