//! Looking into containers and images, copying, and where files come from: all of it without a
//! mount, without privilege and without a namespace.
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

#[path = "../common/mod.rs"]
mod common;
mod copy;
mod nodes;
mod whole;

use std::fs;
use std::process::Stdio;

use copy::site;

use common::{Compression, Layer, Store, TestImage};
use serde_json::{Value, json};

const APP: &str = "example.test/app:1";

/// Three layers: of files of every kind, of changes, of deletions.
fn app() -> Store {
    let store = Store::new();
    let image = TestImage::new(APP)
        .layer(
            "ADD base",
            Layer::new()
                .dir("etc", 0o755)
                .file("etc/motd", 0o644, "old\n")
                .file("etc/passwd", 0o640, "root\n")
                .symlink("etc/mtab", "/proc/mounts")
                .dir("usr", 0o755)
                .dir("usr/bin", 0o755)
                .file("usr/bin/tool", 0o4755, "tool\n")
                .hard_link("usr/bin/same", "usr/bin/tool", 0o4755)
                .symlink("bin", "usr/bin")
                .symlink("outside", "../../../../etc/passwd")
                .file(".hidden", 0o600, "hidden\n"),
        )
        .layer(
            "RUN change",
            Layer::new()
                .dir("etc", 0o755)
                .file("etc/motd", 0o644, "newer\n")
                .dir("var", 0o755)
                .file("var/cache", 0o644, "x".repeat(5000)),
        )
        .layer("RUN clean\n  up", Layer::new().dir("var", 0o700).whiteout("var/cache"));
    store.load(&image.write_oci(&store.scratch().join("app"), Compression::Raw));
    store.ok(["create", "--name", "web", APP]);
    store
}

fn at(path: &str) -> String {
    format!("{APP}:{path}")
}

#[test]
fn ls_lists_images_and_containers() {
    let store = app();
    assert_eq!(store.ok(["ls", APP]), "bin\netc\noutside\nusr\nvar");
    assert_eq!(store.ok(["ls", "-a", "web"]), ".hidden\nbin\netc\noutside\nusr\nvar");
    assert_eq!(store.ok(["ls", &at("etc")]), "motd\nmtab\npasswd");
    assert_eq!(store.ok(["ls", "web:/bin"]), "same\ntool", "a symlink is gone through");
    assert_eq!(store.ok(["ls", "web:etc/motd"]), "etc/motd");
    assert_eq!(store.ok(["ls", "-d", "web:/etc"]), "/etc");
    let both = store.ok(["ls", "web:/var", "web:/usr"]);
    assert_eq!(both, "web:/var:\n\nweb:/usr:\nbin");
    // A plain user's symlinks belong to that user: there is no attribute to record another in.
    let long = store.ok(["ls", "-l", "web:/etc/motd", "web:/etc/mtab"]);
    let lines: Vec<&str> = long.lines().filter(|line| line.len() > 20).collect();
    assert_eq!(lines[0], "-rw-r--r-- 1 0 0 6 2023-11-14 22:13:20 /etc/motd");
    assert!(lines[1].starts_with("lrwxrwxrwx 1 "), "{long}");
    assert!(lines[1].ends_with(" 12 2023-11-14 22:13:20 /etc/mtab -> /proc/mounts"), "{long}");
    let listed = store.json(["ls", "web:/usr/bin"]);
    assert_eq!(listed[1]["path"], "/usr/bin/tool");
    for (key, value) in [
        ("name", json!("tool")),
        ("kind", json!("file")),
        ("mode", json!("4755")),
        ("uid", json!(0)),
        ("size", json!(5)),
        ("links", json!(2)),
        ("modified", json!("2023-11-14T22:13:20Z")),
        ("target", Value::Null),
    ] {
        assert_eq!(listed[1][key], value, "{key}");
    }
    assert_eq!(listed[0]["inode"], listed[1]["inode"]);
    let error = store.fails(["ls", "web:/nothing"]);
    assert!(error.contains("/nothing"), "{error}");
    let error = store.fails(["ls", "nobody:/etc"]);
    assert!(error.contains("\"nobody\"") && error.contains("hint"), "{error}");
}

#[test]
fn cat_writes_bytes_and_goes_on_after_an_error() {
    let store = app();
    assert_eq!(store.ok(["cat", &at("/etc/motd"), "web:bin/tool"]), "newer\ntool");
    let done = store.run(["cat", "web:/etc/gone", "web:/etc/motd", "web:/etc"]);
    assert_eq!((done.status, done.stdout.as_str()), (1, "newer\n"));
    assert!(done.stderr.contains("/etc/gone") && done.stderr.contains("directory"), "{done:?}");
    // A symlink that leads outside stays inside.
    assert_eq!(store.ok(["cat", "web:/outside"]), "root");
}

#[test]
fn who_has_read_enough_ends_it_quietly() {
    let store = app();
    let big = store.scratch().join("big");
    fs::write(&big, vec![7; 4 << 20]).unwrap();
    store.ok(["cp".as_ref(), big.as_os_str(), "web:/big".as_ref()]);
    // What is left of an archive is none: as though SIGPIPE had come.
    let commands = [
        (0, &["cat", "web:/big"][..]),
        (141, &["cp", "web:/big", "-"]),
        (141, &["export", "web"]),
        (141, &["diff", "--tar", "web"]),
        (141, &["save", crate::APP]),
    ];
    for (status, args) in commands {
        let mut child = store
            .command()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let done = child.wait_with_output().unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        assert_eq!((done.status.code(), error.as_str()), (Some(status), ""), "{args:?}");
    }
}

#[test]
fn stat_tells_everything_and_the_layer() {
    let store = app();
    let told = store.json(["stat", "web:/bin/tool", "web:/bin", "web:/etc"]);
    assert_eq!(told[0]["path"], "/usr/bin/tool", "symlinks on the way are resolved");
    assert_eq!(told[0]["layers"][0]["position"], 0);
    assert_eq!(told[0]["layers"][0]["created_by"], "ADD base");
    assert_eq!(told[1]["target"], "usr/bin");
    let layers = told[2]["layers"].as_array().unwrap();
    let positions: Vec<_> = layers.iter().map(|layer| layer["position"].as_u64()).collect();
    assert_eq!(positions, [Some(1), Some(0)], "each layer that has a part of it");
    assert_eq!(store.json(["stat", "-L", "web:/bin"])[0]["kind"], "directory");
    let text = store.ok(["stat", "web:/usr/bin/tool"]);
    assert!(text.contains("Access: 4755/-rwsr-xr-x  Uid: 0  Gid: 0"), "{text}");
    assert!(text.contains("Layer: 0"), "{text}");
    store.ok(["cp", "web:/etc/motd", "web:/etc/mine"]);
    let mine = store.json(["stat", "web:/etc/mine"]);
    assert_eq!(mine[0]["layers"], json!([{"position": 3, "diff_id": null, "created_by": null}]));
}

#[test]
fn tree_draws_layers_and_files() {
    let store = app();
    let drawn = store.ok(["tree", APP]);
    let lines: Vec<&str> = drawn.lines().collect();
    assert_eq!(lines.len(), 4, "{drawn}");
    assert!(lines[0].starts_with("example.test/app:1: 3 layers, 5"), "{drawn}");
    assert!(lines[1].starts_with("├── ") && lines[1].ends_with(" RUN clean up"), "{drawn}");
    assert!(lines[2].contains("████") && lines[2].ends_with(" RUN change"), "{drawn}");
    assert!(lines[3].starts_with("└── ") && lines[3].ends_with(" ADD base"), "{drawn}");
    assert_eq!(store.json(["tree", APP]), store.json(["history", APP]));

    assert_eq!(
        store.ok(["tree", &at("/")]),
        "/\n\
         ├── bin -> usr/bin\n\
         ├── etc\n\
         │   ├── motd\n\
         │   ├── mtab -> /proc/mounts\n\
         │   └── passwd\n\
         ├── outside -> ../../../../etc/passwd\n\
         ├── usr\n\
         │   └── bin\n\
         │       ├── same\n\
         │       └── tool\n\
         └── var\n\n\
         4 directories, 7 files"
    );
    let flat = store.ok(["tree", "-a", "-s", "-L", "1", "web"]);
    assert!(flat.contains("[    11B] etc\n") && flat.contains("[     7B] .hidden\n"), "{flat}");
    assert!(!flat.contains("motd"), "{flat}");
    assert_eq!(store.ok(["tree", "-d", "web:/usr"]), "/usr\n└── bin\n\n1 directories, 0 files");
    let value = store.json(["tree", "web:/etc"]);
    assert_eq!(
        value["entries"][1],
        json!({
            "name": "mtab", "kind": "symlink", "size": 0, "target": "/proc/mounts",
        })
    );
}

#[test]
fn which_tells_the_layer_and_what_it_hides() {
    let store = app();
    let told = store.json(["which", APP, "/etc/motd"]);
    let layer = |position: usize, says: &str, size: u64, supplies: bool, hides: Value| {
        let diff_id = store.diff_ids(APP)[position].clone();
        json!({
            "position": position, "diff_id": diff_id, "created_by": says, "kind": "file",
            "size": size, "supplies": supplies, "hides": hides,
        })
    };
    let hides = json!({"by": "replacement", "at": "/etc/motd", "positions": [0]});
    assert_eq!(
        told,
        json!({"path": "/etc/motd", "shows": true, "layers": [
            layer(1, "RUN change", 6, true, hides),
            layer(0, "ADD base", 4, false, Value::Null),
        ]})
    );
    let text = store.ok(["which", APP, "etc/motd"]);
    assert!(text.contains("file, 6B: supplies it\n    RUN change\n    hides layer 0"), "{text}");

    let text = store.ok(["which", APP, "/bin/tool"]);
    assert!(text.starts_with("/usr/bin/tool:\n  0  "), "{text}");
    assert_eq!(store.json(["which", APP, "/bin"])["layers"][0]["kind"], "symlink");
    let gone = store.run(["which", "web", "/var/cache"]);
    assert_eq!((gone.status, gone.stderr.as_str()), (1, ""));
    assert!(gone.stdout.contains("RUN clean up\n    hides layer 1: the whiteout of /var/cache"));
    let nowhere = store.run(["which", "web", "/nowhere"]);
    assert_eq!((nowhere.status, nowhere.stdout.as_str()), (1, "no layer has /nowhere\n"));

    store.ok(["cp", "web:/usr/bin/tool", "web:/etc/motd"]);
    let text = store.ok(["which", "web", "/etc/motd"]);
    assert!(text.starts_with("  3  (container)   file, 5B: supplies it\n    hides layer 1:"));
}

#[test]
fn history_counts_what_is_wasted() {
    let store = app();
    let told = store.json(["history", "--wasted", APP]);
    let steps = told["steps"].as_array().unwrap();
    let wasted: Vec<_> = steps
        .iter()
        .map(|step| (step["wasted_bytes"].as_u64().unwrap(), step["wasted_files"].as_u64()))
        .collect();
    assert_eq!(wasted, [(0, Some(0)), (5000, Some(1)), (4, Some(1))]);
    assert_eq!((&told["wasted_bytes"], &told["wasted_files"]), (&json!(5004), &json!(2)));
    let table = store.ok(["history", "--wasted", APP]);
    assert!(table.lines().last().unwrap().starts_with("total"), "{table}");
}

/// What a tar holds, entry by entry.
fn entries(bytes: &[u8]) -> Vec<(String, u64)> {
    let mut archive = tar::Archive::new(bytes);
    let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        (name, entry.header().mtime().unwrap())
    };
    archive.entries().unwrap().map(entry).collect()
}

#[test]
fn diff_compares_any_two_trees() {
    let store = app();
    let file = store.scratch().join("file");
    fs::write(&file, "12345").unwrap();
    store.ok(["cp".as_ref(), file.as_os_str(), "web:/etc/motd".as_ref()]);
    store.ok(["cp".as_ref(), file.as_os_str(), "web:/new".as_ref()]);
    assert_eq!(store.ok(["diff", "web"]), "C /etc\nC /etc/motd\nA /new");
    // The directory's time is another, unless it was changed within the same tick.
    let between = store.ok(["diff", &format!("{APP}..web")]);
    assert_eq!(between.replace("C /etc\n", ""), "C /etc/motd\nA /new");
    assert_eq!(store.ok(["diff", &format!("{APP}..{APP}")]), "");
    let back = store.ok(["diff", "--sizes", &format!("web..{APP}")]);
    assert!(back.ends_with("C       6B /etc/motd\nD       0B /new"), "{back}");
    let told = store.json(["diff", &format!("{APP}..web")]);
    assert_eq!(
        *told.as_array().unwrap().last().unwrap(),
        json!({"kind": "A", "path": "/new", "size": 5})
    );
    store.fails(["diff", &format!("{APP}..nobody")]);

    // As a layer on the image, the difference is the container.
    let tar = store.scratch().join("difference.tar");
    let pair = format!("{APP}..web");
    let done = store.json([
        "diff".as_ref(),
        "--tar".as_ref(),
        pair.as_ref(),
        "-o".as_ref(),
        tar.as_os_str(),
    ]);
    assert_eq!(
        (&done["whiteouts"], &done["bytes"]),
        (&json!(0), &json!(fs::metadata(&tar).unwrap().len()))
    );
    let parent = store.json(["images"])[0]["chain_id"].as_str().unwrap().to_owned();
    let applied = store.json([
        "layer".as_ref(),
        "apply".as_ref(),
        "--parent".as_ref(),
        parent.as_ref(),
        tar.as_os_str(),
    ]);
    let chain = applied["chain_id"].as_str().unwrap();
    assert_eq!(store.ok(["diff", &format!("{chain}..web")]), "");
    assert_eq!(store.ok(["diff", &format!("web..{chain}")]), "");
}

#[test]
fn times_in_tars_are_as_asked_for() {
    let store = app();
    let site = site(&store);
    store.ok(["cp", &site, "web:/srv"]);
    let times = |args: &[&str], epoch: Option<&str>| {
        let mut command = store.command();
        command.args(args);
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let exact = times(&["diff", "--tar", "web"], None);
    let whole = times(&["diff", "--tar", "--times", "seconds", "web"], None);
    assert!(exact.windows(26).any(|part| part == b"mtime=1600000000.123456789".as_slice()));
    assert!(!whole.windows(6).any(|part| part == b"mtime=".as_slice()));
    for args in [&["diff", "--tar", "web"][..], &["export", "web"]] {
        let early = entries(&times(args, Some("1500000000")));
        assert!(early.iter().all(|(_, time)| *time <= 1_500_000_000), "{early:?}");
        assert_eq!(
            early,
            entries(&times(&[args, &["--source-date-epoch", "1500000000"]].concat(), None))
        );
    }
    // Two commits at the same time are the same image.
    let commit = |name: &str| {
        String::from_utf8(times(&["commit", "web", name], Some("1600000001"))).unwrap()
    };
    assert_eq!(commit("example.test/one:1"), commit("example.test/two:1"));
    assert_eq!(store.run(["diff", "--tar", "--source-date-epoch", "soon", "web"]).status, 2);
}

#[test]
fn pruned_leaves_out_what_is_equal() {
    let store = app();
    let file = store.scratch().join("motd");
    store.ok(["cp".as_ref(), "-a".as_ref(), "web:/etc/motd".as_ref(), file.as_os_str()]);
    store.ok(["cp".as_ref(), file.as_os_str(), "web:/etc/motd".as_ref()]);
    assert_eq!(store.ok(["diff", "web"]), "C /etc\nC /etc/motd");
    // Only its directory was touched, unless within one tick of the clock.
    let pruned = store.ok(["diff", "--pruned", "web"]);
    assert!(["", "C /etc"].contains(&pruned.as_str()), "{pruned}");
}

#[test]
fn nothing_needs_a_mount() {
    let store = app();
    let site = site(&store);
    store.ok(["cp", &format!("{site}/a"), "web:/etc/motd"]);
    let exported = store.command().args(["export", "web"]).output().unwrap().stdout;
    assert!(entries(&exported).iter().any(|(name, _)| name == "etc/motd"));
    store.ok(["commit", "web", "example.test/app:2"]);
    assert_eq!(store.ok(["diff", "example.test/app:2..web"]), "");
    assert_eq!(store.ok(["cat", "example.test/app:2:/etc/motd"]), "a");
    assert!(common::store::mounts_beneath(store.scratch()).is_empty());
}

#[test]
fn a_mounted_container_is_read_and_not_written() {
    sandbox!();
    let store = app();
    let merged = store.mount("web");
    fs::write(merged.join("etc/live"), "live\n").unwrap();
    fs::remove_file(merged.join("etc/motd")).unwrap();
    assert_eq!(store.ok(["cat", "web:/etc/live"]), "live");
    assert_eq!(store.ok(["ls", "web:/etc"]), "live\nmtab\npasswd");
    let error = store.fails(["cp", "web:/etc/live", "web:/etc/other"]);
    assert!(error.contains("is mounted at") && error.contains("overlay2 unmount web"), "{error}");
    assert!(!merged.join("etc/other").exists());
    let out = store.scratch().join("out");
    store.ok(["cp".as_ref(), "web:/etc/live".as_ref(), out.as_os_str()]);
    assert_eq!(fs::read(out).unwrap(), b"live\n");
    // What is copied in shows in the next mount.
    store.ok(["unmount", "web"]);
    store.ok(["cp", "web:/etc/live", "web:/etc/other"]);
    let merged = store.mount("web");
    assert_eq!(fs::read(merged.join("etc/other")).unwrap(), b"live\n");
    store.ok(["unmount", "web"]);
}
