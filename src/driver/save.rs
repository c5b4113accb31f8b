//! Images out of the store: each layer's tar written again, byte for byte.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::Driver;
use crate::changeset::reassemble;
use crate::compression::Compression;
use crate::digest::DiffId;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{
    ImageToWrite, LayerSource, Reference, WriteOptions, write_docker_archive, write_oci_tar,
};
use crate::store::{LayerKey, LeasedLayer};
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::watch::Watch;

/// The kinds of archive that an image can be saved as.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout as a tar.
    #[default]
    Oci,
    /// A docker-archive, as `docker save` writes it.
    Docker,
}

/// How an image is saved.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// The kind of archive.
    pub format: ArchiveFormat,
    /// How the layers are compressed.
    pub compression: Compression,
}

impl Driver {
    /// Writes an image as an archive; its layers are the same bytes that were loaded, so that every
    /// diff ID stays what it was.
    ///
    /// By one of its names it is saved under that one alone, by its ID under all that it has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such image; [`ErrorKind::Corrupt`] where a layer is
    /// not what it was any more.
    pub fn save(
        &self,
        image: &str,
        out: &mut dyn Write,
        options: &SaveOptions,
        watch: Watch<'_>,
    ) -> Result<()> {
        let found = self.store.find_image(image)?;
        // An image keeps its layers; this keeps the image.
        let _lease = self.store.lease_image(&found.record.id)?;
        let config = self.store.image_config(&found.record.id)?;
        let mut names: Vec<Reference> =
            found.names.iter().filter_map(|name| name.parse().ok()).collect();
        // Asked for by one of its names, it has that one there, as `docker save` does it.
        if let Ok(asked) = image.parse::<Reference>()
            && names.contains(&asked)
        {
            names = vec![asked];
        }
        let images = [ImageToWrite { config: &config, names: &names }];
        let source = Layers { driver: self, watch };
        let how = WriteOptions::default().compression(options.compression).watch(watch);
        let written = match options.format {
            ArchiveFormat::Oci => write_oci_tar(out, &images, &source, &how),
            ArchiveFormat::Docker => write_docker_archive(out, &images, &source, &how),
        };
        written.map_err(|error| error.within(format_args!("save image {image}")))
    }

    /// As [`save`](Self::save), into a file, which appears under its name when it is whole.
    ///
    /// # Errors
    /// As [`save`](Self::save), and what the file system answers; nothing is left behind then.
    pub fn save_to(
        &self,
        image: &str,
        path: impl AsRef<Path>,
        options: &SaveOptions,
        watch: Watch<'_>,
    ) -> Result<()> {
        let path = path.as_ref();
        // What is not there to be saved makes no file.
        self.store.find_image(image)?;
        // A link is written through, and what is no regular file (a pipe, a terminal) written to.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            let file = std::fs::OpenOptions::new().write(true).open(path).during("open", path)?;
            let mut out = std::io::BufWriter::with_capacity(256 << 10, file);
            self.save(image, &mut out, options, watch)?;
            return out.flush().during("write", path);
        }
        let name = path.file_name().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{} is no file name", path.display()))
        })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Dir::open_ambient(parent.unwrap_or(Path::new(".")))?;
        let (file, named) = unnamed(&dir, name).during("create", path)?;
        let mut out = std::io::BufWriter::with_capacity(256 << 10, file);
        let written = self.save(image, &mut out, options, watch).and_then(|()| {
            let file = out.into_inner().map_err(std::io::IntoInnerError::into_error);
            let file = file.during("write", path)?;
            let durability = self.store.durability();
            durability.sync_file(&file).during("sync", path)?;
            give_name(&dir, &file, name, named).during("rename to", path)?;
            durability.sync_names(&dir).during("sync directory of", path)
        });
        if written.is_err() && named {
            let _ = dir.remove_file(&temporary_name(name));
        }
        written
    }

    fn base_layer(&self, diff_id: &DiffId) -> Result<LeasedLayer> {
        self.store.find_layer(&LayerKey::Diff(*diff_id))?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("layer {diff_id} is not in the store"))
                .hint("load the image again")
        })
    }
}

/// A file to be written, and whether it has a temporary name: where the file system can do without,
/// nothing is left of one whose writer dies.
fn unnamed(dir: &Dir, name: &OsStr) -> SysResult<(File, bool)> {
    match dir.open(b".", OFlags::WRONLY | OFlags::TMPFILE, 0o666) {
        Ok(file) => Ok((file, false)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
            Ok((dir.open(&temporary_name(name), flags, 0o666)?, true))
        }
        Err(error) => Err(error),
    }
}

/// A name that no other process uses meanwhile.
fn temporary_name(name: &OsStr) -> Vec<u8> {
    [b".", name.as_bytes(), format!(".{}.new", std::process::id()).as_bytes()].concat()
}

/// Gives a file its name, in place of what has it now.
fn give_name(dir: &Dir, file: &File, name: &OsStr, named: bool) -> SysResult<()> {
    let (temporary, name) = (temporary_name(name), name.as_bytes());
    if !named {
        match dir.link_unnamed(name, file.as_fd()) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        // No system call replaces one name by another link: what a writer left that died
        // between the two goes first.
        match dir.remove_file(&temporary) {
            Ok(()) | Err(Errno::NOENT) => dir.link_unnamed(&temporary, file.as_fd())?,
            Err(error) => return Err(error),
        }
    }
    let renamed = dir.rename(&temporary, dir, name, RenameFlags::empty());
    if renamed.is_err() {
        let _ = dir.remove_file(&temporary);
    }
    renamed
}

/// The store's layers as tars.
struct Layers<'a> {
    driver: &'a Driver,
    watch: Watch<'a>,
}

impl LayerSource for Layers<'_> {
    fn size(&self, diff_id: &DiffId) -> Result<u64> {
        Ok(self.driver.base_layer(diff_id)?.record()?.changeset_size)
    }

    fn write_to(&self, diff_id: &DiffId, out: &mut dyn Write) -> Result<()> {
        let layer = self.driver.base_layer(diff_id)?;
        let subject = format!("layer {diff_id}");
        let (digest, _) = reassemble(&layer.open()?, layer.side(), out, &subject, self.watch)?;
        if digest == *diff_id.digest() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("layer {diff_id} is not what it was: its changeset now has digest {digest}"),
        )
        .hint("a file of the layer was changed: remove the image and load it again"))
    }
}
