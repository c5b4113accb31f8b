//! What the writers of images share: their input, options, and layers that are checked as they
//! pass.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::document::{invalid, to_bytes};
use super::entry::ReadConfig;
use super::reference::Reference;
use crate::compression::Compression;
use crate::digest::{DiffId, Digest, Hashing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::durable::Durability;
use crate::watch::{Phase, Progress, Watch};

/// An image to write; its layers are those that the config names.
#[derive(Clone, Copy, Debug)]
pub struct ImageToWrite<'a> {
    /// The config's bytes, which are written as they are, so that the image keeps its ID.
    pub config: &'a [u8],
    /// What the image is called; may be empty.
    pub names: &'a [Reference],
}

/// Gives the layers of images that are written.
pub trait LayerSource {
    /// How many bytes the layer's uncompressed changeset has.
    ///
    /// # Errors
    /// Where there is no such layer.
    fn size(&self, layer: &DiffId) -> Result<u64>;

    /// Writes the layer's uncompressed changeset; called once or more for each layer.
    ///
    /// # Errors
    /// Where the layer cannot be read, or `out` written to.
    fn write_to(&self, layer: &DiffId, out: &mut dyn Write) -> Result<()>;
}

/// How images are written.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct WriteOptions<'a> {
    /// How layers are compressed; by default they are not.
    pub compression: Compression,
    /// The modification time of every entry of an archive, in seconds since 1970: 0, or what
    /// `SOURCE_DATE_EPOCH` says.
    pub mtime: u64,
    /// Where a compressed layer waits while its size is not known, in a file without a name: the
    /// directory for temporary files by default. Layers that are not compressed need none.
    pub scratch: Option<PathBuf>,
    /// Whether a directory that was written survives a power cut.
    pub durability: Durability,
    /// Sees how far the work is, and stops it; its subjects are diff IDs.
    pub watch: Watch<'a>,
}

impl<'a> WriteOptions<'a> {
    /// Compresses the layers.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Dates the entries of the archive.
    #[must_use]
    pub fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Observes and stops the work.
    #[must_use]
    pub fn watch(mut self, watch: Watch<'a>) -> Self {
        self.watch = watch;
        self
    }
}

/// An image to write, parsed.
pub(super) struct Parsed<'a> {
    pub(super) config: ReadConfig,
    pub(super) names: &'a [Reference],
}

impl<'a> Parsed<'a> {
    pub(super) fn all(images: &[ImageToWrite<'a>]) -> Result<Vec<Self>> {
        if images.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no image to write"));
        }
        let parse = |image: &ImageToWrite<'a>| {
            let config = ReadConfig::parse(image.config.to_vec(), "image config")?;
            Ok(Parsed { config, names: image.names })
        };
        images.iter().map(parse).collect()
    }
}

/// The layers of images, and how they are to be written.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) source: &'a dyn LayerSource,
    pub(super) options: &'a WriteOptions<'a>,
}

impl Layers<'_> {
    /// Writes the layer's uncompressed bytes to `out`, and fails unless they are `size` bytes and
    /// have its diff ID.
    pub(super) fn copy(&self, layer: &DiffId, size: u64, out: &mut dyn Write) -> Result<()> {
        let subject = layer.to_string();
        let watch = &self.options.watch;
        let mut checked = Checked { out: Hashing::new(out), size, subject: &subject, watch };
        self.source
            .write_to(layer, &mut checked)
            .map_err(|error| error.within(format!("write layer {layer}")))?;
        let (digest, bytes, _) = checked.out.finish();
        if digest != *layer.digest() {
            let message = format!("layer {layer}: its bytes have the diff ID {digest}");
            return Err(Error::new(ErrorKind::DigestMismatch, message));
        }
        if bytes != size {
            return Err(invalid(&format!("layer {layer}"), format!("{bytes} bytes, not {size}")));
        }
        let done = Progress { phase: Phase::Done, ..progress(&subject, bytes, Some(size)) };
        watch.report(&done)
    }

    /// Writes the layer to `out` as the options say, and tells the digest and size of what was
    /// written.
    pub(super) fn pack(&self, layer: &DiffId, out: &mut dyn Write) -> Result<(Digest, u64)> {
        let size = self.source.size(layer)?;
        let mut encoder = self.options.compression.encoder(Hashing::new(out))?;
        self.copy(layer, size, &mut encoder)?;
        let hashed = encoder.finish().during("compress layer", &layer.to_string())?;
        let (digest, bytes, _) = hashed.finish();
        Ok((digest, bytes))
    }

    /// Writes the layer to a file that has no name, and gives it back at its beginning.
    pub(super) fn pack_to_scratch(&self, layer: &DiffId) -> Result<(File, Digest, u64)> {
        let mut file = self.scratch()?;
        let mut writer = io::BufWriter::with_capacity(1 << 16, &file);
        let (digest, size) = self.pack(layer, &mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error).during("write", "scratch")?;
        file.rewind().during("rewind", "scratch file")?;
        Ok((file, digest, size))
    }

    fn scratch(&self) -> Result<File> {
        let dir = self.options.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::open(&dir, flags, Mode::RUSR | Mode::WUSR) {
            // The file system cannot; what is in memory needs none.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let flags = rustix::fs::MemfdFlags::CLOEXEC;
                rustix::fs::memfd_create(c"layer", flags).map(File::from)
            }
            other => other.map(File::from),
        }
        .during("create scratch file in", &dir)
    }
}

/// Counts, hashes and limits what a layer's source writes.
struct Checked<'a, W> {
    out: Hashing<W>,
    size: u64,
    subject: &'a str,
    watch: &'a Watch<'a>,
}

impl<W: Write> Write for Checked<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.out.bytes() + buffer.len() as u64 > self.size {
            let what = format!("more bytes than the {} that were announced", self.size);
            return Err(invalid("changeset", what).into());
        }
        let count = self.out.write(buffer)?;
        self.watch.report(&progress(self.subject, self.out.bytes(), Some(self.size)))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn progress(subject: &str, bytes: u64, total_bytes: Option<u64>) -> Progress<'_> {
    Progress { subject, phase: Phase::Pack, bytes, total_bytes, entries: 0 }
}

/// Writes an archive of blobs: the same input gives the same bytes.
pub(super) struct TarWriter<'a> {
    out: &'a mut dyn Write,
    mtime: u64,
}

impl<'a> TarWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write, options: &WriteOptions<'_>) -> Self {
        Self { out, mtime: options.mtime }
    }

    pub(super) fn directory(&mut self, name: &str) -> Result<()> {
        self.header(name, 0, tar::EntryType::Directory, 0o755)
    }

    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.file(name, bytes.len() as u64, |out| out.write_all(bytes).during("write", name))
    }

    /// Writes a file of `size` bytes, which are what `content` writes.
    pub(super) fn file(
        &mut self,
        name: &str,
        size: u64,
        content: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        self.header(name, size, tar::EntryType::Regular, 0o644)?;
        content(self.out)?;
        self.zeros(size.wrapping_neg() % 512)
    }

    /// Writes a layer, which waits in a scratch file only where it is compressed; gives the digest
    /// and size of what is stored. `name` is told the digest.
    pub(super) fn layer(
        &mut self,
        layer: &DiffId,
        layers: &Layers<'_>,
        name: impl FnOnce(&Digest) -> String,
    ) -> Result<(Digest, u64)> {
        if layers.options.compression == Compression::None {
            let (digest, size) = (*layer.digest(), layers.source.size(layer)?);
            self.file(&name(&digest), size, |out| layers.copy(layer, size, out))?;
            return Ok((digest, size));
        }
        let (file, digest, size) = layers.pack_to_scratch(layer)?;
        let name = name(&digest);
        self.file(&name, size, |out| {
            io::copy(&mut file.take(size), out).map(drop).during("write", &name)
        })?;
        Ok((digest, size))
    }

    /// Writes the end of the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        self.zeros(1024)?;
        self.out.flush().during("write", "archive")
    }

    fn header(&mut self, name: &str, size: u64, kind: tar::EntryType, mode: u32) -> Result<()> {
        // POSIX has no room for a size of 8 GiB; the GNU form has.
        let mut header =
            if size >> 33 == 0 { tar::Header::new_ustar() } else { tar::Header::new_gnu() };
        header.set_path(name).during("write", name)?;
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).during("write", name)
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        io::copy(&mut io::repeat(0).take(count), self.out).map(drop).during("write", "archive")
    }
}

/// `manifest.json` of Docker's archives, for a config and layers at these places.
pub(super) fn docker_manifest(images: &[(String, Vec<Reference>, Vec<String>)]) -> Result<Vec<u8>> {
    let item = |(config, names, layers): &(String, Vec<Reference>, Vec<String>)| {
        let tags: Vec<_> = names.iter().filter(|name| name.tag().is_some()).map(tagged).collect();
        serde_json::json!({"Config": config, "RepoTags": tags, "Layers": layers})
    };
    to_bytes(&images.iter().map(item).collect::<Vec<_>>())
}

/// A name without its digest, for which Docker's archives have no place.
fn tagged(name: &Reference) -> String {
    format!("{}:{}", name.repository(), name.tag().unwrap_or_default())
}

/// The platform of a config as a descriptor has it.
pub(super) fn descriptor_platform(config: &ReadConfig) -> serde_json::Value {
    let parsed = &config.parsed;
    let mut platform = serde_json::json!({"architecture": parsed.architecture, "os": parsed.os});
    if let (Some(fields), Some(variant)) = (platform.as_object_mut(), &parsed.variant) {
        fields.insert("variant".to_owned(), variant.as_str().into());
    }
    platform
}
