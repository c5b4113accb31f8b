//! [`assumptions_hold`]: whether a layer directory is right under a stack as it is.

use std::collections::HashSet;

use rustix::fs::FileType;

use super::super::copy_tree::{Keep, read_kept};
use super::below::Below;
use super::is_opaque;
use crate::error::{Context, Result};
use crate::format::lookup::{Found, Stack};
use crate::format::{Assumptions, whiteout};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::dir::{SysResult, type_of};

/// Whether `layer`, unpacked alone, is right on `below` as it is.
///
/// # Errors
/// What the file system answers.
pub(crate) fn assumptions_hold(
    layer: &Dir,
    assumptions: &Assumptions,
    below: &Stack,
) -> Result<bool> {
    if !assumptions.links.is_empty() {
        return Ok(false);
    }
    let namespace = below.namespace();
    let mut below = Below::new(below);
    let mut opaque = HashSet::new();
    let mut near = Near::new(layer).during("open", "layer")?;
    for path in &assumptions.implied {
        let Some((parent, name)) = path.split() else { continue };
        let dir = near.go(&parent).during("open directory", &parent)?;
        if is_opaque(namespace, dir, name).during("read mark of", path)? {
            opaque.insert(path.clone());
        }
        let found =
            if is_beneath(&opaque, &parent) { Found::Absent } else { below.look(&parent, name)? };
        let holds = match found {
            Found::Directory(there, _) => {
                let there = there.top().during("open below", path)?;
                let keep = Keep::Shown(namespace);
                let ours = read_kept(dir, name, keep).during("read", path)?;
                let theirs = read_kept(&there.dir, b".", keep).during("read below", path)?;
                ours.0 == theirs.0
            }
            Found::File(file) if type_of(&file.stat) == FileType::Symlink => false,
            Found::File(_) | Found::Absent => has_content(dir, name).during("read", path)?,
        };
        if !holds {
            return Ok(false);
        }
    }
    for (parent, name) in assumptions.replaced.iter().filter_map(LayerPath::split) {
        let found = below.look(&parent, name)?;
        if matches!(found, Found::File(file) if type_of(&file.stat) == FileType::Symlink) {
            return Ok(false);
        }
    }
    for path in &assumptions.whited {
        if below.directory(path)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One directory of a layer, from which those beneath it are near.
struct Near<'a> {
    layer: &'a Dir,
    path: LayerPath,
    dir: Dir,
}

impl<'a> Near<'a> {
    fn new(layer: &'a Dir) -> SysResult<Self> {
        let path = LayerPath::root();
        Ok(Self { dir: layer.descend_as_path(&path)?, layer, path })
    }

    fn go(&mut self, path: &LayerPath) -> SysResult<&Dir> {
        if *path != self.path {
            self.dir = match path.below(&self.path) {
                Some(rest) => self.dir.descend_as_path(&rest)?,
                None => self.layer.descend_as_path(path)?,
            };
            self.path = path.clone();
        }
        Ok(&self.dir)
    }
}

fn is_beneath(paths: &HashSet<LayerPath>, path: &LayerPath) -> bool {
    let mut at = (!paths.is_empty()).then(|| path.clone());
    while let Some(path) = at {
        if paths.contains(&path) {
            return true;
        }
        at = path.parent();
    }
    false
}

/// Whether a directory holds anything but whiteouts.
fn has_content(parent: &Dir, name: &[u8]) -> SysResult<bool> {
    let dir = parent.child(name)?;
    for entry in dir.entries()? {
        if !whiteout::is_whiteout(&dir.stat(&entry.name)?) {
            return Ok(true);
        }
    }
    Ok(false)
}
