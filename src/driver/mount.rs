//! Containers mounted and unmounted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use super::Driver;
use super::container::Base;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::{self, Layer, MountAccess, MountOptions, Mounted, Parts, Syncing, Upper};
use crate::percent::shown_path;
use crate::store::{ContainerLock, ContainerRecord, LayerKey, LeasedChain, MountState, Staging};
use crate::sys::remove::{empty_directory, remove_tree};
use crate::sys::{Dir, mountinfo};

/// A container that is mounted at a directory, where it stays when the process ends.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MountPoint {
    /// The directory.
    #[serde(serialize_with = "shown_path")]
    pub target: PathBuf,
}

/// A container that is mounted for whoever holds this, and for nobody else; it is unmounted when
/// this is dropped, and when nothing in it is open any more.
#[derive(Debug)]
pub struct MountedContainer {
    // They go in this order.
    root: Dir,
    _mounted: Mounted,
    _claim: Claim,
}

/// The claim on a container that is mounted detached.
#[derive(Debug)]
struct Claim {
    lock: ContainerLock,
    volatile: bool,
}

/// A stack that is mounted read-only for whoever holds this; its layers stay as long.
#[derive(Debug)]
pub struct MountedView {
    // They go in this order.
    root: Dir,
    _mounted: Mounted,
    /// What the root looks like where no layer on top says so.
    _on_top: Option<Staging>,
    /// The mount alone would keep the directories of its layers, but not what is in them.
    _lease: Option<LeasedChain>,
}

/// What becomes of an UpperDir whose `volatile` mount was not unmounted in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TornUpper {
    /// It is used as it is, with files that may be empty or half written.
    Accept,
    /// What the container changed is thrown away: it is again as it was made.
    Discard,
}

impl MountedContainer {
    /// The root of the container's tree.
    ///
    /// What is opened from it, and a [clone](Dir::try_clone), keeps the file system mounted, but not the
    /// claim on the container: it has to be closed before this is dropped, or somebody else may mount
    /// the same UpperDir a second time, which overlayfs does not define.
    pub fn root(&self) -> &Dir {
        &self.root
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.volatile {
            // Where this fails, the next to mount it does it.
            let _ = forget_mount(&mut self.lock);
        }
    }
}

impl MountedView {
    /// The root of the tree.
    pub fn root(&self) -> &Dir {
        &self.root
    }
}

impl Driver {
    /// Mounts a container at `target`, or at its own directory.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where it is mounted already; [`ErrorKind::PermissionDenied`] where the
    /// process may not mount; [`ErrorKind::LimitExceeded`] for more than 500 layers;
    /// [`ErrorKind::Corrupt`] where it was mounted `volatile` when the machine went down.
    pub fn mount(
        &self,
        container: &str,
        target: Option<&Path>,
        options: &MountOptions,
    ) -> Result<MountPoint> {
        let mut lock = self.lock(container)?;
        self.refuse_mounted(&mut lock)?;
        let options = &of_container(&lock, options);
        let target = match target {
            Some(target) => {
                let target = std::fs::canonicalize(target).during("find mount point", target)?;
                self.refuse_target(&target, &lock.merged_path())?;
                target
            }
            None => lock.merged_path(),
        };
        let mounted = self.mount_noted(&mut lock, Some(target.clone()), options, |mounted| {
            mounted.attach(&target)
        });
        mounted.map_err(|error| error.within(format_args!("mount container {container}")))?;
        Ok(MountPoint { target })
    }

    /// Fails where a mount would hide the store, or a part of it, from whoever is to unmount it. The
    /// trees of mounted containers, `containers/ID/merged/`, are no part of it.
    fn refuse_target(&self, target: &Path, own: &Path) -> Result<()> {
        let merged = std::fs::canonicalize(own).during("find", own)?;
        // ROOT/containers/ID/merged
        let root = merged.ancestors().nth(3).unwrap_or(&merged);
        let is_hidden = match target.strip_prefix(root) {
            Ok(inside) => {
                let is_tree = inside.starts_with("containers")
                    && inside.components().count() > 3
                    && inside.components().nth(2) == merged.components().next_back();
                target != merged && !is_tree
            }
            Err(_) => root.starts_with(target),
        };
        if !is_hidden {
            return Ok(());
        }
        let message = format!("a mount at {} would hide the store", target.display());
        Err(Error::new(ErrorKind::InvalidInput, message)
            .hint("choose a directory outside, or none: a container has one of its own"))
    }

    /// Mounts a container for the caller alone, attached nowhere.
    ///
    /// # Errors
    /// As [`mount`](Self::mount).
    pub fn mount_detached(
        &self,
        container: &str,
        options: &MountOptions,
    ) -> Result<MountedContainer> {
        let mut lock = self.lock(container)?;
        self.refuse_mounted(&mut lock)?;
        let options = &of_container(&lock, options);
        let volatile = options.syncing == Syncing::Volatile;
        let mounted = match volatile {
            // Its mark outlives the process, and so must what is known of it.
            true => self.mount_noted(&mut lock, None, options, Ok),
            false => self.ready(&lock, options).and_then(|()| self.mount_locked(&lock, options)),
        };
        let mounted =
            mounted.map_err(|error| error.within(format_args!("mount container {container}")))?;
        let claim = Claim { lock, volatile };
        // Named after the claim, since it has to go first where its root cannot be opened.
        let mounted = mounted;
        let root = mounted.root()?;
        Ok(MountedContainer { root, _mounted: mounted, _claim: claim })
    }

    /// Mounts a container and does `then` with it; what is known of the mount is written down
    /// first, so that whoever finds it, or what it left behind, knows of it.
    fn mount_noted<T>(
        &self,
        lock: &mut ContainerLock,
        target: Option<PathBuf>,
        options: &MountOptions,
        then: impl FnOnce(Mounted) -> Result<T>,
    ) -> Result<T> {
        self.ready(lock, options)?;
        let state = MountState {
            target,
            boot_id: boot_id(),
            namespace: namespace(),
            volatile: options.syncing == Syncing::Volatile,
            read_only: options.access == MountAccess::ReadOnly,
        };
        lock.set_mount(Some(state))?;
        self.mount_locked(lock, options).and_then(then).inspect_err(|_| {
            // Where this fails too, the next to mount it does it.
            let _ = forget_mount(lock);
        })
    }

    /// Mounts an image or a stack read-only for the caller alone.
    ///
    /// # Errors
    /// As [`mount`](Self::mount).
    pub fn view(&self, base: &Base) -> Result<MountedView> {
        let chain = match base {
            Base::Image(text) => self.store.image_called(text)?.0.chain,
            Base::Chain(chain) => Some(*chain),
        };
        let lease = self.keep(chain.as_ref())?;
        let composed = self.compose(chain.as_ref())?;
        let on_top = self.root_on_top(&composed)?;
        let extra = on_top.as_ref().map(|root| Layer { dir: root.dir(), path: Path::new("root") });
        let options = MountOptions { access: MountAccess::ReadOnly, ..Default::default() };
        let mounted = self.act(extra, &composed.layers, None, &options)?;
        Ok(MountedView { root: mounted.root()?, _mounted: mounted, _on_top: on_top, _lease: lease })
    }

    /// Unmounts a container, wherever this process sees it mounted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it is not mounted; [`ErrorKind::InUse`] where a process works
    /// in it.
    pub fn unmount(&self, container: &str) -> Result<()> {
        let mut lock = self.lock(container)?;
        let mounts = self.mounts_of(lock.record())?;
        let recorded = lock.record().mount.clone();
        if mounts.is_empty() && recorded.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("container {container} is not mounted"),
            ));
        }
        let volatile = mounts.iter().any(|entry| entry.volatile);
        for entry in mounts.iter().rev() {
            mount::unmount(&entry.target)?;
        }
        if mounts.is_empty() {
            self.refuse_hidden(&lock)?;
        }
        if volatile && recorded.is_none() {
            // Somebody else mounted it so.
            take_mark(&lock.work()?)?;
        }
        forget_mount(&mut lock)
    }

    /// Makes a container usable again that was mounted `volatile` when the machine stopped; tells
    /// whether it was torn. It is no error where it was not: what is not synced is synced then, and
    /// nothing is discarded.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where it is mounted.
    pub fn recover(&self, container: &str, torn: TornUpper) -> Result<bool> {
        let mut lock = self.lock(container)?;
        self.refuse_mounted(&mut lock)?;
        let is_torn = self.refuse_torn(lock.record(), &lock.work()?).is_err();
        if is_torn && torn == TornUpper::Discard {
            let upper = lock.upper()?;
            empty_directory(&upper).during("empty", "UpperDir")?;
            let root = self.root_of_chain(lock.record().chain.as_ref())?;
            super::container::give_root(&upper, &root)?;
        }
        self.settle(&lock)?;
        Ok(is_torn)
    }

    /// Makes durable what volatile mounts left unsynced, and takes away all that tells of it.
    fn settle(&self, lock: &ContainerLock) -> Result<()> {
        let work = lock.work()?;
        self.store.durability().sync_file_system(&work).during("sync", "UpperDir")?;
        take_mark(&work)?;
        lock.set_synced()
    }

    /// Fails where a container is torn; where it is to be mounted as usual, syncs first what earlier
    /// volatile mounts left.
    fn ready(&self, lock: &ContainerLock, options: &MountOptions) -> Result<()> {
        let work = lock.work()?;
        lock.require_quota()?;
        match (self.refuse_torn(lock.record(), &work)?, options.syncing) {
            (true, Syncing::Normal) => self.settle(lock),
            // Its process may have died before the kernel's mark went.
            (true, Syncing::Volatile) if has_mark(&work)? => take_mark(&work),
            _ => Ok(()),
        }
    }

    /// Fails where what a volatile mount wrote may be torn: the machine stopped before it was
    /// synced. Tells whether there is something that is not synced, though it is whole.
    pub(super) fn refuse_torn(&self, record: &ContainerRecord, work: &Dir) -> Result<bool> {
        let unsynced = self.store.unsynced(record)?;
        if unsynced.as_ref().is_some_and(|state| state.boot_id != boot_id()) {
            return Err(torn(&record.name));
        }
        if !self.is_accounted_for(record, unsynced.is_some()) && has_mark(work)? {
            // Whoever holds no lock may have looked while it was being mounted or unmounted.
            let now = self.store.find_container(&record.id.to_string())?;
            let unsynced = self.store.unsynced(&now)?;
            if !self.is_accounted_for(&now, unsynced.is_some()) && has_mark(work)? {
                return Err(torn(&record.name));
            }
        }
        Ok(unsynced.is_some())
    }

    /// Whether what is written down tells of a volatile mount of this boot, which the kernel's mark
    /// is of then.
    fn is_accounted_for(&self, record: &ContainerRecord, unsynced: bool) -> bool {
        let mounted = record.mount.as_ref();
        unsynced || mounted.is_some_and(|state| state.volatile && state.boot_id == boot_id())
    }

    /// Fails where a container is mounted; a record of a mount that is gone is taken away.
    pub(super) fn refuse_mounted(&self, lock: &mut ContainerLock) -> Result<()> {
        if let Some(entry) = self.mounts_of(lock.record())?.last() {
            let (name, target) = (&lock.record().name, entry.target.display());
            let message = format!("container {name} is mounted at {target}");
            return Err(Error::new(ErrorKind::InUse, message)
                .hint(format!("unmount it first: overlay2 unmount {name}")));
        }
        self.refuse_hidden(lock)?;
        forget_mount(lock)
    }

    /// Fails where a mount that is written down is still there, though the process does not see it:
    /// in another mount namespace, or taken out of the tree while somebody worked in it.
    fn refuse_hidden(&self, lock: &ContainerLock) -> Result<()> {
        let record = lock.record();
        // One without a target is held by its process alone, as the lock is.
        let Some(MountState { target: Some(target), namespace: there, .. }) =
            record.mount.as_ref().filter(|state| state.boot_id == boot_id())
        else {
            return Ok(());
        };
        let (name, target) = (&record.name, target.display());
        let elsewhere = there.filter(|there| Some(*there) != namespace());
        let seen = elsewhere.and_then(|there| mount::seen_in(there, &self.upper_path(&record.id)));
        if let Some(process) = seen {
            let message =
                format!("container {name} is mounted at {target} in another mount namespace");
            return Err(Error::new(ErrorKind::InUse, message).hint(format!(
                "unmount it there: nsenter -t {process} -m overlay2 unmount {name}"
            )));
        }
        if lock.upper().is_ok_and(|upper| mount::is_in_use(&upper, self.store.namespace())) {
            let message = format!(
                "container {name} was mounted at {target}, and is still in use: in another mount \
                 namespace, or by a process that had a file open when it was unmounted"
            );
            return Err(Error::new(ErrorKind::InUse, message).hint("end that process"));
        }
        Ok(())
    }

    fn mount_locked(&self, lock: &ContainerLock, options: &MountOptions) -> Result<Mounted> {
        let (upper, work) = (lock.upper()?, lock.work()?);
        let composed = self.compose(lock.record().chain.as_ref())?;
        let own = self.store.container_path(&lock.record().id);
        // Overlayfs wants a lower layer; where there is none, an empty one.
        let empty = match composed.layers.is_empty() {
            true => Some(empty_layer(lock)?),
            false => None,
        };
        let empty_path = own.join("empty");
        let extra = empty.as_ref().map(|dir| Layer { dir, path: &empty_path });
        let (upper_path, work_path) = (own.join("upper"), own.join("work"));
        let written = Upper {
            upper: Layer { dir: &upper, path: &upper_path },
            work: Layer { dir: &work, path: &work_path },
        };
        self.act(extra, &composed.layers, Some(written), options)
    }

    /// Mounts `layers`, topmost first, with one more on top of them where there is `extra`.
    fn act(
        &self,
        extra: Option<Layer<'_>>,
        layers: &[LayerKey],
        upper: Option<Upper<'_>>,
        options: &MountOptions,
    ) -> Result<Mounted> {
        let namespace = self.store.namespace();
        let count = layers.len() + usize::from(extra.is_some());
        let plan =
            mount::plan(Parts { layers: count, upper: upper.is_some(), namespace }, options)?;
        // The number of a layer, but for the extra one.
        let below = |index: usize| index.checked_sub(usize::from(extra.is_some()));
        let mut handles = self.store.stack_handles(layers)?;
        let open = |index| match (below(index), extra) {
            (None, Some(Layer { dir, path })) => {
                dir.try_clone().map(Arc::new).during("duplicate", path)
            }
            (number, _) => handles.get(number.unwrap_or_default()),
        };
        let path = |index| match (below(index), extra) {
            (None, Some(extra)) => extra.path.to_owned(),
            (number, _) => {
                let key = layers.get(number.unwrap_or_default());
                key.map(|key| self.store.layer_path(key)).unwrap_or_default()
            }
        };
        let mounted = plan.mount_each(open, path, upper)?;
        handles.keep();
        Ok(mounted)
    }
}

/// Takes away what is written down of a mount that is gone.
///
/// Where it was volatile, and the machine has run ever since, nothing was lost: whether it was
/// unmounted by other means, or its process died at any moment. What is not synced is written down
/// before the kernel's mark goes.
fn forget_mount(lock: &mut ContainerLock) -> Result<()> {
    let state = lock.record().mount.as_ref();
    if state.is_none_or(|state| !state.volatile || state.boot_id != boot_id()) {
        return lock.set_mount(None);
    }
    lock.unmounted_unsynced()?;
    take_mark(&lock.work()?)
}

/// The options as they are for a container that is volatile by itself.
fn of_container(lock: &ContainerLock, options: &MountOptions) -> MountOptions {
    match lock.record().volatile {
        true => MountOptions { syncing: Syncing::Volatile, ..*options },
        false => *options,
    }
}

fn empty_layer(lock: &ContainerLock) -> Result<Dir> {
    match lock.dir().make_dir(b"empty", 0o755) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).during("create directory", "empty"),
    }
    lock.dir().child(b"empty").during("open directory", "empty")
}

fn torn(container: &str) -> Error {
    let message = format!(
        "container {container} was mounted volatile, and the machine stopped, or something else \
         unmounted it, before its files were synced: they may be torn"
    );
    Error::new(ErrorKind::Corrupt, message).hint(format!(
        "take its files as they are: overlay2 recover --accept {container}; throw away what was \
         changed in it: overlay2 recover --discard {container}; or remove it"
    ))
}

/// Takes away the kernel's mark of a volatile mount.
fn take_mark(work: &Dir) -> Result<()> {
    // As Linux makes it: two calls. What is made otherwise is looked for and removed.
    let usual = work.remove_file(b"work/incompat/volatile/dirty");
    if usual.and_then(|()| work.remove_dir(b"work/incompat/volatile")).is_ok() {
        return Ok(());
    }
    match work.child(b"work").and_then(|work| work.child(b"incompat")) {
        Ok(marks) => remove_tree(&marks, b"volatile").during("remove", "the volatile mark"),
        Err(Errno::NOENT) => Ok(()),
        // The kernel's own directory is closed, also to a plain user who mounted in a user namespace.
        // It is his, and the next mount makes another.
        Err(Errno::ACCESS) => remove_tree(work, b"work").during("remove", "the volatile mark"),
        Err(error) => Err(error).during("look at", "WorkDir"),
    }
}

/// Whether the kernel's mark of a volatile mount is there: three names at once, none of which the
/// container can make a symlink.
fn has_mark(work: &Dir) -> Result<bool> {
    match work.stat_if_exists(b"work/incompat/volatile") {
        // The kernel's own directory in it is closed to a plain user. Records tell of his mounts.
        Err(Errno::ACCESS) => Ok(false),
        found => Ok(found.during("look at", "WorkDir")?.is_some()),
    }
}

/// Which boot of the machine this is: read once, since it does not change under a process.
pub(super) fn boot_id() -> Option<String> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Some(boot.clone());
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(BOOT.get_or_init(|| text.trim().to_owned()).clone())
}

/// The process's mount namespace.
fn namespace() -> Option<u64> {
    mountinfo::namespace_of("self")
}
