//! A tree and the host, as places to which files are copied.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::standing::{self, Standing};
use crate::changeset::Pieces;
use crate::driver::new_file;
use crate::error::{Context, ErrorKind, Result};
use crate::inode::{Device, FileKind, Inode};
use crate::layer_path::LayerPath;
use crate::merged::{EntryKind, MOST_LINKS, Node, SetTime, Tree, XattrMode};
use crate::sys::dir::{SysResult, type_of};
use crate::sys::xattr::{self, Target};
use crate::sys::{Dir, copy, inode_io};

/// What is done to make copies.
pub(super) trait Place {
    /// The path without symlinks, and whether it is a directory; `None` where nothing is there.
    fn resolve(&self, path: &Path) -> Result<Option<(PathBuf, bool)>>;
    /// Where a path leads whose parent is resolved, and at whose end nothing is: symlinks may stand there
    /// that lead to nothing, and are followed.
    fn end_of_links(&self, path: PathBuf) -> Result<PathBuf>;
    /// Whether the path itself is a directory; `None` where nothing is there.
    fn is_dir(&self, path: &Path) -> Result<Option<bool>>;
    /// Makes a directory that nobody else may look into yet.
    fn make_dir(&self, path: &Path) -> Result<()>;
    /// What becomes of what is there, and no directory, where a file of that kind comes: one with
    /// content where `named` says that this very path was asked for.
    fn standing(&self, path: &Path, kind: &FileKind, named: bool) -> Result<Standing>;
    /// Writes `size` bytes to what is there; returns how many are no holes.
    fn write_to(&self, path: &Path, size: u64, pieces: &mut dyn Pieces) -> Result<u64>;
    /// Makes a file of `size` bytes with its attributes, in place of what is there and no directory:
    /// in one step, once it is whole.
    fn write(
        &self,
        path: &Path,
        inode: &Inode,
        size: u64,
        pieces: &mut dyn Pieces,
    ) -> Result<Written>;
    /// Makes `path` one more name of `first`, in place of what is there and no directory.
    fn link(&self, first: &Path, path: &Path) -> Result<()>;
    /// Makes a symlink, likewise.
    fn symlink(&self, target: &[u8], path: &Path) -> Result<()>;
    /// Makes a device, FIFO or socket, likewise.
    fn make_node(&self, kind: &FileKind, path: &Path) -> Result<()>;
    /// Sets owner, attributes, permissions and time; returns how many of them cannot be had.
    fn give(&self, path: &Path, inode: &Inode) -> Result<u64>;
}

/// How a file came out.
pub(super) struct Written {
    /// How many bytes are no holes.
    pub(super) bytes: u64,
    /// How many of its attributes cannot be had.
    pub(super) unkept: u64,
}

/// What the target of the symlink `link` means.
fn beside(link: &Path, target: &Path) -> PathBuf {
    link.parent().unwrap_or(Path::new("/")).join(target)
}

/// The type, and for a device which.
fn node_of(kind: &FileKind) -> Option<(EntryKind, FileType, Device)> {
    Some(match kind {
        FileKind::CharDevice(device) => (EntryKind::CharDevice, FileType::CharacterDevice, *device),
        FileKind::BlockDevice(device) => (EntryKind::BlockDevice, FileType::BlockDevice, *device),
        FileKind::Fifo => (EntryKind::Fifo, FileType::Fifo, Device::ZERO),
        FileKind::Socket => (EntryKind::Socket, FileType::Socket, Device::ZERO),
        _ => return None,
    })
}

/// Whether a failure means that the process may not, or that the file system knows no such thing.
fn cannot_be_kept(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL | Errno::OVERFLOW)
}

/// 1 where something could not be kept.
fn kept(result: Result<()>) -> Result<u64> {
    match result {
        Ok(()) => Ok(0),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(errno) if cannot_be_kept(errno) => Ok(1),
            _ => Err(error),
        },
    }
}

/// A container's tree.
pub(super) struct TreePlace<'a> {
    pub(super) tree: &'a Tree,
}

impl Place for TreePlace<'_> {
    fn resolve(&self, path: &Path) -> Result<Option<(PathBuf, bool)>> {
        match self.tree.canonicalize(path) {
            Ok(real) => {
                let is_dir = self.tree.symlink_metadata(&real)?.is_dir();
                Ok(Some((real, is_dir)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn end_of_links(&self, mut path: PathBuf) -> Result<PathBuf> {
        for _ in 0..MOST_LINKS {
            let is_link = match self.tree.symlink_metadata(&path) {
                Ok(metadata) => metadata.kind() == EntryKind::Symlink,
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if !is_link {
                return Ok(path);
            }
            path = beside(&path, &self.tree.read_link(&path)?);
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::NOENT).during("copy to", &path);
            };
            path = self.tree.canonicalize(parent)?.join(name);
        }
        Err(Errno::LOOP).during("copy to", &path)
    }

    fn is_dir(&self, path: &Path) -> Result<Option<bool>> {
        match self.tree.symlink_metadata(path) {
            Ok(metadata) => Ok(Some(metadata.is_dir())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        self.tree.create_dir(path, 0o700)
    }

    fn standing(&self, _: &Path, _: &FileKind, _: bool) -> Result<Standing> {
        Ok(Standing::Replaced)
    }

    fn write_to(&self, path: &Path, _: u64, _: &mut dyn Pieces) -> Result<u64> {
        // Nothing in a tree is.
        Err(Errno::NXIO).during("write to", path)
    }

    fn write(
        &self,
        path: &Path,
        inode: &Inode,
        size: u64,
        pieces: &mut dyn Pieces,
    ) -> Result<Written> {
        let prepared = self.tree.prepare(path)?;
        let file = prepared.file();
        let (mut bytes, mut end) = (0, 0);
        while let Some((offset, mut piece)) = pieces.next()? {
            let mut at = offset;
            while !piece.is_empty() {
                let wrote = file.write_at(piece, at).during("write", path)?;
                piece = piece.get(wrote..).unwrap_or_default();
                at += wrote as u64;
            }
            bytes += at - offset;
            end = at;
        }
        if end < size {
            file.set_len(size).during("write", path)?;
        }
        let unkept = give_node(&prepared.node(), inode)?;
        prepared.put()?;
        Ok(Written { bytes, unkept })
    }

    fn link(&self, first: &Path, path: &Path) -> Result<()> {
        self.tree.put_link(first, path)
    }

    fn symlink(&self, target: &[u8], path: &Path) -> Result<()> {
        self.tree.put_symlink(target, path)
    }

    fn make_node(&self, kind: &FileKind, path: &Path) -> Result<()> {
        let Some((kind, _, device)) = node_of(kind) else { return Ok(()) };
        self.tree.put_node(path, kind, device)
    }

    fn give(&self, path: &Path, inode: &Inode) -> Result<u64> {
        give_node(&self.tree.open_node(path)?, inode)
    }
}

/// The permission bits of a copy; where it does not have its owner, nobody is to act as who has it.
fn mode_with(inode: &Inode, has_owner: bool) -> u32 {
    if has_owner || inode.kind.is_directory() { inode.mode } else { inode.mode & 0o1777 }
}

fn give_node(node: &Node, inode: &Inode) -> Result<u64> {
    let mut unkept = kept(node.chown(Some(inode.uid), Some(inode.gid)))?;
    let mode = mode_with(inode, unkept == 0);
    for (name, value) in &inode.xattrs {
        unkept += kept(node.set_xattr(name, value, XattrMode::Set))?;
    }
    if !matches!(inode.kind, FileKind::Symlink { .. }) {
        node.set_permissions(mode)?;
    }
    node.set_times(SetTime::Keep, SetTime::At(inode.mtime))?;
    Ok(unkept)
}

/// A directory of the host, beneath which all copies lie.
pub(super) struct HostPlace {
    base: Dir,
    /// The path by which it was named, for messages.
    shown: PathBuf,
}

impl HostPlace {
    /// The deepest directory that a path leads to or stands in, and the rest of the path.
    pub(super) fn open(path: &Path) -> Result<(Self, PathBuf)> {
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        if let Ok(real) = std::fs::canonicalize(path) {
            if real.is_dir() {
                let base = Dir::open_ambient(&real)?;
                return Ok((Self { base, shown: path.to_path_buf() }, PathBuf::from(".")));
            }
            let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
                return Err(Errno::NOENT).during("find", path);
            };
            let name = if slash { PathBuf::from(name).join("") } else { PathBuf::from(name) };
            let base = Dir::open_ambient(parent)?;
            return Ok((Self { base, shown: parent.to_path_buf() }, name));
        }
        // A symlink that leads to nothing says where the copy is made.
        let mut end = path.to_path_buf();
        for _ in 0..MOST_LINKS {
            match std::fs::read_link(&end) {
                Ok(target) => end = beside(&end, &target),
                Err(_) => break,
            }
        }
        let path = end.as_path();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let name = path.file_name().ok_or(Errno::NOENT).during("find", path)?;
        let base = Dir::open_ambient(parent)?;
        let name = if slash { PathBuf::from(name).join("") } else { PathBuf::from(name) };
        Ok((Self { base, shown: parent.to_path_buf() }, name))
    }

    /// The directory and name of a path beneath the base.
    fn at(&self, path: &Path) -> SysResult<(Dir, Vec<u8>)> {
        let path = LayerPath::parse(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
        match path.split() {
            Some((parent, name)) => Ok((self.base.descend(&parent)?, name.to_vec())),
            None => Ok((self.base.descend(&LayerPath::root())?, b".".to_vec())),
        }
    }

    fn act<T>(
        &self,
        doing: &str,
        path: &Path,
        act: impl FnOnce(&Dir, &[u8]) -> SysResult<T>,
    ) -> Result<T> {
        let (dir, name) = self.at(path).during(doing, &self.shown.join(path))?;
        act(&dir, &name).during(doing, &self.shown.join(path))
    }

    /// Makes a name by what makes a new one, in place of what is there and no directory.
    fn make(
        &self,
        doing: &str,
        path: &Path,
        make: impl Fn(&Dir, &[u8]) -> SysResult<()>,
    ) -> Result<()> {
        self.act(doing, path, |dir, name| new_file::make_over(dir, name, make))
    }

    fn look(&self, path: &Path) -> SysResult<Option<bool>> {
        let (dir, name) = match self.at(path) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let stat = dir.stat_if_exists(&name)?;
        Ok(stat.map(|stat| type_of(&stat) == FileType::Directory))
    }
}

impl Place for HostPlace {
    fn resolve(&self, path: &Path) -> Result<Option<(PathBuf, bool)>> {
        Ok(self.is_dir(path)?.map(|is_dir| (path.to_path_buf(), is_dir)))
    }

    fn end_of_links(&self, path: PathBuf) -> Result<PathBuf> {
        // They were followed before the base was opened.
        Ok(path)
    }

    fn is_dir(&self, path: &Path) -> Result<Option<bool>> {
        self.look(path).during("stat", &self.shown.join(path))
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        self.act("create directory", path, |dir, name| dir.make_dir(name, 0o700))
    }

    fn standing(&self, path: &Path, kind: &FileKind, named: bool) -> Result<Standing> {
        let stat = self.act("stat", path, |dir, name| dir.stat(name))?;
        standing::on_host(&self.shown.join(path), &stat, kind, named)
    }

    fn write_to(&self, path: &Path, size: u64, pieces: &mut dyn Pieces) -> Result<u64> {
        let file = self.act("open", path, standing::open)?;
        standing::write(&file, &self.shown.join(path), size, pieces)
    }

    fn write(
        &self,
        path: &Path,
        inode: &Inode,
        size: u64,
        pieces: &mut dyn Pieces,
    ) -> Result<Written> {
        let shown = self.shown.join(path);
        let open = || {
            let (dir, name) = self.at(path)?;
            new_file::Place::open(dir, &name, 0o600)
        };
        let (mut place, file) = open().during("create file", &shown)?;
        let (mut bytes, mut end) = (0, 0);
        while let Some((offset, piece)) = pieces.next()? {
            copy::write_at(&file, piece, offset).during("write", &shown)?;
            bytes += piece.len() as u64;
            end = offset + piece.len() as u64;
        }
        if end < size {
            rustix::fs::ftruncate(&file, size).during("write", &shown)?;
        }
        let stat = || rustix::fs::fstat(&file);
        let unkept = give(Target::open(&file), stat, inode).during("set attributes of", &shown)?;
        place.give_name(&file).during("rename to", &shown)?;
        Ok(Written { bytes, unkept })
    }

    fn link(&self, first: &Path, path: &Path) -> Result<()> {
        let (from, source) = self.at(first).during("find", &self.shown.join(first))?;
        self.make("create hard link", path, |dir, name| dir.make_link(name, &from, &source))
    }

    fn symlink(&self, target: &[u8], path: &Path) -> Result<()> {
        self.make("create symlink", path, |dir, name| dir.make_symlink(name, target))
    }

    fn make_node(&self, kind: &FileKind, path: &Path) -> Result<()> {
        let Some((_, kind, device)) = node_of(kind) else { return Ok(()) };
        self.make("create node", path, |dir, name| dir.make_node(name, kind, 0o600, device))
    }

    fn give(&self, path: &Path, inode: &Inode) -> Result<u64> {
        self.act("set attributes of", path, |dir, name| {
            give(Target::Name(dir, name), || dir.stat(name), inode)
        })
    }
}

fn give(
    target: Target<'_>,
    stat: impl FnOnce() -> SysResult<Stat>,
    inode: &Inode,
) -> SysResult<u64> {
    let mut unkept = 0;
    let mut keep = |result: SysResult<()>| match result {
        Err(error) if cannot_be_kept(error) => {
            unkept += 1;
            Ok(false)
        }
        other => other.map(|()| true),
    };
    let stat = stat()?;
    let is_owners = (stat.st_uid, stat.st_gid) == (inode.uid, inode.gid)
        || keep(inode_io::chown(target, inode.uid, inode.gid))?;
    for (name, value) in &inode.xattrs {
        keep(xattr::set(target, name, value))?;
    }
    if !matches!(inode.kind, FileKind::Symlink { .. }) {
        inode_io::chmod(target, mode_with(inode, is_owners))?;
    }
    inode_io::set_times(target, inode.mtime, inode.mtime)?;
    Ok(unkept)
}
