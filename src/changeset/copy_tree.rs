//! Copies files with all that is known of them, and finds directories again by number.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Result, Subject};
use crate::inode::{Inode, Timestamp};
use crate::layer_path::LayerPath;
use crate::namespace::Namespace;
use crate::sys::Dir;
use crate::sys::copy;
use crate::sys::dir::{SysResult, device_of, type_of};
use crate::sys::inode_io;
use crate::sys::xattr::{self, Target};

/// How many directories of one tree are kept open; deep or wide trees reopen them.
const OPEN_DIRECTORIES: usize = 6;

/// How many names one directory is resolved through at most, where that can be had.
const STRIDE: usize = 32;

/// Which of a file's attributes are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All, overlayfs's own too, but not what only repeats an ACL.
    All,
    /// All but overlayfs's own, as a copy-up does; the container's own stay escaped.
    Shown(Namespace),
}

impl Keep {
    fn keeps(self, name: &[u8]) -> bool {
        let is_shown = match self {
            Self::All => true,
            Self::Shown(namespace) => namespace.unescape(name).is_some(),
        };
        is_shown && !xattr::repeats_acl(name)
    }
}

/// What is known of `name` in `dir`, and the time of its last access.
pub(super) fn read_kept(dir: &Dir, name: &[u8], keep: Keep) -> SysResult<(Inode, Timestamp)> {
    let stat = dir.stat(name)?;
    let mut inode = inode_io::from_stat(dir, name, &stat)?;
    inode.xattrs.retain(|name, _| keep.keeps(name));
    Ok((inode, atime_of(&stat)))
}

/// Makes `new_name` in `to` the same file as `name` in `from`, which is no directory and of which
/// `stat` is the status: content with its holes, owner, attributes, permissions, times.
pub(super) fn copy_file(
    (from, name, stat): (&Dir, &[u8], &Stat),
    (to, new_name): (&Dir, &[u8]),
    keep: Keep,
) -> SysResult<()> {
    let mut inode = inode_io::from_stat(from, name, stat)?;
    inode.xattrs.retain(|name, _| keep.keeps(name));
    let given = (&inode, atime_of(stat));
    match type_of(stat) {
        FileType::RegularFile => {
            let source = from.open(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let target = to.open(new_name, flags, 0o600)?;
            let length = u64::try_from(stat.st_size).unwrap_or(0);
            copy::contents(&source, &target, length, &copy::Sharing::default())?;
            return put(Target::open(&target), given);
        }
        FileType::Symlink => {
            let target = from.read_link(name)?;
            to.make_symlink(new_name, &target)?;
        }
        kind => to.make_node(new_name, kind, 0o600, device_of(stat))?,
    }
    put(Target::Name(to, new_name), given)
}

/// Gives a file owner, attributes, permissions and times, each where it undoes none before it.
pub(super) fn put(target: Target<'_>, (inode, atime): (&Inode, Timestamp)) -> SysResult<()> {
    inode_io::chown(target, inode.uid, inode.gid)?;
    for (name, value) in &inode.xattrs {
        match xattr::set(target, name, value) {
            // What the system gives every file by itself (a security label) may not be ours to set.
            Err(error @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP)) => {
                if xattr::get(target, name)?.as_ref() != Some(value) {
                    return Err(error);
                }
            }
            other => other?,
        }
    }
    if !matches!(inode.kind, crate::inode::FileKind::Symlink { .. }) {
        inode_io::chmod(target, inode.mode)?;
    }
    inode_io::set_times(target, atime, inode.mtime)
}

fn atime_of(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_atime, nanos: u32::try_from(stat.st_atime_nsec).unwrap_or(0) }
}

/// A directory's number in [`Folders`]; parents have smaller ones than what is beneath them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Folder(u32);

/// Directories of one tree: numbered, so that a deep one costs no long path, and opened when they
/// are needed, a few at a time.
#[derive(Debug)]
pub(super) struct Folders<'a> {
    root: &'a Dir,
    /// The parent and the name of each but the root.
    known: Vec<(Folder, Box<[u8]>)>,
    open: VecDeque<(Folder, Rc<Dir>)>,
}

impl<'a> Folders<'a> {
    /// The root of the tree.
    pub(super) const ROOT: Folder = Folder(0);

    /// A tree of which only the root is known.
    pub(super) fn new(root: &'a Dir) -> Self {
        Self { root, known: vec![(Self::ROOT, Box::default())], open: VecDeque::new() }
    }

    /// Gives the directory `name` in `parent` a number; it need not exist yet.
    pub(super) fn add(&mut self, parent: Folder, name: &[u8]) -> Folder {
        let folder = Folder(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        self.known.push((parent, name.into()));
        folder
    }

    /// The parent and the name; `None` for the root.
    pub(super) fn parent(&self, folder: Folder) -> Option<(Folder, &[u8])> {
        let (parent, name) = self.known.get(folder.0 as usize)?;
        (folder != Self::ROOT).then_some((*parent, name))
    }

    /// Its place in a list of all of them.
    pub(super) fn index(folder: Folder) -> usize {
        folder.0 as usize
    }

    /// All of them, those that lie beneath others first.
    pub(super) fn innermost_first(&self) -> impl Iterator<Item = Folder> + use<> {
        (0..u32::try_from(self.known.len()).unwrap_or(u32::MAX)).rev().map(Folder)
    }

    /// The path from the root.
    pub(super) fn path(&self, folder: Folder) -> LayerPath {
        let mut names = Vec::new();
        let mut at = folder;
        while let Some((parent, name)) = self.parent(at) {
            names.push(name);
            at = parent;
        }
        names.reverse();
        LayerPath::parse(&names.join(&b'/')).unwrap_or_default()
    }

    /// The directory as the object of a message.
    pub(super) fn at(&self, folder: Folder) -> At<'_> {
        At { folders: self, folder, name: &[] }
    }

    /// A name in a directory as the object of a message.
    pub(super) fn name_at<'n>(&'n self, folder: Folder, name: &'n [u8]) -> At<'n> {
        At { folders: self, folder, name }
    }

    /// The directory, opened so that it can be resolved from.
    pub(super) fn handle(&mut self, folder: Folder) -> Result<Rc<Dir>> {
        let mut way = Vec::new();
        let mut above = folder;
        while let Some((parent, _)) = self.parent(above).filter(|_| !self.is_open(above)) {
            way.push(above);
            above = parent;
        }
        way.reverse();
        let mut dir = match self.used(above) {
            Some(dir) => dir,
            None => {
                let root = self.root.descend_as_path(&LayerPath::root());
                self.keep_open(above, root.during("open", "layer")?)
            }
        };
        // A walk up out of the depth finds those that were passed on the way down.
        for stride in way.chunks(STRIDE) {
            let name = |folder: &Folder| self.parent(*folder).map(|(_, name)| name);
            let names: Vec<&[u8]> = stride.iter().filter_map(name).collect();
            let rest = LayerPath::parse(&names.join(&b'/'))?;
            let next = dir.descend_as_path(&rest);
            let next = next.during("open directory", &self.at(folder))?;
            dir = self.keep_open(stride.last().copied().unwrap_or(folder), next);
        }
        Ok(dir)
    }

    fn keep_open(&mut self, folder: Folder, dir: Dir) -> Rc<Dir> {
        if self.open.len() == OPEN_DIRECTORIES {
            self.open.pop_back();
        }
        let dir = Rc::new(dir);
        self.open.push_front((folder, Rc::clone(&dir)));
        dir
    }

    fn is_open(&self, folder: Folder) -> bool {
        self.open.iter().any(|(open, _)| *open == folder)
    }

    /// A directory that is open, kept so the longest of all.
    fn used(&mut self, folder: Folder) -> Option<Rc<Dir>> {
        let index = self.open.iter().position(|(open, _)| *open == folder)?;
        let (folder, dir) = self.open.remove(index)?;
        self.open.push_front((folder, Rc::clone(&dir)));
        Some(dir)
    }
}

/// A path that is only put together for a message.
#[derive(Debug)]
pub(super) struct At<'a> {
    folders: &'a Folders<'a>,
    folder: Folder,
    name: &'a [u8],
}

impl Subject for At<'_> {
    fn shown(&self) -> Cow<'_, str> {
        let path = self.folders.path(self.folder);
        let path = if self.name.is_empty() { path } else { path.join(self.name) };
        Cow::Owned(path.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_what_repeats_an_acl_are_left_out() {
        let shown = Keep::Shown(Namespace::Trusted);
        for (name, all, shows) in [
            (&b"user.a"[..], true, true),
            (b"system.posix_acl_access", true, true),
            (b"trusted.overlay.opaque", true, false),
            (b"trusted.overlay.overlay.opaque", true, true),
            (b"trusted.SGI_ACL_FILE", false, false),
            (b"trusted.SGI_ACL_DEFAULT", false, false),
        ] {
            assert_eq!((Keep::All.keeps(name), shown.keeps(name)), (all, shows), "{name:?}");
        }
    }
}
