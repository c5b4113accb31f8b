//! A recorded owner or mode that a `chown` or `chmod` through a kernel mount left behind.
//!
//! Where owners are recorded in an attribute, a kernel mount knows nothing of it: its copy-up copies
//! the attribute with the file, and a `chmod` or `chown` changes the file's own mode and owner alone.
//! So a file whose record is still the one below, but whose own mode or owner is another, was given
//! that.

use std::sync::Arc;

use super::node::{Depth, Node};
use super::old_tree::OldTree;
use crate::format::lookup::{Found, Part, Stack};
use crate::format::override_stat::{self, OnDisk, OverrideStat};
use crate::format::whiteout;
use crate::id_map::Ids;
use crate::inode::Inode;
use crate::sys::dir::{SysResult, type_of};

/// Puts what `node`, the upper file or directory called `name`, was given into its record.
pub(super) fn renew(node: &mut Node, name: &[u8], old: &mut OldTree<'_>) -> SysResult<()> {
    if !is_recorded(node) {
        return Ok(());
    }
    let (part, kind) = match old.found()? {
        Found::Absent => return Ok(()),
        Found::Directory(dir, _) => {
            let below = Node::of_dir(&dir.top()?.dir, 0)?;
            renew_from(&mut node.inode, &below.inode, old.stack().ids());
            return Ok(());
        }
        Found::File(file) => (file.part, type_of(&file.stat).into()),
    };
    let namespace = old.stack().namespace();
    let Some(part) = old.dir()?.and_then(|dir| dir.parts.get(part)) else { return Ok(()) };
    let below = Node::open(&part.dir, name, kind, 0, Depth::Whole, namespace)?;
    renew_from(&mut node.inode, &below.inode, old.stack().ids());
    Ok(())
}

/// The same for a file of a stack, with the directories `below` in which its name may be too.
pub(super) fn renew_file(
    node: &mut Node,
    name: &[u8],
    below: &[Arc<Part>],
    stack: &Stack,
) -> SysResult<()> {
    if !is_recorded(node) {
        return Ok(());
    }
    for part in below {
        let Some(stat) = part.dir.stat_if_exists(name)? else { continue };
        let kind = type_of(&stat);
        if kind != rustix::fs::FileType::Directory && !whiteout::is_whiteout(&stat) {
            let namespace = stack.namespace();
            let below = Node::open(&part.dir, name, kind.into(), 0, Depth::Whole, namespace)?;
            renew_from(&mut node.inode, &below.inode, stack.ids());
        }
        return Ok(());
    }
    Ok(())
}

/// The same for a directory of a stack, with the next one that it merges with.
pub(super) fn renew_directory(
    node: &mut Node,
    below: Option<&Arc<Part>>,
    stack: &Stack,
) -> SysResult<()> {
    if let Some(part) = below.filter(|_| is_recorded(node)) {
        let below = Node::of_dir(&part.dir, 0)?;
        renew_from(&mut node.inode, &below.inode, stack.ids());
    }
    Ok(())
}

fn is_recorded(node: &Node) -> bool {
    node.inode.xattrs.contains_key(override_stat::NAME)
}

fn renew_from(inode: &mut Inode, below: &Inode, ids: Option<&Arc<Ids>>) {
    let record = |inode: &Inode| OverrideStat::decode(inode.xattrs.get(override_stat::NAME)?);
    let on_disk = |inode: &Inode| OnDisk { owner: (inode.uid, inode.gid), mode: inode.mode };
    let (Some(now), Some(before)) = (record(inode), record(below)) else { return };
    let renewed = now.clone().renewed(on_disk(inode), (&before, on_disk(below)), ids);
    if renewed != now {
        inode.xattrs.insert(override_stat::NAME.to_vec(), renewed.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::FileKind;

    fn file(mode: u32, record: &str) -> Inode {
        let mut inode =
            Inode { kind: FileKind::Regular { size: 0 }, mode, ..Inode::default_directory() };
        inode.xattrs.insert(override_stat::NAME.to_vec(), record.as_bytes().to_vec());
        inode
    }

    #[test]
    fn a_chown_through_a_mount_counts_as_the_namespace_saw_it() {
        let below = Inode { uid: 1000, gid: 1000, ..file(0o755, "7:8:0755:file") };
        let owned = |uid, gid, mode| Inode { uid, gid, ..file(mode, "7:8:0755:file") };
        let map = |text: &str| text.parse().unwrap();
        let ids =
            Ids { uids: map("0 1000 1\n1 100000 65536"), gids: map("0 1000 1\n1 200000 65536") };
        let ids = Arc::new(ids);
        for (mut inode, ids, renewed) in [
            (owned(1000, 1000, 0o755), Some(&ids), "7:8:0755:file"),
            (owned(100_032, 200_033, 0o755), Some(&ids), "33:34:0755:file"),
            // The group alone: the user is the store's, which is root inside.
            (owned(1000, 200_033, 0o700), Some(&ids), "0:34:0700:file"),
            (owned(33, 34, 0o755), None, "33:34:0755:file"),
        ] {
            renew_from(&mut inode, &below, ids);
            assert_eq!(inode.xattrs[override_stat::NAME], renewed.as_bytes());
        }
    }

    #[test]
    fn a_chmod_through_a_mount_counts_and_nothing_else() {
        let below = file(0o755, "0:0:0755:file");
        for (mode, record, renewed) in [
            (0o700, "0:0:0755:file", "0:0:0700:file"),
            (0o755, "0:0:0755:file", "0:0:0755:file"),
            // The record itself was changed, by whoever knows of it.
            (0o700, "0:0:0600:file", "0:0:0600:file"),
        ] {
            let mut inode = file(mode, record);
            renew_from(&mut inode, &below, None);
            assert_eq!(inode.xattrs[override_stat::NAME], renewed.as_bytes(), "{mode:o} {record}");
        }
    }
}
