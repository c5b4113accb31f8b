//! [`Places`]: the directories of a variant, over what lies below it.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::super::attributes::{Attach, Given, unresolved};
use super::super::copy_tree::{Folder, Folders, Keep, put, read_kept};
use super::super::links_below::LinksBelow;
use super::below::Below;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::lookup::{Found, Stack};
use crate::format::{opaque, whiteout};
use crate::inode::Inode;
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::type_of;
use crate::sys::xattr::Target;

/// How many symlinks one path may lead through, as in the kernel.
const HOPS: usize = 40;

/// The directories of the variant: those that are made, and those that will be once something is
/// put into them.
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) folders: Folders<'a>,
    pub(super) below: Below<'a>,
    known: Vec<Place>,
    by_name: HashMap<(Folder, Box<[u8]>), Folder>,
    /// Directories that a symlink leads through and out of again by `..`, by where it leads: they
    /// must be there for it to lead there.
    passed: HashMap<Folder, Vec<Folder>>,
    /// The symlinks below that led to any of them.
    pub(super) links_below: LinksBelow,
    /// Entries of the changeset contend for a name, and only their order tells which of them has it.
    pub(super) in_order: bool,
}

/// One directory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// It is there.
    pub(super) made: bool,
    /// The layer's directory of which it has the attributes; `None` where it is only implied.
    pub(super) source: Option<Folder>,
    /// Nothing below shows in it.
    pub(super) opaque: bool,
    /// The layer deletes the directory that lies below: this is another one.
    pub(super) recreated: bool,
}

/// What a name is in the layer over what lies below.
#[derive(Debug)]
pub(super) enum View {
    /// A directory that is known already.
    Place(Folder),
    /// A directory of the layers below alone.
    Directory,
    /// A symlink, and what it holds.
    Symlink(Vec<u8>, From),
    /// Any other file.
    File(From),
    /// The layer deletes it.
    Deleted,
    Absent,
}

/// Where a file is.
#[derive(Debug)]
pub(super) enum From {
    /// In the variant.
    Layer,
    /// In this directory of a layer below, with this status.
    Below(Dir, Box<Stat>),
}

/// What is done at a directory that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is implied by what is to be put into it.
    Imply,
    Leave,
}

impl<'a> Places<'a> {
    /// The variant in `into`, so far an empty directory that gets the attributes of `source`.
    pub(super) fn new(into: &'a Dir, below: &'a Stack, source: Folder) -> Self {
        let root = Place { made: true, source: Some(source), ..Place::default() };
        Self {
            folders: Folders::new(into),
            below: Below::new(below),
            known: vec![root],
            by_name: HashMap::new(),
            passed: HashMap::new(),
            links_below: LinksBelow::default(),
            in_order: false,
        }
    }

    pub(super) fn get(&self, folder: Folder) -> Place {
        self.known.get(Folders::index(folder)).copied().unwrap_or_default()
    }

    /// Changes what is known of a directory.
    pub(super) fn update(&mut self, folder: Folder, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.known.get_mut(Folders::index(folder)) {
            change(place);
        }
    }

    pub(super) fn find(&self, parent: Folder, name: &[u8]) -> Option<Folder> {
        self.by_name.get(&(parent, name.into())).copied()
    }

    pub(super) fn add(&mut self, parent: Folder, name: &[u8], place: Place) -> Folder {
        let folder = self.folders.add(parent, name);
        self.known.push(place);
        self.by_name.insert((parent, name.into()), folder);
        folder
    }

    /// Forgets a directory that is not made, since a file has its name.
    pub(super) fn forget(&mut self, parent: Folder, name: &[u8]) {
        self.by_name.remove(&(parent, name.into()));
    }

    /// Whether anything from below could show in a directory.
    pub(super) fn shows_below(&self, folder: Folder) -> bool {
        let mut at = folder;
        loop {
            let place = self.get(at);
            if place.opaque || place.recreated {
                return false;
            }
            match self.folders.parent(at) {
                Some((parent, _)) => at = parent,
                None => return !self.below.stack().is_empty(),
            }
        }
    }

    /// Whether a directory merges with one of the layers below.
    pub(super) fn merges(&mut self, folder: Folder) -> Result<bool> {
        Ok(self.shows_below(folder) && self.below.directory(&self.folders.path(folder))?.is_some())
    }

    /// What lies below at a name, and shows unless the layer has that name.
    fn look_below(&mut self, parent: Folder, name: &[u8]) -> Result<Found> {
        if !self.shows_below(parent) {
            return Ok(Found::Absent);
        }
        self.below.look(&self.folders.path(parent), name)
    }

    /// What a name is in the layer, as far as it is made, over what lies below.
    pub(super) fn view(&mut self, parent: Folder, name: &[u8]) -> Result<View> {
        match self.find(parent, name) {
            Some(place) => Ok(View::Place(place)),
            None => self.view_beside_places(parent, name),
        }
    }

    /// As [`view`](Self::view), of a name that is no directory of the layer.
    pub(super) fn view_beside_places(&mut self, parent: Folder, name: &[u8]) -> Result<View> {
        if self.get(parent).made {
            let dir = self.folders.handle(parent)?;
            let path = self.folders.name_at(parent, name);
            let stat = dir.stat_if_exists(name).during("look up", &path)?;
            match stat {
                None => {}
                Some(stat) if whiteout::is_whiteout(&stat) => return Ok(View::Deleted),
                Some(stat) if type_of(&stat) == FileType::Symlink => {
                    let target = dir.read_link(name).during("read link", &path)?;
                    return Ok(View::Symlink(target, From::Layer));
                }
                Some(_) => return Ok(View::File(From::Layer)),
            }
        }
        let file = match self.look_below(parent, name)? {
            Found::Absent => return Ok(View::Absent),
            Found::Directory(..) => return Ok(View::Directory),
            Found::File(file) => file,
        };
        let parent_path = self.folders.path(parent);
        let dir = self.below.part(&parent_path, file.part)?;
        if type_of(&file.stat) == FileType::Symlink {
            let target = dir.read_link(name).during("read link", &parent_path.join(name))?;
            return Ok(View::Symlink(target, From::Below(dir, Box::new(file.stat))));
        }
        Ok(View::File(From::Below(dir, Box::new(file.stat))))
    }

    /// The directory that `path` leads to from `start`, through symlinks of the layer and of those
    /// below, inside the root. What is implied is not made yet ([`make`](Self::make)).
    pub(super) fn walk<'n>(
        &mut self,
        start: Folder,
        path: impl Iterator<Item = &'n [u8]>,
        missing: Missing,
    ) -> Result<Option<Folder>> {
        let mut names: VecDeque<Vec<u8>> = path.map(<[u8]>::to_vec).collect();
        let (mut at, mut hops) = (start, 0);
        let mut passed = Vec::new();
        while let Some(name) = names.pop_front() {
            if name == b".." {
                passed.push(at);
                at = self.folders.parent(at).map_or(Folders::ROOT, |(parent, _)| parent);
                continue;
            }
            let view = self.view(at, &name)?;
            at = match (view, missing) {
                (View::Place(place), _) => place,
                (View::Symlink(target, from), _) => {
                    match from {
                        From::Below(..) => {
                            let path = self.folders.path(at).join(&name);
                            self.links_below.insert(path, target.clone());
                        }
                        // It may have come after what is to be put there.
                        From::Layer => self.in_order |= missing == Missing::Imply,
                    }
                    hops += 1;
                    if hops > HOPS {
                        let path = self.folders.path(at).join(&name);
                        return Err(unresolved(format!("too many symlinks on the way to {path}")));
                    }
                    let parts = target.split(|&byte| byte == b'/');
                    for part in parts.filter(|part| !matches!(*part, b"" | b".")).rev() {
                        names.push_front(part.to_vec());
                    }
                    if target.starts_with(b"/") { Folders::ROOT } else { at }
                }
                (View::Directory, _) => self.add(at, &name, Place::default()),
                (_, Missing::Leave) => return Ok(None),
                (View::File(From::Layer), _) => {
                    return Err(self.no_directory(at, &name));
                }
                (View::File(From::Below(..)) | View::Absent, _) => {
                    self.add(at, &name, Place::default())
                }
                (View::Deleted, _) => {
                    self.add(at, &name, Place { recreated: true, ..Place::default() })
                }
            };
        }
        if missing == Missing::Imply && !passed.is_empty() {
            self.passed.entry(at).or_default().append(&mut passed);
        }
        Ok(Some(at))
    }

    pub(super) fn no_directory(&self, parent: Folder, name: &[u8]) -> Error {
        let path = self.folders.path(parent).join(name);
        unresolved(format!("{path} is no directory in this changeset, and files lie in it"))
    }

    /// The directory, which is made, and those above it, where they are not there yet.
    pub(super) fn make(&mut self, folder: Folder) -> Result<Rc<Dir>> {
        let mut wanted = vec![folder];
        while let Some(mut at) = wanted.pop() {
            let mut missing = Vec::new();
            while !self.get(at).made {
                missing.push(at);
                let Some((parent, _)) = self.folders.parent(at) else { break };
                at = parent;
            }
            wanted.append(&mut self.missing_on_the_way_to(at)?);
            for place in missing.into_iter().rev() {
                let Some((parent, name)) = self.folders.parent(place) else { continue };
                let name = name.to_vec();
                if !self.make_one(parent, &name, place)? {
                    return Err(self.no_directory(parent, &name));
                }
                wanted.append(&mut self.missing_on_the_way_to(place)?);
            }
        }
        self.folders.handle(folder)
    }

    /// What has to be made since a symlink leads through it.
    fn missing_on_the_way_to(&mut self, place: Folder) -> Result<Vec<Folder>> {
        let mut missing = Vec::new();
        for passed in self.passed.get(&place).cloned().unwrap_or_default() {
            if !self.get(passed).made && !self.merges(passed)? {
                missing.push(passed);
            }
        }
        Ok(missing)
    }

    /// Whether the symlink that leads to a directory does so only once something is made.
    pub(super) fn is_cut_off(&mut self, place: Folder) -> Result<bool> {
        Ok(!self.missing_on_the_way_to(place)?.is_empty())
    }

    /// Makes one directory, whose parent is there; `false` where a file has its name.
    pub(super) fn make_one(&mut self, parent: Folder, name: &[u8], place: Folder) -> Result<bool> {
        let dir = self.folders.handle(parent)?;
        let mut made = dir.make_dir(name, 0o700);
        if made == Err(Errno::EXIST) {
            if !self.remove_whiteout(&dir, parent, name)? {
                return Ok(false);
            }
            self.update(place, |place| place.recreated = true);
            made = dir.make_dir(name, 0o700);
        }
        made.during("create directory", &self.folders.at(place))?;
        self.update(place, |place| place.made = true);
        Ok(true)
    }

    /// Removes a name of the variant if it is a whiteout, and says whether it was one.
    pub(super) fn remove_whiteout(&self, dir: &Dir, parent: Folder, name: &[u8]) -> Result<bool> {
        let path = self.folders.name_at(parent, name);
        let stat = dir.stat(name).during("stat", &path)?;
        if !whiteout::is_whiteout(&stat) {
            return Ok(false);
        }
        dir.remove_file(name).during("remove whiteout", &path)?;
        Ok(true)
    }

    /// Gives every directory that was made its marks, owner, attributes, permissions and times.
    ///
    /// Bottom-up, so that nothing is made or opened beneath a directory that is finished.
    pub(super) fn finish(&mut self, layer: &mut Folders<'_>, attach: &mut Attach) -> Result<()> {
        for folder in self.folders.innermost_first() {
            let place = self.get(folder);
            if !place.made {
                continue;
            }
            // Opened for reading: a mere path cannot be used any more once its mode is 0.
            let dir = self.folders.handle(folder)?.descend(&LayerPath::root());
            let dir = dir.during("open directory", &self.folders.at(folder))?;
            let target = Target::open(&dir);
            if (place.opaque || place.recreated) && folder != Folders::ROOT {
                let made = opaque::make(attach.namespace(), target);
                made.during("mark opaque", &self.folders.at(folder))?;
            }
            match self.attributes(folder, place, layer, attach)? {
                Some((inode, atime)) => {
                    let given = put(target, (&inode, atime));
                    given.during("set attributes of", &self.folders.at(folder))?;
                }
                None => {
                    let inode = Inode::default_directory();
                    let acls = [None, None];
                    let (atime, created_mode) = (None, None);
                    let given = Given { inode: &inode, atime, acls, created_mode, checksum: 0 };
                    attach.put(target, &self.folders.path(folder), &given)?;
                }
            }
        }
        Ok(())
    }

    /// What a directory is to be given; `None` where neither the layer nor those below say.
    fn attributes(
        &mut self,
        folder: Folder,
        place: Place,
        layer: &mut Folders<'_>,
        attach: &Attach,
    ) -> Result<Option<(Inode, crate::inode::Timestamp)>> {
        if let Some(source) = place.source {
            let (dir, name) = match layer.parent(source) {
                None => (layer.handle(source)?, b".".to_vec()),
                Some((parent, name)) => {
                    let name = name.to_vec();
                    (layer.handle(parent)?, name)
                }
            };
            let read = read_kept(&dir, &name, Keep::All).map(Some);
            return read.during("read", &layer.at(source));
        }
        let Some((parent, name)) = self.folders.parent(folder) else { return Ok(None) };
        let name = name.to_vec();
        if place.recreated {
            return Ok(None);
        }
        let Found::Directory(below, _) = self.look_below(parent, &name)? else { return Ok(None) };
        let path = self.folders.at(folder);
        let top = below.top().during("open below", &path)?;
        let keep = Keep::Shown(attach.namespace());
        read_kept(&top.dir, b".", keep).map(Some).during("read below", &path)
    }
}

/// An error at a hard link that names both names.
pub(super) fn bad_link(name: &LayerPath, target: &LayerPath, why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{name} is a hard link to {target}, {why}"))
        .hint("apply the layer on the layers that it was built on")
}
