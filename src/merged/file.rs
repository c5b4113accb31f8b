//! Open files.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use rustix::fs::{Access, FallocateFlags, FileType};
use rustix::io::Errno;

use super::copy_up::{Data, open_data};
use super::metadata::Metadata;
use super::node::{Access as Held, Node, Real, lock};
use super::open_options::OpenOptions;
use super::path::{Follow, Last, trim_slashes};
use super::read::bytes;
use super::{Core, Tree};
use crate::error::{Context, Result};
use crate::sys::dir::{self, SysResult};

/// An open regular file of the merged tree.
///
/// It stays with the file through renames, and after its last name is removed. One that was opened
/// for reading before the file was copied up reads the upper file from then on.
#[derive(Debug)]
pub struct File {
    core: Arc<Core>,
    node: Arc<Node>,
    opened: RwLock<Opened>,
    at: Mutex<u64>,
    append: bool,
    /// The descriptor may be one that can do more than was asked for.
    readable: bool,
}

#[derive(Clone, Debug)]
struct Opened {
    file: Arc<std::fs::File>,
    /// It is what stands for the node for good.
    is_final: bool,
}

impl Core {
    fn open(self: &Arc<Self>, path: &[u8], options: &OpenOptions) -> SysResult<File> {
        options.check()?;
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let (path, follow, slash) = match (options.create_new, options.create) {
            (true, _) => (trim_slashes(path), Follow::NotLast, path.ends_with(b"/")),
            (false, true) => (path, Follow::LastUnlessSlash, false),
            (false, false) => (path, Follow::Last, false),
        };
        let walked = self.walk(path, follow)?;
        let Last::Name(name) = &walked.last else {
            return Err(if options.create_new { Errno::EXIST } else { Errno::ISDIR });
        };
        if (slash || walked.slash) && options.creates() {
            // Before it is known what the name is, as in the kernel.
            return Err(Errno::ISDIR);
        }
        let seen = match walked.seen {
            Some(seen) => seen,
            None => self.see(&walked.dir, name)?,
        };
        if let Some(node) = self.node_of(&walked.dir, name, seen, options.hold())? {
            return self.open_existing(node, walked.slash, options);
        }
        if !options.creates() {
            return Err(Errno::NOENT);
        }
        self.create_file(&walked.dir, name, options)
    }

    /// Creates a file and opens it, or opens the one that another thread created meanwhile.
    pub(super) fn create_file(
        self: &Arc<Self>,
        dir: &Arc<Node>,
        name: &[u8],
        options: &OpenOptions,
    ) -> SysResult<File> {
        options.check()?;
        let names = dir.change_names([name])?;
        if let Some(node) = self.node_locked(dir, name)? {
            drop(names);
            return self.open_existing(node, false, options);
        }
        let mode = options.mode.unwrap_or(0o666) & 0o7777;
        let node = self.create_open(dir, name, mode, options.flags())?;
        drop(names);
        let Real::File(real) = node.real() else { return Err(Errno::STALE) };
        Ok(self.file(node, Arc::clone(&real.held), true, options))
    }

    fn open_existing(
        self: &Arc<Self>,
        node: Arc<Node>,
        slash: bool,
        options: &OpenOptions,
    ) -> SysResult<File> {
        if options.create_new {
            return Err(Errno::EXIST);
        }
        if slash && !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        self.open_node(node, options)
    }

    /// Opens a node that was found.
    pub(super) fn open_node(
        self: &Arc<Self>,
        node: Arc<Node>,
        options: &OpenOptions,
    ) -> SysResult<File> {
        let kind = match node.real() {
            Real::Directory(_) => return Err(Errno::ISDIR),
            Real::File(file) => file.kind,
        };
        match kind {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        if self.stands_in(&node)? {
            return Err(Errno::NXIO);
        }
        if !options.writes() {
            let (file, is_final) = self.open_to_read(&node)?;
            return Ok(self.file(node, file, is_final, options));
        }
        self.upper()?;
        let read = if options.read { Access::READ_OK } else { Access::empty() };
        self.must_be_able(&node, read | Access::WRITE_OK)?;
        let data = if options.truncate { Data::Nothing } else { Data::Whole };
        let is_cut = self.copy_up(&node, data)?;
        let Real::File(real) = node.real() else { return Err(Errno::ISDIR) };
        let file = if real.access == Held::ReadWrite && !options.append {
            if options.truncate && !is_cut {
                rustix::fs::ftruncate(&*real.held, 0)?;
            }
            Arc::clone(&real.held)
        } else {
            Arc::new(dir::reopen(real.held.as_fd(), options.flags())?)
        };
        Ok(self.file(node, file, true, options))
    }

    /// What is read of a node now, and whether that will not change any more.
    fn open_to_read(&self, node: &Node) -> SysResult<(Arc<std::fs::File>, bool)> {
        let Real::File(real) = self.real_now(node)? else { return Err(Errno::ISDIR) };
        let is_final = real.data.is_none() && (self.upper.is_none() || real.layer == 0);
        if is_final && self.upper.is_some() {
            // Its mode may have changed since it was opened.
            self.must_be_able(node, Access::READ_OK)?;
        }
        Ok((open_data(&real)?, is_final))
    }

    pub(super) fn file(
        self: &Arc<Self>,
        node: Arc<Node>,
        file: Arc<std::fs::File>,
        is_final: bool,
        options: &OpenOptions,
    ) -> File {
        let opened = Opened { file, is_final };
        File {
            core: Arc::clone(self),
            node,
            opened: RwLock::new(opened),
            at: Mutex::new(0),
            append: options.append,
            readable: options.read,
        }
    }
}

impl File {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The file that stands for the node now.
    fn real(&self) -> io::Result<Arc<std::fs::File>> {
        let opened = self.opened.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        if opened.is_final || !self.core.is_whole_upper(&self.node)? {
            return Ok(opened.file);
        }
        let (file, is_final) = self.core.open_to_read(&self.node)?;
        let opened = Opened { file, is_final };
        let file = Arc::clone(&opened.file);
        *self.opened.write().unwrap_or_else(std::sync::PoisonError::into_inner) = opened;
        Ok(file)
    }

    /// Reads at an offset; returns how many bytes there were.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.readable {
            return Err(Errno::BADF.into());
        }
        self.real()?.read_at(buffer, offset)
    }

    /// Writes at an offset, or at the end where the file was opened to append.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    pub fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
        self.real()?.write_at(buffer, offset)
    }

    /// Cuts or extends the file, which must be open for writing.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.real()?.set_len(length)
    }

    /// Makes a hole: the bytes read as zeros, and take no room. The length stays.
    ///
    /// # Errors
    /// As `fallocate(2)`; EOPNOTSUPP where the file system has no holes.
    pub fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
    }

    /// Reserves room, and extends the file where it is shorter.
    ///
    /// # Errors
    /// As `fallocate(2)`.
    pub fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(FallocateFlags::empty(), offset, length)
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&*self.real()?, mode, offset, length)?)
    }

    /// The next run of bytes at or after `offset` that is no hole: where it begins and ends; `None`
    /// where only a hole follows, or nothing.
    ///
    /// # Errors
    /// As `lseek(2)`.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let real = self.real()?;
        let length = real.metadata()?.len();
        Ok(crate::sys::copy::next_data(&real, offset, length)?)
    }

    /// The attributes of the file.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.core.metadata(&self.node)?)
    }

    /// Sets the permission bits; a lower file is copied up.
    ///
    /// # Errors
    /// As `fchmod(2)`; EEXIST, as the kernel answers, for a lower file without a name.
    pub fn set_permissions(&self, mode: u32) -> io::Result<()> {
        Ok(self.core.chmod(&self.node, mode)?)
    }

    /// A descriptor of its own for what is read and written now, to be handed to calls that this
    /// type has no method for: `sendfile`, `splice`, io_uring, a passthrough of FUSE.
    ///
    /// It may be open for more than was asked for. One that was taken while a lower file was open
    /// for reading goes on reading that file after it was copied up, which this handle does not.
    ///
    /// # Errors
    /// As `fcntl(2)` with `F_DUPFD_CLOEXEC`.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.real()?.as_fd().try_clone_to_owned()
    }

    /// Waits until data and attributes are on disk.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync_all(&self) -> io::Result<()> {
        self.real()?.sync_all()
    }

    /// Waits until the data is on disk.
    ///
    /// # Errors
    /// As `fdatasync(2)`.
    pub fn sync_data(&self) -> io::Result<()> {
        self.real()?.sync_data()
    }
}

impl Read for &File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = lock(&self.at);
        let read = self.read_at(buffer, *at)?;
        *at += read as u64;
        Ok(read)
    }
}

impl Write for &File {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut at = lock(&self.at);
        let written = self.write_at(buffer, *at)?;
        *at = if self.append { self.metadata()?.len() } else { *at + written as u64 };
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut at = lock(&self.at);
        let new = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => at.checked_add_signed(delta),
            SeekFrom::End(delta) => self.metadata()?.len().checked_add_signed(delta),
        };
        *at = new.filter(|new| i64::try_from(*new).is_ok()).ok_or(Errno::INVAL)?;
        Ok(*at)
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for File {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self).seek(to)
    }
}

/// Opening files.
impl Tree {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// As `open(2)`; a directory fails with EISDIR, a device, FIFO or socket with ENXIO.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File> {
        self.open_with(path, OpenOptions::new().read(true))
    }

    /// Opens a file as the options say.
    ///
    /// # Errors
    /// As `open(2)`; EINVAL where the options contradict each other; a directory fails with EISDIR,
    /// a device, FIFO or socket with ENXIO.
    pub fn open_with(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        let path = path.as_ref();
        self.core.open(bytes(path), options).during("open", path)
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// As [`open`](Self::open), and `read(2)`.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut file = self.open(path)?;
        let mut data = Vec::new();
        file.read_to_end(&mut data).during("read", path)?;
        Ok(data)
    }

    /// Makes a file hold these bytes and no others, creating it where there is none.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with), and `write(2)`.
    pub fn write(&self, path: impl AsRef<Path>, data: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let mut options = OpenOptions::new();
        let mut file = self.open_with(path, options.write(true).create(true).truncate(true))?;
        file.write_all(data.as_ref()).during("write", path)
    }
}
