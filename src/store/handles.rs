//! Handles of layers: a store that lives on holds the directories that it mounted last, so that a stack
//! of hundreds is mounted without a path being walked.
//!
//! A handle stands for the name of its layer for as long as nothing was moved into `layers/` or out of
//! it, and the directory that is held was not removed. The first is told by the times of `layers/`, once
//! they are older than the coarsest clock by which file systems set them; the second by the
//! directory's link count. Whoever finds either otherwise opens the layer by its name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Stat;
use rustix::time::{ClockId, clock_gettime};

use super::Store;
use super::layout::{LAYERS, LayerKey};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::{self, Dir};

/// Of the descriptors that the process may have, one in so many is held at most: 128 of the usual 1,024.
const SHARE: usize = 8;

/// How old the times of a directory are, in seconds, when any change since would have made them others.
const SETTLED: i64 = 2;

#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// How `layers/` was when these were opened.
    state: Option<State>,
    layers: HashMap<LayerKey, Arc<Dir>>,
}

/// Inode, and the times of the last changes of entries and of attributes.
type State = (u64, (i64, u64), (i64, u64));

/// The layers of a stack, topmost first, each opened when it is asked for, unless it is held.
#[derive(Debug)]
pub(crate) struct StackHandles<'a> {
    store: &'a Store,
    keys: &'a [LayerKey],
    state: Option<State>,
    held: Vec<Option<Arc<Dir>>>,
    opened: Vec<(LayerKey, Arc<Dir>)>,
    /// How many may be held, of this stack and others.
    most: usize,
}

impl Handles {
    /// Those of `keys` that are held, where `layers/` is as it was.
    fn get(&self, state: Option<State>, keys: &[LayerKey]) -> Vec<Option<Arc<Dir>>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.state == state {
            true => keys.iter().map(|key| held.layers.get(key).cloned()).collect(),
            false => Vec::new(),
        }
    }

    fn add(&self, state: State, most: usize, opened: Vec<(LayerKey, Arc<Dir>)>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.state != Some(state) || held.layers.len() + opened.len() > most {
            *held = Held { state: Some(state), layers: HashMap::new() };
        }
        held.layers.extend(opened);
    }
}

impl Store {
    /// The layers of a stack, to be mounted: held as [`hold_layer`](Self::hold_layer) does.
    pub(crate) fn stack_handles<'a>(&'a self, keys: &'a [LayerKey]) -> Result<StackHandles<'a>> {
        let layers = self.top(LAYERS).stat_self().during("look at", &self.at(&[LAYERS]))?;
        let state = settled(&layers, clock_gettime(ClockId::RealtimeCoarse).tv_sec);
        let held = self.0.handles.get(state, keys);
        let most = sys::most_descriptors() / SHARE;
        Ok(StackHandles { store: self, keys, state, held, opened: Vec::new(), most })
    }
}

impl StackHandles<'_> {
    /// The layer of that number.
    pub(crate) fn get(&mut self, index: usize) -> Result<Arc<Dir>> {
        if let Some(Some(dir)) = self.held.get_mut(index).map(Option::take)
            && dir.stat_self().is_ok_and(|stat| stat.st_nlink > 0)
        {
            return Ok(dir);
        }
        let Some(key) = self.keys.get(index) else {
            return Err(Error::new(ErrorKind::InvalidInput, "no such layer"));
        };
        let dir = Arc::new(self.store.hold_layer(key)?);
        if self.state.is_some() && self.opened.len() < self.most {
            self.opened.push((*key, dir.clone()));
        }
        Ok(dir)
    }

    /// Holds from now on what was opened, as far as the process has descriptors for it.
    pub(crate) fn keep(self) {
        if let Some(state) = self.state.filter(|_| !self.opened.is_empty()) {
            self.store.0.handles.add(state, self.most, self.opened);
        }
    }
}

fn settled(layers: &Stat, now: i64) -> Option<State> {
    let (changed, touched) =
        ((layers.st_mtime, layers.st_mtime_nsec), (layers.st_ctime, layers.st_ctime_nsec));
    (touched.0.max(changed.0) < now - SETTLED).then_some((layers.st_ino, changed, touched))
}
