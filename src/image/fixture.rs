//! Small images for the tests of this room.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};

use serde_json::{Value, json};

use super::write::LayerSource;
use super::{ImageSource, LayerSeen, LayerSink, ReadOptions};
use crate::compression::Compression;
use crate::digest::{DiffId, Digest, Hashing};
use crate::error::{Context, Result};

/// An image's layers and config.
pub(super) struct Sample {
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) config: Vec<u8>,
}

impl Sample {
    /// An image for linux/amd64 with a layer for each name.
    pub(super) fn new(layers: &[&str]) -> Self {
        Self::on("amd64", layers)
    }

    pub(super) fn on(architecture: &str, layers: &[&str]) -> Self {
        let layers: Vec<_> =
            layers.iter().map(|name| tar(&[(name, File(name.repeat(700)))])).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "unknown": [null],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { layers, config: config.to_string().into_bytes() }
    }

    pub(super) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }
}

impl LayerSource for Sample {
    fn size(&self, layer: &DiffId) -> Result<u64> {
        Ok(self.find(layer).len() as u64)
    }

    fn write_to(&self, layer: &DiffId, out: &mut dyn Write) -> Result<()> {
        self.find(layer).chunks(1000).try_for_each(|part| out.write_all(part)).during("write", "it")
    }
}

impl Sample {
    fn find(&self, layer: &DiffId) -> &[u8] {
        self.layers.iter().find(|bytes| Digest::of(bytes) == *layer.digest()).unwrap()
    }
}

/// An entry of an archive.
pub(super) enum Item {
    File(String),
    Bytes(Vec<u8>),
    Symlink(&'static str),
    HardLink(&'static str),
}
pub(super) use Item::{Bytes, File, HardLink, Symlink};

pub(super) fn tar(entries: &[(&str, Item)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, item) in entries {
        let (kind, bytes, link) = match item {
            File(text) => (::tar::EntryType::Regular, text.as_bytes(), ""),
            Bytes(bytes) => (::tar::EntryType::Regular, bytes.as_slice(), ""),
            Symlink(target) => (::tar::EntryType::Symlink, &[][..], *target),
            HardLink(target) => (::tar::EntryType::Link, &[][..], *target),
        };
        let mut header = ::tar::Header::new_gnu();
        header.as_old_mut().name[..name.len().min(100)]
            .copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        header.set_link_name_literal(link).unwrap();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An OCI layout that is put together by hand.
#[derive(Default)]
pub(super) struct Layout {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) manifests: Vec<Value>,
}

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Layout {
    /// Adds a blob, and gives its descriptor.
    pub(super) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds an image's blobs, and gives its manifest.
    pub(super) fn manifest(&mut self, sample: &Sample) -> Value {
        let layers: Vec<_> = sample.layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        let config = self.blob(CONFIG, &sample.config);
        json!({"schemaVersion": 2, "config": config, "layers": layers})
    }

    /// Adds an image, and gives its manifest's descriptor.
    pub(super) fn image(&mut self, sample: &Sample) -> Value {
        let manifest = self.manifest(sample);
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    /// An image in the index.
    pub(super) fn of(sample: &Sample) -> Self {
        let mut layout = Self::default();
        let descriptor = layout.image(sample);
        layout.manifests.push(descriptor);
        layout
    }

    /// The layout as an archive, `index.json` last.
    pub(super) fn tar(&self) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests}).to_string();
        let mut entries: Vec<_> =
            self.files.iter().map(|(name, bytes)| (name.as_str(), Bytes(bytes.clone()))).collect();
        entries.push(("index.json", File(index)));
        tar(&entries)
    }
}

/// `value` with one more field.
pub(super) fn with(mut value: Value, key: &str, field: Value) -> Value {
    value[key] = field;
    value
}

/// Reads an archive by way of a file; the images' IDs and names and the layers' uncompressed bytes
/// must be the same when it is read as a stream.
pub(super) fn read(archive: &[u8], options: &ReadOptions) -> Result<Vec<super::ImageEntry>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(archive).unwrap();
    let mut sink = Sink::default();
    let streamed = super::read_stream(archive, &mut sink, options);
    match ImageSource::open(file.path(), options) {
        Ok(source) => {
            let streamed = streamed.unwrap();
            assert_eq!(format!("{streamed:?}"), format!("{:?}", source.images()));
            for layer in source.images().iter().flat_map(|image| &image.layers) {
                let mut bytes = Vec::new();
                source.open_layer(layer).unwrap().read_to_end(&mut bytes).unwrap();
                let seen = Sink::default().layer("", &mut bytes.as_slice()).unwrap();
                assert_eq!(seen.diff_id, layer.diff_id);
                assert_eq!(seen.size, layer.size);
                assert!(layer.digest.is_none_or(|digest| digest == seen.digest));
            }
            Ok(streamed)
        }
        Err(error) => {
            assert_eq!(streamed.map(drop).unwrap_err().kind(), error.kind(), "{error}");
            Err(error)
        }
    }
}

/// Takes layers and keeps nothing but what they were called.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) names: Vec<String>,
}

impl LayerSink for Sink {
    fn layer(&mut self, name: &str, reader: &mut dyn Read) -> Result<LayerSeen> {
        self.names.push(name.to_owned());
        let mut stored = Vec::new();
        reader.read_to_end(&mut stored).during("read layer", name)?;
        let mut plain = Hashing::new(Compression::detect(&stored).decoder(Cursor::new(&stored))?);
        std::io::copy(&mut plain, &mut std::io::sink()).during("read layer", name)?;
        let diff_id = DiffId::new(plain.finish().0);
        Ok(LayerSeen { diff_id, digest: Digest::of(&stored), size: stored.len() as u64 })
    }
}
