//! What comes in the place of something else in one step: until then there is what was there.
//!
//! It is made in the WorkDir, a file with content without any name where the file system can do
//! that: so neither what fails on the way nor who is killed there leaves anything in the tree.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use super::copy_up::Data;
use super::create::New;
use super::metadata::EntryKind;
use super::node::{Access, Identity, Node, Place, Real, RealFile};
use super::path::{Follow, Last};
use super::read::bytes;
use super::upper::Temporary;
use super::{Core, File, OpenOptions, Tree, handle};
use crate::error::{Context, Result};
use crate::inode::Device;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::xattr::Target;

/// A regular file that has no name in the tree yet; dropped before it gets it, it is gone.
#[derive(Debug)]
pub(crate) struct Prepared<'t> {
    core: &'t Arc<Core>,
    file: File,
    end: End,
    /// Where it lies meanwhile, unless it has no name at all.
    place: Option<Temporary<'t>>,
}

/// A name of the tree.
#[derive(Debug)]
struct End {
    dir: Arc<Node>,
    name: Box<[u8]>,
}

impl Prepared<'_> {
    /// The file, to be filled.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The object that gets the name, to be given attributes.
    pub(crate) fn node(&self) -> handle::Node {
        handle::Node::new(self.core, self.file.node())
    }

    /// Gives it its name, in place of what has it now and is no directory.
    ///
    /// # Errors
    /// As `rename(2)`: EISDIR for a directory.
    pub(crate) fn put(self) -> Result<()> {
        let node = self.node();
        self.core.put(self.file.node(), &self.end, self.place).during("put in place", &node)
    }
}

impl Tree {
    /// The object that a path leads to, itself where it is a symlink.
    pub(crate) fn open_node(&self, path: &Path) -> Result<handle::Node> {
        // What is open needs no `/proc` to be changed.
        let node = self.core.resolve_held(bytes(path), Follow::NotLast, OFlags::RDONLY);
        node.map(|node| handle::Node::new(&self.core, &node)).during("find", path)
    }

    /// A new regular file that is to be at `path`, which nobody else may read yet.
    ///
    /// # Errors
    /// As `open(2)` with `O_CREAT`; EISDIR where `path` ends in no name.
    pub(crate) fn prepare(&self, path: &Path) -> Result<Prepared<'_>> {
        let prepare = || -> SysResult<Prepared<'_>> {
            let end = self.core.end(path)?;
            let (file, place) = self.core.new_file(&end)?;
            Ok(Prepared { core: &self.core, file, end, place })
        };
        prepare().during("create file", path)
    }

    /// As [`Tree::symlink`], in place of what is there and is no directory.
    ///
    /// # Errors
    /// As `symlink(2)` and `rename(2)`.
    pub(crate) fn put_symlink(&self, target: &[u8], link: &Path) -> Result<()> {
        let make = || match target {
            b"" => Err(Errno::NOENT),
            _ => self.core.put_new(&self.core.end(link)?, New::Symlink { target }),
        };
        make().during("create symlink", link)
    }

    /// As [`Tree::mknod`], in place of what is there and is no directory.
    ///
    /// # Errors
    /// As `mknod(2)` and `rename(2)`.
    pub(crate) fn put_node(&self, path: &Path, kind: EntryKind, device: Device) -> Result<()> {
        let make = || {
            let new = New::Node { kind: kind.to_be_made()?, mode: 0o600, device };
            self.core.put_new(&self.core.end(path)?, new)
        };
        make().during("create node", path)
    }

    /// As [`Tree::hard_link`], in place of what is there and is no directory.
    ///
    /// # Errors
    /// As `link(2)` and `rename(2)`.
    pub(crate) fn put_link(&self, original: &Path, link: &Path) -> Result<()> {
        let make = || {
            let node = self.core.resolve(bytes(original), Follow::NotLast)?;
            self.core.put_link(&node, &self.core.end(link)?)
        };
        make().during("create hard link", link)
    }
}

impl Core {
    fn end(&self, path: &Path) -> SysResult<End> {
        let walked = self.walk(bytes(path), Follow::NotLast)?;
        match walked.last {
            Last::Name(name) if !walked.slash => Ok(End { dir: walked.dir, name }),
            _ => Err(Errno::ISDIR),
        }
    }

    fn new_file(self: &Arc<Self>, end: &End) -> SysResult<(File, Option<Temporary<'_>>)> {
        let upper = self.upper()?;
        self.may_change(&end.dir)?;
        let mut parts = end.dir.parts()?;
        let mut group = self.group_handed_on(&parts.top()?.dir)?;
        if group.is_some() || upper.hands_on(&parts.top()?.dir)? {
            // What an upper directory hands on may be another group than that of the lower one.
            self.copy_up(&end.dir, Data::Whole)?;
            parts = end.dir.parts()?;
            group = self.group_handed_on(&parts.top()?.dir)?;
        }
        let stand_in = upper.stand_in(&parts.top()?.dir)?;
        let inside = stand_in.as_ref().map(|(_, inside)| inside);
        let (file, place) = match upper.open_unnamed(inside, 0o600)? {
            Some(file) => (file, None),
            None => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                let (file, place) = upper.open_temporary(inside, flags, 0o600)?;
                (file, Some(place))
            }
        };
        if let Some(group) = group {
            self.hand_on(Target::open(&file), group)?;
        }
        let identity = Identity::of(&rustix::fs::fstat(&file)?);
        let held = Arc::new(file);
        let real = RealFile::new(FileType::RegularFile, Arc::clone(&held), Access::ReadWrite);
        // It knows its place, for messages; the place does not know it yet.
        let node = self.new_node(&end.dir, &end.name, Real::File(Arc::new(real)), identity);
        let options = OpenOptions::new().read(true).write(true).clone();
        Ok((self.file(Arc::new(node), held, true, &options), place))
    }

    fn put(&self, node: &Arc<Node>, end: &End, place: Option<Temporary<'_>>) -> SysResult<()> {
        self.in_place_of(end, Some(node), |to| match place {
            Some(place) => place.rename(to, &end.name, RenameFlags::empty()),
            None => self.link_over(node, to, &end.name),
        })
    }

    fn put_new(&self, end: &End, new: New<'_>) -> SysResult<()> {
        self.upper()?;
        self.may_make(new)?;
        self.in_place_of(end, None, |to| {
            let group = self.group_handed_on(to)?;
            match self.make(to, &end.name, new, group) {
                Err(Errno::EXIST) => self.make_over(to, &end.name, new, group),
                other => other,
            }
        })
    }

    fn put_link(&self, node: &Arc<Node>, end: &End) -> SysResult<()> {
        let is_there = |place: Place| place.parent.id == end.dir.id && place.name == end.name;
        if node.place().is_some_and(is_there) {
            return Ok(());
        }
        self.may_link(node)?;
        self.ready_to_link(node, &end.dir)?;
        self.in_place_of(end, None, |to| {
            // Renaming one of two names to the other would leave both.
            if to.names(&end.name, node.real().held()?)? {
                return Ok(());
            }
            self.link_over(node, to, &end.name)
        })
    }

    /// Makes a node's file `name` in `to` of the upper layer, whatever is there.
    fn link_over(&self, node: &Node, to: &Dir, name: &[u8]) -> SysResult<()> {
        match self.link_held(node, to, name) {
            Err(Errno::EXIST) => self.link_and_rename(node, to, name),
            other => other,
        }
    }

    /// Does what puts something at a name of the upper directory, by which what shows there now,
    /// which must be no directory, loses it; `node` is had there then.
    fn in_place_of(
        &self,
        end: &End,
        node: Option<&Arc<Node>>,
        put: impl FnOnce(&Dir) -> SysResult<()>,
    ) -> SysResult<()> {
        let End { dir, name } = end;
        let _names = dir.change_names([name])?;
        let target = self.node_locked(dir, name)?;
        self.upper()?;
        self.may_change(dir)?;
        if let Some(target) = &target {
            if target.is_directory() {
                return Err(Errno::ISDIR);
            }
            self.may_delete(dir, || target.real().stat())?;
        }
        self.copy_up(dir, Data::Whole)?;
        let _copying = target.as_ref().map(|target| target.lock_copying());
        put(&dir.upper_part()?.dir)?;
        if let Some(target) = &target {
            target.forget_name();
            self.forget_identity(target);
        }
        if let Some(node) = node {
            node.move_to(dir, name);
        }
        Ok(())
    }
}
