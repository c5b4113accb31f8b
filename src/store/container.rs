//! Containers: a stack below, and an upper, a work and a merged directory of their own.

use std::path::PathBuf;

use rustix::io::Errno;

use super::Store;
use super::broken::unless_broken;
use super::container_name::{check_container_name, generated};
use super::hold::{Attempt, Held, patience};
use super::layout::{
    CONTAINER_FILE, CONTAINER_NAMES, CONTAINERS, ContainerId, IMAGE_FILE, MERGED, MOUNT_FILE,
    Object, TRASH, UNSYNCED_FILE, UPPER, WORK,
};
use super::mount_state::torn_means_gone;
use super::record::{self, ContainerRecord, ImageRecord, RecordTime};
use super::staging::{Published, Staged};
use crate::digest::{ChainId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::quota::Quota;
use crate::sys::lock::Mode;
use crate::sys::{Dir, random};

/// What a container stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerBase {
    /// An image, and how the caller named it.
    Image {
        /// The image's ID.
        id: Digest,
        /// Its name or ID as the caller gave it; what tables show.
        name: String,
    },
    /// A chain without an image.
    Chain(ChainId),
    /// Nothing: the container starts empty.
    Empty,
}

/// A container to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewContainer<'a> {
    /// Its name, by docker's rule `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; one is made up where it is `None`.
    pub name: Option<&'a str>,
    /// What it stands on.
    pub base: ContainerBase,
    /// The mode of its upper directory, which becomes that of its root.
    pub upper_mode: u32,
    /// Whether it is mounted `volatile` unless somebody says otherwise.
    pub volatile: bool,
    /// What it may hold.
    pub quota: Quota,
}

/// A container that is being made; dropping it removes it, and its name is free again.
#[derive(Debug)]
pub struct StagedContainer {
    /// Dropped first: while the directory is in staging, the name counts as taken.
    staged: Staged,
    /// The record that was written, not synced yet.
    file: Option<std::fs::File>,
    /// Where its back link stands; not synced yet.
    users: Option<Dir>,
    undo: Undo,
    /// Keeps what it stands on until it stands there.
    _base: Option<Held>,
}

/// Takes back the name and the link of a container that came to nothing.
#[derive(Debug)]
struct Undo {
    store: Store,
    record: ContainerRecord,
    committed: bool,
}

/// A container that nobody else mounts, changes or removes while this is held, in this process or
/// another.
#[derive(Debug)]
pub struct ContainerLock {
    pub(super) store: Store,
    pub(super) record: ContainerRecord,
    held: Held,
}

impl Store {
    /// Starts a container: its directories are there and empty, its name is taken, and nobody sees
    /// it before it is committed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where its image or chain is not in the store;
    /// [`ErrorKind::AlreadyExists`] where its name is taken; [`ErrorKind::InvalidInput`] for a
    /// malformed name.
    pub fn stage_container(&self, new: &NewContainer<'_>) -> Result<StagedContainer> {
        self.writable()?;
        new.name.map_or(Ok(()), check_container_name)?;
        let (base, mut record) = self.base_of(&new.base)?;
        record.volatile = new.volatile;
        record.project = self.new_project(&new.quota)?;
        let (staged, name) = self.stage_as(Mode::Exclusive, || {
            random::bytes::<32>().map(|bytes| Object::Container(ContainerId::new(bytes)).tag())
        })?;
        if let Some(Object::Container(id)) = Object::from_tag(&name) {
            record.id = id;
        }
        let undo = Undo { store: self.clone(), record, committed: false };
        let mut container = StagedContainer { staged, file: None, users: None, undo, _base: base };
        container.fill(new)?;
        Ok(container)
    }

    /// Makes a container with empty directories.
    ///
    /// # Errors
    /// As [`stage_container`](Self::stage_container).
    pub fn create_container(&self, new: &NewContainer<'_>) -> Result<ContainerLock> {
        self.stage_container(new)?.commit()
    }

    /// Holds what a new container stands on, and starts its record.
    fn base_of(&self, base: &ContainerBase) -> Result<(Option<Held>, ContainerRecord)> {
        let (image, image_name, chain) = match base {
            ContainerBase::Image { id, name } => (Some(*id), Some(name.clone()), None),
            ContainerBase::Chain(chain) => (None, None, Some(*chain)),
            ContainerBase::Empty => (None, None, None),
        };
        let (id, created) = (ContainerId::new([0; 32]), RecordTime::now());
        let name = String::new();
        let mut record = ContainerRecord {
            id,
            name,
            image,
            image_name,
            chain,
            created,
            volatile: false,
            project: None,
            mount: None,
        };
        let Some(object) = record.base() else {
            return Ok((None, record));
        };
        let held = self.lease(object)?.ok_or_else(|| self.no_such(object))?;
        if image.is_some() {
            let image: Option<ImageRecord> = self.read_record_in(held.dir(), object, IMAGE_FILE)?;
            record.chain = image.and_then(|image| image.chain);
        }
        Ok((Some(held), record))
    }

    /// Finds a container by what a person calls it: its full ID, its name, or the start of its ID.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where the start of an ID is that of
    /// several containers, which the message lists.
    pub fn find_container(&self, text: &str) -> Result<ContainerRecord> {
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("there is no container {text:?}"))
                .hint("overlay2 ps lists what is there")
        };
        if let Ok(id) = text.parse()
            && let Some(record) = self.container(&id)?
        {
            return Ok(record);
        }
        if check_container_name(text).is_ok()
            && let Some(id) = self.container_named(text)?
            && let Some(record) = self.container(&id)?
        {
            return Ok(record);
        }
        let container = |name: &str| name.parse().ok().map(Object::Container);
        match self.beginning(CONTAINERS, text, "container IDs", container)? {
            Some(Object::Container(id)) => self.container(&id)?.ok_or_else(missing),
            _ => Err(missing()),
        }
    }

    /// The record of a container; `None` where there is no such container.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the record is malformed.
    pub fn container(&self, id: &ContainerId) -> Result<Option<ContainerRecord>> {
        let object = Object::Container(*id);
        let record: Option<ContainerRecord> = self.read_record(object, CONTAINER_FILE)?;
        let Some(record) = record else { return Ok(None) };
        let mount = torn_means_gone(self.read_record(object, MOUNT_FILE))?;
        Ok(Some(ContainerRecord { mount, ..record }))
    }

    /// All containers, sorted by ID.
    ///
    /// # Errors
    /// As the operating system has them; one that vanishes meanwhile is left out, and so is one whose
    /// record is malformed, which [`find_container`](Self::find_container) tells.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        let mut containers = Vec::new();
        for object in self.list(CONTAINERS, |name| name.parse().ok().map(Object::Container))? {
            if let Object::Container(id) = object {
                containers.extend(unless_broken(self.container(&id))?);
            }
        }
        Ok(containers)
    }

    /// Holds a container alone; `None` where somebody else does.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such container.
    pub fn lock_container(&self, id: &ContainerId) -> Result<Option<ContainerLock>> {
        self.writable()?;
        let object = Object::Container(*id);
        let held = match self.claim(object, patience())? {
            Attempt::Held(held) => held,
            Attempt::Busy => return Ok(None),
            Attempt::Gone => return Err(self.no_such(object)),
        };
        let record = self.read_record_in(held.dir(), object, CONTAINER_FILE)?;
        let record: ContainerRecord = record
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{object} has no record")))?;
        let mount = torn_means_gone(self.read_record_in(held.dir(), object, MOUNT_FILE))?;
        let record = ContainerRecord { mount, ..record };
        Ok(Some(ContainerLock { store: self.clone(), record, held }))
    }

    /// Holds a container alone that a person calls `text`, as [`find_container`] finds it.
    ///
    /// # Errors
    /// As [`find_container`]; [`ErrorKind::InUse`] where somebody else holds it.
    ///
    /// [`find_container`]: Self::find_container
    pub fn lock_container_called(&self, text: &str) -> Result<ContainerLock> {
        // An exact name or ID is enough to lock it; its record is read under the lock.
        let named = match (text.parse::<ContainerId>(), check_container_name(text)) {
            (Err(_), Ok(())) => self.container_named(text)?,
            (id, _) => id.ok(),
        };
        let locked = named.map(|id| self.lock_container(&id)).transpose();
        let found = match locked {
            Ok(found) => found,
            // A name that outlived its container, or a name that reads like an ID.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (lock, name) = match found {
            Some(lock) => (lock, text.to_owned()),
            None => {
                let record = self.find_container(text)?;
                (self.lock_container(&record.id)?, record.name)
            }
        };
        if let Some(lock) = lock {
            return Ok(lock);
        }
        let message = format!("container {name} is held by another process");
        Err(Error::new(ErrorKind::InUse, message)
            .hint("it is being mounted, committed or removed, or held mounted, at this moment"))
    }

    /// Removes a container.
    ///
    /// Returns once it is gone from sight; [`empty_trash`](Self::empty_trash) frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InUse`] where somebody holds it, where it is recorded
    /// as mounted, and where something is mounted on its merged directory.
    pub fn remove_container(&self, id: &ContainerId) -> Result<()> {
        match self.lock_container(id)? {
            Some(lock) => lock.remove(),
            None => {
                let name = self.container(id)?.map_or_else(|| id.to_string(), |found| found.name);
                Err(Error::new(
                    ErrorKind::InUse,
                    format!("container {name} is held by another process, or mounted by it"),
                ))
            }
        }
    }
}

impl StagedContainer {
    fn fill(&mut self, new: &NewContainer<'_>) -> Result<()> {
        self.staged.make_dir(UPPER, new.upper_mode)?;
        self.staged.make_dir(WORK, 0o700)?;
        self.staged.make_dir(MERGED, 0o700)?;
        self.undo.record.assign_to_project(&self.staged)?;
        let mut attempt = 0;
        loop {
            self.undo.record.name = match new.name {
                Some(name) => name.to_owned(),
                None => generated(attempt)?,
            };
            attempt += 1;
            // Before the name is taken: whoever finds it, and no living maker, takes both away.
            self.write_record()?;
            let Undo { store, record, .. } = &self.undo;
            match (store.take_container_name(&record.name, &record.id)?, new.name) {
                (None, _) => break,
                (Some(_), None) => {
                    let removed = self.staged.dir().remove_file(CONTAINER_FILE);
                    removed.during("remove", &self.staged.shown(CONTAINER_FILE))?;
                }
                (Some(other), Some(name)) => {
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        format!("the name {name} is taken by container {other}"),
                    )
                    .hint("remove that container, or give another name"));
                }
            }
        }
        self.link()?;
        // Not before the record that tells of it.
        self.undo.store.limit_project(&self.undo.record, &new.quota)
    }

    fn write_record(&mut self) -> Result<()> {
        let bytes = record::to_bytes(&self.undo.record)
            .during("write", &self.staged.shown(CONTAINER_FILE))?;
        self.file = Some(self.staged.create(CONTAINER_FILE, &bytes)?);
        Ok(())
    }

    /// Adds the back link in what it stands on.
    fn link(&mut self) -> Result<()> {
        let Undo { store, record, .. } = &self.undo;
        if let (Some(object), Some(base)) = (record.base(), &self._base) {
            let (user, own) = (Object::Container(record.id), (self.staged.dir(), CONTAINER_FILE));
            self.users = Some(store.link_record(base, object, user, own)?);
        }
        Ok(())
    }

    /// What will be known of it.
    pub fn record(&self) -> &ContainerRecord {
        &self.undo.record
    }

    /// Its upper directory, to be given the owner, times and attributes of its root.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn upper(&self) -> Result<Dir> {
        self.staged.dir().child(UPPER).during("open directory", &self.staged.shown(UPPER))
    }

    /// Makes the container part of the store, and goes on holding it alone.
    ///
    /// # Errors
    /// As the operating system has them; nothing stays then.
    pub fn commit(self) -> Result<ContainerLock> {
        let Self { staged, file, users, mut undo, _base } = self;
        let (store, durability) = (undo.store.clone(), undo.store.durability());
        if let Some(file) = &file {
            // The record, the name, the link and the directory: all before the container appears.
            let names = [Some(store.top(CONTAINER_NAMES)), users.as_ref(), Some(staged.dir())];
            let synced = durability.sync_file_and_names(file, names.into_iter().flatten());
            synced.during("sync", &staged.shown(CONTAINER_FILE))?;
        }
        let object = Object::Container(undo.record.id);
        match staged.publish(object)? {
            Published::Done(held) => {
                undo.committed = true;
                store.sync_top(CONTAINERS)?;
                Ok(ContainerLock { store, record: undo.record.clone(), held })
            }
            Published::Exists(_) => {
                Err(Error::new(ErrorKind::AlreadyExists, format!("{object} exists already")))
            }
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let ContainerRecord { id, name, .. } = &self.record;
        // What stays is stale, and is removed by whoever meets it.
        let _ = self.store.forget_container_name(name, id);
        let _ = self.store.lift_quota(&self.record);
        let below = self.record.base().into_iter().collect();
        let _ = self.store.release(Object::Container(*id), below);
    }
}

impl ContainerLock {
    /// What is known of it.
    pub fn record(&self) -> &ContainerRecord {
        &self.record
    }

    /// Its directory, which holds `upper`, `work` and `merged`.
    pub fn dir(&self) -> &Dir {
        self.held.dir()
    }

    /// Its upper directory.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn upper(&self) -> Result<Dir> {
        self.open(UPPER)
    }

    /// Its work directory.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn work(&self) -> Result<Dir> {
        self.open(WORK)
    }

    /// Its own mount point, or the root of what is mounted there.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn merged(&self) -> Result<Dir> {
        self.open(MERGED)
    }

    /// The path of its own mount point.
    pub fn merged_path(&self) -> PathBuf {
        self.store.container_path(&self.record.id).join("merged")
    }

    fn open(&self, name: &[u8]) -> Result<Dir> {
        let path = self.store.container_path(&self.record.id);
        let path = path.join(String::from_utf8_lossy(name).as_ref());
        self.dir().child(name).during("open directory", &path)
    }

    /// Removes the container, as [`Store::remove_container`] does.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where it is recorded as mounted, and where something is mounted on its
    /// merged directory.
    pub fn remove(self) -> Result<()> {
        self.discard().map(drop)
    }

    /// Removes the container and frees its space.
    ///
    /// # Errors
    /// As [`remove`](Self::remove). Where its files cannot be deleted it is gone all the same.
    pub fn remove_and_delete(self) -> Result<()> {
        let store = self.store.clone();
        let (held, trash) = self.discard()?;
        store.delete_container(&held, &trash);
        Ok(())
    }

    /// Moves it to the trash and takes its name and links away; it is still held there.
    fn discard(self) -> Result<(Held, String)> {
        let Self { store, record, held } = self;
        let merged = held.dir().is_mount_point(MERGED);
        let visible = match merged {
            Ok(mounted) => mounted,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error).during("look at", "the merged directory"),
        };
        if visible || record.mount.is_some() {
            let target = record.mount.and_then(|mount| mount.target);
            let target = target.unwrap_or_else(|| store.container_path(&record.id).join("merged"));
            return Err(Error::new(
                ErrorKind::InUse,
                format!("container {} is mounted at {}", record.name, target.display()),
            )
            .hint("unmount it first"));
        }
        let object = Object::Container(record.id);
        let trash = store.discard_container(record.id, held.dir())?;
        store.sync_top(CONTAINERS)?;
        store.forget_container_name(&record.name, &record.id)?;
        store.release(object, record.base().into_iter().collect())?;
        store.lift_quota(&record)?;
        Ok((held, trash))
    }
}

impl Store {
    /// Deletes a container that is held in the trash. One that was never written to takes a call
    /// for each name, and is not listed. What cannot be deleted is told by whoever wants the room.
    pub(super) fn delete_container(&self, held: &Held, trash: &str) {
        let (dir, top) = (held.dir(), self.top(TRASH));
        for name in [CONTAINER_FILE, UNSYNCED_FILE] {
            let _ = dir.remove_file(name);
        }
        for name in [MERGED, b"work/work/incompat", b"work/work", WORK, UPPER] {
            // What holds something, or is mounted on, stays and is dealt with below.
            let _ = dir.remove_dir(name);
        }
        if let Err(Errno::NOTEMPTY | Errno::EXIST) = top.remove_dir(trash.as_bytes()) {
            let _ = self.delete_briefly(trash);
        }
    }
}
