//! What nothing refers to is found, listed and removed; what is used stays.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

mod common;

use std::fs;
use std::io::Cursor;

use common::{Layer, TestImage};
use overlay2::{CheckOptions, Driver, FindingKind, GarbageKind, GcMode, Watch};

#[test]
fn what_nothing_refers_to_is_found_listed_and_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("store");
    let image = TestImage::tiny("gone:1").write_docker_archive(&scratch.path().join("image.tar"));
    let driver = Driver::open(&root).unwrap();
    let options = overlay2::LoadOptions::default();
    driver.load(&image, &options, Watch::new()).unwrap();
    // As after a crash of which nobody knows: the image is gone, and nobody took its links away.
    for id in fs::read_dir(root.join("images")).unwrap() {
        fs::remove_dir_all(id.unwrap().path()).unwrap();
    }
    fs::create_dir(root.join("staging/layer.0123")).unwrap();
    fs::create_dir(root.join("trash/layer-x.0123")).unwrap();
    fs::write(root.join("trash/layer-x.0123/file"), vec![1; 1000]).unwrap();
    let found = driver.check(&CheckOptions::default(), Watch::new()).unwrap();
    for kind in [FindingKind::Orphan, FindingKind::Dangling, FindingKind::Leftover] {
        assert!(found.findings.iter().any(|finding| finding.kind == kind), "{kind}: {found:#?}");
    }
    let layers = driver.store().layers().unwrap().len();
    let listed = driver.gc(GcMode::DryRun, Watch::new()).unwrap();
    let of = |kind| listed.items.iter().filter(|item| item.kind == kind).count();
    assert_eq!(of(GarbageKind::Layer), layers);
    for kind in [GarbageKind::Name, GarbageKind::Staging, GarbageKind::Trash] {
        assert_eq!(of(kind), 1, "{kind:?}: {listed:#?}");
    }
    assert!(listed.items.iter().any(|item| item.size == 1000));
    assert_eq!(driver.store().layers().unwrap().len(), layers, "a dry run removes nothing");
    let removed = driver.gc(GcMode::Remove, Watch::new()).unwrap();
    assert_eq!(removed.items, listed.items);
    assert!(driver.check(&CheckOptions::default(), Watch::new()).unwrap().is_clean());
    for place in ["layers", "chains", "names", "staging", "trash"] {
        assert_eq!(fs::read_dir(root.join(place)).unwrap().count(), 0, "{place}");
    }
    assert!(driver.gc(GcMode::Remove, Watch::new()).unwrap().items.is_empty());
}

#[test]
fn a_collection_leaves_alone_what_is_used() {
    let scratch = tempfile::tempdir().unwrap();
    let driver = Driver::open(scratch.path().join("store")).unwrap();
    let image = TestImage::tiny("kept:1").write_docker_archive(&scratch.path().join("image.tar"));
    let options = overlay2::LoadOptions::default();
    driver.load(&image, &options, Watch::new()).unwrap();
    let pinned = Layer::new().file("pinned", 0o644, "x").finish();
    driver.apply(None, Cursor::new(&pinned), Watch::new()).unwrap();
    let layers = driver.store().layers().unwrap();
    assert!(driver.gc(GcMode::Remove, Watch::new()).unwrap().items.is_empty());
    assert_eq!(driver.store().layers().unwrap(), layers);
    // A layer that is being made is nobody's yet, and is held.
    let staged = driver.store().stage_layer().unwrap();
    assert!(driver.gc(GcMode::Remove, Watch::new()).unwrap().items.is_empty());
    assert!(staged.dir().try_clone().is_ok());
}
