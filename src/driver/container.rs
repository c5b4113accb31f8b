//! Containers: made, listed, found, removed.

use std::path::PathBuf;

use rustix::io::Errno;
use serde::Serialize;

use super::Driver;
use crate::digest::{ChainId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::inode::Inode;
use crate::mount::{self, MountEntry};
use crate::store::{ContainerBase, ContainerId, ContainerLock, ContainerRecord, NewContainer};
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
    pub mounted: Option<PathBuf>,
}

impl Driver {
    /// Makes a container: an UpperDir and a WorkDir of its own above a stack that it shares.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such image or chain;
    /// [`ErrorKind::AlreadyExists`] where the name is taken.
    pub fn create(&self, base: &Base, name: Option<&str>) -> Result<Container> {
        let (base, chain) = match base {
            Base::Image(text) => {
                let record = self.store.find_image(text)?.record;
                (ContainerBase::Image { id: record.id, name: text.clone() }, record.chain)
            }
            Base::Chain(chain) => (ContainerBase::Chain(*chain), Some(*chain)),
        };
        let composed = self.compose(chain.as_ref())?;
        let root = self.root_of(&composed)?;
        let new = NewContainer { name, base, upper_mode: 0o755 };
        let staged = self.store.stage_container(&new)?;
        give_root(&staged.upper()?, &root)?;
        let lock = staged.commit()?;
        Ok(container(lock.record(), None))
    }

    /// All containers, those made last first.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let mounts = mount::overlays()?;
        let mut records = self.store.containers()?;
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
        let shown = records.iter().map(|record| {
            let upper = self.upper_path(&record.id);
            container(record, mounts.iter().rfind(|entry| entry.upper.as_ref() == Some(&upper)))
        });
        Ok(shown.collect())
    }

    /// One container, by its name, its ID or the beginning of its ID.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn container(&self, text: &str) -> Result<Container> {
        let record = self.store.find_container(text)?;
        let mounted = self.mounts_of(&record.id)?;
        Ok(container(&record, mounted.last()))
    }

    /// Removes a container with all that was changed in it, and frees the space.
    ///
    /// It is gone in one step; where the rest is cancelled, opening the store again frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where it is mounted, or another process is busy with it.
    pub fn remove_container(&self, text: &str, watch: Watch<'_>) -> Result<()> {
        let mut lock = self.lock(text)?;
        self.refuse_mounted(&mut lock)?;
        lock.remove()?;
        self.empty_trash(watch)
    }

    /// Frees the space of what was removed.
    pub(super) fn empty_trash(&self, watch: Watch<'_>) -> Result<()> {
        self.store.empty_trash(&watch).map(drop)
    }

    /// A container, held alone.
    pub(super) fn lock(&self, text: &str) -> Result<ContainerLock> {
        let record = self.store.find_container(text)?;
        self.store.lock_container(&record.id)?.ok_or_else(|| {
            Error::new(
                ErrorKind::InUse,
                format!("container {} is held by another process", record.name),
            )
            .hint("it is being mounted, committed or removed, or held mounted, at this moment")
        })
    }

    /// The overlays that write to a container's UpperDir.
    pub(super) fn mounts_of(&self, id: &ContainerId) -> Result<Vec<MountEntry>> {
        mount::with_upper(&self.upper_path(id))
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
    pub(super) fn upper(&self, record: &ContainerRecord) -> Result<Dir> {
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
    inode_io::chmod(target, root.mode).during("set mode of", "UpperDir")?;
    inode_io::set_times(target, root.mtime, root.mtime).during("set times of", "UpperDir")
}

fn container(record: &ContainerRecord, mounted: Option<&MountEntry>) -> Container {
    Container {
        id: record.id.to_string(),
        name: record.name.clone(),
        image: record.image_name.clone(),
        image_id: record.image,
        chain_id: record.chain,
        created: record.created.timestamp().rfc3339(),
        mounted: mounted.map(|entry| entry.target.clone()),
    }
}
