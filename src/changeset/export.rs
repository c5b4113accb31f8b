//! A whole merged tree as one flat tar.

use std::io::Write;

use super::options::{DiffOptions, DiffSummary};
use super::pack::Packer;
use super::tar_writer::TarWriter;
use super::walk;
use crate::error::Result;
use crate::format::lookup::Stack;
use crate::pipe;
use crate::watch::Watch;

/// Writes the tree that the layers of `stack` show, an UpperDir among them or not, without any
/// whiteout, in the form of [`write_diff`](super::write::write_diff).
///
/// Hard links are kept inside a layer; two layers never share a file.
///
/// # Errors
/// As [`write_diff`](super::write::write_diff).
pub(crate) fn export(
    stack: &Stack,
    out: &mut dyn Write,
    options: &DiffOptions,
    subject: &str,
    watch: &Watch<'_>,
) -> Result<DiffSummary> {
    pipe::ahead_of(out, "changeset", |out| {
        let tar = TarWriter::new(out, watch, subject);
        let mut packer = Packer::new(tar, options, stack);
        walk::stack(stack, &mut packer, watch)?;
        packer.finish()
    })
}
