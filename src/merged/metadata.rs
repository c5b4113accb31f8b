//! What is told of a file.

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::node::Identity;
use crate::format::override_stat::{OverrideStat, RecordedKind};
use crate::inode::{Device, Timestamp};
use crate::sys::dir::{Kind, SysResult, atime_of, device_of, mtime_of, type_of};

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl EntryKind {
    pub(super) fn of(kind: FileType) -> Self {
        match kind {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::RegularFile | FileType::Unknown => Self::Regular,
        }
    }

    /// As `mknod(2)` is told.
    ///
    /// # Errors
    /// EPERM for a directory, EINVAL for a symlink, as it answers.
    pub(super) fn to_be_made(self) -> SysResult<FileType> {
        match self {
            Self::Directory => Err(Errno::PERM),
            Self::Symlink => Err(Errno::INVAL),
            Self::Regular => Ok(FileType::RegularFile),
            Self::CharDevice => Ok(FileType::CharacterDevice),
            Self::BlockDevice => Ok(FileType::BlockDevice),
            Self::Fifo => Ok(FileType::Fifo),
            Self::Socket => Ok(FileType::Socket),
        }
    }

    /// As `readdir` told it, where that is enough.
    pub(super) fn of_entry(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Directory => Some(Self::Directory),
            Kind::Regular => Some(Self::Regular),
            Kind::CharDevice => Some(Self::CharDevice),
            Kind::BlockDevice => Some(Self::BlockDevice),
            Kind::Symlink => Some(Self::Symlink),
            Kind::Fifo => Some(Self::Fifo),
            Kind::Socket => Some(Self::Socket),
            Kind::Unknown => None,
        }
    }
}

/// The attributes of a file, as `stat(2)` of a mount would show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    kind: EntryKind,
    identity: Identity,
    mode: u32,
    uid: u32,
    gid: u32,
    len: u64,
    blocks: u64,
    links: u64,
    device: Device,
    accessed: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
}

impl Metadata {
    pub(super) fn new(stat: &Stat, identity: Identity, merged: bool) -> Self {
        let changed = Timestamp {
            seconds: stat.st_ctime,
            nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
        };
        Self {
            kind: EntryKind::of(type_of(stat)),
            identity,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            // The kernel too: how many directories are inside is not known without a merge.
            links: if merged { 1 } else { stat.st_nlink },
            device: device_of(stat),
            accessed: atime_of(stat),
            modified: mtime_of(stat),
            changed,
        }
    }

    /// Of a file whose data lies elsewhere: it takes the room that the data takes, as in the kernel.
    pub(super) fn with_data(mut self, data: &Stat) -> Self {
        self.blocks = u64::try_from(data.st_blocks).unwrap_or(0);
        self
    }

    /// Of a file whose owner is seen otherwise than it is on disk.
    pub(super) fn owned_by(mut self, (uid, gid): (u32, u32)) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Puts what was recorded over what is on disk.
    pub(super) fn overridden(mut self, recorded: &OverrideStat) -> Self {
        self.uid = recorded.uid;
        self.gid = recorded.gid;
        self.mode = recorded.mode;
        let (kind, device) = match recorded.kind {
            Some(RecordedKind::Fifo) => (EntryKind::Fifo, Device::ZERO),
            Some(RecordedKind::Socket) => (EntryKind::Socket, Device::ZERO),
            Some(RecordedKind::CharDevice(device)) => (EntryKind::CharDevice, device),
            Some(RecordedKind::BlockDevice(device)) => (EntryKind::BlockDevice, device),
            // These need the file on disk to be one.
            _ => return self,
        };
        (self.kind, self.device, self.len, self.blocks) = (kind, device, 0, 0);
        self
    }

    /// What it is.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == EntryKind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::Regular
    }

    /// Whether it is a symlink.
    pub fn is_symlink(&self) -> bool {
        self.kind == EntryKind::Symlink
    }

    /// Its length in bytes; of a symlink, that of its target.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The 12 permission bits.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// The owning user's id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The owning group's id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// How many names it has in its layer; of a merged directory, 1.
    pub fn nlink(&self) -> u64 {
        self.links
    }

    /// Its inode number, which stays what it is when the file is copied up.
    pub fn ino(&self) -> u64 {
        self.identity.ino
    }

    /// The device that [`ino`](Self::ino) is a number on: that of the layer it comes from.
    pub fn dev(&self) -> u64 {
        self.identity.dev
    }

    /// Which device a device file stands for.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How much room it takes, in units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// When its content was last read.
    pub fn accessed(&self) -> Timestamp {
        self.accessed
    }

    /// When its content was last changed.
    pub fn modified(&self) -> Timestamp {
        self.modified
    }

    /// When its attributes were last changed.
    pub fn changed(&self) -> Timestamp {
        self.changed
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub(super) name: Box<[u8]>,
    pub(super) kind: EntryKind,
    pub(super) ino: u64,
}

impl DirEntry {
    /// The name, whose bytes need not be UTF-8.
    pub fn file_name(&self) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(&self.name)
    }

    /// The name as bytes.
    pub fn name_bytes(&self) -> &[u8] {
        &self.name
    }

    /// What it is.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// The inode number, as [`Metadata::ino`] shows it, and as constant. The directory tells it
    /// with the name, so it costs nothing, but for a directory of the UpperDir: what lies below it
    /// has the number, so it is looked up. Where it may not be, and where something is mounted,
    /// it is the number in the directory.
    pub fn ino(&self) -> u64 {
        self.ino
    }
}
