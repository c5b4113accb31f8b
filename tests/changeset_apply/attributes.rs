//! E11, E24, E25, E28, E29, E33 and E36: owners, modes, times, attributes.

use std::os::unix::fs::PermissionsExt;

use overlay2::changeset::{ApplyOptions, apply};
use overlay2::{Dir, Namespace};

use crate::run::{
    NOBODY, Scratch, WAYS, Way, as_plain_user, checked, gives, is_root, memory, possible, refused,
    root,
};
use crate::tar::{Entry, char_device, dir, fifo, file, link, mark, number, record, symlink, tar};
use crate::tree::{Kind, Node};

/// Checks one property of the file `f` that an entry makes, on every way.
fn has<T: PartialEq + std::fmt::Debug>(test: &str, entry: Entry, read: fn(&Node) -> T, want: T) {
    checked(test, &tar(std::slice::from_ref(&entry)), |way, tree, applied| {
        assert_eq!(read(&tree["f"]), want, "{test}, {way:?}: {entry:?}");
        assert_eq!(applied.unkept_count, 0, "{test}, {way:?}: {:?}", applied.unkept);
    });
}

#[test]
fn e11_attributes_of_overlayfs_are_the_containers_own() {
    let test = "e11_attributes_of_overlayfs_are_the_containers_own";
    let entry = |path: &str| {
        let entry = if path == "d" { dir(path) } else { file(path, "x") };
        entry
            .xattr("trusted.overlay.opaque", "y")
            .xattr("user.overlay.opaque", "y")
            .xattr("user.overlay.overlay.redirect", "/z")
            .xattr("trusted.overlay.whiteout", "")
            .xattr("user.plain", "1")
    };
    checked(test, &tar(&[entry("d"), entry("f")]), |way, tree, applied| {
        for path in ["d", "f"] {
            let found: Vec<&str> = tree[path].xattrs.keys().map(String::as_str).collect();
            let expected = match way {
                Way::PlainUser => vec![
                    "user.overlay.overlay.opaque",
                    "user.overlay.overlay.overlay.redirect",
                    "user.plain",
                ],
                _ => vec![
                    "trusted.overlay.overlay.opaque",
                    "trusted.overlay.overlay.whiteout",
                    "user.overlay.opaque",
                    "user.overlay.overlay.redirect",
                    "user.plain",
                ],
            };
            assert_eq!(found, expected, "{way:?}, {path}");
        }
        // A plain user has no `trusted` attributes; that is told.
        assert_eq!(applied.unkept_count, if way == Way::PlainUser { 4 } else { 0 });
    });
}

#[test]
fn e11_what_is_recorded_cannot_be_forged() {
    let test = "e11_what_is_recorded_cannot_be_forged";
    let forged =
        file("f", "x").owner(5, 6).xattr("user.containers.override_stat", "0:0:04755:char-0-0");
    for way in WAYS {
        if !possible(test, way) {
            continue;
        }
        let scratch = Scratch::new(way);
        let applied = scratch.apply(&tar(std::slice::from_ref(&forged))).unwrap();
        if way == Way::PlainUser {
            let node = &scratch.tree()["f"];
            assert_eq!((node.uid, node.gid, node.mode), (5, 6, 0o644));
            assert_eq!(applied.unkept_count, 1);
            assert_eq!(applied.unkept[0].what, "user.containers.override_stat");
        }
    }
}

#[test]
fn e24_metadata_in_an_order_that_keeps_all_of_it() {
    let test = "e24_metadata_in_an_order_that_keeps_all_of_it";
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let entries = [
        dir("d").mode(0o2555).owner(1, 2).mtime(1_000),
        file("d/s", "x").mode(0o6755).owner(3, 4).mtime(2_000),
        file("d/c", "x").mode(0o755).owner(5, 6).xattr("security.capability", capability),
        file("d/r", "x").mode(0o400).owner(7, 8).xattr("user.a", "b"),
        dir("d/e").mode(0o1777).mtime(3_000),
        file("d/e/f", "x").mode(0),
        mark("d/e/.wh.gone"),
        link("d/e/l", "d/late"),
        file("d/late", "x").mtime(4_000),
        fifo("d/p").mode(0o4620).owner(9, 10),
        char_device("d/null", 1, 3).mode(0o666).owner(11, 12),
        symlink("d/y", "t").owner(13, 14).mtime(5_000),
    ];
    checked(test, &tar(&entries), |way, tree, applied| {
        let mode = |path: &str| {
            let node = &tree[path];
            (node.mode, node.uid, node.gid)
        };
        assert_eq!(mode("d"), (0o2555, 1, 2), "{way:?}");
        assert_eq!(mode("d/s"), (0o6755, 3, 4), "{way:?}");
        assert_eq!(mode("d/c"), (0o755, 5, 6), "{way:?}");
        assert_eq!(mode("d/r"), (0o400, 7, 8), "{way:?}");
        assert_eq!(mode("d/e"), (0o1777, 0, 0), "{way:?}");
        assert_eq!(mode("d/e/f"), (0, 0, 0), "{way:?}");
        assert_eq!(mode("d/p"), (0o4620, 9, 10), "{way:?}");
        assert_eq!(mode("d/null"), (0o666, 11, 12), "{way:?}");
        assert_eq!(tree["d/r"].xattrs["user.a"], b"b", "{way:?}");
        let times = ["d", "d/s", "d/e", "d/late", "d/e/l", "d/y"].map(|path| tree[path].mtime.0);
        assert_eq!(times, [1_000, 2_000, 3_000, 4_000, 4_000, 5_000], "{way:?}");
        if way == Way::PlainUser {
            assert_eq!(applied.unkept_count, 1, "{:?}", applied.unkept);
        } else {
            assert_eq!(tree["d/c"].xattrs["security.capability"], capability);
            assert_eq!(mode("d/y").1, 13);
            assert_eq!(applied.unkept_count, 0);
        }
    });
    // The last entry of a directory is what counts.
    let twice = [dir("d").mode(0o700).mtime(1).xattr("user.a", "1"), dir("d").mode(0o711).mtime(2)];
    checked(test, &tar(&twice), |_, tree, _| {
        assert_eq!((tree["d"].mode, tree["d"].mtime.0), (0o711, 2));
        assert!(tree["d"].xattrs.is_empty());
    });
}

#[test]
fn e25_closed_directories_when_unprivileged() {
    let test = "e25_closed_directories_when_unprivileged";
    let mine = i128::from(if is_root() { NOBODY } else { rustix::process::geteuid().as_raw() });
    let group = i128::from(if is_root() { NOBODY } else { rustix::process::getegid().as_raw() });
    let entries: Vec<Entry> = [
        dir("shut").mode(0),
        dir("shut/in").mode(0o555),
        file("shut/in/f", "x").mode(0),
        dir("shut/in/deep").mode(0o111),
        file("shut/in/deep/g", "y").mode(0o444).xattr("user.a", "b"),
        mark("shut/in/.wh.gone"),
        dir("shut/old").mode(0o500),
        file("shut/old/f", "z"),
        file("shut/old", "a file now"),
        dir("shut/opaque").mode(0o555).xattr("user.a", "b"),
        mark("shut/opaque/.wh..wh..opq"),
    ]
    .into_iter()
    .map(|entry| entry.owner(mine, group))
    .collect();
    let expected = "shut/ shut/in/ shut/in/deep/ shut/in/deep/g=y shut/in/f=x shut/in/gone- \
                    shut/old=a file now shut/opaque/!";
    // Recorded owners keep everything accessible to the one user.
    gives(test, &entries, expected);
    // Exact ones close the directories, last of all.
    let scratch = Scratch::new(Way::PlainUser);
    let layer = scratch.layer();
    let applied = as_plain_user(|| {
        apply(&*tar(&entries), &layer, &ApplyOptions::new(Namespace::User)).unwrap()
    });
    assert_eq!(applied.unkept_count, 0);
    let shut = scratch.place.path().join("layer/shut");
    assert_eq!(shut.metadata().unwrap().permissions().mode() & 0o7777, 0);
    if is_root() {
        let tree = scratch.tree();
        assert_eq!(crate::tree::shown(&tree), expected);
        let mode = |path: &str| tree[path].mode;
        assert_eq!([mode("shut/in"), mode("shut/in/deep"), mode("shut/in/f")], [0o555, 0o111, 0]);
        assert_eq!(mode("shut/in/deep/g"), 0o444);
    } else {
        for path in ["shut", "shut/in", "shut/in/deep", "shut/opaque"] {
            let path = scratch.place.path().join("layer").join(path);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
}

#[test]
fn e28_times() {
    let test = "e28_times";
    let mtime = |node: &Node| node.mtime;
    for (text, time) in [
        ("1700000000.123456789", (1_700_000_000, 123_456_789)),
        ("1.000000001", (1, 1)),
        ("0", (0, 0)),
        ("0.5", (0, 500_000_000)),
        ("-1.25", (-2, 750_000_000)),
        ("-1000000000", (-1_000_000_000, 0)),
        ("4294967296.5", (4_294_967_296, 500_000_000)),
        ("1.1234567899999999999999", (1, 123_456_789)),
    ] {
        has(test, file("f", "x").pax("mtime", text), mtime, time);
        has(test, dir("f").pax("mtime", text), mtime, time);
        has(test, symlink("f", "t").pax("mtime", text), mtime, time);
        has(test, fifo("f").pax("mtime", text), mtime, time);
    }
    for seconds in [0, 1, -1, -86_400, 0o77777777777, 1 << 32] {
        has(test, file("f", "x").mtime(seconds), mtime, (i64::try_from(seconds).unwrap(), 0));
    }
    has(test, file("f", "x").mtime(77).pax("mtime", ""), mtime, (77, 0));
    has(test, file("f", "x").field(136, [0; 12]), mtime, (0, 0));
    for text in
        ["x", "1e9", "--1", "1.-5", " 1", "0x10", "99999999999999999999", "-9223372036854775808.5"]
    {
        refused(test, &[file("f", "x").pax("mtime", text)], "mtime");
    }
}

#[test]
fn e29_owners_of_any_size() {
    let test = "e29_owners_of_any_size";
    let owner = |node: &Node| (node.uid, node.gid);
    for id in [0_u32, 1, 65_535, 65_536, 0o7777777, 0o7777777 + 1, u32::MAX - 1] {
        has(test, file("f", "x").owner(id.into(), 7), owner, (id, 7));
        has(test, file("f", "x").owner(7, id.into()), owner, (7, id));
        let numbers = dir("f").owner(9, 9).pax("uid", id.to_string()).pax("gid", id.to_string());
        has(test, numbers, owner, (id, id));
    }
    for id in [u32::MAX.into(), 1_i128 << 32, -1, -2, 1 << 50] {
        refused(test, &[file("f", "x").owner(id, 0)], "uid");
        refused(test, &[file("f", "x").owner(0, id)], "gid");
        refused(test, &[file("f", "x").pax("uid", id.to_string())], "uid");
        refused(test, &[symlink("f", "x").pax("gid", id.to_string())], "gid");
    }
    refused(test, &[file("f", "x").pax("uid", "0x5")], "uid");
    refused(test, &[file("f", "x").field(108, b"000008\0")], "uid");
    // Too large for any number that there is.
    refused(
        test,
        &[file("f", "x").field(136, [b"\xbf".as_slice(), &[0xff; 11]].concat())],
        "mtime",
    );
    // A mode holds more than permissions in some headers.
    has(test, file("f", "x").field(100, b"0100644\0"), |node| node.mode, 0o644);
    has(test, file("f", "x").field(100, number(0o104_755, 8)), |node| node.mode, 0o4755);
}

fn acl_value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn e33_acls_in_both_forms() {
    let test = "e33_acls_in_both_forms";
    let none = u32::MAX;
    let access =
        acl_value(&[(1, 6, none), (2, 4, 1001), (4, 4, none), (0x10, 4, none), (0x20, 0, none)]);
    let default = acl_value(&[(1, 7, none), (4, 5, none), (0x20, 5, none)]);
    let text = "user::rw-,user:lisa:r--:1001,group::r--,mask::r--,other::---";
    let d = dir("d").mode(0o750);
    for entries in [
        [
            file("f", "x").mode(0o640).xattr("system.posix_acl_access", &access),
            d.clone().xattr("system.posix_acl_default", &default),
        ],
        [
            file("f", "x").mode(0o640).pax("SCHILY.acl.access", text),
            d.clone().pax("SCHILY.acl.default", "user::rwx\ngroup::r-x\nother::r-x\n"),
        ],
        [
            file("f", "x")
                .mode(0o640)
                .pax("SCHILY.acl.access", "u::rw-,u:1001:r--,g::r--,m:r--,o:---"),
            d.pax(
                "SCHILY.acl.default",
                "default:user::rwx,default:group::r-x,default:other::r-x # x",
            ),
        ],
    ] {
        let with_file_inside =
            [entries[1].clone(), file("d/f", "x").mode(0o666), entries[0].clone()];
        checked(test, &tar(&with_file_inside), |way, tree, applied| {
            assert_eq!(tree["f"].xattrs["system.posix_acl_access"], access, "{way:?}");
            assert_eq!(tree["d"].xattrs["system.posix_acl_default"], default, "{way:?}");
            assert!(tree["d/f"].xattrs.is_empty(), "{way:?}");
            assert_eq!((tree["f"].mode, tree["d/f"].mode), (0o640, 0o666), "{way:?}");
            assert_eq!(applied.unkept_count, 0);
        });
    }
    // Names are never looked up: what has no number is told.
    checked(
        test,
        &tar(&[file("f", "x").pax("SCHILY.acl.access", "user::rw-,user:root:r--")]),
        |_, tree, applied| {
            assert!(tree["f"].xattrs.is_empty());
            assert_eq!(applied.unkept[0].what, "system.posix_acl_access");
        },
    );
}

#[test]
fn e36_values_of_any_bytes() {
    let test = "e36_values_of_any_bytes";
    for value in
        [&b""[..], b"\n", b"a\nb\n", b"=", b"==x=", b"\0", b"a\0", b"11 a=b\n", b"\xff\xfe", b" "]
    {
        let read = |node: &Node| node.xattrs.get("user.a").cloned();
        has(test, file("f", "x").xattr("user.a", value), read, Some(value.to_vec()));
        has(test, dir("f").xattr("user.a", value), read, Some(value.to_vec()));
    }
    let read = |node: &Node| node.xattrs.get("user.a b").cloned();
    has(test, file("f", "x").xattr("user.a b", "c"), read, Some(b"c".to_vec()));
    let selinux = file("f", "x").pax("RHT.security.selinux", "system_u:object_r:etc_t:s0");
    if root(test) {
        let scratch = Scratch::new(Way::Root);
        scratch.apply(&tar(&[selinux])).unwrap();
        let label = &scratch.tree()["f"].xattrs["security.selinux"];
        assert_eq!(label, b"system_u:object_r:etc_t:s0");
    }
    for name in ["", "user.a\0b"] {
        refused(test, &[file("f", "x").xattr(name, "v")], "attribute of the name");
    }
    for bad in [
        &b"5 a=b\n"[..],
        b"6 a=b",
        b"a=b\n",
        b"0 a=b\n",
        b"5 a b\n",
        b"99999999999999999999 a=b\n",
        b"-6 a=b\n",
    ] {
        let block = crate::tar::pax_block(b'x', bad);
        refused(test, &[file("f", "x").after(block)], "malformed");
    }
    assert_eq!(record("a", "b"), b"6 a=b\n");
}

#[test]
fn e36_a_value_of_64_kib() {
    let test = "e36_a_value_of_64_kib";
    // Not every file system takes one; this one does.
    let Some(layer) = memory(test, &[]) else { return };
    let value: Vec<u8> = (0..64 << 10).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    let apply = |layer: &Dir, value: &[u8]| {
        let bytes = tar(&[file("f", "x").xattr("trusted.a", value)]);
        apply(&*bytes, layer, &ApplyOptions::new(Namespace::Trusted))
    };
    apply(&layer, &value).unwrap();
    assert!(crate::tree::read(&layer)["f"].xattrs["trusted.a"] == value);
    assert_eq!(crate::tree::read(&layer)["f"].kind, Kind::File(b"x".to_vec()));
    let error = apply(&memory(test, &[]).unwrap(), &vec![0; (64 << 10) + 1]).unwrap_err();
    assert!(error.to_string().contains("set attribute trusted.a of /f"), "{error}");
}

#[test]
fn e85_a_umask_of_077_changes_nothing() {
    // A process of its own, since the umask is shared by all threads.
    let test = "e85_a_umask_of_077_changes_nothing";
    if std::env::var_os("OVERLAY2_TEST_UMASK").is_none() {
        let this = std::env::current_exe().unwrap();
        let status = std::process::Command::new("sh")
            .args([
                "-c",
                "umask 077; exec \"$0\" --exact attributes::e85_a_umask_of_077_changes_nothing",
            ])
            .arg(this)
            .env("OVERLAY2_TEST_UMASK", "1")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let kinds = [
        dir("d").mode(0o777),
        file("f", "x").mode(0o666),
        file("x", "x").mode(0o666).xattr("user.a", "b"),
        fifo("p").mode(0o666),
        char_device("n", 1, 3).mode(0o666),
        file("i/f", "x").mode(0o777),
    ];
    checked(test, &tar(&kinds), |way, tree, _| {
        let modes = ["d", "f", "x", "p", "n", "i", "i/f"].map(|path| tree[path].mode);
        assert_eq!(modes, [0o777, 0o666, 0o666, 0o666, 0o666, 0o755, 0o777], "{way:?}");
    });
}
