//! Writes the OCI image layout as a directory: a new one in one step, or into one that is there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::descriptor::{FULL_NAME, REF_NAME};
use super::document::{self, invalid, to_bytes};
use super::write::{ImageToWrite, LayerSource, Layers, Parsed, WriteOptions};
use super::write_oci::{Blobs, INDEX, LAYOUT, LAYOUT_TEXT, Written, index, write_blobs};
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layer_path::LayerPath;
use crate::sys::Dir;
use crate::sys::lock::{Lock, Mode};
use crate::sys::remove::remove_tree;

/// Writes images as an OCI layout in the directory `path`.
///
/// A directory that does not exist, or is empty, becomes the layout in one step, when all is
/// written. To one that is a layout the images are added, and take the place of those of the same
/// name, in one step too; others who add to it at the same time are waited for.
///
/// # Errors
/// As [`write_oci_tar`](super::write_oci_tar); [`ErrorKind::AlreadyExists`] where `path` holds something else. Nothing is
/// left behind but blobs that no index names, in a layout that was there before.
pub fn write_oci_dir(
    path: impl AsRef<Path>,
    images: &[ImageToWrite<'_>],
    layers: &dyn LayerSource,
    options: &WriteOptions<'_>,
) -> Result<()> {
    let path = path.as_ref();
    let images = Parsed::all(images)?;
    let layers = Layers { source: layers, options };
    let written = match std::fs::canonicalize(path) {
        Ok(real) => write_to_existing(&real, &images, &layers),
        Err(_) => write_new(path, &images, &layers),
    };
    written.map_err(|error| error.within(format!("write image layout {}", path.display())))
}

fn write_to_existing(path: &Path, images: &[Parsed<'_>], layers: &Layers<'_>) -> Result<()> {
    let dir = Dir::open_ambient(path)?;
    let names = dir.entries().during("read directory", path)?;
    if names.is_empty() {
        return write_new(path, images, layers);
    }
    if !names.iter().any(|entry| *entry.name == *LAYOUT.as_bytes()) {
        return Err(Error::new(ErrorKind::AlreadyExists, "it is not empty, and no image layout")
            .hint("choose a directory that does not exist yet"));
    }
    // A description of its own: one that is shared would share the lock.
    let lock = dir.descend(&LayerPath::root()).during("open directory", path)?;
    let _lock = Lock::wait(lock.into(), Mode::Exclusive).during("lock", path)?;
    write_layout(&dir, images, layers)
}

/// Writes the whole layout beside its place, and moves it there.
fn write_new(path: &Path, images: &[Parsed<'_>], layers: &Layers<'_>) -> Result<()> {
    let name = path.file_name().map(OsStrExt::as_bytes);
    let name =
        name.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it is no directory's name"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = Dir::open_ambient(parent.unwrap_or(Path::new(".")))?;
    let staging = Staging::new(&parent, name)?;
    let dir = parent.child(&staging.name).during("open directory", &staging.name)?;
    write_layout(&dir, images, layers)?;
    parent
        .rename(&staging.name, &parent, name, RenameFlags::empty())
        .during("rename directory to", path)?;
    layers.options.durability.sync_names(&parent).during("sync directory of", path)
}

/// A directory that is removed, unless it was renamed.
struct Staging<'a> {
    parent: &'a Dir,
    name: Vec<u8>,
}

impl<'a> Staging<'a> {
    fn new(parent: &'a Dir, name: &[u8]) -> Result<Self> {
        let process = std::process::id();
        let mut number = 0;
        loop {
            let suffix = format!(".{process}-{number}.new");
            let name = [b".", name, suffix.as_bytes()].concat();
            match parent.make_dir(&name, 0o755) {
                Err(Errno::EXIST) => number += 1,
                other => {
                    other.during("create directory", &name)?;
                    return Ok(Self { parent, name });
                }
            }
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let _ = remove_tree(self.parent, &self.name);
    }
}

/// Writes blobs and documents into the layout's directory, the index last.
fn write_layout(dir: &Dir, images: &[Parsed<'_>], layers: &Layers<'_>) -> Result<()> {
    let mut at = dir.try_clone().during("open directory", "layout")?;
    for name in ["blobs", "sha256"] {
        match at.make_dir(name.as_bytes(), 0o755) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).during("create directory", name),
        }
        at = at.child(name.as_bytes()).during("open directory", name)?;
    }
    let mut blobs = DirectoryBlobs { dir: at, layers: *layers, packed: HashMap::new() };
    let images = write_blobs(&mut blobs, images, layers)?;
    let durability = layers.options.durability;
    durability.sync_names(&blobs.dir).during("sync directory", "blobs/sha256")?;
    let mut index = match read_index(dir)? {
        Some(index) => index,
        None => {
            place_file(dir, LAYOUT, layers, |out| {
                out.write_all(LAYOUT_TEXT).during("write", LAYOUT)
            })?;
            index(Vec::new())
        }
    };
    let list = index.get_mut("manifests").and_then(Value::as_array_mut);
    let list = list.ok_or_else(|| invalid(INDEX, "has no list of manifests"))?;
    let new: Vec<_> = images.iter().flat_map(Written::descriptors).collect();
    list.retain(|old| !new.iter().any(|new| replaces(new, old)));
    list.extend(new);
    let bytes = to_bytes(&index)?;
    place_file(dir, INDEX, layers, |out| out.write_all(&bytes).during("write", INDEX))?;
    durability.sync_names(dir).during("sync directory", "layout")
}

fn read_index(dir: &Dir) -> Result<Option<Value>> {
    let file = match dir.open(INDEX.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK, 0) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.during("open", INDEX)?,
    };
    let mut bytes = Vec::new();
    file.take(document::DOCUMENT_LIMIT + 1).read_to_end(&mut bytes).during("read", INDEX)?;
    document::parse_value(&bytes, INDEX).map(Some)
}

/// Whether a new descriptor takes the old one's place: it has the same names, or is the same.
fn replaces(new: &Value, old: &Value) -> bool {
    let name = |descriptor: &Value, key: &str| {
        descriptor.get("annotations").and_then(|names| names.get(key)).cloned()
    };
    let names = |descriptor: &Value| (name(descriptor, FULL_NAME), name(descriptor, REF_NAME));
    match (names(new), names(old)) {
        ((None, None), (None, None)) => new.get("digest") == old.get("digest"),
        (new, old) => new == old,
    }
}

/// Writes the file `name` in one step.
fn place_file(
    dir: &Dir,
    name: &str,
    layers: &Layers<'_>,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let temporary = format!(".{name}.new");
    let placed = write_file(dir, &temporary, layers, write).and_then(|()| {
        let flags = RenameFlags::empty();
        dir.rename(temporary.as_bytes(), dir, name.as_bytes(), flags).during("rename to", name)
    });
    if placed.is_err() {
        let _ = dir.remove_file(temporary.as_bytes());
    }
    placed
}

fn write_file(
    dir: &Dir,
    name: &str,
    layers: &Layers<'_>,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file: File = dir.open(name.as_bytes(), flags, 0o644).during("create", name)?;
    let mut writer = BufWriter::with_capacity(1 << 16, &file);
    write(&mut writer)?;
    writer.flush().during("write", name)?;
    drop(writer);
    layers.options.durability.sync_file(&file).during("sync", name)
}

struct DirectoryBlobs<'a> {
    /// `blobs/sha256`.
    dir: Dir,
    layers: Layers<'a>,
    packed: HashMap<DiffId, (Digest, u64)>,
}

impl Blobs for DirectoryBlobs<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        let name = digest.hex();
        place_file(&self.dir, &name, &self.layers, |out| {
            out.write_all(bytes).during("write", &name)
        })?;
        Ok((digest, bytes.len() as u64))
    }

    fn layer(&mut self, layer: &DiffId, layers: &Layers<'_>) -> Result<(Digest, u64)> {
        if let Some(packed) = self.packed.get(layer) {
            return Ok(*packed);
        }
        // Its name is known when it is written.
        let temporary = format!(".{}.new", layer.digest().hex());
        let mut packed = None;
        let placed = write_file(&self.dir, &temporary, layers, |out| {
            packed = Some(layers.pack(layer, out)?);
            Ok(())
        });
        let placed = placed.and_then(|()| {
            let packed = packed.ok_or_else(|| invalid(&temporary, "was not written"))?;
            let name = packed.0.hex();
            self.dir
                .rename(temporary.as_bytes(), &self.dir, name.as_bytes(), RenameFlags::empty())
                .during("rename to", &name)?;
            Ok(packed)
        });
        if placed.is_err() {
            let _ = self.dir.remove_file(temporary.as_bytes());
        }
        let packed = placed?;
        self.packed.insert(*layer, packed);
        Ok(packed)
    }
}
