//! [`NewFile`]: a file that has its name once it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::dir::SysResult;
use crate::sys::durable::Durability;
use crate::sys::{Dir, random};

/// A file that is written beside the one of its name, and takes its place once it is whole.
///
/// Until [`commit`](Self::commit) what has the name is as it was; dropped before, it leaves nothing,
/// and where the file system can make a file of no name (`O_TMPFILE`) neither does a writer that is
/// killed, unless in the one moment in which the whole file stands beside the one that it replaces,
/// under a name of its own. A link is written through. What is there and is no regular file, as a pipe or a
/// terminal, is written to as it is.
#[derive(Debug)]
pub struct NewFile {
    out: BufWriter<File>,
    path: PathBuf,
    place: Option<Place>,
}

/// Where a file gets its name once it is whole.
#[derive(Debug)]
pub(super) struct Place {
    dir: Dir,
    name: Vec<u8>,
    /// The name that it has meanwhile, where it cannot be without one.
    temporary: Option<Vec<u8>>,
}

impl NewFile {
    /// Begins a file that is to be at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where `path` ends in no name, and what the file system answers.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let buffered = |file| BufWriter::with_capacity(256 << 10, file);
        if std::fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
            let file = OpenOptions::new().write(true).open(&path).during("open", &path)?;
            return Ok(Self { out: buffered(file), path, place: None });
        }
        let name = path.file_name().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("{} is no file name", path.display()))
        })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Dir::open_ambient(parent.unwrap_or(Path::new(".")))?;
        let (place, file) = Place::open(dir, name.as_bytes(), 0o666).during("create", &path)?;
        // What may not be read by all stays so.
        if let Ok(there) = std::fs::metadata(&path) {
            let mode = Mode::from_raw_mode(there.mode() & 0o777);
            rustix::fs::fchmod(&file, mode).during("set permissions of", &path)?;
        }
        Ok(Self { out: buffered(file), path, place: Some(place) })
    }

    /// Writes what is left in the buffer, and gives the file its name, in place of what has it now.
    ///
    /// Once this returned, and `durability` is full, the file is there after a power cut.
    ///
    /// # Errors
    /// What the file system answers; what had the name has it still then.
    pub fn commit(mut self, durability: Durability) -> Result<()> {
        self.out.flush().during("write", &self.path)?;
        let Some(place) = &mut self.place else { return Ok(()) };
        let file = self.out.get_ref();
        durability.sync_file(file).during("sync", &self.path)?;
        place.give_name(file).during("rename to", &self.path)?;
        durability.sync_names(&place.dir).during("sync directory of", &self.path)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Place {
    /// The file to be written, which is to be `name` in `dir`: of no name where the file system can
    /// do that.
    pub(super) fn open(dir: Dir, name: &[u8], mode: u32) -> SysResult<(Self, File)> {
        let mut place = Self { dir, name: name.to_vec(), temporary: None };
        match place.dir.open(b".", OFlags::WRONLY | OFlags::TMPFILE, mode) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let temporary = temporary_name()?;
                let file = place.dir.open(&temporary, flags, mode)?;
                place.temporary = Some(temporary);
                Ok((place, file))
            }
            opened => Ok((place, opened?)),
        }
    }

    /// Gives the file its name, in place of what has it and is no directory.
    pub(super) fn give_name(&mut self, file: &File) -> SysResult<()> {
        let Some(temporary) = &self.temporary else {
            return make_over(&self.dir, &self.name, |dir, name| {
                dir.link_unnamed(name, file.as_fd())
            });
        };
        self.dir.rename(temporary, &self.dir, &self.name, RenameFlags::empty())?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = self.dir.remove_file(temporary);
        }
    }
}

/// Makes `name` by what makes a new name, in place of what has it and is no directory.
///
/// No system call replaces one name by something new: it has a name of its own for a moment.
pub(super) fn make_over(
    dir: &Dir,
    name: &[u8],
    make: impl Fn(&Dir, &[u8]) -> SysResult<()>,
) -> SysResult<()> {
    match make(dir, name) {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    let temporary = temporary_name()?;
    make(dir, &temporary)?;
    let renamed = dir.rename(&temporary, dir, name, RenameFlags::empty());
    // It is there still where that failed, and where both are names of one file, which stay then.
    let _ = dir.remove_file(&temporary);
    renamed
}

/// A short name that nobody else uses.
fn temporary_name() -> SysResult<Vec<u8>> {
    Ok(format!(".overlay2-{}.new", random::hex::<8>()?).into_bytes())
}
