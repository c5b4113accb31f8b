//! Owners and devices that the process may not create: recorded in an attribute, and shown.

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::node::{Node, Real};
use super::{Core, Ownership};
use crate::format::override_stat::{self, NAME, OverrideStat, RecordedKind};
use crate::inode::Device;
use crate::sys::dir::{SysResult, device_of, type_of};
use crate::sys::xattr::{self, Target};
use crate::sys::{Dir, inode_io};

impl Core {
    pub(super) fn records_owners(&self) -> bool {
        self.options.ownership == Ownership::Recorded
    }

    /// What is recorded of a file; only a regular one or a directory can carry the record.
    pub(super) fn recorded(
        &self,
        target: Target<'_>,
        stat: &Stat,
    ) -> SysResult<Option<OverrideStat>> {
        let carries = matches!(type_of(stat), FileType::RegularFile | FileType::Directory);
        if !self.records_owners() || !carries {
            return Ok(None);
        }
        match xattr::get(target, NAME) {
            Ok(value) => Ok(value.as_deref().and_then(OverrideStat::decode)),
            Err(Errno::ACCESS) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Records what could not be made of a file that stands on disk in its place.
    pub(super) fn record(&self, target: Target<'_>, record: &OverrideStat) -> SysResult<()> {
        xattr::set(target, NAME, &record.encode())
    }

    /// Records what is to be shown of a file, of which the process has to go on changing what is on
    /// disk.
    fn record_over(
        &self,
        target: Target<'_>,
        record: &OverrideStat,
        is_directory: bool,
    ) -> SysResult<()> {
        // Else a diff took the record for one that a kernel mount left behind. First, since the
        // attribute takes the right to write.
        inode_io::chmod(target, override_stat::mode_on_disk(record.mode, is_directory))?;
        self.record(target, record)
    }

    /// Sets the owner of an upper file; where that is asked for and the process may not, records it
    /// with the permission bits, and returns `true`.
    pub(super) fn set_owner_or_record(
        &self,
        target: Target<'_>,
        stat: &Stat,
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> SysResult<bool> {
        match inode_io::chown(target, uid, gid) {
            Err(Errno::PERM | Errno::INVAL) if self.records_owners() => {
                // Of a symlink or a device nothing can be recorded: it stays the process's own.
                if !matches!(type_of(stat), FileType::RegularFile | FileType::Directory) {
                    return Ok(false);
                }
                let seen = self.owner_seen(stat);
                let uid = if uid == u32::MAX { seen.0 } else { uid };
                let gid = if gid == u32::MAX { seen.1 } else { gid };
                let record = OverrideStat { uid, gid, mode, kind: Some(kind_of(stat)) };
                let is_directory = type_of(stat) == FileType::Directory;
                self.record_over(target, &record, is_directory).map(|()| true)
            }
            // The kernel's word for an id that the user namespace cannot express.
            Err(Errno::INVAL) => Err(Errno::OVERFLOW),
            other => other.map(|()| false),
        }
    }

    /// Records of a copy the mode that was set, where the kernel has left out `S_ISGID` of it: it
    /// does so for who is neither in the group nor has CAP_FSETID, and says nothing.
    pub(super) fn keep_group_bit(
        &self,
        target: Target<'_>,
        lower: &Stat,
        mode: u32,
    ) -> SysResult<()> {
        if mode & S_ISGID == 0 || !self.records_owners() {
            return Ok(());
        }
        let now = self.status(target)?;
        if now.st_mode & S_ISGID != 0 || self.recorded(target, &now)?.is_some() {
            return Ok(());
        }
        match type_of(lower) {
            kind @ (FileType::RegularFile | FileType::Directory) => {
                self.record_over(target, &self.record_of(lower), kind == FileType::Directory)
            }
            _ => Ok(()),
        }
    }

    /// The group that a directory of the upper layer hands on although it is not its own on disk.
    pub(super) fn group_handed_on(&self, dir: &Dir) -> SysResult<Option<u32>> {
        if !self.records_owners() {
            return Ok(None);
        }
        let record = self.recorded(Target::Name(dir, b"."), &dir.stat_self()?)?;
        Ok(record.filter(|record| record.mode & S_ISGID != 0).map(|record| record.gid))
    }

    /// Records of what was just made in a directory the group that this hands on.
    pub(super) fn hand_on(&self, target: Target<'_>, group: u32) -> SysResult<()> {
        let stat = self.status(target)?;
        let is_directory = type_of(&stat) == FileType::Directory;
        if !is_directory && type_of(&stat) != FileType::RegularFile {
            // As with owners, it stays the process's own.
            return Ok(());
        }
        let mut record = self.recorded(target, &stat)?.unwrap_or_else(|| self.record_of(&stat));
        record.gid = group;
        record.mode |= if is_directory { S_ISGID } else { 0 };
        self.record_over(target, &record, is_directory)
    }

    /// Changes what is recorded of a node; `false` where nothing is.
    pub(super) fn change_record(
        &self,
        node: &Node,
        change: impl FnOnce(&mut OverrideStat),
    ) -> SysResult<bool> {
        if !self.records_owners() {
            return Ok(false);
        }
        let real = node.real();
        let Some(mut record) = self.record_now(node, &real, &real.stat()?)? else {
            return Ok(false);
        };
        change(&mut record);
        self.record(real.target()?, &record)?;
        Ok(true)
    }

    /// The record of what a file is by itself.
    pub(super) fn record_of(&self, stat: &Stat) -> OverrideStat {
        let ((uid, gid), mode) = (self.owner_seen(stat), stat.st_mode & 0o7777);
        OverrideStat { uid, gid, mode, kind: Some(kind_of(stat)) }
    }

    /// The record of a device that is kept as an empty file.
    pub(super) fn device_record(
        &self,
        kind: FileType,
        mode: u32,
        device: Device,
        stat: &Stat,
    ) -> OverrideStat {
        let kind = match kind {
            FileType::BlockDevice => RecordedKind::BlockDevice(device),
            _ => RecordedKind::CharDevice(device),
        };
        OverrideStat { mode: mode & 0o7777, kind: Some(kind), ..self.record_of(stat) }
    }
}

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;

/// A mode after a change of owner by root, which takes away what lets others act as the owner:
/// nothing of a directory, and `S_ISGID` where the group may run the file (`chown(2)`).
pub(super) fn mode_after_chown(mode: u32, is_directory: bool) -> u32 {
    let runs_as_group = mode & 0o010 != 0;
    match is_directory {
        true => mode,
        false if runs_as_group => mode & !(S_ISUID | S_ISGID),
        false => mode & !S_ISUID,
    }
}

fn kind_of(stat: &Stat) -> RecordedKind {
    match type_of(stat) {
        FileType::Directory => RecordedKind::Directory,
        FileType::Symlink => RecordedKind::Symlink,
        FileType::Fifo => RecordedKind::Fifo,
        FileType::Socket => RecordedKind::Socket,
        FileType::CharacterDevice => RecordedKind::CharDevice(device_of(stat)),
        FileType::BlockDevice => RecordedKind::BlockDevice(device_of(stat)),
        _ => RecordedKind::File,
    }
}

/// Whether a node is kept as a regular file in place of something that it is not.
pub(super) fn is_stand_in(record: Option<&OverrideStat>) -> bool {
    use RecordedKind::{BlockDevice, CharDevice, Fifo, Socket};
    let kind = record.and_then(|record| record.kind.as_ref());
    matches!(kind, Some(Fifo | Socket | CharDevice(_) | BlockDevice(_)))
}

/// The type under which a real file is handled.
pub(super) fn real_kind(real: &Real) -> FileType {
    match real {
        Real::Directory(_) => FileType::Directory,
        Real::File(file) => file.kind,
    }
}
