//! Where an image's files lie: in a directory, in an archive on disk, or in one that streamed past.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::document::{check_size, invalid};
use super::tar_reader::{Entry, EntryKind, Skip, TarReader};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, type_of};

/// How many links are followed before it counts as a loop.
const LINK_LIMIT: usize = 40;

/// The most entries that an archive of blobs may have.
const ENTRY_LIMIT: usize = 1 << 20;

/// A file that was found, links on the way resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) name: LayerPath,
    pub(super) size: u64,
}

/// What the readers of manifests need of the place that the files are in.
pub(super) trait Files {
    /// Finds a file; links are followed inside the place and never out of it.
    fn find(&self, name: &LayerPath) -> Result<Option<Located>>;

    /// Reads a whole file, which has been found and is small.
    fn read(&self, file: &Located) -> Result<Vec<u8>>;

    /// Reads the document `name`; `None` where there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.find(&LayerPath::parse(name.as_bytes())?)? else {
            return Ok(None);
        };
        check_size(file.size, name)?;
        self.read(&file).map(Some)
    }
}

/// Where the target of a symlink at `name` lies; `None` outside.
fn symlink_target(name: &LayerPath, target: &[u8]) -> Option<LayerPath> {
    let parent = name.parent().unwrap_or_default();
    let path = match target {
        [b'/', ..] => target.to_vec(),
        _ => [parent.as_bytes(), b"/", target].concat(),
    };
    LayerPath::parse(&path).ok()
}

/// The files of an archive by name, each with a `T` that tells where its bytes are.
pub(super) struct Catalog<T>(HashMap<LayerPath, Node<T>>);

enum Node<T> {
    File(u64, T),
    Link(LayerPath),
}

impl<T> Catalog<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Adds a file; the last of a name counts, as when an archive is unpacked.
    pub(super) fn add_file(&mut self, name: LayerPath, size: u64, place: T) -> Result<()> {
        self.add(name, Node::File(size, place))
    }

    /// Adds a link where the entry is one that stays inside the archive.
    pub(super) fn add_link(&mut self, entry: &Entry) -> Result<()> {
        let Some(name) = &entry.name else {
            return Ok(());
        };
        let target = match &entry.kind {
            EntryKind::Symlink(target) => symlink_target(name, target),
            EntryKind::HardLink(target) => LayerPath::parse(target).ok(),
            EntryKind::File | EntryKind::Other => None,
        };
        match target {
            // A hard link to its own name, which some archivers write, is no news.
            Some(target) if target != *name => self.add(name.clone(), Node::Link(target)),
            _ => Ok(()),
        }
    }

    fn add(&mut self, name: LayerPath, node: Node<T>) -> Result<()> {
        if self.0.len() >= ENTRY_LIMIT {
            let message = format!("the archive has more than {ENTRY_LIMIT} files");
            return Err(Error::new(ErrorKind::LimitExceeded, message)
                .hint("this is no archive of an image; is it a file system as a tar?"));
        }
        self.0.insert(name, node);
        Ok(())
    }

    pub(super) fn resolve(&self, name: &LayerPath) -> Option<(Located, &T)> {
        let mut name = name;
        for _ in 0..LINK_LIMIT {
            match self.0.get(name)? {
                Node::File(size, place) => {
                    return Some((Located { name: name.clone(), size: *size }, place));
                }
                Node::Link(target) => name = target,
            }
        }
        None
    }

    /// Takes a file out.
    pub(super) fn get_mut(&mut self, name: &LayerPath) -> Option<&mut T> {
        match self.0.get_mut(name)? {
            Node::File(_, place) => Some(place),
            Node::Link(_) => None,
        }
    }
}

/// An archive on disk, read at any place by any number of threads.
pub(super) struct Archive {
    file: Arc<File>,
    /// Where each file begins.
    catalog: Catalog<u64>,
}

impl Archive {
    /// Walks over the headers once.
    pub(super) fn index(file: File) -> Result<Self> {
        let file = Arc::new(file);
        let length = file.metadata().during("stat", "archive")?.len();
        let section = Section { file: Arc::clone(&file), position: 0, end: length };
        let mut reader = TarReader::new(section);
        let mut catalog = Catalog::new();
        while let Some(entry) = reader.next()? {
            match (&entry.kind, &entry.name) {
                (EntryKind::File, Some(name)) => {
                    catalog.add_file(name.clone(), entry.size, entry.offset)?;
                }
                _ => catalog.add_link(&entry)?,
            }
        }
        Ok(Self { file, catalog })
    }

    /// A reader of one file.
    pub(super) fn open(&self, name: &LayerPath) -> Option<Section> {
        let (file, offset) = self.catalog.resolve(name)?;
        let end = offset + file.size;
        Some(Section { file: Arc::clone(&self.file), position: *offset, end })
    }
}

impl Files for Archive {
    fn find(&self, name: &LayerPath) -> Result<Option<Located>> {
        Ok(self.catalog.resolve(name).map(|(file, _)| file))
    }

    fn read(&self, file: &Located) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(mut section) = self.open(&file.name) {
            section.read_to_end(&mut bytes).during("read", &file.name)?;
        }
        Ok(bytes)
    }
}

/// A part of a file; each has a position of its own.
pub(super) struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.file.read_at(buffer, self.position)?;
        if count == 0 {
            // It was longer when it was indexed.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Skip for Section {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > self.end - self.position {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count;
        Ok(())
    }
}

/// A directory that holds a layout, or an archive that was unpacked.
pub(super) struct Directory(pub(super) Dir);

impl Directory {
    /// Opens a file that has been found.
    pub(super) fn open(&self, name: &LayerPath) -> Result<File> {
        self.open_file(name).during("open", name)
    }

    fn open_file(&self, name: &LayerPath) -> SysResult<File> {
        let (parent, last) = name.split().ok_or(Errno::ISDIR)?;
        // A FIFO that took the file's place must not be waited for.
        self.0.descend_as_path(&parent)?.open(last, OFlags::RDONLY | OFlags::NONBLOCK, 0)
    }

    fn step(&self, name: &LayerPath) -> SysResult<Option<Step>> {
        let Some((parent, last)) = name.split() else {
            return Ok(None);
        };
        let parent = match self.0.descend_as_path(&parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other?,
        };
        let Some(stat) = parent.stat_if_exists(last)? else {
            return Ok(None);
        };
        Ok(match type_of(&stat) {
            FileType::RegularFile => Some(Step::File(u64::try_from(stat.st_size).unwrap_or(0))),
            FileType::Symlink => Some(Step::Link(parent.read_link(last)?)),
            _ => None,
        })
    }
}

enum Step {
    File(u64),
    Link(Vec<u8>),
}

impl Files for Directory {
    fn find(&self, name: &LayerPath) -> Result<Option<Located>> {
        let mut name = name.clone();
        for _ in 0..LINK_LIMIT {
            match self.step(&name).during("look up", &name)? {
                None => return Ok(None),
                Some(Step::File(size)) => return Ok(Some(Located { name, size })),
                Some(Step::Link(target)) => match symlink_target(&name, &target) {
                    Some(target) => name = target,
                    None => {
                        let shown = String::from_utf8_lossy(&target).into_owned();
                        let what = format!("a symlink to {shown:?}, outside the image's directory");
                        return Err(invalid(&name.to_string(), what)
                            .hint("links are followed inside the directory only"));
                    }
                },
            }
        }
        Err(invalid(&name.to_string(), "too many symlinks"))
    }

    fn read(&self, file: &Located) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Never more than was found, though it may have grown meanwhile.
        let opened = self.open(&file.name)?;
        opened.take(file.size + 1).read_to_end(&mut bytes).during("read", &file.name)?;
        Ok(bytes)
    }
}
