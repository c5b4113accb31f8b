//! Variants: layer directories that are right under one stack.
//!
//! A changeset is unpacked without the layers below it, and a few say things that depend on those
//! ([`Assumptions`]). [`assumptions_hold`] tells whether the directory is right on a stack as it
//! is; where it is not, [`resolve`] builds a copy that is.
//!
//! The copy is made directory by directory from a list of jobs, without recursion. What is named
//! where it really lies comes first; directories that turn out to be symlinks below are put off
//! until all of that is there. Where a name is taken then, or the changeset replaced what it had only
//! implied, the copy comes to nothing: the changeset is to be applied once more, in its order
//! ([`LinksBelow`]).

mod assumed;
mod below;
mod hold;
mod links;
mod places;
mod replaced;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::Ownership;
use super::attributes::Attach;
use super::copy_tree::{Folder, Folders, Keep, copy_file};
use super::links_below::LinksBelow;
use crate::error::{Context, ErrorKind, Result, Subject};
use crate::format::lookup::Stack;
use crate::format::opaque::Opaque;
use crate::format::{Assumptions, whiteout};
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, type_of};
use crate::sys::xattr::Target;
use crate::watch::{Phase, Progress, Watch};
use assumed::{Assumed, Mark};
pub(crate) use hold::assumptions_hold;
use places::{From, Missing, Place, Places, View};

/// How a variant is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VariantOptions<'a> {
    /// How owners are kept in this store; concerns directories that no layer describes.
    pub(crate) ownership: Ownership,
    /// Entries of the changeset replaced others: only their order tells what was written through a
    /// symlink below before that.
    pub(crate) has_replaced: bool,
    /// What progress reports call the layer.
    pub(crate) subject: &'a str,
    /// Sees how far it is, and may stop it.
    pub(crate) watch: Watch<'a>,
}

/// Builds in `into`, which must be empty and nobody else's, the directory that shows on `below`
/// what the changeset of `layer` does to it.
///
/// It is a copy of the layer directory but for what `assumptions` names. Where only the order of the
/// changeset tells what is to be there, gives the symlinks below that the changeset has to be applied
/// with instead; `into` is good for nothing then. Nothing is made durable here; what was made before a
/// failure is left for the caller to remove.
///
/// # Errors
/// [`ErrorKind::InvalidData`](crate::ErrorKind) where a hard link's target is missing, deleted or
/// a directory, or a path leads through too many symlinks; [`Cancelled`](crate::ErrorKind), and
/// what the file system answers.
///
/// Source: OCI image-spec, layer.md, "Applying Changesets".
pub(crate) fn resolve(
    layer: &Dir,
    assumptions: &Assumptions,
    below: &Stack,
    into: &Dir,
    options: &VariantOptions<'_>,
) -> Result<Option<LinksBelow>> {
    let mut builder = Builder::new(layer, assumptions, below, into, *options);
    let built = builder.build(assumptions);
    let Builder { mut layer, mut places, namespace, .. } = builder;
    // What makes no sense may have been replaced by the time.
    let is_odd = built.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidData);
    let in_order =
        places.in_order || options.has_replaced || is_odd || places.links_below.has_any_in(into)?;
    if in_order && !places.links_below.is_empty() {
        return Ok(Some(places.links_below));
    }
    built?;
    places.finish(&mut layer, &mut Attach::new(namespace, options.ownership, None))?;
    Ok(None)
}

/// A directory of the layer, and what is assumed of it and beneath it.
#[derive(Clone, Copy)]
struct Source {
    folder: Folder,
    mark: Option<Mark>,
}

/// Where a file with several names was copied to first.
type Copied = (Folder, Box<[u8]>);

/// A variant on its way.
struct Builder<'a> {
    namespace: Namespace,
    layer: Folders<'a>,
    places: Places<'a>,
    assumed: Assumed,
    /// Directories of the layer, and what they become.
    jobs: Vec<(Source, Folder)>,
    /// Directories of the layer whose names are symlinks: where those stand, and how they are named.
    put_off: VecDeque<(Source, Folder, Box<[u8]>)>,
    /// Files of several names, by device and inode in the layer.
    copied: HashMap<(u64, u64), Copied>,
    options: VariantOptions<'a>,
    entries: u64,
    bytes: u64,
}

impl<'a> Builder<'a> {
    fn new(
        layer: &'a Dir,
        assumptions: &'a Assumptions,
        below: &'a Stack,
        into: &'a Dir,
        options: VariantOptions<'a>,
    ) -> Self {
        let root = Source { folder: Folders::ROOT, mark: Some(Assumed::ROOT) };
        Self {
            namespace: below.namespace(),
            layer: Folders::new(layer),
            places: Places::new(into, below, Folders::ROOT),
            assumed: Assumed::new(assumptions),
            jobs: vec![(root, Folders::ROOT)],
            put_off: VecDeque::new(),
            copied: HashMap::new(),
            options,
            entries: 0,
            bytes: 0,
        }
    }

    fn build(&mut self, assumptions: &Assumptions) -> Result<()> {
        self.copy()?;
        let linked = self.links(&assumptions.links);
        // What a link leads to may be found in order alone.
        self.replaced(&assumptions.replaced)?;
        linked
    }

    fn copy(&mut self) -> Result<()> {
        loop {
            while let Some((source, place)) = self.jobs.pop() {
                self.directory(source, place)?;
            }
            let Some((source, parent, name)) = self.put_off.pop_front() else { return Ok(()) };
            let walked = self.places.walk(parent, [&*name].into_iter(), Missing::Imply);
            let place = walked.map_err(|error| {
                error.within(format!(
                    "follow {}",
                    self.places.folders.name_at(parent, &name).shown()
                ))
            })?;
            // An opaque marker says nothing in a directory that is a symlink.
            self.jobs.extend(place.map(|place| (source, place)));
        }
    }

    /// Copies what lies directly in a directory of the layer.
    fn directory(&mut self, source: Source, place: Folder) -> Result<()> {
        let dir = self.layer.handle(source.folder)?;
        let entries = dir.sorted_entries();
        for entry in entries.during("read directory", &self.layer.at(source.folder))? {
            let stat = dir.stat(&entry.name);
            let stat = stat.during("stat", &self.layer.name_at(source.folder, &entry.name))?;
            if whiteout::is_whiteout(&stat) {
                self.whiteout(place, &entry.name)?;
            } else if type_of(&stat) == FileType::Directory {
                self.child(source, place, &entry.name)?;
            } else {
                self.file(&dir, place, &entry.name, &stat)?;
            }
            self.count(&stat)?;
        }
        for name in self.assumed.take_unwritten(source.mark) {
            self.whiteout(place, &name)?;
        }
        Ok(())
    }

    fn count(&mut self, stat: &Stat) -> Result<()> {
        self.entries += 1;
        if type_of(stat) == FileType::RegularFile {
            self.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
        if !self.entries.is_multiple_of(64) {
            return Ok(());
        }
        self.options.watch.report(&Progress {
            subject: self.options.subject,
            phase: Phase::Unpack,
            bytes: self.bytes,
            total_bytes: None,
            entries: self.entries,
        })
    }

    fn child(&mut self, parent: Source, place: Folder, name: &[u8]) -> Result<()> {
        let dir = self.layer.handle(parent.folder)?;
        let opaque = is_opaque(self.namespace, &dir, name);
        let opaque = opaque.during("read mark of", &self.layer.name_at(parent.folder, name))?;
        let mark = self.assumed.child(parent.mark, name);
        let source = Source { folder: self.layer.add(parent.folder, name), mark };
        let made = if self.assumed.is_implied(mark) {
            self.implied_directory(source, place, name, opaque)?
        } else {
            self.own_directory(source.folder, place, name, opaque)?
        };
        self.jobs.extend(made.map(|made| (source, made)));
        Ok(())
    }

    /// A directory that the changeset describes; `None` where it is not copied.
    fn own_directory(
        &mut self,
        source: Folder,
        parent: Folder,
        name: &[u8],
        opaque: bool,
    ) -> Result<Option<Folder>> {
        let known = self.places.find(parent, name);
        let place = match known {
            Some(known) => known,
            None => self.places.add(parent, name, Place::default()),
        };
        if !self.places.get(place).made {
            self.places.make(parent)?;
            if !self.places.make_one(parent, name, place)? {
                self.places.in_order = true;
                self.places.forget(parent, name);
                return Ok(None);
            }
        }
        let is_described = self.places.get(place).source.is_some();
        self.places.in_order |= is_described;
        self.places.update(place, |place| {
            place.source.get_or_insert(source);
            place.opaque |= opaque;
        });
        Ok(Some(place))
    }

    /// A directory that the changeset only implies; `None` where it is put off.
    fn implied_directory(
        &mut self,
        source: Source,
        parent: Folder,
        name: &[u8],
        opaque: bool,
    ) -> Result<Option<Folder>> {
        let mut merges = false;
        let place = match self.places.view(parent, name)? {
            View::Symlink(..) => {
                self.put_off.push_back((source, parent, name.into()));
                return Ok(None);
            }
            View::File(From::Layer) => return Err(self.places.no_directory(parent, name)),
            View::Place(place) => {
                merges = self.places.merges(place)?;
                place
            }
            View::Directory => {
                merges = true;
                self.places.add(parent, name, Place::default())
            }
            View::Deleted => {
                self.places.add(parent, name, Place { recreated: true, ..Place::default() })
            }
            // A directory that nothing but marks imply is not made.
            View::File(From::Below(..)) | View::Absent => {
                self.places.add(parent, name, Place::default())
            }
        };
        if opaque && merges {
            self.places.make(place)?;
            self.places.update(place, |place| place.opaque = true);
        }
        Ok(Some(place))
    }

    /// Deletes what lies below at a name, where that means anything.
    fn whiteout(&mut self, parent: Folder, name: &[u8]) -> Result<()> {
        // The kernel lists whiteouts in a directory that merges with nothing.
        if !self.places.merges(parent)? || self.places.is_cut_off(parent)? {
            return Ok(());
        }
        if let Some(place) = self.places.find(parent, name) {
            self.places.update(place, |place| place.recreated = true);
            let place = self.places.get(place);
            if place.made {
                // One that marks alone imply is not to be there.
                self.places.in_order |= place.source.is_none();
                return Ok(());
            }
        }
        let dir = self.places.make(parent)?;
        match whiteout::make(&dir, name) {
            // A file of this layer hides what lies below by itself.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            other => other.during("create whiteout", &self.places.folders.name_at(parent, name)),
        }
    }

    fn file(&mut self, from: &Dir, parent: Folder, name: &[u8], stat: &Stat) -> Result<()> {
        let to = self.places.make(parent)?;
        let key = (stat.st_dev, stat.st_ino);
        let first = self.copied.get(&key).filter(|_| stat.st_nlink > 1).cloned();
        let is_made = match &first {
            Some((folder, first)) => {
                let first_dir = self.places.folders.handle(*folder)?;
                self.create(parent, name, || to.make_link(name, &first_dir, first))?
            }
            None => {
                self.create(parent, name, || copy_file((from, name, stat), (&to, name), Keep::All))?
            }
        };
        if is_made && first.is_none() && stat.st_nlink > 1 {
            self.copied.insert(key, (parent, name.into()));
        }
        Ok(())
    }

    /// Makes a name in place of a whiteout; `false` where something else has it.
    fn create(
        &mut self,
        parent: Folder,
        name: &[u8],
        make: impl Fn() -> SysResult<()>,
    ) -> Result<bool> {
        let mut made = make();
        if made == Err(Errno::EXIST) {
            let dir = self.places.folders.handle(parent)?;
            if !self.places.remove_whiteout(&dir, parent, name)? {
                self.places.in_order = true;
                return Ok(false);
            }
            made = make();
        }
        made.during("copy", &self.places.folders.name_at(parent, name))?;
        self.places.forget(parent, name);
        Ok(true)
    }
}

fn is_opaque(namespace: Namespace, dir: &Dir, name: &[u8]) -> SysResult<bool> {
    Ok(Opaque::read(namespace, Target::Name(dir, name))? == Opaque::Yes)
}
