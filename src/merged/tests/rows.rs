//! Every row of what overlayfs does on disk, on the kernel and on `merged`.

use super::backend::Backend;
use super::backend::Op::{self, *};
use super::bed::{Bed, Manner, check, check_in, merged, same};
use crate::Namespace;
use crate::merged::{EntryKind, Redirects, RenameMode, XattrMode};

fn s(text: &str) -> String {
    text.to_owned()
}

/// `u::rwx,u:ID:rwx,g::r-x,m::rwx,o::---`, in the kernel's form.
pub(super) fn acl_with(id: u32) -> Vec<u8> {
    let entry =
        |tag: u8, permissions: u8, id: [u8; 4]| [&[tag, 0, permissions, 0][..], &id].concat();
    let none = [0; 4];
    let bytes = [
        vec![2, 0, 0, 0],
        entry(1, 7, none),
        entry(2, 7, id.to_le_bytes()),
        entry(4, 5, none),
        entry(16, 7, none),
        entry(32, 0, none),
    ];
    bytes.concat()
}

/// As [`acl_with`], with root.
pub(super) fn acl() -> String {
    String::from_utf8(acl_with(0)).unwrap()
}

/// A test on the kernel and on `merged`: layers, topmost first, then operations.
macro_rules! rows {
    ($($name:ident: [$([$($line:expr),*]),*] => [$($op:expr),* $(,)?];)*) => {$(
        #[test]
        fn $name() {
            if !super::machine::can_mount(stringify!($name)) {
                return;
            }
            let layers: &[&[&str]] = &[$(&[$($line),*]),*];
            check(stringify!($name), layers, &[$($op),*]);
        }
    )*};
}

fn mv(from: &str, to: &str) -> Op {
    Rename(s(from), s(to), RenameMode::Replace)
}

fn swap(from: &str, to: &str) -> Op {
    Rename(s(from), s(to), RenameMode::Exchange)
}

fn mv_new(from: &str, to: &str) -> Op {
    Rename(s(from), s(to), RenameMode::NoReplace)
}

fn rm(path: &str) -> Op {
    Unlink(s(path))
}

fn rd(path: &str) -> Op {
    Rmdir(s(path))
}

fn md(path: &str) -> Op {
    Mkdir(s(path), 0o755)
}

fn wr(path: &str, text: &str) -> Op {
    Write(s(path), s(text))
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// An ACL with no entries.
const EMPTY: &str = "\u{2}\0\0\0";

fn acl_on(path: &str, name: &str, value: &str) -> Op {
    SetXattr(s(path), s(name), s(value), XattrMode::Set)
}

/// The prefix of overlayfs's own attributes.
fn own() -> String {
    Manner::plain().namespace.prefix().to_owned()
}

fn ls(path: &str) -> Op {
    ReadDir(s(path))
}

rows! {
    unlink_lower_file: [["f=1", "d/", "d/g=2"]] => [rm("f"), rm("d/g"), ls("d"), rm("f"), rd("d")];
    unlink_upper_only_leaves_nothing: [["x=1"]] => [wr("f", "1"), rm("f"), wr("d", ""), rm("d")];
    unlink_copied_up: [["f=1"]] => [wr("f", "2"), rm("f"), Stat(s("f"))];
    unlink_errors: [["d/", "f=1", "l->d"]] => [
        rm("d"), rm("f/"), rm("d/"), rm("none"), rm("none/"), rm("f/x"), rm("."), rm("l/"), rm("l")
    ];
    unlink_whiteout_between: [["f=1"], ["f!"], ["f=2"]] => [rm("f"), wr("f", "new"), rm("f")];
    rmdir_lower: [["d/"], ["d/"]] => [rd("d"), Stat(s("d")), md("d"), ls("d")];
    rmdir_not_empty: [["d/", "d/f=1"]] => [rd("d"), rm("d/f"), rd("d"), Stat(s("d"))];
    rmdir_whiteouts_inside: [["d/", "d/f=1", "d/g=2"]] => [
        wr("d/x", "x"), rm("d/f"), rm("d/g"), rd("d"), rm("d/x"), rd("d")
    ];
    rmdir_upper_with_whiteouts_recreated: [["d/", "d/f=1"]] => [
        rm("d/f"), rd("d"), md("d"), wr("d/f", "new"), rm("d/f"), ls("d"), rd("d"), md("d")
    ];
    rmdir_hidden_by_whiteouts_below: [["d/", "d/f!"], ["d/", "d/f=1"]] => [ls("d"), rd("d")];
    rmdir_errors: [["d/", "f=1", "l->d"]] => [
        rd("f"), rd("none"), rd("l"), rd("l/"), rd("f/"), rd("."), rd("d/."), rd("d/.."), rd("d/")
    ];
    create_over_whiteout: [["f=old", "g=old"]] => [
        rm("f"), wr("f", "new"), rm("g"), CreateNew(s("g"), 0o640), CreateNew(s("g"), 0o640),
    ];
    mkdir_over_whiteout_is_opaque: [["d/", "d/f=1", "x=1"]] => [
        rm("d/f"), rd("d"), Mkdir(s("d"), 0o750), ls("d"), rm("x"), md("x"), wr("d/f", "2"),
    ];
    symlink_over_whiteout: [["f=1"]] => [rm("f"), Symlink(s("to"), s("f")), ReadLink(s("f"))];
    mknod_over_whiteout: [["f=1", "g=1"]] => [
        rm("f"), Mknod(s("f"), EntryKind::Fifo, 0o600, 0, 0),
        rm("g"), Mknod(s("g"), EntryKind::CharDevice, 0o600, 1, 3),
    ];
    mknod_of_a_whiteout: [["f=1"]] => [
        Mknod(s("w"), EntryKind::CharDevice, 0, 0, 0), Mknod(s("f"), EntryKind::CharDevice, 0, 0, 0),
        rm("f"), Mknod(s("f"), EntryKind::CharDevice, 0, 0, 0),
        Mknod(s("b"), EntryKind::BlockDevice, 0o600, 0, 0), Mknod(s("s"), EntryKind::Socket, 0o700, 0, 0),
        Mknod(s("d"), EntryKind::Directory, 0o600, 0, 0), Mknod(s("r"), EntryKind::Regular, 0o600, 0, 0),
    ];
    link_over_whiteout: [["f=1", "g=2"]] => [rm("f"), Link(s("g"), s("f")), wr("f", "3"), Read(s("g"))];
    mode_of_parents_is_handed_on: [["d/", "d/f=1", "d/e/", "d^2775"]] => [
        Chown(s("d"), 5, 7), Chmod(s("d"), 0o2775), rm("d/f"), wr("d/f", "1"), rd("d/e"), md("d/e"),
        md("d/new"), wr("d/file", "")
    ];
    create_errors: [["d/", "f=1", "l->none", "l2->d"]] => [
        md("d"), md("d/"), md("f"), md("f/"), md("l"), md("l/"), md("none/x"), md("f/x"), md("."),
        md("d/.."), Symlink(s(""), s("n")), Symlink(s("x"), s("f")), Symlink(s("x"), s("n/")),
        CreateNew(s("f"), 0o600), CreateNew(s("d"), 0o600), CreateNew(s("n/"), 0o600),
        CreateNew(s("l"), 0o600), wr("d", ""), wr("f/", ""), wr("n/", ""), Read(s("f/")),
        Link(s("d"), s("n")), Link(s("f"), s("d")), Link(s("none"), s("f")), Link(s("f"), s("n/")),
        Link(s("f"), s("d/")), wr("l", "through"), wr("l2/f", "through"), md("new/"), md("l2/new/"),
    ];
    create_to_read: [["f=1", "d/", "w=1", "l->none", "d/x=1"]] => [
        ReadOrCreate(s("f"), 0o600), ReadOrCreate(s("n"), 0), ReadOrCreate(s("d"), 0o600), ReadOrCreate(s("d/"), 0o600),
        rm("w"), ReadOrCreate(s("w"), 0o640), ReadOrCreate(s("l"), 0o604), ReadOrCreate(s("d/x"), 0o604), Stat(s("f")),
        ReadOrCreate(s("f/y"), 0o604), ReadOrCreate(s("none/y"), 0o604), wr("w", "new"), Stat(s("w")),
    ];
    create_through_symlinks_with_slashes: [
        ["f=1", "d/", "loop->loop/", "to_f->f/", "to_d->d/", "dangles->none/x", "to_dangles->dangles/", "self->self", "n->new/"]
    ] => [
        wr("loop", ""), wr("to_f", ""), wr("to_d", ""), wr("to_dangles", ""), wr("self", ""), wr("self/", ""), wr("loop/", ""),
        wr("dangles", ""), wr("dangles/", ""), wr("n", ""), wr("none/x/", ""), wr("d/.", ""), wr("f/", ""), OpenWrite(s("loop")),
        OpenWrite(s("to_f")), OpenWrite(s("to_d")), OpenWrite(s("loop/")), OpenWrite(s("dangles/")), Read(s("to_f")),
        CreateNew(s("loop"), 0o600), CreateNew(s("loop/"), 0o600), CreateNew(s("self/"), 0o600), CreateNew(s("none/x/"), 0o600),
        CreateNew(s("d/."), 0o600), CreateNew(s("dangles/"), 0o600), ReadOrCreate(s("loop"), 0o600), ReadOrCreate(s("to_d"), 0o600),
    ];
    names_too_long: [["f=1"]] => [
        Stat("n".repeat(256)), md(&"n".repeat(256)), md(&"n".repeat(255)), rm(&"x".repeat(256)),
        mv("f", &"y".repeat(256)),
    ];
    rename_lower_file: [["f=1", "d/"]] => [mv("f", "g"), mv("g", "d/h"), Stat(s("f")), ls("d")];
    rename_over_lower: [["f=1", "g=2"]] => [mv("f", "g"), Read(s("g")), mv("g", "f"), mv("f", "f")];
    rename_over_whiteout: [["f=1", "g=2"]] => [rm("g"), mv("f", "g"), wr("f", "3"), mv("g", "f")];
    rename_upper_over_whiteout: [["g=2", "h/"]] => [
        rm("g"), wr("f", "1"), mv("f", "g"), rd("h"), md("n"), wr("n/x", "x"), mv("n", "h"), ls("h"),
    ];
    rename_lower_directory: [["d/", "d/f=1"], ["d/"]] => [
        mv("d", "e"), swap("d", "e"), md("e"), swap("d", "e"), swap("e", "d"), mv_new("d", "x"),
        mv("d/f", "f"), wr("d/f", "new"), mv("d", "e"),
    ];
    rename_pure_upper_directory: [["d/", "d/f=1"]] => [
        md("n"), wr("n/x", "1"), mv("n", "d/n"), mv("d/n", "d/m"), md("k"), mv("d/m", "k/m"), ls("k/m"),
    ];
    rename_directory_over_directory: [["d/", "e/", "e/f=1"]] => [
        md("n"), wr("n/x", "x"), mv("n", "e"), rm("e/f"), mv("n", "e"), ls("e"), mv("e", "d"), ls("d"),
    ];
    rename_over_full_upper_directory: [["c/", "c/x=1", "k/"]] => [
        md("a"), wr("a/a", ""), mv("c", "a"), md("n"), mv("n", "a"), md("k/n"), mv("k/n", "a"), mv("a", "c"),
    ];
    rename_target_with_whiteouts_only: [["e/", "e/f=1", "e/g=1"]] => [
        rm("e/f"), rm("e/g"), md("n"), mv("n", "e"), ls("e"), wr("e/f", "new"),
    ];
    rename_over_a_name_of_the_same_file: [["b=1", "d/"]] => [
        Link(s("b"), s("c")), mv("c", "b"), Link(s("b"), s("d/e")), mv("d/e", "b"), swap("b", "c"), ls("d"),
    ];
    rename_noreplace: [["f=1", "g=2"]] => [mv_new("f", "g"), mv_new("f", "h"), rm("g"), mv_new("h", "g")];
    rename_exchange: [["f=1", "g=2", "d/"]] => [
        swap("f", "g"), Read(s("f")), swap("f", "none"), wr("n", "3"), swap("n", "f"), md("u"),
        swap("u", "f"), swap("u", "d"), swap("f", "f"),
    ];
    rename_errors: [["d/", "d/e/", "f=1"]] => [
        md("u"), md("u/v"), mv("u", "u/v/w"), mv("u/v", "u"), mv("u", "u"), mv("f", "u"), mv("u", "f"),
        mv("none", "x"), mv("f/", "x"), mv("f", "x/"), mv("u", "x/"), mv("x/", "y"), mv("d", "d/e/x"),
        mv("f", "f/x"), mv("f", "none/x"), mv("d/.", "x"), mv("f", "d/.."), mv_new("f", "d/."),
        swap("u", "u/v"), swap("u/v", "u"), swap("f", "u/"), mv("f", "."),
    ];
    link_lower_file: [["f=1", "h<>f", "d/"]] => [
        Link(s("f"), s("d/g")), wr("d/g", "2"), Read(s("f")), Read(s("h")), Link(s("d/g"), s("k")),
    ];
    link_symlink: [["l->f", "f=1"]] => [Link(s("l"), s("m")), ReadLink(s("m"))];
    chmod_copies_up: [["f=data", "d/", "d/g=1"]] => [
        Chmod(s("f"), 0o4711), Chmod(s("d"), 0o1777), Chmod(s("d/g"), 0o600), Read(s("f")),
    ];
    chown_copies_up: [["f=data", "d/", "l->f", "f^4755"]] => [
        Chown(s("f"), 1, 2), Chown(s("d"), 3, 4), Lchown(s("l"), 5, 6), Chown(s("l"), 7, 8),
    ];
    utimens_copies_up: [["f=data", "d/", "d/e/", "l->f"]] => [
        SetTimes(s("f"), 5), SetTimes(s("d/e"), -7), SetSymlinkTimes(s("l"), 9), SetTimes(s("l"), 11),
    ];
    xattrs_copy_up: [["f=1", "f%user.a=1", "d/", "l->f", "p|"]] => [
        SetXattr(s("f"), s("user.b"), s("2"), XattrMode::Set), GetXattr(s("f"), s("user.a")),
        SetXattr(s("d"), s("user.c"), s("3"), XattrMode::Create), RemoveXattr(s("f"), s("user.a")),
        SetXattr(s("l"), s("user.c"), s("3"), XattrMode::Set), SetXattr(s("p"), s("user.c"), s("3"), XattrMode::Set),
        GetXattr(s("l"), s("user.none")), GetXattr(s("p"), s("user.none")), ListXattrs(s("f")),
        SetXattr(s("f"), s("nonsense"), s("3"), XattrMode::Set), SetXattr(s("f"), s("security.x"), s("3"), XattrMode::Set),
        GetXattr(s("f"), s("nonsense")),
    ];
    xattrs_fail_without_copy_up: [["f=1", "f%user.a=1", "g=2"]] => [
        RemoveXattr(s("f"), s("user.none")), SetXattr(s("g"), s("user.a"), s(""), XattrMode::Replace),
        SetXattr(s("f"), s("user.a"), s("2"), XattrMode::Create), GetXattr(s("f"), s("user.none")),
    ];
    acls_fail_without_copy_up: [["f=1", "d/", "l->f", "p|"]] => [
        acl_on("f", DEFAULT, &acl()), acl_on("l", DEFAULT, &acl()), acl_on("l", ACCESS, &acl()), acl_on("p", DEFAULT, &acl()),
        acl_on("f", DEFAULT, EMPTY), acl_on("f", ACCESS, EMPTY), acl_on("f", ACCESS, ""), acl_on("d", DEFAULT, EMPTY),
        acl_on("d", ACCESS, ""), acl_on("l", ACCESS, ""), acl_on("f", ACCESS, "junk"), acl_on("l", ACCESS, "junk"),
        acl_on("f", ACCESS, "x"), acl_on("f", ACCESS, &acl()[..12]), acl_on("f", DEFAULT, &acl()[..12]),
        acl_on("d", DEFAULT, &acl()[..28]), acl_on("d", ACCESS, &acl()[..13]), acl_on("l", ACCESS, &acl()[..13]),
        acl_on("f", ACCESS, "\u{2}\0\0\0\u{3}\0\0\0\0\0\0\0"), GetXattr(s("l"), s(ACCESS)), GetXattr(s("f"), s(ACCESS)),
        GetXattr(s("f"), s(DEFAULT)), RemoveXattr(s("l"), s(ACCESS)), RemoveXattr(s("f"), s(ACCESS)),
        RemoveXattr(s("f"), s(DEFAULT)), RemoveXattr(s("d"), s(DEFAULT)), RemoveXattr(s("l"), s(DEFAULT)), Stat(s("f")),
    ];
    acls_come_and_go: [["f=1", "d/", "g=1"]] => [
        acl_on("f", ACCESS, &acl()), acl_on("d", DEFAULT, &acl()), GetXattr(s("f"), s(ACCESS)), RemoveXattr(s("f"), s(ACCESS)),
        RemoveXattr(s("f"), s(ACCESS)), RemoveXattr(s("f"), s(DEFAULT)), acl_on("d", DEFAULT, EMPTY), acl_on("d", DEFAULT, EMPTY),
        RemoveXattr(s("d"), s(DEFAULT)), ListXattrs(s("d")), Stat(s("f")), SetTimes(s("g"), 5), acl_on("g", ACCESS, EMPTY),
        acl_on("g", DEFAULT, &acl()), SetXattr(s("g"), s(ACCESS), acl(), XattrMode::Replace),
        SetXattr(s("g"), s(ACCESS), acl(), XattrMode::Create), Stat(s("g")),
    ];
    xattrs_without_a_name: [["f=1", "l->f", "d/"]] => [
        GetXattr(s("f"), own()), SetXattr(s("f"), own(), s("x"), XattrMode::Set), RemoveXattr(s("f"), own()),
        GetXattr(s("l"), own()), SetXattr(s("l"), own(), s("x"), XattrMode::Set), RemoveXattr(s("l"), own()),
        GetXattr(s("f"), s("user.")), GetXattr(s("l"), s("user.")), RemoveXattr(s("f"), s("user.")), GetXattr(s("f"), s("security.")),
        GetXattr(s("f"), s("system.foo")), RemoveXattr(s("f"), s("system.foo")), GetXattr(s("f"), s("system.")),
        GetXattr(s("f"), own() + "overlay."), RemoveXattr(s("d"), own() + "overlay."), GetXattr(s("l"), s("system.foo")),
    ];
    open_for_writing_copies_up: [["f=1", "d/", "d/g=2"]] => [OpenWrite(s("f")), OpenWrite(s("d/g")), OpenWrite(s("d"))];
    truncation: [["f=0123456789", "g=0123456789", "d/", "p|"]] => [
        wr("f", ""), Truncate(s("g"), 4), Read(s("g")), Truncate(s("g"), 9), Truncate(s("d"), 1),
        Truncate(s("p"), 1), Truncate(s("none"), 1), Stat(s("g")),
    ];
    truncation_to_nothing: [["f=01", "f%user.a=1", "g=01", "g^6755", "d/", "d/h=01"]] => [
        Truncate(s("f"), 0), Truncate(s("g"), 0), Truncate(s("d/h"), 0), Stat(s("f")), Stat(s("g")),
        GetXattr(s("f"), s("user.a")), Append(s("d/h"), s("end")), Read(s("d/h")), Truncate(s("d/h"), 0),
    ];
    truncation_to_the_same_length: [["f=01", "g=01", "e=", "h=", "h^6755"]] => [
        Truncate(s("f"), 2), Stat(s("f")), SetTimes(s("g"), 5), Truncate(s("g"), 2), Stat(s("g")), Truncate(s("e"), 0),
        Stat(s("e")), SetTimes(s("e"), 5), Truncate(s("e"), 0), Stat(s("e")), Truncate(s("h"), 0), Stat(s("h")),
        wr("e", ""), Stat(s("e")), SetTimes(s("f"), 5), Truncate(s("f"), 0), Stat(s("f")),
    ];
    writing: [["f=0123456789"]] => [
        Patch(s("f"), 3, s("xyz")), Append(s("f"), s("end")), Append(s("new"), s("1")), PunchHole(s("f"), 0, 4),
        Read(s("f")), Patch(s("none"), 0, s("x")),
    ];
    copy_up_of_every_type: [["d/", "d/f=1", "d/l->f", "d/p|", "d/c@1:3", "d/e/", "d^1770", "d/f^6755"]] => [
        Lchown(s("d/f"), 1, 1), Lchown(s("d/l"), 1, 1), Lchown(s("d/p"), 1, 1), Lchown(s("d/c"), 1, 1),
        Lchown(s("d/e"), 1, 1),
    ];
    copy_up_deep: [["a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/c/d/f=1", "a/b^700"], ["a/", "a/b/", "a/z=1"]] => [
        Append(s("a/b/c/d/f"), s("2")), Stat(s("a/b/c")), ls("a"),
    ];
    copy_up_deep_hands_nothing_on: [
        ["a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/c/d/e/", "a/b/c/d/e/f=1", "a^2775", "a/b/c^3777", "a/b/c/d^111",
        "a/b%system.posix_acl_default=\u{2}\0\0\0\u{1}\0\u{7}\0\0\0\0\0\u{2}\0\u{7}\0\0\0\0\0\u{4}\0\u{5}\0\0\0\0\0\u{10}\0\u{7}\0\0\0\0\0\u{20}\0\0\0\0\0\0\0"],
        ["a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/c/d/e/", "a/b/c/d/e/g=2"]
    ] => [
        Append(s("a/b/c/d/e/f"), s("2")), Stat(s("a")), Stat(s("a/b")), Stat(s("a/b/c")), Stat(s("a/b/c/d")), ListXattrs(s("a/b")),
        ListXattrs(s("a/b/c")), ListXattrs(s("a/b/c/d/e")), wr("a/b/n", ""), md("a/b/c/n"), rm("a/b/c/d/e/g"), ls("a/b/c/d/e"),
    ];
    copy_up_deep_of_directories: [["a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/e/"]] => [
        Chmod(s("a/b/c/d"), 0o700), Stat(s("a/b/c")), Lchown(s("a/b/e"), 5, 5), ls("a/b"), rd("a/b/c/d"), md("a/b/c/d"),
    ];
    copy_up_one_of_two_links: [["f=1", "g<>f"]] => [wr("f", "2"), Read(s("g")), Stat(s("f")), Stat(s("g"))];
    default_acl_is_handed_on_over_whiteouts: [["d/", "d/f=1", "d/e/"]] => [
        SetXattr(s("d"), s("system.posix_acl_default"), acl(), XattrMode::Set), rm("d/f"), wr("d/f", "1"), rd("d/e"),
        md("d/e"), md("d/n"), rm("d/f"), CreateNew(s("d/f"), 0o666), SetXattr(s("d/e"), s("system.posix_acl_access"), acl(), XattrMode::Set),
    ];
    copy_up_with_acl_and_capability: [["f=1", "f%security.capability=\u{1}\0\0\u{2}\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0", "f^755"]] => [
        SetTimes(s("f"), 77), ListXattrs(s("f")),
    ];
    readdir_merges: [["d/", "d/a=1", "d/b!"], ["d/", "d/b=1", "d/c/"], ["d/", "d/a/", "d/e=1"]] => [
        ls("d"), rm("d/a"), wr("d/n", ""), rm("d/e"), ls("d"), ls("d/c"), ls("d/a"),
    ];
    lookup_by_layers: [
        ["a/", "a/!", "b/", "c=1", "e/"], ["a/", "a/x=1", "b=1", "c/", "e!"], ["b/", "b/x=1", "c/", "c/x=1", "e/", "e/x=1"]
    ] => [ls("a"), ls("b"), ls("e"), Read(s("c")), Stat(s("a/x")), Stat(s("c/x"))];
    xattr_whiteouts: [["/?", "d/", "d/?", "d/f!!", "g!!", "e/", "e/f!!"], ["d/", "d/f=1", "g=1", "e/", "e/f=1"]] => [
        Stat(s("d/f")), ls("d"), wr("d/f", "new"), Stat(s("e/f")), Stat(s("g")), md("g"), rd("d"), rm("d/f"),
    ];
    xattr_whiteouts_in_roots: [["g=1"], ["./?", "f!!", "g!!", "d!!"], ["f=1", "g=2", "d/", "d/h=1", "k=1"]] => [
        AllNames(s("/")), Stat(s("f")), Read(s("g")), wr("f", "new"), AllNames(s("/")), rm("f"), AllNames(s("/")), md("d"),
        ls("d"), rm("g"), AllNames(s("/")),
    ];
    symlinks_stay_inside: [["d/", "d/f=1", "abs->/d/f", "up->../../../d", "loop->loop", "d/rel->../d/f", "e/", "e/x->/up/f"]] => [
        Read(s("abs")), Read(s("up/f")), Read(s("loop")), Read(s("d/rel")), Read(s("e/x")), Read(s("/../../d/f")),
        Stat(s("d/../d/./f")), Stat(s("f/..")), Stat(s("d/f/..")), Stat(s("")), ls("up"), wr("abs", "2"), Stat(s("loop/x")),
        Lstat(s("up/")), Lstat(s("abs/")), ReadLink(s("up")), ReadLink(s("d")), ReadLink(s("none")),
    ];
}

/// A test that needs the attributes of the privileged namespace.
macro_rules! rows_in {
    ($($name:ident($redirects:ident): [$([$($line:expr),*]),*] => [$($op:expr),* $(,)?];)*) => {$(
        #[test]
        fn $name() {
            if !super::machine::can_mount_trusted(stringify!($name)) {
                return;
            }
            let manner = Manner { namespace: Namespace::Trusted, redirects: Redirects::$redirects };
            let layers: &[&[&str]] = &[$(&[$($line),*]),*];
            check_in(manner, stringify!($name), layers, &[$($op),*]);
        }
    )*};
}

rows_in! {
    escaped_attributes(Refuse): [["f=1", "f%trusted.overlay.overlay.opaque=y", "d/", "d%trusted.overlay.opaque=y"]] => [
        ListXattrs(s("f")), GetXattr(s("f"), s("trusted.overlay.opaque")), ListXattrs(s("d")),
        GetXattr(s("d"), s("trusted.overlay.opaque")), SetXattr(s("d"), s("trusted.overlay.redirect"), s("x"), XattrMode::Set),
        ListXattrs(s("d")), RemoveXattr(s("f"), s("trusted.overlay.opaque")), RemoveXattr(s("d"), s("trusted.overlay.opaque")),
        SetXattr(s("d"), s("trusted.overlay.overlay.x"), s("x"), XattrMode::Set),
        SetXattr(s("d"), s("user.overlay.x"), s("x"), XattrMode::Set), SetXattr(s("f"), s("trusted.other"), s("x"), XattrMode::Set),
    ];
    redirects_refused(Refuse): [["n/", "n%trusted.overlay.redirect=o", "m=", "m%trusted.overlay.metacopy="], ["o/", "o/f=1", "m=1"]] => [
        Stat(s("n")), ls("n"), rd("n"), md("n"), Stat(s("m")), rm("m"), mv("o", "n"), mv("o/f", "n"),
    ];
    redirects_followed(Follow): [["n/", "n%trusted.overlay.redirect=o", "o!"], ["o/", "o/f=1", "a/", "a/b/", "a/b/g=1"]] => [
        ls("n"), Stat(s("o")), wr("n/f", "2"), mv("n", "k"), ls("a/b"), mv("a", "x"),
    ];
    redirects_written(Write): [["d/", "d/f=1", "d/e/", "d/e/g=2", "x/"], ["d/", "d/h=1"]] => [
        mv("d", "n"), ls("n"), mv("n/e", "x/e"), wr("x/e/g", "3"), mv("n", "m"), mv("x/e", "x/k"), md("d"), ls("d"),
        mv("m", "x/m"), rm("x/m/h"), ls("x/m"), md("x/new"), swap("x/m", "d"), ls("d"), ls("x/m"), wr("d/z", ""),
    ];
}

rows_in! {
    rename_over_full_upper_directory_copies_up_first(Write): [["c/", "e/", "e/x=1"]] => [
        md("a"), wr("a/a", ""), mv("c", "a"), mv("e", "a"), Stat(s("c")), md("n"), md("n/n"), mv("a", "n"),
    ];
}

/// What the kernel leaves with `metacopy=on` is read, and completed at the first write.
#[test]
fn files_whose_data_lies_below() {
    if !super::machine::can_mount_trusted("files_whose_data_lies_below") {
        return;
    }
    let manner = Manner { namespace: Namespace::Trusted, redirects: Redirects::Follow };
    let lines =
        ["f=data of f", "g=data of g", "h=data of h", "d/", "d/e=data of e", "d/k=data of k"];
    let bed = Bed::new(&[vec![], lines.to_vec()], manner);
    let mounted = bed.mount_with("on", "on").unwrap();
    let moves = [mv("g", "moved"), mv("d/e", "e"), mv("d", "n")];
    let changes = ["f", "g", "h", "d/e", "d/k"].map(|path| Chmod(s(path), 0o600));
    for op in changes.iter().chain(&moves) {
        mounted.run(op).unwrap();
    }
    let theirs = merged(&mounted);
    drop(mounted);
    let tree = bed.tree();
    assert_eq!(merged(&tree), theirs);
    let early = tree.open("f").unwrap();
    let ops = [
        Patch(s("f"), 0, s("DATA")),
        wr("moved", "cut"),
        Append(s("e"), s("!")),
        Append(s("n/k"), s("!")),
        Truncate(s("h"), 4),
    ];
    for op in ops {
        tree.run(&op).unwrap();
    }
    let mut text = [0; 9];
    early.read_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"DATA of f");
    let ours = merged(&tree);
    drop((tree, early));
    same("what was completed", &ours, &merged(&bed.mount_with("on", "on").unwrap())).unwrap();
    same("without metacopy", &ours, &merged(&bed.mount_with("on", "off").unwrap())).unwrap();
    assert_eq!(bed.tree().read("e").unwrap(), b"data of e!");
}
