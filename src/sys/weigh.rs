//! How much room a tree takes.

use std::collections::HashSet;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::dir::{Dir, SysResult, type_of};
use crate::layer_path::LayerPath;

/// The room that a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Bytes in its files, holes included.
    pub(crate) content: u64,
    /// Bytes of all blocks that it occupies, directories and attributes included.
    pub(crate) allocated: u64,
    /// Files, directories and other inodes.
    pub(crate) inodes: u64,
}

/// The room that a directory takes with all beneath; a file with several names counts once.
///
/// What is removed meanwhile is left out.
pub(crate) fn weigh(root: &Dir) -> SysResult<Weight> {
    // A block of `st_blocks` is always this long (stat(2)).
    let blocks = |stat: &rustix::fs::Stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    let mut weight = Weight { allocated: blocks(&root.stat_self()?), content: 0, inodes: 1 };
    let mut seen = HashSet::new();
    let mut pending = vec![LayerPath::root()];
    while let Some(path) = pending.pop() {
        let dir = match root.descend(&path) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        for entry in dir.entries()? {
            let Some(stat) = dir.stat_if_exists(&entry.name)? else { continue };
            let kind = type_of(&stat);
            if stat.st_nlink > 1
                && kind != FileType::Directory
                && !seen.insert((stat.st_dev, stat.st_ino))
            {
                continue;
            }
            weight.inodes += 1;
            weight.allocated += blocks(&stat);
            match kind {
                FileType::Directory => pending.push(path.join(&entry.name)),
                FileType::RegularFile => {
                    weight.content += u64::try_from(stat.st_size).unwrap_or(0);
                }
                _ => {}
            }
        }
    }
    Ok(weight)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a scene is laid out from outside")]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), [7; 5000]).unwrap();
        std::fs::hard_link(root.join("d/f"), root.join("g")).unwrap();
        let weight = weigh(&Dir::open_ambient(root).unwrap()).unwrap();
        assert_eq!((weight.content, weight.inodes), (5000, 3));
        assert!(weight.allocated >= 5000, "{weight:?}");
    }
}
