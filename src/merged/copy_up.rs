//! Copy-up: a lower file becomes an upper one, in one step for every reader.
//!
//! The order is the kernel's: parents first, from the top; the copy is finished in the WorkDir,
//! data, then owner, attributes, mark, permission bits, times; the data is synced; then it gets
//! its name, which must be free; then the parent's times are put back. A crash at any step leaves
//! the lower file showing, or the finished copy.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::Core;
use super::attributes::is_root;
use super::lookup::hold_name;
use super::node::{Identity, Node, Place, Real, RealFile};
use super::upper::{Temporary, Upper};
use crate::format::lookup::{MergedDir, Part};
use crate::format::opaque::Opaque;
use crate::format::override_stat;
use crate::format::xattr_name::mark;
use crate::namespace::Namespace;
use crate::sys::dir::{self, SysResult, atime_of, device_of, mtime_of, type_of};
use crate::sys::xattr::{self, Target};
use crate::sys::{Dir, copy, inode_io};

/// How much of a file's data is copied up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Whole,
    /// It is about to be truncated.
    Nothing,
}

/// A finished copy without a place.
enum Copy<'a> {
    /// It has no name at all yet.
    Unnamed(File),
    Named(Temporary<'a>),
}

impl Core {
    /// Makes sure that a node is in the upper layer, and its parents with it.
    ///
    /// # Errors
    /// EROFS in a read-only tree; EEXIST where the node lost its name while it was a lower one.
    pub(super) fn copy_up(&self, node: &Arc<Node>, data: Data) -> SysResult<()> {
        self.upper()?;
        let mut chain = Vec::new();
        let mut at = Arc::clone(node);
        while !self.is_whole_upper(&at)? {
            // The kernel finds the whiteout, or what replaced the file, in the way.
            let parent = at.parent().ok_or(Errno::EXIST)?;
            chain.push(at);
            at = parent;
        }
        for at in chain.iter().rev() {
            self.copy_up_one(at, data)?;
        }
        Ok(())
    }

    /// Whether a node is in the upper layer with all that belongs to it.
    pub(super) fn is_whole_upper(&self, node: &Node) -> SysResult<bool> {
        let real = node.real();
        let has_data = !matches!(&real, Real::File(file) if file.data.is_some());
        Ok(self.upper.is_some() && real.layer()? == 0 && has_data)
    }

    fn copy_up_one(&self, node: &Arc<Node>, data: Data) -> SysResult<()> {
        let upper = self.upper()?;
        let _copying = node.lock_copying();
        if self.is_whole_upper(node)? {
            return Ok(());
        }
        let real = node.real();
        if self.is_upper(node)? {
            return self.complete(node, &real, data);
        }
        let Place { parent, name } = node.place().ok_or(Errno::EXIST)?;
        let to = parent.upper_dir()?;
        let parent_stat = to.stat_self()?;
        let stat = real.stat()?;
        let marked = self.has_origin(&stat);
        let copy = self.prepare(upper, &real, &stat, data, marked)?;
        let closed = parent_stat.st_mode & 0o200 == 0 && !is_root();
        if closed {
            // The kernel changes it as the one who mounted, whatever its mode.
            inode_io::chmod(Target::held(&to), (parent_stat.st_mode & 0o7777) | 0o300)?;
        }
        let placed = self
            .mark_impure(&parent, &to)
            .and_then(|()| self.put_in_place(node, &parent, &to, &name, &stat, copy));
        if closed {
            inode_io::chmod(Target::held(&to), parent_stat.st_mode & 0o7777)?;
        }
        placed?;
        let times = (atime_of(&parent_stat), mtime_of(&parent_stat));
        inode_io::set_times(Target::held(&to), times.0, times.1)
    }

    /// Whether a copy carries the mark `origin`: not where it is one name of several, nor where
    /// the namespace cannot be set on it.
    fn has_origin(&self, stat: &Stat) -> bool {
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
        let target = Target::held(dir);
        let name = self.options.namespace.name(mark::IMPURE);
        if xattr::get(target, &name)?.is_none() {
            xattr::set(target, &name, b"y")?;
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
    ) -> SysResult<Copy<'a>> {
        let from = real.target()?;
        if let Real::File(file) = real
            && file.kind == FileType::RegularFile
        {
            let copy = create_regular(upper)?;
            let target = match &copy {
                Copy::Unnamed(file) => Target::open(file),
                Copy::Named(temporary) => Target::Name(&upper.work, temporary.name()),
            };
            if data == Data::Whole {
                self.copy_data(upper, file, stat, &copy)?;
            }
            self.dress(from, target, stat, marked)?;
            if let Copy::Unnamed(file) = &copy {
                self.options.durability.sync_file(file)?;
            }
            return Ok(copy);
        }
        let temporary = upper.temporary();
        match real {
            Real::Directory(_) => upper.work.make_dir(temporary.name(), 0o700)?,
            Real::File(file) if file.kind == FileType::Symlink => {
                let link = rustix::fs::readlinkat(&file.held, c"", Vec::new())?;
                upper.work.make_symlink(temporary.name(), link.as_bytes())?;
            }
            Real::File(file) => {
                upper.work.make_node(temporary.name(), file.kind, 0, device_of(stat))?;
            }
        }
        self.dress(from, Target::Name(&upper.work, temporary.name()), stat, marked)?;
        Ok(Copy::Named(temporary))
    }

    fn copy_data(
        &self,
        upper: &Upper,
        file: &RealFile,
        stat: &Stat,
        copy: &Copy<'_>,
    ) -> SysResult<()> {
        let held = file.data.as_ref().unwrap_or(&file.held);
        let source = dir::reopen(std::os::fd::AsFd::as_fd(held), OFlags::RDONLY)?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        match copy {
            Copy::Unnamed(to) => copy::contents(&source, to, length),
            Copy::Named(temporary) => {
                let to = upper.work.open(temporary.name(), OFlags::WRONLY, 0)?;
                copy::contents(&source, &to, length)?;
                self.options.durability.sync_file(&to)
            }
        }
    }

    /// Gives a copy the attributes of what it is a copy of.
    fn dress(&self, from: Target<'_>, to: Target<'_>, stat: &Stat, marked: bool) -> SysResult<()> {
        // The owner comes first, since changing it clears a file's capabilities.
        let fresh = self.status(to)?;
        if (fresh.st_uid, fresh.st_gid) != (stat.st_uid, stat.st_gid)
            && self.recorded(from, stat)?.is_none()
        {
            self.set_owner_or_record(to, stat, stat.st_uid, stat.st_gid, stat.st_mode & 0o7777)?;
        }
        self.copy_xattrs(from, to)?;
        if marked {
            xattr::set(to, &self.options.namespace.name(mark::ORIGIN), b"")?;
        }
        if type_of(stat) != FileType::Symlink {
            inode_io::chmod(to, stat.st_mode & 0o7777)?;
        }
        inode_io::set_times(to, atime_of(stat), mtime_of(stat))
    }

    pub(super) fn status(&self, target: Target<'_>) -> SysResult<Stat> {
        match target {
            Target::Open(file) | Target::Held(file) => rustix::fs::fstat(file),
            Target::Name(dir, name) => dir.stat(name),
        }
    }

    /// Copies all attributes but overlayfs's own, and what only repeats others.
    pub(super) fn copy_xattrs(&self, from: Target<'_>, to: Target<'_>) -> SysResult<()> {
        for name in xattr::list(from)? {
            if self.options.namespace.unescape(&name).is_none() || xattr::repeats_acl(&name) {
                continue;
            }
            let Some(value) = xattr::get(from, &name)? else { continue };
            match xattr::set(to, &name, &value) {
                Ok(()) => {}
                // Lost without harm, as in the kernel, unless it says who may do what.
                Err(Errno::OPNOTSUPP) if !must_be_copied(&name) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn put_in_place(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        to: &Dir,
        name: &[u8],
        lower: &Stat,
        copy: Copy<'_>,
    ) -> SysResult<()> {
        let held = match copy {
            Copy::Unnamed(file) => {
                to.link_unnamed(name, std::os::fd::AsFd::as_fd(&file))?;
                hold_name(to, name)?
            }
            Copy::Named(temporary) if type_of(lower) == FileType::Directory => {
                let dir = self.place_directory(temporary, to, name, lower)?;
                self.raise_directory(node, dir)?;
                parent.count_copy_up();
                return Ok(());
            }
            Copy::Named(temporary) => {
                temporary.rename(to, name, RenameFlags::NOREPLACE)?;
                hold_name(to, name)?
            }
        };
        // The number first, then the count, then the node: whoever finds the upper file meanwhile
        // shows the old number, and whoever found the lower one looks again.
        let stat = rustix::fs::fstat(&held)?;
        if lower.st_nlink == 1 {
            self.remember_identity(&stat, node.identity());
        } else {
            // The other names keep the number: this one is a file of its own now.
            node.set_identity(Identity::of(&stat));
        }
        parent.count_copy_up();
        let kind = type_of(lower);
        node.set_real(Real::File(Arc::new(RealFile {
            layer: 0,
            kind,
            held: held.into(),
            data: None,
        })));
        Ok(())
    }

    fn place_directory(
        &self,
        temporary: Temporary<'_>,
        to: &Dir,
        name: &[u8],
        lower: &Stat,
    ) -> SysResult<Dir> {
        let work = &self.upper()?.work;
        let closed = lower.st_mode & 0o200 == 0 && !is_root();
        if closed {
            // Moving a directory rewrites its `..`, for which its owner must be able to write.
            work.chmod(temporary.name(), (lower.st_mode & 0o7777) | 0o200)?;
        }
        temporary.rename(to, name, RenameFlags::NOREPLACE)?;
        if closed {
            to.chmod(name, lower.st_mode & 0o7777)?;
        }
        to.child_as_path(name)
    }

    /// Puts the upper directory on top of a node's.
    fn raise_directory(&self, node: &Node, dir: Dir) -> SysResult<()> {
        let mut parts = vec![Part { layer: 0, dir, opaque: Opaque::No }];
        for part in &node.parts()?.parts {
            let dir = part.dir.child_as_path(b".")?;
            parts.push(Part { layer: part.layer, dir, opaque: part.opaque });
        }
        node.set_real(Real::Directory(Arc::new(MergedDir { parts })));
        Ok(())
    }

    /// Brings the data up of an upper file that has only the attributes.
    fn complete(&self, node: &Node, real: &Real, data: Data) -> SysResult<()> {
        use std::os::fd::AsFd;
        let Real::File(file) = real else { return Ok(()) };
        let Some(below) = &file.data else { return Ok(()) };
        let stat = real.stat()?;
        if data == Data::Whole {
            let source = dir::reopen(below.as_fd(), OFlags::RDONLY)?;
            let to = dir::reopen(file.held.as_fd(), OFlags::WRONLY)?;
            copy::contents(&source, &to, u64::try_from(stat.st_size).unwrap_or(0))?;
            self.options.durability.sync_file(&to)?;
        }
        inode_io::set_times(Target::held(&file.held), atime_of(&stat), mtime_of(&stat))?;
        xattr::remove(Target::held(&file.held), &self.options.namespace.name(mark::METACOPY))?;
        let held = rustix::io::fcntl_dupfd_cloexec(&file.held, 0)?;
        let whole = RealFile { layer: 0, kind: file.kind, held, data: None };
        node.set_real(Real::File(Arc::new(whole)));
        Ok(())
    }
}

/// Attributes without which the copy would grant more, or less, than the file did.
fn must_be_copied(name: &[u8]) -> bool {
    name.starts_with(b"security.")
        || name.starts_with(b"system.posix_acl_")
        || name == override_stat::NAME
}

fn create_regular(upper: &Upper) -> SysResult<Copy<'_>> {
    use std::sync::atomic::Ordering;
    if upper.has_unnamed.load(Ordering::Relaxed) {
        match upper.work.open(b".", OFlags::TMPFILE | OFlags::RDWR, 0o600) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            other => return other.map(Copy::Unnamed),
        }
        upper.has_unnamed.store(false, Ordering::Relaxed);
    }
    let temporary = upper.temporary();
    let device = crate::Device::ZERO;
    upper.work.make_node(temporary.name(), FileType::RegularFile, 0o600, device)?;
    Ok(Copy::Named(temporary))
}
