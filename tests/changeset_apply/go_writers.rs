//! What Go's archive/tar writes, by way of programs that pack layers with it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overlay2::{Compression, Dir};

use crate::run::{Scratch, Way, has, root, skip};
use crate::tree::{self, Tree};
use crate::writers::{Can, PAX, comparable, run, source};

/// What such a program keeps of a tree; times are whole seconds.
const GO: Can = Can { xattrs: true, nanos: false, linked_symlinks: false, ..PAX };

/// The blob of the only layer in an OCI layout that is as large as one, decompressed.
fn layer(layout: &Path) -> Vec<u8> {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let blobs: Vec<PathBuf> = blobs.map(|blob| blob.unwrap().path()).collect();
    let largest = blobs.iter().max_by_key(|blob| blob.metadata().unwrap().len()).unwrap();
    let blob = std::fs::read(largest).unwrap();
    let decoder = Compression::detect(&blob).decoder(&*blob);
    let mut bytes = Vec::new();
    decoder.unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Applies what was packed and compares it with the tree that was there.
fn is_kept(test: &str, bytes: &[u8], expected: &Tree) {
    let scratch = Scratch::new(Way::RootWithSide);
    let applied = scratch.apply(bytes).unwrap_or_else(|error| panic!("{test}: {error}"));
    assert_eq!(applied.unkept_count, 0, "{test}: {:?}", applied.unkept);
    let found = comparable(scratch.tree(), GO);
    for (path, node) in expected.iter().filter(|(path, _)| !path.is_empty()) {
        assert_eq!(found.get(path), Some(node), "{test}: {path}");
    }
    assert_eq!(found.len(), expected.len(), "{test}");
    assert!(scratch.reassembled() == bytes, "{test}: other bytes");
}

fn possible(test: &str, programs: &[&str]) -> bool {
    if !root(test) {
        return false;
    }
    let missing = programs.iter().find(|program| !has(program));
    if let Some(missing) = missing {
        skip(test, &format!("{missing} is not installed"));
    }
    missing.is_none()
}

/// Makes the tree to be packed, and tells what is packed of it.
fn filled(dir: &Path, loses: fn(&str) -> bool) -> Tree {
    source(dir, GO);
    let mut tree = comparable(tree::read(Dir::open_ambient(dir).unwrap()), GO);
    tree.values_mut().for_each(|node| node.xattrs.retain(|name, _| !loses(name)));
    tree
}

#[test]
fn umoci_repacks_a_bundle() {
    let test = "umoci_repacks_a_bundle";
    if !possible(test, &["umoci", "setfattr"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    run(place.path(), "umoci", &["init", "--layout", "image"]);
    run(place.path(), "umoci", &["new", "--image", "image:new"]);
    run(place.path(), "umoci", &["unpack", "--image", "image:new", "bundle"]);
    let rootfs = place.path().join("bundle/rootfs");
    let loses = |name: &str| name.starts_with("trusted.overlay.") || name == "user.empty";
    let expected = filled(&rootfs, loses);
    run(place.path(), "umoci", &["repack", "--image", "image:new", "bundle"]);
    let bytes = layer(&place.path().join("image"));
    assert!(!bytes.windows(10).any(|bytes| bytes == b"user.empty"), "{test}: it is in the tar");
    is_kept(test, &bytes, &expected);
}

/// buildah with storage of its own.
fn buildah(place: &Path, args: &[&str]) -> String {
    let output = Command::new("buildah")
        .arg("--root")
        .arg(place.join("root"))
        .arg("--runroot")
        .arg(place.join("run"))
        .args(["--storage-driver", "vfs"])
        .args(args)
        .env("HOME", place)
        .env("TMPDIR", place)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "buildah {args:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn buildah_commits_a_container() {
    let test = "buildah_commits_a_container";
    if !possible(test, &["buildah", "setfattr"]) {
        return;
    }
    let place = tempfile::Builder::new().prefix("o2-").tempdir_in("/tmp").unwrap();
    let container = buildah(place.path(), &["from", "scratch"]);
    let rootfs = PathBuf::from(buildah(place.path(), &["mount", &container]));
    let expected = filled(&rootfs, |name| name.starts_with("trusted."));
    buildah(place.path(), &["umount", &container]);
    let target = format!("oci:{}", place.path().join("image").display());
    buildah(place.path(), &["commit", "-q", &container, &target]);
    is_kept(test, &layer(&place.path().join("image")), &expected);
    buildah(place.path(), &["rm", &container]);
}
