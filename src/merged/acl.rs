//! ACLs, which the kernel looks at before it copies anything up.
//!
//! Source: `fs/posix_acl.c`, `posix_acl_from_xattr` and `posix_acl_valid`; the layout of
//! `linux/posix_acl_xattr.h`.

use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Core;
use super::attributes::is_mapped;
use super::node::Node;
use super::ownership::real_kind;
use crate::sys::dir::SysResult;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// One entry: whom it is about, and what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    tag: u16,
    permissions: u16,
}

/// Whether an attribute is an ACL.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Reads the value of an ACL; one without entries is none.
///
/// # Errors
/// EOPNOTSUPP for another version; EINVAL for what is none, and for ids that cannot be expressed.
pub(super) fn parse(value: &[u8]) -> SysResult<Option<Vec<Entry>>> {
    if value.is_empty() {
        return Ok(None);
    }
    let (version, entries) = value.split_first_chunk().ok_or(Errno::INVAL)?;
    if u32::from_le_bytes(*version) != VERSION {
        return Err(Errno::OPNOTSUPP);
    }
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Errno::INVAL);
    }
    let entries = entries.iter().map(entry).collect::<SysResult<Vec<_>>>()?;
    Ok((!entries.is_empty()).then_some(entries))
}

fn entry(&[t0, t1, p0, p1, i0, i1, i2, i3]: &[u8; 8]) -> SysResult<Entry> {
    let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    let is_sound = match tag {
        USER_OBJ | GROUP_OBJ | MASK | OTHER => true,
        USER => id != u32::MAX && is_mapped("uid", Some(id)),
        GROUP => id != u32::MAX && is_mapped("gid", Some(id)),
        _ => false,
    };
    if is_sound { Ok(Entry { tag, permissions }) } else { Err(Errno::INVAL) }
}

/// Whether the entries are those that an ACL must have, in their order: the owner, users, the
/// group, groups, the mask where there are users or groups, the others.
fn is_valid(entries: &[Entry]) -> bool {
    let tags: Vec<_> = entries.iter().map(|entry| entry.tag).collect();
    let has_names = tags.iter().any(|tag| matches!(*tag, USER | GROUP));
    let is_once = |tag| tags.iter().filter(|other| **other == tag).count() == 1;
    tags.is_sorted()
        && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(is_once)
        && (is_once(MASK) || (!has_names && !tags.contains(&MASK)))
        && entries.iter().all(|entry| entry.permissions <= 7)
}

impl Core {
    /// What the kernel checks before it copies up to set an ACL, or to remove it where that is
    /// `None`; `false` where there is nothing to be done.
    pub(super) fn may_set_acl(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        acl: Option<&[Entry]>,
    ) -> SysResult<bool> {
        let kind = real_kind(&node.real());
        if kind == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        if name == DEFAULT && kind != FileType::Directory {
            return if acl.is_some() { Err(Errno::ACCESS) } else { Ok(false) };
        }
        self.must_own(node)?;
        if acl.is_some_and(|entries| !is_valid(entries)) {
            return Err(Errno::INVAL);
        }
        if acl.is_none() && !self.is_upper(node)? {
            self.get_xattr(node, name)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel answers to each is in the table of `merged/tests`.
    #[test]
    fn entries_and_their_order() {
        let value = |tags: &[u8]| {
            let entries = tags.iter().flat_map(|tag| [*tag, 0, 7, 0, 0, 0, 0, 0]);
            [2, 0, 0, 0].into_iter().chain(entries).collect::<Vec<u8>>()
        };
        for (tags, sound) in [
            (&[1, 4, 32][..], true),
            (&[1, 4, 16, 32], true),
            (&[1, 2, 2, 4, 8, 16, 32], true),
            (&[1, 2, 4, 32], false),
            (&[1, 4, 8, 32], false),
            (&[1, 4], false),
            (&[4, 32], false),
            (&[1, 1, 4, 32], false),
            (&[1, 4, 16, 16, 32], false),
            (&[1, 4, 2, 16, 32], false),
            (&[1, 4, 32, 16], false),
        ] {
            let entries = parse(&value(tags)).unwrap().unwrap();
            assert_eq!(is_valid(&entries), sound, "{tags:?}");
        }
        assert_eq!(parse(&value(&[])), Ok(None));
        assert_eq!(parse(&value(&[3])), Err(Errno::INVAL));
        assert_eq!(parse(b"old\0"), Err(Errno::OPNOTSUPP));
    }
}
