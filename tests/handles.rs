//! Layers that a driver holds from one mount to the next: what it mounts is what is there now.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Compression, Store, TestImage};
use overlay2::mount::MountOptions;
use overlay2::{CreateOptions, Driver, ErrorKind, Watch};

const TINY: &str = "example.test/tiny:latest";

/// Longer than the times of `layers/` need to settle.
const SETTLED: Duration = Duration::from_millis(3_100);

/// The layers that this process has open.
fn held(layers: &Path) -> Vec<PathBuf> {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    open.filter(|path| path.starts_with(layers) && path.ends_with("diff")).collect()
}

/// What `/etc/motd` says in a container that is mounted for it.
fn motd(driver: &Driver) -> Result<String, ErrorKind> {
    let mounted = driver.mount("c", None, &MountOptions::default());
    let mounted = mounted.map_err(|error| error.kind())?;
    let text = fs::read_to_string(mounted.target.join("etc/motd"));
    driver.unmount("c").unwrap();
    text.map_err(|error| panic!("{error}"))
}

#[test]
fn what_is_mounted_is_what_stands_in_the_store_now() {
    sandbox!();
    let store = Store::new();
    let archive = store.scratch().join("tiny");
    store.load(&TestImage::tiny(TINY).write_oci(&archive, Compression::Raw));
    let layers = fs::canonicalize(store.root()).unwrap().join("layers");
    let driver = Driver::open(store.root()).unwrap();
    let create = || {
        let mut options = CreateOptions::default();
        options.name = Some("c".to_owned());
        driver.create_with(&TINY.into(), &options).unwrap();
    };
    create();
    // While times may still stand for another state, nothing is held.
    fs::create_dir(layers.join("probe")).unwrap();
    fs::remove_dir(layers.join("probe")).unwrap();
    assert_eq!(motd(&driver).unwrap(), "hello\n");
    assert_eq!(held(&layers), [] as [PathBuf; 0]);
    std::thread::sleep(SETTLED);
    for _ in 0..2 {
        assert_eq!(motd(&driver).unwrap(), "hello\n");
        assert_eq!(held(&layers).len(), 1);
    }
    let [diff] = held(&layers).try_into().unwrap();

    // The directory is gone, and another one there.
    fs::remove_dir_all(&diff).unwrap();
    assert_eq!(motd(&driver).unwrap_err(), ErrorKind::NotFound);
    let write = |text: &str| {
        fs::create_dir_all(diff.join("etc")).unwrap();
        fs::write(diff.join("etc/motd"), text).unwrap();
    };
    write("another\n");
    for _ in 0..2 {
        assert_eq!(motd(&driver).unwrap(), "another\n");
    }

    // The whole layer, moved away and made anew.
    let layer = diff.parent().unwrap();
    fs::rename(layer, store.scratch().join("moved")).unwrap();
    assert_eq!(motd(&driver).unwrap_err(), ErrorKind::NotFound);
    write("a third\n");
    assert_eq!(motd(&driver).unwrap(), "a third\n");
    fs::remove_dir_all(layer).unwrap();
    fs::rename(store.scratch().join("moved"), layer).unwrap();
    assert_eq!(motd(&driver).unwrap(), "another\n");

    // Removed and loaded by another process.
    std::thread::sleep(SETTLED);
    assert_eq!(motd(&driver).unwrap(), "another\n");
    driver.remove_container("c", Watch::new()).unwrap();
    store.ok(["rmi", TINY]);
    store.load(&archive);
    create();
    assert_eq!(motd(&driver).unwrap(), "hello\n");
    driver.remove_container("c", Watch::new()).unwrap();
}
