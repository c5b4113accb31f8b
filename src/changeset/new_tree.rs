//! [`NewTree`]: the tree that is walked: an upper directory, and the stack where that leads.

use std::cell::OnceCell;
use std::sync::Arc;

use rustix::io::Errno;

use crate::format::listing::MergedEntry;
use crate::format::lookup::{Found, MergedDir, Part, Redirects, Stack};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::{DirEntry, Kind, SysResult};

use super::old_tree::most_held;

/// How many levels are opened anew at once, when a walk comes back to one that was let go.
const REOPENED: usize = 8;

/// The directories on the way to the one that is walked, from the root.
#[derive(Debug)]
pub(super) struct NewTree<'a> {
    root: Root<'a>,
    levels: Vec<Level>,
    path: LayerPath,
    /// The outermost level that is held.
    held_from: usize,
    most_held: usize,
}

#[derive(Debug)]
enum Root<'a> {
    /// An upper directory over layers; and both as one stack, made when a mark leads there.
    Upper {
        upper: &'a Dir,
        below: &'a Stack,
        whole: OnceCell<Stack>,
    },
    Merged(&'a Stack),
}

#[derive(Debug)]
struct Level {
    path_length: usize,
    names: std::vec::IntoIter<Name>,
    covered: bool,
    is_merged: bool,
    /// The device and inode number of the topmost directory.
    identity: (u64, u64),
    held: Option<Handle>,
}

/// An open directory of the tree.
#[derive(Debug)]
pub(super) enum Handle {
    /// In the upper layer alone: what lies below was not changed by being here.
    Upper(Dir),
    /// With what shows through from below, since that is not what lay here before.
    Merged(MergedDir),
}

/// A name of a directory that is walked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) name: Box<[u8]>,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the part of that index of the directory; in the upper one where it has no parts.
    Part(usize),
    /// Nowhere any more; it lay below.
    Gone,
}

impl Name {
    pub(super) fn from_upper(entry: DirEntry) -> Self {
        Self { name: entry.name, kind: entry.kind, place: Place::Part(0) }
    }

    pub(super) fn from_merged(entry: MergedEntry) -> Self {
        let place = Place::Part(entry.part());
        Self { name: entry.name, kind: entry.kind, place }
    }
}

impl Handle {
    /// The directory of one layer in which a name stands, and that layer.
    pub(super) fn part(&self, place: Place) -> SysResult<(&Dir, usize)> {
        match (self, place) {
            (_, Place::Gone) => Err(Errno::NOENT),
            (Self::Upper(dir), Place::Part(_)) => Ok((dir, 0)),
            (Self::Merged(dir), Place::Part(index)) => {
                let part = dir.parts.get(index).ok_or(Errno::NOENT)?;
                Ok((&part.dir, part.layer))
            }
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Upper(_) => 1,
            Self::Merged(dir) => dir.parts.len(),
        }
    }
}

impl<'a> NewTree<'a> {
    /// The tree of an upper directory over `below`; it stands at its root, with no names yet.
    pub(super) fn of_upper(upper: &'a Dir, below: &'a Stack) -> Self {
        Self::new(Root::Upper { upper, below, whole: OnceCell::new() })
    }

    /// The merged tree of a stack.
    pub(super) fn of_stack(stack: &'a Stack) -> Self {
        Self::new(Root::Merged(stack))
    }

    fn new(root: Root<'a>) -> Self {
        let path = LayerPath::root();
        Self { root, levels: Vec::new(), path, held_from: 0, most_held: most_held() }
    }

    /// The root directory.
    pub(super) fn open_root(&self) -> SysResult<Handle> {
        match &self.root {
            Root::Upper { upper, .. } => upper.descend(&LayerPath::root()).map(Handle::Upper),
            Root::Merged(stack) => Ok(Handle::Merged(stack.root())),
        }
    }

    /// The upper directory and the layers below it as one stack.
    pub(super) fn whole(&self) -> SysResult<&Stack> {
        let (upper, below, whole) = match &self.root {
            Root::Merged(stack) => return Ok(stack),
            Root::Upper { upper, below, whole } => (upper, below, whole),
        };
        if let Some(whole) = whole.get() {
            return Ok(whole);
        }
        let mut dirs = vec![upper.descend_as_path(&LayerPath::root())?];
        dirs.extend(below.clone_layers()?);
        let ids = below.ids().cloned();
        let stack = || Stack::new(dirs, below.namespace(), below.redirects()).with_ids(ids);
        Ok(whole.get_or_init(stack))
    }

    /// What the stack does at redirects; with no layer below there is nowhere for them to lead.
    pub(super) fn redirects(&self) -> Option<Redirects> {
        match &self.root {
            Root::Upper { below, .. } if below.is_empty() => None,
            Root::Upper { below, .. } => Some(below.redirects()),
            Root::Merged(stack) => Some(stack.redirects()),
        }
    }

    /// The path of the directory that is walked.
    pub(super) fn path(&self) -> &LayerPath {
        &self.path
    }

    /// Whether nothing shows here of what lay below: the directory or one around it is opaque, or
    /// came from elsewhere.
    pub(super) fn is_covered(&self) -> bool {
        self.levels.last().is_some_and(|level| level.covered)
    }

    /// The next name of this directory; `None` behind its last one.
    pub(super) fn next(&mut self) -> Option<Name> {
        self.levels.last_mut()?.names.next()
    }

    /// Whether the walk is not over.
    pub(super) fn is_inside(&self) -> bool {
        !self.levels.is_empty()
    }

    /// Goes into the directory at `path`, of which `identity` is the device and inode number.
    pub(super) fn enter(
        &mut self,
        path: LayerPath,
        handle: Handle,
        identity: (u64, u64),
        names: Vec<Name>,
        covered: bool,
    ) {
        let level = Level {
            identity,
            path_length: path.as_bytes().len(),
            names: names.into_iter(),
            covered,
            is_merged: matches!(handle, Handle::Merged(_)),
            held: Some(handle),
        };
        self.path = path;
        self.levels.push(level);
        self.let_go(self.levels.len());
    }

    /// Goes back to the directory around this one.
    pub(super) fn leave(&mut self) {
        let left = self.levels.pop();
        self.path = self.path.parent().unwrap_or_default();
        // One that was let go is reached from the one that is left with no walk from the root, if
        // that still lies where it did; if not, `hold` finds out what is there now.
        if let (Some(Handle::Upper(dir)), Some(around)) =
            (left.and_then(|left| left.held), self.levels.last_mut())
            && around.held.is_none()
            && !around.is_merged
            && let Ok(up) = dir.child(b"..")
            && up.stat_self().is_ok_and(|stat| (stat.st_dev, stat.st_ino) == around.identity)
        {
            around.held = Some(Handle::Upper(up));
            self.held_from = self.levels.len() - 1;
        }
    }

    /// Opens this directory anew where it was let go.
    pub(super) fn hold(&mut self) -> SysResult<()> {
        if self.levels.last().is_none_or(|level| level.held.is_some()) {
            return Ok(());
        }
        let end = self.levels.len();
        self.held_from = end.saturating_sub(REOPENED);
        for index in self.held_from..end {
            let handle = self.reopen(index)?;
            if let Some(level) = self.levels.get_mut(index) {
                level.held = Some(handle);
            }
            self.let_go(index + 1);
        }
        Ok(())
    }

    /// This directory, which must be held.
    pub(super) fn here(&self) -> SysResult<&Handle> {
        self.levels.last().and_then(|level| level.held.as_ref()).ok_or(Errno::NOENT)
    }

    /// Opens the directory of one level: from the one around it, or from the root by its path.
    fn reopen(&self, index: usize) -> SysResult<Handle> {
        let Some(level) = self.levels.get(index) else { return self.open_root() };
        let path = self.path.as_bytes().get(..level.path_length).unwrap_or_default();
        let path = LayerPath::parse(path).map_err(|_| Errno::INVAL)?;
        let around = index.checked_sub(1).and_then(|index| self.levels.get(index));
        let name = path.file_name().unwrap_or_default();
        match (around.and_then(|level| level.held.as_ref()), &self.root) {
            (Some(Handle::Upper(dir)), _) if !level.is_merged => dir.child(name).map(Handle::Upper),
            (Some(Handle::Merged(dir)), _) => directory(self.whole()?.lookup(dir, name)?),
            (_, Root::Upper { upper, .. }) if !level.is_merged => {
                upper.descend(&path).map(Handle::Upper)
            }
            _ => directory(self.whole()?.resolve(&path)?.found),
        }
    }

    /// Closes outer directories while there are too many, the innermost of the first `end` kept.
    fn let_go(&mut self, end: usize) {
        self.held_from = self.held_from.min(end);
        let held = self.levels.iter().skip(self.held_from).filter_map(|level| level.held.as_ref());
        let mut held: usize = held.map(Handle::count).sum();
        while held > self.most_held && self.held_from + 1 < end {
            let level = self.levels.get_mut(self.held_from);
            held -= level.and_then(|level| level.held.take()).map_or(0, |handle| handle.count());
            self.held_from += 1;
        }
    }
}

/// The directory that was found.
pub(super) fn directory(found: Found) -> SysResult<Handle> {
    match found {
        Found::Directory(dir, _) => Ok(Handle::Merged(dir)),
        Found::Absent => Err(Errno::NOENT),
        Found::File(_) => Err(Errno::NOTDIR),
    }
}

/// The upper directory `dir` and those that show through it, as one.
pub(super) fn merged(dir: &Dir, below: Option<&MergedDir>) -> SysResult<MergedDir> {
    let part = |layer, dir| Arc::new(Part::new(layer, dir));
    let mut parts = vec![part(0, Arc::new(dir.child_as_path(b".")?))];
    for lower in below.iter().flat_map(|below| &below.parts) {
        parts.push(part(lower.layer + 1, Arc::clone(&lower.dir)));
    }
    Ok(MergedDir { parts })
}
