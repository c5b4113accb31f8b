//! A store in which something else stands where a record or a directory should: it is named, holds
//! up nobody, and can be mended or removed.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and damages files by path"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::need;
use common::{Compression, Store, TestImage};
use rustix::fs::{CWD, FileType, Mode};

const TINY: &str = "example.test/tiny:latest";

/// A store with an image of one layer, that layer, and the image as an OCI layout.
fn tiny() -> (Store, PathBuf, PathBuf) {
    let store = Store::new();
    let source = TestImage::tiny(TINY).write_oci(&store.scratch().join("tiny"), Compression::Raw);
    store.load(&source);
    let layers = fs::read_dir(store.root().join("layers")).unwrap();
    let layer = layers.map(|entry| entry.unwrap().path()).next().unwrap();
    (store, layer, source)
}

/// A thing by its name, and what puts it at a path.
type Other = (&'static str, fn(&Path));

/// What may stand where a regular file should.
fn others() -> [Other; 5] {
    fn fifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }
    fn endless(path: &Path) {
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    }
    [
        ("nothing", |_| {}),
        ("a link", |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
        ("a FIFO", fifo),
        ("a file of a terabyte of nothing", endless),
        ("a directory", |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("in it"), "").unwrap();
        }),
    ]
}

#[test]
fn e83_a_layer_record_that_is_something_else_is_named_and_mended() {
    sandbox!();
    let (store, layer, source) = tiny();
    for (what, put) in others() {
        let record = layer.join("layer.json");
        fs::remove_file(&record).unwrap();
        put(&record);
        let found = store.run(["check"]);
        assert_eq!(found.status, 1, "{what}: {}", found.stderr);
        assert!(found.stdout.contains("record"), "{what}: {}", found.stdout);
        // One damaged layer is no reason to tell of nothing.
        for lists in [&["images"][..], &["history", TINY], &["df"], &["gc", "--dry-run"]] {
            store.ok(lists);
        }
        store.ok(["repair".as_ref(), "--from".as_ref(), source.as_os_str()]);
        store.ok(["check"]);
        store.create(TINY);
    }
}

#[test]
fn e83_a_layer_that_is_no_directory_is_named_and_made_again() {
    sandbox!();
    let (store, layer, source) = tiny();
    for (what, put) in others() {
        if what == "a directory" {
            continue;
        }
        let diff = layer.join("diff");
        fs::remove_dir_all(&diff).unwrap();
        put(&diff);
        let found = store.run(["check"]);
        assert_eq!(found.status, 1, "{what}: {}", found.stderr);
        assert!(found.stdout.contains("missing"), "{what}: {} {}", found.stdout, found.stderr);
        store.ok(["repair".as_ref(), "--from".as_ref(), source.as_os_str()]);
        store.ok(["check"]);
        let container = store.create(TINY);
        assert_eq!(store.ok(["cat", &format!("{container}:/etc/motd")]), "hello");
    }
}

#[test]
fn e85_too_few_open_files_are_no_damage() {
    sandbox!();
    let (store, _, _) = tiny();
    let mut failed = 0;
    for limit in 8..32 {
        let text = format!("ulimit -n {limit}; exec \"$O\" check");
        let mut command = Command::new("sh");
        command.args(["-c", &text]).env("OVERLAY2_ROOT", store.root()).env("O", need::binary());
        let done = common::store::Done::of(&mut command);
        if done.status != 0 {
            failed += 1;
            assert_eq!(done.stdout, "", "with {limit} open files");
            assert!(done.stderr.contains("ulimit -n"), "with {limit}: {}", done.stderr);
        }
    }
    assert!(failed > 0, "a check needs more than 8 open files");
}

/// Puts each thing in the place of `file`, and finds that it is named, that the rest of the store is
/// as usable as before, and that all of it can be removed.
fn is_no_hindrance(file: impl Fn(&Store) -> PathBuf) {
    for (what, put) in others() {
        let (store, _, source) = tiny();
        let other = TestImage::new("example.test/other:latest")
            .layer("ADD other", common::Layer::new().file("other", 0o644, "other\n"));
        store.load(&other.write_oci(&store.scratch().join("other"), Compression::Raw));
        store.ok(["create", "--name", "c", TINY]);
        let file = file(&store);
        fs::remove_file(&file).unwrap();
        put(&file);
        let found = store.run(["check", "--quick"]);
        // A name that is gone is one that was taken away.
        assert!(found.status == 1 || what == "nothing", "{what}: {}", found.stderr);
        let images = store.ok(["images"]);
        assert!(images.contains("example.test/other"), "{what}: {images}");
        for works in [&["ps"][..], &["df"], &["gc", "--dry-run"]] {
            store.ok(works);
        }
        store.ok(["create", "--name", "d", "example.test/other:latest"]);
        store.ok(["rm", "d"]);
        store.ok(["rmi", "example.test/other:latest"]);
        // By whatever it can still be called.
        let ids = |place: &str| -> Vec<String> {
            let names = fs::read_dir(store.root().join(place)).unwrap();
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        for id in ids("containers") {
            store.ok(["rm", &id]);
        }
        store.ok(["gc"]);
        for id in ids("images") {
            store.ok(["rmi", &id]);
        }
        store.ok(["gc"]);
        for place in ["layers", "chains", "images", "names", "containers", "container-names"] {
            assert_eq!(ids(place), Vec::<String>::new(), "{what}: left in {place}");
        }
        store.ok(["check"]);
        store.load(&source);
        store.create(TINY);
    }
}

#[test]
fn e83_a_container_record_that_is_something_else_hinders_nobody() {
    sandbox!();
    is_no_hindrance(|store| {
        let id = store.json(["ps"])[0]["id"].as_str().unwrap().to_owned();
        store.root().join("containers").join(id).join("container.json")
    });
}

#[test]
fn e83_a_chain_record_that_is_something_else_hinders_nobody() {
    sandbox!();
    is_no_hindrance(|store| {
        let chain = store.json(["ps"])[0]["chain_id"].clone();
        let digits = chain.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        store.root().join("chains").join(digits).join("chain.json")
    });
}

#[test]
fn e83_an_image_record_that_is_something_else_hinders_nobody() {
    sandbox!();
    is_no_hindrance(|store| {
        let image = store.json(["ps"])[0]["image_id"].clone();
        let digits = image.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        store.root().join("images").join(digits).join("image.json")
    });
}

#[test]
fn e83_a_name_that_is_something_else_hinders_nobody() {
    sandbox!();
    is_no_hindrance(|store| store.root().join("names/example.test%2Ftiny:latest"));
}

#[test]
fn e83_a_container_name_that_is_something_else_hinders_nobody() {
    sandbox!();
    is_no_hindrance(|store| store.root().join("container-names/c"));
}

#[test]
fn e83_back_links_that_are_something_else_hinder_nobody_and_cost_nothing() {
    sandbox!();
    for place in ["layers", "chains", "images"] {
        for (what, put) in others() {
            let (store, layer, _) = tiny();
            store.ok(["create", "--name", "c", TINY]);
            let object = fs::read_dir(store.root().join(place)).unwrap().next().unwrap().unwrap();
            let users = object.path().join("users");
            fs::remove_dir_all(&users).unwrap();
            put(&users);
            let told = format!("{what} as the back links in {place}");
            let found = store.run(["check", "--quick"]);
            assert_eq!(found.status, 1, "{told}: {}", found.stderr);
            // Nothing is taken for unused since it is not known by whom it is used.
            store.ok(["gc"]);
            assert!(object.path().exists() && layer.exists(), "{told}");
            assert_eq!(store.ok(["cat", "c:/etc/motd"]), "hello", "{told}");
            // It may be a user of a kind that only a newer program knows.
            let unknown = what == "a directory" && place == "images";
            let user = if unknown { "something unknown" } else { "container c" };
            let refused = store.fails(["rmi", TINY]);
            assert!(refused.contains(user), "{told}: {refused}");
            store.ok(["rm", "c"]);
            if unknown {
                store.fails(["rmi", TINY]);
                continue;
            }
            store.ok(["rmi", TINY]);
            store.ok(["gc"]);
            let left = fs::read_dir(store.root().join(place)).unwrap().count();
            assert_eq!(left, usize::from(what == "a directory"), "{told}");
        }
    }
}

#[test]
fn e83_what_lost_a_back_link_is_kept_and_known_again() {
    sandbox!();
    let (store, layer, _) = tiny();
    let container = store.create(TINY);
    let chain = fs::read_dir(store.root().join("chains")).unwrap().next().unwrap().unwrap().path();
    for object in [&layer, &chain] {
        let users = object.join("users");
        for user in fs::read_dir(&users).unwrap() {
            fs::remove_file(user.unwrap().path()).unwrap();
        }
        assert_eq!(store.json(["gc"])["items"], serde_json::json!([]));
        assert_eq!(store.ok(["cat", &format!("{container}:/etc/motd")]), "hello");
        assert!(store.run(["check"]).stdout.contains("unlinked"));
        store.ok(["repair"]);
        store.ok(["check"]);
        assert_eq!(fs::read_dir(&users).unwrap().count(), 1);
    }
    // Links that are something else hinder nothing that can be mended.
    let motd = layer.join("diff/etc/motd");
    fs::rename(layer.join("users"), store.scratch().join("users")).unwrap();
    fs::write(layer.join("users"), "").unwrap();
    fs::set_permissions(&motd, fs::Permissions::from_mode(0o600)).unwrap();
    store.run(["repair"]);
    assert_eq!(fs::metadata(&motd).unwrap().permissions().mode() & 0o777, 0o644);
    fs::remove_file(layer.join("users")).unwrap();
    fs::rename(store.scratch().join("users"), layer.join("users")).unwrap();
    store.ok(["rm", &container]);
    store.ok(["rmi", TINY]);
    assert!(!layer.exists());
}

#[test]
fn e83_what_stands_in_the_place_of_an_object_hides_no_other_damage() {
    sandbox!();
    for place in ["containers", "images", "chains", "layers"] {
        let (store, _, _) = tiny();
        store.create(TINY);
        let other = TestImage::new("example.test/other:latest")
            .layer("ADD", common::Layer::new().file("f", 0o644, "f\n"));
        let old =
            fs::read_dir(store.root().join("layers")).unwrap().next().unwrap().unwrap().path();
        store.load(&other.write_oci(&store.scratch().join("other"), Compression::Raw));
        let layers = fs::read_dir(store.root().join("layers")).unwrap();
        let new = layers.map(|entry| entry.unwrap().path()).find(|path| *path != old).unwrap();
        fs::write(new.join("diff/f"), "rot\n").unwrap();
        let objects = fs::read_dir(store.root().join(place)).unwrap();
        let other = new.file_name().unwrap();
        let kept = |path: &Path| {
            path.file_name() == Some(other)
                || place == "images" && {
                    store.json(["inspect", "example.test/other:latest"])[0]["Id"]
                        .as_str()
                        .unwrap()
                        .ends_with(path.file_name().unwrap().to_str().unwrap())
                }
        };
        let object = objects.map(|entry| entry.unwrap().path()).find(|path| !kept(path)).unwrap();
        fs::remove_dir_all(&object).unwrap();
        fs::write(&object, "x").unwrap();
        let found = store.run(["check"]);
        assert_eq!(found.status, 1, "{place}: {found:?}");
        assert!(found.stdout.contains("is no directory"), "{place}: {found:?}");
        assert!(found.stdout.contains("/f "), "{place}: {found:?}");
        for listed in ["ps", "images", "gc"] {
            store.ok([listed]);
        }
    }
}

#[test]
fn e83_a_layer_that_is_gone_is_there_again_when_it_is_loaded() {
    sandbox!();
    let (store, layer, source) = tiny();
    fs::remove_dir_all(&layer).unwrap();
    assert!(store.run(["check"]).stdout.contains("is not there"));
    store.load(&source);
    assert_eq!(store.ok(["cat", &format!("{TINY}:/etc/motd")]), "hello");
    store.ok(["check"]);
    // Its config likewise.
    let image = fs::read_dir(store.root().join("images")).unwrap().next().unwrap().unwrap().path();
    fs::write(image.join("config"), "{}").unwrap();
    store.fails(["history", TINY]);
    store.load(&source);
    store.ok(["history", TINY]);
    store.ok(["check"]);
}

#[test]
fn e83_a_record_that_says_otherwise_than_the_chain_is_mended() {
    sandbox!();
    let (store, layer, _) = tiny();
    let record = layer.join("layer.json");
    let text = fs::read_to_string(&record).unwrap();
    for what in ["\"opaque_root\"", "\"explicit_root\""] {
        let other = text.replace(&format!("{what}:false"), &format!("{what}:true"));
        assert_ne!(other, text, "{what}");
        fs::write(&record, other).unwrap();
        assert!(store.run(["check"]).stdout.contains("says otherwise than chain"), "{what}");
        store.ok(["repair"]);
        store.ok(["check"]);
    }
}

#[test]
fn e83_a_record_that_tells_of_another_layer_is_mended() {
    sandbox!();
    let (store, layer, source) = tiny();
    let record = layer.join("layer.json");
    let text = fs::read_to_string(&record).unwrap();
    let at = text.find("\"diff_id\":\"sha256:").unwrap() + 18;
    let digit = if text[at..].starts_with('0') { "1" } else { "0" };
    fs::write(&record, format!("{}{digit}{}", &text[..at], &text[at + 1..])).unwrap();
    store.ok(["repair".as_ref(), "--from".as_ref(), source.as_os_str()]);
    store.ok(["check"]);
    store.load(&source);
}
