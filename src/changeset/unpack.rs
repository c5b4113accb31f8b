//! [`Unpack`]: makes the files of a changeset, entry by entry, inside one directory.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::BufRead;
use std::rc::Rc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::acl;
use super::attributes::{Attach, Given};
use super::contested::{Contested, leave_again};
use super::entry::{Body, Entry};
use super::header::invalid;
use super::limits;
use super::links::Walked;
use super::links_below::LinksBelow;
use super::reader::TarReader;
use super::split::SplitWriter;
use super::tree::{Attributes, Node, Tree};
use super::writers::Writers;
use super::{ApplyLimits, Ownership};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::whiteout::EntryName;
use crate::inode::{Device, FileKind};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::SysResult;
use crate::sys::inode_io;
use crate::sys::parallel::Workers;
use crate::sys::remove::remove_tree;
use crate::sys::xattr::{self, Target};

/// How many symlinks one path may lead through, as in the kernel.
pub(super) const HOPS: usize = 40;

/// The mode bit by which new files in a directory take its group.
const SET_GROUP_ID: u32 = 0o2000;

/// How many directories are kept open; deep or wide changesets reopen them.
const OPEN_DIRECTORIES: usize = 8;

/// How many names one directory is resolved through at most, where that can be had.
const STRIDE: usize = 32;

/// A changeset on its way into a directory.
pub(super) struct Unpack<'a> {
    pub(super) root: &'a Dir,
    pub(super) tree: Tree,
    pub(super) attach: Attach,
    pub(super) split: Option<SplitWriter<'a>>,
    pub(super) writers: Writers<'a>,
    /// The first error of a file that another thread wrote.
    pub(super) failed: Option<Error>,
    /// Hard links whose target was not there yet, by their own path.
    pub(super) links: BTreeMap<LayerPath, LayerPath>,
    /// Where a symlink below would make entries lead elsewhere.
    pub(super) contested: Contested,
    /// Symlinks of the layers below that its entries lead through, where those are known.
    pub(super) links_below: Option<&'a LinksBelow>,
    /// Bytes of the files' contents, holes included.
    pub(super) content_bytes: u64,
    /// Files that were made, whether or not a later entry replaced them.
    files: u64,
    limits: ApplyLimits,
    handles: VecDeque<(Node, Rc<Dir>)>,
}

impl<'a> Unpack<'a> {
    pub(super) fn new(
        root: &'a Dir,
        attach: Attach,
        limits: ApplyLimits,
        split: Option<SplitWriter<'a>>,
        workers: &'a Workers,
    ) -> Self {
        Self {
            root,
            tree: Tree::new(limits.marks),
            writers: Writers::new(workers, attach.manner),
            failed: None,
            attach,
            split,
            links: BTreeMap::new(),
            contested: Contested::default(),
            links_below: None,
            content_bytes: 0,
            files: 0,
            limits,
            handles: VecDeque::new(),
        }
    }

    /// Takes from the layer directory what new files in it would inherit.
    pub(super) fn disinherit(&self) -> Result<()> {
        let root = LayerPath::root();
        let own = self.root.descend(&root).during("open directory", &root)?;
        let mode = own.stat_self().during("stat", &root)?.st_mode & 0o7777;
        if mode & SET_GROUP_ID != 0 {
            inode_io::chmod(Target::open(&own), mode & !SET_GROUP_ID)
                .during("set mode of", &root)?;
        }
        xattr::remove(Target::open(&own), acl::DEFAULT).during("remove ACL of", &root)
    }

    /// Makes what an entry describes, or notes the mark that it is.
    pub(super) fn entry<R: BufRead>(&mut self, entry: Entry, tar: &mut TarReader<R>) -> Result<()> {
        let path = LayerPath::parse(&entry.raw_path).map_err(as_data)?;
        limits::check(path.components().count(), self.limits.depth, "names in a path")?;
        let Some((parent, name)) = path.split() else { return self.root_entry(entry) };
        for component in parent.components() {
            match EntryName::parse(component)? {
                EntryName::Plain(_) => {}
                EntryName::Bookkeeping => return Ok(()),
                EntryName::Whiteout(_) | EntryName::Opaque => {
                    return Err(invalid("a whiteout as a directory of the path".to_owned()));
                }
            }
        }
        match EntryName::parse(name)? {
            EntryName::Plain(name) => self.plain(&parent, name, entry, tar),
            EntryName::Bookkeeping => Ok(()),
            mark => {
                let plain = matches!(entry.body, Body::Inode) && entry.inode.kind.is_regular();
                if !plain || entry.payload > 0 {
                    return Err(invalid("a whiteout must be an empty regular file".to_owned()));
                }
                self.mark(&parent, mark)
            }
        }
    }

    /// Inodes in the layer; one that a later entry replaced counts too.
    pub(super) fn inodes(&self) -> u64 {
        let marks = |node| self.tree.get(node).whiteouts.len() as u64;
        self.files + self.tree.nodes().map(|node| 1 + marks(node)).sum::<u64>()
    }

    /// Keeps the tar's own bytes since the last call.
    pub(super) fn keep<R: BufRead>(&mut self, tar: &mut TarReader<R>) -> Result<()> {
        match &mut self.split {
            Some(split) => split.raw(&tar.take_kept()),
            None => Ok(()),
        }
    }

    fn root_entry(&mut self, entry: Entry) -> Result<()> {
        if !entry.inode.kind.is_directory() {
            let kind = entry.inode.kind.name();
            return Err(invalid(format!("the root of the layer is a {kind}, not a directory")));
        }
        self.tree.get_mut(Tree::ROOT).attributes = Some(attributes(entry));
        Ok(())
    }

    fn mark(&mut self, parent: &LayerPath, mark: EntryName<'_>) -> Result<()> {
        match mark {
            EntryName::Whiteout(name) => {
                let node = self.directory(parent)?;
                self.tree.delete(node, name)
            }
            // In a directory that is a symlink the marker says nothing.
            EntryName::Opaque if self.is_symlink(parent)? => Ok(()),
            EntryName::Opaque => {
                let node = self.directory(parent)?;
                self.tree.get_mut(node).opaque = true;
                Ok(())
            }
            EntryName::Plain(_) | EntryName::Bookkeeping => Ok(()),
        }
    }

    fn is_symlink(&mut self, path: &LayerPath) -> Result<bool> {
        if self.tree.find(path).is_some() {
            return Ok(false);
        }
        let Some((parent, name)) = path.split() else { return Ok(false) };
        let node = match self.walk(&parent, Missing::Leave)? {
            Walked::To(node) => node,
            Walked::Out(parent) => {
                return Ok(self.links_below.is_some_and(|links| links.has(&parent.join(name))));
            }
            Walked::Nowhere => return Ok(false),
        };
        let dir = self.handle(node)?;
        let at = self.tree.get(node).path.join(name);
        match self.read_link(&dir, name, &at) {
            Ok(_) => Ok(true),
            Err(Errno::INVAL | Errno::NOENT) => Ok(false),
            Err(error) => Err(error).during("read link", path),
        }
    }

    fn plain<R: BufRead>(
        &mut self,
        parent: &LayerPath,
        name: &[u8],
        entry: Entry,
        tar: &mut TarReader<R>,
    ) -> Result<()> {
        if let Body::Link(target) = &entry.body {
            return self.hard_link(parent, name, target);
        }
        let node = self.directory(parent)?;
        let path = self.tree.get(node).path.join(name);
        let waited = self.links.remove(&path).is_some();
        if entry.inode.kind.is_directory() {
            let made = self.make_directory(node, name, path, entry)?;
            // A hard link that waits for its target hides a directory below as one that is there.
            self.tree.get_mut(made).opaque |= waited;
            return Ok(());
        }
        let dir = self.handle(node)?;
        self.files += 1;
        match &entry.inode.kind {
            FileKind::CharDevice(Device::ZERO) => {
                return Err(invalid(
                    "a 0:0 character device, which would be a whiteout".to_owned(),
                ));
            }
            FileKind::Regular { .. } => {
                return self.make_file(&dir, name, path, entry, tar);
            }
            FileKind::Symlink { target } => {
                self.create(&dir, name, &path, |dir| dir.make_symlink(name, target))?;
            }
            FileKind::CharDevice(device) => {
                self.special(&dir, name, &path, FileType::CharacterDevice, *device)?;
            }
            FileKind::BlockDevice(device) => {
                self.special(&dir, name, &path, FileType::BlockDevice, *device)?;
            }
            FileKind::Fifo | FileKind::Socket | FileKind::Directory => {
                self.special(&dir, name, &path, FileType::Fifo, Device::ZERO)?;
            }
        }
        let given = Given { created_mode: None, ..Given::of(&entry) };
        self.attach.put(Target::Name(&dir, name), &path, &given)
    }

    /// Creates a device or FIFO; where that is not allowed an empty file that records it.
    fn special(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &LayerPath,
        kind: FileType,
        device: Device,
    ) -> Result<()> {
        let mut attempt = Err(Errno::PERM);
        if self.attach.ownership() == Ownership::Exact {
            attempt =
                self.create_sys(dir, name, path, |dir| dir.make_node(name, kind, 0o600, device))?;
        }
        match attempt {
            Err(Errno::PERM) => {
                self.attach.records(path);
                self.create(dir, name, path, |dir| {
                    dir.make_node(name, FileType::RegularFile, 0o600, Device::ZERO)
                })
            }
            other => other.during("create device", path),
        }
    }

    fn make_directory(
        &mut self,
        parent: Node,
        name: &[u8],
        path: LayerPath,
        entry: Entry,
    ) -> Result<Node> {
        let node = match self.tree.find(&path) {
            Some(node) => node,
            None => {
                let dir = self.handle(parent)?;
                let replaces = match dir.make_dir(name, 0o700) {
                    Ok(()) => false,
                    Err(Errno::EXIST) => {
                        self.clear(&dir, name, &path)?;
                        dir.make_dir(name, 0o700).during("create directory", &path)?;
                        true
                    }
                    Err(error) => return Err(error).during("create directory", &path),
                };
                let node = self.tree.add(parent, path)?;
                // What was there before hid the directory below; so does this one.
                self.tree.get_mut(node).opaque = replaces;
                node
            }
        };
        self.tree.get_mut(node).attributes = Some(attributes(entry));
        Ok(node)
    }

    /// Makes the name, in place of one that is there already.
    pub(super) fn create<T>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &LayerPath,
        make: impl Fn(&Dir) -> SysResult<T>,
    ) -> Result<T> {
        self.create_sys(dir, name, path, make)?.during("create", path)
    }

    pub(super) fn create_sys<T>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &LayerPath,
        make: impl Fn(&Dir) -> SysResult<T>,
    ) -> Result<SysResult<T>> {
        match make(dir) {
            Err(Errno::EXIST) => {
                self.clear(dir, name, path)?;
                Ok(make(dir))
            }
            other => Ok(other),
        }
    }

    /// Takes away what an earlier entry of this changeset made.
    pub(super) fn clear(&mut self, dir: &Dir, name: &[u8], path: &LayerPath) -> Result<()> {
        if let Some(node) = self.tree.find(path) {
            self.tree.forget(node);
            let below: Vec<_> =
                self.links.keys().filter(|link| link.starts_with(path)).cloned().collect();
            below.iter().for_each(|link| drop(self.links.remove(link)));
        }
        // What is written down of it stands before that it went.
        self.settle();
        if let Some(entries) = &mut self.attach.entries {
            entries.replaced(path)?;
        }
        match &mut self.split {
            Some(split) => split.move_away(dir, name, path.clone()),
            None => remove_tree(dir, name).during("replace", path),
        }
    }

    /// The directory at `path`, made where it is only implied; symlinks of this changeset are
    /// followed, inside the root.
    pub(super) fn directory(&mut self, path: &LayerPath) -> Result<Node> {
        if let Some(node) = self.tree.find(path) {
            return Ok(node);
        }
        let node = self.walk(path, Missing::Make)?.node();
        node.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("directory {path}")))
    }

    /// The directory at `path` where this changeset has it so far.
    pub(super) fn existing_directory(&mut self, path: &LayerPath) -> Result<Option<Node>> {
        self.walk(path, Missing::Leave).map(Walked::node)
    }

    pub(super) fn walk(&mut self, path: &LayerPath, missing: Missing) -> Result<Walked> {
        if let Some(node) = self.tree.find(path) {
            return Ok(Walked::To(node));
        }
        let mut names: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        let mut node = Tree::ROOT;
        let mut hops = 0;
        while let Some(name) = names.pop_front() {
            if name == b".." {
                let from = self.tree.get(node);
                let parent = from.path.parent().unwrap_or_default();
                if !from.is_explicit() {
                    self.contested.left(&from.path);
                }
                node = self.tree.find(&parent).unwrap_or(Tree::ROOT);
                continue;
            }
            let child = self.tree.get(node).path.join(&name);
            if let Some(found) = self.tree.find(&child) {
                node = found;
                continue;
            }
            let dir = self.handle(node)?;
            match self.read_link(&dir, &name, &child) {
                Ok(target) => {
                    hops += 1;
                    if hops > HOPS {
                        return Err(invalid(format!("too many symlinks on the way to {path}")));
                    }
                    if target.starts_with(b"/") {
                        node = Tree::ROOT;
                    }
                    let parts = target.split(|&byte| byte == b'/');
                    for part in parts.filter(|part| !matches!(*part, b"" | b".")).rev() {
                        names.push_front(part.to_vec());
                    }
                    limits::check(names.len(), self.limits.depth, "names in a path")?;
                }
                Err(Errno::INVAL) if missing == Missing::Leave => return Ok(Walked::Nowhere),
                Err(Errno::INVAL) => return Err(no_directory(&child)),
                Err(Errno::NOENT) if missing == Missing::Leave => {
                    // What a link leads into and out of again would be made for an entry.
                    let rest = names.clone();
                    let leaves = rest.front().is_some_and(|name| name == b"..");
                    if leaves && self.contested.left(&child) {
                        self.tree.count_mark(&child)?;
                    }
                    if !leave_again(&mut names) {
                        // A hard link that waits for its target is no directory.
                        let is_open = self.links.contains_key(&child)
                            || rest.iter().any(|name| name == b"..");
                        return Ok(match is_open {
                            true => Walked::Nowhere,
                            false => Walked::Out(rest.iter().fold(child, |at, name| at.join(name))),
                        });
                    }
                }
                Err(Errno::NOENT) if self.links.contains_key(&child) => {
                    return Err(no_directory(&child));
                }
                Err(Errno::NOENT) => {
                    limits::check(
                        child.components().count(),
                        self.limits.depth,
                        "names in a path",
                    )?;
                    dir.make_dir(&name, 0o700).during("create directory", &child)?;
                    node = self.tree.add(node, child)?;
                }
                Err(error) => return Err(error).during("look up", &child),
            }
        }
        Ok(Walked::To(node))
    }

    /// A directory, opened so that it can be resolved from.
    pub(super) fn handle(&mut self, node: Node) -> Result<Rc<Dir>> {
        let mut way = Vec::new();
        let (mut at, mut open) = (node, self.opened(node));
        while let (None, Some(parent)) = (&open, self.tree.get(at).parent) {
            way.push(at);
            (at, open) = (parent, self.opened(parent));
        }
        way.reverse();
        // A walk up out of the depth finds those that were passed on the way down.
        for stride in way.chunks(STRIDE) {
            let name = |node: &Node| self.tree.get(*node).path.file_name().map(<[u8]>::to_vec);
            let names: Vec<Vec<u8>> = stride.iter().filter_map(name).collect();
            let rest = LayerPath::parse(&names.join(&b'/'))?;
            let from = open.as_deref().unwrap_or(self.root);
            let last = stride.last().copied().unwrap_or(node);
            let next = from.descend_as_path(&rest);
            let next = next.during("open directory", &self.tree.get(node).path)?;
            open = Some(self.keep_open(last, next));
        }
        match open {
            Some(dir) => Ok(dir),
            None => {
                let root = self.root.descend_as_path(&LayerPath::root());
                let root = root.during("open directory", &LayerPath::root())?;
                Ok(self.keep_open(Tree::ROOT, root))
            }
        }
    }

    fn opened(&self, node: Node) -> Option<Rc<Dir>> {
        let found = self.handles.iter().find(|(open, _)| *open == node);
        found.map(|(_, dir)| Rc::clone(dir))
    }

    fn keep_open(&mut self, node: Node, dir: Dir) -> Rc<Dir> {
        let dir = Rc::new(dir);
        if self.handles.len() == OPEN_DIRECTORIES {
            self.handles.pop_back();
        }
        self.handles.push_front((node, Rc::clone(&dir)));
        dir
    }
}

/// What is done at a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Leave,
}

fn attributes(entry: Entry) -> Attributes {
    let acls = [entry.acl_access, entry.acl_default];
    Attributes { inode: entry.inode, atime: entry.atime, acls }
}

fn no_directory(path: &LayerPath) -> Error {
    invalid(format!("{path} is no directory in this changeset"))
}

/// A path out of a changeset that makes no sense is bad data, not a bad argument.
pub(super) fn as_data(error: Error) -> Error {
    invalid(error.to_string())
}
