//! What overlayfs's marks mean: each read once and spelled once.
//!
//! Source: the kernel's `Documentation/filesystems/overlayfs.rst`, and what its code does.

pub(crate) mod assumptions;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod listing;
pub(crate) mod lookup;
pub(crate) mod metacopy;
pub(crate) mod opaque;
pub(crate) mod override_stat;
pub(crate) mod provenance;
pub(crate) mod redirect;
pub(crate) mod whiteout;
pub(crate) mod xattr_name;

pub use assumptions::{Assumptions, LowerLink};
pub use override_stat::Ownership;
