//! A copy is whole, or what was there is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::common::need::{self, Lack};
use crate::common::{Done, Store};
use crate::{app, require};

/// As `cp`, where no file may become larger than 64 KiB.
fn cp_little(store: &Store, from: &str, to: &str) -> Done {
    let mut command = Command::new("sh");
    // The signal would kill it; ignored, the write fails with EFBIG.
    command.args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh"]);
    command.arg(need::binary()).arg("--root").arg(store.root()).args(["cp", from, to]);
    Done::of(&mut command)
}

/// All names beneath a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.to_string_lossy().into_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                pending.push(path);
            }
        }
    }
    names.sort();
    names
}

#[test]
fn a_file_that_cannot_be_copied_leaves_what_was_there() {
    let store = app();
    let big = store.scratch().join("big");
    fs::write(&big, "x".repeat(200_000)).unwrap();
    let big = big.to_str().unwrap();
    store.ok(["cp", big, "web:/big"]);
    store.ok(["create", "--name", "other", crate::APP]);
    let out = store.scratch().join("out");
    fs::create_dir_all(out.join("dir")).unwrap();
    fs::write(out.join("old"), "old\n").unwrap();
    let container = || {
        let upper = store.graph_dir("other", "UpperDir");
        (store.ok(["diff", "other"]), names(&upper), names(&upper.with_file_name("work")))
    };
    let _ = store.run(["cat", "other:/etc/motd"]);
    let (before, host) = (container().0, names(&out));
    assert_eq!(before, "");
    let at = |name: &str| out.join(name).to_str().unwrap().to_owned();
    for (from, to) in [
        (big, "other:/etc/motd".to_owned()),
        (big, "other:/etc/new".to_owned()),
        (big, "other:/usr/bin".to_owned()),
        ("web:/big", "other:/etc/motd".to_owned()),
        ("web:/big", at("old")),
        ("web:/big", at("new")),
        ("web:/big", at("dir")),
    ] {
        let done = cp_little(&store, from, &to);
        assert!(done.status == 1 && done.stderr.contains("File too large"), "{to}: {done:?}");
        let (diff, upper, work) = container();
        assert_eq!((diff.as_str(), upper.len()), ("", 0), "{to}: {upper:?}");
        assert!(work.iter().all(|name| !name.contains('#')), "{to}: {work:?}");
        assert_eq!(names(&out), host, "{to}");
    }
    assert_eq!(store.ok(["cat", "other:/etc/motd"]), "newer");
    assert_eq!(fs::read(out.join("old")).unwrap(), b"old\n");
}

#[test]
fn a_copy_is_a_file_of_its_own_beside_the_other_names_of_the_old_one() {
    let store = app();
    let out = store.scratch().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("old"), "old\n").unwrap();
    fs::hard_link(out.join("old"), out.join("kept")).unwrap();
    let long = "n".repeat(255);
    fs::write(out.join(&long), "old\n").unwrap();
    for name in ["old", &long] {
        store.ok(["cp".as_ref(), "web:/etc/motd".as_ref(), out.join(name).as_os_str()]);
        assert_eq!(fs::read(out.join(name)).unwrap(), b"newer\n");
    }
    assert_eq!(fs::read(out.join("kept")).unwrap(), b"old\n");
    assert_eq!(out.join("kept").metadata().unwrap().nlink(), 1);
    // And in a container: `tool` and `same` are one file of a layer.
    store.ok(["cp", "web:/etc/motd", "web:/usr/bin/tool"]);
    assert_eq!(store.ok(["cat", "web:/usr/bin/tool", "web:/usr/bin/same"]), "newer\ntool");
    store.ok(["cp", "web:/etc/passwd", "web:/usr/bin/tool"]);
    assert_eq!(store.ok(["cat", "web:/usr/bin/tool"]), "root");
    // Where a whiteout was, and where another kind of file was.
    store.ok(["cp", "web:/etc/motd", "web:/var/cache"]);
    store.ok(["cp", "web:/etc/mtab", "web:/usr/bin/same"]);
    let kind = |path: &str| store.json(["stat", path])[0]["kind"].as_str().unwrap().to_owned();
    assert_eq!(["web:/var/cache", "web:/usr/bin/same"].map(kind), ["file", "symlink"]);
}

/// Once more is the same: hard links and symlinks take the place of what was copied before.
#[test]
fn what_is_copied_again_is_as_it_was() {
    let store = app();
    let site = crate::site(&store);
    let out = store.scratch().join("out");
    fs::create_dir(&out).unwrap();
    let to = out.to_str().unwrap();
    for _ in 0..2 {
        store.ok(["cp", &format!("{site}/."), "web:/srv"]);
        store.ok(["cp", "web:/srv/.", to]);
        assert_eq!(
            store.ok(["ls", "web:/srv"]).lines().count(),
            4,
            "no name but those of the site"
        );
        assert_eq!(names(&out).len(), 6, "{:?}", names(&out));
        let [a, b] = ["a", "sub/b"].map(|name| out.join(name).metadata().unwrap());
        assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
        let inside = store.json(["stat", "web:/srv/a", "web:/srv/sub/b"]);
        assert_eq!(inside[0]["inode"], inside[1]["inode"]);
        assert_eq!(inside[0]["links"], 2);
        assert_eq!(store.ok(["cat", "web:/srv/sub/l"]), "a");
    }
}

#[test]
fn a_copy_with_another_owner_acts_as_nobody() {
    require!(need::is_root(), Lack::Root("only root gives files away"));
    let store = app();
    let at = |name: &str| store.scratch().join(name).to_str().unwrap().to_owned();
    fs::write(at("su"), "su").unwrap();
    std::os::unix::fs::chown(at("su"), Some(1), Some(1)).unwrap();
    fs::set_permissions(at("su"), fs::Permissions::from_mode(0o6755)).unwrap();
    let status = |path: &str| {
        let stat = fs::metadata(path).unwrap();
        (stat.mode() & 0o7777, stat.uid())
    };
    store.ok(["cp", "-a", &at("su"), "web:/su"]);
    for (flag, expected) in [("-q", (0o755, 0)), ("-a", (0o6755, 1))] {
        store.ok(["cp", flag, "web:/su", &at(flag)]);
        assert_eq!(status(&at(flag)), expected, "{flag}");
    }
    store.ok(["cp", &at("su"), "web:/root"]);
    store.ok(["cp", "-a", "web:/root", &at("root")]);
    assert_eq!(status(&at("root")), (0o755, 0));
    // Whose it was already.
    fs::set_permissions(at("-q"), fs::Permissions::from_mode(0o4755)).unwrap();
    store.ok(["cp", &at("-q"), "web:/mine"]);
    store.ok(["cp", "web:/mine", &at("mine")]);
    assert_eq!(status(&at("mine")), (0o4755, 0));
}
