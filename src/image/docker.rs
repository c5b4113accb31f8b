//! The archive that `docker save` writes: `manifest.json`, from which all else is found by name.

use serde::Deserialize;

use super::descriptor::{check_digest, missing};
use super::document::{self, invalid};
use super::entry::{ImageEntry, LayerBlob, Place, ReadConfig, add_image, add_name};
use super::files::Files;
use super::platform::Platform;
use super::reference::Reference;
use crate::digest::{DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::layer_path::LayerPath;

const MANIFEST: &str = "manifest.json";

/// The most images that an archive may have, and the most names of all of them.
const LIMIT: usize = 10_000;

/// One image of the archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Vec<String>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Reads the archive's images; `None` where it has no `manifest.json`.
///
/// The second list is of the platforms of images that were left out because another was asked for.
pub(super) fn images(
    files: &dyn Files,
    wanted: Option<&Platform>,
) -> Result<Option<(Vec<ImageEntry>, Vec<Platform>)>> {
    let Some(items) = items(files)? else {
        return Ok(None);
    };
    let (mut images, mut others) = (Vec::new(), Vec::new());
    for item in items {
        let image = image(files, &item)?;
        let platform = image.platform();
        if wanted.is_none_or(|wanted| wanted.distance(&platform).is_some()) {
            add_image(&mut images, image);
        } else {
            others.push(platform);
        }
    }
    Ok(Some((images, others)))
}

/// Adds the names that `manifest.json` has for images of a layout that it stands in.
pub(super) fn add_names(files: &dyn Files, images: &mut [ImageEntry]) -> Result<()> {
    for item in items(files)?.unwrap_or_default() {
        let config = stated_digest(&item.config);
        for image in images.iter_mut().filter(|image| Some(image.id) == config) {
            for name in names(&item)? {
                add_name(image, name);
            }
        }
    }
    Ok(())
}

fn items(files: &dyn Files) -> Result<Option<Vec<Item>>> {
    let Some(bytes) = files.document(MANIFEST)? else {
        return Ok(None);
    };
    if bytes.trim_ascii_start().starts_with(b"{") {
        // The manifest of one image alone.
        let message = "a folder of `skopeo copy ... dir:` or `podman save --format docker-dir`";
        return Err(Error::new(ErrorKind::Unsupported, format!("{MANIFEST}: this is {message}"))
            .hint("make an OCI layout of it: skopeo copy dir:FOLDER oci:LAYOUT:NAME"));
    }
    let items: Vec<Item> = document::parse(&bytes, MANIFEST)?;
    let names: usize = items.iter().map(|item| item.repo_tags.len()).sum();
    if items.len().max(names) > LIMIT {
        let message = format!("{MANIFEST}: more than {LIMIT} images or names");
        return Err(Error::new(ErrorKind::LimitExceeded, message));
    }
    Ok(Some(items))
}

fn names(item: &Item) -> Result<Vec<Reference>> {
    // What an image without a name was called once.
    let tags = item.repo_tags.iter().filter(|tag| *tag != "<none>:<none>");
    tags.map(|tag| tag.parse().map_err(|error: Error| invalid(MANIFEST, error))).collect()
}

fn image(files: &dyn Files, item: &Item) -> Result<ImageEntry> {
    let path = path(&item.config)?;
    let file = files.find(&path)?;
    let name = format!("config {}", item.config);
    let file = file.ok_or_else(|| missing(&name, MANIFEST))?;
    document::check_size(file.size, &name)?;
    let bytes = files.read(&file)?;
    if let Some(stated) = stated_digest(&item.config) {
        check_digest(&bytes, &stated, &name)?;
    }
    let config = ReadConfig::parse(bytes, &name)?;
    config.check_layers(item.layers.len(), &name, MANIFEST)?;
    let pairs = item.layers.iter().zip(&config.diff_ids);
    let layers = pairs.map(|(layer, diff_id)| layer_blob(files, layer, diff_id));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let mut image = config.into_entry(layers);
    for name in names(item)? {
        add_name(&mut image, name);
    }
    Ok(image)
}

fn layer_blob(files: &dyn Files, layer: &str, diff_id: &DiffId) -> Result<LayerBlob> {
    let file = files.find(&path(layer)?)?;
    let file = file.ok_or_else(|| missing(&format!("layer {layer}"), MANIFEST))?;
    // Names elsewhere in the archive are no digests of what is stored: of the uncompressed bytes,
    // or of nothing at all.
    let digest = layer.starts_with("blobs/sha256/").then(|| stated_digest(layer)).flatten();
    let place = Place::File(file.name);
    Ok(LayerBlob { diff_id: *diff_id, digest, size: file.size, media_type: None, place })
}

fn path(name: &str) -> Result<LayerPath> {
    LayerPath::parse(name.as_bytes()).map_err(|error| invalid(MANIFEST, error))
}

/// The digest that a file is named after: `HEX.json`, `blobs/sha256/HEX`.
fn stated_digest(name: &str) -> Option<Digest> {
    let name = name.rsplit('/').next().unwrap_or(name);
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}
