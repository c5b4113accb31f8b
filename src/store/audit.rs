//! [`Store::audit`]: whether the records fit each other, and what stands in the store for nothing.

use std::time::Duration;

use rustix::io::Errno;

use super::Store;
use super::hold::{Attempt, Held};
use super::layout::{
    CHAIN_FILE, CHAINS, CONTAINER_FILE, CONTAINER_NAMES, CONTAINERS, DIFF, IMAGE_FILE, IMAGE_NAMES,
    IMAGES, INTENT_PREFIX, LAYER_FILE, LAYERS, LayerKey, NAMES, Object, STAGING, UPPER, WORK,
};
use super::record::{ChainRecord, ContainerRecord, ImageRecord, LayerRecord, StackEntry};
use super::users::is_no_directory;
use crate::digest::{ChainId, Digest};
use crate::error::{Context, Error, ErrorKind, Result, Subject};
use crate::finding::FindingKind;
use crate::sys::dir::Kind;
use crate::sys::lock::Mode;
use crate::watch::Watch;

/// How long what looks wrong may stay so while somebody is at work on it.
const SETTLES: Duration = Duration::from_millis(100);

/// Something that is wrong with a store, besides its layers' files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What it concerns: `image sha256:…`, `container web`.
    pub(crate) object: String,
    /// The layer, where it is one.
    pub(crate) layer: Option<LayerKey>,
    pub(crate) kind: FindingKind,
    /// What is there, and what should be.
    pub(crate) detail: String,
}

/// Faults as they are found.
struct Audit<'a> {
    store: &'a Store,
    watch: &'a Watch<'a>,
    faults: Vec<Fault>,
}

impl Store {
    /// Reads every record and every link between them, and gives what does not fit. Writes nothing,
    /// and holds nothing but for a moment.
    ///
    /// What looks wrong is looked at again: others may be at work.
    pub(crate) fn audit(&self, watch: &Watch<'_>) -> Result<Vec<Fault>> {
        let first = self.audit_once(watch)?;
        if first.is_empty() {
            return Ok(first);
        }
        std::thread::sleep(SETTLES);
        let mut second = self.audit_once(watch)?;
        second.retain(|fault| first.contains(fault));
        Ok(second)
    }

    fn audit_once(&self, watch: &Watch<'_>) -> Result<Vec<Fault>> {
        let mut audit = Audit { store: self, watch, faults: Vec::new() };
        audit.layers()?;
        audit.chains()?;
        audit.images()?;
        audit.names()?;
        audit.containers()?;
        audit.container_names()?;
        audit.staging()?;
        Ok(audit.faults)
    }

    /// Whether anything that exists uses `object`.
    pub(super) fn is_used(&self, object: Object) -> Result<bool> {
        for tag in self.back_links_of(object)? {
            match Object::from_tag(&String::from_utf8_lossy(&tag)) {
                Some(user) if self.live_name(object, user)?.is_none() => {}
                // Whoever it is.
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Whether nobody holds `object` at this moment.
    pub(super) fn is_free(&self, object: Object) -> Result<bool> {
        let name = object.name();
        let top = self.top(object.place());
        let attempt = Held::attempt(top, name.as_bytes(), Mode::Exclusive);
        let attempt = attempt.during("lock directory", &self.at(&[object.place(), &name]))?;
        Ok(matches!(attempt, Attempt::Held(_)))
    }

    pub(super) fn has_link(&self, object: Object, user: Object) -> Result<bool> {
        let path = format!("{}/users/{}", object.name(), user.tag());
        self.has_path(object.place(), path.as_bytes())
    }

    /// Whether there is such a path in one of the store's directories.
    fn has_path(&self, place: &'static str, path: &[u8]) -> Result<bool> {
        match self.top(place).stat_if_exists(path) {
            Err(error) if is_no_directory(error) => Ok(false),
            found => Ok(found.during("look at", path)?.is_some()),
        }
    }
}

impl Audit<'_> {
    fn add(&mut self, object: String, kind: FindingKind, detail: impl Into<String>) {
        self.faults.push(Fault { object, layer: None, kind, detail: detail.into() });
    }

    fn on(&mut self, object: Object, kind: FindingKind, detail: impl Into<String>) {
        let layer = match object {
            Object::Layer(key) => Some(key),
            _ => None,
        };
        let detail = detail.into();
        self.faults.push(Fault { object: object.to_string(), layer, kind, detail });
    }

    /// The objects in one of the store's directories.
    fn objects(
        &mut self,
        place: &'static str,
        parse: fn(&str) -> Option<Object>,
    ) -> Result<Vec<Object>> {
        let entries = self.store.top(place).sorted_entries();
        let mut objects = Vec::new();
        for entry in entries.during("list", &self.store.at(&[place]))? {
            let name = entry.name.shown();
            match parse(&name) {
                Some(object) if self.store.is_directory(place, &entry)? => objects.push(object),
                Some(object) => self.on(object, FindingKind::Record, "it is no directory"),
                None => {
                    self.add(
                        format!("{place}/{name}"),
                        FindingKind::Foreign,
                        "no name of an object",
                    );
                }
            }
        }
        Ok(objects)
    }

    /// A record; `None` where it is broken, which is noted, or gone with its object.
    fn record<T: serde::de::DeserializeOwned>(
        &mut self,
        object: Object,
        file: &[u8],
    ) -> Result<Option<T>> {
        self.watch.check()?;
        match self.store.read_record(object, file) {
            Ok(Some(record)) => Ok(Some(record)),
            Ok(None) => {
                if self.store.exists(object)? {
                    self.on(object, FindingKind::Record, format!("{} is missing", file.shown()));
                }
                Ok(None)
            }
            Err(error) => {
                self.unreadable(object, error)?;
                Ok(None)
            }
        }
    }

    fn unreadable(&mut self, object: Object, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ if error.is_starved() => Err(error),
            _ => {
                self.on(object, FindingKind::Record, error.to_string());
                Ok(())
            }
        }
    }

    /// `user` stands on `object`, which must be there and know it.
    fn stands_on(&mut self, user: Object, object: Object) -> Result<()> {
        if !self.store.exists(object)? {
            self.on(user, FindingKind::Dangling, format!("{object} is not there"));
        } else if !self.store.has_link(object, user)? {
            self.on(object, FindingKind::Unlinked, format!("it does not know that {user} uses it"));
        }
        Ok(())
    }

    fn orphan(&mut self, object: Object) -> Result<()> {
        // Who holds it is about to use it.
        if !self.store.is_used(object)? && self.store.is_free(object)? {
            self.on(object, FindingKind::Orphan, "nothing uses it");
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<()> {
        for object in self.objects(LAYERS, |name| name.parse().ok().map(Object::Layer))? {
            let Object::Layer(key) = object else { continue };
            if let Some(record) = self.record::<LayerRecord>(object, LAYER_FILE)? {
                let fits = match key {
                    LayerKey::Diff(diff_id) => record.diff_id == diff_id,
                    LayerKey::Chain(_) => true,
                };
                if record.key != key || !fits {
                    self.on(object, FindingKind::Record, "its record is that of another layer");
                }
            }
            self.directory(object, DIFF)?;
            self.orphan(object)?;
        }
        Ok(())
    }

    /// A directory that the object must have.
    fn directory(&mut self, object: Object, name: &[u8]) -> Result<()> {
        let path = [object.name().as_bytes(), b"/", name].concat();
        let found = self.store.top(object.place()).stat_if_exists(&path);
        if let Err(error @ (Errno::ACCESS | Errno::PERM)) = found {
            // One that somebody else made there.
            let what = format!("its directory {} cannot be looked at: {error}", name.shown());
            self.on(object, FindingKind::Foreign, what);
            return Ok(());
        }
        let is_there = found
            .during("look at", &path)?
            .is_some_and(|stat| crate::sys::dir::type_of(&stat) == rustix::fs::FileType::Directory);
        if !is_there && self.store.exists(object)? {
            let what = format!("its directory {} is not there", name.shown());
            self.on(object, FindingKind::Missing, what);
        }
        Ok(())
    }

    fn chains(&mut self) -> Result<()> {
        let chain =
            |name: &str| Digest::from_hex(name).ok().map(|id| Object::Chain(ChainId::new(id)));
        for object in self.objects(CHAINS, chain)? {
            let pinned = format!("{}/pinned", object.name());
            if !self.store.has_path(CHAINS, pinned.as_bytes())? {
                self.orphan(object)?;
            }
            let Some(record) = self.record::<ChainRecord>(object, CHAIN_FILE)? else { continue };
            self.chain(object, &record)?;
        }
        Ok(())
    }

    fn chain(&mut self, object: Object, record: &ChainRecord) -> Result<()> {
        let mut below = None;
        if let Some(parent) = record.parent {
            self.stands_on(object, Object::Chain(parent))?;
            // Its own record is looked at in its turn.
            below = self.store.chain_record(&parent).unwrap_or_default();
        }
        let rebuilt = record.top().cloned().map(|top| ChainRecord::on_top_of(below.as_ref(), top));
        let fits = Object::Chain(record.chain) == object
            && (rebuilt.as_ref() == Some(record) || record.parent.is_some() && below.is_none());
        if !fits {
            self.on(object, FindingKind::Record, "its record does not fit its name or its parent");
        }
        for layer in record.layers() {
            self.stands_on(object, Object::Layer(layer))?;
        }
        // What both tell of the topmost layer; its record is looked at by itself too.
        if let Some(top) = record.top()
            && let Ok(Some(layer)) = self.store.layer_record(&top.layer())
            && StackEntry::new(&layer) != *top
        {
            let detail = format!("its record says otherwise than {object}");
            self.on(Object::Layer(top.layer()), FindingKind::Record, detail);
        }
        Ok(())
    }

    fn images(&mut self) -> Result<()> {
        let image = |name: &str| Digest::from_hex(name).ok().map(Object::Image);
        for object in self.objects(IMAGES, image)? {
            let Object::Image(id) = object else { continue };
            match self.store.image_config(&id) {
                Err(error) if self.store.exists(object)? => {
                    self.on(object, FindingKind::Record, error.to_string());
                }
                _ => {}
            }
            let Some(record) = self.record::<ImageRecord>(object, IMAGE_FILE)? else { continue };
            if record.id != id || ChainId::of(&record.diff_ids) != record.chain {
                self.on(object, FindingKind::Record, "its record does not fit its name or layers");
            }
            if let Some(chain) = record.chain {
                self.stands_on(object, Object::Chain(chain))?;
            }
        }
        Ok(())
    }

    fn names(&mut self) -> Result<()> {
        let entries = self.store.top(NAMES).sorted_entries();
        for entry in entries.during("list", &self.store.at(&[NAMES]))? {
            let shown = format!("name {}", entry.name.shown());
            let record = match self.store.read_name(&entry.name) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) => {
                    self.add(shown, FindingKind::Record, error.to_string());
                    continue;
                }
            };
            if crate::file_name::encode(&record.name).as_bytes() != &*entry.name {
                self.add(shown, FindingKind::Record, "its record is that of another name");
                continue;
            }
            let image = Object::Image(record.image);
            let back = [image.name().as_bytes(), b"/", IMAGE_NAMES, b"/", &entry.name].concat();
            if !self.store.exists(image)? {
                self.add(shown, FindingKind::Dangling, format!("{image} is not there"));
            } else if !self.store.has_path(IMAGES, &back)? {
                self.on(image, FindingKind::Unlinked, format!("it does not know its {shown}"));
            }
        }
        Ok(())
    }

    fn containers(&mut self) -> Result<()> {
        let container = |name: &str| name.parse().ok().map(Object::Container);
        for object in self.objects(CONTAINERS, container)? {
            let Object::Container(id) = object else { continue };
            for name in [UPPER, WORK] {
                self.directory(object, name)?;
            }
            let Some(record) = self.record::<ContainerRecord>(object, CONTAINER_FILE)? else {
                continue;
            };
            if record.id != id {
                self.on(object, FindingKind::Record, "its record is that of another container");
                continue;
            }
            if let Some(base) = record.base() {
                self.stands_on(object, base)?;
            }
            if let (Some(chain), Some(_)) = (record.chain, record.image)
                && !self.store.exists(Object::Chain(chain))?
            {
                self.on(object, FindingKind::Dangling, format!("chain {chain} is not there"));
            }
            if self.store.container_named(&record.name).unwrap_or_default() != Some(id)
                && self.store.exists(object)?
            {
                let detail = format!("the name {} does not lead to it", record.name);
                self.on(object, FindingKind::Unlinked, detail);
            }
        }
        Ok(())
    }

    fn container_names(&mut self) -> Result<()> {
        let entries = self.store.top(CONTAINER_NAMES).sorted_entries();
        for entry in entries.during("list", &self.store.at(&[CONTAINER_NAMES]))? {
            let name = entry.name.shown();
            match self.store.container_named(&name) {
                Ok(Some(id)) if !self.store.is_there(&id)? => {
                    let detail = format!("container {id} is not there");
                    self.add(format!("container name {name}"), FindingKind::Dangling, detail);
                }
                Ok(_) => {}
                Err(error) => {
                    let object = format!("container name {name}");
                    self.add(object, FindingKind::Record, error.to_string());
                }
            }
        }
        Ok(())
    }

    /// What stands in staging without a living maker.
    fn staging(&mut self) -> Result<()> {
        let staging = self.store.top(STAGING);
        let entries = staging.sorted_entries();
        for entry in entries.during("list", &self.store.at(&[STAGING]))? {
            let is_free = match entry.kind {
                Kind::Directory => {
                    let attempt = Held::attempt(staging, &entry.name, Mode::Exclusive);
                    matches!(attempt, Ok(Attempt::Held(_)))
                }
                _ => matches!(self.store.lock_staged_file(&entry.name), Ok(Some(_))),
            };
            if is_free {
                let name = entry.name.shown();
                let what = match name.starts_with(INTENT_PREFIX) {
                    true => "an intent that nobody carries out",
                    false => "half-made, and its maker is gone",
                };
                self.add(format!("{STAGING}/{name}"), FindingKind::Leftover, what);
            }
        }
        Ok(())
    }
}
