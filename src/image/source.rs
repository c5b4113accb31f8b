//! [`ImageSource`]: images on disk, whose layers can be read in any order and at once.

use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::retry_on_intr;

use super::document::invalid;
use super::entry::{ImageEntry, LayerBlob, Place};
use super::files::{Archive, Directory, Files};
use super::platform::Platform;
use super::select::{Skipped, no_platform};
use super::{docker, oci};
use crate::compression::{BLOCK, Compression};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::dir::type_of;

/// How images are looked for.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// For which machine the image is to be. `None`: for this one; an image that there is for one
    /// platform alone is then taken whatever that is.
    pub platform: Option<Platform>,
}

impl ReadOptions {
    /// Looks for images for `platform` and no other.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }
}

/// What a path turned out to be.
#[derive(Debug)]
pub enum Opened {
    /// A directory or a plain archive: read in any order.
    Source(ImageSource),
    /// A compressed archive or a pipe: read once, from its beginning, with
    /// [`read_stream`](super::read_stream).
    Stream(File),
}

/// Opens images at `path`: an OCI layout or an unpacked archive (a directory), or an archive.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a path or a blob that is missing, [`ErrorKind::InvalidData`] for
/// what is no image or is malformed, [`ErrorKind::DigestMismatch`] for a damaged document,
/// [`ErrorKind::Unsupported`] for digests other than sha256.
pub fn open(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Opened> {
    let path = path.as_ref();
    open_any(path, options).map_err(|error| error.within(format!("open image {}", path.display())))
}

fn open_any(path: &Path, options: &ReadOptions) -> Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = file.during("open", path)?;
    let stat = rustix::fs::fstat(&file).during("stat", path)?;
    let place = match type_of(&stat) {
        FileType::Directory => PlaceOfFiles::Directory(Directory(Dir::from_fd(file))),
        FileType::RegularFile => {
            let mut prefix = [0; BLOCK];
            let file = File::from(file);
            let count = retry_on_intr(|| rustix::io::pread(&file, &mut prefix, 0));
            let count = count.during("read", path)?;
            let prefix = prefix.get(..count).unwrap_or_default();
            if Compression::detect(prefix) != Compression::None {
                return Ok(Opened::Stream(file));
            }
            PlaceOfFiles::Archive(Archive::index(file)?)
        }
        _ => return Ok(Opened::Stream(File::from(file))),
    };
    let images = find_images(place.files(), options)?;
    Ok(Opened::Source(ImageSource { place, images }))
}

/// Images in a directory or a plain archive; `Send` and `Sync`.
pub struct ImageSource {
    place: PlaceOfFiles,
    images: Vec<ImageEntry>,
}

enum PlaceOfFiles {
    Directory(Directory),
    Archive(Archive),
}

impl PlaceOfFiles {
    fn files(&self) -> &dyn Files {
        match self {
            Self::Directory(directory) => directory,
            Self::Archive(archive) => archive,
        }
    }
}

impl ImageSource {
    /// Opens images at `path` that can be read in any order.
    ///
    /// # Errors
    /// As [`open`]; [`ErrorKind::Unsupported`] for a compressed archive or a pipe.
    pub fn open(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        let path = path.as_ref();
        match open(path, options)? {
            Opened::Source(source) => Ok(source),
            Opened::Stream(_) => {
                let message = format!("{} can only be read as a stream", path.display());
                Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("decompress the archive, or read it as a stream"))
            }
        }
    }

    /// The images, in the order of the archive; one at least.
    pub fn images(&self) -> &[ImageEntry] {
        &self.images
    }

    /// Opens a layer's stored bytes, as they are: compressed or not, and not verified.
    ///
    /// Readers of several layers, and of one, may be used at the same time.
    ///
    /// # Errors
    /// As `open(2)`; [`ErrorKind::NotFound`] for a layer of another source.
    pub fn open_layer(&self, layer: &LayerBlob) -> Result<Box<dyn Read + Send>> {
        let name = match &layer.place {
            Place::Embedded(bytes) => return Ok(Box::new(Cursor::new(bytes.clone()))),
            Place::File(name) => name,
        };
        match &self.place {
            PlaceOfFiles::Directory(directory) => Ok(Box::new(directory.open(name)?)),
            PlaceOfFiles::Archive(archive) => match archive.open(name) {
                Some(section) => Ok(Box::new(section)),
                None => Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{} is not in this archive", layer.shown()),
                )),
            },
        }
    }
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageSource").field("images", &self.images).finish_non_exhaustive()
    }
}

/// Finds the images among files: by `index.json`, else by `manifest.json`.
pub(super) fn find_images(files: &dyn Files, options: &ReadOptions) -> Result<Vec<ImageEntry>> {
    let wanted = options.platform.as_ref();
    let mut skipped = Skipped::default();
    let layout = oci::images(files, wanted, &mut skipped)?;
    let is_layout = layout.is_some();
    let mut images = layout.unwrap_or_default();
    if !images.is_empty() {
        docker::add_names(files, &mut images)?;
        return Ok(images);
    }
    if let Some((found, others)) = docker::images(files, wanted)? {
        if let (true, Some(wanted)) = (found.is_empty(), wanted.filter(|_| !others.is_empty())) {
            let offered: Vec<_> = others.iter().map(ToString::to_string).collect();
            return Err(no_platform(wanted, &offered.join(", ")));
        }
        images = found;
    }
    match (images.is_empty(), skipped.in_words()) {
        (false, _) => Ok(images),
        (true, Some(skipped)) => {
            Err(invalid("index.json", format!("no image in it, only: {skipped}")))
        }
        (true, None) if is_layout => Err(invalid("index.json", "no image in it")),
        (true, None) => Err(no_image(files)),
    }
}

fn no_image(files: &dyn Files) -> Error {
    if let Ok(Some(_)) = files.document("repositories") {
        let message = "the archive has no manifest.json, only what docker wrote before 1.10";
        return Error::new(ErrorKind::Unsupported, message).hint("save the image again");
    }
    if let Ok(Some(_)) = files.document("manifest.json") {
        return invalid("manifest.json", "no image in it");
    }
    Error::new(ErrorKind::InvalidData, "no image: neither index.json nor manifest.json is in it")
        .hint("expected what docker save, skopeo copy or podman save wrote, or an OCI image layout")
}
