//! Project quotas: the file system counts what carries a project's ID, and refuses more than its
//! limits (`quotactl_fd(2)`, Linux 5.14; `linux/quota.h`, `linux/dqblk_xfs.h` and `linux/fs.h`).
//!
//! The same calls serve ext4 and XFS. Any directory says which file system is meant.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::ioctl::{self, Getter, Setter, opcode};
use rustix::thread::CapabilitySet;

use super::dir::{Dir, SysResult, last_error};
use crate::quota::Quota;

/// Quotas of projects, as against users and groups: the last byte of a command.
const PROJECTS: u32 = 2;
/// Whether quotas are counted and enforced; answers with a `fs_quota_statv`.
const Q_XGETQSTATV: u32 = (b'X' as u32) << 8 | 8;
const ACCOUNTED_AND_ENFORCED: u64 = 1 << 4 | 1 << 5;
/// What a limit in bytes is counted in.
const LIMIT_UNIT: u64 = 1024;
/// New files of a directory, and its new directories, belong to its project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// What a project has, and may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Bytes of the blocks that its files occupy.
    pub(crate) bytes: u64,
    /// Its inodes.
    pub(crate) inodes: u64,
    pub(crate) limits: Quota,
}

/// `fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// Whether the file system of `dir` keeps projects to their limits.
pub(crate) fn is_enforced(dir: &Dir) -> SysResult<bool> {
    // A `fs_quota_statv` is 160 bytes, the first its version, the flags the second two.
    let mut answer = [0_u64; 20];
    let [first, ..] = &mut answer;
    *first = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);
    match call(dir, Q_XGETQSTATV, 0, &mut answer) {
        // Before Linux 5.14; without quotas, or without those that this asks for.
        Err(Errno::NOSYS | Errno::INVAL | Errno::SRCH | Errno::NOTBLK | Errno::OPNOTSUPP) => {
            return Ok(false);
        }
        called => called?,
    }
    let [a, b] = match answer.map(u64::to_ne_bytes) {
        [[_, _, a, b, ..], ..] => [a, b],
    };
    let flags = u64::from(u16::from_ne_bytes([a, b]));
    Ok(flags & ACCOUNTED_AND_ENFORCED == ACCOUNTED_AND_ENFORCED)
}

/// What the file system of `dir` has counted for `project`.
pub(crate) fn counted(dir: &Dir, project: u32) -> SysResult<Counted> {
    let mut answer = nothing();
    match call(dir, libc::Q_GETQUOTA as u32, project, &mut answer) {
        // XFS, of a project that it has never heard of.
        Err(Errno::NOENT) => return Ok(Counted::default()),
        called => called?,
    }
    let limit = |value: u64, unit| (value != 0).then(|| value.saturating_mul(unit));
    let limits = Quota {
        bytes: limit(answer.dqb_bhardlimit, LIMIT_UNIT),
        inodes: limit(answer.dqb_ihardlimit, 1),
    };
    Ok(Counted { bytes: answer.dqb_curspace, inodes: answer.dqb_curinodes, limits })
}

/// Sets what `project` may have at most; a limit of nothing counts as one of a byte or an inode,
/// since nothing stands for no limit there.
pub(crate) fn set_limits(dir: &Dir, project: u32, limits: &Quota) -> SysResult<()> {
    let value = |limit: Option<u64>, unit| limit.map_or(0, |limit| limit.div_ceil(unit).max(1));
    let mut request = nothing();
    request.dqb_bhardlimit = value(limits.bytes, LIMIT_UNIT);
    request.dqb_ihardlimit = value(limits.inodes, 1);
    request.dqb_valid = libc::QIF_LIMITS;
    call(dir, libc::Q_SETQUOTA as u32, project, &mut request)
}

/// The project that `dir` belongs to, where what is made in it belongs to the same.
pub(crate) fn project_of(dir: &Dir) -> SysResult<Option<u32>> {
    let Attributes { flags, project, .. } = attributes(dir)?;
    Ok((flags & FS_XFLAG_PROJINHERIT != 0).then_some(project))
}

/// Makes `dir`, which is empty, and what will be made in it a part of `project`.
pub(crate) fn assign(dir: &Dir, project: u32) -> SysResult<()> {
    let mut wanted = attributes(dir)?;
    wanted.flags |= FS_XFLAG_PROJINHERIT;
    wanted.project = project;
    set_attributes(dir, wanted)
}

/// Gives up `CAP_SYS_RESOURCE` on this thread, which ext4 lets write beyond every limit.
pub(crate) fn give_up_reserves() -> SysResult<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    if !sets.effective.contains(CapabilitySet::SYS_RESOURCE) {
        return Ok(());
    }
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    rustix::thread::set_capabilities(None, sets)
}

fn nothing() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    }
}

#[expect(unsafe_code, reason = "a system call that no crate wraps yet")]
fn call<T>(dir: &Dir, command: u32, project: u32, argument: &mut T) -> SysResult<()> {
    // SAFETY: `argument` is the structure that `command` reads or writes, whole and of no references,
    // as the callers above have it; the kernel does not keep it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            dir.as_fd().as_raw_fd(),
            command << 8 | PROJECTS,
            project,
            std::ptr::from_mut(argument),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

#[expect(unsafe_code, reason = "an ioctl that no crate wraps yet")]
fn attributes(dir: &Dir) -> SysResult<Attributes> {
    const GET: ioctl::Opcode = opcode::read::<Attributes>(b'X', 31);
    // SAFETY: FS_IOC_FSGETXATTR writes an `fsxattr`, which `Attributes` is.
    unsafe { ioctl::ioctl(dir, Getter::<GET, Attributes>::new()) }
}

#[expect(unsafe_code, reason = "an ioctl that no crate wraps yet")]
fn set_attributes(dir: &Dir, wanted: Attributes) -> SysResult<()> {
    const SET: ioctl::Opcode = opcode::write::<Attributes>(b'X', 32);
    // SAFETY: FS_IOC_FSSETXATTR reads an `fsxattr`, which `Attributes` is.
    unsafe { ioctl::ioctl(dir, Setter::<SET, Attributes>::new(wanted)) }
}
