//! What fuzzing tries here: changesets applied and written again, their headers, ACLs, the record
//! of a changeset that was kept.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "compiled for tests and fuzzing alone"
)]

use std::io::Write;
use std::path::Path;

use rustix::fs::OFlags;

use super::entry::{Body, Entry};
use super::reader::TarReader;
use super::tar_writer::TarWriter;
use super::{ApplyLimits, ApplyOptions, DiffOptions, RootEntry, acl, apply, export, reassemble};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::format::Ownership;
use crate::format::lookup::{Redirects, Stack};
use crate::fuzz_bed::{Scratch, listing, mend_checksums};
use crate::inode::FileKind;
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::pipe::Through;
use crate::sys::Dir;
use crate::watch::Watch;

/// Small enough that no input takes seconds.
fn limits() -> ApplyLimits {
    ApplyLimits { file_bytes: 1 << 20, bytes: 1 << 24, ..ApplyLimits::default() }
}

fn options(ownership: Ownership) -> ApplyOptions<'static> {
    let mut options = ApplyOptions::new(Namespace::User);
    options.ownership = ownership;
    options.limits = limits();
    options
}

/// Any bytes as a changeset: nothing appears outside the layer directory; what was applied is
/// written again byte for byte, gives the same a second time, and a layer that is written as a tar
/// and applied is the layer that it was.
pub(crate) fn changeset(data: &[u8]) {
    let tar = match Compression::detect(data) {
        Compression::None => mend_checksums(data),
        _ => data.to_vec(),
    };
    let odd = tar.iter().fold(0_u8, |sum, byte| sum ^ byte).count_ones() % 2 == 1;
    let exact = odd && rustix::process::geteuid().is_root();
    let options = options(if exact { Ownership::Exact } else { Ownership::Recorded });
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("outside"), "as it was").unwrap();
    std::os::unix::fs::symlink("outside", scratch.path().join("link")).unwrap();
    let place = scratch.make("one");
    let before = listing(scratch.path());
    let (side, dir) = (scratch.dir("one"), scratch.dir("one/diff"));
    let applied = apply(&tar[..], &dir, &ApplyOptions { side: Some(&side), ..options.clone() });
    let mut after = listing(scratch.path());
    after.retain(|path, _| !path.starts_with(b"one/") && path != b"one");
    assert!(before.iter().all(|(path, told)| path == b"one" || after.get(path) == Some(told)));
    assert_eq!(after.len() + 1, before.len(), "something appeared outside");
    let mut beside: Vec<_> =
        std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    beside.retain(|name| {
        !["diff", "changeset", "entries", "replaced"].contains(&name.to_str().unwrap())
    });
    assert!(beside.is_empty(), "{beside:?} appeared beside the layer");
    let Ok(applied) = applied else { return };

    let mut again = Vec::new();
    let (digest, length) = reassemble(&dir, &side, &mut again, "fuzz", Watch::new()).unwrap();
    assert_eq!((digest, length), (*applied.diff_id.digest(), applied.changeset_bytes));
    assert_eq!(Digest::of(&again), digest);
    if Compression::detect(&tar) == Compression::None {
        assert_eq!(again, tar);
    }

    let second = scratch.dir("two");
    let reapplied = apply(&again[..], &second, &options).unwrap();
    assert_eq!(reapplied.diff_id, applied.diff_id);
    assert_eq!(reapplied.assumptions, applied.assumptions);
    assert_eq!(
        (reapplied.entries, reapplied.inodes, reapplied.content_bytes),
        (applied.entries, applied.inodes, applied.content_bytes)
    );
    let shown = |name: &str| {
        let mut listing = listing(&scratch.path().join(name));
        // A root without an entry is as the caller made it, only that it has new names.
        listing.retain(|path, _| applied.explicit_root || !path.is_empty());
        listing
    };
    assert_eq!(shown("one/diff"), shown("two"), "another layer the second time");
    if applied.unkept_count == 0 {
        let root = if applied.explicit_root { RootEntry::Always } else { RootEntry::Never };
        written_and_applied(&dir, root, &scratch.make("three"), &options);
    }
}

/// The layer as a tar, applied and written again, is the same tar.
fn written_and_applied(layer: &Dir, root: RootEntry, place: &Path, options: &ApplyOptions<'_>) {
    let first = exported(layer, root);
    let second = Dir::open_ambient(place).unwrap();
    apply(&first[..], &second, options).unwrap();
    assert_eq!(
        Digest::of(&exported(&second, root)),
        Digest::of(&first),
        "another tar the second time"
    );
}

fn exported(layer: &Dir, root: RootEntry) -> Vec<u8> {
    let stack = Stack::new(vec![layer.try_clone().unwrap()], Namespace::User, Redirects::Refuse);
    let options = DiffOptions { root, ..DiffOptions::default() };
    let mut tar = Vec::new();
    export(&stack, &mut tar, &options, "fuzz", &Watch::new()).unwrap();
    tar
}

/// Any bytes as headers: what is read adds up to the bytes that were there, what is understood
/// makes sense, and, written as this crate writes it, is understood again.
pub(crate) fn headers(data: &[u8]) {
    let tar = mend_checksums(data);
    let mut reader = TarReader::new(&tar[..], ApplyLimits::default(), true);
    let mut passed = Vec::new();
    let whole = loop {
        match reader.next() {
            Ok(Some(entry)) => {
                makes_sense(&entry);
                survives(&entry);
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
        passed.extend(reader.take_kept());
        let ended = loop {
            match reader.payload(1000) {
                Ok([]) => break true,
                Ok(piece) => passed.extend_from_slice(piece),
                Err(_) => break false,
            }
        };
        assert!(tar.starts_with(&passed), "what passed is not what was there");
        if !ended {
            return;
        }
    };
    while whole && reader.drain_some().unwrap() {}
    passed.extend(reader.take_kept());
    assert!(tar.starts_with(&passed));
    assert!(!whole || passed.len() == tar.len());
}

fn makes_sense(entry: &Entry) {
    let inode = &entry.inode;
    assert!(inode.mode <= 0o7777 && inode.uid != u32::MAX && inode.gid != u32::MAX);
    assert!(inode.mtime.nanos < 1_000_000_000);
    assert!(entry.atime.is_none_or(|time| time.nanos < 1_000_000_000));
    assert!(inode.xattrs.keys().all(|name| !name.is_empty() && !name.contains(&0)));
    let limits = ApplyLimits::default();
    assert!(entry.raw_path.len() <= limits.path_bytes);
    if let FileKind::Regular { size } = inode.kind {
        assert!(size <= limits.file_bytes);
        if let Body::Sparse(runs) = &entry.body {
            let ends: Vec<u64> = runs.iter().map(|(offset, length)| offset + length).collect();
            assert!(runs.iter().skip(1).zip(&ends).all(|((offset, _), end)| offset >= end));
            assert!(ends.last().is_none_or(|&end| end <= size));
            assert_eq!(runs.iter().map(|(_, length)| length).sum::<u64>(), entry.payload);
        }
    } else {
        assert_eq!(entry.payload, 0);
    }
}

/// What was understood, written by this crate, is understood as the same.
fn survives(entry: &Entry) {
    let Ok(path) = LayerPath::parse(&entry.raw_path) else { return };
    if !matches!(entry.body, Body::Inode) || path.is_root() && !entry.inode.kind.is_directory() {
        return;
    }
    let (mut tar, watch) = (Vec::new(), Watch::new());
    let mut out = Through(&mut tar);
    let mut writer = TarWriter::new(&mut out, &watch, "fuzz");
    if writer.entry(&path, &entry.inode).is_err() {
        // What no changeset of this crate holds.
        return;
    }
    if let FileKind::Regular { size } = entry.inode.kind
        && size > 0
    {
        // Content would have to follow, and is not looked at here.
        return;
    }
    writer.finish().unwrap();
    let mut reader = TarReader::new(&tar[..], ApplyLimits::default(), false);
    let again = reader.next().unwrap().unwrap();
    assert_eq!(LayerPath::parse(&again.raw_path).unwrap(), path);
    assert_eq!(again.inode, entry.inode);
    assert!(reader.next().unwrap().is_none());
}

/// An ACL as text.
pub(crate) fn acls(data: &[u8]) {
    let Some(value) = acl::encode(data) else { return };
    assert_eq!((value.len() - 4) % 8, 0);
    let entries: Vec<&[u8]> = value[4..].chunks_exact(8).collect();
    assert!(entries.iter().all(|entry| entry[2] <= 7 && entry[3] == 0));
    let tags = entries.iter().map(|entry| u16::from_le_bytes([entry[0], entry[1]]));
    assert!(tags.is_sorted());
    assert!(acl::mask(&value).is_none_or(|bits| bits <= 7));
}

/// Any bytes as the record that is kept beside a layer: what is in it can damage nothing, neither
/// the layer nor what stands outside, and takes no more room than the layer has.
pub(crate) fn kept(data: &[u8]) {
    let scratch = Scratch::new();
    let (side, layer) = (scratch.dir("side"), scratch.dir("side/diff"));
    let make = |dir: &Dir, name: &[u8]| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        dir.open(name, flags, 0o600).unwrap()
    };
    make(&layer, b"f").write_all(b"0123456789").unwrap();
    make(&layer, b"sparse").set_len(1 << 16).unwrap();
    layer.make_dir(b"d", 0o755).unwrap();
    layer.make_symlink(b"l", b"../../outside").unwrap();
    make(&layer.child(b"d").unwrap(), b"g").write_all(b"deep").unwrap();
    std::fs::write(scratch.path().join("outside"), "secret").unwrap();
    if data.first().is_some_and(|byte| byte % 2 == 1) {
        side.make_dir(b"replaced", 0o700).unwrap();
        make(&side.child(b"replaced").unwrap(), b"0").write_all(b"old").unwrap();
    }
    let record = data.get(1..).unwrap_or_default();
    // As it stands, and behind the byte that says it is not compressed.
    let forms = [record.to_vec(), [&[0], record].concat()];
    for form in forms {
        make(&side, b"changeset").write_all(&form).unwrap();
        let before = listing(scratch.path());
        let mut out = Bounded(Vec::new());
        match reassemble(&layer, &side, &mut out, "fuzz", Watch::new()) {
            Ok((digest, length)) => {
                assert_eq!((digest, length), (Digest::of(&out.0), out.0.len() as u64));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert_eq!(listing(scratch.path()), before, "something was changed");
        side.remove_file(b"changeset").unwrap();
    }
}

/// Takes as much as a record of this size may stand for, and then fails.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() > 1 << 24 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
