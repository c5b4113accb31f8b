//! New names: files, directories, symlinks, devices, hard links.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use super::copy_up::Data;
use super::lookup::Seen;
use super::node::{Access, Node, RealFile};
use super::ownership::is_stand_in;
use super::{Core, Redirects};
use crate::format::{opaque, whiteout};
use crate::inode::Device;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::probe::can_make_devices;
use crate::sys::remove;
use crate::sys::xattr::Target;

/// What is created.
#[derive(Clone, Copy, Debug)]
pub(super) enum New<'a> {
    Directory {
        mode: u32,
    },
    Symlink {
        target: &'a [u8],
    },
    /// Anything else but a hard link; a regular file is empty.
    Node {
        kind: FileType,
        mode: u32,
        device: Device,
    },
}

impl Core {
    /// Creates a new name in `dir`; the process's umask applies to modes.
    ///
    /// # Errors
    /// EEXIST; EPERM for a character device 0:0, which would be a whiteout.
    pub(super) fn create(&self, dir: &Arc<Node>, name: &[u8], new: New<'_>) -> SysResult<()> {
        let _names = dir.change_names([name])?;
        if !matches!(self.see_locked(dir, name)?, Seen::Absent) {
            return Err(Errno::EXIST);
        }
        self.create_locked(dir, name, new)
    }

    /// As [`Core::create`], by one who holds the names of `dir` and knows that `name` is free.
    pub(super) fn create_locked(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        new: New<'_>,
    ) -> SysResult<()> {
        self.upper()?;
        self.may_change(dir)?;
        self.may_make(new)?;
        self.copy_up(dir, Data::Whole)?;
        let to = dir.upper_part()?;
        let group = self.group_handed_on(&to.dir)?;
        match self.make(&to.dir, name, new, group) {
            // Nothing shows at that name, so what exists hides something.
            Err(Errno::EXIST) if self.has_whiteout(&to.dir, name)? => {
                self.make_over(&to.dir, name, new, group)
            }
            other => other.and_then(|()| self.mark_new_directory(dir, &to.dir, name, new)),
        }
    }

    /// Fails for a device that cannot be made, before anything is copied up, as in the kernel.
    pub(super) fn may_make(&self, new: New<'_>) -> SysResult<()> {
        let New::Node { kind, device, .. } = new else { return Ok(()) };
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let is_whiteout = kind == FileType::CharacterDevice && device == Device::ZERO;
        if is_whiteout || (is_device && !self.records_owners() && !can_make_devices()) {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// Creates a regular file, open as `flags` say whatever its mode is, by one who holds the names
    /// of `dir` and knows that `name` is free.
    pub(super) fn create_open(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        mode: u32,
        flags: OFlags,
    ) -> SysResult<Arc<Node>> {
        let upper = self.upper()?;
        self.may_change(dir)?;
        self.copy_up(dir, Data::Whole)?;
        let to = &dir.upper_part()?.dir;
        let create = (flags - OFlags::TRUNC) | OFlags::CREATE | OFlags::EXCL;
        let group = self.group_handed_on(to)?;
        let hand_on = |file| group.map_or(Ok(()), |group| self.hand_on(Target::Open(file), group));
        let file = match to.open(name, create, mode) {
            Err(Errno::EXIST) if self.has_whiteout(to, name)? => {
                let stand_in = upper.stand_in(to)?;
                let inside = stand_in.as_ref().map(|(_, inside)| inside);
                let (file, temporary) = upper.open_temporary(inside, create, mode)?;
                hand_on(file.as_fd())?;
                temporary.rename(to, name, RenameFlags::empty())?;
                file
            }
            other => {
                let file = other?;
                hand_on(file.as_fd()).inspect_err(|_| {
                    let _ = to.remove_file(name);
                })?;
                file
            }
        };
        let stat = rustix::fs::fstat(&file)?;
        let access = match flags & OFlags::RWMODE {
            // Nobody else may use it.
            _ if flags.contains(OFlags::APPEND) => Access::Path,
            OFlags::RDWR => Access::ReadWrite,
            OFlags::WRONLY => Access::Write,
            _ => Access::Read,
        };
        let (kind, held) = (FileType::RegularFile, Arc::new(file));
        let file = RealFile::new(kind, held, access);
        Ok(self.adopt_new(dir, name, file, &stat))
    }

    /// Makes what is asked for in place of a whiteout, or of another file.
    pub(super) fn make_over(
        &self,
        to: &Dir,
        name: &[u8],
        new: New<'_>,
        group: Option<u32>,
    ) -> SysResult<()> {
        let upper = self.upper()?;
        // Where the parent hands something on, it is made in a directory that does the same.
        let stand_in = upper.stand_in(to)?;
        let temporary = upper.temporary();
        match &stand_in {
            None => self.make(&upper.work, temporary.name(), new, group)?,
            Some((_, inside)) => {
                self.make(inside, b"new", new, group)?;
                inside.rename(b"new", &upper.work, temporary.name(), RenameFlags::empty())?;
            }
        }
        if matches!(new, New::Directory { .. }) {
            let target = Target::Name(&upper.work, temporary.name());
            opaque::make(self.options.namespace, target).map_err(|error| match error {
                Errno::OPNOTSUPP => Errno::IO,
                other => other,
            })?;
            return temporary.rename(to, name, RenameFlags::EXCHANGE);
        }
        temporary.rename(to, name, RenameFlags::empty())
    }

    /// Where redirects are in use, a new directory must not merge with one that moves below it.
    fn mark_new_directory(&self, dir: &Node, to: &Dir, name: &[u8], new: New<'_>) -> SysResult<()> {
        let merged = dir.parts()?.parts.len() > 1;
        if !matches!(new, New::Directory { .. })
            || !merged
            || self.options.redirects != Redirects::Write
        {
            return Ok(());
        }
        opaque::make(self.options.namespace, Target::Name(to, name))
    }

    /// Makes what is asked for, or what stands in for it; it gets a group that is handed on.
    pub(super) fn make(
        &self,
        dir: &Dir,
        name: &[u8],
        new: New<'_>,
        group: Option<u32>,
    ) -> SysResult<()> {
        match new {
            New::Directory { mode } => dir.make_dir(name, mode)?,
            New::Symlink { target } => dir.make_symlink(name, target)?,
            New::Node { kind, mode, device } => self.make_node(dir, name, kind, mode, device)?,
        }
        let Some(group) = group else { return Ok(()) };
        self.hand_on(Target::Name(dir, name), group).inspect_err(|_| {
            let _ = remove::remove_tree(dir, name);
        })
    }

    /// Makes a device, FIFO, socket or empty file; where that is asked for, an empty file with a
    /// record stands in for a device that the process may not make.
    pub(super) fn make_node(
        &self,
        dir: &Dir,
        name: &[u8],
        kind: FileType,
        mode: u32,
        device: Device,
    ) -> SysResult<()> {
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        match dir.make_node(name, kind, mode, device) {
            Err(Errno::PERM) if self.records_owners() && is_device => {}
            other => return other,
        }
        let file = dir.open(name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, 0o600)?;
        let stat = rustix::fs::fstat(&file)?;
        let record = self.device_record(kind, mode, device, &stat);
        self.record(Target::open(&file), &record)
    }

    /// Whether the upper directory hides a name with a whiteout.
    pub(super) fn has_whiteout(&self, upper: &Dir, name: &[u8]) -> SysResult<bool> {
        Ok(upper.stat_if_exists(name)?.is_some_and(|stat| whiteout::is_whiteout(&stat)))
    }

    /// Makes `name` in `dir` one more name of `node`.
    ///
    /// # Errors
    /// EPERM for a directory; EEXIST.
    pub(super) fn link(&self, node: &Arc<Node>, dir: &Arc<Node>, name: &[u8]) -> SysResult<()> {
        let _names = dir.change_names([name])?;
        self.link_locked(node, dir, name)
    }

    /// As [`Core::link`], by one who holds the names of `dir`.
    pub(super) fn link_locked(
        &self,
        node: &Arc<Node>,
        dir: &Arc<Node>,
        name: &[u8],
    ) -> SysResult<()> {
        if !matches!(self.see_locked(dir, name)?, Seen::Absent) {
            return Err(Errno::EXIST);
        }
        self.may_link(node)?;
        self.upper()?;
        self.may_change(dir)?;
        self.ready_to_link(node, dir)?;
        let to = &dir.upper_part()?.dir;
        match self.link_held(node, to, name) {
            Err(Errno::EXIST) if self.has_whiteout(to, name)? => {
                self.link_and_rename(node, to, name)
            }
            other => other,
        }
    }

    /// Makes sure that a name in the upper part of `dir` may lead to the file of `node`.
    pub(super) fn ready_to_link(&self, node: &Arc<Node>, dir: &Arc<Node>) -> SysResult<()> {
        if node.is_directory() {
            return Err(Errno::PERM);
        }
        if node.is_gone() {
            return Err(Errno::NOENT);
        }
        self.copy_up(node, Data::Whole)?;
        self.copy_up(dir, Data::Whole)?;
        if self.carries_origin(node)? {
            self.mark_impure(dir, &dir.upper_part()?.dir)?;
        }
        Ok(())
    }

    pub(super) fn link_held(&self, node: &Node, to: &Dir, name: &[u8]) -> SysResult<()> {
        to.link_unnamed(name, node.real().held()?)
    }

    /// Makes `name` one of the node's file, in place of a whiteout or of another file.
    pub(super) fn link_and_rename(&self, node: &Node, to: &Dir, name: &[u8]) -> SysResult<()> {
        let upper = self.upper()?;
        let temporary = upper.temporary();
        self.link_held(node, &upper.work, temporary.name())?;
        temporary.rename(to, name, RenameFlags::empty())
    }

    /// Whether a node's upper file says that it was copied up.
    pub(super) fn carries_origin(&self, node: &Node) -> SysResult<bool> {
        use crate::format::xattr_name::mark;
        let name = self.options.namespace.name(mark::ORIGIN);
        Ok(crate::sys::xattr::get(node.real().target()?, &name)?.is_some())
    }

    /// Whether a node is a file that stands in for a device.
    pub(super) fn stands_in(&self, node: &Node) -> SysResult<bool> {
        if !self.records_owners() {
            return Ok(false);
        }
        let real = node.real();
        Ok(is_stand_in(self.recorded(real.target()?, &real.stat()?)?.as_ref()))
    }
}
