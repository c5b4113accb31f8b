//! How much room there is.

use std::os::fd::AsFd;

use super::Tree;
use crate::error::{Context, Result};
use crate::sys::dir::SysResult;

/// How much room there is: what `statvfs(3)` of a mount tells.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The unit of the numbers of blocks, in bytes.
    pub block_size: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// How many of them are free.
    pub free_blocks: u64,
    /// How many of those a process without privilege can use.
    pub available_blocks: u64,
    /// How many files there can be; 0 where the file system sets no number.
    pub files: u64,
    /// How many more files there can be.
    pub free_files: u64,
    /// The longest name that a file can have, in bytes.
    pub longest_name: u64,
}

impl Tree {
    /// How much room there is in the UpperDir, or the topmost layer of a read-only tree, with all
    /// that shares its file system; where that has a project quota, in what the quota leaves.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// use overlay2::merged::{Options, Tree};
    /// use overlay2::{Dir, Namespace};
    ///
    /// let layers = vec![Dir::open_ambient(scratch.path())?];
    /// let space = Tree::read_only(layers, &Options::new(Namespace::User))?.space()?;
    /// let used = (space.blocks - space.free_blocks) * space.block_size;
    /// # assert!(used > 0 || space.free_blocks == space.blocks);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As `fstatvfs(3)`.
    pub fn space(&self) -> Result<Space> {
        let ask = || -> SysResult<Space> {
            let parts = self.core.root.parts()?;
            let told = rustix::fs::fstatvfs(parts.top()?.dir.as_fd())?;
            Ok(Space {
                block_size: told.f_frsize,
                blocks: told.f_blocks,
                free_blocks: told.f_bfree,
                available_blocks: told.f_bavail,
                files: told.f_files,
                free_files: told.f_ffree,
                longest_name: told.f_namemax,
            })
        };
        ask().during("ask for the room in", "merged tree")
    }
}
