//! What a container costs: made, mounted, unmounted and removed, on stacks of some heights, beside a
//! floor that makes only the system calls that it takes, its layers open already.
//!
//! Needs root, or `overlay2 unshare`. With `--test` everything is small and runs once.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]
#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "its results go there")]

mod beside;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use overlay2::mount::Syncing;
use overlay2::{Base, Driver, Durability, Namespace};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsmount, fsopen, move_mount, unmount,
};

use beside::life::{life, may_mount, stack};
use beside::{Way, is_test, measure, store};

/// A life with nothing but the system calls that it takes, layers open already.
fn floor(root: &Path, layers: &[OwnedFd], syncing: Syncing, user: bool) -> Duration {
    let begin = Instant::now();
    let container = root.join("floor");
    let mode = Mode::from_raw_mode(0o700);
    let names = ["u", "w", "m"].map(|name| container.join(name));
    rustix::fs::mkdir(&container, mode).expect("mkdir");
    for name in &names {
        rustix::fs::mkdir(name, mode).expect("mkdir");
    }
    let [upper, work, merged] = &names;
    let opened = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    let context = opened.as_fd();
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
    // While it is open the overlay stays, so that unmounting would cost next to nothing.
    drop(opened);
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
    begin.elapsed()
}

fn benches(criterion: &mut Criterion) {
    if !may_mount("compose") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let (place, root) = (place.path(), place.path().join("store"));
    let root = root.as_path();
    let (driver, durable) = (store(root, Durability::None), store(root, Durability::Full));
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
        let base = &Base::Chain(chain);
        if !is_test() {
            // Layers are held once the directory of layers has rested.
            std::thread::sleep(Duration::from_secs(4));
        }
        for (name, syncing) in [("normal", Syncing::Normal), ("volatile", Syncing::Volatile)] {
            // A driver lives long; opening it is no part of this.
            let lived = |driver: &Driver| life(driver, base, syncing).into_iter().sum();
            let opened = opened.as_slice();
            let ways = vec![
                Way { name: "floor", once: Box::new(move || floor(place, opened, syncing, user)) },
                Way { name: "Durability::None", once: Box::new(|| lived(&driver)) },
                Way { name: "Durability::Full", once: Box::new(|| lived(&durable)) },
            ];
            measure(criterion, &format!("a container on {layers} layers, {name}"), ways);
        }
    }
}

criterion_group!(compose, benches);
criterion_main!(compose);
