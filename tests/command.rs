//! The command as a script sees it: exit statuses, where errors go, JSON, and that what fails
//! leaves nothing behind.
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
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::image::{Layout, Order, blob_path, tar_of_layout};
use common::need::{self, Lack};
use common::store::{Done, Scratch};
use common::{Compression, Layer, Manifest, Store, TestImage};
use serde_json::{Value, json};

const TINY: &str = "example.test/tiny:latest";

/// A store with an image of one file.
fn tiny() -> Store {
    let store = Store::new();
    let image = TestImage::tiny(TINY);
    assert_eq!(store.load(&image.write_oci(&store.scratch().join("tiny"), Compression::Raw)), TINY);
    store
}

/// Two layers, one of them of some size and hard to compress.
fn sizeable() -> TestImage {
    let noise: Vec<u8> = (0_u64..)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 21))
        .flat_map(u64::to_le_bytes)
        .take(300_000)
        .collect();
    TestImage::new("example.test/sizeable:latest")
        .layer("ADD first", Layer::new().dir("a", 0o755).file("a/first", 0o644, "first\n"))
        .layer("ADD noise", Layer::new().dir("a", 0o755).file("a/noise", 0o644, noise))
}

/// A load that has to fail: with status 1, an error that says `why`, and the store as it was.
#[track_caller]
fn load_fails(source: &Path, why: &[&str]) {
    let store = tiny();
    let (before, images) = (store.contents(), store.json(["images"]));
    let told = |error: &str| {
        let error = error.to_lowercase();
        assert!(why.iter().any(|word| error.contains(word)), "no word of {why:?} in: {error}");
    };
    told(&store.fails(["load".as_ref(), "-i".as_ref(), source.as_os_str()]));
    assert_eq!(store.contents(), before, "what failed leaves nothing behind");
    if source.is_file() {
        let mut command = store.command();
        told(&Done::of(command.arg("load").stdin(common::store::pipe_from(source))).failed());
        assert_eq!(store.contents(), before, "nor from standard input");
    }
    assert_eq!(store.json(["images"]), images);
    // And the store still works.
    store.create(TINY);
}

#[test]
fn exit_status_is_0_for_help_and_version() {
    for arg in ["--help", "--version"] {
        let done = Done::of(Command::new(need::binary()).arg(arg));
        assert_eq!((done.status, done.stderr.as_str()), (0, ""));
        assert!(done.stdout.contains("overlay2"), "{}", done.stdout);
    }
}

#[test]
fn exit_status_is_2_for_a_command_line_that_makes_no_sense() {
    let store = Store::new();
    for args in [
        &["frobnicate"][..],
        &[],
        &["create"],
        &["create", "--no-such-option", "x"],
        &["images", "--format", "yaml"],
        &["save"],
    ] {
        let done = store.run(args);
        assert_eq!(done.status, 2, "{args:?}: {done:?}");
        assert_eq!(done.stdout, "", "{args:?}");
        assert!(!done.stderr.is_empty(), "{args:?}");
    }
    assert!(!store.root().exists(), "nothing was made");
}

#[test]
fn exit_status_is_1_and_the_error_names_what_is_missing() {
    sandbox!();
    let store = tiny();
    let gone = "no-such-thing";
    let chain = format!("sha256:{}", "0".repeat(64));
    for args in [
        &["create", gone][..],
        &["mount", gone],
        &["unmount", gone],
        &["rm", gone],
        &["rmi", gone],
        &["inspect", gone],
        &["history", gone],
        &["diff", gone],
        &["export", gone],
        &["commit", gone, "example.test/new:latest"],
        &["save", gone, "-o", "/dev/null"],
        &["create", "--chain", &chain],
        &["layer", "rm", &chain],
        &["load", "-i", "/no-such-thing"],
    ] {
        let error = store.fails(args);
        let named = error.contains(gone) || error.contains(&"0".repeat(12));
        assert!(named, "{args:?} says what it did not find: {error}");
    }
}

#[test]
fn every_command_speaks_json() {
    sandbox!();
    let store = tiny();
    let layout = store.scratch().join("tiny");
    let loaded = store.json(["load", "-i", layout.to_str().unwrap()]);
    assert!(loaded.to_string().contains(TINY), "{loaded}");

    let images = store.json(["images"]);
    assert_eq!(images[0]["names"], json!([TINY]));
    assert_eq!(images[0]["layers"], 1);
    assert!(images[0]["size"].as_u64().unwrap() >= 6, "{images}");
    assert!(images[0]["id"].as_str().unwrap().starts_with("sha256:"), "{images}");
    assert_eq!(store.json(["history", TINY])[0]["created_by"], "ADD motd");

    let created = store.json(["create", "--name", "one", TINY]);
    assert!(created.to_string().contains("one"), "{created}");
    let mounted = store.json(["mount", "one"]);
    let listed = store.json(["ps"]);
    assert_eq!(listed[0]["name"], "one");
    let merged = PathBuf::from(listed[0]["mounted"].as_str().unwrap());
    assert!(mounted.to_string().contains(merged.to_str().unwrap()), "{mounted}");
    fs::write(merged.join("new"), "new\n").unwrap();
    let changes = store.json(["diff", "one"]);
    assert_eq!(changes.as_array().unwrap().len(), 1, "{changes}");
    assert!(changes.to_string().contains("/new"), "{changes}");
    store.json(["unmount", "one"]);
    let committed = store.json(["commit", "one", "example.test/two:latest"]);
    assert!(committed.to_string().contains("sha256:"), "{committed}");
    assert_eq!(store.inspect("one")["GraphDriver"]["Name"], "overlay2");

    let file = store.scratch().join("saved.tar");
    store.json(["save", TINY, "-o", file.to_str().unwrap()]);
    let tar = store.scratch().join("layer.tar");
    fs::write(&tar, Layer::new().file("x", 0o644, "x").finish()).unwrap();
    let applied = store.json(["layer", "apply", tar.to_str().unwrap()]);
    let chain = applied["chain_id"].as_str().unwrap().to_owned();
    assert_eq!(applied["diff_id"], common::image::digest(&fs::read(&tar).unwrap()));
    let layers = store.json(["layer", "ls"]);
    assert_eq!(layers.as_array().unwrap().len(), 3, "{layers}");
    store.json(["layer", "rm", &chain]);
    for command in ["df", "info"] {
        let printed = store.json([command]);
        assert!(printed.is_object() || printed.is_array(), "{command}: {printed}");
    }
    store.json(["rm", "one"]);
    store.json(["rmi", "example.test/two:latest"]);
}

#[test]
fn layer_apply_stacks_changesets_by_chain_id() {
    sandbox!();
    let store = Store::new();
    let file = |name: &str, layer: Layer| {
        let path = store.scratch().join(name);
        fs::write(&path, layer.finish()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let lower = file("lower.tar", Layer::new().file("a", 0o644, "a").file("b", 0o644, "b"));
    let upper = file("upper.tar", Layer::new().whiteout("a").file("c", 0o644, "c"));
    let first = store.json(["layer", "apply", &lower]);
    assert_eq!(first["diff_id"], first["chain_id"], "the lowest layer's chain is its diff");
    let parent = first["chain_id"].as_str().unwrap();
    let second = store.json(["layer", "apply", "--parent", parent, &upper]);
    let both = format!("{parent} {}", second["diff_id"].as_str().unwrap());
    let chain = common::image::digest(both.as_bytes());
    assert_eq!(second["chain_id"], chain.as_str());

    assert_eq!(store.ok(["create", "--name", "c", "--chain", &chain]), "c");
    let merged = store.mount("c");
    let tree = Manifest::of(&merged);
    assert_eq!(tree.paths().collect::<Vec<_>>(), [".", "b", "c"]);

    let refused = store.fails(["layer", "rm", &chain]);
    assert!(refused.contains('c'), "{refused}");
    store.ok(["unmount", "c"]);
    store.ok(["rm", "c"]);
    store.ok(["layer", "rm", &chain]);
    store.ok(["layer", "rm", parent]);
    assert_eq!(store.json(["layer", "ls"]), json!([]));
}

#[test]
fn export_writes_the_merged_tree_as_a_tar() {
    sandbox!();
    let store = tiny();
    let container = store.create(TINY);
    let merged = store.mount(&container);
    fs::write(merged.join("etc/added"), "added\n").unwrap();
    fs::remove_file(merged.join("etc/motd")).unwrap();
    store.ok(["unmount", &container]);
    let output = store.command().args(["export", &container]).output().unwrap();
    assert!(output.status.success());
    let names = common::image::entry_names(&output.stdout);
    assert!(names.contains(&"etc/added".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("motd")), "{names:?}");
}

#[test]
fn removal_names_the_user_of_what_it_refuses_to_remove() {
    sandbox!();
    let store = tiny();
    store.ok(["create", "--name", "user-of-it", TINY]);
    let error = store.fails(["rmi", TINY]);
    assert!(error.contains("user-of-it"), "{error}");
    let layer = TestImage::tiny(TINY).diff_ids().remove(0);
    let error = store.fails(["layer", "rm", &layer]);
    assert!(error.contains("user-of-it") || error.contains("tiny"), "{error}");

    let merged = store.mount("user-of-it");
    let error = store.fails(["rm", "user-of-it"]);
    assert!(error.contains("mounted"), "{error}");
    assert_eq!(fs::read(merged.join("etc/motd")).unwrap(), b"hello\n", "untouched");
    let error = store.fails(["mount", "user-of-it"]);
    assert!(error.contains("user-of-it"), "a second mount of one upper is refused: {error}");
    let error = store.fails(["create", "--name", "user-of-it", TINY]);
    assert!(error.contains("user-of-it"), "{error}");
    store.ok(["unmount", "user-of-it"]);
    store.ok(["rm", "user-of-it"]);
    store.ok(["rmi", TINY]);
}

#[test]
fn mount_takes_a_target_and_gives_it_back() {
    sandbox!();
    let store = tiny();
    let target = store.scratch().join("a target, with: odd \\ characters");
    fs::create_dir(&target).unwrap();
    let container = store.create(TINY);
    let printed = store.ok(["mount".as_ref(), container.as_ref(), target.as_os_str()]);
    assert_eq!(Path::new(&printed), target);
    assert_eq!(fs::read(target.join("etc/motd")).unwrap(), b"hello\n");
    store.ok(["unmount", &container]);
    assert!(fs::read_dir(&target).unwrap().next().is_none());
    assert_eq!(store.json(["ps"])[0]["mounted"], Value::Null);
}

#[test]
fn a_layout_without_a_name_is_named_after_its_folder_or_by_the_caller() {
    sandbox!();
    let store = Store::new();
    let folder = store.scratch().join("my-app");
    TestImage::tiny(TINY).write_oci(&folder, Compression::Gzip);
    let index = folder.join("index.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    value["manifests"][0].as_object_mut().unwrap().remove("annotations");
    fs::write(&index, value.to_string()).unwrap();
    assert_eq!(store.load(&folder), "my-app:latest");
    let folder = folder.to_str().unwrap();
    let named = store.ok(["load", "--name", "example.test/other:1", "-i", folder]);
    assert_eq!(named, "Loaded image: example.test/other:1");
}

#[test]
fn a_truncated_archive_is_refused() {
    sandbox!();
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name);
    let docker = sizeable().write_docker_archive(&path("docker.tar"));
    let layout = sizeable().write_oci(&path("layout"), Compression::Gzip);
    let oci = tar_of_layout(&layout, &path("oci.tar"), Order::BlobsFirst);
    let other = tar_of_layout(&layout, &path("oci2.tar"), Order::IndexFirst);
    for whole in [docker, oci, other] {
        let bytes = fs::read(&whole).unwrap();
        for part in [1, 3] {
            let cut = path("cut.tar");
            fs::write(&cut, &bytes[..bytes.len() * part / 4 + 100]).unwrap();
            let why = ["truncated", "end", "short", "incomplete", "missing", "not found"];
            load_fails(&cut, &why);
        }
    }
}

#[test]
fn a_wrong_digest_is_refused() {
    sandbox!();
    let scratch = Scratch::new();
    for compression in [Compression::Raw, Compression::Gzip, Compression::Zstd] {
        let folder = scratch.path().join(format!("{compression:?}"));
        sizeable().write_oci(&folder, compression);
        let layout = Layout::open(&folder);
        let blob = blob_path(&folder, &layout.manifest["layers"][1]);
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&blob, bytes).unwrap();
        load_fails(&folder, &["digest", "sha256", "corrupt"]);
    }
    // A diff ID in the configuration that is not that of the layer.
    let image = sizeable();
    let mut config = image.config_json();
    config["rootfs"]["diff_ids"][1] = json!(format!("sha256:{}", "1".repeat(64)));
    let file = scratch.path().join("lies.tar");
    load_fails(&image.write_docker_archive_with(&file, config), &["digest", "diff id", "sha256"]);
}

#[test]
fn a_missing_blob_is_refused() {
    sandbox!();
    let scratch = Scratch::new();
    for what in ["layer", "config"] {
        let folder = scratch.path().join(what);
        sizeable().write_oci(&folder, Compression::Gzip);
        let layout = Layout::open(&folder);
        let descriptor = match what {
            "layer" => &layout.manifest["layers"][1],
            _ => &layout.manifest["config"],
        };
        let blob = blob_path(&folder, descriptor);
        let hex = blob.file_name().unwrap().to_str().unwrap().to_owned();
        fs::remove_file(&blob).unwrap();
        load_fails(&folder, &[&hex[..12]]);
        let file = scratch.path().join(format!("{what}.tar"));
        load_fails(&tar_of_layout(&folder, &file, Order::IndexFirst), &[&hex[..12]]);
    }
}

#[test]
fn what_is_no_image_is_refused() {
    sandbox!();
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path().join(name);
    let no_image = ["image", "layout", "archive", "manifest", "index"];
    fs::create_dir(path("empty-directory")).unwrap();
    load_fails(&path("empty-directory"), &no_image);
    fs::create_dir(path("other-directory")).unwrap();
    fs::write(path("other-directory/readme"), "nothing here\n").unwrap();
    load_fails(&path("other-directory"), &no_image);
    fs::write(path("empty-file"), "").unwrap();
    load_fails(&path("empty-file"), &no_image);
    fs::write(path("text"), "this is no archive\n".repeat(100)).unwrap();
    load_fails(&path("text"), &no_image);
    fs::write(path("other.tar"), Layer::new().file("a", 0o644, "a").finish()).unwrap();
    load_fails(&path("other.tar"), &no_image);
    let layout = sizeable().write_oci(&path("broken"), Compression::Gzip);
    fs::write(layout.join("index.json"), "{\"schemaVersion\": 2, \"manifests\": [").unwrap();
    load_fails(&layout, &["index"]);
}

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk(Scratch);

impl SmallDisk {
    /// ext4 on a loop device where that can be, else tmpfs.
    fn new() -> Self {
        let disk = Self(Scratch::new());
        let at = disk.path();
        fs::create_dir(&at).unwrap();
        if need::in_user_namespace() {
            need::run(
                Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "small"]).arg(&at),
            );
        } else {
            let image = disk.0.path().join("disk.img");
            fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
            let mkfs = need::tool("mkfs.ext4").unwrap();
            need::run(Command::new(mkfs).args(["-q", "-F", "-m", "0"]).arg(&image));
            need::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        }
        disk
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Not lazily: the loop device is to go as well.
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_left_on_it() {
    sandbox!();
    require!(
        need::in_user_namespace() || need::tool("mkfs.ext4").is_some(),
        Lack::Missing("mkfs.ext4 is not installed")
    );
    let disk = SmallDisk::new();
    let store = Store::at(disk.path().join("store"));
    let image = TestImage::tiny(TINY);
    store.load(&image.write_oci(&store.scratch().join("tiny"), Compression::Raw));
    let before = store.contents();
    let mut layer = Layer::new();
    for n in 0..10 {
        layer = layer.file(&format!("file-{n}"), 0o644, vec![n; 1 << 20]);
    }
    let big = TestImage::new("example.test/big:latest")
        .layer("ADD first", Layer::new().file("first", 0o644, "first"))
        .layer("ADD big", layer);
    let source = big.write_oci(&store.scratch().join("big"), Compression::Gzip);
    let error = store.fails(["load".as_ref(), "-i".as_ref(), source.as_os_str()]);
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(store.contents(), before, "neither the full layer nor the one before it is left");
    assert_eq!(store.json(["images"]).as_array().unwrap().len(), 1);
    store.create(TINY);
}

#[test]
fn a_store_without_permission_is_an_error() {
    let scratch = Scratch::new();
    let root = scratch.path().join("private");
    fs::create_dir(&root).unwrap();
    let store = Store::at(root.join("store"));
    let source = TestImage::tiny(TINY).write_oci(&store.scratch().join("tiny"), Compression::Raw);
    let mut command = if need::is_root() {
        // Root may all: let it be somebody else, who may reach the command and the image alone.
        for open in [scratch.path(), store.scratch()] {
            fs::set_permissions(open, PermissionsExt::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).unwrap();
        let copy = scratch.path().join("overlay2");
        fs::copy(need::binary(), &copy).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
        command
    } else {
        fs::set_permissions(&root, PermissionsExt::from_mode(0o555)).unwrap();
        Command::new(need::binary())
    };
    command.arg("--root").arg(store.root()).args(["load", "-i"]).arg(source);
    let error = Done::of(&mut command).failed();
    assert!(error.contains("ermission denied"), "{error}");
    assert!(error.contains("private"), "it says where: {error}");
    assert!(fs::read_dir(&root).unwrap().next().is_none());
}

#[test]
fn what_comes_out_of_an_image_cannot_speak_to_the_terminal() {
    let store = tiny();
    store.ok(["create", "--name", "c", TINY]);
    store.ok([
        "commit",
        "-q",
        "-m",
        "evil\u{1b}[31m\nsecond",
        "-a",
        "\u{1b}]0;title\u{7}",
        "c",
        "e:1",
    ]);
    for shown in [&["history", "e:1"][..], &["tree", "e:1"]] {
        let shown = store.ok(shown);
        assert!(shown.contains("evil\\x1B[31m"), "{shown:?}");
    }
    let error = store.fails(["cat", "c:/no\u{1b}[2J\nfile"]);
    assert!(error.contains("no\\x1B[2J\\x0Afile"), "{error:?}");
}

#[test]
fn an_image_is_not_named_by_a_digest_that_is_not_its_own() {
    let store = tiny();
    store.ok(["create", "--name", "c", TINY]);
    let digest = format!("sha256:{}", "0".repeat(64));
    for (name, why) in [
        (format!("x@{digest}"), "names a digest"),
        (format!("x:1@{digest}"), "names a digest"),
        (digest, "begins an image ID"),
        ("sha256:abc".to_owned(), "begins an image ID"),
    ] {
        let error = store.fails(["commit", "-q", "c", &name]);
        assert!(error.contains(why), "{name}: {error}");
    }
    assert_eq!(store.json(["images"]).as_array().unwrap().len(), 1);
}
