//! What a layer directory holds, written down while it is made: the file `entries` beside it.
//!
//! A check compares the directory with this list. It says what was put on disk, so that no rule of
//! unpacking has to be followed a second time. The format is described in ARCHITECTURE.md.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::records::{RecordReader, RecordWriter, put_bytes, put_number};
use super::split::replaced_path;
use crate::error::Result;
use crate::format::xattr_name::mark;
use crate::inode::{Device, FileKind, Timestamp, Xattrs};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;

/// The name of the list.
pub(super) const FILE: &str = "entries";

const END: u8 = 0;
const INODE: u8 = 1;
const LINK: u8 = 2;
const REPLACED: u8 = 3;
const WHITEOUT: u8 = 4;
const OPAQUE: u8 = 5;

const REGULAR: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const CHAR_DEVICE: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;
const SOCKET: u8 = 7;
/// Added to a type: the owner follows; else it is that of the store.
const OWNED: u8 = 0x80;

/// A file as it was put on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) kind: FileKind,
    /// 12 bits; of a symlink of no meaning.
    pub(super) mode: u32,
    /// `None`: that of the store.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Xattrs,
    /// Of a regular file: that of its content.
    pub(super) checksum: u32,
}

impl Listed {
    /// A whiteout has no attributes of its own.
    pub(super) fn whiteout() -> Self {
        Self {
            kind: FileKind::CharDevice(Device::ZERO),
            mode: 0,
            owner: None,
            mtime: Timestamp::default(),
            xattrs: Xattrs::new(),
            checksum: 0,
        }
    }

    pub(super) fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice(Device::ZERO)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let kind = match &self.kind {
            FileKind::Regular { .. } => REGULAR,
            FileKind::Directory => DIRECTORY,
            FileKind::Symlink { .. } => SYMLINK,
            FileKind::CharDevice(_) => CHAR_DEVICE,
            FileKind::BlockDevice(_) => BLOCK_DEVICE,
            FileKind::Fifo => FIFO,
            FileKind::Socket => SOCKET,
        };
        out.push(if self.owner.is_some() { kind | OWNED } else { kind });
        put_number(out, self.mode.into());
        if let Some((uid, gid)) = self.owner {
            put_number(out, uid.into());
            put_number(out, gid.into());
        }
        // The sign as the lowest bit.
        let seconds = self.mtime.seconds;
        put_number(out, ((seconds << 1) ^ (seconds >> 63)).cast_unsigned());
        put_number(out, self.mtime.nanos.into());
        put_number(out, self.xattrs.len() as u64);
        for (name, value) in &self.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
        match &self.kind {
            FileKind::Regular { size } => {
                put_number(out, *size);
                out.extend_from_slice(&self.checksum.to_le_bytes());
            }
            FileKind::Symlink { target } => put_bytes(out, target),
            FileKind::CharDevice(device) | FileKind::BlockDevice(device) => {
                put_number(out, device.major.into());
                put_number(out, device.minor.into());
            }
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => {}
        }
    }

    fn read(records: &mut RecordReader) -> Result<Self> {
        let kind = records.byte()?;
        let mode = small(records)?;
        let owner = match kind & OWNED {
            0 => None,
            _ => Some((small(records)?, small(records)?)),
        };
        let seconds = records.number()?;
        let seconds = (seconds >> 1).cast_signed() ^ -((seconds & 1).cast_signed());
        let mtime = Timestamp { seconds, nanos: small(records)? };
        let mut xattrs = Xattrs::new();
        for _ in 0..records.number()? {
            let name = records.bytes()?;
            xattrs.insert(name, records.bytes()?);
        }
        let mut checksum = 0;
        let kind = match kind & !OWNED {
            REGULAR => {
                let size = records.number()?;
                let mut bytes = [0; 4];
                records.fill(&mut bytes)?;
                checksum = u32::from_le_bytes(bytes);
                FileKind::Regular { size }
            }
            DIRECTORY => FileKind::Directory,
            SYMLINK => FileKind::Symlink { target: records.bytes()? },
            CHAR_DEVICE => FileKind::CharDevice(device(records)?),
            BLOCK_DEVICE => FileKind::BlockDevice(device(records)?),
            FIFO => FileKind::Fifo,
            SOCKET => FileKind::Socket,
            other => return Err(records.corrupt(&format!("a file of type {other}"))),
        };
        Ok(Self { kind, mode, owner, mtime, xattrs, checksum })
    }
}

fn small(records: &mut RecordReader) -> Result<u32> {
    let number = records.number()?;
    u32::try_from(number).map_err(|_| records.corrupt("a number of more than 32 bits"))
}

fn device(records: &mut RecordReader) -> Result<Device> {
    Ok(Device { major: small(records)?, minor: small(records)? })
}

/// Writes the list.
#[derive(Debug)]
pub(super) struct EntriesWriter {
    out: RecordWriter,
    sum: crc32fast::Hasher,
}

impl EntriesWriter {
    /// Starts the list in `side`, the directory that holds the layer directory.
    pub(super) fn new(side: &Dir) -> Result<Self> {
        let out = RecordWriter::create(side, FILE)?;
        Ok(Self { out, sum: crc32fast::Hasher::new() })
    }

    /// A file was made, or a directory given its attributes.
    pub(super) fn inode(&mut self, path: &LayerPath, listed: &Listed) -> Result<()> {
        let mut record = Self::start(INODE, path);
        listed.write(&mut record);
        self.put(&record)
    }

    /// A file was given one more name.
    pub(super) fn link(&mut self, path: &LayerPath, target: &LayerPath) -> Result<()> {
        let mut record = Self::start(LINK, path);
        put_bytes(&mut record, target.as_bytes());
        self.put(&record)
    }

    /// What was there, with all beneath it, went.
    pub(super) fn replaced(&mut self, path: &LayerPath) -> Result<()> {
        self.put(&Self::start(REPLACED, path))
    }

    pub(super) fn whiteout(&mut self, path: &LayerPath) -> Result<()> {
        self.put(&Self::start(WHITEOUT, path))
    }

    /// A directory that is listed is marked opaque.
    pub(super) fn opaque(&mut self, path: &LayerPath) -> Result<()> {
        self.put(&Self::start(OPAQUE, path))
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.put(&[END])?;
        let sum = self.sum.clone().finalize().to_le_bytes();
        self.out.put(&sum)?;
        self.out.finish()
    }

    fn start(kind: u8, path: &LayerPath) -> Vec<u8> {
        let mut record = vec![kind];
        put_bytes(&mut record, path.as_bytes());
        record
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.out.put(bytes)
    }
}

/// A name that a layer directory should have.
#[derive(Debug)]
pub(super) struct Name {
    /// Shared by all names of one file.
    pub(super) file: Rc<Listed>,
    /// What a comparison found; names that it never comes to are missing.
    pub(super) state: Cell<State>,
}

/// What became of a name in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing of that name was seen.
    Unseen,
    /// It is there, and of the right type.
    Seen,
    /// Something else is there.
    Wrong,
}

/// The names that a layer directory should have, and what they should be.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// By path; the root's is empty, and stands here only if the changeset describes it.
    pub(super) names: BTreeMap<Vec<u8>, Name>,
    /// Files in the directory `replaced`, by their path there.
    pub(super) replaced: BTreeMap<Vec<u8>, Rc<Listed>>,
}

impl Entries {
    /// Reads the list of a layer, of which `namespace` is that of the marks.
    pub(super) fn read(side: &Dir, namespace: Namespace) -> Result<Self> {
        let mut records = RecordReader::open(side, FILE)?;
        let mut entries = Self::default();
        let mut moved = 0;
        loop {
            let kind = records.byte()?;
            if kind == END {
                break;
            }
            let path = records.path()?;
            match kind {
                INODE => {
                    let listed = Listed::read(&mut records)?;
                    entries.insert(path, Rc::new(listed));
                }
                LINK => {
                    let target = records.path()?;
                    let file = match entries.names.get(target.as_bytes()) {
                        Some(name) => Rc::clone(&name.file),
                        None => return Err(records.corrupt("a link to nothing")),
                    };
                    entries.insert(path, file);
                }
                REPLACED => {
                    entries.replace(moved, &path)?;
                    moved += 1;
                }
                WHITEOUT => entries.insert(path, Rc::new(Listed::whiteout())),
                OPAQUE => match entries.names.get_mut(path.as_bytes()) {
                    Some(name) => {
                        let listed = Rc::make_mut(&mut name.file);
                        listed.xattrs.insert(namespace.name(mark::OPAQUE), b"y".to_vec());
                    }
                    None => return Err(records.corrupt("a mark of nothing")),
                },
                other => return Err(records.corrupt(&format!("a record of type {other}"))),
            }
        }
        let computed = records.sum();
        let mut written = [0; 4];
        records.fill(&mut written)?;
        match u32::from_le_bytes(written) == computed {
            true => records.end().map(|()| entries),
            false => Err(records.corrupt("bytes that were changed")),
        }
    }

    /// The names beneath a directory, those around others first.
    pub(super) fn beneath(
        &self,
        path: &LayerPath,
    ) -> impl Iterator<Item = (&Vec<u8>, &Name)> + use<'_> {
        let start = match path.is_root() {
            true => Vec::new(),
            false => [path.as_bytes(), b"/"].concat(),
        };
        let names = self.names.range(start.clone()..);
        names.take_while(move |(path, _)| path.starts_with(&start))
    }

    fn insert(&mut self, path: LayerPath, file: Rc<Listed>) {
        let name = Name { file, state: Cell::new(State::Unseen) };
        self.names.insert(path.as_bytes().to_vec(), name);
    }

    /// Moves a name and those beneath it to the files in `replaced`.
    fn replace(&mut self, index: usize, path: &LayerPath) -> Result<()> {
        let mut gone = vec![path.as_bytes().to_vec()];
        gone.extend(self.beneath(path).map(|(path, _)| path.clone()));
        for name in gone {
            let Some(found) = self.names.remove(&name) else { continue };
            let place = replaced_path(index, path, &LayerPath::parse(&name)?)?;
            self.replaced.insert(place.as_bytes().to_vec(), found.file);
        }
        Ok(())
    }
}
