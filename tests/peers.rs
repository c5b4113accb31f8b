//! What `save` and `commit` write, given to the programs that others use.
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
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::image::layout_of_tar;
use common::need::{self, Lack};
use common::store::{Podman, Scratch};
use common::{Compression, Layer, Manifest, Store, TestImage};
use serde_json::Value;

const NAME: &str = "peers.test/app:latest";
const COMMITTED: &str = "peers.test/app:changed";

/// An image with one of each thing, deletions among them.
fn image() -> TestImage {
    let base = Layer::new()
        .root(0o755)
        .dir("etc", 0o755)
        .dir("etc/conf.d", 0o755)
        .file("etc/conf.d/one", 0o644, "1\n")
        .file("etc/conf.d/two", 0o600, "2\n")
        .dir("old", 0o755)
        .file("old/left", 0o644, "left\n")
        .dir("tmp", 0o1777)
        .owned_by(1000, 1000)
        .dir("srv", 0o750)
        .file("srv/main", 0o4755, vec![b'm'; 70_000])
        .hard_link("srv/alias", "srv/main", 0o4755)
        .symlink("srv/link", "../etc/conf.d")
        .fifo("srv/pipe", 0o622);
    let changes = Layer::new()
        .at(1_700_000_100)
        .dir("etc", 0o755)
        .dir("etc/conf.d", 0o755)
        .whiteout("etc/conf.d/one")
        .file("etc/conf.d/three", 0o644, "3\n")
        .dir("old", 0o700)
        .opaque("old")
        .file("old/fresh", 0o644, "fresh\n");
    TestImage::new(NAME).layer("ADD base", base).layer("RUN changes", changes).config("CMD sh")
}

/// A store with the image, and a commit on top of it with its tree.
fn committed() -> (Store, Manifest) {
    let store = Store::new();
    store.load(&image().write_oci(&store.scratch().join("image"), Compression::Gzip));
    let container = store.create(NAME);
    let merged = store.mount(&container);
    fs::write(merged.join("etc/conf.d/two"), "two\n").unwrap();
    fs::remove_file(merged.join("srv/alias")).unwrap();
    fs::remove_dir_all(merged.join("old")).unwrap();
    fs::create_dir(merged.join("old")).unwrap();
    fs::write(merged.join("old/newest"), "newest\n").unwrap();
    symlink("newest", merged.join("old/link")).unwrap();
    fs::hard_link(merged.join("old/newest"), merged.join("old/second")).unwrap();
    fs::set_permissions(merged.join("tmp"), PermissionsExt::from_mode(0o1770)).unwrap();
    store.ok(["unmount", &container]);
    let id = store.ok(["commit", &container, COMMITTED]);
    assert_eq!(store.inspect(COMMITTED)["Id"], id);
    store.ok(["rm", &container]);
    let tree = Manifest::of(&store.mount(&store.create(COMMITTED)));
    (store, tree)
}

/// An image saved in both forms: OCI layout as a tar, docker-archive.
fn saved(store: &Store, name: &str) -> [(&'static str, PathBuf); 2] {
    let stem = name.rsplit(':').next().unwrap();
    let file = |kind: &str| store.scratch().join(format!("{stem}-{kind}.tar"));
    let (oci, docker) = (file("oci"), file("docker"));
    store.ok(["save", name, "-o", oci.to_str().unwrap()]);
    store.ok(["save", name, "--format-archive", "docker", "-o", docker.to_str().unwrap()]);
    [("oci-archive", oci), ("docker-archive", docker)]
}

/// A program of the family that shares `containers/image`, with its state in a scratch folder.
fn skopeo(scratch: &Path, args: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").arg("--tmpdir").arg(scratch).args(args);
    need::run(command.env("HOME", scratch).env("XDG_RUNTIME_DIR", scratch))
}

#[test]
fn skopeo_inspects_and_copies_what_save_and_commit_wrote() {
    require_tool!("skopeo");
    sandbox!();
    let (store, _) = committed();
    for name in [NAME, COMMITTED] {
        for (transport, file) in saved(&store, name) {
            let source = format!("{transport}:{}", file.display());
            let shown: Value =
                serde_json::from_str(&skopeo(store.scratch(), &["inspect", &source])).unwrap();
            assert_eq!(shown["Os"], "linux", "{shown}");
            assert_eq!(shown["Layers"].as_array().unwrap().len(), store.diff_ids(name).len());

            // A copy reads every blob and verifies its digest; the copy is loaded back.
            let out = Scratch::new();
            let layout = out.path().join("layout");
            let target = format!("oci:{}:copied", layout.display());
            skopeo(store.scratch(), &["copy", "-q", &source, &target]);
            let again = Store::new();
            let loaded = again.load(&layout);
            assert_eq!(again.diff_ids(&loaded), store.diff_ids(name), "{source}");
        }
    }
}

#[test]
fn umoci_unpacks_the_same_tree() {
    require_tool!("umoci");
    sandbox!();
    let (store, tree) = committed();
    let [(_, oci), _] = saved(&store, COMMITTED);
    let layout = layout_of_tar(&oci, &store.scratch().join("layout"));
    let tags = need::run(Command::new("umoci").args(["ls", "--layout"]).arg(&layout));
    let tag = tags.lines().next().unwrap_or_else(|| panic!("umoci ls shows no tag"));
    let bundle = store.scratch().join("bundle");
    let image = format!("{}:{tag}", layout.display());
    need::run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    // Where the kernel shows names that are deleted, unpacking deletes them.
    let unpacked = Manifest::of(&bundle.join("rootfs")).with_visible_links();
    unpacked.assert_is(&tree.with_visible_links());
}

#[test]
fn podman_loads_and_mounts_the_same_tree() {
    require_tool!("podman");
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("podman as a plain user makes a user namespace of its own")
    );
    let (store, tree) = committed();
    for (transport, file) in saved(&store, COMMITTED) {
        let podman = Podman::new();
        let printed = podman.run(&["load", "-q", "-i", file.to_str().unwrap()]);
        let name = printed.rsplit(' ').next().unwrap();
        assert!(printed.contains("Loaded image"), "{transport}: {printed}");
        let mounted = PathBuf::from(podman.run(&["image", "mount", name]));
        // Root directories are 0555 there, whatever the changesets say.
        Manifest::of(&mounted).without_root().assert_is(&tree.clone().without_root());
        podman.run(&["image", "unmount", name]);
        let shown: Value = serde_json::from_str(&podman.run(&["inspect", name])).unwrap();
        assert_eq!(shown[0]["RootFS"]["Layers"], serde_json::json!(store.diff_ids(COMMITTED)));
    }
}
