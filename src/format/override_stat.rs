//! The attribute in which a plain user keeps what the file system would not take: owners, device
//! numbers and types.
//!
//! Its form is that of fuse-overlayfs and containers-storage: `user.containers.override_stat`
//! holding `UID:GID:MODE:TYPE`, the mode in octal, the type one of `file`, `dir`, `symlink`, `pipe`,
//! `socket`, `char-MAJOR-MINOR`, `block-MAJOR-MINOR`; older writers leave the type out.

use std::sync::Arc;

use rustix::fs::Stat;

use crate::id_map::Ids;
use crate::inode::{Device, FileKind, Inode};

/// How files are given their owners, and devices made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// For real, which root may do, and a user namespace for the ids that are mapped in it; else
    /// the operation fails.
    #[default]
    Exact,
    /// Owner, mode, type and device number are recorded in the attribute
    /// `user.containers.override_stat`, as fuse-overlayfs and containers-storage record them, and
    /// shown as though they were real: so a plain user can keep any layer.
    Recorded,
}

/// The attribute's name.
pub(crate) const NAME: &[u8] = b"user.containers.override_stat";

/// The mode on disk of a file of which the attribute records another: accessible to the one user
/// who has the store, and else as recorded.
pub(crate) fn mode_on_disk(mode: u32, is_directory: bool) -> u32 {
    mode & 0o777 | if is_directory { 0o700 } else { 0o600 }
}

/// What the attribute says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OverrideStat {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// `None` where it is what the file on disk is.
    pub(crate) kind: Option<RecordedKind>,
}

/// What the file is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnDisk {
    pub(crate) owner: (u32, u32),
    pub(crate) mode: u32,
}

impl OnDisk {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { owner: (stat.st_uid, stat.st_gid), mode: stat.st_mode & 0o7777 }
    }
}

/// A type that stands in the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordedKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice(Device),
    BlockDevice(Device),
}

impl OverrideStat {
    /// What has to be recorded of `inode`.
    pub(crate) fn of(inode: &Inode) -> Self {
        let kind = match &inode.kind {
            FileKind::Directory => RecordedKind::Directory,
            FileKind::Regular { .. } => RecordedKind::File,
            FileKind::Symlink { .. } => RecordedKind::Symlink,
            FileKind::Fifo => RecordedKind::Fifo,
            FileKind::Socket => RecordedKind::Socket,
            FileKind::CharDevice(device) => RecordedKind::CharDevice(*device),
            FileKind::BlockDevice(device) => RecordedKind::BlockDevice(*device),
        };
        Self { uid: inode.uid, gid: inode.gid, mode: inode.mode, kind: Some(kind) }
    }

    /// The attribute's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            None => String::new(),
            Some(RecordedKind::File) => ":file".to_owned(),
            Some(RecordedKind::Directory) => ":dir".to_owned(),
            Some(RecordedKind::Symlink) => ":symlink".to_owned(),
            Some(RecordedKind::Fifo) => ":pipe".to_owned(),
            Some(RecordedKind::Socket) => ":socket".to_owned(),
            Some(RecordedKind::CharDevice(d)) => format!(":char-{}-{}", d.major, d.minor),
            Some(RecordedKind::BlockDevice(d)) => format!(":block-{}-{}", d.major, d.minor),
        };
        format!("{}:{}:0{:o}{kind}", self.uid, self.gid, self.mode).into_bytes()
    }

    /// Reads a value; `None` where it is malformed.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(value).ok()?.split(':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()? & 0o7777;
        let kind = match fields.next() {
            None => None,
            Some(text) => Some(decode_kind(text)?),
        };
        Some(Self { uid, gid, mode, kind })
    }

    /// What is to be believed of an upper file's record: one that is still that of the file below, of
    /// which mode or owner on disk are others, was copied up with the file, which was then changed by a
    /// mount that knows nothing of records.
    pub(crate) fn renewed(
        self,
        now: OnDisk,
        (below, before): (&Self, OnDisk),
        ids: Option<&Arc<Ids>>,
    ) -> Self {
        if self != *below {
            return self;
        }
        let mode = if now.mode == before.mode { self.mode } else { now.mode };
        let (uid, gid) = match now.owner == before.owner {
            true => (self.uid, self.gid),
            false => ids.map_or(now.owner, |ids| ids.inside(now.owner.0, now.owner.1)),
        };
        Self { uid, gid, mode, ..self }
    }

    /// Puts what is recorded over what the file on disk shows.
    pub(crate) fn apply(&self, inode: &mut Inode) {
        inode.uid = self.uid;
        inode.gid = self.gid;
        inode.mode = self.mode;
        match self.kind {
            Some(RecordedKind::Fifo) => inode.kind = FileKind::Fifo,
            Some(RecordedKind::Socket) => inode.kind = FileKind::Socket,
            Some(RecordedKind::CharDevice(device)) => inode.kind = FileKind::CharDevice(device),
            Some(RecordedKind::BlockDevice(device)) => inode.kind = FileKind::BlockDevice(device),
            // These need the file on disk to be one.
            Some(RecordedKind::File | RecordedKind::Directory | RecordedKind::Symlink) | None => {}
        }
    }
}

fn decode_kind(text: &str) -> Option<RecordedKind> {
    let device = |rest: &str| {
        let (major, minor) = rest.split_once('-')?;
        Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
    };
    Some(match text {
        "file" => RecordedKind::File,
        "dir" => RecordedKind::Directory,
        "symlink" => RecordedKind::Symlink,
        "pipe" => RecordedKind::Fifo,
        "socket" => RecordedKind::Socket,
        _ => match text.split_once('-')? {
            ("char", rest) => RecordedKind::CharDevice(device(rest)?),
            ("block", rest) => RecordedKind::BlockDevice(device(rest)?),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written() {
        for text in ["0:0:0755:dir", "5:6:0644", "1:2:0666:char-1-3", "0:0:0660:block-8-16"] {
            let stat = OverrideStat::decode(text.as_bytes()).unwrap();
            assert_eq!(stat.encode(), text.as_bytes());
        }
        for bad in ["", "0", "0:0", "a:0:0", "0:0:9", "0:0:0:what", "0:0:0:char-1", "-1:0:0"] {
            assert_eq!(OverrideStat::decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
