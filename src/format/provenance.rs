//! Where a path of the merged tree comes from, and which layer hid what lay below it.
//!
//! Nothing is decided here: the merge rule is asked what the path is without the topmost layer,
//! without the two topmost, and so on. What shows without a layer and no more with it, that layer
//! hides.

use rustix::fs::{FileType, Stat};

use super::lookup::{Found, Stack};
use super::opaque::Opaque;
use crate::layer_path::LayerPath;
use crate::sys::dir::{SysResult, type_of};

/// What the layers of a stack have to say of one path.
#[derive(Debug)]
pub(crate) struct Trace {
    /// What each layer did, topmost first; those that neither have or supply the path nor hide it
    /// are left out.
    pub(crate) steps: Vec<Step>,
    /// The layers that supply what shows, topmost first; none where nothing shows.
    pub(crate) shown: Vec<usize>,
}

/// What one layer did to a path.
#[derive(Debug)]
pub(crate) struct Step {
    /// Which layer, 0 being the topmost.
    pub(crate) layer: usize,
    /// The status of what it has itself under that path.
    pub(crate) own: Option<Stat>,
    /// What it hides.
    pub(crate) hides: Option<Hides>,
}

/// How a layer hides what those below it have.
#[derive(Debug)]
pub(crate) struct Hides {
    /// The layers of which it hides what would show without it, topmost first.
    pub(crate) layers: Vec<usize>,
    pub(crate) how: How,
    /// Where: the path itself, or a directory on the way to it.
    pub(crate) at: LayerPath,
}

/// By which means a layer hides something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By something of that name: a file, or a directory above a file.
    Replaced,
    /// By a whiteout.
    Whiteout,
    /// By a directory that is marked opaque.
    Opaque,
    /// By a directory that was renamed, and goes on below under its old name.
    Redirect,
}

/// What a path is, name by name from the root, without the layers above one.
struct View {
    /// The root first; up to the first name that is no directory, or the last.
    places: Vec<Place>,
    whole: bool,
}

struct Place {
    /// The layers that supply it, topmost first: of a file that has only attributes, two.
    layers: Vec<usize>,
    stat: Option<Stat>,
    opaque: bool,
}

/// Asks what each layer of `stack` does to `path`; symlinks on the way are not followed.
pub(crate) fn trace(stack: &Stack, path: &LayerPath) -> SysResult<Trace> {
    let mut below = View { places: Vec::new(), whole: false };
    let mut steps = Vec::new();
    for layer in (0..stack.depth()).rev() {
        let view = view(stack, layer, path)?;
        let (shown, before) = (view.last(), below.last());
        let own =
            shown.and_then(|place| place.stat.filter(|_| place.layers.first() == Some(&layer)));
        let hidden: Vec<usize> = before
            .map_or(&[][..], |place| &place.layers)
            .iter()
            .filter(|layer| shown.is_none_or(|place| !place.layers.contains(layer)))
            .copied()
            .collect();
        let hides = if hidden.is_empty() { None } else { hides(path, &view, &below, hidden) };
        if own.is_some() || hides.is_some() {
            steps.push(Step { layer, own, hides });
        }
        below = view;
    }
    let shown = below.last().map_or_else(Vec::new, |place| place.layers.clone());
    // Below a directory that was renamed a layer supplies what it does not have under this path.
    for &layer in &shown {
        if steps.iter().all(|step: &Step| step.layer != layer) {
            steps.push(Step { layer, own: None, hides: None });
        }
    }
    steps.sort_unstable_by_key(|step| step.layer);
    Ok(Trace { steps, shown })
}

impl View {
    /// The path itself, where it shows.
    fn last(&self) -> Option<&Place> {
        self.places.last().filter(|place| self.whole && !place.layers.is_empty())
    }
}

/// What `path` is without the layers above `first`.
fn view(stack: &Stack, first: usize, path: &LayerPath) -> SysResult<View> {
    let mut dir = stack.root_from(first)?;
    let root = dir.top()?.dir.stat_self()?;
    let layers = dir.parts.iter().map(|part| part.layer).collect();
    let mut places = vec![Place { layers, stat: Some(root), opaque: false }];
    let mut left = path.components().count();
    for name in path.components() {
        left -= 1;
        match stack.lookup(&dir, name)? {
            Found::Absent => {
                places.push(Place { layers: Vec::new(), stat: None, opaque: false });
                break;
            }
            Found::File(file) => {
                let data = file.data.map(|data| data.layer);
                let layers = std::iter::once(file.layer).chain(data).collect();
                places.push(Place { layers, stat: Some(file.stat), opaque: false });
                break;
            }
            Found::Directory(found, stat) => {
                let layers = found.parts.iter().map(|part| part.layer).collect();
                let opaque = found.top()?.opaque == Opaque::Yes;
                places.push(Place { layers, stat: Some(stat), opaque });
                dir = found;
            }
        }
    }
    Ok(View { places, whole: left == 0 })
}

/// Finds where the layer that makes the difference between two views made it.
fn hides(path: &LayerPath, view: &View, below: &View, layers: Vec<usize>) -> Option<Hides> {
    let mut at = LayerPath::root();
    let mut names = path.components();
    for (now, before) in view.places.iter().zip(&below.places) {
        let is_directory =
            now.stat.as_ref().is_some_and(|stat| type_of(stat) == FileType::Directory);
        let was_directory =
            before.stat.as_ref().is_some_and(|stat| type_of(stat) == FileType::Directory);
        let how = match &now.stat {
            _ if before.layers.iter().all(|layer| now.layers.contains(layer)) => None,
            None => Some(How::Whiteout),
            Some(_) if !is_directory || !was_directory => Some(How::Replaced),
            Some(_) if now.opaque => Some(How::Opaque),
            Some(_) => Some(How::Redirect),
        };
        if let Some(how) = how {
            return Some(Hides { layers, how, at });
        }
        at = at.join(names.next().unwrap_or_default());
    }
    None
}

#[cfg(test)]
mod tests;
