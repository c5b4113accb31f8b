//! What nothing refers to, removed.

use serde::Serialize;

use super::Driver;
use crate::error::Result;
use crate::layer_path::LayerPath;
use crate::store::{Garbage, GarbageKind};
use crate::sys::weigh::weigh;
use crate::watch::Watch;

/// Whether a collection removes what it finds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GcMode {
    /// It does.
    #[default]
    Remove,
    /// It only lists it.
    DryRun,
}

/// What a collection found.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// What was removed, or would be.
    pub items: Vec<CollectedItem>,
    /// Bytes in its files.
    pub size: u64,
    /// Files, directories and other inodes.
    pub inodes: u64,
}

/// One thing that nothing referred to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CollectedItem {
    /// What it is.
    pub kind: GarbageKind,
    /// Its place in the store: `layers/KEY`, `trash/…`.
    pub place: String,
    /// Bytes in its files; of a layer, when it was whole.
    pub size: u64,
    /// Files, directories and other inodes; of a layer, when it was whole.
    pub inodes: u64,
}

impl Driver {
    /// Removes what nothing refers to, and deletes what was removed before: when it returns, the
    /// space is back.
    ///
    /// Layers without an image or a container stay where they are pinned, which those are that were
    /// applied on their own. Others may use the store meanwhile: what they hold stays.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and what the file system answers; what
    /// was found is removed as far as that can be done.
    pub fn gc(&self, mode: GcMode, watch: Watch<'_>) -> Result<Collected> {
        let found = self.store.garbage(&watch)?;
        let mut weighed = Vec::with_capacity(found.len());
        for garbage in found {
            watch.check()?;
            weighed.push((self.weigh_garbage(&garbage), garbage));
        }
        if mode == GcMode::Remove {
            let garbage: Vec<_> = weighed.iter().map(|(_, garbage)| garbage.clone()).collect();
            self.store.collect(&garbage, &watch)?;
            // Somebody may have come to use it.
            weighed.retain(|(_, garbage)| !self.store.has(garbage));
        }
        let mut collected = Collected::default();
        for ((size, inodes), Garbage { kind, place, .. }) in weighed {
            collected.size += size;
            collected.inodes += inodes;
            collected.items.push(CollectedItem { kind, place, size, inodes });
        }
        collected.items.sort_by(|a, b| (a.kind, &a.place).cmp(&(b.kind, &b.place)));
        Ok(collected)
    }

    /// Deletes what was removed before, and gives back how many objects that were: when it returns,
    /// their space is back. Several threads do it where there is much.
    ///
    /// Removing containers, images and layers only takes them out of sight and deletes what takes
    /// no time. The rest goes bit by bit with each later removal and opening of the store, with
    /// [`gc`](Self::gc), or by this, which may run on any thread, also while the store is used.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and what the file system answers; what
    /// is left is deleted another time.
    pub fn empty_trash(&self, watch: Watch<'_>) -> Result<u64> {
        self.store.empty_trash(&watch)
    }

    /// Bytes and inodes; of what goes at this moment, none. A layer is not walked for it.
    fn weigh_garbage(&self, garbage: &Garbage) -> (u64, u64) {
        if let Some(record) = self.store.recorded(garbage) {
            return (record.diff_size, record.inodes);
        }
        if matches!(garbage.kind, GarbageKind::Link | GarbageKind::Name) {
            return (0, 1);
        }
        let path = LayerPath::parse(garbage.place.as_bytes());
        let dir = path.ok().and_then(|path| self.store.dir().descend(&path).ok());
        let weight = dir.and_then(|dir| weigh(&dir).ok()).unwrap_or_default();
        (weight.content, weight.inodes)
    }
}
