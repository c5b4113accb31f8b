//! The store: layers, chains, images and containers on disk.
//!
//! It knows nothing of archives, mounts or manifests: the driver joins it with those.
//!
//! # What refers to what
//!
//! A *container* stands on an image or on a chain, an *image* on a chain, a *chain* on its parent
//! and on a layer directory. Each reference is kept on both ends: in the referrer's record, and as
//! a file in the `users/` directory of what is referred to, so that removal reads only what
//! it removes. The back link comes first, the referrer's record after it; when the referrer goes,
//! its record goes first. So a back link may be stale, but none is ever missing.
//!
//! # Who may do what meanwhile
//!
//! There is no global lock. Each object is locked by its own directory: shared (a lease) by
//! whoever will refer to it, until the reference is committed; exclusively, and without waiting
//! long, by whoever removes it. What is being made stands in `staging/`, locked by its maker, and
//! appears under its name in one rename; what is removed goes to `trash/` in one rename. Locks end
//! with their process, and opening the store removes what has no living maker.
//!
//! # What survives
//!
//! With [`Durability::Full`](crate::Durability), what a call reported as done is there after a power
//! cut: bytes and back links are durable before the name appears, and the name before the call
//! returns. With either durability, a process that dies leaves each object absent or whole.

mod audit;
mod ballast;
mod broken;
mod chain;
mod container;
mod container_name;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod garbage;
mod handles;
mod hold;
mod image;
mod image_name;
mod layer;
mod layout;
mod mount_state;
mod named;
mod open;
mod owners;
mod quota;
mod record;
mod removal;
mod reserve;
mod stacks;
mod staging;
mod sweep;
#[cfg(test)]
mod tests;
mod users;

pub(crate) use audit::Fault;
pub use chain::{LeasedChain, Retention};
pub use container::{ContainerBase, ContainerLock, NewContainer, StagedContainer};
pub(crate) use garbage::Garbage;
pub use garbage::GarbageKind;
pub use image::{Image, LeasedImage, NewImage};
pub use image_name::RemovedImage;
pub use layer::{FinishedLayer, LeasedLayer, Staging};
pub use layout::{ContainerId, LayerKey};
pub use open::{Access, StoreOptions};
pub use owners::Owners;
pub use quota::QuotaUse;
pub use record::{
    ChainRecord, ContainerRecord, ImageRecord, LayerRecord, MountState, RecordTime, StackEntry,
};
pub use reserve::{Reservation, Reserved};

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{DirEntry, Kind, type_of};
use crate::sys::durable::Durability;
use layout::{CONTAINERS, LAYERS, Object};
use record::{StoreRecord, Unread};

/// A store that is open; clones are the same store.
///
/// Any number of threads and processes may use one store at once.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Dir,
    /// Absolute, for messages and for those who print paths.
    path: PathBuf,
    /// The directories of [`layout::TOP`], held open.
    tops: Vec<(&'static str, Dir)>,
    durability: Durability,
    access: Access,
    record: StoreRecord,
    stacks: stacks::Stacks,
    handles: handles::Handles,
}

/// What helps where a record is damaged.
const MEND: &str = "overlay2 check tells what else is damaged; overlay2 repair mends layers";

impl Store {
    /// Where overlayfs keeps its attributes in the layers of this store.
    pub fn namespace(&self) -> Namespace {
        self.0.record.namespace
    }

    /// The store's directory.
    pub fn dir(&self) -> &Dir {
        &self.0.root
    }

    /// The store's directory as an absolute path, as it was when the store was opened.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// 32 hexadecimal digits that tell this store from every other one.
    pub fn id(&self) -> &str {
        &self.0.record.id
    }

    /// What survives a power cut.
    pub fn durability(&self) -> Durability {
        self.0.durability
    }

    /// Where a layer's files are or would be, for people and for interfaces that need a path.
    pub fn layer_path(&self, key: &LayerKey) -> PathBuf {
        self.layers_path().join(key.to_string()).join("diff")
    }

    /// Where a container is or would be: the parent of `upper`, `work` and `merged`.
    pub fn container_path(&self, id: &ContainerId) -> PathBuf {
        self.0.path.join(CONTAINERS).join(id.to_string())
    }

    /// Where all layers are.
    pub fn layers_path(&self) -> PathBuf {
        self.0.path.join(LAYERS)
    }

    /// Where all containers are.
    pub fn containers_path(&self) -> PathBuf {
        self.0.path.join(CONTAINERS)
    }

    /// One of the directories of [`layout::TOP`].
    fn top(&self, name: &'static str) -> &Dir {
        let found = self.0.tops.iter().find(|(top, _)| *top == name);
        // All of them are opened with the store; the root stands in for none.
        found.map_or(&self.0.root, |(_, dir)| dir)
    }

    /// A place in the store for messages, put together only when one is printed.
    fn at<'a>(&'a self, parts: &'a [&'a str]) -> At<'a> {
        At { root: &self.0.path, parts }
    }

    fn writable(&self) -> Result<()> {
        match self.0.access {
            Access::ReadOnly => Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("store {} was opened read-only", self.0.path.display()),
            )),
            _ => Ok(()),
        }
    }

    /// Reads a record of an object; `None` where there is none.
    fn read_record<T: DeserializeOwned>(&self, object: Object, file: &[u8]) -> Result<Option<T>> {
        let name = object.name();
        let path = [name.as_bytes(), b"/", file].concat();
        // Two names at once: nothing inside the store is a symlink that somebody else made.
        self.parsed(record::read(self.top(object.place()), &path), object, file)
    }

    /// As [`read_record`](Self::read_record), from the object's directory, wherever it is now.
    fn read_record_in<T: DeserializeOwned>(
        &self,
        dir: &Dir,
        object: Object,
        file: &[u8],
    ) -> Result<Option<T>> {
        self.parsed(record::read(dir, file), object, file)
    }

    fn parsed<T>(&self, read: Result<T, Unread>, object: Object, file: &[u8]) -> Result<Option<T>> {
        let (name, file) = (object.name(), String::from_utf8_lossy(file));
        let parts = [object.place(), &name, &file];
        match read {
            Ok(record) => Ok(Some(record)),
            Err(Unread::Os(Errno::NOENT)) => Ok(None),
            Err(Unread::Os(error)) if record::is_something_else(error) => {
                Err(Error::new(ErrorKind::Corrupt, format!("{} is no record", self.at(&parts)))
                    .because(error)
                    .hint(MEND))
            }
            Err(Unread::Os(error)) => Err(error).during("read", &self.at(&parts)),
            Err(Unread::Malformed(error)) => {
                let place = self.at(&parts).shown().into_owned();
                Err(Error::new(ErrorKind::Corrupt, format!("{place} is malformed"))
                    .because(error)
                    .hint(MEND))
            }
        }
    }

    /// The objects of a kind, sorted; what is no object of it is left out.
    fn list(&self, place: &'static str, parse: fn(&str) -> Option<Object>) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for entry in self.top(place).entries().during("list", &self.at(&[place]))? {
            // Something else in the place of one is none: a check tells of it.
            if let Some(object) = std::str::from_utf8(&entry.name).ok().and_then(parse)
                && self.is_directory(place, &entry)?
            {
                objects.push(object);
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    /// Whether an entry of one of the store's directories is a directory.
    fn is_directory(&self, place: &'static str, entry: &DirEntry) -> Result<bool> {
        if entry.kind != Kind::Unknown {
            return Ok(entry.kind == Kind::Directory);
        }
        let stat =
            self.top(place).stat_if_exists(&entry.name).during("look at", &self.at(&[place]))?;
        Ok(stat.is_some_and(|stat| type_of(&stat) == FileType::Directory))
    }

    fn no_such(&self, object: Object) -> Error {
        let store = self.0.path.display();
        Error::new(ErrorKind::NotFound, format!("{object} is not in store {store}"))
    }

    /// Whether an object is there, without holding it.
    fn exists(&self, object: Object) -> Result<bool> {
        let name = object.name();
        let found = self.top(object.place()).stat_if_exists(name.as_bytes());
        Ok(found.during("look at", &self.at(&[object.place(), &name]))?.is_some())
    }
}

impl Store {
    /// The one object of a kind whose ID begins so. Nothing is listed for what begins no ID.
    fn beginning(
        &self,
        place: &'static str,
        prefix: &str,
        what: &str,
        object: fn(&str) -> Option<Object>,
    ) -> Result<Option<Object>> {
        if !may_begin_an_id(prefix) {
            return Ok(None);
        }
        only(matching(self.list(place, object)?, prefix), what, prefix)
    }
}

/// Whether an ID or a key may begin so: at least two of its digits are given.
fn may_begin_an_id(prefix: &str) -> bool {
    let plain = prefix.strip_prefix("chain-").unwrap_or(prefix);
    plain.len() >= 2 && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The names of objects that begin with `prefix`.
fn matching(objects: Vec<Object>, prefix: &str) -> Vec<Object> {
    let digits = may_begin_an_id(prefix);
    let matches = |object: &Object| digits && object.name().starts_with(prefix);
    objects.into_iter().filter(matches).collect()
}

/// The one object that was meant.
fn only(found: Vec<Object>, what: &str, text: &str) -> Result<Option<Object>> {
    if let [_, _, ..] = found.as_slice() {
        let names: Vec<_> = found.iter().map(Object::name).collect();
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{text:?} is the start of several {what}: {}", names.join(", ")),
        )
        .hint("give more digits"));
    }
    Ok(found.into_iter().next())
}

/// A place in the store, for messages.
struct At<'a> {
    root: &'a Path,
    parts: &'a [&'a str],
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Subject for At<'_> {
    fn shown(&self) -> Cow<'_, str> {
        let path = self.parts.iter().fold(self.root.to_path_buf(), |path, part| path.join(part));
        Cow::Owned(path.to_string_lossy().into_owned())
    }
}
