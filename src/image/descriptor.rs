//! Descriptors: what they lead to, where that lies, and whether it is what they say.
//!
//! Source: OCI image-spec, descriptor.md.

use super::document::{self, check_size, invalid};
use super::files::Files;
use super::manifest::{Descriptor, media};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layer_path::LayerPath;

/// The annotation that holds an image's whole name.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";

/// The annotation that holds a tag, or what else the layout calls the image.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations.get(key).map(String::as_str)
}

/// The bytes of a small blob, checked against its size and digest.
pub(super) fn read_blob(
    files: &dyn Files,
    descriptor: &Descriptor,
    digest: &Digest,
    referrer: &str,
    kind: &str,
) -> Result<Vec<u8>> {
    let what = format!("{kind} {digest}");
    check_size(descriptor.size, &what)?;
    let bytes = match &descriptor.data {
        Some(data) => document::decode_base64(data)
            .ok_or_else(|| invalid(referrer, format!("the data of {what} is no base64")))?,
        None => {
            let file = files.find(&blob_path(digest))?;
            let file = file.ok_or_else(|| missing(&what, referrer))?;
            if file.size != descriptor.size {
                return Err(wrong_size(&what, referrer, file.size, descriptor.size));
            }
            files.read(&file)?
        }
    };
    if bytes.len() as u64 != descriptor.size {
        return Err(wrong_size(&what, referrer, bytes.len() as u64, descriptor.size));
    }
    check_digest(&bytes, digest, &what)?;
    Ok(bytes)
}

/// Fails where bytes are not those that a digest was taken of.
pub(super) fn check_digest(bytes: &[u8], expected: &Digest, what: &str) -> Result<()> {
    let found = Digest::of(bytes);
    if found == *expected {
        return Ok(());
    }
    let message = format!("{what}: its bytes have the digest {found}, expected {expected}");
    Err(Error::new(ErrorKind::DigestMismatch, message).hint("the image is damaged: fetch it again"))
}

/// The error for a file that something refers to and that is not there.
pub(super) fn missing(what: &str, referrer: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} is missing, to which {referrer} refers"))
        .hint("the image is incomplete: fetch or save it again")
}

pub(super) fn wrong_size(what: &str, referrer: &str, found: u64, stated: u64) -> Error {
    invalid(what, format!("{found} bytes, but {referrer} states {stated}"))
}

/// Where a layout keeps a blob.
pub(super) fn blob_path(digest: &Digest) -> LayerPath {
    let blobs = LayerPath::root().join(b"blobs").join(b"sha256");
    blobs.join(digest.hex().as_bytes())
}

pub(super) fn digest_of(descriptor: &Descriptor, referrer: &str) -> Result<Digest> {
    descriptor.digest.parse().map_err(|error: Error| match error.kind() {
        ErrorKind::InvalidInput => invalid(referrer, error),
        _ => error.within(referrer),
    })
}

/// What a descriptor in an index leads to.
pub(super) enum Manifest {
    Index,
    Image,
    Schema1,
    Other,
}

pub(super) fn kind_of(media_type: &str) -> Manifest {
    match media_type {
        media::INDEX | media::DOCKER_LIST => Manifest::Index,
        media::MANIFEST | media::DOCKER_MANIFEST => Manifest::Image,
        other if media::DOCKER_SCHEMA_1.contains(&other) => Manifest::Schema1,
        _ => Manifest::Other,
    }
}

pub(super) fn is_image_config(media_type: &str) -> bool {
    [media::CONFIG, media::DOCKER_CONFIG].contains(&media_type)
}

pub(super) fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}
