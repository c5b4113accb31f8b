//! Stores on file systems that lack something.
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
use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::need::{self, Lack};
use common::store::Done;
use common::{Layer, Store, TestImage};

const TINY: &str = "example.test/tiny:latest";

/// Makes a file system of so many bytes in a file, and mounts it.
fn mount_new(image: &Path, bytes: u64, make: &[&str], at: &Path) {
    fs::File::create(image).unwrap().set_len(bytes).unwrap();
    need::run(Command::new(make[0]).args(&make[1..]).arg(image));
    fs::create_dir(at).unwrap();
    need::run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
}

/// Ext4 with small inodes holds times from 1901 to 2038, and whole seconds of them.
#[test]
fn e28_what_a_file_system_makes_of_times_is_no_damage() {
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("only root mounts other file systems")
    );
    require_tool!("mkfs.ext4");
    let bed = Store::new();
    let [image, disk, tree, tar] =
        ["disk.img", "disk", "tree", "tree.tar"].map(|name| bed.scratch().join(name));
    let make = ["mkfs.ext4", "-q", "-F", "-I", "128"];
    mount_new(&image, 64 << 20, &make, &disk);
    fs::create_dir(&tree).unwrap();
    for (name, time) in [
        ("f", "2001-02-03 04:05:06.5"),
        ("before", "1969-12-31 23:59:54.5"),
        ("late", "2200-01-01 00:00:00.25"),
        ("early", "1800-01-01 00:00:00.75"),
    ] {
        fs::write(tree.join(name), name).unwrap();
        need::run(Command::new("touch").args(["-d", time]).arg(tree.join(name)));
    }
    need::run(
        Command::new("tar").args(["--format=pax", "-cf"]).arg(&tar).arg("-C").arg(&tree).arg("."),
    );
    let store = Store::at(disk.join("store"));
    store.ok(["import".as_ref(), tar.as_os_str(), "times:1".as_ref()]);
    store.ok(["check"]);
    let layers = fs::read_dir(store.root().join("layers")).unwrap();
    let layer = layers.map(|entry| entry.unwrap().path()).next().unwrap();
    for (name, time) in [("f", "2001-02-03 04:05:07"), ("late", "2001-01-01")] {
        need::run(Command::new("touch").args(["-d", time]).arg(layer.join("diff").join(name)));
    }
    let found = store.run(["check"]);
    assert_eq!(found.status, 1, "{found:?}");
    let lines: Vec<_> = found.stdout.lines().filter(|line| line.contains(" time ")).collect();
    assert!(
        lines.len() == 2 && lines[0].contains("/f ") && lines[1].contains("/late "),
        "{found:?}"
    );
}

/// As in a container without a volume: nothing can be mounted there, and all else is done.
#[test]
fn a_store_on_an_overlay_says_where_it_can_mount_and_works_without() {
    sandbox!();
    let store = Store::new();
    let place = store.scratch().join("place");
    let text = r#"
        mkdir "$1"
        mount -t tmpfs none "$1"
        cd "$1"
        mkdir lower upper work merged
        mount -t overlay -o "lowerdir=lower,upperdir=upper,workdir=work,$2" none merged
        export OVERLAY2_ROOT="$1/merged/store"
        "$O" load -q -i "$3"
        "$O" create --name c "$4"
        ! "$O" mount c
        echo new > new
        "$O" cp new c:/etc/new
        test "$("$O" diff c)" = "$(printf 'C /etc\nA /etc/new')"
        "$O" commit c changed:1
        "$O" check
    "#;
    let archive = store.scratch().join("tiny.tar");
    TestImage::tiny(TINY).write_docker_archive(&archive);
    let marks = if need::in_user_namespace() { "userxattr" } else { "index=off" };
    let mut private = Command::new("unshare");
    private.args(["-m", "--propagation", "private", "sh", "-euc", text, "sh"]);
    private.arg(&place).arg(marks).arg(&archive).arg(TINY).env("O", need::binary());
    let done = Done::of(&mut private);
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.stderr.contains("keep the store on ext4, XFS"), "{done:?}");
}

/// Whoever does not see `trusted.*` attributes is told that there are none, and would see what was
/// deleted.
#[test]
fn a_store_whose_marks_are_not_seen_is_refused() {
    require!(
        need::is_root() && !need::in_user_namespace() && need::tool("setpriv").is_some(),
        Lack::Root("only root has a store whose marks others do not see")
    );
    let store = Store::new();
    let archive = store.scratch().join("tiny.tar");
    TestImage::tiny(TINY).write_docker_archive(&archive);
    store.load(&archive);
    let without = |flags: &[&str], command: &[&str]| {
        let mut other = Command::new("setpriv");
        other.args(flags).arg(need::binary()).arg("--root").arg(store.root()).args(command);
        Done::of(&mut other)
    };
    let flags = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
    for command in [&["images"][..], &["ls", TINY], &["check"], &["export", TINY]] {
        let done = without(&flags, command);
        assert_eq!(done.status, 1, "{command:?}: {done:?}");
        assert!(done.stderr.contains("trusted.overlay attributes"), "{command:?}: {done:?}");
    }
    assert_eq!(without(&[], &["images", "-q"]).status, 0);
}

/// The trash of XFS has its names in its inode, up to three of them; one more takes a block.
#[test]
fn a_full_disk_is_emptied_by_removing() {
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("only root mounts other file systems")
    );
    require_tool!("mkfs.xfs");
    let bed = Store::new();
    let [image, disk, archive] =
        ["disk.img", "disk", "image.tar"].map(|name| bed.scratch().join(name));
    mount_new(&image, 320 << 20, &["mkfs.xfs", "-q", "-f"], &disk);
    let layers = (0..10).map(|n| Layer::new().file("f", 0o644, format!("{n}")));
    let of_many = layers.fold(TestImage::new(TINY), |image, layer| image.layer("RUN", layer));
    of_many.write_docker_archive(&archive);
    let store = Store::at(disk.join("store"));
    store.load(&archive);
    let before = fs::read_dir(store.root().join("layers")).unwrap().count();
    for name in ["a", "b"] {
        store.ok(["create", "--name", name, TINY]);
    }
    // All of it, down to the last block.
    let (mut bytes, mut number) = (128 << 20, 0);
    while bytes >= 4096 {
        let file = fs::File::create(disk.join(format!("fill{number}")));
        number += 1;
        let flags = rustix::fs::FallocateFlags::empty();
        match file.map(|file| rustix::fs::fallocate(file, flags, 0, bytes)) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => bytes /= 2,
            Err(_) => break,
        }
    }
    store.ok(["rm", "a", "b"]);
    store.ok(["rmi", TINY]);
    store.ok(["gc"]);
    let left = fs::read_dir(store.root().join("layers")).unwrap().count();
    assert_eq!((before, left), (10, 0));
    // What was held back is held back again.
    fs::remove_file(disk.join("fill0")).unwrap();
    store.ok(["gc"]);
    assert_eq!(fs::metadata(store.root().join("ballast")).unwrap().len(), 1 << 20);
    store.ok(["check"]);
}

/// A full btrfs has no room for a name in the trash, but for deleting.
#[test]
fn a_full_btrfs_is_emptied_by_removing() {
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("only root mounts other file systems")
    );
    require_tool!("mkfs.btrfs");
    let bed = Store::new();
    let [image, disk, archive] =
        ["disk.img", "disk", "image.tar"].map(|name| bed.scratch().join(name));
    mount_new(&image, 120 << 20, &["mkfs.btrfs", "-q", "--mixed"], &disk);
    TestImage::tiny(TINY).write_docker_archive(&archive);
    let store = Store::at(disk.join("store"));
    store.load(&archive);
    store.ok(["create", "--name", "a", TINY]);
    let upper = store.json(["inspect", "a"])[0]["GraphDriver"]["Data"]["UpperDir"].clone();
    let mut file = fs::File::create(Path::new(upper.as_str().unwrap()).join("fill")).unwrap();
    let block = vec![7; 64 << 10];
    while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
    drop(file);
    store.ok(["rm", "a"]);
    store.ok(["rmi", TINY]);
    store.ok(["gc"]);
    assert_eq!(fs::metadata(store.root().join("ballast")).unwrap().len(), 1 << 20);
    store.ok(["check"]);
}

#[test]
fn a_copy_of_a_store_may_lack_what_was_empty() {
    let store = Store::new();
    store.ok(["images"]);
    for name in ["trash", "staging", "images"] {
        fs::remove_dir(store.root().join(name)).unwrap();
        store.ok(["images"]);
        assert!(store.root().join(name).is_dir(), "{name}");
    }
    let dangling = store.scratch().join("dangling");
    std::os::unix::fs::symlink("nothing", &dangling).unwrap();
    let error = Store::at(dangling).fails(["images"]);
    assert!(error.contains("symlink to a directory that is not there"), "{error}");
}

#[test]
fn standard_output_is_named_where_it_is_full() {
    let store = Store::new();
    for command in [&["info"][..], &["images"], &["images", "--format", "json"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let done = store.command().args(command).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("write to standard output: No space left"), "{command:?}: {said}");
        assert_eq!(done.status.code(), Some(1), "{command:?}");
    }
}

#[test]
fn an_archive_that_is_compressed_otherwise_is_named() {
    let store = Store::new();
    for (begin, name) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh9", "bzip2")] {
        for length in [100, 4000] {
            let file = store.scratch().join("archive");
            fs::write(&file, [begin, &vec![7; length]].concat()).unwrap();
            let error = store.fails(["load".as_ref(), "-i".as_ref(), file.as_os_str()]);
            assert!(error.contains(&format!("is compressed with {name}")), "{length}: {error}");
        }
    }
}
