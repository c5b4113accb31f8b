//! Where everything stands on disk: every file name of the store, spelled once.
//!
//! ```text
//! ROOT/                        0700
//!   overlay2.json              format version, namespace, id; written last when a store is made
//!   ballast                    room for removing where the disk is full
//!   layers/KEY/                KEY: diff ID in hex, or chain-HEX for a variant
//!     layer.json               LayerRecord
//!     diff/                    the directory that is mounted
//!     NAME                     side files of the driver, such as `changeset`
//!     users/chain-HEX          back links: chains that stand on this directory
//!   chains/HEX/
//!     chain.json               ChainRecord: the topmost layers of the stack, and what is below
//!     pinned                   present where the chain stays without a user
//!     users/                   chain-HEX, image-HEX, container-ID
//!   images/HEX/
//!     image.json               ImageRecord
//!     config, manifest         as they were given, byte for byte
//!     names/ENCODED            back links: names that point here
//!     users/container-ID
//!   names/ENCODED              NameRecord: an image's name
//!   containers/ID/
//!     container.json           ContainerRecord
//!     mount.json               MountState, while it is mounted
//!     unsynced.json            the same of a volatile mount that went, until all is synced
//!     upper/ work/ merged/
//!   container-names/NAME       symlink to ../containers/ID
//!   staging/                   what is being made; each entry locked by its maker
//!   trash/                     what was removed and is not deleted yet
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{self, ChainId, DiffId, Digest};
use crate::error::{Error, ErrorKind, Result};

/// The format that this version of the crate writes.
pub(super) const VERSION: u32 = 1;

pub(super) const STORE_FILE: &str = "overlay2.json";
pub(super) const BALLAST_FILE: &str = "ballast";
pub(super) const LAYERS: &str = "layers";
pub(super) const CHAINS: &str = "chains";
pub(super) const IMAGES: &str = "images";
pub(super) const NAMES: &str = "names";
pub(super) const CONTAINERS: &str = "containers";
pub(super) const CONTAINER_NAMES: &str = "container-names";
pub(super) const STAGING: &str = "staging";
pub(super) const TRASH: &str = "trash";

/// The directories of a store, in the order in which they are made.
pub(super) const TOP: [&str; 8] =
    [LAYERS, CHAINS, IMAGES, NAMES, CONTAINERS, CONTAINER_NAMES, STAGING, TRASH];

pub(super) const LAYER_FILE: &[u8] = b"layer.json";
pub(super) const CHAIN_FILE: &[u8] = b"chain.json";
pub(super) const IMAGE_FILE: &[u8] = b"image.json";
pub(super) const CONTAINER_FILE: &[u8] = b"container.json";
pub(super) const MOUNT_FILE: &[u8] = b"mount.json";
pub(super) const UNSYNCED_FILE: &[u8] = b"unsynced.json";
pub(super) const CONFIG_FILE: &[u8] = b"config";
pub(super) const MANIFEST_FILE: &[u8] = b"manifest";
pub(super) const PINNED: &[u8] = b"pinned";
pub(super) const USERS: &[u8] = b"users";
pub(super) const IMAGE_NAMES: &[u8] = b"names";
pub(super) const DIFF: &[u8] = b"diff";
pub(super) const UPPER: &[u8] = b"upper";
pub(super) const WORK: &[u8] = b"work";
pub(super) const MERGED: &[u8] = b"merged";

/// The ends of file names in `staging/` that are no directories.
pub(super) const RESERVED_SUFFIX: &str = ".lock";
pub(super) const INTENT_PREFIX: &str = "intent-";

/// The name of a layer directory: the diff ID, or, where the layer is right only on one stack, the
/// chain ID of that stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerKey {
    /// Right on every stack on which its assumptions hold.
    Diff(DiffId),
    /// A variant, made for the stack of this chain ID.
    Chain(ChainId),
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diff(diff) => f.write_str(&diff.digest().hex()),
            Self::Chain(chain) => write!(f, "chain-{}", chain.digest().hex()),
        }
    }
}

impl FromStr for LayerKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("chain-") {
            Some(digits) => {
                Digest::from_hex(digits).map(|digest| Self::Chain(ChainId::new(digest)))
            }
            None => Digest::from_hex(text).map(|digest| Self::Diff(DiffId::new(digest))),
        }
    }
}

/// The identity of a container: 32 random bytes, printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId([u8; 32]);

impl ContainerId {
    pub(super) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The first 12 digits, as tables show them.
    pub fn short(&self) -> String {
        hex::encode(self.0.split_at(6).0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&digest::digits(&self.0))
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        digest::bytes_of(text).map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("{text:?} is no container ID: expected 64 lowercase hexadecimal digits"),
            )
        })
    }
}

/// Written and read as the text form.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(LayerKey);
serde_as_text!(ContainerId);

/// Something that others use, or that uses others: a directory of the store, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Object {
    Layer(LayerKey),
    Chain(ChainId),
    Image(Digest),
    Container(ContainerId),
}

impl Object {
    /// The directory that it stands in.
    pub(super) const fn place(&self) -> &'static str {
        match self {
            Self::Layer(_) => LAYERS,
            Self::Chain(_) => CHAINS,
            Self::Image(_) => IMAGES,
            Self::Container(_) => CONTAINERS,
        }
    }

    /// The name of its directory.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Layer(key) => key.to_string(),
            Self::Chain(chain) => chain.digest().hex(),
            Self::Image(id) => id.hex(),
            Self::Container(id) => id.to_string(),
        }
    }

    /// Its kind and name in one word: the name of a back link, and the start of a name in
    /// `staging/` and `trash/`.
    pub(super) fn tag(&self) -> String {
        match self {
            Self::Layer(key) => format!("layer-{key}"),
            Self::Chain(chain) => format!("chain-{}", chain.digest().hex()),
            Self::Image(id) => format!("image-{}", id.hex()),
            Self::Container(id) => format!("container-{id}"),
        }
    }

    /// Reads a [`tag`](Self::tag), with or without a `.` and more behind it.
    pub(super) fn from_tag(text: &str) -> Option<Self> {
        let tag = text.split_once('.').map_or(text, |(tag, _)| tag);
        let (kind, name) = tag.split_once('-')?;
        match kind {
            "layer" => name.parse().ok().map(Self::Layer),
            "chain" => Digest::from_hex(name).ok().map(|id| Self::Chain(ChainId::new(id))),
            "image" => Digest::from_hex(name).ok().map(Self::Image),
            "container" => name.parse().ok().map(Self::Container),
            _ => None,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(key) => write!(f, "layer {key}"),
            Self::Chain(chain) => write!(f, "chain {chain}"),
            Self::Image(id) => write!(f, "image {id}"),
            Self::Container(id) => write!(f, "container {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn keys_and_tags_are_read_back() {
        let digest = Digest::of(b"x");
        for key in [LayerKey::Diff(DiffId::new(digest)), LayerKey::Chain(ChainId::new(digest))] {
            assert_eq!(key.to_string().parse::<LayerKey>().unwrap(), key);
            let tag = Object::Layer(key).tag();
            assert_eq!(Object::from_tag(&tag), Some(Object::Layer(key)));
            assert_eq!(Object::from_tag(&format!("{tag}.12ab")), Some(Object::Layer(key)));
        }
        let container = ContainerId::new([7; 32]);
        for object in [
            Object::Chain(ChainId::new(digest)),
            Object::Image(digest),
            Object::Container(container),
        ] {
            assert_eq!(Object::from_tag(&object.tag()), Some(object));
        }
        assert_eq!(Object::from_tag("chain-.."), None);
        assert_eq!(container.short(), "070707070707");
        assert!("00".parse::<LayerKey>().is_err() && "../x".parse::<ContainerId>().is_err());
    }
}
