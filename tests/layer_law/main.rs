//! The law of layers: whatever changesets are applied on top of each other, the stack shows what a
//! slow and obvious reading of the specification says; mounted by the kernel, and merged in
//! userspace.
//!
//! `OVERLAY2_CASES` is how many stacks are tried, `OVERLAY2_SEED` which; a failure prints its seed.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may panic, and prepares its files by path"
)]

#[path = "../common/mod.rs"]
mod common;
mod reading;
#[allow(dead_code, reason = "made for another test")]
#[path = "../changeset_apply/run.rs"]
mod run;
mod shown;
#[allow(dead_code, reason = "made for another test")]
#[path = "../changeset_apply/tar.rs"]
mod tar;
#[allow(dead_code, reason = "made for another test")]
#[path = "../changeset_apply/tree.rs"]
mod tree;
mod words;

use std::cell::{Cell, RefCell};

use overlay2::{
    ChainId, Driver, DriverOptions, Durability, ErrorKind, Namespace, Ownership, Watch,
};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use reading::{Reading, Why};
use words::{Layer, Word};

/// Who looks at the stacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Root, of the machine or of a user namespace: the kernel mounts, and userspace merges.
    Root,
    /// A plain user, who may not mount; owners are recorded.
    PlainUser,
}

/// Stacks in one store, which goes after a while.
struct Bed {
    place: tempfile::TempDir,
    driver: Driver,
    uses: u32,
}

impl Bed {
    fn new(who: Who) -> Self {
        let mut named = tempfile::Builder::new();
        named.prefix("overlay2-");
        // The plain user that root becomes need not be allowed to write where root may.
        let place = named.tempdir().or_else(|_| named.tempdir_in("/tmp")).unwrap();
        let mut options = DriverOptions::default();
        options.durability = Durability::None;
        if who == Who::PlainUser {
            options.namespace = Some(Namespace::User);
            options.ownership = Some(Ownership::Recorded);
        }
        let driver = Driver::open_with(place.path().join("store"), &options).unwrap();
        Self { place, driver, uses: 0 }
    }
}

/// What became of the cases.
#[derive(Default)]
struct Tally {
    shown: Cell<u32>,
    refused: Cell<u32>,
    open: Cell<u32>,
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

fn check(bed: &Bed, who: Who, layers: &[Layer], tally: &Tally) -> Result<(), String> {
    let mut reading = Reading::new();
    let mut chain: Option<ChainId> = None;
    let mut said: Vec<&[Word]> = Vec::new();
    for layer in layers {
        let words = match layer {
            Layer::Changeset(words) => words.as_slice(),
            Layer::Again(index) => match said.get(*index) {
                Some(words) => words,
                None => continue,
            },
        };
        let mut next = reading.clone();
        let expected = next.apply(words);
        if let Err(Why::Open(_)) = expected {
            count(&tally.open);
            continue;
        }
        let applied = bed.driver.apply(chain.as_ref(), &*words::packed(words), Watch::new());
        let applied = match (applied, expected) {
            (Ok(applied), Ok(())) => applied,
            (Err(error), Err(_)) if error.kind() == ErrorKind::InvalidData => {
                count(&tally.refused);
                continue;
            }
            (Err(error), Ok(())) if may_be_refused(words, &error.to_string()) => {
                count(&tally.refused);
                continue;
            }
            // A target may come after the link, by the name that it has then, or a later entry may
            // replace the link.
            (Ok(_), Err(Why::Refused(why))) if why.starts_with("a hard link to") => {
                count(&tally.open);
                continue;
            }
            (Ok(_), Err(why)) => return Err(format!("{words:?} is applied, {why:?}")),
            (Err(error), expected) => return Err(format!("{words:?}: {error}, {expected:?}")),
        };
        said.push(words);
        chain = Some(applied.chain_id);
        reading = next;
        shows(bed, who, applied.chain_id, &reading.lines())
            .map_err(|difference| format!("after {words:?}: {difference}"))?;
        count(&tally.shown);
    }
    Ok(())
}

/// A mark beneath a file, or beneath a symlink that leads nowhere, may be refused though it says
/// nothing; so may a hard link that a later entry replaces, or the target of one.
fn may_be_refused(words: &[Word], error: &str) -> bool {
    let nowhere = error.contains("no directory") || error.contains("too many symlinks");
    (words.iter().any(Word::is_mark) && nowhere) || error.contains("hard link")
}

fn shows(bed: &Bed, who: Who, chain: ChainId, expected: &[String]) -> Result<(), String> {
    let container = bed.driver.create(&chain.into(), None).unwrap();
    let merged = {
        let tree = bed.driver.tree(&container.id).unwrap();
        shown::merged(tree.tree())
    };
    same("merged in userspace", who, &merged, expected)?;
    bed.driver.remove_container(&container.id, Watch::new()).unwrap();
    if who == Who::Root {
        let view = bed.driver.view(&chain.into()).unwrap();
        same("mounted", who, &shown::mounted(view.root().try_clone().unwrap()), expected)?;
    }
    Ok(())
}

fn same(what: &str, who: Who, found: &[String], expected: &[String]) -> Result<(), String> {
    // Nothing can be recorded on a symlink.
    let comparable = |lines: &[String]| -> Vec<String> {
        let keep = |line: &&String| who == Who::Root || !line.contains(" l ");
        lines.iter().filter(keep).cloned().collect()
    };
    let (found, expected) = (comparable(found), comparable(expected));
    if found == expected {
        return Ok(());
    }
    let only = |these: &[String], those: &[String]| {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.map(|line| format!("\n    {line}")).collect::<String>()
    };
    let (more, less) = (only(&found, &expected), only(&expected, &found));
    Err(format!("{what}, this shows:{more}\n  and this should:{less}"))
}

fn law(test: &str, who: Who) {
    let number = |name: &str, radix| {
        std::env::var(name).ok().and_then(|text| u64::from_str_radix(&text, radix).ok())
    };
    let cases = number("OVERLAY2_CASES", 10).unwrap_or(150);
    let seed = number("OVERLAY2_SEED", 16).unwrap_or_else(|| {
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
    });
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 1_500,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (bed, tally) = (RefCell::new(Bed::new(who)), Tally::default());
    let devices = who == Who::PlainUser || !common::need::in_user_namespace();
    let result = runner.run(&words::stack(devices), |layers| {
        let mut bed = bed.borrow_mut();
        bed.uses += 1;
        // A store of its own now and then: else listing what it has takes longer and longer.
        if bed.uses > 100 {
            *bed = Bed::new(who);
        }
        check(&bed, who, &layers, &tally).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{test}, OVERLAY2_SEED={seed:x}: {error}");
    }
    let (shown, refused, open) = (tally.shown.get(), tally.refused.get(), tally.open.get());
    eprintln!("{test}: {shown} layers shown, {refused} refused, {open} open");
    assert!(u64::from(shown) >= cases, "only {shown} layers were looked at");
    assert!(u64::from(refused) * 40 >= cases, "only {refused} changesets were refused");
    drop(bed.into_inner().place);
}

#[test]
fn a_stack_shows_what_its_changesets_say() {
    sandbox!();
    law("a_stack_shows_what_its_changesets_say", Who::Root);
}

#[test]
fn a_stack_of_a_plain_user_shows_what_its_changesets_say() {
    run::as_plain_user(|| {
        law("a_stack_of_a_plain_user_shows_what_its_changesets_say", Who::PlainUser);
    });
}
