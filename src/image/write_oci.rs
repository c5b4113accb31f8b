//! Writes the OCI image layout as an archive, and the documents of any layout.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use serde_json::{Value, json};

use super::descriptor::{FULL_NAME, REF_NAME};
use super::document::to_bytes;
use super::manifest::media;
use super::reference::Reference;
use super::write::{
    ImageToWrite, LayerSource, Layers, Parsed, TarWriter, WriteOptions, descriptor_platform,
    docker_manifest,
};
use crate::compression::Compression;
use crate::digest::{DiffId, Digest};
use crate::error::Result;

pub(super) const INDEX: &str = "index.json";
pub(super) const LAYOUT: &str = "oci-layout";
pub(super) const LAYOUT_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Takes blobs, each once, and tells their digests and sizes.
pub(super) trait Blobs {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(Digest, u64)>;
    fn layer(&mut self, layer: &DiffId, layers: &Layers<'_>) -> Result<(Digest, u64)>;
}

/// An image whose blobs are written.
pub(super) struct Written<'a> {
    names: &'a [Reference],
    config: Digest,
    layers: Vec<Digest>,
    /// The manifest's descriptor, without the names.
    descriptor: Value,
}

/// Writes images as an OCI layout in an archive, with Docker's `manifest.json` beside it, so that
/// every version of `docker load` takes it.
///
/// The archive is written front to back, layers first. A layer that is to be compressed is
/// compressed into a scratch file, because its size stands before it. The same images give the
/// same bytes. A failed write leaves what was written so far in `out`.
///
/// # Errors
/// As [`write_docker_archive`](super::write_docker_archive);
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where this build lacks the compression.
pub fn write_oci_tar(
    out: &mut dyn Write,
    images: &[ImageToWrite<'_>],
    layers: &dyn LayerSource,
    options: &WriteOptions<'_>,
) -> Result<()> {
    let mut tar = TarWriter::new(out, options);
    tar.directory("blobs/")?;
    tar.directory("blobs/sha256/")?;
    let mut blobs = TarBlobs { tar, written: HashSet::new(), packed: HashMap::new() };
    let parsed = Parsed::all(images)?;
    let images = write_blobs(&mut blobs, &parsed, &Layers { source: layers, options })?;
    let mut tar = blobs.tar;
    let descriptors: Vec<_> = images.iter().flat_map(Written::descriptors).collect();
    tar.bytes(INDEX, &to_bytes(&index(descriptors))?)?;
    let places = images.iter().map(|image| {
        let layers = image.layers.iter().map(blob_name).collect();
        (blob_name(&image.config), image.names.to_vec(), layers)
    });
    tar.bytes("manifest.json", &docker_manifest(&places.collect::<Vec<_>>())?)?;
    tar.bytes(LAYOUT, LAYOUT_TEXT)?;
    tar.finish()
}

pub(super) fn write_blobs<'a>(
    blobs: &mut dyn Blobs,
    images: &[Parsed<'a>],
    layers: &Layers<'_>,
) -> Result<Vec<Written<'a>>> {
    images.iter().map(|image| write_image(blobs, image, layers)).collect()
}

fn write_image<'a>(
    blobs: &mut dyn Blobs,
    image: &Parsed<'a>,
    layers: &Layers<'_>,
) -> Result<Written<'a>> {
    let media_type = match layers.options.compression {
        Compression::None => media::LAYER,
        Compression::Gzip => media::LAYER_GZIP,
        Compression::Zstd => media::LAYER_ZSTD,
    };
    let mut digests = Vec::new();
    let mut descriptors = Vec::new();
    for layer in &image.config.diff_ids {
        let (digest, size) = blobs.layer(layer, layers)?;
        digests.push(digest);
        descriptors.push(descriptor(media_type, &digest, size));
    }
    let (config, size) = blobs.bytes(&image.config.bytes)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": descriptor(media::CONFIG, &config, size),
        "layers": descriptors,
    });
    let (digest, size) = blobs.bytes(&to_bytes(&manifest)?)?;
    let mut descriptor = descriptor(media::MANIFEST, &digest, size);
    if let Some(fields) = descriptor.as_object_mut() {
        fields.insert("platform".to_owned(), descriptor_platform(&image.config));
    }
    Ok(Written { names: image.names, config, layers: digests, descriptor })
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

pub(super) fn index(descriptors: Vec<Value>) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media::INDEX,
        "manifests": descriptors,
    })
}

impl Written<'_> {
    /// One descriptor for each name; one without names where there is none.
    pub(super) fn descriptors(&self) -> Vec<Value> {
        if self.names.is_empty() {
            return vec![self.descriptor.clone()];
        }
        let named = |name: &Reference| {
            let mut annotations = json!({FULL_NAME: name.canonical()});
            let mut descriptor = self.descriptor.clone();
            if let (Some(tag), Some(fields)) = (name.tag(), annotations.as_object_mut()) {
                fields.insert(REF_NAME.to_owned(), tag.into());
            }
            if let Some(fields) = descriptor.as_object_mut() {
                fields.insert("annotations".to_owned(), annotations);
            }
            descriptor
        };
        self.names.iter().map(named).collect()
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct TarBlobs<'a> {
    tar: TarWriter<'a>,
    written: HashSet<Digest>,
    packed: HashMap<DiffId, (Digest, u64)>,
}

impl Blobs for TarBlobs<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        if self.written.insert(digest) {
            self.tar.bytes(&blob_name(&digest), bytes)?;
        }
        Ok((digest, bytes.len() as u64))
    }

    fn layer(&mut self, layer: &DiffId, layers: &Layers<'_>) -> Result<(Digest, u64)> {
        if let Some(packed) = self.packed.get(layer) {
            return Ok(*packed);
        }
        let packed = self.tar.layer(layer, layers, blob_name)?;
        self.written.insert(packed.0);
        self.packed.insert(*layer, packed);
        Ok(packed)
    }
}
