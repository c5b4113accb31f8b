//! E01 to E10 and E17 to E23: marks, parents, links, and entries that replace each other.

use overlay2::LayerPath;
use overlay2::changeset::Applied;

use crate::run::{checked, gives, refused};
use crate::tar::{Entry, block_device, char_device, dir, fifo, file, link, mark, symlink, tar};
use crate::tree::shown;

fn paths(paths: &[LayerPath]) -> String {
    let shown: Vec<_> = paths.iter().map(|path| path.to_string()).collect();
    shown.join(" ")
}

/// As `gives`, and what is taken for granted of the layers below.
fn assumes(test: &str, entries: &[Entry], expected: &str, assumptions: [&str; 3]) {
    checked(test, &tar(entries), |way, tree, applied: &Applied| {
        assert_eq!(shown(tree), expected, "{test}, {way:?}");
        let found = &applied.assumptions;
        let links: Vec<_> =
            found.links.iter().map(|link| format!("{}=>{}", link.name, link.target)).collect();
        let found = [paths(&found.implied), paths(&found.whited), links.join(" ")];
        assert_eq!(found, assumptions, "{test}, {way:?}: implied, whited, links");
    });
}

#[test]
fn e01_delete_and_recreate() {
    let test = "e01_delete_and_recreate";
    gives(test, &[mark(".wh.d"), dir("d/"), file("d/f", "x")], "d/! d/f=x");
    // Made again only by what lies in it.
    assumes(test, &[mark(".wh.d"), file("d/f", "x")], "d/! d/f=x", ["", "", ""]);
    gives(test, &[dir("a"), mark("a/.wh.d"), dir("a/d")], "a/ a/d/!");
    gives(test, &[mark(".wh.f"), file("f", "new")], "f=new");
    gives(test, &[mark(".wh.l"), symlink("l", "t")], "l->t");
}

#[test]
fn e02_a_whiteout_behind_what_it_names() {
    let test = "e02_a_whiteout_behind_what_it_names";
    gives(test, &[dir("d"), file("d/f", "x"), mark(".wh.d")], "d/! d/f=x");
    gives(test, &[file("d", "x"), mark(".wh.d")], "d=x");
    gives(test, &[file("a", "x"), link("d", "a"), mark(".wh.d")], "a=x d=>a");
    gives(test, &[symlink("d", "x"), mark(".wh.d")], "d->x");
    gives(test, &[char_device("d", 1, 3), mark(".wh.d")], "d(c1:3)");
    // Twice is once.
    gives(test, &[mark(".wh.d"), dir("d"), mark(".wh.d")], "d/!");
    gives(test, &[mark(".wh.d"), mark(".wh.d")], "d-");
}

#[test]
fn e03_an_opaque_marker_anywhere_among_its_siblings() {
    let test = "e03_an_opaque_marker_anywhere_among_its_siblings";
    let mut entries = vec![file("d/a", "1"), file("d/b", "2"), mark("d/.wh..wh..opq"), dir("d")];
    for _ in 0..entries.len() {
        entries.rotate_left(1);
        gives(test, &entries, "d/! d/a=1 d/b=2");
    }
}

#[test]
fn e04_a_whiteout_where_nothing_below_can_show() {
    let test = "e04_a_whiteout_where_nothing_below_can_show";
    let opaque = mark("d/.wh..wh..opq");
    gives(test, &[dir("d"), opaque.clone(), mark("d/.wh.x")], "d/!");
    gives(test, &[dir("d"), mark("d/.wh.x"), opaque.clone()], "d/!");
    gives(test, &[dir("d"), mark("d/.wh.x"), mark(".wh.d")], "d/!");
    // Deeper below an opaque directory too: no assumption is needed of what lies below.
    let deep = [dir("d"), dir("d/e"), mark("d/e/.wh.x"), opaque.clone()];
    assumes(test, &deep, "d/! d/e/", ["", "", ""]);
    // A whiteout alone makes no parent.
    assumes(test, &[mark(".wh.d"), mark("d/.wh.x")], "d-", ["", "/", ""]);
    assumes(test, &[dir("d"), mark("d/new/er/.wh.x"), opaque], "d/!", ["", "", ""]);
    assumes(test, &[mark(".wh..wh..opq"), mark("new/.wh.x")], "", ["", "", ""]);
    // Only the stack knows of these.
    assumes(test, &[dir("d"), mark("d/.wh.x")], "d/ d/x-", ["", "/d", ""]);
    assumes(test, &[mark(".wh.x")], "x-", ["", "/", ""]);
    assumes(test, &[mark("new/.wh.x")], "new/ new/x-", ["/new", "/new", ""]);
}

#[test]
fn e05_an_opaque_root() {
    let test = "e05_an_opaque_root";
    for entries in [
        [mark(".wh..wh..opq"), file("f", "x"), mark(".wh.y")],
        [file("f", "x"), mark(".wh.y"), mark("./.wh..wh..opq")],
    ] {
        checked(test, &tar(&entries), |way, tree, applied| {
            assert!(applied.opaque_root, "{way:?}");
            assert_eq!(shown(tree), "f=x", "{way:?}");
            assert!(applied.assumptions.is_empty(), "{way:?}");
            // The kernel ignores the mark there, so that it is not written.
            assert!(tree[""].xattrs.is_empty(), "{way:?}");
        });
    }
    checked(test, &tar(&[file("f", "x")]), |_, _, applied| assert!(!applied.opaque_root));
}

#[test]
fn e06_whiteouts_of_no_name() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "./d/.wh.../", ".wh../x"] {
        refused("e06_whiteouts_of_no_name", &[mark(name)], "whiteout");
    }
}

#[test]
fn e07_bookkeeping_of_aufs() {
    let test = "e07_bookkeeping_of_aufs";
    let entries = [
        dir(".wh..wh.plnk"),
        file(".wh..wh.plnk/12.34", "content that nobody sees"),
        dir(".wh..wh.plnk/.wh.x"),
        mark(".wh..wh.aufs"),
        dir(".wh..wh.orph"),
        file("d/.wh..wh.other", "payload"),
        symlink(".wh..wh.link", "x"),
        file("f", "x"),
    ];
    assumes(test, &entries, "f=x", ["", "", ""]);
    gives(test, &[dir("d"), mark("d/.wh..wh..opq")], "d/!");
    gives(test, &[dir("d"), mark("d/.wh..wh..opqx")], "d/");
}

#[test]
fn e08_whiteouts_that_are_none() {
    let test = "e08_whiteouts_that_are_none";
    let empty = "empty regular file";
    for (entry, words) in [
        (file(".wh.x/f", ""), "directory of the path"),
        (dir("d/.wh.x/e"), "directory of the path"),
        (file(".wh..wh..opq/f", ""), "directory of the path"),
        (file(".wh.x", "payload"), empty),
        (file(".wh..wh..opq", "payload"), empty),
        (dir(".wh.x"), empty),
        (symlink(".wh.x", "t"), empty),
        (link(".wh.x", "t"), empty),
        (fifo(".wh.x"), empty),
        (char_device(".wh.x", 0, 0), empty),
        (mark(".wh.x").pax("GNU.sparse.size", "4096").pax("GNU.sparse.map", ""), empty),
    ] {
        refused(test, &[file("t", "x"), entry], words);
    }
}

#[test]
fn e09_a_smuggled_whiteout() {
    let test = "e09_a_smuggled_whiteout";
    refused(test, &[char_device("passwd", 0, 0)], "whiteout");
    refused(test, &[char_device("d/passwd", 0, 0).mode(0)], "whiteout");
    // No header of 1979 has a device number, so this is the same.
    refused(test, &[char_device("passwd", 1, 3).magic(crate::tar::Magic::V7)], "whiteout");
    gives(test, &[block_device("b", 0, 0), char_device("c", 0, 1)], "b(b0:0) c(c0:1)");
}

#[test]
fn e10_a_hard_link_to_a_whiteout() {
    let test = "e10_a_hard_link_to_a_whiteout";
    for target in [".wh.x", "d/.wh.x", ".wh..wh..opq", ".wh..wh.plnk/1.2", ".wh.d/f"] {
        refused(test, &[mark(".wh.x"), link("l", target)], "whiteout");
    }
    for entries in [
        vec![mark(".wh.x"), link("l", "x")],
        vec![link("l", "x"), mark(".wh.x")],
        vec![mark(".wh.d"), link("l", "d/f")],
        vec![mark(".wh.d"), dir("d"), link("l", "d/f")],
        vec![mark("d/.wh..wh..opq"), link("l", "d/f")],
        vec![mark(".wh..wh..opq"), link("l", "d/f")],
        vec![link("l", "m"), mark(".wh.x"), link("m", "x")],
        vec![file("f", "1"), link("l", "f/x")],
        vec![link("l", "m/x"), link("m", "x")],
    ] {
        refused(test, &entries, "deletes");
    }
    // A file of this changeset is not what a whiteout deletes.
    gives(test, &[file("x", "1"), mark(".wh.x"), link("y", "x")], "x=1 y=>x");
}

#[test]
fn e17_parents_without_an_entry() {
    let test = "e17_parents_without_an_entry";
    assumes(test, &[file("a/b/f", "x")], "a/ a/b/ a/b/f=x", ["/a /a/b", "", ""]);
    assumes(test, &[file("a/f", "x"), dir("a")], "a/ a/f=x", ["", "", ""]);
    checked(
        test,
        &tar(&[dir("s").mode(0o2777).owner(5, 6), file("s/d/f", "x")]),
        |way, tree, _| {
            let implied = &tree["s/d"];
            assert_eq!((implied.mode, implied.uid, implied.gid), (0o755, 0, 0), "{way:?}");
            assert!(implied.xattrs.is_empty(), "{way:?}");
        },
    );
    for entries in [
        [file("f", "x"), file("f/g", "y")],
        [file("f", "x"), dir("f/g/h")],
        [file("f", "x"), mark("f/.wh.g")],
        [file("f", "x"), mark("f/.wh..wh..opq")],
        [fifo("f"), file("f/g", "y")],
        // A hard link whose target is not there yet is no directory either.
        [link("f", "later"), file("f/g", "y")],
    ] {
        refused(test, &entries, "no directory");
    }
}

#[test]
fn e17_nothing_is_inherited_from_the_layer_directory() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let test = "e17_nothing_is_inherited_from_the_layer_directory";
    if !crate::run::root(test) {
        return;
    }
    let scratch = crate::run::Scratch::new(crate::run::Way::Root);
    let layer = scratch.place.path().join("layer");
    chown(&layer, Some(0), Some(1234)).unwrap();
    std::fs::set_permissions(&layer, std::fs::Permissions::from_mode(0o2755)).unwrap();
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(1_u16, 7_u16), (4, 7), (0x20, 7)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&layer, "system.posix_acl_default", &acl, flags).unwrap();
    let entries =
        [dir("d").mode(0o750), file("d/f", "x").mode(0o640), fifo("i/p").mode(0o600), dir("i/d")];
    scratch.apply(&tar(&entries)).unwrap();
    for (path, node) in scratch.tree().iter().filter(|(path, _)| !path.is_empty()) {
        assert_eq!((node.uid, node.gid), (0, 0), "{path}");
        assert!(node.xattrs.is_empty(), "{path}: {:?}", node.xattrs);
        assert_eq!(node.mode & 0o7002, 0, "{path}: {:o}", node.mode);
    }
}

#[test]
fn e18_the_entry_of_the_root() {
    let test = "e18_the_entry_of_the_root";
    for name in ["./", ".", "/", "a/.."] {
        let root = dir(name).mode(0o1750).owner(7, 8).mtime(5).xattr("user.x", "y");
        checked(test, &tar(&[root, file("f", "x")]), |way, tree, applied| {
            assert!(applied.explicit_root);
            let root = &tree[""];
            assert_eq!((root.mode, root.uid, root.gid), (0o1750, 7, 8), "{name}, {way:?}");
            assert_eq!(root.mtime, (5, 0), "{name}, {way:?}");
            assert_eq!(root.xattrs["user.x"], b"y", "{name}, {way:?}");
        });
    }
    checked(test, &tar(&[file("f", "x")]), |_, _, applied| assert!(!applied.explicit_root));
}

#[test]
fn e19_e20_symlinks_of_this_changeset_as_parents() {
    let test = "e19_e20_symlinks_of_this_changeset_as_parents";
    let lib = symlink("lib", "usr/lib");
    gives(test, &[lib.clone(), file("lib/f", "x")], "lib->usr/lib usr/ usr/lib/ usr/lib/f=x");
    gives(
        test,
        &[dir("usr"), dir("usr/lib"), lib.clone(), mark("lib/.wh.f")],
        "lib->usr/lib usr/ usr/lib/ usr/lib/f-",
    );
    // The marker says nothing, wherever the link leads.
    assumes(test, &[lib.clone(), mark("lib/.wh..wh..opq")], "lib->usr/lib", ["", "", ""]);
    gives(
        test,
        &[dir("usr"), dir("usr/lib"), lib.clone(), mark("lib/.wh..wh..opq")],
        "lib->usr/lib usr/ usr/lib/",
    );
    gives(
        test,
        &[dir("usr"), dir("usr/lib"), lib.clone(), mark("lib/d/.wh..wh..opq")],
        "lib->usr/lib usr/ usr/lib/ usr/lib/d/!",
    );
    // An entry of its own replaces the link.
    gives(test, &[lib.clone(), dir("lib"), file("lib/f", "x")], "lib/! lib/f=x");
    gives(test, &[dir("lib"), file("lib/f", "x"), lib], "lib->usr/lib");
    refused(test, &[symlink("a", "b"), symlink("b", "a"), file("a/f", "x")], "too many symlinks");
    refused(test, &[symlink("a", "a"), file("a/f", "x")], "too many symlinks");
}

#[test]
fn e21_a_hard_link_to_a_file_of_a_lower_layer() {
    let test = "e21_a_hard_link_to_a_file_of_a_lower_layer";
    let two = [file("f", "x"), link("d/l", "usr/file"), link("m", "/usr/../etc/file")];
    assumes(test, &two, "d/ f=x", ["/d", "", "/d/l=>/usr/file /m=>/etc/file"]);
    // A link to such a link is one to the file.
    assumes(
        test,
        &[link("a", "b"), link("b", "c"), link("c", "low")],
        "",
        ["", "", "/a=>/low /b=>/low /c=>/low"],
    );
}

#[test]
fn e22_hard_links() {
    let test = "e22_hard_links";
    // What is only implied to be a directory may be a symlink below; only the stack knows.
    for entries in [[link("l", "d"), file("d/f", "x")], [file("d/f", "x"), link("l", "d")]] {
        assumes(test, &entries, "d/ d/f=x", ["/d", "", "/l=>/d"]);
    }
    gives(test, &[link("a", "f"), file("f", "x")], "a=x f=>a");
    gives(test, &[link("a", "d/f"), dir("d"), file("d/f", "x")], "a=x d/ d/f=>a");
    gives(test, &[link("a", "b"), link("b", "c"), file("c", "x")], "a=x b=>a c=>a");
    gives(test, &[link("c", "b"), link("b", "a"), file("a", "x")], "a=x b=>a c=>a");
    gives(test, &[symlink("s", "t"), link("l", "s")], "l->t s=>l");
    let beneath = [link("a", "c/b"), link("c", "b"), symlink("b", ".")];
    gives(test, &beneath, "a->. b=>a c=>a");
    gives(test, &[fifo("p"), link("l", "p")], "l| p=>l");
    gives(test, &[symlink("s", "d"), file("d/f", "x"), link("l", "s/f")], "d/ d/f=x l=>d/f s->d");
    // Through what is not there and out of it again, as an entry would be written.
    gives(
        test,
        &[file("d/f", "x"), symlink("s", "no/nor/../../d"), link("l", "s/f")],
        "d/ d/f=x l=>d/f s->no/nor/../../d",
    );
    gives(test, &[file("f", "x"), link("l", "./f"), link("m", "/f")], "f=x l=>f m=>f");
    // A payload of a link's is none, as all readers have it.
    gives(test, &[file("f", "x"), link("l", "f").size(5), file("g", "y")], "f=x g=y l=>f");
    for (entries, words) in [
        (vec![dir("d"), link("l", "d")], "directory"),
        (vec![link("l", "d"), dir("d")], "directory"),
        (vec![link("l", "/")], "directory"),
        (vec![link("l", "l")], "itself"),
        (vec![file("l", "x"), link("l", "l")], "itself"),
        (vec![symlink("s", "."), file("l", "x"), link("l", "s/l")], "itself"),
        (vec![link("a", "b"), link("b", "a")], "circle"),
        (vec![link("a", "b"), link("b", "c"), link("c", "a")], "circle"),
        (vec![dir("d"), file("d/f", "x"), link("d", "d/f")], "beneath"),
        (vec![link("l", "../f")], "leaves the root"),
        (vec![link("l", "")], "directory"),
    ] {
        refused(test, &entries, words);
    }
}

#[test]
fn e23_entries_that_replace_each_other() {
    let test = "e23_entries_that_replace_each_other";
    let (f, d) = (file("n", "old"), dir("n"));
    gives(test, &[f.clone(), file("n", "new")], "n=new");
    gives(test, &[file("n", "much longer"), file("n", "")], "n=");
    gives(test, &[f.clone(), d.clone()], "n/!");
    gives(test, &[d.clone(), file("n/x", "1"), f.clone()], "n=old");
    gives(test, &[d.clone(), file("n/x", "1"), f.clone(), d.clone()], "n/!");
    gives(
        test,
        &[d.clone(), file("n/x", "1"), f.clone(), d.clone(), file("n/y", "2")],
        "n/! n/y=2",
    );
    gives(test, &[d.clone(), file("n/x", "1"), d.clone().mode(0o700)], "n/ n/x=1");
    gives(test, &[f.clone(), symlink("n", "t"), fifo("n"), char_device("n", 1, 3)], "n(c1:3)");
    gives(test, &[f.clone(), link("l", "n"), file("n", "new")], "l=old n=new");
    gives(test, &[d.clone(), mark("n/.wh.x"), f.clone()], "n=old");
    gives(test, &[d.clone(), file("n/m/x", "1"), link("late", "n/m/x"), f.clone()], "late=1 n=old");
    // A link that waits for its target, replaced, or in a directory that is.
    gives(test, &[link("n", "t"), f.clone(), file("t", "x")], "n=old t=x");
    gives(test, &[link("n", "t"), d.clone(), file("t", "x")], "n/! t=x");
    gives(test, &[f.clone(), link("n", "t"), file("t", "x")], "n=x t=>n");
    gives(test, &[d.clone(), link("n/l", "t"), f.clone(), file("t", "x")], "n=old t=x");
    gives(
        test,
        &[d.clone(), link("l", "n/f"), file("n/f", "1"), file("n/f", "2")],
        "l=2 n/ n/f=>l",
    );
    // The payload of what was replaced is part of the tar: many of them, moved and moved again.
    let mut entries = Vec::new();
    for round in 0..4 {
        let text = |name: &str| format!("{name} of round {round}");
        entries.extend([dir("n"), file("n/a", text("a")), file("n/a", text("a again"))]);
        entries.extend([dir("n/m"), file("n/m/b", text("b")), file("n/m", text("m"))]);
        entries.extend([file("n", text("n")), file("n", "")]);
    }
    entries.push(file("n", "end"));
    gives(test, &entries, "n=end");
    // What the first said of times is forgotten.
    let replaced = [dir("n").mtime(5), file("n/x", "1"), f, d.mtime(9), file("n/y", "2")];
    checked(test, &tar(&replaced), |_, tree, _| assert_eq!(tree["n"].mtime, (9, 0)));
}
