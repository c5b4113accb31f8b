#![allow(clippy::disallowed_methods, reason = "a scene is laid out from outside")]

use super::*;

struct Bed {
    place: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("s")
    }

    fn open(&self) -> Snapshots {
        Snapshots::open(self.root(), &SnapshotsOptions::default()).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn committed(snapshots: &Snapshots, name: &str, parent: Option<&str>) {
    snapshots.prepare("active", parent, Labels::new()).unwrap();
    let files = snapshots.directory("active").unwrap();
    std::fs::write(files.join(name), name).unwrap();
    snapshots.commit(name, "active", None, Labels::new()).unwrap();
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn what_is_refused_and_how() {
    let bed = Bed::new();
    let s = bed.open();
    committed(&s, "base", None);
    s.prepare("busy", Some("base"), Labels::new()).unwrap();
    s.view("look", Some("base"), Labels::new()).unwrap();
    let none = Labels::new;
    use ErrorKind::*;
    assert_eq!(kind(s.prepare("busy", None, none())), AlreadyExists);
    assert_eq!(kind(s.prepare("base", None, none())), AlreadyExists);
    assert_eq!(kind(s.prepare("", None, none())), InvalidInput);
    assert_eq!(kind(s.prepare("x", Some("nowhere"), none())), NotFound);
    assert_eq!(kind(s.prepare("x", Some("busy"), none())), InvalidInput);
    assert_eq!(kind(s.view("x", Some("look"), none())), InvalidInput);
    assert_eq!(kind(s.mounts("nowhere")), NotFound);
    assert_eq!(kind(s.mounts("base")), WrongState);
    assert_eq!(kind(s.commit("base", "busy", None, none())), AlreadyExists);
    assert_eq!(kind(s.commit("new", "nowhere", None, none())), NotFound);
    assert_eq!(kind(s.commit("new", "look", None, none())), WrongState);
    assert_eq!(kind(s.commit("new", "base", None, none())), WrongState);
    assert_eq!(kind(s.commit("new", "busy", Some("other"), none())), InvalidInput);
    assert_eq!(kind(s.remove("base")), InUse);
    assert_eq!(kind(s.remove("nowhere")), NotFound);
    assert_eq!(kind(s.stat("nowhere")), NotFound);
    assert_eq!(kind(s.usage("nowhere")), NotFound);
    assert_eq!(kind(s.update("nowhere", LabelChange::All(none()))), NotFound);
    assert_eq!(kind(Snapshots::open(bed.root(), &SnapshotsOptions::default())), InUse);
    // Nothing of what was refused has left anything.
    assert_eq!(bed.names("records"), ["base", "busy", "look"]);
    assert_eq!(bed.names("snapshots").len(), 3);
    for name in ["busy", "look", "base"] {
        s.remove(name).unwrap();
    }
    s.cleanup().unwrap();
    assert!(bed.names("records").is_empty() && bed.names("trash").is_empty());
}

#[test]
fn mounts_are_what_overlayfs_takes() {
    let bed = Bed::new();
    let options =
        SnapshotsOptions { mount_options: vec!["index=off".into()], ..Default::default() };
    let s = Snapshots::open(bed.root(), &options).unwrap();
    let dir = |id: u32, part: &str| format!("{}/snapshots/{id}/{part}", bed.root().display());
    let shown = |mounts: Vec<SnapshotMount>| {
        let [mount] = mounts.try_into().unwrap();
        format!("{} {} {}", mount.kind, mount.source.display(), mount.options.join(" "))
    };
    let none = Labels::new;
    assert_eq!(
        shown(s.prepare("a", None, none()).unwrap()),
        format!("bind {} rw rbind", dir(1, "fs"))
    );
    assert_eq!(
        shown(s.view("v", None, none()).unwrap()),
        format!("bind {} ro rbind", dir(2, "fs"))
    );
    s.commit("one", "a", None, none()).unwrap();
    assert_eq!(
        shown(s.view("w", Some("one"), none()).unwrap()),
        format!("bind {} ro rbind", dir(1, "fs"))
    );
    let writable = format!(
        "overlay overlay index=off workdir={} upperdir={} lowerdir={}",
        dir(4, "work"),
        dir(4, "fs"),
        dir(1, "fs")
    );
    assert_eq!(shown(s.prepare("b", Some("one"), none()).unwrap()), writable);
    assert_eq!(shown(s.mounts("b").unwrap()), writable);
    s.commit("two", "b", None, none()).unwrap();
    assert_eq!(
        shown(s.view("x", Some("two"), none()).unwrap()),
        format!("overlay overlay index=off lowerdir={}:{}", dir(4, "fs"), dir(1, "fs"))
    );
}

#[test]
fn all_is_there_again_after_a_restart() {
    let bed = Bed::new();
    let s = bed.open();
    committed(&s, "base", None);
    s.prepare("default/1/k ey", Some("base"), labels(&[("a", "1"), ("empty", "")])).unwrap();
    let long = "n".repeat(400);
    s.view(&long, Some("base"), Labels::new()).unwrap();
    let before = (s.list(), s.mounts("default/1/k ey").unwrap(), s.usage("base").unwrap());
    assert_eq!(before.0.len(), 3);
    drop(s);
    let s = bed.open();
    let again = (s.list(), s.mounts("default/1/k ey").unwrap(), s.usage("base").unwrap());
    assert_eq!(again, before);
    assert_eq!(s.stat("default/1/k ey").unwrap().labels, labels(&[("a", "1")]));
    assert_eq!(kind(s.remove("base")), ErrorKind::InUse);
}

#[test]
fn what_a_dead_process_left_is_finished_or_goes() {
    let bed = Bed::new();
    let s = bed.open();
    committed(&s, "base", None);
    s.prepare("k", Some("base"), Labels::new()).unwrap();
    drop(s);
    let records = bed.root().join("records");
    // It died between the two records of a commit, in both orders of their names.
    let record = std::fs::read_to_string(records.join("k")).unwrap();
    for name in ["a", "z"] {
        let new = record.replace("\"k\"", &format!("{name:?}")).replace("active", "committed");
        std::fs::write(records.join(name), new).unwrap();
        std::fs::write(records.join("k"), &record).unwrap();
        // And with directories that have no record yet, or whose record is not in place.
        std::fs::create_dir_all(bed.root().join("snapshots/77/fs")).unwrap();
        std::fs::write(records.join(".new.new"), "{").unwrap();
        let s = bed.open();
        assert_eq!(kind(s.stat("k")), ErrorKind::NotFound);
        assert_eq!(s.stat(name).unwrap().kind, SnapshotKind::Committed);
        assert_eq!(bed.names("snapshots"), ["1", "2"]);
        // The number is not given again while its files are there.
        let mounts = s.view("v", None, Labels::new()).unwrap();
        assert!(mounts[0].source.ends_with("snapshots/78/fs"), "{mounts:?}");
        s.remove("v").unwrap();
        s.cleanup().unwrap();
        assert!(bed.names("trash").is_empty());
        drop(s);
        std::fs::remove_file(records.join(name)).unwrap();
    }
}

#[test]
fn a_damaged_record_is_set_aside_and_nothing_is_lost() {
    let bed = Bed::new();
    let s = bed.open();
    committed(&s, "base", None);
    committed(&s, "other", None);
    drop(s);
    for text in ["", "{\"name\":", "null"] {
        let record = bed.root().join("records/base");
        let sound = std::fs::read(&record).unwrap();
        std::fs::write(&record, text).unwrap();
        let s = bed.open();
        assert_eq!(s.damaged().unwrap(), ["base"], "{text}");
        assert_eq!(kind(s.stat("base")), ErrorKind::NotFound);
        assert_eq!(s.stat("other").unwrap().kind, SnapshotKind::Committed);
        assert!(bed.root().join("snapshots/1/fs/base").exists());
        drop(s);
        std::fs::remove_file(bed.root().join("damaged/base")).unwrap();
        std::fs::write(&record, sound).unwrap();
    }
    assert!(bed.open().damaged().unwrap().is_empty());
}

#[test]
fn whatever_lies_in_the_place_of_a_record_is_set_aside() {
    let bed = Bed::new();
    let s = bed.open();
    committed(&s, "base", None);
    committed(&s, "other", None);
    drop(s);
    let record = bed.root().join("records/base");
    let sound = std::fs::read(&record).unwrap();
    let put: [(&str, &dyn Fn()); 4] = [
        ("directory", &|| std::fs::create_dir_all(record.join("full")).unwrap()),
        ("symlink", &|| std::os::unix::fs::symlink("other", &record).unwrap()),
        ("fifo", &|| {
            let dir = crate::sys::Dir::open_ambient(bed.root().join("records")).unwrap();
            let device = crate::inode::Device { major: 0, minor: 0 };
            dir.make_node(b"base", rustix::fs::FileType::Fifo, 0o600, device).unwrap();
        }),
        ("other's", &|| {
            std::fs::copy(record.with_file_name("other"), &record).unwrap();
        }),
    ];
    for (n, (what, put)) in put.into_iter().enumerate() {
        std::fs::remove_file(&record).unwrap();
        put();
        // Nor does one that was being written.
        std::fs::create_dir_all(bed.root().join("records/.new.new/full")).unwrap();
        let s = bed.open();
        // Those before are kept beside it.
        assert_eq!(bed.names("records"), ["other"], "{what}");
        assert_eq!(s.damaged().unwrap().len(), 2 * (n + 1), "{what}");
        assert_eq!(kind(s.stat("base")), ErrorKind::NotFound, "{what}");
        assert_eq!(s.stat("other").unwrap().kind, SnapshotKind::Committed, "{what}");
        assert!(bed.root().join("snapshots/1/fs/base").exists(), "{what}");
        assert!(s.problems().is_empty(), "{what}");
        drop(s);
        std::fs::write(&record, &sound).unwrap();
    }
    assert_eq!(bed.names("damaged")[4..], ["base", "base~2", "base~3", "base~4"]);
    assert_eq!(bed.open().stat("base").unwrap().kind, SnapshotKind::Committed);
}

#[test]
fn foreign_directories_are_not_touched() {
    let bed = Bed::new();
    std::fs::create_dir(bed.root()).unwrap();
    std::fs::write(bed.root().join("letter"), "mine").unwrap();
    let open = || Snapshots::open(bed.root(), &SnapshotsOptions::default());
    assert_eq!(kind(open()), ErrorKind::AlreadyExists);
    assert_eq!(bed.names("."), ["letter"]);
    std::fs::write(bed.root().join("snapshots.json"), "{\"version\":2}").unwrap();
    assert_eq!(kind(open()), ErrorKind::Unsupported);
    std::fs::write(bed.root().join("snapshots.json"), "").unwrap();
    assert_eq!(kind(open()), ErrorKind::Corrupt);
}

#[test]
fn labels_change() {
    let bed = Bed::new();
    let s = bed.open();
    s.prepare("k", None, labels(&[("a", "1"), ("b", "2")])).unwrap();
    let some = |pairs: &[(&str, &str)]| LabelChange::Some(labels(pairs));
    let shown = s.update("k", some(&[("b", ""), ("c", "3")])).unwrap();
    assert_eq!(shown.labels, labels(&[("a", "1"), ("c", "3")]));
    assert!(shown.updated >= shown.created);
    let shown = s.update("k", LabelChange::All(labels(&[("d", "4")]))).unwrap();
    assert_eq!(shown.labels, labels(&[("d", "4")]));
    s.commit("n", "k", None, labels(&[("e", "5")])).unwrap();
    assert_eq!(s.stat("n").unwrap().labels, labels(&[("e", "5")]));
}

#[test]
fn no_record_is_written_that_would_not_be_read() {
    let bed = Bed::new();
    let s = bed.open();
    s.prepare("k", None, labels(&[("a", "1")])).unwrap();
    let before = s.stat("k").unwrap();
    let large = || labels(&[("large", &"v".repeat(disk::MOST_RECORD))]);
    let refused = s.update("k", LabelChange::Some(large())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().starts_with("update snapshot \"k\": its record would have 167"));
    assert_eq!(kind(s.update("k", LabelChange::All(large()))), ErrorKind::InvalidInput);
    assert_eq!(kind(s.prepare("new", None, large())), ErrorKind::InvalidInput);
    assert_eq!(kind(s.view("new", None, large())), ErrorKind::InvalidInput);
    assert_eq!(kind(s.commit("new", "k", None, large())), ErrorKind::InvalidInput);
    assert_eq!(
        (bed.names("records"), bed.names("snapshots")),
        (vec!["k".into()], vec!["1".into()])
    );
    assert_eq!(s.stat("k").unwrap(), before);
    // As large as can be, but for a time, which is written with as many digits as it has.
    let record = bed.root().join("records/k");
    let length = || usize::try_from(std::fs::metadata(&record).unwrap().len()).unwrap();
    let with = |length: usize| LabelChange::All(labels(&[("l", &"v".repeat(length))]));
    s.update("k", with(100)).unwrap();
    let most = 100 + disk::MOST_RECORD - length();
    assert_eq!(kind(s.update("k", with(most + 10))), ErrorKind::InvalidInput);
    s.update("k", with(most - 10)).unwrap();
    assert!(length() > disk::MOST_RECORD - 30);
    let before = s.stat("k").unwrap();
    drop(s);
    assert_eq!(bed.open().stat("k").unwrap(), before);
}

#[test]
fn layers_unpacked_side_by_side_are_stacked_when_they_are_committed() {
    let bed = Bed::new();
    let s = bed.open();
    for key in ["u1", "u2"] {
        s.prepare(key, None, Labels::new()).unwrap();
    }
    assert_eq!(kind(s.commit("l2", "u2", Some("l1"), Labels::new())), ErrorKind::NotFound);
    assert_eq!(kind(s.commit("l2", "u2", Some("u1"), Labels::new())), ErrorKind::WrongState);
    s.commit("l1", "u1", None, Labels::new()).unwrap();
    s.commit("l2", "u2", Some("l1"), Labels::new()).unwrap();
    assert_eq!(s.stat("l2").unwrap().parent.as_deref(), Some("l1"));
    assert_eq!(kind(s.remove("l1")), ErrorKind::InUse);
    let mount = s.view("v", Some("l2"), Labels::new()).unwrap().remove(0);
    assert!(mount.options.iter().any(|o| o.contains("/2/fs:") && o.ends_with("/1/fs")));
}

#[test]
fn the_root_looks_as_the_one_below() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let bed = Bed::new();
    let s = bed.open();
    s.prepare("k", None, Labels::new()).unwrap();
    let files = s.directory("k").unwrap();
    std::fs::set_permissions(&files, std::fs::Permissions::from_mode(0o1775)).unwrap();
    s.commit("n", "k", None, Labels::new()).unwrap();
    for name in ["child", "child2"] {
        s.prepare(name, Some("n"), Labels::new()).unwrap();
        let meta = std::fs::metadata(s.directory(name).unwrap()).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o1775);
    }
}

#[test]
fn threads_agree_on_who_was_first() {
    let bed = Bed::new();
    let s = bed.open();
    committed(&s, "base", None);
    let wins = |work: &(dyn Fn(usize) -> bool + Sync)| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|n| scope.spawn(move || work(n))).collect();
            all.into_iter().filter(|_| true).map(|t| usize::from(t.join().unwrap())).sum::<usize>()
        })
    };
    for round in 0..10 {
        let (key, name) = (format!("k{round}"), format!("n{round}"));
        assert_eq!(wins(&|_| s.prepare(&key, Some("base"), Labels::new()).is_ok()), 1);
        // Commits and removals of one key: one of them has it.
        let won = wins(&|n| match n % 2 {
            0 => s.commit(&name, &key, None, Labels::new()).is_ok(),
            _ => s.remove(&key).is_ok(),
        });
        assert_eq!(won, 1);
        assert_eq!(kind(s.stat(&key)), ErrorKind::NotFound);
        drop(s.remove(&name));
    }
    assert_eq!(bed.names("records"), ["base"]);
}
