//! Changesets made of a few small files, entry by entry.

use tar::{Builder, EntryType, Header};

/// A changeset in the making. Its entries belong to root and are of one fixed time, unless said
/// otherwise beforehand.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    owner: (u64, u64),
    time: u64,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), owner: (0, 0), time: 1_700_000_000 }
    }
}

impl Layer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Who the entries from here on belong to.
    pub fn owned_by(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// The time of the entries from here on.
    pub fn at(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    /// The root directory itself, which many changesets have no entry for.
    pub fn root(mut self, mode: u32) -> Self {
        let mut header = self.header(EntryType::Directory, mode);
        header.as_old_mut().name[..2].copy_from_slice(b"./");
        header.set_cksum();
        self.tar.append(&header, &b""[..]).unwrap();
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, &format!("{path}/"), mode, b"")
    }

    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, mode, content.as_ref())
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target, 0o777)
    }

    /// Another name of a file, whose mode it repeats: some programs apply it again.
    pub fn hard_link(self, path: &str, target: &str, mode: u32) -> Self {
        self.link(EntryType::Link, path, target, mode)
    }

    pub fn fifo(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Fifo, path, mode, b"")
    }

    /// An attribute of the entry that follows.
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.tar.append_pax_extensions([(key.as_str(), value)]).unwrap();
        self
    }

    /// Deletes `path`, which a layer below has.
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(p, n)| (p, n));
        let slash = if parent.is_empty() { "" } else { "/" };
        self.entry(EntryType::Regular, &format!("{parent}{slash}.wh.{name}"), 0, b"")
    }

    /// Hides what layers below have in the directory `path`.
    pub fn opaque(self, path: &str) -> Self {
        self.entry(EntryType::Regular, &format!("{path}/.wh..wh..opq"), 0, b"")
    }

    /// The changeset's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().unwrap()
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.time);
        header.set_size(0);
        header
    }

    fn entry(mut self, kind: EntryType, path: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = self.header(kind, mode);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content).unwrap();
        self
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str, mode: u32) -> Self {
        let mut header = self.header(kind, mode);
        self.tar.append_link(&mut header, path, target).unwrap();
        self
    }
}
