//! What a container costs: made, mounted, unmounted and removed, beside a floor that makes only the
//! system calls that it takes; and whether that grows with the store.
//!
//! Needs root, or `overlay2 unshare`. With `--test` everything is small and runs once.
#![expect(clippy::expect_used, clippy::print_stderr, reason = "a bench that cannot go on stops")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use overlay2::mount::{MountOptions, Syncing};
use overlay2::{Base, ChainId, CreateOptions, Driver, DriverOptions, Durability, Namespace, Watch};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsmount, fsopen, move_mount, unmount,
};

fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

fn open(root: &Path, durability: Durability) -> Driver {
    let mut options = DriverOptions::default();
    options.durability = durability;
    Driver::open_with(root, &options).expect("a store")
}

/// A changeset of one file.
fn changeset(number: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(0);
    tar.append_data(&mut header, format!("file-{number}"), std::io::empty()).expect("an entry");
    tar.into_inner().expect("a tar")
}

/// A stack of so many layers.
fn stack(driver: &Driver, layers: usize) -> ChainId {
    let mut chain = None;
    for number in 0..layers {
        let applied = driver.apply(chain.as_ref(), changeset(number).as_slice(), Watch::new());
        chain = Some(applied.expect("a layer").chain_id);
    }
    chain.expect("layers")
}

/// The five steps of a container's life.
const STEPS: [&str; 5] = ["open", "create", "mount", "unmount", "remove"];

/// A whole life; how long each step took.
fn life(root: &Path, durability: Durability, base: &Base, syncing: Syncing) -> [Duration; 5] {
    let mut at = Instant::now();
    let mut lap = || std::mem::replace(&mut at, Instant::now()).elapsed();
    let driver = open(root, durability);
    let opened = lap();
    let mut options = CreateOptions::default();
    options.name = Some("measured".to_owned());
    options.syncing = syncing;
    driver.create_with(base, &options).expect("create");
    let created = lap();
    driver.mount("measured", None, &MountOptions::default()).expect("mount");
    let mounted = lap();
    driver.unmount("measured").expect("unmount");
    let unmounted = lap();
    driver.remove_container("measured", Watch::new()).expect("remove");
    [opened, created, mounted, unmounted, lap()]
}

/// The same with nothing but the system calls that it takes, layers open already.
fn floor(root: &Path, layers: &[OwnedFd], syncing: Syncing, user: bool) {
    let container = root.join("floor");
    let mode = Mode::from_raw_mode(0o700);
    let names = ["u", "w", "m"].map(|name| container.join(name));
    rustix::fs::mkdir(&container, mode).expect("mkdir");
    for name in &names {
        rustix::fs::mkdir(name, mode).expect("mkdir");
    }
    let [upper, work, merged] = &names;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    let context = context.as_fd();
    for layer in layers {
        fsconfig_set_fd(context, "lowerdir+", layer.as_fd()).expect("lowerdir+");
    }
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).expect("open");
        fsconfig_set_fd(context, key, dir.as_fd()).expect("upperdir");
    }
    if user {
        fsconfig_set_flag(context, "userxattr").expect("userxattr");
    }
    if syncing == Syncing::Volatile {
        fsconfig_set_flag(context, "volatile").expect("volatile");
    }
    fsconfig_create(context).expect("create");
    let flags = MountAttrFlags::empty();
    let mounted = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, flags).expect("fsmount");
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mounted.as_fd(), "", CWD, merged, how).expect("move_mount");
    drop(mounted);
    unmount(merged, UnmountFlags::empty()).expect("unmount");
    let mut gone = vec![work.join("work")];
    if syncing == Syncing::Volatile {
        let marks = work.join("work/incompat");
        rustix::fs::unlink(marks.join("volatile/dirty")).expect("unlink");
        gone.splice(..0, [marks.join("volatile"), marks]);
    }
    for name in gone.iter().chain(&names).chain([&container]) {
        rustix::fs::unlinkat(CWD, name, AtFlags::REMOVEDIR).expect("rmdir");
    }
}

fn may_mount() -> bool {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    if context.is_err() {
        eprintln!("SKIP store_scale: mounting needs root, or overlay2 unshare");
    }
    context.is_ok()
}

/// A life on stacks of some heights, beside the floor, by turns within each round.
fn heights(criterion: &mut Criterion) {
    if !may_mount() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = place.path().join("store");
    let driver = open(&root, Durability::None);
    let user = driver.store().namespace() == Namespace::User;
    for layers in if is_test() { vec![2, 8] } else { vec![6, 128, 400] } {
        let chain = stack(&driver, layers);
        let opened: Vec<OwnedFd> = driver
            .store()
            .stack(&chain)
            .expect("a stack")
            .iter()
            .map(|entry| driver.store().open_layer(&entry.layer()).expect("a layer").into())
            .collect();
        let base = Base::Chain(chain);
        for (name, syncing) in [("normal", Syncing::Normal), ("volatile", Syncing::Volatile)] {
            let mut group = criterion.benchmark_group(format!("container/{layers} layers/{name}"));
            group.sample_size(20);
            group.bench_function("floor", |bencher| {
                bencher.iter(|| floor(place.path(), &opened, syncing, user));
            });
            for (name, durability) in [("none", Durability::None), ("full", Durability::Full)] {
                group.bench_function(BenchmarkId::new("durability", name), |bencher| {
                    bencher.iter_custom(|times| {
                        let lives = (0..times).map(|_| life(&root, durability, &base, syncing));
                        // A driver lives long; opening it is measured below.
                        lives.flat_map(|[_, rest @ ..]| rest).sum()
                    });
                });
            }
            group.finish();
        }
    }
}

/// The steps in a store that holds little, and in one that holds much.
fn sizes(criterion: &mut Criterion) {
    if !may_mount() {
        return;
    }
    let mut group = criterion.benchmark_group("store");
    group.sample_size(20);
    for size in if is_test() { [2, 10] } else { [10, 10_000] } {
        let place = tempfile::tempdir().expect("a temporary directory");
        let root = place.path().join("store");
        let driver = open(&root, Durability::None);
        let base = Base::Chain(stack(&driver, 2));
        for number in 0..size {
            let layer = driver.apply(None, changeset(number + 2).as_slice(), Watch::new());
            let layer = layer.expect("a layer").chain_id;
            driver.create(&Base::Chain(layer), Some(&format!("c{number}"))).expect("a container");
        }
        for (index, step) in STEPS.iter().enumerate() {
            group.bench_function(BenchmarkId::new(*step, size), |bencher| {
                bencher.iter_custom(|times| {
                    let lives =
                        (0..times).map(|_| life(&root, Durability::None, &base, Syncing::Volatile));
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

criterion_group!(store_scale, heights, sizes);
criterion_main!(store_scale);
