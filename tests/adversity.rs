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
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::need::{self, Lack};
use common::store::{Done, TINY, tiny};
use common::{Compression, Layer, Store, TestImage};
use rustix::mount::UnmountFlags;

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
        [ -z "$LOOK" ] || { "$O" cat c:/new; "$O" ls c:/ | grep -x new; }
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
    // In a user namespace what may be read is asked by way of it.
    let looks = !need::in_user_namespace();
    command.env("LOOK", if looks { "yes" } else { "" });
    let done = Done::of(&mut command);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let seen = if looks { "new\nnew\n" } else { "" };
    assert_eq!(done.stdout, format!("c\nA /new\n{seen}d\nc\nd\n"));
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
