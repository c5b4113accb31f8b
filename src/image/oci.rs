//! The OCI image layout: from `index.json` by way of manifests to images.
//!
//! Source: OCI image-spec, image-layout.md, image-index.md, manifest.md. Docker's manifests of
//! schema 2 differ in their media types alone.

use std::collections::{HashMap, HashSet};

use super::descriptor::{
    FULL_NAME, Manifest, REF_NAME, annotation, blob_path, digest_of, is_foreign, is_image_config,
    kind_of, missing, read_blob, wrong_size,
};
use super::document::{self, invalid};
use super::entry::{ImageEntry, LayerBlob, Place, ReadConfig, add_image, add_name};
use super::files::Files;
use super::manifest::{Descriptor, ImageIndex, ImageManifest, OciLayout};
use super::platform::Platform;
use super::select::{self, Choice, Skipped};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// The annotation of what is attached to an image and is none itself.
const ATTACHED: &str = "vnd.docker.reference.type";

/// The most manifests that are looked at.
const MANIFEST_LIMIT: usize = 10_000;

/// Reads the layout's images; `None` where there is no layout.
pub(super) fn images(
    files: &dyn Files,
    platform: Option<&Platform>,
    skipped: &mut Skipped,
) -> Result<Option<Vec<ImageEntry>>> {
    const INDEX: &str = "index.json";
    let Some(bytes) = files.document(INDEX)? else {
        return Ok(None);
    };
    check_version(files)?;
    let index = parse_index(&bytes, INDEX)?;
    let mut reader = Reader { files, seen: HashSet::new(), manifests: 0, skipped };
    let mut images: Vec<ImageEntry> = Vec::new();
    for group in by_name(&index.manifests) {
        let mut leaves = Vec::new();
        reader.seen.clear();
        for descriptor in &group {
            reader.collect(descriptor, INDEX, &mut leaves)?;
        }
        for leaf in select::choose(leaves, platform, reader.skipped)? {
            let Some(mut image) = reader.image(&leaf)? else {
                continue;
            };
            // All of a group have the same names.
            if let Some(descriptor) = group.first() {
                read_names(descriptor, &mut image);
            }
            add_image(&mut images, image);
        }
    }
    Ok(Some(images))
}

fn check_version(files: &dyn Files) -> Result<()> {
    const FILE: &str = "oci-layout";
    let Some(bytes) = files.document(FILE)? else {
        return Ok(());
    };
    let layout: OciLayout = document::parse(&bytes, FILE)?;
    let version = layout.image_layout_version;
    if version.starts_with("1.") {
        return Ok(());
    }
    let message = format!("{FILE}: version {version:?} of the image layout is not known");
    Err(Error::new(ErrorKind::Unsupported, message).hint("version 1.0.0 is read"))
}

/// Descriptors that have the same names, and so are one image for several platforms.
fn by_name(descriptors: &[Descriptor]) -> Vec<Vec<&Descriptor>> {
    let mut groups: Vec<Vec<&Descriptor>> = Vec::new();
    let mut known = HashMap::new();
    for descriptor in descriptors {
        let names = (annotation(descriptor, FULL_NAME), annotation(descriptor, REF_NAME));
        let group = *known.entry(names).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(descriptor),
            None => groups.push(vec![descriptor]),
        }
    }
    groups
}

fn read_names(descriptor: &Descriptor, image: &mut ImageEntry) {
    // The grammar of these annotations is wider than that of names; what is no name is no error.
    if let Some(Ok(name)) = annotation(descriptor, FULL_NAME).map(str::parse) {
        add_name(image, name);
    }
    match annotation(descriptor, REF_NAME) {
        Some(text) if text.contains(['/', ':']) => {
            if let Ok(name) = text.parse() {
                add_name(image, name);
            }
        }
        Some(text) => image.tag = image.tag.take().or_else(|| Some(text.to_owned())),
        None => {}
    }
}

/// A manifest that an index refers to.
pub(super) struct Leaf {
    descriptor: Descriptor,
    digest: Digest,
    referrer: String,
}

struct Reader<'a> {
    files: &'a dyn Files,
    /// Indexes that were read for the image that is looked for: each once, loops or not.
    seen: HashSet<Digest>,
    manifests: usize,
    skipped: &'a mut Skipped,
}

impl Reader<'_> {
    /// Adds the manifests that `descriptor` leads to, through any number of indexes.
    fn collect(
        &mut self,
        descriptor: &Descriptor,
        referrer: &str,
        leaves: &mut Vec<Choice<Leaf>>,
    ) -> Result<()> {
        let mut pending = vec![(descriptor.clone(), referrer.to_owned())];
        while let Some((descriptor, referrer)) = pending.pop() {
            if self.is_attachment(&descriptor) {
                continue;
            }
            // Of what is passed over it is no matter.
            let digest = || digest_of(&descriptor, &referrer);
            match kind_of(&descriptor.media_type) {
                Manifest::Index => {
                    let digest = digest()?;
                    if self.seen.insert(digest) {
                        let bytes =
                            read_blob(self.files, &descriptor, &digest, &referrer, "index")?;
                        let name = format!("index {digest}");
                        let index = parse_index(&bytes, &name)?;
                        let inner = index.manifests.into_iter().rev();
                        pending.extend(inner.map(|inner| (inner, name.clone())));
                    }
                }
                Manifest::Image => {
                    let digest = digest()?;
                    leaves.extend(self.leaf(descriptor, digest, referrer)?);
                }
                Manifest::Schema1 => {
                    let digest = digest()?;
                    let message = format!("{referrer}: manifest {digest} is of Docker's schema 1");
                    return Err(Error::new(ErrorKind::Unsupported, message)
                        .hint("save the image again with a tool of this decade"));
                }
                Manifest::Other => self.skipped.note(&descriptor.media_type),
            }
        }
        Ok(())
    }

    fn is_attachment(&mut self, descriptor: &Descriptor) -> bool {
        let unknown = descriptor.platform.as_ref().is_some_and(|platform| {
            let platform = Platform::from(platform);
            platform.os == "unknown" && platform.architecture == "unknown"
        });
        let attached = unknown || annotation(descriptor, ATTACHED).is_some();
        if attached {
            self.skipped.note("attestation");
        }
        attached
    }

    /// A manifest to choose from; `None` where it is of something else than an image.
    fn leaf(
        &mut self,
        descriptor: Descriptor,
        digest: Digest,
        referrer: String,
    ) -> Result<Option<Choice<Leaf>>> {
        self.manifests += 1;
        if self.manifests > MANIFEST_LIMIT {
            let message = format!("{referrer}: more than {MANIFEST_LIMIT} manifests");
            return Err(Error::new(ErrorKind::LimitExceeded, message));
        }
        let present = descriptor.data.is_some() || self.files.find(&blob_path(&digest))?.is_some();
        let stated = descriptor.platform.as_ref().map(Platform::from);
        let leaf = Leaf { descriptor, digest, referrer };
        let missing = (!present).then(|| missing(&format!("manifest {digest}"), &leaf.referrer));
        if stated.is_some() || !present {
            return Ok(Some(Choice { item: leaf, platform: stated, missing }));
        }
        let (name, manifest) = self.manifest(&leaf)?;
        if !self.is_image(&manifest) {
            return Ok(None);
        }
        let platform = Platform::from(&self.config(&manifest, &name)?.parsed);
        Ok(Some(Choice { item: leaf, platform: Some(platform), missing }))
    }

    fn is_image(&mut self, manifest: &ImageManifest) -> bool {
        let config_type = &manifest.config.media_type;
        let is_image = is_image_config(config_type);
        if !is_image {
            self.skipped.note(manifest.artifact_type.as_ref().unwrap_or(config_type));
        }
        is_image
    }

    fn manifest(&self, leaf: &Leaf) -> Result<(String, ImageManifest)> {
        let bytes =
            read_blob(self.files, &leaf.descriptor, &leaf.digest, &leaf.referrer, "manifest")?;
        let name = format!("manifest {}", leaf.digest);
        refuse_field(&bytes, &name, "manifests")?;
        let manifest = document::parse(&bytes, &name)?;
        Ok((name, manifest))
    }

    fn config(&self, manifest: &ImageManifest, name: &str) -> Result<ReadConfig> {
        let descriptor = &manifest.config;
        let digest = digest_of(descriptor, name)?;
        let bytes = read_blob(self.files, descriptor, &digest, name, "config")?;
        ReadConfig::parse(bytes, &format!("config {digest}"))
    }

    /// The image of a manifest; `None` where it is of something else.
    fn image(&mut self, leaf: &Leaf) -> Result<Option<ImageEntry>> {
        let (name, manifest) = self.manifest(leaf)?;
        if !self.is_image(&manifest) {
            return Ok(None);
        }
        let config = self.config(&manifest, &name)?;
        config.check_layers(manifest.layers.len(), &format!("config {}", config.id), &name)?;
        let pairs = manifest.layers.iter().zip(&config.diff_ids);
        let layers = pairs.map(|(descriptor, diff_id)| {
            let digest = digest_of(descriptor, &name)?;
            let place = self.layer_place(descriptor, &digest, &name)?;
            Ok(LayerBlob {
                diff_id: *diff_id,
                digest: Some(digest),
                size: descriptor.size,
                media_type: Some(descriptor.media_type.clone()),
                place,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let mut image = config.into_entry(layers);
        image.manifest = Some(leaf.digest);
        Ok(Some(image))
    }

    fn layer_place(&self, descriptor: &Descriptor, digest: &Digest, name: &str) -> Result<Place> {
        let what = format!("layer {digest}");
        let media_type = descriptor.media_type.as_str();
        if media_type.ends_with("+encrypted") {
            return Err(Error::new(ErrorKind::Unsupported, format!("{name}: {what} is encrypted"))
                .hint("decrypt the image first, with skopeo copy --decryption-key"));
        }
        if descriptor.data.is_some() {
            return read_blob(self.files, descriptor, digest, name, "layer").map(Place::Embedded);
        }
        match self.files.find(&blob_path(digest))? {
            Some(file) if file.size == descriptor.size => Ok(Place::File(file.name)),
            Some(file) => Err(wrong_size(&what, name, file.size, descriptor.size)),
            None if is_foreign(media_type) => {
                let urls = descriptor.urls.join(", ");
                Err(missing(&what, name).hint(format!(
                    "the layer may not be distributed with the image; it is to be had at: {urls}"
                )))
            }
            None => Err(missing(&what, name)),
        }
    }
}

fn parse_index(bytes: &[u8], name: &str) -> Result<ImageIndex> {
    refuse_field(bytes, name, "layers")?;
    refuse_field(bytes, name, "config")?;
    document::parse(bytes, name)
}

/// Fails for a document that can be read as an index and as a manifest, which would let one image
/// pass for two.
fn refuse_field(bytes: &[u8], name: &str, field: &str) -> Result<()> {
    match document::parse_value(bytes, name)?.get(field) {
        None => Ok(()),
        Some(_) => Err(invalid(name, format!("has a field {field:?}, which its type has not"))),
    }
}
