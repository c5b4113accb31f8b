//! Which overlays are mounted where.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, ErrorKind, Result};
use crate::sys::Dir;
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

impl MountEntry {
    /// Whether it writes to the UpperDir `upper`: see [`with_upper`].
    pub(crate) fn writes_to(&self, upper: &Path) -> bool {
        self.upper.as_deref().is_some_and(|path| is_same(path, upper))
    }
}

/// All overlays that are mounted in the mount namespace of the process.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn overlays() -> Result<Vec<MountEntry>> {
    overlays_with(None)
}

fn overlays_with(word: Option<&[u8]>) -> Result<Vec<MountEntry>> {
    let mounts = mountinfo::read(word).during("read", "/proc/self/mountinfo")?;
    Ok(mounts.into_iter().filter(|info| info.file_system == b"overlay").map(entry).collect())
}

/// Whether something is mounted at a directory; told without `/proc`, but not what it is.
///
/// # Errors
/// As the operating system has them; a directory that is not there has no mount.
pub fn is_mounted_at(target: &Path) -> Result<bool> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Ok(true);
    };
    let found = Dir::open_ambient(parent)
        .and_then(|dir| dir.is_mount_point(name.as_bytes()).during("look at", target));
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// What is mounted topmost at a directory, whatever it is; `None` where nothing is.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn at(target: &Path) -> Result<Option<MountEntry>> {
    let mounts = mountinfo::read(None).during("read", "/proc/self/mountinfo")?;
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
    // The name of its parent stands in the line as it is where nothing in it is escaped.
    let parent = upper.parent().and_then(Path::file_name).map(OsStr::as_bytes);
    let plain = |name: &&[u8]| name.iter().all(u8::is_ascii_alphanumeric);
    let mut overlays = overlays_with(parent.filter(plain))?;
    overlays.retain(|entry| entry.writes_to(upper));
    Ok(overlays)
}

/// The first process in the mount namespace with the inode `namespace` that shows an overlay which
/// writes to `upper`, known by its last names alone: paths may mean something else there. `None`
/// where there is none, or the caller may not look.
pub(crate) fn seen_in(namespace: u64, upper: &Path) -> Option<u32> {
    let (process, table) = mountinfo::table_of(namespace)?;
    let mounts = mountinfo::read_of(&table, None).ok()?;
    let writes = |info: MountInfo| entry(info).upper.is_some_and(|path| ends_alike(&path, upper));
    mounts.into_iter().filter(|info| info.file_system == b"overlay").any(writes).then_some(process)
}

fn ends_alike(one: &Path, other: &Path) -> bool {
    const NAMES: usize = 3;
    let last = |path: &Path| -> Vec<OsString> {
        path.components().rev().take(NAMES).map(|name| name.as_os_str().to_owned()).collect()
    };
    last(one) == last(other)
}

fn is_same(mounted: &Path, upper: &Path) -> bool {
    mounted == upper
        || ends_alike(mounted, upper)
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

/// A mount that shows a directory.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Showing {
    /// Where it is mounted.
    pub target: PathBuf,
    /// A process that sees it, where that is in another mount namespace than the caller.
    pub process: Option<u32>,
    /// The one of the names asked for that it shows.
    pub name: String,
}

/// The first mount that shows a directory whose path begins with one of `names`: an overlay with such
/// a layer, or a bind mount of what is beneath it. Mounts in the namespaces of other processes count
/// too, as far as the caller may read of them. Those with an UpperDir or a mount point beneath `own`
/// do not count: a namespace takes copies of them along that is made while they are there.
/// Where `/proc` is not mounted, nothing is found.
pub fn showing(names: &HashSet<String>, own: &Path) -> Option<Showing> {
    let is_own = |info: &MountInfo| {
        info.target.starts_with(own) || info.paths().any(|path| Path::new(path).starts_with(own))
    };
    let find = |table: &CStr| -> Option<(PathBuf, String)> {
        let mounts = mountinfo::read_of(table, None).ok()?;
        mounts.into_iter().filter(|info| !is_own(info)).find_map(|info| {
            let shown =
                |text: &str| names.iter().find(|name| text.starts_with(name.as_str())).cloned();
            let name = info.paths().find_map(shown)?;
            Some((info.target, name))
        })
    };
    if let Some((target, name)) = find(c"/proc/self/mountinfo") {
        return Some(Showing { target, process: None, name });
    }
    for (process, table) in mountinfo::other_tables() {
        if let Some((target, name)) = find(&table) {
            return Some(Showing { target, process: Some(process), name });
        }
    }
    None
}
