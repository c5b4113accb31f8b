//! [`Entry`]: one entry of a changeset, its headers understood.

use super::header::{Header, invalid};
use super::pax::Records;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::inode::{Device, FileKind, Inode, Timestamp};

/// One entry of a changeset.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name as it stands in the tar.
    pub(super) raw_path: Vec<u8>,
    /// What it describes.
    pub(super) body: Body,
    /// Owner, permissions, time and attributes, and for anything but a hard link its kind.
    pub(super) inode: Inode,
    /// The time of the last access, where the tar has one.
    pub(super) atime: Option<Timestamp>,
    /// A POSIX ACL for access, as text.
    pub(super) acl_access: Option<Vec<u8>>,
    /// A POSIX ACL that a directory's new files inherit, as text.
    pub(super) acl_default: Option<Vec<u8>>,
    /// Bytes of payload that follow the headers.
    pub(super) payload: u64,
}

/// What an entry describes.
#[derive(Debug)]
pub(super) enum Body {
    /// A file of the kind that `inode` names, its content dense.
    Inode,
    /// A regular file of which the payload holds only these runs (offset and length).
    Sparse(Vec<(u64, u64)>),
    /// One more name of another file.
    Link(Vec<u8>),
}

/// The long names of GNU's own headers, which stand before an entry.
#[derive(Debug, Default)]
pub(super) struct GnuLong {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
}

/// The most bytes of a name that a message has.
const SHOWN: usize = 300;

/// How a message calls the entry of that name; of a long one, how it begins and ends.
pub(super) fn called(raw_path: &[u8]) -> String {
    match (raw_path.get(..SHOWN * 2 / 3), raw_path.get(raw_path.len().saturating_sub(SHOWN / 3)..))
    {
        (Some(begin), Some(end)) if raw_path.len() > SHOWN => {
            format!("entry {:?}...{:?}", begin.shown(), end.shown())
        }
        _ => format!("entry {:?}", raw_path.shown()),
    }
}

impl Entry {
    /// Understands a header and what was said before it. The map of a GNU sparse file, and that of
    /// pax format 1.0, is put in by the reader, which has to read on for it.
    pub(super) fn new(header: &Header, pax: &Records, long: GnuLong) -> Result<Self> {
        // Where both are there, GNU's wins, as other readers of changesets have it.
        let raw_path = match (long.name, pax.path()) {
            (Some(name), _) => name,
            (None, Some(path)) => path.to_vec(),
            (None, None) => header.name(),
        };
        Self::describe(header, pax, long.link, raw_path.clone())
            .map_err(|error| error.within(called(&raw_path)))
    }

    fn describe(
        header: &Header,
        pax: &Records,
        long_link: Option<Vec<u8>>,
        raw_path: Vec<u8>,
    ) -> Result<Self> {
        let size = match pax.size()? {
            Some(size) => size,
            None => header.size()?,
        };
        let link = || match (&long_link, pax.link()) {
            (Some(link), _) => link.clone(),
            (None, Some(link)) => link.to_vec(),
            (None, None) => header.link(),
        };
        let (kind, body) = match header.kind() {
            // Before ustar a directory was a file whose name ends with a slash.
            0 if raw_path.ends_with(b"/") => (FileKind::Directory, Body::Inode),
            b'0' | 0 | b'7' | b'S' => (FileKind::Regular { size }, Body::Inode),
            b'1' => (FileKind::Regular { size: 0 }, Body::Link(link())),
            b'2' => (FileKind::Symlink { target: link() }, Body::Inode),
            b'3' => (FileKind::CharDevice(device(header)?), Body::Inode),
            b'4' => (FileKind::BlockDevice(device(header)?), Body::Inode),
            b'5' => (FileKind::Directory, Body::Inode),
            b'6' => (FileKind::Fifo, Body::Inode),
            other => return Err(unknown_type(other)),
        };
        // Only files have a payload, whatever the size of the others says.
        let payload = if kind.is_regular() && !matches!(body, Body::Link(_)) { size } else { 0 };
        match &kind {
            FileKind::Symlink { target } if target.is_empty() => {
                return Err(invalid("a symlink to nowhere".to_owned()));
            }
            FileKind::Symlink { target } if target.contains(&0) => {
                return Err(invalid("a symlink whose target holds a NUL".to_owned()));
            }
            _ => {}
        }
        let mtime = match pax.time(b"mtime")? {
            Some(time) => time,
            None => Timestamp::from_seconds(header.mtime()?),
        };
        let uid = id(pax.id(b"uid")?.map_or_else(|| header.uid(), Ok)?, "uid")?;
        let gid = id(pax.id(b"gid")?.map_or_else(|| header.gid(), Ok)?, "gid")?;
        let xattrs = pax.xattrs();
        if let Some(name) = xattrs.keys().find(|name| name.is_empty() || name.contains(&0)) {
            return Err(invalid(format!("an attribute of the name {:?}", name.shown())));
        }
        Ok(Self {
            raw_path,
            body,
            inode: Inode { kind, mode: header.mode()?, uid, gid, mtime, xattrs },
            atime: pax.time(b"atime")?,
            acl_access: pax.acl("access").map(<[u8]>::to_vec),
            acl_default: pax.acl("default").map(<[u8]>::to_vec),
            payload,
        })
    }

    /// Makes this a sparse file with the given runs and length.
    pub(super) fn set_sparse(&mut self, runs: Vec<(u64, u64)>, size: u64) -> Result<()> {
        let mut end = 0;
        let mut data = 0_u64;
        for &(offset, length) in &runs {
            let run_end = offset.checked_add(length).filter(|&run_end| run_end <= size);
            match run_end {
                Some(run_end) if offset >= end => end = run_end,
                _ => return Err(invalid("the map of a sparse file makes no sense".to_owned())),
            }
            data += length;
        }
        if data != self.payload {
            let payload = self.payload;
            return Err(invalid(format!(
                "the map of a sparse file names {data} bytes, its payload has {payload}"
            )));
        }
        self.inode.kind = FileKind::Regular { size };
        self.body = Body::Sparse(runs);
        Ok(())
    }
}

fn id(value: i64, what: &str) -> Result<u32> {
    // 2^32 - 1 means "no id" to the kernel.
    u32::try_from(value)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| invalid(format!("{what} {value} is no id: 0 to 4294967294 are")))
}

fn device(header: &Header) -> Result<Device> {
    let (major, minor) = header.device()?;
    let within = |number: i64, bits: u32| u32::try_from(number).ok().filter(|&n| n < 1 << bits);
    match (within(major, 12), within(minor, 20)) {
        (Some(major), Some(minor)) => Ok(Device { major, minor }),
        _ => Err(invalid(format!("device {major}:{minor} is out of range"))),
    }
}

fn unknown_type(flag: u8) -> Error {
    let what = match flag {
        b'V' => "a volume label",
        b'M' => "a continuation of another volume",
        b'D' | b'N' => "an incremental backup's record",
        b's' => "a socket",
        _ => "unknown",
    };
    Error::new(
        ErrorKind::InvalidData,
        format!("type {:?} ({what}) has no place in a changeset", char::from(flag)),
    )
}

#[cfg(test)]
mod tests {
    use super::called;

    #[test]
    fn a_long_name_is_shown_by_its_ends() {
        assert_eq!(called(b"a/b"), "entry \"a/b\"");
        let shown = called(&[&[b'x'; 60_000][..], b"end"].concat());
        assert!(shown.len() < 400 && shown.ends_with("end\""), "{shown}");
    }
}
