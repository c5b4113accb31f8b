//! Stacks mounted on the kernel's overlayfs: a pure plan, then a thin act.
//!
//! ```no_run
//! use overlay2::mount::{self, Layer, MountOptions, Parts, Upper};
//! use overlay2::{Dir, Namespace};
//! use std::path::Path;
//!
//! let parts = Parts { layers: 1, upper: true, namespace: Namespace::Trusted };
//! let plan = mount::plan(parts, &MountOptions::default())?;
//! let open = |path: &str| Dir::open_ambient(path);
//! let (lower, upper, work) = (open("lower")?, open("upper")?, open("work")?);
//! let layer = |dir, path| Layer { dir, path: Path::new(path) };
//! let writable = Upper { upper: layer(&upper, "upper"), work: layer(&work, "work") };
//! let mounted = plan.mount(&[layer(&lower, "lower")], Some(writable))?;
//! mounted.attach(Path::new("merged"))?;
//! # Ok::<(), overlay2::Error>(())
//! ```

mod act;
mod classic;
mod find;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod options;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use act::is_in_use;
pub use act::{Layer, Mounted, Upper, detach, unmount};
pub(crate) use find::seen_in;
pub use find::{MountEntry, Showing, at, is_mounted_at, overlays, showing, with_upper};
pub use options::{MountAccess, MountOptions, Restrictions, Syncing, Way};
pub use plan::{MAX_LAYERS, MountPlan, Parts, plan};
