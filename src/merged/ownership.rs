//! Owners and devices that the process may not create: recorded in an attribute, and shown.

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::node::{Node, Real};
use super::{Core, Ownership};
use crate::format::override_stat::{NAME, OverrideStat, RecordedKind};
use crate::inode::Device;
use crate::sys::dir::{SysResult, device_of, type_of};
use crate::sys::xattr::{self, Target};

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

    /// Sets owner and permission bits of an upper file, and records them where that is asked for
    /// and the process may not set them.
    pub(super) fn set_owner_or_record(
        &self,
        target: Target<'_>,
        stat: &Stat,
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> SysResult<()> {
        match crate::sys::inode_io::chown(target, uid, gid) {
            Err(Errno::PERM | Errno::INVAL) if self.records_owners() => {
                // Of a symlink or a device nothing can be recorded: it stays the process's own.
                if !matches!(type_of(stat), FileType::RegularFile | FileType::Directory) {
                    return Ok(());
                }
                let uid = if uid == u32::MAX { stat.st_uid } else { uid };
                let gid = if gid == u32::MAX { stat.st_gid } else { gid };
                self.record(target, &OverrideStat { uid, gid, mode, kind: Some(kind_of(stat)) })
            }
            // The kernel's word for an id that the user namespace cannot express.
            Err(Errno::INVAL) => Err(Errno::OVERFLOW),
            other => other,
        }
    }

    /// Changes what is recorded of a node; `false` where nothing is.
    pub(super) fn change_record(
        &self,
        node: &Node,
        change: impl FnOnce(&mut OverrideStat),
    ) -> SysResult<bool> {
        let real = node.real();
        let Some(mut record) = self.recorded(real.target()?, &real.stat()?)? else {
            return Ok(false);
        };
        change(&mut record);
        self.record(real.target()?, &record)?;
        Ok(true)
    }

    /// The record of a device that is kept as an empty file.
    pub(super) fn device_record(
        kind: FileType,
        mode: u32,
        device: Device,
        stat: &Stat,
    ) -> OverrideStat {
        let kind = match kind {
            FileType::BlockDevice => RecordedKind::BlockDevice(device),
            _ => RecordedKind::CharDevice(device),
        };
        OverrideStat { uid: stat.st_uid, gid: stat.st_gid, mode: mode & 0o7777, kind: Some(kind) }
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
