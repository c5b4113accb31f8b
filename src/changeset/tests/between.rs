//! Two stacks compared.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::laws::{Spec, What, apply, deletions, entries, lines, spec, tree};
use super::*;

/// A stack of these layers of the directory, topmost first.
fn stack_of(layers: &[&Dir]) -> Stack {
    let dirs = layers.iter().map(|dir| dir.try_clone().unwrap()).collect();
    Stack::new(dirs, Namespace::User, Redirects::Follow)
}

fn packed(old: &Stack, new: &Stack) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = DiffOptions { root: RootEntry::Never, ..Default::default() };
    write_between(old, new, &mut bytes, &options, "test", &Watch::new()).unwrap();
    bytes
}

fn listed(old: &Stack, new: &Stack) -> String {
    let changes = compare_stacks(old, new, "test", &Watch::new()).unwrap();
    changes.iter().map(|c| format!("{}{}", c.kind.letter(), c.path)).collect::<Vec<_>>().join(" ")
}

/// What it is about, the two trees, the list and the changeset.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a str, &'a str);

#[test]
fn what_differs_is_told() {
    let cases: &[Case<'_>] = &[
        ("nothing", &["f=1"], &["f=1"], "", ""),
        ("content", &["f=1"], &["f=2"], "C/f", "f=2"),
        ("a file comes and goes", &["f=1"], &["g=1"], "D/f A/g", ".wh.f g=1"),
        ("a directory goes", &["d/", "d/f=1"], &[], "D/d", ".wh.d"),
        ("one of its files goes", &["d/", "d/f=1", "d/g=1"], &["d/", "d/g=1"], "D/d/f", "d/.wh.f"),
        ("a directory for a file", &["x=1"], &["x/", "x/y=1"], "C/x A/x/y", "x/ x/y=1"),
        ("a file for a directory", &["x/", "x/y=1"], &["x=1"], "C/x", "x=1"),
        ("a link to another place", &["l@a"], &["l@b"], "C/l", "l@b"),
        ("marks are not told", &["f=1"], &["f=1", "d/", "d/ ^opaque:y"], "A/d", "d/"),
        ("a second name", &["f=1"], &["f=1", "g~f"], "C/f A/g", "f=1 g~f"),
        ("a name less", &["f=1", "g~f"], &["f=1"], "C/f D/g", "f=1 .wh.g"),
        ("names part", &["f=1", "g~f"], &["f=1", "g=1"], "C/f C/g", "f=1 g=1"),
    ];
    for (what, old, new, told, written) in cases {
        let scratch = tempfile::tempdir().unwrap();
        let (old, new) = (make(scratch.path(), "old", old), make(scratch.path(), "new", new));
        for dir in [&old, &new] {
            for name in ["f", "g", "d", "x", "d/g", "l"] {
                let path = LayerPath::parse(name.as_bytes()).unwrap();
                let (parent, name) = path.split().unwrap();
                if let Ok(parent) = dir.descend(&parent) {
                    let time = crate::inode::Timestamp::from_seconds(1);
                    let _ = parent.set_times(name, time, time);
                }
            }
        }
        let (old, new) = (stack_of(&[&old]), stack_of(&[&new]));
        assert_eq!(listed(&old, &new), *told, "{what}");
        assert_eq!(listing(&packed(&old, &new)), *written, "{what}");
    }
}

#[test]
fn the_same_layers_are_not_walked() {
    let scratch = tempfile::tempdir().unwrap();
    let bottom = make(scratch.path(), "bottom", &["x=1"]);
    // Whoever looks into `d` meets a mark that leads nowhere.
    let broken = ["d/", "d/f=1", "d/g~d/f", "d/h/", "d/h ^redirect:/..", "e/", "e/f=1"];
    let base = make(scratch.path(), "base", &broken);
    let top = make(scratch.path(), "top", &["e/", "e/f=2", "e user.other:1"]);
    let other = make(scratch.path(), "other", &["d/", "d/f=2"]);
    let (old, new) = (stack_of(&[&base, &bottom]), stack_of(&[&top, &base, &bottom]));
    assert_eq!(listed(&old, &old), "");
    assert_eq!(listed(&old, &new), "C/e C/e/f");
    assert_eq!(listing(&packed(&new, &old)), "e/ e/f=1");
    let new = stack_of(&[&other, &base, &bottom]);
    compare_stacks(&old, &new, "test", &Watch::new()).unwrap_err();
}

#[test]
fn names_of_one_file_stay_together() {
    let scratch = tempfile::tempdir().unwrap();
    let base = make(scratch.path(), "base", &["a/", "a/f=1", "b/", "b/g~a/f"]);
    let top = make(scratch.path(), "top", &["b/", "b/g=2", "b user.other:1"]);
    let (old, new) = (stack_of(&[&top, &base]), stack_of(&[&base]));
    // `a` is the same directory in both, yet its file has to come along.
    assert_eq!(listing(&packed(&old, &new)), "a/f=1 b/ b/g~a/f");
    assert_eq!(listing(&packed(&new, &old)), "b/ b/g=2");
}

/// How many cases are tried: `OVERLAY2_CASES`, else few.
fn cases() -> u32 {
    std::env::var("OVERLAY2_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// Which names of a tar are the same file, each told by the first of them.
fn groups(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut groups = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let name = name.trim_end_matches('/').to_owned();
        let first = match entry.header().entry_type() {
            tar::EntryType::Link => {
                String::from_utf8(entry.link_name_bytes().unwrap().into_owned()).unwrap()
            }
            _ => name.clone(),
        };
        groups.insert(name, first);
    }
    groups
}

fn exported(stack: &Stack) -> Vec<u8> {
    let mut out = Vec::new();
    if !stack.is_empty() {
        let options = DiffOptions { root: RootEntry::Never, ..Default::default() };
        export(stack, &mut out, &options, "test", &Watch::new()).unwrap();
    }
    out
}

/// The sets of names that are one file.
fn sets(groups: &BTreeMap<String, String>) -> BTreeSet<BTreeSet<&String>> {
    let mut sets: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (name, first) in groups {
        sets.entry(first).or_default().insert(name);
    }
    sets.into_values().collect()
}

fn check(shared: &[Spec], old: &[Spec], new: &[Spec]) {
    let scratch = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut directories = |specs: &[Spec]| -> Vec<Dir> {
        let make = |spec: &Spec| {
            number += 1;
            let lines = lines(spec);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            make(scratch.path(), &number.to_string(), &lines)
        };
        specs.iter().map(make).collect()
    };
    // A directory that shows under its old name too, as no kernel leaves it, shows its files twice.
    let moved = |spec: &Spec| spec.iter().any(|(_, what)| matches!(what, What::Moved(_)));
    let twice = old.iter().chain(new).any(moved);
    let (shared, old, new) = (directories(shared), directories(old), directories(new));
    let old = stack_of(&old.iter().chain(&shared).collect::<Vec<_>>());
    let new = stack_of(&new.iter().chain(&shared).collect::<Vec<_>>());
    if new.is_empty() {
        return;
    }
    let bytes = packed(&old, &new);
    let changeset = entries(&bytes);
    let (before, after) = (tree(&old), tree(&new));
    let mut applied = before.clone();
    apply(&changeset, &mut applied);
    assert_eq!(applied, after, "the difference, applied, gives the other tree: {changeset:#?}");

    let written = groups(&bytes);
    let mut linked = groups(&exported(&old));
    linked.values_mut().for_each(|first| first.insert_str(0, "old:"));
    linked.extend(written);
    linked.retain(|name, _| after.contains_key(name));
    if !twice {
        assert_eq!(sets(&linked), sets(&groups(&exported(&new))), "hard links: {changeset:#?}");
    }

    let told = compare_stacks(&old, &new, "test", &Watch::new()).unwrap();
    let path = |change: &Change| String::from_utf8(change.path.as_bytes().to_vec()).unwrap();
    let deleted = told.iter().filter(|c| c.kind == ChangeKind::Deleted).map(path).collect();
    assert_eq!(deletions(&before, &after), deleted);
    let whole: BTreeSet<String> = changeset
        .iter()
        .filter(|(name, _)| !name.rsplit('/').next().unwrap().starts_with(".wh."))
        .map(|(name, _)| name.trim_end_matches('/').to_owned())
        .collect();
    let shown = told.iter().filter(|c| c.kind != ChangeKind::Deleted).map(path).collect();
    assert_eq!(whole, shown, "the list tells of what is written");
    assert!(compare_stacks(&new, &new, "test", &Watch::new()).unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn the_difference_applied_gives_the_other_tree(
        shared in prop::collection::vec(spec(false), 0..3),
        old in prop::collection::vec(spec(true), 0..3),
        new in prop::collection::vec(spec(true), 0..3),
    ) {
        check(&shared, &old, &new);
    }
}
