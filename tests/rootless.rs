//! A plain user, with nothing but user namespaces: `overlay2 unshare` and all that works in it.
//!
//! As root these tests borrow a user who has subordinate ids; as a plain user they use their own.
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
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::image::{Layout, layout_of_tar};
use common::need::{self, Lack};
use common::store::{Done, Scratch};
use common::{Compression, Layer, TestImage};

const NAME: &str = "rootless.test/app:latest";

/// Somebody who is not root.
#[derive(Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// The users in the system's list, with the fields that count.
fn users() -> Vec<User> {
    let list = fs::read_to_string("/etc/passwd").unwrap();
    let user = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
        Some(User { name: (*name).to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    };
    list.lines().filter_map(user).collect()
}

/// Whether 65,536 subordinate user and group ids are set aside for a user.
fn has_subordinate_ids(user: &User) -> bool {
    let enough = |file: &str| {
        let list = fs::read_to_string(file).unwrap_or_default();
        list.lines().any(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [owner, _, count] = fields.as_slice() else { return false };
            (*owner == user.name || *owner == user.uid.to_string())
                && count.parse::<u32>().is_ok_and(|count| count >= 65_536)
        })
    };
    enough("/etc/subuid") && enough("/etc/subgid") && need::tool("newuidmap").is_some()
}

/// A folder of a plain user's, with the command and an image in it.
struct Home {
    scratch: Scratch,
    user: User,
}

impl Home {
    /// The plain user who runs the test, or one that root borrows.
    fn of(wanted: impl Fn(&User) -> bool) -> Option<Self> {
        let me = rustix::process::getuid().as_raw();
        let user = users()
            .into_iter()
            .find(|user| user.uid != 0 && (me == 0 || me == user.uid) && wanted(user))?;
        let home = Self { scratch: Scratch::new(), user };
        fs::copy(need::binary(), home.path("overlay2")).unwrap();
        image().write_oci(&home.path("image"), Compression::Gzip);
        if me == 0 {
            give(home.scratch.path(), &home.user);
        }
        Some(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A command run as the user, in the folder.
    fn command(&self, program: &Path) -> Command {
        let mut command = if need::is_root() {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={}", self.user.uid));
            command.arg(format!("--regid={}", self.user.gid)).arg("--init-groups").arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.scratch.path());
        command.env("HOME", self.scratch.path()).env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// A script inside `overlay2 unshare`, with `o` as the command on a store in the folder.
    fn unshare(&self, script: &str) -> Done {
        let script = format!("set -eu; o() {{ ./overlay2 --root store \"$@\"; }}\n{script}");
        Done::of(self.command(&self.path("overlay2")).args(["unshare", "--", "sh", "-c", &script]))
    }

    /// A script outside of any user namespace, with the same `o`.
    fn outside(&self, script: &str) -> Done {
        let script = format!("set -u; o() {{ ./overlay2 --root store \"$@\"; }}\n{script}");
        Done::of(self.command(Path::new("sh")).args(["-c", &script]))
    }

    /// As [`unshare`](Self::unshare), which has to succeed; the lines that it printed.
    fn lines(&self, script: &str) -> Vec<String> {
        let done = self.unshare(script);
        assert_eq!(done.status, 0, "{}\n{}", done.stdout, done.stderr);
        done.stdout.lines().map(str::to_owned).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // The files belong to ids that only root and the namespace may remove.
        if !need::is_root() {
            let _ = self.unshare("chmod -R u+rwx store; rm -rf store");
        }
    }
}

fn give(path: &Path, user: &User) {
    chown(path, Some(user.uid), Some(user.gid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

/// Files of several owners, one of them nobody.
fn image() -> TestImage {
    let base = Layer::new()
        .dir("etc", 0o755)
        .file("etc/root", 0o644, "root\n")
        .owned_by(1000, 1001)
        .dir("srv", 0o750)
        .file("srv/app", 0o755, "app\n")
        .owned_by(65_534, 65_534)
        .file("srv/nobody", 0o600, "nobody\n");
    let top = Layer::new().dir("etc", 0o755).whiteout("etc/root").file("etc/top", 0o444, "top\n");
    TestImage::new(NAME).layer("ADD base", base).layer("RUN top", top)
}

macro_rules! user_with_subordinate_ids {
    () => {
        match Home::of(has_subordinate_ids) {
            Some(home) => home,
            None => {
                let reason = "no plain user has 65,536 subordinate ids and newuidmap";
                return need::skip(&test_name!(), Lack::Missing(reason));
            }
        }
    };
}

#[test]
fn unshare_maps_the_user_to_root_and_the_subordinate_ids_behind() {
    let home = user_with_subordinate_ids!();
    let lines = home.lines("id -u; id -g; awk '{n += $3} END {print n}' /proc/self/uid_map");
    assert_eq!(lines[..2], ["0", "0"]);
    assert!(lines[2].parse::<u64>().unwrap() > 65_535, "{lines:?}");
}

#[test]
fn unshare_passes_the_exit_status_and_the_arguments_on() {
    let home = user_with_subordinate_ids!();
    assert_eq!(home.unshare("exit 7").status, 7);
    // As a parent leaves it that does not want to know how its children end.
    let mut command = home.command(Path::new("env"));
    command.arg("--ignore-signal=CHLD").arg(home.path("overlay2"));
    let done = Done::of(command.args(["unshare", "sh", "-c", "(exit 3); exit $((4 + $?))"]));
    assert_eq!(done.status, 7, "{}", done.stderr);
    let mut command = home.command(&home.path("overlay2"));
    let done = Done::of(command.args(["unshare", "--", "printf", "%s|", "a b", "--help", ""]));
    assert_eq!((done.status, done.stdout.as_str()), (0, "a b|--help||"));
    let mut command = home.command(&home.path("overlay2"));
    let done = Done::of(command.args(["unshare", "--", "no-such-program"]));
    assert!(done.status != 0 && done.stderr.contains("no-such-program"), "{done:?}");
}

#[test]
fn a_plain_user_goes_from_an_image_to_a_commit_with_files_of_several_owners() {
    let home = user_with_subordinate_ids!();
    let lines = home.lines(
        "o load -q -i image
         o create --name one rootless.test/app:latest
         m=$(o mount one); echo \"$m\"
         stat -c '%u:%g %a %n' \"$m\"/srv \"$m\"/srv/app \"$m\"/srv/nobody \"$m\"/etc/top | sed \"s#$m##\"
         ls \"$m\"/etc",
    );
    assert_eq!(lines[..2], [NAME, "one"]);
    assert!(lines[2].ends_with("merged") || Path::new(&lines[2]).is_absolute());
    assert_eq!(
        lines[3..],
        [
            "1000:1001 750 /srv",
            "1000:1001 755 /srv/app",
            "65534:65534 600 /srv/nobody",
            "0:0 444 /etc/top",
            "top"
        ]
    );

    // Another namespace, and the container is there still; what was mounted has gone with its own.
    let lines = home.lines(
        "m=$(o mount one)
         echo more >>\"$m\"/srv/app
         chown 33:33 \"$m\"/srv/nobody
         rm \"$m\"/etc/top
         install -m 640 -o 7 -g 8 /dev/null \"$m\"/srv/new
         mkdir \"$m\"/closed; chmod 0 \"$m\"/closed
         o diff one
         o unmount one >&2
         o commit one rootless.test/app:two
         o save rootless.test/app:two -o saved.tar",
    );
    let (changes, rest) = lines.split_at(lines.len() - 1);
    assert_eq!(
        changes,
        [
            "A /closed",
            "C /etc",
            "D /etc/top",
            "C /srv",
            "C /srv/app",
            "A /srv/new",
            "C /srv/nobody"
        ]
        .map(str::to_owned)
    );
    assert!(rest[0].starts_with("sha256:"), "{rest:?}");

    // The changeset says who owns what as the namespace sees it.
    let expected = [
        ("closed", 0, 0, 0),
        ("srv", 1000, 1001, 0o750),
        ("srv/app", 1000, 1001, 0o755),
        ("srv/new", 7, 8, 0o640),
        ("srv/nobody", 33, 33, 0o600),
    ];
    let layout = layout_of_tar(&home.path("saved.tar"), &home.path("saved"));
    let mut owners = owners(&Layout::open(&layout).changesets().pop().unwrap());
    owners.retain(|(name, ..)| !name.contains(".wh.") && name != "." && name != "etc");
    assert_eq!(owners, expected.map(|(name, u, g, m)| (name.to_owned(), u, g, m)));

    // And it can all be removed again, unreadable directories too.
    let left = home.lines(
        "o rm one; o rmi rootless.test/app:two rootless.test/app:latest
         o ps --format json; o images --format json; o layer ls --format json",
    );
    assert_eq!(left[left.len() - 3..], ["[]", "[]", "[]"]);
}

/// Name, uid, gid and mode of each entry of a changeset, by name.
fn owners(changeset: &[u8]) -> Vec<(String, u64, u64, u32)> {
    let mut archive = tar::Archive::new(changeset);
    let mut owners: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let header = entry.header();
            let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
            (name.trim_end_matches('/').to_owned(), uid, gid, header.mode().unwrap() & 0o7777)
        })
        .collect();
    owners.sort();
    owners
}

#[test]
fn a_user_without_subordinate_ids_is_root_over_a_single_id() {
    let Some(home) = Home::of(|user| !has_subordinate_ids(user) && user.uid >= 1000) else {
        let lack = Lack::Root("every plain user here has subordinate ids");
        return need::skip(&test_name!(), lack);
    };
    let own = TestImage::tiny("rootless.test/tiny:latest");
    own.write_oci(&home.path("tiny"), Compression::Gzip);
    if need::is_root() {
        give(&home.path("tiny"), &home.user);
    }
    let lines = home.lines(
        "id -u; cat /proc/self/uid_map | wc -l
         o load -q -i tiny
         o create --name one rootless.test/tiny:latest
         m=$(o mount one); cat \"$m\"/etc/motd; echo changed >\"$m\"/etc/motd; o diff one
         o unmount one; o rm one; o rmi rootless.test/tiny:latest",
    );
    assert_eq!(lines[..5], ["0", "1", "rootless.test/tiny:latest", "one", "hello"]);
    assert_eq!(lines[5..7], ["C /etc", "C /etc/motd"]);
}

/// A store that was filled without a user namespace says in one the same of its files.
#[test]
fn what_is_recorded_outside_is_shown_inside() {
    let home = user_with_subordinate_ids!();
    let script = "set -eu; o() { ./overlay2 --root store \"$@\"; }
                  test -e store || { o load -q -i image; o create --name c rootless.test/app; }
                  o ls -l c:/srv; o cp c:/srv/app - | tar --numeric-owner -tv
                  o export c | tar --numeric-owner -tv srv/app";
    let listed = |done: Done| {
        assert_eq!(done.status, 0, "{}\n{}", done.stdout, done.stderr);
        done.stdout.lines().filter(|line| line.contains("app")).map(str::to_owned).collect()
    };
    let mut outside = home.command(Path::new("sh"));
    let outside: Vec<String> = listed(Done::of(outside.args(["-c", script])));
    let inside: Vec<String> = listed(home.unshare(script));
    let files = |lines: &[String]| lines[lines.len() - 3..].to_vec();
    assert_eq!(files(&inside), files(&outside));
    assert!(inside.iter().all(|line| line.contains("1001")), "{inside:?}");
}

/// What was unpacked in a user namespace is judged where its ids are what they were then: elsewhere
/// every owner would look damaged, and a repair would do the damage.
#[test]
fn a_layer_is_checked_where_its_ids_are_what_they_were() {
    let home = user_with_subordinate_ids!();
    let outside = |script: &str| home.outside(script);
    home.lines("o load -q -i image; o check");
    let owners = "find store/layers/*/diff -printf '%P %U %G %m\\n' | sort";
    let before = home.lines(owners);
    for refused in ["o check", "o repair", "o repair --from image"] {
        let done = outside(refused);
        assert_eq!(done.status, 1, "{refused}: {}", done.stdout);
        assert!(done.stderr.contains("overlay2 unshare overlay2 check"), "{}", done.stderr);
    }
    assert_eq!(home.lines(owners), before);
    // A damaged one is made what it was from inside.
    home.lines("chown 0:0 store/layers/*/diff/srv/app; o repair --from image; o check");
    assert_eq!(home.lines(owners), before);
}

/// Owners that are recorded mean the same everywhere, and stay recorded.
#[test]
fn recorded_owners_are_checked_and_mended_in_a_user_namespace_too() {
    let home = user_with_subordinate_ids!();
    let attribute = "user.containers.override_stat";
    let script = "set -eu; ./overlay2 --root store load -q -i image";
    let loaded = Done::of(home.command(Path::new("sh")).args(["-c", script]));
    assert_eq!(loaded.status, 0, "{}", loaded.stderr);
    let record = format!("getfattr --only-values -n {attribute} store/layers/*/diff/srv/app");
    home.lines("o save -o saved.tar rootless.test/app; gzip saved.tar");
    for from in ["image", "saved.tar.gz"] {
        home.lines(&format!(
            "o check; truncate -s 0 store/layers/*/diff/srv/app; o repair --from {from}; o check"
        ));
        if need::tool("getfattr").is_some() {
            assert_eq!(home.lines(&record), ["1000:1001:0755:file"], "{from}");
        }
    }
    let checked =
        Done::of(home.command(Path::new("sh")).args(["-c", "./overlay2 --root store check"]));
    assert_eq!(checked.status, 0, "{}{}", checked.stdout, checked.stderr);
}

/// Outside a user namespace files of other ids cannot be removed: what can be done is done, and told
/// apart from what cannot.
#[test]
fn what_belongs_to_other_ids_is_removed_and_its_room_comes_back_inside() {
    let home = user_with_subordinate_ids!();
    home.lines(
        "o load -q -i image
         for name in foreign private other; do o create --name $name rootless.test/app; done
         mkdir t; chown 33:33 t; chmod 700 t; o cp -a t foreign:/t; o cp -a t private:/t; rm -r t",
    );
    let outside = |script: &str| home.outside(script);
    let refused = outside("o diff --tar private | cat >/dev/null; o export private >/dev/null");
    assert!(refused.stderr.contains("overlay2 unshare"), "{}", refused.stderr);
    let done = outside("o rm foreign; o rm other; o ps -q");
    assert_eq!(done.status, 0, "{}", done.stderr);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[..2] == ["foreign", "other"], "{lines:?}");
    assert!(done.stderr.contains("still takes room"), "{}", done.stderr);
    let collected = outside("o gc");
    assert_eq!(collected.status, 1);
    assert!(collected.stderr.contains("overlay2 unshare overlay2 gc"), "{}", collected.stderr);
    home.lines("o gc");
    assert_eq!(outside("o gc").status, 0);
    assert_eq!(fs::read_dir(home.path("store/trash")).unwrap().count(), 0);
}

/// A container that root made in a user's store is his; all else is checked.
#[test]
fn what_cannot_be_looked_at_hides_nothing_else_from_a_check() {
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("only root gives files away")
    );
    let home = user_with_subordinate_ids!();
    let script = "./overlay2 --root store load -q -i image";
    assert_eq!(Done::of(home.command(Path::new("sh")).args(["-c", script])).status, 0);
    let mut root = Command::new(home.path("overlay2"));
    root.arg("--root").arg(home.path("store")).args(["create", "--name", "c", "rootless.test/app"]);
    assert_eq!(Done::of(&mut root).status, 0);
    let checked = Done::of(
        home.command(&home.path("overlay2")).args(["--root", "store", "check", "--format", "json"]),
    );
    assert_eq!(checked.status, 1, "{}", checked.stderr);
    assert!(checked.stdout.contains("\"layers\": 2"), "{}", checked.stdout);
}

/// What a kernel mount makes of files whose owners are recorded is what is committed and shown, from
/// outside as from inside: the mount knows nothing of records.
#[test]
fn what_is_changed_in_a_mount_is_seen_from_outside_as_from_inside() {
    let home = user_with_subordinate_ids!();
    let outside = |text: &str| {
        let done = home.outside(&format!("set -e\n{text}"));
        assert_eq!(done.status, 0, "{}\n{}", done.stdout, done.stderr);
        done.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    outside("o load -q -i image; o create --name c rootless.test/app");
    home.lines(
        "m=$(o mount c); cd \"$m\"; chown 33:34 etc/top; chmod 600 srv/nobody; echo n >new
         ln -s new link; mkdir dir; chown 5:6 dir; chmod 700 srv; cd - >/dev/null; o unmount c",
    );
    let listed = "tar --numeric-owner -tv | awk '{print $1, $2, $6}' | sort -k3";
    let wanted = [
        "-r--r--r-- 33/34 etc/top",
        "-rw------- 65534/65534 srv/nobody",
        "-rw-r--r-- 0/0 new",
        "lrwxrwxrwx 0/0 link",
        "drwxr-xr-x 5/6 dir/",
        "drwx------ 1000/1001 srv/",
    ];
    for command in [
        "o diff --tar c",
        "o export c",
        "o commit -q c changed:1 >/dev/null; o create changed:1 >k; o export $(cat k)",
    ] {
        let command = format!("{{ {command}; }} | {listed}");
        for lines in [outside(&command), home.lines(&command)] {
            for line in wanted {
                assert!(lines.iter().any(|one| one == line), "{command}: {line} of {lines:?}");
            }
        }
    }
    let listed = "{ o ls -l c:/; o ls -l c:/etc; o ls -l c:/srv; } | awk '{print $1, $3, $4, $NF}'";
    let inside = home.lines(listed);
    assert_eq!(outside(listed), inside);
    for line in
        ["-r--r--r-- 33 34 top", "-rw------- 65534 65534 nobody", "drwx------ 1000 1001 srv"]
    {
        assert!(inside.iter().any(|one| one == line), "{line} of {inside:?}");
    }
    // What is changed without a mount afterwards keeps what the mount changed.
    outside("printf x >f; o cp f c:/etc/f; o export c >/dev/null");
    for lines in [outside("o export c | tar --numeric-owner -tv etc/f etc/top"), inside] {
        assert!(lines.iter().any(|line| line.contains("33") && line.contains("top")), "{lines:?}");
    }
}

/// A volatile mount goes with its namespace, and the kernel's mark in the WorkDir is closed outside.
#[test]
fn what_was_mounted_volatile_in_a_namespace_that_ended_is_used_and_removed_outside() {
    let home = user_with_subordinate_ids!();
    let outside = |script: &str| home.outside(&format!("set -e\n{script}"));
    assert_eq!(outside("o load -q -i image; echo x >new").status, 0);
    for command in ["o rm c", "o recover --accept c && o rm c", "o cp new c:/srv && o rm c"] {
        let made = outside("o create --volatile --name c rootless.test/app");
        assert_eq!(made.status, 0, "{}", made.stderr);
        home.lines("echo hi >$(o mount c)/new");
        let done = outside(command);
        assert_eq!(done.status, 0, "{command}: {}", done.stderr);
    }
}
