//! [`Dir`]: a directory held open, inside which names are resolved and never outside.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat, StatxAttributes,
    StatxFlags, Timespec, Timestamps,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::path::Arg;

use crate::error::{Context, Result};
use crate::inode::{Device, Timestamp};
use crate::layer_path::LayerPath;

/// The result of a function that is one system call, or nearly so.
pub(crate) type SysResult<T> = std::result::Result<T, Errno>;

/// What the last call of `libc` in this thread failed with.
pub(crate) fn last_error() -> Errno {
    let last = std::io::Error::last_os_error();
    Errno::from_io_error(&last).unwrap_or(Errno::IO)
}

/// A directory that is held open.
///
/// Names given to its methods are single components and never followed when they are symlinks;
/// a [`LayerPath`] is resolved beneath the directory, without following any symlink on the way.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// A name in a directory, as `getdents64` gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DirEntry {
    pub(crate) name: Box<[u8]>,
    /// `FileType::Unknown` where the file system does not tell.
    pub(crate) kind: Kind,
    pub(crate) ino: u64,
}

/// The type of a directory entry, ordered so that entries can be sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Directory,
    Regular,
    CharDevice,
    BlockDevice,
    Symlink,
    Fifo,
    Socket,
    Unknown,
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Dir {
    /// Opens a directory by an ordinary path, from the process's working directory.
    ///
    /// This is where a path from outside becomes a handle; the last component may be a symlink.
    ///
    /// # Errors
    /// As `open(2)`: the path does not exist, is no directory, or may not be read.
    pub fn open_ambient(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_at(CWD, path, flags, Mode::empty()).map(Self).during("open directory", path)
    }

    /// Takes over a descriptor of a directory.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the directory `name` for reading.
    pub(crate) fn child(&self, name: &[u8]) -> SysResult<Self> {
        open_at(&self.0, name, OFlags::RDONLY | DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens the directory `name` for reading; fails with EXDEV where something is mounted on it.
    pub(crate) fn child_of_same_mount(&self, name: &[u8]) -> SysResult<Self> {
        let (flags, resolve) = (OFlags::RDONLY | DIRECTORY, BENEATH | ResolveFlags::NO_XDEV);
        match open_how(&self.0, name, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Self(fd)),
            Err(Errno::NOSYS | Errno::PERM) if self.is_mount_point(name)? => Err(Errno::XDEV),
            Err(Errno::NOSYS | Errno::PERM) => self.child(name),
            Err(error) => Err(error),
        }
    }

    /// Whether something is mounted on `name`, in the mount namespace of this process.
    pub(crate) fn is_mount_point(&self, name: &[u8]) -> SysResult<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let seen = rustix::fs::statx(&self.0, name, flags, StatxFlags::empty())?;
        if seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        }
        // Before Linux 5.8: another device tells nearly every mount.
        Ok(self.stat(name)?.st_dev != self.stat_self()?.st_dev)
    }

    /// Whether `name` is this very file or directory, and not another one of that name.
    pub(crate) fn names(&self, name: &[u8], file: impl AsFd) -> SysResult<bool> {
        let held = rustix::fs::fstat(file)?;
        let named = self.stat_if_exists(name)?;
        Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)))
    }

    /// Opens the directory `name` so that it can be resolved from, but not read (`O_PATH`): works
    /// where the caller may not read it.
    pub(crate) fn child_as_path(&self, name: &[u8]) -> SysResult<Self> {
        open_at(&self.0, name, OFlags::PATH | DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens the directory at `path` for reading; fails with ELOOP or ENOTDIR at a symlink.
    pub(crate) fn descend(&self, path: &LayerPath) -> SysResult<Self> {
        self.descend_with(path, OFlags::RDONLY)
    }

    /// Opens the directory at `path` so that it can be resolved from (`O_PATH`).
    pub(crate) fn descend_as_path(&self, path: &LayerPath) -> SysResult<Self> {
        self.descend_with(path, OFlags::PATH)
    }

    fn descend_with(&self, path: &LayerPath, access: OFlags) -> SysResult<Self> {
        let flags = access | DIRECTORY;
        if path.is_root() {
            return open_at(&self.0, c".", flags, Mode::empty()).map(Self);
        }
        match open_how(&self.0, path.as_bytes(), flags, Mode::empty(), BENEATH) {
            Ok(fd) => Ok(Self(fd)),
            // Before Linux 5.6, behind a seccomp filter that does not know it, or longer than
            // PATH_MAX: one component at a time, which comes to the same.
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => {
                let mut components = path.components();
                let last = components.next_back().ok_or(Errno::INVAL)?;
                let mut parent: Option<Self> = None;
                for name in components {
                    parent = Some(parent.as_ref().unwrap_or(self).child_as_path(name)?);
                }
                let parent = parent.as_ref().unwrap_or(self);
                open_at(&parent.0, last, flags, Mode::empty()).map(Self)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens or creates the file `name`; `O_NOFOLLOW` and `O_CLOEXEC` are added.
    pub(crate) fn open(&self, name: &[u8], flags: OFlags, mode: u32) -> SysResult<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_at(&self.0, name, flags, Mode::from_raw_mode(mode)).map(File::from)
    }

    /// Creates the directory `name`; the umask applies to `mode`.
    pub(crate) fn make_dir(&self, name: &[u8], mode: u32) -> SysResult<()> {
        rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))
    }

    /// Creates the symlink `name` that holds `target`.
    pub(crate) fn make_symlink(&self, name: &[u8], target: &[u8]) -> SysResult<()> {
        rustix::fs::symlinkat(target, &self.0, name)
    }

    /// Creates a device, FIFO, socket or empty file; the umask applies to `mode`.
    pub(crate) fn make_node(
        &self,
        name: &[u8],
        kind: FileType,
        mode: u32,
        device: Device,
    ) -> SysResult<()> {
        let device = rustix::fs::makedev(device.major, device.minor);
        rustix::fs::mknodat(&self.0, name, kind, Mode::from_raw_mode(mode), device)
    }

    /// Makes `name` one more name of `source` in `from`; a symlink is linked itself.
    pub(crate) fn make_link(&self, name: &[u8], from: &Dir, source: &[u8]) -> SysResult<()> {
        rustix::fs::linkat(&from.0, source, &self.0, name, AtFlags::empty())
    }

    /// Gives a file that has no name yet (`O_TMPFILE`) the name `name`.
    pub(crate) fn link_unnamed(&self, name: &[u8], file: BorrowedFd<'_>) -> SysResult<()> {
        match rustix::fs::linkat(file, c"", &self.0, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH (before Linux 6.10) only by way of /proc.
            Err(Errno::NOENT | Errno::PERM) => {
                let path = super::xattr::proc_path(file);
                rustix::fs::linkat(CWD, path, &self.0, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        }
    }

    /// The bytes that the symlink `name` holds.
    pub(crate) fn read_link(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        rustix::fs::readlinkat(&self.0, name, Vec::new()).map(|target| target.into_bytes())
    }

    /// The status of `name` itself.
    pub(crate) fn stat(&self, name: &[u8]) -> SysResult<Stat> {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The status of `name` itself; `None` where there is no such name.
    pub(crate) fn stat_if_exists(&self, name: &[u8]) -> SysResult<Option<Stat>> {
        match self.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The status of this directory.
    pub(crate) fn stat_self(&self) -> SysResult<Stat> {
        rustix::fs::fstat(&self.0)
    }

    /// Removes the name of a file that is no directory.
    pub(crate) fn remove_file(&self, name: &[u8]) -> SysResult<()> {
        rustix::fs::unlinkat(&self.0, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub(crate) fn remove_dir(&self, name: &[u8]) -> SysResult<()> {
        rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// `renameat2`: moves `name` to `new_name` in `to`.
    pub(crate) fn rename(
        &self,
        name: &[u8],
        to: &Dir,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> SysResult<()> {
        if flags.is_empty() {
            return rustix::fs::renameat(&self.0, name, &to.0, new_name);
        }
        rustix::fs::renameat_with(&self.0, name, &to.0, new_name, flags)
    }

    /// Sets the owner of `name` itself.
    pub(crate) fn chown(&self, name: &[u8], uid: u32, gid: u32) -> SysResult<()> {
        let (uid, gid) = (owner(uid), group(gid));
        rustix::fs::chownat(&self.0, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets the permission bits of `name`, which must be no symlink.
    pub(crate) fn chmod(&self, name: &[u8], mode: u32) -> SysResult<()> {
        // fchmodat follows, and fchmodat2 is new in Linux 6.6; what is named here was made by us in
        // a directory that nobody else can reach, and is known to be no symlink.
        rustix::fs::chmodat(&self.0, name, Mode::from_raw_mode(mode), AtFlags::empty())
    }

    /// Sets the access and modification times of `name` itself.
    pub(crate) fn set_times(
        &self,
        name: &[u8],
        atime: Timestamp,
        mtime: Timestamp,
    ) -> SysResult<()> {
        rustix::fs::utimensat(&self.0, name, &timestamps(atime, mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The names in this directory, `.` and `..` left out, in the file system's order.
    pub(crate) fn entries(&self) -> SysResult<Vec<DirEntry>> {
        // A description of its own, so that two threads may read the same handle at once.
        let fd = match open_without_atime(&self.0, b".", OFlags::RDONLY | DIRECTORY) {
            // It may be read but not searched, so not even for its own `.`.
            Err(Errno::ACCESS) => {
                reopen(self.0.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?.into()
            }
            other => other?,
        };
        list(fd.as_fd())
    }

    /// As [`entries`](Self::entries), once and for a handle that nobody else reads.
    pub(crate) fn entries_of_own(&self) -> SysResult<Vec<DirEntry>> {
        list(self.0.as_fd())
    }

    /// The names in this directory, sorted by bytes.
    pub(crate) fn sorted_entries(&self) -> SysResult<Vec<DirEntry>> {
        let mut entries = self.entries()?;
        entries.sort_unstable();
        Ok(entries)
    }

    /// A second handle of the same directory.
    ///
    /// # Errors
    /// Where no more descriptors can be had.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The path by which the kernel knows this directory, for messages and for interfaces that
    /// take nothing but paths; `None` where `/proc` is not mounted.
    pub(crate) fn ambient_path(&self) -> Option<std::path::PathBuf> {
        let link = super::xattr::proc_path(self.0.as_fd());
        let path = rustix::fs::readlinkat(CWD, link, Vec::new()).ok()?;
        Some(OsStr::from_bytes(path.as_bytes()).into())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.0
    }
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::Directory => Self::Directory,
            FileType::RegularFile => Self::Regular,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => Self::Unknown,
        }
    }
}

/// The names in a directory from where its descriptor stands.
fn list(fd: BorrowedFd<'_>) -> SysResult<Vec<DirEntry>> {
    let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
    let mut reader = RawDir::new(fd, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let kind = Kind::from(entry.file_type());
            entries.push(DirEntry { name: name.into(), kind, ino: entry.ino() });
        }
    }
    Ok(entries)
}

/// `openat(2)`, again where a signal came in between: FUSE and network file systems wait.
pub(crate) fn open_at(
    dir: impl AsFd,
    name: impl Arg + Copy,
    flags: OFlags,
    mode: Mode,
) -> SysResult<OwnedFd> {
    retry_on_intr(|| rustix::fs::openat(dir.as_fd(), name, flags, mode))
}

/// `openat2(2)`, likewise.
fn open_how(
    dir: impl AsFd,
    name: impl Arg + Copy,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> SysResult<OwnedFd> {
    retry_on_intr(|| rustix::fs::openat2(dir.as_fd(), name, flags, mode, resolve))
}

/// Opens a name so that reading leaves no trace in its access time, where the caller may do that
/// (who neither owns the file nor is privileged may not).
pub(crate) fn open_without_atime(dir: impl AsFd, name: &[u8], flags: OFlags) -> SysResult<OwnedFd> {
    match open_at(dir.as_fd(), name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => open_at(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// Opens the file that is held with `O_PATH` anew, by way of `/proc`.
pub(crate) fn reopen(held: BorrowedFd<'_>, flags: OFlags) -> SysResult<File> {
    let path = super::xattr::proc_path(held);
    let flags = flags | OFlags::CLOEXEC;
    if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
        return open_at(CWD, path.as_str(), flags, Mode::empty()).map(File::from);
    }
    open_without_atime(CWD, path.as_bytes(), flags).map(File::from)
}

/// A user id for `chown`; 2^32 - 1, which means "leave it", cannot come from a parsed owner.
pub(crate) fn owner(uid: u32) -> Option<rustix::fs::Uid> {
    (uid != u32::MAX).then(|| rustix::fs::Uid::from_raw(uid))
}

/// A group id for `chown`.
pub(crate) fn group(gid: u32) -> Option<rustix::fs::Gid> {
    (gid != u32::MAX).then(|| rustix::fs::Gid::from_raw(gid))
}

/// Both times in the kernel's form.
pub(crate) fn timestamps(atime: Timestamp, mtime: Timestamp) -> Timestamps {
    let spec = |time: Timestamp| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// The access time in a status.
pub(crate) fn atime_of(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_atime, nanos: u32::try_from(stat.st_atime_nsec).unwrap_or(0) }
}

/// The modification time in a status.
pub(crate) fn mtime_of(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// The device number that a status names.
pub(crate) fn device_of(stat: &Stat) -> Device {
    Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) }
}

/// The type that a status names.
pub(crate) fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        (temporary, dir)
    }

    #[test]
    fn nothing_is_resolved_through_a_symlink() {
        let (_keep, dir) = scratch();
        dir.make_dir(b"real", 0o755).unwrap();
        dir.make_symlink(b"link", b"real").unwrap();
        dir.make_symlink(b"up", b"..").unwrap();
        let path = |text: &str| LayerPath::parse(text.as_bytes()).unwrap();
        assert!(dir.descend(&path("real")).is_ok());
        for through in ["link", "up", "link/x"] {
            assert!(dir.descend(&path(through)).is_err(), "{through}");
            assert!(dir.child(b"link").is_err());
        }
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_descended() {
        let (_keep, dir) = scratch();
        let mut text = String::new();
        let mut at = dir.try_clone().unwrap();
        let name = "n".repeat(250);
        for _ in 0..20 {
            at.make_dir(name.as_bytes(), 0o755).unwrap();
            at = at.child(name.as_bytes()).unwrap();
            text.push_str(&name);
            text.push('/');
        }
        at.make_dir(b"end", 0o755).unwrap();
        let deep = dir.descend(&LayerPath::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(deep.entries().unwrap().len(), 1);
        crate::sys::remove::remove_tree(&dir, name.as_bytes()).unwrap();
    }

    #[test]
    fn names_are_bytes() {
        let (_keep, dir) = scratch();
        let odd: &[&[u8]] = &[b"\xff\xfe", b"new\nline", b" ", b"-rf"];
        for name in odd {
            dir.make_dir(name, 0o755).unwrap();
        }
        let mut found: Vec<_> = dir.entries().unwrap().into_iter().map(|e| e.name).collect();
        found.sort();
        assert_eq!(found.len(), odd.len());
        assert!(odd.iter().all(|name| found.iter().any(|f| **f == **name)));
    }
}
