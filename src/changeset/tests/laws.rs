//! Laws that hold for any upper over any layers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What a random name is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    File(u8),
    Directory,
    Opaque,
    XattrWhiteouts,
    Moved(&'static str),
    Whiteout,
    XattrWhiteout,
    Symlink,
    Link,
}

pub(super) type Spec = Vec<(Vec<u8>, What)>;

pub(super) fn spec(moves: bool) -> impl Strategy<Value = Spec> {
    let targets = prop_oneof![Just("a"), Just("b"), Just("/a/b"), Just("/c"), Just("/b/a/c")];
    let what = prop_oneof![
        4 => (0u8..3).prop_map(What::File),
        4 => Just(What::Directory),
        2 => Just(What::Opaque),
        1 => Just(What::XattrWhiteouts),
        if moves { 3 } else { 0 } => targets.prop_map(What::Moved),
        3 => Just(What::Whiteout),
        1 => Just(What::XattrWhiteout),
        1 => Just(What::Symlink),
        1 => Just(What::Link),
    ];
    let path = prop::collection::vec(b'a'..b'd', 1..4);
    prop::collection::vec((path, what), 0..14)
}

/// Turns a random list into lines that can be made: parents first, nothing twice.
pub(super) fn lines(spec: &Spec) -> Vec<String> {
    let mut made: BTreeMap<String, bool> = BTreeMap::new();
    let (mut lines, mut file) = (Vec::new(), None);
    for (names, what) in spec {
        let names: Vec<String> = names.iter().map(|&name| char::from(name).to_string()).collect();
        let path = names.join("/");
        let parents: Vec<String> = (1..names.len()).map(|end| names[..end].join("/")).collect();
        let blocked = parents.iter().any(|parent| made.get(parent) == Some(&false));
        if blocked || made.contains_key(&path) {
            continue;
        }
        for parent in parents {
            if made.insert(parent.clone(), true).is_none() {
                lines.push(format!("{parent}/"));
            }
        }
        let mut directory = |mark: String| {
            made.insert(path.clone(), true);
            lines.push(format!("{path}/"));
            if !mark.is_empty() {
                lines.push(format!("{path} {mark}"));
            }
        };
        match what {
            What::Directory => directory(String::new()),
            What::Opaque => directory("^opaque:y".to_owned()),
            What::XattrWhiteouts => directory("^opaque:x".to_owned()),
            What::Moved(to) => directory(format!("^redirect:{to}")),
            _ => {
                let line = match (what, &file) {
                    (What::File(text), _) => format!("{path}={text}"),
                    (What::Whiteout, _) => format!("{path}!"),
                    (What::XattrWhiteout, _) => format!("{path}?"),
                    (What::Link, Some(first)) => format!("{path}~{first}"),
                    _ => format!("{path}@target"),
                };
                if matches!(what, What::File(_)) {
                    file = Some(path.clone());
                }
                made.insert(path, false);
                lines.push(line);
            }
        }
    }
    lines
}

/// An entry of a tar: its type and all that it carries, a link's being those of its first name.
pub(super) type Tree = BTreeMap<String, String>;

/// The entries of a tar in their order.
pub(super) fn entries(bytes: &[u8]) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(bytes);
    let mut entries: Vec<(String, String)> = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let kind = entry.header().entry_type();
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        if kind == tar::EntryType::Link {
            let first = entries.iter().find(|(name, _)| Some(name) == link.as_ref());
            let told = first.expect("a link stands behind its first name").1.clone();
            entries.push((name, told));
            continue;
        }
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut text).unwrap();
        let records: Vec<(Vec<u8>, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .into_iter()
            .flatten()
            .map(|record| {
                record.map(|r| (r.key_bytes().to_vec(), r.value_bytes().to_vec())).unwrap()
            })
            .collect();
        let private = b"SCHILY.xattr.user.overlay.";
        assert!(!records.iter().any(|(key, _)| key.starts_with(private)), "{name}");
        let mode = entry.header().mode().unwrap();
        entries.push((name, format!("{kind:?} {mode:o} {link:?} {text:?} {records:?}")));
    }
    entries
}

/// Where an entry stands in the order of a walk: a marker right behind its directory.
fn place(name: &str) -> Vec<&str> {
    let mut names: Vec<&str> = name.trim_end_matches('/').split('/').collect();
    if let Some(last) = names.last_mut() {
        *last = match *last {
            ".wh..wh..opq" => "",
            last => last.strip_prefix(".wh.").unwrap_or(last),
        };
    }
    names
}

pub(super) fn tree(stack: &Stack) -> Tree {
    if stack.is_empty() {
        return Tree::new();
    }
    let mut out = Vec::new();
    let options = DiffOptions { root: RootEntry::Never, ..Default::default() };
    export(stack, &mut out, &options, "test", &Watch::new()).unwrap();
    entries(&out)
        .into_iter()
        .map(|(name, told)| (name.trim_end_matches('/').into(), told))
        .collect()
}

fn remove_below(tree: &mut Tree, dir: &str) {
    let prefix = format!("{dir}/");
    tree.retain(|name, _| !name.starts_with(&prefix));
}

/// Applies a changeset to a tree, as the OCI image-spec has it: marks first.
pub(super) fn apply(changeset: &[(String, String)], tree: &mut Tree) {
    for (name, _) in changeset {
        let (dir, last) = name.rsplit_once('/').unwrap_or(("", name));
        if last == ".wh..wh..opq" {
            remove_below(tree, dir);
        } else if let Some(gone) = last.strip_prefix(".wh.") {
            let gone = if dir.is_empty() { gone.to_owned() } else { format!("{dir}/{gone}") };
            assert!(tree.remove(&gone).is_some(), "a whiteout of nothing: {name}");
            remove_below(tree, &gone);
        }
    }
    for (name, told) in changeset {
        if name.rsplit('/').next().is_some_and(|last| last.starts_with(".wh.")) {
            continue;
        }
        match name.strip_suffix('/') {
            Some(dir) => drop(tree.insert(dir.to_owned(), told.clone())),
            None => {
                remove_below(tree, name);
                tree.insert(name.clone(), told.clone());
            }
        }
    }
}

/// What the two trees say that was changed, but for what was written and yet is the same.
pub(super) fn deletions(old: &Tree, new: &Tree) -> BTreeSet<String> {
    let is_shown = |parent: &str| new.get(parent).is_some_and(|told| told.starts_with("Directory"));
    let told_of = |name: &&String| {
        !new.contains_key(*name) && name.rsplit_once('/').is_none_or(|(dir, _)| is_shown(dir))
    };
    old.keys().filter(told_of).cloned().collect()
}

fn check(upper: &Spec, below: &[Spec]) {
    let temporary = tempfile::tempdir().unwrap();
    let below: Vec<Vec<String>> = below.iter().map(lines).collect();
    let below: Vec<Vec<&str>> =
        below.iter().map(|lines| lines.iter().map(String::as_str).collect()).collect();
    let below: Vec<&[&str]> = below.iter().map(Vec::as_slice).collect();
    let stack = layers(temporary.path(), &below, Redirects::Follow);
    let upper = lines(upper);
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    let upper = make(temporary.path(), "upper", &upper);
    let mut all = vec![upper.try_clone().unwrap()];
    all.extend(stack.clone_layers().unwrap());
    let whole = Stack::new(all, Namespace::User, Redirects::Follow);

    let (old, new) = (tree(&stack), tree(&whole));
    for view in [View::Kernel, View::Pruned] {
        let options = DiffOptions { root: RootEntry::Never, view, ..Default::default() };
        let changeset = entries(&packed(&upper, &stack, &options));
        let places: Vec<_> = changeset.iter().map(|(name, _)| place(name)).collect();
        assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");

        let mut applied = old.clone();
        apply(&changeset, &mut applied);
        assert_eq!(applied, new, "the changeset, applied, gives the merged tree: {changeset:#?}");

        let told = compare(&upper, &stack, view, "test", &Watch::new()).unwrap();
        let path = |change: &Change| String::from_utf8(change.path.as_bytes().to_vec()).unwrap();
        let deleted = told.iter().filter(|c| c.kind == ChangeKind::Deleted).map(path).collect();
        assert_eq!(deletions(&old, &new), deleted);
        for change in told.iter().filter(|change| change.kind != ChangeKind::Deleted) {
            let was = old.contains_key(&path(change));
            assert_eq!(was, change.kind == ChangeKind::Modified, "{change}");
        }
        if view == View::Kernel {
            let written: BTreeSet<String> = changeset
                .iter()
                .filter(|(name, _)| !name.rsplit('/').next().unwrap().starts_with(".wh."))
                .map(|(name, _)| name.trim_end_matches('/').to_owned())
                .collect();
            let shown = told.iter().filter(|c| c.kind != ChangeKind::Deleted).map(path).collect();
            assert_eq!(written, shown);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_changeset_applied_gives_the_merged_tree(
        upper in spec(true),
        below in prop::collection::vec(spec(false), 0..4),
    ) {
        check(&upper, &below);
    }
}
