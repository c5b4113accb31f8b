//! Damage of any kind to a committed layer is found, named and repaired.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and damages files by path"
)]

#[path = "../common/mod.rs"]
mod common;

mod damage;

use std::fs::{self, File, Permissions};
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use common::need;
use common::{Layer, Manifest, Store, TestImage};
use damage::{Damage, damages, harm};
use overlay2::{
    CheckLevel, CheckOptions, DiffId, Digest, Driver, DriverOptions, Finding, FindingKind,
    LayerKey, Namespace, Ownership, RepairFrom, Watch,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

/// How often a random damage is done and repaired, after each on each layer.
const ROUNDS: u32 = 60;

/// A layer with everything in it, and one that is another directory on top of it.
fn changesets(owner: (u64, u64)) -> [Vec<u8>; 2] {
    let zeros = [vec![b'a'; 5000], vec![0; 100_000], vec![b'z'; 3]].concat();
    let base = Layer::new()
        .owned_by(owner.0, owner.1)
        .root(0o755)
        .dir("etc", 0o750)
        .file("etc/passwd", 0o644, "root:x:0:0\n")
        .file("etc/empty", 0o600, "")
        .file("etc/twice", 0o644, "first, replaced below")
        .xattr("user.note", b"a value\nof two lines")
        .file("etc/noted", 0o640, "with an attribute")
        .dir("usr", 0o755)
        .dir("usr/bin", 0o755)
        .file("usr/bin/su", 0o4755, zeros)
        .hard_link("usr/bin/sudo", "usr/bin/su", 0o4755)
        .symlink("usr/bin/sh", "su")
        .symlink("conf", "/etc")
        .fifo("usr/pipe", 0o622)
        .file("etc/twice", 0o644, "second")
        .finish();
    let top = Layer::new()
        .owned_by(owner.0, owner.1)
        .file("etc/new", 0o644, "in a directory that is only implied")
        .file("etc/both", 0o644, "by its own path")
        .file("conf/both", 0o600, "by the symlink below, and later")
        .whiteout("etc/empty")
        .dir("usr", 0o755)
        .dir("usr/bin", 0o700)
        .opaque("usr/bin")
        .file("usr/bin/only", 0o755, "nothing else shows here")
        .finish();
    [base, top]
}

/// A store with both layers, and what their directories look like.
struct Bed {
    _scratch: tempfile::TempDir,
    driver: Driver,
    changesets: [Vec<u8>; 2],
    layers: Vec<(LayerKey, PathBuf, Manifest)>,
}

impl Bed {
    fn new(ownership: Ownership) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut options = DriverOptions::default();
        options.ownership = Some(ownership);
        if ownership == Ownership::Recorded {
            options.namespace = Some(Namespace::User);
        }
        let driver = Driver::open_with(scratch.path().join("store"), &options).unwrap();
        let changesets = changesets(match ownership {
            Ownership::Recorded => (1000, 7),
            Ownership::Exact => (u64::from(need::mapped_ids() > 1), 0),
        });
        let mut parent = None;
        for changeset in &changesets {
            let applied = driver.apply(parent.as_ref(), Cursor::new(changeset), Watch::new());
            parent = Some(applied.unwrap().chain_id);
        }
        let keys = driver.store().layers().unwrap();
        let look = |key| {
            let path = driver.store().layer_path(&key);
            let tree = Manifest::of(&path);
            (key, path, tree)
        };
        let layers: Vec<_> = keys.into_iter().map(look).collect();
        assert_eq!(layers.len(), 3, "a base, a top, and the top as it is on this base");
        Self { _scratch: scratch, driver, changesets, layers }
    }

    fn check(&self, level: CheckLevel) -> Vec<Finding> {
        let mut options = CheckOptions::default();
        options.level = level;
        self.driver.check(&options, Watch::new()).unwrap().findings
    }

    /// Gives back the changesets.
    fn give(&self, diff_id: &DiffId) -> Option<Box<dyn Read + Send>> {
        let found = self.changesets.iter().find(|bytes| Digest::of(bytes) == *diff_id.digest());
        found.map(|bytes| Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>)
    }
}

/// Two trees, of whiteouts no more than that they are there; the time of a root that no changeset
/// describes is that of its making.
fn assert_same(ours: &Manifest, expected: &Manifest) {
    let (ours, expected) = (ours.clone().without_root_time(), expected.clone().without_root_time());
    assert!(ours.paths().eq(expected.paths()));
    for path in expected.paths() {
        let (ours, expected) = (ours.line(path).unwrap(), expected.line(path).unwrap());
        let whiteouts = ours.starts_with("c ") && expected.starts_with("c 0000");
        assert!(ours == expected || whiteouts, "{path}: {ours}, not {expected}");
    }
}

fn law(ownership: Ownership) {
    let bed = Bed::new(ownership);
    assert_eq!(bed.check(CheckLevel::Full), []);
    let config = Config {
        cases: ROUNDS,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    };
    let index = any::<prop::sample::Index>;
    let mut done = std::collections::BTreeMap::new();
    let mut runner = TestRunner::new(config);
    // Each way on each layer, and then any.
    let ways = damages();
    let fixed =
        ways.iter().flat_map(|(_, way)| (0..bed.layers.len()).map(|at| (Some(at), way.clone())));
    let any = prop::strategy::Union::new_weighted(ways.clone()).boxed();
    let inputs: Vec<_> = fixed.chain((0..ROUNDS).map(|_| (None, any.clone()))).collect();
    for (layer, damage) in inputs {
        let (random, damage, pick) =
            (index(), damage, index()).new_tree(&mut runner).unwrap().current();
        let layer = layer.unwrap_or_else(|| random.index(bed.layers.len()));
        let (key, path, tree) = &bed.layers[layer];
        let Some((named, kind)) = harm(path, &damage, pick) else { continue };
        *done.entry(kind).or_insert(0) += 1;
        let found = bed.check(CheckLevel::Full);
        let told = found.iter().any(|finding| {
            let path = finding.path.as_ref().map(|path| path.as_bytes().to_vec());
            let named = named.as_ref().map(|path| path.to_str().unwrap().as_bytes().to_vec());
            let is_kind = finding.kind == kind
                || kind == FindingKind::Record && finding.kind == FindingKind::Digest;
            // Of a file with two names one is told to be right, and the other wrong.
            let is_path = path == named
                || matches!(kind, FindingKind::HardLink | FindingKind::Contents)
                    && path.as_deref().is_some_and(|path| path.starts_with(b"usr/bin/su"));
            finding.layer == Some(*key) && is_path && is_kind
        });
        // A flipped byte may be one that says nothing, such as the padding of a compressed frame.
        let silent = matches!(damage, Damage::Record(..) | Damage::FilledHole) && found.is_empty();
        assert!(told || silent, "{damage:?} {named:?} of {key}: {found:#?}");
        let contents = matches!(kind, FindingKind::Contents | FindingKind::Record);
        if !contents {
            assert!(!bed.check(CheckLevel::Quick).is_empty(), "{damage:?}");
        }
        let give = |diff_id: &DiffId| Ok(bed.give(diff_id));
        let repaired = bed.driver.repair(&RepairFrom::Callback(&give), &[], Watch::new()).unwrap();
        assert!(repaired.failed.is_empty(), "{damage:?} {named:?}: {:?}", repaired.failed);
        assert_eq!(repaired.remaining.findings, [], "{damage:?} {named:?}");
        assert_same(&Manifest::of(path), tree);
    }
    assert!(done.len() > 8, "{done:?}");
}

#[test]
fn e83_any_damage_is_found_named_and_repaired_where_owners_are_recorded() {
    law(Ownership::Recorded);
}

#[test]
fn e83_any_damage_is_found_named_and_repaired_where_owners_are_real() {
    sandbox!();
    law(Ownership::Exact);
}

#[test]
fn e83_a_directory_that_its_owner_may_not_enter_is_repaired() {
    let bed = Bed::new(Ownership::Recorded);
    let give = |diff_id: &DiffId| Ok(bed.give(diff_id));
    for (_, path, tree) in &bed.layers {
        // One, and one in the other.
        for closed in [&["usr"][..], &["usr/bin"], &["usr/bin", "usr"]] {
            for mode in [0o000, 0o100, 0o200, 0o400, 0o600] {
                for dir in closed {
                    fs::set_permissions(path.join(dir), Permissions::from_mode(mode)).unwrap();
                }
                let from = RepairFrom::Callback(&give);
                let repaired = bed.driver.repair(&from, &[], Watch::new()).unwrap();
                assert!(repaired.failed.is_empty(), "{closed:?} {mode:o}: {:?}", repaired.failed);
                assert_eq!(repaired.remaining.findings, [], "{closed:?} {mode:o}");
                assert_same(&Manifest::of(path), tree);
            }
        }
    }
}

#[test]
fn e83_a_lost_file_is_taken_from_a_layer_that_has_the_same() {
    let store = Store::new();
    let image = TestImage::new("one:1")
        .layer("first", Layer::new().file("a", 0o644, "the same content"))
        .layer("second", Layer::new().file("b", 0o600, "the same content").file("c", 0o644, "c"));
    store.load(&image.write_docker_archive(&store.scratch().join("image.tar")));
    let find = |name: &str| {
        let mut layers = fs::read_dir(store.root().join("layers")).unwrap();
        layers
            .find_map(|layer| {
                Some(layer.unwrap().path().join("diff").join(name)).filter(|path| path.exists())
            })
            .unwrap()
    };
    for damage in ["rotten, and longer", "the sane content"] {
        let (file, time) = (find("b"), fs::metadata(find("b")).unwrap().modified().unwrap());
        fs::write(&file, damage).unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let done = store.run(["check"]);
        assert_eq!(done.status, 1);
        let line = done.stdout.lines().find(|line| line.contains("/b ")).unwrap();
        assert!(line.contains("contents"), "{line}");
        store.ok(["repair"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "the same content");
        assert!(store.ok(["check"]).contains("nothing is wrong"));
    }
    // What no other layer has must be given.
    fs::remove_file(find("c")).unwrap();
    assert_eq!(store.run(["check", "--quick"]).status, 1);
    let done = store.run(["repair"]);
    assert!(done.status == 1 && done.stderr.contains("no layer has a sound copy"), "{done:?}");
    store.ok(["repair".as_ref(), "--from".as_ref(), store.scratch().join("image.tar").as_os_str()]);
    assert_eq!(fs::read_to_string(find("c")).unwrap(), "c");
    let clean = store.json(["check"]);
    assert_eq!(clean["findings"], serde_json::json!([]));
}

#[test]
fn e83_every_form_of_source_repairs() {
    let store = Store::new();
    let image = TestImage::tiny("forms:1");
    let archive = image.write_docker_archive(&store.scratch().join("image.tar"));
    store.load(&archive);
    let scratch = |name: &str| store.scratch().join(name);
    let largest = image.layers().into_iter().max_by_key(|bytes| bytes.len()).unwrap().to_vec();
    let layer = store.root().join("layers").join(Digest::of(&largest).hex());
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    fs::write(scratch("layer.tar"), &largest).unwrap();
    fs::write(scratch("layer.tar.zst"), zstd(&largest)).unwrap();
    fs::write(scratch("image.tar.zst"), zstd(&fs::read(&archive).unwrap())).unwrap();
    image.write_oci(&scratch("layout"), common::Compression::Gzip);
    for source in ["layer.tar", "layer.tar.zst", "image.tar.zst", "image.tar", "layout"] {
        fs::write(layer.join("entries"), "rot").unwrap();
        fs::write(layer.join("changeset"), "rot").unwrap();
        assert_eq!(store.run(["check", "--quick"]).status, 1);
        let from = scratch(source);
        store.ok(["repair".as_ref(), "--from".as_ref(), from.as_os_str()]);
        assert!(store.ok(["check"]).contains("nothing is wrong"), "{source}");
    }
}

#[test]
fn a_layer_that_is_mounted_is_not_repaired_beneath_its_container() {
    sandbox!();
    let store = Store::new();
    let image = TestImage::tiny("mounted:1").write_docker_archive(&store.scratch().join("i.tar"));
    let name = store.load(&image);
    let container = store.create(&name);
    store.mount(&container);
    let lower = store.graph_dir(&container, "LowerDir");
    let lower = PathBuf::from(lower.to_str().unwrap().split(':').next_back().unwrap());
    let mode = fs::metadata(&lower).unwrap().mode() & 0o7777;
    fs::write(lower.join("extra"), "x").unwrap();
    let done = store.run(["repair"]);
    assert!(done.status == 1 && done.stderr.contains(&container), "{done:?}");
    assert!(lower.join("extra").exists());
    store.ok(["unmount", &container]);
    store.ok(["repair"]);
    assert!(!lower.join("extra").exists());
    assert_eq!(fs::metadata(&lower).unwrap().mode() & 0o7777, mode);
}

#[test]
fn a_layer_that_may_be_beneath_a_mounted_container_of_no_record_is_not_repaired() {
    sandbox!();
    let store = Store::new();
    let image = TestImage::tiny("mounted:1").write_docker_archive(&store.scratch().join("i.tar"));
    let name = store.load(&image);
    let container = store.create(&name);
    let merged = store.mount(&container);
    let layer = fs::read_dir(store.root().join("layers")).unwrap().next().unwrap().unwrap();
    let extra = layer.path().join("diff/extra");
    fs::write(&extra, "x").unwrap();
    let id = store.json(["ps"])[0]["id"].as_str().unwrap().to_owned();
    let record = store.root().join("containers").join(&id).join("container.json");
    let sound = fs::read(&record).unwrap();
    fs::write(&record, "rot").unwrap();
    let done = store.run(["repair"]);
    assert!(done.status == 1 && done.stderr.contains(&id), "{done:?}");
    assert!(extra.exists());
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
    store.run(["repair"]);
    assert!(!extra.exists());
    fs::write(&record, sound).unwrap();
    store.ok(["check"]);
}

#[test]
fn a_check_is_cancelled_and_reports_how_far_it_is() {
    let bed = Bed::new(Ownership::Recorded);
    let seen = std::sync::atomic::AtomicU64::new(0);
    let cancel = std::sync::atomic::AtomicBool::new(false);
    let observer = |progress: &overlay2::Progress<'_>| {
        assert_eq!(progress.phase, overlay2::Phase::Check);
        seen.fetch_max(progress.bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let watch = Watch::new().observer(&observer).cancel(&cancel);
    bed.driver.check(&CheckOptions::default(), watch).unwrap();
    assert!(seen.load(std::sync::atomic::Ordering::Relaxed) > 10_000);
    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = bed.driver.check(&CheckOptions::default(), watch).unwrap_err();
    assert_eq!(error.kind(), overlay2::ErrorKind::Cancelled);
}
