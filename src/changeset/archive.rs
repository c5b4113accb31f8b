//! Plain tars, in which every name is that of a file, one like `.wh.x` too: files on their way into
//! a tree and out of one.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;

use super::acl;
use super::content::data_runs;
use super::digesting::CHUNK;
use super::entry::{Body, called};
use super::header::invalid;
use super::limits::ApplyLimits;
use super::reader::TarReader;
use super::tar_writer::TarWriter;
use crate::compression::Compression;
use crate::error::{Context, Error, Result};
use crate::inode::{FileKind, Inode};
use crate::layer_path::LayerPath;
use crate::pipe::Sink;
use crate::watch::Watch;

/// A file with all that is known of it but its content.
#[derive(Debug)]
pub(crate) struct ArchiveFile {
    /// Its name, from the root of what is copied.
    pub(crate) path: LayerPath,
    pub(crate) inode: Inode,
    /// The earlier name of the same file, where it is a hard link.
    pub(crate) link: Option<LayerPath>,
}

/// The content of a file in pieces, each behind the one before; between them, and behind the last,
/// are zeros.
pub(crate) trait Pieces {
    /// The next piece and where it begins; `None` behind the last.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>>;
}

/// Writes a tar of files that it is given, in the form of
/// [`write_diff`](super::write::write_diff).
pub(crate) struct ArchiveWriter<'a>(TarWriter<'a>);

impl<'a> ArchiveWriter<'a> {
    pub(crate) fn new(out: &'a mut dyn Sink, watch: &'a Watch<'a>, subject: &'a str) -> Self {
        Self(TarWriter::new(out, watch, subject))
    }

    /// Writes one file with its content.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) for what a tar cannot carry.
    pub(crate) fn put(&mut self, file: &ArchiveFile, pieces: &mut dyn Pieces) -> Result<()> {
        let ArchiveFile { path, inode, link } = file;
        if let Some(first) = link {
            return self.0.link(path, first, inode);
        }
        self.0.entry(path, inode)?;
        match inode.kind {
            FileKind::Regular { size } => self.0.pieces(path, size, pieces),
            _ => Ok(()),
        }
    }

    /// Ends the archive, and returns its length in bytes.
    pub(crate) fn finish(self) -> Result<u64> {
        self.0.finish()
    }
}

/// Reads a tar, plain or compressed, and gives each file with its content to `take`. Long zeros are
/// left out of the content.
///
/// # Errors
/// Where the archive is malformed, or names a file outside of it.
pub(crate) fn read_archive(
    input: &mut dyn Read,
    limits: &ApplyLimits,
    watch: &Watch<'_>,
    take: &mut dyn FnMut(ArchiveFile, &mut dyn Pieces) -> Result<()>,
) -> Result<()> {
    let (compression, input) = Compression::sniff(input).during("read", "archive")?;
    let decoder = compression.decoder(input)?;
    let decoder = BufReader::with_capacity(CHUNK, decoder);
    let mut tar = TarReader::new(decoder, limits.clone(), false);
    while let Some(entry) = tar.next()? {
        watch.check()?;
        let within = |error: Error| error.within(called(&entry.raw_path));
        let path = LayerPath::parse(&entry.raw_path).map_err(within)?;
        let mut inode = entry.inode.clone();
        for (name, text) in [
            (acl::ACCESS, entry.acl_access.as_deref()),
            (acl::DEFAULT, entry.acl_default.as_deref()),
        ] {
            // What stands there in the kernel's form counts before text.
            if let Some(value) = text.and_then(acl::encode) {
                inode.xattrs.entry(name.to_vec()).or_insert(value);
            }
        }
        let (link, runs) = match &entry.body {
            Body::Link(first) => {
                (Some(LayerPath::parse(first.as_slice()).map_err(within)?), Vec::new())
            }
            Body::Sparse(runs) => (None, runs.clone()),
            Body::Inode => (None, vec![(0, entry.payload)]),
        };
        let mut pieces = Payload::new(&mut tar, runs);
        take(ArchiveFile { path, inode, link }, &mut pieces)?;
    }
    Ok(())
}

/// The payload of an entry, long zeros left out.
struct Payload<'a, R> {
    tar: &'a mut TarReader<R>,
    /// Where it belongs: offsets and lengths.
    runs: VecDeque<(u64, u64)>,
    buffer: Vec<u8>,
    /// Which parts of the buffer are given next, and where they belong.
    ready: VecDeque<(u64, Range<usize>)>,
}

impl<'a, R: BufRead> Payload<'a, R> {
    fn new(tar: &'a mut TarReader<R>, runs: Vec<(u64, u64)>) -> Self {
        Self { tar, runs: runs.into(), buffer: Vec::new(), ready: VecDeque::new() }
    }

    fn fill(&mut self, at: u64, left: u64) -> Result<u64> {
        self.buffer.clear();
        self.buffer.extend_from_slice(self.tar.payload(left)?);
        for (offset, data) in data_runs(&self.buffer, at) {
            let start = usize::try_from(offset - at).unwrap_or(usize::MAX);
            self.ready.push_back((offset, start..start.saturating_add(data.len())));
        }
        Ok(self.buffer.len() as u64)
    }
}

impl<R: BufRead> Pieces for Payload<'_, R> {
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        while self.ready.is_empty() {
            let Some((at, left)) = self.runs.pop_front() else { return Ok(None) };
            if left == 0 {
                continue;
            }
            let read = self.fill(at, left)?;
            if read == 0 {
                return Err(invalid("a payload ends early".to_owned()));
            }
            self.runs.push_front((at + read, left - read));
        }
        let next = self.ready.pop_front();
        Ok(next.map(|(offset, part)| (offset, self.buffer.get(part).unwrap_or_default())))
    }
}
