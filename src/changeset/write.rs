//! An UpperDir as a changeset.

use std::io::Write;

use super::options::{DiffOptions, DiffSummary};
use super::pack::Packer;
use super::tar_writer::TarWriter;
use super::walk;
use crate::error::Result;
use crate::format::lookup::Stack;
use crate::pipe::{self, Sink};
use crate::sys::Dir;
use crate::watch::Watch;

/// Writes what `upper` does to the layers `below`, which may be none, as a tar to `out`.
///
/// The bytes depend on the files and the options alone, not on the file system, the order of its
/// directories or its inode numbers. Each directory is followed by its opaque marker, where it
/// hides one below, and by what it holds, sorted by bytes. Of a file with several names the first
/// is the file, the others are hard links. overlayfs's own attributes are left out, as are SELinux,
/// Smack and EVM attributes and those that only one file system knows.
///
/// Files are read on a thread of its own, while the caller's writes what was read before.
///
/// # Errors
/// Where a file may not be read, vanishes or changes while it is read; names that begin with
/// `.wh.`; where a mark leads elsewhere and `below` refuses redirects; where `out` fails.
pub(crate) fn write_diff(
    upper: &Dir,
    below: &Stack,
    out: &mut dyn Write,
    options: &DiffOptions,
    subject: &str,
    watch: &Watch<'_>,
) -> Result<DiffSummary> {
    pipe::ahead_of(out, "changeset", |out| pack_diff(upper, below, out, options, subject, watch))
}

/// As [`write_diff`], on the caller's thread alone.
pub(crate) fn pack_diff(
    upper: &Dir,
    below: &Stack,
    out: &mut dyn Sink,
    options: &DiffOptions,
    subject: &str,
    watch: &Watch<'_>,
) -> Result<DiffSummary> {
    let tar = TarWriter::new(out, watch, subject);
    let mut packer = Packer::new(tar, options, below);
    walk::upper(upper, below, &mut packer, watch)?;
    packer.finish()
}
