use super::*;
use rustix::fs::OFlags;
use std::path::Path;

/// A lower directory described by lines: `d/`, `d/f`, `d/gone=w`, `d/!` (opaque).
pub(in crate::format) fn layer(root: &Path, name: &str, lines: &[&str]) -> Dir {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    let dir = Dir::open_ambient(&path).unwrap();
    for line in lines {
        if let Some(parent) = line.strip_suffix("/!") {
            let at = dir.descend(&LayerPath::parse(parent.as_bytes()).unwrap()).unwrap();
            super::super::opaque::make(Namespace::User, Target::open(&at)).unwrap();
            continue;
        }
        let (text, is_whiteout) = match line.strip_suffix("=w") {
            Some(text) => (text, true),
            None => (*line, false),
        };
        let layer_path = LayerPath::parse(text.as_bytes()).unwrap();
        let (parent, name) = layer_path.split().unwrap();
        let parent = dir.descend(&parent).unwrap();
        if is_whiteout {
            whiteout::make(&parent, name).unwrap();
        } else if text.ends_with('/') {
            parent.make_dir(name, 0o755).unwrap();
        } else {
            drop(parent.open(name, OFlags::CREATE | OFlags::WRONLY, 0o644).unwrap());
        }
    }
    dir
}

fn stack(root: &Path, layers: &[&[&str]]) -> Stack {
    let dirs = layers.iter().enumerate().map(|(i, lines)| layer(root, &i.to_string(), lines));
    Stack::new(dirs.collect(), Namespace::User, Redirects::Refuse)
}

/// All names of the merged tree, each with the layer that supplies it.
fn tree(stack: &Stack, dir: &MergedDir, prefix: &str, out: &mut Vec<String>) {
    for entry in stack.entries(dir).unwrap() {
        let name = format!("{prefix}{}", String::from_utf8_lossy(&entry.name));
        match stack.lookup(dir, &entry.name).unwrap() {
            Found::Absent => panic!("{name} is listed and not there"),
            Found::File(file) => out.push(format!("{name}@{}", file.layer)),
            Found::Directory(below, _) => {
                out.push(format!("{name}/"));
                tree(stack, &below, &format!("{name}/"), out);
            }
        }
    }
}

#[test]
fn the_merge_rule() {
    let cases: &[(&str, &[&[&str]], &str)] = &[
        ("one above the other", &[&["a"], &["a", "b"]], "a@0 b@1"),
        ("a whiteout hides", &[&["a=w"], &["a", "b"]], "b@1"),
        ("directories merge", &[&["d/", "d/x"], &["d/", "d/y"]], "d/ d/x@0 d/y@1"),
        ("opaque hides", &[&["d/", "d/x", "d/!"], &["d/", "d/y"]], "d/ d/x@0"),
        ("a file over a directory", &[&["d"], &["d/", "d/y"]], "d@0"),
        ("a directory over a file", &[&["d/"], &["d"], &["d/", "d/y"]], "d/"),
        ("a whiteout between", &[&["d/"], &["d=w"], &["d/", "d/y"]], "d/"),
        ("a whiteout inside", &[&["d/", "d/y=w"], &["d/", "d/y", "d/z"]], "d/ d/z@1"),
    ];
    for (what, layers, expected) in cases {
        let temporary = tempfile::tempdir().unwrap();
        let stack = stack(temporary.path(), layers);
        let mut names = Vec::new();
        tree(&stack, &stack.root(), "", &mut names);
        assert_eq!(names.join(" "), *expected, "{what}");
    }
}

#[test]
fn redirects_are_refused_or_followed() {
    let temporary = tempfile::tempdir().unwrap();
    let mut stack =
        stack(temporary.path(), &[&["new/", "deep/"], &["old/", "old/f", "a/", "a/b/", "a/b/g"]]);
    let set = |name: &[u8], value: &[u8]| {
        let dir = stack.layers[0].child(name).unwrap();
        xattr::set(Target::open(&dir), &Namespace::User.name(mark::REDIRECT), value).unwrap();
    };
    set(b"new", b"old");
    set(b"deep", b"/a/b");
    let root = stack.root();
    assert_eq!(stack.lookup(&root, b"new").unwrap_err(), Errno::PERM);
    stack.redirects = Redirects::Follow;
    for (name, file) in [(b"new".as_slice(), b"f".as_slice()), (b"deep", b"g")] {
        let Found::Directory(dir, _) = stack.lookup(&root, name).unwrap() else { panic!() };
        assert!(matches!(stack.lookup(&dir, file).unwrap(), Found::File(_)));
    }
}

#[test]
fn what_was_read_is_not_read_again() {
    let scratch = tempfile::tempdir().unwrap();
    let stack = stack(scratch.path(), &[&["f"], &["d/"], &["d/", "d/f"]]);
    let (root, mut memory) = (stack.root(), Memory::of(b"d"));
    let Found::Directory(first, _) = stack.lookup_again(&root, b"d", &mut memory).unwrap() else {
        panic!("d is a directory");
    };
    for layer in &stack.clone_layers().unwrap()[1..] {
        layer.rename(b"d", layer, b"e", rustix::fs::RenameFlags::empty()).unwrap();
    }
    let below = MergedDir { parts: root.parts[2..].to_vec() };
    let Found::Directory(again, _) = stack.lookup_again(&below, b"d", &mut memory).unwrap() else {
        panic!("d was there");
    };
    assert!(Arc::ptr_eq(&first.parts[1], &again.parts[0]));
    assert!(matches!(stack.lookup(&root, b"d").unwrap(), Found::Absent));
    assert!(matches!(stack.lookup_again(&root, b"e", &mut memory).unwrap(), Found::Directory(..)));
}
