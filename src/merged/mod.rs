//! The merged tree in userspace: what the kernel's overlayfs shows and does, with no mount and no
//! privilege.
//!
//! A [`Tree`] is a stack of lower directories, and an UpperDir with its WorkDir where it may be
//! changed. It reads and leaves the same marks on disk as the kernel does, so that the kernel may
//! mount the same directories before and after, though not meanwhile.
//!
//! How it is built: `node` knows the objects of the tree and the handles behind them; `lookup`
//! finds them; `copy_up`, `complete`, `create`, `remove`, `rename` and `attributes` change them, by
//! node and name; `path` turns paths into nodes, inside the root and nowhere else; the methods of [`Tree`],
//! [`Node`] and [`File`] are thin over all that. A server of a file system protocol sits on
//! [`Node`]: objects and names, no paths. Errors carry the number that the kernel would give.
//!
//! Where it differs from a mount, and why:
//!
//! - `origin` is written empty ("copied up, from where is not known"): a file's inode number stays
//!   what it was below while the [`Tree`] lives, and is the upper file's own in the next one.
//! - A device or FIFO is shown, but opening one fails with ENXIO: the tree holds files, and a
//!   process that looks into it should neither reach hardware nor wait for a writer.
//! - A directory that merges with nothing shows no whiteouts, where the kernel lists their names.
//! - A directory in which only xattr whiteouts stand can be removed; the kernel shows it empty, and
//!   answers ENOTEMPTY all the same.
//! - Without privilege it has the rights of the process, where a mount has those of who mounted it:
//!   a directory that its owner may not read, in a lower layer, cannot be looked into.
//!   It is not asked for what a mount allows to who did not mount it: what is somebody else's is not
//!   copied up (EPERM), what may not be read shows nothing of what it is (EACCES).
//!   A process that may give files away but has no CAP_FSETID cannot give a copy the set-group-ID bit
//!   of a group that it is not in: it is lost, as in a mount that such a process made, unless owners
//!   are recorded.
//! - Renaming one name of a copied-up file over another of the same file does nothing, as it should,
//!   where a mount in a user namespace answers ESTALE, since it takes them for two files.
//! - Ids that the user namespace cannot express are told from `nobody`, as which they show, only
//!   where it has no `nobody`: there copy-up fails with EOVERFLOW.
//! - What a machine protects beyond permissions is not asked but for hard links
//!   (`protected_hardlinks`): symlinks, FIFOs and files in sticky directories are as any other.
//! - `chattr +i` and `+a` on lower files say nothing, and `protattr` is neither read nor written.
//! - XFS's second listing of ACLs (`trusted.SGI_ACL_*`) is not copied up; the kernel copies it, to
//!   file systems too where it means nothing.
//! - Reading a symlink or, of files of others, anything may update access times below.
//! - Every directory between the root and what is in use is held open: the limit of open files
//!   bounds the depth times the number of layers that have it. Each tree keeps others open as well,
//!   as many as take a quarter of that limit. `/proc` must be mounted.
//! - What is mounted inside a lower directory shows through, and is copied up from: the kernel looks
//!   at the file system of the layer alone, and shows the directory that the mount covers.
//! - The mark `impure` may be missing where the kernel moved in what was copied up here, since it
//!   sets it for origins that it knows; neither needs it then.
//! - `metacopy` files are read, and completed when they are written to, only with
//!   [`Redirects::Follow`] or [`Redirects::Write`].

mod acl;
mod attributes;
mod complete;
mod copy_up;
mod copy_up_nested;
mod create;
mod file;
mod handle;
mod kept;
mod lookup;
mod metadata;
mod names;
mod node;
mod open_options;
mod ownership;
mod path;
mod read;
mod remove;
mod rename;
mod replace;
mod space;
mod stale;
mod tree;
mod upper;
mod xattrs;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::lookup::Stack;
use crate::id_map::Ids;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::durable::Durability;

use node::{Identity, Real, Table};
use upper::Upper;

pub use crate::format::Ownership;
pub use file::File;
pub use handle::Node;
pub use metadata::{DirEntry, EntryKind, Metadata};
pub use open_options::OpenOptions;
pub(crate) use path::MOST_LINKS;
pub use read::{Walk, WalkEntry};
pub use rename::RenameMode;
pub use space::Space;
pub use tree::SetTime;
pub use xattrs::XattrMode;

/// What is done at a directory that was renamed, and at a file whose data lies below.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirects {
    /// Such a name fails with EPERM, and renaming a directory that lies below with EXDEV: as a
    /// mount with `redirect_dir=nofollow,metacopy=off`.
    #[default]
    Refuse,
    /// They are followed, but none is written: `redirect_dir=follow`.
    Follow,
    /// Renaming a directory that lies below leaves a redirect: `redirect_dir=on`.
    Write,
}

/// How a [`Tree`] reads and writes its layers.
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where the marks are: `trusted.overlay.` needs privilege, `user.overlay.` none.
    pub namespace: Namespace,
    /// What is done about redirects.
    pub redirects: Redirects,
    /// Whether the data of a copied-up file is synced before the file gets its name;
    /// [`Durability::None`] is the kernel's `volatile`.
    pub durability: Durability,
    /// What happens to owners and devices that the process may not create.
    pub ownership: Ownership,
}

impl Options {
    /// The safe choices: no redirects, data synced, owners exact.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            redirects: Redirects::default(),
            durability: Durability::default(),
            ownership: Ownership::default(),
        }
    }

    /// What is done about redirects.
    #[must_use]
    pub fn redirects(mut self, redirects: Redirects) -> Self {
        self.redirects = redirects;
        self
    }

    /// Whether a copied-up file's data is synced.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// What happens to owners and devices that the process may not create.
    #[must_use]
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = ownership;
        self
    }
}

/// Layers as one tree, to look into and, with an UpperDir, to change.
///
/// Cheap to clone; clones are the same tree. May be used from any number of threads at once: what
/// goes on in one directory does not wait for what goes on in another.
///
/// Paths are taken inside the tree, absolute or not; a symlink is resolved inside it, an absolute
/// one from its root, and `..` stops there. Names are bytes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let at = |name: &str| scratch.path().join(name);
/// # std::fs::create_dir_all(at("layers/base/etc"))?;
/// # std::fs::write(at("layers/base/etc/issue"), "a system\n")?;
/// # ["layers/app", "upper", "work"].into_iter().try_for_each(|name| std::fs::create_dir(at(name)))?;
/// use overlay2::merged::{Options, Tree};
/// use overlay2::{Dir, Namespace};
///
/// // The topmost first.
/// let lower = vec![Dir::open_ambient(at("layers/app"))?, Dir::open_ambient(at("layers/base"))?];
/// let (upper, work) = (Dir::open_ambient(at("upper"))?, Dir::open_ambient(at("work"))?);
/// let tree = Tree::writable(lower, upper, work, &Options::new(Namespace::User))?;
/// tree.write("etc/motd", b"hello\n")?;
/// tree.remove_file("/etc/issue")?;
/// assert_eq!(std::fs::read(at("upper/etc/motd"))?, b"hello\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tree {
    core: Arc<Core>,
}

/// The tree by nodes and names.
#[derive(Debug)]
struct Core {
    stack: Stack,
    upper: Option<Upper>,
    table: Arc<Table>,
    root: Arc<node::Node>,
    /// Held while a directory moves to another parent, so that none ends up inside itself.
    moves: Mutex<()>,
    /// The numbers under which files that were copied up here are shown, by the upper file's own.
    shown_as: Mutex<HashMap<Identity, Identity>>,
    /// Held while an upper file gets its data, one of them by its inode number.
    completing: [Mutex<()>; 16],
    /// How owners are seen that are not recorded, where that is not as they are on disk.
    ids: Option<Arc<Ids>>,
    options: Options,
}

impl Tree {
    /// Takes lower directories, topmost first, as a tree that cannot be changed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where there is none.
    pub fn read_only(lower: Vec<Dir>, options: &Options) -> Result<Self> {
        Self::build(lower, None, options)
    }

    /// Takes lower directories, topmost first, and an UpperDir and WorkDir, both on one file
    /// system; neither may be in use, by a mount or otherwise. The WorkDir is emptied.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where another [`Tree`] has the WorkDir; EINVAL where a volatile mount
    /// left its mark there.
    pub fn writable(lower: Vec<Dir>, upper: Dir, work: Dir, options: &Options) -> Result<Self> {
        let writable = Upper::open(&upper, &work)?;
        let layers = std::iter::once(upper).chain(lower).collect();
        Self::build(layers, Some(writable), options)
    }

    /// Whether this is a clone of the other, so that one sees at once what the other changes.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }

    /// The path of what is written to, where there is such a layer and `/proc` is mounted.
    pub(crate) fn upper_path(&self) -> Option<std::path::PathBuf> {
        self.core.upper.as_ref()?.work.ambient_path()
    }

    fn build(layers: Vec<Dir>, upper: Option<Upper>, options: &Options) -> Result<Self> {
        if layers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a merged tree needs a layer"));
        }
        Core::new(layers, upper, options)
            .map(|core| Self { core: Arc::new(core) })
            .during("open", "merged tree")
    }
}

impl Core {
    fn new(layers: Vec<Dir>, upper: Option<Upper>, options: &Options) -> SysResult<Self> {
        use crate::format::lookup::Redirects as Rule;
        let rule = match options.redirects {
            Redirects::Refuse => Rule::Refuse,
            Redirects::Follow | Redirects::Write => Rule::Follow,
        };
        let stack = Stack::new(layers, options.namespace, rule);
        let table = Table::new();
        let root = stack.root();
        let identity = Identity::of(&root.top()?.dir.stat_self()?);
        let real = Real::Directory(Arc::new(root));
        let root = Arc::new(node::Node::new(node::ROOT, &table, None, real, identity));
        Ok(Self {
            stack,
            upper,
            table,
            root,
            moves: Mutex::default(),
            shown_as: Mutex::default(),
            completing: Default::default(),
            ids: None,
            options: *options,
        })
    }

    /// What is needed to change the tree.
    ///
    /// # Errors
    /// EROFS where it is a read-only one.
    fn upper(&self) -> SysResult<&Upper> {
        self.upper.as_ref().ok_or(Errno::ROFS)
    }

    fn is_upper(&self, node: &node::Node) -> SysResult<bool> {
        Ok(self.upper.is_some() && node.real().layer()? == 0)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The nodes that are kept hold the table, which keeps them.
        self.table.clear();
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
