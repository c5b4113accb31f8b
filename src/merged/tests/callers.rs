//! What a user who is not root may do: what the kernel lets the same user do in a mount.
//!
//! A mount changes the layers with the rights of who mounted, the userspace tree with those of the
//! process alone. So the kernel allows more: to copy up what is somebody else's, or cannot be read.
//! The userspace tree refuses that with EPERM or EACCES; in all else the two agree, and it never
//! allows what the kernel refuses.

use std::os::unix::fs::{PermissionsExt, chown};

use proptest::prelude::*;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::backend::{Backend, Op, Outcome};
use super::bed::{Bed, Manner, lost_track, merged, same};
use super::machine::{self, run};
use crate::Namespace;
use crate::merged::{EntryKind, Redirects, RenameMode, XattrMode};

pub(super) const USER: u32 = 1000;
const STRANGER: u32 = 1001;

/// Becomes the user, in this thread alone.
pub(super) fn become_user() -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    set_thread_groups(&[group])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

/// Whether the process can become several users, and mount for them.
pub(super) fn can_become(test: &str) -> bool {
    let user = std::thread::spawn(become_user).join().unwrap();
    let stranger = std::thread::spawn(|| {
        let stranger = Uid::from_raw(STRANGER);
        set_thread_res_uid(stranger, stranger, stranger)
    });
    if let Err(error) = user.and(stranger.join().unwrap()) {
        super::skip(test, &format!("this process cannot become another user: {error}"));
        return false;
    }
    machine::can_mount(test)
}

fn manner() -> Manner {
    Manner { namespace: Namespace::User, redirects: Redirects::Refuse }
}

/// A bed that the user can get to, with the UpperDir and the WorkDir its own.
pub(super) fn bed(layers: &[Vec<String>]) -> Bed {
    let bed = Bed::new(layers, manner());
    std::fs::set_permissions(bed.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["upper", "work"] {
        chown(bed.path(name), Some(USER), Some(USER)).unwrap();
    }
    bed
}

/// What the operations came to, and what then showed.
type Seen = (Vec<Outcome>, Vec<String>);

/// Runs operations as the user; `until` ends them where it says so of an outcome.
fn as_user(backend: &(dyn Backend + Sync), ops: &[Op]) -> Seen {
    let act = || {
        become_user().unwrap();
        (ops.iter().map(|op| backend.run(op)).collect(), merged(backend))
    };
    std::thread::scope(|scope| scope.spawn(act).join().unwrap())
}

fn on_merged(bed: &Bed, ops: &[Op]) -> Seen {
    let open_and_act = || {
        become_user().unwrap();
        let tree = bed.tree();
        (ops.iter().map(|op| tree.run(op)).collect(), merged(&tree))
    };
    std::thread::scope(|scope| scope.spawn(open_and_act).join().unwrap())
}

fn on_kernel(bed: &Bed, ops: &[Op]) -> Seen {
    as_user(&bed.mount().unwrap(), ops)
}

/// Owners and modes for every name of some layers, and operations.
fn scene(
    owners: &[&'static str],
    modes: &[&'static str],
) -> impl Strategy<Value = (Vec<Vec<String>>, Vec<Op>)> + use<> {
    let owner = prop::sample::select(owners.to_vec());
    let mode = prop::sample::select(modes.to_vec());
    let marks = prop::collection::vec((owner, mode), 64);
    let ops = prop::collection::vec(machine::op().prop_map(for_user), 1..20);
    (machine::layers(), marks, ops).prop_map(|(mut layers, marks, ops)| {
        let mut marks = marks.into_iter().cycle();
        for layer in &mut layers {
            // No user can copy up a device either.
            layer.iter_mut().for_each(|line| *line = line.replace("@1:3", "|"));
            own(layer, &mut marks);
        }
        (layers, ops)
    })
}

/// No user may make a device; whether the process may is asked only once.
fn for_user(op: Op) -> Op {
    match op {
        Op::Mknod(path, EntryKind::CharDevice, mode, ..) => {
            Op::Mknod(path, EntryKind::Fifo, mode, 0, 0)
        }
        op => op,
    }
}

/// Gives every file of a layer an owner and a mode.
fn own(layer: &mut Vec<String>, marks: &mut impl Iterator<Item = (&'static str, &'static str)>) {
    let mut more = Vec::new();
    for line in &*layer {
        let is_mark = ["/!", "/?", "!"].iter().any(|end| line.ends_with(end));
        let ends = ['/', '=', '-', '|', '@'];
        let Some(end) = line.rfind('/').filter(|at| at + 1 == line.len()).or(line.find(&ends[1..]))
        else {
            continue;
        };
        if is_mark || line.contains('%') || line.contains('^') {
            continue;
        }
        let path = &line[..end];
        let (owner, mode) = marks.next().unwrap();
        more.push(format!("{path}#{owner}"));
        if !line.contains("->") {
            more.push(format!("{path}^{mode}"));
        }
    }
    // Owners first, since a change of owner clears bits of the mode.
    more.sort_by_key(|line| line.contains('^'));
    layer.extend(more);
}

/// In layers of one's own that can be read there is no difference at all.
#[test]
fn in_layers_of_their_own_users_may_do_what_the_kernel_lets_them() {
    let test = "in_layers_of_their_own_users_may_do_what_the_kernel_lets_them";
    if !can_become(test) {
        return;
    }
    let scene = scene(&["1000:1000"], &["755", "700", "555", "500", "1777", "2750"]);
    run(test, &scene, |(layers, ops)| {
        let (ours, theirs) = (bed(&layers), bed(&layers));
        let before = ours.lowers();
        let (our_outcomes, our_tree) = on_merged(&ours, &ops);
        let (their_outcomes, their_tree) = on_kernel(&theirs, &ops);
        for ((op, our), their) in ops.iter().zip(&our_outcomes).zip(&their_outcomes) {
            if lost_track(manner(), their) {
                return Ok(());
            }
            if our != their {
                return Err(format!("{op:?}: merged {our:?}, kernel {their:?}\nof {ops:?}"));
            }
        }
        same("the merged tree", &our_tree, &their_tree)?;
        same("the UpperDir", &ours.without_impure(), &theirs.without_impure())?;
        same("the lower directories", &ours.lowers().concat(), &before.concat())?;
        same("merged's, mounted", &our_tree, &as_user(&ours.mount().unwrap(), &[]).1)
    });
}

/// Runs operations as the user on the kernel and on `merged`, over one layer, and compares.
fn check(test: &str, lines: &[&str], ops: &[Op]) {
    if can_become(test) {
        let layer: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let (ours, theirs) = (bed(std::slice::from_ref(&layer)), bed(std::slice::from_ref(&layer)));
        let (our_outcomes, our_tree) = on_merged(&ours, ops);
        let (their_outcomes, their_tree) = on_kernel(&theirs, ops);
        for ((op, our), their) in ops.iter().zip(our_outcomes).zip(their_outcomes) {
            assert_eq!(our, their, "{test}: {op:?}");
        }
        same("the merged tree", &our_tree, &their_tree).unwrap();
        same("the UpperDir", &ours.without_impure(), &theirs.without_impure()).unwrap();
    }
}

#[test]
fn a_directory_that_may_not_be_searched_leads_nowhere() {
    let s = str::to_owned;
    let all = |path: &str| [Op::Stat(s(path)), Op::Lstat(s(path)), Op::ReadDir(s(path))];
    let paths = ["d/..", "d/.", "d/e", "d/e/..", "d/f", "d/none", "d/e/g"];
    let mut ops: Vec<Op> = paths.iter().flat_map(|path| all(path)).collect();
    let looks = ops.clone();
    // What was found before is found no more.
    ops.push(Op::Chmod(s("d"), 0o600));
    ops.extend(looks.clone());
    let mv = |from: &str, to: &str| Op::Rename(s(from), s(to), RenameMode::Replace);
    ops.extend([Op::Unlink(s("d/f")), mv("d/f", "x"), mv("d/f", "none/x"), mv("none/x", "d/x")]);
    ops.extend([mv("x", "d/f"), Op::Link(s("x"), s("d/x")), Op::Write(s("d/n/"), s(""))]);
    ops.push(Op::Chmod(s("d"), 0o700));
    ops.extend(looks);
    let lines = ["d/", "d/e/", "d/f=1", "d/e/g=1"];
    let owned = lines.map(|line| format!("{}#1000:1000", line.trim_end_matches(['/', '1', '='])));
    let lines: Vec<&str> = lines.into_iter().chain(owned.iter().map(String::as_str)).collect();
    check("a_directory_that_may_not_be_searched_leads_nowhere", &lines, &ops);
}

#[test]
fn others_files_are_not_linked() {
    let s = str::to_owned;
    let lines = ["f=1", "g=1", "h=1", "l->f", "p|", "d/", "g^666", "h^4777", "d#1000:1000"];
    let mut ops = Vec::new();
    for path in ["f", "h", "l", "p", "d", "none"] {
        ops.extend(["new", "d/new", "f", "none/x"].map(|to| Op::Link(s(path), s(to))));
    }
    check("others_files_are_not_linked", &lines, &ops);
}

/// Who may write to a file may set its times to now, and to nothing else.
#[test]
fn times_of_others_files_are_set_to_now_alone() {
    use crate::merged::SetTime::{At, Keep, Now};
    let test = "times_of_others_files_are_set_to_now_alone";
    if !can_become(test) {
        return;
    }
    let at = At(crate::Timestamp::from_seconds(7));
    let mut ops = Vec::new();
    for path in ["open", "closed", "own", "dir"] {
        for access in [Now, Keep, at] {
            ops.extend([Now, Keep, at].map(|to| Op::SetBothTimes(path.to_owned(), access, to)));
        }
        ops.push(Op::Stat(path.to_owned()));
    }
    let upper = |bed: &Bed| {
        for (name, owner, mode) in
            [("open", STRANGER, 0o666), ("closed", STRANGER, 0o644), ("own", USER, 0o444)]
        {
            let path = bed.path("upper").join(name);
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true).open(&path).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let dir = bed.path("upper/dir");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    let (ours, theirs) = (bed(&[vec![]]), bed(&[vec![]]));
    [&ours, &theirs].into_iter().for_each(upper);
    let (ours, theirs) = (on_merged(&ours, &ops), on_kernel(&theirs, &ops));
    for ((op, our), their) in ops.iter().zip(&ours.0).zip(&theirs.0) {
        assert_eq!(our, their, "{op:?}");
    }
    assert_eq!(ours.1, theirs.1);
}

/// What only the privileged may set is refused before anything is copied up.
#[test]
fn attributes_of_the_privileged_are_not_the_users() {
    let s = str::to_owned;
    let mut ops = Vec::new();
    let capability = "\u{1}\0\0\u{2}\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    for path in ["f", "d", "others"] {
        for name in ["security.x", "trusted.x", "security.capability"] {
            ops.extend(
                [XattrMode::Set, XattrMode::Create, XattrMode::Replace]
                    .map(|mode| Op::SetXattr(s(path), s(name), s(capability), mode)),
            );
            ops.extend([Op::RemoveXattr(s(path), s(name)), Op::GetXattr(s(path), s(name))]);
        }
    }
    let lines = ["f=1", "d/", "others=1", "f#1000:1000", "d#1000:1000"];
    check("attributes_of_the_privileged_are_not_the_users", &lines, &ops);
}

#[test]
fn permission_is_asked_before_types() {
    let s = str::to_owned;
    let mv = |from: &str, to: &str| Op::Rename(s(from), s(to), RenameMode::Replace);
    let lines = [
        "c/",
        "c/d/",
        "c/f=1",
        "o/",
        "o/f=",
        "o/d/",
        "m/",
        "m/f=1",
        "m/d/",
        "m/k/",
        "c#1000:1000",
        "m#1000:1000",
        "m/f#1000:1000",
        "m/d#1000:1000",
        "m/k#1000:1000",
        "c^555",
        "o^1777",
        "m/d^555",
    ];
    let mut ops = Vec::new();
    for dir in ["c", "o", "m"] {
        for name in ["f", "d", "none", "f/", "d/", "none/"] {
            if dir == "o" && name.starts_with("none") {
                // Nothing new comes into a directory that only who mounted can copy up.
                continue;
            }
            let path = format!("{dir}/{name}");
            ops.extend([mv(&path, "m/f"), mv("m/d", &path), mv(&path, "n/"), mv("m/k", &path)]);
            ops.extend([Op::Unlink(path.clone()), Op::Rmdir(path.clone()), Op::Mkdir(path, 0o755)]);
        }
    }
    check("permission_is_asked_before_types", &lines, &ops);
}

const ANYBODYS: [&str; 6] = ["1000:1000", "1000:1000", "0:0", "1001:1001", "0:1000", "1000:1001"];

/// In layers of anybody's, and with modes that refuse, nothing more is allowed than by the kernel;
/// `excused` tells by ours and theirs what is refused because only who mounted could do it.
fn no_more_than_the_kernel(
    test: &str,
    modes: &[&'static str],
    excused: impl Fn(&Op, &Outcome, &Outcome) -> bool,
) {
    if !can_become(test) {
        return;
    }
    run(test, &scene(&ANYBODYS, modes), |(layers, ops)| {
        let (ours, theirs) = (bed(&layers), bed(&layers));
        let before = ours.lowers();
        let (our_outcomes, _) = on_merged(&ours, &ops);
        let (their_outcomes, _) = on_kernel(&theirs, &ops);
        for ((op, our), their) in ops.iter().zip(&our_outcomes).zip(&their_outcomes) {
            if our == their {
                continue;
            }
            if lost_track(manner(), their) {
                break;
            }
            if !excused(op, our, their) {
                return Err(format!("{op:?}: merged {our:?}, kernel {their:?}\nof {ops:?}"));
            }
            if their.is_ok() || matches!(their, Err(17 | 39 | 61)) {
                // The two trees differ from here on.
                break;
            }
        }
        same("the lower directories", &ours.lowers().concat(), &before.concat())
    });
}

#[test]
fn in_layers_of_others_only_the_mounter_copies_up_what_is_theirs() {
    let test = "in_layers_of_others_only_the_mounter_copies_up_what_is_theirs";
    let modes = ["755", "777", "555", "1777", "4755", "2775"];
    let only_mounter = |op: &Op, our: &Outcome, their: &Outcome| match (op, our, their) {
        (_, Err(1 | 13), Ok(_)) => true,
        // What the kernel finds out when it has copied up.
        (Op::SetXattr(..), Err(1 | 13), Err(17 | 61)) => true,
        (Op::Rename(..), Err(1 | 13), Err(39)) => true,
        _ => false,
    };
    no_more_than_the_kernel(test, &modes, only_mounter);
}

/// What cannot be read hides its marks too, so that it is not known what it is.
#[test]
fn in_closed_layers_only_the_mounter_sees_what_there_is() {
    let test = "in_closed_layers_only_the_mounter_sees_what_there_is";
    let modes = ["755", "777", "644", "000", "555", "070", "1777", "4755", "222", "600", "711"];
    let unreadable = |_: &Op, our: &Outcome, _: &Outcome| matches!(our, Err(1 | 13));
    no_more_than_the_kernel(test, &modes, unreadable);
}
