//! Objects and names whose records are damaged: passed over by those who list the others, named by
//! [`Store::audit`], and removed.

use super::container_name::check_container_name;
use super::hold::{Attempt, patience, wait_exclusive};
use super::layout::{
    CONTAINER_FILE, CONTAINER_NAMES, CONTAINERS, ContainerId, MERGED, NAMES, Object,
};
use super::record::ContainerRecord;
use super::{Store, matching, only};
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::sys::remove::remove_tree;

/// What was read, where it is not damaged: one broken record is no reason to tell of no other, and a
/// check names it.
pub(super) fn unless_broken<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        other => other,
    }
}

impl Store {
    /// The container that a person calls `text`, whose record is damaged: its ID, by which
    /// [`remove_broken_container`](Self::remove_broken_container) removes it.
    ///
    /// # Errors
    /// As [`find_container`](Self::find_container).
    pub fn broken_container(&self, text: &str) -> Result<Option<ContainerId>> {
        let named = match (text.parse::<ContainerId>(), check_container_name(text)) {
            (Err(_), Ok(())) => unless_broken(self.container_named(text))?,
            (id, _) => id.ok(),
        };
        let all = self.list(CONTAINERS, |name| name.parse().ok().map(Object::Container))?;
        let found = match named.map(Object::Container).filter(|object| all.contains(object)) {
            None => only(matching(all, text), "container IDs", text)?,
            named => named,
        };
        let Some(Object::Container(id)) = found else { return Ok(None) };
        let record: Result<Option<ContainerRecord>> =
            self.read_record(Object::Container(id), CONTAINER_FILE);
        match record {
            Ok(None) => Ok(Some(id)),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(id)),
            other => other.map(|_| None),
        }
    }

    /// Every container whose record is damaged.
    #[cfg(feature = "image")]
    pub(crate) fn broken_containers(&self) -> Result<Vec<ContainerId>> {
        let mut broken = Vec::new();
        for object in self.list(CONTAINERS, |name| name.parse().ok().map(Object::Container))? {
            let Object::Container(id) = object else { continue };
            if unless_broken(self.container(&id))?.is_none() && self.exists(object)? {
                broken.push(id);
            }
        }
        Ok(broken)
    }

    /// Removes a container whose record is damaged, so that nothing tells its name and what it
    /// stands on: the names that lead to it go, and its links there, which are stale now, by
    /// [`gc`](crate::Driver::gc). Where it is mounted is for the caller to find out.
    ///
    /// # Errors
    /// As [`remove_container`](Self::remove_container).
    pub fn remove_broken_container(&self, id: &ContainerId) -> Result<()> {
        self.writable()?;
        let object = Object::Container(*id);
        let held = match self.claim(object, patience())? {
            Attempt::Held(held) => held,
            Attempt::Busy => {
                let message = format!("container {id} is held by another process");
                return Err(Error::new(ErrorKind::InUse, message));
            }
            Attempt::Gone => return Err(self.no_such(object)),
        };
        if held.dir().is_mount_point(MERGED).unwrap_or(false) {
            let target = self.container_path(id).join("merged");
            let message = format!("container {id} is mounted at {}", target.display());
            return Err(Error::new(ErrorKind::InUse, message).hint("unmount it first: umount"));
        }
        let trash = self.discard(object)?;
        self.sync_top(CONTAINERS)?;
        self.forget_container_names(id)?;
        self.delete_container(&held, &trash);
        Ok(())
    }

    /// Takes away every name that means a container, whose record does not tell which it has.
    pub(super) fn forget_container_names(&self, id: &ContainerId) -> Result<()> {
        let entries = self.top(CONTAINER_NAMES).entries();
        for entry in entries.during("list", &self.at(&[CONTAINER_NAMES]))? {
            let name = entry.name.shown();
            if unless_broken(self.container_named(&name))? == Some(*id) {
                self.forget_container_name(&name, id)?;
            }
        }
        Ok(())
    }

    /// Removes a name that tells nothing, unless somebody has put it right.
    pub(super) fn remove_broken_name(&self, place: &str) -> Result<()> {
        let Some((place, name)) = place.split_once('/') else { return Ok(()) };
        let (place, read): (_, fn(&Self, &str) -> Result<()>) = match place {
            NAMES => (NAMES, |store, name| store.read_name(name.as_bytes()).map(drop)),
            _ => (CONTAINER_NAMES, |store, name| store.container_named(name).map(drop)),
        };
        let names = self.top(place);
        let _lock = wait_exclusive(names).during("lock", &self.at(&[place]))?;
        match read(self, name) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                remove_tree(names, name.as_bytes()).during("remove", &self.at(&[place, name]))
            }
            other => other,
        }
    }
}
