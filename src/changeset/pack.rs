//! [`Packer`]: the visitor that writes a tar.

use std::collections::HashMap;

use rustix::fs::FileType;

use super::equal;
use super::node::{Depth, Node, Showing};
use super::old_tree::OldTree;
use super::options::{DiffOptions, DiffSummary, RootEntry, Times, View};
use super::tar_writer::{TarWriter, changed};
use super::walk::{At, Deletions, Visitor};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::lookup::{Found, Stack};
use crate::format::whiteout::{self, EntryName};
use crate::inode::{FileKind, Inode, Timestamp};
use crate::layer_path::LayerPath;
use crate::sys::dir::type_of;

/// Writes what it is told of.
pub(super) struct Packer<'a> {
    tar: TarWriter<'a>,
    options: &'a DiffOptions,
    showing: Showing,
    /// The first name of each file with several: by layer, device and inode number.
    first_names: HashMap<(usize, u64, u64), Links>,
    summary: DiffSummary,
}

struct Links {
    first: LayerPath,
    /// How many names may still come.
    left: u64,
}

impl<'a> Packer<'a> {
    pub(super) fn new(tar: TarWriter<'a>, options: &'a DiffOptions, stack: &Stack) -> Self {
        let (showing, summary) = (Showing::new(stack, options.recorded), DiffSummary::default());
        Self { tar, options, showing, first_names: HashMap::new(), summary }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<DiffSummary> {
        self.summary.entries = self.tar.entries();
        self.summary.bytes = self.tar.finish()?;
        Ok(self.summary)
    }

    /// The attributes that an entry is written with.
    fn shown(&self, node: &Node) -> Inode {
        let mut inode = node.shown(&self.showing);
        if self.options.times == Times::Seconds {
            inode.mtime.nanos = 0;
        }
        if let Some(latest) = self.options.source_date_epoch {
            inode.mtime = inode.mtime.min(Timestamp::from_seconds(latest));
        }
        inode
    }

    fn mark_time(&self) -> Timestamp {
        Timestamp::from_seconds(self.options.mark_time)
    }

    /// Whether the entry can be left out, since what lies below shows the same without it.
    fn is_pruned(&self, at: At<'_>, node: &Node, old: &mut OldTree<'_>) -> Result<bool> {
        if self.options.view == View::Kernel || at.covered || at.hides {
            return Ok(false);
        }
        let name = at.path.file_name().unwrap_or_default();
        equal::equals_below(node, name, old, &self.showing)
            .during("compare with what lies below", at.path)
    }

    /// Leaves out what a tar has no type for: what it hides must not show in its place.
    fn without(&mut self, at: At<'_>, old: &mut OldTree<'_>) -> Result<()> {
        let hides = !at.covered
            && match old.found().during("look below for", at.path)? {
                Found::Absent => false,
                Found::File(file) => type_of(&file.stat) != FileType::Socket,
                Found::Directory(..) => true,
            };
        if hides { self.gone(at.path, old) } else { Ok(()) }
    }

    /// The first name of a file that has more, if this is not it.
    fn first_name(&mut self, path: &LayerPath, node: &Node) -> Option<LayerPath> {
        let names = node.stat.st_nlink;
        if names < 2 {
            return None;
        }
        let key = (node.layer, node.stat.st_dev, node.stat.st_ino);
        let Some(links) = self.first_names.get_mut(&key) else {
            self.first_names.insert(key, Links { first: path.clone(), left: names - 1 });
            return None;
        };
        links.left = links.left.saturating_sub(1);
        if links.left > 0 {
            return Some(links.first.clone());
        }
        self.first_names.remove(&key).map(|links| links.first)
    }
}

impl Visitor for Packer<'_> {
    fn depth(&self) -> Depth {
        Depth::Whole
    }

    fn deletions(&self) -> Deletions {
        Deletions::Marked
    }

    fn root(&mut self, node: Node, old: &mut OldTree<'_>) -> Result<()> {
        let root = LayerPath::root();
        let inode = self.shown(&node);
        let written = match self.options.root {
            RootEntry::Always => true,
            RootEntry::Never => false,
            RootEntry::WhenChanged => {
                let below = match old.dir().during("look below for", &root)? {
                    Some(dir) => dir.top().and_then(|top| Node::of_dir(&top.dir, 0)).map(Some),
                    None => Ok(None),
                };
                let below = below.during("look below for", &root)?;
                let below =
                    below.map_or_else(Inode::default_directory, |node| node.shown(&self.showing));
                !equal::same_root(&inode, &below)
            }
        };
        if written { self.tar.entry(&root, &inode) } else { Ok(()) }
    }

    fn directory(&mut self, at: At<'_>, node: Node, old: &mut OldTree<'_>) -> Result<()> {
        let path = at.path;
        refuse_mark(path)?;
        if !self.is_pruned(at, &node, old)? {
            self.tar.entry(path, &self.shown(&node))?;
        }
        if at.hides {
            self.summary.opaques += 1;
            self.tar.mark(&path.join(whiteout::OPAQUE), self.mark_time())?;
        }
        Ok(())
    }

    fn file(&mut self, at: At<'_>, node: Node, old: &mut OldTree<'_>) -> Result<()> {
        let path = at.path;
        refuse_mark(path)?;
        if self.is_pruned(at, &node, old)? {
            return Ok(());
        }
        let inode = self.shown(&node);
        if inode.kind == FileKind::Socket {
            self.summary.sockets += 1;
            return self.without(at, old);
        }
        if let Some(first) = self.first_name(path, &node) {
            return self.tar.link(path, &first, &inode);
        }
        self.tar.entry(path, &inode)?;
        // Of a file that stands for a device nothing follows.
        let FileKind::Regular { size } = inode.kind else { return Ok(()) };
        let Some(content) = node.content.filter(|_| size > 0) else { return Ok(()) };
        self.tar.content(path, &content)?;
        self.summary.data += size;
        match content.is_unchanged().during("read file", path)? {
            true => Ok(()),
            false => Err(changed(path)),
        }
    }

    fn gone(&mut self, path: &LayerPath, _: &mut OldTree<'_>) -> Result<()> {
        refuse_mark(path)?;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        self.summary.whiteouts += 1;
        self.tar.mark(&parent.join(&EntryName::whiteout_of(name)), self.mark_time())
    }
}

/// Refuses a name that a changeset takes for a mark.
fn refuse_mark(path: &LayerPath) -> Result<()> {
    let is_mark = path.file_name().is_some_and(|name| name.starts_with(whiteout::PREFIX));
    if !is_mark {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("a changeset cannot carry {path}: its name would be taken for a whiteout"),
    )
    .hint("rename or remove the file in the container"))
}
