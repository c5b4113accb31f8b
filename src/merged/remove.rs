//! Names that go: a whiteout is left where something lies below.

use std::sync::Arc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::Core;
use super::copy_up::Data;
use super::node::Node;
use crate::format::opaque;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, atime_of, mtime_of};
use crate::sys::inode_io;
use crate::sys::xattr::Target;

impl Core {
    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// ENOENT; EISDIR.
    pub(super) fn unlink(&self, dir: &Arc<Node>, name: &[u8], slash: bool) -> SysResult<()> {
        let _names = dir.change_names()?;
        let node = self.node_locked(dir, name)?.ok_or(Errno::NOENT)?;
        if slash {
            return Err(if node.is_directory() { Errno::ISDIR } else { Errno::NOTDIR });
        }
        self.may_change(dir)?;
        self.may_delete(dir, &node)?;
        if node.is_directory() {
            return Err(Errno::ISDIR);
        }
        self.remove_name(dir, name, &node)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR; ENOTEMPTY by what shows, whatever whiteouts there are.
    pub(super) fn rmdir(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<()> {
        let _names = dir.change_names()?;
        let node = self.node_locked(dir, name)?.ok_or(Errno::NOENT)?;
        self.may_change(dir)?;
        self.may_delete(dir, &node)?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let _inside = node.change_names()?;
        if !self.stack.entries(&*node.parts()?)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.remove_name(dir, name, &node)
    }

    fn remove_name(&self, dir: &Arc<Node>, name: &[u8], node: &Arc<Node>) -> SysResult<()> {
        let upper = self.upper()?;
        let _copying = node.lock_copying();
        let below = self.shows_below(dir, name)?;
        self.copy_up(dir, Data::Whole)?;
        let from = dir.upper_dir()?;
        let is_upper = self.is_upper(node)?;
        if is_upper && node.is_directory() {
            self.clear_whiteouts(node, &from, name)?;
        }
        if below {
            let whiteout = upper.whiteout()?;
            let exchange = is_upper && node.is_directory();
            let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            whiteout.rename(&from, name, flags)?;
        } else if node.is_directory() {
            from.remove_dir(name)?;
        } else {
            from.remove_file(name)?;
        }
        node.forget_name();
        self.forget_identity(node);
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
