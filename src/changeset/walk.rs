//! The one walk over an upper directory and what lies below it, which knows what every mark means.
//!
//! What is told, and in which order: the root; then the names of each directory, sorted by bytes,
//! and behind each directory all that it holds.

use rustix::io::Errno;

use super::between::BrokenLinks;
use super::new_tree::{self, Handle, Name, NewTree, Place};
use super::node::{Content, Depth, Node};
use super::old_tree::OldTree;
use super::stale_record;
use super::tar_writer::changed;
use crate::error::{Context, Error, Result, Subject};
use crate::format::lookup::{Found, Redirects, Stack};
use crate::format::metacopy;
use crate::format::opaque::Opaque;
use crate::format::xattr_name::mark;
use crate::inode::FileKind;
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::dir::{Kind, SysResult, type_of};
use crate::watch::Watch;

/// What is told of each name. `old` is turned to that name, and looks below only where it is asked.
pub(super) trait Visitor {
    /// How much of each file is read.
    fn depth(&self) -> Depth;

    /// Which deleted names it is told of.
    fn deletions(&self) -> Deletions;

    /// The root directory of the tree.
    fn root(&mut self, node: Node, old: &mut OldTree<'_>) -> Result<()>;

    /// A directory.
    fn directory(&mut self, at: At<'_>, node: Node, old: &mut OldTree<'_>) -> Result<()>;

    /// Anything else.
    fn file(&mut self, at: At<'_>, node: Node, old: &mut OldTree<'_>) -> Result<()>;

    /// A name that lies below and shows no more.
    fn gone(&mut self, path: &LayerPath, old: &mut OldTree<'_>) -> Result<()>;
}

/// Where the walk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'p> {
    pub(super) path: &'p LayerPath,
    /// Whether a directory around it hides what lies below, the same name included.
    pub(super) covered: bool,
    /// Whether this is a directory that itself hides one below, so that it needs an opaque marker.
    pub(super) hides: bool,
}

/// Which deleted names a visitor is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletions {
    /// Those that need a whiteout; a name that vanishes while it is visited is an error.
    Marked,
    /// Those that an opaque directory hides too; a name that vanishes is not there.
    All,
}

/// Walks what a container changed: `upper`, over `below`.
pub(super) fn upper(
    upper: &Dir,
    below: &Stack,
    visitor: &mut impl Visitor,
    watch: &Watch<'_>,
) -> Result<()> {
    let new = NewTree::of_upper(upper, below);
    let (old, namespace) = (OldTree::new(below), below.namespace());
    Walk { new, old, namespace, links: None }.run(visitor, watch)
}

/// Walks the merged tree of a stack, as though nothing lay below it.
pub(super) fn stack(stack: &Stack, visitor: &mut impl Visitor, watch: &Watch<'_>) -> Result<()> {
    let nothing = Stack::new(Vec::new(), stack.namespace(), stack.redirects());
    let (new, old) = (NewTree::of_stack(stack), OldTree::new(&nothing));
    Walk { new, old, namespace: stack.namespace(), links: None }.run(visitor, watch)
}

/// Walks where the merged tree of `new` may differ from that of `old`: what both stacks have from
/// one and the same file or directory of a layer is passed over, but for the `links` that broke.
pub(super) fn between(
    old: &Stack,
    new: &Stack,
    links: &BrokenLinks,
    visitor: &mut impl Visitor,
    watch: &Watch<'_>,
) -> Result<()> {
    let namespace = new.namespace();
    let (new, old) = (NewTree::of_stack(new), OldTree::new(old));
    Walk { new, old, namespace, links: Some(links) }.run(visitor, watch)
}

struct Walk<'a> {
    new: NewTree<'a>,
    old: OldTree<'a>,
    namespace: Namespace,
    /// Of a walk between two stacks.
    links: Option<&'a BrokenLinks>,
}

/// A name that was opened.
enum Opened {
    File(Node),
    Directory(Node, Handle),
}

impl Walk<'_> {
    fn run(mut self, visitor: &mut impl Visitor, watch: &Watch<'_>) -> Result<()> {
        self.root(visitor)?;
        while self.new.is_inside() {
            watch.check()?;
            match self.new.next() {
                Some(name) => self.visit(&name, visitor)?,
                None => {
                    self.new.leave();
                    self.old.leave();
                }
            }
        }
        Ok(())
    }

    fn root(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let root = LayerPath::root();
        let (handle, node) = self
            .new
            .open_root()
            .and_then(|handle| {
                let node = top_of(&handle)?;
                Ok((handle, node))
            })
            .during("read directory", &root)?;
        let identity = node.identity();
        visitor.root(node, &mut self.old)?;
        if let Some(links) = self.links {
            let below = self.old.dir().during("look below for", &root)?;
            if links.same_directories(&handle, below).during("read directory", &root)? {
                return Ok(());
            }
        }
        // The kernel does not look at a mark of the root.
        let covered = self.links.is_none() && matches!(handle, Handle::Merged(_));
        let names = self.names(&handle, covered, visitor).during("read directory", &root)?;
        self.new.enter(root, handle, identity, names, covered);
        Ok(())
    }

    /// Tells of one name, and goes into it where it is a directory.
    fn visit(&mut self, name: &Name, visitor: &mut impl Visitor) -> Result<()> {
        let path = self.new.path().join(&name.name);
        self.old.turn_to(&name.name);
        if name.place == Place::Gone {
            return self.tell_gone(&path, visitor);
        }
        self.new.hold().during("read directory", self.new.path().shown().as_ref())?;
        match self.open(name, visitor.depth()) {
            Err(Errno::NOENT) if visitor.deletions() == Deletions::All => Ok(()),
            Err(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::STALE) => Err(changed(&path)),
            // Inside a stack its lookup meets the redirects.
            Err(error @ Errno::PERM) => Err(not_followed(error, &path)),
            Err(error) => Err(Error::os(error, "read", &path)),
            Ok(Opened::File(node)) => self.visit_file(name, &path, node, visitor),
            Ok(Opened::Directory(node, handle)) => {
                self.visit_directory(name, path, node, handle, visitor)
            }
        }
    }

    /// Tells that the name is gone, if anything of it showed before.
    fn tell_gone(&mut self, path: &LayerPath, visitor: &mut impl Visitor) -> Result<()> {
        // A directory may list an xattr whiteout which nobody can open.
        match self.old.found().during("look below for", path)? {
            Found::Absent => Ok(()),
            Found::File(_) | Found::Directory(..) => visitor.gone(path, &mut self.old),
        }
    }

    fn open(&self, name: &Name, depth: Depth) -> SysResult<Opened> {
        let namespace = self.namespace;
        let handle = self.new.here()?;
        let (dir, layer) = handle.part(name.place)?;
        let kind = match name.kind {
            Kind::Unknown => type_of(&dir.stat(&name.name)?).into(),
            kind => kind,
        };
        if kind != Kind::Directory {
            return Node::open(dir, &name.name, kind, layer, depth, namespace).map(Opened::File);
        }
        let handle = match handle {
            Handle::Upper(dir) => Handle::Upper(dir.child(&name.name)?),
            Handle::Merged(dir) => new_tree::directory(self.new.whole()?.lookup(dir, &name.name)?)?,
        };
        Ok(Opened::Directory(top_of(&handle)?, handle))
    }

    fn visit_file(
        &mut self,
        name: &Name,
        path: &LayerPath,
        mut node: Node,
        visitor: &mut impl Visitor,
    ) -> Result<()> {
        let covered = self.new.is_covered();
        if node.is_whiteout(self.namespace) {
            // One that is covered hides what does not show anyway.
            let tells = !covered || visitor.deletions() == Deletions::All;
            return if tells { self.tell_gone(path, visitor) } else { Ok(()) };
        }
        if let (Handle::Merged(dir), Place::Part(part)) =
            (self.new.here().during("look at", path)?, name.place)
        {
            let below = dir.parts.get(part + 1..).unwrap_or_default();
            let stack = self.new.whole().during("look at", path)?;
            stale_record::renew_file(&mut node, &name.name, below, stack)
                .during("look below for", path)?;
        }
        if node.content.is_some() && node.has_mark(self.namespace, mark::METACOPY) {
            self.find_data(name, &mut node).map_err(|error| not_followed(error, path))?;
        }
        if let Some(links) = self.links {
            let below = self.old.found().during("look below for", path)?;
            if links.same_files(&node, below) {
                return Ok(());
            }
        } else if !covered {
            stale_record::renew(&mut node, &name.name, &mut self.old)
                .during("look below for", path)?;
        }
        visitor.file(At { path, covered, hides: false }, node, &mut self.old)
    }

    /// Opens the content of a file that has nothing but attributes in its layer.
    fn find_data(&mut self, name: &Name, node: &mut Node) -> SysResult<()> {
        let file = match (self.new.here()?, name.place) {
            (Handle::Merged(dir), Place::Part(part)) => {
                metacopy::open_data(self.new.whole()?, dir, part, &name.name)?
            }
            (Handle::Upper(dir), _) => {
                let below = if self.new.is_covered() { None } else { self.old.dir()? };
                let around = new_tree::merged(dir, below)?;
                metacopy::open_data(self.new.whole()?, &around, 0, &name.name)?
            }
            (Handle::Merged(_), Place::Gone) => return Err(Errno::NOENT),
        };
        let data = Content::of(file)?;
        match &node.inode.kind {
            FileKind::Regular { size } if *size == data.size => node.content = Some(data),
            _ => return Err(Errno::IO),
        }
        Ok(())
    }

    fn visit_directory(
        &mut self,
        name: &Name,
        path: LayerPath,
        mut node: Node,
        handle: Handle,
        visitor: &mut impl Visitor,
    ) -> Result<()> {
        if let Some(links) = self.links {
            return self.visit_between(path, node, handle, links, visitor);
        }
        let covered = self.new.is_covered();
        let opaque = node.opaque(self.namespace) == Opaque::Yes;
        let mut handle = handle;
        let moved = !opaque && node.has_mark(self.namespace, mark::REDIRECT);
        if moved && matches!(handle, Handle::Upper(_)) {
            handle = self.follow(name, handle).map_err(|error| not_followed(error, &path))?;
        }
        let covers = !covered && (opaque || matches!(handle, Handle::Merged(_)));
        let hides = covers && {
            let below = self.old.found().during("look below for", &path)?;
            matches!(below, Found::Directory(..))
        };
        let identity = node.identity();
        if !covered && !opaque {
            stale_record::renew(&mut node, &name.name, &mut self.old)
                .during("look below for", &path)?;
        }
        if let Handle::Merged(dir) = &handle {
            let stack = self.new.whole().during("look at", &path)?;
            stale_record::renew_directory(&mut node, dir.parts.get(1), stack)
                .during("look below for", &path)?;
        }
        visitor.directory(At { path: &path, covered, hides }, node, &mut self.old)?;
        self.old.enter();
        let covered = covered || covers;
        let names = self.names(&handle, covered, visitor).during("read directory", &path)?;
        self.new.enter(path, handle, identity, names, covered);
        Ok(())
    }

    /// Tells of a directory of a walk between two stacks, and goes into it.
    fn visit_between(
        &mut self,
        path: LayerPath,
        node: Node,
        handle: Handle,
        links: &BrokenLinks,
        visitor: &mut impl Visitor,
    ) -> Result<()> {
        if let Found::Directory(below, _) = self.old.found().during("look below for", &path)?
            && links.same_directories(&handle, Some(below)).during("read directory", &path)?
        {
            return Ok(());
        }
        let identity = node.identity();
        visitor.directory(At { path: &path, covered: false, hides: false }, node, &mut self.old)?;
        self.old.enter();
        let names = self.names(&handle, false, visitor).during("read directory", &path)?;
        self.new.enter(path, handle, identity, names, false);
        Ok(())
    }

    /// The merged directory that a redirect of the upper directory `name` leads to; the same
    /// directory where there is no layer for it to lead to.
    fn follow(&mut self, name: &Name, handle: Handle) -> SysResult<Handle> {
        match self.new.redirects() {
            None => return Ok(handle),
            Some(Redirects::Refuse) => return Err(Errno::PERM),
            Some(Redirects::Follow) => {}
        }
        let Handle::Upper(dir) = self.new.here()? else { return Ok(handle) };
        let below = if self.new.is_covered() { None } else { self.old.dir()? };
        let around = new_tree::merged(dir, below)?;
        new_tree::directory(self.new.whole()?.lookup(&around, &name.name)?)
    }

    /// The names of a directory that is entered; the deleted ones too where they are asked for and
    /// no whiteouts tell of them.
    fn names(
        &mut self,
        handle: &Handle,
        covered: bool,
        visitor: &impl Visitor,
    ) -> SysResult<Vec<Name>> {
        let mut names: Vec<Name> = match handle {
            Handle::Upper(dir) => dir.entries()?.into_iter().map(Name::from_upper).collect(),
            Handle::Merged(dir) => {
                let entries = self.new.whole()?.entries(dir)?;
                entries.into_iter().map(Name::from_merged).collect()
            }
        };
        names.sort_unstable();
        if self.links.is_some() || (covered && visitor.deletions() == Deletions::All) {
            let stack = self.old.stack();
            let before = self.old.dir()?.map(|dir| stack.entries(dir)).transpose()?;
            let gone: Vec<Name> = before
                .unwrap_or_default()
                .into_iter()
                .filter(|entry| names.binary_search_by(|name| name.name.cmp(&entry.name)).is_err())
                .map(|entry| Name { name: entry.name, kind: entry.kind, place: Place::Gone })
                .collect();
            names.extend(gone);
            names.sort_unstable();
        }
        Ok(names)
    }
}

/// The topmost directory of those that make up one.
fn top_of(handle: &Handle) -> SysResult<Node> {
    let (dir, layer) = handle.part(Place::Part(0))?;
    Node::of_dir(dir, layer)
}

/// What a mark that leads elsewhere ended in.
fn not_followed(error: Errno, path: &LayerPath) -> Error {
    let error_of = Error::os(error, "follow the mark of", path);
    match error {
        Errno::PERM => error_of.hint(
            "the container ran with redirect_dir=on or metacopy=on; allow redirects to be followed",
        ),
        Errno::IO => error_of.hint("the layers below are not those that the container ran on"),
        _ => error_of,
    }
}
