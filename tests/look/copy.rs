//! Files copied into containers, out of them and between them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::common::{Done, Store};
use crate::{APP, app, at};

/// Files of every kind on the host.
pub(crate) fn site(store: &Store) -> String {
    let site = store.scratch().join("site");
    fs::create_dir_all(site.join("sub")).unwrap();
    fs::write(site.join("a"), "a\n").unwrap();
    fs::hard_link(site.join("a"), site.join("sub/b")).unwrap();
    fs::set_permissions(site.join("a"), fs::Permissions::from_mode(0o4750)).unwrap();
    std::os::unix::fs::symlink("../a", site.join("sub/l")).unwrap();
    let holes = fs::File::create(site.join("holes")).unwrap();
    holes.set_len(64 << 20).unwrap();
    holes.write_at(b"x", 32 << 20).unwrap();
    fs::write(site.join(OsStr::from_bytes(b"\xff")), "odd\n").unwrap();
    let time = filetime(1_600_000_000, 123_456_789);
    fs::File::open(site.join("a")).unwrap().set_modified(time).unwrap();
    fs::File::open(site.join("sub")).unwrap().set_modified(time).unwrap();
    site.to_str().unwrap().to_owned()
}

fn filetime(seconds: u64, nanos: u32) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::new(seconds, nanos)
}

/// What is known of a file but its name: enough to tell copies from originals.
fn known(path: &Path) -> (u32, u64, i64, i64, u64, Vec<u8>) {
    let metadata = path.symlink_metadata().unwrap();
    let content = match metadata.file_type() {
        kind if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_vec(),
        kind if kind.is_file() && metadata.len() < 1 << 20 => fs::read(path).unwrap(),
        _ => Vec::new(),
    };
    let size = if metadata.is_dir() { 0 } else { metadata.len() };
    let time = if metadata.is_dir() { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) };
    (metadata.mode(), size, time.0, time.1, metadata.nlink(), content)
}

#[test]
fn what_is_copied_in_and_out_again_is_the_same() {
    let store = app();
    let site = site(&store);
    store.ok(["cp", &site, "web:/srv"]);
    let out = store.scratch().join("out");
    let done = store.json(["cp".as_ref(), "web:/srv".as_ref(), out.as_os_str()]);
    assert_eq!(done["entries"], 7);
    assert_eq!((&done["unkept"], &done["skipped"]), (&json!(0), &json!([])));
    for name in [&b"a"[..], b"sub", b"sub/b", b"sub/l", b"holes", b"\xff"] {
        let name = OsStr::from_bytes(name);
        assert_eq!(known(&out.join(name)), known(&Path::new(&site).join(name)), "{name:?}");
    }
    let time = out.join("sub").metadata().unwrap();
    assert_eq!((time.mtime(), time.mtime_nsec()), (1_600_000_000, 123_456_789));
    let same = |one: &str, other: &str| {
        out.join(one).metadata().unwrap().ino() == out.join(other).metadata().unwrap().ino()
    };
    assert!(same("a", "sub/b"), "two names are one file still");
    assert!(out.join("holes").metadata().unwrap().blocks() < 1024, "holes stay holes");
    assert_eq!(store.json(["stat", "web:/srv/a"])[0]["uid"], 0, "it is root's inside");
    assert_eq!(out.join("a").metadata().unwrap().uid(), rustix::process::geteuid().as_raw());

    // Through a tar, into another container, and out.
    store.ok(["create", "--name", "other", APP]);
    let tar = store.command().args(["cp", "web:/srv", "-"]).output().unwrap();
    assert!(tar.status.success());
    let mut child =
        store.command().args(["cp", "-", "other:/"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
    assert!(child.wait().unwrap().success());
    store.ok(["cp", "web:/srv", "other:/copy"]);
    let again = store.command().args(["cp", "other:/copy/.", "-"]).output().unwrap().stdout;
    let plain = store.command().args(["cp", "web:/srv/.", "-"]).output().unwrap().stdout;
    let tarred = store.command().args(["cp", "other:/srv/.", "-"]).output().unwrap().stdout;
    assert_eq!(again, plain, "a copy between containers is the same to the byte");
    assert_eq!(tarred, plain, "and one through a tar");
}

#[test]
fn where_copies_go_is_what_docker_cp_does() {
    let store = app();
    let here = store.scratch().to_str().unwrap().to_owned();
    fs::write(format!("{here}/file"), "file\n").unwrap();
    fs::create_dir(format!("{here}/dir")).unwrap();
    fs::write(format!("{here}/dir/inner"), "inner\n").unwrap();
    for (from, to, made) in [
        ("file", "/new", Some("/new")),
        ("file", "/etc", Some("/etc/file")),
        ("file", "/etc/", Some("/etc/file")),
        ("file", "/bin", Some("/usr/bin/file")),
        ("file", "/etc/motd", Some("/etc/motd")),
        ("file", "/none/", None),
        ("file", "/none/new", None),
        ("file", "/etc/motd/", None),
        ("dir", "/made", Some("/made/inner")),
        ("dir", "/made2/", Some("/made2/inner")),
        ("dir", "/etc", Some("/etc/dir/inner")),
        ("dir/.", "/etc", Some("/etc/inner")),
        ("dir/.", "/made3", Some("/made3/inner")),
        ("dir", "/etc/motd", None),
        ("dir", "/none/new", None),
        ("file/.", "/new2", None),
        ("missing", "/new3", None),
    ] {
        let done = store.run(["cp", &format!("{here}/{from}"), &format!("web:{to}")]);
        assert_eq!(done.status, i32::from(made.is_none()), "{from} to {to}: {done:?}");
        if let Some(made) = made {
            store.ok(["cat", &format!("web:{made}")]);
        }
        // The same the other way round.
        let outside = format!("{here}/host");
        let _ = fs::remove_dir_all(&outside);
        fs::create_dir_all(format!("{outside}/etc")).unwrap();
        fs::create_dir_all(format!("{outside}/usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/bin", format!("{outside}/bin")).unwrap();
        fs::write(format!("{outside}/etc/motd"), "old\n").unwrap();
        store.run(["cp", &format!("{here}/file"), "web:/src-file"]);
        store.run(["cp", &format!("{here}/dir"), "web:/src-dir"]);
        let source = from.replace("file", "src-file").replace("dir", "src-dir");
        let done = store.run(["cp", &format!("web:/{source}"), &format!("{outside}{to}")]);
        assert_eq!(done.status, i32::from(made.is_none()), "{from} to {to}, out: {done:?}");
        if let Some(made) = made {
            let made = made.replace("/file", "/src-file").replace("/dir/", "/src-dir/");
            assert!(Path::new(&format!("{outside}{made}")).is_file(), "{from} to {to}: {made}");
        }
    }
    let error = store.fails(["cp", &format!("{here}/file"), &at("/etc")]);
    assert!(error.contains("overlay2 create"), "an image is not changed: {error}");
    let error = store.fails(["cp", "web:/etc", "web:/etc/deeper"]);
    assert!(error.contains("into itself"), "{error}");
    store.fails(["cp", &format!("{here}/file"), &format!("{here}/other")]);
    assert_eq!(store.run(["cp", "web:/etc"]).status, 2);
}

#[test]
fn copies_out_stay_beneath_their_target() {
    let store = app();
    let scratch = store.scratch();
    // In the tree `d` is a directory; on the host it is a symlink to elsewhere.
    store.ok(["cp".as_ref(), "web:/etc".as_ref(), "web:/d".as_ref() as &OsStr]);
    fs::create_dir_all(scratch.join("target")).unwrap();
    fs::create_dir_all(scratch.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", scratch.join("target/d")).unwrap();
    let target = scratch.join("target");
    store.fails(["cp".as_ref(), "web:/d".as_ref(), target.as_os_str()]);
    assert_eq!(fs::read_dir(scratch.join("elsewhere")).unwrap().count(), 0);
    // A tar that names what lies outside.
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.as_old_mut().name[..9].copy_from_slice(b"../beyond");
    header.set_cksum();
    let mut child = store
        .command()
        .args(["cp", "-", "web:/etc"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(header.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    store.fails(["cat", "web:/beyond"]);
}

#[test]
fn names_are_bytes() {
    let store = app();
    let site = site(&store);
    store.ok(["cp", &format!("{site}/."), "web:/etc"]);
    let raw = store.command().args(["ls", "web:/etc"]).output().unwrap().stdout;
    assert!(raw.ends_with(b"\n\xff\n"), "a pipe gets the bytes: {raw:?}");
    let listed = store.json(["ls", "web:/etc"]);
    assert_eq!(listed.as_array().unwrap().last().unwrap()["path"], "/etc/%FF");
    let place = OsString::from_vec(b"web:/etc/\xff".to_vec());
    assert_eq!(store.ok(["cat".as_ref(), place.as_os_str()]), "odd");
    let diff = store.command().args(["diff", "web"]).output().unwrap().stdout;
    assert!(diff.windows(9).any(|part| part == b"A /etc/\xff\n".as_slice()), "{diff:?}");
    let changes = store.json(["diff", "web"]).to_string();
    assert!(changes.contains("\"/etc/%FF\""), "{changes}");
}

#[test]
fn what_would_be_copied_into_itself_is_refused() {
    let store = app();
    store.ok(["cp", &site(&store), "web:/srv"]);
    let refused = |from: &str, to: &str| {
        let error = store.fails(["cp", from, to]);
        assert!(error.contains("into itself"), "{error}");
    };
    // A symlink to where it leads, which would lead to itself.
    refused("web:/srv/sub/l", "web:/srv/sub/l");
    refused("web:/srv/sub/l", "web:/srv/a");
    assert_eq!(store.ok(["cat", "web:/srv/a"]), "a");
    // A directory that holds the container.
    refused(store.scratch().to_str().unwrap(), "web:/all");
    let linked = store.scratch().with_extension("link");
    std::os::unix::fs::symlink(store.scratch(), &linked).unwrap();
    refused(&format!("{}/", linked.display()), "web:/all");
    fs::remove_file(linked).unwrap();
}

#[test]
fn a_symlink_that_leads_to_nothing_says_where_a_copy_is_made() {
    let store = app();
    let site = site(&store);
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, store.scratch().join(name)).unwrap();
        store.scratch().join(name).to_str().unwrap().to_owned()
    };
    store.ok(["cp", &site, "web:/srv"]);
    store.ok(["cp", &link("sub/new", "first"), "web:/srv/first"]);
    store.ok(["cp", &link("/srv/first", "second"), "web:/second"]);
    store.ok(["cp", &format!("{site}/a"), "web:/second"]);
    assert_eq!(store.ok(["cat", "web:/srv/sub/new"]), "a");
    assert_eq!(store.json(["stat", "web:/second"])[0]["kind"], "symlink");
    store.ok(["cp", &link("loop", "loop"), "web:/loop"]);
    assert!(store.fails(["cp", &format!("{site}/a"), "web:/loop"]).contains("symbolic links"));
    let out = link("site/sub/out", "outer");
    store.ok(["cp", "web:/srv/a", &out]);
    assert_eq!(fs::read(Path::new(&site).join("sub/out")).unwrap(), b"a\n");
}

#[test]
fn a_file_that_a_tar_links_to_itself_stays() {
    let store = app();
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, link: Option<&str>| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(if link.is_some() { 0 } else { 1 });
        if let Some(link) = link {
            header.set_entry_type(tar::EntryType::Link);
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        let content = if link.is_some() { &b""[..] } else { b"x" };
        tar.append_data(&mut header, name, content).unwrap();
    };
    put("a", None);
    put("a", Some("a"));
    put("b", Some("a"));
    let file = store.scratch().join("links.tar");
    fs::write(&file, tar.into_inner().unwrap()).unwrap();
    let mut command = store.command();
    command.args(["cp", "-", "web:/"]).stdin(Stdio::from(fs::File::open(file).unwrap()));
    let done = Done::of(&mut command);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(store.ok(["cat", "web:/a"]), "x");
    assert_eq!(store.ok(["cat", "web:/b"]), "x");
}
