//! Directories that are kept open although nobody uses them, so that the next path through them is
//! short.
//!
//! One keeps all directories alive that it lies in. So it is kept with these, and let go before
//! them: what is counted is what is held.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::names::MOST_KNOWN;
use super::node::{Node, ROOT, lock};
use crate::sys;

/// The directories that one tree keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// The most descriptors that are held for them.
    most: usize,
    set: Mutex<Set>,
}

#[derive(Debug, Default)]
struct Set {
    /// As they are looked at to be let go.
    order: VecDeque<Arc<Node>>,
    entries: HashMap<u64, Entry>,
    descriptors: usize,
}

#[derive(Debug)]
struct Entry {
    parent: u64,
    descriptors: usize,
    /// Those of all directories that it lies in as well, when it was taken in.
    with_parents: usize,
    /// How many of those that are kept lie in it.
    inside: usize,
}

impl Kept {
    pub(super) fn new() -> Self {
        // A quarter of what the process may open; 256 of the usual 1,024.
        Self { most: (sys::most_descriptors() / 4).min(4096), set: Mutex::default() }
    }

    /// Keeps a directory, and lets others go where those are too many or too many names are known.
    pub(super) fn keep(&self, node: &Arc<Node>, known: &AtomicUsize) {
        let mut set = lock(&self.set);
        set.take_in(node, self.most);
        let mut dropped = set.trim(self.most);
        while known.load(Ordering::Relaxed) >= MOST_KNOWN {
            let Some(node) = set.let_go() else { break };
            node.forget_all_known();
            dropped.push(node);
        }
        // Dropping a directory drops what it lies in: not while others wait.
        drop(set);
        drop(dropped);
    }

    /// For a directory that has a part more.
    pub(super) fn resized(&self, node: &Node, descriptors: usize) {
        let mut set = lock(&self.set);
        let total = set.descriptors;
        let Some(entry) = set.entries.get_mut(&node.id) else { return };
        let old = std::mem::replace(&mut entry.descriptors, descriptors);
        set.descriptors = total - old + descriptors;
        let dropped = set.trim(self.most);
        drop(set);
        drop(dropped);
    }

    /// For a directory that lies in another one now.
    pub(super) fn moved(&self, node: &Node, parent: &Node) {
        let mut set = lock(&self.set);
        if set.has_moved(node, parent) {
            return;
        }
        let all = std::mem::take(&mut *set);
        drop(set);
        drop(all);
    }

    /// Lets all of them go.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *lock(&self.set));
        drop(all);
    }
}

impl Set {
    /// Takes a directory in, with those that it lies in, unless they are too many by themselves.
    fn take_in(&mut self, node: &Arc<Node>, most: usize) {
        let mut chain = Vec::new();
        let (mut total, mut next) = (0, Some(Arc::clone(node)));
        while let Some(node) = next.take() {
            if let Some(entry) = self.entries.get(&node.id) {
                total += entry.with_parents;
                break;
            }
            if node.id == ROOT {
                // It is held anyway.
                break;
            }
            // It has just lost its place.
            let Some(parent) = node.parent() else { return };
            let descriptors = node.parts().map_or(0, |dir| dir.parts.len());
            total += descriptors;
            if total > most {
                return;
            }
            chain.push((node, parent.id, descriptors));
            next = Some(parent);
        }
        if total > most {
            return;
        }
        for (node, parent, descriptors) in chain.into_iter().rev() {
            let above = self.entries.get_mut(&parent).map_or(0, |above| {
                above.inside += 1;
                above.with_parents
            });
            let with_parents = above + descriptors;
            self.entries.insert(node.id, Entry { parent, descriptors, with_parents, inside: 0 });
            self.descriptors += descriptors;
            self.order.push_back(node);
        }
    }

    /// Lets go of those that are too many, for the caller to drop.
    fn trim(&mut self, most: usize) -> Vec<Arc<Node>> {
        let mut dropped = Vec::new();
        while self.descriptors > most {
            let Some(node) = self.let_go() else { break };
            dropped.push(node);
        }
        dropped
    }

    /// Lets one go in which no other lies.
    fn let_go(&mut self) -> Option<Arc<Node>> {
        for _ in 0..self.order.len() {
            let node = self.order.pop_front()?;
            if self.entries.get(&node.id).is_some_and(|entry| entry.inside > 0) {
                self.order.push_back(node);
                continue;
            }
            if let Some(entry) = self.entries.remove(&node.id) {
                self.descriptors -= entry.descriptors;
                self.left(entry.parent);
            }
            return Some(node);
        }
        None
    }

    fn left(&mut self, parent: u64) {
        if let Some(above) = self.entries.get_mut(&parent) {
            above.inside -= 1;
        }
    }

    /// Counts a directory in its new place; `false` where that is not kept itself.
    fn has_moved(&mut self, node: &Node, parent: &Node) -> bool {
        let Some(entry) = self.entries.get_mut(&node.id) else { return true };
        let old = std::mem::replace(&mut entry.parent, parent.id);
        self.left(old);
        match self.entries.get_mut(&parent.id) {
            Some(above) => above.inside += 1,
            None => return parent.id == ROOT,
        }
        true
    }
}
