//! [`Assumed`]: a layer's assumptions as a tree, which is walked along with the layer's directories.

use std::collections::HashMap;

use crate::format::Assumptions;
use crate::layer_path::LayerPath;

/// One path in [`Assumed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(usize);

/// What is assumed, by path.
#[derive(Debug)]
pub(super) struct Assumed {
    by_name: HashMap<(Mark, Box<[u8]>), Mark>,
    marks: Vec<Known>,
}

#[derive(Debug, Default)]
struct Known {
    is_implied: bool,
    /// Names that are deleted in it, though the layer directory does not say so.
    unwritten: Vec<Box<[u8]>>,
}

impl Assumed {
    /// The layer's root.
    pub(super) const ROOT: Mark = Mark(0);

    pub(super) fn new(assumptions: &Assumptions) -> Self {
        let mut assumed = Self { by_name: HashMap::new(), marks: vec![Known::default()] };
        for path in &assumptions.implied {
            if let Some(known) = assumed.insert(path) {
                known.is_implied = true;
            }
        }
        for (parent, name) in assumptions.unwritten.iter().filter_map(LayerPath::split) {
            if let Some(known) = assumed.insert(&parent) {
                known.unwritten.push(name.into());
            }
        }
        assumed
    }

    fn insert(&mut self, path: &LayerPath) -> Option<&mut Known> {
        let mut at = Self::ROOT;
        for name in path.components() {
            let next = Mark(self.marks.len());
            at = *self.by_name.entry((at, name.into())).or_insert(next);
            if at == next {
                self.marks.push(Known::default());
            }
        }
        self.marks.get_mut(at.0)
    }

    /// What is known of `name` in a directory; `None` where nothing is, there or beneath.
    pub(super) fn child(&self, parent: Option<Mark>, name: &[u8]) -> Option<Mark> {
        self.by_name.get(&(parent?, name.into())).copied()
    }

    pub(super) fn is_implied(&self, mark: Option<Mark>) -> bool {
        mark.and_then(|mark| self.marks.get(mark.0)).is_some_and(|known| known.is_implied)
    }

    /// The names that are deleted in a directory and not written there.
    pub(super) fn take_unwritten(&mut self, mark: Option<Mark>) -> Vec<Box<[u8]>> {
        let known = mark.and_then(|mark| self.marks.get_mut(mark.0));
        known.map(|known| std::mem::take(&mut known.unwritten)).unwrap_or_default()
    }
}
