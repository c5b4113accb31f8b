//! An overlay2 storage driver as a library.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod compression;
mod digest;
mod error;
mod id_map;
mod inode;
mod layer_path;
mod watch;

mod format;
mod sys;

pub mod mount;

pub mod changeset;
#[cfg(feature = "image")]
pub mod image;
pub mod store;

mod driver;

pub mod userns {
    //! A command as root of a user namespace of its own, and which one this process is in.

    pub use crate::sys::userns::{UserNamespace, current_maps, in_initial_namespace};
}

pub use compression::{Compression, Decoder, Encoder};
pub mod merged;

pub use digest::{ChainId, DiffId, Digest, Hashing};
pub use driver::{
    AppliedLayer, Base, Container, Driver, DriverOptions, LayerSummary, MountPoint,
    MountedContainer, MountedView, Usage, UsageRow,
};
#[cfg(feature = "image")]
pub use driver::{
    ArchiveFormat, CommitOptions, GraphDriver, GraphDriverData, HistoryStep, ImageSummary,
    Inspection, LoadOptions, LoadedImage, RootFs, SaveOptions, State,
};
pub use error::{Error, ErrorKind, Result};
pub use format::{Assumptions, LowerLink, Namespace};
pub use id_map::{IdMap, IdRange};
pub use inode::{Device, FileKind, Inode, Timestamp, Xattrs};
pub use layer_path::LayerPath;
pub use store::{ContainerId, LayerKey, Store};
pub use sys::Dir;
pub use sys::durable::Durability;
pub use sys::probe::KernelFeatures;
pub use watch::{Observer, Phase, Progress, Watch};
