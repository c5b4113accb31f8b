//! Any number of threads makes the same layer, and fails as one does.

use std::collections::BTreeSet;

use overlay2::changeset::{Applied, Ownership};

use crate::run::{NOBODY, Scratch, WAYS, Way, is_root, possible};
use crate::tar::{Entry, dir, file, link, symlink, tar};
use crate::tree::Tree;

const THREADS: [usize; 3] = [1, 2, 16];

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Few names, so that many entries replace what a thread may still be writing, or link to it.
fn changeset(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut entries: Vec<Entry> = (0..4).map(|n| dir(format!("d{n}"))).collect();
    let mut files = BTreeSet::new();
    for turn in 0..500 {
        let name = format!("d{}/f{}", numbers.below(4), numbers.below(40));
        let known: Vec<String> = files.iter().cloned().collect();
        let target = known.get(numbers.below(known.len().max(1) as u64) as usize);
        match (numbers.below(20), target) {
            (0, _) => {
                files.remove(&name);
                entries.push(dir(&name));
            }
            (1, _) => {
                files.remove(&name);
                entries.push(symlink(&name, "f1"));
            }
            (2 | 3, Some(target)) if *target != name => {
                entries.push(link(&name, target));
                files.insert(name);
            }
            (kind, _) => {
                let most = if kind == 4 { 150_000 } else { 3_000 };
                let content = vec![b'a' + (turn % 26) as u8; numbers.below(most) as usize];
                entries.push(file(&name, content).mtime(i128::from(turn)));
                files.insert(name);
            }
        }
    }
    tar(&entries)
}

fn applied(way: Way, bytes: &[u8], threads: usize) -> (Applied, Tree, Option<Vec<u8>>) {
    let scratch = Scratch::new(way);
    let applied = scratch.apply_with(bytes, |options| options.threads = threads).unwrap();
    let again = (way != Way::Root).then(|| scratch.reassembled());
    (applied, scratch.tree(), again)
}

#[test]
fn the_layer_is_the_same() {
    for way in WAYS {
        if !possible("the_layer_is_the_same", way) {
            continue;
        }
        for seed in 0..2 {
            let bytes = changeset(seed);
            let (expected, tree, _) = applied(way, &bytes, 1);
            for threads in THREADS {
                let (found, found_tree, again) = applied(way, &bytes, threads);
                let case = format!("{way:?}, seed {seed}, {threads} threads");
                assert!(found_tree == tree, "{case}");
                assert_eq!(found.diff_id, expected.diff_id, "{case}");
                assert_eq!(
                    (found.entries, found.inodes, found.content_bytes),
                    (expected.entries, expected.inodes, expected.content_bytes),
                    "{case}"
                );
                assert!(again.is_none_or(|again| again == bytes), "{case}");
            }
        }
    }
}

#[test]
fn the_first_file_that_fails_is_named() {
    let own = if is_root() { NOBODY } else { rustix::process::geteuid().as_raw() };
    let own = i128::from(own);
    let group = if is_root() { own } else { rustix::process::getegid().as_raw().into() };
    let good = || (0..100).map(|n| file(format!("f{n}"), "x").owner(own, group));
    // No plain user may give files away.
    let bad = |name: &str| file(name, "y").owner(3, 3);
    let unreadable = file("d/../../..", "z");
    let changesets = [
        good().chain([bad("first"), bad("second")]).chain(good()).collect::<Vec<_>>(),
        good().chain([bad("first"), unreadable]).collect(),
        [bad("first")].into_iter().chain(good()).chain([bad("second")]).collect(),
    ];
    for (number, entries) in changesets.iter().enumerate() {
        for threads in THREADS {
            let scratch = Scratch::new(Way::PlainUser);
            let error = scratch.apply_with(&tar(entries), |options| {
                options.ownership = Ownership::Exact;
                options.threads = threads;
            });
            let error = error.unwrap_err().to_string();
            let case = format!("changeset {number}, {threads} threads: {error}");
            assert!(error.contains("\"first\"") && error.contains("set owner 3:3"), "{case}");
        }
    }
}
