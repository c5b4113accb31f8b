//! [`Inode`]: everything that is known of one file but its content and its names. No I/O.

use std::collections::BTreeMap;
use std::fmt;

/// Extended attributes by their full name (`user.x`, `security.capability`), in byte order.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a file is, with what only files of that type have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular {
        /// Its length in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// The bytes that it holds, as they are; never resolved here.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }

    /// Whether this is a regular file.
    pub fn is_regular(&self) -> bool {
        matches!(self, Self::Regular { .. })
    }

    /// The type in one English word or two, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Regular { .. } => "file",
            Self::Symlink { .. } => "symlink",
            Self::CharDevice(_) => "character device",
            Self::BlockDevice(_) => "block device",
            Self::Fifo => "FIFO",
            Self::Socket => "socket",
        }
    }
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Selects the driver; 12 bits on Linux.
    pub major: u32,
    /// Selects the device of that driver; 20 bits on Linux.
    pub minor: u32,
}

impl Device {
    /// 0:0, which as a character device is overlayfs's whiteout.
    pub const ZERO: Self = Self { major: 0, minor: 0 };
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A point in time: seconds since 1970, negative before it, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 00:00:00 UTC, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// A whole second.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// The owner, permissions, time and attributes of one file, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: FileKind,
    /// The permission bits: 12 of them, set-user-ID, set-group-ID and sticky included.
    pub mode: u32,
    /// The owning user's id.
    pub uid: u32,
    /// The owning group's id.
    pub gid: u32,
    /// The time of the last change of its content.
    pub mtime: Timestamp,
    /// Its extended attributes.
    pub xattrs: Xattrs,
}

impl Inode {
    /// A directory of mode 0755, owned by root, dated 1970: what a parent directory is that no
    /// changeset describes.
    pub fn default_directory() -> Self {
        Self {
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::new(),
        }
    }
}
