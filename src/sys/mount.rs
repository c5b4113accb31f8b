//! Mounts: file system contexts, detached trees, attaching and unmounting.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, OFlags, StatVfsMountFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::thread::UnshareFlags;

use super::dir::{Dir, SysResult, last_error, open_at, reopen};
use super::xattr::proc_path;

/// The longest text that an option of a [`Context`] takes, without its NUL (`fsconfig(2)`).
pub(crate) const LONGEST_TEXT: usize = 255;

/// A file system that is being configured.
#[derive(Debug)]
pub(crate) struct Context(OwnedFd);

impl Context {
    /// Starts an overlay (`fsopen`, Linux 5.2).
    pub(crate) fn overlay() -> SysResult<Self> {
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map(Self)
    }

    /// Whether an overlay refuses an option that it does not know when it is set, as since Linux
    /// 6.8; before, it takes any, and fails when it is made. Asked of a context of its own.
    pub(crate) fn overlay_checks_options() -> bool {
        let set = |context: Self| context.string("no-such-option", b"1");
        Self::overlay().is_ok_and(|context| set(context).is_err())
    }

    /// Sets an option to a text of at most [`LONGEST_TEXT`] bytes.
    pub(crate) fn string(&self, key: &str, value: &[u8]) -> SysResult<()> {
        rustix::mount::fsconfig_set_string(self.0.as_fd(), key, value)
    }

    /// Sets an option to a directory that is open, or held with `O_PATH` (overlayfs: Linux 6.13).
    pub(crate) fn descriptor(&self, key: &str, value: BorrowedFd<'_>) -> SysResult<()> {
        match rustix::mount::fsconfig_set_fd(self.0.as_fd(), key, value) {
            // At first the kernel took none that was only held.
            Err(Errno::BADF) => {
                let opened = reopen(value, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::mount::fsconfig_set_fd(self.0.as_fd(), key, opened.as_fd())
            }
            other => other,
        }
    }

    /// Sets an option that has no value.
    pub(crate) fn flag(&self, key: &str) -> SysResult<()> {
        rustix::mount::fsconfig_set_flag(self.0.as_fd(), key)
    }

    /// Makes the file system, and of it a mount that is not attached anywhere.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> SysResult<OwnedFd> {
        rustix::mount::fsconfig_create(self.0.as_fd())?;
        rustix::mount::fsmount(self.0.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    /// What the kernel had to say so far, one line for each message.
    pub(crate) fn messages(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 1024];
        // Each read gives one message; none left is an error.
        while let Ok(length) = rustix::io::read(&self.0, &mut buffer) {
            if length == 0 || lines.len() == 32 {
                break;
            }
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            // A letter for the severity stands in front.
            let text = text.trim_end();
            lines.push(text.get(2..).unwrap_or(text).to_owned());
        }
        lines
    }
}

/// Whether nothing can be written in a mount, or in its file system.
pub(crate) fn is_read_only(mount: &OwnedFd) -> SysResult<bool> {
    Ok(rustix::fs::fstatvfs(mount)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// A copy of the mount that `dir` lies on, seen from `dir`, not attached anywhere.
pub(crate) fn clone_tree(dir: &Dir) -> SysResult<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(dir, c"", flags)
}

/// Adds attributes to a mount (`mount_setattr`, Linux 5.12).
#[expect(unsafe_code, reason = "a system call that no crate wraps yet")]
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, set: MountAttrFlags) -> SysResult<()> {
    /// `struct mount_attr` of `linux/mount.h`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes =
        Attributes { set: set.bits().into(), clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path is an empty string that ends with NUL, and `attributes` is a whole
    // `mount_attr` of the size that is passed; the kernel reads both and keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(last_error())
}

/// Attaches a detached mount at a directory.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: &Dir) -> SysResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// Mounts an overlay by the old call, options as one text.
pub(crate) fn classic(target: &Path, flags: MountFlags, options: &[u8]) -> SysResult<()> {
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
}

/// As [`classic`], with names in `options` that are no absolute paths but numbers of descriptors
/// of this process: they are short, need no escaping, and mean what is open.
pub(crate) fn classic_of_open(target: &Dir, flags: MountFlags, options: &[u8]) -> SysResult<()> {
    on_its_own(|| {
        rustix::process::chdir(c"/proc/self/fd")?;
        classic(Path::new(&proc_path(target.as_fd())), flags, options)
    })
}

/// Does something on a thread that has a working directory of its own, and ends with it; otherwise it
/// belongs to all threads.
pub(super) fn on_its_own<T: Send>(act: impl FnOnce() -> SysResult<T> + Send) -> SysResult<T> {
    let act = || own_working_directory().and_then(|()| act());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, act);
        let thread =
            thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        thread.join().unwrap_or(Err(Errno::IO))
    })
}

#[expect(unsafe_code, reason = "unshare is unsafe where a thread shares its descriptors")]
fn own_working_directory() -> SysResult<()> {
    // SAFETY: descriptors stay shared; working directory, root and umask become the thread's own.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
}

/// Whether `path` leads to what is open as `dir`, through the same mount where the kernel tells
/// mounts apart (Linux 5.8): a detached copy with other attributes is not what its path leads to.
pub(crate) fn leads_to(path: &Path, dir: &Dir) -> bool {
    let flags = StatxFlags::INO | StatxFlags::MNT_ID;
    let named = rustix::fs::statx(CWD, path, AtFlags::empty(), flags);
    let open = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, flags);
    let place =
        |stat: Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, stat.stx_mnt_id);
    matches!((named, open), (Ok(named), Ok(open)) if place(named) == place(open))
}

/// Takes a mount away from a directory, itself and not what a symlink leads to.
pub(crate) fn unmount(target: &Path) -> SysResult<()> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)
}

/// Takes a mount away from the tree at once; it goes when nobody uses it any more.
pub(crate) fn detach(target: &Path) -> SysResult<()> {
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// The size of a page, which bounds the options of the old call.
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

/// Opens a directory as it is seen by paths, so that something can be attached there.
pub(crate) fn open_target(target: &Path) -> SysResult<Dir> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_at(CWD, target, flags, Mode::empty()).map(Dir::from_fd)
}
