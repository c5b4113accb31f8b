//! Two stacks compared: what has to be done to the tree of one to make it that of the other.

use std::collections::HashSet;
use std::io::Write;

use super::change::Change;
use super::compare::Comparison;
use super::new_tree::Handle;
use super::node::{Depth, Node};
use super::old_tree::OldTree;
use super::options::{DiffOptions, DiffSummary, View};
use super::pack::Packer;
use super::tar_writer::TarWriter;
use super::walk::{self, At, Deletions, Visitor};
use crate::error::Result;
use crate::format::lookup::{Found, MergedDir, Stack};
use crate::layer_path::LayerPath;
use crate::pipe;
use crate::sys::dir::SysResult;
use crate::watch::Watch;

/// Lists what the tree of `new` adds to, modifies in and deletes from that of `old`, sorted by the
/// bytes of the paths. The root itself is never listed.
///
/// What counts as modified is what [`View::Pruned`] says; a file that has several names now, or had,
/// with all of them, unless it is the very same file of one layer under each.
///
/// # Errors
/// Where something may not be read.
pub(crate) fn compare_stacks(
    old: &Stack,
    new: &Stack,
    subject: &str,
    watch: &Watch<'_>,
) -> Result<Vec<Change>> {
    let links = BrokenLinks::find(old, new, watch)?;
    let mut comparison = Comparison::new(View::Pruned, subject, watch);
    walk::between(old, new, &links, &mut comparison, watch)?;
    Ok(comparison.finish())
}

/// Writes the changeset that makes the tree of `old` that of `new`, as
/// [`write_diff`](super::write::write_diff) does; `options.view` does not matter.
///
/// # Errors
/// As [`write_diff`](super::write::write_diff).
pub(crate) fn write_between(
    old: &Stack,
    new: &Stack,
    out: &mut dyn Write,
    options: &DiffOptions,
    subject: &str,
    watch: &Watch<'_>,
) -> Result<DiffSummary> {
    let links = BrokenLinks::find(old, new, watch)?;
    let options = DiffOptions { view: View::Pruned, ..options.clone() };
    pipe::ahead_of(out, "changeset", |out| {
        let tar = TarWriter::new(out, watch, subject);
        let mut packer = Packer::new(tar, &options, new);
        walk::between(old, new, &links, &mut packer, watch)?;
        packer.finish()
    })
}

/// Files of several names of which one is new or was another file before: then none of their names
/// may be left out, or the names would not belong together any more. By device and inode number.
#[derive(Debug, Default)]
pub(super) struct BrokenLinks(HashSet<(u64, u64)>);

impl BrokenLinks {
    /// Walks the trees once for it. Mostly there are none, and then it is a walk over what differs.
    fn find(old: &Stack, new: &Stack, watch: &Watch<'_>) -> Result<Self> {
        let mut found = Self::default();
        walk::between(old, new, &Self::default(), &mut found, watch)?;
        Ok(found)
    }

    /// Whether a file is left out without a look at it: both stacks have it from one layer.
    pub(super) fn same_files(&self, new: &Node, old: &Found) -> bool {
        let Found::File(file) = old else { return false };
        let identity = new.identity();
        (file.stat.st_dev, file.stat.st_ino) == identity && !self.0.contains(&identity)
    }

    /// Whether a directory is left out with all that it holds: both stacks make it up from the same
    /// directories.
    pub(super) fn same_directories(
        &self,
        new: &Handle,
        old: Option<&MergedDir>,
    ) -> SysResult<bool> {
        let (Handle::Merged(new), Some(old)) = (new, old) else { return Ok(false) };
        if !self.0.is_empty() || new.parts.len() != old.parts.len() {
            return Ok(false);
        }
        for (new, old) in new.parts.iter().zip(&old.parts) {
            let (new, old) = (new.dir.stat_self()?, old.dir.stat_self()?);
            if (new.st_dev, new.st_ino) != (old.st_dev, old.st_ino) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Visitor for BrokenLinks {
    fn depth(&self) -> Depth {
        Depth::Status
    }

    fn deletions(&self) -> Deletions {
        Deletions::Marked
    }

    fn root(&mut self, _: Node, _: &mut OldTree<'_>) -> Result<()> {
        Ok(())
    }

    fn directory(&mut self, _: At<'_>, _: Node, _: &mut OldTree<'_>) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, _: At<'_>, node: Node, _: &mut OldTree<'_>) -> Result<()> {
        if node.stat.st_nlink > 1 {
            self.0.insert(node.identity());
        }
        Ok(())
    }

    fn gone(&mut self, _: &LayerPath, _: &mut OldTree<'_>) -> Result<()> {
        Ok(())
    }
}
