//! [`ImageEntry`] and [`LayerBlob`]: what was found.

use std::fmt;

use super::config;
use super::document::invalid;
use super::platform::Platform;
use super::reference::Reference;
use crate::digest::{DiffId, Digest};
use crate::error::Result;
use crate::image_config::ImageConfiguration;
use crate::layer_path::LayerPath;

/// One image of an archive or a layout.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct ImageEntry {
    /// The image's ID: the digest of its config's bytes.
    pub id: Digest,
    /// The config as it is stored; an image keeps its ID only while these bytes are kept.
    pub config_bytes: Vec<u8>,
    /// The config, parsed.
    pub config: ImageConfiguration,
    /// What the image is called; empty where the archive does not say.
    pub names: Vec<Reference>,
    /// `org.opencontainers.image.ref.name` where it is only a tag, and so no name by itself.
    pub tag: Option<String>,
    /// The digest of the manifest; `None` in a docker-archive.
    pub manifest: Option<Digest>,
    /// The layers, lowest first; as many as the config has diff IDs.
    pub layers: Vec<LayerBlob>,
}

impl ImageEntry {
    /// The platform that the config names.
    pub fn platform(&self) -> Platform {
        Platform::from(&self.config)
    }
}

/// A layer's changeset as it is stored, compressed or not.
#[derive(Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The digest of the changeset when it is uncompressed, as the config states it.
    pub diff_id: DiffId,
    /// The digest of the stored bytes; `None` where none is stated, in a docker-archive.
    pub digest: Option<Digest>,
    /// Stored bytes.
    pub size: u64,
    /// The media type, where one is stated. How the bytes are compressed is told by themselves.
    pub media_type: Option<String>,
    pub(super) place: Place,
}

/// Where a layer's bytes are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    File(LayerPath),
    /// In the `data` of its descriptor.
    Embedded(Vec<u8>),
}

impl LayerBlob {
    /// What messages call it: its file, or its digest.
    pub(super) fn shown(&self) -> String {
        match (&self.digest, &self.place) {
            (Some(digest), _) => format!("layer {digest}"),
            (None, Place::File(name)) => {
                format!("layer {}", String::from_utf8_lossy(name.as_bytes()))
            }
            (None, Place::Embedded(_)) => format!("layer {}", self.diff_id),
        }
    }
}

impl fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBlob")
            .field("diff_id", &self.diff_id)
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("media_type", &self.media_type)
            .finish_non_exhaustive()
    }
}

/// A config that was read, with what it says of layers.
pub(super) struct ReadConfig {
    pub(super) id: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) parsed: ImageConfiguration,
    pub(super) diff_ids: Vec<DiffId>,
}

impl ReadConfig {
    /// Parses a config; `name` is what messages call it.
    pub(super) fn parse(bytes: Vec<u8>, name: &str) -> Result<Self> {
        let parsed = config::parse_named(&bytes, name)?;
        let diff_ids = config::diff_ids(&parsed).map_err(|error| error.within(name))?;
        Ok(Self { id: Digest::of(&bytes), bytes, parsed, diff_ids })
    }

    /// Fails unless there are as many layers as diff IDs.
    pub(super) fn check_layers(&self, layers: usize, name: &str, referrer: &str) -> Result<()> {
        if layers == self.diff_ids.len() {
            return Ok(());
        }
        let stated = self.diff_ids.len();
        Err(invalid(referrer, format!("{layers} layers, but {name} has {stated} diff IDs")))
    }

    /// The image of this config and these layers.
    pub(super) fn into_entry(self, layers: Vec<LayerBlob>) -> ImageEntry {
        ImageEntry {
            id: self.id,
            config_bytes: self.bytes,
            config: self.parsed,
            names: Vec::new(),
            tag: None,
            manifest: None,
            layers,
        }
    }
}

/// Adds an image, or its names where the image is known: a layout lists it once for each name.
pub(super) fn add_image(images: &mut Vec<ImageEntry>, image: ImageEntry) {
    let same = |known: &&mut ImageEntry| known.id == image.id && known.manifest == image.manifest;
    let Some(known) = images.iter_mut().find(same) else {
        images.push(image);
        return;
    };
    for name in image.names {
        add_name(known, name);
    }
    known.tag = known.tag.take().or(image.tag);
}

/// Adds a name that the image does not have yet.
pub(super) fn add_name(image: &mut ImageEntry, name: Reference) {
    if !image.names.contains(&name) {
        image.names.push(name);
    }
}
