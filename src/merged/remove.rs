//! Names that go: a whiteout is left where something lies below.

use std::sync::Arc;

use rustix::fs::{RenameFlags, Stat};
use rustix::io::Errno;

use super::Core;
use super::copy_up::Data;
use super::lookup::Seen;
use super::node::Node;
use crate::format::lookup::FoundFile;
use crate::format::opaque;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, atime_of, mtime_of};
use crate::sys::inode_io;
use crate::sys::xattr::Target;

/// What loses its name.
enum Gone {
    Node(Arc<Node>),
    /// Nobody has a node of it, nor gets one while the names are held.
    File(FoundFile),
}

impl Gone {
    fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Node(node) => Some(node),
            Self::File(_) => None,
        }
    }

    fn stat(&self) -> SysResult<Stat> {
        match self {
            Self::Node(node) => node.real().stat(),
            Self::File(file) => Ok(file.stat),
        }
    }
}

impl Core {
    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// ENOENT; EISDIR.
    pub(super) fn unlink(&self, dir: &Arc<Node>, name: &[u8], slash: bool) -> SysResult<()> {
        let _names = dir.change_names([name])?;
        let gone = match self.see_locked(dir, name)? {
            Seen::Absent => return Err(Errno::NOENT),
            Seen::Node(node) => Gone::Node(node),
            Seen::File(file, ..) => Gone::File(file),
        };
        if slash {
            let is_directory = gone.node().is_some_and(|node| node.is_directory());
            return Err(if is_directory { Errno::ISDIR } else { Errno::NOTDIR });
        }
        self.may_change(dir)?;
        self.may_delete(dir, || gone.stat())?;
        if gone.node().is_some_and(|node| node.is_directory()) {
            return Err(Errno::ISDIR);
        }
        self.remove_name(dir, name, &gone)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR; ENOTEMPTY by what shows, whatever whiteouts there are.
    pub(super) fn rmdir(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<()> {
        let _names = dir.change_names([name])?;
        let node = self.node_locked(dir, name)?.ok_or(Errno::NOENT)?;
        self.may_change(dir)?;
        self.may_delete(dir, || node.real().stat())?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let _inside = node.change_names([])?;
        if !self.stack.entries(&*node.parts()?)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.remove_name(dir, name, &Gone::Node(Arc::clone(&node)))
    }

    fn remove_name(&self, dir: &Arc<Node>, name: &[u8], gone: &Gone) -> SysResult<()> {
        let upper = self.upper()?;
        let node = gone.node();
        let _copying = node.map(|node| node.lock_copying());
        let is_upper = match gone {
            Gone::Node(node) => self.is_upper(node)?,
            Gone::File(file) => file.layer == 0,
        };
        // What shows from a lower layer would show.
        let below = !is_upper || self.shows_below(dir, name)?;
        self.copy_up(dir, Data::Whole)?;
        let from = dir.upper_part()?;
        let directory = node.filter(|node| node.is_directory());
        if let Some(node) = directory
            && is_upper
        {
            self.clear_whiteouts(node, &from.dir, name)?;
        }
        if below {
            let whiteout = upper.whiteout()?;
            let exchange = is_upper && directory.is_some();
            let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            whiteout.rename(&from.dir, name, flags)?;
        } else if directory.is_some() {
            from.dir.remove_dir(name)?;
        } else {
            from.dir.remove_file(name)?;
        }
        match gone {
            Gone::Node(node) => {
                node.forget_name();
                self.forget_identity(node);
            }
            Gone::File(file) if is_upper && file.stat.st_nlink == 1 => {
                self.forget_identity_of(&file.stat);
            }
            Gone::File(_) => {}
        }
        Ok(())
    }

    /// Whether a name would show if the upper layer did not have it.
    pub(super) fn shows_below(&self, dir: &Node, name: &[u8]) -> SysResult<bool> {
        self.stack.shows_below(&*dir.parts()?, 0, name)
    }

    /// Empties an upper directory of its whiteouts in one step: an empty opaque one, otherwise the
    /// same, takes its place.
    ///
    /// A crash then leaves nothing half removed through which what lies below would show again.
    pub(super) fn clear_whiteouts(&self, node: &Node, parent: &Dir, name: &[u8]) -> SysResult<()> {
        let upper = self.upper()?;
        let parts = node.parts()?;
        let old = &parts.top()?.dir;
        if old.entries()?.is_empty() {
            return Ok(());
        }
        let stat = old.stat_self()?;
        let temporary = upper.temporary();
        upper.work.make_dir(temporary.name(), 0o700)?;
        let target = Target::Name(&upper.work, temporary.name());
        inode_io::chown(target, stat.st_uid, stat.st_gid)?;
        self.copy_xattrs(Target::Name(old, b"."), target)?;
        opaque::make(self.options.namespace, target)?;
        inode_io::chmod(target, stat.st_mode & 0o7777)?;
        inode_io::set_times(target, atime_of(&stat), mtime_of(&stat))?;
        temporary.rename(parent, name, RenameFlags::EXCHANGE)
    }
}
