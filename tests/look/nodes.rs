//! Copies to where devices, FIFOs and sockets are.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::need::{self, Lack};
use crate::common::{Done, Store};
use crate::{app, require};

/// A FIFO, socket, or device with these numbers; of a device whether it could be made.
fn make(path: &Path, kind: &str) -> bool {
    let _ = fs::remove_file(path);
    match kind {
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        "fifo" => drop(need::run(Command::new("mkfifo").arg(path))),
        "file" => fs::write(path, "mine\n").unwrap(),
        device => {
            let mut command = Command::new("mknod");
            command.arg(path).args(device.split(' ')).stderr(Stdio::null());
            return command.status().unwrap().success();
        }
    }
    true
}

/// What a file is, as far as a copy over it would show.
fn known(path: &Path) -> (u32, u64, u64, u64) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.mode(), metadata.rdev(), metadata.ino(), metadata.uid().into())
}

/// A container with a directory `n` that holds a FIFO, a socket and, where they can be made, devices.
fn nodes(store: &Store) -> bool {
    let from = store.scratch().join("n");
    fs::create_dir(&from).unwrap();
    make(&from.join("fifo"), "fifo");
    make(&from.join("socket"), "socket");
    let devices = make(&from.join("null"), "c 1 3") && make(&from.join("zero"), "c 1 5");
    store.ok(["cp".as_ref(), from.as_os_str(), "web:/n".as_ref()]);
    devices
}

#[test]
fn a_device_fifo_or_socket_of_the_host_is_no_copys_place() {
    let store = app();
    let devices = nodes(&store);
    fs::create_dir(store.scratch().join("out")).unwrap();
    let out = store.scratch().join("out/to");
    for (there, from, status, said) in [
        ("socket", "/etc/motd", 1, "No such device or address"),
        ("socket", "/etc/mtab", 1, "is a socket"),
        ("socket", "/n/fifo", 1, "is a socket"),
        ("socket", "/n/socket", 0, ""),
        ("fifo", "/etc/mtab", 1, "is a FIFO"),
        ("fifo", "/n/socket", 1, "is a FIFO"),
        ("fifo", "/n/fifo", 0, ""),
        ("fifo", "/n", 1, "Not a directory"),
        ("c 1 3", "/etc/motd", 0, ""),
        ("c 1 3", "/etc/mtab", 1, "is a device"),
        ("c 1 3", "/n/null", 0, ""),
        ("c 1 3", "/n/zero", 1, "is a device"),
        ("c 1 3", "/n/fifo", 1, "is a device"),
        ("c 1 3", "/n", 1, "Not a directory"),
    ] {
        if !devices && there.starts_with('c') {
            continue;
        }
        assert!(make(&out, there));
        fs::set_permissions(&out, fs::Permissions::from_mode(0o612)).unwrap();
        let before = known(&out);
        let done = store.run(["cp", &format!("web:{from}"), out.to_str().unwrap()]);
        assert_eq!(done.status, status, "{from} to {there}: {done:?}");
        assert!(done.stderr.contains(said), "{from} to {there}: {done:?}");
        assert_eq!(known(&out), before, "{from} to {there}: it is what it was");
    }
}

#[test]
fn a_file_is_written_to_the_fifo_that_is_its_target() {
    let store = app();
    // Holes are zeros there.
    let holes = store.scratch().join("holes");
    fs::File::create(&holes).unwrap().set_len(100_000).unwrap();
    fs::write(store.scratch().join("end"), "x").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&holes).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 70_000).unwrap();
    store.ok(["cp".as_ref(), holes.as_os_str(), "web:/holes".as_ref()]);
    let fifo = store.scratch().join("to");
    make(&fifo, "fifo");
    let link = store.scratch().join("link");
    std::os::unix::fs::symlink("to", &link).unwrap();
    for to in [&fifo, &link] {
        let from = fifo.clone();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            fs::File::open(from).unwrap().read_to_end(&mut all).unwrap();
            all
        });
        store.ok(["cp".as_ref(), "web:/holes".as_ref(), to.as_os_str()]);
        assert!(fifo.symlink_metadata().unwrap().file_type().is_fifo());
        assert!(reader.join().unwrap() == fs::read(&holes).unwrap());
    }
}

/// Nobody named them: a container chose what it has a file for.
#[test]
fn no_file_of_a_directory_is_written_to_a_node_of_the_host() {
    let store = app();
    let from = store.scratch().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("node"), "of the container\n").unwrap();
    store.ok(["cp".as_ref(), from.as_os_str(), "web:/from".as_ref()]);
    let out = store.scratch().join("out");
    fs::create_dir(&out).unwrap();
    for kind in ["fifo", "socket", "c 1 3"] {
        if !make(&out.join("node"), kind) {
            continue;
        }
        let before = known(&out.join("node"));
        let error = store.fails(["cp".as_ref(), "web:/from/.".as_ref(), out.as_os_str()]);
        assert!(error.contains("/node is a") && error.contains("remove it first"), "{error}");
        assert_eq!(known(&out.join("node")), before, "{kind}");
    }
}

/// Written to, one would let a container choose a disk of the host.
#[test]
fn a_node_in_a_container_is_replaced() {
    let store = app();
    let devices = nodes(&store);
    let file = store.scratch().join("file");
    fs::write(&file, "new\n").unwrap();
    let kind = |path: &str| store.json(["stat", path])[0]["kind"].as_str().unwrap().to_owned();
    for (name, is_made) in [("fifo", true), ("socket", true), ("null", devices)] {
        if is_made {
            let to = format!("web:/n/{name}");
            assert_ne!(kind(&to), "file", "{name}");
            store.ok(["cp", file.to_str().unwrap(), &to]);
            assert_eq!((kind(&to).as_str(), store.ok(["cat", &to]).as_str()), ("file", "new"));
        }
    }
    // Nor does a symlink to one lead out of the container.
    let link = store.scratch().join("link");
    std::os::unix::fs::symlink(store.scratch().join("n/fifo"), &link).unwrap();
    store.ok(["cp".as_ref(), link.as_os_str(), "web:/leads-out".as_ref()]);
    store.fails(["cp", file.to_str().unwrap(), "web:/leads-out"]);
    assert!(store.scratch().join("n/fifo").symlink_metadata().unwrap().file_type().is_fifo());
}

/// `/dev/null` is written to through a device of one's own, and no terminal becomes the command's.
#[test]
fn a_device_takes_a_file_and_stays() {
    require!(need::is_root() && !need::in_user_namespace(), Lack::Root("only root makes devices"));
    let store = app();
    let null = store.scratch().join("null");
    let full = store.scratch().join("full");
    assert!(make(&null, "c 1 3") && make(&full, "c 1 7"));
    store.ok(["cp".as_ref(), "web:/etc/motd".as_ref(), null.as_os_str()]);
    store.ok(["cp".as_ref(), "-a".as_ref(), "web:/usr/bin/tool".as_ref(), null.as_os_str()]);
    let mut command = store.command();
    command.args(["cp".as_ref(), "web:/etc/motd".as_ref(), full.as_os_str()]);
    let done = Done::of(&mut command);
    assert!(done.status == 1 && done.stderr.contains("No space left"), "{done:?}");
    for path in [&null, &full] {
        let found = path.symlink_metadata().unwrap();
        assert!(found.file_type().is_char_device() && found.mode() & 0o7777 == 0o644, "{found:?}");
    }
}
