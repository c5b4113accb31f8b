//! E26, E30 to E32 and E35: payloads, types of entries, and how an archive begins and ends.

use std::io::Write;

use overlay2::changeset::{Applied, ApplyOptions, apply, reassemble};
use overlay2::{Compression, DiffId, Digest, ErrorKind, Namespace, Watch};

use crate::run::{
    Scratch, WAYS, Way, bytes_give, bytes_refused, checked, gives, make_dir, memory, possible,
    refused,
};
use crate::tar::{
    BLOCK, Entry, Magic, char_device, dir, file, gnu_long, link, mark, number, open_tar, pax_block,
    record, symlink, tar,
};
use crate::tree::Kind;

const MIB: usize = 1 << 20;

/// A file of 9 MiB with a letter at three places, in each form that there is of it.
fn sparse_files() -> Vec<(&'static str, Entry)> {
    let runs = [(0, 512), (4 * MIB, 3), (9 * MIB - 1, 1)];
    let payload = [vec![b'a'; 512], vec![b'b'; 3], vec![b'c'; 1]].concat();
    let size = (9 * MIB).to_string();
    let base = || file("f", &payload);
    let mut old = base().kind(b'S').magic(Magic::Gnu).field(483, number(9 << 20, 12));
    for (index, (offset, length)) in runs.iter().enumerate() {
        let pair = [number(*offset as i128, 12), number(*length as i128, 12)].concat();
        old = old.field(386 + 24 * index, pair);
    }
    let mut zero = base().pax("GNU.sparse.size", &size).pax("GNU.sparse.numblocks", "3");
    for (offset, length) in runs {
        zero = zero.pax("GNU.sparse.offset", offset.to_string());
        zero = zero.pax("GNU.sparse.numbytes", length.to_string());
    }
    let map = runs.map(|(offset, length)| format!("{offset},{length}")).join(",");
    let one = base().pax("GNU.sparse.size", &size).pax("GNU.sparse.map", map);
    let mut lines = "3\n".to_owned();
    lines.extend(runs.map(|(offset, length)| format!("{offset}\n{length}\n")));
    let mut with_map = lines.into_bytes();
    with_map.resize(BLOCK, 0);
    with_map.extend(&payload);
    let latest = file("GNUSparseFile.0/f", with_map)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "f")
        .pax("GNU.sparse.realsize", &size);
    let mut dense = vec![0; 9 * MIB];
    dense[..512].fill(b'a');
    dense[4 * MIB..4 * MIB + 3].fill(b'b');
    dense[9 * MIB - 1] = b'c';
    vec![
        ("old GNU", old),
        ("pax 0.0", zero),
        ("pax 0.1", one),
        ("pax 1.0", latest),
        ("dense", file("f", dense)),
    ]
}

#[test]
fn e26_sparse_files_of_every_form() {
    use std::os::unix::fs::FileExt;
    let test = "e26_sparse_files_of_every_form";
    for (form, entry) in sparse_files() {
        for way in WAYS {
            if !possible(test, way) {
                continue;
            }
            let scratch = Scratch::new(way);
            let bytes = tar(&[entry.clone(), file("g", "behind")]);
            let applied = scratch.apply(&bytes).unwrap();
            assert_eq!(applied.content_bytes, 9 * MIB as u64 + 6, "{form}");
            let tree = scratch.tree();
            assert_eq!(tree["f"].size, 9 * MIB as u64, "{form}");
            assert!(tree["f"].allocated <= 64 << 10, "{form}: {}", tree["f"].allocated);
            assert_eq!(tree["g"].kind, Kind::File(b"behind".to_vec()), "{form}");
            let path = scratch.place.path().join("layer/f");
            let found = std::fs::OpenOptions::new().read(true).open(path).unwrap();
            for (at, letter) in [(0, b"a"), (511, b"a"), (512, b"\0"), (4 * MIB, b"b")] {
                let mut byte = [1];
                found.read_exact_at(&mut byte, at as u64).unwrap();
                assert_eq!(&byte, letter, "{form} at {at}");
            }
            let mut byte = [1];
            found.read_exact_at(&mut byte, 9 * MIB as u64 - 1).unwrap();
            assert_eq!(&byte, b"c", "{form}");
            if way != Way::Root {
                assert!(scratch.reassembled() == bytes, "{form}");
            }
        }
    }
}

#[test]
fn e26_sparse_maps_that_make_no_sense() {
    let test = "e26_sparse_maps_that_make_no_sense";
    let map = |size: &str, map: &str, payload: &str| {
        file("f", payload).pax("GNU.sparse.size", size).pax("GNU.sparse.map", map)
    };
    for (size, runs, payload) in [
        ("10", "0,11", "01234567890"),
        ("10", "5,2,0,2", "0123"),
        ("10", "0,5,4,2", "0123456"),
        ("10", "0,5", "0123"),
        ("10", "0,5", "0123456"),
        ("10", "18446744073709551615,5", "01234"),
        ("10", "18446744073709551615,18446744073709551615", "x"),
        ("10", "9,0,11,0", ""),
    ] {
        refused(test, &[map(size, runs, payload)], "map of a sparse file");
    }
    for (size, runs) in [("x", "0,1"), ("10", "0"), ("10", "0,1,"), ("10", "a,b"), ("-1", "0,1")] {
        refused(test, &[map(size, runs, "x")], "malformed GNU.sparse");
    }
    gives(test, &[map("4", "0,1,4,0", "x")], "f=x\\x00\\x00\\x00");
    gives(test, &[map("0", "0,0", "")], "f=");
    let latest = |payload: &[u8]| {
        let entry = file("f", payload).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
        entry.pax("GNU.sparse.realsize", "10")
    };
    for payload in [&b""[..], b"1\n0\n1\n", &[b'1'; 2048], &[b'x'; 512], &[b'\n'; 512], &[0; 1024]]
    {
        refused(test, &[latest(payload)], "sparse");
    }
    let offset = pax_block(b'x', &record("GNU.sparse.numbytes", "1"));
    refused(test, &[file("f", "x").after(offset)], "sparse");
    // A hard link has no content that could be sparse.
    let linked = link("l", "f").pax("GNU.sparse.realsize", "4096").pax("GNU.sparse.major", "1");
    gives(test, &[file("f", "x"), linked], "f=x l=>f");
}

#[test]
fn e30_types_of_entries() {
    let test = "e30_types_of_entries";
    gives(test, &[file("f", "x").kind(b'7')], "f=x");
    gives(test, &[file("f", "x").kind(0)], "f=x");
    gives(test, &[file("f", "x").kind(0).magic(Magic::V7)], "f=x");
    gives(test, &[file("d/", "").kind(0)], "d/");
    gives(test, &[file("d/", "").kind(0).magic(Magic::V7), file("d/f", "x")], "d/ d/f=x");
    gives(test, &[file("x", "").kind(0).pax("path", "long/d/")], "long/ long/d/");
    // Only the oldest type makes a directory of a slash.
    gives(test, &[file("f/", "x")], "f=x");
    gives(test, &[dir("d"), dir("e/")], "d/ e/");
    // What only files have a payload of is none for others.
    gives(test, &[dir("d").size(512), symlink("s", "t").size(1024), file("f", "x")], "d/ f=x s->t");
    gives(test, &[char_device("c", 1, 3).size(512), file("f", "x")], "c(c1:3) f=x");
    for (kind, words) in [
        (b's', "socket"),
        (b'V', "volume label"),
        (b'M', "another volume"),
        (b'D', "incremental"),
        (b'N', "incremental"),
        (b'A', "unknown"),
        (b'Z', "unknown"),
        (b'8', "unknown"),
        (0xff, "unknown"),
    ] {
        refused(test, &[Entry::new(kind, "odd")], words);
        refused(test, &[Entry::new(kind, "odd")], "odd");
    }
}

#[test]
fn e30_global_headers() {
    let test = "e30_global_headers";
    let global = |key: &str, value: &str| pax_block(b'g', &record(key, value));
    let entries = [
        file("a", "x").after(global("mtime", "7")).after(global("SCHILY.xattr.user.g", "all")),
        file("b", "x").pax("mtime", "8"),
        file("c", "x").pax("mtime", "").mtime(9),
        file("d", "x").xattr("user.g", "own"),
        file("e", "x").after(global("mtime", "10")),
        file("f", "x").after(global("mtime", "")).mtime(11),
    ];
    checked(test, &tar(&entries), |way, tree, _| {
        let times = ["a", "b", "c", "d", "e", "f"].map(|path| tree[path].mtime.0);
        assert_eq!(times, [7, 8, 9, 7, 10, 11], "{way:?}");
        assert_eq!(tree["c"].xattrs["user.g"], b"all", "{way:?}");
        assert_eq!(tree["d"].xattrs["user.g"], b"own", "{way:?}");
    });
    // Nothing has to follow one; git writes only this into an empty archive.
    bytes_give(test, &global("comment", "0123456789"), "");
    bytes_give(test, &[global("comment", "x"), vec![0; 1024]].concat(), "");
    // But an entry has to follow the other kinds, whatever stands between.
    for block in [
        pax_block(b'x', &record("path", "f")),
        gnu_long(b'L', "f"),
        gnu_long(b'K', "f"),
        [pax_block(b'x', &record("path", "f")), global("comment", "x")].concat(),
    ] {
        let words = "behind an extended header";
        bytes_refused(test, &block, ErrorKind::InvalidData, words);
        bytes_refused(test, &[block, vec![0; 1024]].concat(), ErrorKind::InvalidData, words);
    }
}

#[test]
fn e31_headers_that_are_none() {
    let test = "e31_headers_that_are_none";
    refused(test, &[file("f", "x").bad_checksum()], "checksum");
    refused(test, &[file("f", "x"), file("g", "y").bad_checksum()], "checksum");
    let words = |bytes: &[u8], words| bytes_refused(test, bytes, ErrorKind::InvalidData, words);
    words(&[b'x'; 512], "checksum");
    // What is no tar at all, by what it is instead.
    for (magic, name) in
        [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")]
    {
        let bytes = [magic, &[0x5a; 1024]].concat();
        bytes_refused(test, &bytes, ErrorKind::Unsupported, name);
        bytes_refused(test, &bytes[..100], ErrorKind::Unsupported, name);
    }
    // And tars whose first names begin as the others do.
    gives(test, &[file("BZh9", "x")], "BZh9=x");
    gives(test, &[file("P*M\x18", "x")], r"P*M\x18=x");
    words(&[b'x'; 511], "truncated");
    words(b"<html>not found</html>", "truncated");
    words(b"\x7fELF", "truncated");
    refused(test, &[file("f", "x").size(-1)], "size");
    refused(test, &[file("f", "x").pax("size", "-1")], "size");
    refused(test, &[file("f", "x").pax("size", "1e3")], "size");
    refused(test, &[file("f", "x").field(100, b"rw-r--r-")], "mode");
    gives(test, &[file("f", "xyz").size(1).pax("size", "3")], "f=xyz");
    gives(test, &[file("f", "xyz").size(1).pax("size", "")], "f=x");
}

/// Whether an archive that is cut off here ends where one may.
fn is_clean_end(entries: &[Entry], length: usize) -> bool {
    let mut at = 0;
    for entry in entries {
        if length == at {
            return true;
        }
        at += entry.bytes().len();
        if length <= at {
            return length >= at - entry.padding();
        }
    }
    length >= at + BLOCK
}

#[test]
fn e31_truncated_at_every_byte() {
    let test = "e31_truncated_at_every_byte";
    let Some(memory) = memory(test, &[]) else { return };
    let mut map = b"1\n4096\n3\n".to_vec();
    map.resize(BLOCK, 0);
    map.extend(b"abc");
    let sparse = file("sparse", map)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "20000");
    let entries = [
        file("f", "content"),
        dir("d"),
        file("d/long", "x".repeat(700)).pax("mtime", "1.5"),
        sparse,
        file("cut", "x").after(gnu_long(b'L', "a longer name")),
        mark("d/.wh.gone"),
    ];
    let whole = tar(&entries);
    for length in 0..whole.len() {
        let layer = make_dir(&memory, &format!("layer{length}"));
        let side = make_dir(&memory, &format!("side{length}"));
        let mut options = ApplyOptions::new(Namespace::Trusted);
        options.side = Some(&side);
        let clean = is_clean_end(&entries, length);
        match apply(&whole[..length], &layer, &options) {
            Ok(applied) => {
                assert!(clean, "{test}: {length} bytes were accepted");
                assert_eq!(applied.changeset_bytes, length as u64);
                let mut again = Vec::new();
                reassemble(&layer, &side, &mut again, "test", Watch::new()).unwrap();
                assert!(again == whole[..length], "{length}");
            }
            Err(error) => {
                assert!(!clean, "{test}: {length} bytes: {error}");
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            }
        }
    }
}

#[test]
fn e31_how_an_archive_ends() {
    let test = "e31_how_an_archive_ends";
    let open = open_tar(&[file("f", "x")]);
    let ends: [&[u8]; 6] =
        [b"", &[0; 512], &[0; 1024], &[0; 10240], &[0; 700], &[[0; 1024], [7; 1024]].concat()];
    for end in ends {
        let bytes = [open.as_slice(), end].concat();
        bytes_give(test, &bytes, "f=x");
        // Every byte counts for the diff ID.
        checked(test, &bytes, |_, _, applied| {
            assert_eq!(applied.diff_id, DiffId::new(Digest::of(&bytes)));
            assert_eq!(applied.digest, Digest::of(&bytes));
        });
    }
    // One more archive behind the end of the first is no part of it.
    bytes_give(test, &[tar(&[file("f", "x")]), tar(&[file("g", "y")])].concat(), "f=x");
    bytes_give(test, b"", "");
    bytes_give(test, &[0; 512], "");
    // The last padding may be missing, as a whole or in part.
    for length in 513..=1024 {
        let scratch = Scratch::new(Way::PlainUser);
        assert_eq!(scratch.apply(&open[..length]).unwrap().entries, 1, "{length}");
    }
}

fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = compression.encoder(Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As `checked`, where the bytes read are not those of the tar.
fn packed(test: &str, packed: &[u8], plain: &[u8], expected: &str) {
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let scratch = Scratch::new(way);
        let applied: Applied =
            scratch.apply(packed).unwrap_or_else(|error| panic!("{test}, {way:?}: {error}"));
        assert_eq!(crate::tree::shown(&scratch.tree()), expected, "{test}, {way:?}");
        assert_eq!(applied.diff_id, DiffId::new(Digest::of(plain)), "{test}");
        assert_eq!(applied.digest, Digest::of(packed), "{test}");
        assert_eq!(applied.read_bytes, packed.len() as u64, "{test}");
        assert_eq!(applied.changeset_bytes, plain.len() as u64, "{test}");
        if way != Way::Root {
            assert!(scratch.reassembled() == plain, "{test}");
        }
    }
}

#[test]
fn e32_members_and_frames() {
    let test = "e32_members_and_frames";
    let plain = tar(&[file("f", "x".repeat(2_000)), file("g", "y")]);
    let shown = format!("f={} g=y", "x".repeat(2_000));
    let (gzip, zstd) = (Compression::Gzip, Compression::Zstd);
    for compression in [gzip, zstd] {
        packed(test, &compressed(compression, &plain), &plain, &shown);
        // Cut anywhere, inside a header and inside a payload, one of the pieces empty.
        for cut in [0, 1, 100, 600, plain.len()] {
            let (first, second) = plain.split_at(cut);
            let pieces = [compressed(compression, first), compressed(compression, second)];
            packed(test, &pieces.concat(), &plain, &shown);
        }
    }
    let skippable = [&b"\x50\x2a\x4d\x18\x05\0\0\0hello"[..], b"\x5f\x2a\x4d\x18\0\0\0\0"].concat();
    let (first, second) = plain.split_at(700);
    let (first, second) = (compressed(zstd, first), compressed(zstd, second));
    packed(
        test,
        &[&skippable[..], &first, &skippable, &second, &skippable].concat(),
        &plain,
        &shown,
    );
    // Zeros fill the last block of a tape; anything else is damage.
    let padded = [compressed(gzip, &plain), vec![0; 300]].concat();
    packed(test, &padded, &plain, &shown);
    for (compression, tail) in [(gzip, &b"garbage"[..]), (zstd, b"garbage"), (gzip, b"\x1f\x8b")] {
        let bytes = [compressed(compression, &plain), tail.to_vec()].concat();
        bytes_refused(test, &bytes, ErrorKind::InvalidData, "read changeset");
    }
}

#[test]
fn e32_compressed_and_truncated_at_every_byte() {
    let test = "e32_compressed_and_truncated_at_every_byte";
    let plain = tar(&[file("f", "some content"), dir("d")]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let whole = compressed(compression, &plain);
        // One byte alone could be the start of a plain tar, cut off; none at all is an empty one.
        for length in 1..whole.len() {
            let error = match Scratch::new(Way::PlainUser).apply(&whole[..length]) {
                Err(error) => error,
                Ok(_) => panic!("{test}: {length} bytes of {compression} were accepted"),
            };
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{length}: {error}");
        }
        let mut broken = whole.clone();
        let middle = broken.len() / 2;
        broken[middle..].fill(0xa5);
        let error = Scratch::new(Way::PlainUser).apply(&broken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn e35_wrong_digests() {
    let test = "e35_wrong_digests";
    let plain = tar(&[file("f", "x")]);
    let packed = compressed(Compression::Gzip, &plain);
    let (right, other) = (Digest::of(&packed), Digest::of(b"other"));
    let right_diff = DiffId::new(Digest::of(&plain));
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let apply = |digest, diff_id| {
            Scratch::new(way).apply_with(&packed, |options| {
                options.expected_digest = Some(digest);
                options.expected_diff_id = Some(diff_id);
            })
        };
        apply(right, right_diff).unwrap();
        for (digest, diff_id, found) in [
            (other, right_diff, right.to_string()),
            (right, DiffId::new(other), right_diff.to_string()),
            // A digest of the other form of the same data.
            (*right_diff.digest(), right_diff, right.to_string()),
        ] {
            let error = apply(digest, diff_id).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DigestMismatch);
            let text = error.to_string();
            assert!(text.contains(&found), "{text}");
            assert!(
                text.contains(&digest.to_string()) || text.contains(&diff_id.to_string()),
                "{text}"
            );
        }
    }
}

#[test]
fn e67_the_same_tar_again_however_odd() {
    let test = "e67_the_same_tar_again_however_odd";
    let plain = tar(&[dir("d"), file("d/f", "content"), file("e", "")]);
    let expected = "d/ d/f=content e=";
    // Behind a payload stands what a careless writer had in its buffer.
    let mut padded = plain.clone();
    let payload = padded.windows(7).position(|bytes| bytes == b"content").unwrap();
    padded[payload + 7..payload + 512].fill(b'?');
    bytes_give(test, &padded, expected);
    for tail in [&[0; 512][..], &[0; 19 * 512], &[0; 10], b"garbage", &[b'x'; 700]] {
        bytes_give(test, &[&plain, tail].concat(), expected);
    }
    // Numbers and names as writers differ in them.
    let charset = file("d/f", "content").pax("hdrcharset", "BINARY").pax("comment", "none");
    bytes_give(test, &tar(&[dir("d/"), charset, file("./e", "")]), expected);
    let spaces = file("e", "").field(100, b"   644 \0").field(108, b"0     \0 ").kind(0);
    bytes_give(test, &tar(&[dir("d//"), file("/d/./f", "content"), spaces]), expected);
    let named = file("d/f", "content").field(265, b"root").field(297, b"wheel").magic(Magic::Gnu);
    bytes_give(test, &tar(&[dir("d"), named, file("e", "")]), expected);
    // The same file twice, links with payloads, and what is skipped.
    let twice = [
        dir("d"),
        file("d/f", "first"),
        file(".wh..wh.plnk/1.2", "skipped"),
        file("d/f", "content"),
        file("e", "not empty"),
        file("e", ""),
    ];
    bytes_give(test, &tar(&twice), expected);
    for (form, entry) in sparse_files() {
        let bytes = [tar(&[entry]), vec![0; 5 * 512], b"tail".to_vec()].concat();
        checked(form, &bytes, |_, tree, _| assert!(tree.contains_key("f"), "{form}"));
    }
}
