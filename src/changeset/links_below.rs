//! [`LinksBelow`]: symlinks of the layers below that entries of a changeset lead through.
//!
//! A changeset is unpacked without the layers below, and where it names one file in two ways, or
//! replaces what it only implied, nothing but its order tells what is to be there. Such a one is
//! applied once more, with the symlinks known that it leads through; then order is all it takes.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::unpack::Unpack;
use crate::error::{Context, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::SysResult;

/// Symlinks of the layers below, by the paths where they are; no other one leads to those.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinksBelow(BTreeMap<LayerPath, Vec<u8>>);

impl LinksBelow {
    pub(super) fn insert(&mut self, path: LayerPath, target: Vec<u8>) {
        self.0.insert(path, target);
    }

    pub(super) fn has(&self, path: &LayerPath) -> bool {
        self.0.contains_key(path)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something is in the place of one of them in what was made of a changeset.
    pub(super) fn has_any_in(&self, made: &Dir) -> Result<bool> {
        for path in self.0.keys() {
            let Some((parent, name)) = path.split() else { continue };
            let found = made.descend_as_path(&parent).and_then(|dir| dir.stat_if_exists(name));
            match found {
                Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Ok(Some(_)) => return Ok(true),
                Err(error) => return Err(error).during("look up", path),
            }
        }
        Ok(false)
    }

    /// Adds those of another one.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

impl Unpack<'_> {
    /// What the symlink `name` of `dir` holds, which is at `path`: that of this changeset, or the one
    /// below as long as the changeset has nothing in its place.
    pub(super) fn read_link(&self, dir: &Dir, name: &[u8], path: &LayerPath) -> SysResult<Vec<u8>> {
        match dir.read_link(name) {
            Err(Errno::NOENT) if !self.links.contains_key(path) => {
                let below = self.links_below.and_then(|links| links.0.get(path));
                below.cloned().ok_or(Errno::NOENT)
            }
            own => own,
        }
    }
}
