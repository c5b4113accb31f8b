//! What stands where a copy is to be, and is no directory.
//!
//! **In a container's tree** a copy takes the place of whatever it is, as unpacking a tar does, and
//! writes through none of it: a device that lies there may have been made by the container, and be
//! the host's disk.
//!
//! **On the host** a copy takes the place of files and symlinks. Devices, FIFOs and sockets stay:
//! others use them, and what is lost with `/dev/null` is no file's content. A file that is copied
//! to the very path of a device or FIFO is written to it, as cp(1) does, and gives it no attributes.
//! Where one stands in a directory that is copied into, nobody has named it, so that a container
//! could choose which of the host's devices it writes to: that is refused. The same node, copied
//! once more, is there already.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::changeset::Pieces;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::inode::{Device, FileKind};
use crate::sys::Dir;
use crate::sys::dir::{SysResult, device_of, type_of};

/// What becomes of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The copy takes its place.
    Replaced,
    /// It is what is copied, and stays as it is.
    Stays,
    /// The content, of so many bytes, is written to it.
    Written(u64),
}

/// What a file is called in messages, where others than the copy may use it.
fn shared(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        _ => None,
    }
}

/// Whether a file of that type, and for a device that number, is what is copied.
fn is_same(kind: &FileKind, there: FileType, device: Device) -> bool {
    match kind {
        FileKind::CharDevice(copied) => there == FileType::CharacterDevice && *copied == device,
        FileKind::BlockDevice(copied) => there == FileType::BlockDevice && *copied == device,
        FileKind::Fifo => there == FileType::Fifo,
        FileKind::Socket => there == FileType::Socket,
        _ => false,
    }
}

/// What becomes of what stands at `path` of the host, to which comes a file of the kind `kind`: one
/// with content where `named` says that this very path was asked for.
pub(super) fn on_host(path: &Path, stat: &Stat, kind: &FileKind, named: bool) -> Result<Standing> {
    let there = type_of(stat);
    let Some(shown) = shared(there) else { return Ok(Standing::Replaced) };
    if is_same(kind, there, device_of(stat)) {
        return Ok(Standing::Stays);
    }
    match (kind, there) {
        (FileKind::Regular { .. }, FileType::Socket) if named => {
            Err(Errno::NXIO).during("write to the socket", path)
        }
        (FileKind::Regular { size }, _) if named => Ok(Standing::Written(*size)),
        _ => {
            let message =
                format!("{} is {shown}, of which no copy takes the place", path.display());
            Err(Error::new(ErrorKind::AlreadyExists, message).hint("remove it first"))
        }
    }
}

/// Opens the device or FIFO `name` to write to it; of a FIFO, once somebody reads.
pub(super) fn open(dir: &Dir, name: &[u8]) -> SysResult<File> {
    let file = dir.open(name, OFlags::WRONLY | OFlags::NOCTTY, 0)?;
    // Another file may have come there meanwhile.
    match shared(type_of(&rustix::fs::fstat(&file)?)) {
        Some(_) => Ok(file),
        None => Err(Errno::EXIST),
    }
}

/// Writes content from its beginning to its end, holes as zeros: there may be no going back and no
/// going ahead. Returns how many bytes are no holes.
pub(super) fn write(file: &File, path: &Path, size: u64, pieces: &mut dyn Pieces) -> Result<u64> {
    let (mut bytes, mut at) = (0, 0);
    while let Some((offset, piece)) = pieces.next()? {
        write_zeros(file, offset.saturating_sub(at)).during("write to", path)?;
        write_all(file, piece).during("write to", path)?;
        bytes += piece.len() as u64;
        at = offset + piece.len() as u64;
    }
    write_zeros(file, size.saturating_sub(at)).during("write to", path)?;
    Ok(bytes)
}

fn write_zeros(file: &File, mut left: u64) -> SysResult<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while left > 0 {
        let now = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        write_all(file, ZEROS.get(..now).unwrap_or_default())?;
        left -= now as u64;
    }
    Ok(())
}

fn write_all(file: &File, mut data: &[u8]) -> SysResult<()> {
    while !data.is_empty() {
        match retry_on_intr(|| rustix::io::write(file, data))? {
            0 => return Err(Errno::IO),
            written => data = data.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NULL: Device = Device { major: 1, minor: 3 };
    const ZERO: Device = Device { major: 1, minor: 5 };

    fn stat(kind: FileType, device: Device) -> Stat {
        let place = tempfile::tempdir().unwrap();
        let mut stat = Dir::open_ambient(place.path()).unwrap().stat_self().unwrap();
        stat.st_mode = kind.as_raw_mode() | 0o644;
        stat.st_rdev = rustix::fs::makedev(device.major, device.minor);
        stat
    }

    #[test]
    fn what_others_use_on_the_host_is_written_to_or_stays() {
        let regular = FileKind::Regular { size: 1 };
        let link = FileKind::Symlink { target: b"x".to_vec() };
        let (null, zero) = (FileKind::CharDevice(NULL), FileKind::CharDevice(ZERO));
        let disk = FileKind::BlockDevice(NULL);
        let replaced = Some(Standing::Replaced);
        let (stays, written) = (Some(Standing::Stays), Some(Standing::Written(1)));
        // What comes; where what is there is: a file, a symlink, a device, a FIFO, a socket.
        for (kind, named, expected) in [
            (&regular, true, [replaced, replaced, written, written, None]),
            (&regular, false, [replaced, replaced, None, None, None]),
            (&link, true, [replaced, replaced, None, None, None]),
            (&null, true, [replaced, replaced, stays, None, None]),
            (&null, false, [replaced, replaced, stays, None, None]),
            (&zero, true, [replaced, replaced, None, None, None]),
            (&disk, true, [replaced, replaced, None, None, None]),
            (&FileKind::Fifo, false, [replaced, replaced, None, stays, None]),
            (&FileKind::Socket, false, [replaced, replaced, None, None, stays]),
        ] {
            let there = [
                FileType::RegularFile,
                FileType::Symlink,
                FileType::CharacterDevice,
                FileType::Fifo,
                FileType::Socket,
            ];
            for (there, expected) in there.into_iter().zip(expected) {
                let found = on_host(Path::new("p"), &stat(there, NULL), kind, named);
                assert_eq!(found.as_ref().ok(), expected.as_ref(), "{kind:?}, {named}: {found:?}");
            }
        }
    }
}
