//! [`ApplyLimits`]: how much a changeset may ask for.

use crate::error::{Error, ErrorKind, Result};

/// Bounds on what one changeset may hold, so that a hostile one ends in an error and not in a full
/// disk or an exhausted process. The defaults let every real layer pass.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyLimits {
    /// Entries of the tar, those that only mark or describe others included. Default 10,000,000.
    pub entries: u64,
    /// Bytes of the uncompressed changeset. Default 1 TiB.
    pub bytes: u64,
    /// Bytes of one file, holes included. Default 1 TiB.
    pub file_bytes: u64,
    /// Bytes of one path or link target. Default 64 KiB.
    pub path_bytes: usize,
    /// Names in one path. Default 2,048.
    pub depth: usize,
    /// Bytes of the extended headers that describe one entry. Default 4 MiB.
    pub header_bytes: u64,
    /// Bytes of the extended attributes of all entries together, names and values, which a global header
    /// gives to each without standing in the archive again. Default 256 MiB.
    pub attribute_bytes: u64,
    /// Runs of data in one sparse file. Default 1,000,000.
    pub sparse_runs: usize,
    /// Directories, whiteouts, unresolved hard links and the targets of those, which are held in
    /// memory; one counts once more for each 64 bytes of its path. Default 2,000,000.
    pub marks: u64,
}

impl Default for ApplyLimits {
    fn default() -> Self {
        Self {
            entries: 10_000_000,
            bytes: 1 << 40,
            file_bytes: 1 << 40,
            path_bytes: 64 << 10,
            depth: 2_048,
            header_bytes: 4 << 20,
            attribute_bytes: 256 << 20,
            sparse_runs: 1_000_000,
            marks: 2_000_000,
        }
    }
}

impl ApplyLimits {
    /// For a changeset that was within the limits when it was applied first. Symlinks below may lead
    /// each of its entries through directories of their own, so marks are still bounded.
    pub(crate) fn once_more() -> Self {
        Self {
            entries: u64::MAX,
            bytes: u64::MAX,
            file_bytes: u64::MAX,
            path_bytes: usize::MAX,
            depth: usize::MAX,
            header_bytes: u64::MAX,
            attribute_bytes: u64::MAX,
            sparse_runs: usize::MAX,
            ..Self::default()
        }
    }
}

/// Fails where `value` is above `limit`.
pub(super) fn check<T: PartialOrd + std::fmt::Display>(
    value: T,
    limit: T,
    what: &'static str,
) -> Result<()> {
    if value <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitExceeded, format!("{value} {what}, and {limit} are allowed"))
        .hint("raise the limit in ApplyLimits if the changeset can be trusted"))
}
