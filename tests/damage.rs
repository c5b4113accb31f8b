//! A store in which something else stands where a record or a directory should: it is named, holds
//! up nobody, and can be mended or removed.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and damages files by path"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::need;
use common::{Compression, Store, TestImage};
use rustix::fs::{CWD, FileType, Mode};

const TINY: &str = "example.test/tiny:latest";

/// A store with an image of one layer, that layer, and the image as an OCI layout.
fn tiny() -> (Store, PathBuf, PathBuf) {
    let store = Store::new();
    let source = TestImage::tiny(TINY).write_oci(&store.scratch().join("tiny"), Compression::Raw);
    store.load(&source);
    let layers = fs::read_dir(store.root().join("layers")).unwrap();
    let layer = layers.map(|entry| entry.unwrap().path()).next().unwrap();
    (store, layer, source)
}

/// What may stand where a regular file should.
fn others() -> [(&'static str, fn(&Path)); 5] {
    fn fifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }
    fn endless(path: &Path) {
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    }
    [
        ("nothing", |_| {}),
        ("a link", |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
        ("a FIFO", fifo),
        ("a file of a terabyte of nothing", endless),
        ("a directory", |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("in it"), "").unwrap();
        }),
    ]
}

#[test]
fn e83_a_layer_record_that_is_something_else_is_named_and_mended() {
    sandbox!();
    let (store, layer, source) = tiny();
    for (what, put) in others() {
        let record = layer.join("layer.json");
        fs::remove_file(&record).unwrap();
        put(&record);
        let found = store.run(["check"]);
        assert_eq!(found.status, 1, "{what}: {}", found.stderr);
        assert!(found.stdout.contains("record"), "{what}: {}", found.stdout);
        // One damaged layer is no reason to tell of nothing.
        for lists in [&["images"][..], &["history", TINY], &["df"], &["gc", "--dry-run"]] {
            store.ok(lists);
        }
        store.ok(["repair".as_ref(), "--from".as_ref(), source.as_os_str()]);
        store.ok(["check"]);
        store.create(TINY);
    }
}

#[test]
fn e83_a_layer_that_is_no_directory_is_named_and_made_again() {
    sandbox!();
    let (store, layer, source) = tiny();
    for (what, put) in others() {
        if what == "a directory" {
            continue;
        }
        let diff = layer.join("diff");
        fs::remove_dir_all(&diff).unwrap();
        put(&diff);
        let found = store.run(["check"]);
        assert_eq!(found.status, 1, "{what}: {}", found.stderr);
        assert!(found.stdout.contains("missing"), "{what}: {} {}", found.stdout, found.stderr);
        store.ok(["repair".as_ref(), "--from".as_ref(), source.as_os_str()]);
        store.ok(["check"]);
        let container = store.create(TINY);
        assert_eq!(store.ok(["cat", &format!("{container}:/etc/motd")]), "hello");
    }
}

#[test]
fn e85_too_few_open_files_are_no_damage() {
    sandbox!();
    let (store, _, _) = tiny();
    let mut failed = 0;
    for limit in 8..32 {
        let text = format!("ulimit -n {limit}; exec \"$O\" check");
        let mut command = Command::new("sh");
        command.args(["-c", &text]).env("OVERLAY2_ROOT", store.root()).env("O", need::binary());
        let done = common::store::Done::of(&mut command);
        if done.status != 0 {
            failed += 1;
            assert_eq!(done.stdout, "", "with {limit} open files");
            assert!(done.stderr.contains("ulimit -n"), "with {limit}: {}", done.stderr);
        }
    }
    assert!(failed > 0, "a check needs more than 8 open files");
}
