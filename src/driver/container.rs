//! Containers: made, listed, found, removed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use super::Driver;
use crate::digest::{ChainId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::inode::Inode;
use crate::mount::{self, MountEntry, Syncing};
use crate::percent::shown_path_if_any;
use crate::quota::Quota;
use crate::store::{
    ContainerBase, ContainerId, ContainerLock, ContainerRecord, MountState, NewContainer,
};
use crate::sys::xattr::{self, Target};
use crate::sys::{Dir, inode_io};
use crate::watch::Watch;

/// What a container is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// An image, by its name, its ID or the beginning of its ID.
    Image(String),
    /// A stack of layers.
    Chain(ChainId),
}

impl From<&str> for Base {
    fn from(image: &str) -> Self {
        Self::Image(image.to_owned())
    }
}

impl From<Digest> for Base {
    fn from(image: Digest) -> Self {
        Self::Image(image.to_string())
    }
}

impl From<ChainId> for Base {
    fn from(chain: ChainId) -> Self {
        Self::Chain(chain)
    }
}

/// How a container is made.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Its name, by docker's rule `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; one is made up where there is none.
    pub name: Option<String>,
    /// Whether what is written in it survives a crash: each of its mounts is `volatile` where it
    /// need not.
    pub syncing: Syncing,
    /// How much it may hold: a project quota, which XFS and ext4 keep where they are mounted with
    /// `prjquota`, set by root.
    pub quota: Quota,
}

/// A container, as a list shows it.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct Container {
    /// Its identity: 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image that it was made from, as the caller named it.
    pub image: Option<String>,
    /// That image's ID.
    pub image_id: Option<Digest>,
    /// The stack that it stands on.
    pub chain_id: Option<ChainId>,
    /// When it was made: RFC 3339.
    pub created: String,
    /// Where it is mounted.
    #[serde(serialize_with = "shown_path_if_any")]
    pub mounted: Option<PathBuf>,
    /// It was mounted when the machine stopped: that mount is lost.
    pub lost: bool,
    /// It, or one before that was not synced, was `volatile`, so that files may be torn: see
    /// [`Driver::recover`].
    pub torn: bool,
}

impl Driver {
    /// Makes a container: an UpperDir and a WorkDir of its own above a stack that it shares.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such image or chain;
    /// [`ErrorKind::AlreadyExists`] where the name is taken.
    pub fn create(&self, base: &Base, name: Option<&str>) -> Result<Container> {
        let name = name.map(str::to_owned);
        self.create_with(base, &CreateOptions { name, ..CreateOptions::default() })
    }

    /// Makes a container as `options` say.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`ErrorKind::Unsupported`] for a quota where the file system keeps
    /// none, [`ErrorKind::PermissionDenied`] where it may not be set.
    pub fn create_with(&self, base: &Base, options: &CreateOptions) -> Result<Container> {
        let base = match base {
            Base::Image(text) => {
                ContainerBase::Image { id: self.store.image_id(text)?, name: text.clone() }
            }
            Base::Chain(chain) => ContainerBase::Chain(*chain),
        };
        let (name, volatile) = (options.name.as_deref(), options.syncing == Syncing::Volatile);
        let new = NewContainer { name, base, upper_mode: 0o700, volatile, quota: options.quota };
        let staged = self.store.stage_container(&new)?;
        let root = self.root_of_chain(staged.record().chain.as_ref())?;
        give_root(&staged.upper()?, &root)?;
        let lock = staged.commit()?;
        Ok(self.shown(lock.record(), None))
    }

    /// All containers, those made last first.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn containers(&self) -> Result<Vec<Container>> {
        // By the container's ID, which a path keeps when the store is moved.
        let mut table: Option<HashMap<OsString, Vec<MountEntry>>> = None;
        match mount::overlays() {
            Ok(mounts) => {
                let table = table.get_or_insert_default();
                for entry in mounts {
                    let own = entry.upper.as_deref().and_then(Path::parent);
                    if let Some(id) = own.and_then(Path::file_name) {
                        table.entry(id.to_owned()).or_default().push(entry);
                    }
                }
            }
            // Without /proc.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut records = self.store.containers()?;
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
        let mut shown = Vec::with_capacity(records.len());
        for record in &records {
            let mounted = match &table {
                Some(table) => {
                    let upper = self.upper_path(&record.id);
                    let found = table.get(OsStr::new(&record.id.to_string()));
                    let mut found = found.into_iter().flatten();
                    found.rfind(|entry| entry.writes_to(&upper)).cloned()
                }
                None => self.recorded_mounts(record)?.pop(),
            };
            shown.push(self.shown(record, mounted.as_ref()));
        }
        Ok(shown)
    }

    /// One container, by its name, its ID or the beginning of its ID.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn container(&self, text: &str) -> Result<Container> {
        let record = self.store.find_container(text)?;
        let mounted = self.mounts_of(&record)?;
        Ok(self.shown(&record, mounted.last()))
    }

    fn shown(&self, record: &ContainerRecord, mounted: Option<&MountEntry>) -> Container {
        let before = |state: &MountState| state.boot_id != super::mount::boot_id();
        let lost = record.mount.as_ref().filter(|state| mounted.is_none() && before(state));
        // What a mount before left may be torn as well; where that cannot be read, mounting tells.
        let unsynced = || self.store.unsynced(record).ok().flatten();
        let is_torn = lost.is_some_and(|state| state.volatile)
            || mounted.is_none() && unsynced().is_some_and(|state| before(&state));
        Container {
            lost: lost.is_some(),
            torn: is_torn,
            id: record.id.to_string(),
            name: record.name.clone(),
            image: record.image_name.clone(),
            image_id: record.image,
            chain_id: record.chain,
            created: record.created.timestamp().rfc3339(),
            mounted: mounted.map(|entry| entry.target.clone()),
        }
    }

    /// Removes a container with all that was changed in it.
    ///
    /// It is gone in one step; where little was changed its space is back as well, else
    /// [`empty_trash`](Self::empty_trash) frees it.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where it is mounted, or another process is busy with it.
    pub fn remove_container(&self, text: &str, watch: Watch<'_>) -> Result<()> {
        let mut lock = match self.lock(text) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return self.remove_broken_container(text, error);
            }
            lock => lock?,
        };
        self.refuse_mounted(&mut lock)?;
        watch.check()?;
        lock.remove_and_delete()
    }

    /// Removes a container of which only the directory tells.
    fn remove_broken_container(&self, text: &str, broken: Error) -> Result<()> {
        let Some(id) = self.store.broken_container(text)? else { return Err(broken) };
        self.refuse_mounted_broken(&id)?;
        self.store.remove_broken_container(&id)
    }

    /// Fails where a container is mounted of which only the directory tells.
    pub(super) fn refuse_mounted_broken(&self, id: &ContainerId) -> Result<()> {
        let upper = self.upper_path(id);
        let mounted = mount::with_upper(&upper).is_ok_and(|mounts| !mounts.is_empty());
        let is_used = |upper: &Dir| mount::is_in_use(upper, self.store.namespace());
        if mounted || Dir::open_ambient(&upper).is_ok_and(|upper| is_used(&upper)) {
            return Err(Error::new(ErrorKind::InUse, format!("container {id} is mounted"))
                .hint("unmount it first, where it is mounted: umount"));
        }
        Ok(())
    }

    /// A container, held alone.
    pub(super) fn lock(&self, text: &str) -> Result<ContainerLock> {
        self.store.lock_container_called(text)
    }

    /// The overlays that write to a container's UpperDir.
    pub(super) fn mounts_of(&self, record: &ContainerRecord) -> Result<Vec<MountEntry>> {
        match mount::with_upper(&self.upper_path(&record.id)) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.recorded_mounts(record),
            other => other,
        }
    }

    /// The same without `/proc`: what is mounted at the container's own directory, and where it was
    /// written down.
    fn recorded_mounts(&self, record: &ContainerRecord) -> Result<Vec<MountEntry>> {
        let own = self.store.container_path(&record.id).join("merged");
        let state = record.mount.as_ref();
        let recorded = state.and_then(|state| state.target.clone()).filter(|path| *path != own);
        let mut mounts = Vec::new();
        for target in recorded.into_iter().chain([own]) {
            if mount::is_mounted_at(&target)? {
                let volatile = state.is_some_and(|state| state.volatile);
                let upper = Some(self.upper_path(&record.id));
                mounts.push(MountEntry { target, upper, volatile });
            }
        }
        Ok(mounts)
    }

    pub(super) fn upper_path(&self, id: &ContainerId) -> PathBuf {
        self.store.container_path(id).join("upper")
    }

    /// Reads what belongs to a container, which nobody holds meanwhile. Where it was removed in the
    /// end, that is the error: what was read may lack anything.
    pub(super) fn reading<T>(
        &self,
        record: &ContainerRecord,
        read: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let read = read();
        if self.store.container(&record.id)?.is_some() {
            return read;
        }
        let message = format!("container {} was removed while it was read", record.name);
        Err(Error::new(ErrorKind::NotFound, message))
    }

    /// A container's UpperDir, to be read.
    ///
    /// Fails where it was mounted `volatile` when the machine stopped.
    pub(super) fn upper(&self, record: &ContainerRecord) -> Result<Dir> {
        let work = self.store.container_path(&record.id).join("work");
        self.refuse_torn(record, &Dir::open_ambient(work)?)?;
        Dir::open_ambient(self.upper_path(&record.id))
    }
}

/// Gives an UpperDir what the merged root is to look like.
pub(super) fn give_root(upper: &Dir, root: &Inode) -> Result<()> {
    let target = Target::open(upper);
    let own = upper.stat_self().during("stat", "UpperDir")?;
    if (own.st_uid, own.st_gid) != (root.uid, root.gid) {
        match inode_io::chown(target, root.uid, root.gid) {
            // A plain user's store: the owner is recorded in an attribute, which follows.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error).during("set owner of", "UpperDir"),
        }
    }
    for (name, value) in &root.xattrs {
        match xattr::set(target, name, value) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error).during("set attributes of", "UpperDir"),
        }
    }
    if own.st_mode & 0o7777 != root.mode {
        inode_io::chmod(target, root.mode).during("set mode of", "UpperDir")?;
    }
    inode_io::set_times(target, root.mtime, root.mtime).during("set times of", "UpperDir")
}
