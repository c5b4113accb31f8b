//! Layers: unpacked into staging, committed in batches, leased while something comes to use them.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::io::Errno;

use super::hold::Held;
#[cfg(feature = "image")]
use super::hold::{Attempt, patience};
use super::layout::{DIFF, LAYER_FILE, LAYERS, LayerKey, Object, STAGING, USERS};
use super::open::harden;
use super::record::{self, LayerRecord};
use super::staging::{Intent, Published, Staged};
use super::{Store, matching, only};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::SysResult;

/// A layer that is being unpacked; dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    staged: Staged,
    diff: Dir,
}

/// A layer that is unpacked and waits to be committed; dropping it removes it.
///
/// It holds one file descriptor.
#[derive(Debug)]
pub struct FinishedLayer {
    staged: Staged,
    key: LayerKey,
}

/// A committed layer that cannot be removed while this is held.
#[derive(Debug)]
pub struct LeasedLayer {
    store: Store,
    key: LayerKey,
    held: Held,
    /// Dropped after `held`, so that it can take back what nobody came to use.
    intent: Option<Arc<Intent>>,
}

impl Store {
    /// Starts a layer: an empty directory of mode 0755 that inherits nothing, in which a changeset
    /// can be unpacked. Its key may become known only then.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn stage_layer(&self) -> Result<Staging> {
        let staged = self.stage("layer")?;
        staged.make_dir(USERS, 0o700)?;
        let make = || {
            staged.dir().make_dir(DIFF, 0o700)?;
            let diff = staged.dir().child(DIFF)?;
            harden(&diff, 0o755)?;
            Ok::<_, Errno>(diff)
        };
        let diff = make().during("create directory", &staged.shown(DIFF))?;
        Ok(Staging { staged, diff })
    }

    /// Makes finished layers part of the store, all made durable by one `syncfs`; gives them back
    /// in the same order, leased.
    ///
    /// Where another process committed the same layer first, its directory is used and the one
    /// that was staged is dropped. A layer that no chain stands on when its lease ends goes again.
    ///
    /// # Errors
    /// As the operating system has them; none of the layers stays then.
    pub fn commit_layers(&self, finished: Vec<FinishedLayer>) -> Result<Vec<LeasedLayer>> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        let objects: BTreeSet<_> = finished.iter().map(|layer| Object::Layer(layer.key)).collect();
        let intent = Arc::new(self.intend(objects)?);
        // The bytes before the names, those of the intent included.
        let durability = self.durability();
        durability.sync_file_system(self.top(STAGING)).during("sync", &self.at(&[STAGING]))?;
        let mut leased = Vec::with_capacity(finished.len());
        for layer in finished {
            let key = layer.key;
            let held = self.publish_layer(layer)?;
            leased.push(LeasedLayer {
                store: self.clone(),
                key,
                held,
                intent: Some(Arc::clone(&intent)),
            });
        }
        durability.sync_names(self.top(LAYERS)).during("sync", &self.at(&[LAYERS]))?;
        Ok(leased)
    }

    fn publish_layer(&self, layer: FinishedLayer) -> Result<Held> {
        let object = Object::Layer(layer.key);
        let mut staged = layer.staged;
        loop {
            match staged.publish(object)? {
                Published::Done(held) => return Ok(held),
                Published::Exists(ours) => match self.lease(object)? {
                    Some(winner) => return Ok(winner),
                    // Removed meanwhile.
                    None => staged = ours,
                },
            }
        }
    }

    /// Looks for a layer and leases it.
    ///
    /// # Errors
    /// As the operating system has them; a layer that is not there is no error.
    pub fn find_layer(&self, key: &LayerKey) -> Result<Option<LeasedLayer>> {
        let held = self.lease(Object::Layer(*key))?;
        Ok(held.map(|held| LeasedLayer { store: self.clone(), key: *key, held, intent: None }))
    }

    #[cfg(feature = "image")]
    /// Holds a layer alone, to change what nobody else does: its files.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InUse`] where somebody holds it.
    pub(crate) fn claim_layer(&self, key: &LayerKey) -> Result<LeasedLayer> {
        self.writable()?;
        let object = Object::Layer(*key);
        match self.claim(object, patience())? {
            Attempt::Held(held) => {
                Ok(LeasedLayer { store: self.clone(), key: *key, held, intent: None })
            }
            Attempt::Gone => Err(self.no_such(object)),
            Attempt::Busy => Err(Error::new(
                ErrorKind::InUse,
                format!("{object} is used by another process at this moment"),
            )),
        }
    }

    /// Opens the directory of a layer, to be mounted or read, in one system call. What stands on
    /// the layer must keep it meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the layer is not in the store.
    pub fn open_layer(&self, key: &LayerKey) -> Result<Dir> {
        self.layer_by(key, Dir::descend)
    }

    /// Holds a layer's files so that they can be mounted and resolved from, but not listed
    /// (`O_PATH`).
    ///
    /// # Errors
    /// As [`open_layer`](Self::open_layer).
    pub fn hold_layer(&self, key: &LayerKey) -> Result<Dir> {
        self.layer_by(key, Dir::descend_as_path)
    }

    fn layer_by(
        &self,
        key: &LayerKey,
        open: impl Fn(&Dir, &LayerPath) -> SysResult<Dir>,
    ) -> Result<Dir> {
        let name = key.to_string();
        let path = LayerPath::parse(name.as_bytes())?.join(DIFF);
        match open(self.top(LAYERS), &path) {
            Err(Errno::NOENT) => Err(self.no_such(Object::Layer(*key))),
            other => other.during("open directory", &self.at(&[LAYERS, &name, "diff"])),
        }
    }

    /// The record of a layer; `None` where the layer is not in the store.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the record is malformed.
    pub fn layer_record(&self, key: &LayerKey) -> Result<Option<LayerRecord>> {
        self.read_record(Object::Layer(*key), LAYER_FILE)
    }

    /// The keys of all layers, sorted.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn layers(&self) -> Result<Vec<LayerKey>> {
        let key = |object| match object {
            Object::Layer(key) => Some(key),
            _ => None,
        };
        Ok(self.layer_objects()?.into_iter().filter_map(key).collect())
    }

    fn layer_objects(&self) -> Result<Vec<Object>> {
        self.list(LAYERS, |name| name.parse().ok().map(Object::Layer))
    }

    /// The layer that a person calls `text`: its key, or the beginning of it, which no other has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where it is the beginning of several,
    /// which the message lists.
    pub fn layer_called(&self, text: &str) -> Result<LayerKey> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        match only(matching(self.layer_objects()?, digits), "layers", text)? {
            Some(Object::Layer(key)) => Ok(key),
            _ => Err(Error::new(ErrorKind::NotFound, format!("there is no layer {text:?}"))
                .hint("overlay2 check and overlay2 df name the layers")),
        }
    }
}

impl Staging {
    /// The directory to unpack into.
    pub fn dir(&self) -> &Dir {
        &self.diff
    }

    /// The directory that holds the layer directory: what is made in it is kept beside the layer,
    /// such as what is needed to write the changeset again byte for byte. The store's own names in
    /// it are `diff`, `users` and `layer.json`.
    pub fn side(&self) -> &Dir {
        self.staged.dir()
    }

    /// Writes the record: the layer is complete, and closed to writing.
    ///
    /// # Errors
    /// As the operating system has them; the layer is gone then.
    pub fn finish(self, record: &LayerRecord) -> Result<FinishedLayer> {
        let bytes = record::to_bytes(record).during("write", LAYER_FILE)?;
        if bytes.len() > record::LONGEST {
            let what = "what the changeset takes for granted of the layers below is too much";
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("{what}: {} bytes, and {} are allowed", bytes.len(), record::LONGEST),
            )
            .hint("build it again with entries for its directories"));
        }
        let written = record::create(self.staged.dir(), LAYER_FILE, &bytes);
        written.during("write file", &self.staged.shown(LAYER_FILE))?;
        Ok(FinishedLayer { staged: self.staged, key: record.key })
    }
}

impl FinishedLayer {
    #[cfg(feature = "image")]
    /// What is known of it.
    pub(crate) fn record(&self) -> Result<LayerRecord> {
        let (store, object) = (self.staged.store(), Object::Layer(self.key));
        let record = store.read_record_in(self.staged.dir(), object, LAYER_FILE)?;
        record.ok_or_else(|| store.no_such(object))
    }

    #[cfg(feature = "image")]
    /// The directory that holds the layer directory.
    pub(crate) fn side(&self) -> &Dir {
        self.staged.dir()
    }

    /// The key under which it will be committed.
    pub fn key(&self) -> LayerKey {
        self.key
    }
}

impl LeasedLayer {
    /// Its name in the store.
    pub fn key(&self) -> LayerKey {
        self.key
    }

    /// The directory that is mounted.
    ///
    /// # Errors
    /// As the operating system has them.
    pub fn open(&self) -> Result<Dir> {
        let opened = self.held.dir().child(DIFF);
        opened.during("open directory", &self.store.layer_path(&self.key))
    }

    /// What is known of it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the record is missing or malformed.
    pub fn record(&self) -> Result<LayerRecord> {
        let object = Object::Layer(self.key);
        let record = self.store.read_record_in(self.held.dir(), object, LAYER_FILE)?;
        record.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{object} has no record")))
    }

    /// The directory that holds the layer directory, and what was kept beside it.
    pub fn side(&self) -> &Dir {
        self.held.dir()
    }

    #[cfg(feature = "image")]
    /// Writes the record again where it is not readable, or says something else.
    pub(crate) fn mend_record(&self, record: &LayerRecord) -> Result<()> {
        let same = |there: LayerRecord| LayerRecord { created: record.created, ..there } == *record;
        if self.record().is_ok_and(same) {
            return Ok(());
        }
        let bytes = record::to_bytes(record).during("write", LAYER_FILE)?;
        let (durability, side) = (self.store.durability(), self.side());
        let mut written = durability.replace_file(side, LAYER_FILE, &bytes);
        if written == Err(Errno::ISDIR) {
            crate::sys::remove::remove_tree(side, LAYER_FILE).during("remove", LAYER_FILE)?;
            written = durability.replace_file(side, LAYER_FILE, &bytes);
        }
        written.during("write", LAYER_FILE)
    }

    /// The same layer, held once more; it goes where neither comes to be used.
    ///
    /// # Errors
    /// As the operating system has them.
    #[cfg(feature = "image")]
    pub(crate) fn again(&self) -> Result<Self> {
        let (store, key, intent) = (self.store.clone(), self.key, self.intent.clone());
        let object = Object::Layer(key);
        let held = store.lease(object)?.ok_or_else(|| store.no_such(object))?;
        Ok(Self { store, key, held, intent })
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// A chain stands on it now.
    pub(super) fn mark_used(&self) {
        if let Some(intent) = &self.intent {
            intent.mark_used(Object::Layer(self.key));
        }
    }
}
