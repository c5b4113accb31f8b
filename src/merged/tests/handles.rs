//! What holds of handles, numbers, threads and single trees, without the kernel.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::io::Errno;

use super::backend::{Backend, Op};
use super::bed::{Bed, Manner};
use super::machine::cases;
use crate::merged::{OpenOptions, Redirects, RenameMode};

pub(super) fn bed(lines: &[&str]) -> Bed {
    Bed::new(&[lines.to_vec()], Manner::plain())
}

#[test]
fn a_handle_from_before_the_copy_up_reads_the_upper_file() {
    let bed = bed(&["f=old"]);
    let tree = bed.tree();
    let early = tree.open("f").unwrap();
    let mut text = [0; 8];
    assert_eq!(early.read_at(&mut text, 0).unwrap(), 3);
    tree.write("f", "newer").unwrap();
    assert_eq!(early.read_at(&mut text, 0).unwrap(), 5);
    assert_eq!(&text[..5], b"newer");
    tree.rename("f", "g").unwrap();
    tree.remove_file("g").unwrap();
    assert_eq!(early.read_at(&mut text, 0).unwrap(), 5);
    assert_eq!(early.metadata().unwrap().nlink(), 0);
    assert!(early.write_at(b"x", 0).is_err());
}

#[test]
fn a_handle_without_a_name_cannot_copy_up() {
    let bed = bed(&["f=old"]);
    let tree = bed.tree();
    let handle = tree.open("f").unwrap();
    tree.remove_file("f").unwrap();
    assert_eq!(handle.set_permissions(0o600).unwrap_err().raw_os_error(), Some(17));
    let mut text = [0; 3];
    handle.read_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"old");
}

#[test]
fn inode_numbers_stay_over_copy_up() {
    let bed = bed(&["f=1", "d/", "d/g=2", "l->f"]);
    let tree = bed.tree();
    let numbers = || {
        ["f", "d", "d/g", "l"].map(|path| {
            let found = tree.symlink_metadata(path).unwrap();
            (found.dev(), found.ino())
        })
    };
    let before = numbers();
    for path in ["f", "d/g", "l"] {
        tree.lchown(path, Some(0), Some(0)).or_else(|_| tree.lchown(path, None, None)).unwrap();
    }
    assert_eq!(numbers(), before);
    tree.rename("d/g", "h").unwrap();
    assert_eq!(tree.metadata("h").unwrap().ino(), before[2].1);
    tree.hard_link("h", "k").unwrap();
    assert_eq!(tree.metadata("k").unwrap().ino(), before[2].1);
}

/// A directory that was moved away from what lies below it keeps the number, in listings too.
#[test]
fn inode_numbers_stay_over_moves() {
    let manner = Manner { redirects: Redirects::Write, ..Manner::plain() };
    let bed = Bed::new(&[vec!["d/", "d/f=1", "x/"]], manner);
    let tree = bed.tree();
    let listed = |tree: &crate::merged::Tree, path: &str| {
        let names = tree.read_dir(path).unwrap();
        let [entry] = names.as_slice() else { panic!("{names:?}") };
        (entry.ino(), tree.metadata(format!("{path}/n")).unwrap().ino())
    };
    let before = tree.metadata("d").unwrap().ino();
    tree.rename("d", "x/n").unwrap();
    assert_eq!(listed(&tree, "x"), (before, before));
    drop(tree);
    assert_eq!(listed(&bed.tree(), "x"), (before, before));
}

#[test]
fn a_broken_hard_link_has_a_number_of_its_own() {
    let bed = bed(&["f=1", "g<>f"]);
    let tree = bed.tree();
    let number = |path| tree.metadata(path).unwrap().ino();
    assert_eq!(number("f"), number("g"));
    let handle = tree.open("f").unwrap();
    tree.set_permissions("f", 0o600).unwrap();
    tree.set_permissions("g", 0o600).unwrap();
    assert_ne!(number("f"), number("g"));
    assert_eq!(handle.metadata().unwrap().ino(), number("f"));
}

#[test]
fn files_in_closed_directories_are_copied_up() {
    let bed = bed(&["d/", "d/e/", "d/e/f=1", "d/e^555", "d^555"]);
    let tree = bed.tree();
    tree.set_permissions("d/e/f", 0o600).unwrap();
    tree.write("d/e/f", "2").unwrap();
    for path in ["upper/d", "upper/d/e"] {
        let found = bed.path(path).metadata().unwrap();
        assert_eq!(found.mode() & 0o777, 0o555);
        assert!(found.mtime() < 1_100_000_000);
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(bed.path(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for path in ["lower0/d", "lower0/d/e"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(bed.path(path), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn directories_that_overlap_or_are_in_use_are_refused() {
    let bed = bed(&["f=1"]);
    let dir = |name: &str| crate::Dir::open_ambient(bed.path(name)).unwrap();
    std::fs::create_dir(bed.path("upper/inner")).unwrap();
    let options = bed.manner.options();
    let open = |upper: &str, work: &str| {
        crate::merged::Tree::writable(vec![dir("lower0")], dir(upper), dir(work), &options)
    };
    for (upper, work) in [("upper", "upper"), ("upper", "upper/inner"), ("upper/inner", "upper")] {
        assert_eq!(open(upper, work).unwrap_err().kind(), crate::ErrorKind::InvalidInput);
    }
    let tree = open("upper", "work").unwrap();
    assert_eq!(open("upper", "work").unwrap_err().kind(), crate::ErrorKind::InUse);
    drop(tree);
    std::fs::create_dir_all(bed.path("work/work/incompat/volatile")).unwrap();
    assert_eq!(open("upper", "work").unwrap_err().raw_os_error(), Some(22));
}

#[test]
fn copy_up_keeps_holes_and_truncation_copies_nothing() {
    let bed = bed(&["f=", "g="]);
    for name in ["f", "g"] {
        let path = bed.path("lower0").join(name);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(1 << 40).unwrap();
    }
    let tree = bed.tree();
    tree.set_permissions("f", 0o600).unwrap();
    let upper = bed.path("upper/f").metadata().unwrap();
    assert_eq!((upper.len(), upper.blocks()), (1 << 40, 0));
    let file = tree.open_with("g", OpenOptions::new().write(true).truncate(true)).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
}

/// Readers see the whole old file or the whole new one, while others copy it up and replace it.
#[test]
fn readers_see_the_old_or_the_new() {
    const LENGTH: usize = 300_000;
    for round in 0..cases() / 8 + 1 {
        let bed = bed(&["d/", "d/f="]);
        #[expect(clippy::disallowed_methods, reason = "a test makes its layers by path")]
        std::fs::write(bed.path("lower0/d/f"), vec![b'a'; LENGTH]).unwrap();
        let tree = bed.tree();
        tree.write("new", vec![b'b'; LENGTH]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            let data = tree.read("d/f").unwrap();
                            assert_eq!(data.len(), LENGTH);
                            assert!(data.iter().all(|&byte| byte == data[0]));
                            assert!(tree.metadata("d/f").unwrap().len() == LENGTH as u64);
                        }
                    })
                })
                .collect();
            let changers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| tree.set_permissions("d/f", 0o600).unwrap()))
                .collect();
            changers.into_iter().for_each(|thread| thread.join().unwrap());
            if round % 2 == 0 {
                tree.rename("new", "d/f").unwrap();
            }
            done.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let work = std::fs::read_dir(bed.path("work/work")).unwrap().count();
        assert_eq!(work, 0, "something was left in the WorkDir");
    }
}

#[test]
fn many_writers_copy_a_file_up_once() {
    for _ in 0..cases() / 4 + 1 {
        let bed = bed(&["d/", "d/e/", "d/e/f=start"]);
        let tree = bed.tree();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let tree = &tree;
                scope.spawn(move || {
                    let text = number.to_string();
                    tree.run(&Op::Append("d/e/f".to_owned(), text)).unwrap();
                    tree.create_dir(format!("d/e/{number}"), 0o755).unwrap();
                });
            }
        });
        let mut text = tree.read("d/e/f").unwrap();
        assert_eq!(text.len(), 13);
        text[5..].sort_unstable();
        assert_eq!(text, b"start01234567");
        assert_eq!(tree.read_dir("d/e").unwrap().len(), 9);
    }
}

/// Threads that create, rename and remove in each other's way end without error or deadlock, and
/// what they leave is what the next tree finds.
#[test]
fn threads_in_each_others_way() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    for _ in 0..cases() / 4 + 1 {
        let lines = super::machine::layer().new_tree(&mut runner).unwrap().current();
        let bed = Bed::new(&[lines], Manner::plain());
        let before = bed.lowers();
        let tree = bed.tree();
        let plans: Vec<Vec<Op>> = (0..4)
            .map(|_| {
                let ops = prop::collection::vec(super::machine::op(), 40..41);
                ops.new_tree(&mut runner).unwrap().current()
            })
            .collect();
        std::thread::scope(|scope| {
            for ops in &plans {
                scope.spawn(|| ops.iter().for_each(|op| drop(tree.run(op))));
            }
        });
        let shown = super::bed::merged(&tree);
        drop(tree);
        assert_eq!(shown, super::bed::merged(&bed.tree()));
        assert_eq!(bed.lowers(), before);
    }
}

#[test]
fn one_directory_does_not_wait_for_another() {
    let bed = bed(&["a/", "a/f=1", "b/", "b/f=1"]);
    let tree = bed.tree();
    let node = tree.core.resolve(b"a", super::super::path::Follow::Last).unwrap();
    let held = node.change_names([]).unwrap();
    tree.write("b/f", "2").unwrap();
    tree.write("b/g", "3").unwrap();
    tree.remove_file("b/f").unwrap();
    drop(held);
}

#[test]
fn a_hundred_thousand_names() {
    let bed = bed(&["d/"]);
    let dir = bed.path("lower0/d");
    for number in 0..100_000 {
        std::os::unix::fs::symlink("x", dir.join(number.to_string())).unwrap();
    }
    let tree = bed.tree();
    tree.remove_file("d/500").unwrap();
    tree.write("d/new", "").unwrap();
    assert_eq!(tree.read_dir("d").unwrap().len(), 100_000);
}

#[test]
fn a_read_only_tree_refuses_every_change() {
    let bed = bed(&["f=1", "d/"]);
    let lower = vec![crate::Dir::open_ambient(bed.path("lower0")).unwrap()];
    let tree = crate::merged::Tree::read_only(lower, &bed.manner.options()).unwrap();
    let s = str::to_owned;
    for op in [
        Op::Write(s("f"), s("x")),
        Op::Mkdir(s("n"), 0o755),
        Op::Unlink(s("f")),
        Op::Rmdir(s("d")),
        Op::Rename(s("f"), s("g"), RenameMode::Replace),
        Op::Chmod(s("f"), 0),
        Op::Truncate(s("f"), 0),
        Op::Link(s("f"), s("g")),
        Op::SetTimes(s("f"), 1),
        Op::Append(s("new"), s("")),
    ] {
        assert_eq!(tree.run(&op), Err(Errno::ROFS.raw_os_error()), "{op:?}");
    }
    assert_eq!(tree.read("f").unwrap(), b"1");
    assert_eq!(tree.canonicalize("/d/../../f").unwrap(), std::path::Path::new("/f"));
}

#[test]
fn whole_trees_are_made_and_removed() {
    let bed = bed(&["d/", "d/e/", "d/e/f=1", "d/l->e"]);
    let tree = bed.tree();
    tree.create_dir_all("d/e/x/y/z", 0o755).unwrap();
    tree.create_dir_all("d/l/x/y/z/", 0o755).unwrap();
    tree.write("d/e/x/y/file", "1").unwrap();
    tree.remove_dir_all("d").unwrap();
    assert!(tree.read_dir("/").unwrap().is_empty());
    tree.create_dir("d", 0o755).unwrap();
    assert!(tree.read_dir("d").unwrap().is_empty());
}

/// Directories with their parents, whatever is in the way.
#[test]
fn directories_are_made_as_the_standard_library_makes_them() {
    let lines = ["dangling->none", "loop->loop", "f=1", "d/", "l->d"];
    let (ours, theirs) = (bed(&lines), bed(&lines));
    let tree = ours.tree();
    let ends = ["", "/", "/x", "/x/y", "/..", "/.", "/x/../z"];
    for first in ["dangling", "loop", "f", "d", "l", "n"] {
        for path in ends.map(|end| format!("{first}{end}")) {
            let their = std::fs::create_dir_all(theirs.path("lower0").join(&path));
            let our = tree.create_dir_all(&path, 0o755);
            assert_eq!(
                our.map_err(|error| error.raw_os_error()),
                their.map_err(|error| error.raw_os_error()),
                "{path}"
            );
        }
    }
    tree.create_dir_all("", 0o755).unwrap();
    tree.create_dir_all("/", 0o755).unwrap();
    let names = |entries: std::fs::ReadDir| {
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for dir in ["", "d", "d/x", "n", "n/x"] {
        let our: Vec<_> = tree.read_dir(format!("/{dir}")).unwrap();
        let our: Vec<_> = our.iter().map(|entry| entry.file_name().to_owned()).collect();
        assert_eq!(
            our,
            names(std::fs::read_dir(theirs.path("lower0").join(dir)).unwrap()),
            "{dir}"
        );
    }
}

/// XFS lists ACLs a second time, in a form of its own: no copy carries that to another file system.
#[test]
fn what_only_repeats_an_acl_is_not_copied_up() {
    if Manner::plain().namespace != crate::Namespace::Trusted {
        // Only the privileged see such names at all.
        return;
    }
    let probe = tempfile::NamedTempFile::new().unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::fsetxattr(&probe, c"trusted.SGI_ACL_FILE", b"x", flags).is_err() {
        // XFS, whose own they are, takes nothing there that is no access list.
        return;
    }
    let lines = ["f=1", "f%trusted.SGI_ACL_FILE=x", "d/", "d%trusted.SGI_ACL_DEFAULT=x", "d/g=1"];
    let bed = bed(&lines);
    let tree = bed.tree();
    for path in ["f", "d/g"] {
        tree.set_permissions(path, 0o600).unwrap();
    }
    drop(tree);
    let upper = bed.raw("upper").concat();
    assert!(upper.contains("origin") && !upper.contains("SGI_ACL"), "{upper}");
}
