#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use overlay2::snapshot::{Labels, Snapshots, SnapshotsOptions};

use super::*;

/// An active snapshot `bar` on `base`, with labels.
fn sample() -> (tempfile::TempDir, Snapshot) {
    let place = tempfile::tempdir().unwrap();
    let s = Snapshots::open(place.path().join("s"), &SnapshotsOptions::default()).unwrap();
    s.prepare("k", None, Labels::new()).unwrap();
    s.commit("base", "k", None, Labels::new()).unwrap();
    let pairs = [
        ("bar", "true"),
        ("a.b", "dotted"),
        ("containerd.io/gc.root", "now"),
        ("more complex \\ \"label\"", "present"),
    ];
    let labels = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    s.prepare("bar", Some("base"), labels).unwrap();
    let shown = s.stat("bar").unwrap();
    (place, shown)
}

#[test]
fn what_matches() {
    let (_place, snapshot) = sample();
    for (text, matches) in [
        ("", true),
        ("name", true),
        ("nothing", false),
        ("name==bar", true),
        ("name == bar", true),
        ("name!=bar", false),
        ("name==bar,labels.bar", true),
        ("name==bar,labels.foo", false),
        ("name==bar , labels.bar==true", true),
        ("labels.bar==wrong", false),
        ("labels.foo!=anything", true),
        ("labels.foo==anything", false),
        ("labels.a.b==dotted", true),
        (r#"labels."containerd.io/gc.root""#, true),
        (r#"labels."containerd.io/gc.root"==now"#, true),
        (r#"labels."more complex \\ \"label\""==present"#, true),
        (r#"name=="b\x61r""#, true),
        ("name~=^b[aeiou]r$", true),
        ("name~=/^b.r$/,kind==active", true),
        ("name~=|a|", true),
        (r"name~=/\//", false),
        (r"name~=/^\w+$/", true),
        ("kind==committed", false),
        ("parent==base", true),
        ("labels", false),
    ] {
        let filter: Filter = text.parse().unwrap();
        assert_eq!(filter.matches(&snapshot), matches, "{text}");
    }
}

#[test]
fn what_is_no_filter() {
    for text in [
        "name==foo,",
        ",name",
        "labels.",
        "name==",
        "image~=,id?=?fbaq",
        "labels.ns/key==value",
        "labels.|foo|==x",
        "labels.key==/value",
        "name==/value/",
        "name=foo",
        "name===foo",
        "name foo",
        "name~=[",
        "\"unfinished",
        r#"name=="\q""#,
        r#"name=="\ud800""#,
        "?",
    ] {
        let refused = text.parse::<Filter>();
        assert!(refused.is_err(), "{text}: {refused:?}");
    }
}
