//! Directories that turn into symlinks while the tree is used: no way leads outside.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};

use super::backend::{Backend, Op};
use super::bed::{Bed, Manner};
use super::machine::cases;
use crate::Dir;
use crate::merged::{RenameMode, Tree};

/// What nobody who uses the tree may read or change.
fn make_outside(bed: &Bed) {
    std::fs::create_dir(bed.path("outside")).unwrap();
    std::fs::create_dir(bed.path("outside/e")).unwrap();
    for name in ["outside/f", "outside/e/f"] {
        #[expect(clippy::disallowed_methods, reason = "a test makes what is outside by path")]
        std::fs::write(bed.path(name), "SECRET").unwrap();
    }
}

/// Every way to look into a path or to change it.
fn attempts(number: u32) -> Vec<Op> {
    let s = str::to_owned;
    let mut ops = Vec::new();
    for path in ["d/f", "d/e/f", "l/f", "l/../d/f"] {
        ops.extend([Op::Read(s(path)), Op::Stat(s(path)), Op::Chmod(s(path), 0o600)]);
        ops.extend([Op::Append(s(path), s("x")), Op::SetTimes(s(path), 5)]);
        ops.push(Op::SetXattr(s(path), s("user.a"), s("1"), crate::merged::XattrMode::Set));
        ops.extend([Op::Link(s(path), format!("n{number}")), Op::Truncate(s(path), 1)]);
        ops.push(Op::Rename(s(path), format!("m{number}"), RenameMode::Replace));
        ops.extend([Op::Unlink(s(path)), Op::Write(s(path), s("inside"))]);
    }
    for path in ["d", "d/e", "l"] {
        ops.extend([Op::ReadDir(s(path)), Op::Mkdir(format!("{path}/new"), 0o755)]);
        ops.extend([Op::Rmdir(format!("{path}/new")), Op::Write(format!("{path}/f"), s("inside"))]);
    }
    ops
}

fn check_outside(bed: &Bed, said: &[String]) {
    for name in ["outside/f", "outside/e/f"] {
        assert_eq!(std::fs::read(bed.path(name)).unwrap(), b"SECRET", "{name}");
        let found = bed.path(name).metadata().unwrap();
        assert_eq!((found.nlink(), found.mode() & 0o777), (1, 0o644), "{name}");
        assert!(found.mtime() > 1_500_000_000, "{name}");
    }
    let names = |path: &str| std::fs::read_dir(bed.path(path)).unwrap().count();
    assert_eq!((names("outside"), names("outside/e")), (2, 1));
    assert!(said.iter().all(|text| !text.contains("SECRET")), "{said:?}");
}

/// Somebody exchanges directories of the layers for links to the outside, again and again.
#[test]
fn layers_that_change_underneath_lead_nowhere_else() {
    let lines = ["d/", "d/f=inside", "d/e/", "d/e/f=inside", "l->d"];
    let bed = Bed::new(&[lines.to_vec(), lines.to_vec()], Manner::plain());
    make_outside(&bed);
    let tree = bed.tree();
    tree.set_permissions("d/e/f", 0o600).unwrap();
    drop(tree);
    let swapped: Vec<_> = ["upper/d", "lower0/d", "lower1/d", "upper/d/e", "lower0/d/e"]
        .iter()
        .enumerate()
        .map(|(index, path)| {
            let outside = if path.ends_with('e') { "outside/e" } else { "outside" };
            let link = bed.path(&format!("link{index}"));
            std::os::unix::fs::symlink(bed.path(outside), &link).unwrap();
            // By the directory itself: the path to it may lead outside meanwhile.
            let (parent, name) = path.rsplit_once('/').unwrap();
            (Dir::open_ambient(bed.path(parent)).unwrap(), name, link)
        })
        .collect();
    let done = AtomicBool::new(false);
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (parent, name, link) in &swapped {
                    let flags = RenameFlags::EXCHANGE;
                    let _ = rustix::fs::renameat_with(parent, *name, CWD, link, flags);
                }
            }
        });
        let is_read = |said: &[String]| said.iter().any(|text| text.contains("inside"));
        for number in 0..100 * cases() {
            // Few are enough only if the scheduler let both sides have their turns.
            if number >= cases() && is_read(&said) {
                break;
            }
            let dir = |name: &str| Dir::open_ambient(bed.path(name)).unwrap();
            let (lowers, options) = (vec![dir("lower0"), dir("lower1")], bed.manner.options());
            // What a living tree remembers of the names would hide the exchanges.
            let Ok(tree) = Tree::writable(lowers, dir("upper"), dir("work"), &options) else {
                continue;
            };
            said.extend(attempts(number).iter().filter_map(|op| tree.run(op).ok()));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(said.iter().any(|text| text.contains("inside")), "nothing was ever read");
    check_outside(&bed, &said);
}

/// The same by those who use the tree: a link to the outside is one to the inside there.
#[test]
fn names_that_change_meanwhile_lead_nowhere_else() {
    let bed = Bed::new(&[vec!["d/", "d/f=inside", "d/e/", "d/e/f=inside"]], Manner::plain());
    make_outside(&bed);
    let tree = bed.tree();
    tree.create_dir("own", 0o755).unwrap();
    tree.create_dir("own/e", 0o755).unwrap();
    tree.write("own/f", "inside").unwrap();
    tree.symlink(bed.path("outside"), "away").unwrap();
    tree.symlink("../../../../..", "l").unwrap();
    let done = AtomicBool::new(false);
    let mut said = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(tree.rename_with("own", "away", RenameMode::Exchange));
                // A moment in which another gets hold of the directory.
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        let is_read = |said: &[String]| said.iter().any(|text| text.contains("inside"));
        for number in 0..100 * cases() {
            if number >= cases() && is_read(&said) {
                break;
            }
            said.extend(attempts(number).iter().filter_map(|op| tree.run(op).ok()));
            for path in ["own/f", "away/f", "away/e/f"] {
                said.extend(tree.run(&Op::Read(path.to_owned())).ok());
                said.extend(tree.run(&Op::Append(path.to_owned(), "x".to_owned())).ok());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(said.iter().any(|text| text.contains("inside")), "nothing was ever read");
    check_outside(&bed, &said);
}

/// Threads that copy up the same deep directory at once, while others remove and make names in the
/// middle of it: nobody waits for another for ever, and all that was written is there.
#[test]
fn a_deep_directory_is_copied_up_by_many_at_once() {
    let mut lines: Vec<String> = (1..=8)
        .map(|depth| {
            format!("{}/", (0..depth).map(|at| at.to_string()).collect::<Vec<_>>().join("/"))
        })
        .collect();
    let deepest = lines.last().unwrap().clone();
    lines.extend(["0/1/2/x/", "0/1/2/3/4/x/"].map(str::to_owned));
    lines.extend((0..4).map(|number| format!("{deepest}{number}=lower")));
    for _ in 0..cases().min(50) {
        let bed = Bed::new(&[lines.clone()], Manner::plain());
        let tree = bed.tree();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (tree, path) = (&tree, format!("{deepest}{number}"));
                scope.spawn(move || tree.run(&Op::Append(path, "+".to_owned())).unwrap());
            }
            for path in ["0/1/2/x", "0/1/2/3/4/x"] {
                let tree = &tree;
                scope.spawn(move || {
                    tree.remove_dir(path).unwrap();
                    tree.create_dir(path, 0o755).unwrap();
                });
            }
        });
        for number in 0..4 {
            assert_eq!(tree.read(format!("{deepest}{number}")).unwrap(), b"lower+");
        }
        for path in ["0/1/2/x", "0/1/2/3/4/x"] {
            assert!(tree.read_dir(path).unwrap().is_empty());
        }
        // But for the whiteout that others are links to.
        let left: Vec<_> = std::fs::read_dir(bed.path("work/work")).unwrap().collect();
        assert!(left.len() <= 1, "{left:?}");
    }
}
