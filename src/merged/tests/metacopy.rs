//! Files of which the kernel copied up the attributes alone, and that have several names.

use super::backend::{Backend, Op};
use super::bed::{Bed, Manner, merged, same};
use super::machine::{can_mount_trusted, cases};
use crate::Namespace;
use crate::merged::{OpenOptions, Redirects};

fn s(text: &str) -> String {
    text.to_owned()
}

/// A bed in whose UpperDir the kernel left `f` and `g`, one file without its data.
fn linked(lines: &[&str]) -> Bed {
    let manner = Manner { namespace: Namespace::Trusted, redirects: Redirects::Write };
    let bed = Bed::new(&[vec![], lines.to_vec()], manner);
    let mounted = bed.mount_with("on", "on").unwrap();
    mounted.run(&Op::Chmod(s("f"), 0o700)).unwrap();
    mounted.run(&Op::Link(s("f"), s("g"))).unwrap();
    drop(mounted);
    let upper = bed.raw("upper").join("\n");
    assert_eq!(upper.matches("metacopy").count(), 2, "{upper}");
    bed
}

#[test]
fn what_is_written_by_one_name_is_read_by_the_other() {
    let test = "what_is_written_by_one_name_is_read_by_the_other";
    if !can_mount_trusted(test) {
        return;
    }
    let (ours, theirs) = (linked(&["f=0123456789"]), linked(&["f=0123456789"]));
    let (tree, mounted) = (ours.tree(), theirs.mount_with("on", "on").unwrap());
    let early = tree.open("g").unwrap();
    let mut text = [0; 10];
    early.read_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"0123456789");
    for op in [Op::Patch(s("f"), 0, s("NEW")), Op::Read(s("g")), Op::Append(s("g"), s("!"))] {
        assert_eq!(tree.run(&op), mounted.run(&op), "{op:?}");
        early.read_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"NEW3456789", "{op:?}");
    }
    assert_eq!(tree.read("f").unwrap(), b"NEW3456789!");
    same("the merged tree", &merged(&tree), &merged(&mounted)).unwrap();
    drop((tree, mounted, early));
    same("the next tree", &merged(&ours.tree()), &merged(&theirs.tree())).unwrap();
    assert_eq!(ours.tree().read("g").unwrap(), b"NEW3456789!");
}

#[test]
fn a_file_gets_its_data_once_whoever_writes() {
    const LENGTH: usize = 1 << 20;
    if !can_mount_trusted("a_file_gets_its_data_once_whoever_writes") {
        return;
    }
    for _ in 0..cases() / 8 + 1 {
        let bed = linked(&[&format!("f={}", "-".repeat(LENGTH))]);
        let tree = bed.tree();
        let held = ["f", "g"].map(|name| tree.root().lookup(name).unwrap());
        std::thread::scope(|scope| {
            for (at, node) in (0..8).zip(held.iter().cycle()) {
                scope.spawn(move || {
                    let file = node.open(OpenOptions::new().write(true)).unwrap();
                    file.write_at(b"x", at).unwrap();
                });
            }
        });
        for name in ["f", "g"] {
            let data = tree.read(name).unwrap();
            assert_eq!((&data[..9], data.len()), (&b"xxxxxxxx-"[..], LENGTH), "{name}");
        }
    }
}

#[test]
fn data_that_is_brought_up_takes_no_capability_away() {
    if !can_mount_trusted("data_that_is_brought_up_takes_no_capability_away") {
        return;
    }
    let capability = "f%security.capability=\u{1}\0\0\u{2}\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let (ours, theirs) = (linked(&["f=data", capability]), linked(&["f=data", capability]));
    let (tree, mounted) = (ours.tree(), theirs.mount_with("on", "on").unwrap());
    let get = Op::GetXattr(s("g"), s("security.capability"));
    for op in [Op::OpenWrite(s("f")), Op::ListXattrs(s("g")), get] {
        assert_eq!(tree.run(&op), mounted.run(&op), "{op:?}");
    }
    assert!(!ours.raw("upper").join("\n").contains("metacopy"));
    assert!(tree.xattr("g", "security.capability").unwrap().is_some());
}

#[test]
fn the_room_that_is_told_is_that_of_the_data() {
    use std::os::unix::fs::MetadataExt;
    if !can_mount_trusted("the_room_that_is_told_is_that_of_the_data") {
        return;
    }
    let bed = linked(&[&format!("f={}", "-".repeat(100_000))]);
    let below = bed.path("lower1/f").metadata().unwrap().blocks();
    let mounted = bed.mount_with("on", "on").unwrap();
    let flags = rustix::fs::AtFlags::empty();
    let kernel = rustix::fs::statat(&mounted.0, "f", flags).unwrap().st_blocks;
    drop(mounted);
    assert_eq!(u64::try_from(kernel).unwrap(), below);
    let tree = bed.tree();
    assert_eq!(tree.metadata("f").unwrap().blocks(), below);
    assert_eq!(tree.open("g").unwrap().metadata().unwrap().blocks(), below);
}
