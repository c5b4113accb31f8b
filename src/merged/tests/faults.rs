//! What other implementations of the merged tree get wrong, each fault a test.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

use super::backend::{Backend, Op};
use super::bed::{Bed, Manner, Who, merged, same};
use super::machine::can_mount;
use crate::merged::{OpenOptions, Redirects, Tree};

fn bed(lines: &[&str]) -> Bed {
    Bed::new(&[lines.to_vec()], Manner::plain())
}

/// What the kernel, or the next tree, makes of what is left on disk.
pub(super) fn left(test: &str, bed: &Bed, tree: Tree) -> Vec<String> {
    let shown = merged(&tree);
    drop(tree);
    same("the next tree", &merged(&bed.tree()), &shown).unwrap();
    if can_mount(test) {
        same("a mount", &merged(&*bed.open(Who::Kernel)), &shown).unwrap();
    }
    shown
}

#[test]
fn no_mark_is_a_name_that_shows() {
    let bed = bed(&["d/", "d/f=1", "e=1"]);
    let tree = bed.tree();
    tree.remove_dir_all("d").unwrap();
    tree.remove_file("e").unwrap();
    tree.create_dir("d", 0o755).unwrap();
    tree.create_dir("e", 0o755).unwrap();
    left("no_mark_is_a_name_that_shows", &bed, tree);
    let upper = bed.raw("upper").join("\n");
    assert!(upper.contains("opaque=\"y\"") && !upper.contains(".wh."), "{upper}");
}

#[test]
fn what_was_removed_is_not_back_in_a_new_directory() {
    let bed = bed(&["d/", "d/f=1", "d/e/", "d/e/g=1"]);
    let tree = bed.tree();
    tree.remove_dir_all("d").unwrap();
    tree.create_dir("d", 0o755).unwrap();
    let shown = left("what_was_removed_is_not_back_in_a_new_directory", &bed, tree);
    assert_eq!(shown.len(), 2, "{shown:?}");
}

#[test]
fn copy_up_fills_no_holes() {
    const HOLE: u64 = 8 << 20;
    let bed = bed(&["f=start"]);
    let lower = std::fs::OpenOptions::new().write(true).open(bed.path("lower0/f")).unwrap();
    lower.write_at(b"middle", HOLE).unwrap();
    lower.set_len(3 * HOLE).unwrap();
    lower.sync_all().unwrap();
    let tree = bed.tree();
    tree.set_permissions("f", 0o600).unwrap();
    let upper = bed.path("upper/f").metadata().unwrap();
    assert_eq!(upper.len(), 3 * HOLE);
    assert!(upper.blocks() * 512 < HOLE, "{} blocks", upper.blocks());
    let mut text = [0; 6];
    assert_eq!(tree.open("f").unwrap().read_at(&mut text, HOLE).unwrap(), 6);
    assert_eq!(&text, b"middle");
}

/// The times, to the nanosecond, of a path in one of the bed's directories.
fn times(bed: &Bed, path: &str) -> [i64; 4] {
    let found = bed.path(path).symlink_metadata().unwrap();
    [found.atime(), found.atime_nsec(), found.mtime(), found.mtime_nsec()]
}

fn set_times(bed: &Bed, path: &str) {
    let time = |seconds| crate::Timestamp { seconds, nanos: 123_456_789 };
    let times = crate::sys::dir::timestamps(time(1_111_111_111), time(1_222_222_222));
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, bed.path(path), &times, flags).unwrap();
}

#[test]
fn copy_up_keeps_times_and_leaves_those_of_parents() {
    let bed = bed(&["d/", "d/e/", "d/e/f=1", "d/e/l->f", "d/e/p|"]);
    let paths = ["d/e/f", "d/e/l", "d/e/p", "d/e", "d"];
    for path in paths {
        set_times(&bed, &format!("lower0/{path}"));
    }
    let tree = bed.tree();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for path in ["d/e/f", "d/e/l", "d/e/p"] {
        tree.lchown(path, Some(uid), Some(gid)).unwrap();
    }
    for path in paths {
        let copied = times(&bed, &format!("upper/{path}"));
        assert_eq!(copied[1..], [123_456_789, 1_222_222_222, 123_456_789], "{path}");
        // To copy a symlink it has to be read.
        assert!(path.ends_with('l') || copied[0] == 1_111_111_111, "{path}: {copied:?}");
    }
}

/// A copy is synced before it has its name, unless it shares its data; `strace` sees it.
#[test]
fn copies_are_synced_before_they_have_a_name() {
    const TRACED: &str = "OVERLAY2_TEST_TRACED";
    let test = "copies_are_synced_before_they_have_a_name";
    if let Some(root) = std::env::var_os(TRACED) {
        let dir =
            |name: &str| crate::Dir::open_ambient(std::path::Path::new(&root).join(name)).unwrap();
        let options = crate::merged::Options::new(Manner::plain().namespace);
        let tree = Tree::writable(vec![dir("lower0")], dir("upper"), dir("work"), &options);
        return tree.unwrap().set_permissions("precious", 0o600).unwrap();
    }
    let strace = |arguments: &[&OsStr]| {
        std::process::Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,linkat,renameat2"])
            .args(arguments)
            .env(TRACED, "")
            .output()
    };
    if !strace(&["true".as_ref()]).is_ok_and(|output| output.status.success()) {
        return super::skip(test, "strace does not work here");
    }
    let bed = bed(&["precious=data"]);
    let output = std::process::Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=ioctl,fsync,fdatasync,syncfs,linkat,renameat2"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("merged::tests::faults::{test}")])
        .env(TRACED, bed.path(""))
        .output()
        .unwrap();
    let calls = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{calls}");
    let at = |what: &str| calls.find(what).unwrap_or_else(|| panic!("no {what} in {calls}"));
    let is_shared = calls.lines().any(|line| line.contains("FICLONE") && line.ends_with(" = 0"));
    if is_shared {
        // As the kernel has it: file systems that share keep that in order with the name.
        assert!(!calls.contains("sync("), "{calls}");
    } else {
        assert!(at("sync(") < at("\"precious\""), "{calls}");
    }
}

#[test]
fn hard_links_are_hard_links_on_disk() {
    let bed = bed(&["f=1", "d/"]);
    let tree = bed.tree();
    tree.hard_link("f", "d/g").unwrap();
    tree.hard_link("d/g", "h").unwrap();
    tree.write("h", "through one").unwrap();
    assert_eq!(tree.read("f").unwrap(), b"through one");
    assert_eq!(tree.metadata("d/g").unwrap().nlink(), 3);
    let on_disk = ["f", "d/g", "h"].map(|path| bed.path("upper").join(path).metadata().unwrap());
    assert!(on_disk.iter().all(|found| found.ino() == on_disk[0].ino() && found.nlink() == 3));
    left("hard_links_are_hard_links_on_disk", &bed, tree);
}

#[test]
fn nothing_is_ever_written_below() {
    let bed = bed(&["f=lower", "d/", "d/g=lower"]);
    let before = bed.lowers();
    let tree = bed.tree();
    let early = tree.open("f").unwrap();
    let mut text = [0; 5];
    early.read_at(&mut text, 0).unwrap();
    assert!(early.write_at(b"x", 0).is_err() && early.set_len(0).is_err());
    let late = tree.open_with("f", OpenOptions::new().read(true).write(true)).unwrap();
    late.write_at(b"upper", 0).unwrap();
    early.set_permissions(0o600).unwrap();
    assert!(early.write_at(b"x", 0).is_err() && early.set_len(0).is_err());
    early.read_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"upper");
    late.punch_hole(0, 1).unwrap_or_else(|error| assert_eq!(error.raw_os_error(), Some(95)));
    late.set_len(2).unwrap();
    assert_eq!(bed.lowers(), before);
}

#[test]
fn a_renamed_directory_takes_all_along() {
    let bed = bed(&["d/", "d/f=1"]);
    let tree = bed.tree();
    tree.create_dir_all("new/a/b", 0o755).unwrap();
    tree.write("new/a/b/c", "deep").unwrap();
    tree.hard_link("d/f", "new/a/f").unwrap();
    tree.rename("new", "d/moved").unwrap();
    assert_eq!(tree.read("d/moved/a/b/c").unwrap(), b"deep");
    assert_eq!(tree.read("d/moved/a/f").unwrap(), b"1");
    left("a_renamed_directory_takes_all_along", &bed, tree);
}

#[test]
fn a_lower_directory_is_refused_before_anything_is_copied() {
    let bed = bed(&["d/", "d/f=1", "e/"]);
    let tree = bed.tree();
    assert_eq!(tree.rename("d", "e/d").unwrap_err().raw_os_error(), Some(18));
    assert_eq!(tree.rename("d", "n").unwrap_err().raw_os_error(), Some(18));
    assert_eq!(std::fs::read_dir(bed.path("upper")).unwrap().count(), 0);
    drop(tree);
    // And where redirects are written it moves whole.
    let manner = Manner { redirects: Redirects::Write, ..bed.manner };
    let bed = Bed::new(&[vec!["d/", "d/f=1", "d/g/", "d/g/h=2", "e/"]], manner);
    let tree = bed.tree();
    tree.rename("d", "e/d").unwrap();
    assert_eq!(tree.read("e/d/g/h").unwrap(), b"2");
    assert!(!tree.exists("d"));
}

#[test]
fn copy_up_keeps_attributes() {
    let probe = tempfile::NamedTempFile::new().unwrap();
    if let Err(error) =
        rustix::fs::fsetxattr(&probe, c"user.probe", b"", rustix::fs::XattrFlags::empty())
    {
        // tmpfs before Linux 6.6.
        return super::skip("copy_up_keeps_attributes", &format!("no attributes here: {error}"));
    }
    let bed = bed(&["d/", "d/f=1", "d/f%user.kept=value", "d%user.kept=too", "d/f^4751", "d^1775"]);
    let tree = bed.tree();
    tree.run(&Op::Append("d/f".to_owned(), "2".to_owned())).unwrap();
    drop(tree);
    let upper = bed.raw("upper").join("\n");
    assert!(
        upper.contains("user.kept=\"value\"") && upper.contains("user.kept=\"too\""),
        "{upper}"
    );
    assert_eq!(bed.path("upper/d").metadata().unwrap().mode() & 0o7777, 0o1775);
}

#[test]
fn special_files_are_copied_up_renamed_and_linked() {
    let bed = bed(&["p|", "c@1:3", "d/", "d/p|"]);
    let tree = bed.tree();
    tree.set_permissions("p", 0o604).unwrap();
    tree.rename("c", "d/c").unwrap();
    tree.hard_link("d/p", "q").unwrap();
    tree.rename("d/p", "p").unwrap();
    let kind = |path: &str| bed.path("upper").join(path).symlink_metadata().unwrap().file_type();
    assert!(kind("p").is_fifo() && kind("q").is_fifo());
    assert!(
        kind("d/c").is_char_device()
            || !rustix::process::geteuid().is_root()
            || kind("d/c").is_fifo()
    );
    left("special_files_are_copied_up_renamed_and_linked", &bed, tree);
}

#[test]
fn names_are_any_bytes() {
    let name = OsStr::from_bytes(b"\xff\xfe \n\\\x01");
    let other = OsStr::from_bytes(b"caf\xe9");
    let bed = bed(&["x=1"]);
    for name in [name, other] {
        #[expect(clippy::disallowed_methods, reason = "a test makes its layers by path")]
        std::fs::write(bed.path("lower0").join(name), "lower").unwrap();
    }
    let check = |tree: &Tree| {
        let names = tree.read_dir("/").unwrap();
        let names: Vec<_> = names.iter().map(|entry| entry.name_bytes().to_vec()).collect();
        let twice = [other.as_bytes(), b"2"].concat();
        let mut wanted = vec![twice, b"l".to_vec(), b"x".to_vec(), name.as_bytes().to_vec()];
        wanted.sort();
        assert_eq!(names, wanted);
    };
    let tree = bed.tree();
    let twice = std::path::PathBuf::from(OsStr::from_bytes(b"caf\xe92"));
    tree.rename(other, &twice).unwrap();
    tree.set_permissions(name, 0o600).unwrap();
    tree.symlink(other, "l").unwrap();
    assert_eq!(tree.read_link("l").unwrap().as_os_str(), other);
    tree.write("l", "through the link").unwrap();
    tree.remove_file(other).unwrap();
    check(&tree);
    assert_eq!(tree.read(&twice).unwrap(), b"lower");
    drop(tree);
    check(&bed.tree());
    let upper = bed.path("upper").join(name).metadata().unwrap();
    assert_eq!(upper.permissions().mode() & 0o777, 0o600);
}

#[test]
fn no_mark_has_a_name_that_the_kernel_does_not_know() {
    let bed = bed(&["d/", "d/f=1", "e=1"]);
    let tree = bed.tree();
    tree.remove_dir_all("d").unwrap();
    tree.create_dir("d", 0o755).unwrap();
    tree.set_permissions("e", 0o600).unwrap();
    drop(tree);
    let known = ["opaque", "origin", "impure", "redirect"]
        .map(|mark| format!(" {}{mark}=", bed.manner.namespace.prefix()));
    for line in bed.raw("upper") {
        let marks = line.matches("overlay").count();
        let those_known: usize = known.iter().map(|mark| line.matches(mark.as_str()).count()).sum();
        assert_eq!(marks, those_known, "{line}");
    }
}

/// All whiteouts are links of one, as the kernel makes them.
#[test]
fn whiteouts_take_one_inode() {
    let test = "whiteouts_take_one_inode";
    for who in [Who::Merged, Who::Kernel] {
        if who == Who::Kernel && !can_mount(test) {
            continue;
        }
        let bed = bed(&["a=1", "b=1", "d/", "d/c=1"]);
        let backend = bed.open(who);
        for path in ["a", "b", "d/c"] {
            backend.run(&Op::Unlink(path.to_owned())).unwrap();
        }
        let inodes = ["a", "b", "d/c"].map(|path| {
            let found = bed.path("upper").join(path).symlink_metadata().unwrap();
            assert!(found.file_type().is_char_device() && found.rdev() == 0, "{who:?} {path}");
            found.ino()
        });
        assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{who:?} {inodes:?}");
    }
}

#[test]
fn reading_leaves_no_trace_below() {
    for who in [Who::Merged, Who::Kernel] {
        if who == Who::Kernel && !can_mount("reading_leaves_no_trace_below") {
            continue;
        }
        let bed = bed(&["d/", "d/f=1", "d/e/"]);
        let paths = ["lower0", "lower0/d", "lower0/d/f", "lower0/d/e"];
        for path in paths {
            set_times(&bed, path);
        }
        let backend = bed.open(who);
        backend.run(&Op::Read("d/f".to_owned())).unwrap();
        for path in ["", "d", "d/e"] {
            backend.run(&Op::ReadDir(format!("/{path}"))).unwrap();
        }
        for path in paths {
            assert_eq!(times(&bed, path)[0], 1_111_111_111, "{who:?} {path}");
        }
    }
}

/// Whose owner has no name in the user namespace is not copied up: nobody could be given the copy.
#[test]
fn ids_that_do_not_map_are_not_copied_up() {
    let test = "ids_that_do_not_map_are_not_copied_up";
    let maps = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let owner = std::path::Path::new("/etc/passwd").metadata().unwrap().uid();
    if owner != 65_534 || maps.split_whitespace().nth(2) != Some("1") || !can_mount(test) {
        // Run where the tests run again in a user namespace.
        return;
    }
    let outcomes = [Who::Merged, Who::Kernel].map(|who| {
        let bed = bed(&[]);
        std::fs::remove_dir(bed.path("lower0")).unwrap();
        std::os::unix::fs::symlink("/etc", bed.path("lower0")).unwrap();
        let (s, backend) = (str::to_owned, bed.open(who));
        let ops = [
            Op::Chmod(s("passwd"), 0o600),
            Op::Append(s("passwd"), s("x")),
            Op::Rename(s("passwd"), s("x"), crate::merged::RenameMode::Replace),
            Op::Link(s("passwd"), s("x")),
            Op::Unlink(s("passwd")),
        ];
        ops.map(|op| backend.run(&op))
    });
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0][2], Err(75), "{outcomes:?}");
}
