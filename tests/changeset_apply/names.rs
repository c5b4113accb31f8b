//! E12 to E16 and E27: names and paths, and that none of them leads outside.

use overlay2::ErrorKind;

use crate::run::{Scratch, WAYS, bytes_give, bytes_refused, checked, gives, possible, refused};
use crate::tar::{
    Entry, Magic, dir, file, gnu_long, link, mark, open_tar, pax_block, record, symlink, tar,
};
use crate::tree::Kind;

#[test]
fn e12_a_symlink_as_parent_leads_nowhere_outside() {
    let test = "e12_a_symlink_as_parent_leads_nowhere_outside";
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let scratch = Scratch::new(way);
        let outside = scratch.place.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("f"), "untouched").unwrap();
        let absolute = outside.to_str().unwrap().to_owned();
        let inside = absolute.trim_start_matches('/').to_owned();
        let up = "../".repeat(30);
        let entries = [
            symlink("a", &absolute),
            file("a/f", "1"),
            symlink("b", format!("{up}{inside}")),
            file("b/g", "2"),
            mark("b/.wh.h"),
            dir("b/d"),
            symlink("c", "../../outside"),
            file("c/f", "3"),
            link("l", "a/f"),
            symlink("d/e", "/../.."),
            file("d/e/f", "4"),
        ];
        scratch.apply(&tar(&entries)).unwrap();
        let tree = scratch.tree();
        let text = |path: &str| match &tree[path].kind {
            Kind::File(content) => content.as_slice(),
            other => panic!("{path} is {other:?}"),
        };
        assert_eq!(text(&format!("{inside}/f")), b"1");
        assert_eq!(text(&format!("{inside}/g")), b"2");
        assert_eq!(text("l"), b"1");
        assert_eq!(text("outside/f"), b"3");
        assert_eq!(text("f"), b"4");
        assert_eq!(std::fs::read_to_string(outside.join("f")).unwrap(), "untouched");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}

#[test]
fn e12_what_a_symlink_points_to_is_kept() {
    let test = "e12_what_a_symlink_points_to_is_kept";
    for target in ["/etc/passwd", "../../..", "a//b/", ".", "nowhere", " ", "\u{1f980}"] {
        gives(test, &[symlink("l", target)], &format!("l->{}", target.as_bytes().escape_ascii()));
    }
    let long = "t/".repeat(2_000);
    gives(test, &[symlink("l", &long)], &format!("l->{long}"));
    // An existing file at the end of a link is replaced, not written through.
    gives(test, &[file("f", "old"), symlink("l", "f"), file("l", "new")], "f=old l=new");
    refused(test, &[symlink("l", "")], "nowhere");
}

#[test]
fn e13_the_root_is_a_directory() {
    let test = "e13_the_root_is_a_directory";
    for name in ["./", ".", "/", "//", "d/..", ""] {
        for entry in
            [symlink(name, "/etc"), Entry::new(b'6', name), Entry::new(b'3', name), file(name, "x")]
        {
            refused(test, &[entry], "root of the layer");
        }
        refused(test, &[file("f", ""), link(name, "f")], "root of the layer");
    }
}

#[test]
fn e14_absolute_names_and_dots() {
    let test = "e14_absolute_names_and_dots";
    gives(test, &[file("/etc/f", "x"), link("/l", "/etc/f")], "etc/ etc/f=x l=>etc/f");
    gives(test, &[file("a/../b", "x"), file("a/b/../../c", "y")], "b=x c=y");
    for name in ["../f", "..", "a/../../f", "/../f", "a/../..", "./../f"] {
        refused(test, &[file(name, "x")], "leaves the root");
        refused(test, &[dir(name)], "leaves the root");
        refused(test, &[file("f", "x"), link("l", name)], "leaves the root");
    }
    refused(test, &[mark("../.wh.x")], "leaves the root");
}

#[test]
fn e15_names_of_users_are_ignored() {
    let test = "e15_names_of_users_are_ignored";
    let named = file("f", "x")
        .owner(5, 6)
        .field(265, b"daemon")
        .field(297, b"no-such-group")
        .pax("uname", "root")
        .pax("gname", b"\0\xff");
    checked(test, &tar(&[named]), |_, tree, _| assert_eq!((tree["f"].uid, tree["f"].gid), (5, 6)));
}

#[test]
fn e27_names_of_any_bytes() {
    let test = "e27_names_of_any_bytes";
    for name in [
        &b"\xff\xfe\x80"[..],
        b"new\nline",
        b" ",
        b"-rf",
        b"\x01\x7f",
        b"*",
        b"\\",
        b"a\tb",
        b".wh",
    ] {
        let shown = name.escape_ascii();
        gives(test, &[file(name, "x")], &format!("{shown}=x"));
        let below = [b"d/", name].concat();
        gives(test, &[file(below, "x")], &format!("d/ d/{shown}=x"));
    }
    // ".." as part of a name is none.
    gives(test, &[file("..a", "x"), file("b..", "y"), file("...", "z")], "...=z ..a=x b..=y");
    gives(
        test,
        &[file("a//b", "1"), file("./a/./c", "2"), dir("d//"), dir("./d/e/")],
        "a/ a/b=1 a/c=2 d/ d/e/",
    );
    refused(test, &[file("x", "").pax("path", "a\0b")], "NUL");
    refused(test, &[file("x", ""), link("l", "x").pax("linkpath", "x\0y")], "NUL");
    refused(test, &[symlink("l", "x").pax("linkpath", "x\0y")], "NUL");
}

#[test]
fn e27_long_names() {
    let test = "e27_long_names";
    let name = "n".repeat(255);
    gives(test, &[file(&name, "x")], &format!("{name}=x"));
    let long = "n".repeat(256);
    bytes_refused(test, &tar(&[file(&long, "x")]), ErrorKind::LimitExceeded, "create");
    bytes_refused(test, &tar(&[dir(&long)]), ErrorKind::LimitExceeded, "create");
    // The longest name that can be whited out, in the longest spelling of it.
    gives(test, &[mark(format!(".wh.{}", "n".repeat(251)))], &format!("{}-", "n".repeat(251)));
    // Every way to spell a long path, and a long target.
    let path = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let expected = format!("{0}/ {path}=x", "d".repeat(120));
    let linked = format!("{expected} l=>{path} s->{path}");
    let (prefix, last) = path.split_once('/').unwrap();
    let short = |kind| Entry::new(kind, "cut off").magic(Magic::Gnu).payload("x");
    gives(test, &[file(&path, "x"), link("l", &path), symlink("s", &path)], &linked);
    let gnu = [
        short(b'0').after(gnu_long(b'L', &path)),
        link("l", "cut off").after(gnu_long(b'K', &path)),
        symlink("s", "cut off").after(gnu_long(b'K', &path)),
    ];
    gives(test, &gnu, &linked);
    // The name field and the prefix of ustar, both full or nearly so.
    let (prefix, last) = (prefix, &last[..100]);
    let split = format!("{prefix}/ {prefix}/{last}=x");
    gives(test, &[file(last, "x").field(345, prefix)], &split);
    // Go wrote it into GNU headers before 1.8.
    gives(test, &[file(last, "x").magic(Magic::Gnu).field(345, prefix)], &split);
    // What stands there in v7, or as a time of GNU's, is no name.
    gives(test, &[file(last, "x").magic(Magic::V7).field(345, prefix)], &format!("{last}=x"));
    let times = file(last, "x").magic(Magic::Gnu).field(345, b"13726745000\x0013726745000\0");
    gives(test, &[times], &format!("{last}=x"));
    // The prefix of star is shorter; behind it are times.
    let star = file(last, "x")
        .field(345, &prefix[..110])
        .field(476, b"13726745000\0")
        .field(508, b"tar\0");
    let short = &prefix[..110];
    gives(test, &[star], &format!("{short}/ {short}/{last}=x"));
}

#[test]
fn e27_which_of_several_names_counts() {
    let test = "e27_which_of_several_names_counts";
    let both = file("header", "x").pax("path", "pax").after(gnu_long(b'L', "gnu"));
    gives(test, &[both], "gnu=x");
    gives(test, &[file("header", "x").after(gnu_long(b'L', ""))], "header=x");
    gives(test, &[file("header", "x").pax("path", "")], "header=x");
    gives(test, &[file("header", "x").pax("path", "a").pax("path", "b")], "b=x");
    let first = pax_block(b'x', &record("path", "first"));
    gives(test, &[file("header", "x").after(&first)], "first=x");
    gives(test, &[file("header", "x").pax("path", "second").after(&first)], "second=x");
    gives(test, &[file("header", "x").pax("mtime", "1").after(&first)], "header=x");
    gives(test, &[file("header", "x").after(gnu_long(b'L', "a\0b"))], "a=x");
}

#[test]
fn e27_paths_longer_than_the_kernel_takes() {
    let test = "e27_paths_longer_than_the_kernel_takes";
    let Some(memory) = crate::run::memory(test, &[]) else { return };
    let deep = vec!["n".repeat(250); 40].join("/");
    let entries = [
        file(format!("{deep}/f"), "x"),
        link(format!("{deep}/l"), format!("{deep}/f")),
        symlink("s", "n".repeat(250)),
        dir(format!("{deep}/d/")).mode(0o700),
        mark(format!("{deep}/.wh.gone")),
        file(format!("{deep}/f"), "new"),
        link("out", format!("{deep}/f")),
    ];
    let bytes = tar(&entries);
    let (layer, side) =
        (crate::run::make_dir(&memory, "layer"), crate::run::make_dir(&memory, "side"));
    let mut options = overlay2::changeset::ApplyOptions::new(overlay2::Namespace::Trusted);
    options.side = Some(&side);
    overlay2::changeset::apply(&*bytes, &layer, &options).unwrap();
    let tree = crate::tree::read(&layer);
    assert_eq!(tree.len(), 1 + 40 + 6);
    assert_eq!(tree["out"].kind, crate::tree::Kind::File(b"new".to_vec()));
    assert_eq!(tree[&format!("{deep}/gone")].kind, crate::tree::Kind::Whiteout);
    let mut again = Vec::new();
    let watch = overlay2::Watch::new();
    overlay2::changeset::reassemble(&layer, &side, &mut again, "test", watch).unwrap();
    assert!(again == bytes);
}

#[test]
fn e16_deep_paths_and_endless_headers() {
    let test = "e16_deep_paths_and_endless_headers";
    let deep = |depth: usize| vec!["d"; depth].join("/");
    let limit = ErrorKind::LimitExceeded;
    bytes_refused(test, &tar(&[dir(deep(10_000))]), limit, "names in a path");
    bytes_refused(test, &tar(&[link("l", deep(40_000))]), limit, "bytes in a path");
    bytes_refused(test, &tar(&[symlink("l", "t".repeat(70_000))]), limit, "bytes in a path");
    let endless = Entry::new(b'x', "PaxHeader").size(1 << 40);
    bytes_refused(test, &open_tar(&[endless]), limit, "extended headers");
    let endless = Entry::new(b'L', "LongLink").size(1 << 40);
    bytes_refused(test, &open_tar(&[endless]), limit, "extended headers");
    let mut many = Vec::new();
    for _ in 0..5 {
        many.extend(gnu_long(b'K', "k".repeat(1 << 20)));
    }
    bytes_refused(test, &many, limit, "extended headers");
    let globals = |key: fn(usize) -> String| {
        let block = |n| pax_block(b'g', &record(key(n), "v".repeat(1 << 20)));
        tar(&[0, 1, 2, 3, 4].map(|n| file("f", "x").after(block(n))))
    };
    bytes_refused(test, &globals(|n| format!("k{n}")), limit, "global headers");
    // The same key again and again takes no memory.
    bytes_give(test, &globals(|_| "k".to_owned()), "f=x");
    let wide = crate::tar::char_device("c", 0, 0);
    for (offset, number) in
        [(329, b"0010000\0"), (337, b"4000000\0"), (329, b"\xff\xff\xff\xff\xff\xff\xff\xff")]
    {
        refused(test, &[wide.clone().field(offset, number)], "out of range");
    }
    let widest = [wide.field(329, b"0007777\0").field(337, b"3777777\0")];
    gives(test, &widest, "c(c4095:1048575)");
}
