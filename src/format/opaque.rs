//! The `opaque` mark of a directory.

use rustix::io::Errno;

use super::xattr_name::mark;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::xattr::{self, Target};

/// How a directory hides what lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opaque {
    /// Not at all.
    No,
    /// All of it.
    Yes,
    /// Not as a whole, but it may hold xattr whiteouts.
    XattrWhiteouts,
}

impl Opaque {
    /// Reads the mark of a directory.
    pub(crate) fn read(namespace: Namespace, directory: Target<'_>) -> SysResult<Self> {
        let value = xattr::get(directory, &namespace.name(mark::OPAQUE))?;
        Ok(Self::parse(value.as_deref()))
    }

    /// Reads the mark of a layer's root. The kernel asks there for xattr whiteouts alone, which it
    /// leaves out of listings then; an opaque root hides nothing.
    pub(crate) fn of_root(namespace: Namespace, root: &Dir) -> SysResult<Self> {
        match Self::read(namespace, Target::Name(root, b".")) {
            Ok(Self::XattrWhiteouts) => Ok(Self::XattrWhiteouts),
            // As with a whiteout, a mark that cannot be read is not there.
            Ok(Self::No | Self::Yes) | Err(Errno::PERM | Errno::ACCESS) => Ok(Self::No),
            Err(error) => Err(error),
        }
    }

    /// What the mark's value says; `None` where there is no mark.
    pub(crate) fn parse(value: Option<&[u8]>) -> Self {
        match value {
            Some(b"y") => Self::Yes,
            Some(b"x") => Self::XattrWhiteouts,
            _ => Self::No,
        }
    }
}

/// Marks a directory so that nothing below it shows.
pub(crate) fn make(namespace: Namespace, directory: Target<'_>) -> SysResult<()> {
    xattr::set(directory, &namespace.name(mark::OPAQUE), b"y")
}
