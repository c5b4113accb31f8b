//! The merge rule: which layers supply a name of the merged tree.
//!
//! Layer by layer from the top: a whiteout ends the search; a file is taken and ends it; a
//! directory is kept, and ends it where it is opaque; what lies below a file is hidden, and a file
//! below a directory ends the search without being taken.

use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::listing::Places;
use super::opaque::Opaque;
use super::redirect::{self, Redirect};
use super::whiteout;
use super::xattr_name::mark;
use crate::id_map::Ids;
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, type_of};
use crate::sys::xattr::{self, Target};
use read::{Child, Memory};

/// What is done at a directory that was renamed with `redirect_dir=on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Redirects {
    /// EPERM, as the kernel answers with `redirect_dir=nofollow`.
    #[default]
    Refuse,
    /// The layers below are searched under the name that it had.
    Follow,
}

/// Layer directories as one tree, topmost first.
#[derive(Debug)]
pub(crate) struct Stack {
    layers: Vec<Arc<Dir>>,
    namespace: Namespace,
    redirects: Redirects,
    /// How owners are seen that are not recorded, where that is not as they are on disk.
    ids: Option<Arc<Ids>>,
}

/// A directory of one layer.
#[derive(Debug)]
pub(crate) struct Part {
    /// Which layer, 0 being the topmost.
    pub(crate) layer: usize,
    /// The directory, opened so that it can be resolved from.
    pub(crate) dir: Arc<Dir>,
    /// What its mark says; of a layer's root, which hides nothing as a whole, always `No`.
    pub(crate) opaque: Opaque,
    /// It was seen to have no extended attributes at all.
    pub(crate) bare: bool,
}

/// A directory of the merged tree: its directories in the layers, topmost first, at least one.
#[derive(Debug)]
pub(crate) struct MergedDir {
    pub(crate) parts: Vec<Arc<Part>>,
}

/// What a name of the merged tree is.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is no such name.
    Absent,
    /// Something that is no directory.
    File(FoundFile),
    /// A directory, with the status of the topmost.
    Directory(MergedDir, Stat),
}

/// A file of the merged tree.
#[derive(Debug)]
pub(crate) struct FoundFile {
    /// The layer that supplies it.
    pub(crate) layer: usize,
    /// Its index in the parent's parts.
    pub(crate) part: usize,
    /// Its status.
    pub(crate) stat: Stat,
    /// What holds its data, where it has only the attributes (`metacopy`).
    pub(crate) data: Option<FoundData>,
    /// It was seen to have no extended attributes at all.
    pub(crate) bare: bool,
}

/// The file of a lower layer that holds the data of one above.
#[derive(Debug)]
pub(crate) struct FoundData {
    /// The layer that holds it.
    pub(crate) layer: usize,
    pub(crate) dir: Dir,
    pub(crate) name: Box<[u8]>,
}

impl Part {
    /// One of which the attributes say nothing, or were not looked at.
    pub(crate) fn new(layer: usize, dir: Arc<Dir>) -> Self {
        Self { layer, dir, opaque: Opaque::No, bare: false }
    }
}

impl MergedDir {
    /// The topmost directory, whose attributes are those of the merged one.
    pub(crate) fn top(&self) -> SysResult<&Arc<Part>> {
        self.parts.first().ok_or(Errno::NOENT)
    }
}

impl Stack {
    /// Takes the layers' directories, topmost first.
    pub(crate) fn new(layers: Vec<Dir>, namespace: Namespace, redirects: Redirects) -> Self {
        Self { layers: layers.into_iter().map(Arc::new).collect(), namespace, redirects, ids: None }
    }

    /// The same without the `count` topmost layers, by the same handles; the next is layer 0 then.
    pub(crate) fn without_top(&self, count: usize) -> Self {
        let layers = self.layers.get(count..).unwrap_or_default().to_vec();
        let Self { namespace, redirects, .. } = *self;
        Self { layers, namespace, redirects, ids: self.ids.clone() }
    }

    /// The same, with owners that are not recorded seen otherwise.
    pub(crate) fn with_ids(self, ids: Option<Arc<Ids>>) -> Self {
        Self { ids, ..self }
    }

    /// How owners are seen that are not recorded.
    pub(crate) fn ids(&self) -> Option<&Arc<Ids>> {
        self.ids.as_ref()
    }

    /// The namespace of the marks.
    pub(crate) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// What is done at a directory that was renamed.
    pub(crate) fn redirects(&self) -> Redirects {
        self.redirects
    }

    /// How many layers there are.
    pub(crate) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer, so no tree either.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Second handles of the layers' directories, topmost first.
    pub(crate) fn clone_layers(&self) -> SysResult<Vec<Dir>> {
        let clone = |dir: &Arc<Dir>| {
            dir.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        self.layers.iter().map(clone).collect()
    }

    /// The root of the merged tree.
    pub(crate) fn root(&self) -> MergedDir {
        let part = |(layer, dir)| Arc::new(Part::new(layer, Arc::clone(dir)));
        MergedDir { parts: self.layers.iter().enumerate().map(part).collect() }
    }

    /// Whether a directory may hold whiteouts that are files with an attribute.
    pub(super) fn may_hold_xattr_whiteouts(&self, part: &Part) -> SysResult<bool> {
        let root = self.layers.get(part.layer).filter(|root| Arc::ptr_eq(root, &part.dir));
        let opaque = match root {
            Some(root) => Opaque::of_root(self.namespace, root)?,
            None => part.opaque,
        };
        Ok(opaque == Opaque::XattrWhiteouts)
    }

    /// What `name` is in a directory of the merged tree.
    pub(crate) fn lookup(&self, parent: &MergedDir, name: &[u8]) -> SysResult<Found> {
        self.lookup_among(parent, name, None).map(|(found, _)| found)
    }

    /// As [`Stack::lookup`], where it may be known already which parts have that name; and tells
    /// which of them mattered, `None` where none has it.
    pub(crate) fn lookup_among(
        &self,
        parent: &MergedDir,
        name: &[u8],
        among: Option<&Places>,
    ) -> SysResult<(Found, Option<Places>)> {
        self.search(parent, name, among, None)
    }

    /// As [`Stack::lookup`], by one who asks for that name in several directories which have parts
    /// in common; of each part it is read once what it has.
    pub(crate) fn lookup_again(
        &self,
        parent: &MergedDir,
        name: &[u8],
        memory: &mut Memory,
    ) -> SysResult<Found> {
        self.search(parent, name, None, Some(memory)).map(|(found, _)| found)
    }

    fn search(
        &self,
        parent: &MergedDir,
        name: &[u8],
        among: Option<&Places>,
        memory: Option<&mut Memory>,
    ) -> SysResult<(Found, Option<Places>)> {
        let mut search = Search::new(self, name, memory);
        for (index, part) in parent.parts.iter().enumerate() {
            // A redirect asks the parts below for another name.
            if search.name == name && among.is_some_and(|among| !among.has(index)) {
                continue;
            }
            match search.step(index, part)? {
                Step::Next => {}
                Step::Stop => break,
                Step::Elsewhere => {
                    search.below_from_root(part.layer)?;
                    break;
                }
            }
        }
        let places = Places::new(std::mem::take(&mut search.places));
        Ok((search.found()?, places))
    }

    /// What `path` is, no symlink on the way being followed.
    ///
    /// # Errors
    /// ENOTDIR where something on the way is no directory.
    pub(crate) fn resolve(&self, path: &LayerPath) -> SysResult<Resolved> {
        let mut dir = self.root();
        let mut components = path.components().peekable();
        while let Some(name) = components.next() {
            let found = self.lookup(&dir, name)?;
            if components.peek().is_none() {
                return Ok(Resolved { parent: Some(dir), found });
            }
            dir = match found {
                Found::Directory(dir, _) => dir,
                Found::Absent => return Ok(Resolved { parent: None, found: Found::Absent }),
                Found::File(_) => return Err(Errno::NOTDIR),
            };
        }
        let stat = dir.top()?.dir.stat_self()?;
        Ok(Resolved { parent: None, found: Found::Directory(dir, stat) })
    }

    /// Whether `name` would show in a directory if its topmost part, of layer `above`, did not
    /// have it: what decides whether removing the name must leave a whiteout.
    pub(crate) fn shows_below(
        &self,
        parent: &MergedDir,
        above: usize,
        name: &[u8],
    ) -> SysResult<bool> {
        for part in parent.parts.iter().filter(|part| part.layer > above) {
            match part.dir.stat(name) {
                Ok(stat) => {
                    let gone = whiteout::is_whiteout(&stat)
                        || whiteout::is_xattr_whiteout(self.namespace, &part.dir, name, &stat)?;
                    return Ok(!gone);
                }
                Err(Errno::NOENT | Errno::NAMETOOLONG) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// What [`Stack::resolve`] found.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The directory in which the last name was looked up; `None` for the root, and where a
    /// directory on the way does not exist.
    pub(crate) parent: Option<MergedDir>,
    pub(crate) found: Found,
}

/// Whether a search goes on.
enum Step {
    Next,
    Stop,
    /// In the layers below, from their roots, under an absolute name.
    Elsewhere,
}

/// One name on its way down the layers.
struct Search<'a> {
    stack: &'a Stack,
    /// What was read for others, which is not read again.
    memory: Option<&'a mut Memory>,
    name: Vec<u8>,
    /// Set by an absolute redirect.
    path: Option<LayerPath>,
    parts: Vec<Arc<Part>>,
    /// Which of the parent's parts have the name, as far as they were looked at.
    places: Vec<u32>,
    top: Option<Stat>,
    file: Option<FoundFile>,
    /// The file that was found has only the attributes; the search goes on for its data.
    lacks_data: bool,
}

impl<'a> Search<'a> {
    fn new(stack: &'a Stack, name: &[u8], memory: Option<&'a mut Memory>) -> Self {
        let name = name.to_vec();
        let (parts, places) = (Vec::new(), Vec::new());
        Self {
            stack,
            memory,
            name,
            path: None,
            parts,
            places,
            top: None,
            file: None,
            lacks_data: false,
        }
    }

    fn found(self) -> SysResult<Found> {
        if self.lacks_data {
            return Err(Errno::IO);
        }
        Ok(match (self.file, self.top) {
            (Some(file), _) => Found::File(file),
            (None, Some(stat)) => Found::Directory(MergedDir { parts: self.parts }, stat),
            (None, None) => Found::Absent,
        })
    }

    /// Looks at one layer's directory of the parent.
    fn step(&mut self, index: usize, parent: &Arc<Part>) -> SysResult<Step> {
        let Some(stat) = read::stat(parent, &self.name, self.memory.as_deref_mut())? else {
            return Ok(Step::Next);
        };
        self.places.push(u32::try_from(index).map_err(|_| Errno::OVERFLOW)?);
        if type_of(&stat) == FileType::Directory {
            if self.file.is_some() {
                return Ok(Step::Stop);
            }
            return self.keep(parent, stat);
        }
        let namespace = self.stack.namespace;
        let gone = whiteout::is_whiteout(&stat)
            || whiteout::is_xattr_whiteout(namespace, &parent.dir, &self.name, &stat)?;
        if gone || !self.parts.is_empty() {
            return Ok(Step::Stop);
        }
        self.take(index, parent, stat)
    }

    /// Takes a file: the one that shows, or the one that holds its data.
    fn take(&mut self, index: usize, parent: &Part, stat: Stat) -> SysResult<Step> {
        let regular = type_of(&stat) == FileType::RegularFile;
        let target = Target::Name(&parent.dir, &self.name);
        // Asked as cheaply as for one of them, and a copy-up need not ask again.
        let names = regular.then(|| readable(xattr::list(target))).transpose()?.flatten();
        let bare = names.as_ref().is_some_and(Vec::is_empty);
        let attribute = |mark| {
            let name = self.stack.namespace.name(mark);
            match names.as_ref().is_some_and(|names| names.contains(&name)) {
                true => readable(xattr::get(target, &name)).map(Option::flatten),
                false => Ok(None),
            }
        };
        let only_attributes = attribute(mark::METACOPY)?.is_some();
        if only_attributes && self.stack.redirects == Redirects::Refuse {
            return Err(Errno::PERM);
        }
        let redirect = if only_attributes { attribute(mark::REDIRECT)? } else { None };
        match &mut self.file {
            None => {
                let layer = parent.layer;
                self.file = Some(FoundFile { layer, part: index, stat, data: None, bare });
            }
            Some(file) if regular && !only_attributes => {
                let dir = parent.dir.child_as_path(b".")?;
                let name = self.name.as_slice().into();
                file.data = Some(FoundData { layer: parent.layer, dir, name });
            }
            Some(_) if only_attributes => {}
            Some(_) => return Ok(Step::Stop),
        }
        self.lacks_data = only_attributes;
        match redirect {
            _ if !only_attributes => Ok(Step::Stop),
            None => Ok(Step::Next),
            Some(value) => self.redirected(&value),
        }
    }

    /// Goes on under the name that a redirect gives.
    fn redirected(&mut self, value: &[u8]) -> SysResult<Step> {
        match redirect::parse(value).ok_or(Errno::IO)? {
            Redirect::Sibling(name) => {
                self.name = name;
                Ok(Step::Next)
            }
            Redirect::FromRoot(path) => {
                self.path = Some(path);
                Ok(Step::Elsewhere)
            }
        }
    }

    /// Takes the directory of this name in one layer.
    fn keep(&mut self, parent: &Arc<Part>, stat: Stat) -> SysResult<Step> {
        let memory = self.memory.as_deref_mut();
        let Child { part, redirect } = read::child(self.stack, parent, &self.name, memory)?;
        let opaque = part.opaque;
        self.parts.push(part);
        self.top.get_or_insert(stat);
        if opaque == Opaque::Yes {
            return Ok(Step::Stop);
        }
        let Some(value) = redirect else { return Ok(Step::Next) };
        if self.stack.redirects == Redirects::Refuse {
            return Err(Errno::PERM);
        }
        self.redirected(&value)
    }

    /// Goes on below `layer`, each layer from its root, after an absolute redirect.
    fn below_from_root(&mut self, layer: usize) -> SysResult<()> {
        for below in layer + 1..self.stack.layers.len() {
            let Some(path) = self.path.clone() else { return Ok(()) };
            let Some(root) = self.stack.layers.get(below) else { return Ok(()) };
            let Some((parent, name)) = path.split() else { return Ok(()) };
            let (dir, last) = match self.walk_one_layer(root, &parent)? {
                Walk::Reached(dir, last) => (dir, last),
                Walk::Nothing => continue,
                Walk::Ends => return Ok(()),
            };
            self.name = name.to_vec();
            let step = self.step(0, &Arc::new(Part::new(below, Arc::new(dir))))?;
            if last || matches!(step, Step::Stop) {
                return Ok(());
            }
            if matches!(step, Step::Next)
                && let Some((parent, _)) = path.split()
            {
                // A relative redirect on the way changed the last name.
                self.path = Some(parent.join(&self.name));
            }
        }
        Ok(())
    }

    /// Walks `path` inside one layer alone.
    fn walk_one_layer(&self, root: &Dir, path: &LayerPath) -> SysResult<Walk> {
        let mut dir = root.descend_as_path(&LayerPath::root())?;
        let mut last = false;
        for name in path.components() {
            let Some(stat) = dir.stat_if_exists(name)? else { return Ok(Walk::Nothing) };
            if type_of(&stat) != FileType::Directory {
                return Ok(Walk::Ends);
            }
            dir = dir.child_as_path(name)?;
            let opaque = Opaque::read(self.stack.namespace, Target::Name(&dir, b"."))?;
            last |= opaque == Opaque::Yes;
        }
        Ok(Walk::Reached(dir, last))
    }
}

/// As with a whiteout, an attribute that cannot be read is not there.
fn readable<T>(read: SysResult<T>) -> SysResult<Option<T>> {
    match read {
        Err(Errno::PERM | Errno::ACCESS) => Ok(None),
        other => other.map(Some),
    }
}

/// Where a walk inside one layer led.
enum Walk {
    /// To the directory; `true` where an opaque one on the way makes this the last layer.
    Reached(Dir, bool),
    /// Nothing is there in this layer.
    Nothing,
    /// A whiteout or a file stands in the way, which hides the layers below too.
    Ends,
}

pub(super) mod read;
#[cfg(test)]
pub(super) mod tests;
