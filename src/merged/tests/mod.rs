//! The same behaviour on the kernel's overlayfs and on the userspace tree.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "compiled for tests and fuzzing alone"
)]
#![cfg_attr(not(test), allow(dead_code, reason = "what only other tests use"))]

mod backend;
mod bed;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod environments;
#[cfg(test)]
mod faults;
pub(crate) mod fuzz;
#[cfg(test)]
mod handles;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod metacopy;
mod model;
#[cfg(test)]
mod races;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod replaced;
#[cfg(test)]
mod rows;
#[cfg(test)]
mod scene;

#[cfg(test)]
pub(crate) use scene::{Scene, random_scenes};

/// Whether a test that this machine cannot run may be left out.
#[cfg(test)]
fn skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    assert!(
        std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"),
        "{test} could not run: {reason}"
    );
}

/// Owners and devices that a plain user may not make are kept, shown, and survive a copy-up.
#[test]
fn owners_and_devices_are_recorded() {
    use crate::merged::{EntryKind, Options, Ownership, Tree};
    use crate::{Device, Dir, Namespace};
    if rustix::process::geteuid().is_root() {
        // Tested where the whole is run again without privilege.
        return;
    }
    let manner = bed::Manner::plain();
    let lines = ["f=1", "f%user.containers.override_stat=7:8:0640:file", "g=2", "d/"];
    let bed = bed::Bed::new(&[lines.to_vec()], manner);
    let open = || {
        let dir = |name| Dir::open_ambient(bed.path(name)).unwrap();
        let options = Options::new(Namespace::User).ownership(Ownership::Recorded);
        Tree::writable(vec![dir("lower0")], dir("upper"), dir("work"), &options).unwrap()
    };
    let tree = open();
    let shown = |tree: &Tree, path: &str| {
        let found = tree.metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode(), found.kind(), found.device())
    };
    let zero = Device::ZERO;
    assert_eq!(shown(&tree, "f"), (7, 8, 0o640, EntryKind::Regular, zero));
    assert_eq!(tree.xattr_names("f").unwrap(), Vec::<Vec<u8>>::new());
    tree.write("f", "new").unwrap();
    tree.chown("g", Some(0), Some(5)).unwrap();
    tree.set_permissions("g", 0o4755).unwrap();
    tree.chown("d", Some(0), None).unwrap();
    let null = Device { major: 1, minor: 3 };
    tree.mknod("null", EntryKind::CharDevice, 0o666, null).unwrap();
    tree.remove_file("g").unwrap();
    tree.mknod("g", EntryKind::BlockDevice, 0o600, Device { major: 8, minor: 1 }).unwrap();
    tree.chown("null", Some(0), Some(0)).unwrap();
    drop(tree);
    let tree = open();
    assert_eq!(shown(&tree, "f"), (7, 8, 0o640, EntryKind::Regular, zero));
    assert_eq!(shown(&tree, "d").0, 0);
    assert_eq!(shown(&tree, "null"), (0, 0, 0o666, EntryKind::CharDevice, null));
    assert_eq!(shown(&tree, "g").3, EntryKind::BlockDevice);
    let kinds: Vec<_> = tree.read_dir("/").unwrap().iter().map(|entry| entry.kind()).collect();
    let (dir, file) = (EntryKind::Directory, EntryKind::Regular);
    assert_eq!(kinds, [dir, file, EntryKind::BlockDevice, EntryKind::CharDevice]);
    assert_eq!(tree.read("null").unwrap_err().raw_os_error(), Some(6));
}

/// The attribute with the record is as though it were not there, and an ACL changes what is recorded.
#[test]
fn records_are_hidden_and_kept_true() {
    use crate::merged::{Options, Ownership, Tree, XattrMode};
    use crate::{Dir, Namespace};
    const RECORD: &str = "user.containers.override_stat";
    let manner = bed::Manner { namespace: Namespace::User, ..bed::Manner::plain() };
    let lines = ["f=1", "f%user.containers.override_stat=7:8:4640:file", "g=2"];
    let bed = bed::Bed::new(&[lines.to_vec()], manner);
    let dir = |name| Dir::open_ambient(bed.path(name)).unwrap();
    let options = Options::new(Namespace::User).ownership(Ownership::Recorded);
    let tree = Tree::writable(vec![dir("lower0")], dir("upper"), dir("work"), &options).unwrap();
    for (path, mode, refusal) in [
        ("f", XattrMode::Set, 1),
        ("f", XattrMode::Create, 1),
        ("f", XattrMode::Replace, 61),
        ("g", XattrMode::Set, 1),
        ("g", XattrMode::Replace, 61),
    ] {
        let refused = tree.set_xattr(path, RECORD, "0:0:0777:file", mode).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(refusal), "{path} {mode:?}");
    }
    assert_eq!(tree.xattr("f", RECORD).unwrap(), None);
    assert_eq!(tree.remove_xattr("f", RECORD).unwrap_err().raw_os_error(), Some(61));
    assert_eq!(std::fs::read_dir(bed.path("upper")).unwrap().count(), 0);
    for mode in [XattrMode::Create, XattrMode::Replace] {
        tree.set_xattr("f", "user.own", "1", mode).unwrap();
    }
    assert_eq!(tree.xattr_names("f").unwrap(), [b"user.own"]);
    let shown = |tree: &Tree| {
        let found = tree.metadata("f").unwrap();
        (found.uid(), found.gid(), found.mode())
    };
    assert_eq!(shown(&tree), (7, 8, 0o4640));
    // The user namespace need not know any other user.
    let acl = rows::acl_with(rustix::process::geteuid().as_raw());
    tree.set_xattr("f", "system.posix_acl_access", acl, XattrMode::Set).unwrap();
    assert_eq!(shown(&tree), (7, 8, 0o4770));
}
