//! Extended attributes of open files, and of names in a directory, symlinks and devices included.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::dir::{Dir, SysResult, last_error};
use crate::inode::Xattrs;

/// The kernel's limit for a value, and for a list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LARGEST: usize = 64 << 10;

/// What carries the attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// A file that is open for reading or writing (not `O_PATH`).
    Open(BorrowedFd<'a>),
    /// A name in a directory; itself where it is a symlink.
    Name(&'a Dir, &'a [u8]),
    /// A file of any type that is held with `O_PATH`; reached by way of `/proc`.
    Held(BorrowedFd<'a>),
}

impl<'a> Target<'a> {
    /// An open file.
    pub(crate) fn open(file: &'a impl AsFd) -> Self {
        Self::Open(file.as_fd())
    }

    /// A file held with `O_PATH`.
    pub(crate) fn held(file: &'a impl AsFd) -> Self {
        Self::Held(file.as_fd())
    }
}

/// The value of one attribute; `None` where it is not set, or the file system has none.
pub(crate) fn get(target: Target<'_>, name: &[u8]) -> SysResult<Option<Vec<u8>>> {
    match value(target, name) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        other => other.map(Some),
    }
}

/// The value of one attribute; ENODATA where it is not set, EOPNOTSUPP where there can be none.
pub(crate) fn value(target: Target<'_>, name: &[u8]) -> SysResult<Vec<u8>> {
    // One call in nearly every case: values are short.
    let mut buffer = vec![0; 256];
    loop {
        match get_into(target, name, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LARGEST => buffer.resize(LARGEST, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Sets one attribute of a file held with `O_PATH`, with flags of `setxattr(2)`.
pub(crate) fn set_held(
    file: BorrowedFd<'_>,
    name: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> SysResult<()> {
    rustix::fs::setxattr(proc_path(file), name, value, flags)
}

/// Removes one attribute of a file held with `O_PATH`; ENODATA where it is not set.
pub(crate) fn remove_held(file: BorrowedFd<'_>, name: &[u8]) -> SysResult<()> {
    rustix::fs::removexattr(proc_path(file), name)
}

/// Sets one attribute, new or not.
pub(crate) fn set(target: Target<'_>, name: &[u8], value: &[u8]) -> SysResult<()> {
    match target {
        Target::Open(file) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()),
        Target::Held(file) => set_held(file, name, value, XattrFlags::empty()),
        Target::Name(dir, file) => match at::set(dir.as_fd(), file, name, value) {
            Err(Errno::NOSYS) => {
                rustix::fs::lsetxattr(proc_name(dir, file)?, name, value, XattrFlags::empty())
            }
            other => other,
        },
    }
}

/// Removes one attribute; it is no error where it is not set.
pub(crate) fn remove(target: Target<'_>, name: &[u8]) -> SysResult<()> {
    let removed = match target {
        Target::Open(file) => rustix::fs::fremovexattr(file, name),
        Target::Held(file) => remove_held(file, name),
        Target::Name(dir, file) => match at::remove(dir.as_fd(), file, name) {
            Err(Errno::NOSYS) => rustix::fs::lremovexattr(proc_name(dir, file)?, name),
            other => other,
        },
    };
    match removed {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// Whether an attribute only repeats an ACL: XFS lists each a second time, as `trusted.SGI_ACL_FILE`
/// or `trusted.SGI_ACL_DEFAULT`, in a form that means nothing elsewhere.
pub(crate) fn repeats_acl(name: &[u8]) -> bool {
    name.starts_with(b"trusted.SGI_ACL_")
}

/// The names of all attributes that the process may see, in the file system's order.
pub(crate) fn list(target: Target<'_>) -> SysResult<Vec<Vec<u8>>> {
    let mut buffer = vec![0; 1024];
    let length = loop {
        match list_into(target, &mut buffer) {
            Ok(length) => break length,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if buffer.len() < LARGEST => buffer.resize(LARGEST, 0),
            Err(error) => return Err(error),
        }
    };
    buffer.truncate(length);
    let names = buffer.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// All attributes with their values.
pub(crate) fn read_all(target: Target<'_>) -> SysResult<Xattrs> {
    let mut xattrs = Xattrs::new();
    for name in list(target)? {
        // One that is gone since was removed meanwhile.
        if let Some(value) = get(target, &name)? {
            xattrs.insert(name, value);
        }
    }
    Ok(xattrs)
}

fn get_into(target: Target<'_>, name: &[u8], buffer: &mut [u8]) -> SysResult<usize> {
    match target {
        Target::Open(file) => rustix::fs::fgetxattr(file, name, buffer),
        Target::Held(file) => rustix::fs::getxattr(proc_path(file), name, buffer),
        Target::Name(dir, file) => match at::get(dir.as_fd(), file, name, buffer) {
            Err(Errno::NOSYS) => rustix::fs::lgetxattr(proc_name(dir, file)?, name, buffer),
            other => other,
        },
    }
}

fn list_into(target: Target<'_>, buffer: &mut [u8]) -> SysResult<usize> {
    match target {
        Target::Open(file) => rustix::fs::flistxattr(file, buffer),
        Target::Held(file) => rustix::fs::listxattr(proc_path(file), buffer),
        Target::Name(dir, file) => match at::list(dir.as_fd(), file, buffer) {
            Err(Errno::NOSYS) => rustix::fs::llistxattr(proc_name(dir, file)?, buffer),
            other => other,
        },
    }
}

/// Whether the kernel knows the calls that take a name in a directory; `name` exists in `dir`.
pub(crate) fn has_at_calls(dir: &Dir, name: &[u8]) -> bool {
    !matches!(at::list(dir.as_fd(), name, &mut []), Err(Errno::NOSYS | Errno::PERM))
}

/// The path of an open file under `/proc`, for calls that take nothing else.
pub(crate) fn proc_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn proc_name(dir: &Dir, name: &[u8]) -> SysResult<CString> {
    let mut path = proc_path(dir.as_fd()).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name);
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// `setxattrat` and its sisters (Linux 6.13): no `/proc`, no path.
#[expect(unsafe_code, reason = "system calls that no crate wraps yet")]
mod at {
    use super::*;

    const SETXATTRAT: libc::c_long = 463;
    const GETXATTRAT: libc::c_long = 464;
    const LISTXATTRAT: libc::c_long = 465;
    const REMOVEXATTRAT: libc::c_long = 466;

    /// `struct xattr_args` of `linux/xattr.h`.
    #[repr(C)]
    struct Args {
        value: u64,
        size: u32,
        flags: u32,
    }

    pub(super) fn set(
        dir: BorrowedFd<'_>,
        file: &[u8],
        name: &[u8],
        value: &[u8],
    ) -> SysResult<()> {
        let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
        let args = Args { value: value.as_ptr().expose_provenance() as u64, size, flags: 0 };
        with_args(SETXATTRAT, dir, file, name, &args).map(drop)
    }

    pub(super) fn get(
        dir: BorrowedFd<'_>,
        file: &[u8],
        name: &[u8],
        buffer: &mut [u8],
    ) -> SysResult<usize> {
        let size = u32::try_from(buffer.len()).map_err(|_| Errno::TOOBIG)?;
        let args = Args { value: buffer.as_mut_ptr().expose_provenance() as u64, size, flags: 0 };
        with_args(GETXATTRAT, dir, file, name, &args)
    }

    fn with_args(
        number: libc::c_long,
        dir: BorrowedFd<'_>,
        file: &[u8],
        name: &[u8],
        args: &Args,
    ) -> SysResult<usize> {
        let (file, name) = (c_string(file)?, c_string(name)?);
        // SAFETY: both strings end with NUL and live through the call; `args` names memory of the
        // caller's slice, of that slice's length, which the kernel reads or writes and forgets.
        returned(unsafe {
            libc::syscall(
                number,
                dir.as_raw_fd(),
                file.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                name.as_ptr(),
                std::ptr::from_ref(args),
                size_of::<Args>(),
            )
        })
    }

    pub(super) fn list(dir: BorrowedFd<'_>, file: &[u8], buffer: &mut [u8]) -> SysResult<usize> {
        let file = c_string(file)?;
        // SAFETY: the string ends with NUL, the buffer has the length that is passed.
        returned(unsafe {
            libc::syscall(
                LISTXATTRAT,
                dir.as_raw_fd(),
                file.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        })
    }

    pub(super) fn remove(dir: BorrowedFd<'_>, file: &[u8], name: &[u8]) -> SysResult<()> {
        let (file, name) = (c_string(file)?, c_string(name)?);
        // SAFETY: both strings end with NUL and live through the call.
        returned(unsafe {
            libc::syscall(
                REMOVEXATTRAT,
                dir.as_raw_fd(),
                file.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                name.as_ptr(),
            )
        })
        .map(drop)
    }

    fn c_string(bytes: &[u8]) -> SysResult<CString> {
        CString::new(bytes).map_err(|_| Errno::INVAL)
    }

    fn returned(value: libc::c_long) -> SysResult<usize> {
        usize::try_from(value).map_err(|_| last_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::OFlags;

    #[test]
    fn attributes_of_files_and_names_agree() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        let file = dir.open(b"f", OFlags::RDWR | OFlags::CREATE, 0o644).unwrap();
        if set(Target::open(&file), b"user.probe", b"") == Err(Errno::OPNOTSUPP) {
            eprintln!("SKIP attributes_of_files_and_names_agree: no user.* attributes here");
            assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
            return;
        }
        let long = vec![b'v'; 2000];
        set(Target::Name(&dir, b"f"), b"user.long", &long).unwrap();
        assert_eq!(get(Target::open(&file), b"user.long").unwrap().unwrap(), long);
        assert_eq!(get(Target::Name(&dir, b"f"), b"user.long").unwrap().unwrap(), long);
        assert_eq!(get(Target::Name(&dir, b"f"), b"user.probe").unwrap().unwrap(), b"");
        assert_eq!(get(Target::Name(&dir, b"f"), b"user.none").unwrap(), None);
        let both = read_all(Target::Name(&dir, b"f")).unwrap();
        assert_eq!(both, read_all(Target::open(&file)).unwrap());
        remove(Target::Name(&dir, b"f"), b"user.long").unwrap();
        remove(Target::Name(&dir, b"f"), b"user.long").unwrap();
        assert_eq!(get(Target::open(&file), b"user.long").unwrap(), None);
    }
}
