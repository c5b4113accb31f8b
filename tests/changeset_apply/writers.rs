//! What real programs write comes out as the tree that they had.

use std::path::Path;
use std::process::{Command, Stdio};

use overlay2::Dir;

use crate::run::{Scratch, Way, has, root, skip};
use crate::tree::{self, Kind, Node, Tree};

/// What a format can hold; what it cannot is not in the tree, or not compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Can {
    pub(crate) long_names: bool,
    pub(crate) large_ids: bool,
    pub(crate) devices: bool,
    pub(crate) xattrs: bool,
    pub(crate) nanos: bool,
    pub(crate) sparse: bool,
    /// One symlink of two names stays one.
    pub(crate) linked_symlinks: bool,
}

const V7: Can = Can {
    long_names: false,
    large_ids: false,
    devices: false,
    xattrs: false,
    nanos: false,
    sparse: false,
    linked_symlinks: true,
};
const USTAR: Can = Can { devices: true, ..V7 };
const GNU: Can = Can { long_names: true, large_ids: true, ..USTAR };
pub(crate) const PAX: Can = Can { nanos: true, ..GNU };

/// A directory with all that a format can hold.
pub(crate) fn source(dir: &Path, can: Can) {
    let script = r#"
        set -eu
        mkdir -p d/e closed; echo content >f; echo more >d/e/g; : >empty
        ln f hard; ln d/e/g d/other; ln -s ../f d/link; ln d/link d/again; ln -s /nowhere dangling
        printf '%s' 'odd' >"$(printf 'new\nline')"; printf x >"$(printf 'not-utf8-\377')"; printf y >' '
        head -c 300000 /dev/urandom >random
        chmod 4755 f; chmod 2750 d; chmod 1777 d/e; chmod 0 closed empty; chown 1000:2000 d/e/g
        chown -h 3:4 d/link
    "#;
    run(dir, "sh", &["-c", script]);
    if can.devices {
        run(
            dir,
            "sh",
            &["-c", "mknod null c 1 3; mknod loop b 7 4095; mkfifo pipe; chmod 640 pipe"],
        );
    }
    if can.large_ids {
        run(dir, "sh", &["-c", "echo x >large; chown 4000000000:3000000 large"]);
    }
    if can.long_names {
        let script = r#"
            long=$(printf '%0120d' 7); mkdir $long; echo x >$long/$long; ln -s $long/$long to-long
            ln $long/$long linked-long
        "#;
        run(dir, "sh", &["-c", script]);
    }
    if can.xattrs {
        let script = r#"
            setfattr -n user.plain -v value f; setfattr -n user.empty d; setfattr -h -n trusted.link -v 1 dangling
            setfattr -n user.lines -v 0x610a623d000a f; setfattr -n trusted.overlay.opaque -v y d
            setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 random
        "#;
        run(dir, "sh", &["-c", script]);
    }
    if can.sparse {
        let script = "truncate -s 3M holes; printf middle | dd of=holes bs=1 seek=1000000 conv=notrunc status=none; truncate -s 1M hole";
        run(dir, "sh", &["-c", script]);
    }
    let time = "find . -depth -exec touch -h -d '2001-02-03 04:05:06.123456789' {} +; touch -d 1965-01-01 random";
    run(dir, "sh", &["-c", if can.nanos { time } else { &time[..time.find("; touch").unwrap()] }]);
}

pub(crate) fn run(dir: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaints}");
}

/// The same tree, as far as the format can tell.
pub(crate) fn comparable(mut tree: Tree, can: Can) -> Tree {
    for node in tree.values_mut() {
        let Node { kind, mtime, xattrs, same_as, allocated, size, .. } = node;
        if !can.nanos {
            mtime.1 = 0;
        }
        if !can.xattrs {
            xattrs.clear();
        }
        if !can.linked_symlinks && matches!(kind, Kind::Symlink(_)) {
            *same_as = None;
        }
        // An attribute of overlayfs is the source's own, and kept as such.
        if let Some(value) = xattrs.remove("trusted.overlay.overlay.opaque") {
            xattrs.insert("trusted.overlay.opaque".to_owned(), value);
        }
        (*allocated, *size) = (0, if *kind == Kind::Directory { 0 } else { *size });
    }
    tree
}

/// Lets a program write a tree as `../out.tar`, and checks what comes out.
fn kept(test: &str, can: Can, program: &str, arguments: &[&str]) {
    if !root(test) {
        return;
    }
    for needed in [program, "setfattr", "touch"] {
        if !has(needed) {
            skip(test, &format!("{needed} is not installed"));
            return;
        }
    }
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("source");
    std::fs::create_dir(&from).unwrap();
    source(&from, can);
    run(&from, program, arguments);
    let bytes = std::fs::read(place.path().join("out.tar")).unwrap();
    let scratch = Scratch::new(Way::RootWithSide);
    let applied = scratch.apply(&bytes).unwrap_or_else(|error| panic!("{test}: {error}"));
    assert!(applied.explicit_root && applied.assumptions.is_empty(), "{test}: {applied:?}");
    assert_eq!(applied.unkept_count, 0, "{test}: {:?}", applied.unkept);
    let expected = comparable(tree::read(Dir::open_ambient(&from).unwrap()), can);
    let layer = scratch.tree();
    if can.sparse {
        assert!(layer["holes"].allocated < 64 << 10 && layer["hole"].allocated == 0, "{test}");
    }
    let found = comparable(layer, can);
    for (path, node) in &expected {
        assert_eq!(found.get(path), Some(node), "{test}: {path}");
    }
    assert_eq!(found.len(), expected.len(), "{test}");
    assert!(scratch.reassembled() == bytes, "{test}: other bytes");
}

#[test]
fn gnu_tar_in_each_of_its_formats() {
    let test = "gnu_tar_in_each_of_its_formats";
    let sparse = |can| Can { sparse: true, ..can };
    let base = ["--numeric-owner", "--sort=name", "-cf", "../out.tar"];
    for (options, can) in [
        (&["--format=v7"][..], V7),
        (&["--format=ustar"], USTAR),
        (&["--format=oldgnu"], GNU),
        (&["--format=gnu"], GNU),
        (&["--format=gnu", "--sparse"], sparse(GNU)),
        (&["--format=posix"], PAX),
        (&["--format=posix", "--sparse", "--sparse-version=0.0"], sparse(PAX)),
        (&["--format=posix", "--sparse", "--sparse-version=0.1"], sparse(PAX)),
        (&["--format=posix", "--sparse", "--sparse-version=1.0"], sparse(PAX)),
        (
            &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse"],
            sparse(Can { xattrs: true, ..PAX }),
        ),
    ] {
        kept(&format!("{test} {options:?}"), can, "tar", &[options, &base, &["."]].concat());
    }
}

#[test]
fn bsdtar_in_each_of_its_formats() {
    let test = "bsdtar_in_each_of_its_formats";
    for (format, can) in [
        ("v7", V7),
        ("ustar", USTAR),
        ("gnutar", GNU),
        ("pax", Can { xattrs: true, sparse: true, ..PAX }),
    ] {
        let arguments = ["--format", format, "--numeric-owner", "-cf", "../out.tar", "."];
        kept(&format!("{test} {format}"), can, "bsdtar", &arguments);
    }
}

#[test]
fn pythons_tarfile_in_each_of_its_formats() {
    let test = "pythons_tarfile_in_each_of_its_formats";
    for (format, can) in [
        ("USTAR_FORMAT", USTAR),
        ("GNU_FORMAT", GNU),
        // Its times are floating-point numbers, which hold no nanoseconds.
        ("PAX_FORMAT", Can { nanos: false, ..PAX }),
    ] {
        let can = Can { linked_symlinks: false, ..can };
        let script = format!(
            "import tarfile\nwith tarfile.open('../out.tar', 'w', format=tarfile.{format}) as t: t.add('.')"
        );
        kept(&format!("{test} {format}"), can, "python3", &["-c", &script]);
    }
}

#[test]
fn acls_as_gnu_tar_and_bsdtar_write_them() {
    let test = "acls_as_gnu_tar_and_bsdtar_write_them";
    if !root(test) {
        return;
    }
    for (program, arguments) in [
        ("tar", &["--acls", "--numeric-owner", "-cf", "../out.tar", "."][..]),
        ("bsdtar", &["--format", "pax", "--acls", "-cf", "../out.tar", "."]),
    ] {
        if !has(program) || !has("setfacl") {
            skip(test, &format!("{program} or setfacl is not installed"));
            continue;
        }
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("source");
        std::fs::create_dir(&from).unwrap();
        let script = "mkdir d; echo x >f; setfacl -m u:54321:r-x,g:4321:rwx f; \
                      setfacl -m u:54322:rwx,d:u:54321:rwx,d:g::r-x d; echo y >d/g";
        run(&from, "sh", &["-c", script]);
        run(&from, program, arguments);
        let scratch = Scratch::new(Way::RootWithSide);
        let bytes = std::fs::read(place.path().join("out.tar")).unwrap();
        let applied = scratch.apply(&bytes).unwrap();
        let (found, expected) = (scratch.tree(), tree::read(Dir::open_ambient(&from).unwrap()));
        // The system may have no user of these numbers, so that they stand for themselves.
        assert_eq!(applied.unkept_count, 0, "{program}: {:?}", applied.unkept);
        for path in ["f", "d", "d/g"] {
            assert_eq!(found[path].xattrs, expected[path].xattrs, "{program}: {path}");
            assert_eq!(found[path].mode, expected[path].mode, "{program}: {path}");
        }
    }
}
