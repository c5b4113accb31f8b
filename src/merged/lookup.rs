//! Finds what a name in a directory is.

use std::sync::Arc;

use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::Core;
use super::node::{Identity, Node, Place, Real, RealFile, lock};
use crate::format::lookup::{Found, FoundFile, MergedDir};
use crate::sys::Dir;
use crate::sys::dir::{SysResult, type_of};

/// What a name is, with no more work done than is needed to tell.
#[derive(Debug)]
pub(super) enum Seen {
    Absent,
    /// A directory, or a file of which a node is alive.
    Node(Arc<Node>),
    /// A file without a node: its directory in the layers, and which of them has it.
    File(FoundFile, Arc<MergedDir>),
}

/// The longest name, as overlayfs takes it from the file systems below.
const LONGEST_NAME: usize = 255;

impl Core {
    /// What `name` is in `dir`.
    pub(super) fn see(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Seen> {
        if let Some(node) = self.table.get(dir.id, name) {
            self.may_search(dir)?;
            return Ok(Seen::Node(node));
        }
        let _names = dir.read_names();
        self.see_locked(dir, name)
    }

    /// As [`Core::see`], by one who holds the names of `dir`.
    pub(super) fn see_locked(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Seen> {
        if name.len() > LONGEST_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        loop {
            if let Some(node) = self.table.get(dir.id, name) {
                self.may_search(dir)?;
                return Ok(Seen::Node(node));
            }
            let before = dir.copied_up();
            let parts = dir.parts()?;
            let found = self.stack.lookup(&parts, name)?;
            dir.set_searched(true);
            match found {
                Found::Absent => return Ok(Seen::Absent),
                // Copied up since the layers were looked at, so seen too low.
                Found::File(_) if dir.copied_up() != before => {}
                Found::File(file) => return Ok(Seen::File(file, parts)),
                Found::Directory(merged, stat) => {
                    let adopted = self.adopt_directory(dir, name, merged, &stat, before)?;
                    if let Some(node) = adopted {
                        return Ok(Seen::Node(node));
                    }
                }
            }
        }
    }

    fn adopt_directory(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        merged: MergedDir,
        stat: &Stat,
        before: u64,
    ) -> SysResult<Option<Arc<Node>>> {
        let descriptors = merged.parts.len();
        let identity = self.directory_identity(&merged, stat)?;
        let real = Real::Directory(Arc::new(merged));
        let node = self.new_node(dir, name, real, identity);
        let adopted = self.table.adopt(dir.id, name, node, || dir.copied_up() != before);
        if let Some(node) = &adopted {
            self.table.keep(node, descriptors);
        }
        Ok(adopted)
    }

    /// The node of `name` in `dir`; `None` where there is no such name.
    pub(super) fn node(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Option<Arc<Node>>> {
        if let Some(node) = self.table.get(dir.id, name) {
            self.may_search(dir)?;
            return Ok(Some(node));
        }
        let _names = dir.read_names();
        self.node_locked(dir, name)
    }

    /// As [`Core::node`], by one who holds the names of `dir`.
    pub(super) fn node_locked(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Option<Arc<Node>>> {
        loop {
            let before = dir.copied_up();
            let (file, parts) = match self.see_locked(dir, name)? {
                Seen::Absent => return Ok(None),
                Seen::Node(node) => return Ok(Some(node)),
                Seen::File(file, parts) => (file, parts),
            };
            let identity = self.identity(&file.stat, file.layer);
            let real = Real::File(Arc::new(hold(&parts, name, file)?));
            let node = self.new_node(dir, name, real, identity);
            let stale = || dir.copied_up() != before;
            if let Some(node) = self.table.adopt(dir.id, name, node, stale) {
                return Ok(Some(node));
            }
        }
    }

    fn new_node(&self, dir: &Arc<Node>, name: &[u8], real: Real, identity: Identity) -> Node {
        let place = Place { parent: Arc::clone(dir), name: name.into() };
        Node::new(self.table.next_id(), &self.table, Some(place), real, identity)
    }

    /// The number under which a file is shown.
    pub(super) fn identity(&self, stat: &Stat, layer: usize) -> Identity {
        let own = Identity::of(stat);
        if self.upper.is_none() || layer != 0 {
            return own;
        }
        lock(&self.shown_as).get(&own).copied().unwrap_or(own)
    }

    /// The number of a directory is that of the topmost lower one, which copy-up does not change.
    fn directory_identity(&self, dir: &MergedDir, top: &Stat) -> SysResult<Identity> {
        match dir.parts.iter().find(|part| self.upper.is_none() || part.layer != 0) {
            Some(part) => Ok(Identity::of(&part.dir.stat_self()?)),
            None => Ok(Identity::of(top)),
        }
    }

    /// Keeps a file's number what it is although its node may be dropped.
    pub(super) fn remember_identity(&self, upper: &Stat, shown: Identity) {
        lock(&self.shown_as).insert(Identity::of(upper), shown);
    }

    /// Forgets the number of an upper file of which no name is left.
    pub(super) fn forget_identity(&self, node: &Node) {
        let Ok(stat) = node.real().stat() else { return };
        if stat.st_nlink == 0 || (node.is_directory() && node.is_gone()) {
            lock(&self.shown_as).remove(&Identity::of(&stat));
        }
    }
}

/// Opens a file that was found.
fn hold(parent: &MergedDir, name: &[u8], file: FoundFile) -> SysResult<RealFile> {
    let part = parent.parts.get(file.part).ok_or(Errno::IO)?;
    let held = hold_name(&part.dir, name)?;
    let data = match &file.data {
        Some(data) => Some(hold_name(&data.dir, &data.name)?.into()),
        None => None,
    };
    Ok(RealFile { layer: file.layer, kind: type_of(&file.stat), held: held.into(), data })
}

/// Opens a name, itself, with `O_PATH`.
pub(super) fn hold_name(dir: &Dir, name: &[u8]) -> SysResult<std::fs::File> {
    dir.open(name, OFlags::PATH, 0)
}
