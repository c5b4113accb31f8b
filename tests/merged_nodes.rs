//! The userspace tree by nodes, as a server of a file system protocol uses it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use overlay2::merged::{EntryKind, Node, OpenOptions, Options, RenameMode, Tree};
use overlay2::{Device, Dir, Durability, Namespace};

/// A scratch directory with two lower layers, topmost first, an UpperDir and a WorkDir.
fn place(layers: [&[(&str, &str)]; 2]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in ["upper", "work"] {
        std::fs::create_dir(place.path().join(name)).unwrap();
    }
    for (number, files) in layers.into_iter().enumerate() {
        let layer = place.path().join(format!("lower{number}"));
        std::fs::create_dir(&layer).unwrap();
        for (path, text) in files {
            let path = layer.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
    place
}

fn open(place: &Path) -> Tree {
    let dir = |name: &str| Dir::open_ambient(place.join(name)).unwrap();
    let options = Options::new(Namespace::User).durability(Durability::None);
    let lower = vec![dir("lower0"), dir("lower1")];
    Tree::writable(lower, dir("upper"), dir("work"), &options).unwrap()
}

fn reading() -> OpenOptions {
    OpenOptions::new().read(true).clone()
}

fn writing() -> OpenOptions {
    OpenOptions::new().write(true).clone()
}

fn text(node: &Node) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut node.open(&reading()).unwrap(), &mut text).unwrap();
    text
}

fn errno<T: std::fmt::Debug>(result: overlay2::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

const ENOENT: Option<i32> = Some(2);
const EXDEV: Option<i32> = Some(18);
const ENOTDIR: Option<i32> = Some(20);
const EINVAL: Option<i32> = Some(22);

#[test]
fn a_node_stays_what_it_is() {
    let place = place([&[("d/f", "upper of two")], &[("d/f", "hidden"), ("d/g", "g")]]);
    let tree = open(place.path());
    let d = tree.root().lookup("d").unwrap();
    let (f, g) = (d.lookup("f").unwrap(), d.lookup("g").unwrap());
    assert_eq!((text(&f).as_str(), text(&g).as_str()), ("upper of two", "g"));
    let numbers = |node: &Node| (node.metadata().unwrap().dev(), node.metadata().unwrap().ino());
    let (of_d, of_f) = (numbers(&d), numbers(&f));
    // Copied up.
    f.open(&writing()).unwrap().write_at(b"UPPER", 0).unwrap();
    assert_eq!((numbers(&d), numbers(&f)), (of_d, of_f));
    assert_eq!(text(&f), "UPPER of two");
    // Renamed.
    d.rename("f", &tree.root(), "moved", RenameMode::Replace).unwrap();
    assert_eq!(errno(d.lookup("f")), ENOENT);
    assert_eq!(tree.root().lookup("moved").unwrap().id(), f.id());
    assert_eq!(f.parent().unwrap().id(), tree.root().id());
    // Replaced by another.
    d.rename("g", &tree.root(), "moved", RenameMode::Replace).unwrap();
    assert_eq!(tree.root().lookup("moved").unwrap().id(), g.id());
    assert_eq!((text(&f).as_str(), text(&g).as_str()), ("UPPER of two", "g"));
    assert!(f.parent().is_none());
    assert_eq!(numbers(&f), of_f);
    // Let go, and found again.
    drop(f);
    drop(g);
    assert_eq!(text(&tree.root().lookup("moved").unwrap()), "g");
}

#[test]
fn everything_can_be_made_and_removed() {
    let place = place([&[("d/gone", "x")], &[("d/gone", "below")]]);
    let tree = open(place.path());
    let d = tree.root().lookup("d").unwrap();
    d.remove_file("gone").unwrap();
    assert_eq!(errno(d.lookup("gone")), ENOENT);
    // Over the whiteout: a file that its own mode would not let anybody open.
    let (gone, file) = d.create("gone", writing().mode(0)).unwrap();
    file.write_at(b"new", 0).unwrap();
    assert_eq!((gone.metadata().unwrap().len(), gone.metadata().unwrap().mode()), (3, 0));
    gone.set_permissions(0o644).unwrap();
    assert_eq!(text(&gone), "new");
    assert_eq!(errno(d.create("gone", &writing())), Some(17));
    // Created to be read: what is written to it later is read through the same handle.
    let (fresh, early) = d.create("fresh", &reading()).unwrap();
    assert!(early.write_at(b"x", 0).is_err());
    fresh.open(&writing()).unwrap().write_at(b"later", 0).unwrap();
    let mut later = [0; 5];
    early.read_at(&mut later, 0).unwrap();
    assert_eq!(&later, b"later");
    d.remove_file("fresh").unwrap();

    let sub = d.create_dir("sub", 0o755).unwrap();
    assert!(sub.is_dir() && sub.read_dir().unwrap().is_empty());
    let link = sub.symlink("link", "../gone").unwrap();
    assert_eq!(link.read_link().unwrap(), Path::new("../gone"));
    assert_eq!(errno(link.open(&reading())), Some(40));
    let zero = Device { major: 0, minor: 0 };
    let pipe = sub.mknod("pipe", EntryKind::Fifo, 0o600, zero).unwrap();
    assert_eq!(pipe.metadata().unwrap().kind(), EntryKind::Fifo);
    let more = sub.hard_link("more", &gone).unwrap();
    assert_eq!(more.metadata().unwrap().ino(), gone.metadata().unwrap().ino());
    let names: Vec<_> = sub.read_dir().unwrap().into_iter().map(|e| (e.kind(), e)).collect();
    let names: Vec<_> = names.iter().map(|(kind, e)| (e.name_bytes(), *kind)).collect();
    let (link, file, pipe) = (EntryKind::Symlink, EntryKind::Regular, EntryKind::Fifo);
    assert_eq!(names, [(&b"link"[..], link), (b"more", file), (b"pipe", pipe)]);
    assert_eq!(errno(d.remove_dir("sub")), Some(39));
    for name in ["link", "more", "pipe"] {
        sub.remove_file(name).unwrap();
    }
    d.remove_dir("sub").unwrap();
    assert_eq!(errno(sub.create_dir("late", 0o755)), ENOENT);
}

#[test]
fn what_is_no_name_of_this_tree_is_refused() {
    let (one, other) = (place([&[("d/f", "x")], &[]]), place([&[("d/f", "x")], &[]]));
    let (tree, other) = (open(one.path()), open(other.path()));
    let (root, elsewhere) = (tree.root(), other.root());
    for name in ["", ".", "..", "d/f", "/", "a\0b"] {
        assert_eq!(errno(root.lookup(name)), EINVAL, "{name:?}");
        assert_eq!(errno(root.create_dir(name, 0o755)), EINVAL, "{name:?}");
        assert_eq!(errno(root.remove_file(name)), EINVAL, "{name:?}");
    }
    let file = root.lookup("d").unwrap().lookup("f").unwrap();
    let long = "n".repeat(256);
    for name in ["x", &long] {
        assert_eq!(errno(file.lookup(name)), ENOTDIR);
        assert_eq!(errno(file.create(name, &writing())), ENOTDIR);
        assert_eq!(errno(file.create_dir(name, 0o755)), ENOTDIR);
        assert_eq!(errno(file.remove_file(name)), ENOTDIR);
        assert_eq!(errno(file.remove_dir(name)), ENOTDIR);
        assert_eq!(errno(file.hard_link(name, &file)), ENOTDIR);
        assert_eq!(errno(file.rename(name, &root, "e", RenameMode::Replace)), ENOTDIR);
        assert_eq!(errno(root.rename("d", &file, name, RenameMode::Replace)), ENOTDIR);
    }
    let gone = root.create("gone", &writing()).unwrap().0;
    root.remove_file("gone").unwrap();
    assert_eq!(errno(gone.create_dir("x", 0o755)), ENOTDIR);
    assert_eq!(errno(file.read_dir()), ENOTDIR);
    assert_eq!(errno(file.read_link()), EINVAL);
    assert_eq!(errno(file.open(OpenOptions::new().write(true).create(true))), EINVAL);
    assert_eq!(errno(elsewhere.hard_link("f", &file)), EXDEV);
    assert_eq!(errno(root.rename("d", &elsewhere, "e", RenameMode::Replace)), EXDEV);
}

/// How many descriptors of this process lead into a directory.
fn descriptors(place: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(place)).count()
}

#[test]
fn dropping_a_node_forgets_it() {
    let place = place([&[("f", "x"), ("g", "y")], &[("h", "z")]]);
    let tree = open(place.path());
    let before = descriptors(place.path());
    let held: Vec<_> = ["f", "g", "h"].map(|name| tree.root().lookup(name).unwrap()).into();
    assert_eq!(descriptors(place.path()), before + 3);
    let again = tree.root().lookup("f").unwrap();
    assert_eq!(descriptors(place.path()), before + 3);
    drop(held);
    assert_eq!(descriptors(place.path()), before + 1);
    drop(again);
    assert_eq!(descriptors(place.path()), before);
    drop(tree);
    assert_eq!(descriptors(place.path()), 0);
}

/// What a thread did in a directory of its own, by name.
type Model = BTreeMap<String, String>;

fn work(dir: &Node, shared: &Node, seed: u64) -> Model {
    let mut model = Model::new();
    for entry in dir.read_dir().unwrap() {
        let node = dir.lookup(entry.name_bytes()).unwrap();
        model.insert(String::from_utf8(entry.name_bytes().into()).unwrap(), text(&node));
    }
    let mut random = seed;
    for step in 0..400 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let name = format!("f{}", (random >> 33) % 6);
        let other = format!("f{}", (random >> 43) % 6);
        let new = format!("{seed} {step}");
        match (random >> 53) % 5 {
            0 | 1 => {
                let made = dir.create(&name, &writing());
                assert_eq!(made.is_ok(), !model.contains_key(&name), "{name}: {made:?}");
                if let Ok((_, file)) = made {
                    file.write_at(new.as_bytes(), 0).unwrap();
                    model.insert(name, new);
                }
            }
            2 => {
                let removed = dir.remove_file(&name);
                assert_eq!(removed.is_ok(), model.remove(&name).is_some(), "{name}: {removed:?}");
            }
            3 => {
                let renamed = dir.rename(&name, dir, &other, RenameMode::Replace);
                assert_eq!(renamed.is_ok(), model.contains_key(&name), "{name}: {renamed:?}");
                if let Some(text) = model.remove(&name) {
                    model.insert(other, text);
                }
            }
            _ => {
                let found = dir.lookup(&name);
                assert_eq!(found.ok().map(|node| text(&node)), model.get(&name).cloned());
            }
        }
        // Everybody pulls at the same few names there; only a torn answer would be wrong.
        let done = match random >> 60 {
            0..4 => shared.create(other_name(random), &writing()).map(drop),
            4..8 => shared.remove_file(other_name(random)),
            8..10 => shared.rename(other_name(random), shared, "f0", RenameMode::Replace),
            10..13 => shared.lookup(other_name(random)).and_then(|n| n.set_permissions(0o600)),
            _ => shared.read_dir().map(drop),
        };
        assert!(done.is_ok() || matches!(errno(done), Some(2 | 17)));
        let listed = dir.read_dir().unwrap();
        let listed = listed.iter().map(|entry| String::from_utf8_lossy(entry.name_bytes()));
        assert!(listed.eq(model.keys().map(String::as_str)));
    }
    model
}

fn other_name(random: u64) -> String {
    format!("f{}", (random >> 50) % 4)
}

#[test]
fn threads_share_a_tree() {
    let files: Vec<(String, &str)> = (0..4)
        .flat_map(|dir| [0, 3, 5].map(|file| (format!("d{dir}/f{file}"), "lower")))
        .chain((0..3).map(|file| (format!("shared/f{file}"), "lower")))
        .collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let (upper, lower) = files.split_at(files.len() / 2);
    let place = place([upper, lower]);
    let tree = open(place.path());
    let shared = tree.root().lookup("shared").unwrap();
    let models: Vec<Model> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let dir = tree.root().lookup(format!("d{number}")).unwrap();
                let shared = &shared;
                scope.spawn(move || work(&dir, shared, number))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // A copied-up file has a number of its own in the next tree.
    let listing = |dir: &Node| -> Vec<_> {
        let entries = dir.read_dir().unwrap();
        entries.iter().map(|entry| (entry.name_bytes().to_vec(), entry.kind())).collect()
    };
    let seen = listing(&shared);
    drop(shared);
    drop(tree);
    // What is on disk is what the nodes said.
    let tree = open(place.path());
    assert_eq!(listing(&tree.root().lookup("shared").unwrap()), seen);
    for (number, model) in models.iter().enumerate() {
        let dir = tree.root().lookup(format!("d{number}")).unwrap();
        let found = listing(&dir).into_iter().map(|(name, _)| {
            let name = String::from_utf8(name).unwrap();
            let text = text(&dir.lookup(&name).unwrap());
            (name, text)
        });
        assert_eq!(&found.collect::<Model>(), model);
    }
}

/// A lookup tells what was there before a change or what is there after it, however much of it is
/// answered from memory.
#[test]
fn lookups_beside_changes_are_never_stale() {
    let place = place([&[("d/x", "lower")], &[("d/y", "lower")]]);
    let tree = open(place.path());
    let d = tree.root().lookup("d").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    drop(d.lookup("x"));
                    drop(tree.metadata("d/x"));
                    assert!(d.read_dir().unwrap().iter().any(|entry| entry.name_bytes() == b"y"));
                    assert!(tree.exists("d/y"));
                }
            });
        }
        for round in 0..300 {
            d.remove_file("x").unwrap();
            assert_eq!(errno(d.lookup("x")), ENOENT, "round {round}");
            assert!(!tree.exists("d/x"));
            assert_eq!(d.read_dir().unwrap().len(), 1);
            drop(d.create("x", &writing()).unwrap());
            assert!(tree.exists("d/x"));
            assert_eq!(d.read_dir().unwrap().len(), 2);
            // Copied up in the first round.
            d.lookup("y").unwrap().set_permissions(0o600 + round % 8).unwrap();
            assert_eq!(tree.metadata("d/y").unwrap().mode(), 0o600 + round % 8);
        }
        over.store(true, Ordering::Release);
    });
}

/// A listing tells the numbers that the attributes tell, whatever was copied up, held or let go.
#[test]
fn listings_tell_the_numbers() {
    let files =
        [("d/f", "1"), ("d/g", "2"), ("d/sub/x", "3"), ("d/other/x", "4"), ("d/both/x", "5")];
    let place = place([&files, &[("d/both/y", "6"), ("d/f", "hidden")]]);
    std::fs::hard_link(place.path().join("lower0/d/g"), place.path().join("lower0/d/h")).unwrap();
    let numbers = |tree: &Tree| -> BTreeMap<Vec<u8>, u64> {
        let told = |dir: &str| {
            let entries = tree.read_dir(dir).unwrap().into_iter();
            let of =
                |entry: &overlay2::merged::DirEntry| (entry.name_bytes().to_vec(), entry.ino());
            entries.map(|entry| of(&entry)).collect::<BTreeMap<_, _>>()
        };
        let numbers = told("d");
        for (name, number) in &numbers {
            let path = format!("d/{}", String::from_utf8_lossy(name));
            assert_eq!(tree.metadata(&path).unwrap().ino(), *number, "{path}");
        }
        assert_eq!(told("d"), numbers);
        numbers
    };
    let tree = open(place.path());
    let before = numbers(&tree);
    tree.set_permissions("d/f", 0o600).unwrap();
    tree.set_permissions("d/sub", 0o700).unwrap();
    tree.write("d/both/x", "new").unwrap();
    assert_eq!(numbers(&tree), before);
    let held = tree.node("d/g").unwrap();
    held.set_permissions(0o600).unwrap();
    tree.write("d/new", "").unwrap();
    tree.create_dir("d/dir", 0o755).unwrap();
    tree.remove_dir_all("d/other").unwrap();
    tree.create_dir("d/other", 0o755).unwrap();
    let after = numbers(&tree);
    drop(held);
    assert_eq!(numbers(&tree), after);
    for name in ["f", "h", "sub", "both"] {
        assert_eq!(after.get(name.as_bytes()), before.get(name.as_bytes()), "{name}");
    }
    drop(tree);
    numbers(&open(place.path()));
}

#[test]
fn descriptors_and_room() {
    let place = place([&[("f", "old")], &[]]);
    let tree = open(place.path());
    let read = |descriptor: std::os::fd::OwnedFd| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(descriptor), &mut text).unwrap();
        text
    };
    let early = tree.open("f").unwrap();
    let lower = early.descriptor().unwrap();
    tree.write("f", "newer").unwrap();
    assert_eq!(read(early.descriptor().unwrap()), "newer");
    assert_eq!(read(lower), "old");
    let space = tree.space().unwrap();
    let told = rustix::fs::statvfs(place.path().join("upper")).unwrap();
    let theirs = (told.f_frsize, told.f_blocks, told.f_files, told.f_namemax);
    assert_eq!((space.block_size, space.blocks, space.files, space.longest_name), theirs);
    assert!(space.available_blocks <= space.free_blocks && space.free_blocks <= space.blocks);
    assert_eq!(errno(tree.node("f/x")), ENOTDIR);
    assert_eq!(tree.node("/").unwrap().id(), tree.root().id());
}
