//! The first write to a lower file, through the userspace tree, by size of the file.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use overlay2::merged::{Options, Tree};
use overlay2::{Dir, Durability, Namespace};

/// A tree over one lower file called `file`.
fn tree(size: usize) -> (tempfile::TempDir, Tree) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let open = |name: &str| {
        let path = place.path().join(name);
        std::fs::create_dir(&path).expect("create");
        (Dir::open_ambient(&path).expect("open"), path)
    };
    let (lower, lower_path) = open("lower");
    let file =
        std::fs::OpenOptions::new().write(true).create_new(true).open(lower_path.join("file"));
    std::io::Write::write_all(&mut file.expect("create"), &vec![b'x'; size]).expect("write");
    let (upper, work) = (open("upper").0, open("work").0);
    let options = Options::new(Namespace::User).durability(Durability::None);
    let tree = Tree::writable(vec![lower], upper, work, &options).expect("a tree");
    (place, tree)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy_up");
    group.sample_size(20);
    for (name, size) in [("4 KiB", 4 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20)] {
        group.bench_with_input(BenchmarkId::new("first write", name), &size, |bencher, &size| {
            bencher.iter_batched_ref(
                || tree(size),
                |(_, tree)| tree.truncate("file", size as u64).expect("copied up"),
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("chmod of 4 KiB", |bencher| {
        bencher.iter_batched_ref(
            || tree(4 << 10),
            |(_, tree)| tree.set_permissions("file", 0o600).expect("copied up"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(copy_up, benches);
criterion_main!(copy_up);
