//! Images out of the store: each layer's tar written again, byte for byte.

use std::io::Write;
use std::path::Path;

use super::{Driver, NewFile};
use crate::changeset::reassemble;
use crate::compression::Compression;
use crate::digest::{DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{
    ImageToWrite, LayerSource, Reference, WriteOptions, write_docker_archive, write_oci_tar,
};
use crate::store::{LayerKey, LeasedLayer};
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
        let (record, name) = self.store.image_called(image)?;
        // An image keeps its layers; this keeps the image.
        let _lease = self.store.lease_image(&record.id)?;
        let config = self.store.image_config(&record.id)?;
        let names = self.names_to_save(&record.id, image, name.as_deref())?;
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
        // What is not there to be saved makes no file.
        self.store.image_called(image)?;
        let mut out = NewFile::create(path)?;
        self.save(image, &mut out, options, watch)?;
        out.commit(self.store.durability())
    }

    /// The names under which an image is saved that was asked for as `asked`, and found by `name`.
    fn names_to_save(
        &self,
        id: &Digest,
        asked: &str,
        name: Option<&str>,
    ) -> Result<Vec<Reference>> {
        let parse = |name: &str| name.parse::<Reference>().ok();
        let asked = parse(asked);
        // Asked for by one of its names, it has that one there, as `docker save` does it.
        if let Some(asked) = asked.clone().filter(|_| name.and_then(parse) == asked) {
            return Ok(vec![asked]);
        }
        let names = self.store.names_of(id)?;
        let names: Vec<_> = names.iter().filter_map(|name| parse(name)).collect();
        Ok(match asked.filter(|asked| names.contains(asked)) {
            Some(asked) => vec![asked],
            None => names,
        })
    }

    fn base_layer(&self, diff_id: &DiffId) -> Result<LeasedLayer> {
        self.store.find_layer(&LayerKey::Diff(*diff_id))?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("layer {diff_id} is not in the store"))
                .hint("load the image again")
        })
    }
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
