//! Each field of `ApplyLimits`: what just fits is taken, one more is refused.

use overlay2::ErrorKind;
use overlay2::changeset::ApplyLimits;

use crate::run::{Scratch, WAYS, possible};
use crate::tar::{Entry, dir, file, gnu_long, link, mark, pax_block, record, symlink, tar};

/// Checks that the entries pass with a limit of `fits`, and are refused with one less.
fn limit(
    test: &str,
    entries: &[Entry],
    fits: u64,
    set: impl Fn(&mut ApplyLimits, u64) + Sync,
    words: &str,
) {
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let apply = |value| {
            let set = &set;
            Scratch::new(way)
                .apply_with(&tar(entries), move |options| set(&mut options.limits, value))
        };
        if let Err(error) = apply(fits) {
            panic!("{test}, {way:?}: {error}");
        }
        let Err(error) = apply(fits - 1) else { panic!("{test}, {way:?}: no limit met") };
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{test}, {way:?}: {error}");
        assert!(error.to_string().contains(words), "{test}, {way:?}: {error}");
        assert!(error.help().is_some_and(|help| help.contains("ApplyLimits")), "{test}");
    }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

#[test]
fn e16_entries() {
    // Headers that describe others count as well.
    let entries = [dir("d"), mark("d/.wh.x"), file("f", "x").pax("mtime", "1")];
    limit("e16_entries", &entries, 4, |limits, value| limits.entries = value, "entries");
}

#[test]
fn e16_bytes() {
    let entries = [file("f", "x".repeat(700_000))];
    let whole = tar(&entries).len() as u64;
    limit(
        "e16_bytes",
        &entries,
        whole,
        |limits, value| limits.bytes = value,
        "bytes in a changeset",
    );
}

#[test]
fn e16_bytes_of_a_compressed_bomb() {
    use std::io::Write;
    let plain = tar(&[file("f", vec![0; 64 << 20])]);
    for compression in [overlay2::Compression::Gzip, overlay2::Compression::Zstd] {
        let mut encoder = compression.encoder(Vec::new()).unwrap();
        encoder.write_all(&plain).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 100_000);
        let result = Scratch::new(crate::run::Way::PlainUser)
            .apply_with(&bomb, |options| options.limits.bytes = 1 << 20);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::LimitExceeded);
    }
}

#[test]
fn e16_file_bytes() {
    let test = "e16_file_bytes";
    let set = |limits: &mut ApplyLimits, value| limits.file_bytes = value;
    limit(test, &[file("f", "x".repeat(1_000))], 1_000, set, "bytes in a file");
    // Holes count: they cost nothing here, but everything where the layer is copied.
    let sparse = file("f", "x").pax("GNU.sparse.size", "5000").pax("GNU.sparse.map", "0,1");
    limit(test, &[sparse], 5_000, set, "bytes in a file");
}

#[test]
fn e16_path_bytes() {
    let test = "e16_path_bytes";
    let set = |limits: &mut ApplyLimits, value| limits.path_bytes = size(value);
    limit(test, &[file("d/d/d/d", "x")], 7, set, "bytes in a path");
    limit(test, &[file("f", "x"), link("l", "./././f")], 7, set, "bytes in a path");
    limit(test, &[symlink("s", "1234567")], 7, set, "bytes in a path");
}

#[test]
fn e16_depth() {
    let test = "e16_depth";
    let set = |limits: &mut ApplyLimits, value| limits.depth = size(value);
    limit(test, &[dir("a/b/c/d/e")], 5, set, "names in a path");
    limit(test, &[mark("a/b/c/d/.wh.e")], 5, set, "names in a path");
    // A symlink that leads deeper than any path of the changeset's.
    let through = [dir("a/b/c/d"), symlink("s", "a/b/c/d"), file("s/e/f/g", "x")];
    limit(test, &through, 6, set, "names in a path");
}

#[test]
fn e16_header_bytes() {
    let test = "e16_header_bytes";
    let set = |limits: &mut ApplyLimits, value| limits.header_bytes = value;
    let long = file("f", "x").xattr("user.a", "v".repeat(1_000));
    let bytes = record("SCHILY.xattr.user.a", "v".repeat(1_000)).len() as u64;
    limit(test, &[long.clone(), long.clone()], bytes, set, "extended headers");
    let both = long.after(gnu_long(b'L', "n".repeat(200)));
    limit(test, &[both], bytes + 201, set, "extended headers");
    let global = |key: &str| file("f", "x").after(pax_block(b'g', &record(key, "v".repeat(100))));
    // Of these the keys and values are kept, not the lengths.
    limit(test, &[global("one"), global("two"), global("one")], 206, set, "global headers");
}

#[test]
fn e16_attribute_bytes() {
    let test = "e16_attribute_bytes";
    let set = |limits: &mut ApplyLimits, value| limits.attribute_bytes = value;
    let one = |name: &str| file(name, "x").xattr("user.a", "v".repeat(100));
    limit(test, &[one("f"), one("g")], 2 * 106, set, "bytes of attributes");
    // A global header says it once, and each entry has it.
    let global = pax_block(b'g', &record("SCHILY.xattr.user.b", "v".repeat(50)));
    limit(
        test,
        &[file("f", "x").after(global), file("g", "x")],
        2 * 56,
        set,
        "bytes of attributes",
    );
}

#[test]
fn e16_sparse_runs() {
    let test = "e16_sparse_runs";
    let set = |limits: &mut ApplyLimits, value| limits.sparse_runs = size(value);
    let sparse = file("f", "abc").pax("GNU.sparse.size", "9");
    limit(test, &[sparse.clone().pax("GNU.sparse.map", "0,1,4,1,8,1")], 3, set, "runs");
    let mut each = sparse;
    for offset in ["0", "4", "8"] {
        each = each.pax("GNU.sparse.offset", offset).pax("GNU.sparse.numbytes", "1");
    }
    limit(test, &[each], 3, set, "runs");
    let mut map = b"3\n0\n1\n4\n1\n8\n1\n".to_vec();
    map.resize(512, 0);
    map.extend(b"abc");
    let latest = file("f", map).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
    limit(test, &[latest.pax("GNU.sparse.realsize", "9")], 3, set, "runs");
}

#[test]
fn e16_marks() {
    let test = "e16_marks";
    let set = |limits: &mut ApplyLimits, value| limits.marks = value;
    let entries = [dir("a"), file("b/c/f", "x"), mark("a/.wh.x"), link("l", "low"), file("g", "y")];
    // Three directories, a whiteout, and a link with the target that it waits for.
    limit(test, &entries, 6, set, "marks");
    // A long path takes the memory of many.
    limit(test, &[dir(vec!["n".repeat(250); 3].join("/"))], 4 + 8 + 12, set, "marks");
}
