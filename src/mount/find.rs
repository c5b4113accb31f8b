//! Which overlays are mounted where.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::sys::mountinfo::{self, MountInfo};

/// An overlay that the process sees mounted.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The UpperDir, by the path that it had when it was mounted; `None` where it has none.
    pub upper: Option<PathBuf>,
    /// Whether it was mounted with `volatile`.
    pub volatile: bool,
}

/// All overlays that are mounted in the mount namespace of the process.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn overlays() -> Result<Vec<MountEntry>> {
    let mounts = mountinfo::read().during("read", "/proc/self/mountinfo")?;
    Ok(mounts.into_iter().filter(|info| info.file_system == b"overlay").map(entry).collect())
}

/// What is mounted topmost at a directory, whatever it is; `None` where nothing is.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn at(target: &Path) -> Result<Option<MountEntry>> {
    let mounts = mountinfo::read().during("read", "/proc/self/mountinfo")?;
    Ok(mounts.into_iter().rfind(|info| info.target == target).map(entry))
}

/// The overlays that write to an UpperDir; `upper` is the path that it had when it was mounted.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn with_upper(upper: &Path) -> Result<Vec<MountEntry>> {
    let mut overlays = overlays()?;
    overlays.retain(|entry| entry.upper.as_deref() == Some(upper));
    Ok(overlays)
}

fn entry(info: MountInfo) -> MountEntry {
    let upper = info.option("upperdir").map(|path| OsString::from_vec(path).into());
    // Linux 6.18 spells it the second way.
    let volatile = info.has("volatile") || info.has("fsync=volatile");
    MountEntry { target: info.target, upper, volatile }
}
