//! The documents of an image but its config: manifest, index, layout, descriptor.
//!
//! Source: OCI image-spec, manifest.md, image-index.md, image-layout.md, descriptor.md. A
//! list or a map that is missing is an empty one; fields that have no place here are passed over.

use std::collections::HashMap;

/// A reference to a blob.
#[derive(Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    /// Where else the blob is to be had.
    #[serde(default)]
    pub(super) urls: Vec<String>,
    #[serde(default)]
    pub(super) annotations: HashMap<String, String>,
    /// The blob itself, base64.
    pub(super) data: Option<String>,
    pub(super) platform: Option<PlatformFields>,
}

/// A platform as a descriptor spells it.
#[derive(Clone, serde::Deserialize)]
pub(super) struct PlatformFields {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: Option<String>,
}

/// The manifest of one image.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageManifest {
    pub(super) artifact_type: Option<String>,
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

/// A list of manifests, one for each platform or name.
#[derive(serde::Deserialize)]
pub(super) struct ImageIndex {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

/// The file `oci-layout`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OciLayout {
    pub(super) image_layout_version: String,
}

/// Media types, as descriptors state them.
pub(super) mod media {
    pub(in crate::image) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(in crate::image) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(in crate::image) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(in crate::image) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub(in crate::image) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub(in crate::image) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

    pub(in crate::image) const DOCKER_LIST: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
    pub(in crate::image) const DOCKER_MANIFEST: &str =
        "application/vnd.docker.distribution.manifest.v2+json";
    pub(in crate::image) const DOCKER_CONFIG: &str =
        "application/vnd.docker.container.image.v1+json";
    pub(in crate::image) const DOCKER_SCHEMA_1: [&str; 2] = [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ];
}
