//! Copy-up: a lower file becomes an upper one, in one step for every reader.
//!
//! The order is the kernel's: parents first, those that are missing at once; the copy is finished in the WorkDir,
//! data, then owner, attributes, mark, permission bits, times; the data is synced; then it gets
//! its name, which must be free; then the parent's times are put back. A crash at any step leaves
//! the lower file showing, or the finished copy.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::Core;
use super::attributes::{is_root, may_do_all};
use super::lookup::hold_name;
use super::node::{Access as Held, Identity, Node, Place, Real, RealFile};
use super::upper::{Temporary, Upper};
use crate::format::lookup::{MergedDir, Part};
use crate::format::override_stat;
use crate::format::xattr_name::mark;
use crate::namespace::Namespace;
use crate::sys::copy::{self, Written};
use crate::sys::dir::{self, SysResult, atime_of, device_of, mtime_of, type_of};
use crate::sys::xattr::{self, Target};
use crate::sys::{Dir, inode_io};

/// How much of a file's data is copied up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Whole,
    /// All, and the file is given other permission bits.
    WithMode(u32),
    /// It is about to be truncated.
    Nothing,
}

/// A finished copy without a place.
enum Copy<'a> {
    /// It has no name at all yet.
    Unnamed(File),
    Named(Temporary<'a>),
    Directory(Temporary<'a>, Dir),
}

impl Copy<'_> {
    fn target<'a>(&'a self, upper: &'a Upper) -> Target<'a> {
        match self {
            Self::Unnamed(file) => Target::open(file),
            Self::Named(temporary) => Target::Name(&upper.work, temporary.name()),
            Self::Directory(_, dir) => Target::open(dir),
        }
    }
}

/// How a copy came out.
pub(super) struct Finished {
    /// Its status before it was given the attributes.
    fresh: Stat,
    /// It is as a file that was just truncated, times and all, or has the bits that were asked for.
    is_as_asked: bool,
}

impl Core {
    /// Makes sure that a node is in the upper layer, and its parents with it; returns whether it
    /// was copied as asked for, and need not be truncated, or given its mode, any more.
    ///
    /// # Errors
    /// EROFS in a read-only tree; EEXIST where the node lost its name while it was a lower one.
    pub(super) fn copy_up(&self, node: &Arc<Node>, data: Data) -> SysResult<bool> {
        self.upper()?;
        let mut chain = Vec::new();
        let mut at = Arc::clone(node);
        while !self.is_whole_upper(&at)? {
            // The kernel finds the whiteout, or what replaced the file, in the way.
            let parent = at.parent().ok_or(Errno::EXIST)?;
            chain.push(at);
            at = parent;
        }
        chain.reverse();
        let directories = chain.iter().take_while(|node| node.is_directory()).count();
        let (nested, rest) = chain.split_at(directories);
        let (mut above, mut is_as_asked) = (self.copy_up_nested(nested)?, false);
        let one_by_one = if above.is_some() { rest } else { &chain };
        for at in one_by_one {
            (above, is_as_asked) = match self.copy_up_one(at, data, above)? {
                Some((stat, is_as_asked)) => (Some(stat), is_as_asked),
                None => (None, false),
            };
        }
        Ok(is_as_asked)
    }

    /// Copies up a node whose parent, as far as is known, has the status `above`; gives its own
    /// where it was copied, and whether the copy [is as asked](Finished::is_as_asked).
    fn copy_up_one(
        &self,
        node: &Arc<Node>,
        data: Data,
        above: Option<Stat>,
    ) -> SysResult<Option<(Stat, bool)>> {
        let upper = self.upper()?;
        let _copying = node.lock_copying();
        if self.is_whole_upper(node)? {
            return Ok(None);
        }
        if self.is_upper(node)? {
            return self.complete(node, data).map(|()| None);
        }
        let real = node.real();
        let Place { parent, name } = node.place().ok_or(Errno::EXIST)?;
        let to = &parent.upper_part()?.dir;
        // As in the kernel, from before the copy.
        let parent_stat = above.map_or_else(|| to.stat_self(), Ok)?;
        let mut stat = real.stat()?;
        if let Data::WithMode(mode) = data
            && !node.is_directory()
        {
            stat.st_mode = (stat.st_mode & !0o7777) | mode;
        }
        let marked = self.has_origin(&stat);
        let (copy, finished) = self.prepare(upper, &real, &stat, data, marked)?;
        let Finished { fresh, is_as_asked } = finished;
        let closed = parent_stat.st_mode & 0o200 == 0 && !is_root();
        if closed {
            // The kernel changes it as the one who mounted, whatever its mode.
            inode_io::chmod(Target::held(to), (parent_stat.st_mode & 0o7777) | 0o300)?;
        }
        let placed = self
            .mark_impure(&parent, to)
            .and_then(|()| self.put_in_place(node, &parent, to, &name, &stat, (copy, &fresh)));
        if closed {
            inode_io::chmod(Target::held(to), parent_stat.st_mode & 0o7777)?;
        }
        placed?;
        let times = (atime_of(&parent_stat), mtime_of(&parent_stat));
        inode_io::set_times(Target::held(to), times.0, times.1)?;
        Ok(Some((stat, is_as_asked)))
    }

    /// Whether a copy carries the mark `origin`: not where it is one name of several, nor where
    /// the namespace cannot be set on it.
    pub(super) fn has_origin(&self, stat: &Stat) -> bool {
        let kind = type_of(stat);
        let settable = self.options.namespace == Namespace::Trusted
            || matches!(kind, FileType::RegularFile | FileType::Directory);
        settable && (kind == FileType::Directory || stat.st_nlink == 1)
    }

    /// Says on an upper directory that it holds copied-up files.
    pub(super) fn mark_impure(&self, parent: &Node, dir: &Dir) -> SysResult<()> {
        use std::sync::atomic::Ordering;
        if parent.impure.load(Ordering::Acquire) {
            return Ok(());
        }
        // Set once and not asked for: a file system keeps what it has by itself.
        let name = self.options.namespace.name(mark::IMPURE);
        match xattr::set(Target::Name(dir, b"."), &name, b"y") {
            // Where the process may not look names up, `.` is one.
            Err(Errno::ACCESS) => xattr::set(Target::held(dir), &name, b"y")?,
            other => other?,
        }
        parent.impure.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the copy, in the WorkDir, with everything but its name.
    fn prepare<'a>(
        &self,
        upper: &'a Upper,
        real: &Real,
        stat: &Stat,
        data: Data,
        marked: bool,
    ) -> SysResult<(Copy<'a>, Finished)> {
        let from = match real {
            _ if real.is_bare()? => None,
            // Without a detour by `/proc`, where the right to look names up is not in question.
            Real::Directory(dir) if may_do_all() => Some(Target::Name(&dir.top()?.dir, b".")),
            _ => Some(real.target()?),
        };
        let mode = stat.st_mode & 0o777;
        let mut written = Written::Nothing;
        let copy = match real {
            Real::Directory(_) => {
                let temporary = upper.temporary();
                upper.work.make_dir(temporary.name(), mode | 0o700)?;
                let dir = upper.work.child(temporary.name())?;
                Copy::Directory(temporary, dir)
            }
            Real::File(file) if file.kind == FileType::RegularFile => {
                let copy = create_regular(upper, mode | 0o600)?;
                if data != Data::Nothing {
                    written = self.copy_data(upper, file, stat, &copy)?;
                }
                copy
            }
            Real::File(file) => {
                let temporary = upper.temporary();
                if file.kind == FileType::Symlink {
                    let link = rustix::fs::readlinkat(&*file.held, c"", Vec::new())?;
                    upper.work.make_symlink(temporary.name(), link.as_bytes())?;
                } else {
                    self.make_node(&upper.work, temporary.name(), file.kind, 0, device_of(stat))?;
                }
                Copy::Named(temporary)
            }
        };
        let finished = self.dress(from, copy.target(upper), stat, marked, data)?;
        if let Copy::Unnamed(file) = &copy
            && written == Written::Bytes
        {
            self.options.durability.sync_file(file)?;
        }
        Ok((copy, finished))
    }

    fn copy_data(
        &self,
        upper: &Upper,
        file: &RealFile,
        stat: &Stat,
        copy: &Copy<'_>,
    ) -> SysResult<Written> {
        let source = open_data(file)?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        match copy {
            Copy::Unnamed(to) => copy::contents(&source, to, length, &upper.sharing),
            Copy::Named(temporary) => {
                let to = upper.work.open(temporary.name(), OFlags::WRONLY, 0)?;
                self.copy_and_sync(&source, &to, length).map(|()| Written::Nothing)
            }
            Copy::Directory(..) => Ok(Written::Nothing),
        }
    }

    pub(super) fn copy_and_sync(&self, from: &File, to: &File, length: u64) -> SysResult<()> {
        match copy::contents(from, to, length, &self.upper()?.sharing)? {
            Written::Bytes => self.options.durability.sync_file(to),
            Written::Shared | Written::Nothing => Ok(()),
        }
    }

    /// Gives a copy the attributes of what it is a copy of; `from` is `None` where it is known to
    /// have no extended ones.
    pub(super) fn dress(
        &self,
        from: Option<Target<'_>>,
        to: Target<'_>,
        stat: &Stat,
        marked: bool,
        data: Data,
    ) -> SysResult<Finished> {
        // The owner comes first, since changing it clears a file's capabilities.
        let fresh = self.status(to)?;
        let same_owner = (fresh.st_uid, fresh.st_gid) == (stat.st_uid, stat.st_gid);
        let mut mode = stat.st_mode & 0o7777;
        if type_of(&fresh) != type_of(stat) {
            // It stands in for a device.
            self.record(to, &self.record_of(stat))?;
            mode = override_stat::mode_on_disk(mode, false);
        } else if !same_owner
            && from.map_or(Ok(None), |from| self.recorded(from, stat))?.is_none()
            && self.set_owner_or_record(to, stat, stat.st_uid, stat.st_gid, mode)?
        {
            mode = override_stat::mode_on_disk(mode, type_of(stat) == FileType::Directory);
        }
        let has_xattrs = from.map_or(Ok(false), |from| self.copy_xattrs(from, to))?;
        if marked {
            xattr::set(to, &self.options.namespace.name(mark::ORIGIN), b"")?;
        }
        // Neither an owner nor an access list has changed the bits that it was created with.
        let same_mode = same_owner && !has_xattrs && fresh.st_mode == stat.st_mode;
        if !same_mode && type_of(stat) != FileType::Symlink {
            inode_io::chmod(to, mode)?;
            self.keep_group_bit(to, stat, mode)?;
        }
        // A truncation sets the times, which a new file has, and takes away what lets others act as
        // its owner.
        let is_cut = data == Data::Nothing
            && type_of(stat) == FileType::RegularFile
            && !has_xattrs
            && stat.st_mode & 0o6000 == 0;
        if is_cut {
            inode_io::set_access_time(to, atime_of(stat))?;
        } else {
            inode_io::set_times(to, atime_of(stat), mtime_of(stat))?;
        }
        Ok(Finished { fresh, is_as_asked: is_cut || matches!(data, Data::WithMode(_)) })
    }

    pub(super) fn status(&self, target: Target<'_>) -> SysResult<Stat> {
        match target {
            Target::Open(file) | Target::Held(file) => rustix::fs::fstat(file),
            Target::Name(dir, name) => dir.stat(name),
        }
    }

    /// Copies all attributes but overlayfs's own, and what only repeats others; `false` where there
    /// is none.
    pub(super) fn copy_xattrs(&self, from: Target<'_>, to: Target<'_>) -> SysResult<bool> {
        let mut any = false;
        for name in xattr::list(from)? {
            if self.options.namespace.unescape(&name).is_none() || xattr::repeats_acl(&name) {
                continue;
            }
            let Some(value) = xattr::get(from, &name)? else { continue };
            any = true;
            match xattr::set(to, &name, &value) {
                Ok(()) => {}
                // Lost without harm, as in the kernel, unless it says who may do what.
                Err(Errno::OPNOTSUPP) if !must_be_copied(&name) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(any)
    }

    fn put_in_place(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        to: &Dir,
        name: &[u8],
        lower: &Stat,
        (copy, fresh): (Copy<'_>, &Stat),
    ) -> SysResult<()> {
        let (held, access) = match copy {
            Copy::Unnamed(file) => {
                to.link_unnamed(name, file.as_fd())?;
                (file, Held::ReadWrite)
            }
            Copy::Directory(temporary, dir) => {
                self.place_directory(temporary, to, name, lower)?;
                node.set_real(Self::raised(node, dir)?);
                parent.name_changed(name);
                return Ok(());
            }
            Copy::Named(temporary) => {
                temporary.rename(to, name, RenameFlags::NOREPLACE)?;
                (hold_name(to, name)?, Held::Path)
            }
        };
        // The number first, then the count, then the node: whoever finds the upper file meanwhile
        // shows the old number, and whoever found the lower one looks again.
        if lower.st_nlink == 1 {
            self.remember_identity(fresh, node.identity());
        } else {
            // The other names keep the number: this one is a file of its own now.
            node.set_identity(Identity::of(fresh));
        }
        parent.name_changed(name);
        let kind = type_of(fresh);
        let held = Arc::new(held);
        node.set_real(Real::File(Arc::new(RealFile::new(kind, held, access))));
        Ok(())
    }

    fn place_directory(
        &self,
        temporary: Temporary<'_>,
        to: &Dir,
        name: &[u8],
        lower: &Stat,
    ) -> SysResult<()> {
        let work = &self.upper()?.work;
        let mut closed = None;
        if lower.st_mode & 0o200 == 0 && !is_root() {
            // Moving a directory rewrites its `..`, for which its owner must be able to write.
            let mode = work.stat(temporary.name())?.st_mode & 0o7777;
            work.chmod(temporary.name(), mode | 0o200)?;
            closed = Some(mode);
        }
        temporary.rename(to, name, RenameFlags::NOREPLACE)?;
        closed.map_or(Ok(()), |mode| to.chmod(name, mode))
    }

    /// A node's directories with an upper one on top.
    pub(super) fn raised(node: &Node, dir: Dir) -> SysResult<Real> {
        let mut parts = vec![Arc::new(Part::new(0, Arc::new(dir)))];
        parts.extend(node.parts()?.parts.iter().map(Arc::clone));
        Ok(Real::Directory(Arc::new(MergedDir { parts })))
    }
}

/// Attributes without which the copy would grant more, or less, than the file did.
fn must_be_copied(name: &[u8]) -> bool {
    name.starts_with(b"security.")
        || name.starts_with(b"system.posix_acl_")
        || name == override_stat::NAME
}

/// What a file's data is read from.
pub(super) fn open_data(file: &RealFile) -> SysResult<Arc<File>> {
    match &file.data {
        Some(data) => dir::reopen(data.as_fd(), OFlags::RDONLY).map(Arc::new),
        None if file.access == Held::Read => Ok(Arc::clone(&file.held)),
        None => dir::reopen(file.held.as_fd(), OFlags::RDONLY).map(Arc::new),
    }
}

fn create_regular(upper: &Upper, mode: u32) -> SysResult<Copy<'_>> {
    if let Some(file) = upper.open_unnamed(None, mode)? {
        return Ok(Copy::Unnamed(file));
    }
    let temporary = upper.temporary();
    let device = crate::Device::ZERO;
    upper.work.make_node(temporary.name(), FileType::RegularFile, 0o600, device)?;
    Ok(Copy::Named(temporary))
}
