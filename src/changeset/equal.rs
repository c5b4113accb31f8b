//! Whether a copied-up file is still what lies below it.

use std::fs::File;

use rustix::io::Errno;

use super::node::{Content, Depth, Node, Showing};
use super::old_tree::OldTree;
use crate::format::lookup::Found;
use crate::format::metacopy;
use crate::format::xattr_name::mark;
use crate::inode::Inode;
use crate::sys::dir::{SysResult, type_of};

/// Whether `node`, read as a whole, equals the file below of which `name` is the name: in type,
/// mode, owner, time, attributes and content.
pub(super) fn equals_below(
    node: &Node,
    name: &[u8],
    old: &mut OldTree<'_>,
    showing: &Showing,
) -> SysResult<bool> {
    let namespace = old.stack().namespace();
    let shown = node.shown(showing);
    match old.found()? {
        Found::Absent => Ok(false),
        Found::Directory(dir, _) => {
            let below = Node::of_dir(&dir.top()?.dir, 0)?;
            Ok(same(&shown, &below.shown(showing)))
        }
        Found::File(file) => {
            let (part, kind) = (file.part, type_of(&file.stat).into());
            // A link between two names is lost where one of them is left out.
            if node.stat.st_nlink > 1 || file.stat.st_nlink > 1 {
                return Ok(false);
            }
            let stack = old.stack();
            let dir = old.dir()?.ok_or(Errno::NOENT)?;
            let layer = &dir.parts.get(part).ok_or(Errno::NOENT)?.dir;
            let mut below = Node::open(layer, name, kind, 0, Depth::Whole, namespace)?;
            if !same(&shown, &below.shown(showing)) {
                return Ok(false);
            }
            if below.has_mark(namespace, mark::METACOPY) {
                let data = metacopy::open_data(stack, dir, part, name)?;
                below.content = Some(Content::of(data)?);
            }
            match (&node.content, &below.content) {
                (Some(ours), Some(below)) => same_content(ours, below),
                (ours, below) => Ok(ours.is_none() && below.is_none()),
            }
        }
    }
}

/// Whether the root directory is what it was, its time left aside.
pub(super) fn same_root(shown: &Inode, below: &Inode) -> bool {
    same(shown, &Inode { mtime: shown.mtime, ..below.clone() })
}

fn same(one: &Inode, other: &Inode) -> bool {
    one == other
}

fn same_content(one: &Content, other: &Content) -> SysResult<bool> {
    if one.size != other.size {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    let mut at = 0;
    while at < one.size {
        let read = read_at(&one.file, &mut ours, at)?;
        let ours = ours.get(..read).unwrap_or_default();
        let read_below = read_at(&other.file, &mut theirs, at)?;
        if read == 0 || theirs.get(..read_below) != Some(ours) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

/// Fills `buffer` from `at` on; less only at the end of the file.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> SysResult<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        match rustix::io::pread(file, rest, at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
