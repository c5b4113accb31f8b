//! Writes what `docker load` reads: layers, configs, `manifest.json` and `repositories`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use super::document::to_bytes;
use super::write::{
    ImageToWrite, LayerSource, Layers, Parsed, TarWriter, WriteOptions, docker_manifest,
};
use crate::error::Result;

/// Writes images as `docker save` does: `DIFF-ID/layer.tar` for each layer, `IMAGE-ID.json` for
/// each config, `manifest.json` and `repositories`.
///
/// A layer that several images share is written once. The archive is written front to back; the
/// same images give the same bytes. A failed write leaves what was written so far in `out`.
///
/// # Errors
/// What `out` and `layers` fail with; [`ErrorKind::InvalidData`](crate::ErrorKind::InvalidData) for
/// a malformed config; [`ErrorKind::DigestMismatch`](crate::ErrorKind::DigestMismatch) for a layer
/// that is not what its diff ID says; [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput)
/// where there is no image.
pub fn write_docker_archive(
    out: &mut dyn Write,
    images: &[ImageToWrite<'_>],
    layers: &dyn LayerSource,
    options: &WriteOptions<'_>,
) -> Result<()> {
    let layers = Layers { source: layers, options };
    let mut tar = TarWriter::new(out, options);
    let mut written = HashSet::new();
    let mut manifest = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    let images = Parsed::all(images)?;
    for image in &images {
        let mut files = Vec::new();
        for layer in &image.config.diff_ids {
            let directory = layer.digest().hex();
            let file = format!("{directory}/layer.tar");
            if written.insert(*layer.digest()) {
                tar.directory(&format!("{directory}/"))?;
                tar.layer(layer, &layers, |_| file.clone())?;
            }
            files.push(file);
        }
        let config = format!("{}.json", image.config.id.hex());
        if written.insert(image.config.id) {
            tar.bytes(&config, &image.config.bytes)?;
        }
        let top = image.config.diff_ids.last().map(|layer| layer.digest().hex());
        for name in image.names {
            if let (Some(tag), Some(top)) = (name.tag(), &top) {
                repositories.entry(name.repository()).or_default().insert(tag, top.clone());
            }
        }
        manifest.push((config, image.names.to_vec(), files));
    }
    tar.bytes("manifest.json", &docker_manifest(&manifest)?)?;
    if !repositories.is_empty() {
        tar.bytes("repositories", &to_bytes(&repositories)?)?;
    }
    tar.finish()
}
