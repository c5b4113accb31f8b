//! Upper files of which only the attributes were copied up (`metacopy`): they get their data at the
//! first write.
//!
//! The mark is the upper file's, which may have several names and so several nodes. Whoever has to
//! know asks the file itself: under another name it may have got its data, and been written to.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Core;
use super::copy_up::Data;
use super::node::{Identity, Node, Real, RealFile, lock};
use super::xattrs::CAPABILITY;
use crate::format::xattr_name::mark;
use crate::sys::dir::{self, SysResult, atime_of, mtime_of};
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};

impl Core {
    /// Whether a node is in the upper layer with all that belongs to it.
    pub(super) fn is_whole_upper(&self, node: &Node) -> SysResult<bool> {
        let real = self.real_now(node)?;
        let has_data = !matches!(&real, Real::File(file) if file.data.is_some());
        Ok(self.upper.is_some() && real.layer()? == 0 && has_data)
    }

    /// What stands for a node on disk now, its data included.
    pub(super) fn real_now(&self, node: &Node) -> SysResult<Real> {
        let real = node.real();
        match &real {
            Real::File(file) if file.data.is_some() && self.upper.is_some() && file.layer == 0 => {
                if self.lacks_data(file)? {
                    return Ok(real);
                }
                Ok(Self::make_whole(node, file))
            }
            _ => Ok(real),
        }
    }

    fn lacks_data(&self, file: &RealFile) -> SysResult<bool> {
        match xattr::get(Target::held(&*file.held), &self.options.namespace.name(mark::METACOPY)) {
            // It was there when the file was opened.
            Err(Errno::PERM | Errno::ACCESS) => Ok(true),
            other => other.map(|mark| mark.is_some()),
        }
    }

    /// Makes a node read its data from the upper file.
    fn make_whole(node: &Node, file: &RealFile) -> Real {
        let held = Arc::clone(&file.held);
        let (layer, kind, access) = (file.layer, file.kind, file.access);
        let real =
            Real::File(Arc::new(RealFile { layer, kind, held, access, data: None, bare: false }));
        node.set_real(real.clone());
        real
    }

    /// Brings up the data of an upper file that has only the attributes.
    pub(super) fn complete(&self, node: &Node, data: Data) -> SysResult<()> {
        let Real::File(file) = node.real() else { return Ok(()) };
        let Some(below) = &file.data else { return Ok(()) };
        let stat = rustix::fs::fstat(&*file.held)?;
        let _alone = self.lock_completing(&Identity::of(&stat));
        if !self.lacks_data(&file)? {
            Self::make_whole(node, &file);
            return Ok(());
        }
        let to = Target::held(&*file.held);
        if data != Data::Nothing {
            // A write takes it away, for whoever writes.
            let capability = xattr::get(to, CAPABILITY)?;
            let source = dir::reopen(below.as_fd(), OFlags::RDONLY)?;
            let copy = dir::reopen(file.held.as_fd(), OFlags::WRONLY)?;
            self.copy_and_sync(&source, &copy, u64::try_from(stat.st_size).unwrap_or(0))?;
            if let Some(capability) = capability {
                xattr::set(to, CAPABILITY, &capability)?;
            }
        }
        inode_io::set_times(to, atime_of(&stat), mtime_of(&stat))?;
        xattr::remove(to, &self.options.namespace.name(mark::METACOPY))?;
        Self::make_whole(node, &file);
        Ok(())
    }

    /// So that two names of one file do not bring up its data twice, the later over what was written
    /// meanwhile. Few files share a lock, so that they seldom wait for each other.
    fn lock_completing(&self, file: &Identity) -> Option<std::sync::MutexGuard<'_, ()>> {
        let count = u64::try_from(self.completing.len()).ok()?;
        let index = usize::try_from(file.ino.checked_rem(count)?).ok()?;
        self.completing.get(index).map(lock)
    }
}
