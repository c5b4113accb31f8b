//! Random layers with an UpperDir that random operations have changed, for the tests of others.

use proptest::prelude::*;

use super::backend::{Backend, Op};
use super::bed::{self, Bed, Manner, merged};
use super::machine;
use crate::merged::{Redirects, Tree};
use crate::{Dir, Namespace};

/// Layers after some changes.
#[derive(Debug)]
pub(crate) struct Scene {
    bed: Bed,
    lowers: usize,
}

/// Runs a property on random scenes, with redirects or without, as many as the tests of this room
/// have cases.
pub(crate) fn random_scenes(test: &str, property: impl Fn(&Scene) -> Result<(), String>) {
    let plain = Manner::plain();
    let strategy = (machine::layers(), prop::collection::vec(machine::op(), 1..25), any::<bool>());
    machine::run(test, &strategy, |(layers, ops, moved)| {
        let redirects = match plain.namespace {
            Namespace::Trusted if moved => Redirects::Write,
            _ => Redirects::Refuse,
        };
        let bed = Bed::new(&layers, Manner { redirects, ..plain });
        let tree = bed.tree();
        for op in &ops {
            // Nobody without privilege can write a tar of a directory that is closed to them.
            let open = match op {
                Op::Chmod(path, 0o600) => Op::Chmod(path.clone(), 0o700),
                op => op.clone(),
            };
            drop(tree.run(&open));
        }
        drop(tree);
        property(&Scene { bed, lowers: layers.len() })
    });
}

impl Scene {
    pub(crate) fn namespace(&self) -> Namespace {
        self.bed.manner.namespace
    }

    /// The UpperDir, and the lower directories below it, topmost first.
    pub(crate) fn layers(&self) -> Vec<Dir> {
        let lowers = (0..self.lowers).map(|index| format!("lower{index}"));
        let names = std::iter::once("upper".to_owned()).chain(lowers);
        names.map(|name| Dir::open_ambient(self.bed.path(&name)).unwrap()).collect()
    }

    /// A directory that was made by [`new_dir`](Self::new_dir).
    pub(crate) fn dir(&self, name: &str) -> Dir {
        Dir::open_ambient(self.bed.path(name)).unwrap()
    }

    /// A new empty directory on the same file system.
    pub(crate) fn new_dir(&self, name: &str) -> Dir {
        std::fs::create_dir(self.bed.path(name)).unwrap();
        self.dir(name)
    }

    /// All that shows of a stack of layers, but the link counts of directories: how many layers
    /// there are is seen in them.
    pub(crate) fn shown(&self, layers: Vec<Dir>) -> Vec<String> {
        let options = Manner { redirects: Redirects::Follow, ..self.bed.manner }.options();
        let tree = Tree::read_only(layers, &options).unwrap();
        let without_links = |line: String| match line.split_once(" links=") {
            Some((before, after)) if line.contains(" Directory ") => {
                format!("{before} {}", after.split_once(' ').map_or("", |(_, rest)| rest))
            }
            _ => line,
        };
        merged(&tree).into_iter().map(without_links).collect()
    }

    /// Fails, telling what differs, unless two listings are the same.
    pub(crate) fn same(what: &str, one: &[String], other: &[String]) -> Result<(), String> {
        bed::same(what, one, other)
    }
}
