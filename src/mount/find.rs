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

/// The overlays that write to the UpperDir `upper`, whatever path it had when it was mounted: that
/// of a store that was moved since, or that is seen through another mount.
///
/// Such a path is known by its last three names, which must be the UpperDir's alone (a container's
/// id is among them), unless it leads to another directory, as in the copy of a store.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn with_upper(upper: &Path) -> Result<Vec<MountEntry>> {
    let mut overlays = overlays()?;
    overlays.retain(|entry| entry.upper.as_deref().is_some_and(|path| is_same(path, upper)));
    Ok(overlays)
}

fn is_same(mounted: &Path, upper: &Path) -> bool {
    const NAMES: usize = 3;
    let last = |path: &Path| -> Vec<OsString> {
        path.components().rev().take(NAMES).map(|name| name.as_os_str().to_owned()).collect()
    };
    mounted == upper
        || last(mounted) == last(upper)
            && match (rustix::fs::lstat(mounted), rustix::fs::lstat(upper)) {
                (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
                _ => true,
            }
}

fn entry(info: MountInfo) -> MountEntry {
    let upper = info.option("upperdir").map(|path| OsString::from_vec(path).into());
    // Linux 6.18 spells it the second way.
    let volatile = info.has("volatile") || info.has("fsync=volatile");
    MountEntry { target: info.target, upper, volatile }
}
