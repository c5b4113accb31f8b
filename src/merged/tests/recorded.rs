//! Where owners are recorded, a plain user does in the tree what root does in a mount.

use super::backend::{Backend, Op, Outcome};
use super::bed::Bed;
use super::callers::{USER, become_user, bed, can_become};
use super::rows::acl;
use crate::merged::{EntryKind, Ownership, Tree, XattrMode};

fn s(text: &str) -> String {
    text.to_owned()
}

/// The tree, with what the process may not do recorded.
fn tree(bed: &Bed) -> Tree {
    let dir = |name: &str| crate::Dir::open_ambient(bed.path(name)).unwrap();
    let options = bed.manner.options().ownership(Ownership::Recorded);
    super::bed::writable(vec![dir("lower0")], dir("upper"), dir("work"), &options)
}

/// Runs operations, and then others twice, as root in a mount, and as a plain user in a tree and in
/// the next one, and compares; what the plain user makes is its own, where what root makes is root's.
fn check(test: &str, lines: &[&str], ops: &[Op], looks: &[Op]) {
    if !can_become(test) {
        return;
    }
    let lines: Vec<String> = lines.iter().map(|line| s(line)).collect();
    let (ours, theirs) = (bed(std::slice::from_ref(&lines)), bed(std::slice::from_ref(&lines)));
    let mounted = theirs.mount().unwrap();
    let run = |backend: &dyn Backend, ops: &[Op]| -> Vec<Outcome> {
        let own = |text: String| text.replace(&format!("({USER}, "), "(0, ");
        ops.iter().map(|op| backend.run(op).map(own)).collect()
    };
    let act = || {
        become_user().unwrap();
        let first = run(&tree(&ours), &[ops, looks].concat());
        [first, run(&tree(&ours), looks)].concat()
    };
    let ours = std::thread::scope(|scope| scope.spawn(act).join().unwrap());
    for (op, our) in ops.iter().chain(looks).chain(looks).zip(ours) {
        assert_eq!(our, mounted.run(op), "{op:?}");
    }
}

/// Whether root's mount has devices to compare with, which one in a user namespace has not.
fn has_devices(test: &str) -> bool {
    let has = crate::sys::probe::can_make_devices();
    if !has {
        super::skip(test, "devices cannot be made here");
    }
    has
}

fn stats(paths: &[&str]) -> Vec<Op> {
    paths.iter().map(|path| Op::Lstat(s(path))).collect()
}

/// A change of owner takes away what lets others act as the owner; a write of root's does not.
#[test]
fn recorded_owners_change_as_real_ones() {
    let lines =
        ["f=data", "g=data", "r=data", "d/", "k/", "f^6755", "g^6745", "r^444", "d^3775", "k^555"];
    let chown = |path: &str, id| Op::Chown(s(path), id, id + 1);
    let mut ops = Vec::new();
    for path in ["f", "g", "r", "d", "k"] {
        // First what has no record yet, then what has one.
        ops.extend([chown(path, 5), Op::Stat(s(path)), chown(path, 7), Op::Stat(s(path))]);
    }
    for (path, mode) in [("f", 0o6755), ("g", 0o6745), ("d", 0o3775)] {
        ops.extend([Op::Chmod(s(path), mode), Op::Stat(s(path))]);
    }
    ops.extend([Op::Append(s("f"), s("x")), Op::Stat(s("f")), Op::Truncate(s("f"), 2)]);
    ops.extend([Op::CreateNew(s("k/n"), 0o600), Op::Append(s("r"), s("x")), Op::Stat(s("f"))]);
    ops.extend(["f", "g", "d"].map(|path| chown(path, 9)));
    let looks = stats(&["f", "g", "r", "d", "k"]);
    check("recorded_owners_change_as_real_ones", &lines, &ops, &looks);
}

/// A recorded set-group-ID directory hands its group on, and a directory in it does so too.
#[test]
fn recorded_groups_are_handed_on() {
    let test = "recorded_groups_are_handed_on";
    if !has_devices(test) {
        return;
    }
    let lines = ["d/", "d/w=1", "d/v/", "d/x=1"];
    let own = |path: &str| Op::Chown(s(path), 5, 6);
    let null = |path: &str| Op::Mknod(s(path), EntryKind::CharDevice, 0o600, 1, 3);
    let acl_name = || s("system.posix_acl_default");
    let ops = [
        vec![own("d"), Op::Chmod(s("d"), 0o2775), Op::Unlink(s("d/w")), Op::Rmdir(s("d/v"))],
        vec![Op::Unlink(s("d/x")), Op::Write(s("d/w"), s("1")), Op::Mkdir(s("d/v"), 0o755)],
        vec![null("d/x"), Op::Write(s("d/n"), s("2")), Op::Mkdir(s("d/e"), 0o700), null("d/c")],
        vec![Op::CreateNew(s("d/e/closed"), 0o400), Op::Mkdir(s("d/e/k"), 0o555)],
        vec![Op::SetXattr(s("d/v"), acl_name(), acl(), XattrMode::Set)],
        vec![Op::Mkdir(s("d/v/a"), 0o777), Op::CreateNew(s("d/v/b"), 0o666)],
        vec![Op::Unlink(s("d/v/b")), Op::CreateNew(s("d/v/b"), 0o666)],
    ];
    let made =
        ["d", "d/w", "d/v", "d/x", "d/n", "d/e", "d/c", "d/e/closed", "d/e/k", "d/v/a", "d/v/b"];
    check(test, &lines, &ops.concat(), &stats(&made));
}

/// A device of a layer stays one although the process may not make it again.
#[test]
fn devices_that_may_not_be_made_are_copied_up() {
    let test = "devices_that_may_not_be_made_are_copied_up";
    if !has_devices(test) {
        return;
    }
    let lines = ["c@1:3", "e@1:5", "d/", "d/c@1:7", "c^6640", "c#3:4"];
    let mv = |from: &str, to: &str| Op::Rename(s(from), s(to), crate::merged::RenameMode::Replace);
    let ops = [
        Op::Chown(s("c"), 5, 6),
        Op::Chmod(s("c"), 0o604),
        mv("e", "moved"),
        Op::Lchown(s("d/c"), 5, 6),
        Op::Link(s("d/c"), s("linked")),
        Op::SetTimes(s("moved"), 7),
        Op::Read(s("c")),
    ];
    let looks = [stats(&["c", "moved", "linked", "d/c"]), vec![Op::ReadDir(s("/"))]].concat();
    check(test, &lines, &ops, &looks);
}

/// A process that may give files away, but not with the set-group-ID bit of a group that it is not
/// in, records that.
#[test]
fn a_set_group_id_bit_that_cannot_be_set_is_recorded() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let test = "a_set_group_id_bit_that_cannot_be_set_is_recorded";
    if !can_become(test) {
        return;
    }
    let lines =
        ["f=1", "f#0:1001", "f^2644", "g=1", "g#0:1001", "g^2755", "d/", "d#0:1001", "d^2775"];
    let bed = bed(&[lines.map(s).to_vec()]);
    let looks = || ["f", "g", "d"].map(|path| tree(&bed).run(&Op::Lstat(s(path))).unwrap());
    let act = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::FSETID);
        set_capabilities(None, sets).unwrap();
        let tree = tree(&bed);
        for path in ["f", "g", "d"] {
            tree.run(&Op::SetTimes(s(path), 5)).unwrap();
        }
        tree.run(&Op::Mkdir(s("d/new"), 0o755)).unwrap();
        tree.run(&Op::Lstat(s("d/new"))).unwrap()
    };
    let new = std::thread::scope(|scope| scope.spawn(act).join().unwrap());
    assert!(new.contains(" 2755 (0, 1001) "), "{new}");
    for (look, mode) in looks().iter().zip(["2644", "2755", "2775"]) {
        assert!(look.contains(&format!(" {mode} (0, 1001) ")), "{look}");
    }
}
