//! Changing the tree by path.

use std::path::Path;

use rustix::fs::{OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::Tree;
use super::create::New;
use super::metadata::EntryKind;
use super::path::{Follow, Last, trim_slashes};
use super::read::bytes;
use super::rename::{End, RenameMode};
use super::xattrs::XattrMode;
use crate::error::{Context, Error, Result};
use crate::inode::{Device, Timestamp};
use crate::sys::dir::SysResult;

/// What a time is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// It stays.
    Keep,
    /// The time that it is now.
    Now,
    /// This time.
    At(Timestamp),
}

impl SetTime {
    pub(super) fn spec(self) -> Timespec {
        match self {
            Self::Keep => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            Self::Now => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            Self::At(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
        }
    }
}

/// Both times in the kernel's form; `None` where both stay, since the kernel leaves such a call
/// before it looks at the file.
pub(super) fn times(access: SetTime, modification: SetTime) -> Option<Timestamps> {
    let both_stay = access == SetTime::Keep && modification == SetTime::Keep;
    (!both_stay)
        .then(|| Timestamps { last_access: access.spec(), last_modification: modification.spec() })
}

fn is(error: &Error, number: Errno) -> bool {
    error.raw_os_error() == Some(number.raw_os_error())
}

/// Changing the tree. In a read-only one everything here fails with EROFS.
impl Tree {
    /// Creates a directory; the umask applies to `mode`.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        self.create(path, New::Directory { mode }).during("create directory", path)
    }

    /// Creates a directory with all its parents, where they do not exist.
    ///
    /// # Errors
    /// As [`std::fs::create_dir_all`]: EEXIST where something else is in the way, a dangling symlink
    /// too; ENOTDIR where it is in the way of a parent.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        let is_named = |path: &&Path| !path.as_os_str().is_empty() && path.parent().is_some();
        let mut missing = Vec::new();
        for path in path.as_ref().ancestors().take_while(is_named) {
            match self.create_dir(path, mode) {
                Err(error) if is(&error, Errno::NOENT) => missing.push(path),
                other => {
                    self.unless_directory(path, other)?;
                    break;
                }
            }
        }
        let mut missing = missing.iter().rev();
        missing.try_for_each(|path| self.unless_directory(path, self.create_dir(path, mode)))
    }

    /// Lets a directory be there already.
    fn unless_directory(&self, path: &Path, made: Result<()>) -> Result<()> {
        match made {
            Err(error) if is(&error, Errno::EXIST) => {
                let is_there = self.metadata(path).is_ok_and(|found| found.is_dir());
                if is_there { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    /// Creates a symlink that holds `target`, whatever that is.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub fn symlink(&self, target: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let link = link.as_ref();
        let target = bytes(target.as_ref());
        let create = || {
            if target.is_empty() {
                return Err(Errno::NOENT);
            }
            self.create(link, New::Symlink { target })
        };
        create().during("create symlink", link)
    }

    /// Creates a device, FIFO, socket or empty file; the umask applies to `mode`.
    ///
    /// # Errors
    /// As `mknod(2)`: EPERM for a directory, EINVAL for a symlink. EPERM for a character device
    /// 0:0, which would be a whiteout.
    pub fn mknod(
        &self,
        path: impl AsRef<Path>,
        kind: EntryKind,
        mode: u32,
        device: Device,
    ) -> Result<()> {
        let path = path.as_ref();
        kind.to_be_made()
            .and_then(|kind| self.create(path, New::Node { kind, mode, device }))
            .during("create node", path)
    }

    fn create(&self, path: &Path, new: New<'_>) -> SysResult<()> {
        let (dir, name, slash) = self.core.walk_to_create(bytes(path))?;
        if slash && !matches!(new, New::Directory { .. }) {
            let absent = self.core.node(&dir, &name)?.is_none();
            return Err(if absent { Errno::NOENT } else { Errno::EXIST });
        }
        self.core.create(&dir, &name, new)
    }

    /// Makes `link` one more name of the file `original`, itself where that is a symlink.
    ///
    /// # Errors
    /// As `link(2)`: EPERM for a directory.
    pub fn hard_link(&self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let link = link.as_ref();
        let make = || {
            let node = self.core.resolve(bytes(original.as_ref()), Follow::NotLast)?;
            let (dir, name, slash) = self.core.walk_to_create(bytes(link))?;
            if slash {
                let absent = self.core.node(&dir, &name)?.is_none();
                return Err(if absent { Errno::NOENT } else { Errno::EXIST });
            }
            self.core.link(&node, &dir, &name)
        };
        make().during("create hard link", link)
    }

    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let remove = || {
            let raw = bytes(path);
            let walked = self.core.walk(trim_slashes(raw), Follow::NotLast)?;
            let Last::Name(name) = walked.last else { return Err(Errno::ISDIR) };
            self.core.unlink(&walked.dir, &name, raw.ends_with(b"/"))
        };
        remove().during("remove", path)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let remove = || {
            let walked = self.core.walk(trim_slashes(bytes(path)), Follow::NotLast)?;
            match walked.last {
                Last::Name(name) => self.core.rmdir(&walked.dir, &name),
                Last::Root => Err(Errno::BUSY),
                Last::Dot => Err(Errno::INVAL),
                Last::DotDot => Err(Errno::NOTEMPTY),
            }
        };
        remove().during("remove directory", path)
    }

    /// Removes a directory with all that lies beneath; no symlink is followed.
    ///
    /// # Errors
    /// As [`remove_dir`](Self::remove_dir) and [`remove_file`](Self::remove_file); what was removed
    /// until then stays removed.
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut directories = vec![path.to_path_buf()];
        for entry in self.walk_itself(path)? {
            let entry = entry?;
            let full = path.join(entry.path());
            if entry.metadata().is_dir() {
                directories.push(full);
            } else {
                self.remove_file(full)?;
            }
        }
        directories.iter().rev().try_for_each(|directory| self.remove_dir(directory))
    }

    fn walk_itself(&self, path: &Path) -> Result<super::Walk> {
        if !self.symlink_metadata(path)?.is_dir() {
            return Err(Errno::NOTDIR).during("remove directory", path);
        }
        self.walk(path)
    }

    /// Renames, replacing what is at the new name.
    ///
    /// # Errors
    /// As `rename(2)`; EXDEV for a directory that lies below, unless redirects are written.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.rename_with(from, to, RenameMode::Replace)
    }

    /// Renames, as `mode` says.
    ///
    /// # Errors
    /// As `renameat2(2)`.
    pub fn rename_with(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mode: RenameMode,
    ) -> Result<()> {
        let from = from.as_ref();
        let (old_path, new_path) = (bytes(from), bytes(to.as_ref()));
        let rename = || {
            let old = self.core.walk(trim_slashes(old_path), Follow::NotLast)?;
            let new = self.core.walk(trim_slashes(new_path), Follow::NotLast)?;
            let Last::Name(old_name) = old.last else { return Err(Errno::BUSY) };
            let Last::Name(new_name) = new.last else {
                let exists = mode == RenameMode::NoReplace;
                return Err(if exists { Errno::EXIST } else { Errno::BUSY });
            };
            let old = End { dir: old.dir, name: old_name, slash: old_path.ends_with(b"/") };
            let new = End { dir: new.dir, name: new_name, slash: new_path.ends_with(b"/") };
            self.core.rename(&old, &new, mode)
        };
        rename().during("rename", from)
    }

    /// Sets the permission bits of what a path leads to.
    ///
    /// # Errors
    /// As `chmod(2)`.
    pub fn set_permissions(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.change(path.as_ref(), Follow::Last, "set permissions of", |node| {
            self.core.chmod(node, mode)
        })
    }

    /// Sets the owner of what a path leads to; `None` leaves it.
    ///
    /// # Errors
    /// As `chown(2)`.
    pub fn chown(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(path.as_ref(), Follow::Last, "set owner of", |node| {
            self.core.chown(node, uid, gid)
        })
    }

    /// Sets the owner of a path itself, where it is a symlink.
    ///
    /// # Errors
    /// As `lchown(2)`.
    pub fn lchown(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(path.as_ref(), Follow::NotLast, "set owner of", |node| {
            self.core.chown(node, uid, gid)
        })
    }

    /// Sets the access and modification times of what a path leads to.
    ///
    /// # Errors
    /// As `utimensat(2)`.
    pub fn set_times(
        &self,
        path: impl AsRef<Path>,
        access: SetTime,
        modification: SetTime,
    ) -> Result<()> {
        self.change_times(path.as_ref(), Follow::Last, access, modification)
    }

    /// Sets the times of a path itself, where it is a symlink.
    ///
    /// # Errors
    /// As `utimensat(2)` with `AT_SYMLINK_NOFOLLOW`.
    pub fn set_symlink_times(
        &self,
        path: impl AsRef<Path>,
        access: SetTime,
        modification: SetTime,
    ) -> Result<()> {
        self.change_times(path.as_ref(), Follow::NotLast, access, modification)
    }

    fn change_times(
        &self,
        path: &Path,
        follow: Follow,
        access: SetTime,
        modification: SetTime,
    ) -> Result<()> {
        let Some(times) = times(access, modification) else { return Ok(()) };
        self.change(path, follow, "set times of", |node| self.core.set_times(node, &times))
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// As `truncate(2)`.
    pub fn truncate(&self, path: impl AsRef<Path>, length: u64) -> Result<()> {
        self.change(path.as_ref(), Follow::Last, "truncate", |node| {
            self.core.truncate(node, length)
        })
    }

    /// The value of an extended attribute of a path itself; `None` where it is not set.
    ///
    /// # Errors
    /// As `lgetxattr(2)`.
    pub fn xattr(&self, path: impl AsRef<Path>, name: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let get = || {
            let node = self.core.resolve(bytes(path), Follow::NotLast)?;
            match self.core.get_xattr(&node, name.as_ref()) {
                Err(Errno::NODATA) => Ok(None),
                other => other.map(Some),
            }
        };
        get().during("read attribute of", path)
    }

    /// The names of all extended attributes of a path itself, sorted by bytes.
    ///
    /// # Errors
    /// As `llistxattr(2)`.
    pub fn xattr_names(&self, path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>> {
        let path = path.as_ref();
        let list = || self.core.list_xattrs(&*self.core.resolve(bytes(path), Follow::NotLast)?);
        list().during("list attributes of", path)
    }

    /// Sets an extended attribute of a path itself.
    ///
    /// # Errors
    /// As `lsetxattr(2)`.
    pub fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        mode: XattrMode,
    ) -> Result<()> {
        self.change(path.as_ref(), Follow::NotLast, "set attribute of", |node| {
            self.core.set_xattr(node, name.as_ref(), value.as_ref(), mode)
        })
    }

    /// Removes an extended attribute of a path itself.
    ///
    /// # Errors
    /// As `lremovexattr(2)`: ENODATA where it is not set.
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: impl AsRef<[u8]>) -> Result<()> {
        self.change(path.as_ref(), Follow::NotLast, "remove attribute of", |node| {
            self.core.remove_xattr(node, name.as_ref())
        })
    }

    fn change(
        &self,
        path: &Path,
        follow: Follow,
        doing: &str,
        change: impl FnOnce(&std::sync::Arc<super::node::Node>) -> SysResult<()>,
    ) -> Result<()> {
        // What is copied up is read, and what is open needs no `/proc` to be changed.
        let act = || change(&self.core.resolve_held(bytes(path), follow, OFlags::RDONLY)?);
        act().during(doing, path)
    }
}
