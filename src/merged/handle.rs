//! [`Node`]: the tree by objects and names, with no path in it.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::create::New;
use super::lookup::Seen;
use super::metadata::{DirEntry, EntryKind, Metadata};
use super::node;
use super::path::{Follow, read_held_link};
use super::rename::{End, RenameMode};
use super::tree::{SetTime, times};
use super::xattrs::XattrMode;
use super::{Core, File, OpenOptions, Tree};
use crate::error::{Context, Result, Subject};
use crate::inode::Device;
use crate::sys::dir::SysResult;

/// One object of the merged tree, held: what a server of a file system protocol (FUSE, virtiofs)
/// keeps for each inode that its client knows.
///
/// A node stays what it is when its name changes, when it is copied up, and when its last name is
/// removed. While one is held, every lookup of its name gives this very object, and clones of it are
/// the same; dropping the last one lets go of its descriptors, which is all that "forget" has to do.
/// The numbers that [`metadata`](Self::metadata) shows stay the same as long as the tree is open.
/// Two names of one file (hard links) are two nodes with the same numbers.
///
/// All methods take `&self` and may be called from any number of threads; calls that concern
/// different directories do not wait for each other. A name is one component, of any bytes but `/`
/// and NUL, at most 255; `.`, `..` and the empty name fail with EINVAL. No symlink is followed.
///
/// Each node that is held keeps a descriptor open, a directory one for each layer that has it.
///
/// ```
/// use overlay2::merged::{Node, OpenOptions, Options, Tree};
/// use overlay2::{Dir, Namespace};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let place = tempfile::tempdir()?;
/// # let open = |name: &str| {
/// #     std::fs::create_dir_all(place.path().join(name)).and_then(|()| {
/// #         Dir::open_ambient(place.path().join(name)).map_err(std::io::Error::other)
/// #     })
/// # };
/// # let (upper, work, lower) = (open("upper")?, open("work")?, open("lower")?);
/// # std::fs::create_dir(place.path().join("lower/etc"))?;
/// # std::fs::write(place.path().join("lower/etc/motd"), "old")?;
/// let tree = Tree::writable(vec![lower], upper, work, &Options::new(Namespace::User))?;
/// let etc: Node = tree.root().lookup("etc")?;
/// let motd = etc.lookup("motd")?;
/// let number = motd.metadata()?.ino();
///
/// // The first write copies it up; it is the same object under the same number.
/// motd.open(OpenOptions::new().write(true))?.write_at(b"new", 0)?;
/// assert_eq!(motd.metadata()?.ino(), number);
/// assert_eq!(etc.lookup("motd")?.id(), motd.id());
///
/// // What has lost its name can still be read.
/// etc.remove_file("motd")?;
/// let mut text = [0; 3];
/// motd.open(OpenOptions::new().read(true))?.read_at(&mut text, 0)?;
/// assert_eq!(&text, b"new");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Node {
    core: Arc<Core>,
    node: Arc<node::Node>,
}

impl Tree {
    /// The root directory, from which [`Node::lookup`] leads to everything else.
    pub fn root(&self) -> Node {
        Node::new(&self.core, &self.core.root)
    }

    /// The node that a path leads to, itself where that is a symlink.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = tempfile::tempdir()?;
    /// # std::fs::create_dir(scratch.path().join("etc"))?;
    /// # std::fs::write(scratch.path().join("etc/motd"), "hello")?;
    /// # use overlay2::merged::{Options, Tree};
    /// # use overlay2::{Dir, Namespace};
    /// # let layers = vec![Dir::open_ambient(scratch.path())?];
    /// # let tree = Tree::read_only(layers, &Options::new(Namespace::User))?;
    /// let motd = tree.node("etc/motd")?;
    /// assert_eq!(motd.id(), tree.root().lookup("etc")?.lookup("motd")?.id());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As `lstat(2)`.
    pub fn node(&self, path: impl AsRef<Path>) -> Result<Node> {
        let path = path.as_ref();
        let node = self.core.resolve(super::read::bytes(path), Follow::NotLast);
        let core = Arc::clone(&self.core);
        node.map(|node| Node { core, node }).during("look up", path)
    }
}

/// In messages it is its path.
impl Subject for Node {
    fn shown(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.core.path_of(&self.node)).into_owned().into()
    }
}

/// Refuses what is no single name.
fn check(name: &[u8]) -> SysResult<&[u8]> {
    let sound = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
    if sound { Ok(name) } else { Err(Errno::INVAL) }
}

/// Looking.
impl Node {
    pub(super) fn new(core: &Arc<Core>, node: &Arc<node::Node>) -> Self {
        Self { core: Arc::clone(core), node: Arc::clone(node) }
    }

    fn of(&self, node: Arc<node::Node>) -> Self {
        Self { core: Arc::clone(&self.core), node }
    }

    /// A number that no other node of this tree has or had; nothing on disk knows it.
    pub fn id(&self) -> u64 {
        self.node.id
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.node.is_directory()
    }

    /// The directory in which its name stands; `None` for the root, and for what has no name.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.node.parent().map(|parent| self.of(parent))
    }

    /// What `name` is in this directory.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR where this is no directory; EINVAL where `name` is no single name.
    pub fn lookup(&self, name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        let find = || self.core.node(&self.node, check(name)?)?.ok_or(Errno::NOENT);
        find().map(|node| self.of(node)).during("look up", name)
    }

    /// Its attributes.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub fn metadata(&self) -> Result<Metadata> {
        self.core.metadata(&self.node).during("stat", self)
    }

    /// The names in this directory as they are now, sorted by bytes, without `.` and `..`.
    ///
    /// # Errors
    /// ENOTDIR; as `open(2)` of a directory.
    pub fn read_dir(&self) -> Result<Vec<DirEntry>> {
        self.core.read_dir(&self.node).during("read directory", self)
    }

    /// The bytes that this symlink holds.
    ///
    /// # Errors
    /// EINVAL where it is none.
    pub fn read_link(&self) -> Result<PathBuf> {
        let target = read_held_link(&self.node).and_then(|target| target.ok_or(Errno::INVAL));
        let target = target.during("read symlink", self)?;
        Ok(PathBuf::from(OsStr::from_bytes(&target)))
    }

    /// Opens this file; a lower one that is opened for writing is copied up.
    ///
    /// # Errors
    /// As `open(2)`; EISDIR; ELOOP for a symlink; ENXIO for a device, FIFO or socket; EINVAL where
    /// the options ask for a new file ([`create`](Self::create) makes one).
    pub fn open(&self, options: &OpenOptions) -> Result<File> {
        let open = || {
            options.check_existing()?;
            self.core.open_node(Arc::clone(&self.node), options)
        };
        open().during("open", self)
    }
}

/// Changing names. In a read-only tree everything here fails with EROFS.
impl Node {
    fn make(&self, name: &[u8], new: New<'_>) -> SysResult<Self> {
        let name = check(name)?;
        let _names = self.node.change_names([name])?;
        if !matches!(self.core.see_locked(&self.node, name)?, Seen::Absent) {
            return Err(Errno::EXIST);
        }
        self.core.create_locked(&self.node, name, new)?;
        self.made(name)
    }

    /// The node of a name that was just made, by who holds the names.
    fn made(&self, name: &[u8]) -> SysResult<Self> {
        self.node.name_changed(name);
        let node = self.core.node_locked(&self.node, name)?.ok_or(Errno::STALE)?;
        Ok(self.of(node))
    }

    /// Creates a regular file, which must not exist, and opens it as the options say, whatever its
    /// mode allows; for reading alone too.
    ///
    /// # Errors
    /// As `open(2)` with `O_CREAT | O_EXCL`.
    pub fn create(&self, name: impl AsRef<[u8]>, options: &OpenOptions) -> Result<(Self, File)> {
        let name = name.as_ref();
        let options = options.clone().create_new(true).clone();
        let create = || self.core.create_file(&self.node, check(name)?, &options);
        let file = create().during("create", name)?;
        Ok((self.of(Arc::clone(file.node())), file))
    }

    /// Creates a directory; the umask applies to `mode`.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn create_dir(&self, name: impl AsRef<[u8]>, mode: u32) -> Result<Self> {
        let name = name.as_ref();
        self.make(name, New::Directory { mode }).during("create directory", name)
    }

    /// Creates a symlink that holds `target`, whatever that is.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub fn symlink(&self, name: impl AsRef<[u8]>, target: impl AsRef<Path>) -> Result<Self> {
        let (name, target) = (name.as_ref(), super::read::bytes(target.as_ref()));
        let make = || match target {
            b"" => Err(Errno::NOENT),
            _ => self.make(name, New::Symlink { target }),
        };
        make().during("create symlink", name)
    }

    /// Creates a device, FIFO, socket or empty file; the umask applies to `mode`.
    ///
    /// # Errors
    /// As [`Tree::mknod`].
    pub fn mknod(
        &self,
        name: impl AsRef<[u8]>,
        kind: EntryKind,
        mode: u32,
        device: Device,
    ) -> Result<Self> {
        let name = name.as_ref();
        let make = || self.make(name, New::Node { kind: kind.to_be_made()?, mode, device });
        make().during("create node", name)
    }

    /// Makes `name` in this directory one more name of the file `original`.
    ///
    /// # Errors
    /// As `link(2)`: EPERM for a directory, EXDEV for a node of another tree.
    pub fn hard_link(&self, name: impl AsRef<[u8]>, original: &Self) -> Result<Self> {
        let name = name.as_ref();
        let link = || {
            self.must_share_tree(original)?;
            let _names = self.node.change_names([check(name)?])?;
            self.core.link_locked(&original.node, &self.node, name)?;
            self.made(name)
        };
        link().during("create hard link", name)
    }

    /// Removes a name that is no directory's; the node lives on for those who hold it.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn remove_file(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = name.as_ref();
        let remove = || self.core.unlink(&self.node, check(name)?, false);
        remove().during("remove", name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    pub fn remove_dir(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = name.as_ref();
        let remove = || self.core.rmdir(&self.node, check(name)?);
        remove().during("remove directory", name)
    }

    /// Renames `name` of this directory to `new_name` in `to`, as `mode` says.
    ///
    /// # Errors
    /// As `renameat2(2)`: EXDEV for a directory of another tree, and for a directory that lies below
    /// unless redirects are written.
    pub fn rename(
        &self,
        name: impl AsRef<[u8]>,
        to: &Self,
        new_name: impl AsRef<[u8]>,
        mode: RenameMode,
    ) -> Result<()> {
        let (name, new_name) = (name.as_ref(), new_name.as_ref());
        let end = |dir: &Self, name: &[u8]| -> SysResult<End> {
            Ok(End { dir: Arc::clone(&dir.node), name: check(name)?.into(), slash: false })
        };
        let rename = || {
            self.must_share_tree(to)?;
            self.core.rename(&end(self, name)?, &end(to, new_name)?, mode)
        };
        rename().during("rename", name)
    }

    fn must_share_tree(&self, other: &Self) -> SysResult<()> {
        if Arc::ptr_eq(&self.core, &other.core) { Ok(()) } else { Err(Errno::XDEV) }
    }
}

/// Changing what it is; what lies below is copied up. In a read-only tree everything here but the
/// reading of attributes fails with EROFS.
impl Node {
    /// Sets the permission bits.
    ///
    /// # Errors
    /// As `fchmod(2)`.
    pub fn set_permissions(&self, mode: u32) -> Result<()> {
        self.core.chmod(&self.node, mode).during("set permissions of", self)
    }

    /// Sets the owner; `None` leaves it.
    ///
    /// # Errors
    /// As `fchown(2)`.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.core.chown(&self.node, uid, gid).during("set owner of", self)
    }

    /// Sets the access and modification times.
    ///
    /// # Errors
    /// As `futimens(3)`.
    pub fn set_times(&self, access: SetTime, modification: SetTime) -> Result<()> {
        let Some(times) = times(access, modification) else { return Ok(()) };
        self.core.set_times(&self.node, &times).during("set times of", self)
    }

    /// Cuts or extends this file.
    ///
    /// # Errors
    /// As `truncate(2)`.
    pub fn truncate(&self, length: u64) -> Result<()> {
        self.core.truncate(&self.node, length).during("truncate", self)
    }

    /// The value of an extended attribute; `None` where it is not set.
    ///
    /// # Errors
    /// As `fgetxattr(2)`.
    pub fn xattr(&self, name: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        match self.core.get_xattr(&self.node, name.as_ref()) {
            Err(Errno::NODATA) => Ok(None),
            other => other.map(Some).during("read attribute of", self),
        }
    }

    /// The names of all extended attributes, sorted by bytes.
    ///
    /// # Errors
    /// As `flistxattr(2)`.
    pub fn xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        self.core.list_xattrs(&self.node).during("list attributes of", self)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// As `fsetxattr(2)`.
    pub fn set_xattr(
        &self,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        mode: XattrMode,
    ) -> Result<()> {
        let set = self.core.set_xattr(&self.node, name.as_ref(), value.as_ref(), mode);
        set.during("set attribute of", self)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As `fremovexattr(2)`: ENODATA where it is not set.
    pub fn remove_xattr(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let removed = self.core.remove_xattr(&self.node, name.as_ref());
        removed.during("remove attribute of", self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merged::Options;
    use crate::{Dir, Durability, Namespace};

    /// While one directory's names are being changed, everything can be done in another.
    #[test]
    fn directories_do_not_wait_for_each_other() {
        let place = tempfile::tempdir().unwrap();
        for dir in ["upper", "work", "lower/a", "lower/b/sub"] {
            std::fs::create_dir_all(place.path().join(dir)).unwrap();
        }
        for file in ["a/f", "b/f", "b/g", "b/h"] {
            let path = place.path().join("lower").join(file);
            std::fs::copy("/proc/self/comm", path).unwrap();
        }
        let open = |name: &str| Dir::open_ambient(place.path().join(name)).unwrap();
        let options = Options::new(Namespace::User).durability(Durability::None);
        let tree = Tree::writable(vec![open("lower")], open("upper"), open("work"), &options);
        let root = tree.unwrap().root();
        let (a, b) = (root.lookup("a").unwrap(), root.lookup("b").unwrap());
        let held = a.node.change_names([]).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let write = OpenOptions::new().write(true).clone();
            assert_eq!(b.read_dir().unwrap().len(), 4);
            b.lookup("f").unwrap().open(&write).unwrap().write_at(b"y", 0).unwrap();
            b.create("new", &write).unwrap();
            b.create_dir("dir", 0o755).unwrap();
            b.symlink("link", "f").unwrap().read_link().unwrap();
            b.hard_link("more", &b.lookup("f").unwrap()).unwrap();
            b.rename("g", &b.lookup("sub").unwrap(), "g", RenameMode::Replace).unwrap();
            b.remove_file("h").unwrap();
            b.remove_dir("dir").unwrap();
            b.lookup("new").unwrap().set_permissions(0o600).unwrap();
            b.parent().unwrap().lookup("b").unwrap().metadata().unwrap();
            done.send(b.read_dir().unwrap().len()).unwrap();
        });
        let names = wait.recv_timeout(std::time::Duration::from_secs(60));
        drop(held);
        assert_eq!(names, Ok(5));
    }
}
