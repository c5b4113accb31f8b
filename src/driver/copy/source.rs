//! Where copies come from.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::{CopyLinks, CopySource, Root, each_of_tar};
use crate::changeset::{ArchiveFile, Pieces, is_portable};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::override_stat;
use crate::inode::{FileKind, Inode, Xattrs};
use crate::layer_path::LayerPath;
use crate::merged::{self, EntryKind, Metadata, Tree};
use crate::sys::dir::{SysResult, type_of};
use crate::sys::{Dir, copy, inode_io};
use crate::watch::Watch;

/// How much is read at once.
const PIECE: usize = 256 << 10;

/// What takes the files, each with its content.
pub(super) type Take<'t> = dyn FnMut(ArchiveFile, &mut dyn Pieces) -> Result<()> + 't;

/// What is copied, found.
pub(super) enum Source<'a> {
    Tree(&'a Tree, PathBuf, Root),
    Host(HostSource),
    Tar(&'a mut dyn Read),
}

/// A file of the host.
pub(super) struct HostSource {
    parent: Dir,
    name: Vec<u8>,
    /// As it was typed.
    shown: PathBuf,
    /// Without symlinks.
    real: PathBuf,
    root: Root,
}

impl HostSource {
    pub(super) fn shown(&self) -> &Path {
        &self.shown
    }

    /// Whether a path without symlinks is beneath it.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.root.is_dir && path.starts_with(&self.real)
    }
}

/// Finds what is to be copied.
pub(super) fn find(from: CopySource<'_>, links: CopyLinks) -> Result<Source<'_>> {
    match from {
        CopySource::Tar(input) => Ok(Source::Tar(input)),
        CopySource::Tree(tree, path) => {
            let (contents, follow) = typed(path, links);
            let metadata = if follow { tree.metadata(path)? } else { tree.symlink_metadata(path)? };
            let real = match (follow, path.parent(), path.file_name()) {
                (false, Some(parent), Some(name)) => {
                    tree.canonicalize(Path::new("/").join(parent))?.join(name)
                }
                _ => tree.canonicalize(path)?,
            };
            let name = path.file_name().or(real.file_name());
            let root = root(metadata.is_dir(), contents, name, path)?;
            Ok(Source::Tree(tree, real, root))
        }
        CopySource::Host(path) => {
            let (contents, follow) = typed(path, links);
            let real = match (follow, path.parent(), path.file_name()) {
                (false, Some(parent), Some(name)) => {
                    let parent =
                        if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    std::fs::canonicalize(parent).during("find", parent)?.join(name)
                }
                _ => std::fs::canonicalize(path).during("find", path)?,
            };
            let parent = real.parent().unwrap_or(Path::new("/"));
            let parent = Dir::open_ambient(parent)?;
            let own = real.file_name().unwrap_or(OsStr::new(".")).as_bytes().to_vec();
            let stat = parent.stat(&own).during("stat", path)?;
            let is_dir = type_of(&stat) == FileType::Directory;
            let name = path.file_name().or(real.file_name());
            let root = root(is_dir, contents, name, path)?;
            let shown = path.to_path_buf();
            Ok(Source::Host(HostSource { parent, name: own, shown, real, root }))
        }
    }
}

/// Whether a path means what a directory holds, and whether a symlink at its end is followed.
fn typed(path: &Path, links: CopyLinks) -> (bool, bool) {
    let bytes = path.as_os_str().as_bytes();
    let contents = bytes == b"." || bytes.ends_with(b"/.");
    (contents, contents || bytes.ends_with(b"/") || links == CopyLinks::Follow)
}

fn root(is_dir: bool, contents: bool, name: Option<&OsStr>, path: &Path) -> Result<Root> {
    if contents && !is_dir {
        return Err(Errno::NOTDIR).during("copy what is in", path);
    }
    Ok(Root { is_dir, contents, name: name.map(|name| name.as_bytes().to_vec()) })
}

impl Source<'_> {
    /// What is copied; a tar has no root.
    pub(super) fn root(&self) -> Option<&Root> {
        match self {
            Self::Tree(_, _, root) | Self::Host(HostSource { root, .. }) => Some(root),
            Self::Tar(_) => None,
        }
    }

    /// Gives every file with its content, each directory before what is in it.
    pub(super) fn each(self, watch: &Watch<'_>, take: &mut Take<'_>) -> Result<()> {
        match self {
            Self::Tar(input) => each_of_tar(input, watch, take),
            Self::Host(source) => each_of_host(&source, watch, take),
            Self::Tree(tree, path, _) => each_of_tree(tree, &path, watch, take),
        }
    }
}

/// The first name of each file of several, by device and inode number.
#[derive(Default)]
struct Names(HashMap<(u64, u64), LayerPath>);

impl Names {
    /// The first name of the same file; `None` where this is the first or the only one.
    fn first(&mut self, identity: (u64, u64), links: u64, path: &LayerPath) -> Option<LayerPath> {
        if links < 2 {
            return None;
        }
        let first = self.0.entry(identity).or_insert_with(|| path.clone());
        (first != path).then(|| first.clone())
    }
}

fn each_of_tree(tree: &Tree, base: &Path, watch: &Watch<'_>, take: &mut Take<'_>) -> Result<()> {
    let mut names = Names::default();
    let metadata = tree.symlink_metadata(base)?;
    of_tree(tree, base, LayerPath::root(), &metadata, &mut names, take)?;
    if !metadata.is_dir() {
        return Ok(());
    }
    for entry in tree.walk(base)? {
        watch.check()?;
        let entry = entry?;
        let path = LayerPath::parse(entry.path().as_os_str().as_bytes())?;
        of_tree(tree, &base.join(entry.path()), path, entry.metadata(), &mut names, take)?;
    }
    Ok(())
}

fn of_tree(
    tree: &Tree,
    full: &Path,
    path: LayerPath,
    metadata: &Metadata,
    names: &mut Names,
    take: &mut Take<'_>,
) -> Result<()> {
    let kind = match metadata.kind() {
        EntryKind::Directory => FileKind::Directory,
        EntryKind::Regular => FileKind::Regular { size: metadata.len() },
        EntryKind::Symlink => {
            FileKind::Symlink { target: tree.read_link(full)?.as_os_str().as_bytes().to_vec() }
        }
        EntryKind::CharDevice => FileKind::CharDevice(metadata.device()),
        EntryKind::BlockDevice => FileKind::BlockDevice(metadata.device()),
        EntryKind::Fifo => FileKind::Fifo,
        EntryKind::Socket => FileKind::Socket,
    };
    let mut xattrs = Xattrs::new();
    for name in tree.xattr_names(full)?.into_iter().filter(|name| is_portable(name)) {
        if let Some(value) = tree.xattr(full, &name)? {
            xattrs.insert(name, value);
        }
    }
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    let inode = Inode { kind, mode, uid, gid, mtime: metadata.modified(), xattrs };
    let link = match metadata.is_dir() {
        true => None,
        false => names.first((metadata.dev(), metadata.ino()), metadata.nlink(), &path),
    };
    let file = match (&link, &inode.kind) {
        (None, FileKind::Regular { .. }) => Some(Content::Tree(tree.open(full)?)),
        _ => None,
    };
    let mut content = Reader::new(file, metadata.len(), full.to_path_buf());
    take(ArchiveFile { path, inode, link }, &mut content)
}

fn each_of_host(source: &HostSource, watch: &Watch<'_>, take: &mut Take<'_>) -> Result<()> {
    let mut names = Names::default();
    let HostSource { parent, name, shown, .. } = source;
    let stat = parent.stat(name).during("stat", shown)?;
    of_host(parent, name, &stat, LayerPath::root(), shown, &mut names, take)?;
    if type_of(&stat) != FileType::Directory {
        return Ok(());
    }
    let root = parent.child(name).during("open directory", shown)?;
    let mut pending = vec![LayerPath::root()];
    while let Some(path) = pending.pop() {
        watch.check()?;
        let at = |below: &LayerPath| shown.join(OsStr::from_bytes(below.as_bytes()));
        let dir = root.descend(&path).during("open directory", &at(&path))?;
        let mut below = Vec::new();
        for entry in dir.sorted_entries().during("read directory", &at(&path))? {
            let path = path.join(&entry.name);
            let stat = dir.stat(&entry.name).during("stat", &at(&path))?;
            if type_of(&stat) == FileType::Directory {
                below.push(path.clone());
            }
            of_host(&dir, &entry.name, &stat, path.clone(), &at(&path), &mut names, take)?;
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(())
}

fn of_host(
    dir: &Dir,
    name: &[u8],
    stat: &Stat,
    path: LayerPath,
    shown: &Path,
    names: &mut Names,
    take: &mut Take<'_>,
) -> Result<()> {
    let read = || -> SysResult<Inode> {
        let mut inode = inode_io::from_stat(dir, name, stat)?;
        // A record of owners there would be taken for one of ours.
        inode.xattrs.retain(|name, _| is_portable(name) && name != override_stat::NAME);
        Ok(inode)
    };
    let inode = read().during("read attributes of", shown)?;
    let link = match inode.kind.is_directory() {
        true => None,
        false => names.first((stat.st_dev, stat.st_ino), stat.st_nlink, &path),
    };
    let (file, size) = match (&link, &inode.kind) {
        (None, FileKind::Regular { size }) => {
            let file = dir.open(name, OFlags::RDONLY | OFlags::NONBLOCK, 0);
            (Some(Content::Host(file.during("open", shown)?)), *size)
        }
        _ => (None, 0),
    };
    let mut content = Reader::new(file, size, shown.to_path_buf());
    take(ArchiveFile { path, inode, link }, &mut content)
}

enum Content {
    Tree(merged::File),
    Host(std::fs::File),
}

/// The content of a file, holes left out.
struct Reader {
    file: Option<Content>,
    size: u64,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    path: PathBuf,
}

impl Reader {
    fn new(file: Option<Content>, size: u64, path: PathBuf) -> Self {
        Self { file, size, at: 0, end: 0, buffer: Vec::new(), path }
    }

    /// Reads the next piece; `false` behind the last.
    fn fill(&mut self) -> std::io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        if self.at >= self.end {
            let run = match file {
                Content::Tree(file) => file.next_data(self.at)?,
                Content::Host(file) => copy::next_data(file, self.at, self.size)?,
            };
            // What was added since the file was found is left out.
            let Some((start, end)) = run.filter(|(start, _)| *start < self.size) else {
                return Ok(false);
            };
            (self.at, self.end) = (start, end.min(self.size));
        }
        let room = usize::try_from(self.end - self.at).map_or(PIECE, |left| left.min(PIECE));
        self.buffer.resize(room, 0);
        let read = match file {
            Content::Tree(file) => file.read_at(&mut self.buffer, self.at)?,
            Content::Host(file) => rustix::io::retry_on_intr(|| {
                rustix::io::pread(file, &mut self.buffer[..], self.at)
            })?,
        };
        self.buffer.truncate(read);
        if read == 0 {
            return Err(Error::new(ErrorKind::Io, "it became shorter while it was read").into());
        }
        self.at += read as u64;
        Ok(true)
    }
}

impl Pieces for Reader {
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        let more = self.fill().during("read", &self.path)?;
        Ok(more.then(|| (self.at - self.buffer.len() as u64, self.buffer.as_slice())))
    }
}
