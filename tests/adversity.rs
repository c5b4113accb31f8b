//! Containers where something went wrong: a machine that stopped, a mount that somebody else made or
//! took away, and surroundings that lack what one is used to.
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
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::need::{self, Lack};
use common::store::Done;
use common::{Compression, Layer, Store, TestImage};
use rustix::mount::UnmountFlags;

const TINY: &str = "example.test/tiny:latest";

/// A store with an image of one file, and a container `c` on it.
fn tiny(options: &[&str]) -> Store {
    let store = Store::new();
    let image = TestImage::tiny(TINY);
    assert_eq!(store.load(&image.write_oci(&store.scratch().join("tiny"), Compression::Raw)), TINY);
    store.ok(["create", "--name", "c"].iter().chain(options).chain(&[TINY]));
    store
}

/// The directory of the only container.
fn container(store: &Store) -> PathBuf {
    let containers = fs::read_dir(store.root().join("containers")).unwrap();
    containers.map(|entry| entry.unwrap().path()).next().unwrap()
}

/// Takes a mount away as somebody who knows nothing of the store, and tries again while whoever
/// looks at all mounts of the machine is inside.
fn unmount_behind_its_back(target: &Path) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match rustix::mount::unmount(target, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) if std::time::Instant::now() < end => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other.unwrap(),
        }
    }
}

/// Makes what was written of a mount that of an earlier boot.
fn reboot(store: &Store, file: &str) {
    let path = container(store).join(file);
    let text = fs::read_to_string(&path).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    fs::write(path, text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000")).unwrap();
}

/// A script with the command as `$O` on the store.
fn script(store: &Store, text: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-euc").arg(text).env("OVERLAY2_ROOT", store.root()).env("O", need::binary());
    command
}

#[test]
fn e45_a_torn_upper_is_refused_until_it_is_accepted_or_discarded() {
    sandbox!();
    let store = tiny(&["--volatile"]);
    let merged = store.mount("c");
    fs::write(merged.join("new"), "new\n").unwrap();
    unmount_behind_its_back(&merged);
    assert!(container(&store).join("work/work/incompat/volatile").exists());
    reboot(&store, "mount.json");
    assert!(store.ok(["ps"]).contains("(lost, torn)"));
    assert!(store.fails(["diff", "c"]).contains("torn"));
    let error = store.fails(["mount", "c"]);
    for word in ["torn", "recover --accept c", "recover --discard c"] {
        assert!(error.contains(word), "{word} is not in {error}");
    }
    store.ok(["recover", "--accept", "c"]);
    assert_eq!(fs::read(store.mount("c").join("new")).unwrap(), b"new\n");
    unmount_behind_its_back(&merged);
    reboot(&store, "mount.json");
    store.ok(["recover", "--discard", "c"]);
    let again = store.run(["recover", "--discard", "c"]);
    assert!(again.status == 0 && again.stderr.contains("was not torn"), "{again:?}");
    assert!(!store.mount("c").join("new").exists());
    assert_eq!(fs::read(merged.join("etc/motd")).unwrap(), b"hello\n");
    store.ok(["unmount", "c"]);
    store.ok(["rm", "c"]);
}

#[test]
fn e45_what_is_unmounted_by_others_while_the_machine_runs_is_whole() {
    sandbox!();
    let store = tiny(&["--volatile"]);
    let merged = store.mount("c");
    fs::write(merged.join("new"), "new\n").unwrap();
    unmount_behind_its_back(&merged);
    assert_eq!(fs::read(store.mount("c").join("new")).unwrap(), b"new\n");
    store.ok(["unmount", "c"]);
    assert_eq!(store.ok(["diff", "c"]), "A /new");
}

#[test]
fn e45_a_machine_that_stops_after_a_volatile_unmount_is_noticed() {
    sandbox!();
    let store = tiny(&[]);
    let merged = PathBuf::from(store.ok(["mount", "--volatile", "c"]));
    fs::write(merged.join("new"), "new\n").unwrap();
    store.ok(["unmount", "c"]);
    // In the same boot nothing is lost, and a mount that is not volatile syncs it first.
    store.ok(["mount", "--volatile", "c"]);
    store.ok(["unmount", "c"]);
    reboot(&store, "unsynced.json");
    let listed = &store.json(["ps"])[0];
    assert_eq!((&listed["lost"], &listed["torn"]), (&false.into(), &true.into()));
    assert!(store.ok(["ps"]).contains("(torn)"));
    for refused in [&["mount", "c"][..], &["diff", "c"], &["commit", "c", "x:1"]] {
        let error = store.fails(refused);
        assert!(error.contains("torn"), "{refused:?}: {error}");
    }
    store.ok(["recover", "--accept", "c"]);
    assert_eq!(store.ok(["diff", "c"]), "A /new");
    assert!(!container(&store).join("unsynced.json").exists());
    store.mount("c");
    store.ok(["unmount", "c"]);
    store.ok(["rm", "c"]);
}

#[test]
fn e46_a_mount_that_was_lost_with_the_machine_is_told_and_is_no_hindrance() {
    sandbox!();
    for then in ["unmount", "mount", "rm"] {
        let store = tiny(&[]);
        let merged = store.mount("c");
        assert_eq!(store.json(["ps"])[0]["mounted"], merged.to_str().unwrap());
        unmount_behind_its_back(&merged);
        reboot(&store, "mount.json");
        let listed = &store.json(["ps"])[0];
        assert_eq!((&listed["mounted"], &listed["lost"]), (&None::<()>.into(), &true.into()));
        assert!(store.ok(["ps"]).contains("(lost)"));
        store.ok([then, "c"]);
        if then == "mount" {
            store.ok(["unmount", "c"]);
        }
    }
    // What a power cut left of it says no more.
    let store = tiny(&[]);
    unmount_behind_its_back(&store.mount("c"));
    fs::write(container(&store).join("mount.json"), "").unwrap();
    assert_eq!(store.json(["ps"])[0]["lost"], true);
    store.mount("c");
    store.ok(["unmount", "c"]);
}

#[test]
fn e42_one_upper_is_mounted_once() {
    sandbox!();
    let store = tiny(&[]);
    let merged = store.mount("c");
    let elsewhere = store.scratch().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let error = store.fails(["mount".as_ref(), "c".as_ref(), elsewhere.as_os_str()]);
    assert!(error.contains(merged.to_str().unwrap()), "{error}");
    store.ok(["unmount", "c"]);
}

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

#[test]
fn e85_containers_work_without_proc() {
    sandbox!();
    let store = tiny(&[]);
    let text = r#"
        mount -t tmpfs none /proc
        "$O" mount c > "$1"
        echo new > "$(cat "$1")/new"
        "$O" ps | grep -q "$(cat "$1")"
        ! "$O" rm c
        "$O" unmount c
        "$O" diff c
        "$O" cat c:/new
        "$O" ls c:/ | grep new
        "$O" create --name d example.test/tiny:latest
        "$O" rm c
        "$O" ps -q
    "#;
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private"]);
    let inner = script(&store, text);
    command.arg(inner.get_program()).args(inner.get_args());
    command.arg("sh").arg(store.scratch().join("merged"));
    command.env("OVERLAY2_ROOT", store.root()).env("O", need::binary());
    let done = Done::of(&mut command);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert_eq!(done.stdout, "c\nA /new\nnew\nnew\nd\nc\nd\n");
}

#[test]
fn e85_a_umask_of_077_and_closed_streams_change_nothing() {
    sandbox!();
    let store = Store::new();
    let source = TestImage::tiny(TINY).write_oci(&store.scratch().join("tiny"), Compression::Raw);
    let text = r#"
        umask 077
        "$O" load -i "$1" <&- >&- 2>&-
        "$O" create --name c example.test/tiny:latest <&- >&- 2>&-
        "$O" mount c <&- >&- 2>&-
    "#;
    need::run(script(&store, text).arg("sh").arg(source));
    let merged = PathBuf::from(store.json(["ps"])[0]["mounted"].as_str().unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&merged), mode(&merged.join("etc"))), (0o755, 0o755));
    assert_eq!(fs::read(merged.join("etc/motd")).unwrap(), b"hello\n");
    store.ok(["unmount", "c"]);
}

#[test]
fn e85_a_stack_of_128_layers_fits_64_open_files() {
    sandbox!();
    let mut image = TestImage::new("example.test/tall:latest");
    for number in 0..128 {
        let name = format!("file-{number}");
        image = image.layer("ADD", Layer::new().file(&name, 0o644, name.clone()));
    }
    let store = Store::new();
    let source = image.write_oci(&store.scratch().join("tall"), Compression::Raw);
    let text = r#"
        ulimit -n 64
        "$O" load -q -i "$1"
        "$O" create --name c example.test/tall:latest
        "$O" mount c
    "#;
    need::run(script(&store, text).arg("sh").arg(source));
    let merged = PathBuf::from(store.json(["ps"])[0]["mounted"].as_str().unwrap());
    assert_eq!(fs::read_dir(&merged).unwrap().count(), 128);
    need::run(&mut script(&store, r#"ulimit -n 64; "$O" unmount c; "$O" rm c"#));
}

#[test]
fn e47_nobody_else_reads_a_container() {
    sandbox!();
    let store = tiny(&[]);
    store.mount("c");
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(store.root()), 0o700);
    assert_eq!(mode(&container(&store)), 0o700);
    for file in ["container.json", "mount.json"] {
        assert_eq!(mode(&container(&store).join(file)), 0o600, "{file}");
    }
    store.ok(["unmount", "c"]);
    require!(
        !need::in_user_namespace() && need::tool("setpriv").is_some(),
        Lack::Root("only root can become somebody else")
    );
    let upper = container(&store).join("upper");
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "ls"]).arg(upper);
    assert_ne!(Done::of(&mut other).status, 0);
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

#[test]
fn e42_a_busy_mount_that_was_taken_out_of_the_tree_is_still_one() {
    sandbox!();
    let store = tiny(&[]);
    let merged = store.mount("c");
    let busy = fs::File::open(merged.join("etc/motd")).unwrap();
    rustix::mount::unmount(&merged, UnmountFlags::DETACH).unwrap();
    for refused in ["mount", "unmount", "rm"] {
        let error = store.fails([refused, "c"]);
        assert!(error.contains("still in use"), "{refused}: {error}");
    }
    drop(busy);
    store.mount("c");
    store.ok(["unmount", "c"]);
}

#[test]
fn a_container_is_listed_as_mounted_wherever_the_store_is_seen() {
    sandbox!();
    let store = tiny(&[]);
    let merged = store.mount("c");
    let moved = store.scratch().join("moved");
    fs::rename(store.root(), &moved).unwrap();
    let listed = Done::of(
        Command::new(need::binary()).args(["--format", "json", "ps"]).env("OVERLAY2_ROOT", &moved),
    );
    fs::rename(&moved, store.root()).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let shown = moved.join(merged.strip_prefix(store.root()).unwrap());
    assert_eq!(listed[0]["mounted"], shown.to_str().unwrap());
    store.ok(["unmount", "c"]);
}

#[test]
fn a_mount_that_would_hide_the_store_is_refused() {
    sandbox!();
    let store = tiny(&[]);
    let root = store.root();
    let scratch = fs::canonicalize(store.scratch()).unwrap();
    for target in [root, &root.join("layers"), &container(&store), &scratch, Path::new("/")] {
        let error = store.fails(["mount".as_ref(), "c".as_ref(), target.as_os_str()]);
        assert!(error.contains("would hide the store"), "{target:?}: {error}");
    }
    // Its own directory is as good by its name, and so is one in another container's tree.
    let own = container(&store).join("merged");
    store.ok(["mount".as_ref(), "c".as_ref(), own.as_os_str()]);
    store.ok(["create", "--name", "inner", TINY]);
    store.ok(["mount".as_ref(), "inner".as_ref(), own.join("etc").as_os_str()]);
    assert_eq!(fs::read(own.join("etc/etc/motd")).unwrap(), b"hello\n");
    store.ok(["unmount", "inner", "c"]);
}
