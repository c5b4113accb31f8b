//! Writes a tar in one fixed form, so that equal files give equal bytes.
//!
//! Headers are ustar without names of users or groups; what does not fit one stands in a pax
//! extended header before it, whose records are sorted by key. Names that are not ASCII, or longer
//! than 100 bytes, are such a record, as raw bytes.
//!
//! Source: POSIX.1-2017 pax; `SCHILY.xattr.` is star's, which Go, GNU tar and libarchive read too.

use std::fs::File;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tar::EntryType;

use super::archive::Pieces;
use super::node::Content;
use super::tar_header::{Entry, extended_header};
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::inode::{Device, FileKind, Inode, Timestamp};
use crate::layer_path::LayerPath;
use crate::pipe::{CHUNK, Sink};
use crate::sys::copy;
use crate::watch::{Phase, Progress, Watch};

const BLOCK: usize = 512;

/// How much is gathered before it is handed on.
const BUFFER: usize = CHUNK;

/// Takes entries and writes them to `out`.
pub(super) struct TarWriter<'a> {
    out: &'a mut dyn Sink,
    buffer: Vec<u8>,
    /// Bytes handed on so far.
    written: u64,
    entries: u64,
    watch: &'a Watch<'a>,
    subject: &'a str,
}

impl<'a> TarWriter<'a> {
    /// An empty archive; `subject` is what observers are told that is being packed.
    pub(super) fn new(out: &'a mut dyn Sink, watch: &'a Watch<'a>, subject: &'a str) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER), written: 0, entries: 0, watch, subject }
    }

    /// Entries so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes the header of `path` as `inode` describes it; a regular file's content must follow.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for what a tar cannot carry: a socket, a device 0:0 (which would
    /// be taken for a whiteout), an attribute with `=` in its name.
    pub(super) fn entry(&mut self, path: &LayerPath, inode: &Inode) -> Result<()> {
        let mut entry = Entry::new(inode);
        for (name, value) in &inode.xattrs {
            if name.contains(&b'=') {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("a tar cannot carry the attribute {:?} of {path}", name.shown()),
                ));
            }
            entry.record([b"SCHILY.xattr.".as_slice(), name].concat(), value.clone());
        }
        let kind = match &inode.kind {
            FileKind::Directory => EntryType::Directory,
            FileKind::Regular { size } => {
                entry.size(*size);
                EntryType::Regular
            }
            FileKind::Symlink { target } => {
                entry.link(target);
                EntryType::Symlink
            }
            FileKind::CharDevice(device) if *device != Device::ZERO => {
                entry.device(*device).during("write tar header of", path)?;
                EntryType::Char
            }
            FileKind::BlockDevice(device) => {
                entry.device(*device).during("write tar header of", path)?;
                EntryType::Block
            }
            FileKind::Fifo => EntryType::Fifo,
            FileKind::CharDevice(_) | FileKind::Socket => {
                let what = inode.kind.name();
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("a changeset cannot carry {path}, a {what}"),
                )
                .hint("a character device 0:0 in a changeset would be taken for a whiteout"));
            }
        };
        let name = match (path.is_root(), inode.kind.is_directory()) {
            (true, _) => b"./".to_vec(),
            (false, true) => [path.as_bytes(), b"/"].concat(),
            (false, false) => path.as_bytes().to_vec(),
        };
        self.header(entry, &name, kind)
    }

    /// Writes `path` as one more name of `first`, which stands earlier in the archive.
    pub(super) fn link(
        &mut self,
        path: &LayerPath,
        first: &LayerPath,
        inode: &Inode,
    ) -> Result<()> {
        let mut entry = Entry::new(inode);
        entry.link(first.as_bytes());
        self.header(entry, path.as_bytes(), EntryType::Link)
    }

    /// Writes an empty file that is a mark: a whiteout or an opaque marker.
    pub(super) fn mark(&mut self, path: &LayerPath, time: Timestamp) -> Result<()> {
        let kind = FileKind::Regular { size: 0 };
        let xattrs = crate::inode::Xattrs::new();
        let inode = Inode { kind, mode: 0, uid: 0, gid: 0, mtime: time, xattrs };
        self.entry(path, &inode)
    }

    fn header(&mut self, mut entry: Entry, name: &[u8], kind: EntryType) -> Result<()> {
        entry.name(name);
        entry.header.set_entry_type(kind);
        entry.header.set_cksum();
        if let Some(payload) = entry.extended_payload() {
            let extended = extended_header(name, payload.len() as u64);
            self.put(extended.as_bytes())?;
            self.put(&payload)?;
            self.pad(payload.len() as u64)?;
        }
        self.put(entry.header.as_bytes())?;
        self.entries += 1;
        if self.entries.is_multiple_of(256) { self.report() } else { Ok(()) }
    }

    /// Writes the content of the file whose header was written last.
    ///
    /// # Errors
    /// Where the file has fewer bytes than it had when its status was read.
    pub(super) fn content(&mut self, path: &LayerPath, content: &Content) -> Result<()> {
        let Content { file, size, sparse, .. } = content;
        let mut at = 0;
        if *sparse {
            while let Some((start, end)) =
                copy::next_data(file, at, *size).during("read file", path)?
            {
                self.zeros(start - at)?;
                self.copy(path, file, start, end)?;
                at = end;
            }
            self.zeros(size - at)?;
        } else {
            self.copy(path, file, at, *size)?;
        }
        self.pad(*size)
    }

    /// Writes the content of the file whose header was written last, of `size` bytes, from pieces.
    ///
    /// # Errors
    /// Where the pieces reach beyond that size.
    pub(super) fn pieces(
        &mut self,
        path: &LayerPath,
        size: u64,
        pieces: &mut dyn Pieces,
    ) -> Result<()> {
        let mut at = 0;
        while let Some((offset, bytes)) = pieces.next()? {
            let end = offset.saturating_add(bytes.len() as u64);
            let gap = offset.checked_sub(at).filter(|_| end <= size);
            self.zeros(gap.ok_or_else(|| changed(path))?)?;
            self.put(bytes)?;
            at = end;
        }
        self.zeros(size - at)?;
        self.pad(size)
    }

    fn copy(&mut self, path: &LayerPath, file: &File, mut at: u64, end: u64) -> Result<()> {
        while at < end {
            if self.buffer.len() >= BUFFER {
                self.hand_on()?;
            }
            let filled = self.buffer.len();
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            // As much as there is room for, so that nothing has to be cleared first.
            let read = match rustix::io::pread(file, spare_capacity(&mut self.buffer), at) {
                Err(Errno::INTR) => continue,
                other => other.during("read file", path)?.min(left),
            };
            self.buffer.truncate(filled + read);
            if read == 0 {
                return Err(changed(path));
            }
            at += read as u64;
        }
        Ok(())
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.buffer.len() >= BUFFER {
                self.hand_on()?;
            }
            let room = (BUFFER - self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            if self.buffer.len() >= BUFFER {
                self.hand_on()?;
            }
            let filled = self.buffer.len();
            let room = (BUFFER - filled).min(usize::try_from(count).unwrap_or(BUFFER));
            self.buffer.resize(filled + room, 0);
            count -= room as u64;
        }
        Ok(())
    }

    fn pad(&mut self, length: u64) -> Result<()> {
        self.zeros(length.next_multiple_of(BLOCK as u64) - length)
    }

    fn hand_on(&mut self) -> Result<()> {
        self.written += self.buffer.len() as u64;
        self.out.take(&mut self.buffer).during("write", "changeset")?;
        self.report()
    }

    fn report(&self) -> Result<()> {
        self.watch.report(&Progress {
            subject: self.subject,
            phase: Phase::Pack,
            bytes: self.written,
            total_bytes: None,
            entries: self.entries,
        })
    }

    /// Ends the archive, and returns its length in bytes.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.zeros(2 * BLOCK as u64)?;
        self.hand_on()?;
        self.out.flush().during("write", "changeset")?;
        Ok(self.written)
    }
}

/// The error of a file that is not what it was a moment ago.
pub(super) fn changed(path: &LayerPath) -> Error {
    Error::new(ErrorKind::Io, format!("read file {path}: it changed while it was read"))
        .hint("stop or pause the container first")
}
