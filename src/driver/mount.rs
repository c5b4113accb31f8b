//! Containers mounted and unmounted.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Driver;
use super::container::Base;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::mount::{self, Layer, MountAccess, MountOptions, Mounted, Parts, Syncing, Upper};
use crate::store::{ContainerLock, LayerKey, MountState, Staging};
use crate::sys::Dir;
use crate::sys::durable::Durability;
use crate::sys::remove::remove_tree;

/// A container that is mounted at a directory, where it stays when the process ends.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MountPoint {
    /// The directory.
    pub target: PathBuf,
}

/// A container that is mounted for whoever holds this, and for nobody else; it is unmounted when
/// this is dropped.
#[derive(Debug)]
pub struct MountedContainer {
    /// Taken when this is dropped.
    mounted: Option<Mounted>,
    lock: ContainerLock,
    /// What is done for it at the end, where it was mounted volatile.
    volatile: Option<Durability>,
}

/// A stack that is mounted read-only for whoever holds this.
#[derive(Debug)]
pub struct MountedView {
    mounted: Mounted,
    /// What the root looks like where no layer on top says so.
    _root: Option<Staging>,
}

impl MountedContainer {
    /// The root of the container's tree.
    ///
    /// # Errors
    /// Where no more descriptors can be had.
    pub fn root(&self) -> Result<Dir> {
        let gone = || Error::new(ErrorKind::NotFound, "the container is not mounted any more");
        self.mounted.as_ref().ok_or_else(gone)?.root()
    }
}

impl Drop for MountedContainer {
    fn drop(&mut self) {
        self.mounted = None;
        if let Some(durability) = self.volatile {
            // Where this fails, the next to mount it does it.
            let _ = forget_mount(&mut self.lock, durability);
        }
    }
}

impl MountedView {
    /// The root of the tree.
    ///
    /// # Errors
    /// Where no more descriptors can be had.
    pub fn root(&self) -> Result<Dir> {
        self.mounted.root()
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
        let target = match target {
            Some(target) => std::fs::canonicalize(target).during("find mount point", target)?,
            None => lock.merged_path(),
        };
        let mounted = self.mount_noted(&mut lock, Some(target.clone()), options, |mounted| {
            mounted.attach(&target)
        });
        mounted.map_err(|error| error.within(format_args!("mount container {container}")))?;
        Ok(MountPoint { target })
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
        let volatile = options.syncing == Syncing::Volatile;
        let mounted = match volatile {
            // Its mark outlives the process, and so must what is known of it.
            true => self.mount_noted(&mut lock, None, options, Ok),
            false => refuse_torn(&lock.work()?).and_then(|()| self.mount_locked(&lock, options)),
        };
        let mounted =
            mounted.map_err(|error| error.within(format_args!("mount container {container}")))?;
        let durability = volatile.then(|| self.store.durability());
        Ok(MountedContainer { mounted: Some(mounted), lock, volatile: durability })
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
        refuse_torn(&lock.work()?)?;
        let state = MountState {
            target,
            boot_id: boot_id(),
            namespace: namespace(),
            volatile: options.syncing == Syncing::Volatile,
            read_only: options.access == MountAccess::ReadOnly,
        };
        lock.update(|record| record.mount = Some(state))?;
        self.mount_locked(lock, options).and_then(then).inspect_err(|_| {
            // Where this fails too, the next to mount it does it.
            let _ = forget_mount(lock, self.store.durability());
        })
    }

    /// Mounts an image or a stack read-only for the caller alone.
    ///
    /// # Errors
    /// As [`mount`](Self::mount).
    pub fn view(&self, base: &Base) -> Result<MountedView> {
        let chain = match base {
            Base::Image(text) => self.store.find_image(text)?.record.chain,
            Base::Chain(chain) => Some(*chain),
        };
        // Kept while its layers are opened; the mount keeps them from then on.
        let _lease = chain.as_ref().map(|chain| self.chain(chain)).transpose()?;
        let composed = self.compose(chain.as_ref())?;
        let mut dirs = self.open_layers(&composed)?;
        let mut paths = self.paths(&composed.layers);
        let root = self.root_on_top(&composed)?;
        if let Some(root) = &root {
            dirs.insert(0, root.dir().try_clone().during("duplicate", "directory")?);
            paths.insert(0, PathBuf::from("root"));
        }
        let options = MountOptions { access: MountAccess::ReadOnly, ..Default::default() };
        let mounted = self.act(&dirs, &paths, None, &options)?;
        Ok(MountedView { mounted, _root: root })
    }

    /// Unmounts a container, wherever this process sees it mounted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it is not mounted; [`ErrorKind::InUse`] where a process works
    /// in it.
    pub fn unmount(&self, container: &str) -> Result<()> {
        let mut lock = self.lock(container)?;
        let mounts = self.mounts_of(&lock.record().id)?;
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
        if volatile {
            settle(&lock, self.store.durability())?;
        }
        forget_mount(&mut lock, self.store.durability())
    }

    /// Fails where a container is mounted; a record of a mount that is gone is taken away.
    pub(super) fn refuse_mounted(&self, lock: &mut ContainerLock) -> Result<()> {
        let name = lock.record().name.clone();
        let refuse = |target: &Path, place: &str| {
            let target = target.display();
            let message = format!("container {name} is mounted at {target}{place}");
            Err(Error::new(ErrorKind::InUse, message)
                .hint(format!("unmount it first: overlay2 unmount {name}")))
        };
        if let Some(entry) = self.mounts_of(&lock.record().id)?.last() {
            return refuse(&entry.target, "");
        }
        let Some(state) = lock.record().mount.clone() else { return Ok(()) };
        // One without a target is held by its process alone, as the lock is.
        if let Some(target) = state.target
            && state.boot_id == boot_id()
            && state.namespace != namespace()
            && state.namespace.is_some_and(is_alive)
        {
            return refuse(&target, " in another mount namespace");
        }
        forget_mount(lock, self.store.durability())
    }

    fn mount_locked(&self, lock: &ContainerLock, options: &MountOptions) -> Result<Mounted> {
        let (upper, work) = (lock.upper()?, lock.work()?);
        let composed = self.compose(lock.record().chain.as_ref())?;
        let mut dirs = self.open_layers(&composed)?;
        let mut paths = self.paths(&composed.layers);
        let own = self.store.container_path(&lock.record().id);
        if dirs.is_empty() {
            // Overlayfs wants a lower layer, and there is none.
            match lock.dir().make_dir(b"empty", 0o755) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).during("create directory", "empty"),
            }
            dirs.push(lock.dir().child(b"empty").during("open directory", "empty")?);
            paths.push(own.join("empty"));
        }
        let (upper_path, work_path) = (own.join("upper"), own.join("work"));
        let written = Upper {
            upper: Layer { dir: &upper, path: &upper_path },
            work: Layer { dir: &work, path: &work_path },
        };
        self.act(&dirs, &paths, Some(written), options)
    }

    fn act(
        &self,
        dirs: &[Dir],
        paths: &[PathBuf],
        upper: Option<Upper<'_>>,
        options: &MountOptions,
    ) -> Result<Mounted> {
        let namespace = self.store.namespace();
        let parts = Parts { layers: dirs.len(), upper: upper.is_some(), namespace };
        let plan = mount::plan(parts, options)?;
        let layers: Vec<_> =
            dirs.iter().zip(paths).map(|(dir, path)| Layer { dir, path }).collect();
        plan.mount(&layers, upper)
    }

    fn paths(&self, layers: &[LayerKey]) -> Vec<PathBuf> {
        layers.iter().map(|key| self.store.layer_path(key)).collect()
    }
}

/// Takes away what is written down of a mount that is gone.
///
/// Where it was volatile, and the machine has run ever since, nothing was lost: whether it was
/// unmounted by other means, or its process died at any moment.
fn forget_mount(lock: &mut ContainerLock, durability: Durability) -> Result<()> {
    if lock
        .record()
        .mount
        .as_ref()
        .is_some_and(|state| state.volatile && state.boot_id == boot_id())
    {
        settle(lock, durability)?;
    }
    lock.update(|record| record.mount = None)
}

/// After a volatile mount went in good order: what it left unsynced is synced, and the mark
/// that would tell of a crash is taken away.
fn settle(lock: &ContainerLock, durability: Durability) -> Result<()> {
    let work = lock.work()?;
    durability.sync_file_system(&work).during("sync", "UpperDir")?;
    match work.child(b"work").and_then(|work| work.child(b"incompat")) {
        Ok(marks) => remove_tree(&marks, b"volatile").during("remove", "the volatile mark"),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).during("look at", "WorkDir"),
    }
}

/// Fails where the kernel left the mark of a volatile mount that nobody unmounted.
pub(super) fn refuse_torn(work: &Dir) -> Result<()> {
    let marks = work.child(b"work").and_then(|work| work.child(b"incompat"));
    let torn = match marks.and_then(|marks| marks.stat_if_exists(b"volatile")) {
        Ok(found) => found.is_some(),
        Err(Errno::NOENT | Errno::ACCESS) => false,
        Err(error) => return Err(error).during("look at", "WorkDir"),
    };
    if !torn {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "it was mounted volatile when the machine went down: files in it may be torn",
    )
    .hint("remove the container and make it again"))
}

/// Which boot of the machine this is.
fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// The process's mount namespace.
fn namespace() -> Option<u64> {
    namespace_of("self")
}

fn namespace_of(process: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?.ino())
}

/// Whether any process that can be looked at is in a mount namespace.
fn is_alive(namespace: u64) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .any(|process| namespace_of(&process) == Some(namespace))
}
