//! Directories that are copied up together: made in the WorkDir, one inside the other, they get their
//! place by one rename.
//!
//! The kernel moves each by itself and puts back its parent's times each time. Here a crash leaves
//! none of them, or all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{RenameFlags, Stat};
use rustix::io::Errno;

use super::Core;
use super::attributes::may_do_all;
use super::copy_up::Data;
use super::node::{Node, Place, Real};
use crate::format::xattr_name::mark;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, atime_of, mtime_of};
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};

/// A lower directory, and what it was found to be.
struct Lower {
    node: Arc<Node>,
    place: Place,
    real: Real,
    stat: Stat,
}

impl Core {
    /// Copies up lower directories, each the parent of the next and the first in an upper one; gives
    /// the status of the last.
    ///
    /// `None` where they have to be copied up one by one: somebody else is about to change one of
    /// them, or modes can be in the way.
    pub(super) fn copy_up_nested(&self, chain: &[Arc<Node>]) -> SysResult<Option<Stat>> {
        // Another who holds the lower of two waits for the upper one: nobody waits here.
        let locks: Vec<_> = chain.iter().map_while(|node| node.try_lock_copying()).collect();
        if chain.len() < 2 || locks.len() < chain.len() || !may_do_all() {
            return Ok(None);
        }
        let Some(lowers) = self.nested(chain)? else { return Ok(None) };
        let Some(Lower { place: Place { parent, name }, .. }) = lowers.first() else {
            return Ok(None);
        };
        let to = &parent.upper_part()?.dir;
        let parent_stat = to.stat_self()?;
        let temporary = self.upper()?.temporary();
        let dirs = self.make_nested(temporary.name(), &lowers)?;
        let raised: Vec<_> = lowers
            .iter()
            .zip(dirs)
            .map(|(lower, dir)| Self::raised(&lower.node, dir))
            .collect::<SysResult<_>>()?;
        self.mark_impure(parent, to)?;
        temporary.rename(to, name, RenameFlags::NOREPLACE)?;
        for (lower, real) in lowers.iter().zip(raised) {
            lower.node.set_real(real);
            lower.place.parent.impure.store(true, Ordering::Release);
            lower.place.parent.name_changed(&lower.place.name);
        }
        inode_io::set_times(Target::held(to), atime_of(&parent_stat), mtime_of(&parent_stat))?;
        Ok(lowers.last().map(|lower| lower.stat))
    }

    /// What the directories are, their locks held; `None` where they are not as they were.
    fn nested(&self, chain: &[Arc<Node>]) -> SysResult<Option<Vec<Lower>>> {
        let mut lowers: Vec<Lower> = Vec::with_capacity(chain.len());
        for node in chain {
            let Some(place) = node.place() else { return Ok(None) };
            let fits = match lowers.last() {
                Some(above) => Arc::ptr_eq(&above.node, &place.parent),
                None => self.is_whole_upper(&place.parent)?,
            };
            if !fits || self.is_upper(node)? {
                return Ok(None);
            }
            let real = node.real();
            let stat = real.stat()?;
            lowers.push(Lower { node: Arc::clone(node), place, real, stat });
        }
        Ok(Some(lowers))
    }

    /// Makes the directories in the WorkDir, the first as `name`.
    fn make_nested(&self, name: &[u8], lowers: &[Lower]) -> SysResult<Vec<Dir>> {
        let work = &self.upper()?.work;
        // All are made before any is given its attributes: what is inside would inherit them, and
        // would change the times.
        let mut dirs: Vec<Dir> = Vec::with_capacity(lowers.len());
        for lower in lowers {
            let (parent, name) = dirs.last().map_or((work, name), |dir| (dir, &*lower.place.name));
            parent.make_dir(name, (lower.stat.st_mode & 0o777) | 0o700)?;
            let dir = parent.child(name)?;
            dirs.push(dir);
        }
        let impure = self.options.namespace.name(mark::IMPURE);
        for (index, (dir, lower)) in dirs.iter().zip(lowers).enumerate() {
            let to = Target::open(dir);
            if index + 1 < lowers.len() {
                xattr::set(to, &impure, b"y")?;
            }
            let Real::Directory(parts) = &lower.real else { return Err(Errno::NOTDIR) };
            let top = parts.top()?;
            let from = (!top.bare).then_some(Target::Name(&top.dir, b"."));
            let marked = self.has_origin(&lower.stat);
            self.dress(from, to, &lower.stat, marked, Data::Whole)?;
        }
        Ok(dirs)
    }
}
