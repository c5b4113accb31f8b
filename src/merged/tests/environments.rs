//! The same tests again: as other users, in other namespaces, on other file systems.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{machine, skip};

/// Set where the tests run again, so that they do not do so forever.
const AGAIN: &str = "OVERLAY2_TEST_AGAIN";

/// Some user who owns nothing.
const NOBODY: &[&str] = &["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"];

/// How the tests are run again.
struct Again<'a> {
    test: &'a str,
    /// Programs and arguments in front of the test program's own: where it is run by root, and by
    /// others.
    as_root: Vec<&'a str>,
    as_user: Vec<&'a str>,
    /// Marks are kept in `user.overlay.` although ids say root.
    user_marks: bool,
    /// One of so many random cases.
    share: u32,
    filters: &'a [&'a str],
}

impl<'a> Again<'a> {
    /// All of it, as a user who owns nothing, or as the user that the tests are run by.
    fn as_plain_user(test: &'a str, command: &[&'a str]) -> Self {
        Self {
            test,
            as_root: [NOBODY, command].concat(),
            as_user: command.to_vec(),
            user_marks: false,
            share: 4,
            filters: &["merged::tests::"],
        }
    }

    fn run(&self) {
        if std::env::var_os(AGAIN).is_some() {
            return;
        }
        let is_root = rustix::process::geteuid().is_root();
        let words = if is_root { &self.as_root } else { &self.as_user };
        let Some((first, rest)) = words.split_first() else {
            // This process is what is asked for.
            return;
        };
        let start = |program: &OsStr| {
            let mut child = Command::new(first);
            child.args(rest).arg(program).current_dir("/");
            child
        };
        let probe = start("true".as_ref()).output();
        if !probe.as_ref().is_ok_and(|output| output.status.success()) {
            return skip(self.test, &format!("{words:?} does not work here: {probe:?}"));
        }
        // The user may not get to where the program lies, nor to this process's scratch directories.
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("tests");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&program, mode(0o755)).unwrap();
        std::fs::set_permissions(scratch.path(), mode(0o1777)).unwrap();
        let mut child = start(program.as_os_str());
        child.args(self.filters).env(AGAIN, "1").env("TMPDIR", scratch.path());
        child.env("OVERLAY2_CASES", (machine::cases() / self.share + 1).to_string());
        // What cannot run there runs here.
        child.env_remove("OVERLAY2_REQUIRE");
        if self.user_marks {
            child.env("OVERLAY2_TEST_USERXATTR", "1");
        }
        let output = child.output().unwrap();
        let (told, complaints) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {told}\n{complaints}", self.test);
        assert!(!told.contains(" 0 passed"), "{}: no test ran: {told}", self.test);
    }
}

#[test]
fn all_of_it_as_a_plain_user() {
    Again::as_plain_user("all_of_it_as_a_plain_user", &[]).run();
}

#[test]
fn all_of_it_in_a_user_namespace() {
    let unshare = ["unshare", "--user", "--map-root-user", "--mount"];
    let again = Again::as_plain_user("all_of_it_in_a_user_namespace", &unshare);
    Again { user_marks: true, ..again }.run();
}

/// Where the process can be several users, none of whom has privileges outside.
#[test]
fn as_several_users_in_a_user_namespace() {
    let unshare = ["unshare", "--user", "--map-root-user", "--map-auto", "--mount"];
    let user = ["setpriv", "--reuid=overlay2-ci", "--regid=overlay2-ci", "--init-groups"];
    Again {
        test: "as_several_users_in_a_user_namespace",
        as_root: [&user[..], &unshare].concat(),
        as_user: unshare.to_vec(),
        user_marks: true,
        share: 4,
        filters: &["merged::tests::callers::", "merged::tests::rows::", "merged::tests::machine::"],
    }
    .run();
}

/// Where neither namespaces nor privileges can be had, as in many a container.
#[test]
fn all_of_it_where_namespaces_are_forbidden() {
    let test = "all_of_it_where_namespaces_are_forbidden";
    if !rustix::process::geteuid().is_root()
        && !Command::new("unshare").args(["-U", "true"]).output().unwrap().status.success()
    {
        // This process is in such a place.
        return;
    }
    let forbid = [
        "unshare",
        "--user",
        "--map-current-user",
        "--keep-caps",
        "sh",
        "-c",
        "echo 0 >/proc/sys/user/max_user_namespaces && \
         exec setpriv --ambient-caps=-all --inh-caps=-all --no-new-privs \
         sh -c '! unshare --user true 2>/dev/null && exec \"$@\"' sh \"$@\"",
        "sh",
    ];
    Again::as_plain_user(test, &forbid).run();
}

#[test]
fn where_files_cannot_be_unnamed() {
    let set = format!("{}=1", super::bed::WITHOUT_UNNAMED);
    Again {
        test: "where_files_cannot_be_unnamed",
        as_root: vec!["env", &set],
        as_user: vec!["env", &set],
        user_marks: false,
        share: 4,
        filters: &["merged::tests::"],
    }
    .run();
}

/// Runs the tests on a file system of their own, which is gone with the process that does.
fn on_file_system(test: &str, make: &str, mount: &str) {
    if !rustix::process::geteuid().is_root() {
        return skip(test, "a file system of one's own takes root");
    }
    let scratch = tempfile::tempdir().unwrap();
    let script = format!(
        "image='{at}/image'; export TMPDIR='{at}/mounted'; mkdir -p $TMPDIR && \
         truncate -s 2G $image && {make} >'{at}/log' 2>&1 && {mount} $TMPDIR && exec \"$@\"",
        at = scratch.path().display(),
    );
    Again {
        test,
        as_root: vec!["unshare", "--mount", "sh", "-c", &script, "sh"],
        as_user: Vec::new(),
        user_marks: false,
        share: 8,
        filters: &["merged::tests::rows::", "merged::tests::machine::", "merged::tests::faults::"],
    }
    .run();
}

#[test]
fn on_ext4() {
    on_file_system("on_ext4", "mkfs.ext4 -qF $image", "mount -o loop $image");
}

#[test]
fn on_xfs_with_reflinks() {
    let make = "mkfs.xfs -qf -m reflink=1 $image";
    on_file_system("on_xfs_with_reflinks", make, "mount -o loop $image");
}

#[test]
fn on_btrfs() {
    on_file_system("on_btrfs", "mkfs.btrfs -qf $image", "mount -o loop $image");
}

#[test]
fn on_tmpfs() {
    on_file_system("on_tmpfs", "true", "mount -t tmpfs none");
}
