//! An overlay2 storage driver as a library: images become layers on disk, stacks of layers become
//! containers, what a container changed becomes a layer again. No daemon, no async runtime, no state
//! besides what lies in one directory.
//!
//! # Where to begin
//!
//! A [`Driver`] is what a runtime calls. It holds a store open and joins the modules
//! beneath, each of which can be used alone. The [guide] has a page for each task.
//!
#![cfg_attr(feature = "image", doc = "```")]
#![cfg_attr(not(feature = "image"), doc = "```text")]
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_stage.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let stage = Stage::new();
//! # let (root, archive) = (stage.path("another"), stage.image_tar());
//! use overlay2::mount::MountOptions;
//! use overlay2::{Driver, ErrorKind, LoadOptions, Watch};
//!
//! let driver = Driver::open(root)?;
//! // A docker-archive, or an OCI image layout as a directory or a tar.
//! let image = driver.load(archive, &LoadOptions::default(), Watch::new())?.remove(0);
//! let container = driver.create(&image.id.into(), Some("web"))?;
//!
//! # if stage.can_mount() {
//! let mounted = driver.mount(&container.name, None, &MountOptions::default())?;
//! std::fs::write(mounted.target.join("etc/motd"), "changed\n")?;
//! driver.unmount("web")?;
//! # }
//!
//! driver.commit("web", "example:changed", &Default::default(), Watch::new())?;
//! match driver.remove_image("example:latest", Watch::new()) {
//!     Err(error) if error.kind() == ErrorKind::InUse => println!("{error}"),
//!     other => panic!("a container stands on it: {other:?}"),
//! }
//! driver.remove_container("web", Watch::new())?;
//! # Ok(()) }
//! ```
//!
//! # The modules, in reading order
//!
//! - The crate's root: values. [`Digest`], [`DiffId`] and [`ChainId`] name things, [`LayerPath`] is
//!   a path that cannot leave its layer, [`Inode`] is what is known of a file, [`IdMap`] maps ids,
//!   [`Compression`] tells itself from bytes, [`Dir`] is a directory held open.
//! - [`changeset`]: layers as tars, applied to a directory and written from one.
//! - [`store`]: layers, chains, images and containers on disk, for any number of processes at once.
//! - [`mount`]: a stack on the kernel's overlayfs; a pure plan, then a thin act.
//! - [`merged`]: the same tree in userspace, with no mount and no privilege.
//! - [`image`]: docker-archives and OCI layouts, read and written.
#![cfg_attr(
    feature = "bundle",
    doc = "- [`bundle`]: what an OCI runtime is told to run a process."
)]
//! - [`userns`]: a command as root of a user namespace of its own.
//! - [`Driver`]: all of that joined.
//!
//! # What needs which privilege
//!
//! | to do | needs |
//! |---|---|
//! | load, apply, save, list, compare, commit, export, remove; a [`merged::Tree`] | nothing |
//! | give files to their owners, make devices | root, or a user namespace with several ids ([`userns`]); else both are recorded in an attribute |
//! | mount, unmount, view | root, or root of a user namespace (Linux 5.11) |
//!
//! [`KernelFeatures`] tells what this machine can do, and README.md what each feature is for.
//!
//! A store belongs to one [`Namespace`]: one that root of the machine made cannot be mounted in a
//! user namespace, nor the other way round.
//!
//! # Errors
//!
//! Every call that fails gives an [`Error`]: its [`kind`](Error::kind) is what a program decides by,
//! its text says what was being done, to what and why, and [`help`](Error::help) what would help. A
//! call that fails leaves nothing behind. One that may take long takes a [`Watch`], which sees how
//! far it is and can stop it.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `image` | yes | [`image`], and what [`Driver`] does with images |
//! | `gzip`, `zstd` | yes | layers and archives so compressed |
//! | `bundle` | no | `bundle`: an OCI runtime's `config.json` for a container |
//! | `snapshot` | no | `snapshot`: snapshots by name, as containerd's snapshotters keep them |
//! | `cli` | no | the command `overlay2` |
//!
#![cfg_attr(not(feature = "image"), doc = "[guide]: #features")]
//! ARCHITECTURE.md describes the format on disk and how the crate is built.
//!
#![cfg_attr(not(feature = "image"), doc = "[`Driver`]: #features")]
#![cfg_attr(not(feature = "image"), doc = "[`image`]: #features")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod compression;
mod digest;
mod error;
mod file_name;
mod finding;
mod id_map;
#[cfg(feature = "image")]
mod image_config;
mod inode;
mod layer_path;
mod namespace;
mod percent;
mod pipe;
mod quota;
mod watch;

mod format;
mod sys;

#[cfg(feature = "bundle")]
pub mod bundle;
pub mod changeset;
#[cfg(feature = "image")]
pub mod image;
pub mod merged;
pub mod mount;
#[cfg(feature = "snapshot")]
pub mod snapshot;
pub mod store;

mod driver;

#[cfg(all(any(doc, doctest), feature = "image"))]
pub mod guide;

pub mod copy {
    //! Files copied into the tree of a container, out of it, between two, or as a tar.

    pub use crate::driver::copy::{
        CopyLinks, CopyOptions, CopyOwners, CopySource, CopySummary, CopyTarget, copy,
    };
}
#[cfg(any(test, fuzzing))]
mod fuzz_bed;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub mod userns {
    //! A command as root of a user namespace of its own, and which one this process is in.

    pub use crate::sys::userns::{UserNamespace, current_maps, in_initial_namespace};
}

pub use compression::{Compression, Decoder, Encoder};
pub use digest::{ChainId, DiffId, Digest, Hashing};
#[cfg(feature = "bundle")]
pub use driver::Bundle;
pub use driver::{
    AppliedLayer, Base, CheckLevel, CheckOptions, Collected, CollectedItem, Container,
    ContainerTree, CreateOptions, Driver, DriverOptions, Finding, Findings, GcMode, Hidden,
    HiddenBy, LayerOrigin, LayerSays, LayerSummary, MountPoint, MountedContainer, MountedView,
    NewFile, Provenance, ReadTree, TornUpper, Usage, UsageRow,
};
#[cfg(feature = "image")]
pub use driver::{
    ArchiveFormat, CommitOptions, GiveChangeset, GraphDriver, GraphDriverData, HistoryStep,
    ImageSummary, Inspection, LoadOptions, LoadedImage, RepairFrom, Repaired, RootFs, SaveOptions,
    State, WastedStep,
};
pub use error::{Error, ErrorKind, Result};
pub use finding::FindingKind;
pub use format::{Assumptions, LowerLink, Ownership};
pub use id_map::{IdMap, IdRange};
pub use inode::{Device, FileKind, Inode, Timestamp, Xattrs};
pub use layer_path::LayerPath;
pub use namespace::Namespace;
pub use percent::escape_bytes;
pub use quota::Quota;
pub use store::{ContainerId, GarbageKind, LayerKey, QuotaUse, Store};
pub use sys::Dir;
pub use sys::durable::Durability;
pub use sys::probe::KernelFeatures;
pub use watch::{Observer, Phase, Progress, Watch};

/// The code in README.md compiles.
#[cfg(all(doctest, feature = "image"))]
#[doc = include_str!("../README.md")]
struct Readme;
