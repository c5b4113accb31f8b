//! What nothing refers to: listed, and removed.

use std::collections::{HashMap, HashSet};

use super::Store;
use super::hold::{Attempt, Held, patience};
use super::layout::{
    CHAINS, CONTAINER_NAMES, IMAGES, LAYER_FILE, LAYERS, NAMES, Object, PINNED, STAGING, TRASH,
};
use super::record::LayerRecord;
use crate::digest::{ChainId, Digest};
use crate::error::{Context, ErrorKind, Result, Subject};
use crate::layer_path::LayerPath;
use crate::sys::dir::Kind;
use crate::sys::lock::Mode;
use crate::watch::Watch;

/// Something that nothing refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Garbage {
    pub(crate) kind: GarbageKind,
    /// Its place in the store: `layers/KEY`, `trash/…`.
    pub(crate) place: String,
    object: Option<Object>,
}

/// What kind of thing nothing refers to.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GarbageKind {
    /// A chain that no image, no container and no other chain stands on, and that is not pinned.
    Chain,
    /// A layer directory that no chain stands on.
    Layer,
    /// A name of an image or a container that is gone.
    Name,
    /// A back link of something that is gone.
    Link,
    /// Half-made, and its maker is gone.
    Staging,
    /// Removed, and not deleted yet.
    Trash,
}

impl Store {
    /// What nothing refers to, found without changing anything.
    pub(crate) fn garbage(&self, watch: &Watch<'_>) -> Result<Vec<Garbage>> {
        let mut found = Vec::new();
        let mut gone = HashSet::new();
        // A back link that was lost makes nothing unused.
        let mut users: HashMap<Object, Vec<Object>> = HashMap::new();
        for (user, used) in self.all_uses()? {
            used.into_iter().flatten().for_each(|used| users.entry(used).or_default().push(user));
        }
        let chain =
            |name: &str| Digest::from_hex(name).ok().map(|id| Object::Chain(ChainId::new(id)));
        let chains = self.list(CHAINS, chain)?;
        let layers = self.list(LAYERS, |name| name.parse().ok().map(Object::Layer))?;
        // What only something unused uses goes with it.
        let mut pending: Vec<_> = layers.iter().chain(&chains).copied().collect();
        while let Some(object) = pending.pop() {
            watch.check()?;
            let is_gone = |user: &Object| gone.contains(user);
            let used = users.get(&object).is_some_and(|users| !users.iter().all(is_gone));
            if used || is_gone(&object) || !self.is_garbage(object, &gone)? {
                continue;
            }
            gone.insert(object);
            let path = LayerPath::parse(object.name().as_bytes())?;
            if let Ok(dir) = self.top(object.place()).descend(&path) {
                pending.extend(self.uses_of(object, &dir)?);
            }
            found.push(Garbage::object(object));
        }
        for object in chains.into_iter().chain(layers) {
            if !gone.contains(&object) {
                self.stale_links(object, &mut found)?;
            }
        }
        for object in self.list(IMAGES, |name| Digest::from_hex(name).ok().map(Object::Image))? {
            self.stale_links(object, &mut found)?;
        }
        self.stale_names(&mut found)?;
        self.leftovers(&mut found)?;
        Ok(found)
    }

    /// Removes what [`garbage`](Self::garbage) gave, where that is still what it was, and deletes
    /// what was removed before.
    pub(crate) fn collect(&self, garbage: &[Garbage], watch: &Watch<'_>) -> Result<()> {
        self.writable()?;
        self.sweep_staging();
        let objects: Vec<_> = garbage
            .iter()
            .filter(|one| matches!(one.kind, GarbageKind::Chain | GarbageKind::Layer))
            .filter_map(|one| one.object)
            .collect();
        self.drop_unused(&objects)?;
        for one in garbage {
            watch.check()?;
            match (one.kind, one.object) {
                (GarbageKind::Link, Some(object)) => {
                    if let Attempt::Held(held) = self.claim(object, patience())? {
                        self.live_users(object, &held, usize::MAX)?;
                    }
                }
                (GarbageKind::Name, None) => self.remove_broken_name(&one.place)?,
                (GarbageKind::Name, Some(object)) => {
                    let name = one.place.rsplit('/').next().unwrap_or_default();
                    match object {
                        Object::Image(id) => self.forget_image_name(name.as_bytes(), &id)?,
                        Object::Container(id) => self.forget_container_name(name, &id)?,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        self.empty_trash(watch).map(drop)
    }

    /// What was written down of it, where it is a layer, or was one.
    pub(crate) fn recorded(&self, garbage: &Garbage) -> Option<LayerRecord> {
        let object = match (garbage.kind, garbage.place.rsplit_once('/')) {
            (GarbageKind::Layer, _) => garbage.object,
            (GarbageKind::Trash, Some((_, name))) => Object::from_tag(name),
            _ => None,
        };
        let object = object.filter(|object| matches!(object, Object::Layer(_)))?;
        let path = LayerPath::parse(garbage.place.as_bytes()).ok()?;
        let dir = self.dir().descend(&path).ok()?;
        self.read_record_in(&dir, object, LAYER_FILE).ok().flatten()
    }

    /// Whether it is still there.
    pub(crate) fn has(&self, garbage: &Garbage) -> bool {
        self.dir().stat_if_exists(garbage.place.as_bytes()).is_ok_and(|stat| stat.is_some())
    }

    fn is_garbage(&self, object: Object, gone: &HashSet<Object>) -> Result<bool> {
        let name = object.name();
        let Object::Chain(_) = object else {
            return Ok(matches!(object, Object::Layer(_)) && self.is_unused(object, gone)?);
        };
        let pinned = [name.as_bytes(), b"/", PINNED].concat();
        let pinned = self.top(CHAINS).stat_if_exists(&pinned);
        let pinned = pinned.during("look at", &self.at(&[CHAINS, &name]))?.is_some();
        Ok(!pinned && self.is_unused(object, gone)?)
    }

    /// Whether nothing uses an object but what goes too, and nobody is about to.
    fn is_unused(&self, object: Object, gone: &HashSet<Object>) -> Result<bool> {
        let Links { live, .. } = self.links(object)?;
        Ok(live.iter().all(|user| user.is_some_and(|user| gone.contains(&user)))
            && self.is_free(object)?)
    }

    fn links(&self, object: Object) -> Result<Links> {
        let mut links = Links::default();
        for tag in self.back_links_of(object)? {
            match Object::from_tag(&String::from_utf8_lossy(&tag)) {
                Some(user) if self.live_name(object, user)?.is_none() => {
                    links.stale.push(tag);
                }
                user => links.live.push(user),
            }
        }
        Ok(links)
    }

    fn stale_links(&self, object: Object, found: &mut Vec<Garbage>) -> Result<()> {
        let Links { stale, .. } = self.links(object)?;
        // Whoever holds it may be making what the link is of.
        if stale.is_empty() || !self.is_free(object)? {
            return Ok(());
        }
        for link in stale {
            let (place, name) = (object.place(), object.name());
            found.push(Garbage {
                kind: GarbageKind::Link,
                place: format!("{place}/{name}/users/{}", link.shown()),
                object: Some(object),
            });
        }
        Ok(())
    }

    fn stale_names(&self, found: &mut Vec<Garbage>) -> Result<()> {
        let name = |place: &str, name: &[u8], object| Garbage {
            kind: GarbageKind::Name,
            place: format!("{place}/{}", name.shown()),
            object,
        };
        for entry in self.top(NAMES).sorted_entries().during("list", &self.at(&[NAMES]))? {
            match self.read_name(&entry.name) {
                Ok(Some(record)) if !self.exists(Object::Image(record.image))? => {
                    found.push(name(NAMES, &entry.name, Some(Object::Image(record.image))));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    found.push(name(NAMES, &entry.name, None));
                }
                _ => {}
            }
        }
        let entries = self.top(CONTAINER_NAMES).sorted_entries();
        for entry in entries.during("list", &self.at(&[CONTAINER_NAMES]))? {
            match self.container_named(&entry.name.shown()) {
                Ok(Some(id)) if !self.is_there(&id)? => {
                    found.push(name(CONTAINER_NAMES, &entry.name, Some(Object::Container(id))));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    found.push(name(CONTAINER_NAMES, &entry.name, None));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn leftovers(&self, found: &mut Vec<Garbage>) -> Result<()> {
        for (place, kind) in [(STAGING, GarbageKind::Staging), (TRASH, GarbageKind::Trash)] {
            let entries = self.top(place).sorted_entries().during("list", &self.at(&[place]))?;
            for entry in entries {
                let is_free = match entry.kind {
                    Kind::Directory => matches!(
                        Held::attempt(self.top(place), &entry.name, Mode::Exclusive),
                        Ok(Attempt::Held(_))
                    ),
                    _ => {
                        place == TRASH || matches!(self.lock_staged_file(&entry.name), Ok(Some(_)))
                    }
                };
                if is_free {
                    let place = format!("{place}/{}", entry.name.shown());
                    found.push(Garbage { kind, place, object: None });
                }
            }
        }
        Ok(())
    }
}

/// The back links of an object.
#[derive(Debug, Default)]
struct Links {
    /// Those of users that are gone.
    stale: Vec<Box<[u8]>>,
    /// The users that are there; `None` for one of no known kind.
    live: Vec<Option<Object>>,
}

impl Garbage {
    fn object(object: Object) -> Self {
        let kind = match object {
            Object::Layer(_) => GarbageKind::Layer,
            _ => GarbageKind::Chain,
        };
        let place = format!("{}/{}", object.place(), object.name());
        Self { kind, place, object: Some(object) }
    }
}
