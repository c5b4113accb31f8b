//! Stacks mounted on the kernel's overlayfs: a pure plan, then a thin act.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let at = |name: &str| scratch.path().join(name);
//! # for name in ["lower", "upper", "work", "merged"] { std::fs::create_dir(at(name))? }
//! # std::fs::write(at("lower/file"), "below\n")?;
//! use overlay2::mount::{self, Layer, MountOptions, Parts, Upper};
//! use overlay2::{Dir, Namespace};
//!
//! let parts = Parts { layers: 1, upper: true, namespace: Namespace::Trusted };
//! let plan = mount::plan(parts, &MountOptions::default())?;
//! let open = |name: &str| Dir::open_ambient(at(name));
//! let (lower, upper, work) = (open("lower")?, open("upper")?, open("work")?);
//! let (below, over, beside) = (at("lower"), at("upper"), at("work"));
//! let writable = Upper {
//!     upper: Layer { dir: &upper, path: &over },
//!     work: Layer { dir: &work, path: &beside },
//! };
//! # if !overlay2::KernelFeatures::probe(&upper)?.overlay_trusted { return Ok(()) }
//! let mounted = plan.mount(&[Layer { dir: &lower, path: &below }], Some(writable))?;
//! mounted.attach(&at("merged"))?;
//! assert_eq!(std::fs::read(at("merged/file"))?, b"below\n");
//! mount::unmount(&at("merged"))?;
//! # Ok(())
//! # }
//! ```

mod act;
mod classic;
mod find;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod known;
mod options;
mod plan;
mod showing;
#[cfg(test)]
mod tests;

pub(crate) use act::is_in_use;
pub use act::{Layer, Mounted, Upper, detach, unmount};
pub(crate) use find::seen_in;
pub use find::{MountEntry, at, is_mounted_at, overlays, with_upper};
pub use options::{MountAccess, MountOptions, Restrictions, Syncing, Way};
pub use plan::{MAX_LAYERS, MountPlan, Parts, plan};
pub use showing::{Showing, showing};
