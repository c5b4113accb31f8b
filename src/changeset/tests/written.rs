//! The bytes of what is written.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use super::*;
use crate::changeset::write::pack_diff;
use crate::inode::Timestamp;
use crate::pipe::Through;

fn nothing() -> Stack {
    Stack::new(Vec::new(), Namespace::User, Redirects::Refuse)
}

fn never() -> DiffOptions {
    DiffOptions { root: RootEntry::Never, ..Default::default() }
}

/// The records of each entry's extended header.
fn records(bytes: &[u8]) -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let records = entry.pax_extensions().unwrap().into_iter().flatten().map(|record| {
            let record = record.unwrap();
            (record.key().unwrap().to_owned(), record.value_bytes().to_vec())
        });
        (path, records.collect())
    });
    entries.collect()
}

#[test]
fn attributes_are_carried_and_marks_are_not() {
    let temporary = tempfile::tempdir().unwrap();
    let upper = make(
        temporary.path(),
        "upper",
        &[
            "f=1",
            "f user.comment:hello",
            "f ^origin:",
            "f ^overlay.opaque:y",
            "f user.z:",
            "g=1",
            "g user.containers.override_stat:5:6:04711",
            "d/",
            "d ^impure:y",
            "n=",
            "n user.containers.override_stat:0:7:0660:char-1-3",
        ],
    );
    let bytes = packed(&upper, &nothing(), &never());
    let records = records(&bytes);
    let keys = |name: &str| {
        records[name].keys().filter(|key| *key != "mtime").cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        keys("f"),
        "SCHILY.xattr.user.comment SCHILY.xattr.user.overlay.opaque SCHILY.xattr.user.z"
    );
    assert_eq!(records["f"]["SCHILY.xattr.user.comment"], b"hello");
    assert_eq!((keys("g"), keys("d/"), keys("n")), Default::default());
    let mut archive = tar::Archive::new(&bytes[..]);
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        match &*entry.path_bytes() {
            b"g" => assert_eq!(
                (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap()),
                (5, 6, 0o4711)
            ),
            b"n" => assert_eq!(
                (header.entry_type(), header.device_minor().unwrap(), header.size().unwrap()),
                (tar::EntryType::Char, Some(3), 0)
            ),
            _ => {}
        }
    }
    let keep = DiffOptions { recorded: Recorded::Keep, ..never() };
    let kept = packed(&upper, &nothing(), &keep);
    let name = "SCHILY.xattr.user.containers.override_stat";
    assert_eq!(super::written::records(&kept)["g"][name], b"5:6:04711");
}

#[test]
fn times_are_exact_or_cut() {
    let temporary = tempfile::tempdir().unwrap();
    let upper = make(temporary.path(), "upper", &["a=1", "b=1", "c=1", "gone!"]);
    let below = layers(temporary.path(), &[&["gone=1"]], Redirects::Refuse);
    for (name, seconds, nanos) in
        [(b"a", 1, 500_000_000), (b"b", -2, 750_000_000), (b"c", 4_000_000_000, 0)]
    {
        let time = Timestamp { seconds, nanos };
        upper.set_times(name, time, time).unwrap();
    }
    let mtime = |options: &DiffOptions| {
        let records = records(&packed(&upper, &below, options));
        ["a", "b", "c"].map(|name| {
            let value = records[name].get("mtime").cloned().unwrap_or_default();
            String::from_utf8(value).unwrap()
        })
    };
    assert_eq!(mtime(&never()), ["1.5", "-1.25", ""]);
    let seconds = DiffOptions { times: Times::Seconds, ..never() };
    assert_eq!(mtime(&seconds), ["", "-2", ""]);
    let latest = DiffOptions { source_date_epoch: Some(0), ..never() };
    assert_eq!(mtime(&latest), ["", "-1.25", ""]);
    let marks = DiffOptions { mark_time: 77, ..never() };
    let bytes = packed(&upper, &below, &marks);
    let mut archive = tar::Archive::new(&bytes[..]);
    let mark = archive.entries().unwrap().map(Result::unwrap).last().unwrap();
    assert_eq!((&*mark.path_bytes(), mark.header().mtime().unwrap()), (&b".wh.gone"[..], 77));
}

#[test]
fn the_root_has_an_entry_where_it_changed() {
    let temporary = tempfile::tempdir().unwrap();
    let upper = make(temporary.path(), "upper", &[]);
    let below = layers(temporary.path(), &[&[]], Redirects::Refuse);
    let options = DiffOptions::default();
    let root = |options: &DiffOptions| listing(&packed(&upper, &below, options));
    assert_eq!(root(&options), "");
    assert_eq!(root(&DiffOptions { root: RootEntry::Always, ..Default::default() }), "./");
    rustix::fs::fchmod(&upper, 0o700.into()).unwrap();
    assert_eq!(root(&options), "./");
    assert_eq!(root(&never()), "");
}

#[test]
fn e66_holes_are_zeros_wherever_they_are() {
    let temporary = tempfile::tempdir().unwrap();
    let write = |name: &str, sparse: bool| {
        let dir = make(temporary.path(), name, &[]);
        let file = dir.open(b"f", OFlags::CREATE | OFlags::RDWR, 0o644).unwrap();
        if sparse {
            file.set_len(3_000_001).unwrap();
        } else {
            file.write_all_at(&vec![0; 3_000_001], 0).unwrap();
        }
        file.write_all_at(b"middle", 1_500_000).unwrap();
        dir.set_times(b"f", Timestamp::default(), Timestamp::default()).unwrap();
        packed(&dir, &nothing(), &never())
    };
    let (one, other) = (write("one", true), write("other", false));
    assert!(one == other);
    assert_eq!(one.len(), 512 + 3_000_001usize.next_multiple_of(512) + 1024);
}

#[test]
fn odd_names_are_carried() {
    let temporary = tempfile::tempdir().unwrap();
    let upper = make(temporary.path(), "upper", &[]);
    let names: [&[u8]; 6] =
        [&[b'a'; 100], &[b'b'; 101], b"\xff\xfe", "ü".as_bytes(), b"new\nline", &[b'z'; 255]];
    for name in names {
        drop(upper.open(name, OFlags::CREATE | OFlags::WRONLY, 0o644).unwrap());
    }
    // XFS has none of more than 1,023 bytes.
    let makes = |length: &usize| upper.make_symlink(b"link", &vec![b't'; *length]).is_ok();
    let length = [3000, 1000].into_iter().find(makes).unwrap();
    let bytes = packed(&upper, &nothing(), &never());
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        if let Some(link) = entry.link_name_bytes() {
            assert_eq!(link.len(), length);
            continue;
        }
        found.push(entry.path_bytes().into_owned());
    }
    let mut names: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    names.sort();
    assert_eq!(found, names);
}

#[test]
fn e65_what_changes_while_it_is_read_is_an_error_by_name() {
    struct Meddler<'a>(&'a Dir, &'static str);
    impl std::io::Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match self.1 {
                "grow" => self.0.open(b"f", OFlags::RDWR, 0)?.set_len(2 << 20)?,
                "shrink" => self.0.open(b"f", OFlags::RDWR, 0)?.set_len(1)?,
                "rewrite" => self.0.open(b"f", OFlags::RDWR, 0)?.write_all_at(b"x", 9)?,
                _ => drop(self.0.remove_file(b"g")),
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for (how, expected) in [
        ("grow", "read file /f: it changed while it was read"),
        ("shrink", "read file /f: it changed while it was read"),
        ("rewrite", "read file /f: it changed while it was read"),
        ("remove", "read /g: No such file or directory (os error 2)"),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let upper = make(temporary.path(), "upper", &["g=1"]);
        let file = upper.open(b"f", OFlags::CREATE | OFlags::RDWR, 0o644).unwrap();
        file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        let mut meddler = Meddler(&upper, how);
        // On one thread, so that what is read comes behind what was written.
        let mut out = Through(&mut meddler);
        let error = pack_diff(&upper, &nothing(), &mut out, &never(), "t", &Watch::new());
        assert_eq!(error.unwrap_err().to_string(), expected, "{how}");
    }
}

#[test]
fn it_is_watched_and_stopped() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let temporary = tempfile::tempdir().unwrap();
    let upper = make(temporary.path(), "upper", &["a=1", "b=2"]);
    let (seen, flag) = (AtomicU64::new(0), AtomicBool::new(false));
    let observer = |progress: &crate::watch::Progress<'_>| {
        assert_eq!(progress.subject, "box");
        seen.store(progress.entries, Ordering::Relaxed);
    };
    let watch = Watch::new().observer(&observer).cancel(&flag);
    write_diff(&upper, &nothing(), &mut std::io::sink(), &never(), "box", &watch).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    flag.store(true, Ordering::Relaxed);
    let stopped = write_diff(&upper, &nothing(), &mut std::io::sink(), &never(), "box", &watch);
    assert_eq!(stopped.unwrap_err().kind(), crate::error::ErrorKind::Cancelled);
}
