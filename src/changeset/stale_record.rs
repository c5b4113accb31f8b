//! A recorded mode that a `chmod` through a kernel mount left behind.
//!
//! Where owners are recorded in an attribute, a kernel mount knows nothing of it: its copy-up copies
//! the attribute with the file, and a `chmod` changes the file's own mode alone. So a file whose
//! record is still the one below, but whose own mode is another, was given that mode.

use super::node::{Depth, Node};
use super::old_tree::OldTree;
use crate::format::lookup::Found;
use crate::format::override_stat::{self, OverrideStat};
use crate::inode::Inode;
use crate::sys::dir::{SysResult, type_of};

/// Puts the mode that `node`, the upper file or directory called `name`, was given into its record.
pub(super) fn renew(node: &mut Node, name: &[u8], old: &mut OldTree<'_>) -> SysResult<()> {
    if !node.inode.xattrs.contains_key(override_stat::NAME) {
        return Ok(());
    }
    let namespace = old.stack().namespace();
    let (part, kind) = match old.found()? {
        Found::Absent => return Ok(()),
        Found::Directory(dir, _) => {
            let below = Node::of_dir(&dir.top()?.dir, 0)?;
            renew_from(&mut node.inode, &below.inode);
            return Ok(());
        }
        Found::File(file) => (file.part, type_of(&file.stat).into()),
    };
    let Some(part) = old.dir()?.and_then(|dir| dir.parts.get(part)) else { return Ok(()) };
    let below = Node::open(&part.dir, name, kind, 0, Depth::Whole, namespace)?;
    renew_from(&mut node.inode, &below.inode);
    Ok(())
}

fn renew_from(inode: &mut Inode, below: &Inode) {
    let record = inode.xattrs.get(override_stat::NAME);
    if record != below.xattrs.get(override_stat::NAME) || inode.mode == below.mode {
        return;
    }
    let Some(mut record) = record.and_then(|value| OverrideStat::decode(value)) else { return };
    record.mode = inode.mode;
    inode.xattrs.insert(override_stat::NAME.to_vec(), record.encode());
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
    fn a_chmod_through_a_mount_counts_and_nothing_else() {
        let below = file(0o755, "0:0:0755:file");
        for (mode, record, renewed) in [
            (0o700, "0:0:0755:file", "0:0:0700:file"),
            (0o755, "0:0:0755:file", "0:0:0755:file"),
            // The record itself was changed, by whoever knows of it.
            (0o700, "0:0:0600:file", "0:0:0600:file"),
        ] {
            let mut inode = file(mode, record);
            renew_from(&mut inode, &below);
            assert_eq!(inode.xattrs[override_stat::NAME], renewed.as_bytes(), "{mode:o} {record}");
        }
    }
}
