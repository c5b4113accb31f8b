//! Looking into the tree: attributes, listings, symlinks, walks.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::lookup::Seen;
use super::metadata::{DirEntry, EntryKind, Metadata};
use super::node::{Identity, Node, Real};
use super::path::{Follow, Last};
use super::{Core, Redirects, Tree};
use crate::error::{Context, Result};
use crate::format::listing::{MergedEntry, Places};
use crate::format::lookup::{FoundFile, MergedDir};
use crate::sys::dir::{Kind, SysResult};

impl Core {
    /// The attributes of a node.
    pub(super) fn metadata(&self, node: &Node) -> SysResult<Metadata> {
        let real = self.real_now(node)?;
        let stat = real.stat()?;
        let merged = matches!(&real, Real::Directory(dir) if dir.parts.len() > 1);
        let mut metadata = Metadata::new(&stat, node.identity(), merged);
        if let Real::File(file) = &real
            && let Some(data) = &file.data
        {
            metadata = metadata.with_data(&rustix::fs::fstat(data)?);
        }
        Ok(match self.record_now(node, &real, &stat)? {
            Some(record) => metadata.overridden(&record),
            None => metadata.owned_by(self.owner_seen(&stat)),
        })
    }

    /// The attributes of what a name was seen to be.
    pub(super) fn seen_metadata(&self, seen: &Seen, name: &[u8]) -> SysResult<Metadata> {
        match seen {
            Seen::Absent => Err(Errno::NOENT),
            Seen::Node(node) => self.metadata(node),
            Seen::File(file, parts, _) => self.file_metadata(name, file, parts),
        }
    }

    fn file_metadata(
        &self,
        name: &[u8],
        file: &FoundFile,
        parts: &MergedDir,
    ) -> SysResult<Metadata> {
        let mut metadata = Metadata::new(&file.stat, self.identity(&file.stat, file.layer), false);
        if let Some(data) = &file.data {
            metadata = metadata.with_data(&data.dir.stat(&data.name)?);
        }
        let parts = parts.parts.get(file.part..).ok_or(Errno::IO)?;
        Ok(match self.record_of_found(name, &file.stat, parts)? {
            Some(record) => metadata.overridden(&record),
            None => metadata.owned_by(self.owner_seen(&file.stat)),
        })
    }

    /// The names in a directory, sorted by bytes.
    pub(super) fn read_dir(&self, node: &Arc<Node>) -> SysResult<Vec<DirEntry>> {
        let entries = self.list(node)?;
        let mut named = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            let told = EntryKind::of_entry(entry.kind);
            let kind = match told {
                Some(kind) if kind != EntryKind::Regular || !self.records_owners() => Some(kind),
                _ => self.kind_now(node, &entry.name)?,
            };
            // None: it is gone since the listing was read.
            if let Some(kind) = kind {
                let (name, ino) = (entry.name.clone(), self.number_of(node, entry));
                named.push(DirEntry { name, kind, ino });
            }
        }
        Ok(named)
    }

    fn kind_now(&self, dir: &Arc<Node>, name: &[u8]) -> SysResult<Option<EntryKind>> {
        match self.see(dir, name)? {
            Seen::Absent => Ok(None),
            seen => self.seen_metadata(&seen, name).map(|metadata| Some(metadata.kind())),
        }
    }

    /// The inode number under which a name of a listing is shown, found with no system call
    /// wherever that can be.
    fn number_of(&self, dir: &Arc<Node>, entry: &MergedEntry) -> u64 {
        if let Some(node) = dir.alive(&entry.name) {
            return node.identity().ino;
        }
        let Some(upper) = &self.upper else { return entry.ino };
        let is_in_upper = entry.part() == 0 && dir.real().layer().is_ok_and(|topmost| topmost == 0);
        if !is_in_upper {
            return entry.ino;
        }
        if !matches!(entry.kind, Kind::Directory | Kind::Unknown) {
            return self.shown(Identity { dev: upper.device, ino: entry.ino }).ino;
        }
        // The number is that of a directory below, where there is one.
        let is_alone = matches!(entry.places, Places::One(_));
        if is_alone && self.options.redirects == Redirects::Refuse {
            return entry.ino;
        }
        match self.see(dir, &entry.name) {
            Ok(Seen::Node(node)) => node.identity().ino,
            Ok(Seen::File(file, ..)) => self.identity(&file.stat, file.layer).ino,
            Ok(Seen::Absent) | Err(_) => entry.ino,
        }
    }

    /// The path of a directory from the root.
    pub(super) fn path_of(&self, node: &Arc<Node>) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = node.place();
        while let Some(place) = at {
            at = place.parent.place();
            names.push(place.name);
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    fn canonicalize(&self, path: &[u8]) -> SysResult<Vec<u8>> {
        let walked = self.walk(path, Follow::Last)?;
        let mut result = self.path_of(&walked.dir);
        if let Last::Name(name) = &walked.last {
            match self.see(&walked.dir, name)? {
                Seen::Absent => return Err(Errno::NOENT),
                Seen::Node(node) if node.is_directory() => {}
                _ if walked.slash => return Err(Errno::NOTDIR),
                _ => {}
            }
            if result.last() != Some(&b'/') {
                result.push(b'/');
            }
            result.extend_from_slice(name);
        }
        Ok(result)
    }
}

pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Looking into the tree. A path that leads through something that is no directory fails with
/// ENOTDIR, one that does not exist with ENOENT, one with more than 40 symlinks with ELOOP.
impl Tree {
    /// The attributes of what a path leads to, a symlink at its end being followed.
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.metadata_of(path.as_ref(), Follow::Last)
    }

    /// The attributes of a path itself, where it is a symlink.
    ///
    /// # Errors
    /// As `lstat(2)`.
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.metadata_of(path.as_ref(), Follow::NotLast)
    }

    fn metadata_of(&self, path: &Path, follow: Follow) -> Result<Metadata> {
        let (seen, name) = self.core.resolve_seen(bytes(path), follow).during("stat", path)?;
        self.core.seen_metadata(&seen, name.as_deref().unwrap_or_default()).during("stat", path)
    }

    /// Whether a path leads to something.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.core.resolve_seen(bytes(path.as_ref()), Follow::Last).is_ok()
    }

    /// The names in a directory as they are now, sorted by bytes, without `.` and `..`.
    ///
    /// # Errors
    /// As `open(2)` of a directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        let path = path.as_ref();
        let node = self.core.resolve(bytes(path), Follow::Last).during("open directory", path)?;
        self.core.read_dir(&node).during("read directory", path)
    }

    /// As [`read_dir`](Self::read_dir), the names alone. Where owners are recorded, only looking at a
    /// file tells of what kind it is; here none is looked at.
    ///
    /// # Errors
    /// As [`read_dir`](Self::read_dir).
    pub fn read_names(&self, path: impl AsRef<Path>) -> Result<Vec<OsString>> {
        let path = path.as_ref();
        let node = self.core.resolve(bytes(path), Follow::Last).during("open directory", path)?;
        let entries = self.core.list(&node).during("read directory", path)?;
        Ok(entries.iter().map(|entry| OsStr::from_bytes(&entry.name).to_os_string()).collect())
    }

    /// The bytes that a symlink holds.
    ///
    /// # Errors
    /// EINVAL where it is no symlink.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let read = || {
            let (seen, name) = self.core.resolve_seen(bytes(path), Follow::NotLast)?;
            let target = self.core.link_target(name.as_deref().unwrap_or_default(), &seen)?;
            target.ok_or(Errno::INVAL)
        };
        let target = read().during("read symlink", path)?;
        Ok(PathBuf::from(OsStr::from_bytes(&target)))
    }

    /// The path from the root, beginning with `/`, with no symlink, `.` or `..` in it.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub fn canonicalize(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let found = self.core.canonicalize(bytes(path)).during("resolve", path)?;
        Ok(PathBuf::from(OsStr::from_bytes(&found)))
    }

    /// All that lies beneath a directory, each directory before what is in it, names sorted.
    ///
    /// # Errors
    /// Where the directory cannot be opened; what fails later is an item of the iterator.
    pub fn walk(&self, path: impl AsRef<Path>) -> Result<Walk> {
        let path = path.as_ref();
        let node = self.core.resolve(bytes(path), Follow::Last).during("walk", path)?;
        let mut walk =
            Walk { tree: self.clone(), base: path.to_path_buf(), levels: Vec::new(), failed: None };
        walk.enter(node, PathBuf::new()).during("walk", path)?;
        Ok(walk)
    }
}

/// What [`Tree::walk`] gives.
#[derive(Debug)]
pub struct Walk {
    tree: Tree,
    base: PathBuf,
    levels: Vec<Level>,
    failed: Option<(Errno, PathBuf)>,
}

#[derive(Debug)]
struct Level {
    node: Arc<Node>,
    path: PathBuf,
    left: std::vec::IntoIter<DirEntry>,
}

/// One name that was walked over.
#[derive(Clone, Debug)]
pub struct WalkEntry {
    path: PathBuf,
    metadata: Metadata,
}

impl WalkEntry {
    /// Its path from where the walk began.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its attributes; a symlink's own.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Walk {
    fn enter(&mut self, node: Arc<Node>, path: PathBuf) -> SysResult<()> {
        let left = self.tree.core.read_dir(&node)?.into_iter();
        self.levels.push(Level { node, path, left });
        Ok(())
    }

    fn step(&mut self, entry: &DirEntry) -> SysResult<Option<WalkEntry>> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let seen = self.tree.core.see(&level.node, &entry.name)?;
        if matches!(seen, Seen::Absent) {
            // Removed since the directory was read.
            return Ok(None);
        }
        let metadata = self.tree.core.seen_metadata(&seen, &entry.name)?;
        let path = level.path.join(entry.file_name());
        if let Seen::Node(node) = seen
            && node.is_directory()
            && let Err(error) = self.enter(node, path.clone())
        {
            self.failed = Some((error, path.clone()));
        }
        Ok(Some(WalkEntry { path, metadata }))
    }
}

impl Iterator for Walk {
    type Item = Result<WalkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((error, path)) = self.failed.take() {
            return Some(Err(error).during("read directory", &self.base.join(path)));
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(entry) = level.left.next() else {
                self.levels.pop();
                continue;
            };
            let path = level.path.join(entry.file_name());
            match self.step(&entry).during("stat", &self.base.join(path)) {
                Ok(None) => {}
                Ok(Some(entry)) => return Some(Ok(entry)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
