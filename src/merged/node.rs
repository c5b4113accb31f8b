//! Nodes: what the names of the merged tree lead to, each with the handles of what is on disk.
//!
//! A node outlives a change of its name, and the copy-up of what it stands for: whoever holds it
//! sees the upper file from then on. Each directory knows the nodes of its names that are alive, so
//! that there is never a second one, and threads in different directories do not wait for each
//! other.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::kept::Kept;
use super::names::{Change, Known, Names};
use crate::format::listing::MergedEntry;
use crate::format::lookup::{MergedDir, Part};
use crate::sys::dir::SysResult;
use crate::sys::xattr::Target;

/// The number of the root's node.
pub(super) const ROOT: u64 = 0;

/// One object of the merged tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    table: Arc<Table>,
    place: Mutex<Option<Place>>,
    real: RwLock<Real>,
    /// Of a directory: held shared while a name is looked up in it, alone while one is changed.
    names: RwLock<()>,
    /// Of a directory: what is known of the names in it.
    inside: Mutex<Names>,
    /// Held while it is copied up, or while what is copied up may not change.
    copying: Mutex<()>,
    /// Of a directory: counts the changes of names in it, and the copy-ups.
    version: AtomicU64,
    /// Of a directory: names were looked up in it, and its permissions are what they were then.
    searched: AtomicBool,
    /// Of an upper directory: it carries the mark `impure`.
    pub(super) impure: AtomicBool,
    /// It has no name any more.
    gone: AtomicBool,
    /// The device and inode number under which it is shown.
    identity: RwLock<Identity>,
}

/// A device and an inode number on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) dev: u64,
    pub(super) ino: u64,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// Where a node is found.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) parent: Arc<Node>,
    pub(super) name: Box<[u8]>,
}

/// What stands for a node on disk now.
#[derive(Clone, Debug)]
pub(super) enum Real {
    Directory(Arc<MergedDir>),
    File(Arc<RealFile>),
}

/// A file of one layer, of any type but a directory.
#[derive(Debug)]
pub(super) struct RealFile {
    pub(super) layer: usize,
    pub(super) kind: FileType,
    /// Open with `O_PATH`, or so that it can also be read or written.
    pub(super) held: Arc<File>,
    pub(super) access: Access,
    /// What holds the data, where the file itself has only the attributes (`metacopy`).
    pub(super) data: Option<OwnedFd>,
    /// It was seen to have no extended attributes at all.
    pub(super) bare: bool,
}

impl RealFile {
    /// One of the upper layer that was just made.
    pub(super) fn new(kind: FileType, held: Arc<File>, access: Access) -> Self {
        Self { layer: 0, kind, held, access, data: None, bare: false }
    }
}

/// What the handle of a file can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing but the file's attributes.
    Path,
    Read,
    Write,
    ReadWrite,
}

impl Real {
    /// The topmost handle, whose attributes are shown.
    pub(super) fn held(&self) -> SysResult<BorrowedFd<'_>> {
        match self {
            Self::Directory(dir) => Ok(dir.top()?.dir.as_fd()),
            Self::File(file) => Ok(file.held.as_fd()),
        }
    }

    /// The topmost handle, for calls on attributes.
    pub(super) fn target(&self) -> SysResult<Target<'_>> {
        match self {
            Self::Directory(dir) => Ok(Target::held(&dir.top()?.dir)),
            Self::File(file) if file.access != Access::Path => Ok(Target::open(&*file.held)),
            Self::File(file) => Ok(Target::held(&*file.held)),
        }
    }

    pub(super) fn stat(&self) -> SysResult<Stat> {
        rustix::fs::fstat(self.held()?)
    }

    /// Whether it is known to have no extended attributes; of a lower one that stays so.
    pub(super) fn is_bare(&self) -> SysResult<bool> {
        match self {
            Self::Directory(dir) => Ok(dir.top()?.bare),
            Self::File(file) => Ok(file.bare),
        }
    }

    /// The layer of the topmost handle.
    pub(super) fn layer(&self) -> SysResult<usize> {
        match self {
            Self::Directory(dir) => Ok(dir.top()?.layer),
            Self::File(file) => Ok(file.layer),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is whole at every step, so a thread that died holding one broke nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn new(
        id: u64,
        table: &Arc<Table>,
        place: Option<Place>,
        real: Real,
        identity: Identity,
    ) -> Self {
        Self {
            id,
            table: Arc::clone(table),
            place: Mutex::new(place),
            real: RwLock::new(real),
            names: RwLock::new(()),
            inside: Mutex::default(),
            copying: Mutex::new(()),
            version: AtomicU64::new(0),
            searched: AtomicBool::new(false),
            impure: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            identity: RwLock::new(identity),
        }
    }

    /// What stands for it on disk now.
    pub(super) fn real(&self) -> Real {
        self.real.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The device and inode number under which it is shown.
    pub(super) fn identity(&self) -> Identity {
        *self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub(super) fn set_real(&self, real: Real) {
        if let Real::Directory(dir) = &real {
            self.table.kept.resized(self, dir.parts.len());
        }
        *self.real.write().unwrap_or_else(PoisonError::into_inner) = real;
    }

    /// The layers' directories, where this is a directory.
    pub(super) fn parts(&self) -> SysResult<Arc<MergedDir>> {
        match self.real() {
            Real::Directory(dir) => Ok(dir),
            Real::File(_) => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(*self.real.read().unwrap_or_else(PoisonError::into_inner), Real::Directory(_))
    }

    /// Its name and directory; `None` for the root, and for what has no name any more.
    pub(super) fn place(&self) -> Option<Place> {
        lock(&self.place).clone()
    }

    pub(super) fn parent(&self) -> Option<Arc<Self>> {
        lock(&self.place).as_ref().map(|place| Arc::clone(&place.parent))
    }

    pub(super) fn was_searched(&self) -> bool {
        self.searched.load(Ordering::Acquire)
    }

    /// Says whether the process is known to be able to look names up in it.
    pub(super) fn set_searched(&self, searched: bool) {
        self.searched.store(searched, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// For a lookup: the names stay as they are meanwhile.
    pub(super) fn read_names(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a change of names; of an emptied directory, of none.
    ///
    /// # Errors
    /// ENOENT where the directory itself was removed; ENOTDIR where it is none.
    pub(super) fn change_names<'a, const N: usize>(
        &'a self,
        names: [&'a [u8]; N],
    ) -> SysResult<Change<'a, N>> {
        let guard = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let change = Change { dir: self, names, _alone: guard };
        match self.is_directory() {
            false => Err(Errno::NOTDIR),
            true if self.is_gone() => Err(Errno::NOENT),
            true => Ok(change),
        }
    }

    /// The node that is alive for a name in this directory.
    pub(super) fn alive(&self, name: &[u8]) -> Option<Arc<Self>> {
        lock(&self.inside).alive(name)
    }

    /// Takes in a node unless one is alive at its name, or the directory is no longer what it was
    /// at `version`, so that it may be out of date.
    pub(super) fn adopt(&self, name: &[u8], node: Self, version: u64) -> Option<Arc<Self>> {
        let node = Arc::new(node);
        let mut inside = lock(&self.inside);
        let living = inside.alive(name);
        if living.is_none() && self.version() == version {
            inside.insert(name, &node);
            return Some(node);
        }
        drop(inside);
        // Not while the names are held: dropping it looks itself up.
        drop(node);
        living
    }

    /// Takes in the node of a name that was just made, by one who holds the names.
    pub(super) fn adopt_made(&self, name: &[u8], node: Self) -> Arc<Self> {
        let node = Arc::new(node);
        lock(&self.inside).insert(name, &node);
        node
    }

    /// Where a name in this directory is known to be.
    pub(super) fn known(&self, parts: &Arc<MergedDir>, name: &[u8]) -> Known {
        lock(&self.inside).known(parts, name)
    }

    /// All names in this directory, where they are known.
    pub(super) fn known_listing(&self, parts: &Arc<MergedDir>) -> Option<Arc<Vec<MergedEntry>>> {
        lock(&self.inside).listing(parts)
    }

    /// Keeps where a name is, by one who read it at `version` and holds the names; `true`
    /// where it becomes cheaper to read all of them.
    pub(super) fn learn(
        &self,
        parts: &Arc<MergedDir>,
        name: &[u8],
        known: Known,
        version: u64,
    ) -> bool {
        let mut inside = lock(&self.inside);
        if self.version() == version {
            inside.learn(parts, name, known, &self.table.known);
        }
        inside.count_looks(parts)
    }

    /// As [`Node::learn`], for all names.
    pub(super) fn learn_listing(
        &self,
        parts: &Arc<MergedDir>,
        listing: &Arc<Vec<MergedEntry>>,
        version: u64,
    ) {
        let mut inside = lock(&self.inside);
        if self.version() == version {
            inside.learn_listing(parts, listing, &self.table.known);
        }
    }

    /// For a change of who may look into this directory.
    pub(super) fn forget_all_known(&self) {
        lock(&self.inside).forget_all(&self.table.known);
    }

    /// For a copy-up of this node.
    pub(super) fn lock_copying(&self) -> MutexGuard<'_, ()> {
        lock(&self.copying)
    }

    /// The same where nobody else holds it.
    pub(super) fn try_lock_copying(&self) -> Option<MutexGuard<'_, ()>> {
        match self.copying.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Changes with every change of a name in this directory, and every copy-up of one.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Says that a name in this directory is not where it was.
    pub(super) fn name_changed(&self, name: &[u8]) {
        // Counted first: what is learnt meanwhile is either refused for that, or forgotten here.
        self.version.fetch_add(1, Ordering::AcqRel);
        lock(&self.inside).forget(name, &self.table.known);
    }

    /// The upper part of a directory that was copied up.
    pub(super) fn upper_part(&self) -> SysResult<Arc<Part>> {
        let parts = self.parts()?;
        let top = parts.top()?;
        if top.layer == 0 { Ok(Arc::clone(top)) } else { Err(Errno::ROFS) }
    }

    /// Takes the node's name away; it lives on for those who hold it.
    pub(super) fn forget_name(&self) {
        let place = lock(&self.place).take();
        self.gone.store(true, Ordering::Release);
        if let Some(place) = place {
            place.parent.forget_child(&place.name, self.id);
        }
    }

    /// Gives the node another name, at which nothing lives.
    pub(super) fn move_to(self: &Arc<Self>, parent: &Arc<Self>, name: &[u8]) {
        let new = Place { parent: Arc::clone(parent), name: name.into() };
        let old = lock(&self.place).replace(new);
        if let Some(old) = old {
            old.parent.forget_child(&old.name, self.id);
        }
        lock(&parent.inside).insert(name, self);
        if self.is_directory() {
            self.table.kept.moved(self, parent);
        }
    }
}

impl Node {
    fn forget_child(&self, name: &[u8], id: u64) {
        lock(&self.inside).remove(name, id);
    }

    /// Leaves its name to another, before it gets a new one itself.
    pub(super) fn forget_place(&self) {
        let place = lock(&self.place).take();
        if let Some(place) = place {
            place.parent.forget_child(&place.name, self.id);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.forget_all_known();
        let place = lock(&self.place).take();
        let Some(place) = place else { return };
        place.parent.forget_child(&place.name, self.id);
        // A long chain of parents is let go one by one, not each inside the drop of the last.
        let mut next = Some(place.parent);
        while let Some(node) = next.take().and_then(Arc::into_inner) {
            let place = lock(&node.place).take();
            if let Some(place) = place {
                place.parent.forget_child(&place.name, node.id);
                next = Some(place.parent);
            }
        }
    }
}

/// What all nodes of a tree share.
#[derive(Debug)]
pub(super) struct Table {
    next_id: AtomicU64,
    /// Of how many names it is kept where they are.
    known: AtomicUsize,
    /// Directories that are kept alive because they were used lately.
    kept: Kept,
}

impl Table {
    pub(super) fn new() -> Arc<Self> {
        let (next_id, known) = (AtomicU64::new(ROOT + 1), AtomicUsize::new(0));
        Arc::new(Self { next_id, known, kept: Kept::new() })
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a directory alive for a while, so that the next path through it is short.
    pub(super) fn keep(&self, node: &Arc<Node>) {
        self.kept.keep(node, &self.known);
    }

    /// Lets go of what is only kept for speed.
    pub(super) fn clear(&self) {
        self.kept.clear();
    }
}
