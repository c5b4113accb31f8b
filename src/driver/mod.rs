//! [`Driver`]: what a runtime calls; the rooms joined.

#[cfg(feature = "bundle")]
mod bundle;
mod check;
#[cfg(feature = "image")]
mod commit;
mod compose;
mod container;
mod content;
pub(crate) mod copy;
#[cfg(all(any(test, fuzzing), feature = "image"))]
pub(crate) mod fuzz;
mod gc;
#[cfg(feature = "image")]
mod image;
#[cfg(feature = "image")]
mod inspect;
mod layer;
#[cfg(feature = "image")]
mod load;
mod mount;
mod named;
mod new_file;
#[cfg(feature = "image")]
mod repair;
#[cfg(feature = "image")]
mod save;
mod tree;
mod usage;
mod which;

#[cfg(feature = "bundle")]
pub use bundle::Bundle;
pub use check::{CheckLevel, CheckOptions, Finding, Findings};
#[cfg(feature = "image")]
pub use commit::CommitOptions;
pub use container::{Base, Container, CreateOptions};
pub use gc::{Collected, CollectedItem, GcMode};
#[cfg(feature = "image")]
pub use image::{HistoryStep, ImageSummary, WastedStep};
#[cfg(feature = "image")]
pub use inspect::{GraphDriver, GraphDriverData, Inspection, RootFs, State};
pub use layer::{AppliedLayer, LayerSummary};
#[cfg(feature = "image")]
pub use load::{LoadOptions, LoadedImage};
pub use mount::{MountPoint, MountedContainer, MountedView, TornUpper};
pub use new_file::NewFile;
#[cfg(feature = "image")]
pub use repair::{GiveChangeset, RepairFrom, Repaired};
#[cfg(feature = "image")]
pub use save::{ArchiveFormat, SaveOptions};
pub use tree::{ContainerTree, ReadTree};
pub use usage::{Usage, UsageRow};
pub use which::{Hidden, HiddenBy, LayerOrigin, LayerSays, Provenance};

use std::path::Path;

use crate::changeset::Ownership;
use crate::error::Result;
use crate::namespace::Namespace;
use crate::store::{Access, Store, StoreOptions};
use crate::sys::durable::Durability;
use crate::sys::probe::{self, KernelFeatures};

/// A store of images and containers, and everything that is done with them.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctest_stage.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let stage = Stage::new();
/// # let (root, archive) = (stage.path("another"), stage.image_tar());
/// use overlay2::mount::MountOptions;
/// use overlay2::{Driver, LoadOptions, Watch};
///
/// let driver = Driver::open(root)?;
/// let image = driver.load(archive, &LoadOptions::default(), Watch::new())?.remove(0);
/// let container = driver.create(&image.id.into(), Some("web"))?;
/// # if stage.can_mount() {
/// let root = driver.mount("web", None, &MountOptions::default())?;
/// println!("{}", root.target.display());
/// driver.unmount("web")?;
/// # }
/// # Ok(()) }
/// ```
///
/// It holds no state besides what lies on disk: any number of threads and processes may use one
/// store at once, and a `Driver` is cheap to open and to clone. One that lives on remembers the stacks
/// that it mounted, and holds their layers open, with up to an eighth of the descriptors that the process
/// may have.
#[derive(Clone, Debug)]
pub struct Driver {
    store: Store,
    ownership: Ownership,
}

/// How a [`Driver`] is opened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default)]
pub struct DriverOptions {
    /// What survives a power cut.
    pub durability: Durability,
    /// Where overlayfs's marks are kept. `None`: as the store that is there has it; a new one takes
    /// `trusted` for root and `user` for everybody else.
    pub namespace: Option<Namespace>,
    /// How files are given to their owners. `None`: exactly where the process may do that, else
    /// recorded in an attribute.
    pub ownership: Option<Ownership>,
    /// What may be done to the directory.
    pub access: Access,
}

impl Driver {
    /// Opens the store in the directory `root`, or makes one there.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, &DriverOptions::default())
    }

    /// Opens a store as `options` say.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(root: impl AsRef<Path>, options: &DriverOptions) -> Result<Self> {
        let root = root.as_ref();
        let how = StoreOptions {
            durability: options.durability,
            namespace: options.namespace,
            access: options.access,
        };
        let store = Store::open_or_make(root, &how, Some(probe::default_namespace))?;
        let ownership = match options.ownership {
            Some(ownership) => ownership,
            None if probe::can_chown()? => Ownership::Exact,
            None => Ownership::Recorded,
        };
        Ok(Self { store, ownership })
    }

    /// The store beneath.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What this kernel can do, and the file system that the store lies on.
    ///
    /// # Errors
    /// Where nothing can be tried there, as on a read-only file system.
    pub fn features(&self) -> Result<KernelFeatures> {
        KernelFeatures::probe(self.store.dir())
    }
}

#[cfg(test)]
mod laws;
