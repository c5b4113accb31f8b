//! How a file is opened.

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::sys::dir::SysResult;

/// How a file is opened, as [`std::fs::OpenOptions`].
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    pub(super) read: bool,
    write: bool,
    pub(super) append: bool,
    pub(super) truncate: bool,
    pub(super) create: bool,
    pub(super) create_new: bool,
    pub(super) mode: Option<u32>,
}

impl OpenOptions {
    /// Opens for nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// For reading.
    pub fn read(&mut self, yes: bool) -> &mut Self {
        self.read = yes;
        self
    }

    /// For writing. A lower file is copied up when it is opened so, written or not.
    pub fn write(&mut self, yes: bool) -> &mut Self {
        self.write = yes;
        self
    }

    /// For writing at the end, wherever that is then.
    pub fn append(&mut self, yes: bool) -> &mut Self {
        self.append = yes;
        self
    }

    /// Cuts the file to nothing; of a lower file, no data is copied up.
    pub fn truncate(&mut self, yes: bool) -> &mut Self {
        self.truncate = yes;
        self
    }

    /// Creates the file where there is none; of a dangling symlink, its target. Other than with
    /// `std`, it may be opened for reading alone.
    pub fn create(&mut self, yes: bool) -> &mut Self {
        self.create = yes;
        self
    }

    /// Creates the file, and fails with EEXIST where there is anything of that name.
    pub fn create_new(&mut self, yes: bool) -> &mut Self {
        self.create_new = yes;
        self
    }

    /// The permission bits of a new file, 0666 unless this is called; the umask applies.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = Some(mode);
        self
    }

    pub(super) fn creates(&self) -> bool {
        self.create || self.create_new
    }

    pub(super) fn writes(&self) -> bool {
        self.write || self.append
    }

    pub(super) fn check(&self) -> SysResult<()> {
        let sound = (self.read || self.writes())
            && (!self.truncate || self.writes())
            && !(self.append && self.truncate && !self.create_new);
        if sound { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// How a file that is found is held: as it is read, or its data copied up.
    pub(super) fn hold(&self) -> OFlags {
        match (self.writes(), self.create_new) {
            (_, true) => OFlags::PATH,
            (true, _) => OFlags::RDWR,
            _ => OFlags::RDONLY,
        }
    }

    /// Refuses options that ask for a new file.
    pub(super) fn check_existing(&self) -> SysResult<()> {
        if self.creates() { Err(Errno::INVAL) } else { self.check() }
    }

    pub(super) fn flags(&self) -> OFlags {
        let mut flags = match (self.read, self.writes()) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        flags.set(OFlags::APPEND, self.append);
        flags.set(OFlags::TRUNC, self.truncate);
        flags
    }
}
