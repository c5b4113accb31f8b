//! Layers that lean on what lies below them, through the command: applied one at a time, loaded as
//! an image, mounted, saved and removed. What a changeset takes for granted, and what is right where
//! it does not hold, is in `ARCHITECTURE.md`.
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
use std::path::Path;

use common::{Compression, Layer, Manifest, Store, TestImage};
use serde_json::json;

/// What lies below, what is put on top, and the paths that are seen then; `path=text` also tells
/// what a file holds, `path>target` where a link leads.
struct Row {
    name: &'static str,
    below: fn(Layer) -> Layer,
    above: fn(Layer) -> Layer,
    sees: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "e17_a_parent_that_has_no_entry",
        below: |layer| layer.dir("tmp", 0o1777).file("tmp/a", 0o644, "a"),
        above: |layer| layer.file("tmp/b", 0o644, "b"),
        sees: "tmp:1777 tmp/a=a tmp/b=b",
    },
    Row {
        name: "e17_a_parent_over_a_file",
        below: |layer| layer.file("d", 0o644, "file"),
        above: |layer| layer.file("d/f", 0o644, "f"),
        sees: "d:755 d/f=f",
    },
    Row {
        name: "e19_through_a_link",
        below: |layer| layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib"),
        above: |layer| layer.file("lib/foo", 0o644, "foo"),
        sees: "lib>usr/lib usr usr/lib usr/lib/foo=foo",
    },
    Row {
        name: "e19_a_whiteout_through_a_link",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "/etc"),
        above: |layer| layer.whiteout("e/x"),
        sees: "e>/etc etc",
    },
    Row {
        name: "e19_a_dangling_link",
        below: |layer| layer.symlink("lib", "usr/lib"),
        above: |layer| layer.file("lib/foo", 0o644, "foo"),
        sees: "lib>usr/lib usr usr/lib usr/lib/foo=foo",
    },
    Row {
        name: "e19_a_directory_replaces_the_link",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "etc"),
        above: |layer| layer.dir("e", 0o700).file("e/y", 0o644, "y"),
        sees: "e:700 e/y=y etc etc/x=x",
    },
    Row {
        name: "e19_implied_and_then_the_link_again",
        below: |layer| layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib"),
        above: |layer| layer.file("lib/foo", 0o644, "foo").symlink("lib", "usr/lib"),
        sees: "lib>usr/lib usr usr/lib usr/lib/foo=foo",
    },
    Row {
        name: "e19_marks_in_what_is_replaced",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "/etc"),
        above: |layer| layer.whiteout("e/x").file("e/y", 0o644, "y").file("e", 0o644, "file"),
        sees: "e=file etc etc/y=y",
    },
    Row {
        name: "e23_by_its_own_path_and_then_through_a_link",
        below: |layer| layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib"),
        above: |layer| layer.file("usr/lib/foo", 0o644, "own").file("lib/foo", 0o644, "through"),
        sees: "lib>usr/lib usr usr/lib usr/lib/foo=through",
    },
    Row {
        name: "e23_through_a_link_and_then_by_its_own_path",
        below: |layer| layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib"),
        above: |layer| layer.file("lib/foo", 0o644, "through").file("usr/lib/foo", 0o644, "own"),
        sees: "lib>usr/lib usr usr/lib usr/lib/foo=own",
    },
    Row {
        name: "e23_directories_by_two_names",
        below: |layer| layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib"),
        above: |layer| layer.dir("usr/lib/d", 0o700).dir("lib/d", 0o711).dir("lib/e", 0o700),
        sees: "lib>usr/lib usr usr/lib usr/lib/d:711 usr/lib/e:700",
    },
    Row {
        name: "e21_e23_hard_links_to_one_file_by_two_names",
        below: |layer| layer.dir("etc", 0o755).file("etc/p", 0o644, "p").symlink("e", "/etc"),
        above: |layer| {
            let layer = layer.file("etc/f", 0o644, "1").hard_link("a", "etc/f", 0o644);
            layer
                .file("e/f", 0o644, "2")
                .hard_link("b", "etc/f", 0o644)
                .file("etc/g", 0o644, "g")
                .hard_link("e/g", "etc/p", 0o644)
        },
        sees: "a=1 b=2 e>/etc etc etc/f=2 etc/g=p etc/p=p",
    },
    Row {
        name: "e19_a_directory_deleted_through_a_link_and_a_file_in_it",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "."),
        above: |layer| layer.whiteout("etc/x").whiteout("e/etc").file("y", 0o644, "y"),
        sees: "e>. y=y",
    },
    Row {
        name: "e19_up_out_of_where_a_link_leads",
        below: |layer| {
            let layer = layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib");
            layer.dir("v", 0o755).dir("usr/v", 0o755)
        },
        above: |layer| layer.symlink("lib/cur", "../v").file("lib/cur/f", 0o644, "f"),
        sees: "lib>usr/lib usr usr/lib usr/lib/cur>../v usr/v usr/v/f=f v",
    },
    Row {
        name: "e19_in_and_up_out_of_where_a_link_leads",
        below: |layer| {
            let layer = layer.dir("usr", 0o755).dir("usr/lib", 0o755).symlink("lib", "usr/lib");
            layer.dir("z", 0o755).dir("usr/z", 0o755)
        },
        above: |layer| layer.symlink("cur", "lib/../z").file("cur/f", 0o644, "f"),
        sees: "cur>lib/../z lib>usr/lib usr usr/lib usr/z usr/z/f=f z",
    },
    Row {
        name: "e21_e23_a_hard_link_through_a_link_that_is_replaced_afterwards",
        below: |layer| layer.dir("c", 0o755).file("c/a", 0o644, "old").symlink("b", "c"),
        above: |layer| {
            let layer = layer.hard_link("x", "b/a", 0o644).symlink("b", "d");
            layer.dir("d", 0o755).file("d/a", 0o644, "new")
        },
        sees: "b>d c c/a=old d d/a=new x=old",
    },
    Row {
        name: "e23_in_the_place_of_the_link_that_leads_there",
        below: |layer| layer.symlink("b", ".").file("x", 0o644, "x"),
        above: |layer| layer.file("b/x", 0o644, "through").file("b/b", 0o644, "own"),
        sees: "b=own x=through",
    },
    Row {
        name: "e21_a_hard_link_through_a_link_of_its_own_into_what_is_below",
        below: |layer| layer.dir("b", 0o755).dir("b/a", 0o755).file("b/a/f", 0o644, "f"),
        above: |layer| layer.symlink("b/l", "a").hard_link("h", "b/l/f", 0o644),
        sees: "b b/a b/a/f=f b/l>a h=f",
    },
    Row {
        name: "e21_e23_a_link_to_nothing_is_replaced_through_a_link",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "/etc"),
        above: |layer| layer.hard_link("etc/d", "none", 0o644).dir("e/d", 0o700),
        sees: "e>/etc etc etc/d:700 etc/x=x",
    },
    Row {
        name: "e23_through_a_link_before_a_file_and_a_directory",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "/etc"),
        above: |layer| {
            layer.file("e/d/x", 0o644, "x").file("etc/d", 0o644, "file").dir("etc/d", 0o700)
        },
        sees: "e>/etc etc etc/d:700 etc/x=x",
    },
    Row {
        name: "e20_opaque_over_a_link",
        below: |layer| layer.dir("etc", 0o755).file("etc/x", 0o644, "x").symlink("e", "etc"),
        above: |layer| layer.opaque("e"),
        sees: "e>etc etc etc/x=x",
    },
    Row {
        name: "e21_a_hard_link_to_what_lies_below",
        below: |layer| layer.dir("etc", 0o755).file("etc/passwd", 0o640, "root"),
        above: |layer| layer.hard_link("copy", "etc/passwd", 0o640),
        sees: "copy=root etc etc/passwd=root",
    },
    Row {
        name: "e21_a_hard_link_through_a_link",
        below: |layer| layer.dir("etc", 0o755).file("etc/p", 0o640, "p").symlink("e", "/etc"),
        above: |layer| layer.hard_link("copy", "e/p", 0o640).hard_link("e/q", "/etc/p", 0o640),
        sees: "copy=p e>/etc etc etc/p=p etc/q=p",
    },
    Row {
        name: "e04_a_whiteout_in_a_directory_that_is_not_there",
        below: |layer| layer.file("a", 0o644, "a"),
        above: |layer| layer.whiteout("new/x").file("b", 0o644, "b"),
        sees: "a=a b=b",
    },
    Row {
        name: "e05_an_opaque_root",
        below: |layer| layer.file("a", 0o644, "a"),
        above: |layer| layer.opaque(".").file("b", 0o644, "b"),
        sees: "b=b",
    },
];

/// Checks what is seen below `merged` against a row's text.
#[track_caller]
fn assert_sees(merged: &Path, row: &Row, how: &str) {
    use std::os::unix::fs::PermissionsExt;
    let tree = Manifest::of(merged);
    let expected: Vec<_> = row.sees.split(' ').collect();
    let path_of = |text: &str| text.split(['=', '>', ':']).next().unwrap().to_owned();
    let seen: Vec<_> = tree.paths().filter(|path| *path != ".").map(str::to_owned).collect();
    let paths: Vec<_> = expected.iter().map(|text| path_of(text)).collect();
    assert_eq!(seen, paths, "{}, {how}", row.name);
    for text in expected {
        let at = merged.join(path_of(text));
        if let Some((_, content)) = text.split_once('=') {
            assert_eq!(fs::read_to_string(&at).unwrap(), content, "{}, {how}: {text}", row.name);
        } else if let Some((_, target)) = text.split_once('>') {
            assert_eq!(fs::read_link(&at).unwrap(), Path::new(target), "{}, {how}", row.name);
        } else if let Some((_, mode)) = text.split_once(':') {
            let found = at.metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(format!("{found:o}"), mode, "{}, {how}: {text}", row.name);
        }
    }
}

#[test]
fn layers_applied_one_at_a_time() {
    sandbox!();
    let store = Store::new();
    store.json(["layer", "ls"]);
    let before = store.contents();
    for row in ROWS {
        let apply = |name: &str, layer: Layer, parent: Option<&str>| {
            let path = store.scratch().join(name);
            fs::write(&path, layer.finish()).unwrap();
            let mut args = vec!["layer", "apply", path.to_str().unwrap()];
            args.extend(parent.iter().flat_map(|chain| ["--parent", chain]));
            store.json(args)["chain_id"].as_str().unwrap().to_owned()
        };
        let lower = apply("lower.tar", (row.below)(Layer::new()), None);
        let upper = apply("upper.tar", (row.above)(Layer::new()), Some(&lower));
        // Once more: it is there.
        assert_eq!(apply("upper.tar", (row.above)(Layer::new()), Some(&lower)), upper);
        store.ok(["create", "--name", "c", "--chain", &upper]);
        assert_sees(&store.mount("c"), row, "applied one at a time");
        store.ok(["unmount", "c"]);
        store.ok(["rm", "c"]);
        store.ok(["layer", "rm", &upper]);
        store.ok(["layer", "rm", &lower]);
        assert_eq!(store.json(["layer", "ls"]), json!([]));
        assert_eq!(store.contents(), before, "{}", row.name);
    }
}

#[test]
fn layers_of_images() {
    sandbox!();
    for row in ROWS {
        let store = Store::new();
        store.json(["images"]);
        let before = store.contents();
        let name = "example.test/leaning:latest";
        let image = TestImage::new(name)
            .layer("ADD below", (row.below)(Layer::new()))
            .layer("ADD above", (row.above)(Layer::new()));
        // The same changeset where nothing lies below it, so that a directory of it may be there.
        let alone = TestImage::new("example.test/alone:latest")
            .layer("ADD nothing", Layer::new().file("unrelated", 0o644, ""))
            .layer("ADD above", (row.above)(Layer::new()));
        let leans_on_a_file = row.name.starts_with("e21");
        for with_the_other in [false, true] {
            if with_the_other && !leans_on_a_file {
                store.load(&alone.write_oci(&store.scratch().join("alone"), Compression::Raw));
            }
            store.load(&image.write_oci(&store.scratch().join("image"), Compression::Gzip));
            store.ok(["create", "--name", "c", name]);
            assert_sees(&store.mount("c"), row, "loaded");
            store.ok(["unmount", "c"]);
            store.ok(["rm", "c"]);
            let saved = store.scratch().join("saved.tar");
            store.ok(["save", "-o", saved.to_str().unwrap(), name]);
            store.ok(["rmi", name]);
            store.load(&saved);
            assert_eq!(store.diff_ids(name), image.diff_ids(), "{}", row.name);
            store.ok(["rmi", name]);
            if with_the_other && !leans_on_a_file {
                store.ok(["rmi", "example.test/alone:latest"]);
            }
            store.ok(["gc"]);
            assert_eq!(store.contents(), before, "{}", row.name);
        }
    }
}

/// A layer that is made anew for its stack is counted as what it is.
#[test]
fn a_variant_is_as_large_as_what_it_holds() {
    sandbox!();
    let store = Store::new();
    let below = Layer::new().dir("d", 0o755).file("d/low", 0o644, "x".repeat(5_000));
    let above = Layer::new().hard_link("link", "d/low", 0o644).file("own", 0o644, "own");
    let image = TestImage::new("example.test/sizes:1").layer("ADD", below).layer("ADD", above);
    store.load(&image.write_oci(&store.scratch().join("image"), Compression::Raw));
    let layers = store.json(["layer", "ls"]);
    let top = layers.as_array().unwrap().iter().find(|layer| layer["depth"] == 2).unwrap();
    assert_eq!(top["size"], 5_003, "{top}");
}
