//! Nodes: what the names of the merged tree lead to, each with the handles of what is on disk.
//!
//! A node outlives a change of its name, and the copy-up of what it stands for: whoever holds it
//! sees the upper file from then on. The table finds the node that is alive for a name, so that
//! there is never a second one. It is divided, so that threads in different directories do not
//! wait for each other.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::RwLockWriteGuard;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::format::lookup::MergedDir;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::xattr::Target;

/// One object of the merged tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    table: Arc<Table>,
    place: Mutex<Option<Place>>,
    real: RwLock<Real>,
    /// Of a directory: held shared while a name is looked up in it, alone while one is changed.
    names: RwLock<()>,
    /// Held while it is copied up, or while what is copied up may not change.
    copying: Mutex<()>,
    /// Of a directory: counts the files in it that were copied up.
    copied_up: AtomicU64,
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
    /// Held with `O_PATH`.
    pub(super) held: OwnedFd,
    /// What holds the data, where the file itself has only the attributes (`metacopy`).
    pub(super) data: Option<OwnedFd>,
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
            Self::File(file) => Ok(Target::held(&file.held)),
        }
    }

    pub(super) fn stat(&self) -> SysResult<Stat> {
        rustix::fs::fstat(self.held()?)
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
            copying: Mutex::new(()),
            copied_up: AtomicU64::new(0),
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

    /// For a change of a name.
    ///
    /// # Errors
    /// ENOENT where the directory itself was removed.
    pub(super) fn change_names(&self) -> SysResult<RwLockWriteGuard<'_, ()>> {
        let guard = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_gone() { Err(Errno::NOENT) } else { Ok(guard) }
    }

    /// For a copy-up of this node.
    pub(super) fn lock_copying(&self) -> MutexGuard<'_, ()> {
        lock(&self.copying)
    }

    pub(super) fn copied_up(&self) -> u64 {
        self.copied_up.load(Ordering::Acquire)
    }

    pub(super) fn count_copy_up(&self) {
        self.copied_up.fetch_add(1, Ordering::AcqRel);
    }

    /// The upper directory of a directory that was copied up.
    pub(super) fn upper_dir(&self) -> SysResult<Dir> {
        let parts = self.parts()?;
        let top = parts.top()?;
        if top.layer != 0 {
            return Err(Errno::ROFS);
        }
        top.dir.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Takes the node's name away; it lives on for those who hold it.
    pub(super) fn forget_name(&self) {
        let place = lock(&self.place).take();
        self.gone.store(true, Ordering::Release);
        if let Some(place) = place {
            self.table.remove(place.parent.id, &place.name, self.id);
        }
    }

    /// Gives the node another name, at which nothing lives.
    pub(super) fn move_to(self: &Arc<Self>, parent: &Arc<Self>, name: &[u8]) {
        let new = Place { parent: Arc::clone(parent), name: name.into() };
        let old = lock(&self.place).replace(new);
        if let Some(old) = old {
            self.table.remove(old.parent.id, &old.name, self.id);
        }
        self.table.insert(parent.id, name, self);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let place = lock(&self.place).take();
        let Some(place) = place else { return };
        self.table.remove(place.parent.id, &place.name, self.id);
        // A long chain of parents is let go one by one, not each inside the drop of the last.
        let mut next = Some(place.parent);
        while let Some(node) = next.take().and_then(Arc::into_inner) {
            let place = lock(&node.place).take();
            if let Some(place) = place {
                node.table.remove(place.parent.id, &place.name, node.id);
                next = Some(place.parent);
            }
        }
    }
}

type Shard = HashMap<(u64, Box<[u8]>), (u64, Weak<Node>)>;

/// The nodes that are alive, by directory and name.
#[derive(Debug)]
pub(super) struct Table {
    shards: Vec<Mutex<Shard>>,
    next_id: AtomicU64,
    recent: Mutex<Recent>,
}

/// Directories that are kept alive because they were used lately.
#[derive(Debug, Default)]
struct Recent {
    nodes: VecDeque<(Arc<Node>, usize)>,
    descriptors: usize,
}

const SHARDS: usize = 64;

/// The most descriptors that are held for directories which nobody uses.
const KEPT_DESCRIPTORS: usize = 256;

impl Table {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            next_id: AtomicU64::new(1),
            recent: Mutex::default(),
        })
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, parent: u64, name: &[u8]) -> MutexGuard<'_, Shard> {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        (parent, name).hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        #[expect(clippy::indexing_slicing, reason = "there are SHARDS of them")]
        lock(&self.shards[index])
    }

    pub(super) fn get(&self, parent: u64, name: &[u8]) -> Option<Arc<Node>> {
        let shard = self.shard(parent, name);
        shard.get(&(parent, name.into())).and_then(|(_, node)| node.upgrade())
    }

    /// Takes in a node unless one is alive at its name, or `is_stale` says that it is out of date.
    pub(super) fn adopt(
        &self,
        parent: u64,
        name: &[u8],
        node: Node,
        is_stale: impl Fn() -> bool,
    ) -> Option<Arc<Node>> {
        let node = Arc::new(node);
        let mut shard = self.shard(parent, name);
        let key = (parent, name.into());
        let living = shard.get(&key).and_then(|(_, node)| node.upgrade());
        if living.is_none() && !is_stale() {
            shard.insert(key, (node.id, Arc::downgrade(&node)));
            return Some(node);
        }
        drop(shard);
        // Not while the shard is held: dropping it looks itself up.
        drop(node);
        living
    }

    fn insert(&self, parent: u64, name: &[u8], node: &Arc<Node>) {
        self.shard(parent, name).insert((parent, name.into()), (node.id, Arc::downgrade(node)));
    }

    fn remove(&self, parent: u64, name: &[u8], id: u64) {
        let mut shard = self.shard(parent, name);
        let key = (parent, name.into());
        if shard.get(&key).is_some_and(|(owner, _)| *owner == id) {
            shard.remove(&key);
        }
    }

    /// Keeps a directory alive for a while, so that the next path through it is short.
    pub(super) fn keep(&self, node: &Arc<Node>, descriptors: usize) {
        let mut dropped = Vec::new();
        let mut recent = lock(&self.recent);
        recent.descriptors += descriptors;
        recent.nodes.push_back((Arc::clone(node), descriptors));
        while recent.descriptors > KEPT_DESCRIPTORS {
            let Some((node, descriptors)) = recent.nodes.pop_front() else { break };
            recent.descriptors -= descriptors;
            dropped.push(node);
        }
        drop(recent);
    }

    /// Lets go of what is only kept for speed.
    pub(super) fn clear(&self) {
        let recent = std::mem::take(&mut *lock(&self.recent));
        drop(recent);
    }
}

impl Node {
    /// Leaves its name to another, before it gets a new one itself.
    pub(super) fn forget_place(&self) {
        let place = lock(&self.place).take();
        if let Some(place) = place {
            self.table.remove(place.parent.id, &place.name, self.id);
        }
    }
}
