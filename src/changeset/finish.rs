//! The end of a changeset: marks, late hard links, the attributes of directories, assumptions.

use std::collections::HashSet;

use rustix::io::Errno;

use super::attributes::Given;
use super::tree::{Directory, Hidden, Node};
use super::unpack::Unpack;
use crate::error::{Context, Result};
use crate::format::{Assumptions, opaque, whiteout};
use crate::inode::Inode;
use crate::layer_path::LayerPath;
use crate::sys::inode_io;
use crate::sys::xattr::Target;

impl Unpack<'_> {
    /// Writes what could only be decided once the whole changeset was seen.
    pub(super) fn finish(&mut self) -> Result<Assumptions> {
        let mut replaced = self.tree.replaced();
        replaced.append(&mut self.contested()?);
        replaced.sort();
        replaced.dedup();
        let links = self.late_links()?;
        let mut unwritten = Vec::new();
        for node in self.tree.nodes() {
            self.hide(node);
            self.whiteouts(node, &mut unwritten)?;
        }
        let linked: HashSet<_> = links.iter().filter_map(|link| link.name.parent()).collect();
        let (mut implied, mut whited) = (Vec::new(), Vec::new());
        // What lies beneath comes first: its parent may be closed afterwards.
        for node in self.tree.nodes().rev() {
            let directory = self.tree.get(node);
            let path = directory.path.clone();
            let is_implied = !directory.is_explicit() && !path.is_root();
            let is_alone = directory.recreated || self.parent_hidden(node) == Hidden::Yes;
            if is_implied && is_alone && !linked.contains(&path) {
                if self.remove_hollow(node, &mut unwritten)? {
                    continue;
                }
            } else if is_implied && !is_alone {
                implied.push(path.clone());
            }
            self.attributes(node)?;
            if !self.tree.get(node).whiteouts.is_empty() {
                whited.push(path);
            }
        }
        for paths in [&mut implied, &mut whited, &mut unwritten] {
            paths.sort();
        }
        Ok(Assumptions { implied, whited, unwritten, replaced, links })
    }

    /// Finds out whether what lies below shows in a directory; its parent's turn was before.
    fn hide(&mut self, node: Node) {
        let above = self.parent_hidden(node);
        let directory = self.tree.get_mut(node);
        let is_sure = directory.is_explicit() || directory.recreated || directory.path.is_root();
        let own = match (directory.opaque, is_sure) {
            (false, _) => Hidden::No,
            (true, false) => Hidden::Unless,
            (true, true) => Hidden::Yes,
        };
        directory.hidden = own.max(above);
    }

    fn parent_hidden(&self, node: Node) -> Hidden {
        let parent = self.tree.get(node).parent;
        parent.map_or(Hidden::No, |parent| self.tree.get(parent).hidden)
    }

    /// Removes a directory that only marks imply, which make none, where the layers below have
    /// none either; `false` where something is in it.
    fn remove_hollow(&mut self, node: Node, unwritten: &mut Vec<LayerPath>) -> Result<bool> {
        let directory = self.tree.get(node);
        let (path, is_deleted) = (directory.path.clone(), directory.recreated);
        let (Some(parent), Some(name)) = (directory.parent, path.file_name()) else {
            return Ok(false);
        };
        let dir = self.handle(parent)?;
        match dir.remove_dir(name) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error).during("remove directory", &path),
        }
        self.tree.forget(node);
        match self.tree.get(parent).hidden {
            Hidden::No if is_deleted => {
                whiteout::make(&dir, name).during("create whiteout", &path)?;
                self.list_whiteout(&path)?;
                self.tree.get_mut(parent).whiteouts.insert(name.into());
            }
            Hidden::Unless if is_deleted => unwritten.push(path),
            _ => {}
        }
        Ok(true)
    }

    /// Writes the whiteouts of one directory, and drops those that mean nothing.
    fn whiteouts(&mut self, node: Node, unwritten: &mut Vec<LayerPath>) -> Result<()> {
        let names = std::mem::take(&mut self.tree.get_mut(node).whiteouts);
        if names.is_empty() {
            return Ok(());
        }
        let mut written = names.clone();
        let hidden = self.tree.get(node).hidden;
        let path = self.tree.get(node).path.clone();
        let dir = self.handle(node)?;
        for name in names {
            let target = path.join(&name);
            if let Some(child) = self.tree.find(&target) {
                // Deleted and made again: what it held below stays hidden.
                let child = self.tree.get_mut(child);
                child.opaque = true;
                child.recreated = true;
                written.remove(&name);
                continue;
            }
            if hidden != Hidden::No {
                let stat = dir.stat_if_exists(&name).during("look up", &target)?;
                if hidden == Hidden::Unless && stat.is_none() {
                    unwritten.push(target);
                }
                continue;
            }
            match whiteout::make(&dir, &name) {
                Ok(()) => self.list_whiteout(&target)?,
                // A file of this changeset hides what lies below by itself.
                Err(Errno::EXIST) => drop(written.remove(&name)),
                Err(error) => return Err(error).during("create whiteout", &target),
            }
        }
        if hidden == Hidden::No {
            self.tree.get_mut(node).whiteouts = written;
        }
        Ok(())
    }

    /// Gives a directory its opaque mark and its attributes.
    fn attributes(&mut self, node: Node) -> Result<()> {
        let directory = self.tree.get_mut(node);
        let is_root = directory.path.is_root();
        let is_opaque = directory.opaque && !is_root;
        let attributes = directory.attributes.take();
        let path = directory.path.clone();
        if is_root && attributes.is_none() {
            // Mode and owner are what the directory was made with; its time would be that of now.
            let (own, time) = (self.root.descend(&path), Inode::default_directory().mtime);
            return own
                .and_then(|own| inode_io::set_times(Target::open(&own), time, time))
                .during("set times of", &path);
        }
        let dir = match (self.tree.get(node).parent, path.file_name()) {
            (Some(parent), Some(name)) => self.handle(parent)?.child(name),
            _ => self.root.descend(&path),
        };
        let dir = dir.during("open directory", &path)?;
        if is_opaque {
            opaque::make(self.attach.namespace(), Target::open(&dir))
                .during("mark opaque", &path)?;
        }
        match attributes {
            Some(attributes) => {
                let [access, default] = &attributes.acls;
                let given = Given {
                    inode: &attributes.inode,
                    atime: attributes.atime,
                    acls: [access.as_deref(), default.as_deref()],
                    created_mode: None,
                    checksum: 0,
                };
                self.attach.put(Target::open(&dir), &path, &given)?;
                self.tree.get_mut(node).attributes = Some(attributes);
            }
            None => {
                let inode = Inode::default_directory();
                let (atime, created_mode) = (None, None);
                let acls = [None, None];
                let given = Given { inode: &inode, atime, acls, created_mode, checksum: 0 };
                self.attach.put(Target::open(&dir), &path, &given)?;
            }
        }
        match &mut self.attach.entries {
            Some(entries) if is_opaque => entries.opaque(&path),
            _ => Ok(()),
        }
    }

    fn list_whiteout(&mut self, path: &LayerPath) -> Result<()> {
        match &mut self.attach.entries {
            Some(entries) => entries.whiteout(path),
            None => Ok(()),
        }
    }
}

impl Directory {
    /// Whether the changeset has an entry for it.
    pub(super) fn is_explicit(&self) -> bool {
        self.attributes.is_some()
    }
}
