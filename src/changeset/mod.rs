//! Changesets: layers as tars, applied to a directory and written from one.
//!
//! What a tar says is decided for the layer as a whole before marks are written. What an UpperDir
//! says is read by one walk (`walk`), whether it is listed, written or exported.
//!
//! Source: OCI image-spec, layer.md.

mod acl;
mod ahead;
mod apply;
mod archive;
mod attributes;
mod between;
mod change;
mod checksum;
mod compare;
mod content;
mod contested;
mod copy_tree;
mod digesting;
mod entries;
mod entry;
mod equal;
mod export;
mod files;
mod finish;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod limits;
mod links;
mod links_below;
mod listing;
mod new_tree;
mod node;
mod old_tree;
mod options;
mod pack;
mod pax;
mod reader;
mod records;
#[cfg(feature = "image")]
mod restore;
#[cfg(feature = "image")]
mod shadowed;
mod split;
mod stale_record;
mod tar_header;
mod tar_writer;
mod tree;
mod unpack;
mod variant;
mod verify;
mod walk;
mod write;
mod writers;

pub use crate::format::Ownership;
pub use apply::{Applied, ApplyOptions, apply};
pub(crate) use archive::{ArchiveFile, ArchiveWriter, Pieces, read_archive};
pub use attributes::Unkept;
pub(crate) use between::{compare_stacks, write_between};
pub use change::{Change, ChangeKind};
pub(crate) use compare::compare;
pub(crate) use export::export;
pub use limits::ApplyLimits;
pub(crate) use links_below::LinksBelow;
pub(crate) use listing::{TreeSize, list_tree};
pub(crate) use node::is_portable;
pub use options::{DiffOptions, DiffSummary, Recorded, RootEntry, Times, View};
#[cfg(feature = "image")]
pub(crate) use restore::{Content, Pair, reassemble_from, restore, supply, unsound};
#[cfg(feature = "image")]
pub(crate) use shadowed::{Shadowed, shadowed};
pub(crate) use split::has_replaced;
pub use split::reassemble;
pub(crate) use variant::{VariantOptions, assumptions_hold, resolve};
pub(crate) use verify::{Contents, Difference, VerifyOptions, verify};
#[cfg(feature = "image")]
pub(crate) use write::pack_diff;
pub(crate) use write::write_diff;
#[cfg(feature = "image")]
pub(crate) use writers::workers;

#[cfg(test)]
mod tests;
