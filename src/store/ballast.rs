//! Room that is held back, so that things can be removed where the disk is full.
//!
//! What is removed moves to the trash, and even that may take a block: on XFS the trash holds three or
//! four names in its inode, and then needs one. So a store has a file of 1 MiB that nobody reads. Where
//! a removal finds no room it is cut to nothing, and is given its size back when the trash is emptied.

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use super::Store;
use super::layout::BALLAST_FILE;
use crate::sys::Dir;
use crate::sys::dir::SysResult;

/// What XFS wants to see free before it enters a name into a directory, several times over.
const BYTES: u64 = 1 << 20;

impl Store {
    /// Does a step of a removal; where there is no room for it, once more with what was held back.
    pub(super) fn with_ballast<T>(&self, step: impl Fn() -> SysResult<T>) -> SysResult<T> {
        match step() {
            Err(full @ (Errno::NOSPC | Errno::DQUOT)) => {
                let flags = OFlags::WRONLY | OFlags::TRUNC;
                // Cut, not removed: the room is there at once.
                match self.0.root.open(BALLAST_FILE.as_bytes(), flags, 0) {
                    Ok(_) => step(),
                    Err(_) => Err(full),
                }
            }
            other => other,
        }
    }
}

/// Holds room back where there is some; where there is none, that is no error.
pub(super) fn hold(root: &Dir) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    if let Ok(file) = root.open(BALLAST_FILE.as_bytes(), flags, 0o600) {
        // A file system without this can do without the file.
        let _ = fallocate(&file, FallocateFlags::empty(), 0, BYTES);
    }
}
