//! `listmount` and `statmount` (Linux 6.8): the mounts that the process sees, asked of the kernel one
//! by one, without the text of every layer of every overlay that `/proc/self/mountinfo` holds.
//!
//! Source: statmount(2), listmount(2), `linux/mount.h`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::dir::{SysResult, last_error};
use super::mount_namespaces::MountNamespace;
use super::mountinfo::MountInfo;

/// The kernel's number of a mount, which no other mount gets until the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MountId(u64);

/// What a mount shows, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    Overlay {
        /// What it was mounted from, a free text; `None` where the kernel does not tell (before 6.13).
        source: Option<Vec<u8>>,
    },
    SomethingElse,
}

/// The same on every architecture.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;

/// Everything beneath the root directory of the process.
const LSMT_ROOT: u64 = u64::MAX;

const SB_BASIC: u64 = 0x1;
const MNT_ROOT: u64 = 0x8;
const MNT_POINT: u64 = 0x10;
const FS_TYPE: u64 = 0x20;
const MNT_OPTS: u64 = 0x80;
const SB_SOURCE: u64 = 0x200;

/// `s_magic` of an overlay.
const OVERLAYFS: u64 = 0x794c_7630;

/// `struct mnt_id_req`.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
    /// 0 for the one of the process.
    namespace: u64,
}

impl Request {
    /// As long as before Linux 6.11, where it does not name a namespace.
    fn new(mount: u64, param: u64, namespace: u64) -> Self {
        let last = if namespace == 0 { size_of::<u64>() } else { 0 };
        let size = u32::try_from(size_of::<Self>() - last).unwrap_or(u32::MAX);
        Self { size, spare: 0, mount, param, namespace }
    }
}

/// What `statmount` answers: a head of 512 bytes, then strings, to which the head has offsets.
struct Answer(Vec<u64>);

impl Answer {
    const HEAD: usize = 512;

    fn number<const BYTES: usize>(&self, at: usize) -> [u8; BYTES] {
        let words = self.0.iter().skip(at / 8).flat_map(|word| word.to_ne_bytes());
        let mut bytes = [0; BYTES];
        bytes.iter_mut().zip(words.skip(at % 8)).for_each(|(to, from)| *to = from);
        bytes
    }

    fn has(&self, what: u64) -> bool {
        u64::from_ne_bytes(self.number(8)) & what == what
    }

    fn magic(&self) -> u64 {
        u64::from_ne_bytes(self.number(24))
    }

    /// The string whose offset stands at `at`; it ends with NUL.
    fn string(&self, at: usize) -> Vec<u8> {
        let offset = u32::from_ne_bytes(self.number(at));
        let start = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(Self::HEAD);
        let words = self.0.iter().skip(start / 8).flat_map(|word| word.to_ne_bytes());
        words.skip(start % 8).take_while(|&byte| byte != 0).collect()
    }
}

/// The mounts that the process sees, in the order in which they were mounted.
///
/// The error is ENOSYS where the kernel does not know the call, and whatever a filter of system calls
/// makes of it.
pub(crate) fn mounts() -> SysResult<Vec<MountId>> {
    Ok(all(0)?.into_iter().map(MountId).collect())
}

/// The mounts of another namespace, as the table of a process in it has them, but that only overlays
/// have options here.
pub(crate) fn mounts_of(namespace: &MountNamespace) -> SysResult<Vec<MountInfo>> {
    let namespace = namespace.id;
    let one = |mount| {
        let wanted = SB_BASIC | MNT_ROOT | MNT_POINT | FS_TYPE;
        let answer = there(mount, wanted, namespace)?;
        let Some(answer) = answer.filter(|answer| answer.has(wanted)) else { return Ok(None) };
        let options = match answer.magic() {
            OVERLAYFS => there(mount, MNT_OPTS, namespace)?.map(|answer| answer.string(4)),
            _ => None,
        };
        let [major, minor] = [16, 20].map(|at| u32::from_ne_bytes(answer.number(at)));
        Ok(Some(MountInfo {
            device: format!("{major}:{minor}").into_bytes(),
            root: OsString::from_vec(answer.string(104)).into(),
            target: OsString::from_vec(answer.string(108)).into(),
            file_system: answer.string(36),
            options: options.unwrap_or_default(),
        }))
    };
    all(namespace)?.into_iter().filter_map(|mount| one(mount).transpose()).collect()
}

fn all(namespace: u64) -> SysResult<Vec<u64>> {
    let (mut mounts, mut last) = (Vec::new(), 0);
    loop {
        let mut ids = [0; 512];
        let count = list(last, namespace, &mut ids)?;
        let found = ids.get(..count).unwrap_or_default();
        mounts.extend_from_slice(found);
        match found.last() {
            Some(&id) if count == ids.len() => last = id,
            _ => return Ok(mounts),
        }
    }
}

impl MountId {
    /// What it shows; `None` where it is gone meanwhile, or not to be looked at.
    pub(crate) fn shows(self) -> SysResult<Option<Shows>> {
        let Some(answer) = there(self.0, SB_BASIC | SB_SOURCE, 0)? else { return Ok(None) };
        if !answer.has(SB_BASIC) {
            return Ok(None);
        }
        if answer.magic() != OVERLAYFS {
            return Ok(Some(Shows::SomethingElse));
        }
        let source = answer.has(SB_SOURCE).then(|| answer.string(124));
        Ok(Some(Shows::Overlay { source }))
    }

    /// Where it is mounted at this moment; `None` where it is gone.
    pub(crate) fn target(self) -> SysResult<Option<PathBuf>> {
        let answer = there(self.0, MNT_POINT, 0)?.filter(|answer| answer.has(MNT_POINT));
        Ok(answer.map(|answer| OsString::from_vec(answer.string(108)).into()))
    }

    /// The options of its file system, commas between them, escaped as the kernel escapes them; `None`
    /// where it is gone, or the kernel does not tell (before 6.11).
    pub(crate) fn options(self) -> SysResult<Option<Vec<u8>>> {
        let answer = there(self.0, MNT_OPTS, 0)?.filter(|answer| answer.has(MNT_OPTS));
        Ok(answer.map(|answer| answer.string(4)))
    }
}

/// What is told of a mount; `None` where it is gone meanwhile, or not to be looked at.
fn there(mount: u64, what: u64, namespace: u64) -> SysResult<Option<Answer>> {
    match ask(mount, what, namespace) {
        Err(Errno::NOENT | Errno::PERM) => Ok(None),
        other => other.map(Some),
    }
}

#[expect(unsafe_code, reason = "a system call that no crate wraps yet")]
fn list(after: u64, namespace: u64, ids: &mut [u64]) -> SysResult<usize> {
    let request = Request::new(LSMT_ROOT, after, namespace);
    // SAFETY: the kernel reads a whole `mnt_id_req` of the size that it names, writes at most as many
    // numbers as `ids` has, and keeps neither.
    let count = unsafe {
        libc::syscall(
            SYS_LISTMOUNT,
            std::ptr::from_ref(&request),
            ids.as_mut_ptr(),
            ids.len(),
            0_usize,
        )
    };
    usize::try_from(count).map_err(|_| last_error())
}

#[expect(unsafe_code, reason = "a system call that no crate wraps yet")]
fn ask(mount: u64, what: u64, namespace: u64) -> SysResult<Answer> {
    // The options of an overlay of hundreds of layers are tens of kilobytes.
    let mut words = if what & MNT_OPTS == 0 { 256 } else { 8 << 10 };
    loop {
        let mut answer = vec![0_u64; words];
        let request = Request::new(mount, what, namespace);
        // SAFETY: the kernel reads a whole `mnt_id_req` of the size that it names, writes at most as
        // many bytes as `answer` has, and keeps neither.
        let result = unsafe {
            libc::syscall(
                SYS_STATMOUNT,
                std::ptr::from_ref(&request),
                answer.as_mut_ptr(),
                size_of_val(answer.as_slice()),
                0_usize,
            )
        };
        match (result, words) {
            (0, _) => return Ok(Answer(answer)),
            (_, ..=0xf_ffff) if last_error() == Errno::OVERFLOW => words *= 4,
            _ => return Err(last_error()),
        }
    }
}
