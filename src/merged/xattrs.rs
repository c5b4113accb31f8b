//! Extended attributes, as the container sees them: overlayfs's own hidden, its own unescaped.

use std::sync::Arc;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use super::attributes::{has_rights_over, is_root, may_do_all};
use super::copy_up::Data;
use super::node::Node;
use super::ownership::real_kind;
use super::{Core, acl};
use crate::format::override_stat;
use crate::sys::dir::SysResult;
use crate::sys::xattr;

/// What setting an attribute does about one that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Sets it either way.
    #[default]
    Set,
    /// Fails with EEXIST where it is there.
    Create,
    /// Fails with ENODATA where it is not.
    Replace,
}

/// The longest name, and the longest value (`XATTR_NAME_MAX`, `XATTR_SIZE_MAX`).
const LONGEST_NAME: usize = 255;
const LONGEST_VALUE: usize = 64 << 10;

/// What lets a program do more than who runs it.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

impl Core {
    /// The value of an attribute.
    ///
    /// # Errors
    /// ENODATA where there is none; EOPNOTSUPP where there can be none.
    pub(super) fn get_xattr(&self, node: &Node, name: &[u8]) -> SysResult<Vec<u8>> {
        let stored = self.stored_name(name)?;
        xattr::value(node.real().target()?, &stored)
    }

    /// The names of all attributes, sorted by bytes.
    pub(super) fn list_xattrs(&self, node: &Node) -> SysResult<Vec<Vec<u8>>> {
        let stored = xattr::list(node.real().target()?)?;
        let shown = stored.iter().filter(|name| !self.is_record(name));
        let mut names: Vec<_> =
            shown.filter_map(|name| self.options.namespace.unescape(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn set_xattr(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> SysResult<()> {
        if value.len() > LONGEST_VALUE {
            return Err(Errno::TOOBIG);
        }
        if self.is_record(name) {
            // As though there were none, and nobody might make one.
            return Err(if mode == XattrMode::Replace { Errno::NODATA } else { Errno::PERM });
        }
        let stored = self.stored_name(name)?;
        self.may_set_xattr(node, name)?;
        if acl::is_acl(name) && !self.may_set_acl(node, name, acl::parse(value)?.as_deref())? {
            return Ok(());
        }
        self.copy_up(node, Data::Whole)?;
        // It may be an ACL.
        node.set_searched(false);
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        let real = node.real();
        let is_acl = name == acl::ACCESS && self.records_owners();
        let record = match is_acl {
            true => self.record_now(node, &real, &real.stat()?)?,
            false => None,
        };
        xattr::set_held(real.held()?, &stored, value, flags)?;
        if let Some(mut record) = record {
            // The ACL says what the permission bits are, and the file on disk has them now.
            record.mode = record.mode & 0o7000 | real.stat()?.st_mode & 0o777;
            self.record(real.target()?, &record)?;
        }
        Ok(())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA where there is none, and nothing is copied up; of ACLs only below, as in the kernel.
    pub(super) fn remove_xattr(&self, node: &Arc<Node>, name: &[u8]) -> SysResult<()> {
        let stored = self.stored_name(name)?;
        self.may_set_xattr(node, name)?;
        if acl::is_acl(name) {
            if !self.may_set_acl(node, name, None)? {
                return Ok(());
            }
        } else if !self.is_upper(node)? {
            self.get_xattr(node, name)?;
        }
        self.copy_up(node, Data::Whole)?;
        node.set_searched(false);
        xattr::remove_held(node.real().held()?, &stored)
    }

    /// Under which name a container's attribute is stored.
    fn stored_name(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(&0) {
            return Err(Errno::RANGE);
        }
        if self.is_record(name) {
            return Err(Errno::NODATA);
        }
        let known = [&b"user."[..], b"trusted.", b"security.", b"system."];
        if !known.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Errno::OPNOTSUPP);
        }
        if name == self.options.namespace.prefix().as_bytes() {
            // The class alone, which file systems refuse with EINVAL once they have asked who may.
            let class = known.into_iter().find(|prefix| name.starts_with(prefix));
            return class.map(<[u8]>::to_vec).ok_or(Errno::INVAL);
        }
        Ok(self.options.namespace.escape(name))
    }

    fn is_record(&self, name: &[u8]) -> bool {
        self.records_owners() && name == override_stat::NAME
    }

    /// What the kernel checks before it copies up.
    fn may_set_xattr(&self, node: &Node, name: &[u8]) -> SysResult<()> {
        self.upper()?;
        let kind = real_kind(&node.real());
        if name.starts_with(b"user.") {
            if !matches!(kind, FileType::RegularFile | FileType::Directory) {
                return Err(Errno::PERM);
            }
            if kind == FileType::Directory && self.is_anothers_sticky(node)? {
                return Err(Errno::PERM);
            }
            self.must_be_able(node, rustix::fs::Access::WRITE_OK)?;
        }
        let is_refused = match name {
            // It takes rights over the file, where all others take those over the file system.
            CAPABILITY => !may_do_all() && !has_rights_over(&node.real().stat()?),
            _ if name.starts_with(b"trusted.") => !may_do_all(),
            _ => name.starts_with(b"security.") && !is_root(),
        };
        match name == self.options.namespace.prefix().as_bytes() {
            _ if is_refused => Err(Errno::PERM),
            // Overlayfs's own, and no name in it.
            true => Err(Errno::INVAL),
            false => Ok(()),
        }
    }
}
