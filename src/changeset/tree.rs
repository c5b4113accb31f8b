//! [`Tree`]: the directories of a changeset while it is applied, and the marks that they collect.
//!
//! Marks count for the whole changeset whatever their place in the tar, so they are only written
//! once all of it was seen. Memory grows with directories and marks, not with files.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::limits;
use crate::error::Result;
use crate::inode::{Inode, Timestamp};
use crate::layer_path::LayerPath;

/// The bytes of a path up to which it counts as one mark: it is held several times over.
const USUAL_PATH: u64 = 64;

/// A directory's number; parents have smaller ones than what is beneath them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node(u32);

/// One directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: LayerPath,
    /// `None` for the root.
    pub(super) parent: Option<Node>,
    /// What its own entry says; `None` while it is only implied.
    pub(super) attributes: Option<Attributes>,
    /// An opaque marker stands in it, or something else was in its place before.
    pub(super) opaque: bool,
    /// A whiteout names it: what lies below is another directory than this.
    pub(super) recreated: bool,
    /// Whether the layers below can show in it; known at the end.
    pub(super) hidden: Hidden,
    /// The names that whiteouts in it delete.
    pub(super) whiteouts: BTreeSet<Box<[u8]>>,
    children: Vec<Node>,
    replaced: bool,
}

/// Whether the layers below are hidden in a directory, by its own mark or one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hidden {
    No,
    /// Unless a directory that is implied and opaque is a symlink below, where its mark is void.
    Unless,
    Yes,
}

/// What a directory's entry says of it.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) inode: Inode,
    pub(super) atime: Option<Timestamp>,
    pub(super) acls: [Option<Vec<u8>>; 2],
}

/// All directories of the changeset.
#[derive(Debug)]
pub(super) struct Tree {
    directories: Vec<Directory>,
    by_path: HashMap<LayerPath, Node>,
    /// Directories that something replaced, and whether they were only implied, each time.
    replaced: BTreeMap<LayerPath, bool>,
    marks: u64,
    limit: u64,
}

impl Tree {
    /// The layer's root.
    pub(super) const ROOT: Node = Node(0);

    /// A tree of the root alone, with room for `limit` directories and marks.
    pub(super) fn new(limit: u64) -> Self {
        let root = Directory::new(LayerPath::root(), None);
        let by_path = HashMap::from([(LayerPath::root(), Self::ROOT)]);
        Self { directories: vec![root], by_path, replaced: BTreeMap::new(), marks: 0, limit }
    }

    /// The directory at `path`.
    pub(super) fn find(&self, path: &LayerPath) -> Option<Node> {
        self.by_path.get(path).copied()
    }

    /// A directory by its number.
    pub(super) fn get(&self, node: Node) -> &Directory {
        // Numbers are only given out for directories that are kept.
        #[expect(clippy::indexing_slicing, reason = "a node is valid for the tree's whole life")]
        &self.directories[node.0 as usize]
    }

    /// A directory by its number, to change it.
    pub(super) fn get_mut(&mut self, node: Node) -> &mut Directory {
        #[expect(clippy::indexing_slicing, reason = "a node is valid for the tree's whole life")]
        &mut self.directories[node.0 as usize]
    }

    /// Adds the directory `name` beneath `parent`, where there is none of that name.
    pub(super) fn add(&mut self, parent: Node, path: LayerPath) -> Result<Node> {
        self.count_mark(&path)?;
        let node = Node(u32::try_from(self.directories.len()).unwrap_or(u32::MAX));
        self.directories.push(Directory::new(path.clone(), Some(parent)));
        self.by_path.insert(path, node);
        self.get_mut(parent).children.push(node);
        Ok(node)
    }

    /// Notes that a whiteout in `node` deletes `name`.
    pub(super) fn delete(&mut self, node: Node, name: &[u8]) -> Result<()> {
        self.count(1)?;
        self.get_mut(node).whiteouts.insert(name.into());
        Ok(())
    }

    /// Counts something that is held in memory by its path; a long path counts for many.
    pub(super) fn count_mark(&mut self, path: &LayerPath) -> Result<()> {
        self.count(1 + path.as_bytes().len() as u64 / USUAL_PATH)
    }

    fn count(&mut self, marks: u64) -> Result<()> {
        self.marks += marks;
        limits::check(self.marks, self.limit, "directories and marks in a changeset")
    }

    /// Forgets a directory that was replaced, with all beneath it.
    pub(super) fn forget(&mut self, node: Node) {
        let mut pending = vec![(node, true)];
        while let Some((node, shows_below)) = pending.pop() {
            let directory = self.get_mut(node);
            if directory.replaced {
                continue;
            }
            directory.replaced = true;
            let path = directory.path.clone();
            let is_implied = !directory.is_explicit();
            let is_clear = shows_below && !directory.opaque;
            let whiteouts = std::mem::take(&mut directory.whiteouts);
            for child in std::mem::take(&mut directory.children) {
                let name = self.get(child).path.file_name();
                let is_deleted = name.is_some_and(|name| whiteouts.contains(name));
                pending.push((child, is_clear && !is_deleted));
            }
            self.by_path.remove(&path);
            if shows_below || !is_implied {
                *self.replaced.entry(path).or_insert(true) &= is_implied;
            }
        }
    }

    /// Directories that were only implied when something replaced them, those left out that the
    /// changeset makes after all, or deletes below.
    pub(super) fn replaced(&self) -> Vec<LayerPath> {
        let mut known: HashMap<LayerPath, bool> = HashMap::new();
        let mut replaced = Vec::new();
        for (path, _) in self.replaced.iter().filter(|(_, is_implied)| **is_implied) {
            let (mut at, mut way, mut is_deleted) = (path.clone(), Vec::new(), false);
            while let Some((parent, name)) = at.split() {
                if let Some(above) = known.get(&at) {
                    is_deleted = *above;
                    break;
                }
                let parent_node = self.find(&parent).map(|node| self.get(node));
                way.push((parent_node.is_some_and(|node| node.whiteouts.contains(name)), at));
                at = parent;
            }
            for (is_named, at) in way.into_iter().rev() {
                is_deleted |= is_named;
                known.insert(at, is_deleted);
            }
            if !is_deleted && self.find(path).is_none() {
                replaced.push(path.clone());
            }
        }
        replaced
    }

    /// The directories that are there, parents before what is beneath them.
    pub(super) fn nodes(&self) -> impl DoubleEndedIterator<Item = Node> + use<> {
        let there: Vec<Node> = (0..)
            .zip(&self.directories)
            .filter(|(_, directory)| !directory.replaced)
            .map(|(index, _)| Node(index))
            .collect();
        there.into_iter()
    }
}

impl Directory {
    fn new(path: LayerPath, parent: Option<Node>) -> Self {
        Self {
            path,
            parent,
            attributes: None,
            opaque: false,
            recreated: false,
            hidden: Hidden::No,
            whiteouts: BTreeSet::new(),
            children: Vec::new(),
            replaced: false,
        }
    }
}
