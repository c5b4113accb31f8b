//! Puts copies where they belong, in a tree or on the host alike.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::CopySummary;
use super::place::Place;
use super::standing::Standing;
use crate::changeset::{ArchiveFile, Pieces};
use crate::error::{Context, Result};
use crate::inode::{FileKind, Inode};
use crate::layer_path::LayerPath;

/// A place to which files are copied.
pub(super) struct Target<'p, P> {
    place: &'p P,
    base: PathBuf,
    /// Who owns the copies; `None`: whoever owned the originals.
    receiver: Option<Receiver>,
    /// Directories that were made, which get their attributes when they are full.
    made: Vec<(PathBuf, Inode)>,
    summary: CopySummary,
}

/// Who owns all copies, by user and group.
#[derive(Clone, Copy)]
pub(super) struct Receiver {
    pub(super) owner: (u32, u32),
    /// Who that is where the originals are: root in a tree is the process on the host.
    pub(super) there: (u32, u32),
}

impl<'p, P: Place> Target<'p, P> {
    /// The root of what is copied comes to `base`.
    pub(super) fn new(place: &'p P, base: PathBuf, receiver: Option<Receiver>) -> Self {
        Self { place, base, receiver, made: Vec::new(), summary: CopySummary::default() }
    }

    fn path(&self, path: &LayerPath) -> PathBuf {
        match path.is_root() {
            true => self.base.clone(),
            false => self.base.join(OsStr::from_bytes(path.as_bytes())),
        }
    }

    /// Makes one file.
    pub(super) fn put(&mut self, file: ArchiveFile, pieces: &mut dyn Pieces) -> Result<()> {
        let ArchiveFile { path, mut inode, link } = file;
        let to = self.path(&path);
        if let Some(Receiver { owner, there }) = self.receiver {
            if ![owner, there].contains(&(inode.uid, inode.gid)) {
                take_trust(&mut inode);
            }
            (inode.uid, inode.gid) = owner;
        }
        if let Some(first) = &link {
            if self.summary.skipped.contains(first) {
                self.summary.skipped.push(path);
                return Ok(());
            }
            // A tar may call a file a link to itself.
            if *first == path && self.place.is_dir(&to)? == Some(false) {
                return Ok(());
            }
        }
        self.summary.entries += 1;
        match (self.place.is_dir(&to)?, inode.kind.is_directory()) {
            // Its attributes stay, as all that it holds does.
            (Some(true), true) => return Ok(()),
            (Some(true), false) => return Err(Errno::ISDIR).during("replace", &to),
            (Some(false), true) => return Err(Errno::NOTDIR).during("replace", &to),
            (Some(false), false) => {
                let named = path.is_root() && link.is_none();
                match self.place.standing(&to, &inode.kind, named)? {
                    Standing::Replaced => {}
                    Standing::Stays => return Ok(()),
                    Standing::Written(size) => {
                        self.summary.bytes += self.place.write_to(&to, size, pieces)?;
                        return Ok(());
                    }
                }
            }
            (None, _) => self.make_parents(&path)?,
        }
        if let Some(first) = link {
            return self.place.link(&self.path(&first), &to);
        }
        match &inode.kind {
            FileKind::Directory => {
                self.place.make_dir(&to)?;
                self.made.push((to, inode));
                return Ok(());
            }
            FileKind::Regular { size } => {
                let written = self.place.write(&to, &inode, *size, pieces)?;
                self.summary.bytes += written.bytes;
                self.summary.unkept += written.unkept;
                return Ok(());
            }
            FileKind::Symlink { target } => self.place.symlink(target, &to)?,
            kind => match self.place.make_node(kind, &to) {
                Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                    self.summary.skipped.push(path);
                    return Ok(());
                }
                other => other?,
            },
        }
        self.summary.unkept += self.place.give(&to, &inode)?;
        Ok(())
    }

    /// Makes directories that a tar does not name.
    fn make_parents(&mut self, path: &LayerPath) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = path.parent();
        while let Some(path) = at.filter(|path| !path.is_root()) {
            if self.place.is_dir(&self.path(&path))?.is_some() {
                break;
            }
            at = path.parent();
            missing.push(path);
        }
        for path in missing.into_iter().rev() {
            let to = self.path(&path);
            self.place.make_dir(&to)?;
            let mut inode = Inode::default_directory();
            inode.mtime = crate::inode::Timestamp::from_seconds(0);
            if let Some(Receiver { owner, .. }) = self.receiver {
                (inode.uid, inode.gid) = owner;
            }
            self.made.push((to, inode));
        }
        Ok(())
    }

    /// Gives directories their attributes, the inner ones first.
    pub(super) fn finish(mut self) -> Result<CopySummary> {
        for (path, inode) in self.made.iter().rev() {
            self.summary.unkept += self.place.give(path, inode)?;
        }
        Ok(self.summary)
    }
}

/// Takes from a file what lets others act as its owner, which was said of the one before.
fn take_trust(inode: &mut Inode) {
    if !inode.kind.is_directory() {
        inode.mode &= 0o1777;
        inode.xattrs.remove(&b"security.capability"[..]);
    }
}
