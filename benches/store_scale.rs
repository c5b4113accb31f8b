//! Whether what a container costs grows with the store: its steps in a small store and a large one.
//!
//! Needs root, or `overlay2 unshare`. With `--test` everything is small and runs once.
#![expect(clippy::expect_used, clippy::print_stderr, reason = "a bench that cannot go on stops")]
#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "shared with others")]

mod beside;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use overlay2::mount::Syncing;
use overlay2::{Base, Durability, Watch};

use beside::life::{STEPS, changeset, life, may_mount, stack};
use beside::{is_test, store};

/// The steps in a store that holds little, and in one that holds much.
fn sizes(criterion: &mut Criterion) {
    if !may_mount("store_scale") {
        return;
    }
    let mut group = criterion.benchmark_group("store");
    group.sample_size(20);
    for size in if is_test() { [2, 10] } else { [10, 10_000] } {
        let place = tempfile::tempdir().expect("a temporary directory");
        let root = place.path().join("store");
        let driver = store(&root, Durability::None);
        let base = Base::Chain(stack(&driver, 2));
        for number in 0..size {
            let layer = driver.apply(None, changeset(number + 2).as_slice(), Watch::new());
            let layer = layer.expect("a layer").chain_id;
            driver.create(&Base::Chain(layer), Some(&format!("c{number}"))).expect("a container");
        }
        group.bench_function(BenchmarkId::new("open", size), |bencher| {
            bencher.iter(|| store(&root, Durability::None));
        });
        for (index, step) in STEPS.iter().enumerate() {
            group.bench_function(BenchmarkId::new(*step, size), |bencher| {
                bencher.iter_custom(|times| {
                    // Each life by a driver that has seen nothing yet.
                    let opened = || store(&root, Durability::None);
                    let lives = (0..times).map(|_| life(&opened(), &base, Syncing::Volatile));
                    lives.filter_map(|steps| steps.get(index).copied()).sum()
                });
            });
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        eprintln!("store of {size}: {peak}");
    }
    group.finish();
}

criterion_group!(store_scale, sizes);
criterion_main!(store_scale);
