//! What grows with layers, containers, entries and bytes, as CSV: `panel,what,size,seconds`.
//!
//! ```sh
//! cargo run --release --example scale > scale.csv
//! cargo run --manifest-path benches/plot/Cargo.toml < scale.csv > docs/scale.svg
//! ```
//!
//! Each number is a median of 5 runs. With `--test` everything is small and runs once.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on stops"
)]
#![allow(clippy::indexing_slicing, reason = "runs of its own")]

use std::time::{Duration, Instant};

use overlay2::changeset::DiffOptions;
use overlay2::{Base, ChainId, Driver, DriverOptions, Durability, Watch};

fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Prints the median of what `once` gives.
fn row(panel: &str, what: &str, size: usize, mut once: impl FnMut() -> Duration) {
    let mut times: Vec<_> = (0..if is_test() { 1 } else { 5 }).map(|_| once()).collect();
    times.sort_unstable();
    println!("{panel},{what},{size},{:.6}", times[times.len() / 2].as_secs_f64());
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn store(place: &tempfile::TempDir) -> Driver {
    let mut options = DriverOptions::default();
    options.durability = Durability::None;
    Driver::open_with(place.path().join("store"), &options).expect("a store")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A changeset of files of one size, a hundred in each directory.
fn changeset(first: usize, files: usize, bytes: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let content: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    for number in first..first + files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_size(bytes as u64);
        let path = format!("d{}/f{number}", number / 100);
        tar.append_data(&mut header, path, content.as_slice()).expect("an entry");
    }
    tar.into_inner().expect("a tar")
}

fn apply(driver: &Driver, parent: Option<&ChainId>, tar: &[u8]) -> ChainId {
    driver.apply(parent, tar, Watch::new()).expect("a layer").chain_id
}

/// A container made and removed.
fn life(driver: &Driver, chain: ChainId) -> Duration {
    timed(|| {
        driver.create(&Base::Chain(chain), Some("measured")).expect("create");
        driver.remove_container("measured", Watch::new()).expect("remove");
    })
}

fn layers() {
    let place = scratch();
    let driver = store(&place);
    let (mut chain, mut height) = (None, 0);
    for size in if is_test() { vec![1, 4] } else { vec![1, 4, 16, 64, 128, 256, 400] } {
        while height < size {
            chain = Some(apply(&driver, chain.as_ref(), &changeset(height * 100, 1, 100)));
            height += 1;
        }
        let top = chain.expect("a layer");
        row("layers", "create and remove a container", size, || life(&driver, top));
        row("layers", "open the tree and read its root", size, || {
            timed(|| {
                let tree = driver.read_tree(&top.to_string()).expect("a tree");
                assert_eq!(tree.tree().read_dir("/").expect("a root").len(), size);
            })
        });
    }
}

fn containers() {
    let place = scratch();
    let driver = store(&place);
    let chain = apply(&driver, None, &changeset(0, 1, 100));
    let mut count = 0;
    for size in if is_test() { vec![1, 4] } else { vec![1, 10, 100, 1_000, 4_000] } {
        while count < size {
            driver.create(&Base::Chain(chain), Some(&format!("c{count}"))).expect("create");
            count += 1;
        }
        row("containers", "create and remove one more", size, || life(&driver, chain));
        row("containers", "list all", size, || {
            timed(|| assert_eq!(driver.containers().expect("a list").len(), size))
        });
    }
}

/// Layers of so many files of one size: applied, changed likewise, told, removed.
fn sizes(panel: &str, cases: &[(usize, usize, usize)]) {
    for &(size, files, bytes) in cases {
        let tar = changeset(0, files, bytes);
        let fresh = || {
            let place = scratch();
            let driver = store(&place);
            (place, driver)
        };
        row(panel, "apply a layer", size, || {
            let (_place, driver) = fresh();
            timed(|| _ = apply(&driver, None, &tar))
        });
        let (_place, driver) = fresh();
        let base = apply(&driver, None, &changeset(0, 1, 1));
        driver.create(&Base::Chain(base), Some("changed")).expect("create");
        {
            let tree = driver.tree("changed").expect("a tree");
            for number in 0..files {
                let parent = format!("n{}", number / 100);
                tree.tree().create_dir_all(&parent, 0o755).expect("a directory");
                tree.tree().write(format!("{parent}/{number}"), vec![7; bytes]).expect("a file");
            }
        }
        row(panel, "diff of a container", size, || {
            timed(|| {
                let (mut sink, options) = (std::io::sink(), DiffOptions::default());
                driver.diff("changed", &mut sink, &options, Watch::new()).expect("a diff");
            })
        });
        for (what, empties) in
            [("remove a layer", false), ("the same, until the space is back", true)]
        {
            row(panel, what, size, || {
                let (_place, driver) = fresh();
                let chain = apply(&driver, None, &tar);
                timed(|| {
                    driver.remove_layer(&chain, Watch::new()).expect("removed");
                    if empties {
                        driver.empty_trash(Watch::new()).expect("deleted");
                    }
                })
            });
        }
    }
}

fn main() {
    println!("panel,what,size,seconds");
    layers();
    containers();
    let entries: &[usize] = if is_test() { &[10, 20] } else { &[100, 1_000, 10_000, 30_000] };
    sizes("entries", &entries.iter().map(|&size| (size, size, 2_000)).collect::<Vec<_>>());
    let megabytes: &[usize] = if is_test() { &[1] } else { &[1, 10, 100, 400] };
    sizes(
        "MB in one file",
        &megabytes.iter().map(|&mb| (mb, 1, mb * 1_000_000)).collect::<Vec<_>>(),
    );
}
