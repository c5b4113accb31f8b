//! [`NewFile`]: a file that has its name once it is whole.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::durable::Durability;

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

/// Where the file gets its name.
#[derive(Debug)]
struct Place {
    dir: Dir,
    name: OsString,
    /// It has the temporary name.
    named: bool,
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
        let mut place = Place { dir, name: name.to_owned(), named: false };
        let file = place.open().during("create", &path)?;
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
    /// The file to be written: of no name where the file system can do that.
    fn open(&mut self) -> SysResult<File> {
        match self.dir.open(b".", OFlags::WRONLY | OFlags::TMPFILE, 0o666) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                let file = self.dir.open(&self.temporary_name(), flags, 0o666)?;
                self.named = true;
                Ok(file)
            }
            opened => opened,
        }
    }

    /// A name that no other process uses meanwhile.
    fn temporary_name(&self) -> Vec<u8> {
        let end = format!(".{}.new", std::process::id());
        [b".", self.name.as_bytes(), end.as_bytes()].concat()
    }

    fn give_name(&mut self, file: &File) -> SysResult<()> {
        let (temporary, name) = (self.temporary_name(), self.name.as_bytes());
        if !self.named {
            match self.dir.link_unnamed(name, file.as_fd()) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
            // No system call replaces one name by another link: what a writer left that died
            // between the two goes first.
            match self.dir.remove_file(&temporary) {
                Ok(()) | Err(Errno::NOENT) => self.dir.link_unnamed(&temporary, file.as_fd())?,
                Err(error) => return Err(error),
            }
            self.named = true;
        }
        self.dir.rename(&temporary, &self.dir, name, RenameFlags::empty())?;
        self.named = false;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.named {
            let _ = self.dir.remove_file(&self.temporary_name());
        }
    }
}
