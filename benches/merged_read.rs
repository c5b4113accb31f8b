//! Looking into a merged tree of 1, 10 and 100 layers: through the userspace tree, by the kernel's
//! overlayfs over the same layers, and the same calls on the lowest layer alone (the floor).
//!
//! `first`: in a tree or mount that was just made; `again`: in one that has done the same before.
//! `OVERLAY2_RATIOS=11 cargo bench --bench merged_read` prints medians of interleaved runs and
//! their ratios.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its results go there")]
#![allow(clippy::indexing_slicing, clippy::disallowed_methods, reason = "paths of its own")]
#![allow(clippy::panic, reason = "a bench that cannot go on stops")]

mod stage;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use overlay2::Durability;
use overlay2::merged::Tree;
use rustix::fs::{AtFlags, Mode, OFlags};

use stage::{Case, Disk, Fresh, Side, measure, scaled};

/// What is looked at.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// The status of many names of one directory, one by one.
    Lookup,
    /// All names of one directory that one layer alone has.
    ListOne,
    /// All names of one directory to which every layer gives some.
    ListSpread,
    /// The status of everything in a tree.
    Walk,
}

fn names() -> usize {
    scaled(20_000, 200)
}

fn directories() -> usize {
    scaled(500, 5)
}

const FILES: usize = 100;
const LOOKUPS: usize = 1_000;

/// `lowest` has everything but `spread`, of whose names each layer has its share.
fn fill(place: &Path, layers: usize) -> Vec<PathBuf> {
    let touch = |path: PathBuf| drop(File::create(path).expect("create"));
    let lowers: Vec<_> = (0..layers).map(|number| place.join(format!("{number}"))).collect();
    for (number, layer) in lowers.iter().enumerate() {
        std::fs::create_dir_all(layer.join("spread")).expect("create");
        (number..names()).step_by(layers).for_each(|n| touch(layer.join(format!("spread/{n}"))));
    }
    let lowest = lowers.last().expect("a layer");
    std::fs::create_dir(lowest.join("one")).expect("create");
    (0..names()).for_each(|number| touch(lowest.join(format!("one/{number}"))));
    for dir in 0..directories() {
        let dir = lowest.join(format!("tree/{dir}"));
        std::fs::create_dir_all(&dir).expect("create");
        (0..FILES).for_each(|number| touch(dir.join(number.to_string())));
    }
    lowers
}

/// A side's way to look.
enum Open {
    Tree(Tree),
    Dir(OwnedFd),
    /// All layers, of which the last is the lowest.
    Layers(Vec<OwnedFd>),
}

impl Open {
    fn look(&self, look: Look) -> usize {
        match (self, look) {
            (Self::Tree(tree), Look::Lookup) => {
                let stat = |number| tree.metadata(format!("one/{number}")).expect("stat").len();
                lookups().map(stat).sum::<u64>() as usize + lookups().count()
            }
            (Self::Tree(tree), Look::ListOne) => tree.read_dir("one").expect("list").len(),
            (Self::Tree(tree), Look::ListSpread) => tree.read_dir("spread").expect("list").len(),
            (Self::Tree(tree), Look::Walk) => tree
                .walk("tree")
                .expect("walk")
                .fold(0, |count, entry| count + usize::from(entry.is_ok())),
            (Self::Layers(layers), Look::ListSpread) => {
                layers.iter().map(|dir| list(open(dir.as_fd(), "spread").as_fd()).len()).sum()
            }
            (Self::Layers(layers), look) => look_in(layers.last().expect("a layer").as_fd(), look),
            (Self::Dir(dir), look) => look_in(dir.as_fd(), look),
        }
    }
}

fn look_in(dir: BorrowedFd<'_>, look: Look) -> usize {
    match look {
        Look::Lookup => {
            let stat = |number| {
                let path = format!("one/{number}");
                rustix::fs::statat(dir, path, AtFlags::empty()).expect("stat").st_size
            };
            lookups().map(stat).sum::<i64>() as usize + lookups().count()
        }
        Look::ListOne => list(open(dir, "one").as_fd()).len(),
        Look::ListSpread => list(open(dir, "spread").as_fd()).len(),
        Look::Walk => walk(open(dir, "tree").as_fd()),
    }
}

fn lookups() -> impl Iterator<Item = usize> {
    (0..names()).step_by(names().div_ceil(LOOKUPS))
}

fn open(dir: BorrowedFd<'_>, name: &str) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).expect("open")
}

fn list(dir: BorrowedFd<'_>) -> Vec<String> {
    let entries = rustix::fs::Dir::read_from(dir).expect("list").map(|entry| entry.expect("entry"));
    let names = entries.map(|entry| entry.file_name().to_str().expect("UTF-8").to_owned());
    names.filter(|name| name != "." && name != "..").collect()
}

fn walk(dir: BorrowedFd<'_>) -> usize {
    let mut count = 0;
    for name in list(dir) {
        let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).expect("stat");
        count += 1;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            count += walk(open(dir, &name).as_fd());
        }
    }
    count
}

fn open_side(disk: &Disk, lowers: &[PathBuf], side: Side) -> (Open, Fresh) {
    let fresh = Fresh::on(disk);
    let open = match side {
        Side::Merged => Open::Tree(fresh.tree(lowers, Durability::None)),
        Side::Kernel => Open::Dir(fresh.mount(lowers, Durability::None).expect("a mount")),
        Side::Floor => Open::Layers(lowers.iter().map(|path| stage::open_dir(path)).collect()),
    };
    (open, fresh)
}

fn cases<'a>(disk: &'a Disk, lowers: &'a [PathBuf]) -> Vec<Case<'a>> {
    let kinds = [
        ("lookup of 1,000 names", Look::Lookup),
        ("readdir of 20,000 names of one layer", Look::ListOne),
        ("readdir of 20,000 names of all layers", Look::ListSpread),
        ("stat of 50,000 files", Look::Walk),
    ];
    let mut cases = Vec::new();
    for (name, look) in kinds {
        let timed = move |open: &Open| {
            let begin = Instant::now();
            assert!(std::hint::black_box(open.look(look)) > 0);
            begin.elapsed()
        };
        let first = move |side| timed(&open_side(disk, lowers, side).0);
        cases.push(Case { name: format!("{name}, first"), once: Box::new(first) });
        // One of each side, which is used before it is measured.
        let mut kept: Vec<(Side, Open, Fresh)> = Vec::new();
        let again = move |side: Side| -> Duration {
            if !kept.iter().any(|(other, ..)| *other == side) {
                let (open, fresh) = open_side(disk, lowers, side);
                open.look(look);
                kept.push((side, open, fresh));
            }
            let (_, open, _) = kept.iter().find(|(other, ..)| *other == side).expect("just made");
            timed(open)
        };
        cases.push(Case { name: format!("{name}, again"), once: Box::new(again) });
    }
    cases
}

fn benches(criterion: &mut Criterion) {
    let disk = Disk::here();
    let mut sides = Side::ALL.to_vec();
    if !stage::can_mount(&disk) {
        sides.retain(|side| *side != Side::Kernel);
    }
    for layers in [1, 10, 100] {
        let lowers = fill(&disk.path().join(format!("lower{layers}")), layers);
        let group = format!("merged_read over {layers} layers");
        measure(criterion, &group, &sides, cases(&disk, &lowers));
    }
}

fn main() {
    stage::enter_own_namespace();
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
