//! What takes the place of something else in one step.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::bed::{Bed, Manner};
use super::faults::left;
use crate::error::Result;
use crate::inode::Device;
use crate::merged::{EntryKind, Options, Tree};
use crate::{Dir, Namespace};

fn bed() -> Bed {
    let lines = ["d/", "d/f=old", "d/g<>d/f", "d/l->f", "d/w=old", "e/", "e/f=old", "s/", "s^2755"];
    Bed::new(&[lines.to_vec()], Manner::plain())
}

/// With files of no name, and as where the file system has none.
fn trees(test: impl Fn(&Bed, &Tree)) -> Vec<(Bed, Tree)> {
    let both = [true, false].map(|has_unnamed| {
        let bed = bed();
        let tree = bed.tree();
        let upper = tree.core.upper.as_ref().unwrap();
        upper.has_unnamed.fetch_and(has_unnamed, Ordering::Relaxed);
        test(&bed, &tree);
        // What lies in the WorkDir still are whiteouts, to be linked.
        for entry in std::fs::read_dir(bed.path("work/work")).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.file_type().unwrap().is_char_device(), "{entry:?}");
        }
        (bed, tree)
    });
    both.into()
}

fn fails<T>(result: Result<T>, errno: Errno) {
    assert_eq!(result.err().unwrap().raw_os_error(), Some(errno.raw_os_error()));
}

#[test]
fn a_new_file_is_seen_once_it_is_whole() {
    let done = trees(|bed, tree| {
        tree.remove_file("d/w").unwrap();
        tree.write("up", "old").unwrap();
        // What hands something on is copied up when the file is begun.
        tree.set_permissions("s", 0o2755).unwrap();
        for path in ["d/f", "d/f", "d/new", "d/w", "d/l", "s/in", "up"] {
            let path = Path::new(path);
            let old = tree.open(path).ok();
            let before = (tree.read(path).ok(), bed.raw("upper"));
            let dropped = tree.prepare(path).unwrap();
            dropped.file().write_at(b"half", 0).unwrap();
            drop(dropped);
            let prepared = tree.prepare(path).unwrap();
            prepared.file().write_at(b"new", 0).unwrap();
            let node = prepared.node();
            node.set_permissions(0o640).unwrap();
            assert_eq!((tree.read(path).ok(), bed.raw("upper")), before, "{path:?}");
            prepared.put().unwrap();
            assert_eq!(tree.read(path).unwrap(), b"new", "{path:?}");
            let found = tree.symlink_metadata(path).unwrap();
            assert_eq!(found.ino(), node.metadata().unwrap().ino(), "{path:?}");
            assert_eq!((found.mode() & 0o7777, found.nlink()), (0o640, 1), "{path:?}");
            assert_eq!(tree.node(path).unwrap().id(), node.id(), "there is one node of it");
            let group = tree.metadata(path.parent().unwrap().join(".")).unwrap().gid();
            assert!(!path.starts_with("s") || found.gid() == group);
            let mut text = [0; 3];
            if let Some(old) = old {
                // `d/l` led to what is new by then.
                old.read_at(&mut text, 0).unwrap();
                assert!(&text == b"old" || path != Path::new("up"), "{path:?}");
            }
        }
        assert_eq!(tree.read("d/g").unwrap(), b"old", "the other name of the file below stays");
    });
    for (bed, tree) in done {
        left("a_new_file_is_seen_once_it_is_whole", &bed, tree);
    }
}

#[test]
fn a_new_file_that_gets_no_name_leaves_nothing() {
    trees(|bed, tree| {
        let before = bed.raw("upper");
        fails(tree.prepare(Path::new("d")).unwrap().put(), Errno::ISDIR);
        fails(tree.prepare(Path::new("none/f")), Errno::NOENT);
        fails(tree.prepare(Path::new("/")), Errno::ISDIR);
        assert_eq!(bed.raw("upper"), before, "nothing was copied up");
        let late = tree.prepare(Path::new("e/f")).unwrap();
        tree.remove_dir_all("e").unwrap();
        fails(late.put(), Errno::NOENT);
        let lower = vec![Dir::open_ambient(bed.path("lower0")).unwrap()];
        let read_only = Tree::read_only(lower, &Options::new(Namespace::User)).unwrap();
        fails(read_only.prepare(Path::new("d/f")), Errno::ROFS);
        fails(read_only.put_symlink(b"x", Path::new("d/f")), Errno::ROFS);
        fails(read_only.put_link(Path::new("d/f"), Path::new("d/x")), Errno::ROFS);
    });
}

#[test]
fn symlinks_nodes_and_hard_links_take_the_place_of_files() {
    let done = trees(|_, tree| {
        tree.remove_file("d/w").unwrap();
        tree.write("up", "up").unwrap();
        let shown = |path: &str| tree.symlink_metadata(path).unwrap();
        for path in ["d/f", "d/new", "d/w", "d/l", "up"] {
            let at = Path::new(path);
            tree.put_symlink(b"target", at).unwrap();
            assert_eq!(tree.read_link(path).unwrap(), Path::new("target"));
            tree.put_node(at, EntryKind::Fifo, Device::ZERO).unwrap();
            assert_eq!(shown(path).kind(), EntryKind::Fifo);
            tree.put_link(Path::new("d/g"), at).unwrap();
            tree.put_link(Path::new("d/g"), at).unwrap();
            tree.put_link(at, at).unwrap();
            assert_eq!(
                (shown(path).ino(), tree.read(path).unwrap()),
                (shown("d/g").ino(), b"old".to_vec())
            );
        }
        assert_eq!(shown("d/g").nlink(), 6);
        fails(tree.put_symlink(b"x", Path::new("d")), Errno::ISDIR);
        fails(tree.put_node(Path::new("up"), EntryKind::CharDevice, Device::ZERO), Errno::PERM);
        fails(tree.put_link(Path::new("d"), Path::new("up")), Errno::PERM);
        fails(tree.put_link(Path::new("none"), Path::new("up")), Errno::NOENT);
        assert_eq!(tree.read("up").unwrap(), b"old");
    });
    for (bed, tree) in done {
        left("symlinks_nodes_and_hard_links_take_the_place_of_files", &bed, tree);
    }
}
