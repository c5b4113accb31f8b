//! What a name stands for: a container, or else an image, or else a stack of layers.

use super::Driver;
use crate::digest::ChainId;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{ContainerRecord, ImageRecord};

/// What has a tree.
pub(super) enum Named {
    Container(ContainerRecord),
    Image(ImageRecord),
    Chain(ChainId),
}

impl Named {
    /// The stack that it stands on.
    pub(super) fn chain(&self) -> Option<&ChainId> {
        match self {
            Self::Container(record) => record.chain.as_ref(),
            Self::Image(image) => image.chain.as_ref(),
            Self::Chain(chain) => Some(chain),
        }
    }

    /// The image whose history tells of the stack.
    #[cfg(feature = "image")]
    pub(super) fn image(&self) -> Option<crate::digest::Digest> {
        match self {
            Self::Container(record) => record.image,
            Self::Image(image) => Some(image.id),
            Self::Chain(_) => None,
        }
    }
}

impl Driver {
    /// Finds a container or an image by its name, its ID or the beginning of its ID, or a stack of
    /// layers by its chain ID or the beginning of that. A container counts first, and then an image.
    pub(super) fn find(&self, text: &str) -> Result<Named> {
        match self.store.find_container(text) {
            Ok(record) => return Ok(Named::Container(record)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match self.store.image_called(text) {
            Ok((image, _)) => return Ok(Named::Image(image)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.store.chain_called(text)?.map(Named::Chain).ok_or_else(|| nothing(text))
    }
}

/// The error of a name that stands for nothing.
pub(super) fn nothing(text: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no container and no image {text:?}"))
        .hint("overlay2 ps and overlay2 images list what is there")
}
