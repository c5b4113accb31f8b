//! Uppers that the kernel made, in every way that it makes them: what `commit` and `export` say of
//! them is what the mount showed. And containers that meet each other, or nobody unmounted.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::need::{self, Lack};
use common::{Compression, Layer, Manifest, Store, TestImage};

const NAME: &str = "edge.test/base:latest";
/// The user that a plain user's test runs as.
const NOBODY: u32 = 65534;
const COMMITTED: &str = "edge.test/changed:latest";

fn image() -> TestImage {
    let base = Layer::new()
        .root(0o755)
        .dir("d", 0o750)
        .file("d/old", 0o644, "old\n")
        .dir("d/sub", 0o711)
        .file("d/sub/deep", 0o600, "deep\n")
        .dir("gone", 0o755)
        .file("gone/x", 0o644, "x\n")
        .dir("to", 0o755)
        .file("file", 0o4755, vec![b'f'; 70_000])
        .hard_link("linked", "file", 0o4755)
        .file("plain", 0o644, "plain\n")
        .symlink("link", "d/sub");
    let more = Layer::new()
        .dir("d", 0o755)
        .file("d/second", 0o644, "second\n")
        .dir("two", 0o755)
        .file("two/y", 0o644, "y\n");
    TestImage::new(NAME).layer("base", base).layer("more", more)
}

/// A store with the image and a container of it.
fn container(store: &Store) -> String {
    store.load(&image().write_oci(&store.scratch().join("image"), Compression::Gzip));
    store.create(NAME)
}

/// How this process may mount an overlay, with options that leave different marks. Not with
/// `index=on`: names of a lower file that a container did not change would change along with others.
fn manners() -> &'static [&'static str] {
    if need::in_user_namespace() {
        return &["userxattr"];
    }
    &[
        "redirect_dir=off,metacopy=off,index=off",
        "redirect_dir=on",
        "redirect_dir=on,metacopy=on",
        "redirect_dir=on,xino=on,metacopy=on",
    ]
}

/// Mounts a container's directories as the options say, without the command, and changes the tree.
fn change(store: &Store, container: &str, options: &str, script: &str) -> Manifest {
    let merged = store.scratch().join("merged");
    fs::create_dir_all(&merged).unwrap();
    let lower: Vec<_> = store.lower_dirs(container);
    let lower: Vec<_> = lower.iter().map(|dir| dir.to_str().unwrap()).collect();
    let [upper, work] = ["UpperDir", "WorkDir"].map(|key| store.graph_dir(container, key));
    let (lower, upper, work) = (lower.join(":"), upper.display(), work.display());
    let all = format!("lowerdir={lower},upperdir={upper},workdir={work},{options}");
    let mount = || {
        let mut command = Command::new("mount");
        need::run(command.args(["-t", "overlay", "overlay", "-o", &all]).arg(&merged))
    };
    mount();
    let script = format!("set -eu; {script}");
    let changed = Command::new("sh").args(["-c", &script]).current_dir(&merged).output().unwrap();
    // What is on disk shows at the next mount; until then the kernel knows more of some links.
    need::run(Command::new("umount").arg(&merged));
    mount();
    let tree = Manifest::of(&merged);
    need::run(Command::new("umount").arg(&merged));
    assert!(changed.status.success(), "{script}: {}", String::from_utf8_lossy(&changed.stderr));
    tree
}

/// The names in the topmost layer of an image's tar.
fn topmost(store: &Store, image: &str) -> Vec<String> {
    let out = store.scratch().join("saved");
    let _ = fs::remove_file(&out);
    store.ok(["save", image, "--format-archive", "docker", "-o", out.to_str().unwrap()]);
    let wanted = store.diff_ids(image).last().unwrap().clone();
    let mut archive = tar::Archive::new(fs::File::open(&out).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if overlay2::Digest::of(&bytes).to_string() == wanted {
            return names(&bytes);
        }
    }
    panic!("no layer {wanted} in what was saved");
}

/// The names in a tar, with the attributes that they carry.
fn names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        for record in entry.pax_extensions().unwrap().into_iter().flatten() {
            let record = record.unwrap();
            if let Some(xattr) = record.key().unwrap().strip_prefix("SCHILY.xattr.") {
                name = format!("{name} {xattr}");
            }
        }
        names.push(name);
    }
    names
}

/// Changes a container in each manner, and checks that all that is said of it is what showed.
fn told_as_shown(test: &str, script: &str, says: &[&str], says_not: &[&str]) {
    for options in manners() {
        let store = Store::new();
        let container = container(&store);
        let shown = change(&store, &container, options, script).with_visible_links();
        store.ok(["diff", &container]);
        store.ok(["commit", &container, COMMITTED]);
        let committed = store.create(COMMITTED);
        let tree = Manifest::of(&store.mount(&committed)).with_visible_links();
        tree.assert_is(&shown);
        store.ok(["unmount", &committed]);

        let tar = store.scratch().join("exported.tar");
        store.ok(["export", &container, "-o", tar.to_str().unwrap()]);
        let exported = names(&fs::read(&tar).unwrap());
        let applied = store.ok(["layer", "apply", tar.to_str().unwrap()]);
        let chain = applied.rsplit(' ').next().unwrap();
        let again = store.ok(["create", "--chain", chain]);
        let tree = Manifest::of(&store.mount(&again)).with_visible_links();
        tree.assert_is(&shown);
        store.ok(["unmount", &again]);

        let written = topmost(&store, COMMITTED);
        for name in says {
            let found = written.iter().any(|written| written == name);
            assert!(found, "{test}, {options}: no {name:?} in {written:?}");
        }
        for name in says_not {
            let found = written.iter().chain(&exported).any(|written| written.contains(name));
            assert!(!found, "{test}, {options}: {name:?} in {written:?}");
        }
    }
}

#[test]
fn e60_no_mark_of_overlayfs_is_in_a_tar() {
    sandbox!();
    require_tool!("setfattr");
    let own = if need::in_user_namespace() { "user" } else { "trusted" };
    // What the container itself sets there is its own, and comes back under its own name.
    let set = format!("setfattr -n {own}.overlay.opaque -v y plain; setfattr -n user.x -v 1 plain");
    let script = format!("chmod 700 d; echo more >>file; mkdir two/new; rm d/old; {set}");
    let kept = format!("plain {own}.overlay.opaque user.x");
    let marks = ["origin", "impure", "uuid", "nlink", "upper", "redirect", "metacopy", "protattr"];
    let marks: Vec<_> = marks.iter().map(|mark| format!(".overlay.{mark}")).collect();
    let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
    told_as_shown("e60", &script, &[&kept], &marks);
}

#[test]
fn e61_moved_directories_and_files_without_data() {
    sandbox!();
    // Where directories cannot be moved, mv copies them.
    let script = "mv d to/moved; mv to/moved/sub to/deeper; mv two d; chmod 600 file; \
                  chown 0:0 plain; touch -d @7 to/moved/old; mv plain to/plain; ln file to/file";
    let says = [".wh.plain", "to/moved/", "to/moved/old", "to/moved/second", "to/deeper/deep"];
    told_as_shown("e61", script, &says, &["redirect", "metacopy"]);
}

#[test]
fn e63_directories_deleted_and_made_again() {
    sandbox!();
    let script = "rm -r d; mkdir d; echo new >d/new; mkdir d/sub; rm -r gone; rm file; mkdir file; \
                  rm -r two; echo now >two";
    for options in manners() {
        let store = Store::new();
        let container = container(&store);
        change(&store, &container, options, script);
        store.ok(["commit", &container, COMMITTED]);
        let written = topmost(&store, COMMITTED);
        let at = |name: &str| written.iter().position(|written| written == name);
        assert_eq!(at("d/.wh..wh..opq"), at("d/").map(|index| index + 1), "{written:?}");
    }
    told_as_shown("e63", script, &["d/.wh..wh..opq", ".wh.gone"], &["two/", "d/sub/.wh."]);
}

#[test]
fn e68_sockets_and_names_of_marks_in_an_upper() {
    sandbox!();
    let store = Store::new();
    let container = container(&store);
    let upper = store.graph_dir(&container, "UpperDir");
    let (kind, mode) = (rustix::fs::FileType::Socket, rustix::fs::Mode::from_raw_mode(0o644));
    // A new one, and those in the place of a file and of a directory below.
    for name in ["socket", "file", "two"] {
        rustix::fs::mknodat(rustix::fs::CWD, upper.join(name), kind, mode, 0).unwrap();
    }
    store.ok(["commit", &container, COMMITTED]);
    assert_eq!(topmost(&store, COMMITTED), [".wh.file", ".wh.two"]);
    fs::write(upper.join(".wh.plain"), "").unwrap();
    let said = store.fails(["commit", &container, "edge.test/none:latest"]);
    assert!(said.contains(".wh.plain"), "{said}");
    let said = store.fails(["export", &container]);
    assert!(said.contains(".wh.plain"), "{said}");
}

#[test]
fn e69_hard_links_in_the_upper_and_to_what_lies_below() {
    sandbox!();
    let script = "echo one >to/a; ln to/a to/b; ln to/a d/c; ln plain to/plain; ln -s x to/s; \
                  ln to/s to/t; mkfifo to/p; ln to/p to/q; echo more >>linked";
    told_as_shown("e69", script, &["to/a", "to/b", "to/plain", "plain", "to/t", "to/q"], &[]);
}

#[test]
fn e70_opaque_directories_over_nothing() {
    sandbox!();
    let script = "mkdir fresh fresh/inner to/fresh; echo x >fresh/inner/f; mkdir d/sub/new";
    let says = ["fresh/", "fresh/inner/f", "to/fresh/", "d/sub/new/"];
    told_as_shown("e70", script, &says, &[".wh."]);
}

#[test]
fn e67_the_same_bytes_again_of_what_was_committed() {
    sandbox!();
    let (first, second) = (Store::new(), Store::new());
    let container = container(&first);
    change(&first, &container, manners()[0], "rm -r d; mkdir d; echo x >d/x; ln d/x d/y");
    first.ok(["commit", &container, COMMITTED]);
    for form in ["oci", "docker"] {
        let out = first.scratch().join(form);
        first.ok(["save", COMMITTED, "--format-archive", form, "-o", out.to_str().unwrap()]);
        second.load(&out);
        assert_eq!(second.diff_ids(COMMITTED), first.diff_ids(COMMITTED), "{form}");
        second.ok(["rmi", COMMITTED]);
    }
}

/// Makes a file system in a file, mounts it, and gives its directory.
fn file_system(kind: &str, place: &Path) -> PathBuf {
    let (image, target) = (place.join(format!("{kind}.img")), place.join(kind));
    fs::create_dir(&target).unwrap();
    if kind == "tmpfs" {
        need::run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&target));
        return target;
    }
    fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
    let force = if kind == "ext4" { "-F" } else { "-f" };
    let make = need::tool(&format!("mkfs.{kind}")).unwrap();
    need::run(Command::new(make).args(["-q", force]).arg(&image));
    need::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&target));
    target
}

#[test]
fn e66_the_same_bytes_on_every_file_system() {
    require!(
        need::is_root() && !need::in_user_namespace(),
        Lack::Root("only root mounts other file systems")
    );
    let script = "rm d/old; rm -r gone; mkdir gone z a; echo 1 >a/1; echo 2 >z/2; ln a/1 z/3; \
                  truncate -s 1M a/holes; head -c 300000 /dev/zero >a/zeros; mkfifo a/p; \
                  ln -s t a/s; setfattr -n user.b -v 2 a/1; setfattr -n user.a -v 1 a/1; \
                  setfacl -m u:7:r a/1; chmod 4711 file; \
                  find . -exec touch -h -d '2001-02-03 04:05:06.123456789' {} +";
    require_tool!("setfattr");
    require_tool!("setfacl");
    for kind in ["ext4", "xfs", "btrfs"] {
        require_tool!(&format!("mkfs.{kind}"));
    }
    let bed = Store::new();
    let mut found: Option<(&str, Vec<String>)> = None;
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let store = Store::at(file_system(kind, bed.scratch()).join("store"));
        let container = container(&store);
        change(&store, &container, manners()[0], script);
        store.ok(["commit", &container, COMMITTED]);
        store.ok(["commit", &container, "edge.test/again:latest"]);
        let ids = store.diff_ids(COMMITTED);
        assert_eq!(store.diff_ids("edge.test/again:latest"), ids, "{kind}: diffed twice");
        match &found {
            Some((other, same)) => assert_eq!(&ids, same, "{kind} and {other}"),
            None => found = Some((kind, ids)),
        }
    }
}

#[test]
fn e42_one_upper_is_not_mounted_twice() {
    sandbox!();
    let store = Store::new();
    let container = container(&store);
    let merged = store.mount(&container);
    let said = store.fails(["mount", &container]);
    assert!(said.contains("is mounted at") && said.contains("unmount it first"), "{said}");
    let elsewhere = store.scratch().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    store.fails(["mount", &container, elsewhere.to_str().unwrap()]);
    fs::write(merged.join("still"), "works").unwrap();
    store.ok(["unmount", &container]);
    store.mount(&container);
    store.ok(["unmount", &container]);
}

#[test]
fn e46_a_mount_that_nobody_unmounted_is_known_and_can_be_ended() {
    sandbox!();
    let store = Store::new();
    let container = container(&store);
    // The process that mounted it is gone by now.
    let merged = store.mount(&container);
    let told = store.json(["ps"]);
    assert!(told.to_string().contains(merged.to_str().unwrap()), "{told}");
    store.fails(["rm", &container]);
    // Unmounted by somebody else.
    need::run(Command::new("umount").arg(&merged));
    let told = store.json(["ps"]);
    assert!(!told.to_string().contains(merged.to_str().unwrap()), "{told}");
    store.ok(["rm", &container]);
}

#[test]
fn e45_a_volatile_upper_that_nobody_unmounted_is_not_used_again() {
    sandbox!();
    let store = Store::new();
    let container = container(&store);
    let merged = PathBuf::from(store.ok(["mount", "--volatile", &container]));
    fs::write(merged.join("torn"), "perhaps").unwrap();
    // As after a crash: the kernel's mark stays, and the machine was started again.
    need::run(Command::new("umount").arg(&merged));
    let record = merged.parent().unwrap().join("mount.json");
    let text = fs::read_to_string(&record).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let before = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
    assert_ne!(before, text);
    fs::write(&record, before).unwrap();
    let said = store.fails(["mount", &container]);
    assert!(said.contains("volatile"), "{said}");
    store.ok(["rm", &container]);
}

#[test]
fn e65_what_cannot_be_read_is_an_error_by_name() {
    // Root can read everything; a plain user is refused what is closed to him.
    let place = tempfile::tempdir().unwrap();
    let root = need::is_root();
    if root {
        std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let work = || {
        if root {
            let ids = (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(ids.1, ids.1, ids.1).unwrap();
            rustix::thread::set_thread_res_uid(ids.0, ids.0, ids.0).unwrap();
        }
        use overlay2::changeset::{DiffOptions, View};
        use overlay2::{Driver, DriverOptions, ErrorKind, Ownership, Watch};
        let mut options = DriverOptions::default();
        options.ownership = Some(Ownership::Recorded);
        options.namespace = Some(overlay2::Namespace::User);
        let root = place.path().join("store");
        let driver = Driver::open_with(&root, &options).unwrap();
        let base = driver.apply(None, &*Layer::new().file("f", 0o644, "x").finish(), Watch::new());
        let container = driver.create(&base.unwrap().chain_id.into(), None).unwrap();
        let upper = root.join("containers").join(&container.id).join("upper");
        fs::write(upper.join("closed"), "secret").unwrap();
        fs::set_permissions(upper.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let mut sink = std::io::sink();
        let (all, watch) = (DiffOptions::default(), Watch::new());
        let errors = [
            driver.diff(&container.id, &mut sink, &all, watch).unwrap_err(),
            driver.export(&container.id, &mut sink, &all, watch).unwrap_err(),
            driver.changes(&container.id, View::Pruned, watch).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains("/closed"), "{error}");
        }
        fs::remove_file(upper.join("closed")).unwrap();
        // A directory, too, and what is beneath it is not passed over.
        fs::create_dir(upper.join("shut")).unwrap();
        fs::write(upper.join("shut/f"), "secret").unwrap();
        fs::set_permissions(upper.join("shut"), fs::Permissions::from_mode(0o000)).unwrap();
        let error = driver.diff(&container.id, &mut sink, &all, watch).unwrap_err();
        assert!(error.to_string().contains("/shut"), "{error}");
        fs::set_permissions(upper.join("shut"), fs::Permissions::from_mode(0o700)).unwrap();
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

/// A changeset of one file with attributes.
fn with_attributes(attributes: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let keys: Vec<_> = attributes.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
    let records = keys.iter().zip(attributes).map(|(key, (_, value))| (key.as_str(), *value));
    tar.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o674);
    header.set_size(1);
    tar.append_data(&mut header, "f", &b"x"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// An ACL as the kernel has it, with entries for a user and a group.
fn acl(user: u32, group: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries =
        [(1, 6, none), (2, 5, user), (4, 4, none), (8, 6, group), (16, 7, none), (32, 4, none)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

#[test]
fn e33_ids_in_acls_and_capabilities_are_those_of_the_namespace() {
    sandbox!();
    require!(need::mapped_ids() > 2_000, Lack::Missing("too few subordinate ids are mapped"));
    let plain = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let of_root = |root: u32| [&b"\x01\0\0\x03"[..], &plain[4..], &root.to_le_bytes()].concat();
    let hex = |bytes: &[u8]| hex::encode(bytes);
    // One that is root's own has no id; so the kernel shows one that names the namespace's root.
    for (capability, shown) in [
        (plain.to_vec(), plain.to_vec()),
        (of_root(1000), of_root(1000)),
        (of_root(0), plain.to_vec()),
    ] {
        let store = Store::new();
        let acl = acl(1234, 567);
        let attributes =
            [("security.capability", &*capability), ("system.posix_acl_access", &*acl)];
        let file = store.scratch().join("layer.tar");
        fs::write(&file, with_attributes(&attributes)).unwrap();
        let applied = store.ok(["layer", "apply", file.to_str().unwrap()]);
        let container = store.ok(["create", "--chain", applied.rsplit(' ').next().unwrap()]);
        for copied in [false, true] {
            let merged = store.mount(&container);
            if copied {
                fs::set_permissions(merged.join("f"), fs::Permissions::from_mode(0o664)).unwrap();
                fs::set_permissions(merged.join("f"), fs::Permissions::from_mode(0o674)).unwrap();
            }
            let line = Manifest::of(&merged).line("f").unwrap().to_owned();
            store.ok(["unmount", &container]);
            for value in [&shown, &acl] {
                assert!(line.contains(&hex(value)), "{copied}: no {} in {line}", hex(value));
            }
        }
        store.ok(["commit", &container, COMMITTED]);
        let again = store.create(COMMITTED);
        let line = Manifest::of(&store.mount(&again)).line("f").unwrap().to_owned();
        for value in [&shown, &acl] {
            assert!(line.contains(&hex(value)), "committed: no {} in {line}", hex(value));
        }
        store.ok(["unmount", &again]);
    }
}

#[test]
fn e33_ids_that_are_not_mapped_are_named() {
    sandbox!();
    require!(need::in_user_namespace(), Lack::Declined("to root every id is mapped"));
    let unmapped = 4_000_000_000_u32;
    let cap = [&b"\x01\0\0\x03\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], &unmapped.to_le_bytes()];
    for (name, value) in
        [("security.capability", cap.concat()), ("system.posix_acl_access", acl(unmapped, 5))]
    {
        let store = Store::new();
        let file = store.scratch().join("layer.tar");
        fs::write(&file, with_attributes(&[(name, &value)])).unwrap();
        let said = store.fails(["layer", "apply", file.to_str().unwrap()]);
        assert!(said.contains(name) && said.contains("not mapped"), "{said}");
    }
}
