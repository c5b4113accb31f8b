//! What may be opened, and what is left alone.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::sys::xattr::{self, Target};

#[test]
fn e84_what_is_no_store_is_left_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    std::fs::write(path.join("thesis.tex"), "precious").unwrap();
    refused(Store::open(path, &options()), ErrorKind::AlreadyExists, &["thesis.tex"]);
    assert_eq!(names_in(path), ["thesis.tex"]);
    let missing = path.join("missing");
    for access in [Access::Existing, Access::ReadOnly] {
        let opened = Store::open(&missing, &options().access(access));
        refused(opened, ErrorKind::NotFound, &["missing"]);
    }
    assert!(!missing.exists());
    std::fs::create_dir(&missing).unwrap();
    let opened = Store::open(&missing, &options().access(Access::Existing));
    refused(opened, ErrorKind::NotFound, &["no store"]);
    assert!(names_in(&missing).is_empty());
    // A file where the store's directory should be.
    assert!(Store::open(path.join("thesis.tex"), &options()).is_err());
}

#[test]
fn e84_a_newer_format_is_refused() {
    let scratch = scratch();
    let file = scratch.path().join("overlay2.json");
    let newer = std::fs::read_to_string(&file).unwrap();
    let newer = newer.replace("\"version\":1", "\"version\":2,\"future\":true");
    std::fs::write(&file, &newer).unwrap();
    let opened = Store::open(scratch.path(), &options());
    refused(opened, ErrorKind::Unsupported, &["version 2"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer);
    std::fs::write(&file, "{\"version\":").unwrap();
    refused(Store::open(scratch.path(), &options()), ErrorKind::Corrupt, &["overlay2.json"]);
}

#[test]
fn another_namespace_is_refused() {
    let scratch = scratch();
    let trusted = StoreOptions::new(Namespace::Trusted);
    let opened = Store::open(scratch.path(), &trusted);
    refused(opened, ErrorKind::InvalidInput, &["user.overlay", "trusted.overlay"]);
    let any = StoreOptions { namespace: None, ..options() };
    assert_eq!(Store::open(scratch.path(), &any).unwrap().namespace(), Namespace::User);
    let nowhere = scratch.temporary.path().join("other");
    refused(Store::open(nowhere, &any), ErrorKind::InvalidInput, &["namespace"]);
}

#[test]
fn a_store_that_was_half_made_is_completed() {
    let temporary = tempfile::tempdir().unwrap();
    for name in ["layers", "chains", "lost+found"] {
        std::fs::create_dir_all(temporary.path().join("store").join(name)).unwrap();
    }
    let first = open(temporary.path());
    assert_eq!(open(temporary.path()).id(), first.id());
    assert!(first.layers().unwrap().is_empty());
}

#[test]
fn e84_read_only_reads_and_writes_nothing() {
    let scratch = scratch();
    let id = image(&scratch, &["a"], "app:1");
    let container = scratch.create_container(&on_image(id, Some("web"))).unwrap().record().id;
    // Left by somebody who died.
    std::fs::create_dir(scratch.path().join("staging/layer.x")).unwrap();
    let store = Store::open(scratch.path(), &options().access(Access::ReadOnly)).unwrap();
    assert_eq!(scratch.names("staging"), ["layer.x"]);
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.find_container("web").unwrap().id, container);
    let chain = store.find_image("app:1").unwrap().record.chain.unwrap();
    let stack = store.stack(&chain).unwrap();
    assert!(store.find_layer(&stack[0].layer()).unwrap().is_some());
    let kind = ErrorKind::PermissionDenied;
    refused(store.stage_layer(), kind, &["read-only"]);
    refused(store.remove_image("app:1"), kind, &["read-only"]);
    refused(store.tag(&id, "x"), kind, &["read-only"]);
    refused(store.untag("app:1"), kind, &["read-only"]);
    refused(store.create_container(&empty(None)), kind, &["read-only"]);
    refused(store.remove_container(&container), kind, &["read-only"]);
    refused(store.remove_chain(&chain), kind, &["read-only"]);
    refused(store.empty_trash(&crate::Watch::new()), kind, &["read-only"]);
    let other = LayerKey::Diff(diff_id("x"));
    refused(store.try_reserve(&other), kind, &["read-only"]);
}

#[test]
fn e47_nobody_else_walks_into_the_store() {
    let scratch = scratch();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(scratch.path()), 0o700);
    for name in layout::TOP {
        assert_eq!(mode(&scratch.path().join(name)), 0o700, "{name}");
    }
}

/// `rwx` for everybody and for user 1, as a default ACL.
const DEFAULT_ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 1, 0, 0, 0, 4, 0, 7, 0, 255, 255, 255,
    255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255,
];

#[test]
fn e17_nothing_is_inherited_from_above() {
    let temporary = tempfile::tempdir().unwrap();
    let parent = Dir::open_ambient(temporary.path()).unwrap();
    std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o2777)).unwrap();
    let acl = b"system.posix_acl_default";
    if let Err(error) = xattr::set(Target::open(&parent), acl, DEFAULT_ACL) {
        eprintln!("SKIP e17_nothing_is_inherited_from_above: default ACL: {error}");
        assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
        return;
    }
    let store = open(temporary.path());
    let staging = store.stage_layer().unwrap();
    let container = store.create_container(&empty(None)).unwrap();
    for dir in [staging.dir(), &container.upper().unwrap()] {
        assert_eq!(dir.stat_self().unwrap().st_mode & 0o7777, 0o755);
        let names = xattr::list(Target::open(dir)).unwrap();
        assert!(!names.iter().any(|name| name.starts_with(b"system.posix_acl")), "{names:?}");
    }
    assert_eq!(std::fs::metadata(store.path()).unwrap().mode() & 0o7777, 0o700);
}
