//! [`Node`]: one file as a layer holds it, opened once and read once.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::options::Recorded;
use crate::format::lookup::Stack;
use crate::format::opaque::Opaque;
use crate::format::override_stat::{self, OverrideStat};
use crate::format::whiteout;
use crate::format::xattr_name::mark;
use crate::id_map::Ids;
use crate::inode::{FileKind, Inode, Timestamp, Xattrs};
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{Kind, SysResult, mtime_of, type_of};
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};

/// A file or directory of one layer.
#[derive(Debug)]
pub(super) struct Node {
    /// What it is, on disk: with overlayfs's marks among its attributes.
    pub(super) inode: Inode,
    pub(super) stat: Stat,
    /// The layer that supplies it, 0 being the topmost.
    pub(super) layer: usize,
    /// Of a regular file, where it was asked for.
    pub(super) content: Option<Content>,
}

/// The content of a regular file, open for reading.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) file: File,
    pub(super) size: u64,
    mtime: Timestamp,
    /// Whether it may have holes.
    pub(super) sparse: bool,
}

/// How what is on disk is shown.
#[derive(Debug)]
pub(super) struct Showing {
    namespace: Namespace,
    recorded: Recorded,
    ids: Option<Arc<Ids>>,
}

/// How much of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Its status, and what shows whether it is a mark.
    Status,
    /// All its attributes, and its content is opened.
    Whole,
}

impl Node {
    /// Opens the file `name`, which is no directory, of `layer`; `kind` is what its directory says.
    ///
    /// # Errors
    /// EISDIR where it is a directory.
    pub(super) fn open(
        dir: &Dir,
        name: &[u8],
        kind: Kind,
        layer: usize,
        depth: Depth,
        namespace: Namespace,
    ) -> SysResult<Self> {
        if depth == Depth::Whole && kind == Kind::Regular {
            return Self::open_regular(dir, name, layer);
        }
        let stat = dir.stat(name)?;
        let xattrs = match (type_of(&stat), depth) {
            (FileType::Directory, _) => return Err(Errno::ISDIR),
            (FileType::RegularFile, Depth::Whole) => return Self::open_regular(dir, name, layer),
            (FileType::RegularFile, Depth::Status) => {
                let is_mark = whiteout::is_xattr_whiteout(namespace, dir, name, &stat)?;
                let marks = is_mark.then(|| (namespace.name(mark::WHITEOUT), Vec::new()));
                marks.into_iter().collect()
            }
            _ if depth == Depth::Status || whiteout::is_whiteout(&stat) => Xattrs::new(),
            _ => xattr::read_all(Target::Name(dir, name))?,
        };
        let kind = inode_io::kind_of(dir, name, &stat)?;
        Ok(Self { inode: inode(kind, &stat, xattrs), stat, layer, content: None })
    }

    fn open_regular(dir: &Dir, name: &[u8], layer: usize) -> SysResult<Self> {
        // Should it have become a FIFO meanwhile, opening it must not wait.
        let file = dir.open(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
        let stat = rustix::fs::fstat(&file)?;
        let size = match type_of(&stat) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::STALE),
        };
        let xattrs = xattr::read_all(Target::open(&file))?;
        let content = Some(Content::from_stat(file, size, &stat));
        Ok(Self { inode: inode(FileKind::Regular { size }, &stat, xattrs), stat, layer, content })
    }

    /// Reads the directory `dir`, which may be open for nothing but resolving.
    pub(super) fn of_dir(dir: &Dir, layer: usize) -> SysResult<Self> {
        let stat = dir.stat_self()?;
        let xattrs = match xattr::read_all(Target::open(dir)) {
            Err(Errno::BADF) => xattr::read_all(Target::Name(dir, b"."))?,
            other => other?,
        };
        Ok(Self { inode: inode(FileKind::Directory, &stat, xattrs), stat, layer, content: None })
    }

    /// Whether it only says that its name is gone.
    pub(super) fn is_whiteout(&self, namespace: Namespace) -> bool {
        let empty = self.inode.kind == FileKind::Regular { size: 0 };
        whiteout::is_whiteout(&self.stat) || (empty && self.has_mark(namespace, mark::WHITEOUT))
    }

    /// Its device and inode number.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Whether it carries one of overlayfs's marks.
    pub(super) fn has_mark(&self, namespace: Namespace, mark: &str) -> bool {
        !self.inode.xattrs.is_empty() && self.inode.xattrs.contains_key(&namespace.name(mark))
    }

    /// Whether nothing below this directory shows.
    pub(super) fn opaque(&self, namespace: Namespace) -> Opaque {
        if self.inode.xattrs.is_empty() {
            return Opaque::No;
        }
        Opaque::parse(self.inode.xattrs.get(&namespace.name(mark::OPAQUE)).map(Vec::as_slice))
    }

    /// What it is in the merged tree: without marks, the container's own attributes under their
    /// own names, and those left out that belong to this host or file system alone.
    pub(super) fn shown(&self, showing: &Showing) -> Inode {
        let Showing { namespace, recorded, ids } = showing;
        let mut shown = Inode { xattrs: Xattrs::new(), ..self.inode_without_xattrs() };
        if let (Recorded::Show, Some(ids)) = (recorded, ids) {
            (shown.uid, shown.gid) = ids.inside(shown.uid, shown.gid);
        }
        for (name, value) in &self.inode.xattrs {
            if *recorded == Recorded::Show
                && name == override_stat::NAME
                && let Some(real) = OverrideStat::decode(value)
            {
                real.apply(&mut shown);
            } else if is_portable(name)
                && let Some(name) = namespace.unescape(name)
            {
                shown.xattrs.insert(name, value.clone());
            }
        }
        shown
    }

    fn inode_without_xattrs(&self) -> Inode {
        let Inode { kind, mode, uid, gid, mtime, .. } = &self.inode;
        let (kind, mode, uid, gid, mtime) = (kind.clone(), *mode, *uid, *gid, *mtime);
        Inode { kind, mode, uid, gid, mtime, xattrs: Xattrs::new() }
    }
}

impl Showing {
    /// As `stack` says what is seen of owners.
    pub(super) fn new(stack: &Stack, recorded: Recorded) -> Self {
        Self { namespace: stack.namespace(), recorded, ids: stack.ids().cloned() }
    }
}

impl Content {
    /// The content of an open file.
    pub(super) fn of(file: File) -> SysResult<Self> {
        let stat = rustix::fs::fstat(&file)?;
        Ok(Self::from_stat(file, u64::try_from(stat.st_size).unwrap_or(0), &stat))
    }

    fn from_stat(file: File, size: u64, stat: &Stat) -> Self {
        // With fewer blocks than its size needs it may have holes.
        let sparse = stat.st_blocks.saturating_mul(512) < stat.st_size;
        Self { file, size, mtime: mtime_of(stat), sparse }
    }

    /// Whether the file still has the size and the time that its status told.
    pub(super) fn is_unchanged(&self) -> SysResult<bool> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(u64::try_from(stat.st_size) == Ok(self.size) && mtime_of(&stat) == self.mtime)
    }
}

/// Whether an attribute means the same elsewhere: labels and seals that a host gives to every file
/// by itself, and properties of one file system, do not.
pub(crate) fn is_portable(name: &[u8]) -> bool {
    if let Some(name) = name.strip_prefix(b"security.") {
        return name != b"selinux" && name != b"evm" && !name.starts_with(b"SMACK64");
    }
    name.starts_with(b"user.")
        || (name.starts_with(b"trusted.") && !xattr::repeats_acl(name))
        || name.starts_with(b"system.posix_acl_")
}

fn inode(kind: FileKind, stat: &Stat, xattrs: Xattrs) -> Inode {
    Inode {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime_of(stat),
        xattrs,
    }
}
