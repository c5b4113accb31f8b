//! Random operations, on names that collide: against the kernel, and against a plain tree.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::backend::{Backend, Op};
use super::bed::{self, Bed, Manner, Who, same};
use crate::merged::{EntryKind, Redirects, RenameMode, XattrMode};

/// Whether overlays can be mounted here in the way that the tests use.
pub(super) fn can_mount(test: &str) -> bool {
    match Bed::new::<&str>(&[vec![]], Manner::plain()).mount() {
        Ok(_) => true,
        Err(error) => {
            super::skip(test, &format!("no overlay can be mounted: {error}"));
            false
        }
    }
}

/// As [`can_mount`], with marks in `trusted.overlay`.
pub(super) fn can_mount_trusted(test: &str) -> bool {
    if Manner::plain().namespace == crate::Namespace::Trusted {
        return can_mount(test);
    }
    super::skip(test, "trusted attributes need privilege");
    false
}

/// How many cases are run: `OVERLAY2_CASES`, else few.
pub(super) fn cases() -> u32 {
    std::env::var("OVERLAY2_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64)
}

/// Runs a property; a failure prints its seed, and `OVERLAY2_SEED` begins with it again.
pub(super) fn run<S: Strategy>(
    test: &str,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), String>,
) where
    S::Value: std::fmt::Debug,
{
    use proptest::test_runner::{RngAlgorithm, TestRng};
    let given =
        std::env::var("OVERLAY2_SEED").ok().and_then(|text| u64::from_str_radix(&text, 16).ok());
    let seed = given.unwrap_or_else(|| {
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
    });
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(strategy, |value| property(value).map_err(TestCaseError::fail));
    if let Err(error) = result {
        panic!("{test}, OVERLAY2_SEED={seed:x}: {error}");
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A path of one to three of three names.
pub(super) fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => prop::collection::vec(prop::sample::select(&NAMES[..]), 1..3).prop_map(|names| names.join("/")),
        1 => prop::collection::vec(prop::sample::select(&NAMES[..]), 3..4).prop_map(|names| names.join("/")),
    ]
}

/// A path that may end oddly.
fn odd_path() -> impl Strategy<Value = String> {
    prop_oneof![
        30 => path(),
        1 => path().prop_map(|path| path + "/"),
        1 => path().prop_map(|path| path + "/."),
        1 => path().prop_map(|path| path + "/.."),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[x-z]{1,9}", Just("long".repeat(3000))]
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        3 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange)
    ]
}

fn xattr_mode() -> impl Strategy<Value = XattrMode> {
    prop_oneof![3 => Just(XattrMode::Set), 1 => Just(XattrMode::Create), 1 => Just(XattrMode::Replace)]
}

fn xattr_name() -> impl Strategy<Value = String> {
    let own = Manner::plain().namespace.prefix();
    let names = [
        "user.a".to_owned(),
        "user.b".to_owned(),
        format!("{own}opaque"),
        format!("{own}overlay.x"),
    ];
    prop::sample::select(names.to_vec())
}

/// What makes, moves and removes names.
fn name_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => odd_path().prop_map(Op::Unlink),
        3 => odd_path().prop_map(Op::Rmdir),
        3 => (odd_path(), prop::sample::select(vec![0o755, 0o700, 0o2775])).prop_map(|(p, m)| Op::Mkdir(p, m)),
        5 => (odd_path(), odd_path(), rename_mode()).prop_map(|(a, b, m)| Op::Rename(a, b, m)),
        2 => (odd_path(), odd_path()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => (path(), odd_path()).prop_map(|(a, b)| Op::Symlink(a, b)),
        1 => (odd_path(), prop::sample::select(vec![EntryKind::Fifo, EntryKind::CharDevice, EntryKind::Regular]), 0..2u32)
            .prop_map(|(p, k, minor)| Op::Mknod(p, k, 0o640, 0, minor)),
        2 => (odd_path(), Just(0o640)).prop_map(|(p, m)| Op::CreateNew(p, m)),
    ]
}

/// What changes files.
fn file_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (odd_path(), text()).prop_map(|(p, t)| Op::Write(p, t)),
        2 => (path(), 0..20u64, text()).prop_map(|(p, at, t)| Op::Patch(p, at, t)),
        2 => (path(), text()).prop_map(|(p, t)| Op::Append(p, t)),
        1 => path().prop_map(Op::OpenWrite),
        1 => (path(), 0..20u64).prop_map(|(p, len)| Op::Truncate(p, len)),
        1 => (path(), 0..4u64, 1..9000u64).prop_map(|(p, at, len)| Op::PunchHole(p, at, len)),
        1 => (path(), prop::sample::select(vec![0o755, 0o600, 0o4755])).prop_map(|(p, m)| Op::Chmod(p, m)),
        1 => (path(), 0..1000i64).prop_map(|(p, at)| Op::SetTimes(p, at)),
        1 => (path(), 0..1000i64).prop_map(|(p, at)| Op::SetSymlinkTimes(p, at)),
        2 => (path(), xattr_name(), "[x-z]{0,3}", xattr_mode()).prop_map(|(p, n, v, m)| Op::SetXattr(p, n, v, m)),
        1 => (path(), xattr_name()).prop_map(|(p, n)| Op::RemoveXattr(p, n)),
    ]
}

/// What only looks.
fn look_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        odd_path().prop_map(Op::Stat),
        odd_path().prop_map(Op::Lstat),
        odd_path().prop_map(Op::ReadDir),
        path().prop_map(Op::ReadLink),
        path().prop_map(Op::ListXattrs),
        (path(), xattr_name()).prop_map(|(p, n)| Op::GetXattr(p, n)),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![6 => name_op(), 4 => file_op(), 2 => look_op()]
}

/// A lower directory: every kind of file and mark, none under what is no directory.
pub(super) fn layer() -> impl Strategy<Value = Vec<String>> {
    let kind = prop::sample::select(vec![
        "/", "/", "/", "/", "/!", "=", "=text", "=text", "!", "!", "->a", "->/b/c", "|", "@1:3",
        "%", "!!", "^",
    ]);
    prop::collection::vec((path(), kind), 0..9).prop_map(|entries| {
        let mut made: Vec<(String, bool)> = Vec::new();
        let mut lines = Vec::new();
        let mut sorted = entries;
        sorted.sort_by_key(|(path, _)| path.len());
        for (path, kind) in sorted {
            let parent_is_dir = path
                .rsplit_once('/')
                .is_none_or(|(parent, _)| made.iter().any(|(p, is_dir)| p == parent && *is_dir));
            if !parent_is_dir || made.iter().any(|(other, _)| *other == path) {
                continue;
            }
            let is_dir = matches!(kind, "/" | "/!");
            made.push((path.clone(), is_dir));
            match kind {
                "/!" => lines.extend([format!("{path}/"), format!("{path}/!")]),
                "%" => lines.extend([format!("{path}=x"), format!("{path}%user.a=lower")]),
                "^" => lines.extend([format!("{path}=suid"), format!("{path}^4711")]),
                kind => lines.push(format!("{path}{kind}")),
            }
        }
        lines
    })
}

pub(super) fn layers() -> impl Strategy<Value = Vec<Vec<String>>> {
    prop::collection::vec(layer(), 1..6)
}

fn against_kernel(manner: Manner, test: &str) {
    let strategy = (layers(), prop::collection::vec(op(), 1..25));
    run(test, &strategy, |(layers, ops)| bed::try_in(manner, &layers, &ops));
}

#[test]
fn random_operations_as_in_the_kernel() {
    if can_mount("random_operations_as_in_the_kernel") {
        against_kernel(Manner::plain(), "random_operations_as_in_the_kernel");
    }
}

#[test]
fn random_operations_with_redirects() {
    if can_mount_trusted("random_operations_with_redirects") {
        let manner = Manner { redirects: Redirects::Write, ..Manner::plain() };
        against_kernel(manner, "random_operations_with_redirects");
    }
}

/// Kernel and userspace change the same directories in turn, and never see a difference.
#[test]
fn taking_turns() {
    if !can_mount("taking_turns") {
        return;
    }
    let turns = prop::collection::vec(prop::collection::vec(op(), 1..8), 2..5);
    run("taking_turns", &(layers(), turns), |(layers, turns)| {
        let beds = [Bed::new(&layers, Manner::plain()), Bed::new(&layers, Manner::plain())];
        let before = beds[0].lowers();
        let mut who = [Who::Merged, Who::Kernel];
        for ops in turns {
            let backends: Vec<Box<dyn Backend>> =
                beds.iter().zip(who).map(|(bed, who)| bed.open(who)).collect();
            for op in &ops {
                let (one, other) = (backends[0].run(op), backends[1].run(op));
                if [&one, &other].iter().any(|outcome| bed::lost_track(Manner::plain(), outcome)) {
                    return Ok(());
                }
                if one != other {
                    return Err(format!("{op:?}: {:?} {one:?}, {:?} {other:?}", who[0], who[1]));
                }
            }
            let trees = [bed::merged(&*backends[0]), bed::merged(&*backends[1])];
            drop(backends);
            same("the merged tree", &trees[0], &trees[1])?;
            let [ours, theirs] = [&beds[0], &beds[1]].map(Bed::without_impure);
            same("the UpperDir", &ours, &theirs)?;
            who.swap(0, 1);
        }
        let after = beds.map(|bed| bed.lowers());
        same("a lower directory", &after[0].concat(), &before.concat())?;
        same("a lower directory", &after[1].concat(), &before.concat())
    });
}
