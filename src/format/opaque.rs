//! The `opaque` mark of a directory.

use super::xattr_name::mark;
use crate::namespace::Namespace;
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
