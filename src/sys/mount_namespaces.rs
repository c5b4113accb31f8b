//! The mount namespaces of the machine, asked of the kernel (Linux 6.12), which knows those too in
//! which no process is.
//!
//! Source: ioctl_nsfs(2), `linux/nsfs.h`, setns(2).

use std::ffi::c_void;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{self, Ioctl, IoctlOutput, opcode};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use super::dir::SysResult;
use super::mount::on_its_own;
use super::{probe, userns};

/// A mount namespace, which stays for as long as this is kept.
#[derive(Debug)]
pub(crate) struct MountNamespace {
    /// The kernel's number of it, which no other gets until the machine stops.
    pub(super) id: u64,
    /// The inode by which `/proc` has it.
    pub(crate) inode: u64,
    fd: OwnedFd,
}

/// All mount namespaces but the one of the process; `None` where the kernel does not tell, or would
/// leave out those that the caller does not own.
pub(crate) fn others() -> Option<impl Iterator<Item = MountNamespace>> {
    if !probe::has(CapabilitySet::SYS_ADMIN) || !userns::in_initial_namespace() {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(CWD, c"/proc/self/ns/mnt", flags, Mode::empty());
    let own = retry_on_intr(open).ok()?;
    let before = match step::<PREVIOUS>(&own) {
        Ok(found) => Some(found),
        Err(Errno::NOENT) => None,
        Err(_) => return None,
    };
    let first = step::<NEXT>(&own).ok();
    let before = std::iter::successors(before, |at| step::<PREVIOUS>(&at.fd).ok());
    Some(before.chain(std::iter::successors(first, |at| step::<NEXT>(&at.fd).ok())))
}

impl MountNamespace {
    /// What stands at a path for those who are in it; `None` where it leads nowhere there.
    pub(crate) fn look_at(&self, path: &Path) -> Option<Stat> {
        let look = || {
            let kind = Some(LinkNameSpaceType::Mount);
            rustix::thread::move_into_link_name_space(self.fd.as_fd(), kind)?;
            rustix::fs::lstat(path)
        };
        on_its_own(look).ok()
    }
}

const NEXT: ioctl::Opcode = opcode::read::<Info>(0xb7, 11);
const PREVIOUS: ioctl::Opcode = opcode::read::<Info>(0xb7, 12);

/// `struct mnt_ns_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    size: u32,
    mounts: u32,
    id: u64,
}

/// One of both ioctls: it fills in an `mnt_ns_info`, and answers with a descriptor.
struct Step<const OPCODE: ioctl::Opcode>(Info);

#[expect(unsafe_code, reason = "an ioctl that answers with a descriptor")]
// SAFETY: the opcodes are those of NS_MNT_GET_NEXT and NS_MNT_GET_PREV, which write an `mnt_ns_info`,
// which `Info` is, and on success return a descriptor that is nobody else's.
unsafe impl<const OPCODE: ioctl::Opcode> Ioctl for Step<OPCODE> {
    type Output = (OwnedFd, Info);

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> ioctl::Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(&mut self.0).cast()
    }

    unsafe fn output_from_ptr(fd: IoctlOutput, info: *mut c_void) -> SysResult<Self::Output> {
        // SAFETY: both are what the kernel answered, and `info` is what `as_ptr` gave.
        Ok(unsafe { (OwnedFd::from_raw_fd(fd), *info.cast::<Info>()) })
    }
}

#[expect(unsafe_code, reason = "an ioctl that no crate wraps yet")]
fn step<const OPCODE: ioctl::Opcode>(from: &OwnedFd) -> SysResult<MountNamespace> {
    // SAFETY: as `Step` has it.
    let (fd, info) = unsafe { ioctl::ioctl(from, Step::<OPCODE>(Info::default())) }?;
    let inode = rustix::fs::fstat(&fd)?.st_ino;
    Ok(MountNamespace { id: info.id, inode, fd })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_namespace_is_told_once() {
        let Some(others) = others() else { return };
        let own = rustix::fs::stat("/proc/self/ns/mnt").unwrap().st_ino;
        let mut seen = std::collections::HashSet::from([own]);
        for other in others {
            assert!(seen.insert(other.inode), "{other:?}");
        }
    }
}
