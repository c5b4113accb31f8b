//! Room that is held back, so that things can be removed where the disk is full.
//!
//! What is removed moves to the trash, and even that may take a block: on XFS the trash holds three or
//! four names in its inode, and then needs one. So a store has a file of 1 MiB that nobody reads. Where
//! a removal finds no room it is cut to nothing, and is given its size back when the trash is emptied.
//!
//! On a full btrfs even that can fail, or be of no use, since it is room for names that is missing; only
//! deleting goes on there. Then what a container changed, which is to go, is deleted where it stands.

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use super::Store;
use super::layout::{BALLAST_FILE, ContainerId, Object, UPPER};
use crate::error::{ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::remove::empty_directory;

/// What XFS wants to see free before it enters a name into a directory, several times over.
const BYTES: u64 = 1 << 20;

impl Store {
    /// Does a step of a removal; where there is no room for it, once more with what was held back.
    pub(super) fn with_ballast<T>(&self, step: impl Fn() -> SysResult<T>) -> SysResult<T> {
        match step() {
            Err(full) if is_full(full) => self.drop_ballast().map_err(|_| full)?,
            other => return other,
        }
        match step() {
            Err(full) if is_full(full) => self.sync_root().map_err(|_| full)?,
            other => return other,
        }
        // What a transaction of btrfs frees can be used when it has ended.
        step()
    }

    fn drop_ballast(&self) -> SysResult<()> {
        let flags = OFlags::WRONLY | OFlags::TRUNC;
        // Cut, not removed: the room is there at once.
        match self.0.root.open(BALLAST_FILE.as_bytes(), flags, 0) {
            Err(full) if is_full(full) => self.0.root.remove_file(BALLAST_FILE.as_bytes()),
            other => other.map(drop),
        }
    }

    fn sync_root(&self) -> SysResult<()> {
        rustix::fs::syncfs(&self.0.root)
    }

    /// Moves a container, which is held, to the trash; where there is no room for that, what it changed
    /// is deleted first. Gives its name there.
    pub(super) fn discard_container(&self, id: ContainerId, dir: &Dir) -> Result<String> {
        let object = Object::Container(id);
        match self.discard(object) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                let emptied = dir.child(UPPER).and_then(|upper| empty_directory(&upper));
                emptied.and_then(|()| self.sync_root()).map_err(|_| error)?;
                let again =
                    "what it changed is deleted; btrfs has the room in half a minute: try again";
                self.discard(object).map_err(|error| error.hint(again))
            }
            other => other,
        }
    }
}

fn is_full(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT)
}

/// Holds room back where there is some; where there is none, that is no error.
pub(super) fn hold(root: &Dir) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    if let Ok(file) = root.open(BALLAST_FILE.as_bytes(), flags, 0o600) {
        // A file system without this can do without the file.
        let _ = fallocate(&file, FallocateFlags::empty(), 0, BYTES);
    }
}
