//! A container's life, step by step, on stacks of layers of one file each.
#![allow(clippy::print_stderr, reason = "what is left out is said")]

use std::time::{Duration, Instant};

use overlay2::mount::{MountOptions, Syncing};
use overlay2::{Base, ChainId, CreateOptions, Driver, Watch};
use rustix::mount::{FsOpenFlags, fsopen};

/// A changeset of one file.
pub(crate) fn changeset(number: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(0);
    tar.append_data(&mut header, format!("file-{number}"), std::io::empty()).expect("an entry");
    tar.into_inner().expect("a tar")
}

/// A stack of so many layers.
pub(crate) fn stack(driver: &Driver, layers: usize) -> ChainId {
    let mut chain = None;
    for number in 0..layers {
        let applied = driver.apply(chain.as_ref(), changeset(number).as_slice(), Watch::new());
        chain = Some(applied.expect("a layer").chain_id);
    }
    chain.expect("layers")
}

/// The four steps of a container's life.
pub(crate) const STEPS: [&str; 4] = ["create", "mount", "unmount", "remove"];

/// A whole life; how long each step took.
pub(crate) fn life(driver: &Driver, base: &Base, syncing: Syncing) -> [Duration; 4] {
    let mut at = Instant::now();
    let mut lap = || std::mem::replace(&mut at, Instant::now()).elapsed();
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
    [created, mounted, unmounted, lap()]
}

/// Whether this process may mount; says so where it may not.
pub(crate) fn may_mount(bench: &str) -> bool {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    if context.is_err() {
        eprintln!("SKIP {bench}: mounting needs root, or overlay2 unshare");
    }
    context.is_ok()
}
