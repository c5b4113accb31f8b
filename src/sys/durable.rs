//! What survives a power cut: the steps, each with its name, in their one order.
//!
//! The bytes before the name (write, then sync the file), then the name itself (rename, then sync
//! the directory). A step that is skipped under [`Durability::None`] still keeps its place in the
//! order, so that a crash of the process alone never shows half a file.

use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{OFlags, RenameFlags};
use serde::{Deserialize, Serialize};

use super::dir::{Dir, SysResult};

/// Whether what was reported as done is still there after a power cut.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is. A few `syncfs` for each image that is loaded, however many files and layers it has,
    /// and an `fsync` for each record.
    #[default]
    Full,
    /// It may not be; the store is whole all the same when only the process dies.
    None,
}

/// The file systems whose journal keeps the order of changes: ext4 and XFS.
const ORDERED: [rustix::fs::FsWord; 2] = [0xef53, 0x5846_5342];

impl Durability {
    /// The bytes of a whole tree: everything written to the file system of `dir` so far.
    pub(crate) fn sync_file_system(self, dir: &Dir) -> SysResult<()> {
        match self {
            Self::Full => rustix::fs::syncfs(dir),
            Self::None => Ok(()),
        }
    }

    /// The bytes of one file.
    pub(crate) fn sync_file(self, file: impl AsFd) -> SysResult<()> {
        match self {
            Self::Full => rustix::fs::fsync(file),
            Self::None => Ok(()),
        }
    }

    /// The names in one directory.
    pub(crate) fn sync_names(self, dir: &Dir) -> SysResult<()> {
        match self {
            Self::Full => rustix::fs::fsync(dir),
            Self::None => Ok(()),
        }
    }

    /// The bytes of a file, and names that were made in `dirs` before.
    ///
    /// XFS, and ext4 with its journal, write down changes of names in the order in which they were
    /// made, so that the sync of the file, which is one of the last, brings all of them along.
    /// Elsewhere each directory is synced.
    pub(crate) fn sync_file_and_names<'a>(
        self,
        file: impl AsFd,
        dirs: impl IntoIterator<Item = &'a Dir>,
    ) -> SysResult<()> {
        if self == Self::None {
            return Ok(());
        }
        self.sync_file(file.as_fd())?;
        let ordered = ORDERED.contains(&(rustix::fs::fstatfs(file)?.f_type & 0xffff_ffff));
        dirs.into_iter().filter(|_| !ordered).try_for_each(|dir| self.sync_names(dir))
    }

    /// Replaces or creates the file `name` in one step: a reader, and whoever comes after a
    /// crash, sees the old bytes or the new.
    ///
    /// The temporary name is `.NAME.new`; one that a crash left behind is overwritten. Two writers
    /// of one name must hold a lock.
    pub(crate) fn replace_file(self, dir: &Dir, name: &[u8], bytes: &[u8]) -> SysResult<()> {
        let temporary = temporary_name(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = dir.open(&temporary, flags, 0o600)?;
        let written = file
            .write_all(bytes)
            .map_err(|error| {
                rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
            })
            .and_then(|()| self.sync_file(&file))
            .and_then(|()| dir.rename(&temporary, dir, name, RenameFlags::empty()));
        if let Err(error) = written {
            let _ = dir.remove_file(&temporary);
            return Err(error);
        }
        self.sync_names(dir)
    }
}

/// What [`Durability::replace_file`] writes to before it renames.
pub(crate) fn temporary_name(name: &[u8]) -> Vec<u8> {
    [b".", name, b".new"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        for text in ["first", "second"] {
            Durability::Full.replace_file(&dir, b"record", text.as_bytes()).unwrap();
            assert_eq!(std::fs::read(temporary.path().join("record")).unwrap(), text.as_bytes());
        }
        assert_eq!(dir.entries().unwrap().len(), 1);
    }
}
