//! Where a path of the merged tree comes from, and which layer hid what lay below it.
//!
//! Nothing is decided here: the merge rule is asked what the path is without the topmost layer,
//! without the two topmost, and so on. What shows without a layer and no more with it, that layer
//! hides.

use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::Stat;

use super::lookup::read::Memory;
use super::lookup::{Found, MergedDir, Stack};
use super::opaque::Opaque;
use crate::layer_path::LayerPath;
use crate::sys::dir::SysResult;

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

/// What the path is, as far as it was gone, without the layers above one; `None` where something on
/// the way is no directory.
type View = Option<Rc<Place>>;

#[derive(Debug)]
struct Place {
    /// The layers that supply it, topmost first: of a file that has only attributes, two.
    layers: Vec<usize>,
    stat: Option<Stat>,
    /// Where it can be gone on from.
    dir: Option<MergedDir>,
}

/// Asks what each layer of `stack` does to `path`; symlinks on the way are not followed.
///
/// All views go down the path together, so that of each layer is read once what it has.
pub(crate) fn trace(stack: &Stack, path: &LayerPath) -> SysResult<Trace> {
    let root = stack.root();
    let without = |count| {
        let parts = root.parts.get(count..).unwrap_or_default().to_vec();
        let dir = MergedDir { parts };
        let stat = dir.top()?.dir.stat_self()?;
        Ok(Some(Rc::new(Place::directory(dir, stat))))
    };
    let mut views = (0..stack.depth()).map(without).collect::<SysResult<Vec<View>>>()?;
    let mut differs: Vec<Option<(How, LayerPath)>> = vec![None; stack.depth()];
    let mut at = LayerPath::root();
    for name in path.components() {
        at = at.join(name);
        views = all_below(stack, &views, name)?;
        let pairs = views.iter().zip(views.iter().skip(1));
        for ((now, before), differs) in pairs.zip(&mut differs).filter(|(_, is)| is.is_none()) {
            if let (Some(now), Some(before)) = (now, before) {
                *differs = difference(now, before).map(|how| (how, at.clone()));
            }
        }
    }
    Ok(conclude(&views, differs))
}

/// What `name` is in each of the views, given topmost first.
fn all_below(stack: &Stack, views: &[View], name: &[u8]) -> SysResult<Vec<View>> {
    let mut memory = Memory::of(name);
    let mut found: Vec<View> = Vec::with_capacity(views.len());
    let mut last: Option<&View> = None;
    for view in views.iter().rev() {
        let known = found.last().filter(|_| last.is_some_and(|last| same(last, view)));
        let next = match (known, view.as_ref().and_then(|place| place.dir.as_ref())) {
            (Some(known), _) => known.clone(),
            (None, None) => None,
            (None, Some(dir)) => {
                let place = Place::of(stack.lookup_again(dir, name, &mut memory)?)?;
                let below = found.last().and_then(Option::as_ref);
                match below.filter(|below| below.is_directory_of(&place)) {
                    Some(below) => Some(Rc::clone(below)),
                    None => Some(Rc::new(place)),
                }
            }
        };
        found.push(next);
        last = Some(view);
    }
    found.reverse();
    Ok(found)
}

/// Whether two views have one place.
fn same(one: &View, other: &View) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Rc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// What shows of the path in a view.
fn shown_in(view: &View) -> Option<&Place> {
    view.as_deref().filter(|place| !place.layers.is_empty())
}

/// What the layers did, by what the path is at last in each view, and where each view first differed
/// from that without one layer more.
fn conclude(views: &[View], differs: Vec<Option<(How, LayerPath)>>) -> Trace {
    let mut steps = Vec::new();
    for (layer, (view, differs)) in views.iter().zip(differs).enumerate() {
        let shown = shown_in(view);
        let own =
            shown.and_then(|place| place.stat.filter(|_| place.layers.first() == Some(&layer)));
        let hidden: Vec<usize> = match views.get(layer + 1).filter(|below| !same(view, below)) {
            Some(below) => shown_in(below).map_or_else(Vec::new, |below| below.without(shown)),
            None => Vec::new(),
        };
        let hides = differs.filter(|_| !hidden.is_empty()).map(|(how, at)| Hides {
            layers: hidden,
            how,
            at,
        });
        if own.is_some() || hides.is_some() {
            steps.push(Step { layer, own, hides });
        }
    }
    let shown = views.first().and_then(shown_in).map_or_else(Vec::new, |top| top.layers.clone());
    // Below a directory that was renamed a layer supplies what it does not have under this path.
    for &layer in &shown {
        if steps.binary_search_by_key(&layer, |step| step.layer).is_err() {
            steps.push(Step { layer, own: None, hides: None });
            steps.sort_unstable_by_key(|step| step.layer);
        }
    }
    Trace { steps, shown }
}

impl Place {
    fn of(found: Found) -> SysResult<Self> {
        Ok(match found {
            Found::Absent => Self { layers: Vec::new(), stat: None, dir: None },
            Found::File(file) => {
                let data = file.data.map(|data| data.layer);
                let layers = std::iter::once(file.layer).chain(data).collect();
                Self { layers, stat: Some(file.stat), dir: None }
            }
            Found::Directory(dir, stat) => Self::directory(dir, stat),
        })
    }

    fn directory(dir: MergedDir, stat: Stat) -> Self {
        let layers = dir.parts.iter().map(|part| part.layer).collect();
        Self { layers, stat: Some(stat), dir: Some(dir) }
    }

    /// Whether both are directories, and made up of the same.
    fn is_directory_of(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (&self.dir, &other.dir) else { return false };
        one.parts.len() == other.parts.len()
            && one.parts.iter().zip(&other.parts).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// The layers that supply it, but for those that supply the other too.
    fn without(&self, other: Option<&Self>) -> Vec<usize> {
        // The layers of a place are sorted.
        let supplies = |layer| other.is_some_and(|place| place.layers.binary_search(layer).is_ok());
        self.layers.iter().filter(|layer| !supplies(layer)).copied().collect()
    }

    fn is_opaque(&self) -> bool {
        let top = self.dir.as_ref().and_then(|dir| dir.parts.first());
        top.is_some_and(|part| part.opaque == Opaque::Yes)
    }
}

/// How a layer makes a difference between what a name is with it and what it is without it, if it
/// takes anything away.
fn difference(now: &Rc<Place>, before: &Rc<Place>) -> Option<How> {
    if Rc::ptr_eq(now, before) || before.without(Some(now)).is_empty() {
        return None;
    }
    Some(match (&now.stat, &now.dir, &before.dir) {
        (None, ..) => How::Whiteout,
        (Some(_), Some(_), Some(_)) if now.is_opaque() => How::Opaque,
        (Some(_), Some(_), Some(_)) => How::Redirect,
        _ => How::Replaced,
    })
}

#[cfg(test)]
mod tests;
