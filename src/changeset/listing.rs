//! The list of a layer directory that was not made of a changeset alone: a variant.

use std::collections::HashMap;

use rustix::fs::OFlags;

use super::Ownership;
use super::checksum::Checksum;
use super::entries::{EntriesWriter, Listed};
use crate::error::{Context, Result};
use crate::format::whiteout;
use crate::inode::{FileKind, Inode};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::type_of;
use crate::sys::inode_io;
use crate::watch::Watch;

/// How much a layer directory holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TreeSize {
    /// Bytes in its files, a file with several names counted once.
    pub(crate) bytes: u64,
    /// Its files, directories and other inodes.
    pub(crate) inodes: u64,
}

/// Writes down in `side` what `layer` holds, as it is now; gives how much that is.
pub(crate) fn list_tree(
    layer: &Dir,
    side: &Dir,
    ownership: Ownership,
    watch: &Watch<'_>,
) -> Result<TreeSize> {
    let mut held = TreeSize { bytes: 0, inodes: 1 };
    let mut out = EntriesWriter::new(side)?;
    let listed = |inode: Inode, checksum| Listed {
        kind: inode.kind,
        mode: inode.mode,
        owner: (ownership == Ownership::Exact).then_some((inode.uid, inode.gid)),
        mtime: inode.mtime,
        xattrs: inode.xattrs,
        checksum,
    };
    let root = LayerPath::root();
    let inode = inode_io::read_self(&layer.descend(&root).during("open directory", &root)?);
    out.inode(&root, &listed(inode.during("read", &root)?, 0))?;
    let mut first_names: HashMap<(u64, u64), LayerPath> = HashMap::new();
    let mut pending = vec![root];
    while let Some(at) = pending.pop() {
        watch.check()?;
        let dir = layer.descend(&at).during("open directory", &at)?;
        for entry in dir.sorted_entries().during("read directory", &at)? {
            let path = at.join(&entry.name);
            let stat = dir.stat(&entry.name).during("stat", &path)?;
            if whiteout::is_whiteout(&stat) {
                held.inodes += 1;
                out.whiteout(&path)?;
                continue;
            }
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = first_names.get(&identity) {
                out.link(&path, first)?;
                continue;
            }
            let inode = inode_io::from_stat(&dir, &entry.name, &stat).during("read", &path)?;
            let mut checksum = 0;
            held.inodes += 1;
            match inode.kind {
                FileKind::Regular { size } => {
                    held.bytes = held.bytes.saturating_add(size);
                    let file = dir.open(&entry.name, OFlags::RDONLY | OFlags::NONBLOCK, 0);
                    let sum = file.and_then(|file| Checksum::of_file(&file, size));
                    checksum = sum.during("read", &path)?;
                }
                FileKind::Directory => pending.push(path.clone()),
                _ => {}
            }
            out.inode(&path, &listed(inode, checksum))?;
            if stat.st_nlink > 1 && type_of(&stat) != rustix::fs::FileType::Directory {
                first_names.insert(identity, path);
            }
        }
    }
    out.finish().map(|()| held)
}
