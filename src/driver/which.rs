//! Provenance: which layer a path comes from, and which layers' copies of it nobody sees.

use std::collections::HashMap;

use rustix::fs::{FileType, Stat};
use serde::Serialize;

use super::Driver;
use super::named::Named;
use crate::digest::DiffId;
use crate::error::{Context, Result};
use crate::format::lookup::{Redirects, Stack};
use crate::format::provenance::{self, Hides, How, Trace};
use crate::layer_path::LayerPath;
use crate::store::LayerKey;
use crate::sys::Dir;
use crate::sys::dir::type_of;

/// Where a path of a container or an image comes from.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// The path, no symlink in it followed.
    #[serde(serialize_with = "escaped")]
    pub path: LayerPath,
    /// Whether anything shows there.
    pub shows: bool,
    /// What the layers have to say of it, topmost first; those that say nothing are left out.
    pub layers: Vec<LayerSays>,
}

/// Which layer of a container or an image.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerOrigin {
    /// Its place in the stack: 0 for the lowest. A container's own directory is on top.
    pub position: usize,
    /// Its changeset; `None` for a container's own directory.
    pub diff_id: Option<DiffId>,
    /// The command that made it, as the image's history tells (with the feature `image`).
    pub created_by: Option<String>,
}

/// What one layer has to say of a path.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct LayerSays {
    /// The layer.
    #[serde(flatten)]
    pub layer: LayerOrigin,
    /// What it has under that path: `file`, `directory`, `symlink`, …; `None` where it only hides
    /// others, or supplies it under the name that a directory had before it was renamed.
    pub kind: Option<&'static str>,
    /// Bytes of a regular file that it has there; 0 for everything else.
    pub size: u64,
    /// Whether what shows comes from here: of a directory, several layers supply a part.
    pub supplies: bool,
    /// What it hides of the layers below.
    pub hides: Option<Hidden>,
}

/// What a layer hides of those below it.
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct Hidden {
    /// By which means.
    pub by: HiddenBy,
    /// Where that stands: the path itself, or a directory on the way to it.
    #[serde(serialize_with = "escaped")]
    pub at: LayerPath,
    /// The positions of the layers whose copies would show without it, topmost first.
    pub positions: Vec<usize>,
}

/// By which means a layer hides what lies below it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HiddenBy {
    /// Something of the same name: a file, or a directory where a file was.
    Replacement,
    /// A whiteout.
    Whiteout,
    /// A directory that is marked opaque, or a layer that is so as a whole.
    Opaque,
    /// A directory that was renamed (`redirect_dir=on`).
    Redirect,
}

/// A path as it stands in JSON.
fn escaped<S: serde::Serializer>(
    path: &LayerPath,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.escaped())
}

impl Driver {
    /// Which layer of a container or an image supplies a path, which layers' copies of it are
    /// hidden, and by which whiteout, opaque mark or later copy.
    ///
    /// A symlink is looked at itself, on the way to the path too. Neither a mount nor privilege is
    /// needed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is no such container or
    /// image. A path that does not exist, or that never did, is none.
    pub fn which(&self, name: &str, path: &LayerPath) -> Result<Provenance> {
        let named = self.find(name)?;
        // Kept while its layers are looked at.
        let _lease = self.keep(named.chain())?;
        let tell = || self.told(&named, path);
        tell().map_err(|error| error.within(format_args!("find the layers of {path} in {name}")))
    }

    fn told(&self, named: &Named, path: &LayerPath) -> Result<Provenance> {
        let segments = self.segments(named)?;
        let origins: Vec<_> =
            segments.iter().flat_map(|segment| &segment.origins).cloned().collect();
        let position = |index: usize| origins.get(index).map_or(0, |origin| origin.position);
        let (mut says, mut shows) = (Vec::<LayerSays>::new(), false);
        let mut first = 0;
        for (index, Segment { dirs, origins: own }) in segments.into_iter().enumerate() {
            let stack = Stack::new(dirs, self.store.namespace(), Redirects::Follow);
            let Trace { steps, shown } = provenance::trace(&stack, path).during("look up", path)?;
            let at =
                |layers: &[usize]| layers.iter().map(|layer| position(first + layer)).collect();
            if index == 0 {
                shows = !shown.is_empty();
            } else if !shown.is_empty()
                && let Some(above) = origins.get(first - 1)
            {
                // The lowest layer of the segment above is opaque as a whole.
                let root = LayerPath::root();
                let hides = Hidden { by: HiddenBy::Opaque, at: root, positions: at(&shown) };
                match says.last_mut().filter(|last| last.layer == *above) {
                    Some(last) => last.hides = Some(hides),
                    None => says.push(LayerSays::new(above, None, false, Some(hides))),
                }
            }
            for step in steps {
                let Some(origin) = own.get(step.layer) else { continue };
                let hides = step.hides.map(|Hides { layers, how, at: place }| Hidden {
                    by: how.into(),
                    at: place,
                    positions: at(&layers),
                });
                let supplies = index == 0 && shown.contains(&step.layer);
                says.push(LayerSays::new(origin, step.own.as_ref(), supplies, hides));
            }
            first += own.len();
        }
        Ok(Provenance { path: path.clone(), shows, layers: says })
    }

    /// The directories of a container or an image, and where each comes from; what an opaque root
    /// hides stands apart.
    fn segments(&self, named: &Named) -> Result<Vec<Segment>> {
        let composed = self.compose(named.chain())?;
        let mut known = self.origins(named)?;
        let mut top = Segment::default();
        if let Named::Container(record) = named {
            let position = known.values().map(|origin| origin.position + 1).max().unwrap_or(0);
            top.origins.push(LayerOrigin { position, diff_id: None, created_by: None });
            top.dirs.push(self.upper(record)?);
        }
        let mut segments = vec![top];
        for (index, keys) in composed.segments().enumerate() {
            if index > 0 {
                segments.push(Segment::default());
            }
            let Some(segment) = segments.last_mut() else { continue };
            segment.dirs.extend(self.open_keys(keys)?);
            segment.origins.extend(keys.iter().filter_map(|key| known.remove(key)));
        }
        Ok(segments)
    }

    /// Where each layer directory of a stack comes from; one that stands there twice, where it is
    /// topmost.
    fn origins(&self, named: &Named) -> Result<HashMap<LayerKey, LayerOrigin>> {
        let stack = match named.chain() {
            Some(chain) => self.store.stack(chain)?,
            None => Vec::new(),
        };
        let mut commands = self.commands(named)?;
        let mut origins = HashMap::new();
        for (position, entry) in stack.iter().rev().enumerate() {
            let created_by = commands.remove(&position);
            let diff_id = Some(entry.diff_id);
            origins.insert(entry.layer(), LayerOrigin { position, diff_id, created_by });
        }
        Ok(origins)
    }

    /// The commands that made the layers, by their places.
    #[cfg(feature = "image")]
    fn commands(&self, named: &Named) -> Result<HashMap<usize, String>> {
        use crate::image::{history_rows, parse_config};
        let mut commands = HashMap::new();
        // A container outlives the names of its image, not the image.
        if let Some(image) = named.image() {
            let config = parse_config(&self.store.image_config(&image)?)?;
            for row in history_rows(&config) {
                commands.extend(row.layer.zip(row.created_by));
            }
        }
        Ok(commands)
    }

    /// Without the feature `image` nobody reads histories.
    #[cfg(not(feature = "image"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with the feature")]
    fn commands(&self, _: &Named) -> Result<HashMap<usize, String>> {
        Ok(HashMap::new())
    }
}

/// Layers that are seen through each other.
#[derive(Default)]
struct Segment {
    dirs: Vec<Dir>,
    origins: Vec<LayerOrigin>,
}

impl LayerSays {
    fn new(
        origin: &LayerOrigin,
        own: Option<&Stat>,
        supplies: bool,
        hides: Option<Hidden>,
    ) -> Self {
        let regular = own.filter(|stat| type_of(stat) == FileType::RegularFile);
        Self {
            layer: origin.clone(),
            kind: own.map(|stat| kind_name(type_of(stat))),
            size: regular.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0)),
            supplies,
            hides,
        }
    }
}

impl From<How> for HiddenBy {
    fn from(how: How) -> Self {
        match how {
            How::Replaced => Self::Replacement,
            How::Whiteout => Self::Whiteout,
            How::Opaque => Self::Opaque,
            How::Redirect => Self::Redirect,
        }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::RegularFile | FileType::Unknown => "file",
    }
}
