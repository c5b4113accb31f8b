//! Whiteouts: as names in a changeset, and as files on disk.

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::xattr_name::mark;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::inode::Device;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, device_of, type_of};
use crate::sys::xattr::{self, Target};

/// What begins the name of every mark in a changeset.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// The name that marks the directory it stands in as opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What one name in a changeset means.
///
/// Source: OCI image-spec, layer.md, "Whiteouts".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryName<'a> {
    /// A file of that name.
    Plain(&'a [u8]),
    /// Nothing of this name, in this directory, shows from the layers below.
    Whiteout(&'a [u8]),
    /// Nothing at all shows from the layers below in this directory.
    Opaque,
    /// AUFS's own files (`.wh..wh.plnk` and others): of no meaning, with all beneath them.
    Bookkeeping,
}

impl<'a> EntryName<'a> {
    /// Reads a single name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] where it would delete nothing that has a name: `.wh.`, `.wh..`,
    /// `.wh...`.
    pub(crate) fn parse(name: &'a [u8]) -> Result<Self> {
        let Some(target) = name.strip_prefix(PREFIX) else {
            return Ok(Self::Plain(name));
        };
        match target {
            _ if name == OPAQUE => Ok(Self::Opaque),
            b"" | b"." | b".." => Err(Error::new(
                ErrorKind::InvalidData,
                format!("{:?} is a whiteout of no name", name.shown()),
            )),
            _ if target.starts_with(PREFIX) => Ok(Self::Bookkeeping),
            _ => Ok(Self::Whiteout(target)),
        }
    }

    /// How a whiteout of `name` is spelled in a changeset.
    pub(crate) fn whiteout_of(name: &[u8]) -> Vec<u8> {
        [PREFIX, name].concat()
    }
}

/// Whether a status is that of a whiteout on disk: a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    type_of(stat) == FileType::CharacterDevice && device_of(stat) == Device::ZERO
}

/// Whether `name`, of which `stat` is the status, is an xattr whiteout: an empty regular file that
/// carries the mark.
pub(crate) fn is_xattr_whiteout(
    namespace: Namespace,
    dir: &Dir,
    name: &[u8],
    stat: &Stat,
) -> SysResult<bool> {
    if type_of(stat) != FileType::RegularFile || stat.st_size != 0 {
        return Ok(false);
    }
    match xattr::get(Target::Name(dir, name), &namespace.name(mark::WHITEOUT)) {
        Ok(value) => Ok(value.is_some()),
        // The kernel too takes a file whose attributes it cannot read for an ordinary one.
        Err(Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a whiteout of `name`, which must not exist.
pub(crate) fn make(dir: &Dir, name: &[u8]) -> SysResult<()> {
    dir.make_node(name, FileType::CharacterDevice, 0, Device::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_marks() {
        let parse = |name: &'static str| EntryName::parse(name.as_bytes()).ok();
        for (name, meaning) in [
            ("file", Some(EntryName::Plain(b"file"))),
            (".wh", Some(EntryName::Plain(b".wh"))),
            (".whx", Some(EntryName::Plain(b".whx"))),
            (".wh.file", Some(EntryName::Whiteout(b"file"))),
            (".wh..hidden", Some(EntryName::Whiteout(b".hidden"))),
            (".wh..wh", Some(EntryName::Whiteout(b".wh"))),
            (".wh..wh..opq", Some(EntryName::Opaque)),
            (".wh..wh.plnk", Some(EntryName::Bookkeeping)),
            (".wh..wh.aufs", Some(EntryName::Bookkeeping)),
            (".wh..wh.", Some(EntryName::Bookkeeping)),
            (".wh..wh..opqx", Some(EntryName::Bookkeeping)),
            (".wh.", None),
            (".wh..", None),
            (".wh...", None),
        ] {
            assert_eq!(parse(name), meaning, "{name}");
        }
    }

    #[test]
    fn a_whiteout_on_disk_is_seen_as_one() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temporary.path()).unwrap();
        make(&dir, b"gone").unwrap();
        assert!(is_whiteout(&dir.stat(b"gone").unwrap()));
        dir.make_node(b"pipe", FileType::Fifo, 0o600, Device::ZERO).unwrap();
        assert!(!is_whiteout(&dir.stat(b"pipe").unwrap()));
    }
}
