//! Changesets: layers as tars, applied to a directory and written from one.
//!
//! Source: OCI image-spec, layer.md.

mod acl;
mod ahead;
mod apply;
mod attributes;
mod content;
mod entry;
mod finish;
mod header;
mod limits;
mod pax;
mod reader;
mod split;
mod tree;
mod unpack;

pub use apply::{Applied, ApplyOptions, Ownership, apply};
pub use attributes::Unkept;
pub use limits::ApplyLimits;
pub use split::reassemble;
