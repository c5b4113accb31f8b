//! What a container changed: its UpperDir against what lies below.

use super::change::{Change, ChangeKind};
use super::equal;
use super::node::{Depth, Node, Showing};
use super::old_tree::OldTree;
use super::options::{Recorded, View};
use super::walk::{self, At, Deletions, Visitor};
use crate::error::{Context, Result};
use crate::format::lookup::{Found, Stack};
use crate::inode::FileKind;
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::watch::{Phase, Progress, Watch};

/// Lists what `upper` adds to, modifies in and deletes from the tree of the layers `below`, which
/// may be none, sorted by the bytes of the paths. The root itself is never listed.
///
/// Of a deleted directory one line tells; a directory that was deleted and made again is modified,
/// and what it held is deleted. A directory that was moved (`redirect_dir=on`) is added with all
/// that it holds. What vanishes while the tree is read counts as not there.
///
/// # Errors
/// Where something may not be read; where a mark leads elsewhere and `below` refuses redirects.
pub(crate) fn compare(
    upper: &Dir,
    below: &Stack,
    view: View,
    subject: &str,
    watch: &Watch<'_>,
) -> Result<Vec<Change>> {
    let mut comparison = Comparison::new(view, subject, watch);
    walk::upper(upper, below, &mut comparison, watch)?;
    Ok(comparison.finish())
}

/// The visitor that lists.
pub(super) struct Comparison<'a> {
    view: View,
    subject: &'a str,
    watch: &'a Watch<'a>,
    changes: Vec<Change>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(view: View, subject: &'a str, watch: &'a Watch<'a>) -> Self {
        Self { view, subject, watch, changes: Vec::new() }
    }

    /// The changes, sorted by path.
    pub(super) fn finish(mut self) -> Vec<Change> {
        self.changes.sort_unstable();
        self.changes
    }

    fn add(&mut self, at: At<'_>, node: &Node, old: &mut OldTree<'_>) -> Result<()> {
        let path = at.path;
        let absent = matches!(old.found().during("look below for", path)?, Found::Absent);
        let kind = if absent { ChangeKind::Added } else { ChangeKind::Modified };
        if self.view == View::Pruned && !absent && !at.hides {
            let name = path.file_name().unwrap_or_default();
            let equal =
                equal::equals_below(node, name, old, &Showing::new(old.stack(), Recorded::Show));
            if equal.during("compare with what lies below", path)? {
                return Ok(());
            }
        }
        let size = match node.inode.kind {
            FileKind::Regular { size } => size,
            _ => 0,
        };
        self.push(Change { path: path.clone(), kind, size })
    }

    fn push(&mut self, change: Change) -> Result<()> {
        self.changes.push(change);
        self.watch.report(&Progress {
            subject: self.subject,
            phase: Phase::Compare,
            bytes: 0,
            total_bytes: None,
            entries: self.changes.len() as u64,
        })
    }
}

impl Visitor for Comparison<'_> {
    fn depth(&self) -> Depth {
        match self.view {
            View::Kernel => Depth::Status,
            View::Pruned => Depth::Whole,
        }
    }

    fn deletions(&self) -> Deletions {
        Deletions::All
    }

    fn root(&mut self, _: Node, _: &mut OldTree<'_>) -> Result<()> {
        Ok(())
    }

    fn directory(&mut self, at: At<'_>, node: Node, old: &mut OldTree<'_>) -> Result<()> {
        self.add(at, &node, old)
    }

    fn file(&mut self, at: At<'_>, node: Node, old: &mut OldTree<'_>) -> Result<()> {
        self.add(at, &node, old)
    }

    fn gone(&mut self, path: &LayerPath, _: &mut OldTree<'_>) -> Result<()> {
        self.push(Change { path: path.clone(), kind: ChangeKind::Deleted, size: 0 })
    }
}
