//! Writes the OCI image layout: as an archive, or as a directory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use oci_spec::image::MediaType;
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::document::{self, invalid, to_bytes};
use super::oci::{FULL_NAME, REF_NAME};
use super::reference::Reference;
use super::write::{
    ImageToWrite, LayerSource, Layers, Parsed, TarWriter, WriteOptions, descriptor_platform,
    docker_manifest,
};
use crate::compression::Compression;
use crate::digest::{DiffId, Digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::Dir;
use crate::sys::lock::{Lock, Mode};
use crate::sys::remove::remove_tree;

const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
const LAYOUT_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Takes blobs, each once, and tells their digests and sizes.
trait Blobs {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(Digest, u64)>;
    fn layer(&mut self, layer: &DiffId, layers: &Layers<'_>) -> Result<(Digest, u64)>;
}

/// An image whose blobs are written.
struct Written<'a> {
    names: &'a [Reference],
    config: Digest,
    layers: Vec<Digest>,
    /// The manifest's descriptor, without the names.
    descriptor: Value,
}

/// Writes images as an OCI layout in an archive, with Docker's `manifest.json` beside it, so that
/// every version of `docker load` takes it.
///
/// The archive is written front to back, layers first. A layer that is to be compressed is
/// compressed into a scratch file, because its size stands before it. The same images give the
/// same bytes. A failed write leaves what was written so far in `out`.
///
/// # Errors
/// As [`write_docker_archive`](super::write_docker_archive);
/// [`ErrorKind::Unsupported`] where this build lacks the compression.
pub fn write_oci_tar(
    out: &mut dyn Write,
    images: &[ImageToWrite<'_>],
    layers: &dyn LayerSource,
    options: &WriteOptions<'_>,
) -> Result<()> {
    let mut tar = TarWriter::new(out, options);
    tar.directory("blobs/")?;
    tar.directory("blobs/sha256/")?;
    let mut blobs = TarBlobs { tar, written: HashSet::new(), packed: HashMap::new() };
    let parsed = Parsed::all(images)?;
    let images = write_blobs(&mut blobs, &parsed, &Layers { source: layers, options })?;
    let mut tar = blobs.tar;
    let descriptors: Vec<_> = images.iter().flat_map(Written::descriptors).collect();
    tar.bytes(INDEX, &to_bytes(&index(descriptors))?)?;
    let places = images.iter().map(|image| {
        let layers = image.layers.iter().map(blob_name).collect();
        (blob_name(&image.config), image.names.to_vec(), layers)
    });
    tar.bytes("manifest.json", &docker_manifest(&places.collect::<Vec<_>>())?)?;
    tar.bytes(LAYOUT, LAYOUT_TEXT)?;
    tar.finish()
}

/// Writes images as an OCI layout in the directory `path`.
///
/// A directory that does not exist, or is empty, becomes the layout in one step, when all is
/// written. To one that is a layout the images are added, and take the place of those of the same
/// name, in one step too; others who add to it at the same time are waited for.
///
/// # Errors
/// As [`write_oci_tar`]; [`ErrorKind::AlreadyExists`] where `path` holds something else. Nothing is
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
    let lock = dir.try_clone().during("open directory", path)?;
    // A description of its own: one that is shared would share the lock.
    let lock = lock.descend(&crate::LayerPath::root()).during("open directory", path)?;
    let _lock = Lock::wait(lock.into(), Mode::Exclusive).during("lock", path)?;
    write_layout(&dir, images, layers)
}

/// Writes the whole layout beside its place, and moves it there.
fn write_new(path: &Path, images: &[Parsed<'_>], layers: &Layers<'_>) -> Result<()> {
    let name = path.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes);
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
    let limit = document::DOCUMENT_LIMIT + 1;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, limit), &mut bytes)
        .during("read", INDEX)?;
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

fn write_blobs<'a>(
    blobs: &mut dyn Blobs,
    images: &[Parsed<'a>],
    layers: &Layers<'_>,
) -> Result<Vec<Written<'a>>> {
    images.iter().map(|image| write_image(blobs, image, layers)).collect()
}

fn write_image<'a>(
    blobs: &mut dyn Blobs,
    image: &Parsed<'a>,
    layers: &Layers<'_>,
) -> Result<Written<'a>> {
    let media_type = match layers.options.compression {
        Compression::None => MediaType::ImageLayer,
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    };
    let mut digests = Vec::new();
    let mut descriptors = Vec::new();
    for layer in &image.config.diff_ids {
        let (digest, size) = blobs.layer(layer, layers)?;
        digests.push(digest);
        descriptors.push(descriptor(&media_type, &digest, size));
    }
    let (config, size) = blobs.bytes(&image.config.bytes)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest,
        "config": descriptor(&MediaType::ImageConfig, &config, size),
        "layers": descriptors,
    });
    let (digest, size) = blobs.bytes(&to_bytes(&manifest)?)?;
    let mut descriptor = descriptor(&MediaType::ImageManifest, &digest, size);
    if let Some(fields) = descriptor.as_object_mut() {
        fields.insert("platform".to_owned(), descriptor_platform(&image.config));
    }
    Ok(Written { names: image.names, config, layers: digests, descriptor })
}

fn descriptor(media_type: &MediaType, digest: &Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn index(descriptors: Vec<Value>) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageIndex,
        "manifests": descriptors,
    })
}

impl Written<'_> {
    /// One descriptor for each name; one without names where there is none.
    fn descriptors(&self) -> Vec<Value> {
        if self.names.is_empty() {
            return vec![self.descriptor.clone()];
        }
        let named = |name: &Reference| {
            let mut annotations = json!({FULL_NAME: name.canonical()});
            let mut descriptor = self.descriptor.clone();
            if let (Some(tag), Some(fields)) = (name.tag(), annotations.as_object_mut()) {
                fields.insert(REF_NAME.to_owned(), tag.into());
            }
            if let Some(fields) = descriptor.as_object_mut() {
                fields.insert("annotations".to_owned(), annotations);
            }
            descriptor
        };
        self.names.iter().map(named).collect()
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct TarBlobs<'a> {
    tar: TarWriter<'a>,
    written: HashSet<Digest>,
    packed: HashMap<DiffId, (Digest, u64)>,
}

impl Blobs for TarBlobs<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        if self.written.insert(digest) {
            self.tar.bytes(&blob_name(&digest), bytes)?;
        }
        Ok((digest, bytes.len() as u64))
    }

    fn layer(&mut self, layer: &DiffId, layers: &Layers<'_>) -> Result<(Digest, u64)> {
        if let Some(packed) = self.packed.get(layer) {
            return Ok(*packed);
        }
        let packed = self.tar.layer(layer, layers, blob_name)?;
        self.written.insert(packed.0);
        self.packed.insert(*layer, packed);
        Ok(packed)
    }
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
