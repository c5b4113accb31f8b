//! What is known of the names in one directory: the nodes that are alive, and where each name was
//! last found.
//!
//! Nobody else writes to the layers while the tree is open, so this stays true until the tree itself
//! changes a name: who does that holds a [`Change`], which forgets the names that it is about when
//! it ends. Copy-up forgets the name of the file; where the directory itself is copied up, what was
//! known of its parts is about others and is not looked at any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLockWriteGuard, Weak};

use super::node::Node;
use crate::format::listing::{MergedEntry, Places};
use crate::format::lookup::MergedDir;

/// The most names of all directories together of which is kept where they are.
pub(super) const MOST_KNOWN: usize = 250_000;

/// As many looks into layers are made for single names, before all names of a directory are read.
const LOOKS_BEFORE_LISTING: usize = 512;

/// Where a name is.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// It was changed since the names were listed.
    Nothing,
    Absent,
    /// No other parts of the directory need to be asked.
    Among(Places),
    /// A file without marks, which this part supplies.
    File(usize),
}

/// The names of one directory.
#[derive(Debug, Default)]
pub(super) struct Names {
    alive: HashMap<Box<[u8]>, (u64, Weak<Node>)>,
    /// What all that follows is about.
    parts: Option<Arc<MergedDir>>,
    known: HashMap<Box<[u8]>, Known>,
    listing: Option<Arc<Vec<MergedEntry>>>,
    /// Some name was changed since the listing.
    is_changed: bool,
    /// How often a layer was asked for a name in vain.
    looks: usize,
}

impl Names {
    pub(super) fn alive(&self, name: &[u8]) -> Option<Arc<Node>> {
        self.alive.get(name).and_then(|(_, node)| node.upgrade())
    }

    pub(super) fn insert(&mut self, name: &[u8], node: &Arc<Node>) {
        self.alive.insert(name.into(), (node.id, Arc::downgrade(node)));
    }

    pub(super) fn remove(&mut self, name: &[u8], id: u64) {
        if self.alive.get(name).is_some_and(|(owner, _)| *owner == id) {
            self.alive.remove(name);
        }
    }

    fn is_about(&self, parts: &Arc<MergedDir>) -> bool {
        self.parts.as_ref().is_some_and(|known| Arc::ptr_eq(known, parts))
    }

    /// Where a name is, in these parts.
    pub(super) fn known(&self, parts: &Arc<MergedDir>, name: &[u8]) -> Known {
        if !self.is_about(parts) {
            return Known::Nothing;
        }
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let Some(listing) = &self.listing else { return Known::Nothing };
        let found = listing.binary_search_by(|entry| (*entry.name).cmp(name));
        match found.ok().and_then(|index| listing.get(index)) {
            Some(entry) => Known::Among(entry.places.clone()),
            None => Known::Absent,
        }
    }

    /// All names, where none was changed since they were listed.
    pub(super) fn listing(&self, parts: &Arc<MergedDir>) -> Option<Arc<Vec<MergedEntry>>> {
        let usable = self.is_about(parts) && !self.is_changed;
        self.listing.as_ref().filter(|_| usable).map(Arc::clone)
    }

    /// Makes what follows be about these parts.
    fn turn_to(&mut self, parts: &Arc<MergedDir>, total: &AtomicUsize) {
        if !self.is_about(parts) {
            self.forget_all(total);
            self.parts = Some(Arc::clone(parts));
        }
    }

    /// Keeps where a name is.
    pub(super) fn learn(
        &mut self,
        parts: &Arc<MergedDir>,
        name: &[u8],
        known: Known,
        total: &AtomicUsize,
    ) {
        self.turn_to(parts, total);
        if let Some(place) = self.known.get_mut(name) {
            *place = known;
        } else if total.fetch_add(1, Ordering::Relaxed) < MOST_KNOWN {
            self.known.insert(name.into(), known);
        } else {
            total.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Keeps all names.
    pub(super) fn learn_listing(
        &mut self,
        parts: &Arc<MergedDir>,
        listing: &Arc<Vec<MergedEntry>>,
        total: &AtomicUsize,
    ) {
        self.forget_all(total);
        self.turn_to(parts, total);
        if total.fetch_add(listing.len(), Ordering::Relaxed) < MOST_KNOWN {
            self.listing = Some(Arc::clone(listing));
        } else {
            total.fetch_sub(listing.len(), Ordering::Relaxed);
        }
    }

    /// Counts a lookup that asked many layers; `true` where reading all names becomes cheaper.
    pub(super) fn count_looks(&mut self, parts: &Arc<MergedDir>) -> bool {
        let before = self.looks;
        self.looks += parts.parts.len().saturating_sub(1);
        before < LOOKS_BEFORE_LISTING && self.looks >= LOOKS_BEFORE_LISTING
    }

    /// Says that a name is no longer where it was.
    pub(super) fn forget(&mut self, name: &[u8], total: &AtomicUsize) {
        self.is_changed = true;
        let Some(listing) = &self.listing else {
            if self.known.remove(name).is_some() {
                total.fetch_sub(1, Ordering::Relaxed);
            }
            return;
        };
        if self.known.len() > listing.len() + 1024 {
            // There are more exceptions than rules.
            return self.forget_all(total);
        }
        if self.known.insert(name.into(), Known::Nothing).is_none() {
            total.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn forget_all(&mut self, total: &AtomicUsize) {
        let count = self.known.len() + self.listing.as_ref().map_or(0, |listing| listing.len());
        total.fetch_sub(count, Ordering::Relaxed);
        self.known = HashMap::new();
        self.listing = None;
        self.parts = None;
        self.is_changed = false;
        self.looks = 0;
    }
}

/// The right to change some names of a directory; when it ends, it is forgotten where they were.
#[derive(Debug)]
pub(super) struct Change<'a, const N: usize> {
    pub(super) dir: &'a Node,
    pub(super) names: [&'a [u8]; N],
    /// Let go after the names are forgotten.
    pub(super) _alone: RwLockWriteGuard<'a, ()>,
}

impl<const N: usize> Drop for Change<'_, N> {
    fn drop(&mut self) {
        for name in self.names {
            self.dir.name_changed(name);
        }
    }
}
