//! [`Contested`]: where a symlink below would make entries of a changeset lead elsewhere, though
//! nothing in the layer tells.

use std::collections::{BTreeSet, VecDeque};

use super::tree::Tree;
use super::unpack::Unpack;
use crate::error::{Context, Result};
use crate::layer_path::LayerPath;

/// What is noted while entries come.
#[derive(Debug, Default)]
pub(super) struct Contested {
    /// Directories that were only implied when a symlink led out of them by `..`.
    left: BTreeSet<LayerPath>,
    /// The parents of targets that hard links wait for.
    awaited: BTreeSet<LayerPath>,
}

impl Contested {
    /// Notes a directory; `false` where it is known.
    pub(super) fn left(&mut self, path: &LayerPath) -> bool {
        !path.is_root() && !self.left.contains(path) && self.left.insert(path.clone())
    }

    pub(super) fn waits_for(&mut self, target: &LayerPath) {
        self.awaited.extend(target.parent().filter(|parent| !parent.is_root()));
    }
}

impl Unpack<'_> {
    /// All of these paths, now that every entry has come.
    pub(super) fn contested(&mut self) -> Result<Vec<LayerPath>> {
        let Contested { left, awaited } = std::mem::take(&mut self.contested);
        let mut paths: Vec<LayerPath> = left.into_iter().collect();
        for path in awaited {
            paths.extend(self.replaced_on(&path)?);
        }
        Ok(paths)
    }

    /// The first name on the way to `path` that is there and no directory.
    fn replaced_on(&mut self, path: &LayerPath) -> Result<Option<LayerPath>> {
        let (mut node, mut at) = (Tree::ROOT, LayerPath::root());
        for name in path.components() {
            let next = at.join(name);
            if let Some(found) = self.tree.find(&next) {
                (node, at) = (found, next);
                continue;
            }
            let there = self.handle(node)?.stat_if_exists(name).during("stat", &next)?;
            return Ok(there.map(|_| next));
        }
        Ok(None)
    }
}

/// Drops the names that lead out again of a directory that is not there; `false` where they do not.
pub(super) fn leave_again(names: &mut VecDeque<Vec<u8>>) -> bool {
    let mut depth = 1_usize;
    while let Some(name) = names.pop_front() {
        depth = if name == b".." { depth - 1 } else { depth + 1 };
        if depth == 0 {
            return true;
        }
    }
    false
}
