//! Opening a store, and making one.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::ballast;
use super::handles::Handles;
use super::hold::wait_exclusive;
use super::layout::{STORE_FILE, TOP, VERSION};
use super::record::{self, StoreRecord, StoreVersion};
use super::stacks::Stacks;
use super::{Inner, Store};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespace::Namespace;
use crate::sys::dir::SysResult;
use crate::sys::durable::Durability;
use crate::sys::durable::temporary_name;
use crate::sys::xattr::Target;
use crate::sys::{Dir, inode_io, probe, random, xattr};

/// What may be done to the directory that is opened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Make a store where there is nothing, or an empty directory; use the one that is there.
    #[default]
    Create,
    /// Use the store that is there.
    Existing,
    /// Use the store that is there, and write nothing: it may lie on a read-only file system.
    ReadOnly,
}

/// How a store is opened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StoreOptions {
    /// What survives a power cut.
    pub durability: Durability,
    /// Where overlayfs keeps its attributes in this store's layers. A store keeps the one that it
    /// was made with; `None` takes what is there, and cannot make a store.
    pub namespace: Option<Namespace>,
    /// What may be done to the directory.
    pub access: Access,
}

impl StoreOptions {
    /// A store that is made where there is none, and keeps what it reported as done.
    pub const fn new(namespace: Namespace) -> Self {
        Self { durability: Durability::Full, namespace: Some(namespace), access: Access::Create }
    }

    /// Chooses what survives a power cut.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Chooses what may be done to the directory.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }
}

impl Store {
    /// The namespace of the store in the directory `path`; `None` where there is no store.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a store of another version of the format.
    pub fn namespace_of(path: impl AsRef<Path>) -> Result<Option<Namespace>> {
        let path = path.as_ref();
        let root = match Dir::open_ambient(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let record = read_store_record(&root);
        let record =
            record.map_err(|error| error.within(format_args!("open store {}", path.display())))?;
        Ok(record.map(|record| record.namespace))
    }

    /// Opens the store in the directory `path`, or makes one there.
    ///
    /// What makers and removers that died have left is removed first, unless the store is opened
    /// read-only; nothing that a living process holds is touched.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no store and none is to be made;
    /// [`ErrorKind::AlreadyExists`] where the directory holds something else;
    /// [`ErrorKind::Unsupported`] for a store of a newer format, and for file systems that cannot
    /// hold one; [`ErrorKind::InvalidInput`] where its namespace is another one than asked for;
    /// [`ErrorKind::PermissionDenied`] where its marks are attributes that this process does not see.
    /// Nothing is written then.
    pub fn open(path: impl AsRef<Path>, options: &StoreOptions) -> Result<Self> {
        Self::open_or_make(path.as_ref(), options, None)
    }

    /// As [`open`](Self::open); where no namespace is asked for, a new store is made with `usual`.
    pub(crate) fn open_or_make(
        path: &Path,
        options: &StoreOptions,
        usual: Option<fn() -> Namespace>,
    ) -> Result<Self> {
        let inner = open(path, options, usual)
            .map_err(|error| error.within(format_args!("open store {}", path.display())))?;
        let store = Self(Arc::new(inner));
        if options.access != Access::ReadOnly {
            store.sweep();
        }
        Ok(store)
    }
}

fn open(path: &Path, options: &StoreOptions, usual: Option<fn() -> Namespace>) -> Result<Inner> {
    let root = open_root(path, options)?;
    if options.access != Access::ReadOnly {
        refuse_file_system(&root)?;
    }
    let record = match read_store_record(&root)? {
        Some(record) => record,
        None if options.access == Access::Create => {
            let namespace = options.namespace.or_else(|| usual.map(|usual| usual()));
            make(&root, path, namespace, options.durability)?
        }
        None => {
            return Err(Error::new(ErrorKind::NotFound, "this directory holds no store"));
        }
    };
    if record.namespace == Namespace::Trusted && !probe::sees_trusted() {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "its layers are marked with trusted.overlay attributes, which this process does not see: \
             what was deleted would show",
        )
        .hint("run it as root of the machine, with CAP_SYS_ADMIN, or use a store of its own"));
    }
    if let Some(asked) = options.namespace.filter(|asked| *asked != record.namespace) {
        let (there, asked) = (record.namespace.prefix(), asked.prefix());
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("its layers are marked with {there} attributes, not {asked}"),
        )
        .hint(
            "layers made for mounts by root cannot be mounted in a user namespace, nor the other \
             way round: use a store of its own",
        ));
    }
    let mut tops = Vec::with_capacity(TOP.len());
    for name in TOP {
        tops.push((name, top(&root, name, options.access)?));
    }
    let path = root.ambient_path().map_or_else(|| std::path::absolute(path), Ok);
    let path = path.during("resolve", "the store's path")?;
    Ok(Inner {
        root,
        path,
        tops,
        durability: options.durability,
        access: options.access,
        record,
        stacks: Stacks::default(),
        handles: Handles::default(),
    })
}

fn open_root(path: &Path, options: &StoreOptions) -> Result<Dir> {
    match Dir::open_ambient(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && options.access == Access::Create => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.during("create directory", path).map_err(|error| match path.is_symlink() {
                true => error.hint("it is a symlink to a directory that is not there: create that"),
                false => error,
            })?;
            Dir::open_ambient(path)
        }
        opened => opened,
    }
}

/// One of the store's directories. What copied the store may have left an empty one out.
fn top(root: &Dir, name: &str, access: Access) -> Result<Dir> {
    let dir = match root.child(name.as_bytes()) {
        Err(Errno::NOENT) if access != Access::ReadOnly => {
            match root.make_dir(name.as_bytes(), 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).during("create directory", name),
            }
            root.child(name.as_bytes()).and_then(|dir| harden(&dir, 0o700).map(|()| dir))
        }
        other => other,
    };
    dir.during("open directory", name)
}

/// Refuses file systems that lack what the store stands on: `renameat2` that never replaces, locks
/// that end with their process, owners and modes.
fn refuse_file_system(root: &Dir) -> Result<()> {
    let magic = rustix::fs::fstatfs(root).during("examine", "the file system")?.f_type;
    let name = match u32::try_from(magic & 0xffff_ffff).unwrap_or(0) {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x4d44 => "vfat",
        0x2011_bab0 => "exfat",
        0x0102_1997 => "9p",
        0x6573_5546 => "a FUSE file system",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Unsupported, format!("it lies on {name}, which cannot hold layers"))
        .hint("use a directory on ext4, XFS, btrfs or tmpfs"))
}

/// `None` where there is no such file.
fn read_store_record(root: &Dir) -> Result<Option<StoreRecord>> {
    let bytes = match record::read_bytes(root, STORE_FILE.as_bytes()) {
        Ok(bytes) => bytes,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).during("read", STORE_FILE),
    };
    let malformed = |error: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("{STORE_FILE} is malformed")).because(error)
    };
    let StoreVersion { version } = serde_json::from_slice(&bytes).map_err(malformed)?;
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("it has format version {version}; this program knows version {VERSION}"),
        )
        .hint("use the program that made it, or a newer one"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

fn make(
    root: &Dir,
    path: &Path,
    namespace: Option<Namespace>,
    durability: Durability,
) -> Result<StoreRecord> {
    let Some(namespace) = namespace else {
        return Err(Error::new(ErrorKind::InvalidInput, "a new store needs a namespace"));
    };
    let _lock = wait_exclusive(root).during("lock", path)?;
    // Somebody else may have made it while this process waited.
    if let Some(record) = read_store_record(root)? {
        return Ok(record);
    }
    refuse_foreign(root)?;
    harden(root, 0o700).during("set the mode of", path)?;
    for name in TOP {
        let dir = top(root, name, Access::Create)?;
        harden(&dir, 0o700).during("set the mode of", name)?;
    }
    let id = random::hex::<16>().during("read", "random bytes")?;
    let record = StoreRecord { version: VERSION, namespace, id };
    let written = record::to_bytes(&record)
        .and_then(|bytes| durability.replace_file(root, STORE_FILE.as_bytes(), &bytes));
    written.during("write", STORE_FILE)?;
    // The name of the store itself.
    let parent: PathBuf = path.join("..");
    let parent = Dir::open_ambient(&parent)?;
    durability.sync_names(&parent).during("sync the parent of", path)?;
    ballast::hold(root);
    Ok(record)
}

/// Fails where the directory holds anything but what a maker that died may have left.
fn refuse_foreign(root: &Dir) -> Result<()> {
    let temporary = temporary_name(STORE_FILE.as_bytes());
    for entry in root.entries().during("list", "the directory")? {
        let ours = TOP.iter().any(|top| top.as_bytes() == &*entry.name);
        // The root of an ext4 file system is a fine place for a store.
        let harmless = *entry.name == *b"lost+found" || *entry.name == *temporary;
        let empty = || Ok::<_, Errno>(root.child(&entry.name)?.entries()?.is_empty());
        if harmless || (ours && empty().during("list", &*entry.name)?) {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("the directory is no store and not empty: it holds {name:?}"),
        )
        .hint("give an empty directory, or one that does not exist yet"));
    }
    Ok(())
}

/// Takes from a directory of ours what it inherited: set-group-ID, group, ACLs.
pub(super) fn harden(dir: &Dir, mode: u32) -> SysResult<()> {
    let target = Target::open(dir);
    xattr::remove(target, b"system.posix_acl_default")?;
    xattr::remove(target, b"system.posix_acl_access")?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let stat = dir.stat_self()?;
    if (stat.st_uid, stat.st_gid) != (uid, gid) && stat.st_uid == uid {
        inode_io::chown(target, uid, gid)?;
    }
    inode_io::chmod(target, mode)
}
