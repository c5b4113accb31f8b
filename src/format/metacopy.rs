//! The `metacopy` mark: a file whose attributes stand in one layer and whose data in another.

use std::fs::File;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::lookup::{Found, MergedDir, Redirects, Stack};
use super::redirect::{self, Redirect};
use super::xattr_name::mark;
use crate::layer_path::LayerPath;
use crate::sys::dir::{SysResult, type_of};
use crate::sys::xattr::{self, Target};

/// Opens, for reading, the data of the file `name` that `parent.parts[part]` supplies: the file
/// itself, or where it carries the mark, the first below it that does not.
///
/// # Errors
/// EIO where the layers below do not hold the data; EPERM where the stack refuses redirects, since
/// the kernel follows neither mark then.
pub(crate) fn open_data(
    stack: &Stack,
    parent: &MergedDir,
    part: usize,
    name: &[u8],
) -> SysResult<File> {
    let namespace = stack.namespace();
    let mut name = name.to_vec();
    for part in parent.parts.iter().skip(part) {
        let Some(stat) = part.dir.stat_if_exists(&name)? else { continue };
        if type_of(&stat) != FileType::RegularFile {
            return Err(Errno::IO);
        }
        let file = part.dir.open(&name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
        if xattr::get(Target::open(&file), &namespace.name(mark::METACOPY))?.is_none() {
            return Ok(file);
        }
        if stack.redirects() == Redirects::Refuse {
            return Err(Errno::PERM);
        }
        let Some(value) = xattr::get(Target::open(&file), &namespace.name(mark::REDIRECT))? else {
            continue;
        };
        match redirect::parse(&value).ok_or(Errno::IO)? {
            Redirect::Sibling(other) => name = other,
            Redirect::FromRoot(path) => return open_from_root(stack, part.layer, &path),
        }
    }
    Err(Errno::IO)
}

/// Opens the data of the file at `path` of the layers below `layer`.
fn open_from_root(stack: &Stack, layer: usize, path: &LayerPath) -> SysResult<File> {
    let below = stack.without_top(layer + 1);
    let resolved = below.resolve(path)?;
    match (resolved.parent, resolved.found, path.file_name()) {
        (Some(parent), Found::File(file), Some(name)) => {
            open_data(&below, &parent, file.part, name)
        }
        _ => Err(Errno::IO),
    }
}
