//! What mounts that nobody else knows of show is not removed.
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
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::need::{self, Lack};
use common::store::{Done, TINY, tiny};
use common::{Store, TestImage};

#[test]
fn e43_what_a_foreign_mount_shows_is_not_removed() {
    sandbox!();
    let store = tiny(&[]);
    store.ok(["rm", "c"]);
    let layer = store.graph_dir(TINY, "UpperDir");
    let target = store.scratch().join("shown");
    fs::create_dir(&target).unwrap();
    // Where nobody takes a copy of the mount along into a namespace of his own meanwhile.
    let text = r#"mount --bind "$1" "$2"; ! "$O" rmi "$3" || exit 1"#;
    let mut private = Command::new("unshare");
    private.args(["-m", "--propagation", "private", "sh", "-uc", text, "sh"]);
    private.arg(&layer).arg(&target).arg(TINY);
    private.env("O", need::binary()).env("OVERLAY2_ROOT", store.root());
    let done = Done::of(&mut private);
    assert_eq!(done.status, 0, "{done:?}");
    let error = done.stderr;
    assert!(error.contains(target.to_str().unwrap()) && error.contains("layer"), "{error}");

    // Seen by another process alone.
    let mut other = Command::new("unshare");
    other.args(["-m", "--propagation", "private", "sh", "-euc"]);
    other.arg(r#"mount --bind "$1" "$2"; echo ready; read _ || true"#).arg("sh");
    other.arg(&layer).arg(&target).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let error = store.fails(["rmi", TINY]);
    assert!(error.contains(&format!("process {}", other.id())), "{error}");
    drop(other.stdin.take());
    other.wait().unwrap();
    store.ok(["rmi", TINY]);
}

#[test]
fn e43_a_layer_that_a_foreign_mount_shows_is_not_removed() {
    sandbox!();
    let store = Store::new();
    let [layer, target] = ["layer.tar", "shown"].map(|name| store.scratch().join(name));
    fs::write(&layer, common::Layer::new().file("x", 0o644, "x").finish()).unwrap();
    fs::create_dir(&target).unwrap();
    store.ok(["layer".as_ref(), "apply".as_ref(), layer.as_os_str()]);
    let listed = store.json(["layer", "ls"]);
    let chain = listed[0]["chain_id"].as_str().unwrap();
    let text = r#"mount --bind "$1" "$2"; ! "$O" layer rm "$3" || exit 1; cat "$2/x""#;
    let mut private = Command::new("unshare");
    private.args(["-m", "--propagation", "private", "sh", "-uc", text, "sh"]);
    private.arg(listed[0]["directory"].as_str().unwrap()).arg(&target).arg(chain);
    private.env("O", need::binary()).env("OVERLAY2_ROOT", store.root());
    let done = Done::of(&mut private);
    assert_eq!((done.status, done.stdout.as_str()), (0, "x"), "{}", done.stderr);
    store.ok(["layer", "rm", chain]);
}

/// A mount namespace in which no process is, but which somebody holds open.
#[test]
fn e43_what_is_shown_in_a_namespace_without_a_process_is_not_removed() {
    sandbox!();
    require!(
        overlay2::userns::in_initial_namespace(),
        Lack::Root("only root is told of all mount namespaces")
    );
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split('.').map_while(|word| word.parse().ok()).collect();
    require!(numbers >= vec![6, 12], Lack::Declined("before Linux 6.12 nobody is told of them"));
    let store = tiny(&[]);
    store.ok(["rm", "c"]);
    let target = store.scratch().join("shown");
    fs::create_dir(&target).unwrap();
    let mut other = Command::new("unshare");
    other.args(["-m", "--propagation", "private", "sh", "-euc"]);
    other.arg(r#"mount -t overlay -o "lowerdir=$1:$2" none "$2"; echo ready; read _"#).arg("sh");
    other.arg(store.graph_dir(TINY, "UpperDir")).arg(&target);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    other.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let held = fs::File::open(format!("/proc/{}/ns/mnt", other.id())).unwrap();
    drop(other.stdin.take());
    other.wait().unwrap();
    let inode = held.metadata().unwrap().ino();
    let error = store.fails(["rmi", TINY]);
    let told = format!("{} in the mount namespace mnt:[{inode}]", target.display());
    assert!(error.contains(&told), "{error}");
    drop(held);
    // The kernel takes it apart a moment after its last descriptor is closed.
    let begin = Instant::now();
    while store.run(["rmi", TINY]).status != 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is held for ever");
    }
}

/// On a file system of its own, where a mount's root is no path of the machine.
#[test]
fn e43_what_a_foreign_mount_shows_of_another_file_system_is_not_removed() {
    sandbox!();
    let store = tiny(&[]);
    let text = r#"
        mount -t tmpfs none "$1"
        export OVERLAY2_ROOT="$1/store"
        mkdir "$1/shown" "$1/empty"
        "$O" load -q -i "$2"
        layer=$("$O" inspect "$3" | sed -n 's/.*"UpperDir": "\(.*\)".*/\1/p')
        mount --bind "$layer" "$1/shown"
        ! "$O" rmi "$3"
        umount "$1/shown"
        mount -t overlay -o "lowerdir=$layer:$1/empty" none "$1/shown"
        ! "$O" rmi "$3"
        mv "$1/store" "$1/moved"
        ! "$O" --root "$1/moved" rmi "$3"
        umount "$1/shown"
        "$O" --root "$1/moved" rmi "$3"
    "#;
    let [place, archive] = ["place", "tiny.tar"].map(|name| store.scratch().join(name));
    fs::create_dir(&place).unwrap();
    TestImage::tiny(TINY).write_docker_archive(&archive);
    let mut private = Command::new("unshare");
    private.args(["-m", "--propagation", "private", "sh", "-euc", text, "sh"]);
    private.arg(&place).arg(&archive).arg(TINY).env("O", need::binary());
    let done = Done::of(&mut private);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(done.stderr.matches("shown by the mount at").count(), 3, "{done:?}");
    assert_eq!(done.stdout.matches("Deleted").count(), 1, "{done:?}");
}

/// The same layer of another store, on a file system that another process sees alone.
#[test]
fn e43_what_another_store_shows_is_no_reason_to_keep_a_layer() {
    sandbox!();
    let store = tiny(&[]);
    store.ok(["rm", "c"]);
    let text = r#"
        mount -t tmpfs none "$1"
        mkdir "$1/shown" "$1/empty"
        export OVERLAY2_ROOT="$1/store"
        "$O" load -q -i "$2" > "$1/log"
        layer=$("$O" inspect "$3" | sed -n 's/.*"UpperDir": "\(.*\)".*/\1/p')
        mount -t overlay -o "lowerdir=$layer:$1/empty" none "$1/shown"
        echo ready
        read _ || true
    "#;
    let [place, archive] = ["place", "tiny.tar"].map(|name| store.scratch().join(name));
    fs::create_dir(&place).unwrap();
    TestImage::tiny(TINY).write_docker_archive(&archive);
    let mut other = Command::new("unshare");
    other.args(["-m", "--propagation", "private", "sh", "-euc", text, "sh"]);
    other.arg(&place).arg(&archive).arg(TINY).env("O", need::binary());
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut ready).unwrap();
    store.ok(["rmi", TINY]);
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
}

/// A namespace that was made while a container was mounted holds a copy of that mount for as long
/// as it lives: that is nobody who uses the image.
#[test]
fn e43_a_copy_of_a_mount_that_is_gone_holds_nothing() {
    sandbox!();
    let store = tiny(&[]);
    store.mount("c");
    let mut other = Command::new("unshare");
    other.args(["-m", "--propagation", "private", "sh", "-c", "echo ready; read _"]);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    store.ok(["unmount", "c"]);
    store.ok(["rm", "c"]);
    store.ok(["rmi", TINY]);
    drop(other.stdin.take());
    other.wait().unwrap();
}

#[test]
fn e43_a_container_that_is_mounted_in_another_namespace_is_left_alone() {
    sandbox!();
    require_tool!("unshare");
    let store = tiny(&[]);
    let mut holder = Command::new("unshare")
        .args(["-m", "sh", "-euc", "$O mount c; read end"])
        .env("OVERLAY2_ROOT", store.root())
        .env("O", need::binary())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 1];
    holder.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    for refused in ["unmount", "rm", "mount"] {
        let error = store.fails([refused, "c"]);
        for word in ["in another mount namespace", "nsenter -t", "-m overlay2 unmount c"] {
            assert!(error.contains(word), "{refused}: {word} is not in {error}");
        }
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    store.mount("c");
    store.ok(["unmount", "c"]);
    store.ok(["rm", "c"]);
}
