//! Which overlays are mounted where.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use super::known::{self, Known};
use crate::error::{Context, ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::mountinfo::{self, MountInfo};

/// An overlay that the process sees mounted.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The UpperDir, by the path that it had when it was mounted, or by which [`with_upper`] was asked
    /// for it; `None` where it has none.
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
/// What this crate mounted is known by the source that it gave it, where the kernel tells that (Linux
/// 6.13); what others mounted by the path: the last three names, which must be the UpperDir's alone (a
/// container's id is among them), unless it leads to another directory, as in the copy of a store.
///
/// # Errors
/// Where the kernel does not tell and `/proc` is not mounted.
pub fn with_upper(upper: &Path) -> Result<Vec<MountEntry>> {
    asked_one_by_one(upper).map_or_else(|| in_table(upper), Ok)
}

/// As [`with_upper`], read in the table of all mounts.
pub(super) fn in_table(upper: &Path) -> Result<Vec<MountEntry>> {
    // The name of its parent stands in the line as it is where nothing in it is escaped.
    let parent = upper.parent().and_then(Path::file_name).map(OsStr::as_bytes);
    let plain = |name: &&[u8]| name.iter().all(u8::is_ascii_alphanumeric);
    let mut overlays = overlays_with(parent.filter(plain))?;
    overlays.retain(|entry| entry.writes_to(upper));
    Ok(overlays)
}

/// As [`with_upper`], by questions to the kernel whose cost does not depend on how many layers the
/// mounts have; `None` where it does not answer them.
pub(super) fn asked_one_by_one(upper: &Path) -> Option<Vec<MountEntry>> {
    let wanted = Source::of(&rustix::fs::lstat(upper).ok()?);
    let mut found = Vec::new();
    for (id, known) in known::overlays().ok()? {
        let entry = match known {
            Known::Ours { source, volatile } if source == wanted => {
                MountEntry { target: PathBuf::new(), upper: Some(upper.to_owned()), volatile }
            }
            Known::Others(entry) if entry.writes_to(upper) => (*entry).clone(),
            _ => continue,
        };
        if let Some(target) = id.target().ok()? {
            found.push(MountEntry { target, ..entry });
        }
    }
    Some(found)
}

/// What overlays with an UpperDir are mounted from, so that they are known by it, however the
/// UpperDir is called now: `overlay2:DEVICE:INODE` of that, and `:volatile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    device: u64,
    inode: u64,
}

impl Source {
    const BEGINNING: &str = "overlay2:";
    const VOLATILE: &str = ":volatile";

    pub(super) fn of(upper: &Stat) -> Self {
        Self { device: upper.st_dev, inode: upper.st_ino }
    }

    pub(super) fn text(self, volatile: bool) -> String {
        let Self { device, inode } = self;
        let ending = if volatile { Self::VOLATILE } else { "" };
        format!("{}{device}:{inode}{ending}", Self::BEGINNING)
    }

    /// Whether it is one, and whether the mount is volatile.
    pub(super) fn parse(text: &[u8]) -> Option<(Self, bool)> {
        let text = std::str::from_utf8(text).ok()?.strip_prefix(Self::BEGINNING)?;
        let numbers = text.strip_suffix(Self::VOLATILE);
        let (device, inode) = numbers.unwrap_or(text).split_once(':')?;
        let source = Self { device: device.parse().ok()?, inode: inode.parse().ok()? };
        Some((source, numbers.is_some()))
    }
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

pub(super) fn entry(info: MountInfo) -> MountEntry {
    let upper = info.option("upperdir").map(|path| OsString::from_vec(path).into());
    // Linux 6.18 spells it the second way.
    let volatile = info.has("volatile") || info.has("fsync=volatile");
    MountEntry { target: info.target, upper, volatile }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_tells_what_it_is_of() {
        let source = Source { device: 2049, inode: u64::MAX };
        for volatile in [false, true] {
            assert_eq!(Source::parse(source.text(volatile).as_bytes()), Some((source, volatile)));
        }
        for other in
            ["overlay", "overlay2:", "overlay2:1", "overlay2:1:x", "overlay2:1:2:3", "none"]
        {
            assert_eq!(Source::parse(other.as_bytes()), None, "{other}");
        }
    }
}
