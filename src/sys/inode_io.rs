//! Reads an [`Inode`] from a file, and gives a file the attributes of one.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, Stat, Timestamps};
use rustix::io::Errno;

use super::dir::{
    Dir, SysResult, device_of, group, last_error, mtime_of, owner, timestamps, type_of,
};
use super::xattr::{self, Target};
use crate::inode::{FileKind, Inode, Timestamp, Xattrs};

/// Everything that is known of `name` in `dir`, itself where it is a symlink; `stat` is its status.
pub(crate) fn from_stat(dir: &Dir, name: &[u8], stat: &Stat) -> SysResult<Inode> {
    let kind = kind_of(dir, name, stat)?;
    Ok(inode(kind, stat, xattr::read_all(Target::Name(dir, name))?))
}

/// Everything that is known of the directory `dir`, which is open for reading.
pub(crate) fn read_self(dir: &Dir) -> SysResult<Inode> {
    let stat = dir.stat_self()?;
    Ok(inode(FileKind::Directory, &stat, xattr::read_all(Target::open(dir))?))
}

/// What the file is, symlink target included.
pub(crate) fn kind_of(dir: &Dir, name: &[u8], stat: &Stat) -> SysResult<FileKind> {
    Ok(match type_of(stat) {
        FileType::Directory => FileKind::Directory,
        FileType::RegularFile => {
            FileKind::Regular { size: u64::try_from(stat.st_size).unwrap_or(0) }
        }
        FileType::Symlink => FileKind::Symlink { target: dir.read_link(name)? },
        FileType::CharacterDevice => FileKind::CharDevice(device_of(stat)),
        FileType::BlockDevice => FileKind::BlockDevice(device_of(stat)),
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::Unknown => return Err(Errno::IO),
    })
}

fn inode(kind: FileKind, stat: &Stat, xattrs: Xattrs) -> Inode {
    Inode {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime_of(stat),
        xattrs,
    }
}

/// Sets the owner of what is open, or of a name itself.
pub(crate) fn chown(target: Target<'_>, uid: u32, gid: u32) -> SysResult<()> {
    match target {
        Target::Open(file) => rustix::fs::fchown(file, owner(uid), group(gid)),
        Target::Held(file) => {
            rustix::fs::chownat(file, c"", owner(uid), group(gid), AtFlags::EMPTY_PATH)
        }
        Target::Name(dir, name) => dir.chown(name, uid, gid),
    }
}

/// Sets the permission bits of what is open, or of a name that is no symlink.
pub(crate) fn chmod(target: Target<'_>, mode: u32) -> SysResult<()> {
    match target {
        Target::Open(file) => rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(mode)),
        Target::Held(file) => rustix::fs::chmod(xattr::proc_path(file), Mode::from_raw_mode(mode)),
        Target::Name(dir, name) => dir.chmod(name, mode),
    }
}

/// Fails where the process may not use what is held with `O_PATH` in this way.
pub(crate) fn may(file: BorrowedFd<'_>, access: Access) -> SysResult<()> {
    match faccessat2(file, access) {
        // Linux 5.8 knows it.
        Err(Errno::NOSYS) => {
            rustix::fs::accessat(CWD, xattr::proc_path(file), access, AtFlags::EACCESS)
        }
        other => other,
    }
}

#[expect(unsafe_code, reason = "no crate in use passes AT_EMPTY_PATH on")]
fn faccessat2(file: BorrowedFd<'_>, access: Access) -> SysResult<()> {
    // SAFETY: the string ends with NUL and lives for ever, all else are numbers.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            file.as_raw_fd(),
            c"".as_ptr(),
            access.bits(),
            libc::AT_EACCESS | libc::AT_EMPTY_PATH,
        )
    };
    if failed == 0 { Ok(()) } else { Err(last_error()) }
}

/// Sets the access and modification times of what is open, or of a name itself.
pub(crate) fn set_times(target: Target<'_>, atime: Timestamp, mtime: Timestamp) -> SysResult<()> {
    match target {
        Target::Name(dir, name) => dir.set_times(name, atime, mtime),
        _ => set_timestamps(target, &timestamps(atime, mtime)),
    }
}

/// Sets the access time, and leaves the modification time.
pub(crate) fn set_access_time(target: Target<'_>, atime: Timestamp) -> SysResult<()> {
    let mut times = timestamps(atime, atime);
    times.last_modification.tv_nsec = rustix::fs::UTIME_OMIT;
    set_timestamps(target, &times)
}

/// As [`set_times`], with `UTIME_NOW` and `UTIME_OMIT` as the kernel takes them.
pub(crate) fn set_timestamps(target: Target<'_>, times: &Timestamps) -> SysResult<()> {
    match target {
        Target::Open(file) => rustix::fs::futimens(file, times),
        Target::Held(file) => rustix::fs::utimensat(file, c"", times, AtFlags::EMPTY_PATH),
        Target::Name(dir, name) => {
            rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

/// As `truncate(2)`, of a file held in any way: where the length stays, the file system decides
/// whether the times do, which `ftruncate(2)` always sets.
#[expect(unsafe_code, reason = "a system call that rustix does not wrap")]
pub(crate) fn truncate(file: BorrowedFd<'_>, length: u64) -> SysResult<()> {
    let path = CString::new(xattr::proc_path(file)).map_err(|_| Errno::INVAL)?;
    let length = libc::off_t::try_from(length).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path ends with a NUL and outlives the call, which writes to no memory.
    let failed = unsafe { libc::truncate(path.as_ptr(), length) } != 0;
    if failed { Err(last_error()) } else { Ok(()) }
}
