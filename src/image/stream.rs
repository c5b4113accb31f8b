//! [`read_stream`]: an archive that passes once, its layers unpacked as they come.
//!
//! The documents that say what a file is stand behind the layers in most archives, so that is told
//! by the file's first bytes: a tar header, or the magic of gzip or zstd, is a layer's; an opening
//! brace is a document's, which is kept, as is all that is small. When all has passed, the documents are read as in any
//! other archive and matched with what was seen.

use std::fmt;
use std::io::{Cursor, Read};

use super::document::{DOCUMENT_LIMIT, invalid};
use super::entry::{ImageEntry, LayerBlob, Place};
use super::files::{Catalog, Files, Located};
use super::source::{ReadOptions, find_images};
use super::tar_reader::{Content, Entry, EntryKind, Streamed, TarReader};
use crate::compression::{Compression, is_tar_header};
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;

/// How many bytes of documents are kept in memory, all together.
const DOCUMENTS_LIMIT: u64 = 256 << 20;

/// A file of no more bytes is kept whatever it looks like: what is wrong with it is then said by
/// whoever needs it.
const SMALL: u64 = 64 << 10;

/// How many first bytes tell what a file is.
const PREFIX: usize = 512;

/// Takes layers as they pass.
pub trait LayerSink {
    /// Takes one layer: its changeset as stored, compressed or not, to the end of `reader`.
    ///
    /// `name` is for messages: the blob's digest where the archive names it by that, else the
    /// file's name. Nothing is verified yet; what comes need not belong to an image that is
    /// returned in the end. An error is put off until it is known whether it matters, unless it is of
    /// kind [`ErrorKind::Cancelled`] or [`ErrorKind::NoSpace`].
    ///
    /// # Errors
    /// Where the layer cannot be taken.
    fn layer(&mut self, name: &str, reader: &mut dyn Read) -> Result<LayerSeen>;
}

/// What a layer turned out to be when it had passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSeen {
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// How many stored bytes there were.
    pub size: u64,
}

/// Reads images from an archive that passes once, compressed as a whole or not.
///
/// Every layer goes to `sink` in the order of the archive, once; layers stand in no temporary file.
/// The images that are returned have each of their layers among what the sink saw, verified.
///
/// # Errors
/// As [`open`](super::open); what `sink` fails with; [`ErrorKind::InvalidData`] for an archive that
/// ends early; [`ErrorKind::DigestMismatch`] for a layer that is not the one its image names.
pub fn read_stream(
    reader: impl Read,
    sink: &mut dyn LayerSink,
    options: &ReadOptions,
) -> Result<Vec<ImageEntry>> {
    let (compression, reader) = Compression::sniff(reader).during("read", "archive")?;
    let mut reader = TarReader::new(Streamed(compression.decoder(reader)?));
    let mut passed = Passed { catalog: Catalog::new(), kept: 0 };
    while let Some(entry) = reader.next()? {
        passed.take(entry, &mut reader.content(), sink)?;
    }
    // What compresses the archive ends with a checksum.
    reader.finish()?;
    let images = find_images(&passed, options)?;
    for layer in images.iter().flat_map(|image| &image.layers) {
        let seen = passed.seen(layer, sink)?;
        verify(layer, &seen)?;
    }
    Ok(images)
}

/// Fails where a layer that was seen is not the one that the image names.
fn verify(layer: &LayerBlob, seen: &LayerSeen) -> Result<()> {
    let what = layer.shown();
    if seen.size != layer.size {
        return Err(invalid(&what, format!("{} bytes, expected {}", seen.size, layer.size)));
    }
    let differs = |found: &dyn fmt::Display, expected: &dyn fmt::Display, kind: &str| {
        let message = format!("{what}: its {kind} is {found}, expected {expected}");
        Err(Error::new(ErrorKind::DigestMismatch, message)
            .hint("the image is damaged: fetch it again"))
    };
    if let Some(digest) = layer.digest.filter(|digest| *digest != seen.digest) {
        return differs(&seen.digest, &digest, "digest");
    }
    if seen.diff_id != layer.diff_id {
        return differs(&seen.diff_id, &layer.diff_id, "diff ID");
    }
    Ok(())
}

/// What is left of a file when it has passed.
enum Kept {
    /// Its bytes.
    Document(Vec<u8>),
    Layer(LayerSeen),
    /// The sink refused it; whether that matters is not known yet.
    Refused(Error),
    /// Nothing, because it looked like nothing that would be needed, or was too large.
    Nothing(&'static str),
}

struct Passed {
    catalog: Catalog<Kept>,
    /// Bytes of documents.
    kept: u64,
}

impl Passed {
    fn take(
        &mut self,
        entry: Entry,
        content: &mut Content<'_, Streamed<impl Read>>,
        sink: &mut dyn LayerSink,
    ) -> Result<()> {
        let (EntryKind::File, Some(name)) = (&entry.kind, &entry.name) else {
            return self.catalog.add_link(&entry);
        };
        let mut prefix = Vec::with_capacity(PREFIX);
        let shown = shown(name);
        content.by_ref().take(PREFIX as u64).read_to_end(&mut prefix).during("read", &shown)?;
        let kept = if looks_like_layer(&prefix) {
            let mut reader = Cursor::new(prefix).chain(content.by_ref());
            match sink.layer(&shown, &mut reader) {
                Ok(seen) => Kept::Layer(seen),
                Err(error) if may_be_put_off(&error) => Kept::Refused(error),
                Err(error) => return Err(error),
            }
        } else if entry.size > SMALL && !looks_like_document(&prefix) {
            Kept::Nothing("is neither a document nor a layer")
        } else if entry.size > DOCUMENT_LIMIT {
            Kept::Nothing("is too large to be kept")
        } else if self.kept + entry.size > DOCUMENTS_LIMIT {
            Kept::Nothing(
                "comes behind too many small files to be kept: load the archive from a file",
            )
        } else {
            content.read_to_end(&mut prefix).during("read", &shown)?;
            self.kept += prefix.len() as u64;
            Kept::Document(prefix)
        };
        self.catalog.add_file(name.clone(), entry.size, kept)
    }

    /// What the sink saw of a layer.
    fn seen(&mut self, layer: &LayerBlob, sink: &mut dyn LayerSink) -> Result<LayerSeen> {
        let what = layer.shown();
        let name = match &layer.place {
            Place::Embedded(bytes) => return sink.layer(&what, &mut bytes.as_slice()),
            Place::File(name) => name,
        };
        let kept = self.catalog.get_mut(name).ok_or_else(|| invalid(&what, "has not passed"))?;
        let seen = match std::mem::replace(kept, Kept::Nothing("was refused")) {
            Kept::Layer(seen) => seen,
            // No layer begins like a document, but one that is empty might.
            Kept::Document(bytes) => sink.layer(&what, &mut bytes.as_slice())?,
            Kept::Refused(error) => return Err(error),
            Kept::Nothing(why) => {
                return Err(invalid(&what, why)
                    .hint("a layer is a tar, plain or compressed with gzip or zstd"));
            }
        };
        *kept = Kept::Layer(seen);
        Ok(seen)
    }
}

impl Files for Passed {
    fn find(&self, name: &LayerPath) -> Result<Option<Located>> {
        Ok(self.catalog.resolve(name).map(|(file, _)| file))
    }

    fn read(&self, file: &Located) -> Result<Vec<u8>> {
        match self.catalog.resolve(&file.name) {
            Some((_, Kept::Document(bytes))) => Ok(bytes.clone()),
            Some((_, Kept::Nothing(why))) => Err(invalid(&shown(&file.name), why)),
            _ => Err(invalid(&shown(&file.name), "is no document")),
        }
    }
}

/// A blob's digest where it is named by that, else the file's name.
fn shown(name: &LayerPath) -> String {
    let text = String::from_utf8_lossy(name.as_bytes());
    match text.strip_prefix("blobs/sha256/").map(Digest::from_hex) {
        Some(Ok(digest)) => digest.to_string(),
        _ => text.into_owned(),
    }
}

/// Whether an error may be about a file that is no layer of the image at all: of another platform's, or
/// of none. What ails the reader of the archive shows again behind it.
fn may_be_put_off(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::NoSpace)
}

fn looks_like_layer(prefix: &[u8]) -> bool {
    let is_tar = <&[u8; PREFIX]>::try_from(prefix)
        .is_ok_and(|block| is_tar_header(block) || block.iter().all(|&byte| byte == 0));
    is_tar || Compression::detect(prefix) != Compression::None
}

fn looks_like_document(prefix: &[u8]) -> bool {
    let first = prefix.iter().find(|byte| !byte.is_ascii_whitespace());
    matches!(first, None | Some(b'{' | b'['))
}
