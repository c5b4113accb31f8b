//! docs/json.md and what `--format json` prints are the same.
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

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::{Compression, Layer, Store, TestImage};
use serde_json::Value;

const IMAGE: &str = "json.test/app:1";

/// What the page says of each field of a document.
type Fields = BTreeMap<String, String>;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let beside =
        std::env::var_os("CARGO_MANIFEST_DIR").map(|dir| Path::new(&dir).join("docs/json.md"));
    fs::read_to_string(beside.unwrap_or(path)).unwrap()
}

/// The fields of each section, by its title.
fn documented(page: &str) -> BTreeMap<String, Fields> {
    let mut sections: BTreeMap<String, Fields> = BTreeMap::new();
    let mut title = String::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            title = text.trim_matches('`').to_owned();
            assert!(
                sections.insert(title.clone(), Fields::new()).is_none(),
                "{title} stands twice"
            );
        } else if let Some(row) = line.strip_prefix("| `") {
            let (name, rest) = row.split_once("` | ").unwrap_or_else(|| panic!("{line}"));
            let kind = rest.split(" |").next().unwrap();
            sections.get_mut(&title).unwrap().insert(name.to_owned(), kind.to_owned());
        }
    }
    sections
}

/// Whether a value is of the kind that the page says.
fn is_of(kind: &str, value: &Value) -> bool {
    kind.split(" or ").any(|kind| match kind {
        "null" => value.is_null(),
        "number" => value.is_u64(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "list" => value.is_array(),
        "digest" => {
            value.as_str().is_some_and(|text| text.len() == 71 && text.starts_with("sha256:"))
        }
        "time" => value.as_str().is_some_and(|text| text.contains('T')),
        "string" | "path" => value.is_string(),
        "absent" => false,
        other => panic!("{other:?} is no kind of value"),
    })
}

/// Compares a document with what the page says of it: notes the fields that were seen.
fn compare(fields: &Fields, path: &str, value: &Value, seen: &mut BTreeSet<String>) {
    if let Some(kind) = fields.get(path) {
        assert!(is_of(kind, value), "{path} is to be {kind}, and is {value}");
        seen.insert(path.to_owned());
        let below = format!("{path}.");
        // What is a whole there is not looked into.
        if !value.is_object() || !fields.keys().any(|name| name.starts_with(&below)) {
            return;
        }
    }
    match value {
        Value::Array(list) => {
            list.iter().for_each(|one| compare(fields, &format!("{path}[]"), one, seen));
        }
        Value::Object(object) => {
            for (name, one) in object {
                let dot = if path.is_empty() { "" } else { "." };
                compare(fields, &format!("{path}{dot}{name}"), one, seen);
            }
        }
        other => panic!("{path} is not documented: {other}"),
    }
}

/// Documents, each under the title of its section.
struct Pages {
    sections: BTreeMap<String, Fields>,
    seen: BTreeMap<String, BTreeSet<String>>,
}

impl Pages {
    /// Compares one with its section, and gives it back.
    fn hold(&mut self, title: &str, value: Value) -> Value {
        let fields = self.sections.get(title).unwrap_or_else(|| panic!("no section {title}"));
        compare(fields, "", &value, self.seen.entry(title.to_owned()).or_default());
        value
    }
}

fn image() -> TestImage {
    let base = Layer::new()
        .dir("etc", 0o755)
        .file("etc/motd", 0o644, "hello\n")
        .symlink("etc/link", "motd");
    let next = Layer::new().dir("etc", 0o755).file("etc/motd", 0o644, "bye\n");
    TestImage::new(IMAGE).layer("ADD base", base).layer("RUN change", next).config("CMD sh")
}

#[test]
fn the_page_tells_every_field_of_every_document() {
    sandbox!();
    let sections = documented(&page());
    let mut pages = Pages { sections, seen: BTreeMap::new() };
    let store = Store::new();
    let place = |name: &str| store.scratch().join(name).to_str().unwrap().to_owned();
    let layout = image().write_oci(&store.scratch().join("image"), Compression::Raw);
    let layout = layout.to_str().unwrap();
    fs::write(place("layer.tar"), Layer::new().file("x", 0o644, "x").finish()).unwrap();

    pages.hold("load", store.json(["load", "-i", layout]));
    pages.hold("images", store.json(["images"]));
    pages.hold("history", store.json(["history", IMAGE]));
    pages.hold("history --wasted", store.json(["history", "--wasted", IMAGE]));
    pages.hold("inspect IMAGE", store.json(["inspect", IMAGE]));
    pages.hold("tree IMAGE", store.json(["tree", IMAGE]));
    pages.hold("tag", store.json(["tag", IMAGE, "json.test/other"]));
    pages.hold("save", store.json(["save", IMAGE, "-o", &place("saved.tar")]));
    pages.hold("create", store.json(["create", "--name", "web", IMAGE]));
    pages.hold("mount", store.json(["mount", "web"]));
    pages.hold("inspect CONTAINER", store.json(["inspect", "web"]));
    pages.hold("ps", store.json(["ps"]));
    pages.hold("unmount", store.json(["unmount", "web"]));
    fs::write(place("note"), "note\n").unwrap();
    pages.hold("cp", store.json(["cp", &place("note"), "web:/etc/motd"]));
    pages.hold("diff", store.json(["diff", "web"]));
    pages.hold("diff --tar", store.json(["diff", "--tar", "-o", &place("diff.tar"), "web"]));
    pages.hold("ls", store.json(["ls", "web:/etc"]));
    pages.hold("stat", store.json(["stat", "web:/etc/motd"]));
    pages.hold("tree NAME:PATH", store.json(["tree", "web:/etc/link"]));
    pages.hold("tree NAME:PATH", store.json(["tree", "web:/etc"]));
    pages.hold("which", store.json(["which", "web", "/etc/motd"]));
    let bundle = ["bundle", "--format", "json", "web", &place("bundle"), "--", "/bin/sh"];
    pages.hold("bundle", serde_json::from_str(&store.ok(bundle)).unwrap());
    store.ok(["unmount", "web"]);
    pages.hold("commit", store.json(["commit", "web", "json.test/changed"]));
    pages.hold("recover", store.json(["recover", "--accept", "web"]));
    let applied = pages.hold("layer apply", store.json(["layer", "apply", &place("layer.tar")]));
    pages.hold("import", store.json(["import", &place("layer.tar"), "json.test/imported"]));
    pages.hold("layer ls", store.json(["layer", "ls"]));
    // What the command prints where quotas are kept, which few file systems do.
    let limits = overlay2::Quota { bytes: Some(3), inodes: Some(4) };
    let used = overlay2::QuotaUse { bytes: 1, inodes: 2, limits };
    pages.hold("quota", serde_json::to_value(used).unwrap());
    pages.hold("df", store.json(["df"]));
    pages.hold("info", store.json(["info"]));
    pages.hold("gc", store.json(["gc"]));
    pages.hold("rm", store.json(["rm", "web"]));
    pages.hold("rmi", store.json(["rmi", "json.test/changed", "json.test/imported"]));
    let chain = applied["chain_id"].as_str().unwrap();
    pages.hold("layer rm", store.json(["layer", "rm", chain]));
    damaged(&store, &mut pages);

    for (title, fields) in &pages.sections {
        let seen = pages.seen.get(title).unwrap_or_else(|| panic!("{title} is not tried"));
        for (name, kind) in fields {
            let may_lack =
                kind.contains("absent") || name.contains("items[]") || name.ends_with("[]");
            assert!(may_lack || seen.contains(name), "{title}: {name} is not printed");
        }
    }
}

/// What is printed of a store that is not as it was, and of errors.
fn damaged(store: &Store, pages: &mut Pages) {
    let top = store.graph_dir(IMAGE, "UpperDir");
    fs::write(top.join("etc/motd"), "rot!").unwrap();
    let parsed = |args: &[&str]| {
        let done = store.run(args.iter().chain(&["--format", "json"]));
        assert_eq!(done.status, 1, "{done:?}");
        let text = if done.stdout.is_empty() { &done.stderr } else { &done.stdout };
        serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {done:?}"))
    };
    pages.hold("check", parsed(&["check"]));
    let text = store.run(["repair", "--format", "json"]).stdout;
    pages.hold("repair", serde_json::from_str(&text).unwrap());
    let error = pages.hold("errors", parsed(&["rmi", "json.test/nothing"]));
    assert_eq!(error["kind"], "NotFound");
}

#[test]
fn paths_need_not_be_utf_8() {
    sandbox!();
    let scratch = tempfile::tempdir().unwrap();
    let odd =
        |name: &str| scratch.path().join(OsStr::from_bytes(&[name.as_bytes(), b"%\xFF"].concat()));
    let store = Store::at(odd("store"));
    let layout = image().write_oci(&store.scratch().join("image"), Compression::Raw);
    let layout = layout.to_str().unwrap();
    store.ok(["load", "-i", layout]);
    store.ok(["create", "--name", "web", IMAGE]);
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    let ends =
        |value: &Value, name: &str| assert!(text(value).ends_with(&format!("/{name}%25%FF")));
    let save = [OsStr::new("save"), OsStr::new(IMAGE), OsStr::new("-o"), odd("tar").as_os_str()]
        .map(OsStr::to_owned);
    ends(&store.json(save)["file"], "tar");
    let mount = [OsStr::new("mount"), OsStr::new("web"), odd("m").as_os_str()].map(OsStr::to_owned);
    fs::create_dir(odd("m")).unwrap();
    ends(&store.json(mount)["target"], "m");
    ends(&store.json(["ps"])[0]["mounted"], "m");
    ends(&store.json(["info"])["root"], "store");
    let inspected = &store.json(["inspect", "web"])[0];
    ends(&inspected["State"]["Mounted"], "m");
    for name in ["LowerDir", "UpperDir", "WorkDir"] {
        let path = text(&inspected["GraphDriver"]["Data"][name]);
        assert!(path.contains("/store%25%FF/"), "{name}: {path}");
    }
    let layers = store.json(["layer", "ls"]);
    assert!(text(&layers[0]["directory"]).contains("/store%25%FF/"), "{layers}");
    store.ok(["unmount", "web"]);
    // Into a pipe as it is.
    let mounted = store.command().args(["mount", "web"]).output().unwrap();
    let printed = mounted.stdout.strip_suffix(b"\n").unwrap();
    assert!(fs::metadata(OsStr::from_bytes(printed)).unwrap().is_dir());
    store.ok(["unmount", "web"]);
}

#[test]
fn a_page_that_is_wrong_is_found_out() {
    let fields = documented("## `x`\n\n| field | type | |\n|---|---|---|\n| `[].a` | number | |\n");
    let holds = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        let fields = &fields["x"];
        std::panic::catch_unwind(move || compare(fields, "", &value, &mut BTreeSet::new())).is_ok()
    };
    assert!(holds(r#"[{"a": 1}]"#));
    assert!(!holds(r#"[{"a": "1"}]"#), "another type");
    assert!(!holds(r#"[{"a": 1, "b": 2}]"#), "a field that it does not tell");
}
