//! Removing: refused while something uses the object, one rename to the trash, and what it stood on
//! goes with it where nothing else stands there.

use std::collections::BTreeSet;
use std::time::Instant;

use rustix::fs::RenameFlags;

use super::Store;
use super::hold::{Attempt, Held, patience};
use super::layout::{
    CHAIN_FILE, CHAINS, CONTAINER_FILE, IMAGE_FILE, LAYERS, LayerKey, Object, PINNED, TRASH,
};
use super::record::{ChainRecord, ContainerRecord, ImageRecord};
use super::users::is_no_directory;
use crate::digest::ChainId;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::{Dir, random};

/// The most users that a message names.
const NAMED: usize = 5;

/// What became of an object that nothing may use any more.
enum Fate {
    /// It is gone; it stood on these.
    Gone(Vec<Object>),
    /// Something uses it, or it is not there.
    Stays,
    /// Somebody holds it: he will use it, or not.
    Held,
}

impl Store {
    /// Removes a chain, and its layer directory where no other chain stands on it. What lies below
    /// stays where it is pinned or used, and goes too where it is not.
    ///
    /// Returns once it is gone from sight; [`empty_trash`](Self::empty_trash) frees the space.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InUse`] where a chain, an image or a container stands
    /// on it, which the message names.
    pub fn remove_chain(&self, chain: &ChainId) -> Result<()> {
        self.writable()?;
        let object = Object::Chain(*chain);
        let held = self.claim_unused(object)?;
        let below = self.uses_of(object, held.dir())?;
        self.discard(object)?;
        self.durability().sync_names(self.top(CHAINS)).during("sync", &self.at(&[CHAINS]))?;
        self.release(object, below)
    }

    /// Removes a layer directory that no chain stands on; `false` where one does, or where
    /// somebody holds it. A layer that is not there is no error.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn remove_unused_layer(&self, key: &LayerKey) -> Result<bool> {
        self.writable()?;
        self.drop_unused(&[Object::Layer(*key)])?;
        Ok(!self.exists(Object::Layer(*key))?)
    }

    /// Removes a chain that nothing uses and that is not pinned, with what only it used; `false`
    /// where it stays. A chain that is not there is no error.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn remove_unused_chain(&self, chain: &ChainId) -> Result<bool> {
        self.writable()?;
        self.drop_unused(&[Object::Chain(*chain)])?;
        Ok(!self.exists(Object::Chain(*chain))?)
    }

    /// Holds an object alone for its removal.
    pub(super) fn claim_unused(&self, object: Object) -> Result<Held> {
        let held = match self.claim(object, patience())? {
            Attempt::Held(held) => held,
            Attempt::Gone => return Err(self.no_such(object)),
            Attempt::Busy => {
                return Err(Error::new(
                    ErrorKind::InUse,
                    format!("{object} is used by another process at this moment"),
                ));
            }
        };
        let users = self.live_users(object, &held, NAMED)?;
        if users.is_empty() {
            return Ok(held);
        }
        Err(Error::new(ErrorKind::InUse, format!("{object} is used by {}", users.join(", ")))
            .hint("remove what uses it first"))
    }

    /// Moves an object that is held alone to the trash; not durable yet. Gives its name there.
    pub(super) fn discard(&self, object: Object) -> Result<String> {
        let random = random::hex::<8>().during("read", "random bytes")?;
        let (name, trash) = (object.name(), format!("{}.{random}", object.tag()));
        let (from, to) = (self.top(object.place()), self.top(TRASH));
        let (name_bytes, trash_bytes) = (name.as_bytes(), trash.as_bytes());
        self.with_ballast(|| from.rename(name_bytes, to, trash_bytes, RenameFlags::NOREPLACE))
            .during("move to the trash", &self.at(&[object.place(), &name]))?;
        Ok(trash)
    }

    /// `user` is gone: takes its links from `objects`, and removes those of them that nothing uses
    /// any more, and so on downwards.
    pub(super) fn release(&self, user: Object, mut objects: Vec<Object>) -> Result<()> {
        if let Object::Container(_) = user {
            // No second container of this ID will ever be made, so its links need no lock.
            for object in &objects {
                let path = format!("{}/users/{}", object.name(), user.tag());
                match self.top(object.place()).remove_file(path.as_bytes()) {
                    Ok(()) => {}
                    Err(error) if is_no_directory(error) => {}
                    Err(error) => return Err(error).during("remove", &self.shown_users(*object)),
                }
            }
            objects.retain(|object| matches!(object, Object::Chain(_)));
        }
        self.cascade(objects.into_iter().map(|object| (object, Some(user))).collect()).map(drop)
    }

    /// Removes those of `objects` that nothing uses, and what only they used; `false` where somebody
    /// holds one of them, and may let go of it without a use.
    pub(super) fn drop_unused(&self, objects: &[Object]) -> Result<bool> {
        self.cascade(objects.iter().map(|object| (*object, None)).collect())
    }

    /// Chains first, their layers after them, each durable before the next kind: what is used never
    /// goes before its user. `false` where somebody holds one of them.
    fn cascade(&self, mut pending: Vec<(Object, Option<Object>)>) -> Result<bool> {
        let mut layers = BTreeSet::new();
        let deadline = patience();
        let (mut gone, mut held) = (false, false);
        while let Some((object, user)) = pending.pop() {
            if let Object::Layer(_) = object {
                layers.insert((object, user));
                continue;
            }
            match self.drop_one(object, user, deadline)? {
                Fate::Gone(below) => {
                    gone = true;
                    pending.extend(below.into_iter().map(|below| (below, Some(object))));
                }
                Fate::Held => held = true,
                Fate::Stays => {}
            }
        }
        if gone {
            self.durability().sync_names(self.top(CHAINS)).during("sync", &self.at(&[CHAINS]))?;
        }
        gone = false;
        for (layer, user) in layers {
            match self.drop_one(layer, user, deadline)? {
                Fate::Gone(_) => gone = true,
                Fate::Held => held = true,
                Fate::Stays => {}
            }
        }
        if gone {
            self.durability().sync_names(self.top(LAYERS)).during("sync", &self.at(&[LAYERS]))?;
        }
        Ok(!held)
    }

    /// Removes `object` where nothing uses it, and gives back what it stood on. Where it stays, the
    /// link of `user`, which is gone, is taken from it.
    fn drop_one(&self, object: Object, user: Option<Object>, deadline: Instant) -> Result<Fate> {
        let held = match self.claim(object, deadline)? {
            Attempt::Held(held) => held,
            Attempt::Busy => return Ok(Fate::Held),
            Attempt::Gone => return Ok(Fate::Stays),
        };
        if let Some(user) = user
            && self.live_name(object, user)?.is_none()
        {
            let unlinked = held.users().and_then(|users| users.remove_file(user.tag().as_bytes()));
            match unlinked {
                Err(error) if !is_no_directory(error) => {
                    Err(error).during("remove a back link in", &self.shown_users(object))?;
                }
                _ => {}
            }
        }
        let pinned = || held.dir().stat_if_exists(PINNED);
        // Images and containers go when somebody says so, and not before.
        let stays = matches!(object, Object::Image(_) | Object::Container(_))
            || pinned().during("look at", &self.shown_users(object))?.is_some();
        if stays || !self.live_users(object, &held, 1)?.is_empty() {
            return Ok(Fate::Stays);
        }
        let below = self.uses_of(object, held.dir())?;
        self.discard(object)?;
        Ok(Fate::Gone(below))
    }

    /// Those who use an object that is held alone, at most `most` of them, as a person knows them.
    /// Links of users that do not exist are removed: their makers died, or they would hold it.
    pub(super) fn live_users(
        &self,
        object: Object,
        held: &Held,
        most: usize,
    ) -> Result<Vec<String>> {
        let links = self.back_links(object, held.dir())?;
        let mut names = Vec::new();
        for tag in &links.tags {
            let shown = String::from_utf8_lossy(tag);
            let name = match Object::from_tag(&shown) {
                Some(user) => self.live_name(object, user)?,
                None => Some(format!("something unknown named {shown:?}")),
            };
            match name {
                Some(_) if names.len() == most => {
                    names.push("others".to_owned());
                    break;
                }
                Some(name) => names.push(name),
                None => links.remove(tag).during("remove", &*shown)?,
            }
            if most == 1 && names.len() == most {
                break;
            }
        }
        Ok(names)
    }

    /// How a person knows `user`, where it exists and uses `object`.
    pub(super) fn live_name(&self, object: Object, user: Object) -> Result<Option<String>> {
        match user {
            Object::Container(id) => {
                let record: Option<ContainerRecord> = match self.read_record(user, CONTAINER_FILE) {
                    // It is there, whatever its record says.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        return Ok(Some(format!("container {id}")));
                    }
                    read => read?,
                };
                Ok(record.map(|record| format!("container {}", record.name)))
            }
            Object::Image(id) if self.exists(user)? => {
                let names = self.names_of(&id)?;
                Ok(Some(names.first().map_or(user.to_string(), |name| format!("image {name}"))))
            }
            Object::Chain(_) if self.exists(user)? => {
                let Object::Layer(key) = object else {
                    return Ok(Some(user.to_string()));
                };
                // The chain may stand on another directory of the same diff.
                let record: Option<ChainRecord> = match self.read_record(user, CHAIN_FILE) {
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        return Ok(Some(user.to_string()));
                    }
                    read => read?,
                };
                let uses = record.is_some_and(|record| record.layers().any(|layer| layer == key));
                Ok(uses.then(|| user.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// What an object stands on, by its record in `dir`; nothing where the record cannot be read,
    /// which leaves stale links behind and no more.
    pub(super) fn uses_of(&self, object: Object, dir: &Dir) -> Result<Vec<Object>> {
        match self.read_uses_of(object, dir) {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Vec::new()),
            other => other,
        }
    }

    /// What an object stands on, by its record in `dir`.
    pub(super) fn read_uses_of(&self, object: Object, dir: &Dir) -> Result<Vec<Object>> {
        match object {
            Object::Layer(_) => Ok(Vec::new()),
            Object::Chain(_) => self.read_record_in(dir, object, CHAIN_FILE).map(uses_of_chain),
            Object::Image(_) => {
                let record = self.read_record_in(dir, object, IMAGE_FILE);
                record.map(|record: Option<ImageRecord>| {
                    let chain = record.and_then(|record| record.chain);
                    chain.map(Object::Chain).into_iter().collect()
                })
            }
            Object::Container(_) => {
                let record = self.read_record_in(dir, object, CONTAINER_FILE);
                record.map(|record: Option<ContainerRecord>| {
                    record.and_then(|record| record.base()).into_iter().collect()
                })
            }
        }
    }

    pub(super) fn shown_users(&self, object: Object) -> String {
        let path = self.path().join(object.place()).join(object.name());
        path.join("users").display().to_string()
    }
}

fn uses_of_chain(record: Option<ChainRecord>) -> Vec<Object> {
    let Some(record) = record else {
        return Vec::new();
    };
    record.layers().map(Object::Layer).chain(record.parent.map(Object::Chain)).collect()
}

impl ContainerRecord {
    /// What holds the back link of the container: its image, or else its chain.
    pub(super) fn base(&self) -> Option<Object> {
        self.image.map(Object::Image).or_else(|| self.chain.map(Object::Chain))
    }
}
